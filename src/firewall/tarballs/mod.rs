//! Serves tarballs. The verdict comes first, from the index; then the store, for clients entitled to the stored bytes; then one
//! shared download, hashed while it is written. No byte is served before the whole tarball matches every known digest.

pub(crate) mod addresses;
pub(crate) mod admission;
pub(crate) mod download;
pub(crate) mod early_request;
pub(crate) mod entitlement;
pub(crate) mod provenance;
pub(crate) mod vetting;

use std::sync::Arc;

use crate::firewall::credential_binding::explain_unsent;
use crate::firewall::error::{FirewallError, Refusal, Result, no_version};
use crate::firewall::package::PackageSnapshot;
use crate::firewall::package::stored_tarballs::StoredTarball;
use crate::firewall::packages::Services;
use crate::firewall::packages::fetch_slots::{SharedFetches, Slots};
use crate::firewall::packages::request::{DocumentNeed, PackageLookup};
use crate::firewall::packages::service::PackageService;
use crate::firewall::policy_state::PolicySnapshot;
use crate::firewall::recorder::Requested;
use crate::firewall::request::{Client, TarballResponse};
use crate::firewall::tarballs::admission::AdmittedTarball;
use crate::firewall::tarballs::download::{DownloadSource, Downloader, TarballKey, VerifiedTarball, open_blob};
use crate::firewall::tarballs::entitlement::{Entitled, EntitlementService};
use crate::firewall::tarballs::provenance::ProvenanceVerifier;
use crate::firewall::tarballs::vetting::{TarballVetter, VettingResult};
use crate::firewall::verdicts::cache::CachedPackage;
use crate::npm::{Algorithm, Integrity, PackageName, Sha1Check};
use crate::policy::{RuleId, Verdict};
use crate::store::{DownloadOutcome, TarballSource};
use crate::telemetry::{CacheLabel, CacheOutcome};
use crate::upstream::UpstreamError;
use crate::vetting::inspect::Inspection;
use crate::vetting::signatures::SignatureStatus;

/// Answers requests for tarballs.
pub(crate) struct TarballService {
    pub services: Arc<Services>,
    pub packages: Arc<PackageService>,
    pub entitlements: Arc<EntitlementService>,
    pub downloader: Arc<Downloader>,
    pub vetter: TarballVetter,
    pub provenance: ProvenanceVerifier,
    pub running: SharedFetches<TarballKey, VerifiedTarball>,
    pub slots: Arc<Slots>,
}

impl TarballService {
    /// Returns the tarball of a version. Refuses it if the version is hidden or its bytes do not match.
    pub(crate) async fn get(&self, client: &Client, name: &PackageName, version: &str) -> Result<TarballResponse> {
        let mut context = self.services.policy.context();
        // Held to the end, because dropping it aborts the early request.
        let _early;
        let mut lookup = if let Some(lookup) = self.packages.cached(client, name, DocumentNeed::Index, &context) {
            lookup
        } else {
            _early = Box::pin(self.downloader.early.start(client, name, version)).await;
            let lookup = Box::pin(self.packages.lookup(client, name, DocumentNeed::Index, None)).await?;
            context = self.services.policy.context();
            lookup
        };
        let mut admitted = admission::admit(&self.services, client, &lookup.package, version, &context.policy_snapshot).await;
        if let Err(FirewallError::NotFound(_)) = &admitted
            && let Some(again) = Box::pin(self.packages.recheck(client, &lookup, version, DocumentNeed::Index)).await
        {
            (lookup, context) = (again, self.services.policy.context());
            admitted = admission::admit(&self.services, client, &lookup.package, version, &context.policy_snapshot).await;
        }
        let now = context.now;
        if self.has_new_false_signature(&lookup.package, version, &admitted, &context.policy_snapshot) {
            admitted = admission::admit(&self.services, client, &lookup.package, version, &context.policy_snapshot).await;
        }
        let admitted = match admitted {
            Ok(admitted) => admitted,
            Err(rejection) => return Err(self.services.recorder.refused_tarball(client, &lookup.package, version, rejection)),
        };
        let served = match self.stored(client, &lookup.package, version, &admitted).await {
            Ok(Some(stored)) => {
                self.services.recorder.cache_lookup(CacheLabel::Blob, CacheOutcome::Hit);
                Ok((stored, true))
            }
            Ok(None) => {
                self.services.recorder.cache_lookup(CacheLabel::Blob, CacheOutcome::Miss);
                let download = self.download(client, &lookup.package, version, &admitted);
                Box::pin(download).await.map(|verified| (verified, false))
            }
            Err(rejection) => Err(rejection),
        };
        match served {
            Ok((tarball, kept)) => {
                let vetted = self.vetted(client, &lookup, version, admitted, &tarball).await;
                let admitted = vetted
                    .map_err(|rejection| self.services.recorder.refused_tarball(client, &lookup.package, version, rejection))?;
                let VerifiedTarball { bytes, digests } = tarball;
                let notes = admitted.notes;
                self.services.recorder.warnings(client, name, version, &notes);
                let rule = notes.first().map(|note| &note.reason.rule);
                let requested = Requested::Tarball(version, Some(&digests));
                self.services.recorder.request((client, now), name, requested, DownloadOutcome::Served, rule);
                Ok(TarballResponse { bytes, integrity: digests, kept })
            }
            Err(rejection) => Err(self.services.recorder.refused_tarball(
                client,
                &lookup.package,
                version,
                self.explain_failure(client, &lookup, version, rejection),
            )),
        }
    }

