//! Limits concurrent requests per registry and reserves slots for each client. Identical requests share one fetch; a client that
//! joins a fetch still waiting for a slot lends it one of its own.

use std::collections::HashMap;
use std::future::{Future, pending};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::firewall::error::Result;
use crate::firewall::singleflight::{FlightAborted, SingleFlight};
use crate::firewall::workers::Workers;
use crate::net::fair_limit::Sizes;
use crate::net::{FairLimit, FairPermit};
use crate::upstream::Registry;

/// The detail of a failed task whose shared fetch panicked or was aborted at shutdown.
const UNFINISHED: &str = "a shared fetch ended without a result";

pub(crate) struct Slots {
    sizes: Sizes,
    /// By registry id; bounded by the configuration.
    by_registry: Mutex<HashMap<Arc<str>, Arc<FairLimit>>>,
}

impl Slots {
    pub(crate) fn new(sizes: Sizes) -> Self {
        Self { sizes, by_registry: Mutex::default() }
    }

    pub(crate) fn of(&self, registry: &Registry) -> Arc<FairLimit> {
        let mut limits = self.by_registry.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(limits.entry(Arc::clone(registry.id())).or_insert_with(|| FairLimit::new(self.sizes)))
    }

    pub(crate) async fn settle(&self) {
        let limits: Vec<_> = self.by_registry.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        for limit in limits {
            limit.settle().await;
        }
    }
}

/// Running fetches, each shared by all clients that request the same.
pub(crate) struct SharedFetches<K, T> {
    running: SingleFlight<K, Result<T>>,
    waiting: WaitingFetches<K>,
    workers: Arc<Workers>,
}

/// Fetches that wait for a slot: the client that started each, and the channel to lend it a slot.
type WaitingFetches<K> = Arc<Mutex<HashMap<K, (IpAddr, mpsc::Sender<FairPermit>)>>>;

/// The slot request of a new fetch. After it is dropped, no client lends the fetch a slot.
pub(crate) struct SlotRequest<K: Hash + Eq> {
    key: K,
    client: IpAddr,
    lent: mpsc::Receiver<FairPermit>,
    waiting: WaitingFetches<K>,
}

impl<K, T> SharedFetches<K, T>
where
    K: Hash + Eq + Clone + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Creates an empty set. Shutdown of `workers` waits for its fetches.
    pub(crate) fn new(workers: &Arc<Workers>) -> Self {
        Self { running: SingleFlight::new(), waiting: Arc::default(), workers: Arc::clone(workers) }
    }

    pub(crate) fn is_under_way(&self, key: &K) -> bool {
        self.running.is_under_way(key)
    }

    /// Joins the fetch of `key` for `client`, or starts it with `fetch`. A joined fetch can also use a slot of this client, and
    /// so does not wait behind other requests of the client that started it.
    ///
    /// # Errors
    /// Returns the error of the fetch, or an internal one if it panicked or was aborted at shutdown.
    pub(crate) async fn join<F>(
        &self,
        key: K,
        client: IpAddr,
        slots: &FairLimit,
        fetch: impl FnOnce(SlotRequest<K>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let begin = || {
            let (sender, lent) = mpsc::channel(1);
            self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), (client, sender));
            self.workers.track(fetch(SlotRequest { key: key.clone(), client, lent, waiting: Arc::clone(&self.waiting) }))
        };
        let result = self.running.join(key.clone(), begin);
        let lend = async {
            let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
            if let Some((_, sender)) = waiting.filter(|(first, _)| *first != client) {
                // If the fetch already has a slot, this one is released.
                drop(sender.try_send(slots.acquire(client).await));
            }
            pending::<()>().await;
        };
        tokio::select! {
            // Polled first, so that the fetch is registered before `lend` looks it up.
            biased;
            result = result => result.unwrap_or_else(|FlightAborted| Err(self.workers.task_failed(&UNFINISHED))),
            () = lend => Err(self.workers.task_failed(&UNFINISHED)),
        }
    }
}

impl<K: Hash + Eq> SlotRequest<K> {
    /// Waits for a slot of the client that started the fetch, or of one that joined it.
    pub(crate) async fn permit(mut self, slots: &FairLimit) -> FairPermit {
        tokio::select! {
            biased;
            permit = slots.acquire(self.client) => permit,
            Some(permit) = self.lent.recv() => permit,
        }
    }
}

impl<K: Hash + Eq> Drop for SlotRequest<K> {
    fn drop(&mut self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    fn client(number: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, number])
    }

    #[tokio::test(start_paused = true)]
    async fn fetch_waiting_for_one_client_uses_the_slot_of_another() {
        let workers = Arc::new(Workers::new(2, Arc::default()));
        let slots = FairLimit::new(Sizes { shared: 2, own: 1, most: 8 });
        let fetches = Arc::new(SharedFetches::<&'static str, u8>::new(&workers));
        let (greedy, honest) = (client(1), client(2));
        let _hanging = [slots.acquire(greedy).await, slots.acquire(greedy).await, slots.acquire(greedy).await];
        let join = |who: IpAddr| {
            let (fetches, slots) = (Arc::clone(&fetches), Arc::clone(&slots));
            async move {
                let limit = Arc::clone(&slots);
                let fetch = |request: SlotRequest<_>| async move {
                    let _permit = request.permit(&limit).await;
                    Ok(7)
                };
                fetches.join("react", who, &slots, fetch).await
            }
        };
        let begun = tokio::spawn(join(greedy));
        assert!(timeout(TIMEOUT, join(greedy)).await.is_err(), "a second request of the same client lends no cache_key");
        assert_eq!(timeout(TIMEOUT, join(honest)).await.unwrap().unwrap(), 7);
        assert_eq!(begun.await.unwrap().unwrap(), 7);
        assert!(fetches.waiting.lock().unwrap().is_empty());
        // The lent slot was released.
        assert!(slots.try_acquire(honest).is_some());
    }
}
