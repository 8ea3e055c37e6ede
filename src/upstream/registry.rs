//! Registries and their selection by package, with the parts that all requests share: credentials, redirects, retries and circuit
//! breakers.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{AUTHORIZATION, DATE, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use moka::sync::Cache;
use tokio::time::Instant;
use url::Url;

use crate::net::HostPattern;
use crate::net::{ClientConfig, ClientError, ClientRequest, ClientResponse, ConnectStage, HttpClient, TlsTrust, backoff};
use crate::npm::PackageName;
use crate::text::ascii_line;
use crate::upstream::authorization::{Addressed, Authorization, is_address};
use crate::upstream::circuit_breaker::{Admission, AllCircuits, CircuitBreakers, Evidence};
use crate::upstream::config::address;
use crate::upstream::config::{Config, RegistryConfig, SettingOrigin, TimeMode, UpstreamConfigError};
use crate::upstream::credentials::is_ambiguous;
use crate::upstream::credentials::{CredentialRules, Credentials};
use crate::upstream::fetch_target::FetchTarget;
use crate::upstream::{UpstreamError, passthrough};

/// Maximum number of redirects followed in a row.
const MAX_REDIRECTS: usize = 5;

/// Maximum number of retries per request to an overloaded server, and the longest `Retry-After` to wait for.
const RETRIES: u32 = 2;
const MAX_RETRY_DELAY: Duration = Duration::from_secs(2);

/// Deadline of a probe. A client may wait for one, so it is about the patience of a client.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum number of packages remembered as answered per registry. More than an organisation uses.
const MAX_ANSWERED: u64 = 50_000;

/// Maximum length of a package name on a registry.
const MAX_NAME_BYTES: usize = 214;

/// Maximum bytes read from an error's body, and maximum length of the message passed on.
pub(crate) const ERROR_BODY: u64 = 64 << 10;
const ERROR_MESSAGE: usize = 200;

pub struct Registry {
    id: Arc<str>,
    origin: SettingOrigin,
    pub(crate) url: Url,
    /// Credentials to lend, by the URL they were configured for.
    credentials: ArcSwap<CredentialRules>,
    /// Whether some of them may be sent when a package of this registry is fetched.
    has_credentials: bool,
    /// Whether credentials that clients send to Coldframe are for this registry.
    takes_clients: bool,
    time_mode: TimeMode,
    health: Arc<Health>,
    shared: Arc<RegistryShared>,
}

/// Hosts that packuments and redirects may name in addition to the registry's own.
pub(crate) struct Hosts {
    /// Hosts of tarballs.
    pub(crate) tarball: Vec<HostPattern>,
    /// Hosts that redirects may name.
    redirect: Vec<HostPattern>,
}

/// What changed with a reloaded configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Renewed {
    pub hosts: bool,
    pub credentials: bool,
    /// Whether nothing was applied because a restart is needed: a registry would gain its first or lose its last credentials, so
    /// cached data would belong to another view.
    pub needs_restart: bool,
}

/// The observed state of one registry, shared by all scopes that use it.
struct Health {
    circuits: Arc<CircuitBreakers>,
    retries: RetryBudget,
    /// Packages that it answered before.
    answered: Cache<Box<str>, ()>,
    heard: Mutex<Option<std::time::Instant>>,
}

impl Health {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            circuits: Arc::default(),
            retries: RetryBudget::default(),
            answered: Cache::new(MAX_ANSWERED),
            heard: Mutex::default(),
        })
    }
}

/// State shared by all registries.
struct RegistryShared {
    client: HttpClient,
    hosts: ArcSwap<Hosts>,
    packument_limit: u64,
    tarball_limit: u64,
    addresses: Vec<Url>,
    /// The observed state of each registry, by its id.
    health: Mutex<HashMap<Arc<str>, Arc<Health>>>,
}

impl RegistryShared {
    /// Returns the state of a registry. All scopes with the same URL share it.
    fn health_of(&self, id: &Arc<str>) -> Arc<Health> {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(health.entry(Arc::clone(id)).or_insert_with(Health::new))
    }
}

