//! The door for connections that were sent here on their way to somebody else: by a redirect of the packet filter, or by a name
//! that was pointed here. Where to is read from the first message of TLS, and what holds for CONNECT holds for it. Refuses what names
//! no host, and to believe a name about an address that is not its.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::time::timeout;
use url::Host;

use crate::net::{ConnectionLimit, DrainReport, TunnelStream, UpgradedConnection, is_our_own, listener};
use crate::server::RequestError;
use crate::server::gateway::destination::Destination;
use crate::server::gateway::{Forward, reason};
use crate::server::gateway::{client_hello, intercept};
use crate::server::service::RegistryService;
use crate::telemetry::BarLabel;

/// What TLS calls "you may not".
const ACCESS_DENIED: u8 = 49;

/// Serves a bound listener until `stop` resolves, then drains. `room` is shared by all listeners of a process.
pub async fn serve<A: RegistryService>(
    listener: TcpListener,
    room: &Arc<ConnectionLimit>,
    gateway: &Arc<Forward<A>>,
    stop: impl Future<Output = ()>,
) -> DrainReport {
    let limits = gateway.service.config().limits.clone();
    let gateway = Arc::clone(gateway);
    listener::serve_raw(listener, &limits, room, move |taken| meet(Arc::clone(&gateway), taken), stop).await
}

/// One connection, to its end.
async fn meet<A: RegistryService>(gateway: Arc<Forward<A>>, mut taken: UpgradedConnection) {
    let (peer, patience, original) = (taken.seat.peer(), taken.seat.limits().head_timeout, taken.redirected_from());
    let named = client_hello::name(&mut taken.stream, patience).await;
    let name = match named {
        Ok(name) => name,
        Err(error) => {
            let target = original.map_or_else(|| "-".to_owned(), |original| original.to_string());
            return gateway.note_refusal((peer, None), &target, BarLabel::Tls, &error.to_string());
        }
    };
    let ports = original.map_or([taken.local_port(), 443], |original| [original.port(); 2]);
    let find = |port| gateway.targets.find(name.trim_end_matches('.'), port).filter(|aim| aim.secure);
    let aim = ports.into_iter().find_map(find);
    let place = Destination { host: Host::Domain(name), port: aim.as_ref().map_or(ports[1], |aim| aim.port) };
    let far = match leads_back(peer, original, &place) {
        Err(error) => Err(error),
        Ok(()) => match aim {
            Some(aim) => return intercept::serve(gateway, aim, None, taken).await,
            None => reach(&gateway, &place, original, peer).await,
        },
    };
    match far {
        Ok(far) => {
            taken.relay(far).await;
        }
        Err(error) => {
            gateway.note_refusal((peer, None), &place.to_string(), reason(&error), &error.to_string());
            // Whoever sends nonsense may not read what it gets.
            let _ = timeout(patience, taken.stream.write_all(&intercept::alert(ACCESS_DENIED))).await;
        }
    }
}

/// Refuses a connection that is our own, on its way to somebody else.
fn leads_back(peer: SocketAddr, original: Option<SocketAddr>, place: &Destination) -> Result<(), RequestError> {
    match original.filter(|original| is_our_own(peer, *original)) {
        Some(_) => Err(RequestError::Barred(
            BarLabel::Loop,
            format!("this connection is coldframe's own: exempt its user from the redirect: `{place}`"),
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
    let Host::Domain(name) = &place.host else { return Err(RequestError::Headers("no host".to_owned())) };
    // As a target of CONNECT would be read.
    let read = Destination::of(
        &format!("{name}:{}", place.port)
            .parse()
            .map_err(|_| RequestError::Headers(format!("the target is no host: `{place}`")))?,
        None,
    )?;
    let warned = gateway.warner(peer, None, &read);
    gateway.others().splice(&read, original, &warned).await
}
