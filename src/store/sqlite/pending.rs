//! Keeps package changes in memory, up to a limit, while the ledger cannot be written: full disk, or lock held elsewhere.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::store::ledger::{PackageChange, PackageKey};

/// Maximum number of rows in memory, about 250 bytes each. Further changes are rejected.
const MAX_PENDING_ROWS: usize = 100_000;

/// An inspection has up to about 4 kB of findings.
const ROWS_OF_INSPECTION: usize = 16;

#[derive(Default)]
pub(crate) struct PendingChanges(Mutex<State>);

#[derive(Default)]
struct State {
    changes: HashMap<PackageKey, Vec<Arc<PackageChange>>>,
    rows: usize,
}

impl PendingChanges {
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().changes.is_empty()
    }

    pub(crate) fn rows(&self) -> usize {
        self.lock().rows
    }

    /// Adds a change. Returns `false` if the limit is reached.
    pub(crate) fn push(&self, key: &PackageKey, change: &PackageChange) -> bool {
        let mut state = self.lock();
        if state.rows + rows(change) > MAX_PENDING_ROWS {
            return false;
        }
        state.rows += rows(change);
        state.changes.entry(key.clone()).or_default().push(Arc::new(change.clone()));
        true
    }

    pub(crate) fn of(&self, key: &PackageKey) -> Vec<Arc<PackageChange>> {
        self.lock().changes.get(key).cloned().unwrap_or_default()
    }

    /// Passes all changes to `write` until an error. One caller at a time; others may add changes meanwhile.
    pub(crate) fn flush<E>(&self, mut write: impl FnMut(&PackageKey, &PackageChange) -> Result<(), E>) -> Result<(), E> {
        while let Some((key, change)) = self.first() {
            write(&key, &change)?;
            self.lock().drop_oldest(&key);
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
    fn drop_oldest(&mut self, key: &PackageKey) {
        let Some(changes) = self.changes.get_mut(key) else { return };
        let written = changes.remove(0);
        if changes.is_empty() {
            self.changes.remove(key);
        }
        self.rows -= rows(&written);
    }
}

fn rows(change: &PackageChange) -> usize {
    let few = change.releases.len() + change.tags.len() + change.digests.len() + change.tarballs.len();
    let few = few + change.provenance.len() + change.signals.len();
    1 + few + ROWS_OF_INSPECTION * change.inspections.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::{key, release};

    fn change(version: &str) -> PackageChange {
        PackageChange { releases: vec![release(version, b"")], ..PackageChange::default() }
    }

    #[test]
    fn changes_are_written_in_order_and_kept_on_error() {
        let pending = PendingChanges::default();
        for version in ["1.0.0", "1.1.0"] {
            assert!(pending.push(&key("axios"), &change(version)));
        }
        let mut written = Vec::new();
        let refused = pending.flush(|_, change| {
            if written.len() == 1 {
                return Err("full");
            }
            written.push(change.releases[0].version.clone());
            Ok(())
        });
        assert_eq!((refused, pending.of(&key("axios")).len(), pending.of(&key("other")).len()), (Err("full"), 1, 0));
        pending
            .flush(|_, change| -> Result<(), ()> {
                written.push(change.releases[0].version.clone());
                Ok(())
            })
            .unwrap();
        assert_eq!(written.iter().map(|version| &**version).collect::<Vec<_>>(), ["1.0.0", "1.1.0"]);
        assert!(pending.is_empty() && pending.lock().rows == 0);
    }

    #[test]
    fn pending_rows_are_bounded() {
        let pending = PendingChanges::default();
        let many = PackageChange { releases: vec![release("1.0.0", b""); MAX_PENDING_ROWS / 2], ..PackageChange::default() };
        assert!(pending.push(&key("axios"), &many));
        assert!(!pending.push(&key("other"), &many));
        assert!(pending.push(&key("other"), &change("1.0.0")));
    }
}