impl Registry {
    /// Returns the registry's URL without credentials, ending in `/`. It is the key in the ledger and safe to display.
    #[must_use]
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// Returns where the registry was configured.
    #[must_use]
    pub fn origin(&self) -> &SettingOrigin {
        &self.origin
    }

    /// Returns how its publish times are used.
    #[must_use]
    pub fn time_mode(&self) -> TimeMode {
        self.time_mode
    }

    /// Returns whether it has credentials to lend.
    #[must_use]
    pub fn has_credentials(&self) -> bool {
        self.has_credentials
    }

    /// Checks whether the credentials of a client are for this registry, depending on what the client addressed.
    #[must_use]
    pub fn takes_clients(&self, addressed: &Addressed) -> bool {
        match addressed {
            Addressed::Coldframe => self.takes_clients,
            Addressed::Host(base) => is_address(&self.id, base),
            Addressed::Named(base) => {
                let is_registry = self.shared.addresses.iter().any(|other| is_address(other.as_str(), base));
                if is_registry { is_address(&self.id, base) } else { self.takes_clients }
            }
        }
    }

    #[must_use]
    pub fn last_heard(&self) -> Option<std::time::Instant> {
        *self.health.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn packument_limit(&self) -> u64 {
        self.shared.packument_limit
    }

    pub(crate) fn tarball_limit(&self) -> u64 {
        self.shared.tarball_limit
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
        mut route: FetchTarget,
        headers: HeaderMap,
        authorization: &Authorization,
    ) -> Result<(FetchTarget, ClientResponse), UpstreamError> {
        let package = self.package_of(&route.url);
        for _ in 0..=MAX_REDIRECTS {
            route.with_credentials |= self.authorize(authorization, &route).is_some();
            let response = self.send_with_retry(&route, &headers, authorization, package.as_deref()).await?;
            if !is_redirect(response.status) {
                if let Some(package) =
                    package.filter(|_| response.status.is_success() || response.status == StatusCode::NOT_MODIFIED)
                {
                    self.health.answered.insert(package, ());
                }
                return Ok((route, response));
            }
            let location = response.headers.get(LOCATION).and_then(|location| location.to_str().ok());
            let Some(location) = location else {
                return Err(UpstreamError::Broken { host: route.host(), detail: "redirect without a valid `Location`".into() });
            };
            route = route.redirected(location, &self.hosts().redirect)?;
        }
        let to = route.host();
        Err(UpstreamError::Redirected {
            host: Arc::clone(&to),
            to,
            detail: format!("more than {MAX_REDIRECTS} redirects in a row").into(),
        })
    }

    /// Sends one request. Lent credentials are sent to the URLs they were configured for, a client's own only to the registry.
    pub(crate) async fn send(
        &self,
        method: Method,
        route: &FetchTarget,
        headers: HeaderMap,
        body: Bytes,
        authorization: &Authorization,
    ) -> Result<ClientResponse, UpstreamError> {
        self.send_about(None, method, route, headers, body, authorization).await
    }

    /// Sends one request about `package`. A failure counts fully only if the registry ever answered for this package, because a
    /// client can request any number of packages that always fail.
    async fn send_about(
        &self,
        package: Option<&str>,
        method: Method,
        route: &FetchTarget,
        mut headers: HeaderMap,
        body: Bytes,
        authorization: &Authorization,
    ) -> Result<ClientResponse, UpstreamError> {
        headers.remove(AUTHORIZATION);
        if let Some(value) = self.authorize(authorization, route) {
            headers.insert(AUTHORIZATION, value);
        }
        if !self.is_own_place(route) {
            // They include one-time passwords.
            passthrough::remove_npms_own(&mut headers);
        }
        let (host, circuits) = (route.host(), &self.health.circuits);
        if circuits.check(&host, Instant::now())? == Admission::Trial {
            self.probe(route, &host).await;
            circuits.check(&host, Instant::now())?;
        }
        let request = ClientRequest { method, url: route.url.clone(), headers, body, reach: route.reach };
        let heard = || *self.health.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(std::time::Instant::now());
        let sent = if route.trusted {
            self.shared.client.send_noting(&request, &heard).await
        } else {
            self.shared.client.send(&request).await
        };
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
                None if circuits.suspects(&host, Instant::now()) => self.probe(route, &host).await,
                None => {}
            },
            _ => circuits.record_success(&host),
        }
        sent.map_err(|error| failure(&host, &error))
    }

    /// Probes the host of `route` with a URL that no client chose, and records the result.
    async fn probe(&self, route: &FetchTarget, host: &Arc<str>) {
        let own = self.below("-/ping").filter(|_| route.trusted);
        let url = own.or_else(|| route.url.join("/").ok()).unwrap_or_else(|| route.url.clone());
        let request =
            ClientRequest { method: Method::GET, url, headers: HeaderMap::new(), body: Bytes::new(), reach: route.reach };
        let result = tokio::time::timeout(PROBE_TIMEOUT, self.shared.client.send(&request)).await;
        let why = match result {
            Ok(Ok(response)) if is_overloaded(response.status) => response.status.to_string(),
            Ok(Err(error)) if error.is_outage() => error.to_string(),
            // A local error says nothing about the host. The next probe follows after the delay.
            Ok(Err(error)) if error.is_local() => return,
            Ok(_) => return self.health.circuits.answered_probe(host, Instant::now()),
            Err(_) => ClientError::TimedOut { after: PROBE_TIMEOUT }.to_string(),
        };
        self.health.circuits.failed_probe(host, &why, Instant::now());
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

    /// Sends a GET and retries it if the server or a gateway is overloaded, within the retry budget and unless `Retry-After` is
    /// too long.
    async fn send_with_retry(
        &self,
        route: &FetchTarget,
        headers: &HeaderMap,
        authorization: &Authorization,
        package: Option<&str>,
    ) -> Result<ClientResponse, UpstreamError> {
        let mut attempt = 0;
        loop {
            let response = self.send_about(package, Method::GET, route, headers.clone(), Bytes::new(), authorization).await?;
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

    fn authorize(&self, authorization: &Authorization, route: &FetchTarget) -> Option<HeaderValue> {
        match authorization.toward(self) {
            Authorization::None => None,
            Authorization::Lent => self.lent_for(&route.url).map(|credentials| credentials.value().clone()),
            Authorization::Own(own) => {
                let mut value = HeaderValue::from_str(&own.header).ok().filter(|_| self.is_own_place(route))?;
                value.set_sensitive(true);
                Some(value)
            }
        }
    }

    /// Returns the credentials lent for `url`. If the registry uses TLS, they are never sent over plain HTTP.
    fn lent_for(&self, url: &Url) -> Option<Credentials> {
        self.credentials.load().for_url(url).cloned().filter(|_| url.scheme() == "https" || self.url.scheme() == "http")
    }

    /// Checks whether a target belongs to this registry: same host and port, and not below the URL of another registry there.
    fn is_own_place(&self, route: &FetchTarget) -> bool {
        let url = &route.url;
        let covers = |base: &Url| base.origin() == url.origin() && url.path().starts_with(base.path());
        let nearest = self.shared.addresses.iter().filter(|base| covers(base)).max_by_key(|base| base.path().len());
        route.trusted
            && url.host_str() == self.url.host_str()
            && !is_ambiguous(url.path())
            && nearest.is_none_or(|nearest| *nearest == self.url)
    }
}

impl Authorization {
    /// Returns the credentials for a request to `registry`. A client's own are used only if they are for this registry.
    #[must_use]
    pub fn toward(&self, registry: &Registry) -> &Self {
        match self {
            Self::Own(own) if registry.takes_clients(&own.addressed) => self,
            Self::Own(own) if own.borrows => &Self::Lent,
            Self::Own(_) => &Self::None,
            Self::Lent | Self::None => self,
        }
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Registry").field("id", &self.id).field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// Selects the registry of a package: its scope's, or the default.
#[derive(Debug)]
pub struct Registries {
    default: Arc<Registry>,
    scoped: HashMap<Box<str>, Arc<Registry>>,
}

impl Registries {
    /// Creates the registries of `config`. Sends nothing.
    ///
    /// # Errors
    /// Returns an error if a URL, scope, user agent or credential is invalid, or if there is an `https` registry and `trust` is
    /// empty.
    pub fn open(config: &Config, trust: &TlsTrust) -> Result<Self, UpstreamConfigError> {
        let every = || std::iter::once(&config.default).chain(config.scoped.values());
        if trust.roots == 0
            && let Some(secure) = every().find(|registry| registry.url.scheme() == "https")
        {
            return Err(UpstreamConfigError::NoRoots { url: secure.address().into(), found: trust.trouble.clone() });
        }
        let user_agent = HeaderValue::from_str(&config.user_agent);
        let user_agent = user_agent.map_err(|_| UpstreamConfigError::UserAgent(config.user_agent.escape_debug().to_string()))?;
        let settings = ClientConfig {
            deadlines: config.deadlines,
            proxies: config.proxies.clone(),
            tls: Arc::clone(&trust.client),
            user_agent,
        };
        let mut addresses: Vec<Url> = every().map(RegistryConfig::address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let shared = Arc::new(RegistryShared {
            client: HttpClient::new(&settings),
            hosts: ArcSwap::from_pointee(Hosts::of(config)),
            packument_limit: config.packument_limit,
            tarball_limit: config.tarball_limit,
            addresses: addresses.clone(),
            health: Mutex::default(),
        });
        let bound = if addresses.len() == 1 { addresses } else { config.client_credentials.iter().map(address).collect() };
        let open = |registry: &RegistryConfig| open(registry, config, &bound, &shared).map(Arc::new);
        let default = open(&config.default)?;
        let mut scoped = HashMap::with_capacity(config.scoped.len());
        for (scope, registry) in &config.scoped {
            if !scope.starts_with('@') || scope.len() == 1 || scope.contains('/') {
                return Err(UpstreamConfigError::Scope(scope.escape_debug().to_string()));
            }
            scoped.insert(scope.as_str().into(), open(registry)?);
        }
        Ok(Self { default, scoped })
    }

    /// Applies the hosts and lent credentials of a reloaded configuration. Registries keep their URLs; a changed URL needs a
    /// restart.
    ///
    /// # Errors
    /// Returns an error and changes nothing if credentials cannot be sent.
    pub fn renew(&self, config: &Config) -> Result<Renewed, UpstreamConfigError> {
        let mut renewed = Renewed::default();
        let (fresh, shared) = (Hosts::of(config), &self.default.shared);
        let mut lent = Vec::new();
        for (registry, configured) in std::iter::once((&self.default, Some(&config.default)))
            .chain(self.scoped.iter().map(|(scope, registry)| (registry, config.scoped.get(&**scope))))
        {
            let Some(configured) = configured.filter(|configured| configured.address() == registry.url) else { continue };
            lent.push((registry, lent_by(configured, config)?));
        }
        let keeps_views = |(registry, rules): &(&Arc<Registry>, CredentialRules)| {
            reaches(rules, &registry.url, &fresh) == registry.has_credentials
        };
        if !lent.iter().all(keeps_views) {
            renewed.needs_restart = true;
            return Ok(renewed);
        }
        if shared.hosts.load().texts() != fresh.texts() {
            shared.hosts.store(Arc::new(fresh));
            renewed.hosts = true;
        }
        for (registry, rules) in lent {
            if **registry.credentials.load() != rules {
                registry.credentials.store(Arc::new(rules));
                renewed.credentials = true;
            }
        }
        Ok(renewed)
    }

    /// Returns the registry of a package.
    #[must_use]
    pub fn of(&self, name: &PackageName) -> &Arc<Registry> {
        name.scope().and_then(|scope| self.scoped.get(scope)).unwrap_or(&self.default)
    }

    /// Returns the URLs of all registries, without credentials.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.default).chain(self.scoped.values()).map(|registry| &**registry.id())
    }

    /// Returns the circuits of all registries.
    #[must_use]
    pub fn circuits(&self) -> AllCircuits {
        let every = std::iter::once(&self.default).chain(self.scoped.values());
        AllCircuits(every.map(|registry| Arc::clone(&registry.health.circuits)).collect())
    }

    /// Returns the registry of packages whose scope has no registry.
    #[must_use]
    pub fn default_registry(&self) -> &Arc<Registry> {
        &self.default
    }

    /// Returns the registry of a request that is not about a package: the one whose URL the client addressed, else the default.
    #[must_use]
    pub fn nameless(&self, addressed: &Addressed) -> &Arc<Registry> {
        let by_address = |base: &Arc<str>| self.all().find(|registry| is_address(&registry.id, base));
        match addressed {
            Addressed::Coldframe => None,
            Addressed::Host(base) | Addressed::Named(base) => by_address(base),
        }
        .unwrap_or(&self.default)
    }

    /// Returns the registry of a request that is not about a package and carries a client's credentials in headers or body. It is
    /// the one of [`Registries::nameless`] if it accepts them, else the only one that does.
    #[must_use]
    pub fn account(&self, addressed: &Addressed) -> Option<&Arc<Registry>> {
        let nameless = self.nameless(addressed);
        if nameless.takes_clients(addressed) {
            return Some(nameless);
        }
        let mut taking = self.all().filter(|registry| registry.takes_clients(addressed));
        let first = taking.next()?;
        taking.all(|other| other.id == first.id).then_some(first)
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Registry>> {
        std::iter::once(&self.default).chain(self.scoped.values())
    }
}

fn open(
    config: &RegistryConfig,
    all: &Config,
    bound: &[Url],
    shared: &Arc<RegistryShared>,
) -> Result<Registry, UpstreamConfigError> {
    let url = config.address();
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(UpstreamConfigError::Address { url: url.into(), origin: config.origin.clone() });
    }
    let credentials = lent_by(config, all)?;
    let has_credentials = reaches(&credentials, &url, &shared.hosts.load());
    let credentials = ArcSwap::from_pointee(credentials);
    let takes_clients = bound.contains(&url);
    let (id, origin) = (Arc::<str>::from(url.as_str()), config.origin.clone());
    let health = shared.health_of(&id);
    let time_mode = config.time_mode;
    Ok(Registry { id, origin, url, credentials, has_credentials, takes_clients, time_mode, health, shared: Arc::clone(shared) })
}

/// Returns the credentials lent to requests to a registry: those of the configuration and the registry's own.
fn lent_by(config: &RegistryConfig, all: &Config) -> Result<CredentialRules, UpstreamConfigError> {
    let own = match &config.credentials {
        Some(credentials) => Some(credentials.clone()),
        None => Credentials::from_url(&config.url)
            .map_err(|source| UpstreamConfigError::Credentials { origin: config.origin.clone(), source })?,
    };
    Ok(match own {
        Some(own) => all.credentials.clone().with(&config.address(), own),
        None => all.credentials.clone(),
    })
}

/// Checks whether some of `credentials` may be sent when a package of the registry at `url` is fetched.
fn reaches(credentials: &CredentialRules, url: &Url, hosts: &Hosts) -> bool {
    credentials.addresses(url.scheme()).any(|place| {
        let is_own = place.host_str() == url.host_str() && place.port_or_known_default() == url.port_or_known_default();
        is_own || [&hosts.tarball, &hosts.redirect].iter().any(|hosts| HostPattern::reach_of(hosts, &place).is_some())
    })
}

impl Hosts {
    fn of(config: &Config) -> Self {
        Self { tarball: config.tarball_hosts.clone(), redirect: config.redirect_hosts.clone() }
    }

    fn texts(&self) -> [Vec<String>; 2] {
        [&self.tarball, &self.redirect].map(|hosts| hosts.iter().map(ToString::to_string).collect())
    }
}

/// Checks whether a status says that the server, or one behind it, cannot answer now.
fn is_overloaded(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502..=504)
}

/// Returns the delay of a `Retry-After`, if it is short enough to wait for while a client waits. A date is compared with the
/// server's own clock, taken from `Date`.
fn retry_delay(retry_after: &str, date: Option<&str>) -> Option<Duration> {
    let until = || {
        let (then, now) = (httpdate::parse_http_date(retry_after).ok()?, httpdate::parse_http_date(date?).ok()?);
        Some(then.duration_since(now).unwrap_or_default())
    };
    retry_after.parse().ok().map(Duration::from_secs).or_else(until).filter(|wait| *wait <= MAX_RETRY_DELAY)
}

/// Limits retries to a tenth of the answered requests plus an initial 20, so that retries do not triple the load of an overloaded
/// server.
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

impl Default for RetryBudget {
    fn default() -> Self {
        Self(AtomicU32::new(Self::MAX_TOKENS))
    }
}

/// Checks whether the status is a redirect.
fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Converts an error of the HTTP client to one that names the host.
pub(crate) fn failure(host: &Arc<str>, error: &ClientError) -> UpstreamError {
    let host = Arc::clone(host);
    match error {
        ClientError::Unreachable { layer, .. } => {
            let hint = match layer {
                ConnectStage::Trust => "; add it with `--upstream-ca FILE`",
                ConnectStage::Reach => "; name the host without `*` to allow a private address",
                ConnectStage::Dns | ConnectStage::Tcp | ConnectStage::Machine | ConnectStage::Proxy | ConnectStage::Tls => "",
            };
            UpstreamError::Unreachable { host, detail: format!("{error}{hint}").into() }
        }
        ClientError::TimedOut { after } => UpstreamError::TimedOut { host, after: *after },
        ClientError::Broken { detail, .. } => UpstreamError::Broken { host, detail: Arc::clone(detail) },
        ClientError::TooLarge { limit } => UpstreamError::TooLarge { host, limit: *limit },
        ClientError::NoRoom(no_room) => (*no_room).into(),
    }
}

/// Converts an unsuccessful response to an error. Reads a bounded part of the body for the message of a denial.
pub(crate) async fn refusal(route: &FetchTarget, response: ClientResponse) -> UpstreamError {
    let host = route.host();
    let status = response.status.as_u16();
    match status {
        404 | 410 => UpstreamError::NotFound,
        401 | 403 => UpstreamError::Denied { host, status, message: message(response).await },
        200..=399 => UpstreamError::Broken { host, detail: format!("unexpected status {status}").into() },
        _ => UpstreamError::Status { host, status, retry_after: retry_after(&response.headers).map(Arc::from) },
    }
}

/// Returns a valid `Retry-After`, normalized to a number of seconds or a date.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<String> {
    let text = header(headers, &RETRY_AFTER)?;
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse::<u32>().ok().map(|seconds| seconds.to_string());
    }
    httpdate::parse_http_date(text).ok().map(httpdate::fmt_http_date)
}

/// Returns a text header of at most 512 bytes.
pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim).filter(|text| !text.is_empty() && text.len() <= 512)
}

