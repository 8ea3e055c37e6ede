//! Shares one running task between all callers that request the same key. The task continues if all callers leave. Results are
//! not kept.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, watch};

/// Held while a value is computed for all that wait for it.
pub(crate) type Turn = AsyncMutex<()>;

/// Panics on an async thread.
pub(crate) fn assert_may_block() {
    drop(Turn::default().blocking_lock());
}

/// The result of a task; `None` until it completes.
type FlightResult<V> = watch::Receiver<Option<V>>;

/// Running tasks by key.
pub(crate) struct SingleFlight<K, V> {
    running: Arc<Mutex<HashMap<K, FlightResult<V>>>>,
}

/// The task ended without a result because it panicked or was aborted at shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FlightAborted;

impl<K, V> SingleFlight<K, V>
where
    K: Hash + Eq + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub(crate) fn new() -> Self {
        Self { running: Arc::default() }
    }

    /// Checks whether a task for `key` is running.
    pub(crate) fn is_under_way(&self, key: &K) -> bool {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).contains_key(key)
    }

    /// Waits for the task of `key`, and spawns it with `start` if none is running. Fails if the task did not complete.
    pub(crate) async fn join<F>(&self, key: K, start: impl FnOnce() -> F) -> Result<V, FlightAborted>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut receiver = self.receiver(key, start);
        let result = receiver.wait_for(Option::is_some).await.map_err(|_| FlightAborted)?;
        result.clone().ok_or(FlightAborted)
    }

    fn receiver<F>(&self, key: K, start: impl FnOnce() -> F) -> FlightResult<V>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(receiver) = running.get(&key) {
            return receiver.clone();
        }
        let (sender, receiver) = watch::channel(None);
        running.insert(key.clone(), receiver.clone());
        // Removed on drop, so that a panic does not leave an entry that never completes.
        let entry = RemoveOnDrop { key, running: Arc::clone(&self.running) };
        let task = start();
        tokio::spawn(async move {
            let result = task.await;
            drop(entry);
            sender.send_replace(Some(result));
        });
        receiver
    }
}

struct RemoveOnDrop<K: Hash + Eq, V> {
    key: K,
    running: Arc<Mutex<HashMap<K, FlightResult<V>>>>,
}

impl<K: Hash + Eq, V> Drop for RemoveOnDrop<K, V> {
    fn drop(&mut self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn callers_share_one_task_after_the_first_caller_is_cancelled() {
        let shared = Arc::new(SingleFlight::<u8, usize>::new());
        let (runs, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let ask = || {
            let (shared, runs, gate) = (Arc::clone(&shared), Arc::clone(&runs), Arc::clone(&gate));
            tokio::spawn(async move {
                shared
                    .join(7, || async move {
                        gate.notified().await;
                        runs.fetch_add(1, Ordering::SeqCst) + 1
                    })
                    .await
            })
        };
        let first = ask();
        tokio::task::yield_now().await;
        first.abort();
        let others = [ask(), ask(), ask()];
        tokio::task::yield_now().await;
        gate.notify_one();
        for other in others {
            assert_eq!(other.await.unwrap(), Ok(1));
        }
        assert!(!shared.is_under_way(&7));
    }

    #[tokio::test]
    async fn panicked_task_is_reported_and_can_run_again() {
        let shared = SingleFlight::<u8, u8>::new();
        assert_eq!(shared.join(1, || async { panic!("on purpose") }).await, Err(FlightAborted));
        assert_eq!(shared.join(1, || async { 5 }).await, Ok(5));
    }
}
