//! A flag for each entry of a document, such as whether its signature was verified.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;

/// Flags of a document's entries, which are of one revision of the policy snapshot.
#[derive(Debug, Default)]
pub(crate) struct EntryFlags(ArcSwapOption<FlagsOfRevision>);

#[derive(Debug)]
struct FlagsOfRevision {
    /// The revision of the policy snapshot, which has the keys.
    revision: u64,
    entries: Box<[AtomicBool]>,
}

impl EntryFlags {
    /// Checks whether the flag of the entry at `at` is set in this revision.
    pub(crate) fn has(&self, revision: u64, at: usize) -> bool {
        let known = self.0.load();
        let known = known.as_ref().filter(|known| known.revision == revision);
        known.and_then(|known| known.entries.get(at)).is_some_and(|entry| entry.load(Ordering::Relaxed))
    }

    /// Sets the flag of the entry at `at` of `count`.
    pub(crate) fn add(&self, revision: u64, at: usize, count: usize) {
        let is_current = |known: &Arc<FlagsOfRevision>| known.revision == revision && known.entries.len() == count;
        let known = self.0.load_full().filter(is_current).unwrap_or_else(|| {
            let made = Arc::new(FlagsOfRevision { revision, entries: (0..count).map(|_| AtomicBool::new(false)).collect() });
            // Another request may do the same; then one of both flags is lost.
            self.0.store(Some(Arc::clone(&made)));
            made
        });
        if let Some(entry) = known.entries.get(at) {
            entry.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_of_one_revision() {
        let flags = EntryFlags::default();
        assert!(!flags.has(1, 0));
        flags.add(1, 2, 3);
        assert!(flags.has(1, 2) && !flags.has(1, 1) && !flags.has(2, 2) && !flags.has(1, 9));
        flags.add(2, 0, 3);
        assert!(flags.has(2, 0) && !flags.has(2, 2) && !flags.has(1, 2));
        flags.add(2, 9, 3);
        assert!(!flags.has(2, 9));
    }
}
