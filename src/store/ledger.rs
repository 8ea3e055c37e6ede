//! The ledger: the durable record of what was seen upstream and of what was served and refused.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use jiff::Timestamp;

use crate::npm::{Digest, Integrity, ManifestDigest, PackageName, PackumentForm};
use crate::policy::decisions::Decision;
use crate::store::StoreError;

/// Which package of which registry: the same name on two registries is two packages.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PackageKey {
    /// The registry's address without credentials, ending in `/`.
    pub upstream: std::sync::Arc<str>,
    /// The package.
    pub name: PackageName,
}

impl PackageKey {
    /// The registry's address without the view: tarballs are recorded under it.
    #[must_use]
    pub fn registry(&self) -> &str {
        self.upstream.split_once('#').map_or(&*self.upstream, |(registry, _)| registry)
    }
}

/// One version as it was first seen, and when it was gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// The key in `versions`, as upstream wrote it.
    pub version: Box<str>,
    /// What its tarball hashed to when it was first seen; `None` when upstream said nothing usable.
    pub integrity: Option<Integrity>,
    /// The publish time upstream gave when it was first seen; `None` when missing or unparsable.
    pub published: Option<Timestamp>,
    /// The effective publish time, set once (DESIGN §4).
    pub effective: Timestamp,
    /// When it was first seen.
    pub first_seen: Timestamp,
    /// When it was last seen, if the newest packument no longer has it.
    pub gone: Option<Timestamp>,
    /// Whether it went because a security placeholder took its package's place.
    pub replaced: bool,
    /// Every digest that was ever stated or computed for these bytes, those of `integrity` included; only grows.
    pub digests: Option<Integrity>,
    /// What clients resolve by, as it was last seen; `None` until a packument with it was seen.
    pub manifest: Option<ManifestDigest>,
    /// When that last changed: the release counts from then at the earliest.
    pub manifest_changed: Option<Timestamp>,
    /// The last look that did not have it when it was first seen, by our clock; `None` where the package's first look had it.
    pub absent: Option<Timestamp>,
    /// The last look of another view that did not have it and could not be asked again: it counts from then at the earliest, until
    /// that view answers.
    pub held_since: Option<Timestamp>,
    /// Where its age counts from instead of `effective`: it returned, or its publish time became known later.
    pub moved: Option<Timestamp>,
    /// Whether a document without it was seen since it went, as opposed to a package that was not found.
    pub dropped: bool,
    /// Whether another view was asked about it and disagrees: this view has a history of its own of it.
    pub parted: bool,
    /// The first look that did not have it when it last went; kept when it returns. `None` where it never went.
    pub missing_since: Option<Timestamp>,
}

/// A tarball that a full download from `address` once yielded, with what its bytes hash to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TarballSource {
    /// The key in `versions`.
    pub version: Box<str>,
    /// The address that was asked, as the packument states it.
    pub address: Box<str>,
    /// The SHA-512 that names the blob, and every other digest that was computed of its bytes.
    pub digests: Integrity,
    /// The length of the bytes.
    pub length: u64,
    /// Whether the registry gave it to a request without credentials.
    pub public: bool,
}

/// Digests that were learned of a release: (`version`, `integrity`) names the row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LearnedDigests {
    /// The key in `versions`.
    pub version: Box<str>,
    /// The release's integrity as it was first seen.
    pub integrity: Option<Integrity>,
    /// What is known now: added to what the row has, as far as it does not contradict that.
    pub digests: Integrity,
}

/// A dist-tag and a version it was seen to point to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagSighting {
    /// The dist-tag.
    pub tag: Box<str>,
    /// The version it pointed to.
    pub version: Box<str>,
    /// When it was first seen to.
    pub first_seen: Timestamp,
    /// When it was last seen to.
    pub last_seen: Timestamp,
}

/// The newest packument of a package: where its raw bytes lie and how to ask upstream whether it changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPackument {
    /// When upstream was first asked for this package at all.
    pub first_seen: Timestamp,
    /// When upstream last confirmed these bytes, by the earlier of the two clocks.
    pub validated: Timestamp,
    /// When these bytes first came.
    pub changed: Timestamp,
    /// The last look, by our clock: when upstream was last asked and showed the package, or said that there is none.
    pub looked: Timestamp,
    /// When the package was modified, as its documents say: the latest that was seen, and never later than our clock then. An older
    /// copy says nothing.
    pub modified: Option<Timestamp>,
    /// SHA-256 of the decoded document: the raw blob's name. `None` when upstream said the package is not there.
    pub content: Option<[u8; 32]>,
    /// The length of the decoded document, in bytes.
    pub length: u64,
    /// Upstream's `ETag`, as it came.
    pub etag: Option<Box<str>>,
    /// Upstream's Last-Modified, as it came.
    pub last_modified: Option<Box<str>>,
    /// The form that upstream was asked for; `None` in ledgers that did not note it yet.
    pub form: Option<PackumentForm>,
}

