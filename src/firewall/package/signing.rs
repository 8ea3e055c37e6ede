//! Verifies the registry's signatures of a package's releases. Only of those that are judged or served: a packument may have
//! thousands, and verifying one takes 60 µs.

use std::cell::OnceCell;

use crate::firewall::package::PackageSnapshot;
use crate::npm::Packument;
use crate::npm::packument::index::VersionEntry;
use crate::vetting::signatures::{KeyRing, SignatureStatus, SignedRelease};
use crate::vetting::{Finding, FindingEvidence};

/// The most releases whose signatures are verified before a client asks for one of them: the newest ones. Takes a millisecond.
const MAX_AHEAD: usize = 16;

/// How many older releases must be alike before a false or missing signature is compared with theirs.
const MIN_PRECEDENTS: usize = 3;

/// Verifies signatures of the releases of one document.
pub(crate) struct SignatureVerifier<'a> {
    package: &'a PackageSnapshot,
    packument: &'a Packument,
    ring: &'a KeyRing,
    /// The newest releases that an attacker cannot have published this week, with their results; verified on first use.
    precedents: OnceCell<Vec<(usize, SignatureStatus)>>,
}

impl<'a> SignatureVerifier<'a> {
    pub(crate) fn new(package: &'a PackageSnapshot, packument: &'a Packument, ring: &'a KeyRing) -> Self {
        Self { package, packument, ring, precedents: OnceCell::new() }
    }

    /// Verifies the signature of the entry at `at`.
    ///
    /// If older releases are signed as falsely, the upstream states other digests than the registry signed, as mirrors do that pack
    /// tarballs again. That shows as little as no signatures, and an attacker could remove them instead.
    pub(crate) fn verify(&self, at: usize) -> SignatureStatus {
        match self.verify_alone(at) {
            SignatureStatus::False { key_id } if self.precedents_are(at, |status| status.as_str() == "false") => {
                SignatureStatus::Rewritten { key_id }
            }
            SignatureStatus::Unsigned if self.packument.signatures.is_empty() => SignatureStatus::NoneStated,
            status => status,
        }
    }

    /// Returns an older release, if the registry signed it and others of that time.
    pub(crate) fn signed_precedent(&self) -> Option<&'a str> {
        let is_signed = self.precedents_are(usize::MAX, |status| matches!(status, SignatureStatus::Valid { .. }));
        let (at, _) = self.precedents().first().filter(|_| is_signed)?;
        Some(&self.packument.entries.get(*at)?.key)
    }

    fn verify_alone(&self, at: usize) -> SignatureStatus {
        let Some(entry) = self.packument.entries.get(at) else { return SignatureStatus::Unsigned };
        // A version without a digest is hidden.
        let Some(integrity) = &entry.integrity else { return SignatureStatus::Unusable };
        let release = SignedRelease {
            name: &self.packument.name,
            version: &entry.key,
            integrity: integrity.strongest(),
            published: entry.published,
        };
        self.ring.verify(release, self.packument.signatures.of(at))
    }

    /// Checks whether there are enough precedents besides the entry at `at`, all of this kind.
    fn precedents_are(&self, at: usize, is: impl Fn(&SignatureStatus) -> bool) -> bool {
        let others = self.precedents().iter().filter(|(other, _)| *other != at).take(MIN_PRECEDENTS);
        others.clone().count() == MIN_PRECEDENTS && others.into_iter().all(|(_, status)| is(status))
    }

    fn precedents(&self) -> &[(usize, SignatureStatus)] {
        self.precedents.get_or_init(|| {
            let is_consistent = |_, entry: &VersionEntry| entry.inconsistency.is_none();
            let newest = self.package.newest_baseline(self.packument, MIN_PRECEDENTS + 1, is_consistent);
            newest.into_iter().map(|at| (at, self.verify_alone(at))).collect()
        })
    }

    /// Returns a finding for each of `candidates` whose signature is false. Of more than a few, the newest ones are verified.
    /// `asked` are verified too.
    pub(crate) fn false_signatures(&self, mut candidates: Vec<usize>, asked: &[Box<str>]) -> Vec<(usize, FindingEvidence)> {
        let published = |at: &usize| self.package.provenance.get(*at).map(|history| history.effective);
        candidates.sort_unstable_by_key(|at| std::cmp::Reverse(published(at)));
        candidates.truncate(MAX_AHEAD);
        candidates.extend(asked.iter().filter_map(|version| Some(self.packument.find(version)?.0)));
        candidates.sort_unstable();
        candidates.dedup();
        candidates.into_iter().filter_map(|at| Some((at, evidence(&self.verify(at))?))).collect()
    }
}

/// Returns the finding of a false signature.
pub(crate) fn evidence(status: &SignatureStatus) -> Option<FindingEvidence> {
    let SignatureStatus::False { key_id } = status else { return None };
    let detail = format!("the key {key_id} did not sign this name, version and integrity");
    Some(FindingEvidence { finding: Finding::FalseSignature, detail })
}
