//! One registry and which registry a package belongs to: what every question to it has in common. Refuses to know what is
//! asked; each question has its own file.

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
use crate::net::{ClientConfig, ClientError, ClientRequest, ClientResponse, ConnectStage, HttpClient, TlsTrust, pause};
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

/// The most redirects that are followed in a row.
const MOST_REDIRECTS: usize = 5;

/// How often an overloaded server is asked again for one client, and the longest that it may ask for patience.
const RETRIES: u32 = 2;
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// How long a registry has to answer a probe: about as long as a client that waits for one stays patient.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// The most packages that a registry is remembered to have answered: more than an organisation uses.
const MAX_ANSWERED: u64 = 50_000;

/// The longest package name that a registry takes.
const MAX_NAME_BYTES: usize = 214;

/// The most bytes that are read of an error's body, and the most of its message that are passed on.
pub(crate) const ERROR_BODY: u64 = 64 << 10;
const ERROR_MESSAGE: usize = 200;

/// One registry.
pub struct Registry {
    id: Arc<str>,
    origin: SettingOrigin,
    pub(crate) url: Url,
    /// What is lent, by the places that it was configured for.
    credentials: ArcSwap<CredentialRules>,
    /// Whether some of it may be sent when a package of this registry is asked for.
    has_credentials: bool,
    /// Whether credentials that clients bring to Coldframe are for this registry.
    takes_clients: bool,
    time_mode: TimeMode,
    health: Arc<Health>,
    shared: Arc<RegistryShared>,
}

/// Hosts that packuments and redirects may name besides a registry's own.
pub(crate) struct Hosts {
    /// Those of tarballs.
    pub(crate) tarball: Vec<HostPattern>,
    /// Those that a tarball is redirected to.
    redirect: Vec<HostPattern>,
}

/// What of a configuration that was read again is other than before, and active now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Renewed {
    /// Hosts of tarballs and redirects.
    pub hosts: bool,
    /// Credentials that are lent.
    pub credentials: bool,
    /// Whether more changed, which needs a restart: a registry would have credentials that has none, or none any more, so that what
    /// is remembered of it would be another's view.
    pub needs_restart: bool,
}

/// What was learnt of one registry, shared by all scopes that it is the registry of: its failures are its own.
struct Health {
    circuits: Arc<CircuitBreakers>,
    retries: RetryBudget,
    /// The packages that it answered before.
    answered: Cache<Box<str>, ()>,
    /// When it last sent the headers of an answer, whatever it was asked for.
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

/// What all registries have in common.
struct RegistryShared {
    client: HttpClient,
    hosts: ArcSwap<Hosts>,
    packument_limit: u64,
    tarball_limit: u64,
    /// The addresses of all registries.
    addresses: Vec<Url>,
    /// What was learnt of each registry, by its id.
    health: Mutex<HashMap<Arc<str>, Arc<Health>>>,
}

impl RegistryShared {
    /// What was learnt of a registry, which all scopes of one address share.
    fn health_of(&self, id: &Arc<str>) -> Arc<Health> {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(health.entry(Arc::clone(id)).or_insert_with(Health::new))
    }
}

impl Registry {
    /// Its address without credentials, ending in `/`: the ledger's key and what people read.
    #[must_use]
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// Where the choice of it came from.
    #[must_use]
    pub fn origin(&self) -> &SettingOrigin {
        &self.origin
    }

    /// How its publish times count.
    #[must_use]
    pub fn time_mode(&self) -> TimeMode {
        self.time_mode
    }

    /// Whether it has credentials that could be lent.
    #[must_use]
    pub fn has_credentials(&self) -> bool {
        self.has_credentials
    }

    /// Whether credentials of a client that addressed this are for this registry.
    #[must_use]
    pub fn takes_clients(&self, addressed: &Addressed) -> bool {
        match addressed {
            Addressed::Coldframe => self.takes_clients,
            Addressed::Host(base) => is_address(&self.id, base),
            Addressed::Named(base) => {
                let is_one = self.shared.addresses.iter().any(|other| is_address(other.as_str(), base));
                if is_one { is_address(&self.id, base) } else { self.takes_clients }
            }
        }
    }

    /// When it last sent the headers of an answer, whatever it was asked for.
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

    /// The address of `path` below the registry's own, `None` if it leads out of there.
    pub(crate) fn below(&self, path: &str) -> Option<Url> {
        let url = Url::parse(&format!("{}{path}", self.url)).ok()?;
        url.path().starts_with(self.url.path()).then_some(url)
    }

