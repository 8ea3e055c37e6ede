//! From a host name to a TCP connection, and which addresses may be dialled at all. Refuses to know what is said over it.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;

use crate::net::client::error::{ClientError, ConnectStage};

/// How long one address may keep the next one waiting (RFC 8305 says 250 ms).
const STAGGER: Duration = Duration::from_millis(250);

/// The most addresses of one name that are tried.
const MOST_ADDRESSES: usize = 8;

/// Where a request may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressScope {
    /// To any address: the host was named by whoever runs this program.
    Anywhere,
    /// To public addresses only: the host was named by a stranger, who must not make us ask our own network.
    Public,
}

impl AddressScope {
    /// Whether `address` lies within.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        self == Self::Anywhere || is_public(address)
    }
}

/// Connects to `host`, a name or an IP address without brackets. The address that is checked is the one that is dialled.
pub(crate) async fn dial(host: &str, port: u16, reach: AddressScope) -> Result<TcpStream, ClientError> {
    connect(addresses(host, port, reach).await?).await
}

/// Connects to `host`, a name or an IP address without brackets, at an address that `permits`. Takes as long as the system
/// lets it.
///
/// # Errors
/// As a layer: the name has no address, none is permitted, none answers.
pub async fn dial_permitted(
    host: &str,
    port: u16,
    permits: impl Fn(SocketAddr) -> Result<(), String>,
) -> Result<TcpStream, ClientError> {
    let mut found = resolve(host, port).await?;
    let mut refused = None;
    found.retain(|address| permits(*address).map_err(|why| refused.get_or_insert(why).clone()).is_ok());
    match (found.is_empty(), refused) {
        (true, Some(why)) => Err(ClientError::unreachable(ConnectStage::Reach, why)),
        _ => connect(found).await,
    }
}

/// Whether every address that `host` has here is one that `permits`, for somebody else dials one of them; `false` when it has
/// none here, and nothing can be said.
///
/// # Errors
/// As [`ConnectStage::Reach`]: one is not permitted.
pub async fn are_permitted(
    host: &str,
    port: u16,
    permits: impl Fn(SocketAddr) -> Result<(), String>,
) -> Result<bool, ClientError> {
    let Ok(found) = resolve(host, port).await else { return Ok(false) };
    match found.into_iter().find_map(|address| permits(address).err()) {
        Some(why) => Err(ClientError::unreachable(ConnectStage::Reach, why)),
        None => Ok(true),
    }
}

/// The addresses that `host` has here; none where it has none, or nobody can say.
pub async fn addresses_of(host: &str, port: u16) -> Vec<SocketAddr> {
    resolve(host, port).await.unwrap_or_default()
}

/// Whether a connection from `peer`, which was to go to `original`, is one that this process opened a moment ago: sent back here
/// by a packet filter.
#[must_use]
pub fn is_our_own(peer: SocketAddr, original: SocketAddr) -> bool {
    let ends = (canonical(peer), canonical(original));
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    forget(&mut opened);
    opened.iter().any(|(known, _)| *known == ends)
}

/// The ends of connections that were opened a moment ago: ours, and the other.
static OPENED: Mutex<VecDeque<((SocketAddr, SocketAddr), Instant)>> = Mutex::new(VecDeque::new());

/// What comes back comes at once.
const MOMENT: Duration = Duration::from_secs(5);

/// As many connections as are opened within that time, and more.
const MOST_OPENED: usize = 4096;

fn note(stream: &TcpStream) {
    let (Ok(ours), Ok(others)) = (stream.local_addr(), stream.peer_addr()) else { return };
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    forget(&mut opened);
    opened.push_back(((canonical(ours), canonical(others)), Instant::now()));
}

