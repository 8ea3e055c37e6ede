//! Runs pieces of background work in parallel.

use tokio::task::JoinSet;

use crate::app::supervisor::TaskEnd;
use crate::telemetry::{Metrics, TaskFailed, TaskLabel};

/// Starts `work` on each target that `next` returns, at most `at_once` at a time. A panic of one is counted and does not stop the
/// task. `next` must be cancel safe.
pub(super) async fn run<T, N: Future<Output = T>, W: Future<Output = ()> + Send + 'static>(
    (task, metrics): (TaskLabel, &Metrics),
    at_once: usize,
    next: impl Fn() -> N,
    work: impl Fn(T) -> W,
) -> TaskEnd {
    let mut running = JoinSet::<()>::new();
    loop {
        let target = tokio::select! {
            Some(ended) = running.join_next(), if !running.is_empty() => {
                if let Err(error) = ended {
                    TaskFailed { task, detail: &error.to_string(), restart: None }.emit(metrics);
                }
                continue;
            }
            target = next(), if running.len() < at_once => target,
        };
        running.spawn(work(target));
    }
}
