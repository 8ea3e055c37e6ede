//! Tarballs that were downloaded completely, with their digests and whether they are public.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;

use crate::npm::{Address, Algorithm, Digest, Integrity, PackageName};
use crate::store::TarballSource;

/// A tarball that is or was in the store.
pub(crate) struct StoredTarball {
    /// The SHA-512 that names the blob.
    pub name: Digest,
    /// Every digest computed from the bytes.
    pub digests: Integrity,
    pub length: u64,
    /// The URL it came from.
    pub place: Place,
    public: AtomicBool,
}

/// What an entitlement covers: the URL folder of a package's tarballs, or a single tarball. The author of a packument can state
/// any URL of the registry, even that of another package's tarball.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The folder, or the URL of the single tarball.
    pub text: Arc<str>,
    /// Whether the path names the package, so that nothing else is below it.
    pub is_packages_own: bool,
}

impl Place {
    /// Returns the scope of a tarball of `name` at the stated `address`.
    pub(crate) fn of(name: &PackageName, address: &str) -> Self {
        // A query may select the response, regardless of the path.
        let stated = Address::of_stated(address).filter(|stated| stated.query.is_none());
        let is_packages_own = stated.and_then(|stated| stated.owner()).is_some_and(|(owner, _)| owner == *name);
        let folder = || ["/-/", "/download/"].iter().find_map(|mark| Some(&address[..address.rfind(mark)? + mark.len()]));
        Self { text: folder().filter(|_| is_packages_own).unwrap_or(address).into(), is_packages_own }
    }
}

impl StoredTarball {
    /// Creates a tarball with these digests; `None` if SHA-512 is not among them.
    pub(crate) fn new(digests: Integrity, length: u64, place: Place, public: bool) -> Option<Self> {
        let name = digests.digest(Algorithm::Sha512)?.clone();
        Some(Self { name, digests, length, place, public: AtomicBool::new(public) })
    }

    /// Creates a tarball of `package` from the ledger.
    pub(crate) fn recall(package: &PackageName, source: TarballSource) -> Option<Self> {
        Self::new(source.digests, source.length, Place::of(package, &source.address), source.public)
    }

    /// Checks whether its URL served it without credentials, so that all clients may read it.
    pub(crate) fn is_public(&self) -> bool {
        self.public.load(Ordering::Relaxed)
    }

    /// Records that its URL serves it without credentials.
    pub(crate) fn make_public(&self) {
        self.public.store(true, Ordering::Relaxed);
    }
}

/// The stored tarballs of one index, by entry. Each came from the URL that the entry states and matches its digests.
#[derive(Default)]
pub(crate) struct StoredTarballs(OnceLock<Box<[ArcSwapOption<StoredTarball>]>>);

impl StoredTarballs {
    /// Returns the tarball of the entry at `at`, if it was looked up. Does not lock.
    pub(crate) fn get(&self, at: usize) -> Option<Arc<StoredTarball>> {
        self.0.get()?.get(at)?.load_full()
    }

    /// Stores the tarball of the entry at `at`, in an index of `entries` entries.
    pub(crate) fn set(&self, at: usize, entries: usize, stored: &Arc<StoredTarball>) {
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
    fn stored_tarball_is_found_by_entry_index() {
        let tarballs = StoredTarballs::default();
        assert!(tarballs.get(0).is_none());
        let digests = Integrity::single(Digest::of(Algorithm::Sha512, b"x"));
        let place = || Place::of(&PackageName::parse("ui").unwrap(), "https://registry.example/ui/-/ui-1.0.0.tgz");
        let stored = Arc::new(StoredTarball::new(digests, 1, place(), false).unwrap());
        tarballs.set(1, 2, &stored);
        tarballs.set(7, 2, &stored);
        assert!(tarballs.get(0).is_none() && tarballs.get(7).is_none());
        assert!(!tarballs.get(1).unwrap().is_public());
        stored.make_public();
        assert!(tarballs.get(1).unwrap().is_public());
        assert!(StoredTarball::new(Integrity::single(Digest::of(Algorithm::Sha1, b"x")), 1, place(), true).is_none());
    }
    #[test]
    fn entitlement_covers_the_folder_only_if_the_url_names_the_package() {
        let place = |name: &str, address: &str| Place::of(&PackageName::parse(name).unwrap(), address);
        let digest = "0123456789abcdef0123456789abcdef01234567";
        for (name, address, folder) in [
            ("ui", "https://r.example/ui/-/ui-1.0.0.tgz".to_owned(), "https://r.example/ui/-/"),
            ("@acme/ui", "https://r.example/npm/@acme/ui/-/@acme/ui-1.0.0.tgz".to_owned(), "https://r.example/npm/@acme/ui/-/"),
            ("@acme/ui", "https://r.example/@acme%2fui/-/ui-1.0.0.tgz".to_owned(), "https://r.example/@acme%2fui/-/"),
            ("@acme/ui", format!("https://r.example/download/@acme/ui/1.0.0/{digest}"), "https://r.example/download/"),
        ] {
            let place = place(name, &address);
            assert!(place.is_packages_own && *place.text == *folder, "{place:?}");
        }
        for address in [
            "https://r.example/@acme/secret/-/secret-1.0.0.tgz",
            "https://r.example/ui/-/ui-1.0.0.tgz?of=@acme/secret",
            "https://r.example/files/ui-1.0.0.tgz",
            "https://r.example/ui/..%2f@acme/secret/-/ui/-/ui-1.0.0.tgz",
            "ui/-/ui-1.0.0.tgz",
        ] {
            let place = place("ui", address);
            assert!(!place.is_packages_own && *place.text == *address, "{place:?}");
        }
    }
}
