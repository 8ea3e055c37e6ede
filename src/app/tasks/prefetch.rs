//! Prefetches packuments that clients will probably request next, as chosen by the firewall.

use crate::app::core::Core;
use crate::app::supervisor::TaskEnd;
use crate::app::tasks::concurrent;
use crate::firewall::PrefetchTarget;
use crate::telemetry::{PackumentPrefetched, TaskLabel};

/// Executes the firewall's prefetch requests, in parallel up to `prefetch`.
pub(crate) async fn run(core: Core) -> TaskEnd {
    if core.firewall.max_prefetches() == 0 {
        return Ok(());
    }
    let prefetch = |target: PrefetchTarget| {
        let core = core.clone();
        async move {
            let name = target.name().clone();
            if core.firewall.prefetch(target).await {
                PackumentPrefetched { name: &name }.emit(&core.metrics);
            }
        }
    };
    // The firewall limits them per registry.
    concurrent::run((TaskLabel::Prefetch, &core.metrics), usize::MAX, || core.firewall.next_prefetch(), prefetch).await
}
