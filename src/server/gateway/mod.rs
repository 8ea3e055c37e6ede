//! The gateway: an HTTP/1.1 proxy. It intercepts registry hosts, tunnels to other hosts if allowed, and refuses the rest with the
//! reason. Tunneled bytes are not inspected.

pub(crate) mod client_hello;
pub(crate) mod destination;
pub mod egress;
pub(crate) mod intercept;
pub(crate) mod plain_http;
pub mod transparent;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};
use http::header::{HOST, PROXY_AUTHORIZATION, VIA};
use http::request::Parts;
use http::{Method, Request, Response};
use tokio::net::TcpListener;

use crate::firewall::{EgressRequest, Profile};
use crate::net::headers::{list, single};
use crate::net::{Body, ConnectionLimit, DrainReport, RequestBody, Upgrade, listener, via_pseudonym};
use crate::npm::Endpoint;
use crate::server::admin::access::UncheckedRequest;
use crate::server::auth::gateway_users::GatewayAuth;
use crate::server::auth::password_file::PasswordFileError;
use crate::server::auth::session_password::SessionPassword;
use crate::server::config::GatewayConfig;
use crate::server::error::RequestError;
use crate::server::gateway::destination::Destination;
use crate::server::gateway::egress::{EgressContext, EgressPolicy};
use crate::server::intercepted_hosts::InterceptedHosts;
use crate::server::registry::handler::{RegistryHandler, handle};
use crate::server::registry::target::EntryPoint;
use crate::server::request_log::RequestLog;
use crate::server::response::{self, Reply};
use crate::server::service::RegistryService;
use crate::telemetry::{BarLabel, EgressRefused};
use crate::tls::LeafIssuer;

/// The gateway, one per process.
pub struct Forward<A> {
    pub(crate) service: Arc<RegistryHandler<A>>,
    leaves: ArcSwap<LeafIssuer>,
    pub(crate) targets: InterceptedHosts,
    others: ArcSwap<EgressPolicy>,
    login: Option<Arc<GatewayAuth>>,
    /// The only user and its password, in a gateway for one session.
    single_user: Option<(Arc<str>, SessionPassword)>,
    turned_away: Mutex<BTreeMap<String, RefusedDestination>>,
}

/// Refused or failed requests to one destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedDestination {
    /// The number of requests.
    pub times: u64,
    /// The reason for the first.
    pub reason: String,
}

/// Maximum number of recorded destinations, since clients choose them.
const MAX_REFUSED_DESTINATIONS: usize = 100;

impl<A: RegistryService> Forward<A> {
    /// Creates a gateway that passes intercepted requests to `service` and connects to other hosts with `way`.
    ///
    /// # Errors
    /// Returns an error if the user file is invalid.
    pub fn new(
        service: Arc<RegistryHandler<A>>,
        gateway: &GatewayConfig,
        leaves: LeafIssuer,
        way: EgressContext,
    ) -> Result<Self, PasswordFileError> {
        let login = gateway.users.as_deref().map(GatewayAuth::open).transpose()?.map(Arc::new);
        Ok(Self {
            service,
            leaves: ArcSwap::from_pointee(leaves),
            targets: gateway.targets.clone(),
            others: ArcSwap::from_pointee(EgressPolicy::new(gateway, Arc::new(way))),
            login,
            single_user: None,
            turned_away: Mutex::default(),
        })
    }

    /// Restricts the gateway to one user with the password `pass`, since other users of the machine can reach its port.
    #[must_use]
    pub fn for_single_user(mut self, single_user: Arc<str>, pass: SessionPassword) -> Self {
        self.single_user = Some((single_user, pass));
        self
    }

