//! Verifies the provenance of versions: fetches their attestations, and those of earlier releases that they are compared with.
//!
//! An attestation that cannot be fetched hides nothing. Results are in the ledger, so that each is fetched once.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::firewall::attestations::AttestationService;
use crate::firewall::package::signals::MAX_BASELINE_SOURCES;
use crate::firewall::packages::Services;
use crate::firewall::policy_state::PolicySnapshot;
use crate::firewall::request::Client;
use crate::firewall::verdicts::cache::CachedPackage;
use crate::npm::packument::index::VersionEntry;
use crate::npm::{Algorithm, Digest, Packument};
use crate::store::{PackageChange, VerifiedProvenance};
use crate::telemetry::FalseProvenance;
use crate::units::timestamp;
use crate::vetting::provenance::{self, AttestedRelease, PROVENANCE_VERSION, ProvenanceStatus, TrustRoot};
use crate::vetting::{BASELINE_AGE, Signal};

/// How long a request waits for attestations.
const FETCH_WAIT: Duration = Duration::from_secs(2);

pub(crate) struct ProvenanceVerifier {
    pub services: Arc<Services>,
    pub attestations: Arc<AttestationService>,
}

/// A version whose attestations are needed.
struct WantedProvenance {
    version: Box<str>,
    sha512: Digest,
    /// The digest that the attestations endpoint caches by.
    strongest: Digest,
}

impl ProvenanceVerifier {
    /// Checks whether the entry at `at` is young enough for a signal, and its provenance was not asked for yet.
    pub(crate) fn is_needed(package: &CachedPackage, policy_snapshot: &PolicySnapshot, at: usize) -> bool {
        let entry = package.packument.as_ref().and_then(|packument| packument.entries.get(at));
        let has_provenance = entry.is_some_and(|entry| entry.outline.has_slsa_provenance);
        if !has_provenance || policy_snapshot.trust_root.is_none() || package.checks.provenance.has(policy_snapshot.revision, at)
        {
            return false;
        }
        let window = policy_snapshot.signal_window().max(BASELINE_AGE);
        let since = timestamp::saturating_sub(package.confirmed.validated, window);
        let is_young = package.provenance.get(at).is_some_and(|history| history.effective > since);
        is_young && policy_snapshot.asks_signal(Signal::ProvenanceRepositoryChanged)
    }

    /// Verifies the provenance of the entry at `at`, and of the releases that it is compared with, unless that was done. Verdicts
    /// may change.
    pub(crate) async fn load(&self, client: &Client, package: &Arc<CachedPackage>, policy_snapshot: &PolicySnapshot, at: usize) {
        let (Some(packument), Some(root)) = (&package.packument, &policy_snapshot.trust_root) else { return };
        let wanted = wanted(package, packument, at);
        if !wanted.is_empty() {
            let verified = self.verify_all(client, package, root, wanted).await;
            self.record(package, &verified);
        }
        // Only now: until then, other clients of this version wait for the same requests.
        package.checks.provenance.add(policy_snapshot.revision, at, packument.entries.len());
    }

    async fn verify_all(
        &self,
        client: &Client,
        package: &CachedPackage,
        root: &Arc<TrustRoot>,
        wanted: Vec<WantedProvenance>,
    ) -> Vec<VerifiedProvenance> {
        let Some(packument) = package.packument.clone() else { return Vec::new() };
        let fetched = self.fetch(client, package, wanted).await;
        let root = Arc::clone(root);
        let permit = self.services.workers.heavy.acquire(client.address).await;
        let verify = move || {
            let verified = fetched.iter().map(|(wanted, document)| verify(&root, &packument, wanted, document));
            let verified = verified.collect::<Vec<_>>();
            drop(permit);
            verified
        };
        self.services.workers.run(verify).await.unwrap_or_default()
    }

