//! Vets tarballs that clients will probably request next, as chosen by the firewall.

use tokio::task::JoinSet;

use crate::app::core::Core;
use crate::app::supervisor::TaskEnd;
use crate::telemetry::{TarballVettedAhead, TaskFailed, TaskLabel};

/// A hanging registry does not block the others, and clients find the cores unused.
const AT_ONCE: usize = 2;

/// Vets tarballs ahead of need, unless prefetching is disabled. A panic of one vetting is counted and does not stop the task.
pub(crate) async fn run(core: Core) -> TaskEnd {
    if core.firewall.max_prefetches() == 0 {
        return Ok(());
    }
    let mut running = JoinSet::<()>::new();
    loop {
        let target = tokio::select! {
            Some(ended) = running.join_next(), if !running.is_empty() => {
                if let Err(error) = ended {
                    TaskFailed { task: TaskLabel::Vetting, detail: &error.to_string(), restart: None }.emit(&core.metrics);
                }
                continue;
            }
            // Cancel safe: a release stays queued if this future is dropped.
            target = core.firewall.next_vetting(), if running.len() < AT_ONCE => target,
        };
        let core = core.clone();
        running.spawn(async move {
            let (name, version) = (target.name().clone(), target.version().to_owned());
            if core.firewall.vet_ahead(target).await {
                TarballVettedAhead { name: &name, version: &version }.emit(&core.metrics);
            }
        });
    }
}
