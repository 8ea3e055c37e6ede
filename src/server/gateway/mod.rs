//! The gateway's door: an HTTP/1.1 proxy. Hosts that are registries are answered for, others are connected to where that is
//! allowed, everything else is refused with the reason. Refuses to look into what it tunnels.

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
use crate::net::{Body, ConnectionLimit, DrainReport, RequestBody, Upgrade, listener, pseudonym};
use crate::npm::Endpoint;
use crate::server::admin::access::UncheckedRequest;
use crate::server::auth::gateway_users::GatewayAuth;
use crate::server::auth::password_file::PasswordFileError;
use crate::server::auth::session_password::SessionPassword;
use crate::server::gateway::destination::Destination;
use crate::server::gateway::egress::{EgressContext, EgressPolicy};
use crate::server::intercepted_hosts::InterceptedHosts;
use crate::server::registry::handler::{EntryPoint, RegistryHandler, handle};
use crate::server::request_log::RequestLog;
use crate::server::response::{self, Reply};
use crate::server::service::RegistryService;
use crate::server::{GatewayConfig, RequestError};
use crate::telemetry::{BarLabel, EgressRefused};
use crate::tls::LeafIssuer;

/// The gateway, ready to serve. One a process, behind an `Arc`.
pub struct Forward<A> {
    pub(crate) service: Arc<RegistryHandler<A>>,
    leaves: ArcSwap<LeafIssuer>,
    pub(crate) targets: InterceptedHosts,
    others: ArcSwap<EgressPolicy>,
    login: Option<Arc<GatewayAuth>>,
    /// Whom it was made for, where it was made for one, and what they show.
    guest: Option<(Arc<str>, SessionPassword)>,
    turned_away: Mutex<BTreeMap<String, RefusedDestination>>,
}

/// What became of requests to a place that the gateway does not go to, or could not get to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedDestination {
    /// How many.
    pub times: u64,
    /// Why the first of them was.
    pub reason: String,
}

/// Places that are remembered as refused: clients name as many as they like.
const MOST_TURNED_AWAY: usize = 100;

impl<A: RegistryService> Forward<A> {
    /// A gateway that hands what it intercepts to `service`, and goes to others that `way`.
    ///
    /// # Errors
    /// When the file of those who may use it is of no use.
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
            guest: None,
            turned_away: Mutex::default(),
        })
    }

    /// The same for one person alone: other users of this machine reach its port, and have not got `pass`.
    #[must_use]
    pub fn known_as(mut self, guest: Arc<str>, pass: SessionPassword) -> Self {
        self.guest = Some((guest, pass));
        self
    }

    /// The places that were asked for and refused, as clients spelled them; the first hundred.
    #[must_use]
    pub fn turned_away(&self) -> BTreeMap<String, RefusedDestination> {
        self.turned_away.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remember(&self, place: &str, reason: &str) {
        let mut turned_away = self.turned_away.lock().unwrap_or_else(PoisonError::into_inner);
        if turned_away.len() < MOST_TURNED_AWAY || turned_away.contains_key(place) {
            let fresh = || RefusedDestination { times: 0, reason: reason.to_owned() };
            turned_away.entry(place.to_owned()).or_insert_with(fresh).times += 1;
        }
    }

    /// What connections that are opened from now on are secured with.
    pub fn renew(&self, leaves: LeafIssuer) {
        self.leaves.store(Arc::new(leaves));
    }

    /// Goes to the hosts that `gateway` allows from now on; connections that are open stay.
    pub fn renew_others(&self, gateway: &GatewayConfig) {
        self.others.rcu(|others| EgressPolicy::new(gateway, others.way()));
    }

    /// The hosts that it goes to.
    pub(crate) fn others(&self) -> Arc<EgressPolicy> {
        self.others.load_full()
    }

    pub(crate) fn leaves(&self) -> Guard<Arc<LeafIssuer>> {
        self.leaves.load()
    }

    /// Those who may use it; `None` where everybody may.
    #[must_use]
    pub fn login(&self) -> Option<&Arc<GatewayAuth>> {
        self.login.as_ref()
    }

    /// Says of names and addresses on the way to `place` why nobody may go there, by what feeds say; that somebody wants to is
    /// an event then.
    pub(crate) fn warner<'a>(
        &'a self,
        peer: SocketAddr,
        user: Option<&'a str>,
        place: &'a Destination,
    ) -> impl Fn(&str) -> Option<String> + Send + Sync + 'a {
        move |host| {
            let (client, place) = (peer.ip().to_canonical(), place.to_string());
            self.service.answers().contact(&EgressRequest { client, user, host, place: &place })
        }
    }

    /// Counts and logs a refusal.
    pub(crate) fn note_refusal(&self, (peer, user): (SocketAddr, Option<&str>), target: &str, reason: BarLabel, text: &str) {
        // Who did not say who they are is a stranger, or a client that waits to be asked, such as git.
        if reason != BarLabel::Login {
            self.remember(target, text);
        }
        let client = peer.ip().to_canonical();
        EgressRefused { reason, client, user, target, text }.emit(self.service.metrics());
    }

    /// Who asks for something of others, by name; `None` where everybody may and nobody is known.
    async fn admit(&self, peer: SocketAddr, head: &mut Parts) -> Result<Option<Arc<str>>, RequestError> {
        // What is for us is a page of ours, or a mistake, which is nobody's but the guest's to make.
        if !is_for_others(head) && (self.guest.is_none() || own_page(head).is_ok()) {
            return Ok(None);
        }
        let user = match (&self.guest, &self.login) {
            (Some((guest, pass)), _) => Some(guest).filter(|_| pass.is_shown_in(&head.headers)).cloned(),
            (None, Some(login)) => login.admit(peer.ip(), &head.headers).await,
            (None, None) => return Ok(None),
        };
        let user = user.ok_or(RequestError::Stranger)?;
        // It has said what it had to, and is for nobody behind us.
        head.headers.remove(PROXY_AUTHORIZATION);
        Ok(Some(user))
    }
}

