//! Renews what signatures and provenance are verified with, from a TUF repository. Off the request path, once a day.
//!
//! Metadata is kept in the data directory, so that an older state of the repository is refused after a restart too. What cannot be
//! renewed stays as it is.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use jiff::Timestamp;
use sigstore_tuf::cache::FileStore;
use sigstore_tuf::client::Updater;
use sigstore_tuf::transport::{FetchFuture, Repository, UpdaterConfig};
use url::Url;

use crate::app::core::Core;
use crate::app::outbound;
use crate::app::supervisor::TaskEnd;
use crate::app::tasks::due;
use crate::config::Config;
use crate::firewall::TrustUpdates;
use crate::net::{AddressScope, ClientRequest, HttpClient};
use crate::server::admin::HealthChecks;
use crate::text::single_line;
use crate::upstream::{RegistryConfig, npmrc};
use crate::vetting::provenance::TrustRoot;
use crate::vetting::signatures::{KeyRing, TrustSource};

const DAILY: Duration = Duration::from_secs(24 * 3600);

/// The delay after a failed renewal.
const RETRY_DELAY: Duration = Duration::from_secs(3600);

/// The time limit of one renewal, which makes about eight requests.
const DEADLINE: Duration = Duration::from_secs(60);

/// The largest target, in bytes. Those of Sigstore are below 10 kB.
const MAX_TARGET_BYTES: u64 = 1 << 20;

/// The target that lists authorities and logs.
const ROOT_TARGET: &str = "trusted_root.json";

/// Renews what the firewall trusts from one repository.
#[derive(Clone)]
pub(crate) struct TrustRenewal {
    core: Core,
    source: TrustRepository,
    /// Why the last renewal failed.
    failure: Arc<Mutex<Option<String>>>,
}

/// A repository, its root metadata, and where verified metadata is kept.
#[derive(Clone)]
struct TrustRepository {
    updates: TrustUpdates,
    client: HttpClient,
    store: PathBuf,
    /// The registries, whose addresses name the targets with their keys.
    registries: Vec<Url>,
}

/// What a repository has. A part that it does not have is `None`.
#[derive(Debug)]
struct RenewedTrust {
    keys: Option<Arc<KeyRing>>,
    root: Option<Arc<TrustRoot>>,
}

impl TrustRenewal {
    /// Returns `None` if no repository is configured.
    pub(crate) fn open(core: &Core, config: &Config) -> Option<Self> {
        let registries = config.upstream.registries().map(RegistryConfig::address);
        let source = TrustRepository {
            updates: config.firewall.trust_updates.clone()?,
            client: HttpClient::new(&outbound::like_upstream(&config.upstream, &core.trust)),
            store: config.store.data_dir.join("trust"),
            // A mirror passes on what npm's registry signed.
            registries: registries.chain([npmrc::npm_default_registry()]).collect(),
        };
        Some(Self { core: core.clone(), source, failure: Arc::default() })
    }

    /// A failure is a warning only: what is known stays in use, and nothing is refused for it.
    pub(crate) fn add_checks(&self, checks: &mut HealthChecks) {
        let failure = Arc::clone(&self.failure);
        checks.warn("trust", move || failure.lock().unwrap_or_else(PoisonError::into_inner).clone().map_or(Ok(()), Err));
    }

    /// Renews daily, until it is dropped.
    pub(crate) async fn run(self) -> TaskEnd {
        loop {
            let delay = if self.renew().await { DAILY } else { RETRY_DELAY };
            due::wait(&*self.core.clock, delay).await;
        }
    }

    /// Renews once. Returns whether that succeeded.
    async fn renew(&self) -> bool {
        let (core, repository) = (&self.core, &self.source.updates.repository);
        let renewed = tokio::time::timeout(DEADLINE, self.source.fetch(core.clock.now())).await;
        let renewed = renewed.unwrap_or_else(|_| Err(format!("no answer within {} s", DEADLINE.as_secs())));
        let failure = match renewed {
            Ok(RenewedTrust { keys, root }) => {
                if core.firewall.renew_trust(keys.as_ref(), root.as_ref()) {
                    tracing::info!(trust.repository = %repository, "trust renewed");
                }
                None
            }
            Err(error) => {
                tracing::warn!(trust.repository = %repository, error, "trust not renewed");
                Some(format!("keys and authorities were not renewed from {repository}: {}", single_line(&error)))
            }
        };
        let is_renewed = failure.is_none();
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
        is_renewed
    }
}

