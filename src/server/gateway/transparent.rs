//! Transparent mode: serves connections redirected here by a packet filter or a DNS entry. The destination is the TLS server
//! name, with the same checks as for CONNECT. Connections without a server name are refused, and the name is checked against the
//! original address.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::server::Acceptor;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use url::Host;

use crate::firewall::RegistryService;
use crate::net::{ConnectionLimit, PeekedStream, TunnelStream, UpgradedConnection, is_own_connection, listener};
use crate::server::error::RequestError;
use crate::server::gateway::destination::Destination;
use crate::server::gateway::intercept::{self, HANDSHAKE, MAX_HELLO_BYTES};
use crate::server::gateway::state::{Gateway, reason};
use crate::telemetry::BarLabel;

/// The TLS alert `access_denied`.
const ACCESS_DENIED: u8 = 49;

const SLOW: &str = "no ClientHello received in time";
const UNREADABLE: &str = "invalid ClientHello";

/// Serves a bound listener until `stop` resolves, then drains. All listeners of a process share `limit`.
pub(crate) async fn serve<S: RegistryService>(
    listener: TcpListener,
    limit: &Arc<ConnectionLimit>,
    gateway: &Arc<Gateway<S>>,
    stop: impl Future<Output = ()>,
) -> usize {
    let limits = gateway.handler.config.limits;
    let gateway = Arc::clone(gateway);
    let handle = |stream, connection| handle_connection(Arc::clone(&gateway), UpgradedConnection::new(stream, connection));
    listener::serve(listener, &limits, limit, handle, stop).await
}

async fn handle_connection<S: RegistryService>(gateway: Arc<Gateway<S>>, mut connection: UpgradedConnection) {
    let (peer, time_limit, original) =
        (connection.context.peer, connection.context.limits.header_timeout, connection.redirected_from());
    let named = timeout(time_limit, read_sni(&mut connection.stream)).await.unwrap_or(Err(SLOW));
    let name = match named {
        Ok(name) => name,
        Err(error) => {
            let address = original.map_or_else(|| "-".to_owned(), |original| original.to_string());
            return gateway.record_refusal((peer, None), &address, BarLabel::Tls, error);
        }
    };
    let ports = original.map_or([connection.local_port(), 443], |original| [original.port(); 2]);
    let find = |port| gateway.intercepted.find(name.trim_end_matches('.'), port).filter(|target| target.secure);
    let target = ports.into_iter().find_map(find);
    let destination = Destination { host: Host::Domain(name), port: target.as_ref().map_or(ports[1], |target| target.port) };
    let tunnel = match check_loop(peer, original, &destination) {
        Err(error) => Err(error),
        Ok(()) => match target {
            Some(target) => return intercept::serve(gateway, target, None, connection).await,
            None => connect(&gateway, &destination, original, peer).await,
        },
    };
    match tunnel {
        Ok(tunnel) => {
            connection.relay(tunnel).await;
        }
        Err(error) => {
            gateway.record_refusal((peer, None), &destination.to_string(), reason(&error), &error.to_string());
            // A broken client may not read the alert.
            let _ = timeout(time_limit, connection.stream.write_all(&intercept::alert(ACCESS_DENIED))).await;
        }
    }
}

/// Refuses a connection that this process opened itself and that was redirected back.
fn check_loop(peer: SocketAddr, original: Option<SocketAddr>, destination: &Destination) -> Result<(), RequestError> {
    match original.filter(|original| is_own_connection(peer, *original)) {
        Some(_) => Err(RequestError::EgressDenied(
            BarLabel::Loop,
            format!(
                "connection loop, redirected connection is from coldframe itself: `{destination}`; exempt its user from the redirect"
            ),
        )),
        None => Ok(()),
    }
}

async fn connect<S: RegistryService>(
    gateway: &Gateway<S>,
    destination: &Destination,
    original: Option<SocketAddr>,
    peer: SocketAddr,
) -> Result<TunnelStream, RequestError> {
    // Neither TLS nor the packet filter carries a token.
    if gateway.handler.auth.as_ref().is_some_and(|auth| auth.is_required()) {
        let text = "redirected connections cannot authenticate, and `require-auth` is set; use the gateway as a proxy";
        return Err(RequestError::EgressDenied(BarLabel::Login, text.to_owned()));
    }
    let Host::Domain(name) = &destination.host else { return Err(RequestError::Headers("target has no host".to_owned())) };
    // Normalized like the target of a CONNECT.
    let read = Destination::of(
        &format!("{name}:{}", destination.port)
            .parse()
            .map_err(|_| RequestError::Headers(format!("invalid target host: `{destination}`")))?,
        None,
    )?;
    let warned = gateway.indicator_check(peer, None, &read);
    gateway.egress.load_full().connect_original(&read, original, &warned).await
}

/// Returns the server name of a connection in lower case, without consuming bytes, or why it is unknown.
async fn read_sni(stream: &mut PeekedStream<TcpStream>) -> Result<String, &'static str> {
    let (mut acceptor, mut seen) = (Acceptor::default(), 0);
    loop {
        let held = stream.peek(MAX_HELLO_BYTES).await.map_err(|_| SLOW)?;
        if held.len() == seen {
            return Err(if seen < MAX_HELLO_BYTES { SLOW } else { UNREADABLE });
        }
        if held.first() != Some(&HANDSHAKE) {
            return Err("plaintext on a TLS port");
        }
        let mut fresh = &held[seen..];
        seen = held.len();
        while !fresh.is_empty() {
            // The acceptor stops reading when the message is complete or its buffer is full.
            if acceptor.read_tls(&mut fresh).map_err(|_| UNREADABLE)? == 0 {
                break;
            }
            match acceptor.accept() {
                Ok(Some(hello)) => {
                    let hello = hello.client_hello();
                    return hello.server_name().map(str::to_ascii_lowercase).ok_or("ClientHello has no server name");
                }
                Ok(None) => {}
                Err(_) => return Err(UNREADABLE),
            }
        }
    }
}
