//! A gateway behind another proxy: what it tunnels and passes on goes through that, what can be checked is checked here, and what
//! cannot is refused unless somebody allowed it by name.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::client::raw;
use crate::gate::{connect, refused};
use crate::program::{Program, coldframe, machine_clock};
use crate::registry::Registry;

/// A proxy that writes down what it is asked, connects nobody anywhere, and sends back what it gets.
#[derive(Clone)]
struct Parent {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Parent {
    /// `opening` is how it answers CONNECT.
    async fn start(opening: &'static str) -> Self {
        Self::start_behind(opening, None).await
    }

    /// The same, asked over TLS; the certificate that has to be trusted for that.
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
        let parent = Self { address: listener.local_addr().unwrap(), heard: Arc::default() };
        let heard = Arc::clone(&parent.heard);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (heard, acceptor) = (Arc::clone(&heard), acceptor.clone());
                tokio::spawn(async move {
                    match acceptor {
                        Some(acceptor) => answer(acceptor.accept(stream).await?, opening, &heard).await,
                        None => answer(stream, opening, &heard).await,
                    }
                });
            }
        });
        parent
    }

    fn heard(&self) -> Vec<String> {
        std::mem::take(&mut self.heard.lock().unwrap())
    }
}

async fn answer<S>(mut stream: S, opening: &str, heard: &Mutex<Vec<String>>) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    let answer = if head.starts_with("CONNECT") { opening } else { "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nrelayed" };
    heard.lock().unwrap().push(head);
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

async fn behind(parent: &Parent, more: &[&str]) -> Gate {
    behind_by("http", parent, more).await
}

async fn behind_by(scheme: &str, parent: &Parent, more: &[&str]) -> Gate {
    let (home, registry) = (TempDir::new().unwrap(), Registry::start(&machine_clock()).await);
    let mut command = coldframe(home.path());
    let proxy = format!("{scheme}://us:p%40ss@{}", parent.address);
    command.env("HTTPS_PROXY", &proxy).env("HTTP_PROXY", &proxy).env("NO_PROXY", "near.example");
    command.args(["serve", "--listen", "127.0.0.1:0", "--gateway", "127.0.0.1:0", "--upstream", &registry.url, "--data-dir"]);
    command.arg(home.path().join("data")).args(more);
    let program = Program::start(&mut command);
    let line = program.greeting.lines().find_map(|line| line.trim_start().strip_prefix("gateway")).unwrap();
    let gateway = line.trim().trim_start_matches("http://").split('/').next().unwrap().parse().unwrap();
    Gate { program, gateway, _home: home, _registry: registry }
}

/// What is sent through a tunnel arrives, and so does what comes back.
async fn goes_and_comes_back(gate: &Gate, headers: &str) {
    let (head, mut stream) = connect(gate.gateway, "far.example:443", headers).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    stream.write_all(b"and back").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut told = String::new();
    stream.read_to_string(&mut told).await.unwrap();
    assert_eq!(told, "first and back");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_tunnelled_or_passed_on_goes_through_the_parent_with_our_credentials_alone() {
    let parent = Parent::start("HTTP/1.1 200 OK\r\n\r\nfirst ").await;
    let gate = behind(&parent, &["--allow-host", "far.example"]).await;
    goes_and_comes_back(&gate, "proxy-authorization: Basic bWU6eA==\r\n").await;
    let heard = parent.heard().concat();
    assert!(heard.starts_with("CONNECT far.example:443 HTTP/1.1\r\n") && heard.contains("via: 1.1 coldframe-"), "{heard}");
    assert!(heard.contains("Basic dXM6cEBzcw==") && !heard.contains("bWU6eA=="), "{heard}");
    let request = "GET http://far.example/a?b HTTP/1.1\r\nhost: far.example\r\nproxy-authorization: Basic bWU6eA==\r\nconnection: close\r\n\r\n";
    let answer = raw(gate.gateway, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("relayed"), "{answer}");
    let heard = parent.heard().concat();
    assert!(heard.starts_with("GET http://far.example/a?b HTTP/1.1\r\n"), "{heard}");
    assert!(heard.contains("Basic dXM6cEBzcw==") && !heard.contains("bWU6eA=="), "{heard}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_is_asked_over_tls_is_one_that_we_trust() {
    let (parent, certificate) = Parent::start_secure("HTTP/1.1 200 OK\r\n\r\nfirst ").await;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("parent.pem");
    std::fs::write(&file, certificate).unwrap();
    let stranger = behind_by("https", &parent, &["--allow-host", "far.example"]).await;
    let (line, body) = refused(stranger.gateway, "far.example:443").await;
    assert!(line.starts_with("HTTP/1.1 502 ") && body.contains("certificate"), "{line} {body}");
    assert_eq!(parent.heard(), [""; 0], "who is not trusted was told our password");
    let trusting = ["--allow-host", "far.example", "--upstream-ca", file.to_str().unwrap()];
    let gate = behind_by("https", &parent, &trusting).await;
    goes_and_comes_back(&gate, "").await;
    let request = "GET http://far.example/a HTTP/1.1\r\nhost: far.example\r\nconnection: close\r\n\r\n";
    let answer = raw(gate.gateway, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("relayed"), "{answer}");
    let heard = parent.heard().concat();
    assert!(heard.contains("CONNECT far.example:443") && heard.contains("GET http://far.example/a HTTP/1.1"), "{heard}");
    assert_eq!(heard.matches("Basic dXM6cEBzcw==").count(), 2, "{heard}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_checked_here_is_refused_unless_it_is_allowed_by_name() {
    let parent = Parent::start("HTTP/1.1 200 OK\r\n\r\n").await;
    let gate = behind(&parent, &["--default-egress", "tunnel", "--allow-host", "near.example", "--log-level", "info"]).await;
    // No resolver knows the name.
    let (line, _) = refused(gate.gateway, "nowhere.invalid:443").await;
    assert!(line.starts_with("HTTP/1.1 403 ") && line.contains("name does not resolve here"), "{line}");
    for target in ["10.0.0.1:443", "169.254.169.254:80", "[fd00::1]:443", "127.0.0.1:443", "localhost:443"] {
        let (line, _) = refused(gate.gateway, target).await;
        assert!(line.starts_with("HTTP/1.1 403 ") && line.contains("not named by `--allow-host`"), "{target}: {line}");
    }
    // It is connected to directly, and is not there.
    let (line, _) = refused(gate.gateway, "near.example:443").await;
    assert!(line.starts_with("HTTP/1.1 502 ") || line.starts_with("HTTP/1.1 504 "), "{line}");
    assert_eq!(parent.heard(), [""; 0]);
    gate.program.signal("-TERM");
    let (_, log) = gate.program.ended().await;
    assert!(log.contains("goes through another proxy") && !log.contains("p@ss") && !log.contains("p%40ss"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_refuses_is_told_apart_from_the_host() {
    let parent = Parent::start("HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n").await;
    let gate = behind(&parent, &["--allow-host", "far.example"]).await;
    let (line, body) = refused(gate.gateway, "far.example:443").await;
    assert!(line.starts_with("HTTP/1.1 502 ") && body.contains("407"), "{line} {body}");
}
