//! The tarball of an earlier release that a young one is compared with: what the ledger keeps of it, else the tarball itself, from
//! the store or upstream. Without it, nothing is hidden.

use std::sync::Arc;
use std::time::Duration;

use crate::firewall::error::{FirewallError, Result};
use crate::firewall::package::signals::{self, ProfileView};
use crate::firewall::packages::Services;
use crate::firewall::request::Client;
use crate::firewall::tarballs::admission::AdmittedTarball;
use crate::firewall::tarballs::download::VerifiedTarball;
use crate::firewall::tarballs::provider::TarballProvider;
use crate::firewall::verdicts::cache::CachedPackage;
use crate::npm::packument::index::VersionEntry;
use crate::npm::{Algorithm, Digest, Integrity};
use crate::vetting::archive::ArchiveLimits;
use crate::vetting::contents::ContentSummary;
use crate::vetting::inspect::{ContentBaseline, INSPECTION_VERSION, Inspection, inspect};

/// How long a vetting waits for the predecessor's tarball. Clients wait for it too.
const MAX_WAIT: Duration = Duration::from_secs(20);

/// Larger predecessors are not downloaded for a comparison.
const MAX_UNPACKED_BYTES: u64 = 256 << 20;

/// What a tarball is compared with.
pub(super) enum Predecessor {
    /// The release is too old to be compared.
    NotNeeded,
    /// There is no release in the baseline.
    None,
    Known {
        at: usize,
        version: Box<str>,
        summary: Box<ContentSummary>,
    },
    Unavailable {
        at: usize,
        version: Box<str>,
        why: String,
    },
}

impl Predecessor {
    /// Returns its position in the packument.
    pub(super) fn at(&self) -> Option<usize> {
        match self {
            Self::NotNeeded | Self::None => None,
            Self::Known { at, .. } | Self::Unavailable { at, .. } => Some(*at),
        }
    }

    /// Checks whether a later attempt would show the same.
    pub(super) fn is_known(&self) -> bool {
        !matches!(self, Self::Unavailable { .. })
    }

    /// Adds the findings of the comparison.
    pub(super) fn compare(&self, inspection: &mut Inspection) {
        match self {
            Self::NotNeeded => {}
            Self::None => inspection.compare_contents(None),
            Self::Known { version, summary, .. } => inspection.compare_contents(Some((version, summary))),
            Self::Unavailable { version, why, .. } => {
                inspection.baseline = ContentBaseline::Unavailable(version.clone(), why.clone());
            }
        }
    }
}

/// Keeps what a later release is compared with. Blocks.
pub(super) fn keep(services: &Services, sha512: &Digest, summary: &ContentSummary) {
    let kept = services.ledger.record_tarball_summary(sha512, INSPECTION_VERSION, &summary.to_bytes());
    if let Err(error) = kept {
        // Without it, the tarball is opened once more.
        tracing::warn!(error = &error as &dyn std::error::Error, "tarball summary not kept");
    }
}

/// Reads the predecessor of one release.
pub(super) struct PredecessorReader<'a> {
    pub services: &'a Arc<Services>,
    pub provider: &'a TarballProvider,
    pub client: &'a Client,
    pub package: &'a Arc<CachedPackage>,
}

impl PredecessorReader<'_> {
    /// Returns the predecessor of the entry at `at`, if the entry is young.
    pub(super) async fn read(&self, at: usize) -> Result<Predecessor> {
        let (package, policy_snapshot) = (Arc::clone(self.package), self.services.policy.snapshot());
        let profile = self.client.profile;
        let find = move || package.signals(&policy_snapshot, profile).predecessors.get(&at).copied();
        match self.services.workers.run_over_versions(self.package, self.client.address, find).await? {
            None => Ok(Predecessor::NotNeeded),
            Some(earlier) => self.load(earlier).await,
        }
    }

    /// Returns the predecessor of an entry that is too old for rules.
    pub(super) async fn read_of_old(&self, at: usize) -> Result<Predecessor> {
        let (package, policy_snapshot) = (Arc::clone(self.package), self.services.policy.snapshot());
        let profile = self.client.profile;
        let find = move || {
            let view = ProfileView { policy_snapshot: &policy_snapshot, profile };
            signals::predecessor_of_old(&package, view, &package.signals(&policy_snapshot, profile), at)
        };
        let earlier = self.services.workers.run_over_versions(self.package, self.client.address, find).await?;
        self.load(earlier).await
    }

    async fn load(&self, earlier: Option<usize>) -> Result<Predecessor> {
        let Some(earlier) = earlier else { return Ok(Predecessor::None) };
        let Some(entry) = self.package.packument.as_ref().and_then(|packument| packument.entries.get(earlier)) else {
            return Ok(Predecessor::None);
        };
        let version = entry.key.clone();
        let summary = tokio::time::timeout(MAX_WAIT, self.summary(earlier, entry)).await;
        let why = match summary {
            Ok(Ok(Some(summary))) => return Ok(Predecessor::Known { at: earlier, version, summary: Box::new(summary) }),
            Ok(Ok(None)) => "its tarball is too large, or cannot be read".to_owned(),
            Ok(Err(error)) => format!("its tarball cannot be had: {error}"),
            Err(_) => "its tarball took too long".to_owned(),
        };
        let name = &self.package.cache_key.name;
        tracing::info!(package.name = %name, package.version = &*version, error = why, "tarball not compared with predecessor");
        Ok(Predecessor::Unavailable { at: earlier, version, why })
    }

    async fn summary(&self, at: usize, entry: &VersionEntry) -> Result<Option<ContentSummary>> {
        let Some(integrity) = self.package.integrity_of(at) else { return Ok(None) };
        if let Some(sha512) = integrity.digest(Algorithm::Sha512).cloned() {
            let ledger = Arc::clone(&self.services.ledger);
            let kept = self.services.workers.run(move || ledger.tarball_summary(&sha512, INSPECTION_VERSION)).await?;
            if let Some(summary) = kept.ok().flatten().and_then(|bytes| ContentSummary::from_bytes(&bytes)) {
                return Ok(Some(summary));
            }
        }
        if entry.outline.unpacked_bytes > MAX_UNPACKED_BYTES {
            return Ok(None);
        }
        let tarball = self.tarball(at, entry, integrity.clone()).await?;
        let permit = self.services.workers.heavy.acquire(self.client.address).await;
        let services = Arc::clone(self.services);
        let work = move || {
            let memory = services.config.limits.vetting_memory;
            let limits = ArchiveLimits { unpacked_bytes: MAX_UNPACKED_BYTES, ..ArchiveLimits::of_memory(memory) };
            let summary = inspect(&tarball.bytes, limits).summary();
            if let (Some(summary), Some(sha512)) = (&summary, tarball.digests.digest(Algorithm::Sha512)) {
                keep(&services, sha512, summary);
            }
            drop(permit);
            summary
        };
        self.services.workers.run(work).await
    }

    async fn tarball(&self, at: usize, entry: &VersionEntry, integrity: Integrity) -> Result<VerifiedTarball, FirewallError> {
        let revision = self.services.policy.snapshot().revision;
        let admitted =
            AdmittedTarball { integrity, entry: Some(at), notes: Vec::new(), needs_vetting: false, revision, vetted: 0 };
        match self.provider.stored(self.client, self.package, &entry.key, &admitted).await? {
            Some(stored) => Ok(stored),
            None => self.provider.download(self.client, self.package, &entry.key, &admitted).await,
        }
    }
}
