//! A scripted loopback server for tests. It sends exact bytes, valid HTTP or not.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::net::client::connector::ByteStream;

/// What the server does with one request.
pub(crate) enum ServerAction {
    /// Sends the bytes and waits for the next request on the connection.
    Say(Vec<u8>),
    /// Sends the bytes and closes the connection.
    Close(Vec<u8>),
    Reset,
    /// Sends the bytes and keeps the connection open.
    Hang(Vec<u8>),
    /// Sends the first bytes, then the second one byte at a time.
    Drip(Vec<u8>, Vec<u8>, Duration),
    /// Sends the first bytes, then the second repeatedly.
    Flood(Vec<u8>, Vec<u8>, Duration),
    /// Accepts a `CONNECT` and tunnels to this address.
    Tunnel(SocketAddr),
}

#[derive(Debug, Clone)]
pub(crate) struct ReceivedRequest {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl ReceivedRequest {
    /// `GET /path HTTP/1.1`
    pub(crate) fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }
}

/// A running server. It stops with the runtime of the test.
pub(crate) struct ScriptedServer {
    pub(crate) address: SocketAddr,
    heard: Arc<Mutex<Vec<ReceivedRequest>>>,
}

/// Formats a response with a length, which keeps the connection open.
pub(crate) fn answer(status: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n", body.len());
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    [text.as_bytes(), body].concat()
}

impl ScriptedServer {
    /// Serves plain HTTP. `script` receives each request and the number of requests before it.
    pub(crate) async fn plain(script: impl Fn(&ReceivedRequest, usize) -> ServerAction + Send + Sync + 'static) -> Self {
        Self::start(None, script).await
    }

    /// Serves HTTPS with the certificate of `identity`.
    pub(crate) async fn secure(
        identity: &TestIdentity,
        script: impl Fn(&ReceivedRequest, usize) -> ServerAction + Send + Sync + 'static,
    ) -> Self {
        Self::start(Some(identity.acceptor()), script).await
    }

    async fn start(
        tls: Option<TlsAcceptor>,
        script: impl Fn(&ReceivedRequest, usize) -> ServerAction + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (script, log) = (Arc::new(script), Arc::clone(&heard));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, script, log) = (tls.clone(), Arc::clone(&script), Arc::clone(&log));
                tokio::spawn(async move { converse(stream, tls, &*script, &log).await });
            }
        });
        Self { address, heard }
    }

    /// Returns all requests so far.
    pub(crate) fn heard(&self) -> Vec<ReceivedRequest> {
        self.heard.lock().unwrap().clone()
    }

    /// `http://127.0.0.1:port/`
    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }
}

async fn converse(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    script: &(impl Fn(&ReceivedRequest, usize) -> ServerAction + ?Sized),
    log: &Mutex<Vec<ReceivedRequest>>,
) {
    let mut stream: Box<dyn ByteStream> = match tls {
        None => Box::new(Resettable(stream)),
        // Some tests use a client that does not trust the certificate and closes the connection here.
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => Box::new(stream),
            Err(_) => return,
        },
    };
    while let Some(heard) = hear(&mut stream).await {
        let before = {
            let mut log = log.lock().unwrap();
            log.push(heard.clone());
            log.len() - 1
        };
        match script(&heard, before) {
            ServerAction::Say(bytes) => {
                if stream.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            ServerAction::Close(bytes) => {
                let _ = stream.write_all(&bytes).await;
                let _ = stream.shutdown().await;
                return;
            }
            ServerAction::Reset => return,
            ServerAction::Hang(bytes) => {
                let _ = stream.write_all(&bytes).await;
                std::future::pending::<()>().await;
            }
            ServerAction::Drip(head, body, every) => {
                let _ = stream.write_all(&head).await;
                for byte in body {
                    tokio::time::sleep(every).await;
                    if stream.write_all(&[byte]).await.is_err() {
                        return;
                    }
                }
            }
            ServerAction::Flood(head, part, every) => {
                let _ = stream.write_all(&head).await;
                while stream.write_all(&part).await.is_ok() {
                    tokio::time::sleep(every).await;
                }
                return;
            }
            ServerAction::Tunnel(target) => {
                let mut inner = TcpStream::connect(target).await.unwrap();
                stream.write_all(b"HTTP/1.0 200 Connection established\r\n\r\n").await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut inner).await;
                return;
            }
        }
    }
}

async fn hear(stream: &mut Box<dyn ByteStream>) -> Option<ReceivedRequest> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let mut heard = ReceivedRequest { head: String::from_utf8(head).unwrap(), body: Vec::new() };
    let length = heard.header("content-length").map_or(0, |length| length.parse().unwrap());
    heard.body.resize(length, 0);
    stream.read_exact(&mut heard.body).await.ok()?;
    Some(heard)
}

/// A plain connection that is reset if it is dropped without a shutdown.
struct Resettable(TcpStream);

impl Drop for Resettable {
    fn drop(&mut self) {
        self.0.set_zero_linger().unwrap();
    }
}

impl tokio::io::AsyncRead for Resettable {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl tokio::io::AsyncWrite for Resettable {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// A certificate for one name, and the authority that issued it.
pub(crate) struct TestIdentity {
    chain: CertificateDer<'static>,
    key: Vec<u8>,
    /// The authority, in PEM.
    pub(crate) authority: String,
}

impl TestIdentity {
    /// Returns a certificate that is valid now.
    pub(crate) fn of(name: &str) -> Self {
        Self::until(name, 2200)
    }

    /// Returns a certificate that is valid until the first day of `year`.
    pub(crate) fn until(name: &str, year: i32) -> Self {
        let authority_key = rcgen::KeyPair::generate().unwrap();
        let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        // A unique common name, so that certificates of two authorities can be distinguished.
        let number = u64::from_le_bytes(authority_key.public_key_raw()[1..9].try_into().unwrap());
        authority.distinguished_name.push(rcgen::DnType::CommonName, format!("Trial authority {number:x}"));
        let authority = rcgen::CertifiedIssuer::self_signed(authority, authority_key).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut leaf = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        leaf.not_before = rcgen::date_time_ymd(2001, 1, 1);
        leaf.not_after = rcgen::date_time_ymd(year, 1, 1);
        let leaf = leaf.signed_by(&key, &authority).unwrap();
        Self { chain: leaf.der().clone(), key: key.serialize_der(), authority: authority.pem() }
    }

    fn acceptor(&self) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::try_from(self.key.clone()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        TlsAcceptor::from(Arc::new(config.with_no_client_auth().with_single_cert(vec![self.chain.clone()], key).unwrap()))
    }

    /// Returns a client config that trusts only this authority.
    pub(crate) fn trusted(&self) -> Arc<rustls::ClientConfig> {
        use rustls_pki_types::pem::PemObject as _;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.as_bytes()).unwrap()).unwrap();
        trusting(roots)
    }

    /// Returns a client config that trusts no authority.
    pub(crate) fn no_roots() -> Arc<rustls::ClientConfig> {
        trusting(rustls::RootCertStore::empty())
    }
}

fn trusting(roots: rustls::RootCertStore) -> Arc<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_root_certificates(roots).with_no_client_auth())
}
