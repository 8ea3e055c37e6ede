//! The views of a package: anonymous, with configured credentials, and with clients' own tokens. Contradicted ones are refetched.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use moka::sync::Cache;

use crate::firewall::package::CacheKey;
use crate::firewall::package::history::{Parted, by_version, may_be_same};
use crate::npm::{Integrity, PackageName};
use crate::store::{PackageRecord, Release};
use crate::units::timestamp;

/// The least interval between two such fetches of a view, so that a package that always contradicts itself costs upstream little.
const REFETCH_INTERVAL: Duration = Duration::from_secs(10);

const MAX_REFETCHED: u64 = 10_000;

/// The number of package locks. Packages that share one wait for each other for milliseconds.
const STRIPES: usize = 64;

/// The number of observation counters. Packages that share one are compared with their records more often than necessary.
const LOOK_COUNTERS: usize = 4_096;

/// Serializes the recording of observations per package, and limits how often a view is fetched again.
pub(crate) struct ViewHistories {
    stripes: [Mutex<()>; STRIPES],
    /// The number of observations that were compared with all views.
    looks: Box<[AtomicU64]>,
    /// Views that were fetched again because another view contradicts them, with the time.
    pub refetched: Cache<CacheKey, Timestamp>,
}

impl Default for ViewHistories {
    fn default() -> Self {
        let looks = (0..LOOK_COUNTERS).map(|_| AtomicU64::default()).collect();
        Self { stripes: std::array::from_fn(|_| Mutex::default()), looks, refetched: Cache::new(MAX_REFETCHED) }
    }
}

impl ViewHistories {
    /// Locks a package. Blocks.
    pub(crate) fn lock(&self, name: &PackageName) -> MutexGuard<'_, ()> {
        self.stripes[place(name, STRIPES)].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an observation that was compared with the records of all views. Returns its number, which is never zero.
    pub(crate) fn note_look(&self, name: &PackageName) -> u64 {
        self.looks[place(name, LOOK_COUNTERS)].fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn may_refetch(&self, view: &CacheKey, now: Timestamp) -> bool {
        !self.refetched.get(view).is_some_and(|since| timestamp::is_within(since, REFETCH_INTERVAL, now))
    }

    /// Checks whether no later observation of any view was compared.
    pub(crate) fn is_last_look(&self, name: &PackageName, look: u64) -> bool {
        look != 0 && self.looks[place(name, LOOK_COUNTERS)].load(Ordering::Relaxed) == look
    }
}

fn place(name: &PackageName, count: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    #[expect(clippy::cast_possible_truncation, reason = "any of its bits will do")]
    let place = hasher.finish() as usize % count;
    place
}

/// Versions that contradict other views, with their integrity and the contradicted view.
pub(crate) type Contradictions = Vec<(Box<str>, Option<Integrity>, CacheKey)>;

/// Returns the versions over which all the views that were fetched again still disagree, of those that contradicted a document. A
/// view that failed or answered from a cache has no record here and does not disagree.
pub(crate) fn still_diverged(contradictions: Contradictions, answers: &[(CacheKey, Option<Arc<PackageRecord>>)]) -> Parted {
    let answers: Vec<_> = answers.iter().map(|(view, record)| (view, record.as_deref().map(by_version))).collect();
    let (mut diverged, mut agreed) = (Parted::new(), HashSet::new());
    for (version, integrity, view) in contradictions {
        let answer = answers.iter().find(|(asked, _)| **asked == view).and_then(|(_, releases)| releases.as_ref());
        let agrees = |row: &&Release| row.state.gone.is_none() && may_be_same(row, integrity.as_ref());
        if answer.is_some_and(|releases| !releases.get(&*version).into_iter().flatten().any(agrees)) {
            diverged.insert(version, integrity);
        } else {
            agreed.insert(version);
        }
    }
    diverged.retain(|version, _| !agreed.contains(version));
    diverged
}