/// Serves a bound listener until `stop` resolves, then drains. `room` is shared by all listeners of a process.
pub async fn serve<A: RegistryService>(
    listener: TcpListener,
    room: &Arc<ConnectionLimit>,
    gateway: &Arc<Forward<A>>,
    stop: impl Future<Output = ()>,
) -> DrainReport {
    let limits = gateway.service.config().limits.clone();
    let gateway = Arc::clone(gateway);
    let handler = move |peer, request| {
        let gateway = Arc::clone(&gateway);
        async move { answer(&gateway, peer, request).await }
    };
    listener::serve(listener, &limits, room, handler, stop).await
}

/// Answers one request to the proxy.
async fn answer<A: RegistryService>(
    gateway: &Arc<Forward<A>>,
    peer: SocketAddr,
    request: Request<RequestBody>,
) -> Response<Body> {
    let (mut head, body) = request.into_parts();
    let mut watch = RequestLog::begin(gateway.service.metrics(), peer.ip().to_canonical(), &head.method, &head.uri);
    let target = head.uri.clone();
    let user = gateway.admit(peer, &mut head).await;
    watch.user.clone_from(user.as_ref().unwrap_or(&None));
    let reply = match user.and_then(|user| route(gateway, &head, user)) {
        Ok(GatewayRoute::Intercepted(door)) => {
            // It is watched there.
            watch.forget();
            return handle(&gateway.service, &door, peer, Request::from_parts(head, body)).await;
        }
        Ok(GatewayRoute::Own(page)) => {
            let unchecked = UncheckedRequest { peer: peer.ip(), head, page, body, at_home: false };
            gateway.service.own_page(Profile::default(), unchecked).await
        }
        Ok(GatewayRoute::Opened(next)) => Ok(response::connected(next)),
        Ok(GatewayRoute::Tunnel(place)) => tunnel(gateway, place, peer, watch.user.as_deref()).await,
        Ok(GatewayRoute::Onward(place)) => {
            let way = gateway.others().reach_for_http(&place, &gateway.warner(peer, watch.user.as_deref(), &place)).await;
            match way {
                Ok(way) => plain_http::forward(way, &place, head, body).await,
                Err(error) => Err(error),
            }
        }
        Err(error) => Err(error),
    };
    let user = watch.user.clone();
    watch.answered(reply.unwrap_or_else(|error| refuse(gateway, (peer, user.as_deref()), &target, &error)))
}

/// What becomes of a request.
enum GatewayRoute {
    /// It is for a registry, in plain HTTP.
    Intercepted(EntryPoint),
    /// A connection to a registry opens.
    Opened(Upgrade),
    /// It is for us.
    Own(String),
    /// A connection to another host is asked for.
    Tunnel(Destination),
    /// A request to another host, in plain HTTP.
    Onward(Destination),
}

