//! The keys of issuers, fetched from the addresses that the operator named and kept in memory. Follows no redirects.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use jsonwebtoken::jwk::Jwk;
use tokio::time::timeout;
use url::Url;

use crate::clock::Clock;
use crate::net::{AddressScope, ClientRequest, HttpClient};
use crate::server::auth::jwt::KeySet;
use crate::server::error::{JwtError, RequestError};

/// How long keys are used before they are fetched again, and how long if that fails.
const FRESH: Duration = Duration::from_secs(3600);
const MAX_STALE: Duration = Duration::from_secs(24 * 3600);

/// The least time between two fetches of a set. Any client can name a key that does not exist.
const FETCH_INTERVAL: Duration = Duration::from_secs(60);

const DEADLINE: Duration = Duration::from_secs(10);

const MAX_SET_BYTES: u64 = 256 << 10;

/// The key sets of all issuers by their address.
pub(crate) struct KeySets {
    client: HttpClient,
    clock: Arc<dyn Clock>,
    sets: HashMap<Url, CachedKeys>,
    reach: AddressScope,
}

/// Times are by the clock that is never set.
#[derive(Default)]
struct CachedKeys {
    /// The keys, and when they were fetched. Locked only to read and replace them, so that known keys never wait for a fetch.
    keys: Mutex<Option<(Arc<KeySet>, Duration)>>,
    /// When the last fetch began. Held during a fetch, which waiting requests share.
    attempted: tokio::sync::Mutex<Option<Duration>>,
}

impl CachedKeys {
    /// Returns a key of a set that is younger than `longest`.
    fn find(&self, key_id: &str, now: Duration, longest: Duration) -> Option<Jwk> {
        let cached = self.keys.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (keys, fetched) = cached?;
        keys.find(key_id).filter(|_| now.saturating_sub(fetched) < longest).cloned()
    }

    fn is_empty(&self) -> bool {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}

impl KeySets {
    pub(crate) fn new(client: HttpClient, clock: Arc<dyn Clock>, addresses: impl Iterator<Item = Url>) -> Self {
        let sets = addresses.map(|url| (url, CachedKeys::default())).collect();
        Self { client, clock, sets, reach: AddressScope::Anywhere }
    }

    /// Returns the sets, fetched only from these addresses.
    pub(crate) fn limited_to(self, reach: AddressScope) -> Self {
        Self { reach, ..self }
    }

    /// Returns a key. Fetches the set if it is old or lacks the key, at most once a minute; requests at that time share the fetch.
    pub(crate) async fn find(&self, address: &Url, key_id: &str) -> Result<Jwk, RequestError> {
        let unknown = || RequestError::ExchangeRefused(JwtError::UnknownKey);
        let cached = self.sets.get(address).ok_or_else(unknown)?;
        let now = self.clock.elapsed();
        if let Some(key) = cached.find(key_id, now, FRESH) {
            return Ok(key);
        }
        let mut attempted = cached.attempted.lock().await;
        if attempted.is_none_or(|attempted| now.saturating_sub(attempted) >= FETCH_INTERVAL) {
            *attempted = Some(now);
            match timeout(DEADLINE, self.fetch(address)).await.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
                Ok(keys) => *cached.keys.lock().unwrap_or_else(PoisonError::into_inner) = Some((Arc::new(keys), now)),
                Err(error) => tracing::warn!(issuer.keys = %address, error, "keys of issuer not fetched"),
            }
        }
        let found = cached.find(key_id, now, MAX_STALE);
        found.ok_or_else(|| if cached.is_empty() { RequestError::KeysUnavailable } else { unknown() })
    }

    async fn fetch(&self, address: &Url) -> Result<KeySet, String> {
        let request = ClientRequest {
            method: Method::GET,
            url: address.clone(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            reach: self.reach,
        };
        let response = self.client.send(&request).await.map_err(|error| error.to_string())?;
        if response.status != http::StatusCode::OK {
            return Err(format!("unexpected status {}", response.status.as_u16()));
        }
        let document = response.body.collect(MAX_SET_BYTES, None).await.map_err(|error| error.to_string())?;
        KeySet::parse(&document)
    }
}
