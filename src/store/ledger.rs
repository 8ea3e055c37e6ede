//! The ledger: the durable record of what upstream published and of what was served and refused.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use crate::npm::{Algorithm, Digest, Integrity, ManifestDigest, PackageName, PackumentForm};
use crate::policy::decisions::Decision;
use crate::store::error::StoreError;
use crate::text::words;
use crate::vetting::FindingEvidence;
use crate::vetting::compare::SignalEvidence;
use crate::vetting::provenance::ProvenanceStatus;

/// A package of a registry. The same name on two registries is two packages.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PackageKey {
    /// The registry's address without credentials, ending in `/`.
    pub upstream: Arc<str>,
    pub name: PackageName,
}

impl PackageKey {
    /// Returns the registry's address without the view. Tarballs are recorded under it.
    pub fn registry(&self) -> &str {
        self.upstream.split_once('#').map_or(&*self.upstream, |(registry, _)| registry)
    }
}

/// A (version, integrity) pair as first seen, with its later history.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Release {
    /// The key in `versions`, as upstream wrote it.
    pub version: Box<str>,
    /// The integrity of its tarball when first seen; `None` if upstream stated none that is usable.
    pub integrity: Option<Integrity>,
    /// The publish time that upstream stated when it was first seen; `None` if missing or invalid.
    pub published: Option<Timestamp>,
    /// The effective publish time, set once (ARCHITECTURE.md, Semantics 4).
    pub effective: Timestamp,
    pub first_seen: Timestamp,
    /// All digests ever stated or computed for these bytes, including `integrity`. Digests are only added.
    pub digests: Option<Integrity>,
    /// The last lookup without it before `first_seen`, by the local clock; `None` if the package's first lookup contained it.
    pub absent: Option<Timestamp>,
    pub state: ReleaseState,
}

/// What later lookups change of a [`Release`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReleaseState {
    /// When it was last seen, if the newest packument no longer contains it.
    pub gone: Option<Timestamp>,
    /// Whether it disappeared because a security placeholder replaced the package.
    pub replaced: bool,
    /// Digest of the manifest fields that clients resolve by, as last seen; `None` before the first such packument.
    pub manifest: Option<ManifestDigest>,
    /// When `manifest` last changed. The age counts from then at the earliest.
    pub manifest_changed: Option<Timestamp>,
    /// The last lookup by another view without it, if not asked again since. Until it answers, the age counts from then or later.
    pub held_since: Option<Timestamp>,
    /// Start of its age instead of `effective`: set when it returned or its publish time became known later.
    pub moved: Option<Timestamp>,
    /// Whether a document without it was seen since it disappeared, as opposed to a package that was not found.
    pub dropped: bool,
    /// Whether another view was asked about it and disagrees. This view then keeps its own history of it.
    pub diverged: bool,
    /// The first lookup without it at its last disappearance. Kept when it returns; `None` if it never disappeared.
    pub missing_since: Option<Timestamp>,
}

/// A tarball that was downloaded in full from `address`, with its digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TarballSource {
    /// The key in `versions`.
    pub version: Box<str>,
    /// The tarball URL, as the packument states it.
    pub address: Box<str>,
    /// The SHA-512 that names the blob, and all other computed digests.
    pub digests: Integrity,
    pub length: u64,
    /// Whether the registry served it to a request without credentials.
    pub public: bool,
}

/// What opening a tarball showed, so that it is opened once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InspectedTarball {
    /// The key in `versions`.
    pub version: Box<str>,
    /// The SHA-512 of the tarball.
    pub sha512: Digest,
    /// The version of the code that opened it.
    pub code: u32,
    /// A digest of the packument's manifest that it was compared with; `None` if there was none.
    pub manifest: Option<[u8; 32]>,
    pub evidence: Vec<FindingEvidence>,
}

/// What the provenance of a version shows, so that it is fetched once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedProvenance {
    /// The key in `versions`.
    pub version: Box<str>,
    /// The SHA-512 that the packument stated.
    pub sha512: Digest,
    /// The version of the code that verified it.
    pub code: u32,
    pub status: ProvenanceStatus,
}

/// The signals of a young release, as they were when its package was compared last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedSignals {
    /// The key in `versions`.
    pub version: Box<str>,
    /// The version of the code that compared it.
    pub code: u32,
    /// A digest of its manifest in the packument.
    pub manifest: [u8; 32],
    /// When they were recorded.
    pub recorded: Timestamp,
    pub evidence: Vec<SignalEvidence>,
}

/// New digests of the release that (`version`, `integrity`) identifies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LearnedDigests {
    pub version: Box<str>,
    pub integrity: Option<Integrity>,
    /// Added to the row unless they contradict those it has.
    pub digests: Integrity,
}

