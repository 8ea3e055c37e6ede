//! Opens tarballs before they are served, if a rule may refuse what they hold. Each is opened once per version of the code.

use std::sync::Arc;

use crate::firewall::error::{FirewallError, Result};
use crate::firewall::package::CacheKey;
use crate::firewall::package::vetted_tarballs::compared_with;
use crate::firewall::packages::Services;
use crate::firewall::packages::request::PackageLookup;
use crate::firewall::packages::service::PackageService;
use crate::firewall::request::Client;
use crate::firewall::singleflight::SingleFlight;
use crate::firewall::tarballs::download::VerifiedTarball;
use crate::firewall::tarballs::predecessor::{self, Predecessor, PredecessorReader};
use crate::firewall::tarballs::provider::TarballProvider;
use crate::firewall::verdicts::cache::CachedPackage;
use crate::firewall::workers::task_failed;
use crate::npm::{Algorithm, Digest};
use crate::policy::Advisories;
use crate::store::{InspectedTarball, PackageChange};
use crate::telemetry::{TarballChanges, TarballFindings};
use crate::vetting::archive::ArchiveLimits;
use crate::vetting::inspect::{INSPECTION_VERSION, Inspection, inspect};
use crate::vetting::manifest::Manifest;
use crate::vetting::{FindingEvidence, Findings};

/// What vetting a tarball showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VettingResult {
    /// It has no findings.
    Unchanged,
    /// It has findings, so verdicts made before may not apply.
    Findings,
}

impl VettingResult {
    fn of(evidence: &[FindingEvidence]) -> Self {
        if evidence.is_empty() { Self::Unchanged } else { Self::Findings }
    }
}

/// What an inspection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum VettingPurpose {
    /// Rules judge what it finds.
    Verdict,
    /// A person reads it. A release that is too old for rules is compared with its predecessor too.
    Report,
}

/// The key of a shared inspection: the same bytes as the same version of the same package.
type VettingKey = (CacheKey, Box<str>, Digest);

pub(crate) struct TarballVetter {
    services: Arc<Services>,
    packages: Arc<PackageService>,
    provider: Arc<TarballProvider>,
    running: SingleFlight<VettingKey, Result<VettingResult>>,
}

impl TarballVetter {
    pub(crate) fn new(services: &Arc<Services>, packages: &Arc<PackageService>, provider: &Arc<TarballProvider>) -> Self {
        Self {
            services: Arc::clone(services),
            packages: Arc::clone(packages),
            provider: Arc::clone(provider),
            running: SingleFlight::new(),
        }
    }

    /// Opens a tarball of the entry at `entry`, unless that was done. Fails if it cannot be inspected although a rule needs it.
    pub(crate) async fn vet(
        &self,
        client: &Client,
        lookup: &PackageLookup,
        entry: Option<usize>,
        tarball: &VerifiedTarball,
    ) -> Result<VettingResult> {
        let package = &lookup.package;
        let (Some(packument), Some(at)) = (&package.packument, entry) else { return Ok(VettingResult::Unchanged) };
        let (Some(entry), Some(sha512)) = (packument.entries.get(at), tarball.digests.digest(Algorithm::Sha512)) else {
            return Ok(VettingResult::Unchanged);
        };
        let revision = inspection_revision(&self.services, &self.services.policy.snapshot().advisories);
        if let Some(known) = package.inspection(at, sha512, revision) {
            return Ok(VettingResult::of(&known.evidence));
        }
        let key = (package.cache_key.clone(), entry.key.clone(), sha512.clone());
        let task = self.task(client, lookup, at, tarball);
        let vetting = self.services.workers.track(async move {
            let inspection = task.run().await?;
            Ok(VettingResult::of(&inspection.evidence))
        });
        self.running.join(key, || vetting).await.unwrap_or_else(|_| Err(task_failed()))
    }

    /// Checks whether the findings of the entry at `at` are of an older inspection than one made now.
    pub(crate) fn is_outdated(&self, package: &CachedPackage, at: usize) -> bool {
        let entry = package.packument.as_ref().and_then(|packument| packument.entries.get(at));
        let compared = self.compared_with(package, at);
        entry.zip(compared).is_some_and(|(entry, compared)| package.vetted.is_outdated(&entry.key, compared))
    }

    /// Returns a digest of what an inspection of the entry at `at` is compared with now, as far as its predecessor is known.
    fn compared_with(&self, package: &CachedPackage, at: usize) -> Option<[u8; 32]> {
        package.compared_with(at, inspection_revision(&self.services, &self.services.policy.snapshot().advisories))
    }

    /// Opens a tarball of the entry at `at`, whatever rules need.
    pub(crate) async fn inspect(
        &self,
        client: &Client,
        lookup: &PackageLookup,
        at: usize,
        tarball: &VerifiedTarball,
    ) -> Result<Inspection> {
        VettingTask { purpose: VettingPurpose::Report, ..self.task(client, lookup, at, tarball) }.run().await
    }

    fn task(&self, client: &Client, lookup: &PackageLookup, at: usize, tarball: &VerifiedTarball) -> VettingTask {
        VettingTask {
            services: Arc::clone(&self.services),
            packages: Arc::clone(&self.packages),
            provider: Arc::clone(&self.provider),
            client: client.clone(),
            lookup: lookup.clone(),
            at,
            tarball: tarball.clone(),
            purpose: VettingPurpose::Verdict,
        }
    }
}

