//! The name in the first message of a TLS connection, which stays to be read. Refuses to answer, and to wait for longer or read more
//! than an honest client needs.

use std::time::Duration;

use rustls::server::Acceptor;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::net::PeekedStream;
use crate::server::gateway::intercept::{HANDSHAKE, LARGEST_HELLO};

/// Why there is no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ClientHelloError {
    /// It takes too long, or ended.
    #[error("no ClientHello came in time")]
    Slow,
    /// The first byte is not TLS'.
    #[error("plaintext where TLS is spoken")]
    Plaintext,
    /// It is none, or too large.
    #[error("no ClientHello that is read here")]
    Unreadable,
    /// It names no host, so that nobody can tell where it leads.
    #[error("the ClientHello names no host")]
    Nameless,
}

/// The name that a connection begins with, in lower case.
pub(crate) async fn name(stream: &mut PeekedStream<TcpStream>, patience: Duration) -> Result<String, ClientHelloError> {
    timeout(patience, read(stream)).await.unwrap_or(Err(ClientHelloError::Slow))
}

async fn read(stream: &mut PeekedStream<TcpStream>) -> Result<String, ClientHelloError> {
    let (mut acceptor, mut seen) = (Acceptor::default(), 0);
    loop {
        let held = stream.peek(LARGEST_HELLO).await.map_err(|_| ClientHelloError::Slow)?;
        if held.len() == seen {
            return Err(if seen < LARGEST_HELLO { ClientHelloError::Slow } else { ClientHelloError::Unreadable });
        }
        if held.first() != Some(&HANDSHAKE) {
            return Err(ClientHelloError::Plaintext);
        }
        let mut fresh = &held[seen..];
        seen = held.len();
        while !fresh.is_empty() {
            // It stops taking when it has what it needs, or more than it holds.
            if acceptor.read_tls(&mut fresh).map_err(|_| ClientHelloError::Unreadable)? == 0 {
                break;
            }
            match acceptor.accept() {
                Ok(Some(hello)) => {
                    let hello = hello.client_hello();
                    return hello.server_name().map(str::to_ascii_lowercase).ok_or(ClientHelloError::Nameless);
                }
                Ok(None) => {}
                Err(_) => return Err(ClientHelloError::Unreadable),
            }
        }
    }
}
