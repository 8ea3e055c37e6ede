//! Vets tarballs that clients will probably request next, as chosen by the firewall.

use crate::app::core::Core;
use crate::app::supervisor::TaskEnd;
use crate::app::tasks::concurrent;
use crate::firewall::VettingTarget;
use crate::telemetry::{TarballVettedAhead, TaskLabel};

/// A hanging registry does not block the others, and clients find the cores unused.
const AT_ONCE: usize = 2;

/// Vets tarballs ahead of need, unless prefetching is disabled.
pub(crate) async fn run(core: Core) -> TaskEnd {
    if core.firewall.max_prefetches() == 0 {
        return Ok(());
    }
    let vet = |target: VettingTarget| {
        let core = core.clone();
        async move {
            let (name, version) = (target.name().clone(), target.version().to_owned());
            if core.firewall.vet_ahead(target).await {
                TarballVettedAhead { name: &name, version: &version }.emit(&core.metrics);
            }
        }
    };
    concurrent::run((TaskLabel::Vetting, &core.metrics), AT_ONCE, || core.firewall.next_vetting(), vet).await
}