fn forget(opened: &mut VecDeque<((SocketAddr, SocketAddr), Instant)>) {
    while opened.front().is_some_and(|(_, at)| at.elapsed() >= MOMENT) || opened.len() >= MOST_OPENED {
        opened.pop_front();
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Addresses are tried in the order the resolver gave them, each 250 ms after the one before; the first to answer wins.
async fn connect(addresses: Vec<SocketAddr>) -> Result<TcpStream, ClientError> {
    let mut attempts = JoinSet::new();
    for (turn, address) in (0u32..).zip(addresses) {
        attempts.spawn(async move {
            tokio::time::sleep(STAGGER * turn).await;
            TcpStream::connect(address).await.map_err(|error| (address, error))
        });
    }
    let mut first_failure = None;
    while let Some(attempt) = attempts.join_next().await {
        match attempt {
            Ok(Ok(stream)) => {
                note(&stream);
                // Only latency is lost where the platform refuses this.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(failure)) => {
                first_failure.get_or_insert(failure);
            }
            // An attempt that was cancelled or panicked has nothing to tell.
            Err(_) => {}
        }
    }
    match first_failure {
        Some((address, error)) => {
            Err(ClientError::unreachable(layer(&error, ConnectStage::Tcp), format!("{address}: {}", cause(&error))))
        }
        None => Err(ClientError::unreachable(ConnectStage::Tcp, "no address answered")),
    }
}

/// Whether `host` may be asked through an outbound proxy, which resolves names itself and dials what it likes: an address
/// must lie within `reach`, and so must what we resolve the name to, if we can resolve it.
pub(crate) async fn check_proxied(host: &str, port: u16, reach: AddressScope) -> Result<(), ClientError> {
    if reach == AddressScope::Anywhere {
        return Ok(());
    }
    match addresses(host, port, reach).await {
        // A network that needs a proxy often does not resolve outside names; then the proxy's own rules are what holds.
        Err(error) if error.layer() == Some(ConnectStage::Dns) => Ok(()),
        other => other.map(drop),
    }
}

/// The addresses of `host` within `reach`: at least one.
async fn addresses(host: &str, port: u16, reach: AddressScope) -> Result<Vec<SocketAddr>, ClientError> {
    let found = resolve(host, port).await?;
    let first = found.first().copied();
    let within: Vec<SocketAddr> = found.into_iter().filter(|address| reach.contains(address.ip())).collect();
    match first {
        Some(first) if within.is_empty() => {
            Err(ClientError::unreachable(ConnectStage::Reach, format!("`{}` is not a public address", first.ip())))
        }
        _ => Ok(within),
    }
}

/// A look-up that is under way, or its result.
type Lookup = OnceCell<Result<Vec<IpAddr>, ClientError>>;

/// Look-ups under way by host: connections that need one name at once share one. A cold install opens dozens of connections to one
/// host, and resolvers drop questions that come in bulk: then each takes 5 or 10 s.
static LOOKUPS: LazyLock<Mutex<HashMap<Box<str>, Weak<Lookup>>>> = LazyLock::new(Mutex::default);

/// The first addresses of `host`: at least one.
async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, ClientError> {
    let found = match host.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) => look_up(host, ask_resolver(host)).await?,
    };
    Ok(found.into_iter().map(|address| SocketAddr::new(address, port)).collect())
}

/// Looks `host` up by `asking`, or joins a look-up that is under way.
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
    let found: Vec<IpAddr> = answer.map(|address| address.ip()).take(MOST_ADDRESSES).collect();
    if found.is_empty() {
        return Err(ClientError::unreachable(ConnectStage::Dns, "the name has no address"));
    }
    Ok(found)
}

/// `layer`, unless this machine had nothing left to try it with.
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

/// The words for what the operating system said, without its number.
fn cause(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let text = text.strip_prefix("failed to lookup address information: ").unwrap_or(text);
    text.to_lowercase()
}

/// Whether `address` is one of the public internet's: not this machine, this network, a private or a reserved one, however
/// an IPv6 address wraps it.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// Whether `address` is this machine, this link, or where a cloud tells a machine its secrets, however an IPv6 address wraps
/// it. Somebody else's name may point there; nobody means that.
#[must_use]
pub fn is_inward(address: IpAddr) -> bool {
    /// Azure's, Alibaba's and Oracle's; Amazon's and most others' is link-local.
    const METADATA: [Ipv4Addr; 3] =
        [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192)];
    match address {
        IpAddr::V4(address) => {
            let first = address.octets()[0];
            first == 0 || first >= 224 || address.is_loopback() || address.is_link_local() || METADATA.contains(&address)
        }
        IpAddr::V6(address) => embedded_v4(address).map_or_else(|| is_inward_v6(address), |inner| is_inward(IpAddr::V4(inner))),
    }
}

