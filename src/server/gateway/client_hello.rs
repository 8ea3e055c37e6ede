//! Reads the server name of a TLS connection without consuming bytes. Time and size are bounded.

use std::time::Duration;

use rustls::server::Acceptor;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::net::PeekedStream;
use crate::server::gateway::intercept::{HANDSHAKE, MAX_HELLO_BYTES};

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ClientHelloError {
    #[error("no ClientHello received in time")]
    Slow,
    #[error("plaintext on a TLS port")]
    Plaintext,
    #[error("invalid ClientHello")]
    Unreadable,
    /// No server name, so the destination is unknown.
    #[error("ClientHello has no server name")]
    Nameless,
}

/// Returns the server name of a connection in lower case.
pub(crate) async fn read_sni(stream: &mut PeekedStream<TcpStream>, time_limit: Duration) -> Result<String, ClientHelloError> {
    timeout(time_limit, read(stream)).await.unwrap_or(Err(ClientHelloError::Slow))
}

async fn read(stream: &mut PeekedStream<TcpStream>) -> Result<String, ClientHelloError> {
    let (mut acceptor, mut seen) = (Acceptor::default(), 0);
    loop {
        let held = stream.peek(MAX_HELLO_BYTES).await.map_err(|_| ClientHelloError::Slow)?;
        if held.len() == seen {
            return Err(if seen < MAX_HELLO_BYTES { ClientHelloError::Slow } else { ClientHelloError::Unreadable });
        }
        if held.first() != Some(&HANDSHAKE) {
            return Err(ClientHelloError::Plaintext);
        }
        let mut fresh = &held[seen..];
        seen = held.len();
        while !fresh.is_empty() {
            // The acceptor stops reading when the message is complete or its buffer is full.
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