/// Returns a number that changes with the files that feeds list, and with the limits of inspections.
pub(crate) fn inspection_revision(services: &Services, advisories: &Advisories) -> u64 {
    advisories.files_revision() ^ services.config.limits.vetting_memory
}

/// The inputs of an inspection. Owned, because it outlives the request that started it.
struct VettingTask {
    services: Arc<Services>,
    packages: Arc<PackageService>,
    provider: Arc<TarballProvider>,
    client: Client,
    lookup: PackageLookup,
    at: usize,
    tarball: VerifiedTarball,
    purpose: VettingPurpose,
}

impl VettingTask {
    async fn run(self) -> Result<Inspection> {
        let package = Arc::clone(&self.lookup.package);
        let permit = self.packages.loader.loads.acquire(self.client.address).await;
        let document = match self.packages.document_with(&self.client, self.lookup.clone(), permit).await {
            Ok((read, document)) if read.package.content() == package.content() => Some(document),
            Ok(_) => return Err(FirewallError::Internal("the packument changed while a tarball was opened".into())),
            // The disk fails. Then no install is blocked, and the tarball is compared at a later request.
            Err(FirewallError::Internal(error)) => {
                tracing::error!(package.name = %package.cache_key.name, error = %error, "tarball not compared with its packument");
                None
            }
            Err(error) => return Err(error),
        };
        let reader =
            PredecessorReader { services: &self.services, provider: &self.provider, client: &self.client, package: &package };
        let predecessor = reader.read(self.at).await?;
        let is_past_rules = matches!(predecessor, Predecessor::NotNeeded) && self.purpose == VettingPurpose::Report;
        let shown = if is_past_rules { Some(reader.read_of_old(self.at).await?) } else { None };
        let permit = self.services.workers.heavy.acquire(self.client.address).await;
        let services = Arc::clone(&self.services);
        let work = move || {
            let mut result = self.inspect(document.as_deref(), &predecessor);
            // Only now: what is recorded may not depend on who asked for a report.
            if let (Ok(inspection), Some(shown)) = (&mut result, shown) {
                shown.compare(inspection);
                inspection.is_past_rules = true;
            }
            drop(permit);
            result
        };
        services.workers.run(work).await?
    }

    /// Blocks.
    fn inspect(&self, document: Option<&[u8]>, predecessor: &Predecessor) -> Result<Inspection> {
        let package = &self.lookup.package;
        let entry = package.packument.as_ref().and_then(|packument| packument.entries.get(self.at));
        let (Some(entry), Some(sha512)) = (entry, self.tarball.digests.digest(Algorithm::Sha512)) else {
            return Err(FirewallError::Internal("a version has no entry".into()));
        };
        let advisories = &self.services.policy.snapshot().advisories;
        let memory = self.services.config.limits.vetting_memory;
        let limits = ArchiveLimits { has_sha1: advisories.lists_sha1_of_files(), ..ArchiveLimits::of_memory(memory) };
        let mut inspection = inspect(&self.tarball.bytes, limits);
        match document.map(|document| Manifest::parse(entry.spans.manifest.of(document))) {
            Some(Ok(stated)) => inspection.compare(&stated),
            Some(Err(error)) => inspection.note_unreadable_manifest(&error),
            None => {}
        }
        predecessor.compare(&mut inspection);
        inspection.compare_files(|digest| {
            let advisory = advisories.listing_file(digest).next()?;
            Some(format!("{} of the feed `{}`", advisory.id, advisory.feed))
        });
        let earlier = predecessor.at().and_then(|earlier| package.packument.as_ref()?.entries.get(earlier));
        let inspected = InspectedTarball {
            version: entry.key.clone(),
            sha512: sha512.clone(),
            code: INSPECTION_VERSION,
            manifest: document.map(|_| compared_with(entry, earlier, inspection_revision(&self.services, advisories))),
            evidence: inspection.evidence.clone(),
        };
        // What could not be compared is tried again after the next restart or change of the document.
        let stored = InspectedTarball { manifest: inspected.manifest.filter(|_| predecessor.is_known()), ..inspected.clone() };
        let change = PackageChange { inspections: vec![stored], ..PackageChange::default() };
        self.services.recorder.package_change(&package.cache_key.key(&package.registry), &change);
        if let Some(summary) = inspection.summary() {
            predecessor::keep(&self.services, sha512, &summary);
        }
        package.vetted.add(inspected);
        if !inspection.evidence.is_empty() {
            self.report(&entry.key, &inspection);
        }
        Ok(inspection)
    }

    fn report(&self, version: &str, inspection: &Inspection) {
        let name = &self.lookup.package.cache_key.name;
        let findings = inspection.evidence.iter().map(FindingEvidence::describe).collect::<Vec<_>>().join("; ");
        let metrics = self.services.recorder.metrics();
        let changes = Findings::of_change();
        if inspection.evidence.iter().all(|evidence| changes.contains(evidence.finding)) {
            TarballChanges { name, version, findings: &findings }.emit(metrics);
        } else {
            TarballFindings { name, version, findings: &findings }.emit(metrics);
        }
        self.services.recorder.event("tarball_findings", Some(name), Some(version), findings);
    }
}
