//! A gateway behind an outbound proxy, which carries tunnels and forwarded requests. Hosts that cannot be resolved locally are
//! refused unless they are allowed by name.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::client::raw;
use crate::gateway_client::{connect, connect_refused};
use crate::process::{Program, coldframe, machine_clock};
use crate::registry::Registry;

/// A proxy that records requests, opens no connections and echoes what it receives.
#[derive(Clone)]
struct OutboundProxy {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl OutboundProxy {
    /// Starts a proxy that answers CONNECT with `opening`.
    async fn start(opening: &'static str) -> Self {
        Self::start_behind(opening, None).await
    }

    /// Starts a proxy that speaks TLS; also returns its certificate.
    async fn start_secure(opening: &'static str) -> (Self, String) {
        let signed = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = rustls_pki_types::PrivateKeyDer::try_from(signed.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![signed.cert.der().clone()], key).unwrap();
        (Self::start_behind(opening, Some(TlsAcceptor::from(Arc::new(config)))).await, signed.cert.pem())
    }

    async fn start_behind(opening: &'static str, acceptor: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self { address: listener.local_addr().unwrap(), requests: Arc::default() };
        let requests = Arc::clone(&proxy.requests);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (requests, acceptor) = (Arc::clone(&requests), acceptor.clone());
                tokio::spawn(async move {
                    match acceptor {
                        Some(acceptor) => answer(acceptor.accept(stream).await?, opening, &requests).await,
                        None => answer(stream, opening, &requests).await,
                    }
                });
            }
        });
        proxy
    }

    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}

async fn answer<S>(mut stream: S, opening: &str, requests: &Mutex<Vec<String>>) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    let answer = if head.starts_with("CONNECT") { opening } else { "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nrelayed" };
    requests.lock().unwrap().push(head);
    stream.write_all(answer.as_bytes()).await?;
    let (mut from, mut to) = tokio::io::split(stream);
    tokio::io::copy(&mut from, &mut to).await?;
    to.shutdown().await
}

struct Gate {
    program: Program,
    gateway: SocketAddr,
    _home: TempDir,
    _registry: Registry,
}

async fn behind(proxy: &OutboundProxy, more: &[&str]) -> Gate {
    behind_scheme("http", proxy, more).await
}

async fn behind_scheme(scheme: &str, proxy: &OutboundProxy, more: &[&str]) -> Gate {
    let (home, registry) = (TempDir::new().unwrap(), Registry::start(&machine_clock()).await);
    let mut command = coldframe(home.path());
    let url = format!("{scheme}://us:p%40ss@{}", proxy.address);
    command.env("HTTPS_PROXY", &url).env("HTTP_PROXY", &url).env("NO_PROXY", "near.example");
    command.args(["serve", "--listen", "127.0.0.1:0", "--gateway", "127.0.0.1:0", "--upstream", &registry.url, "--data-dir"]);
    command.arg(home.path().join("data")).args(more);
    let program = Program::start(&mut command);
    let line = program.greeting.lines().find_map(|line| line.trim_start().strip_prefix("gateway")).unwrap();
    let gateway = line.trim().trim_start_matches("http://").split('/').next().unwrap().parse().unwrap();
    Gate { program, gateway, _home: home, _registry: registry }
}

/// Checks that a tunnel carries bytes in both directions.
async fn check_tunnel(gate: &Gate, headers: &str) {
    let (head, mut stream) = connect(gate.gateway, "far.example:443", headers).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    stream.write_all(b"and back").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut received = String::new();
    stream.read_to_string(&mut received).await.unwrap();
    assert_eq!(received, "first and back");
}