/// A dist-tag and a version it pointed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagSighting {
    pub tag: Box<str>,
    pub version: Box<str>,
    /// When the tag was first seen pointing to the version.
    pub first_seen: Timestamp,
    pub last_seen: Timestamp,
}

/// The newest packument of a package: the digest of its raw bytes and the validators for revalidation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoredPackument {
    /// When upstream was first asked for this package.
    pub first_seen: Timestamp,
    /// When upstream last confirmed these bytes, by the earlier of the two clocks.
    pub validated: Timestamp,
    /// When these bytes were first received.
    pub changed: Timestamp,
    /// The last lookup, by the local clock, that returned the package or that it does not exist.
    pub looked: Timestamp,
    /// The latest modification time that its documents stated, capped at the local clock. Older copies do not lower it.
    pub modified: Option<Timestamp>,
    /// SHA-256 of the decoded document, which names the raw blob. `None` if upstream answered that the package does not exist.
    pub content: Option<[u8; 32]>,
    /// Of the decoded document, in bytes.
    pub length: u64,
    pub etag: Option<Box<str>>,
    pub last_modified: Option<Box<str>>,
    /// The form that upstream was asked for; `None` if an older version wrote the row.
    pub form: Option<PackumentForm>,
}

impl StoredPackument {
    /// Returns the digest that names the raw blob.
    pub(crate) fn digest(&self) -> Option<Digest> {
        Digest::from_bytes(Algorithm::Sha256, &self.content?)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PackageRecord {
    /// The newest packument; `None` if upstream was never asked.
    pub document: Option<StoredPackument>,
    /// All (version, integrity) pairs ever seen, ordered by `first_seen`.
    pub releases: Vec<Release>,
    /// Past and present targets of its dist-tags, oldest first.
    pub tags: Vec<TagSighting>,
    /// The newest inspection of each tarball that was opened, by version and SHA-512.
    pub inspections: Vec<InspectedTarball>,
    /// The newest result of each provenance that was verified, by version and SHA-512.
    pub provenance: Vec<VerifiedProvenance>,
    /// The signals of its releases, by version.
    pub signals: Vec<RecordedSignals>,
}

impl PackageRecord {
    /// Applies `change` to this record, with the same result as a write to the ledger.
    pub fn apply(&mut self, change: &PackageChange) {
        if change.document.is_some() {
            self.document.clone_from(&change.document);
        }
        let mut rows: HashMap<Box<str>, Vec<usize>> = HashMap::with_capacity(self.releases.len());
        for (at, row) in self.releases.iter().enumerate().filter(|_| !change.releases.is_empty()) {
            rows.entry(row.version.clone()).or_default().push(at);
        }
        for release in &change.releases {
            let known =
                rows.get(&release.version).into_iter().flatten().find(|at| self.releases[**at].integrity == release.integrity);
            match known {
                Some(&at) => self.releases[at].state = release.state,
                None => self.releases.push(release.clone()),
            }
        }
        for learned in &change.digests {
            let row = |row: &&mut Release| row.version == learned.version && row.integrity == learned.integrity;
            if let Some(release) = self.releases.iter_mut().find(row) {
                release.learn(&learned.digests);
            }
        }
        for inspected in &change.inspections {
            self.inspections.retain(|known| (&known.version, &known.sha512) != (&inspected.version, &inspected.sha512));
            self.inspections.push(inspected.clone());
        }
        for verified in &change.provenance {
            self.provenance.retain(|known| (&known.version, &known.sha512) != (&verified.version, &verified.sha512));
            self.provenance.push(verified.clone());
        }
        for recorded in &change.signals {
            self.signals.retain(|known| known.version != recorded.version);
            self.signals.push(recorded.clone());
        }
        let row = |sighting: &TagSighting| (sighting.tag.clone(), sighting.version.clone(), sighting.first_seen);
        if !change.forgotten_tags.is_empty() {
            let forgotten: HashSet<_> = change.forgotten_tags.iter().map(row).collect();
            self.tags.retain(|sighting| !forgotten.contains(&row(sighting)));
        }
        let mut rows = HashMap::new();
        if !change.tags.is_empty() {
            rows.extend(self.tags.iter().map(row).zip(0..));
        }
        for sighting in &change.tags {
            match rows.entry(row(sighting)) {
                Entry::Occupied(known) => self.tags[*known.get()].last_seen = sighting.last_seen,
                Entry::Vacant(new) => {
                    new.insert(self.tags.len());
                    self.tags.push(sighting.clone());
                }
            }
        }
    }

    /// Adds the digests of the same releases, the inspections, the provenance and the signals from `newer`, a record of the same package.
    pub fn learn_from(&mut self, newer: &Self) {
        for verified in &newer.provenance {
            if !self.provenance.iter().any(|known| (&known.version, &known.sha512) == (&verified.version, &verified.sha512)) {
                self.provenance.push(verified.clone());
            }
        }
        let is_known = |of: &InspectedTarball, known: &[InspectedTarball]| {
            known.iter().any(|known| (&known.version, &known.sha512) == (&of.version, &of.sha512))
        };
        let inspections = newer.inspections.iter().filter(|inspected| !is_known(inspected, &self.inspections)).cloned();
        let inspections: Vec<_> = inspections.collect();
        self.inspections.extend(inspections);
        let is_unknown = |of: &&RecordedSignals| !self.signals.iter().any(|known| known.version == of.version);
        let signals: Vec<_> = newer.signals.iter().filter(is_unknown).cloned().collect();
        self.signals.extend(signals);
        let grown = newer.releases.iter().filter(|release| release.digests.is_some());
        let grown: HashMap<_, _> = grown.map(|release| ((&release.version, &release.integrity), &release.digests)).collect();
        if grown.is_empty() {
            return;
        }
        for release in &mut self.releases {
            if let Some(Some(digests)) = grown.get(&(&release.version, &release.integrity)) {
                release.learn(digests);
            }
        }
    }
}

impl Release {
    /// Returns the time from which its age counts: `moved` or `effective`, but not before `held_since`.
    pub fn counts_from(&self) -> Timestamp {
        self.state.moved.unwrap_or(self.effective).max(self.state.held_since.unwrap_or(Timestamp::MIN))
    }

    /// Adds digests of its bytes. Digests that contradict known ones belong to other bytes and are not added.
    pub fn learn(&mut self, digests: &Integrity) {
        self.digests = match self.known_digests() {
            None => Some(digests.clone()),
            Some(known) => known.union(digests).or(Some(known)),
        };
    }

    /// Returns all digests that its bytes must match.
    pub fn known_digests(&self) -> Option<Integrity> {
        self.digests.clone().or_else(|| self.integrity.clone())
    }
}

/// The changes from one validation of a packument. Written in one transaction.
#[derive(Debug, Clone, Default)]
pub struct PackageChange {
    /// The current document, if it changed or was revalidated.
    pub document: Option<StoredPackument>,
    /// New or changed releases, identified by (version, integrity). Existing rows only get a new `state`; the rest is set once.
    pub releases: Vec<Release>,
    /// New digests of releases. Applied after `releases`; entries without a row are skipped.
    pub digests: Vec<LearnedDigests>,
    /// Tarballs that were downloaded or found to be public.
    pub tarballs: Vec<TarballSource>,
    /// Tarballs that were opened.
    pub inspections: Vec<InspectedTarball>,
    /// Provenance that was verified.
    pub provenance: Vec<VerifiedProvenance>,
    /// Signals of releases. They replace earlier ones of the same version.
    pub signals: Vec<RecordedSignals>,
    /// New sightings, or sightings with a new `last_seen`. (tag, version, `first_seen`) identifies the row.
    pub tags: Vec<TagSighting>,
    /// Sightings to delete because there are too many. Applied before `tags`.
    pub forgotten_tags: Vec<TagSighting>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DownloadOutcome {
    Served,
    Refused,
}

words! { DownloadOutcome { Served = "served", Refused = "refused", } }

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DownloadKind {
    /// A tarball, identified by `version` and `integrity`.
    Tarball,
    /// A packument or a manifest; `hidden` lists the hidden versions.
    Packument,
}

words! { DownloadKind { Tarball = "tarball", Packument = "packument", } }

/// One served or refused request. Equal events within a batch are written as one row with a count.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DownloadEvent {
    pub kind: DownloadKind,
    pub name: PackageName,
    /// The version, for a tarball or a manifest.
    pub version: Option<Box<str>>,
    /// The strongest digest, for a tarball whose version is known.
    pub integrity: Option<Digest>,
    pub outcome: DownloadOutcome,
    /// The rule that refused. If served, the first rule that warned or was not enforced.
    pub rule: Option<Box<str>>,
    pub client: IpAddr,
    pub user: Option<Arc<str>>,
    pub tool: &'static str,
    pub tool_version: Arc<str>,
    /// Versions hidden in the response, shared with the cached response.
    pub hidden: Arc<[Box<str>]>,
}

/// The requests of one client and tool for a version, summed over the ledger. `coldframe exposure --json` prints the fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Exposure {
    pub client: String,
    pub tool: String,
    pub tool_version: String,
    pub version: String,
    /// The digest of the bytes served, as SRI, if known.
    pub integrity: Option<String>,
    pub outcome: DownloadOutcome,
    pub rule: Option<String>,
    pub times: u64,
    pub first: Timestamp,
    pub last: Timestamp,
}

/// A tarball that clients received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedTarball {
    pub name: PackageName,
    pub version: Box<str>,
    /// The SHA-512 of the bytes.
    pub sha512: Digest,
}

