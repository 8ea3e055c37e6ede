//! A memory budget in bytes, shared by many reservations. A reservation that needs more than is left waits for others to shrink.
//!
//! A waiting reservation keeps its bytes. To prevent deadlock, the oldest reservation of each lane may grow beyond the budget.
//! Usage is thus bounded by the budget, one reservation per lane, and small reservations. A lane groups work that must not wait
//! for others, such as one registry. If clients create lanes, then beyond a second limit only the oldest reservation may grow.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::net::fair_limit::network_of;

/// Reservations up to this size never wait, but count. Most requests are smaller.
const SMALL: u64 = 1 << 20;

pub struct MemoryBudget {
    bytes: u64,
    /// The total that the oldest reservations of all lanes may reach, in bytes.
    most: u64,
    small: u64,
    max_wait: Duration,
    state: Mutex<BudgetState>,
    released: Notify,
}

#[derive(Debug, Default)]
struct BudgetState {
    bytes: u64,
    /// The ids of large reservations by lane, in the order in which they became large.
    large: BTreeMap<Arc<str>, BTreeSet<u64>>,
    next: u64,
}

/// A part of a budget, returned when dropped.
pub struct Reservation {
    of: Arc<MemoryBudget>,
    lane: Arc<str>,
    bytes: u64,
    number: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no memory available within {} s", after.as_secs())]
pub struct BudgetTimeout {
    pub after: Duration,
}

impl MemoryBudget {
    /// Returns a budget of `bytes`. A reservation waits at most `max_wait` each time it grows.
    pub fn of(bytes: u64, max_wait: Duration) -> Arc<Self> {
        Self::for_clients(bytes, u64::MAX, SMALL, max_wait)
    }

    /// Like [`MemoryBudget::of`], but with a lane per client. The oldest reservations of all lanes may use up to `most` bytes, and
    /// reservations of up to `small` bytes never wait.
    pub fn for_clients(bytes: u64, most: u64, small: u64, max_wait: Duration) -> Arc<Self> {
        Arc::new(Self { bytes, most, small, max_wait, state: Mutex::default(), released: Notify::new() })
    }

    pub fn share(self: &Arc<Self>) -> Reservation {
        self.share_in(&Arc::default())
    }

    pub fn share_in(self: &Arc<Self>, lane: &Arc<str>) -> Reservation {
        Reservation { of: Arc::clone(self), lane: Arc::clone(lane), bytes: 0, number: None }
    }

    pub fn share_for(self: &Arc<Self>, client: IpAddr) -> Reservation {
        self.share_in(&network_of(client).to_string().into())
    }

    fn lock(&self) -> MutexGuard<'_, BudgetState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation {
    /// Grows the reservation to `bytes` in total. Waits until they are available. If it waited too long, it keeps its size.
    pub async fn grow_to(&mut self, bytes: u64) -> Result<(), BudgetTimeout> {
        if self.try_grow_to(bytes) {
            return Ok(());
        }
        let (of, after) = (Arc::clone(&self.of), self.of.max_wait);
        let waiting = async {
            loop {
                // Registers before checking, so that memory returned in between is not missed.
                let released = of.released.notified();
                if self.try_grow_to(bytes) {
                    return;
                }
                released.await;
            }
        };
        timeout(after, waiting).await.map_err(|_| BudgetTimeout { after })
    }

    /// Grows the reservation to `bytes` in total beyond any limit. For data that is larger than declared and cannot wait.
    pub fn force_grow_to(&mut self, bytes: u64) {
        let mut state = self.of.lock();
        state.bytes += bytes.saturating_sub(self.bytes);
        self.bytes = self.bytes.max(bytes);
    }

    /// Returns all but `bytes` to the budget.
    pub fn shrink_to(&mut self, bytes: u64) {
        self.of.lock().bytes -= self.bytes.saturating_sub(bytes);
        self.bytes = self.bytes.min(bytes);
        self.of.released.notify_waiters();
    }

    fn try_grow_to(&mut self, bytes: u64) -> bool {
        let mut state = self.of.lock();
        let more = bytes.saturating_sub(self.bytes);
        if bytes > self.of.small && self.number.is_none() {
            let number = state.next;
            state.next += 1;
            state.large.entry(Arc::clone(&self.lane)).or_default().insert(number);
            self.number = Some(number);
        }
        let first = state.large.get(&self.lane).and_then(BTreeSet::first);
        let is_first = self.number.is_none_or(|number| first == Some(&number));
        let limit = if is_first { self.of.most } else { self.of.bytes };
        let is_oldest = || self.number == state.large.values().filter_map(BTreeSet::first).min().copied();
        let is_granted = more == 0 || self.number.is_none() || state.bytes.saturating_add(more) <= limit || is_oldest();
        if is_granted {
            state.bytes += more;
            self.bytes += more;
        }
        is_granted
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = self.of.lock();
        state.bytes -= self.bytes;
        if let Some(number) = self.number
            && let Some(lane) = state.large.get_mut(&self.lane)
        {
            lane.remove(&number);
            if lane.is_empty() {
                state.large.remove(&self.lane);
            }
        }
        drop(state);
        self.of.released.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);
    const MB: u64 = 1_000_000;