    /// Returns the first hundred refused destinations, as clients wrote them.
    #[must_use]
    pub fn refused_destinations(&self) -> BTreeMap<String, RefusedDestination> {
        self.turned_away.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remember(&self, place: &str, reason: &str) {
        let mut turned_away = self.turned_away.lock().unwrap_or_else(PoisonError::into_inner);
        if turned_away.len() < MAX_REFUSED_DESTINATIONS || turned_away.contains_key(place) {
            let new_entry = || RefusedDestination { times: 0, reason: reason.to_owned() };
            turned_away.entry(place.to_owned()).or_insert_with(new_entry).times += 1;
        }
    }

    /// Replaces the issuer of certificates for new connections.
    pub fn set_leaf_issuer(&self, leaves: LeafIssuer) {
        self.leaves.store(Arc::new(leaves));
    }

    /// Replaces the egress policy for new connections.
    pub fn renew_others(&self, gateway: &GatewayConfig) {
        self.others.rcu(|others| EgressPolicy::new(gateway, others.way()));
    }

    /// Returns the egress policy.
    pub(crate) fn others(&self) -> Arc<EgressPolicy> {
        self.others.load_full()
    }

    pub(crate) fn leaves(&self) -> Guard<Arc<LeafIssuer>> {
        self.leaves.load()
    }

    /// Returns the users, or `None` if no authentication is required.
    #[must_use]
    pub fn login(&self) -> Option<&Arc<GatewayAuth>> {
        self.login.as_ref()
    }

    /// Returns a check that matches names and addresses against feed indicators and records each hit.
    pub(crate) fn indicator_check<'a>(
        &'a self,
        peer: SocketAddr,
        user: Option<&'a str>,
        place: &'a Destination,
    ) -> impl Fn(&str) -> Option<String> + Send + Sync + 'a {
        move |host| {
            let (client, place) = (peer.ip().to_canonical(), place.to_string());
            self.service.service().check_egress(&EgressRequest { client, user, host, place: &place })
        }
    }

    /// Counts and logs a refusal.
    pub(crate) fn note_refusal(&self, (peer, user): (SocketAddr, Option<&str>), target: &str, reason: BarLabel, text: &str) {
        // Without credentials, this is an unknown client or one that waits for a challenge, such as git.
        if reason != BarLabel::Login {
            self.remember(target, text);
        }
        let client = peer.ip().to_canonical();
        EgressRefused { reason, client, user, target, text }.emit(self.service.metrics());
    }

    /// Authenticates a request to another host. Returns `None` if no authentication is required.
    async fn admit(&self, peer: SocketAddr, head: &mut Parts) -> Result<Option<Arc<str>>, RequestError> {
        // A request to the gateway itself is for an admin page or a mistake. In a session, mistakes need credentials too.
        if !is_for_others(head) && (self.single_user.is_none() || admin_page(head).is_ok()) {
            return Ok(None);
        }
        let user = match (&self.single_user, &self.login) {
            (Some((single_user, pass)), _) => Some(single_user).filter(|_| pass.matches(&head.headers)).cloned(),
            (None, Some(login)) => login.authenticate(peer.ip(), &head.headers).await,
            (None, None) => return Ok(None),
        };
        let user = user.ok_or(RequestError::ProxyAuthRequired)?;
        // The credentials are for this gateway and must not be forwarded.
        head.headers.remove(PROXY_AUTHORIZATION);
        Ok(Some(user))
    }
}

/// Serves a bound listener until `stop` resolves, then drains. All listeners of a process share `limit`.
pub async fn serve<A: RegistryService>(
    listener: TcpListener,
    limit: &Arc<ConnectionLimit>,
    gateway: &Arc<Forward<A>>,
    stop: impl Future<Output = ()>,
) -> DrainReport {
    let limits = gateway.service.config().limits.clone();
    let gateway = Arc::clone(gateway);
    let handler = move |peer, request| {
        let gateway = Arc::clone(&gateway);
        async move { answer(&gateway, peer, request).await }
    };
    listener::serve(listener, &limits, limit, handler, stop).await
}

/// Handles one proxy request.
async fn answer<A: RegistryService>(
    gateway: &Arc<Forward<A>>,
    peer: SocketAddr,
    request: Request<RequestBody>,
) -> Response<Body> {
    let (mut head, body) = request.into_parts();
    let mut log = RequestLog::begin(gateway.service.metrics(), peer.ip().to_canonical(), &head.method, &head.uri);
    let target = head.uri.clone();
    let user = gateway.admit(peer, &mut head).await;
    log.client.user.clone_from(user.as_ref().unwrap_or(&None));
    let reply = match user.and_then(|user| route(gateway, &head, user)) {
        Ok(GatewayRoute::Intercepted(entry_point)) => {
            // The registry handler records the request.
            log.forget();
            return handle(&gateway.service, &entry_point, peer, Request::from_parts(head, body)).await;
        }
        Ok(GatewayRoute::Own(page)) => {
            let unchecked = UncheckedRequest { peer: peer.ip(), head, page, body, on_loopback: false };
            gateway.service.admin_page(Profile::default(), unchecked).await
        }
        Ok(GatewayRoute::Opened(next)) => Ok(response::connected(next)),
        Ok(GatewayRoute::Tunnel(place)) => tunnel(gateway, place, peer, log.client.user.as_deref()).await,
        Ok(GatewayRoute::Onward(place)) => {
            let way =
                gateway.others().connect_http(&place, &gateway.indicator_check(peer, log.client.user.as_deref(), &place)).await;
            match way {
                Ok(way) => plain_http::forward(way, &place, head, body).await,
                Err(error) => Err(error),
            }
        }
        Err(error) => Err(error),
    };
    let user = log.client.user.clone();
    log.finish(reply.unwrap_or_else(|error| refuse(gateway, (peer, user.as_deref()), &target, &error)))
}

