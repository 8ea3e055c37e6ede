//! Sessions: a gateway before a running firewall for one command, and a record of its requests.

#[cfg(unix)]
pub(crate) mod control_socket;
pub(crate) mod loopback_gateway;
pub mod model;
pub(crate) mod protocol;
pub mod recorder;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use rustls_pki_types::{CertificateDer, DnsName};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use url::{Host, Url};

use crate::app::error::AppError;
use crate::app::outbound;
use crate::app::session::loopback_gateway::LoopbackGateway;
use crate::app::session::model::{ProxyEndpoint, RunReport};
use crate::app::session::recorder::{RecordedRequests, RequestRecorder};
use crate::clock::Clock;
use crate::config::Config;
use crate::firewall::{Firewall, Profile, Want};
use crate::net::{HostPattern, OutboundProxy, TlsTrust};
use crate::server::{self, GatewayConfig, InterceptedHosts, RefusedDestination, SessionPassword};
use crate::telemetry::Metrics;
use crate::units::timestamp;
use crate::upstream::npmrc;

/// What all sessions of a process share.
pub(crate) struct SessionTemplate {
    gateway: GatewayConfig,
    /// The hosts that new sessions may tunnel to, and whether to all others too.
    others: Mutex<(Vec<HostPattern>, bool)>,
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

/// What a command adds to the template.
#[derive(Debug, Clone, Default)]
pub(crate) struct SessionRequest {
    /// The user name for the ledger.
    pub(crate) user: String,
    /// Further hosts to intercept.
    pub(crate) hosts: Vec<DnsName<'static>>,
    /// The URLs of a Coldframe that lockfiles and `.npmrc` files may contain.
    pub(crate) itself: Vec<Url>,
    /// Further hosts to tunnel to.
    pub(crate) allowed: Vec<HostPattern>,
    /// Whether to tunnel to all other hosts.
    pub(crate) tunnels_others: bool,
    /// The project's dependencies by package.
    pub(crate) wants: Vec<(String, Want)>,
}

/// The hosts that a gateway intercepts or tunnels to.
#[derive(Debug, Clone, Default)]
pub(crate) struct ProxiedHosts {
    pub(crate) origins: BTreeSet<String>,
    pub(crate) allowed: Vec<HostPattern>,
    pub(crate) tunnels_others: bool,
    /// Whether a registry is on loopback. Then all loopback requests must use the gateway.
    pub(crate) on_loopback: bool,
}

/// What a command needs to know about its gateway.
pub(crate) struct SessionInfo {
    pub(crate) way: ProxyEndpoint,
    pub(crate) reach: ProxiedHosts,
    /// The certificate that it must trust.
    pub(crate) certificate: CertificateDer<'static>,
    /// The description of the policy.
    pub(crate) policy: String,
}

/// An open session in this process.
pub(crate) struct LocalSession {
    pub(crate) lead: SessionInfo,
    stop: watch::Sender<bool>,
    front: JoinHandle<(RecordedRequests, BTreeMap<String, RefusedDestination>)>,
}

impl SessionTemplate {
    /// Creates the template from the configuration.
    pub(crate) fn of(config: &Config, trust: &TlsTrust) -> Self {
        let mut gateway = config.gateway.proxy.clone();
        for registry in std::iter::once(&config.upstream.default).chain(config.upstream.scoped.values()) {
            if has_no_dns_name(&registry.url) {
                gateway.targets.add_plain_http(&registry.address());
            }
        }
        // Sessions have a password of their own.
        gateway.users = None;
        let mut all = std::iter::once(&config.upstream.default).chain(config.upstream.scoped.values());
        let on_loopback = all.any(|registry| is_loopback(&registry.address()));
        Self {
            others: Mutex::new((gateway.allowed.clone(), gateway.tunnels_others)),
            on_loopback,
            gateway,
            registry: registry_for(config),
            registries: registries(config),
            itself: Vec::new(),
            policies: config.policies.files.names.join(", "),
            service: config.server.clone(),
            parent: outbound::outbound_proxy(&config.upstream, trust),
        }
    }

    /// Adds the URLs of a server with these listeners.
    pub(crate) fn at(mut self, listeners: &[SocketAddr]) -> Self {
        self.itself = own_urls(listeners, self.service.public_url.as_ref());
        self.itself.iter().for_each(|url| add(&mut self.gateway.targets, url));
        self
    }