    async fn holding(of: &Arc<MemoryBudget>, bytes: u64) -> Reservation {
        let mut share = of.share();
        share.grow_to(bytes).await.unwrap();
        share
    }

    #[tokio::test(start_paused = true)]
    async fn large_reservation_waits_for_memory_and_small_one_does_not() {
        let allowance = MemoryBudget::of(100 * MB, TIMEOUT);
        let (first, mut second, mut third) =
            (holding(&allowance, 60 * MB).await, holding(&allowance, 40 * MB).await, allowance.share());
        assert_eq!(third.grow_to(2 * MB).await, Err(BudgetTimeout { after: TIMEOUT }));
        let small = holding(&allowance, MB).await;
        assert_eq!(allowance.lock().bytes, 101 * MB);
        let waiting = tokio::spawn(async move {
            third.grow_to(30 * MB).await.unwrap();
            third
        });
        tokio::task::yield_now().await;
        second.shrink_to(10 * MB);
        assert!(!waiting.is_finished());
        drop(small);
        let third = waiting.await.unwrap();
        assert_eq!(allowance.lock().bytes, 100 * MB);
        drop((first, second, third));
        assert_eq!(allowance.lock().bytes, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn oldest_reservation_may_exceed_the_budget() {
        let allowance = MemoryBudget::of(10 * MB, TIMEOUT);
        let (first, mut second) = (holding(&allowance, 50 * MB).await, allowance.share());
        assert!(second.grow_to(50 * MB).await.is_err());
        drop(first);
        second.grow_to(50 * MB).await.unwrap();
        second.force_grow_to(70 * MB);
        assert_eq!(allowance.lock().bytes, 70 * MB);
    }

    #[tokio::test(start_paused = true)]
    async fn oldest_reservation_of_each_lane_never_waits() {
        let allowance = MemoryBudget::of(10 * MB, TIMEOUT);
        let (one, other): (Arc<str>, Arc<str>) = ("https://one.example/".into(), "https://other.example/".into());
        let mut hanging = allowance.share_in(&one);
        hanging.grow_to(50 * MB).await.unwrap();
        let mut second = allowance.share_in(&other);
        second.grow_to(20 * MB).await.unwrap();
        let mut third = allowance.share_in(&other);
        assert!(third.grow_to(20 * MB).await.is_err());
        drop(second);
        third.grow_to(20 * MB).await.unwrap();
        drop((hanging, third));
        assert!(allowance.lock().bytes == 0 && allowance.lock().large.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn clients_do_not_block_each_other_below_the_total_limit() {
        let allowance = MemoryBudget::for_clients(10 * MB, 30 * MB, 1_000, TIMEOUT);
        let client = |number: u8| allowance.share_for(IpAddr::from([192, 0, 2, number]));
        let (mut greedy, mut more) = (client(1), client(1));
        greedy.grow_to(20 * MB).await.unwrap();
        assert!(more.grow_to(MB).await.is_err());
        let (mut other, mut third) = (client(2), client(3));
        other.grow_to(10 * MB).await.unwrap();
        assert!(third.grow_to(MB).await.is_err());
        client(4).grow_to(1_000).await.unwrap();
        // The oldest may always grow, so that one of them can finish.
        greedy.grow_to(40 * MB).await.unwrap();
        drop(greedy);
        third.grow_to(MB).await.unwrap();
        drop((more, other, third));
        assert!(allowance.lock().bytes == 0 && allowance.lock().large.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn growing_reservations_all_finish_and_exceed_the_budget_by_one_at_most() {
        let allowance = MemoryBudget::of(30 * MB, TIMEOUT);
        let mut growing = JoinSet::new();
        for number in 0..20 {
            let allowance = Arc::clone(&allowance);
            growing.spawn(async move {
                let mut share = allowance.share();
                for step in 1..=10 {
                    share.grow_to(step * 2 * MB).await.unwrap();
                    assert!(allowance.lock().bytes <= 50 * MB, "{number}: {}", allowance.lock().bytes);
                    tokio::time::sleep(Duration::from_millis(number)).await;
                }
            });
        }
        assert_eq!(growing.join_all().await.len(), 20);
        assert_eq!(allowance.lock().bytes, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn cancelled_wait_unblocks_the_next_reservation() {
        let allowance = MemoryBudget::of(10 * MB, TIMEOUT);
        let (first, mut third) = (holding(&allowance, 10 * MB).await, allowance.share());
        let waiting = {
            let mut second = allowance.share();
            tokio::spawn(async move { second.grow_to(50 * MB).await })
        };
        tokio::task::yield_now().await;
        waiting.abort();
        drop((waiting.await, first));
        third.grow_to(50 * MB).await.unwrap();
    }
}
