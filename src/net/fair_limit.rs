//! A concurrency limit shared by clients. One may use all shared permits, but each other one still has a few of its own.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Above this number of clients, those without permits are removed from the table.
const MAX_IDLE_CLIENTS: usize = 1_024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Permits shared by all clients. One client may hold all of them.
    pub shared: usize,
    /// Permits each client has in addition.
    pub own: usize,
    /// The total number of permits for all clients together.
    pub most: usize,
}

pub struct FairLimit {
    sizes: Sizes,
    shared: Arc<Semaphore>,
    beyond: Arc<Semaphore>,
    clients: Mutex<HashMap<IpAddr, Weak<Semaphore>>>,
}

/// A permit, returned when dropped.
pub struct FairPermit {
    _shared: Option<OwnedSemaphorePermit>,
    _own: Option<OwnedSemaphorePermit>,
}

impl FairLimit {
    pub fn new(sizes: Sizes) -> Arc<Self> {
        let (shared, beyond) = (Semaphore::new(sizes.shared), Semaphore::new(sizes.most.saturating_sub(sizes.shared)));
        Arc::new(Self { sizes, shared: Arc::new(shared), beyond: Arc::new(beyond), clients: Mutex::default() })
    }

    /// Waits for a shared permit or one of the client's own.
    pub async fn acquire(&self, client: IpAddr) -> FairPermit {
        if let Ok(permit) = Arc::clone(&self.shared).try_acquire_owned() {
            return FairPermit { _shared: Some(permit), _own: None };
        }
        let own = self.own(client);
        let own = async {
            let own = own.acquire_owned().await;
            (own, Arc::clone(&self.beyond).acquire_owned().await)
        };
        // The semaphores are never closed.
        tokio::select! {
            biased;
            shared = Arc::clone(&self.shared).acquire_owned() => FairPermit { _shared: shared.ok(), _own: None },
            (own, beyond) = own => FairPermit { _shared: beyond.ok(), _own: own.ok() },
        }
    }

    pub fn try_acquire(&self, client: IpAddr) -> Option<FairPermit> {
        if let Ok(permit) = Arc::clone(&self.shared).try_acquire_owned() {
            return Some(FairPermit { _shared: Some(permit), _own: None });
        }
        let own = self.own(client).try_acquire_owned().ok()?;
        let beyond = Arc::clone(&self.beyond).try_acquire_owned().ok()?;
        Some(FairPermit { _shared: Some(beyond), _own: Some(own) })
    }

    /// Checks whether a shared permit is free.
    pub fn has_free(&self) -> bool {
        self.shared.available_permits() > 0
    }

    /// Waits until all permits are returned.
    pub async fn settle(&self) {
        let all = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let _shared = self.shared.acquire_many(all(self.sizes.shared)).await;
        let _beyond = self.beyond.acquire_many(all(self.sizes.most.saturating_sub(self.sizes.shared))).await;
    }

    fn own(&self, client: IpAddr) -> Arc<Semaphore> {
        let client = network_of(client);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = clients.get(&client).and_then(Weak::upgrade) {
            return own;
        }
        if clients.len() >= MAX_IDLE_CLIENTS {
            clients.retain(|_, own| own.strong_count() > 0);
        }
        let own = Arc::new(Semaphore::new(self.sizes.own));
        clients.insert(client, Arc::downgrade(&own));
        own
    }
}

/// Returns the key under which a client is counted. IPv6 clients count by /64 network, since one host owns its addresses.
pub fn network_of(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const A_WHILE: Duration = Duration::from_secs(60);
    const SIZES: Sizes = Sizes { shared: 4, own: 2, most: 9 };

    fn client(number: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, number])
    }

    async fn take(limit: &FairLimit, client: IpAddr, count: usize) -> Vec<FairPermit> {
        let mut permits = Vec::new();
        for _ in 0..count {
            permits.push(timeout(A_WHILE, limit.acquire(client)).await.unwrap());
        }
        permits
    }

    #[tokio::test(start_paused = true)]
    async fn one_client_may_use_all_shared_permits_but_not_those_of_others() {
        let limit = FairLimit::new(SIZES);
        let mut greedy = take(&limit, client(1), 6).await;
        assert!(timeout(A_WHILE, limit.acquire(client(1))).await.is_err() && limit.try_acquire(client(1)).is_none());
        let other = take(&limit, client(2), 2).await;
        assert!(timeout(A_WHILE, limit.acquire(client(2))).await.is_err());
        // The total is limited too.
        let third = take(&limit, client(3), 1).await;
        assert!(timeout(A_WHILE, limit.acquire(client(3))).await.is_err());
        greedy.truncate(3);
        drop(take(&limit, client(3), 1).await);
        drop((greedy, other, third));
        timeout(A_WHILE, limit.settle()).await.unwrap();
        drop(take(&limit, client(4), 6).await);
    }

    #[tokio::test(start_paused = true)]
    async fn one_network_counts_as_one_client_and_idle_clients_are_removed() {
        let limit = FairLimit::new(SIZES);
        let of = |last: u16| IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, last]);
        let permits = take(&limit, of(1), 6).await;
        assert!(limit.try_acquire(of(2)).is_none());
        assert!(limit.try_acquire(IpAddr::from([0x2001, 0xdb8, 0, 2, 0, 0, 0, 1])).is_some());
        for number in 0..5_000_u32 {
            drop(limit.try_acquire(IpAddr::from(number.to_be_bytes())));
        }
        assert!(limit.clients.lock().unwrap().len() <= MAX_IDLE_CLIENTS);
        drop(permits);
    }
}
