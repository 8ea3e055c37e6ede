//! The keys of issuers, fetched from the addresses that the operator named and kept in memory. Follows no redirects.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use jsonwebtoken::jwk::Jwk;
use tokio::sync::Mutex;
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
    sets: HashMap<Url, Mutex<CachedKeys>>,
}

/// Times are by the clock that is never set.
#[derive(Default)]
struct CachedKeys {
    keys: Option<(KeySet, Duration)>,
    attempted: Option<Duration>,
}

impl KeySets {
    pub(crate) fn new(client: HttpClient, clock: Arc<dyn Clock>, addresses: impl Iterator<Item = Url>) -> Self {
        Self { client, clock, sets: addresses.map(|url| (url, Mutex::default())).collect() }
    }

    /// Returns a key. Fetches the set if it is old or lacks the key, at most once a minute; requests at that time share the fetch.
    pub(crate) async fn find(&self, address: &Url, key_id: &str) -> Result<Jwk, RequestError> {
        let unknown = || RequestError::ExchangeRefused(JwtError::UnknownKey);
        let mut cached = self.sets.get(address).ok_or_else(unknown)?.lock().await;
        let now = self.clock.elapsed();
        let find = |cached: &CachedKeys, longest: Duration| {
            let (keys, fetched) = cached.keys.as_ref()?;
            keys.find(key_id).filter(|_| now.saturating_sub(*fetched) < longest).cloned()
        };
        if let Some(key) = find(&cached, FRESH) {
            return Ok(key);
        }
        if cached.attempted.is_none_or(|attempted| now.saturating_sub(attempted) >= FETCH_INTERVAL) {
            cached.attempted = Some(now);
            match timeout(DEADLINE, self.fetch(address)).await.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
                Ok(keys) => cached.keys = Some((keys, now)),
                Err(error) => tracing::warn!(issuer.keys = %address, error, "keys of issuer not fetched"),
            }
        }
        find(&cached, MAX_STALE).ok_or_else(|| if cached.keys.is_some() { unknown() } else { RequestError::KeysUnavailable })
    }

    async fn fetch(&self, address: &Url) -> Result<KeySet, String> {
        let request = ClientRequest {
            method: Method::GET,
            url: address.clone(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            reach: AddressScope::Anywhere,
        };
        let response = self.client.send(&request).await.map_err(|error| error.to_string())?;
        if response.status != http::StatusCode::OK {
            return Err(format!("unexpected status {}", response.status.as_u16()));
        }
        let document = response.body.collect(MAX_SET_BYTES, None).await.map_err(|error| error.to_string())?;
        KeySet::parse(&document)
    }
}
