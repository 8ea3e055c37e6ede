//! Tarballs that a full download once yielded: what their bytes hash to, and whether all clients may have them. Says nothing of
//! verdicts.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;

use crate::npm::{Algorithm, Digest, Integrity};
use crate::store::TarballSource;

/// A tarball that lies, or lay, in the store.
pub(super) struct StoredTarball {
    /// The SHA-512 that names it.
    pub name: Digest,
    /// Every digest that was computed of its bytes.
    pub digests: Integrity,
    /// Their length.
    pub length: u64,
    public: AtomicBool,
}

impl StoredTarball {
    /// A tarball with these digests; `None` where its SHA-512 is not among them.
    #[must_use]
    pub(super) fn new(digests: Integrity, length: u64, public: bool) -> Option<Self> {
        let name = digests.digest(Algorithm::Sha512)?.clone();
        Some(Self { name, digests, length, public: AtomicBool::new(public) })
    }

    /// The tarball that the ledger knows.
    #[must_use]
    pub(super) fn recall(source: TarballSource) -> Option<Self> {
        Self::new(source.digests, source.length, source.public)
    }

    /// Whether its address gave it to a request without credentials: then all clients may have it.
    #[must_use]
    pub(super) fn is_public(&self) -> bool {
        self.public.load(Ordering::Relaxed)
    }

    /// Learns that its address gives it to requests without credentials.
    pub(super) fn make_public(&self) {
        self.public.store(true, Ordering::Relaxed);
    }
}

/// The tarballs of one index, by the place of their entry. What stands here came from the address that the entry states, and
/// matches what the entry states.
#[derive(Default)]
pub(super) struct StoredTarballs(OnceLock<Box<[ArcSwapOption<StoredTarball>]>>);

impl StoredTarballs {
    /// The tarball of the entry at `at`, if it was looked up. A look-up in memory without a lock.
    #[must_use]
    pub(super) fn get(&self, at: usize) -> Option<Arc<StoredTarball>> {
        self.0.get()?.get(at)?.load_full()
    }

    /// Keeps the tarball of the entry at `at`, of an index of `entries`.
    pub(super) fn set(&self, at: usize, entries: usize, stored: &Arc<StoredTarball>) {
        let places = self.0.get_or_init(|| (0..entries).map(|_| ArcSwapOption::empty()).collect());
        if let Some(place) = places.get(at) {
            place.store(Some(Arc::clone(stored)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tarball_is_found_by_the_place_of_its_entry() {
        let tarballs = StoredTarballs::default();
        assert!(tarballs.get(0).is_none());
        let digests = Integrity::single(Digest::of(Algorithm::Sha512, b"x"));
        let stored = Arc::new(StoredTarball::new(digests, 1, false).unwrap());
        tarballs.set(1, 2, &stored);
        tarballs.set(7, 2, &stored);
        assert!(tarballs.get(0).is_none() && tarballs.get(7).is_none());
        assert!(!tarballs.get(1).unwrap().is_public());
        stored.make_public();
        assert!(tarballs.get(1).unwrap().is_public());
        assert!(StoredTarball::new(Integrity::single(Digest::of(Algorithm::Sha1, b"x")), 1, true).is_none());
    }
}
