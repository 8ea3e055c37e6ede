//! One flight a key: whoever asks for what is already under way waits for it, and it goes on when they all leave.
//! Refuses to know what is fetched, and keeps nothing that has landed.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, watch};

/// Held while something is made for all that wait for it.
pub(crate) type Turn = AsyncMutex<()>;

/// Panics on an async thread.
pub(crate) fn assert_may_block() {
    drop(Turn::default().blocking_lock());
}

/// The landing of a flight: empty until it landed.
type FlightResult<V> = watch::Receiver<Option<V>>;

/// Flights under way, by key.
pub struct SingleFlight<K, V> {
    under_way: Arc<Mutex<HashMap<K, FlightResult<V>>>>,
}

/// The flight ended without landing: its task was cut off by a panic or at shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlightAborted;

impl<K, V> SingleFlight<K, V>
where
    K: Hash + Eq + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// No flights.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "a board is made where it is meant to be")]
    pub fn new() -> Self {
        Self { under_way: Arc::default() }
    }

    /// How many are under way.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a number for the metrics, not a collection")]
    pub fn len(&self) -> usize {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether one for `key` is under way.
    #[must_use]
    pub fn is_under_way(&self, key: &K) -> bool {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).contains_key(key)
    }

    /// Joins the flight of `key`, or starts it. `fly` runs as a task of its own.
    ///
    /// # Errors
    /// [`FlightAborted`] when the task did not finish.
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
        // Taken down however the task ends, so that a panic does not leave a flight that never lands.
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
    async fn many_ask_and_one_flies_even_when_the_first_leaves() {
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
    async fn a_flight_that_panics_is_lost_and_flies_again() {
        let flights = SingleFlight::<u8, u8>::new();
        assert_eq!(flights.join(1, || async { panic!("on purpose") }).await, Err(FlightAborted));
        assert_eq!(flights.join(1, || async { 5 }).await, Ok(5));
    }
}