    /// GETs, following the redirects that are allowed; the answer's host comes along, for errors.
    pub(crate) async fn get(
        &self,
        mut route: FetchTarget,
        headers: HeaderMap,
        authorization: &Authorization,
    ) -> Result<(FetchTarget, ClientResponse), UpstreamError> {
        let package = self.package_of(&route.url);
        for _ in 0..=MOST_REDIRECTS {
            route.with_credentials |= self.authorize(authorization, &route).is_some();
            let response = self.send_patiently(&route, &headers, authorization, package.as_deref()).await?;
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
                return Err(UpstreamError::Broken { host: route.host(), detail: "a redirect that does not say where to".into() });
            };
            route = route.redirected(location, &self.hosts().redirect)?;
        }
        let to = route.host();
        Err(UpstreamError::Redirected {
            host: Arc::clone(&to),
            to,
            detail: format!("more than {MOST_REDIRECTS} in a row").into(),
        })
    }

    /// Sends one request. Lent credentials go to the places that they were configured for, a client's own to the registry alone.
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

    /// Sends one request about `package`. What its failure says of the registry depends on whether that one was ever answered: a
    /// client can ask for any number of packages that never will be.
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
            // One-time passwords among them.
            passthrough::remove_npms_own(&mut headers);
        }
        let (host, circuits) = (route.host(), &self.health.circuits);
        if circuits.admit(&host, Instant::now())? == Admission::Trial {
            self.probe(route, &host).await;
            circuits.admit(&host, Instant::now())?;
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
                    circuits.failed(&host, known, &response.status.to_string(), Instant::now());
                }
            }
            Err(error) if error.is_ours() => {}
            Err(error @ ClientError::Unreachable { .. }) => {
                circuits.failed(&host, Evidence::Connection, &error.to_string(), Instant::now());
            }
            Err(error) if error.is_outage() => match known {
                Some(known) => circuits.failed(&host, known, &error.to_string(), Instant::now()),
                None if circuits.suspects(&host, Instant::now()) => self.probe(route, &host).await,
                None => {}
            },
            _ => circuits.answered(&host),
        }
        sent.map_err(|error| failure(&host, &error))
    }

    /// Asks the host of `route` for what no client chose, and notes whether it answers.
    async fn probe(&self, route: &FetchTarget, host: &Arc<str>) {
        let own = self.below("-/ping").filter(|_| route.trusted);
        let url = own.or_else(|| route.url.join("/").ok()).unwrap_or_else(|| route.url.clone());
        let request =
            ClientRequest { method: Method::GET, url, headers: HeaderMap::new(), body: Bytes::new(), reach: route.reach };
        let asked = tokio::time::timeout(PROBE_TIMEOUT, self.shared.client.send(&request)).await;
        let why = match asked {
            Ok(Ok(response)) if is_overloaded(response.status) => response.status.to_string(),
            Ok(Err(error)) if error.is_outage() => error.to_string(),
            // It says nothing of the host: the next probe is a rest away.
            Ok(Err(error)) if error.is_ours() => return,
            Ok(_) => return self.health.circuits.answered_probe(host, Instant::now()),
            Err(_) => ClientError::TimedOut { after: PROBE_TIMEOUT }.to_string(),
        };
        self.health.circuits.failed_probe(host, &why, Instant::now());
    }

    /// The package that an address of this registry is about, by npm's custom.
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

    /// Asks again for what an overloaded server or a gateway before it may have a moment later, if it does not say that it
    /// takes longer, and while not too much is asked again as it is.
    async fn send_patiently(
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
            let told = header(&response.headers, &RETRY_AFTER);
            let wait = told.map_or(Some(pause(attempt)), |told| patience(told, header(&response.headers, &DATE)));
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

    /// What is lent for `url`: never in plain HTTP where the registry speaks TLS.
    fn lent_for(&self, url: &Url) -> Option<Credentials> {
        self.credentials.load().for_url(url).cloned().filter(|_| url.scheme() == "https" || self.url.scheme() == "http")
    }

    /// Whether a route leads to a place of this registry: its own host and port, and below the address of no other registry there.
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
    /// What of this a request to `registry` carries: a client's own credentials only where they are for it.
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

/// Which registry a package belongs to: the default one, or its scope's.
#[derive(Debug)]
pub struct Registries {
    default: Arc<Registry>,
    scoped: HashMap<Box<str>, Arc<Registry>>,
}

impl Registries {
    /// The registries of `config`. Sends nothing.
    ///
    /// # Errors
    /// When an address or a scope is wrong, or there is an `https` registry and `trust` is empty.
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

    /// Goes by the hosts and lends the credentials of a configuration that was read again. Registries keep their addresses: another
    /// one is another registry, and needs a restart.
    ///
    /// # Errors
    /// When credentials cannot be sent; then all of them stay as they were.
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

    /// The registry of a package.
    #[must_use]
    pub fn of(&self, name: &PackageName) -> &Arc<Registry> {
        name.scope().and_then(|scope| self.scoped.get(scope)).unwrap_or(&self.default)
    }

    /// The addresses of all registries, without credentials.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.default).chain(self.scoped.values()).map(|registry| &**registry.id())
    }

    /// The circuits of all registries.
    #[must_use]
    pub fn circuits(&self) -> AllCircuits {
        let every = std::iter::once(&self.default).chain(self.scoped.values());
        AllCircuits(every.map(|registry| Arc::clone(&registry.health.circuits)).collect())
    }

    /// The registry of packages whose scope has none of its own.
    #[must_use]
    pub fn default_registry(&self) -> &Arc<Registry> {
        &self.default
    }

    /// The registry of a request about no package: the one that the client addressed by its own address, else the default one.
    #[must_use]
    pub fn nameless(&self, addressed: &Addressed) -> &Arc<Registry> {
        let by_address = |base: &Arc<str>| self.all().find(|registry| is_address(&registry.id, base));
        match addressed {
            Addressed::Coldframe => None,
            Addressed::Host(base) | Addressed::Named(base) => by_address(base),
        }
        .unwrap_or(&self.default)
    }

    /// The registry of a request about no package that carries a client's credentials, be it in its body: as
    /// [`Registries::nameless`], and where that one takes none, the only one that does.
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

/// What is lent to requests to a registry: what the whole configuration has, and the registry's own.
fn lent_by(config: &RegistryConfig, all: &Config) -> Result<CredentialRules, UpstreamConfigError> {
    let own = match &config.credentials {
        Some(credentials) => Some(credentials.clone()),
        None => Credentials::in_address(&config.url)
            .map_err(|source| UpstreamConfigError::Credentials { origin: config.origin.clone(), source })?,
    };
    Ok(match own {
        Some(own) => all.credentials.clone().with(&config.address(), own),
        None => all.credentials.clone(),
    })
}

/// Whether some of `credentials` may be sent when a package of the registry at `url` is asked for.
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

/// Whether a server says that it, or one behind it, cannot answer now: another one of the same kind would hear the same.
fn is_overloaded(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502..=504)
}

