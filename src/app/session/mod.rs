//! Sessions: a gateway before a running firewall for one command, and a record of its requests.

#[cfg(unix)]
pub(crate) mod control_socket;
pub(crate) mod protocol;
pub(crate) mod recorder;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use rustls_pki_types::{CertificateDer, DnsName};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use url::{Host, Url};

use crate::app::error::AppError;
use crate::app::listeners::{BoundListener, bind_one, stopped};
use crate::app::outbound;
use crate::app::session::recorder::{RecordedRequests, RequestRecorder};
use crate::clock::Clock;
use crate::config::Config;
use crate::firewall::{Firewall, Profile, Want};
use crate::net::{ConnectionLimit, HostPattern, ListenAddress, OutboundProxy, TlsTrust};
use crate::server::{
    self, EgressContext, Gateway, GatewayConfig, InterceptedHosts, RefusedDestination, RegistryHandler, SessionPassword,
};
use crate::telemetry::Metrics;
use crate::tls::{CaSet, CertificateAuthority, LeafIssuer, TlsError, ca};
use crate::units::timestamp;
use crate::upstream::npmrc;

/// The address of the gateway of a session: any free loopback port.
const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// What all sessions of a process share.
pub(crate) struct SessionTemplate {
    gateway: Mutex<GatewayConfig>,
    registry: Url,
    /// The URLs of upstream: the default one, and those of scopes.
    registries: BTreeMap<String, String>,
    /// The URLs of this server.
    itself: Vec<Url>,
    /// Whether an upstream registry is on loopback.
    on_loopback: bool,
    policies: String,
    service: server::Config,
    parent: OutboundProxy,
}

/// A request to open a session, with what the command adds to the template. Invalid hosts are ignored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SessionRequest {
    /// The registries that the command would use without the server, by scope.
    pub(crate) registries: BTreeMap<String, String>,
    /// The user name for the ledger.
    pub(crate) user: String,
    /// Further hosts to intercept.
    pub(crate) hosts: Vec<String>,
    /// The URLs of a Coldframe that lockfiles and `.npmrc` files may contain.
    pub(crate) itself: Vec<Url>,
    /// Further hosts to tunnel to.
    pub(crate) allowed: Vec<String>,
    pub(crate) tunnels_others: bool,
    /// The project's dependencies by package.
    #[serde(default)]
    pub(crate) wants: Vec<(String, Want)>,
}

/// What a client needs to connect through the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProxyEndpoint {
    /// The URL of the gateway.
    pub(crate) proxy: Url,
    pub(crate) pass: SessionPassword,
    /// The registry URL for clients: upstream's own, if the gateway can intercept it.
    pub(crate) registry: Url,
}

/// The hosts that a gateway intercepts or tunnels to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ProxiedHosts {
    pub(crate) origins: BTreeSet<String>,
    #[serde(with = "host_patterns")]
    allowed: Vec<HostPattern>,
    tunnels_others: bool,
    /// Whether a registry is on loopback. Then all loopback requests must use the gateway. Older servers do not say so.
    #[serde(default = "may_be_on_loopback")]
    pub(crate) on_loopback: bool,
}

fn may_be_on_loopback() -> bool {
    true
}

/// What a command needs to know about its gateway.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SessionInfo {
    #[serde(flatten)]
    pub(crate) way: ProxyEndpoint,
    /// The certificate that it must trust.
    #[serde(with = "base64_certificate")]
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) policy: String,
    #[serde(flatten)]
    pub(crate) reach: ProxiedHosts,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct RunReport {
    pub(crate) noted: RecordedRequests,
    /// Refused requests for other hosts, by host and port.
    pub(crate) turned_away: BTreeMap<String, RefusedDestination>,
    /// An error at the end of the session.
    pub(crate) trouble: Option<String>,
}

mod base64_certificate {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use rustls_pki_types::CertificateDer;
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(certificate: &CertificateDer<'_>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(certificate))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<CertificateDer<'static>, D::Error> {
        STANDARD.decode(String::deserialize(from)?).map(CertificateDer::from).map_err(de::Error::custom)
    }
}

/// Patterns as texts. Invalid ones are left out.
mod host_patterns {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use crate::net::HostPattern;