/// An event that operators can query later. Equal events within a batch are written as one row with a count.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LedgerEvent {
    /// A stable identifier: `integrity_changed`, `integrity_mismatch`, `version_gone`, `metadata_stripped`, `clock_skew`, …
    pub kind: &'static str,
    pub name: Option<PackageName>,
    pub version: Option<Box<str>>,
    /// A description of one line.
    pub detail: String,
}

/// Queries fail if the ledger cannot be read. Changes fail if it cannot be written, and write nothing then.
#[expect(clippy::missing_errors_doc, reason = "the trait states the errors of all methods")]
pub trait Ledger: Send + Sync {
    fn package(&self, key: &PackageKey) -> Result<PackageRecord, StoreError>;

    /// Checks whether a packument or a release of a package was ever seen. The cost does not depend on the number of releases.
    fn was_seen(&self, key: &PackageKey) -> Result<bool, StoreError> {
        let record = self.package(key)?;
        Ok(record.document.is_some_and(|document| document.content.is_some()) || !record.releases.is_empty())
    }

    /// Returns the downloaded tarballs of one version, oldest first, of all views: the credentials of the download do not matter.
    fn tarballs(&self, key: &PackageKey, version: &str) -> Result<Vec<TarballSource>, StoreError>;

    /// Writes the changes from one validation. They survive a kill of the process once this returns.
    fn record_package(&self, key: &PackageKey, change: &PackageChange) -> Result<(), StoreError>;