/// Returns upstream's message: `error` or `message` of a JSON body, else the reason phrase.
async fn message(response: ClientResponse) -> Arc<str> {
    #[derive(serde::Deserialize)]
    struct ErrorBody {
        error: Option<String>,
        message: Option<String>,
    }
    let phrase = response.reason.clone().or_else(|| response.status.canonical_reason().map(str::to_owned)).unwrap_or_default();
    // If the body cannot be read, the reason phrase is used.
    let body = response.body.collect(ERROR_BODY).await.unwrap_or_default();
    let words = serde_json::from_slice::<ErrorBody>(&body).ok().and_then(|words| words.error.or(words.message));
    message_line(&words.filter(|words| !words.trim().is_empty()).unwrap_or(phrase)).into()
}

/// Converts upstream's message to one short line of ASCII. Runs of whitespace and control characters become one space.
fn message_line(text: &str) -> String {
    let plain: Vec<&str> =
        text.split(|letter: char| letter.is_whitespace() || letter.is_control()).filter(|word| !word.is_empty()).collect();
    ascii_line(&plain.join(" "), ERROR_MESSAGE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::testing::{ScriptedServer, ServerAction, TestIdentity, answer};
    use crate::npm::PackumentForm;
    use crate::upstream::testing;

    fn elsewhere(url: &str) -> RegistryConfig {
        RegistryConfig::new(Url::parse(url).unwrap(), SettingOrigin::BuiltIn)
    }

    #[test]
    fn retry_after_is_parsed_as_seconds_or_as_a_date_of_the_server() {
        let date = Some("Wed, 21 Oct 2015 07:28:00 GMT");
        for (value, date, wait) in [
            ("1", None, Some(1)),
            ("2", date, Some(2)),
            ("3", date, None),
            ("Wed, 21 Oct 2015 07:28:02 GMT", date, Some(2)),
            ("Wed, 21 Oct 2015 07:27:00 GMT", date, Some(0)),
            ("Wed, 21 Oct 2015 07:29:00 GMT", date, None),
            ("Wed, 21 Oct 2015 07:28:02 GMT", None, None),
            ("soon", date, None),
        ] {
            assert_eq!(retry_delay(value, date), wait.map(Duration::from_secs), "{value}");
        }
    }

    #[test]
    fn scopes_have_their_registries_and_others_use_the_default() {
        let mut config = testing::config("http://npm.example/api?x#y");
        config.scoped.insert("@acme".to_owned(), elsewhere("http://acme.example"));
        let registries = Registries::open(&config, &testing::trust(&[])).unwrap();
        let id = |name: &str| registries.of(&PackageName::parse(name).unwrap()).id().to_string();
        assert_eq!(
            (id("@acme/ui"), id("ui"), id("@acmes/ui")),
            ("http://acme.example/".into(), "http://npm.example/api/".into(), "http://npm.example/api/".into())
        );
        assert!(registries.default_registry().has_credentials());
        config.scoped.insert("acme".to_owned(), elsewhere("http://acme.example"));
        assert_eq!(
            Registries::open(&config, &testing::trust(&[])).unwrap_err().to_string(),
            "invalid scope, expected `@scope`: `acme`"
        );
    }

    #[test]
    fn has_credentials_if_some_may_be_sent_for_its_packages() {
        let open = |key: &str, tarball_hosts: &[&str]| {
            let mut config = testing::config("https://npm.example/a/");
            config.default.credentials = None;
            config.credentials.insert(key, Credentials::bearer("t").unwrap());
            config.tarball_hosts = tarball_hosts.iter().map(|host| host.parse().unwrap()).collect();
            let mut trust = testing::trust(&[]);
            trust.roots = 1;
            Registries::open(&config, &trust).unwrap().default_registry().has_credentials()
        };
        assert!(open("npm.example/a/", &[]) && open("npm.example/", &[]) && open("npm.example/b/", &[]));
        assert!(!open("npm.example:8443/a/", &[]) && !open("files.example/", &[]));
        assert!(open("files.example/", &["files.example"]));
    }

    #[test]
    fn client_credentials_are_for_the_only_the_marked_or_the_addressed_registry() {
        let (public, private) = ("http://npm.example/", "http://acme.example/npm/");
        let open = |marked: &[&str], several: bool| {
            let mut config = testing::config(public);
            if several {
                config.scoped.insert("@acme".to_owned(), elsewhere(private));
                config.scoped.insert("@also".to_owned(), elsewhere("http://acme.example/npm"));
            }
            config.client_credentials = marked.iter().map(|url| Url::parse(url).unwrap()).collect();
            Registries::open(&config, &testing::trust(&[])).unwrap()
        };
        let takes = |registries: &Registries, addressed: &Addressed| {
            ["ui", "@acme/ui"].map(|name| registries.of(&PackageName::parse(name).unwrap()).takes_clients(addressed))
        };
        let at = |base: &str| base.trim_end_matches('/').into();
        for (registries, addressed, expected) in [
            (open(&[], false), Addressed::Coldframe, [true, true]),
            (open(&[], false), Addressed::Named(at("https://alias.example/")), [true, true]),
            (open(&[], false), Addressed::Host(at("https://alias.example/")), [false, false]),
            (open(&[], true), Addressed::Coldframe, [false, false]),
            (open(&[private], true), Addressed::Coldframe, [false, true]),
            (open(&["http://acme.example/npm"], true), Addressed::Coldframe, [false, true]),
            (open(&[private], true), Addressed::Host(at(public)), [true, false]),
            (open(&[public], true), Addressed::Host(at(private)), [false, true]),
            (open(&[public], true), Addressed::Named(at(private)), [false, true]),
            (open(&[public], true), Addressed::Named(at("http://alias.example/")), [true, false]),
            (open(&[public], true), Addressed::Host(at("http://acme.example/")), [false, false]),
            (open(&[public], true), Addressed::Host(at("http://acme.example/npm-other")), [false, false]),
        ] {
            assert_eq!(takes(&registries, &addressed), expected, "{addressed:?}");
        }
    }

    #[tokio::test]
    async fn credentials_in_a_url_are_sent_and_never_shown() {
        let server = ScriptedServer::plain(|_, _| ServerAction::Say(answer("200 OK", &[], b"{}"))).await;
        let mut config = testing::config(&format!("http://user:hunter2@{}/", server.address));
        config.default.credentials = None;
        let registry = testing::open(&config);
        assert_eq!(**registry.id(), *server.url());
        registry
            .packument(&PackageName::parse("ui").unwrap(), PackumentForm::Full, &Authorization::Lent, None, &mut testing::share())
            .await
            .unwrap();
        assert_eq!(server.heard()[0].header("authorization"), Some("Basic dXNlcjpodW50ZXIy"));
        let shown = format!("{config:?} {registry:?} {:?}", Authorization::Own("Bearer hunter2".into()));
        assert!(!shown.contains("hunter2") && !shown.contains("dXNlcjpodW50ZXIy"), "{shown}");
    }

    #[test]
    fn registry_url_must_be_http() {
        let config = testing::config("ftp://user:hunter2@npm.example/");
        let error = Registries::open(&config, &testing::trust(&[])).unwrap_err().to_string();
        assert_eq!(error, "registry from `--upstream` is not an `http` or `https` URL: `ftp://npm.example/`");
    }

    #[tokio::test]
    async fn untrusted_authority_error_names_a_working_fix() {
        let identity = TestIdentity::of("localhost");
        let server = ScriptedServer::secure(&identity, |_, _| ServerAction::Say(answer("200 OK", &[], b"{}"))).await;
        let name = PackageName::parse("ui").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (right, wrong) = (folder.path().join("right.pem"), folder.path().join("wrong.pem"));
        std::fs::write(&right, &identity.authority).unwrap();
        std::fs::write(&wrong, TestIdentity::of("localhost").authority).unwrap();
        let config = testing::config(&format!("https://localhost:{}/", server.address.port()));
        // The other authority keeps the list of roots from being empty, which would fail earlier.
        let trusting = |roots: &[std::path::PathBuf]| {
            Arc::clone(Registries::open(&config, &testing::trust(roots)).unwrap().default_registry())
        };
        let refused = trusting(std::slice::from_ref(&wrong))
            .packument(&name, PackumentForm::Full, &Authorization::None, None, &mut testing::share())
            .await
            .unwrap_err()
            .to_string();
        let expected = "TLS: certificate issued by an untrusted authority; add it with `--upstream-ca FILE`";
        assert!(refused.ends_with(expected), "{refused}");
        trusting(&[wrong, right])
            .packument(&name, PackumentForm::Full, &Authorization::None, None, &mut testing::share())
            .await
            .unwrap();
    }

    #[test]
    fn error_message_is_one_line_of_ascii() {
        assert_eq!(message_line("  a\r\nb\u{1b}[0m\tc\u{2028}é "), "a b [0m c ?");
        assert_eq!(message_line(&"x".repeat(1_000)).len(), 200);
    }
}
