//! What is known of the new dependencies of a package's young releases, and when they may be looked up again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arc_swap::ArcSwap;
use jiff::Timestamp;

use crate::vetting::NewDependency;

/// The most new dependencies of one package that are looked up. A release with more of them stays pending.
pub(crate) const MAX_NEW_DEPENDENCIES: usize = 32;

/// Seconds until failed look-ups are repeated. Each round lets a request wait.
const RETRY_SECONDS: i64 = 10;

/// The dependencies that were looked up.
#[derive(Debug, Clone, Default)]
pub(crate) struct KnownDependencies {
    /// Increases with each change.
    pub revision: u64,
    pub by_name: HashMap<Arc<str>, NewDependency>,
}

#[derive(Debug, Default)]
pub(crate) struct DependencyLookups {
    known: ArcSwap<KnownDependencies>,
    /// The Unix time from which the next round is due.
    due: AtomicI64,
}

impl DependencyLookups {
    pub(crate) fn load(&self) -> Arc<KnownDependencies> {
        self.known.load_full()
    }

    pub(crate) fn revision(&self) -> u64 {
        self.known.load().revision
    }

    /// Checks whether look-ups may begin. Not while failed ones are recent, nor once all ended.
    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        now.as_second() >= self.due.load(Ordering::Relaxed)
    }

    /// Adds the results of a round that began at `now` and looked up `asked` of `pending` names.
    pub(crate) fn add(&self, found: &[(Arc<str>, NewDependency)], (asked, pending): (usize, usize), now: Timestamp) {
        if !found.is_empty() {
            self.known.rcu(|known| {
                let mut known = KnownDependencies { revision: known.revision + 1, by_name: known.by_name.clone() };
                known.by_name.extend(found.iter().cloned());
                known
            });
        }
        let has_ended = found.len() == asked && (asked == pending || self.known.load().by_name.len() >= MAX_NEW_DEPENDENCIES);
        let due = if has_ended { i64::MAX } else { now.as_second().saturating_add(RETRY_SECONDS) };
        self.due.store(due, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_lookups_are_repeated_later_and_completed_ones_never() {
        let (lookups, now) = (DependencyLookups::default(), Timestamp::from_second(1_000).unwrap());
        let later = Timestamp::from_second(1_010).unwrap();
        assert!(lookups.is_due(now));
        lookups.add(&[("a".into(), NewDependency::Absent)], (2, 2), now);
        assert!(!lookups.is_due(now) && lookups.is_due(later));
        assert_eq!((lookups.revision(), lookups.load().by_name.len()), (1, 1));
        lookups.add(&[("b".into(), NewDependency::Absent)], (1, 1), later);
        assert!(!lookups.is_due(Timestamp::MAX) && lookups.revision() == 2);
    }
}
