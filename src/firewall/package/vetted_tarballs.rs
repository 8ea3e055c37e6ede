//! What opening the tarballs of a package showed. Shared by all snapshots of one document.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::npm::packument::index::VersionEntry;
use crate::npm::{Algorithm, Digest, Integrity, Packument};
use crate::store::{InspectedTarball, VerifiedProvenance};
use crate::vetting::Finding;
use crate::vetting::inspect::INSPECTION_VERSION;
use crate::vetting::provenance::PROVENANCE_VERSION;

/// The most versions of a document whose false signatures are kept, and whose listed digests.
const MAX_FALSE_SIGNATURES: usize = 64;
const MAX_LISTED: usize = 64;

/// The inspections known at one time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Vetted {
    /// Increases with each change.
    pub revision: u64,
    pub tarballs: Vec<Arc<InspectedTarball>>,
    /// Versions whose registry signature was false when a client asked for the tarball.
    pub false_signatures: Vec<Box<str>>,
    /// What the provenance of versions shows, as far as it was verified.
    pub provenance: Vec<Arc<VerifiedProvenance>>,
    /// All digests of tarballs, by version, if a feed lists one of them that the document does not state.
    pub listed: Vec<(Box<str>, Integrity)>,
}

impl Vetted {
    /// Returns the inspection of a tarball of `version`.
    fn find(&self, version: &str, sha512: &Digest) -> Option<&Arc<InspectedTarball>> {
        self.tarballs.iter().find(|known| *known.version == *version && known.sha512 == *sha512)
    }

    /// Returns the digests of a tarball of `version`, if a feed lists one that the document does not state.
    pub(crate) fn listed_digests(&self, version: &str) -> Option<&Integrity> {
        self.listed.iter().find(|(known, _)| **known == *version).map(|(_, digests)| digests)
    }

    /// Returns the results for the bytes that the document states now, by position.
    pub(crate) fn current_provenance<'a>(
        &'a self,
        packument: &'a Packument,
    ) -> impl Iterator<Item = (usize, &'a VerifiedProvenance)> {
        self.provenance.iter().filter_map(|known| {
            let (at, entry) = packument.find(&known.version)?;
            let sha512 = entry.integrity.as_ref()?.digest(Algorithm::Sha512)?;
            (*sha512 == known.sha512 && known.code == PROVENANCE_VERSION).then_some((at, &**known))
        })
    }

    /// Returns what the provenance of an entry shows, for the bytes that it states now.
    pub(crate) fn provenance_of(&self, entry: &VersionEntry) -> Option<&VerifiedProvenance> {
        let sha512 = entry.integrity.as_ref()?.digest(Algorithm::Sha512)?;
        let is_current = |known: &&Arc<VerifiedProvenance>| {
            known.version == entry.key && known.sha512 == *sha512 && known.code == PROVENANCE_VERSION
        };
        self.provenance.iter().find(is_current).map(|known| &**known)
    }
}

#[derive(Debug, Default)]
pub(crate) struct VettedTarballs(ArcSwap<Vetted>);

impl VettedTarballs {
    pub(crate) fn new(known: &[InspectedTarball], verified: &[VerifiedProvenance]) -> Self {
        let tarballs = known.iter().cloned().map(Arc::new).collect();
        let provenance = verified.iter().cloned().map(Arc::new).collect();
        Self(ArcSwap::from_pointee(Vetted { tarballs, provenance, ..Vetted::default() }))
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
            Vetted {
                revision: known.revision + 1,
                tarballs: others.chain([Arc::clone(&inspected)]).collect(),
                ..Vetted::clone(known)
            }
        });
    }

    /// Replaces earlier results for the same bytes.
    pub(crate) fn add_provenance(&self, verified: &[VerifiedProvenance]) {
        let verified: Vec<_> = verified.iter().cloned().map(Arc::new).collect();
        self.0.rcu(|known| {
            let is_other = |other: &&Arc<VerifiedProvenance>| {
                !verified.iter().any(|new| (&new.version, &new.sha512) == (&other.version, &other.sha512))
            };
            let others = known.provenance.iter().filter(is_other).cloned();
            let provenance = others.chain(verified.iter().cloned()).collect();
            Vetted { revision: known.revision + 1, provenance, ..Vetted::clone(known) }
        });
    }

    /// Lets verdicts be made again, because something else that they depend on changed.
    pub(crate) fn renew(&self) {
        self.0.rcu(|known| Vetted { revision: known.revision + 1, ..Vetted::clone(known) });
    }

    /// Notes that the signature of a version is false, so that verdicts are made again.
    pub(crate) fn add_false_signature(&self, version: &str) {
        self.0.rcu(|known| {
            let mut noted = Vetted { revision: known.revision + 1, ..Vetted::clone(known) };
            noted.false_signatures.retain(|known| **known != *version);
            // One that is dropped is verified again when a client asks for it.
            noted.false_signatures.truncate(MAX_FALSE_SIGNATURES - 1);
            noted.false_signatures.insert(0, version.into());
            noted
        });
    }

    /// Checks whether findings of `version` are of another version of the code, or were compared with something else. A file that a
    /// feed lists is a finding of any version.
    pub(crate) fn is_outdated(&self, version: &str, compared: [u8; 32]) -> bool {
        let is_outdated = |known: &Arc<InspectedTarball>| {
            *known.version == *version
                && !known.evidence.is_empty()
                && known.evidence.iter().all(|evidence| evidence.finding != Finding::AdvisedFile)
                && (known.code != INSPECTION_VERSION || known.manifest != Some(compared))
        };
        self.0.load().tarballs.iter().any(is_outdated)
    }

    /// Notes the digests of a tarball because a feed lists one of them, so that verdicts are made again.
    pub(crate) fn add_listed(&self, version: &str, digests: &Integrity) {
        if self.0.load().listed_digests(version) == Some(digests) {
            return;
        }
        self.0.rcu(|known| {
            let mut noted = Vetted { revision: known.revision + 1, ..Vetted::clone(known) };
            noted.listed.retain(|(known, _)| **known != *version);
            // One that is dropped is noted again when a client asks for it.
            noted.listed.truncate(MAX_LISTED - 1);
            noted.listed.insert(0, (version.into(), digests.clone()));
            noted
        });
    }

    /// Returns the inspection of a tarball by this version of the code that compared it with `compared`.
    pub(crate) fn current(&self, version: &str, sha512: &Digest, compared: [u8; 32]) -> Option<Arc<InspectedTarball>> {
        let is_current = |known: &&Arc<InspectedTarball>| known.code == INSPECTION_VERSION && known.manifest == Some(compared);
        self.0.load().find(version, sha512).filter(is_current).cloned()
    }
}