impl TrustRepository {
    /// Updates the metadata and returns what it vouches for. Fails if any part is expired, older than before, or not signed.
    async fn fetch(&self, now: Timestamp) -> Result<RenewedTrust, String> {
        let transport = TufTransport { client: self.client.clone(), base: self.updates.repository.clone() };
        let mut limits = UpdaterConfig::default();
        limits.target_max_length = MAX_TARGET_BYTES;
        let updater = Updater::new(transport, &self.updates.root).map_err(|error| error.to_string())?;
        let mut updater = updater.with_config(limits).with_store(FileStore::new(&self.store));
        updater.refresh(now).await.map_err(|error| error.to_string())?;
        let root = match target(&mut updater, ROOT_TARGET, now).await? {
            Some(document) => {
                Some(Arc::new(TrustRoot::parse(&document, TrustSource::Repository).map_err(|error| error.to_string())?))
            }
            None => None,
        };
        for registry in &self.registries {
            let Some(name) = keys_target(registry) else { continue };
            if let Some(document) = target(&mut updater, &name, now).await? {
                let keys = KeyRing::parse(&document, TrustSource::Repository).map_err(|error| error.to_string())?;
                return Ok(RenewedTrust { keys: Some(Arc::new(keys)), root });
            }
        }
        Ok(RenewedTrust { keys: None, root })
    }
}

