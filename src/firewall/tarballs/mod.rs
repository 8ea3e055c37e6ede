//! Serves tarballs. The verdict comes first, from the index; then the store, for clients entitled to the stored bytes; then one
//! shared download, hashed while it is written. No byte is served before the whole tarball matches every known digest.

pub(crate) mod addresses;
pub(crate) mod admission;
pub(crate) mod download;
pub(crate) mod early_request;
pub(crate) mod entitlement;
mod predecessor;
pub(crate) mod provider;
pub(crate) mod served_files;
pub(crate) mod vetting;

use std::sync::Arc;

use crate::firewall::credential_binding::explain_unsent;
use crate::firewall::error::{FirewallError, Refusal, Result};
use crate::firewall::packages::Services;
use crate::firewall::packages::request::{DocumentNeed, PackageLookup};
use crate::firewall::packages::service::PackageService;
use crate::firewall::policy_state::PolicySnapshot;
use crate::firewall::recorder::Requested;
use crate::firewall::request::{Client, TarballResponse};
use crate::firewall::tarballs::admission::AdmittedTarball;
use crate::firewall::tarballs::download::VerifiedTarball;
use crate::firewall::tarballs::provider::TarballProvider;
use crate::firewall::tarballs::vetting::{TarballVetter, VettingResult};
use crate::firewall::verdicts::cache::CachedPackage;
use crate::npm::{Integrity, PackageName};
use crate::policy::{RuleId, Verdict};
use crate::store::DownloadOutcome;
use crate::telemetry::{CacheLabel, CacheOutcome};
use crate::upstream::UpstreamError;
use crate::vetting::inspect::Inspection;
use crate::vetting::signatures::SignatureStatus;

