//! Transparent mode: serves connections redirected here by a packet filter or a DNS entry. The destination is the TLS server
//! name, with the same checks as for CONNECT. Connections without a server name are refused, and the name is checked against the
//! original address.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::time::timeout;
use url::Host;

use crate::net::{ConnectionLimit, DrainReport, TunnelStream, UpgradedConnection, is_own_connection, listener};
use crate::server::error::RequestError;
use crate::server::gateway::destination::Destination;
use crate::server::gateway::{Forward, reason};
use crate::server::gateway::{client_hello, intercept};
use crate::server::service::RegistryService;
use crate::telemetry::BarLabel;

/// The TLS alert `access_denied`.
const ACCESS_DENIED: u8 = 49;

/// Serves a bound listener until `stop` resolves, then drains. All listeners of a process share `limit`.
pub async fn serve<A: RegistryService>(
    listener: TcpListener,
    limit: &Arc<ConnectionLimit>,
    gateway: &Arc<Forward<A>>,
    stop: impl Future<Output = ()>,
) -> DrainReport {
    let limits = gateway.service.config().limits.clone();
    let gateway = Arc::clone(gateway);
    listener::serve_raw(listener, &limits, limit, move |connection| handle_connection(Arc::clone(&gateway), connection), stop)
        .await
}

/// Serves one connection until it closes.
async fn handle_connection<A: RegistryService>(gateway: Arc<Forward<A>>, mut connection: UpgradedConnection) {
    let (peer, patience, original) =
        (connection.seat.peer(), connection.seat.limits().header_timeout, connection.redirected_from());
    let named = client_hello::read_sni(&mut connection.stream, patience).await;
    let name = match named {
        Ok(name) => name,
        Err(error) => {
            let target = original.map_or_else(|| "-".to_owned(), |original| original.to_string());
            return gateway.note_refusal((peer, None), &target, BarLabel::Tls, &error.to_string());
        }
    };
    let ports = original.map_or([connection.local_port(), 443], |original| [original.port(); 2]);
    let find = |port| gateway.targets.find(name.trim_end_matches('.'), port).filter(|aim| aim.secure);
    let aim = ports.into_iter().find_map(find);
    let place = Destination { host: Host::Domain(name), port: aim.as_ref().map_or(ports[1], |aim| aim.port) };
    let tunnel = match check_loop(peer, original, &place) {
        Err(error) => Err(error),
        Ok(()) => match aim {
            Some(aim) => return intercept::serve(gateway, aim, None, connection).await,
            None => reach(&gateway, &place, original, peer).await,
        },
    };
    match tunnel {
        Ok(tunnel) => {
            connection.relay(tunnel).await;
        }
        Err(error) => {
            gateway.note_refusal((peer, None), &place.to_string(), reason(&error), &error.to_string());
            // A broken client may not read the alert.
            let _ = timeout(patience, connection.stream.write_all(&intercept::alert(ACCESS_DENIED))).await;
        }
    }
}

/// Refuses a connection that this process opened itself and that was redirected back.
fn check_loop(peer: SocketAddr, original: Option<SocketAddr>, place: &Destination) -> Result<(), RequestError> {
    match original.filter(|original| is_own_connection(peer, *original)) {
        Some(_) => Err(RequestError::EgressDenied(
            BarLabel::Loop,
            format!(
                "connection loop, redirected connection is from coldframe itself: `{place}`; exempt its user from the redirect"
            ),
        )),
        None => Ok(()),
    }
}

async fn reach<A: RegistryService>(
    gateway: &Forward<A>,
    place: &Destination,
    original: Option<SocketAddr>,
    peer: SocketAddr,
) -> Result<TunnelStream, RequestError> {
    let Host::Domain(name) = &place.host else { return Err(RequestError::Headers("target has no host".to_owned())) };
    // Normalized like the target of a CONNECT.
    let read = Destination::of(
        &format!("{name}:{}", place.port)
            .parse()
            .map_err(|_| RequestError::Headers(format!("invalid target host: `{place}`")))?,
        None,
    )?;
    let warned = gateway.indicator_check(peer, None, &read);
    gateway.others().connect_original(&read, original, &warned).await
}