#[tokio::test(flavor = "multi_thread")]
async fn tunnels_and_requests_use_the_outbound_proxy_with_its_own_credentials() {
    let proxy = OutboundProxy::start("HTTP/1.1 200 OK\r\n\r\nfirst ").await;
    let gate = behind(&proxy, &["--allow-host", "far.example"]).await;
    check_tunnel(&gate, "proxy-authorization: Basic bWU6eA==\r\n").await;
    let requests = proxy.requests().concat();
    assert!(
        requests.starts_with("CONNECT far.example:443 HTTP/1.1\r\n") && requests.contains("via: 1.1 coldframe-"),
        "{requests}"
    );
    assert!(requests.contains("Basic dXM6cEBzcw==") && !requests.contains("bWU6eA=="), "{requests}");
    let request = "GET http://far.example/a?b HTTP/1.1\r\nhost: far.example\r\nproxy-authorization: Basic bWU6eA==\r\nconnection: close\r\n\r\n";
    let answer = raw(gate.gateway, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("relayed"), "{answer}");
    let requests = proxy.requests().concat();
    assert!(requests.starts_with("GET http://far.example/a?b HTTP/1.1\r\n"), "{requests}");
    assert!(requests.contains("Basic dXM6cEBzcw==") && !requests.contains("bWU6eA=="), "{requests}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outbound_proxy_over_tls_needs_a_trusted_certificate() {
    let (proxy, certificate) = OutboundProxy::start_secure("HTTP/1.1 200 OK\r\n\r\nfirst ").await;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("proxy.pem");
    std::fs::write(&file, certificate).unwrap();
    let untrusting = behind_scheme("https", &proxy, &["--allow-host", "far.example"]).await;
    let (line, body) = connect_refused(untrusting.gateway, "far.example:443").await;
    assert!(line.starts_with("HTTP/1.1 502 ") && body.contains("certificate"), "{line} {body}");
    assert_eq!(proxy.requests(), [""; 0], "credentials were sent to an untrusted proxy");
    let trusting = ["--allow-host", "far.example", "--upstream-ca", file.to_str().unwrap()];
    let gate = behind_scheme("https", &proxy, &trusting).await;
    check_tunnel(&gate, "").await;
    let request = "GET http://far.example/a HTTP/1.1\r\nhost: far.example\r\nconnection: close\r\n\r\n";
    let answer = raw(gate.gateway, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("relayed"), "{answer}");
    let requests = proxy.requests().concat();
    assert!(requests.contains("CONNECT far.example:443") && requests.contains("GET http://far.example/a HTTP/1.1"), "{requests}");
    assert_eq!(requests.matches("Basic dXM6cEBzcw==").count(), 2, "{requests}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unresolvable_hosts_are_refused_unless_allowed_by_name() {
    let proxy = OutboundProxy::start("HTTP/1.1 200 OK\r\n\r\n").await;
    let gate = behind(&proxy, &["--default-egress", "tunnel", "--allow-host", "near.example", "--log-level", "info"]).await;
    // The name does not resolve.
    let (line, _) = connect_refused(gate.gateway, "nowhere.invalid:443").await;
    assert!(line.starts_with("HTTP/1.1 403 ") && line.contains("name does not resolve here"), "{line}");
    for target in ["10.0.0.1:443", "169.254.169.254:80", "[fd00::1]:443", "127.0.0.1:443", "localhost:443"] {
        let (line, _) = connect_refused(gate.gateway, target).await;
        assert!(line.starts_with("HTTP/1.1 403 ") && line.contains("not named by `--allow-host`"), "{target}: {line}");
    }
    // `NO_PROXY` has this host, so the gateway connects directly, and the host does not exist.
    let (line, _) = connect_refused(gate.gateway, "near.example:443").await;
    assert!(line.starts_with("HTTP/1.1 502 ") || line.starts_with("HTTP/1.1 504 "), "{line}");
    assert_eq!(proxy.requests(), [""; 0]);
    gate.program.signal("-TERM");
    let (_, log) = gate.program.wait_for_exit().await;
    assert!(log.contains("tunnels through an outbound proxy") && !log.contains("p@ss") && !log.contains("p%40ss"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_by_the_outbound_proxy_is_reported_as_such() {
    let proxy = OutboundProxy::start("HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n").await;
    let gate = behind(&proxy, &["--allow-host", "far.example"]).await;
    let (line, body) = connect_refused(gate.gateway, "far.example:443").await;
    assert!(line.starts_with("HTTP/1.1 502 ") && body.contains("407"), "{line} {body}");
}
