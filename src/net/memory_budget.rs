//! An allowance of memory, in bytes, that many share: whoever needs more than is left waits for others to give back theirs.
//! Refuses to know what it is for.
//!
//! A share that waits holds what it has. So that they never all wait for each other, the oldest of each lane grows whatever is left:
//! at most the allowance and one share per lane are taken, and small ones besides. A lane is what must not wait for others, such as
//! one registry. Where strangers can make any number of lanes, there is a second limit, beyond which only the oldest of all grows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::net::fair_limit::network_of;

/// What never waits, in bytes, though it counts: most of what is asked for is smaller.
const SMALL: u64 = 1 << 20;

/// Memory that many share.
#[derive(Debug)]
pub struct MemoryBudget {
    bytes: u64,
    /// What the oldest of each lane may take all of them to, in bytes.
    most: u64,
    /// What never waits, in bytes, though it counts.
    small: u64,
    patience: Duration,
    taken: Mutex<BudgetState>,
    given_back: Notify,
}

#[derive(Debug, Default)]
struct BudgetState {
    bytes: u64,
    /// The numbers of the shares that are not small, by lane, in the order in which they ceased to be.
    large: BTreeMap<Arc<str>, BTreeSet<u64>>,
    next: u64,
}

/// A part of an allowance, given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    of: Arc<MemoryBudget>,
    lane: Arc<str>,
    bytes: u64,
    number: Option<u64>,
}

/// Nobody gave back enough in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no memory came free within {} s", after.as_secs())]
pub struct BudgetTimeout {
    /// How long it was waited for.
    pub after: Duration,
}

impl MemoryBudget {
    /// An allowance of `bytes`, for which a share waits for at most `patience` each time.
    #[must_use]
    pub fn of(bytes: u64, patience: Duration) -> Arc<Self> {
        Self::with_small(bytes, SMALL, patience)
    }

    /// Like [`MemoryBudget::of`], where shares of up to `small` bytes never wait.
    #[must_use]
    pub fn with_small(bytes: u64, small: u64, patience: Duration) -> Arc<Self> {
        Self::for_clients(bytes, u64::MAX, small, patience)
    }

    /// Like [`MemoryBudget::with_small`], where each client has a lane: the oldest shares of all of them take up to `most` bytes.
    #[must_use]
    pub fn for_clients(bytes: u64, most: u64, small: u64, patience: Duration) -> Arc<Self> {
        Arc::new(Self { bytes, most, small, patience, taken: Mutex::default(), given_back: Notify::new() })
    }

    /// A share, empty so far.
    #[must_use]
    pub fn share(self: &Arc<Self>) -> Reservation {
        self.share_in(&Arc::default())
    }

    /// A share in a lane of its own, empty so far.
    #[must_use]
    pub fn share_in(self: &Arc<Self>, lane: &Arc<str>) -> Reservation {
        Reservation { of: Arc::clone(self), lane: Arc::clone(lane), bytes: 0, number: None }
    }

    /// A share in the lane of a client, empty so far.
    #[must_use]
    pub fn share_for(self: &Arc<Self>, client: IpAddr) -> Reservation {
        self.share_in(&network_of(client).to_string().into())
    }

    /// How many bytes are taken.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, BudgetState> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BudgetState {
    /// Whether this is the oldest of all shares that are not small.
    fn is_oldest(&self, number: Option<u64>) -> bool {
        number == self.large.values().filter_map(BTreeSet::first).min().copied()
    }
}

impl Reservation {
    /// Takes `bytes` in all, if they are not taken already; waits while they are not left.
    ///
    /// # Errors
    /// When it had to wait for too long. It still holds what it had.
    pub async fn grow_to(&mut self, bytes: u64) -> Result<(), BudgetTimeout> {
        if self.try_grow_to(bytes) {
            return Ok(());
        }
        let (of, after) = (Arc::clone(&self.of), self.of.patience);
        let waiting = async {
            loop {
                // Listens before it looks, so that nothing is given back in between.
                let given_back = of.given_back.notified();
                if self.try_grow_to(bytes) {
                    return;
                }
                given_back.await;
            }
        };
        timeout(after, waiting).await.map_err(|_| BudgetTimeout { after })
    }

    /// Takes `bytes` in all, whatever is left: for what turned out to be larger than it said, where it cannot wait.
    pub fn overdraw_to(&mut self, bytes: u64) {
        let mut taken = self.of.lock();
        taken.bytes += bytes.saturating_sub(self.bytes);
        self.bytes = self.bytes.max(bytes);
    }

    /// Gives back all but `bytes`.
    pub fn shrink_to(&mut self, bytes: u64) {
        self.of.lock().bytes -= self.bytes.saturating_sub(bytes);
        self.bytes = self.bytes.min(bytes);
        self.of.given_back.notify_waiters();
    }