/// The route of a request.
enum GatewayRoute {
    /// A plain HTTP request to an intercepted host.
    Intercepted(EntryPoint),
    /// CONNECT to an intercepted host.
    Opened(Upgrade),
    /// A request for an admin page.
    Own(String),
    /// CONNECT to another host.
    Tunnel(Destination),
    /// A plain HTTP request to another host.
    Onward(Destination),
}

/// Checks whether a request names another host, and is thus not for the gateway itself.
fn is_for_others(head: &Parts) -> bool {
    head.uri.authority().is_some() && (head.method == Method::CONNECT || head.uri.scheme().is_some())
}

fn route<A: RegistryService>(
    gateway: &Arc<Forward<A>>,
    head: &Parts,
    user: Option<Arc<str>>,
) -> Result<GatewayRoute, RequestError> {
    if list(&head.headers, &VIA).is_some_and(|hops| hops.contains(via_pseudonym())) {
        return Err(RequestError::EgressDenied(
            BarLabel::Loop,
            "request loop: coldframe already handled this request".to_owned(),
        ));
    }
    let connect = head.method == Method::CONNECT;
    let Some(authority) = head.uri.authority().filter(|_| is_for_others(head)) else {
        return admin_page(head);
    };
    let place = Destination::of(authority, (!connect).then_some(80))?;
    let host = single(&head.headers, &HOST).map_err(RequestError::Headers)?;
    let aim = gateway.targets.find(&place.host.to_string(), place.port);
    // A CONNECT has one target. Node's own client names the proxy in `Host`, and RFC 9112 says to ignore it.
    if connect {
        return Ok(match aim {
            Some(aim) => {
                let gateway = Arc::clone(gateway);
                GatewayRoute::Opened(Upgrade::to(move |connection| intercept::serve(gateway, aim, user, connection)))
            }
            None => GatewayRoute::Tunnel(place),
        });
    }
    if host.is_some_and(|host| !names(host, &place)) {
        return Err(RequestError::Headers(format!("`host` header differs from the target: `{place}`")));
    }
    if head.uri.scheme_str() != Some("http") {
        return Err(RequestError::Headers("`https` requests to a proxy must use CONNECT".to_owned()));
    }
    match aim {
        Some(aim) if aim.secure => Err(RequestError::Headers(format!("plain HTTP on a TLS port: `{place}`"))),
        Some(aim) => Ok(GatewayRoute::Intercepted(EntryPoint::Intercepted { target: aim, user })),
        None => Ok(GatewayRoute::Onward(place)),
    }
}

/// Routes a request to the gateway itself: admin pages only, since it is not a registry.
fn admin_page(head: &Parts) -> Result<GatewayRoute, RequestError> {
    match Endpoint::parse(head.method.as_str(), head.uri.path(), None) {
        Ok(Endpoint::Admin(page)) => Ok(GatewayRoute::Own(page)),
        _ => Err(RequestError::Headers("this is a coldframe gateway; configure it as a proxy, not as a registry".to_owned())),
    }
}

/// Checks whether a `Host` header names `place`. The default port may be omitted.
fn names(host: &str, place: &Destination) -> bool {
    host.parse().is_ok_and(|authority| Destination::of(&authority, Some(80)).is_ok_and(|named| named == *place))
}

async fn tunnel<A: RegistryService>(
    gateway: &Arc<Forward<A>>,
    place: Destination,
    peer: SocketAddr,
    user: Option<&str>,
) -> Result<Reply, RequestError> {
    let stream = gateway.others().connect(&place, &gateway.indicator_check(peer, user, &place)).await?;
    Ok(response::connected(Upgrade::to(move |connection| async move {
        let (sent, received) = connection.relay(stream).await;
        tracing::debug!(
            client.address = %peer.ip(),
            tunnel.target = %place,
            tunnel.sent = sent,
            tunnel.received = received,
            "tunnel closed"
        );
    })))
}

/// Returns and logs a refusal. Closes the connection, since the bytes that follow may be anything.
pub(crate) fn refuse<A: RegistryService>(
    gateway: &Forward<A>,
    (peer, user): (SocketAddr, Option<&str>),
    target: &http::Uri,
    error: &RequestError,
) -> Reply {
    let target = target.authority().map_or("-", |authority| authority.as_str());
    gateway.note_refusal((peer, user), target, reason(error), &error.to_string());
    response::and_close(response::error(error))
}

/// Returns the metric label of an error.
pub(crate) fn reason(error: &RequestError) -> BarLabel {
    match error {
        RequestError::EgressDenied(label, _) => *label,
        RequestError::HostMismatch(_) => BarLabel::Mismatch,
        RequestError::ProxyAuthRequired | RequestError::AdminTokenRequired | RequestError::AdminDisabled => BarLabel::Login,
        RequestError::Unreachable { .. } => BarLabel::Unreached,
        _ => BarLabel::Malformed,
    }
}
