//! Finds tarballs that clients received although a feed lists one of their files: it may list it only later, and old releases are
//! served unopened. Runs in the background. What was served within 30 days and is still in the store is read once, one tarball at
//! a time.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Mutex;

use crate::firewall::error::Result;
use crate::firewall::packages::Services;
use crate::firewall::tarballs::download::open_blob;
use crate::npm::{Algorithm, Digest, PackageName};
use crate::policy::Advisories;
use crate::policy::advisories::DigestHead;
use crate::store::{InspectedTarball, PackageChange, Release, ServedTarball, StoreError};
use crate::units::timestamp;
use crate::vetting::archive::{self, ArchiveLimits};
use crate::vetting::inspect::{INSPECTION_VERSION, inspect};
use crate::vetting::{Finding, FindingEvidence};

/// How long ago a tarball may have been served.
const SERVED_WITHIN: Duration = Duration::from_secs(30 * 24 * 3600);

/// The most tarballs that are read, the last served ones. An application has about a thousand.
const MAX_TARBALLS: usize = 2_000;

/// The most digests of files that are kept in memory, at 8 bytes each. 2,000 tarballs have about 100,000 files.
const MAX_KEPT_FILES: usize = 1_000_000;

/// Whose turn it is when cores are scarce: that of commands on this machine.
const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub(crate) struct ServedFiles {
    services: Arc<Services>,
    /// Locked during a scan, so that only one runs.
    known: Mutex<KnownFiles>,
}

/// The files of tarballs that were read.
#[derive(Default)]
struct KnownFiles(HashMap<Digest, FileHeads>);

/// The first bytes of the digests of a tarball's files.
struct FileHeads {
    /// `None` if there are too many to keep.
    heads: Option<Box<[DigestHead]>>,
    /// Whether those of their SHA-1 are among them.
    has_sha1: bool,
    /// The listed files that they were compared with.
    compared_with: u64,
}

impl ServedFiles {
    pub(crate) fn new(services: &Arc<Services>) -> Self {
        Self { services: Arc::clone(services), known: Mutex::default() }
    }

