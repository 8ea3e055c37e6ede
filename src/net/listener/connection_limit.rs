//! Limits open connections across all listeners of a process. At the limit, new connections wait and idle ones are closed. One client
//! may hold most of the connections and never all of them. Does not accept or serve connections.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::net::fair_limit::{FairLimit, FairPermit, Sizes};
use crate::net::listener::activity::ConnectionActivity;

/// From this number of connections on, a part of them is kept from a client that takes all it can get.
const DIVISIBLE: usize = 16;

/// How long a connection must have idled before it makes way, in milliseconds: who has just been answered will ask again.
const IDLE: u64 = 1_000;

/// How seldom the same trouble is told.
const SELDOM: Duration = Duration::from_secs(10);

/// Places for connections.
#[derive(Debug)]
pub struct ConnectionLimit {
    places: Arc<FairLimit>,
    /// How many idle connections shall go when they are asked to make way: some at a time, not all.
    share: usize,
    /// How many of them have not gone yet.
    leaving: Arc<AtomicUsize>,
    orders: watch::Sender<ConnectionSignal>,
    epoch: Instant,
    told: Mutex<LogThrottle>,
}

/// What connections are asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectionSignal {
    /// Nothing yet.
    Stay,
    /// Close if idle: somebody waits for a place.
    MakeWay,
    /// Close after the answer that is being sent.
    Close,
}

/// A connection that has its place; leaves it when dropped.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    orders: watch::Receiver<ConnectionSignal>,
    leaving: Arc<AtomicUsize>,
    epoch: Instant,
    _place: FairPermit,
}

impl ConnectionLimit {
    /// Room for so many connections; at least one.
    #[must_use]
    pub fn of(connections: usize) -> Arc<Self> {
        let connections = connections.clamp(1, Semaphore::MAX_PERMITS);
        // A quarter is for clients that find the others taken, a sixteenth of it for each.
        let (reserve, own) = if connections < DIVISIBLE { (0, 0) } else { (connections / 4, (connections / 64).max(1)) };
        Arc::new(Self {
            places: FairLimit::new(Sizes { shared: connections - reserve, own, most: connections }),
            share: (connections / 16).max(1),
            leaving: Arc::default(),
            orders: watch::Sender::new(ConnectionSignal::Stay),
            epoch: Instant::now(),
            told: Mutex::default(),
        })
    }

    /// Takes a connection of `client` in, if it need not wait.
    pub(crate) fn try_enter(&self, client: IpAddr) -> Option<ConnectionPermit> {
        self.places.try_acquire(client).map(|place| self.guest(place))
    }

    /// Waits until a connection of `client` can be taken in. The caller has idle ones closed meanwhile.
    pub(crate) async fn enter(&self, client: IpAddr) -> ConnectionPermit {
        self.guest(self.places.acquire(client).await)
    }

    /// Logs that connections wait.
    pub(crate) fn tell_full(&self, client: IpAddr) {
        if self.told.lock().unwrap_or_else(PoisonError::into_inner).is_due() {
            tracing::warn!(client.address = %client, "connection waits: `max-connections` reached");
        }
    }

    fn guest(&self, place: FairPermit) -> ConnectionPermit {
        ConnectionPermit { orders: self.orders.subscribe(), leaving: Arc::clone(&self.leaving), epoch: self.epoch, _place: place }
    }

    /// Has some of the connections that idle close.
    pub(crate) fn make_way(&self) {
        self.leaving.store(self.share, Ordering::Relaxed);
        self.orders.send_if_modified(|order| {
            let open = *order != ConnectionSignal::Close;
            if open {
                *order = ConnectionSignal::MakeWay;
            }
            open
        });
    }

    /// Has every connection close after the answer that is being sent.
    pub(crate) fn close(&self) {
        self.orders.send_replace(ConnectionSignal::Close);
    }
}

impl ConnectionPermit {
    /// What idle milliseconds are counted from.
    pub(crate) fn epoch(&self) -> Instant {
        self.epoch
    }

    /// Waits for the next order.
    pub(crate) async fn next_order(&mut self) -> ConnectionSignal {
        // An error means that the room is gone, which is an end too.
        self.orders.changed().await.map_or(ConnectionSignal::Close, |()| *self.orders.borrow_and_update())
    }

    /// Whether the connection makes way: it has idled long enough, and no others have gone in its stead.
    pub(crate) fn makes_way(&self, turn: &ConnectionActivity) -> bool {
        let now = Instant::now().saturating_duration_since(self.epoch).as_millis();
        let one_less = |left: usize| left.checked_sub(1);
        turn.idles(u64::try_from(now).unwrap_or(u64::MAX - 1), IDLE)
            && self.leaving.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }
}

/// Says whether it is time to tell again what keeps happening.
#[derive(Debug, Default)]
pub(crate) struct LogThrottle(Option<Instant>);

impl LogThrottle {
    /// Whether it is; then not again for a while.
    pub(crate) fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let due = self.0.is_none_or(|last| now.saturating_duration_since(last) >= SELDOM);
        if due {
            self.0 = Some(now);
        }
        due
    }
}