/// Returns a verified target; `None` if the repository does not list it.
async fn target(updater: &mut Updater, name: &str, now: Timestamp) -> Result<Option<Vec<u8>>, String> {
    match updater.get_target(name, now).await {
        Ok(document) => Ok(Some(document)),
        Err(sigstore_tuf::Error::TargetNotFound(_)) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// Returns the name of the target with a registry's keys: its host and path, and `keys.json`.
fn keys_target(registry: &Url) -> Option<String> {
    Some(format!("{}{}/keys.json", registry.host_str()?, registry.path().trim_end_matches('/')))
}

/// Requests to a repository: metadata is at its address, targets in `targets/`. Follows no redirects.
struct TufTransport {
    client: HttpClient,
    base: Url,
}

impl TufTransport {
    async fn fetch(&self, path: String, limit: u64) -> Result<Option<Vec<u8>>, sigstore_tuf::Error> {
        let url = outbound::below(&self.base, &path);
        let failed = |error: String| sigstore_tuf::Error::transport(format!("cannot fetch `{path}`: {error}"));
        let request = ClientRequest {
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            reach: AddressScope::Anywhere,
        };
        let response = self.client.send(&request).await.map_err(|error| failed(error.to_string()))?;
        match response.status.as_u16() {
            200 => {
                let body = response.body.collect(limit, None).await.map_err(|error| failed(error.to_string()))?;
                Ok(Some(body.to_vec()))
            }
            403 | 404 | 410 => Ok(None),
            status => Err(failed(format!("unexpected status {status}"))),
        }
    }
}

impl Repository for TufTransport {
    fn fetch_metadata<'a>(&'a self, name: &'a str, max_length: u64) -> FetchFuture<'a> {
        Box::pin(self.fetch(name.to_owned(), max_length))
    }

    fn fetch_target<'a>(&'a self, path: &'a str, max_length: u64) -> FetchFuture<'a> {
        Box::pin(self.fetch(format!("targets/{path}"), max_length))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use http::HeaderValue;
    use serde_json::{Map, Value, json};
    use sigstore_tuf::canonical_json::to_canonical_bytes;

    use super::*;
    use crate::net::testing::{ScriptedServer, ServerAction, TestIdentity, answer};
    use crate::net::{ClientConfig, Deadlines, ProxySettings};
    use crate::npm::{Algorithm, Digest};
    use crate::units::timestamp;

    const SOON: &str = "2027-01-01T00:00:00Z";
    const KEYS: &str = "registry.example/keys.json";

    /// A repository whose one key signs all roles.
    struct Publisher(EcdsaKeyPair);

    impl Publisher {
        fn new() -> Self {
            Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap())
        }

        fn pem(&self) -> String {
            let prefix = STANDARD.decode("MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE").unwrap();
            let der = [&prefix[..26], self.0.public_key().as_ref()].concat();
            format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
        }

        fn signed(&self, signed: &Value) -> Vec<u8> {
            let signature = self.0.sign(&SystemRandom::new(), &to_canonical_bytes(signed).unwrap()).unwrap();
            let digits: String = signature.as_ref().iter().flat_map(|byte| [byte >> 4, byte & 15]).map(digit).collect();
            json!({ "signed": signed, "signatures": [{ "keyid": "key", "sig": digits }] }).to_string().into_bytes()
        }

        fn root(&self, expires: &str) -> Vec<u8> {
            let role = json!({ "keyids": ["key"], "threshold": 1 });
            let key = json!({ "keytype": "ecdsa", "scheme": "ecdsa-sha2-nistp256", "keyval": { "public": self.pem() } });
            self.signed(&json!({
                "_type": "root", "spec_version": "1.0.31", "version": 1, "expires": expires, "consistent_snapshot": false,
                "keys": { "key": key }, "roles": { "root": role, "timestamp": role, "snapshot": role, "targets": role },
            }))
        }

        /// The files of the repository, in this version of all metadata.
        fn files(&self, version: u64, expires: &str, targets: &[(&str, &[u8])]) -> HashMap<String, Vec<u8>> {
            let listed = targets.iter().map(|(name, document)| {
                let sha256 = Digest::of(Algorithm::Sha256, document).to_hex();
                ((*name).to_owned(), json!({ "length": document.len(), "hashes": { "sha256": sha256 } }))
            });
            let roles = [
                ("timestamp", "meta", json!({ "snapshot.json": { "version": version } })),
                ("snapshot", "meta", json!({ "targets.json": { "version": version } })),
                ("targets", "targets", Value::Object(listed.collect::<Map<_, _>>())),
            ];
            let files = roles.map(|(kind, member, value)| {
                let signed = json!({
                    "_type": kind, "spec_version": "1.0.31", "version": version, "expires": expires, member: value,
                });
                (format!("/{kind}.json"), self.signed(&signed))
            });
            let targets = targets.iter().map(|(name, document)| (format!("/targets/{name}"), document.to_vec()));
            files.into_iter().chain(targets).collect()
        }
    }

    fn digit(nibble: u8) -> char {
        char::from_digit(nibble.into(), 16).unwrap()
    }

    /// Serves these files, and 404 for others.
    async fn serve(files: HashMap<String, Vec<u8>>) -> ScriptedServer {
        ScriptedServer::plain(move |request, _| {
            let path = request.line().split(' ').nth(1).unwrap_or_default();
            ServerAction::Say(match files.get(path) {
                Some(body) => answer("200 OK", &[], body),
                None => answer("404 Not Found", &[], b""),
            })
        })
        .await
    }

    /// Fetches from a server with this root and store, at the end of November 2026.
    async fn fetch(server: &ScriptedServer, root: Vec<u8>, store: &tempfile::TempDir) -> Result<RenewedTrust, String> {
        let client = HttpClient::new(&ClientConfig {
            deadlines: Deadlines::default(),
            proxies: ProxySettings::none(),
            tls: TestIdentity::no_roots(),
            user_agent: HeaderValue::from_static("trial/1"),
        });
        let source = TrustRepository {
            updates: TrustUpdates { repository: Url::parse(&server.url()).unwrap(), root },
            client,
            store: store.path().join("trust"),
            registries: vec![Url::parse("https://other.example/").unwrap(), Url::parse("https://registry.example/").unwrap()],
        };
        source.fetch(timestamp::parse("2026-11-30T00:00:00Z").unwrap()).await
    }

    /// A file with the publisher's own key as the registry's.
    fn keys(publisher: &Publisher) -> Vec<u8> {
        let raw = publisher.pem().lines().nth(1).unwrap().to_owned();
        let key =
            json!({ "rawBytes": raw, "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": { "start": "1999-01-01T00:00:00Z" } });
        json!({ "keys": [{ "keyId": "SHA256:new", "keyUsage": "npm:signatures", "publicKey": key }] }).to_string().into_bytes()
    }

    #[test]
    fn target_is_named_after_host_and_path() {
        for (registry, target) in [
            ("https://registry.example/", KEYS),
            ("https://registry.example:8443/npm/main/", "registry.example/npm/main/keys.json"),
        ] {
            assert_eq!(keys_target(&Url::parse(registry).unwrap()).as_deref(), Some(target));
        }
    }

    #[tokio::test]
    async fn keys_of_the_registry_are_renewed() {
        let (publisher, store) = (Publisher::new(), tempfile::tempdir().unwrap());
        let server = serve(publisher.files(1, SOON, &[(KEYS, &keys(&publisher))])).await;
        let renewed = fetch(&server, publisher.root(SOON), &store).await.unwrap();
        assert!(renewed.root.is_none());
        let ring = renewed.keys.unwrap();
        assert_eq!((ring.len(), ring.source), (1, TrustSource::Repository));
    }

    #[tokio::test]
    async fn older_metadata_is_refused_also_after_a_restart() {
        let (publisher, store) = (Publisher::new(), tempfile::tempdir().unwrap());
        let server = serve(publisher.files(2, SOON, &[(KEYS, &keys(&publisher))])).await;
        fetch(&server, publisher.root(SOON), &store).await.unwrap();
        let server = serve(publisher.files(1, SOON, &[(KEYS, &keys(&publisher))])).await;
        fetch(&server, publisher.root(SOON), &store).await.unwrap_err();
    }

    #[tokio::test]
    async fn expired_forged_and_changed_files_are_refused() {
        let (publisher, other, past) = (Publisher::new(), Publisher::new(), "2026-01-01T00:00:00Z");
        let listed = keys(&publisher);
        let honest = || publisher.files(1, SOON, &[(KEYS, &listed)]);
        let mut changed = honest();
        changed.insert(format!("/targets/{KEYS}"), keys(&other));
        let mut junk = honest();
        junk.insert("/timestamp.json".to_owned(), vec![b'['; 10_000]);
        let mut huge = honest();
        huge.insert("/timestamp.json".to_owned(), vec![b' '; 1 << 20]);
        for (what, files, root) in [
            ("a root that is too old", honest(), publisher.root(past)),
            ("another root", honest(), other.root(SOON)),
            ("a frozen repository", publisher.files(1, past, &[(KEYS, &listed)]), publisher.root(SOON)),
            ("metadata of another key", other.files(1, SOON, &[(KEYS, &listed)]), publisher.root(SOON)),
            ("a changed target", changed, publisher.root(SOON)),
            ("junk", junk, publisher.root(SOON)),
            ("a huge file", huge, publisher.root(SOON)),
            ("no file", HashMap::new(), publisher.root(SOON)),
            ("junk as the root", honest(), b"{}".to_vec()),
            ("keys that are not usable", publisher.files(1, SOON, &[(KEYS, b"{}")]), publisher.root(SOON)),
        ] {
            let (server, store) = (serve(files).await, tempfile::tempdir().unwrap());
            assert!(fetch(&server, root, &store).await.is_err(), "{what}");
        }
    }

    #[tokio::test]
    async fn redirects_are_not_followed() {
        let (publisher, store) = (Publisher::new(), tempfile::tempdir().unwrap());
        let server =
            ScriptedServer::plain(|_, _| ServerAction::Say(answer("302 Found", &["location: http://127.0.0.1:1/"], b""))).await;
        let error = fetch(&server, publisher.root(SOON), &store).await.unwrap_err();
        assert!(error.contains("302"), "{error}");
    }
}
