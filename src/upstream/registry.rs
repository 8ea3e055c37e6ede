//! One registry, with the parts that all requests to it share: credentials, redirects, retries and circuit breakers.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{AUTHORIZATION, DATE, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use moka::sync::Cache;
use tokio::time::Instant;
use url::Url;

use crate::net::{ClientError, ClientRequest, ClientResponse, HostPattern, HttpClient, backoff};
use crate::npm::name::MAX_NAME_BYTES;
use crate::upstream::authorization::{Addressed, Authorization, is_address};
use crate::upstream::circuit_breaker::{Admission, CircuitBreakers, Evidence};
use crate::upstream::config::{Config, RegistryConfig, TimeMode, UpstreamConfigError};
use crate::upstream::credential_source::CredentialCell;
use crate::upstream::credentials::{CredentialRules, Credentials, is_ambiguous, level_of};
use crate::upstream::error::UpstreamError;
use crate::upstream::fetch_target::FetchTarget;
use crate::upstream::response::{header, is_overloaded, is_redirect, remove_npm_headers, retry_delay};

const MAX_REDIRECTS: usize = 5;

/// Maximum number of retries per request to an overloaded server.
const RETRIES: u32 = 2;

/// Deadline of a probe. A client may wait for one, so it is about the patience of a client.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum number of packages remembered as answered per registry. More than an organisation uses.
const MAX_ANSWERED: u64 = 50_000;

pub struct Registry {
    id: Arc<str>,
    pub(crate) url: Url,
    /// Credentials to lend, by the URL they were configured for.
    credentials: ArcSwap<CredentialRules>,
    /// Provides the credentials to lend, instead of those.
    source: Option<CredentialCell>,
    client: HttpClient,
    /// Whether some of them may be sent when a package of this registry is fetched.
    pub(crate) has_credentials: bool,
    /// Whether credentials that clients send to Coldframe are for this registry.
    takes_clients: bool,
    pub(crate) time_mode: TimeMode,
    pub(crate) health: Arc<Health>,
    pub(crate) shared: Arc<RegistryShared>,
}

pub(crate) struct UpstreamRequest<'a> {
    pub(crate) method: Method,
    pub(crate) target: &'a FetchTarget,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) package: Option<&'a str>,
}

/// Hosts that packuments and redirects may name in addition to the registry's own.
pub(crate) struct Hosts {
    pub(crate) tarball: Vec<HostPattern>,
    pub(crate) redirect: Vec<HostPattern>,
}

impl Hosts {
    pub(crate) fn of(config: &Config) -> Self {
        Self { tarball: config.tarball_hosts.clone(), redirect: config.redirect_hosts.clone() }
    }

    pub(crate) fn texts(&self) -> [Vec<String>; 2] {
        [&self.tarball, &self.redirect].map(|hosts| hosts.iter().map(ToString::to_string).collect())
    }
}

pub(crate) struct RegistryShared {
    pub(crate) client: HttpClient,
    pub(crate) hosts: ArcSwap<Hosts>,
    pub(crate) packument_limit: u64,
    pub(crate) tarball_limit: u64,
    pub(crate) addresses: Vec<Url>,
    /// The observed state of each registry, by its id.
    pub(crate) health: Mutex<HashMap<Arc<str>, Arc<Health>>>,
}

/// The observed state of one registry, shared by all scopes that use it.
pub(crate) struct Health {
    pub(crate) circuits: Arc<CircuitBreakers>,
    retries: RetryBudget,
    /// Packages that it answered before.
    answered: Cache<Box<str>, ()>,
    heard: Mutex<Option<std::time::Instant>>,
}

/// Limits retries to a tenth of the answered requests plus an initial 20, so that they do not triple the load of a busy server.
struct RetryBudget(AtomicU32);

impl RetryBudget {
    const WHOLE: u32 = 10;
    const MAX_TOKENS: u32 = 20 * Self::WHOLE;

    fn earn(&self) {
        let more = |tenths: u32| (tenths < Self::MAX_TOKENS).then_some(tenths + 1);
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    fn spend(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tenths| tenths.checked_sub(Self::WHOLE)).is_ok()
    }
}

impl RegistryShared {
    /// Returns the state of a registry. All scopes with the same URL share it.
    fn health_of(&self, id: &Arc<str>) -> Arc<Health> {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            let retries = RetryBudget(AtomicU32::new(RetryBudget::MAX_TOKENS));
            let (circuits, answered, heard) = (Arc::default(), Cache::new(MAX_ANSWERED), Mutex::default());
            Arc::new(Health { circuits, retries, answered, heard })
        };
        Arc::clone(health.entry(Arc::clone(id)).or_insert_with(new))
    }
}