/// How long a `Retry-After` asks to wait, if that is short enough to be waited for while a client does. One that names an
/// instant is read by the clock of the server that sent it, which its `Date` tells.
fn patience(retry_after: &str, date: Option<&str>) -> Option<Duration> {
    let until = || {
        let (then, now) = (httpdate::parse_http_date(retry_after).ok()?, httpdate::parse_http_date(date?).ok()?);
        Some(then.duration_since(now).unwrap_or_default())
    };
    retry_after.parse().ok().map(Duration::from_secs).or_else(until).filter(|wait| *wait <= LONGEST_WAIT)
}

/// What may be asked again: a tenth of what was answered, and a few to begin with, so that a server that drowns is not asked
/// three times as much.
struct RetryBudget(AtomicU32);

impl RetryBudget {
    const WHOLE: u32 = 10;
    const MOST: u32 = 20 * Self::WHOLE;

    fn earn(&self) {
        let more = |tenths: u32| (tenths < Self::MOST).then_some(tenths + 1);
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    fn spend(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tenths| tenths.checked_sub(Self::WHOLE)).is_ok()
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self(AtomicU32::new(Self::MOST))
    }
}

/// Whether the answer only says where to ask instead.
fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// What `net` could not do, told of the host it could not do it with.
pub(crate) fn failure(host: &Arc<str>, error: &ClientError) -> UpstreamError {
    let host = Arc::clone(host);
    match error {
        ClientError::Unreachable { layer, .. } => {
            let hint = match layer {
                ConnectStage::Trust => "; `--upstream-ca FILE` adds one",
                ConnectStage::Reach => "; a host that is named without `*` may have a private one",
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

/// What an answer that is no success means. Reads a little of its body for the message of a denial.
pub(crate) async fn refusal(route: &FetchTarget, response: ClientResponse) -> UpstreamError {
    let host = route.host();
    let status = response.status.as_u16();
    match status {
        404 | 410 => UpstreamError::NotFound,
        401 | 403 => UpstreamError::Denied { host, status, message: message(response).await },
        200..=399 => UpstreamError::Broken { host, detail: format!("status {status}, which was not asked for").into() },
        _ => UpstreamError::Status { host, status, retry_after: retry_after(&response.headers).map(Arc::from) },
    }
}

/// Returns `Retry-After` as a number of seconds or as a date, and nothing else that a server writes there.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<String> {
    let text = header(headers, &RETRY_AFTER)?;
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse::<u32>().ok().map(|seconds| seconds.to_string());
    }
    httpdate::parse_http_date(text).ok().map(httpdate::fmt_http_date)
}

/// A header that is text, bounded.
pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim).filter(|text| !text.is_empty() && text.len() <= 512)
}