/// Answers requests for tarballs.
pub(crate) struct TarballService {
    pub services: Arc<Services>,
    pub packages: Arc<PackageService>,
    pub provider: Arc<TarballProvider>,
    pub vetter: TarballVetter,
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
            _early = Box::pin(self.provider.downloader.early.start(client, name, version)).await;
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
        if let Err(FirewallError::Refused(refusal)) = &admitted
            && Box::pin(self.vet_again(client, &lookup, version, &refusal.rule)).await
        {
            admitted = admission::admit(&self.services, client, &lookup.package, version, &context.policy_snapshot).await;
        }
        let admitted = match admitted {
            Ok(admitted) => admitted,
            Err(rejection) => return Err(self.services.recorder.refused_tarball(client, &lookup.package, version, rejection)),
        };
        let served = match self.provider.stored(client, &lookup.package, version, &admitted).await {
            Ok(Some(stored)) => {
                self.services.recorder.cache_lookup(CacheLabel::Blob, CacheOutcome::Hit);
                Ok((stored, true))
            }
            Ok(None) => {
                self.services.recorder.cache_lookup(CacheLabel::Blob, CacheOutcome::Miss);
                let download = self.provider.download(client, &lookup.package, version, &admitted);
                Box::pin(download).await.map(|verified| (verified, false))
            }
            Err(rejection) => Err(rejection),
        };
        match served {
            Ok((tarball, kept)) => {
                self.note_listed_digests(&lookup.package, version, &admitted.integrity, &tarball);
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
        self.services.recorder.signature(&package.cache_key.name, version, &status);
        matches!(status, SignatureStatus::False { .. })
    }

    /// Checks the digests that are known only since the bytes are, such as a SHA-512 where upstream states a SHA-1. If a feed lists
    /// one, verdicts are made again.
    fn note_listed_digests(&self, package: &CachedPackage, version: &str, known: &Integrity, tarball: &VerifiedTarball) {
        let digests = &tarball.digests;
        if !digests.is_covered_by(known) && self.services.policy.snapshot().advisories.lists_any(digests) {
            package.vetted.add_listed(version, digests);
        }
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
        let needs_provenance = || admitted.entry.is_some_and(|at| lookup.package.needs_provenance(&policy_snapshot, at));
        // Another request may have found something since the admission.
        let is_current = policy_snapshot.revision == admitted.revision && lookup.package.vetted.revision() == admitted.vetted;
        if is_current && !admitted.needs_vetting && !needs_provenance() {
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
        let needs_provenance = admitted.entry.filter(|at| lookup.package.needs_provenance(&then, *at));
        if let Some(at) = needs_provenance {
            self.packages.provenance.load(client, &lookup.package, &then, &[at]).await;
        }
        let is_known = lookup.package.vetted.revision() == admitted.vetted;
        let admitted = if then.revision == admitted.revision && is_known {
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
        let tarball = self.tarball(client, lookup, at).await?;
        self.vetter.inspect(client, lookup, at, &tarball).await
    }

    /// Opens a tarball again, once per policy revision, if `rule` refuses it for what was found by an older version of the code or
    /// with less memory. Returns whether it did.
    async fn vet_again(&self, client: &Client, lookup: &PackageLookup, version: &str, rule: &RuleId) -> bool {
        let (package, policy_snapshot) = (&lookup.package, self.services.policy.snapshot());
        let Some(packument) = &package.packument else { return false };
        let Some((at, _)) = packument.find(version) else { return false };
        let (flags, revision) = (&package.checks.inspection, policy_snapshot.revision);
        let is_asked = policy_snapshot.policy(client.profile).tests_tarballs(rule) && self.vetter.is_outdated(package, at);
        if !is_asked || flags.has(revision, at) {
            return false;
        }
        flags.add(revision, at, packument.entries.len());
        match self.tarball(client, lookup, at).await {
            Ok(tarball) => self.vetter.vet(client, lookup, Some(at), &tarball).await.is_ok(),
            Err(_) => false,
        }
    }

    /// Verifies and opens the tarball of the entry at `at` before a client requests it, unless that was done. Returns its length in
    /// bytes, with that of the tarball that it was compared with.
    pub(crate) async fn vet_ahead(&self, client: &Client, lookup: &PackageLookup, at: usize) -> Result<u64> {
        let policy_snapshot = self.services.policy.snapshot();
        if lookup.package.needs_provenance(&policy_snapshot, at) {
            self.packages.provenance.load(client, &lookup.package, &policy_snapshot, &[at]).await;
        }
        let tarball = self.tarball(client, lookup, at).await?;
        self.vetter.vet(client, lookup, Some(at), &tarball).await?;
        let predecessor = lookup.package.predecessor(at).and_then(|earlier| lookup.package.tarballs.get(earlier));
        Ok(tarball.bytes.len() as u64 + predecessor.map_or(0, |stored| stored.length))
    }

    /// Returns the tarball of the entry at `at`, whatever its verdict is.
    async fn tarball(&self, client: &Client, lookup: &PackageLookup, at: usize) -> Result<VerifiedTarball> {
        let (package, name) = (&lookup.package, &lookup.package.cache_key.name);
        let entry = package.packument.as_ref().and_then(|packument| packument.entries.get(at));
        let Some((entry, integrity)) = entry.and_then(|entry| Some((entry, package.integrity_of(at)?.clone()))) else {
            return Err(FirewallError::NotFound(format!("this version of {name} states no digest of its tarball").into()));
        };
        let revision = self.services.policy.snapshot().revision;
        let admitted =
            AdmittedTarball { integrity, entry: Some(at), notes: Vec::new(), needs_vetting: true, revision, vetted: 0 };
        let tarball = match self.provider.stored(client, package, &entry.key, &admitted).await? {
            Some(stored) => stored,
            None => self.provider.download(client, package, &entry.key, &admitted).await?,
        };
        self.note_listed_digests(package, &entry.key, &admitted.integrity, &tarball);
        Ok(tarball)
    }

    /// Turns upstream failures that are policy decisions into refusals.
    fn explain_failure(&self, client: &Client, lookup: &PackageLookup, version: &str, rejection: FirewallError) -> FirewallError {
        let name = &lookup.package.cache_key.name;
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