    /// Returns the summary of a tarball that this version of the code made, for the comparison with a later release.
    fn tarball_summary(&self, sha512: &Digest, code: u32) -> Result<Option<Vec<u8>>, StoreError>;

    /// Keeps the summary of a tarball. Number and size are bounded: long ones are not kept, and the oldest
    /// ones are deleted.
    fn record_tarball_summary(&self, sha512: &Digest, code: u32, summary: &[u8]) -> Result<(), StoreError>;

    /// Records that a package does not exist upstream, if it was never seen. The number of such absences is bounded. At the
    /// limit, those last looked up before `expired` are deleted. Returns whether the absence was recorded.
    fn record_absence(&self, key: &PackageKey, document: &StoredPackument, expired: Timestamp) -> Result<bool, StoreError>;

    /// Queues a download for the next batch. Does not block.
    fn record_download(&self, download: DownloadEvent, at: Timestamp);

    /// Queues an event for the next batch. Does not block.
    fn record_event(&self, event: LedgerEvent, at: Timestamp);

    /// Returns the requests for tarballs of `name`, oldest first; only those of `version` if given.
    fn exposure(&self, name: &PackageName, version: Option<&str>) -> Result<Vec<Exposure>, StoreError>;

    /// Returns the revision of the decisions, and all decisions ever recorded, oldest first.
    fn decisions(&self) -> Result<(u64, Vec<Decision>), StoreError>;

    /// Returns the names of all packages ever seen upstream or requested.
    fn names(&self) -> Result<Vec<PackageName>, StoreError>;

    /// Returns all releases of a package ever seen, of all registries.
    fn releases(&self, name: &PackageName) -> Result<Vec<Release>, StoreError>;

    /// Returns all downloaded tarballs of a package, of all registries.
    fn downloaded(&self, name: &PackageName) -> Result<Vec<TarballSource>, StoreError>;

    /// Returns all downloaded tarballs whose digests `is_wanted` accepts, of all packages and registries. Reads every row.
    fn downloaded_with(&self, is_wanted: &dyn Fn(&Integrity) -> bool) -> Result<Vec<(PackageName, TarballSource)>, StoreError>;

    /// Returns the inspections that found a file which a feed lists, with their packages, of all registries and views.
    fn inspected_with_listed_files(&self) -> Result<Vec<(PackageKey, InspectedTarball)>, StoreError>;

    /// Returns the tarballs that clients received since `since`, the last one first, at most `limit`.
    fn served_tarballs(&self, since: Timestamp, limit: usize) -> Result<Vec<ServedTarball>, StoreError>;

    /// Returns the keys of a package: one per registry and view.
    fn package_keys(&self, name: &PackageName) -> Result<Vec<PackageKey>, StoreError>;

    /// Checks whether an equal event was ever written.
    fn has_event(&self, event: &LedgerEvent) -> Result<bool, StoreError>;

    /// Writes all queued rows. Blocks until one attempt is complete.
    fn flush(&self);
}
