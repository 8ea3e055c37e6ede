//! Prefetches packuments that clients will probably request next, as chosen by the firewall.

use tokio::task::JoinSet;

use crate::app::core::Core;
use crate::app::supervisor::TaskEnd;
use crate::telemetry::{PackumentPrefetched, TaskFailed, TaskLabel};

/// Executes the firewall's prefetch requests, in parallel up to `prefetch`. A panic of one is counted and does not stop the task.
pub(crate) async fn run(core: Core) -> TaskEnd {
    if core.firewall.max_prefetches() == 0 {
        return Ok(());
    }
    let mut running = JoinSet::<()>::new();
    loop {
        let target = tokio::select! {
            Some(ended) = running.join_next(), if !running.is_empty() => {
                if let Err(error) = ended {
                    TaskFailed { task: TaskLabel::Prefetch, detail: &error.to_string(), restart: None }.emit(&core.metrics);
                }
                continue;
            }
            // Cancel safe: a request stays queued if this future is dropped.
            target = core.firewall.next_prefetch() => target,
        };
        let core = core.clone();
        running.spawn(async move {
            let name = target.name().clone();
            if core.firewall.prefetch(target).await {
                PackumentPrefetched { name: &name }.emit(&core.metrics);
            }
        });
    }
}