    /// Verifies the registry's signature of an admitted version, unless that was done. Returns whether it is false.
    fn has_new_false_signature(
        &self,
        package: &CachedPackage,
        version: &str,
        admitted: &Result<AdmittedTarball>,
        policy_snapshot: &PolicySnapshot,
    ) -> bool {
        let Ok(AdmittedTarball { entry: Some(at), .. }) = admitted else { return false };
        let Some(status) = package.verify_signature(policy_snapshot, *at) else { return false };
        self.services.recorder.signature(&package.slot.name, version, &status);
        matches!(status, SignatureStatus::False { .. })
    }

    /// Applies what is found before the first byte is served, if anything has to be found.
    async fn vetted(
        &self,
        client: &Client,
        lookup: &PackageLookup,
        version: &str,
        admitted: AdmittedTarball,
        tarball: &VerifiedTarball,
    ) -> Result<AdmittedTarball> {
        let policy_snapshot = self.services.policy.snapshot();
        let needs_provenance =
            || admitted.entry.is_some_and(|at| ProvenanceVerifier::is_needed(&lookup.package, &policy_snapshot, at));
        if !admitted.needs_vetting && policy_snapshot.revision == admitted.revision && !needs_provenance() {
            return Ok(admitted);
        }
        Box::pin(self.admit_again(client, lookup, version, admitted, tarball)).await
    }

    /// Applies what provenance and tarball show, and changes of the policy since the admission.
    async fn admit_again(
        &self,
        client: &Client,
        lookup: &PackageLookup,
        version: &str,
        admitted: AdmittedTarball,
        tarball: &VerifiedTarball,
    ) -> Result<AdmittedTarball> {
        let then = self.services.policy.snapshot();
        let needs_provenance = admitted.entry.filter(|at| ProvenanceVerifier::is_needed(&lookup.package, &then, *at));
        let is_changed = match needs_provenance {
            Some(at) => self.provenance.load(client, &lookup.package, &then, at).await,
            None => false,
        };
        let admitted = if then.revision == admitted.revision && !is_changed {
            admitted
        } else {
            admission::admit(&self.services, client, &lookup.package, version, &then).await?
        };
        let vetted = if admitted.needs_vetting {
            self.vetter.vet(client, lookup, admitted.entry, tarball).await?
        } else {
            VettingResult::Unchanged
        };
        let now = self.services.policy.snapshot();
        if vetted == VettingResult::Unchanged && now.revision == then.revision {
            return Ok(admitted);
        }
        admission::admit(&self.services, client, &lookup.package, version, &now).await
    }

    /// Opens the tarball of the entry at `at`, whatever its verdict is. Serves nothing.
    pub(crate) async fn inspect(&self, client: &Client, lookup: &PackageLookup, at: usize) -> Result<Inspection> {
        let (package, name) = (&lookup.package, &lookup.package.slot.name);
        let entry = package.packument.as_ref().and_then(|packument| packument.entries.get(at));
        let Some((entry, integrity)) = entry.and_then(|entry| Some((entry, entry.integrity.clone()?))) else {
            return Err(FirewallError::NotFound(format!("this version of {name} states no digest of its tarball").into()));
        };
        let revision = self.services.policy.snapshot().revision;
        let admitted = AdmittedTarball { integrity, entry: Some(at), notes: Vec::new(), needs_vetting: true, revision };
        let tarball = match self.stored(client, package, &entry.key, &admitted).await? {
            Some(stored) => stored,
            None => self.download(client, package, &entry.key, &admitted).await?,
        };
        self.vetter.inspect(client, lookup, at, &tarball).await
    }

    /// Downloads a tarball that is not in the store, once for all clients that wait for it.
    async fn download(
        &self,
        client: &Client,
        package: &Arc<CachedPackage>,
        version: &str,
        admitted: &AdmittedTarball,
    ) -> Result<VerifiedTarball> {
        let slot = &package.slot;
        let entry =
            package.packument.as_ref().and_then(|packument| Some((admitted.entry?, packument.entries.get(admitted.entry?)?)));
        let Some((at, entry)) = entry else {
            if slot.is_client_scoped() {
                return Err(no_version(&slot.name, version));
            }
            return Err(FirewallError::NotFound(
                format!("this version of {} was removed upstream and is not in the cache", slot.name).into(),
            ));
        };
        let source = DownloadSource {
            package: Arc::clone(package),
            at,
            slot: slot.clone(),
            version: entry.key.clone(),
            url: entry.tarball.clone(),
            registry: Arc::clone(&package.registry),
            authorization: client.authorization.clone(),
            sha1: sha1_check(package, version, &admitted.integrity),
            revision: admitted.revision,
        };
        let (downloader, integrity) = (Arc::clone(&self.downloader), admitted.integrity.clone());
        let key = (slot.clone(), entry.key.clone(), entry.tarball.clone(), integrity.clone());
        let slots = self.slots.of(&package.registry);
        let fetch = move |request| downloader.fetch(source, integrity, request);
        self.running.join(key, client.address, &slots, fetch).await
    }

