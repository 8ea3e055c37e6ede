//! What opening the tarballs of a package showed. Shared by all snapshots of one document.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::npm::packument::index::VersionEntry;
use crate::npm::{Algorithm, Digest};
use crate::store::InspectedTarball;
use crate::vetting::inspect::INSPECTION_VERSION;

/// The inspections known at one time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Vetted {
    /// Increases with each change.
    pub revision: u64,
    pub tarballs: Vec<Arc<InspectedTarball>>,
}

impl Vetted {
    /// Returns the inspection of a tarball of `version`.
    fn find(&self, version: &str, sha512: &Digest) -> Option<&Arc<InspectedTarball>> {
        self.tarballs.iter().find(|known| *known.version == *version && known.sha512 == *sha512)
    }
}

#[derive(Debug, Default)]
pub(crate) struct VettedTarballs(ArcSwap<Vetted>);

impl VettedTarballs {
    pub(crate) fn new(known: &[InspectedTarball]) -> Self {
        let tarballs = known.iter().cloned().map(Arc::new).collect();
        Self(ArcSwap::from_pointee(Vetted { revision: 0, tarballs }))
    }

    pub(crate) fn load(&self) -> Arc<Vetted> {
        self.0.load_full()
    }

    pub(crate) fn revision(&self) -> u64 {
        self.0.load().revision
    }

    /// Replaces an earlier inspection of the same tarball.
    pub(crate) fn add(&self, inspected: InspectedTarball) {
        let inspected = Arc::new(inspected);
        self.0.rcu(|known| {
            let is_other =
                |other: &&Arc<InspectedTarball>| (&other.version, &other.sha512) != (&inspected.version, &inspected.sha512);
            let others = known.tarballs.iter().filter(is_other).cloned();
            Vetted { revision: known.revision + 1, tarballs: others.chain([Arc::clone(&inspected)]).collect() }
        });
    }

    /// Returns the inspection of a tarball by this version of the code that compared it with the entry's current manifest.
    pub(crate) fn current(&self, entry: &VersionEntry, sha512: &Digest) -> Option<Arc<InspectedTarball>> {
        let is_current =
            |known: &&Arc<InspectedTarball>| known.code == INSPECTION_VERSION && known.manifest == Some(manifest_of(entry));
        self.0.load().find(&entry.key, sha512).filter(is_current).cloned()
    }
}

/// Returns a digest of what an inspection compares of an entry's manifest.
pub(crate) fn manifest_of(entry: &VersionEntry) -> [u8; 32] {
    let scripts = entry.install_scripts.unwrap_or_default();
    let stated = [&entry.resolution[..], &scripts, &[u8::from(entry.traits.install_script), u8::from(entry.outline.has_gyp)]];
    Digest::of(Algorithm::Sha256, &stated.concat()).as_bytes().try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspected(version: &str, bytes: &[u8]) -> InspectedTarball {
        let sha512 = Digest::of(Algorithm::Sha512, bytes);
        InspectedTarball { version: version.into(), sha512, code: INSPECTION_VERSION, manifest: None, evidence: Vec::new() }
    }

    #[test]
    fn newer_inspection_replaces_the_one_of_the_same_bytes() {
        let vetted = VettedTarballs::new(&[inspected("1.0.0", b"a"), inspected("1.0.0", b"b")]);
        assert_eq!((vetted.revision(), vetted.load().tarballs.len()), (0, 2));
        vetted.add(InspectedTarball { manifest: Some([7; 32]), ..inspected("1.0.0", b"b") });
        let known = vetted.load();
        assert_eq!((known.revision, known.tarballs.len()), (1, 2));
        let found = known.find("1.0.0", &Digest::of(Algorithm::Sha512, b"b")).unwrap();
        assert_eq!(found.manifest, Some([7; 32]));
        assert!(known.find("1.0.1", &Digest::of(Algorithm::Sha512, b"b")).is_none());
    }
}