/// Upstream's own words: `error` or `message` of a JSON body, else the reason phrase.
async fn message(response: ClientResponse) -> Arc<str> {
    #[derive(serde::Deserialize)]
    struct Words {
        error: Option<String>,
        message: Option<String>,
    }
    let phrase = response.reason.clone().or_else(|| response.status.canonical_reason().map(str::to_owned)).unwrap_or_default();
    // A body that does not come leaves the phrase, which is still true.
    let body = response.body.collect(ERROR_BODY).await.unwrap_or_default();
    let words = serde_json::from_slice::<Words>(&body).ok().and_then(|words| words.error.or(words.message));
    said(&words.filter(|words| !words.trim().is_empty()).unwrap_or(phrase)).into()
}

/// Upstream's words as one short line of ASCII, blanks and control characters as one blank.
fn said(text: &str) -> String {
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
    fn a_retry_after_is_read_as_seconds_and_as_an_instant_of_the_other_clock() {
        let date = Some("Wed, 21 Oct 2015 07:28:00 GMT");
        for (told, date, wait) in [
            ("1", None, Some(1)),
            ("2", date, Some(2)),
            ("3", date, None),
            ("Wed, 21 Oct 2015 07:28:02 GMT", date, Some(2)),
            ("Wed, 21 Oct 2015 07:27:00 GMT", date, Some(0)),
            ("Wed, 21 Oct 2015 07:29:00 GMT", date, None),
            ("Wed, 21 Oct 2015 07:28:02 GMT", None, None),
            ("soon", date, None),
        ] {
            assert_eq!(patience(told, date), wait.map(Duration::from_secs), "{told}");
        }
    }

    #[test]
    fn a_scope_has_its_registry_and_the_rest_shares_one() {
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
            "a scope is written `@scope`: `acme`"
        );
    }

    #[test]
    fn a_registry_has_credentials_if_some_may_be_sent_when_its_packages_are_fetched() {
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
    fn clients_credentials_are_for_the_only_registry_or_for_the_marked_or_the_addressed_one() {
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
    async fn credentials_in_an_address_are_used_and_never_shown() {
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
    fn what_is_no_http_address_is_no_registry() {
        let config = testing::config("ftp://user:hunter2@npm.example/");
        let error = Registries::open(&config, &testing::trust(&[])).unwrap_err().to_string();
        assert_eq!(error, "`--upstream` names a registry that is no `http` or `https` address: `ftp://npm.example/`");
    }

    #[tokio::test]
    async fn an_unknown_authority_is_named_with_its_cure_and_the_cure_works() {
        let identity = TestIdentity::of("localhost");
        let server = ScriptedServer::secure(&identity, |_, _| ServerAction::Say(answer("200 OK", &[], b"{}"))).await;
        let name = PackageName::parse("ui").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (right, wrong) = (folder.path().join("right.pem"), folder.path().join("wrong.pem"));
        std::fs::write(&right, &identity.authority).unwrap();
        std::fs::write(&wrong, TestIdentity::of("localhost").authority).unwrap();
        let config = testing::config(&format!("https://localhost:{}/", server.address.port()));
        // A wrong one keeps this true on a machine without roots, where opening fails instead.
        let trusting = |roots: &[std::path::PathBuf]| {
            Arc::clone(Registries::open(&config, &testing::trust(roots)).unwrap().default_registry())
        };
        let refused = trusting(std::slice::from_ref(&wrong))
            .packument(&name, PackumentForm::Full, &Authorization::None, None, &mut testing::share())
            .await
            .unwrap_err()
            .to_string();
        let expected =
            "TLS: the certificate was issued by an authority that this machine does not trust; `--upstream-ca FILE` adds one";
        assert!(refused.ends_with(expected), "{refused}");
        trusting(&[wrong, right])
            .packument(&name, PackumentForm::Full, &Authorization::None, None, &mut testing::share())
            .await
            .unwrap();
    }

    #[test]
    fn an_error_message_is_one_line_of_ascii() {
        assert_eq!(said("  a\r\nb\u{1b}[0m\tc\u{2028}é "), "a b [0m c ?");
        assert_eq!(said(&"x".repeat(1_000)).len(), 200);
    }
}
