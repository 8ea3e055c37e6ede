//! Verifies the provenance of versions: fetches their attestations, and those of earlier releases that they are compared with.
//!
//! An attestation that cannot be fetched hides nothing. Results are in the ledger, so that each is fetched once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::firewall::package::provenance::{baseline, is_decided};
use crate::firewall::packages::Services;
use crate::firewall::packages::attestations::AttestationService;
use crate::firewall::policy_state::PolicySnapshot;
use crate::firewall::request::Client;
use crate::firewall::verdicts::cache::CachedPackage;
use crate::npm::packument::index::VersionEntry;
use crate::npm::{Algorithm, Digest, Packument};
use crate::store::{PackageChange, VerifiedProvenance};
use crate::telemetry::FalseProvenance;
use crate::vetting::provenance::{self, AttestedRelease, PROVENANCE_VERSION, ProvenanceStatus, TrustRoot};

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
    /// Verifies the provenance of the entries at `asked`, and of the releases that they are compared with, unless that was done.
    /// Verdicts may change. What does not arrive in time is verified when it does.
    pub(crate) async fn load(
        self: &Arc<Self>,
        client: &Client,
        package: &Arc<CachedPackage>,
        policy_snapshot: &PolicySnapshot,
        asked: &[usize],
    ) {
        let (Some(packument), Some(root)) = (&package.packument, &policy_snapshot.trust_root) else { return };
        let (checks, revision, now) = (&package.checks.provenance, policy_snapshot.revision, self.services.policy.now());
        let asked: Vec<usize> = asked.iter().copied().filter(|at| !checks.is_done(revision, *at)).collect();
        let mut running = JoinSet::new();
        for at in asked.iter().copied() {
            let (verifier, client, package, root) = (Arc::clone(self), client.clone(), Arc::clone(package), Arc::clone(root));
            let task = VerificationTask { verifier, client, package, root, revision, at };
            // It outlives a client that stops waiting.
            let task = tokio::spawn(self.services.workers.track(task.run()));
            running.spawn(task);
        }
        let all = async { while running.join_next().await.is_some() {} };
        if timeout(FETCH_WAIT, all).await.is_ok() || checks.retry(now) {
            return;
        }
        for at in asked {
            checks.finish(revision, at, packument.entries.len());
        }
        package.vetted.renew();
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
        let decided: Vec<_> = new.iter().filter(|verified| verified.status.is_decided()).cloned().collect();
        if !decided.is_empty() {
            let change = PackageChange { provenance: decided, ..PackageChange::default() };
            recorder.package_change(&package.cache_key.key(&package.registry), &change);
        }
        package.vetted.add_provenance(&new);
    }
}

/// The inputs of the verification of one release.
struct VerificationTask {
    verifier: Arc<ProvenanceVerifier>,
    client: Client,
    package: Arc<CachedPackage>,
    root: Arc<TrustRoot>,
    /// The revision of the policy snapshot, which has the root.
    revision: u64,
    at: usize,
}

impl VerificationTask {
    async fn run(self) {
        let Some(packument) = self.package.packument.clone() else { return };
        let wanted = wanted(&self.package, &packument, self.at);
        let documents = self.fetch(wanted).await;
        if !documents.is_empty() {
            let (root, of) = (Arc::clone(&self.root), Arc::clone(&packument));
            let permit = self.verifier.services.workers.heavy.acquire(self.client.address).await;
            let verify = move || {
                let verified = documents.iter().map(|(wanted, document)| verify(&root, &of, wanted, document));
                let verified = verified.collect::<Vec<_>>();
                drop(permit);
                verified
            };
            // A failed task was logged.
            let verified = self.verifier.services.workers.run(verify).await.unwrap_or_default();
            self.verifier.record(&self.package, &verified);
        }
        // Only now: until then, other clients of this version wait for the same requests.
        self.package.checks.provenance.finish(self.revision, self.at, packument.entries.len());
        // It is no longer pending.
        self.package.vetted.renew();
    }

    /// Fetches attestations in parallel. Those that cannot be fetched are left out.
    async fn fetch(&self, wanted: Vec<WantedProvenance>) -> Vec<(WantedProvenance, Bytes)> {
        let mut fetches = JoinSet::new();
        for wanted in wanted {
            let (attestations, client) = (Arc::clone(&self.verifier.attestations), self.client.clone());
            let key = (self.package.cache_key.clone(), wanted.version.clone(), wanted.strongest.clone());
            fetches.spawn(async move { (wanted, attestations.fetch(&client, key).await) });
        }
        let mut documents = Vec::new();
        while let Some(joined) = fetches.join_next().await {
            match joined {
                Ok((wanted, Ok(answer))) if answer.response.is_json() => documents.push((wanted, answer.response.body.clone())),
                _ => self.verifier.services.recorder.provenance_missing(),
            }
        }
        documents
    }
}

/// Returns the entry at `at` and the newest releases of its baseline, as far as they have provenance that is not verified yet.
fn wanted(package: &CachedPackage, packument: &Packument, at: usize) -> Vec<WantedProvenance> {
    if !packument.entries.get(at).is_some_and(|entry| entry.outline.has_slsa_provenance) {
        return Vec::new();
    }
    let known = package.vetted.load();
    let all = std::iter::once(at).chain(baseline(package, packument, at));
    let unknown = all.filter_map(|at| packument.entries.get(at)).filter(|entry| !is_decided(&known, entry));
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