    /// Changes the hosts that new sessions may tunnel to.
    pub(crate) fn renew_egress(&self, config: &GatewayConfig) {
        *self.others.lock().unwrap_or_else(PoisonError::into_inner) = (config.allowed.clone(), config.tunnels_others);
    }

    fn gateway(&self) -> GatewayConfig {
        let (allowed, tunnels_others) = self.others.lock().unwrap_or_else(PoisonError::into_inner).clone();
        GatewayConfig { allowed, tunnels_others, ..self.gateway.clone() }
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

/// Returns the URLs of upstream by scope, and under `packages` for packages without a scope.
pub(crate) fn registries(config: &Config) -> BTreeMap<String, String> {
    let scoped = config.upstream.scoped.iter().map(|(scope, registry)| (scope.clone(), registry));
    let all = std::iter::once(("packages".to_owned(), &config.upstream.default)).chain(scoped);
    all.map(|(scope, registry)| (scope, registry.address().to_string())).collect()
}

/// Returns the URLs under which lockfiles and `.npmrc` files may name a server with these listeners.
pub(crate) fn own_urls(listeners: &[SocketAddr], public: Option<&Url>) -> Vec<Url> {
    let mut found = Vec::new();
    for listener in listeners {
        let here = |host: &str| Url::parse(&format!("http://{host}:{}/", listener.port())).ok();
        let exactly = (!listener.ip().is_unspecified()).then(|| Url::parse(&format!("http://{listener}/")).ok()).flatten();
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

impl SessionRequest {
    fn extend(&self, gateway: &mut GatewayConfig) {
        self.hosts.iter().for_each(|host| gateway.targets.add_host(host));
        self.itself.iter().for_each(|url| add(&mut gateway.targets, url));
        gateway.allowed.extend(self.allowed.iter().cloned());
        gateway.tunnels_others |= self.tunnels_others;
    }
}

impl ProxiedHosts {
    fn of(gateway: &GatewayConfig, on_loopback: bool) -> Self {
        let origins = gateway.targets.origins().into_iter().collect();
        let on_loopback = on_loopback || gateway.targets.hosts().iter().any(|host| is_localhost(host.as_ref()));
        Self { origins, allowed: gateway.allowed.clone(), tunnels_others: gateway.tunnels_others, on_loopback }
    }

    /// Checks whether a request for a URL is intercepted or tunneled.
    pub(crate) fn takes(&self, url: &Url) -> bool {
        let answered = self.origins.contains(&url.origin().ascii_serialization());
        answered || self.tunnels_others || self.allowed.iter().any(|glob| glob.reach(url).is_some())
    }
}

impl LocalSession {
    /// Opens a gateway before `firewall` on a port of its own. Connections to addresses in `ours` are denied.
    ///
    /// # Errors
    /// Returns an error if no port can be bound, or if no CA can be created.
    pub(crate) async fn open(
        firewall: &Arc<Firewall>,
        (session_template, ours): (&SessionTemplate, &[SocketAddr]),
        request: &SessionRequest,
        metrics: Arc<Metrics>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, AppError> {
        let mut gateway = session_template.gateway();
        request.extend(&mut gateway);
        let recorder = Arc::new(RequestRecorder::before(Arc::clone(firewall), &request.wants));
        let (service, parent) = (session_template.service.clone(), session_template.parent.clone());
        let connections = service.limits.connections;
        let pass = SessionPassword::random()?;
        let client = ((Arc::from(request.user.as_str()), pass.clone()), ours);
        let front = LoopbackGateway::open(Arc::clone(&recorder), (service, &gateway, parent), client, metrics, clock).await?;
        let proxy = Url::parse(&format!("http://{}/", front.address())).unwrap_or_else(|_| session_template.registry.clone());
        let certificate = front.certificate().clone();
        let stop = watch::Sender::new(false);
        let mut stopped = stop.subscribe();
        let front = tokio::spawn(async move {
            let stopped = async move {
                // An error means that the sender is gone.
                let _ = stopped.wait_for(|stop| *stop).await;
            };
            let turned_away = front.serve(connections, stopped).await;
            (recorder.recorded(), turned_away)
        });
        let (way, reach) = (
            ProxyEndpoint { proxy, pass, registry: session_template.registry.clone() },
            ProxiedHosts::of(&gateway, session_template.on_loopback),
        );
        let lead = SessionInfo { way, reach, certificate, policy: session_template.words(firewall) };
        Ok(Self { lead, stop, front })
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