fn is_inward_v6(address: Ipv6Addr) -> bool {
    let amazon = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    // Unspecified, loopback, and IPv4 addresses as they were written long ago.
    let low = address.segments().starts_with(&[0; 6]);
    low || address.is_multicast() || address.is_unicast_link_local() || address == amazon
}

/// The IPv4 address that an IPv6 address stands for.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let of = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match address.segments() {
        // NAT64 carries it at its end, 6to4 right behind its prefix.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            Some(of(high, low))
        }
        _ => None,
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let reserved = match (a, b, c) {
        // This host, carrier-grade NAT, protocol assignments, 6to4 relays, benchmarks, multicast and future use.
        (0 | 224..=255, ..) | (100, 64..=127, _) | (192, 0, 0) | (192, 88, 99) | (198, 18..=19, _) => true,
        _ => address.is_loopback() || address.is_private() || address.is_link_local() || address.is_documentation(),
    };
    !reserved
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(inner) = embedded_v4(address) {
        return is_public_v4(inner);
    }
    match address.segments() {
        // Protocol assignments with Teredo, and documentation.
        [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => false,
        // Global unicast; everything else is unspecified, loopback, unique local, link-local, multicast or reserved.
        [first, ..] => (0x2000..=0x3fff).contains(&first),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn connections_that_need_one_name_at_once_share_a_lookup() {
        let asked = Cell::new(0);
        let ask = async || {
            asked.set(asked.get() + 1);
            tokio::task::yield_now().await;
            Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)])
        };
        let (first, second) = tokio::join!(look_up("shared.example", ask()), look_up("shared.example", ask()));
        assert_eq!((first.unwrap(), asked.get()), (second.unwrap(), 1));
        // An answer is not kept: addresses change.
        look_up("shared.example", ask()).await.unwrap();
        assert_eq!(asked.get(), 2);
    }

    #[test]
    fn public_addresses_are_public() {
        for text in [
            "1.1.1.1",
            "93.184.216.34",
            "100.128.0.1",
            "172.32.0.1",
            "2606:2800:220:1::1",
            "64:ff9b::101:101",
            "::ffff:8.8.8.8",
            "2002:808:808::1",
        ] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn this_machine_this_link_and_metadata_are_inward_however_they_are_wrapped() {
        for text in [
            "127.0.0.1",
            "0.0.0.0",
            "169.254.169.254",
            "168.63.129.16",
            "100.100.100.200",
            "224.0.0.1",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "2002:a9fe:a9fe::",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
        ] {
            assert!(is_inward(text.parse().unwrap()), "{text}");
        }
        for text in ["10.0.0.1", "192.168.1.1", "1.1.1.1", "fd12::1", "2606:2800:220:1::1", "::ffff:10.0.0.1"] {
            assert!(!is_inward(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn what_is_ours_or_reserved_is_not_public_however_it_is_wrapped() {
        let ours = [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.1",
            "192.0.0.1",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.7",
            "203.0.113.7",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "100::1",
        ];
        for text in ours {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[tokio::test]
    async fn a_stranger_cannot_make_us_dial_loopback() {
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
    async fn a_refused_connection_is_tcps_fault_and_an_unknown_name_is_dnss() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let refused = dial("127.0.0.1", port, AddressScope::Anywhere).await.unwrap_err();
        assert_eq!(refused.to_string(), format!("TCP: 127.0.0.1:{port}: connection refused"));
        // A label of 64 bytes never leaves the machine: the resolver refuses it by itself.
        let unknown = dial(&format!("{}.invalid", "a".repeat(64)), port, AddressScope::Anywhere).await.unwrap_err();
        assert_eq!(unknown.layer(), Some(ConnectStage::Dns), "{unknown}");
    }
}