/// Returns a digest of what an inspection compares a tarball with: the entry's manifest, the tarball of the predecessor, and
/// `revision`, which stands for the rest.
pub(crate) fn compared_with(entry: &VersionEntry, predecessor: Option<&VersionEntry>, revision: u64) -> [u8; 32] {
    let scripts = entry.install_scripts.unwrap_or_default();
    let (earlier, bytes) = match predecessor {
        Some(earlier) => (&*earlier.key, earlier.integrity.as_ref().map(|stated| stated.strongest().as_bytes())),
        None => ("", None),
    };
    let stated = [
        &entry.resolution[..],
        &scripts,
        &[u8::from(entry.traits.install_script), u8::from(entry.outline.has_gyp)],
        earlier.as_bytes(),
        bytes.unwrap_or_default(),
        &revision.to_le_bytes(),
    ];
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
        let vetted = VettedTarballs::new(&[inspected("1.0.0", b"a"), inspected("1.0.0", b"b")], &[]);
        assert_eq!((vetted.revision(), vetted.load().tarballs.len()), (0, 2));
        vetted.add(InspectedTarball { manifest: Some([7; 32]), ..inspected("1.0.0", b"b") });
        let known = vetted.load();
        assert_eq!((known.revision, known.tarballs.len()), (1, 2));
        let found = known.find("1.0.0", &Digest::of(Algorithm::Sha512, b"b")).unwrap();
        assert_eq!(found.manifest, Some([7; 32]));
        assert!(known.find("1.0.1", &Digest::of(Algorithm::Sha512, b"b")).is_none());
    }

    #[test]
    fn findings_of_other_code_or_another_comparison_are_outdated() {
        let evidence = |finding| vec![crate::vetting::FindingEvidence { finding, detail: String::new() }];
        let with =
            |finding| InspectedTarball { manifest: Some([7; 32]), evidence: evidence(finding), ..inspected("1.0.0", b"a") };
        let is_outdated = |known: InspectedTarball| VettedTarballs::new(&[known], &[]).is_outdated("1.0.0", [7; 32]);
        assert!(!is_outdated(with(Finding::ArchiveBomb)) && !is_outdated(inspected("1.0.0", b"a")));
        assert!(is_outdated(InspectedTarball { code: 0, ..with(Finding::ArchiveBomb) }));
        assert!(is_outdated(InspectedTarball { manifest: Some([8; 32]), ..with(Finding::ArchiveBomb) }));
        assert!(!is_outdated(InspectedTarball { manifest: None, ..with(Finding::AdvisedFile) }));
    }

    #[test]
    fn listed_digests_are_noted_once_and_bounded() {
        let (vetted, digests) = (VettedTarballs::default(), Integrity::single(Digest::of(Algorithm::Sha256, b"a")));
        vetted.add_listed("1.0.0", &digests);
        vetted.add_listed("1.0.0", &digests);
        assert_eq!((vetted.revision(), vetted.load().listed_digests("1.0.0")), (1, Some(&digests)));
        (0..2 * MAX_LISTED).for_each(|patch| vetted.add_listed(&format!("2.0.{patch}"), &digests));
        let known = vetted.load();
        assert!(known.listed.len() == MAX_LISTED && known.listed_digests("1.0.0").is_none());
    }
}
