//! Where a connection was to go before the packet filter sent it elsewhere. Refuses to know who asks.

use std::net::SocketAddr;

use tokio::net::TcpStream;

/// That place, which is where it came to when nobody redirected it; `None` where the system cannot say.
#[cfg(target_os = "linux")]
pub(crate) fn destination(stream: &TcpStream) -> Option<SocketAddr> {
    use rustix::net::sockopt::{ip_original_dst, ipv6_original_dst};
    // A socket for both may hold a connection of either.
    let is_v4 = stream.local_addr().ok()?.ip().to_canonical().is_ipv4();
    if is_v4 { ip_original_dst(stream).ok().map(SocketAddr::V4) } else { ipv6_original_dst(stream).ok().map(SocketAddr::V6) }
}

/// Elsewhere packet filters tell it in other ways, or not at all.
#[cfg(not(target_os = "linux"))]
pub(crate) fn destination(_stream: &TcpStream) -> Option<SocketAddr> {
    None
}
