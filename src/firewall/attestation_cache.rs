//! Caches attestations, which do not change for the same bytes.

use std::sync::Arc;

use jiff::Timestamp;
use moka::sync::Cache;

use crate::firewall::error::Result;
use crate::firewall::package::{CacheKey, CredentialScope};
use crate::firewall::packages::cache::ABSENT_TTL;
use crate::firewall::singleflight::SingleFlight;
use crate::npm::Digest;
use crate::units::timestamp;
use crate::upstream::PassthroughResponse;

/// Memory for attestations, in bytes: about two thousand of them.
const MAX_BYTES: u64 = 32 << 20;

/// The largest cached response, in bytes. Two attestations of a version take about 15 kB.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// The approximate memory of an entry besides its body, in bytes.
const ENTRY_BYTES: usize = 600;

/// The cache key: view, version and digest.
pub(crate) type AttestationKey = (CacheKey, Box<str>, Digest);

/// Cached attestations and running fetches.
pub(crate) struct AttestationCache {
    cached: Cache<AttestationKey, Arc<CachedAttestations>>,
    pub running: SingleFlight<AttestationKey, Result<Arc<CachedAttestations>>>,
}

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
        Self { cached: Cache::builder().max_capacity(MAX_BYTES).weigher(weigher).build(), running: SingleFlight::new() }
    }
}

impl AttestationCache {
    /// Returns the cached response for these credentials, or for none.
    pub(crate) fn find(&self, key: &AttestationKey, now: Timestamp) -> Option<Arc<CachedAttestations>> {
        let find = |key: &AttestationKey| self.cached.get(key).filter(|answer| answer.is_valid(now));
        find(key).or_else(|| {
            let (slot, version, digest) = key;
            let anonymous = CacheKey { name: slot.name.clone(), partition: CredentialScope::Anonymous };
            find(&(anonymous, version.clone(), digest.clone())).filter(|answer| answer.response.is_json())
        })
    }

    /// Caches a response unless it is too large, or is neither attestations nor their absence.
    pub(crate) fn insert(&self, key: AttestationKey, answer: &Arc<CachedAttestations>) {
        if answer.is_valid(answer.since) && answer.response.body.len() <= MAX_ANSWER_BYTES {
            self.cached.insert(key, Arc::clone(answer));
        }
    }
}
