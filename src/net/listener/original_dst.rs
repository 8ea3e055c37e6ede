//! The original destination of a redirected connection.

use std::net::SocketAddr;

use tokio::net::TcpStream;

/// Returns the destination before a packet filter redirected the connection, or the local address if it was not redirected.
/// Returns `None` if the system does not report it.
#[cfg(target_os = "linux")]
pub(crate) fn destination(stream: &TcpStream) -> Option<SocketAddr> {
    use rustix::net::sockopt::{ip_original_dst, ipv6_original_dst};
    // A dual-stack socket may hold an IPv4 connection.
    let is_v4 = stream.local_addr().ok()?.ip().to_canonical().is_ipv4();
    if is_v4 { ip_original_dst(stream).ok().map(SocketAddr::V4) } else { ipv6_original_dst(stream).ok().map(SocketAddr::V6) }
}

/// Returns `None`: other systems report it differently, or not at all.
#[cfg(not(target_os = "linux"))]
pub(crate) fn destination(_stream: &TcpStream) -> Option<SocketAddr> {
    None
}
