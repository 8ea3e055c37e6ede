//! Resolves host names, opens TCP connections, and checks which addresses may be dialed.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;

use crate::net::address::AddressScope;
use crate::net::client::error::{ClientError, ConnectStage};

/// Delay between connection attempts to the addresses of one host (RFC 8305 recommends 250 ms).
const STAGGER: Duration = Duration::from_millis(250);

const MAX_ADDRESSES: usize = 8;

/// Connects to `host` at an address within `reach`, see [`dial_permitted`].
pub(crate) async fn dial(host: &str, port: u16, reach: AddressScope) -> Result<TcpStream, ClientError> {
    dial_permitted(host, port, |address| reach.check(address.ip())).await
}

/// Connects to `host`, a name or bare IP address, at exactly the address that `permits` accepted. Has no timeout of its own.
pub async fn dial_permitted(
    host: &str,
    port: u16,
    permits: impl Fn(SocketAddr) -> Result<(), String>,
) -> Result<TcpStream, ClientError> {
    connect(permitted(host, port, permits).await?).await
}

/// Resolves `host`. Returns the addresses that `permits` accepts, at least one, or the reason against the first.
async fn permitted(
    host: &str,
    port: u16,
    permits: impl Fn(SocketAddr) -> Result<(), String>,
) -> Result<Vec<SocketAddr>, ClientError> {
    let mut found = resolve(host, port).await?;
    let mut refused = None;
    found.retain(|address| permits(*address).map_err(|why| refused.get_or_insert(why).clone()).is_ok());
    match refused {
        Some(why) if found.is_empty() => Err(ClientError::unreachable(ConnectStage::Reach, why)),
        _ => Ok(found),
    }
}

/// Checks whether `permits` accepts every address of a host that another proxy dials; `false` if the name does not resolve here.
pub async fn all_permitted(
    host: &str,
    port: u16,
    permits: impl Fn(SocketAddr) -> Result<(), String>,
) -> Result<bool, ClientError> {
    let Ok(found) = resolve(host, port).await else { return Ok(false) };
    found.into_iter().try_for_each(permits).map_err(|why| ClientError::unreachable(ConnectStage::Reach, why))?;
    Ok(true)
}

/// Resolves `host`. Returns no addresses if that fails.
pub async fn resolve_all(host: &str, port: u16) -> Vec<SocketAddr> {
    resolve(host, port).await.unwrap_or_default()
}

/// Checks whether this process opened a connection from `peer` to `original` in the last 5 seconds: it was redirected here.
pub fn is_own_connection(peer: SocketAddr, original: SocketAddr) -> bool {
    let ends = (canonical(peer), canonical(original));
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    forget(&mut opened);
    opened.iter().any(|(known, _)| *known == ends)
}

static OPENED: Mutex<VecDeque<((SocketAddr, SocketAddr), Instant)>> = Mutex::new(VecDeque::new());

/// A redirected connection arrives at once.
const MOMENT: Duration = Duration::from_secs(5);

/// More connections than are opened within that time.
const MAX_OWN_CONNECTIONS: usize = 4096;

fn note(stream: &TcpStream) {
    let (Ok(ours), Ok(others)) = (stream.local_addr(), stream.peer_addr()) else { return };
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    forget(&mut opened);
    opened.push_back(((canonical(ours), canonical(others)), Instant::now()));
}

fn forget(opened: &mut VecDeque<((SocketAddr, SocketAddr), Instant)>) {
    while opened.front().is_some_and(|(_, at)| at.elapsed() >= MOMENT) || opened.len() >= MAX_OWN_CONNECTIONS {
        opened.pop_front();
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Tries addresses in the resolver's order, starting one every 250 ms. The first connection wins.
async fn connect(addresses: Vec<SocketAddr>) -> Result<TcpStream, ClientError> {
    let mut attempts = JoinSet::new();
    for (index, address) in (0u32..).zip(addresses) {
        attempts.spawn(async move {
            tokio::time::sleep(STAGGER * index).await;
            TcpStream::connect(address).await.map_err(|error| (address, error))
        });
    }
    let mut first_failure = None;
    while let Some(attempt) = attempts.join_next().await {
        match attempt {
            Ok(Ok(stream)) => {
                note(&stream);
                // A failure only costs latency.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(failure)) => {
                first_failure.get_or_insert(failure);
            }
            // A cancelled or panicked attempt has no error to report.
            Err(_) => {}
        }
    }
    Err(match first_failure {
        Some((address, error)) => {
            ClientError::unreachable(layer(&error, ConnectStage::Tcp), format!("{address}: {}", cause(&error)))
        }
        None => ClientError::unreachable(ConnectStage::Tcp, "no address answered"),
    })
}

/// Checks whether a request to `host` may use an outbound proxy, which resolves names itself. An IP address must be within
/// `reach`. A name must resolve to an address within it, if it resolves here.
pub(crate) async fn check_proxied(host: &str, port: u16, reach: AddressScope) -> Result<(), ClientError> {
    if reach == AddressScope::Anywhere {
        return Ok(());
    }
    match permitted(host, port, |address| reach.check(address.ip())).await {
        // Networks that need a proxy often cannot resolve external names. Then the proxy's own rules apply.
        Err(error) if error.layer() == Some(ConnectStage::Dns) => Ok(()),
        other => other.map(drop),
    }
}

/// A lookup in progress, or its result.
type Lookup = OnceCell<Result<Vec<IpAddr>, ClientError>>;

/// Lookups in progress by host, shared by all connections that need the name. A cold install opens dozens of connections to one
/// host. Resolvers drop queries in bulk, and then each takes 5 or 10 s.
static LOOKUPS: LazyLock<Mutex<HashMap<Box<str>, Weak<Lookup>>>> = LazyLock::new(Mutex::default);

/// Returns the first addresses of `host`, at least one.
async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, ClientError> {
    let found = match host.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) => look_up(host, ask_resolver(host)).await?,
    };
    Ok(found.into_iter().map(|address| SocketAddr::new(address, port)).collect())
}

