//! The gateway's door: an HTTP/1.1 proxy. Hosts that are registries are answered for, others are connected to where that is
//! allowed, everything else is refused with the reason. Refuses to look into what it tunnels.

use std::net::SocketAddr;
use std::sync::Arc;

use http::header::{HOST, VIA};
use http::request::Parts;
use http::{Method, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::answers::Answers;
use super::others::Others;
use super::own::Knock;
use super::place::Place;
use super::respond::{self, Reply};
use super::service::{Door, Service, handle};
use super::targets::Targets;
use super::watch::Watch;
use super::{Gateway, ProxyError, intercept, onward};
use crate::firewall::Profile;
use crate::net::headers::{list, single};
use crate::net::{Arriving, Body, ClientError, Deadlines, Drained, HandOver, Layer, Room, dial_permitted, listener, pseudonym};
use crate::npm::Endpoint;
use crate::tls::Leaves;

/// The gateway, ready to serve. One a process, behind an `Arc`.
pub struct Forward<A> {
    pub(super) service: Arc<Service<A>>,
    pub(super) leaves: Leaves,
    targets: Targets,
    others: Others,
}

impl<A: Answers> Forward<A> {
    /// A gateway that hands what it intercepts to `service`; `ours` are all addresses this process listens at.
    #[must_use]
    pub fn new(service: Arc<Service<A>>, gateway: &Gateway, leaves: Leaves, ours: Vec<SocketAddr>) -> Self {
        Self { service, leaves, targets: gateway.targets.clone(), others: Others::new(gateway, ours) }
    }
}

/// Serves a bound listener until `stop` resolves, then drains. `room` is shared by all listeners of a process.
pub async fn serve<A: Answers>(
    listener: TcpListener,
    room: &Arc<Room>,
    gateway: &Arc<Forward<A>>,
    stop: impl Future<Output = ()>,
) -> Drained {
    let limits = gateway.service.config().limits.clone();
    let gateway = Arc::clone(gateway);
    let handler = move |peer, request| {
        let gateway = Arc::clone(&gateway);
        async move { answer(&gateway, peer, request).await }
    };
    listener::serve(listener, &limits, room, handler, stop).await
}

/// Answers one request to the proxy.
async fn answer<A: Answers>(gateway: &Arc<Forward<A>>, peer: SocketAddr, request: Request<Arriving>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let watch = Watch::begin(gateway.service.metrics(), peer.ip().to_canonical(), &head.method, &head.uri);
    let target = head.uri.clone();
    let reply = match route(gateway, &head) {
        Ok(Route::Intercepted(door)) => {
            // It is watched there.
            watch.forget();
            return handle(&gateway.service, &door, peer, Request::from_parts(head, body)).await;
        }
        Ok(Route::Own(page)) => {
            let knock = Knock { peer: peer.ip(), head, page, body, at_home: false };
            gateway.service.own_page(Profile::default(), knock).await
        }
        Ok(Route::Opened(next)) => Ok(respond::connected(next)),
        Ok(Route::Tunnel(place)) => tunnel(gateway, place, peer).await,
        Ok(Route::Onward(place)) => match connect(gateway, &place).await {
            Ok(stream) => onward::forward(stream, &place, head, body).await,
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    watch.answered(reply.unwrap_or_else(|error| refuse(peer, &target, &error)))
}

/// What becomes of a request.
enum Route {
    /// It is for a registry, in plain HTTP.
    Intercepted(Door),
    /// A connection to a registry opens.
    Opened(HandOver),
    /// It is for us.
    Own(String),
    /// A connection to another host is asked for.
    Tunnel(Place),
    /// A request to another host, in plain HTTP.
    Onward(Place),
}

fn route<A: Answers>(gateway: &Arc<Forward<A>>, head: &Parts) -> Result<Route, ProxyError> {
    if list(&head.headers, &VIA).is_some_and(|hops| hops.contains(pseudonym())) {
        return Err(ProxyError::Barred("this request has been through this coldframe before".to_owned()));
    }
    let connect = head.method == Method::CONNECT;
    let Some(authority) = head.uri.authority().filter(|_| connect || head.uri.scheme().is_some()) else {
        return own_page(head);
    };
    let place = Place::of(authority, (!connect).then_some(80))?;
    let host = single(&head.headers, &HOST).map_err(ProxyError::Headers)?;
    let aim = place.name().and_then(|name| gateway.targets.find(name, place.port));
    // A CONNECT has one target, and Node's own client names the proxy in `Host`; RFC 9112 has it ignored.
    if connect {
        return Ok(match aim {
            Some(aim) => {
                let gateway = Arc::clone(gateway);
                Route::Opened(HandOver::to(move |taken| intercept::serve(gateway, aim, taken)))
            }
            None => Route::Tunnel(place),
        });
    }
    if host.is_some_and(|host| !names(host, &place)) {
        return Err(ProxyError::Headers(format!("the `host` header names another host than the target: `{place}`")));
    }
    if head.uri.scheme_str() != Some("http") {
        return Err(ProxyError::Headers("a proxy is asked for `https` with CONNECT".to_owned()));
    }
    match aim {
        Some(aim) if aim.secure => Err(ProxyError::Headers(format!("TLS is spoken there, not plain HTTP: `{place}`"))),
        Some(aim) => Ok(Route::Intercepted(Door::Intercepted(aim))),
        None => Ok(Route::Onward(place)),
    }
}

/// A request that names no host is for us, who are no registry here.
fn own_page(head: &Parts) -> Result<Route, ProxyError> {
    match Endpoint::parse(head.method.as_str(), head.uri.path(), None) {
        Ok(Endpoint::Own(page)) => Ok(Route::Own(page)),
        _ => Err(ProxyError::Headers("this is coldframe's gateway: name it as a proxy, not as a registry".to_owned())),
    }
}

/// Whether a `Host` header means `place`, whose usual port may be left out.
fn names(host: &str, place: &Place) -> bool {
    host.parse().is_ok_and(|authority| Place::of(&authority, Some(80)).is_ok_and(|named| named == *place))
}

async fn tunnel<A: Answers>(gateway: &Arc<Forward<A>>, place: Place, peer: SocketAddr) -> Result<Reply, ProxyError> {
    let stream = connect(gateway, &place).await?;
    Ok(respond::connected(HandOver::to(move |taken| async move {
        let (sent, received) = taken.relay(stream).await;
        tracing::debug!(
            client.address = %peer.ip(),
            tunnel.target = %place,
            tunnel.sent = sent,
            tunnel.received = received,
            "a tunnel ended"
        );
    })))
}

/// A connection to another host, if that is allowed.
async fn connect<A: Answers>(gateway: &Forward<A>, place: &Place) -> Result<TcpStream, ProxyError> {
    let leave = gateway.others.admit(place)?;
    let deadline = Deadlines::default().connect;
    let dialled = place.dialled();
    let dialling = timeout(deadline, dial_permitted(&dialled, place.port, |address| leave.permits(address))).await;
    let dialling = dialling.unwrap_or(Err(ClientError::TimedOut { after: deadline }));
    dialling.map_err(|cause| match cause {
        ClientError::Unreachable { layer: Layer::Reach, detail, .. } => {
            ProxyError::Barred(format!("coldframe does not connect there, {detail}: `{place}`"))
        }
        cause => ProxyError::Unreached { place: place.to_string(), cause },
    })
}

/// Says why not, to the client and in the log; what follows on the connection may be anything, so it ends.
pub(super) fn refuse(peer: SocketAddr, target: &http::Uri, error: &ProxyError) -> Reply {
    let target = target.authority().map_or("-", |authority| authority.as_str());
    tracing::info!(client.address = %peer.ip(), gateway.target = target, reason = %error, "the gateway refused");
    respond::last(respond::failed(error))
}
