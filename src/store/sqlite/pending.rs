//! Changes to packages that the ledger did not take, because the disk is full or another process holds it: kept in memory
//! until it does, so that what was first seen meanwhile is not forgotten. Refuses to know how they are written.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::store::ledger::{PackageChange, PackageKey};

/// Rows of changes in memory, at about 250 bytes each. Beyond it, changes are refused.
const MOST_ROWS: usize = 100_000;

/// The changes that wait, by package and in their order.
#[derive(Default)]
pub(crate) struct PendingChanges(Mutex<State>);

#[derive(Default)]
struct State {
    changes: HashMap<PackageKey, Vec<Arc<PackageChange>>>,
    rows: usize,
}

impl PendingChanges {
    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().changes.is_empty()
    }

    /// Lets a change wait; `false` when there is no room for it.
    pub(crate) fn push(&self, key: &PackageKey, change: &PackageChange) -> bool {
        let mut state = self.lock();
        if state.rows + rows(change) > MOST_ROWS {
            return false;
        }
        state.rows += rows(change);
        state.changes.entry(key.clone()).or_default().push(Arc::new(change.clone()));
        true
    }

    /// What waits for one package.
    pub(crate) fn of(&self, key: &PackageKey) -> Vec<Arc<PackageChange>> {
        self.lock().changes.get(key).cloned().unwrap_or_default()
    }

    /// Hands everything to `write` until it refuses one. One caller at a time; more may come to wait meanwhile.
    pub(crate) fn settle<E>(&self, mut write: impl FnMut(&PackageKey, &PackageChange) -> Result<(), E>) -> Result<(), E> {
        while let Some((key, change)) = self.first() {
            write(&key, &change)?;
            self.lock().strike_off(&key);
        }
        Ok(())
    }

    fn first(&self) -> Option<(PackageKey, Arc<PackageChange>)> {
        let state = self.lock();
        let (key, changes) = state.changes.iter().next()?;
        Some((key.clone(), Arc::clone(changes.first()?)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Forgets the oldest change of a package.
    fn strike_off(&mut self, key: &PackageKey) {
        let Some(changes) = self.changes.get_mut(key) else { return };
        let written = changes.remove(0);
        if changes.is_empty() {
            self.changes.remove(key);
        }
        self.rows -= rows(&written);
    }
}

fn rows(change: &PackageChange) -> usize {
    1 + change.releases.len() + change.tags.len() + change.digests.len() + change.tarballs.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::{key, release};

    fn change(version: &str) -> PackageChange {
        PackageChange { releases: vec![release(version, b"")], ..PackageChange::default() }
    }

    #[test]
    fn changes_are_handed_over_in_their_order_and_kept_when_they_are_refused() {
        let owed = PendingChanges::default();
        for version in ["1.0.0", "1.1.0"] {
            assert!(owed.push(&key("axios"), &change(version)));
        }
        let mut taken = Vec::new();
        let refused = owed.settle(|_, change| {
            if taken.len() == 1 {
                return Err("full");
            }
            taken.push(change.releases[0].version.clone());
            Ok(())
        });
        assert_eq!((refused, owed.of(&key("axios")).len(), owed.of(&key("other")).len()), (Err("full"), 1, 0));
        owed.settle(|_, change| -> Result<(), ()> {
            taken.push(change.releases[0].version.clone());
            Ok(())
        })
        .unwrap();
        assert_eq!(taken.iter().map(|version| &**version).collect::<Vec<_>>(), ["1.0.0", "1.1.0"]);
        assert!(owed.is_empty() && owed.lock().rows == 0);
    }

    #[test]
    fn what_waits_is_bounded() {
        let owed = PendingChanges::default();
        let many = PackageChange { releases: vec![release("1.0.0", b""); MOST_ROWS / 2], ..PackageChange::default() };
        assert!(owed.push(&key("axios"), &many));
        assert!(!owed.push(&key("other"), &many));
        assert!(owed.push(&key("other"), &change("1.0.0")));
    }
}