    fn try_grow_to(&mut self, bytes: u64) -> bool {
        let mut taken = self.of.lock();
        let more = bytes.saturating_sub(self.bytes);
        if bytes > self.of.small && self.number.is_none() {
            let number = taken.next;
            taken.next += 1;
            taken.large.entry(Arc::clone(&self.lane)).or_default().insert(number);
            self.number = Some(number);
        }
        let first = taken.large.get(&self.lane).and_then(BTreeSet::first);
        let is_first = self.number.is_none_or(|number| first == Some(&number));
        let limit = if is_first { self.of.most } else { self.of.bytes };
        let is_granted =
            more == 0 || self.number.is_none() || taken.bytes.saturating_add(more) <= limit || taken.is_oldest(self.number);
        if is_granted {
            taken.bytes += more;
            self.bytes += more;
        }
        is_granted
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut taken = self.of.lock();
        taken.bytes -= self.bytes;
        if let Some(number) = self.number
            && let Some(lane) = taken.large.get_mut(&self.lane)
        {
            lane.remove(&number);
            if lane.is_empty() {
                taken.large.remove(&self.lane);
            }
        }
        drop(taken);
        self.of.given_back.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);
    const MB: u64 = 1_000_000;

    async fn holding(of: &Arc<MemoryBudget>, bytes: u64) -> Reservation {
        let mut share = of.share();
        share.grow_to(bytes).await.unwrap();
        share
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_fit_waits_until_enough_is_given_back_and_small_ones_never_do() {
        let allowance = MemoryBudget::of(100 * MB, PATIENCE);
        let (first, mut second, mut third) =
            (holding(&allowance, 60 * MB).await, holding(&allowance, 40 * MB).await, allowance.share());
        assert_eq!(third.grow_to(2 * MB).await, Err(BudgetTimeout { after: PATIENCE }));
        let small = holding(&allowance, MB).await;
        assert_eq!(allowance.taken(), 101 * MB);
        let waiting = tokio::spawn(async move {
            third.grow_to(30 * MB).await.unwrap();
            third
        });
        tokio::task::yield_now().await;
        second.shrink_to(10 * MB);
        assert!(!waiting.is_finished());
        drop(small);
        let third = waiting.await.unwrap();
        assert_eq!(allowance.taken(), 100 * MB);
        drop((first, second, third));
        assert_eq!(allowance.taken(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_larger_than_all_there_is_goes_on_when_it_is_the_first() {
        let allowance = MemoryBudget::of(10 * MB, PATIENCE);
        let (first, mut second) = (holding(&allowance, 50 * MB).await, allowance.share());
        assert!(second.grow_to(50 * MB).await.is_err());
        drop(first);
        second.grow_to(50 * MB).await.unwrap();
        second.overdraw_to(70 * MB);
        assert_eq!(allowance.taken(), 70 * MB);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_of_each_lane_goes_on_whatever_others_hold() {
        let allowance = MemoryBudget::of(10 * MB, PATIENCE);
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
        assert!(allowance.taken() == 0 && allowance.lock().large.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn one_client_keeps_no_other_waiting_and_all_clients_have_a_limit() {
        let allowance = MemoryBudget::for_clients(10 * MB, 30 * MB, 1_000, PATIENCE);
        let client = |number: u8| allowance.share_for(IpAddr::from([192, 0, 2, number]));
        let (mut greedy, mut more) = (client(1), client(1));
        greedy.grow_to(20 * MB).await.unwrap();
        assert!(more.grow_to(MB).await.is_err());
        let (mut other, mut third) = (client(2), client(3));
        other.grow_to(10 * MB).await.unwrap();
        assert!(third.grow_to(MB).await.is_err());
        client(4).grow_to(1_000).await.unwrap();
        // The oldest goes on whatever is taken, so that one of them comes to its end.
        greedy.grow_to(40 * MB).await.unwrap();
        drop(greedy);
        third.grow_to(MB).await.unwrap();
        drop((more, other, third));
        assert!(allowance.taken() == 0 && allowance.lock().large.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn many_that_grow_step_by_step_all_come_to_their_end_and_never_take_more_than_one_beyond() {
        let allowance = MemoryBudget::of(30 * MB, PATIENCE);
        let mut growing = JoinSet::new();
        for number in 0..20 {
            let allowance = Arc::clone(&allowance);
            growing.spawn(async move {
                let mut share = allowance.share();
                for step in 1..=10 {
                    share.grow_to(step * 2 * MB).await.unwrap();
                    assert!(allowance.taken() <= 50 * MB, "{number}: {}", allowance.taken());
                    tokio::time::sleep(Duration::from_millis(number)).await;
                }
            });
        }
        assert_eq!(growing.join_all().await.len(), 20);
        assert_eq!(allowance.taken(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_leaves_while_it_waits_lets_the_next_go_on() {
        let allowance = MemoryBudget::of(10 * MB, PATIENCE);
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