    pub(super) fn serialize<S: Serializer>(patterns: &[HostPattern], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(patterns.iter().map(ToString::to_string))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<HostPattern>, D::Error> {
        Ok(Vec::<String>::deserialize(from)?.iter().filter_map(|text| text.parse().ok()).collect())
    }
}

pub(crate) struct LocalSession {
    pub(crate) lead: SessionInfo,
    stop: watch::Sender<bool>,
    front: JoinHandle<(RecordedRequests, BTreeMap<String, RefusedDestination>)>,
}

impl SessionTemplate {
    /// Creates the template of a server with these listeners.
    pub(crate) fn new(config: &Config, trust: &TlsTrust, listeners: &[ListenAddress]) -> Self {
        let upstreams = || config.upstream.registries();
        // Sessions have a password of their own.
        let mut gateway = GatewayConfig { users: None, ..config.gateway.proxy.clone() };
        for registry in upstreams().filter(|registry| has_no_dns_name(&registry.url)) {
            gateway.targets.add_plain_http(&registry.address());
        }
        let itself = own_urls(listeners, config.server.public_url.as_ref());
        for url in &itself {
            add(&mut gateway.targets, url);
        }
        Self {
            gateway: Mutex::new(gateway),
            registry: registry_for(config),
            registries: registries(config),
            itself,
            on_loopback: upstreams().any(|registry| is_loopback(&registry.address())),
            policies: config.policies.files.names.join(", "),
            service: config.server.clone(),
            parent: OutboundProxy::new(&outbound::like_upstream(&config.upstream, trust)),
        }
    }

    /// Changes the hosts that new sessions may tunnel to.
    pub(crate) fn renew_egress(&self, config: &GatewayConfig) {
        let mut gateway = self.gateway.lock().unwrap_or_else(PoisonError::into_inner);
        gateway.allowed.clone_from(&config.allowed);
        gateway.tunnels_others = config.tunnels_others;
    }

    /// Returns the settings of the gateway that `request` asks for.
    fn gateway_for(&self, request: &SessionRequest) -> GatewayConfig {
        let mut gateway = self.gateway.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let hosts = request.hosts.iter().filter_map(|host| DnsName::try_from(host.clone()).ok());
        hosts.for_each(|host| gateway.targets.add_host(&host));
        request.itself.iter().for_each(|url| add(&mut gateway.targets, url));
        gateway.allowed.extend(request.allowed.iter().filter_map(|pattern| pattern.parse().ok()));
        gateway.tunnels_others |= request.tunnels_others;
        gateway
    }

    /// Returns why a command with these registries cannot use this server, because another upstream would answer it.
    pub(crate) fn registry_mismatch(&self, wanted: &BTreeMap<String, String>) -> Option<String> {
        let differs = |(scope, url): (&String, &String)| match self.registries.get(scope) {
            Some(known) if known == url || self.itself.iter().any(|itself| itself.as_str() == url) => None,
            Some(known) => Some(format!("the server's upstream for {scope} is `{known}`, here it is `{url}`")),
            None => Some(format!("the server has no upstream for {scope}, here it is `{url}`")),
        };
        wanted.iter().find_map(differs)
    }

    fn words(&self, firewall: &Firewall) -> String {
        match firewall.policy().policy(Profile::default()).minimum_age() {
            age if age.is_zero() => self.policies.clone(),
            age => format!("{}, minimum release age {}", self.policies, timestamp::format_duration(age)),
        }
    }
}

/// Returns the URLs of upstream by route, and under `packages` for packages without one.
pub(crate) fn registries(config: &Config) -> BTreeMap<String, String> {
    let routed = config.upstream.routes.iter().map(|route| (route.label(), &route.registry));
    let all = std::iter::once(("packages".to_owned(), &config.upstream.default)).chain(routed);
    all.map(|(scope, registry)| (scope, registry.address().to_string())).collect()
}

/// Returns the URLs under which lockfiles and `.npmrc` files may name a server with these listeners.
pub(crate) fn own_urls(listeners: &[ListenAddress], public: Option<&Url>) -> Vec<Url> {
    let mut found = Vec::new();
    for listener in listeners {
        let (scheme, socket) = (listener.scheme.as_str(), listener.socket);
        let here = |host: &str| Url::parse(&format!("{scheme}://{host}:{}/", socket.port())).ok();
        let exactly = (!socket.ip().is_unspecified()).then(|| Url::parse(&format!("{listener}/")).ok()).flatten();
        found.extend(exactly.into_iter().chain(["127.0.0.1", "localhost", "[::1]"].into_iter().filter_map(here)));
    }
    found.extend(public.cloned());
    found
}

/// Adds a URL of this server, which clients would otherwise connect to directly.
fn add(targets: &mut InterceptedHosts, url: &Url) {
    targets.add_registry(url);
    if has_no_dns_name(url) {
        targets.add_plain_http(url);
    }
    targets.name(url);
}

/// Returns the registry URL for clients: upstream's own if the gateway can intercept it, so that lockfiles do not change; else
/// npm's default, which is answered from upstream too.
fn registry_for(config: &Config) -> Url {
    let upstream = config.upstream.default.address();
    if has_no_dns_name(&upstream) && upstream.scheme() != "http" { npmrc::npm_default_registry() } else { upstream }
}

/// Checks whether no certificate can be issued for the host: it is an IP address or a name of this machine.
fn has_no_dns_name(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(host)) => is_localhost(host),
        _ => true,
    }
}