impl Registry {
    /// Creates the registry of `config`. `bound` are the registries that receive clients' own credentials, `client` connects.
    pub(crate) fn open(
        config: &RegistryConfig,
        all: &Config,
        (bound, client): (&[Url], HttpClient),
        shared: &Arc<RegistryShared>,
    ) -> Result<Self, UpstreamConfigError> {
        let url = config.address();
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
            return Err(UpstreamConfigError::Address { url: url.into(), origin: config.origin.clone() });
        }
        let credentials = lent_by(config, all)?;
        let has_credentials = config.source.is_some() || reaches(&credentials, &url, &shared.hosts.load());
        let source = config.source.clone().map(CredentialCell::new);
        let credentials = ArcSwap::from_pointee(credentials);
        let takes_clients = bound.contains(&url);
        let id = Arc::<str>::from(url.as_str());
        let (health, shared) = (shared.health_of(&id), Arc::clone(shared));
        let time_mode = config.time_mode;
        Ok(Self { id, url, credentials, source, client, has_credentials, takes_clients, time_mode, health, shared })
    }

    /// Returns the registry's URL without credentials, ending in `/`. It is the key in the ledger and safe to display.
    pub(crate) fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// Checks whether the credentials of a client are for this registry, depending on what the client addressed.
    pub(crate) fn takes_clients(&self, addressed: &Addressed) -> bool {
        match addressed {
            Addressed::Coldframe => self.takes_clients,
            Addressed::Host(base) => is_address(&self.id, base),
            Addressed::Named(base) => {
                let is_registry = self.shared.addresses.iter().any(|other| is_address(other.as_str(), base));
                if is_registry { is_address(&self.id, base) } else { self.takes_clients }
            }
        }
    }

    /// Returns the credentials for a request to this registry. A client's own are used only if they are for it.
    pub(crate) fn select_authorization<'a>(&self, authorization: &'a Authorization) -> &'a Authorization {
        match authorization {
            Authorization::Own(own) if self.takes_clients(&own.addressed) => authorization,
            Authorization::Own(own) if own.borrows => &Authorization::Lent,
            Authorization::Own(_) => &Authorization::None,
            Authorization::Lent | Authorization::None => authorization,
        }
    }

    /// Replaces the lent credentials. Returns whether they changed.
    pub(crate) fn set_credentials(&self, rules: CredentialRules) -> bool {
        let changed = **self.credentials.load() != rules;
        if changed {
            self.credentials.store(Arc::new(rules));
        }
        changed
    }

    /// Checks whether a source provides the lent credentials.
    pub(crate) fn has_source(&self) -> bool {
        self.source.is_some()
    }

    pub(crate) fn last_heard(&self) -> Option<std::time::Instant> {
        *self.health.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn hosts(&self) -> Arc<Hosts> {
        self.shared.hosts.load_full()
    }

    /// Returns the URL of `path` below the registry's URL; `None` if it leads out of it.
    pub(crate) fn below(&self, path: &str) -> Option<Url> {
        let url = Url::parse(&format!("{}{path}", self.url)).ok()?;
        url.path().starts_with(self.url.path()).then_some(url)
    }

    /// Sends a GET and follows allowed redirects. Returns the final target with the response, for error messages.
    pub(crate) async fn get(
        &self,
        mut target: FetchTarget,
        headers: HeaderMap,
        authorization: &Authorization,
    ) -> Result<(FetchTarget, ClientResponse), UpstreamError> {
        let package = self.package_of(&target.url);
        for _ in 0..=MAX_REDIRECTS {
            target.with_credentials |= self.authorize(authorization, &target).await?.is_some();
            let response = self.send_with_retry(&target, &headers, authorization, package.as_deref()).await?;
            if !is_redirect(response.status) {
                if let Some(package) =
                    package.filter(|_| response.status.is_success() || response.status == StatusCode::NOT_MODIFIED)
                {
                    self.health.answered.insert(package, ());
                }
                return Ok((target, response));
            }
            let Some(location) = response.headers.get(LOCATION).and_then(|location| location.to_str().ok()) else {
                return Err(UpstreamError::Broken { host: target.host(), detail: "redirect without a valid `Location`".into() });
            };
            let next = target.redirected(location, &self.hosts().redirect)?;
            if self.is_of_another(&next.url) {
                let (host, to, detail) =
                    (target.host(), next.host(), "the address belongs to another configured registry".into());
                return Err(UpstreamError::Redirected { host, to, detail });
            }
            target = next;
        }
        let to = target.host();
        let detail = format!("more than {MAX_REDIRECTS} redirects in a row").into();
        Err(UpstreamError::Redirected { host: Arc::clone(&to), to, detail })
    }

    /// Sends one request. Lent credentials are sent to the URLs they were configured for, a client's own only to the registry.
    ///
    /// A failure counts fully only for packages that the registry ever answered: clients can request any number that always fail.
    pub(crate) async fn send(
        &self,
        request: UpstreamRequest<'_>,
        authorization: &Authorization,
    ) -> Result<ClientResponse, UpstreamError> {
        let UpstreamRequest { method, target, mut headers, body, package } = request;
        headers.remove(AUTHORIZATION);
        if let Some(value) = self.authorize(authorization, target).await? {
            headers.insert(AUTHORIZATION, value);
        }
        if !self.is_own_url(target) {
            // They include one-time passwords.
            remove_npm_headers(&mut headers);
        }
        let (host, circuits) = (target.host(), &self.health.circuits);
        if circuits.check(&host, Instant::now())? == Admission::Trial {
            self.probe(target, &host).await;
            circuits.check(&host, Instant::now())?;
        }
        let request = ClientRequest { method, url: target.url.clone(), headers, body, reach: target.reach };
        let heard = || *self.health.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(std::time::Instant::now());
        let sent = if target.trusted { self.client.send_with(&request, &heard).await } else { self.client.send(&request).await };
        if let (Some(source), Ok(response)) = (&self.source, &sent)
            && response.status == StatusCode::UNAUTHORIZED
            && *self.select_authorization(authorization) == Authorization::Lent
        {
            source.refused();
        }
        let known = package.filter(|package| self.health.answered.contains_key(*package)).map(Evidence::Package);
        match &sent {
            Ok(response) if is_overloaded(response.status) => {
                if let Some(known) = known {
                    circuits.record_failure(&host, known, &response.status.to_string(), Instant::now());
                }
            }
            Err(error) if error.is_local() => {}
            Err(error @ ClientError::Unreachable { .. }) => {
                circuits.record_failure(&host, Evidence::Connection, &error.to_string(), Instant::now());
            }
            Err(error) if error.is_outage() => match known {
                Some(known) => circuits.record_failure(&host, known, &error.to_string(), Instant::now()),
                None if circuits.suspects(&host, Instant::now()) => self.probe(target, &host).await,
                None => {}
            },
            _ => circuits.record_success(&host),
        }
        sent.map_err(|error| UpstreamError::from_client(&host, &error))
    }

    /// Probes the host of `target` with a URL that no client chose, and records the result.
    async fn probe(&self, target: &FetchTarget, host: &Arc<str>) {
        let own = self.below("-/ping").filter(|_| target.trusted);
        let url = own.or_else(|| target.url.join("/").ok()).unwrap_or_else(|| target.url.clone());
        let request =
            ClientRequest { method: Method::GET, url, headers: HeaderMap::new(), body: Bytes::new(), reach: target.reach };
        let result = tokio::time::timeout(PROBE_TIMEOUT, self.client.send(&request)).await;
        let why = match result {
            Ok(Ok(response)) if is_overloaded(response.status) => response.status.to_string(),
            Ok(Err(error)) if error.is_outage() => error.to_string(),
            // A local error says nothing about the host. The next probe follows after the delay.
            Ok(Err(error)) if error.is_local() => return,
            Ok(_) => return self.health.circuits.answered_probe(host, Instant::now()),
            Err(_) => ClientError::TimedOut { after: PROBE_TIMEOUT }.to_string(),
        };
        self.health.circuits.record_failure(host, Evidence::Probe, &why, Instant::now());
    }

    /// Returns the package that a URL of this registry is about, by npm's conventions.
    fn package_of(&self, url: &Url) -> Option<Box<str>> {
        if url.origin() != self.url.origin() {
            return None;
        }
        let path = url.path().strip_prefix(self.url.path())?;
        let name = percent_encoding::percent_decode_str(path.split("/-/").next()?).decode_utf8().ok()?;
        let parts = name.split('/').count();
        let is_name = !name.is_empty() && name.len() <= MAX_NAME_BYTES && !name.starts_with('-');
        (is_name && (parts == 1 || (parts == 2 && name.starts_with('@')))).then(|| Box::from(&*name))
    }

    /// Sends a GET. Retries it if the server is overloaded, within the retry budget and unless `Retry-After` is too long.
    async fn send_with_retry(
        &self,
        target: &FetchTarget,
        headers: &HeaderMap,
        authorization: &Authorization,
        package: Option<&str>,
    ) -> Result<ClientResponse, UpstreamError> {
        let mut attempt = 0;
        loop {
            let (headers, body) = (headers.clone(), Bytes::new());
            let request = UpstreamRequest { method: Method::GET, target, headers, body, package };
            let response = self.send(request, authorization).await?;
            if !is_overloaded(response.status) {
                self.health.retries.earn();
                return Ok(response);
            }
            let value = header(&response.headers, &RETRY_AFTER);
            let wait = value.map_or(Some(backoff(attempt)), |value| retry_delay(value, header(&response.headers, &DATE)));
            let Some(wait) = wait.filter(|_| attempt < RETRIES && self.health.retries.spend()) else { return Ok(response) };
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }

    async fn authorize(&self, authorization: &Authorization, target: &FetchTarget) -> Result<Option<HeaderValue>, UpstreamError> {
        Ok(match (self.select_authorization(authorization), &self.source) {
            (Authorization::None, _) => None,
            (Authorization::Lent, None) => self.lent_for(&target.url).map(|Credentials(value)| value),
            (Authorization::Lent, Some(source)) => {
                if !target.trusted || !self.is_below(&target.url) {
                    return Ok(None);
                }
                let failed = |why| UpstreamError::NoCredentials { host: target.host(), why };
                Some(source.current().await.map_err(failed)?.0)
            }
            (Authorization::Own(own), _) => self.own_header(&own.header, target),
        })
    }

    /// Returns a client's own credentials if the target belongs to this registry.
    fn own_header(&self, header: &str, target: &FetchTarget) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_str(header).ok().filter(|_| self.is_own_url(target))?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Checks whether a URL is below that of this registry, however a server decodes its path.
    fn is_below(&self, url: &Url) -> bool {
        url.origin() == self.url.origin() && url.path().starts_with(self.url.path()) && !is_ambiguous(url.path())
    }

    /// Returns the credentials lent for `url`. If the registry uses TLS, they are never sent over plain HTTP.
    fn lent_for(&self, url: &Url) -> Option<Credentials> {
        self.credentials.load().for_url(url).cloned().filter(|_| url.scheme() == "https" || self.url.scheme() == "http")
    }

    /// Returns the target for the tarball URL in a manifest. Fails if its host is not allowed, or if it belongs to another registry:
    /// a package of one must not obtain bytes of another one with its credentials.
    pub(crate) fn tarball_target(&self, stated: &str) -> Result<FetchTarget, UpstreamError> {
        let target = FetchTarget::to_tarball(&self.url, stated, &self.hosts().tarball)?;
        if self.is_of_another(&target.url) {
            let detail = "a tarball URL belongs to another configured registry".into();
            return Err(UpstreamError::Broken { host: target.host(), detail });
        }
        Ok(target)
    }

    /// Checks whether a URL is below that of another configured registry, or may be for a server that decodes its path.
    fn is_of_another(&self, url: &Url) -> bool {
        if self.shared.addresses.len() < 2 {
            return false;
        }
        let nearest = self.nearest(url);
        let has_neighbours = || self.shared.addresses.iter().any(|base| *base != self.url && base.origin() == url.origin());
        nearest.is_some_and(|nearest| *nearest != self.url) || (is_ambiguous(url.path()) && has_neighbours())
    }

    /// Returns the configured registry with the longest URL above `url`.
    fn nearest(&self, url: &Url) -> Option<&Url> {
        let covers = |base: &&Url| base.origin() == url.origin() && url.path().starts_with(base.path());
        self.shared.addresses.iter().filter(covers).max_by_key(|base| base.path().len())
    }

    /// Checks whether a target belongs to this registry: same host and port, and not below the URL of another registry there.
    fn is_own_url(&self, target: &FetchTarget) -> bool {
        let url = &target.url;
        target.trusted
            && url.host_str() == self.url.host_str()
            && !is_ambiguous(url.path())
            && self.nearest(url).is_none_or(|nearest| *nearest == self.url)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Registry").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Returns the credentials lent to requests to a registry: those of the configuration and the registry's own.
pub(crate) fn lent_by(config: &RegistryConfig, all: &Config) -> Result<CredentialRules, UpstreamConfigError> {
    let own = match &config.credentials {
        Some(credentials) => Some(credentials.clone()),
        None => Credentials::from_url(&config.url)
            .map_err(|source| UpstreamConfigError::Credentials { origin: config.origin.clone(), source })?,
    };
    if config.source.is_some() {
        return Ok(CredentialRules::default());
    }
    let mut rules = all.credentials.clone();
    if let Some(own) = own {
        rules.insert(&level_of(&config.address()), own);
    }
    Ok(rules)
}

/// Checks whether some of `credentials` may be sent when a package of the registry at `url` is fetched.
pub(crate) fn reaches(credentials: &CredentialRules, url: &Url, hosts: &Hosts) -> bool {
    credentials.addresses(url.scheme()).any(|place| {
        let is_own = place.host_str() == url.host_str() && place.port_or_known_default() == url.port_or_known_default();
        is_own || [&hosts.tarball, &hosts.redirect].iter().any(|hosts| HostPattern::reach_of(hosts, &place).is_some())
    })
}
