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
pub struct SingleFlight<K, V> {
    under_way: Arc<Mutex<HashMap<K, FlightResult<V>>>>,
}

/// The task ended without a result because it panicked or was aborted at shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlightAborted;

impl<K, V> SingleFlight<K, V>
where
    K: Hash + Eq + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Creates an empty set.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "creating one is always explicit")]
    pub fn new() -> Self {
        Self { under_way: Arc::default() }
    }

    /// Returns the number of running tasks.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a metric, not a collection")]
    pub fn len(&self) -> usize {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Checks whether a task for `key` is running.
    #[must_use]
    pub fn is_under_way(&self, key: &K) -> bool {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).contains_key(key)
    }

    /// Waits for the task of `key`, and spawns it with `fly` if none is running.
    ///
    /// # Errors
    /// Returns [`FlightAborted`] if the task did not complete.
    pub async fn join<F>(&self, key: K, fly: impl FnOnce() -> F) -> Result<V, FlightAborted>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut landing = self.landing(key, fly);
        let landed = landing.wait_for(Option::is_some).await.map_err(|_| FlightAborted)?;
        landed.clone().ok_or(FlightAborted)
    }

    fn landing<F>(&self, key: K, fly: impl FnOnce() -> F) -> FlightResult<V>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(landing) = under_way.get(&key) {
            return landing.clone();
        }
        let (sender, landing) = watch::channel(None);
        under_way.insert(key.clone(), landing.clone());
        // Removed on drop, so that a panic does not leave an entry that never completes.
        let ending = RemoveOnDrop { key, under_way: Arc::clone(&self.under_way) };
        let flight = fly();
        tokio::spawn(async move {
            let landed = flight.await;
            drop(ending);
            sender.send_replace(Some(landed));
        });
        landing
    }
}

struct RemoveOnDrop<K: Hash + Eq, V> {
    key: K,
    under_way: Arc<Mutex<HashMap<K, FlightResult<V>>>>,
}

impl<K: Hash + Eq, V> Drop for RemoveOnDrop<K, V> {
    fn drop(&mut self) {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn callers_share_one_task_after_the_first_caller_is_cancelled() {
        let flights = Arc::new(SingleFlight::<u8, usize>::new());
        let (flown, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let ask = || {
            let (flights, flown, gate) = (Arc::clone(&flights), Arc::clone(&flown), Arc::clone(&gate));
            tokio::spawn(async move {
                flights
                    .join(7, || async move {
                        gate.notified().await;
                        flown.fetch_add(1, Ordering::SeqCst) + 1
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
        assert_eq!(flights.len(), 0);
    }

    #[tokio::test]
    async fn panicked_task_is_reported_and_can_run_again() {
        let flights = SingleFlight::<u8, u8>::new();
        assert_eq!(flights.join(1, || async { panic!("on purpose") }).await, Err(FlightAborted));
        assert_eq!(flights.join(1, || async { 5 }).await, Ok(5));
    }
}