/// Everything the ledger knows of one package.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PackageRecord {
    /// The newest packument; `None` when the package was never seen.
    pub document: Option<StoredPackument>,
    /// Every (version, integrity) ever seen, in the order of `first_seen`.
    pub releases: Vec<Release>,
    /// Where its dist-tags pointed, oldest first.
    pub tags: Vec<TagSighting>,
}

impl PackageRecord {
    /// Makes of this record what a ledger that holds it becomes by `change`.
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
                Some(&at) => self.releases[at].update(release),
                None => self.releases.push(release.clone()),
            }
        }
        for learned in &change.digests {
            let row = |row: &&mut Release| row.version == learned.version && row.integrity == learned.integrity;
            if let Some(release) = self.releases.iter_mut().find(row) {
                release.learn(&learned.digests);
            }
        }
        if !change.forgotten_tags.is_empty() {
            let name = |sighting: &TagSighting| (sighting.tag.clone(), sighting.version.clone(), sighting.first_seen);
            let forgotten: HashSet<_> = change.forgotten_tags.iter().map(name).collect();
            self.tags.retain(|sighting| !forgotten.contains(&name(sighting)));
        }
        let mut rows: HashMap<(Box<str>, Box<str>, Timestamp), usize> = HashMap::new();
        let row = |sighting: &TagSighting| (sighting.tag.clone(), sighting.version.clone(), sighting.first_seen);
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
}

impl Release {
    /// Takes over what may change of a row that exists.
    fn update(&mut self, newer: &Self) {
        (self.gone, self.replaced) = (newer.gone, newer.replaced);
        (self.manifest, self.manifest_changed) = (newer.manifest, newer.manifest_changed);
        (self.held_since, self.moved) = (newer.held_since, newer.moved);
        (self.dropped, self.parted, self.missing_since) = (newer.dropped, newer.parted, newer.missing_since);
    }

    /// The effective publish time as it is now: fixed at first sight, moved by a return, and no earlier than the look of another
    /// view that still holds it back.
    #[must_use]
    pub fn counts_from(&self) -> Timestamp {
        self.moved.unwrap_or(self.effective).max(self.held_since.unwrap_or(Timestamp::MIN))
    }

    /// Adds digests to those that are known of its bytes. Digests that contradict them are of other bytes and are not added.
    pub fn learn(&mut self, digests: &Integrity) {
        self.digests = match self.known_digests() {
            None => Some(digests.clone()),
            Some(known) => known.union(digests).or(Some(known)),
        };
    }

    /// Every digest that its bytes must match.
    #[must_use]
    pub fn known_digests(&self) -> Option<Integrity> {
        self.digests.clone().or_else(|| self.integrity.clone())
    }
}

impl PackageRecord {
    /// Adds the digests that `newer`, a record of the same package, has of the same releases.
    pub fn learn_from(&mut self, newer: &Self) {
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

/// What one validation of a packument changes. Written in one transaction.
#[derive(Debug, Clone, Default)]
pub struct PackageChange {
    /// The document as it now stands.
    pub document: Option<StoredPackument>,
    /// Releases that are new or changed; (version, integrity) names the row. Of a row that exists `gone`,
    /// `replaced`, `manifest`, `manifest_changed`, `held_since`, `moved`, `dropped`, `parted` and `missing_since` are written: the rest was
    /// set once.
    pub releases: Vec<Release>,
    /// Digests that were learned of releases. Applied after `releases`; a row that does not exist is passed over.
    pub digests: Vec<LearnedDigests>,
    /// Tarballs that were downloaded, or were found to be public.
    pub tarballs: Vec<TarballSource>,
    /// Sightings that are new, or whose `last_seen` moved; (tag, version, `first_seen`) names the row.
    pub tags: Vec<TagSighting>,
    /// Sightings that are forgotten, because there are too many. Applied before `tags`.
    pub forgotten_tags: Vec<TagSighting>,
}

/// What became of a request, as the ledger keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DownloadOutcome {
    /// Bytes went out.
    Served,
    /// Refused by a rule.
    Refused,
}

/// What kind of request it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DownloadKind {
    /// A tarball: `version` and `integrity` say which.
    Tarball,
    /// A packument or a manifest: `hidden` says what was kept back.
    Packument,
}

