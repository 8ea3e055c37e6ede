//! Limits connections across all listeners. At the limit, new ones wait and idle ones are closed. One client never holds all.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::net::fair_limit::{FairLimit, FairPermit, Sizes};
use crate::net::listener::activity::{ConnectionActivity, milliseconds};

/// From this limit on, a part is reserved for other clients.
const DIVISIBLE: usize = 16;

/// Minimum idle milliseconds before a connection is closed for another. A client just served is likely to send more.
const IDLE: u64 = 1_000;

/// Minimum interval between identical log messages.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Open connections over all listeners that share a [`ConnectionLimit`]. Beyond it, new ones wait and idle ones are closed.
    pub connections: usize,
    /// For a request head, from its first byte. On a new connection, from the start.
    pub header_timeout: Duration,
    /// Between two requests.
    pub idle_timeout: Duration,
    /// The largest request head in bytes, at least 8192.
    pub head_bytes: usize,
    pub max_headers: usize,
    /// For the client to read at least `Deadlines::SLOWEST` bytes per second, on average.
    pub send_timeout: Duration,
    /// Time for requests in progress to finish at shutdown.
    pub drain: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections: 4096,
            header_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(75),
            head_bytes: 32 * 1024,
            max_headers: 100,
            send_timeout: Duration::from_mins(1),
            drain: Duration::from_secs(20),
        }
    }
}

pub struct ConnectionLimit {
    permits: Arc<FairLimit>,
    /// How many idle connections close per signal: a part of them, not all.
    share: usize,
    /// How many of them have not closed yet.
    leaving: Arc<AtomicUsize>,
    orders: watch::Sender<ConnectionSignal>,
    epoch: Instant,
    throttle: Mutex<LogThrottle>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectionSignal {
    Stay,
    /// Close if idle, since another connection waits.
    MakeWay,
    /// Close after the response in progress.
    Close,
}

/// The permit of an open connection, returned when dropped.
pub(crate) struct ConnectionPermit {
    orders: watch::Receiver<ConnectionSignal>,
    leaving: Arc<AtomicUsize>,
    /// The instant from which idle milliseconds are counted.
    pub(super) epoch: Instant,
    _permit: FairPermit,
}

impl ConnectionLimit {
    /// Returns a limit of `connections`, at least one.
    pub fn of(connections: usize) -> Arc<Self> {
        let connections = connections.clamp(1, Semaphore::MAX_PERMITS);
        // A quarter is reserved for clients that find the rest in use. Each may hold a sixteenth of it.
        let (reserve, own) = if connections < DIVISIBLE { (0, 0) } else { (connections / 4, (connections / 64).max(1)) };
        Arc::new(Self {
            permits: FairLimit::new(Sizes { shared: connections - reserve, own, most: connections }),
            share: (connections / 16).max(1),
            leaving: Arc::default(),
            orders: watch::Sender::new(ConnectionSignal::Stay),
            epoch: Instant::now(),
            throttle: Mutex::default(),
        })
    }

    pub(crate) fn try_enter(&self, client: IpAddr) -> Option<ConnectionPermit> {
        self.permits.try_acquire(client).map(|permit| self.connection_permit(permit))
    }

    /// Waits for a permit for a connection of `client`. The caller closes idle connections meanwhile.
    pub(crate) async fn acquire(&self, client: IpAddr) -> ConnectionPermit {
        self.connection_permit(self.permits.acquire(client).await)
    }

    /// Logs that connections wait, at most once per interval.
    pub(crate) fn log_full(&self, client: IpAddr) {
        if self.throttle.lock().unwrap_or_else(PoisonError::into_inner).is_due() {
            tracing::warn!(client.address = %client, "connection waits: `max-connections` reached");
        }
    }

    fn connection_permit(&self, permit: FairPermit) -> ConnectionPermit {
        let (orders, leaving) = (self.orders.subscribe(), Arc::clone(&self.leaving));
        ConnectionPermit { orders, leaving, epoch: self.epoch, _permit: permit }
    }

    pub(crate) fn close_idle(&self) {
        self.leaving.store(self.share, Ordering::Relaxed);
        self.orders.send_if_modified(|order| {
            let open = *order != ConnectionSignal::Close;
            if open {
                *order = ConnectionSignal::MakeWay;
            }
            open
        });
    }

    /// Signals every connection to close after the response in progress.
    pub(crate) fn close(&self) {
        self.orders.send_replace(ConnectionSignal::Close);
    }
}

impl ConnectionPermit {
    pub(crate) async fn next_order(&mut self) -> ConnectionSignal {
        // An error means that the limit was dropped, so the connection closes too.
        self.orders.changed().await.map_or(ConnectionSignal::Close, |()| *self.orders.borrow_and_update())
    }

    /// Checks whether the connection must close: it was idle long enough, and not enough others have closed.
    pub(crate) fn should_close(&self, activity: &ConnectionActivity) -> bool {
        let one_less = |left: usize| left.checked_sub(1);
        activity.idles(milliseconds(self.epoch, Instant::now()), IDLE)
            && self.leaving.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }
}

/// Limits the rate of a repeated log message.
#[derive(Debug, Default)]
pub(crate) struct LogThrottle(Option<Instant>);

impl LogThrottle {
    /// Checks whether the message is due. If it is, starts the next interval.
    pub(crate) fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let due = self.0.is_none_or(|last| now.saturating_duration_since(last) >= LOG_INTERVAL);
        if due {
            self.0 = Some(now);
        }
        due
    }
}