/// Whether a request names a host, so that it is not for us.
fn is_for_others(head: &Parts) -> bool {
    head.uri.authority().is_some() && (head.method == Method::CONNECT || head.uri.scheme().is_some())
}

fn route<A: RegistryService>(
    gateway: &Arc<Forward<A>>,
    head: &Parts,
    user: Option<Arc<str>>,
) -> Result<GatewayRoute, RequestError> {
    if list(&head.headers, &VIA).is_some_and(|hops| hops.contains(pseudonym())) {
        return Err(RequestError::Barred(BarLabel::Loop, "this request has been through this coldframe before".to_owned()));
    }
    let connect = head.method == Method::CONNECT;
    let Some(authority) = head.uri.authority().filter(|_| is_for_others(head)) else {
        return own_page(head);
    };
    let place = Destination::of(authority, (!connect).then_some(80))?;
    let host = single(&head.headers, &HOST).map_err(RequestError::Headers)?;
    let aim = gateway.targets.find(&place.host.to_string(), place.port);
    // A CONNECT has one target, and Node's own client names the proxy in `Host`; RFC 9112 has it ignored.
    if connect {
        return Ok(match aim {
            Some(aim) => {
                let gateway = Arc::clone(gateway);
                GatewayRoute::Opened(Upgrade::to(move |taken| intercept::serve(gateway, aim, user, taken)))
            }
            None => GatewayRoute::Tunnel(place),
        });
    }
    if host.is_some_and(|host| !names(host, &place)) {
        return Err(RequestError::Headers(format!("the `host` header names another host than the target: `{place}`")));
    }
    if head.uri.scheme_str() != Some("http") {
        return Err(RequestError::Headers("a proxy is asked for `https` with CONNECT".to_owned()));
    }
    match aim {
        Some(aim) if aim.secure => Err(RequestError::Headers(format!("TLS is spoken there, not plain HTTP: `{place}`"))),
        Some(aim) => Ok(GatewayRoute::Intercepted(EntryPoint::Intercepted(aim, user))),
        None => Ok(GatewayRoute::Onward(place)),
    }
}

/// A request that names no host is for us, who are no registry here.
fn own_page(head: &Parts) -> Result<GatewayRoute, RequestError> {
    match Endpoint::parse(head.method.as_str(), head.uri.path(), None) {
        Ok(Endpoint::Own(page)) => Ok(GatewayRoute::Own(page)),
        _ => Err(RequestError::Headers("this is coldframe's gateway: name it as a proxy, not as a registry".to_owned())),
    }
}

/// Whether a `Host` header means `place`, whose usual port may be left out.
fn names(host: &str, place: &Destination) -> bool {
    host.parse().is_ok_and(|authority| Destination::of(&authority, Some(80)).is_ok_and(|named| named == *place))
}

async fn tunnel<A: RegistryService>(
    gateway: &Arc<Forward<A>>,
    place: Destination,
    peer: SocketAddr,
    user: Option<&str>,
) -> Result<Reply, RequestError> {
    let far = gateway.others().reach(&place, &gateway.warner(peer, user, &place)).await?;
    Ok(response::connected(Upgrade::to(move |taken| async move {
        let (sent, received) = taken.relay(far).await;
        tracing::debug!(
            client.address = %peer.ip(),
            tunnel.target = %place,
            tunnel.sent = sent,
            tunnel.received = received,
            "a tunnel ended"
        );
    })))
}

/// Says why not, to the client and in the log; what follows on the connection may be anything, so it ends.
pub(crate) fn refuse<A: RegistryService>(
    gateway: &Forward<A>,
    (peer, user): (SocketAddr, Option<&str>),
    target: &http::Uri,
    error: &RequestError,
) -> Reply {
    let target = target.authority().map_or("-", |authority| authority.as_str());
    gateway.note_refusal((peer, user), target, reason(error), &error.to_string());
    response::last(response::failed(error))
}

/// Why, for those who count.
pub(crate) fn reason(error: &RequestError) -> BarLabel {
    match error {
        RequestError::Barred(label, _) => *label,
        RequestError::Misdirected(_) => BarLabel::Mismatch,
        RequestError::Stranger | RequestError::NotAnOperator | RequestError::NoOperators => BarLabel::Login,
        RequestError::Unreached { .. } => BarLabel::Unreached,
        _ => BarLabel::Malformed,
    }
}
