//! Fetches attestations once, since they do not change for the same bytes.

use std::sync::Arc;

use jiff::Timestamp;
use moka::sync::Cache;

use crate::firewall::error::Result;
use crate::firewall::package::{CacheKey, CredentialScope};
use crate::firewall::packages::Services;
use crate::firewall::packages::cache::ABSENT_TTL;
use crate::firewall::packages::passthrough::Passthrough;
use crate::firewall::request::Client;
use crate::firewall::singleflight::SingleFlight;
use crate::firewall::workers::task_failed;
use crate::npm::Digest;
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
pub(crate) struct AttestationService {
    services: Arc<Services>,
    passthrough: Arc<Passthrough>,
    cached: Arc<AttestationCache>,
    running: SingleFlight<AttestationKey, Result<Arc<CachedAttestations>>>,
}

impl AttestationService {
    pub(crate) fn new(services: &Arc<Services>, passthrough: &Arc<Passthrough>) -> Self {
        let (services, passthrough) = (Arc::clone(services), Arc::clone(passthrough));
        Self { services, passthrough, cached: Arc::default(), running: SingleFlight::new() }
    }

    /// Returns upstream's response about the attestations of a version, from the cache or with one shared request.
    pub(crate) async fn fetch(&self, client: &Client, key: AttestationKey) -> Result<Arc<CachedAttestations>> {
        if let Some(answer) = self.cached.find(&key, self.services.policy.now()) {
            return Ok(answer);
        }
        let (services, passthrough, cached) =
            (Arc::clone(&self.services), Arc::clone(&self.passthrough), Arc::clone(&self.cached));
        let (client, shared_key) = (client.clone(), key.clone());
        let asking = self.services.workers.track(async move {
            let (CacheKey { name, .. }, version, _) = &key;
            // Shared by all clients: only the credentials of this client's request are used.
            let request = PassthroughRequest::for_attestations(name, version);
            let response = passthrough.send(&client, Some(name), request).await?.undated();
            let answer = Arc::new(CachedAttestations { response, since: services.policy.now() });
            cached.insert(key, &answer);
            Ok(answer)
        });
        self.running.join(shared_key, || asking).await.unwrap_or_else(|_| Err(task_failed()))
    }
}

struct AttestationCache(Cache<AttestationKey, Arc<CachedAttestations>>);

/// A response of upstream and its time.
pub(crate) struct CachedAttestations {
    pub response: PassthroughResponse,
    pub since: Timestamp,
}

impl CachedAttestations {
    /// Checks whether it may be used at `now`. Attestations do not change, but a version without any may get them.
    fn is_valid(&self, now: Timestamp) -> bool {
        self.response.is_json() || self.response.is_not_found() && timestamp::is_within(self.since, ABSENT_TTL, now)
    }
}

impl Default for AttestationCache {
    fn default() -> Self {
        let weigher = |_: &AttestationKey, answer: &Arc<CachedAttestations>| {
            u32::try_from(answer.response.body.len() + ENTRY_BYTES).unwrap_or(u32::MAX)
        };
        Self(Cache::builder().max_capacity(MAX_BYTES).weigher(weigher).build())
    }
}

impl AttestationCache {
    /// Returns the cached response for these credentials, or for none.
    fn find(&self, key: &AttestationKey, now: Timestamp) -> Option<Arc<CachedAttestations>> {
        let find = |key: &AttestationKey| self.0.get(key).filter(|answer| answer.is_valid(now));
        find(key).or_else(|| {
            let (cache_key, version, digest) = key;
            let anonymous = CacheKey { name: cache_key.name.clone(), partition: CredentialScope::Anonymous };
            find(&(anonymous, version.clone(), digest.clone())).filter(|answer| answer.response.is_json())
        })
    }

    /// Caches a response unless it is too large, or is neither attestations nor their absence.
    fn insert(&self, key: AttestationKey, answer: &Arc<CachedAttestations>) {
        if answer.is_valid(answer.since) && answer.response.body.len() <= MAX_ANSWER_BYTES {
            self.0.insert(key, Arc::clone(answer));
        }
    }
}