/// Resolves `host` with `asking`, or joins a lookup in progress.
async fn look_up(host: &str, asking: impl Future<Output = Result<Vec<IpAddr>, ClientError>>) -> Result<Vec<IpAddr>, ClientError> {
    let lookup = {
        let mut lookups = LOOKUPS.lock().unwrap_or_else(PoisonError::into_inner);
        let under_way = lookups.get(host).and_then(Weak::upgrade).filter(|lookup| !lookup.initialized());
        under_way.unwrap_or_else(|| {
            lookups.retain(|_, lookup| lookup.strong_count() > 0);
            let lookup = Arc::new(Lookup::new());
            lookups.insert(host.into(), Arc::downgrade(&lookup));
            lookup
        })
    };
    lookup.get_or_init(|| asking).await.clone()
}

async fn ask_resolver(host: &str) -> Result<Vec<IpAddr>, ClientError> {
    let answer = tokio::net::lookup_host((host, 0)).await;
    let answer = answer.map_err(|error| ClientError::unreachable(layer(&error, ConnectStage::Dns), cause(&error)))?;
    let found: Vec<IpAddr> = answer.map(|address| address.ip()).take(MAX_ADDRESSES).collect();
    if found.is_empty() {
        return Err(ClientError::unreachable(ConnectStage::Dns, "name has no address"));
    }
    Ok(found)
}

/// Returns `layer`, or [`ConnectStage::Machine`] if this machine ran out of resources.
fn layer(error: &io::Error, layer: ConnectStage) -> ConnectStage {
    #[cfg(unix)]
    {
        use rustix::io::Errno;
        const LACKS: [Errno; 5] = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
        if Errno::from_io_error(error).is_some_and(|errno| LACKS.contains(&errno)) {
            return ConnectStage::Machine;
        }
    }
    #[cfg(not(unix))]
    let _ = error;
    layer
}

/// Returns the text of an operating system error without its number.
fn cause(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let text = text.strip_prefix("failed to lookup address information: ").unwrap_or(text);
    text.to_lowercase()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn concurrent_connections_share_a_lookup() {
        let asked = Cell::new(0);
        let ask = async || {
            asked.set(asked.get() + 1);
            tokio::task::yield_now().await;
            Ok(vec![IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)])
        };
        let (first, second) = tokio::join!(look_up("shared.example", ask()), look_up("shared.example", ask()));
        assert_eq!((first.unwrap(), asked.get()), (second.unwrap(), 1));
        // Results are not cached, since addresses change.
        look_up("shared.example", ask()).await.unwrap();
        assert_eq!(asked.get(), 2);
    }

    #[tokio::test]
    async fn untrusted_host_cannot_reach_loopback() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in ["127.0.0.1", "localhost"] {
            assert!(dial(host, port, AddressScope::Anywhere).await.is_ok(), "{host}");
            let refused = dial(host, port, AddressScope::Public).await.unwrap_err();
            assert_eq!(refused.layer(), Some(ConnectStage::Reach), "{refused}");
            assert_eq!(check_proxied(host, port, AddressScope::Public).await.unwrap_err().layer(), Some(ConnectStage::Reach));
        }
    }

    #[tokio::test]
    async fn connect_errors_name_their_stage() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let refused = dial("127.0.0.1", port, AddressScope::Anywhere).await.unwrap_err();
        assert_eq!(refused.to_string(), format!("TCP: 127.0.0.1:{port}: connection refused"));
        // A label of 64 bytes is invalid, so the resolver rejects it without a query.
        let unknown = dial(&format!("{}.invalid", "a".repeat(64)), port, AddressScope::Anywhere).await.unwrap_err();
        assert_eq!(unknown.layer(), Some(ConnectStage::Dns), "{unknown}");
    }
}
