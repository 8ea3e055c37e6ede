//! Runs work that blocks, or that grows with what a client sends, off the async threads. Remembers which background work still runs.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::firewall::error::{FirewallError, Result};
use crate::firewall::package::PackageSnapshot;
use crate::firewall::policy_state::{PolicyState, Profile};
use crate::firewall::verdicts::cache::CachedPackage;
use crate::net::FairLimit;
use crate::net::fair_limit::Sizes;
use crate::telemetry::{Metrics, TaskFailed, TaskLabel};

/// How often shutdown checks for remaining work.
const SETTLE_POLL_INTERVAL: Duration = Duration::from_millis(2);

/// The limits of blocking and heavy work.
pub(crate) struct Workers {
    pub heavy: Arc<FairLimit>,
    metrics: Arc<Metrics>,
    /// Cloned into all background work.
    running: Arc<()>,
}

/// Returns the concurrency of CPU work on untrusted input: all cores are used, and clients take turns.
pub(crate) fn heavy(cores: usize) -> Sizes {
    Sizes { shared: cores, own: 1, most: 2 * cores }
}

impl Workers {
    pub(crate) fn new(cores: usize, metrics: Arc<Metrics>) -> Self {
        Self { heavy: FairLimit::new(heavy(cores)), metrics, running: Arc::default() }
    }

    /// Returns a token to hold while work runs on a blocking thread.
    pub(crate) fn token(&self) -> Arc<()> {
        Arc::clone(&self.running)
    }

    /// Returns `work`, which shutdown waits for.
    pub(crate) fn track<W: Future>(&self, work: W) -> impl Future<Output = W::Output> + use<W> {
        let token = self.token();
        async move {
            let done = work.await;
            drop(token);
            done
        }
    }

    /// Waits until no background work runs.
    pub(crate) async fn settle(&self) {
        while Arc::strong_count(&self.running) > 1 {
            tokio::time::sleep(SETTLE_POLL_INTERVAL).await;
        }
    }

    /// Runs `work` off the async threads.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let token = self.token();
        let running = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(token);
            done
        });
        running.await.map_err(|error| self.task_failed(&error))
    }

    /// Runs work that grows with the number of versions of `package`: off the async threads with limited concurrency if there are
    /// many.
    pub(crate) async fn run_over_versions<T: Send + 'static>(
        &self,
        package: &PackageSnapshot,
        client: IpAddr,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        if !package.has_many_versions() {
            return Ok(work());
        }
        let permit = self.heavy.acquire(client).await;
        let working = self.run(move || {
            let done = work();
            drop(permit);
            done
        });
        working.await
    }

    /// Evaluates a package with many versions off the async threads, once for all waiting clients. Other packages are evaluated
    /// on demand.
    pub(crate) async fn evaluate(&self, package: &Arc<CachedPackage>, policy: &PolicyState, profile: Profile, client: IpAddr) {
        if !package.has_many_versions() {
            return;
        }
        Box::pin(async {
            let _turn = package.turn.lock().await;
            let policy_snapshot = policy.snapshot();
            if package.is_judged(&policy_snapshot, profile) {
                return;
            }
            let permit = self.heavy.acquire(client).await;
            let package = Arc::clone(package);
            let evaluate = move || {
                package.judge(&policy_snapshot, profile);
                drop(permit);
            };
            // A failed task was logged.
            let _ = self.run(evaluate).await;
        })
        .await;
    }

    /// Counts an internal task that panicked or was aborted at shutdown, and returns its error.
    pub(crate) fn task_failed(&self, error: &dyn std::fmt::Display) -> FirewallError {
        TaskFailed { task: TaskLabel::Request, detail: &error.to_string(), restart: None }.emit(&self.metrics);
        task_failed()
    }
}

/// Returns the error for an internal task that failed.
pub(crate) fn task_failed() -> FirewallError {
    FirewallError::Internal("an internal task failed".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn settling_waits_for_background_work() {
        let workers = Workers::new(2, Arc::default());
        let token = workers.token();
        assert!(tokio::time::timeout(Duration::from_secs(60), workers.settle()).await.is_err());
        drop(token);
        workers.settle().await;
        let work = tokio::spawn(workers.track(std::future::pending::<()>()));
        assert!(tokio::time::timeout(Duration::from_secs(60), workers.settle()).await.is_err());
        work.abort();
        workers.settle().await;
    }

    #[tokio::test]
    async fn panic_of_a_task_is_an_internal_error() {
        let workers = Workers::new(2, Arc::default());
        let failed = workers.run(|| panic!("out of order")).await;
        assert!(matches!(failed, Err::<(), _>(FirewallError::Internal(_))));
        assert_eq!(workers.run(|| 7).await.ok(), Some(7));
    }
}