    /// Returns the tarball from the store if it came from the stated URL, matches every digest, and the client is entitled to it.
    async fn stored(
        &self,
        client: &Client,
        package: &Arc<CachedPackage>,
        version: &str,
        admitted: &AdmittedTarball,
    ) -> Result<Option<VerifiedTarball>> {
        let Some(stored) = self.find_stored(package, version, admitted).await? else { return Ok(None) };
        let Some(bytes) = open_blob(&*self.services.blobs, &stored.name).await else { return Ok(None) };
        let entitled = match admitted.entry {
            _ if stored.is_public() => Entitled::Yes,
            None if self.entitlements.is_entitled_to_departed(package, &stored) => Entitled::Yes,
            None => Entitled::Unclear,
            Some(_) if self.entitlements.is_entitled(package, &stored) => Entitled::Yes,
            Some(at) => Box::pin(self.entitlements.ask(package, at, &stored, client)).await?,
        };
        Ok((entitled == Entitled::Yes).then(|| VerifiedTarball { bytes, digests: stored.digests.clone() }))
    }

    /// Looks up the stored tarball of an entry in memory, then in the ledger, which records the source of each tarball.
    async fn find_stored(
        &self,
        package: &Arc<CachedPackage>,
        version: &str,
        admitted: &AdmittedTarball,
    ) -> Result<Option<Arc<StoredTarball>>> {
        let integrity = &admitted.integrity;
        let in_memory = admitted.entry.and_then(|at| package.tarballs.get(at));
        if let Some(stored) = in_memory.filter(|stored| integrity.is_covered_by(&stored.digests)) {
            return Ok(Some(stored));
        }
        let (ledger, key, of) =
            (Arc::clone(&self.services.ledger), package.slot.key(&package.registry), Box::<str>::from(version));
        let sources = self.services.workers.run(move || ledger.tarballs(&key, &of)).await?;
        let sources = sources.unwrap_or_else(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "ledger read failed");
            Vec::new()
        });
        let packument = package.packument.as_ref();
        let entry = packument.and_then(|packument| Some((admitted.entry?, packument.entries.get(admitted.entry?)?)));
        let fits = |source: &TarballSource| {
            entry.is_none_or(|(_, entry)| source.address == entry.tarball) && integrity.is_covered_by(&source.digests)
        };
        let mut fitting = sources.into_iter().filter(fits).filter_map(|source| StoredTarball::recall(&package.slot.name, source));
        let first = fitting.next();
        let stored = match fitting.find(StoredTarball::is_public) {
            // For a removed version any URL is valid; a public one is preferred.
            Some(public) if entry.is_none() => Some(public),
            _ => first,
        };
        let Some(stored) = stored.map(Arc::new) else { return Ok(None) };
        if let (Some((at, _)), Some(packument)) = (entry, packument) {
            package.tarballs.set(at, packument.entries.len(), &stored);
        }
        Ok(Some(stored))
    }

    /// Turns upstream failures that are policy decisions into refusals.
    fn explain_failure(&self, client: &Client, lookup: &PackageLookup, version: &str, rejection: FirewallError) -> FirewallError {
        let name = &lookup.package.slot.name;
        match rejection {
            FirewallError::Upstream(error @ UpstreamError::TarballHost { .. }) => {
                let verdict = Verdict::deny(RuleId::TarballHost, error.to_string());
                let refusal = Refusal::of_version(name, version, &verdict, None);
                refusal.map_or_else(|| error.into(), |refusal| self.services.recorder.refusal(client, refusal))
            }
            // Created in a shared download. Recorded here for each waiting client.
            FirewallError::Refused(refusal) => self.services.recorder.refusal(client, Refusal::clone(&refusal)),
            other => explain_unsent(&lookup.package.registry, client, other),
        }
    }
}

/// Returns how to compute the SHA-1 of a version. Collisions matter only if no other digest was known before its bytes were
/// downloaded.
fn sha1_check(package: &PackageSnapshot, version: &str, integrity: &Integrity) -> Sha1Check {
    let is_weak = |integrity: &Integrity| integrity.strongest().algorithm() == Algorithm::Sha1;
    let is_known_by_sha1_alone =
        is_weak(integrity) || package.releases_of(version).filter_map(|row| row.integrity.as_ref()).any(is_weak);
    if is_known_by_sha1_alone { Sha1Check::DetectCollisions } else { Sha1Check::Plain }
}
