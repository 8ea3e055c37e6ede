//! The gateway: an HTTP/1.1 proxy. It intercepts registry hosts, tunnels to other hosts if allowed, and refuses the rest with the
//! reason. Tunneled bytes are not inspected.

pub(crate) mod destination;
pub(crate) mod egress;
pub(crate) mod intercept;
pub(crate) mod plain_http;
pub(crate) mod state;
pub(crate) mod transparent;

use std::net::SocketAddr;
use std::sync::Arc;

use http::header::{AUTHORIZATION, HOST, HeaderValue, VIA};
use http::request::Parts;
use http::{Method, Request, Response};
use tokio::net::TcpListener;

use crate::firewall::{Profile, RegistryService};
use crate::net::headers::{list, single};
use crate::net::listener::connection::serve_connection;
use crate::net::{Body, ConnectionLimit, RequestBody, Upgrade, listener, via_pseudonym};
use crate::npm::Endpoint;
use crate::policy::Identity;
use crate::policy::access::secret;
use crate::server::admin::access::UncheckedRequest;
use crate::server::auth::presented::Presented;
use crate::server::client::Peer;
use crate::server::error::RequestError;
use crate::server::gateway::destination::Destination;
use crate::server::gateway::state::Gateway;
use crate::server::registry::handler::handle;
use crate::server::registry::target::EntryPoint;
use crate::server::request_log::RequestLog;
use crate::server::response::{self, Reply};
use crate::telemetry::BarLabel;

/// Serves a bound listener until `stop` resolves, then drains. All listeners of a process share `limit`.
pub(crate) async fn serve<S: RegistryService>(
    listener: TcpListener,
    limit: &Arc<ConnectionLimit>,
    gateway: &Arc<Gateway<S>>,
    stop: impl Future<Output = ()>,
) -> usize {
    let limits = gateway.handler.config.limits;
    let gateway = Arc::clone(gateway);
    let handler = move |peer, request| {
        let gateway = Arc::clone(&gateway);
        async move { handle_request(&gateway, peer, request).await }
    };
    let handle = move |stream, connection| serve_connection(stream, connection, handler.clone());
    listener::serve(listener, &limits, limit, handle, stop).await
}

async fn handle_request<S: RegistryService>(
    gateway: &Arc<Gateway<S>>,
    peer: SocketAddr,
    request: Request<RequestBody>,
) -> Response<Body> {
    let (mut head, body) = request.into_parts();
    let mut log = RequestLog::begin(&gateway.handler.metrics, peer.ip().to_canonical(), &head.method, &head.uri);
    let target = head.uri.clone();
    // A request to the gateway itself is for an admin page or a mistake. In a session, mistakes need credentials too.
    let is_open = !is_for_others(&head) && (gateway.single_user.is_none() || admin_page(&head).is_ok());
    let identity = match is_open {
        _ if log.has_token => Err(RequestError::TokenInRequest("URL")),
        true => Ok(None),
        false => gateway.authenticate(peer.ip(), &mut head.headers).await,
    };
    let identity = identity.inspect(|identity| log.client.user = identity.as_ref().map(|known| Arc::clone(&known.subject)));
    let reply = match identity.and_then(|identity| route(gateway, &head, identity)) {
        Ok(GatewayRoute::Intercepted(entry_point)) => {
            // The registry handler records the request.
            log.forget();
            return handle(&gateway.handler, &entry_point, peer, Request::from_parts(head, body)).await;
        }
        Ok(GatewayRoute::Admin(page)) => match Presented::take(&mut head.headers, &AUTHORIZATION) {
            Ok(presented) => {
                let unchecked = UncheckedRequest { peer: Peer::from(peer.ip()), head, page, body, on_loopback: false, presented };
                gateway.handler.admin_page(Profile::default(), unchecked).await
            }
            Err(error) => Err(RequestError::Headers(error)),
        },
        Ok(GatewayRoute::Upgrade(next)) => Ok(response::connected(next)),
        Ok(GatewayRoute::Tunnel(destination, identity)) => tunnel(gateway, destination, peer, identity).await,
        Ok(GatewayRoute::PlainHttp(destination)) => {
            let check = gateway.indicator_check(peer, log.client.user.as_deref(), &destination);
            match gateway.egress.load_full().connect_http(&destination, &check).await {
                Ok(route) => plain_http::forward(route, &destination, head, body).await,
                Err(error) => Err(error),
            }
        }
        Err(error) => Err(error),
    };
    let user = log.client.user.clone();
    log.finish(reply.unwrap_or_else(|error| gateway.refuse((peer, user.as_deref()), &target, &error)))
}

