//! Serves attestations. They are fetched once, since they do not change for the same bytes, and the verdict is checked for every
//! request.

use std::sync::Arc;

use jiff::Timestamp;
use moka::sync::Cache;

use crate::firewall::Components;
use crate::firewall::error::FirewallError;
use crate::firewall::package::{CacheKey, CredentialScope};
use crate::firewall::packages::fetch::{ABSENT, DocumentNeed, task_failed};
use crate::firewall::queries::packument::{EvaluatedPackage, no_version};
use crate::firewall::request::Client;
use crate::firewall::singleflight::SingleFlight;
use crate::npm::PackumentForm;
use crate::npm::{Digest, PackageName};
use crate::units::timestamp;
use crate::upstream::{PassthroughRequest, PassthroughResponse};

/// Memory for attestations, in bytes: about two thousand of them.
const MAX_BYTES: u64 = 32 << 20;

/// The largest cached response, in bytes. Two attestations of a version take about 15 kB.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// The approximate memory of an entry besides its body, in bytes.
const ENTRY_BYTES: usize = 600;

/// The cache key: view, version and digest.
pub(crate) type AttestationKey = (CacheKey, Box<str>, Digest);

/// Cached attestations and running fetches.
pub(crate) struct Attestations {
    remembered: Cache<AttestationKey, Arc<Remembered>>,
    asked: SingleFlight<AttestationKey, Result<Arc<Remembered>, FirewallError>>,
}

/// A response of upstream and its time.
struct Remembered {
    passed: PassthroughResponse,
    since: Timestamp,
}

impl Remembered {
    /// Checks whether it may be used at `now`. Attestations do not change, but a version without any may get them.
    fn is_valid(&self, now: Timestamp) -> bool {
        self.passed.is_json() || self.passed.is_not_found() && timestamp::is_within(self.since, ABSENT, now)
    }
}

impl Default for Attestations {
    fn default() -> Self {
        let weigher = |_: &AttestationKey, answer: &Arc<Remembered>| {
            u32::try_from(answer.passed.body.len() + ENTRY_BYTES).unwrap_or(u32::MAX)
        };
        Self { remembered: Cache::builder().max_capacity(MAX_BYTES).weigher(weigher).build(), asked: SingleFlight::new() }
    }
}

impl Components {
    /// Returns the attestations of one visible version.
    ///
    /// # Errors
    /// Returns an error if the version is hidden or upstream is unavailable.
    pub(crate) async fn attestations(
        self: &Arc<Self>,
        client: &Client,
        name: &PackageName,
        version: &str,
        passage: PassthroughRequest,
    ) -> Result<PassthroughResponse, FirewallError> {
        let need = DocumentNeed::Form(PackumentForm::Abbreviated);
        let mut evaluated = self.evaluated(client, name, need, None).await?;
        if evaluated.packument.find(version).is_none()
            && self.ask_once_more(client, &evaluated.reading, version, need).await.is_some()
        {
            evaluated = self.evaluated(client, name, need, None).await?;
        }
        let EvaluatedPackage { reading, packument, table, .. } = evaluated;
        let shown = packument.find(version).filter(|(at, _)| table.shown[*at]);
        let Some(digest) = shown.and_then(|(_, entry)| Some(entry.integrity.as_ref()?.strongest().clone())) else {
            return Err(no_version(name, version));
        };
        if !passage.is_plain_get() {
            return self.pass(client, Some(name), passage).await;
        }
        let key = (reading.known.slot.clone(), Box::from(version), digest);
        if let Some(answer) = self.remembered(&key) {
            return Ok(answer.passed.clone());
        }
        let (inner, client, name, version) = (Arc::clone(self), client.clone(), name.clone(), Box::<str>::from(version));
        let shared_key = key.clone();
        let ask = move || async move { inner.ask_attestations(&client, &name, &version, key).await };
        let answer = self.attestations.asked.join(shared_key, ask).await.unwrap_or_else(|_| Err(task_failed()))?;
        Ok(answer.passed.clone())
    }

    /// Returns the cached response for these credentials, or for none.
    fn remembered(&self, key: &AttestationKey) -> Option<Arc<Remembered>> {
        let now = self.clock.now();
        let find = |key: &AttestationKey| self.attestations.remembered.get(key).filter(|answer| answer.is_valid(now));
        find(key).or_else(|| {
            let (slot, version, digest) = key;
            let anonymous = CacheKey { name: slot.name.clone(), partition: CredentialScope::Anonymous };
            find(&(anonymous, version.clone(), digest.clone())).filter(|answer| answer.passed.is_json())
        })
    }

    async fn ask_attestations(
        self: &Arc<Self>,
        client: &Client,
        name: &PackageName,
        version: &str,
        key: AttestationKey,
    ) -> Result<Arc<Remembered>, FirewallError> {
        // Shared by all clients: only the credentials of this client's request are used.
        let passed = self.pass(client, Some(name), PassthroughRequest::for_attestations(name, version)).await?.undated();
        let answer = Arc::new(Remembered { passed, since: self.clock.now() });
        if answer.is_valid(answer.since) && answer.passed.body.len() <= MAX_ANSWER_BYTES {
            self.attestations.remembered.insert(key, Arc::clone(&answer));
        }
        Ok(answer)
    }
}