/// Who got what: one served or refused request. Equal ones within one batch are written as one row with a count.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DownloadEvent {
    /// Tarball or packument.
    pub kind: DownloadKind,
    /// The package.
    pub name: PackageName,
    /// The version, for a tarball or a manifest.
    pub version: Option<Box<str>>,
    /// The strongest digest, for a tarball whose version is known.
    pub integrity: Option<Digest>,
    /// Served or refused.
    pub outcome: DownloadOutcome,
    /// The rule that refused; of what was served, the first that warned or only observed.
    pub rule: Option<Box<str>>,
    /// Versions that the answer hid, shared with the remembered answer.
    pub hidden: std::sync::Arc<[Box<str>]>,
    /// The client's address.
    pub client: IpAddr,
    /// The client's name, if it logged in.
    pub user: Option<std::sync::Arc<str>>,
    /// The tool's name.
    pub tool: &'static str,
    /// The tool's version, as it says.
    pub tool_version: std::sync::Arc<str>,
}

/// Who asked for a version, summed over the ledger: one line a client and tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exposure {
    /// The client's address, as text.
    pub client: String,
    /// The tool's name.
    pub tool: String,
    /// The tool's version.
    pub tool_version: String,
    /// The version asked for.
    pub version: String,
    /// The digest of the bytes that went out, as SRI, where one was known.
    pub integrity: Option<String>,
    /// Served or refused.
    pub outcome: DownloadOutcome,
    /// The rule that refused.
    pub rule: Option<String>,
    /// How often.
    pub times: u64,
    /// The first time.
    pub first: Timestamp,
    /// The last time.
    pub last: Timestamp,
}

/// An event that an operator must be able to find again. Equal ones within one batch are written as one row with a count.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LedgerEvent {
    /// A stable word: `integrity_changed`, `integrity_mismatch`, `version_gone`, `metadata_stripped`, `clock_skew`, …
    pub kind: &'static str,
    /// The package, if it is about one.
    pub name: Option<PackageName>,
    /// The version, if it is about one.
    pub version: Option<Box<str>>,
    /// What happened, one line.
    pub detail: String,
}

/// The ledger as the firewall uses it.
pub trait Ledger: Send + Sync {
    /// Everything known of a package.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    fn package(&self, key: &PackageKey) -> Result<PackageRecord, StoreError>;

    /// Whether a packument or a release of a package was ever seen. Costs little, however many there are.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    fn was_seen(&self, key: &PackageKey) -> Result<bool, StoreError> {
        let record = self.package(key)?;
        Ok(record.document.is_some_and(|document| document.content.is_some()) || !record.releases.is_empty())
    }

    /// The tarballs of one version that were downloaded, with the addresses that yielded them, oldest first: whatever credentials
    /// they were asked with, since all views of a registry share them.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    fn tarballs(&self, key: &PackageKey, version: &str) -> Result<Vec<TarballSource>, StoreError>;

    /// Writes what one validation changed; durable against a kill of the process when it returns.
    ///
    /// # Errors
    /// When the ledger cannot be written; then nothing was.
    fn record_package(&self, key: &PackageKey, change: &PackageChange) -> Result<(), StoreError>;

    /// Records that a package that was never seen is not there, as `document` says. The number of such packages is bounded: those
    /// last looked for before `expired` are forgotten when it is reached. Returns whether it was recorded.
    ///
    /// # Errors
    /// When the ledger cannot be written; then nothing was.
    fn record_absence(&self, key: &PackageKey, document: &StoredPackument, expired: Timestamp) -> Result<bool, StoreError>;

    /// Notes who got what, off the request path: returns at once, written with the next batch.
    fn record_download(&self, download: DownloadEvent, at: Timestamp);

    /// Notes an event, off the request path.
    fn record_incident(&self, incident: LedgerEvent, at: Timestamp);

    /// Who asked for `name`, oldest first; `version` narrows it to one.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    fn exposure(&self, name: &PackageName, version: Option<&str>) -> Result<Vec<Exposure>, StoreError>;

    /// Every decision that was ever taken, oldest first, and the revision they make together.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    fn decisions(&self) -> Result<(u64, Vec<Decision>), StoreError>;

    /// Every package that was ever seen upstream or asked for.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    fn names(&self) -> Result<Vec<PackageName>, StoreError>;

    /// Every release ever seen of a package, of all registries.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    fn releases(&self, name: &PackageName) -> Result<Vec<Release>, StoreError>;

    /// Every tarball of a package that was downloaded, of all registries.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    fn downloaded(&self, name: &PackageName) -> Result<Vec<TarballSource>, StoreError>;

    /// Whether an event like this was written already, whenever that was.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    fn has_incident(&self, incident: &LedgerEvent) -> Result<bool, StoreError>;

    /// Writes everything noted so far. Blocks until it is on disk.
    fn flush(&self);
}