    /// Fetches attestations in parallel. Those that do not arrive in time are left out.
    async fn fetch(
        &self,
        client: &Client,
        package: &CachedPackage,
        wanted: Vec<WantedProvenance>,
    ) -> Vec<(WantedProvenance, bytes::Bytes)> {
        let deadline = Instant::now() + FETCH_WAIT;
        let mut fetches = JoinSet::new();
        for wanted in wanted {
            let (attestations, client) = (Arc::clone(&self.attestations), client.clone());
            let key = (package.cache_key.clone(), wanted.version.clone(), wanted.strongest.clone());
            fetches.spawn(async move { (wanted, attestations.fetch(&client, key).await) });
        }
        let mut found = Vec::new();
        while let Ok(Some(joined)) = timeout_at(deadline, fetches.join_next()).await {
            match joined {
                Ok((wanted, Ok(answer))) if answer.response.is_json() => found.push((wanted, answer.response.body.clone())),
                _ => self.services.recorder.provenance_missing(),
            }
        }
        found
    }

    /// Records what another request did not record meanwhile.
    fn record(&self, package: &CachedPackage, verified: &[VerifiedProvenance]) {
        let (recorder, name, known) = (&self.services.recorder, &package.cache_key.name, package.vetted.load());
        let is_new = |verified: &&VerifiedProvenance| !known.provenance.iter().any(|known| **known == **verified);
        let new: Vec<_> = verified.iter().filter(is_new).cloned().collect();
        if new.is_empty() {
            return;
        }
        for VerifiedProvenance { version, status, .. } in &new {
            recorder.provenance(status);
            if let ProvenanceStatus::False { why } = status {
                FalseProvenance { name, version, detail: why }.emit(recorder.metrics());
                recorder.event("false_provenance", Some(name), Some(version), why.to_string());
            }
        }
        // What could not be decided may be decided by newer authorities.
        let is_decided = |verified: &&VerifiedProvenance| !matches!(verified.status, ProvenanceStatus::NotObservable { .. });
        let decided: Vec<_> = new.iter().filter(is_decided).cloned().collect();
        if !decided.is_empty() {
            let change = PackageChange { provenance: decided, ..PackageChange::default() };
            recorder.package_change(&package.cache_key.key(&package.registry), &change);
        }
        package.vetted.add_provenance(&new);
    }
}

/// Returns the entry at `at` and the newest releases of its baseline, as far as they have provenance that is not verified yet.
fn wanted(package: &CachedPackage, packument: &Packument, at: usize) -> Vec<WantedProvenance> {
    if !packument.entries.get(at).is_some_and(|entry| entry.outline.has_slsa_provenance) {
        return Vec::new();
    }
    let known = package.vetted.load();
    let is_attested = |other, entry: &VersionEntry| other != at && entry.outline.has_slsa_provenance;
    let baseline = package.newest_baseline(packument, MAX_BASELINE_SOURCES, is_attested);
    let all = std::iter::once(at).chain(baseline);
    let entries = all.filter_map(|at| packument.entries.get(at)).filter(|entry| entry.outline.has_slsa_provenance);
    // What could not be decided may be decided by authorities that were renewed since.
    let is_decided = |verified: &VerifiedProvenance| !matches!(verified.status, ProvenanceStatus::NotObservable { .. });
    let unknown = entries.filter(|entry| !known.provenance_of(entry).is_some_and(is_decided));
    unknown.filter_map(WantedProvenance::of).collect()
}

impl WantedProvenance {
    /// Returns `None` for a version without SHA-512, which provenance is of.
    fn of(entry: &VersionEntry) -> Option<Self> {
        let integrity = entry.integrity.as_ref()?;
        let sha512 = integrity.digest(Algorithm::Sha512)?.clone();
        Some(Self { version: entry.key.clone(), sha512, strongest: integrity.strongest().clone() })
    }
}

/// Blocks for a millisecond.
fn verify(root: &TrustRoot, packument: &Packument, wanted: &WantedProvenance, document: &[u8]) -> VerifiedProvenance {
    let WantedProvenance { version, sha512, .. } = wanted;
    let release = AttestedRelease { name: &packument.name, version, sha512 };
    let status = provenance::verify(root, release, document);
    VerifiedProvenance { version: version.clone(), sha512: sha512.clone(), code: PROVENANCE_VERSION, status }
}