enum GatewayRoute {
    Intercepted(EntryPoint),
    Upgrade(Upgrade),
    Admin(String),
    Tunnel(Destination, Option<Arc<Identity>>),
    PlainHttp(Destination),
}

/// Checks whether a request names another host, and is thus not for the gateway itself.
fn is_for_others(head: &Parts) -> bool {
    head.uri.authority().is_some() && (head.method == Method::CONNECT || head.uri.scheme().is_some())
}

fn route<S: RegistryService>(
    gateway: &Arc<Gateway<S>>,
    head: &Parts,
    identity: Option<Arc<Identity>>,
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
    let destination = Destination::of(authority, (!connect).then_some(80))?;
    let host = single(&head.headers, &HOST).map_err(RequestError::Headers)?;
    let target = gateway.intercepted.find(&destination.host.to_string(), destination.port);
    // A CONNECT has one target. Node's own client names the proxy in `Host`, and RFC 9112 says to ignore it.
    if connect {
        return Ok(match target {
            Some(target) => {
                let gateway = Arc::clone(gateway);
                GatewayRoute::Upgrade(Upgrade::to(move |connection| intercept::serve(gateway, target, identity, connection)))
            }
            None => GatewayRoute::Tunnel(destination, identity),
        });
    }
    // The default port may be omitted.
    let named = |host: &str| Destination::of(&host.parse().ok()?, Some(80)).ok();
    if host.is_some_and(|host| named(host).as_ref() != Some(&destination)) {
        return Err(RequestError::Headers(format!("`host` header differs from the target: `{destination}`")));
    }
    if head.uri.scheme_str() != Some("http") {
        return Err(RequestError::Headers("`https` requests to a proxy must use CONNECT".to_owned()));
    }
    match target {
        Some(target) if target.secure => Err(RequestError::Headers(format!("plain HTTP on a TLS port: `{destination}`"))),
        Some(target) => Ok(GatewayRoute::Intercepted(EntryPoint::Intercepted { target, identity })),
        None => check_headers(gateway, head).map(|()| GatewayRoute::PlainHttp(destination)),
    }
}

/// Routes a request to the gateway itself: admin pages only, since it is not a registry.
fn admin_page(head: &Parts) -> Result<GatewayRoute, RequestError> {
    match Endpoint::parse(head.method.as_str(), head.uri.path(), None) {
        Ok(Endpoint::Admin(page)) => Ok(GatewayRoute::Admin(page)),
        _ => Err(RequestError::Headers("this is a coldframe gateway; configure it as a proxy, not as a registry".to_owned())),
    }
}

/// Refuses a request to another host with an access token in a header.
fn check_headers<S>(gateway: &Gateway<S>, head: &Parts) -> Result<(), RequestError> {
    let exchange = gateway.handler.exchange.as_ref();
    let is_ours = |value: &HeaderValue| {
        secret::is_in(value.as_bytes())
            || value.to_str().is_ok_and(|text| {
                matches!(Presented::parse(text), Presented::Token(_)) || exchange.is_some_and(|exchange| exchange.is_ours(text))
            })
    };
    if head.headers.values().any(is_ours) { Err(RequestError::TokenInRequest("headers")) } else { Ok(()) }
}

/// Opens a tunnel. It ends with the access token that opened it.
async fn tunnel<S: RegistryService>(
    gateway: &Arc<Gateway<S>>,
    destination: Destination,
    peer: SocketAddr,
    identity: Option<Arc<Identity>>,
) -> Result<Reply, RequestError> {
    let user = identity.as_ref().map(|identity| &*identity.subject);
    let stream = gateway.egress.load_full().connect(&destination, &gateway.indicator_check(peer, user, &destination)).await?;
    let auth = gateway.handler.auth.clone();
    Ok(response::connected(Upgrade::to(move |connection| async move {
        let ended = async {
            match (&auth, &identity) {
                (Some(auth), Some(identity)) => auth.until_ended(identity).await,
                _ => std::future::pending().await,
            }
        };
        let (sent, received) = tokio::select! {
            relayed = connection.relay(stream) => relayed,
            () = ended => {
                tracing::info!(client.address = %peer.ip(), tunnel.target = %destination, "tunnel of an ended access token closed");
                return;
            }
        };
        tracing::debug!(
            client.address = %peer.ip(),
            tunnel.target = %destination,
            tunnel.sent = sent,
            tunnel.received = received,
            "tunnel closed"
        );
    })))
}
