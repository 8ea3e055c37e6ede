//! Room for the connections that are allowed, shared by all listeners of a process. When every place is taken, those that
//! idle make way for those that wait. Refuses to accept and to serve.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout};

use super::turn::Turn;

/// How long somebody waits for a place before those that idle are asked for theirs again.
const PATIENCE: Duration = Duration::from_millis(100);

/// How long a connection must have idled before it makes way, in milliseconds: who has just been answered will ask again.
const IDLE: u64 = 1_000;

/// How seldom the same trouble is told.
const SELDOM: Duration = Duration::from_secs(10);

/// Places for connections.
#[derive(Debug)]
pub struct Room {
    places: Arc<Semaphore>,
    /// How many idle connections shall go when they are asked to make way: some at a time, not all.
    share: usize,
    /// How many of them have not gone yet.
    leaving: Arc<AtomicUsize>,
    orders: watch::Sender<Order>,
    epoch: Instant,
    told: Mutex<Seldom>,
}

/// What connections are asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Nothing yet.
    Stay,
    /// Close if idle: somebody waits for a place.
    MakeWay,
    /// Close after the answer that is being sent.
    Close,
}

/// A connection that has its place; leaves it when dropped.
#[derive(Debug)]
pub(super) struct Guest {
    orders: watch::Receiver<Order>,
    leaving: Arc<AtomicUsize>,
    epoch: Instant,
    _place: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// Room for so many connections; at least one.
    #[must_use]
    pub fn of(connections: usize) -> Arc<Self> {
        Arc::new(Self {
            places: Arc::new(Semaphore::new(connections.clamp(1, Semaphore::MAX_PERMITS))),
            share: (connections / 16).max(1),
            leaving: Arc::default(),
            orders: watch::Sender::new(Order::Stay),
            epoch: Instant::now(),
            told: Mutex::default(),
        })
    }

    /// Waits for a place, and has those that idle make way for it.
    pub(super) async fn enter(&self) -> Guest {
        let place = match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => Some(place),
            Err(_) => self.wait().await,
        };
        Guest { orders: self.orders.subscribe(), leaving: Arc::clone(&self.leaving), epoch: self.epoch, _place: place }
    }

    async fn wait(&self) -> Option<OwnedSemaphorePermit> {
        if self.told.lock().unwrap_or_else(PoisonError::into_inner).is_due() {
            tracing::warn!("as many clients are connected as `max-connections` allows: the next ones wait");
        }
        loop {
            self.make_way();
            // Nobody closes the semaphore; were it closed, there would be no limit, and the place is none.
            if let Ok(place) = timeout(PATIENCE, Arc::clone(&self.places).acquire_owned()).await {
                return place.ok();
            }
        }
    }

    /// Has some of the connections that idle close.
    pub(super) fn make_way(&self) {
        self.leaving.store(self.share, Ordering::Relaxed);
        self.orders.send_if_modified(|order| {
            let open = *order != Order::Close;
            if open {
                *order = Order::MakeWay;
            }
            open
        });
    }

    /// Has every connection close after the answer that is being sent.
    pub(super) fn close(&self) {
        self.orders.send_replace(Order::Close);
    }
}

impl Guest {
    /// What idle milliseconds are counted from.
    pub(super) fn epoch(&self) -> Instant {
        self.epoch
    }

    /// Waits for the next order.
    pub(super) async fn next_order(&mut self) -> Order {
        // An error means that the room is gone, which is an end too.
        self.orders.changed().await.map_or(Order::Close, |()| *self.orders.borrow_and_update())
    }

    /// Whether the connection makes way: it has idled long enough, and no others have gone in its stead.
    pub(super) fn makes_way(&self, turn: &Turn) -> bool {
        let now = Instant::now().saturating_duration_since(self.epoch).as_millis();
        let one_less = |left: usize| left.checked_sub(1);
        turn.idles(u64::try_from(now).unwrap_or(u64::MAX - 1), IDLE)
            && self.leaving.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }
}

/// Says whether it is time to tell again what keeps happening.
#[derive(Debug, Default)]
pub(super) struct Seldom(Option<Instant>);

impl Seldom {
    /// Whether it is; then not again for a while.
    pub(super) fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let due = self.0.is_none_or(|last| now.saturating_duration_since(last) >= SELDOM);
        if due {
            self.0 = Some(now);
        }
        due
    }
}