    /// Records a finding for each tarball that was served and has a file that a feed lists, unless that was done for the files that
    /// feeds list now. Returns whether it recorded one.
    pub(crate) async fn scan(&self) -> Result<bool> {
        let policy_snapshot = self.services.policy.snapshot();
        let advisories = &policy_snapshot.advisories;
        if advisories.files_revision() == 0 {
            return Ok(false);
        }
        let mut known = self.known.lock().await;
        let since = timestamp::saturating_sub(self.services.policy.now(), SERVED_WITHIN);
        let ledger = Arc::clone(&self.services.ledger);
        let served = self.services.workers.run(move || ledger.served_tarballs(since, MAX_TARBALLS)).await?;
        let served = served.unwrap_or_else(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "ledger read failed");
            Vec::new()
        });
        let wanted: HashSet<&Digest> = served.iter().map(|served| &served.sha512).collect();
        known.0.retain(|sha512, _| wanted.contains(sha512));
        let mut has_found = false;
        for sha512 in wanted {
            if self.has_new_listed_file(sha512, advisories, &mut known).await?
                && let Some(tarball) = open_blob(&*self.services.blobs, sha512).await
            {
                let evidence = self.find_listed_files(tarball, advisories).await?;
                has_found |= !evidence.is_empty();
                let received = served.iter().filter(|served| served.sha512 == *sha512);
                for ServedTarball { name, version, .. } in received.filter(|_| !evidence.is_empty()) {
                    self.record(name, version, sha512, &evidence).await?;
                }
            }
        }
        Ok(has_found)
    }

    /// Compares the files of a tarball with the listed ones, unless that was done. Reads the tarball if its files are not known. One
    /// that is not in the store has none.
    async fn has_new_listed_file(&self, sha512: &Digest, advisories: &Advisories, known: &mut KnownFiles) -> Result<bool> {
        let (revision, has_sha1) = (advisories.files_revision(), advisories.lists_sha1_of_files());
        let is_listed = |heads: &[DigestHead]| heads.iter().any(|head| advisories.may_list_file(*head));
        if let Some(files) = known.0.get_mut(sha512) {
            if files.compared_with == revision {
                return Ok(false);
            }
            if let Some(heads) = files.heads.as_deref().filter(|_| files.has_sha1 || !has_sha1) {
                files.compared_with = revision;
                return Ok(is_listed(heads));
            }
        }
        let Some(tarball) = open_blob(&*self.services.blobs, sha512).await else { return Ok(false) };
        let limits = ArchiveLimits { file_bytes: 0, ..self.limits(advisories) };
        let heads = self.run(move || read_heads(&tarball, limits)).await?;
        let found = is_listed(&heads);
        known.0.remove(sha512);
        let kept: usize = known.0.values().filter_map(|files| files.heads.as_ref()).map(|heads| heads.len()).sum();
        let heads = (kept + heads.len() <= MAX_KEPT_FILES).then_some(heads);
        known.0.insert(sha512.clone(), FileHeads { heads, has_sha1, compared_with: revision });
        Ok(found)
    }

    /// Opens a tarball. Returns the findings about files that feeds list.
    async fn find_listed_files(&self, tarball: Bytes, advisories: &Advisories) -> Result<Vec<FindingEvidence>> {
        let (limits, advisories) = (self.limits(advisories), advisories.clone());
        let open = move || {
            let mut inspection = inspect(&tarball, limits);
            inspection.compare_files(|digest| {
                let advisory = advisories.listing_file(digest).next()?;
                Some(format!("{} of the feed `{}`", advisory.id, advisory.feed))
            });
            let is_listed = |evidence: &FindingEvidence| evidence.finding == Finding::AdvisedFile;
            inspection.evidence.into_iter().filter(is_listed).collect()
        };
        self.run(open).await
    }

    /// Adds findings to those that are known of a version, in every view that has it with these bytes.
    async fn record(&self, name: &PackageName, version: &str, sha512: &Digest, evidence: &[FindingEvidence]) -> Result<()> {
        let (services, found) = (Arc::clone(&self.services), evidence.to_vec());
        let (of, version, sha512) = (name.clone(), Box::<str>::from(version), sha512.clone());
        let record = move || -> Result<(), StoreError> {
            for key in services.ledger.package_keys(&of)? {
                let known = services.ledger.package(&key)?;
                let has_bytes = |release: &Release| {
                    release.version == version
                        && release.known_digests().is_some_and(|digests| digests.digest(Algorithm::Sha512) == Some(&sha512))
                };
                if !known.releases.iter().any(has_bytes) {
                    continue;
                }
                let is_same = |inspected: &&InspectedTarball| inspected.version == version && inspected.sha512 == sha512;
                let before = known.inspections.iter().find(is_same);
                let others = before.into_iter().flat_map(|inspected| &inspected.evidence);
                let others = others.filter(|evidence| evidence.finding != Finding::AdvisedFile).cloned();
                let inspected = InspectedTarball {
                    version: version.clone(),
                    sha512: sha512.clone(),
                    code: before.map_or(INSPECTION_VERSION, |inspected| inspected.code),
                    // It was not compared with its packument, so a young release is opened again.
                    manifest: None,
                    evidence: others.chain(found.iter().cloned()).collect(),
                };
                services
                    .recorder
                    .package_change(&key, &PackageChange { inspections: vec![inspected], ..PackageChange::default() });
            }
            Ok(())
        };
        match self.services.workers.run(record).await? {
            // The record is read again with the next request.
            Ok(()) => self.services.cache.forget(name),
            Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "ledger read failed"),
        }
        Ok(())
    }

    fn limits(&self, advisories: &Advisories) -> ArchiveLimits {
        let memory = self.services.config.limits.vetting_memory;
        ArchiveLimits { has_sha1: advisories.lists_sha1_of_files(), ..ArchiveLimits::of_memory(memory) }
    }

    /// Runs work on a tarball when a core is free.
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let permit = self.services.workers.heavy.acquire(LOCALHOST).await;
        let run = move || {
            let done = work();
            drop(permit);
            done
        };
        self.services.workers.run(run).await
    }
}

/// Returns the first bytes of the digests of a tarball's files.
fn read_heads(tarball: &[u8], limits: ArchiveLimits) -> Box<[DigestHead]> {
    let mut heads: Vec<DigestHead> = Vec::new();
    archive::read(tarball, limits, &mut |file| {
        heads.extend(file.digest.first_chunk());
        heads.extend(file.sha1.iter().filter_map(|sha1| sha1.first_chunk()));
    });
    heads.sort_unstable();
    heads.dedup();
    heads.into()
}