fn is_localhost(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost")
}

/// Checks whether the host is this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    let is_this_machine = |address: IpAddr| address.is_loopback() || address.is_unspecified();
    match url.host() {
        Some(Host::Domain(host)) => is_localhost(host.trim_end_matches('.')),
        Some(Host::Ipv4(address)) => is_this_machine(address.into()),
        Some(Host::Ipv6(address)) => is_this_machine(IpAddr::V6(address).to_canonical()),
        None => true,
    }
}

impl ProxiedHosts {
    /// Checks whether a request for a URL is intercepted or tunneled.
    pub(crate) fn takes(&self, url: &Url) -> bool {
        let answered = self.origins.contains(&url.origin().ascii_serialization());
        answered || self.tunnels_others || self.allowed.iter().any(|glob| glob.reach(url).is_some())
    }
}

impl LocalSession {
    /// Opens a gateway before `firewall` on a port of its own, for one user with a password. Connections to `ours` are denied.
    pub(crate) async fn open(
        firewall: &Arc<Firewall>,
        (template, ours): (&SessionTemplate, &[SocketAddr]),
        request: &SessionRequest,
        metrics: Arc<Metrics>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, AppError> {
        let config = template.gateway_for(request);
        let pass = SessionPassword::random()?;
        let hosts = config.targets.hosts();
        let (leaves, certificate) = temporary_ca(&hosts, clock).map_err(AppError::Authority)?;
        let bound = bind_one(ANY_PORT, Profile::default()).await;
        let BoundListener { listener, address, .. } = bound.map_err(|source| AppError::Listen { address: ANY_PORT, source })?;
        let recorder = Arc::new(RequestRecorder::before(Arc::clone(firewall), &request.wants));
        let service = RegistryHandler::new(Arc::clone(&recorder), template.service.clone(), &[], None, metrics)?;
        let egress = EgressContext { ours: [ours, &[address]].concat(), parent: template.parent.clone() };
        let mut gateway = Gateway::new(Arc::new(service), &config, leaves, egress)?;
        // Other users of the machine can reach the port.
        gateway.single_user = Some((request.user.as_str().into(), pass.clone()));
        let (gateway, limit) = (Arc::new(gateway), ConnectionLimit::of(template.service.limits.connections));
        let stop = watch::Sender::new(false);
        let stopped = stopped(stop.subscribe());
        let front = tokio::spawn(async move {
            server::gateway::serve(listener, &limit, &gateway, stopped).await;
            (recorder.recorded(), gateway.refused_destinations())
        });
        let registry = template.registry.clone();
        let proxy = Url::parse(&format!("http://{address}/")).unwrap_or_else(|_| registry.clone());
        let reach = ProxiedHosts {
            origins: config.targets.origins().into_iter().collect(),
            allowed: config.allowed,
            tunnels_others: config.tunnels_others,
            on_loopback: template.on_loopback || hosts.iter().any(|host| is_localhost(host.as_ref())),
        };
        let way = ProxyEndpoint { proxy, pass, registry };
        Ok(Self { lead: SessionInfo { way, certificate, policy: template.words(firewall), reach }, stop, front })
    }

    /// Lets running requests finish, and returns the report.
    pub(crate) async fn close(self) -> RunReport {
        self.stop.send_replace(true);
        match self.front.await {
            Ok((noted, turned_away)) => RunReport { noted, turned_away, trouble: None },
            Err(_) => RunReport { trouble: Some("a coldframe task panicked".to_owned()), ..RunReport::default() },
        }
    }
}

/// Creates a CA for `hosts` that exists only in memory, and returns its issuer and its certificate.
fn temporary_ca(hosts: &[DnsName<'static>], clock: &Arc<dyn Clock>) -> Result<(LeafIssuer, CertificateDer<'static>), TlsError> {
    let pem = ca::generate(hosts, clock.now())?;
    let current = CertificateAuthority::read(pem.as_bytes(), pem.as_bytes());
    let current = current.map_err(|detail| TlsError::Unusable { path: "memory".into(), detail })?;
    let certificate = current.certificate().clone();
    let leaves = LeafIssuer::new(CaSet { current, retiring: Vec::new() }, hosts, hosts, Arc::clone(clock))?;
    Ok((leaves, certificate))
}
