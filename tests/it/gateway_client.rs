//! A client of the gateway: sends CONNECT, trusts the gateway's CA and speaks TLS in the tunnel.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use coldframe::clock::{Clock as _, ManualClock};
use rustls::time_provider::TimeProvider;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::Scene;
use crate::raw_http::Response;

/// The intercepted host.
pub const REGISTRY: &str = "registry.example";

/// Opens a scene with a gateway that intercepts [`REGISTRY`].
pub fn gateway() -> crate::harness::Opening {
    Scene::open().set("gateway", "127.0.0.1:0").set("intercept", REGISTRY)
}

/// Sends CONNECT for `target`; returns the response head and the connection.
pub async fn connect(gateway: SocketAddr, target: &str, headers: &str) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(gateway).await.expect("a connection");
    stream.write_all(format!("CONNECT {target} HTTP/1.1\r\n{headers}\r\n").as_bytes()).await.expect("an open connection");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    (String::from_utf8(head).expect("text"), stream)
}

/// Sends CONNECT for `target`; returns the status line and the body of the refusal.
pub async fn connect_refused(gateway: SocketAddr, target: &str) -> (String, String) {
    let (head, mut stream) = connect(gateway, target, &format!("host: {target}\r\n")).await;
    let mut body = String::new();
    stream.read_to_string(&mut body).await.expect("a body");
    (head.lines().next().unwrap_or_default().to_owned(), body)
}

#[derive(Debug)]
struct TestTime(ManualClock);

impl TimeProvider for TestTime {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().as_second()).ok()?;
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
    }
}

/// Returns a TLS configuration that trusts only the CA in `data`, at the time of `clock`.
pub fn tls_config(data: &Path, clock: &ManualClock, protocols: &[&str]) -> Arc<rustls::ClientConfig> {
    tls_config_for(&data.join("ca/authority.pem"), clock, protocols)
}

/// Returns a TLS configuration that trusts only the certificates of a file.
pub fn tls_config_for(file: &Path, clock: &ManualClock, protocols: &[&str]) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    let pem = std::fs::read(file).expect("the CA file");
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate.expect("a certificate")).expect("a root");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_details(provider, Arc::new(TestTime(clock.clone())))
        .with_safe_default_protocol_versions()
        .expect("TLS")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// Completes a TLS handshake with `name` over `stream`.
pub async fn handshake(
    config: Arc<rustls::ClientConfig>,
    name: &'static str,
    stream: TcpStream,
) -> std::io::Result<TlsStream<TcpStream>> {
    TlsConnector::from(config).connect(ServerName::try_from(name).expect("a name"), stream).await
}

/// Opens a TLS connection to [`REGISTRY`] through the scene's gateway.
pub async fn connect_tls(scene: &Scene) -> TlsStream<TcpStream> {
    let (head, stream) = connect(gateway_address(scene), "registry.example:443", "host: registry.example:443\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    handshake(tls_config(scene.data(), &scene.clock, &[]), REGISTRY, stream).await.expect("a handshake")
}

/// Returns the address of the scene's gateway.
pub fn gateway_address(scene: &Scene) -> SocketAddr {
    scene.coldframe.gateway.expect("a gateway")
}

/// Sends one GET request with `connection: close` and reads the response.
pub async fn ask<S: AsyncRead + AsyncWrite + Unpin>(stream: S, target: &str, host: &str) -> Response {
    ask_with(stream, target, host, "").await
}

/// Sends one GET request with more header lines, each ending in CRLF.
pub async fn ask_with<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, target: &str, host: &str, headers: &str) -> Response {
    let request =
        format!("GET {target} HTTP/1.1\r\nhost: {host}\r\naccept: application/json\r\n{headers}connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("an open connection");
    Response::read(&mut stream, false).await.expect("an answer")
}
