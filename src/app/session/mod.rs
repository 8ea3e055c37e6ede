//! One command's way through a firewall that runs: a gateway before it for that command alone, and what became of what was asked
//! there. Refuses to know the command.

#[cfg(unix)]
pub(crate) mod control_socket;
pub(crate) mod loopback_gateway;
pub(crate) mod protocol;
pub mod recorder;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use rustls_pki_types::{CertificateDer, DnsName};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use url::{Host, Url};

use crate::app::run::{ProxyEndpoint, RunReport};
use crate::app::session::loopback_gateway::LoopbackGateway;
use crate::app::session::recorder::{RecordedRequests, RequestRecorder};
use crate::app::{AppError, outbound};
use crate::clock::Clock;
use crate::config::Config;
use crate::firewall::{Firewall, Profile, Want};
use crate::net::HostPattern;
use crate::net::{OutboundProxy, TlsTrust};
use crate::server::{self, GatewayConfig, InterceptedHosts, RefusedDestination, SessionPassword};
use crate::telemetry::Metrics;
use crate::units::timestamp;
use crate::upstream::npmrc;

/// What such gateways are made of, by the configuration.
pub(crate) struct SessionTemplate {
    gateway: GatewayConfig,
    /// The hosts that ways which are opened from now on lead to, and whether to all others too.
    others: Mutex<(Vec<HostPattern>, bool)>,
    registry: Url,
    /// The addresses of upstream: the default one, and those of scopes.
    registries: BTreeMap<String, String>,
    /// Where this very Coldframe is reached.
    itself: Vec<Url>,
    /// Whether one of upstream's registries is on this machine.
    on_loopback: bool,
    policies: String,
    service: server::Config,
    parent: OutboundProxy,
}

/// What a command needs beyond that.
#[derive(Debug, Clone, Default)]
pub(crate) struct SessionRequest {
    /// Who runs it, as the ledger shall name them.
    pub(crate) user: String,
    /// Further hosts that are answered for from upstream.
    pub(crate) hosts: Vec<DnsName<'static>>,
    /// The addresses of a Coldframe that lockfiles and `.npmrc` files name.
    pub(crate) itself: Vec<Url>,
    /// Further hosts that are gone to.
    pub(crate) allowed: Vec<HostPattern>,
    /// Whether hosts that nobody named are.
    pub(crate) tunnels_others: bool,
    /// What its project wants, by package.
    pub(crate) wants: Vec<(String, Want)>,
}

/// Which places a gateway takes requests for: it answers for them, or goes there.
#[derive(Debug, Clone, Default)]
pub(crate) struct ProxiedHosts {
    pub(crate) origins: BTreeSet<String>,
    pub(crate) allowed: Vec<HostPattern>,
    pub(crate) tunnels_others: bool,
    /// Whether a registry is on this machine: then nothing on it may be reached without the gateway.
    pub(crate) on_loopback: bool,
}

/// What a command has to know of the gateway that it is led to.
pub(crate) struct SessionInfo {
    pub(crate) way: ProxyEndpoint,
    pub(crate) reach: ProxiedHosts,
    /// The certificate that it has to trust.
    pub(crate) certificate: CertificateDer<'static>,
    /// The policy, in words.
    pub(crate) policy: String,
}

/// A gateway that runs.
pub(crate) struct LocalSession {
    pub(crate) lead: SessionInfo,
    stop: watch::Sender<bool>,
    front: JoinHandle<(RecordedRequests, BTreeMap<String, RefusedDestination>)>,
}

impl SessionTemplate {
    /// Those of a configuration.
    pub(crate) fn of(config: &Config, trust: &TlsTrust) -> Self {
        let mut gateway = config.gateway.door.clone();
        for registry in std::iter::once(&config.upstream.default).chain(config.upstream.scoped.values()) {
            if is_unnamed(&registry.url) {
                gateway.targets.add_unnamed(&registry.address());
            }
        }
        // Commands are led there by a pass of their own.
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
            policies: config.policies.names.join(", "),
            service: config.proxy.clone(),
            parent: outbound::parent(&config.upstream, trust),
        }
    }

    /// The same of a Coldframe that listens there.
    pub(crate) fn at(mut self, listeners: &[SocketAddr]) -> Self {
        self.itself = itself(listeners, self.service.public_url.as_ref());
        self.itself.iter().for_each(|url| add(&mut self.gateway.targets, url));
        self
    }

    /// Has ways that are opened from now on lead to other hosts.
    pub(crate) fn renew_others(&self, allowed: &[HostPattern], tunnels_others: bool) {
        *self.others.lock().unwrap_or_else(PoisonError::into_inner) = (allowed.to_vec(), tunnels_others);
    }

    fn gateway(&self) -> GatewayConfig {
        let (allowed, tunnels_others) = self.others.lock().unwrap_or_else(PoisonError::into_inner).clone();
        GatewayConfig { allowed, tunnels_others, ..self.gateway.clone() }
    }

    /// Why a command that would ask these registries is not led here: another one would answer it.
    pub(crate) fn differ(&self, wanted: &BTreeMap<String, String>) -> Option<String> {
        let differs = |(scope, url): (&String, &String)| match self.registries.get(scope) {
            Some(known) if known == url || self.itself.iter().any(|itself| itself.as_str() == url) => None,
            Some(known) => Some(format!("its upstream for {scope} is `{known}`, here it is `{url}`")),
            None => Some(format!("it knows no upstream for {scope}, here it is `{url}`")),
        };
        wanted.iter().find_map(differs)
    }

    fn words(&self, firewall: &Firewall) -> String {
        match firewall.world().policy(Profile::default()).minimum_age() {
            age if age.is_zero() => self.policies.clone(),
            age => format!("{}, minimum release age {}", self.policies, timestamp::tell_age(age)),
        }
    }
}

/// The addresses of upstream, by scope; `packages` for those without one.
pub(crate) fn registries(config: &Config) -> BTreeMap<String, String> {
    let scoped = config.upstream.scoped.iter().map(|(scope, registry)| (scope.clone(), registry));
    let all = std::iter::once(("packages".to_owned(), &config.upstream.default)).chain(scoped);
    all.map(|(scope, registry)| (scope, registry.address().to_string())).collect()
}

/// The addresses of a Coldframe that listens there: lockfiles and `.npmrc` files name those.
pub(crate) fn itself(listeners: &[SocketAddr], public: Option<&Url>) -> Vec<Url> {
    let mut found = Vec::new();
    for listener in listeners {
        let here = |host: &str| Url::parse(&format!("http://{host}:{}/", listener.port())).ok();
        let exactly = (!listener.ip().is_unspecified()).then(|| Url::parse(&format!("http://{listener}/")).ok()).flatten();
        found.extend(exactly.into_iter().chain(["127.0.0.1", "localhost", "[::1]"].into_iter().filter_map(here)));
    }
    found.extend(public.cloned());
    found
}

/// Adds what a gateway has its clients go to directly, which these must not.
fn add(targets: &mut InterceptedHosts, url: &Url) {
    targets.add_registry(url);
    if is_unnamed(url) {
        targets.add_unnamed(url);
    }
    targets.name(url);
}

/// The registry that clients name: upstream's own address where the gateway can answer for it, so that lockfiles come out as
/// they do without us; else npm's default, which is answered from upstream all the same.
fn registry_for(config: &Config) -> Url {
    let upstream = config.upstream.default.address();
    if is_unnamed(&upstream) && upstream.scheme() != "http" { npmrc::built_in() } else { upstream }
}

/// Whether no authority can vouch for it: an address, or a name of this machine.
fn is_unnamed(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(host)) => is_localhost(host),
        _ => true,
    }
}

fn is_localhost(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost")
}

/// Checks whether an address is this machine's own.
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

    /// Whether a request for an address is answered, or let through.
    pub(crate) fn takes(&self, url: &Url) -> bool {
        let answered = self.origins.contains(&url.origin().ascii_serialization());
        answered || self.tunnels_others || self.allowed.iter().any(|glob| glob.reach(url).is_some())
    }
}

impl LocalSession {
    /// Opens a gateway before `firewall`, on a port of its own. Nothing leads from it to the addresses that are `ours`.
    ///
    /// # Errors
    /// When there is no port, or no authority can be made.
    pub(crate) async fn open(
        firewall: &Arc<Firewall>,
        (premises, ours): (&SessionTemplate, &[SocketAddr]),
        wish: &SessionRequest,
        metrics: Arc<Metrics>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, AppError> {
        let mut gateway = premises.gateway();
        wish.extend(&mut gateway);
        let witness = Arc::new(RequestRecorder::before(Arc::clone(firewall), &wish.wants));
        let (service, parent) = (premises.service.clone(), premises.parent.clone());
        let connections = service.limits.connections;
        let pass = SessionPassword::random()?;
        let guest = ((Arc::from(wish.user.as_str()), pass.clone()), ours);
        let front = LoopbackGateway::open(Arc::clone(&witness), (service, &gateway, parent), guest, metrics, clock).await?;
        let proxy = Url::parse(&format!("http://{}/", front.address())).unwrap_or_else(|_| premises.registry.clone());
        let certificate = front.certificate().clone();
        let stop = watch::Sender::new(false);
        let mut stopped = stop.subscribe();
        let front = tokio::spawn(async move {
            let stopped = async move {
                // An error means that the sender is gone, and with it whoever could ask for more.
                let _ = stopped.wait_for(|stop| *stop).await;
            };
            let turned_away = front.serve(connections, stopped).await;
            (witness.noted(), turned_away)
        });
        let (way, reach) = (
            ProxyEndpoint { proxy, pass, registry: premises.registry.clone() },
            ProxiedHosts::of(&gateway, premises.on_loopback),
        );
        let lead = SessionInfo { way, reach, certificate, policy: premises.words(firewall) };
        Ok(Self { lead, stop, front })
    }

    /// Lets what is under way finish, and says what became of everything.
    pub(crate) async fn close(self) -> RunReport {
        self.stop.send_replace(true);
        match self.front.await {
            Ok((noted, turned_away)) => RunReport { noted, turned_away, trouble: None },
            Err(_) => RunReport { trouble: Some("a task of coldframe's died".to_owned()), ..RunReport::default() },
        }
    }
}
