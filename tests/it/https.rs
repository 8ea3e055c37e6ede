//! HTTPS on the registry listener: certificates, HTTP/2 and its limits, client certificates, and reloads.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, CertifiedIssuer, DnType, KeyPair};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::client::raw;
use crate::gateway_client::{ask_with, handshake, tls_config_for};
use crate::harness::{Opening, Scene};
use crate::package::{Package, hours};
use crate::raw_http::Response;

/// The name in the server's certificate.
const HOST: &str = "npm.example";

/// The files of a server's certificate, its CA, and a CA of clients.
struct Certificates {
    folder: TempDir,
    clients: CertifiedIssuer<'static, KeyPair>,
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

impl Certificates {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let clients = authority("clients");
        std::fs::write(folder.path().join("clients.pem"), clients.pem()).unwrap();
        let certificates = Self { folder, clients };
        certificates.renew();
        certificates
    }

    fn path(&self, file: &str) -> String {
        self.folder.path().join(file).to_str().unwrap().to_owned()
    }

    /// Writes a certificate of a new CA, with its key.
    fn renew(&self) {
        let authority = authority("servers");
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![HOST.to_owned()]).unwrap();
        std::fs::write(self.path("cert.pem"), params.signed_by(&key, &authority).unwrap().pem()).unwrap();
        std::fs::write(self.path("key.pem"), key.serialize_pem()).unwrap();
        std::fs::write(self.path("ca.pem"), authority.pem()).unwrap();
    }

    /// Returns a scene with an HTTPS address and one with plain HTTP.
    fn scene(&self) -> Opening {
        Scene::open()
            .set("listen", "127.0.0.1:0")
            .set("listen", "http://127.0.0.1:0")
            .set("tls-cert", &self.path("cert.pem"))
            .set("tls-key", &self.path("key.pem"))
    }

    async fn connect(&self, scene: &Scene, protocols: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        let config = tls_config_for(Path::new(&self.path("ca.pem")), &scene.clock, protocols);
        handshake(config, HOST, TcpStream::connect(scene.coldframe.address).await?).await
    }

    /// Connects with a certificate for a client of this name, from the CA of clients or another one.
    async fn connect_as(
        &self,
        scene: &Scene,
        name: &str,
        issuer: &CertifiedIssuer<'static, KeyPair>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_after = rcgen::date_time_ymd(2026, 4, 4);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, issuer).unwrap();
        let mut config = (*tls_config_for(Path::new(&self.path("ca.pem")), &scene.clock, &[])).clone();
        let chain = vec![CertificateDer::from_pem_slice(certificate.pem().as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let provider = Arc::clone(config.crypto_provider());
        let key = rustls::sign::CertifiedKey::from_der(chain, key, &provider).unwrap();
        config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(key));
        handshake(Arc::new(config), HOST, TcpStream::connect(scene.coldframe.address).await?).await
    }
}

fn publish(scene: &Scene) {
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(2)));
}

async fn get(stream: TlsStream<TcpStream>, path: &str) -> Response {
    ask_with(stream, path, HOST, "").await
}

/// Waits until the plain listener reports that the named check is not `ok`, and returns its text.
async fn warning(scene: &Scene, check: &str) -> String {
    loop {
        let report = raw(scene.coldframe.addresses[1], ready().as_bytes()).await;
        if let Some((_, rest)) = report.split_once(&format!("\"{check}\":\""))
            && let Some((text, _)) = rest.split_once('"')
            && text != "ok"
        {
            return text.to_owned();
        }
        tokio::task::yield_now().await;
    }
}

fn ready() -> String {
    "GET /-/coldframe/readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".to_owned()
}

#[tokio::test]
async fn packuments_over_https_have_https_tarball_addresses() {
    let certificates = Certificates::new();
    let scene = certificates.scene().await;
    publish(&scene);
    let stream = certificates.connect(&scene, &[]).await.unwrap();
    let packument = get(stream, "/left-pad").await.is(200);
    assert_eq!(packument.versions(), ["1.0.0"]);
    let tarball = packument.json()["versions"]["1.0.0"]["dist"]["tarball"].as_str().unwrap().to_owned();
    assert_eq!(tarball, format!("https://{HOST}/left-pad/-/left-pad-1.0.0.tgz"));
    let stream = certificates.connect(&scene, &["http/1.1"]).await.unwrap();
    get(stream, "/left-pad/-/left-pad-1.0.0.tgz").await.is(200);
    // The second address is written with `http://`.
    let plain = raw(scene.coldframe.addresses[1], b"GET /left-pad HTTP/1.1\r\nhost: box\r\nconnection: close\r\n\r\n").await;
    assert!(plain.contains("http://box/left-pad/-/"), "{plain}");
}

#[tokio::test]
async fn plain_http_on_the_https_address_is_refused_in_words() {
    let certificates = Certificates::new();
    let scene = certificates.scene().await;
    let answer = raw(scene.coldframe.address, b"GET /left-pad HTTP/1.1\r\nhost: box\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("plain HTTP on an HTTPS port"), "{answer}");
    assert!(scene.registry.requests().is_empty());
}

#[tokio::test]
async fn tls_1_1_and_other_bytes_end_the_connection() {
    let certificates = Certificates::new();
    let scene = certificates.scene().await;
    // A ClientHello of TLS 1.1 without extensions, and a record that is no handshake message.
    let mut old = b"\x16\x03\x01\x00\x2d\x01\x00\x00\x29\x03\x02".to_vec();
    old.extend([7; 32]);
    old.extend(b"\x00\x00\x02\xc0\x14\x01\x00");
    for hello in [&old[..], b"\x16\x03\x01\x00\x05hello", b"\x16"] {
        let answer = raw(scene.coldframe.address, hello).await;
        assert!(!answer.contains("HTTP/"), "{answer}");
    }
    get(certificates.connect(&scene, &[]).await.unwrap(), "/-/coldframe/readyz").await.is(200);
}

async fn http2(certificates: &Certificates, scene: &Scene) -> SendRequest<Empty<Bytes>> {
    let stream = certificates.connect(scene, &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

#[tokio::test]
async fn refusal_over_http_2_explains_itself_in_the_body_and_a_notice() {
    let certificates = Certificates::new();
    let scene = certificates.scene().await;
    publish(&scene);
    let mut client = http2(&certificates, &scene).await;
    let request = http::Request::get(format!("https://{HOST}/left-pad/-/left-pad-1.1.0.tgz")).body(Empty::new()).unwrap();
    let (head, body) = client.send_request(request).await.unwrap().into_parts();
    assert_eq!(head.status.as_u16(), 403);
    let body: serde_json::Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
    let notice = head.headers["npm-notice"].to_str().unwrap();
    for text in [body["error"].as_str().unwrap(), notice] {
        assert!(text.contains("left-pad@1.1.0") && text.contains("72"), "{text}");
    }
    let request = http::Request::get(format!("https://{HOST}/left-pad")).body(Empty::new()).unwrap();
    let (head, body) = client.send_request(request).await.unwrap().into_parts();
    let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    assert!(head.status.is_success() && body.contains(&format!("https://{HOST}/left-pad/-/left-pad-1.0.0.tgz")), "{body}");
}

#[tokio::test]
async fn new_certificate_is_used_and_a_bad_pair_is_not() {
    let certificates = Certificates::new();
    let scene = certificates.scene().await;
    std::fs::write(certificates.path("key.pem"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let problem = warning(&scene, "certificate").await;
    assert!(problem.contains("the previous one is active") && problem.contains("key.pem"), "{problem}");
    get(certificates.connect(&scene, &[]).await.unwrap(), "/-/coldframe/readyz").await.is(200);
    certificates.renew();
    // Its CA is new too, so that the handshake succeeds only with the new certificate.
    while certificates.connect(&scene, &[]).await.is_err() {
        tokio::task::yield_now().await;
    }
    let report = raw(scene.coldframe.addresses[1], ready().as_bytes()).await;
    assert!(report.contains("\"certificate\":\"ok\""), "{report}");
}

#[tokio::test]
async fn client_certificate_identifies_its_client() {
    let certificates = Certificates::new();
    let scene = certificates.scene().set("tls-client-ca", &certificates.path("clients.pem")).set("require-auth", "true").await;
    publish(&scene);
    let anonymous = certificates.connect(&scene, &[]).await.unwrap();
    get(anonymous, "/left-pad").await.is(401);
    // With TLS 1.3, the client learns that its certificate was refused when it reads.
    if let Ok(mut stream) = certificates.connect_as(&scene, "ci-web", &authority("clients")).await {
        let mut answer = Vec::new();
        let _ = stream.write_all(b"GET /left-pad HTTP/1.1\r\nhost: npm.example\r\n\r\n").await;
        assert!(stream.read_to_end(&mut answer).await.is_err() && answer.is_empty());
    }
    let known = certificates.connect_as(&scene, "ci-web", &certificates.clients).await.unwrap();
    get(known, "/left-pad").await.is(200);
    let known = certificates.connect_as(&scene, "ci-web", &certificates.clients).await.unwrap();
    let tarball = get(known, "/left-pad/-/left-pad-1.0.0.tgz").await.is(200);
    assert!(!tarball.content().is_empty());
    // Its name does not fit into logs, so it identifies no client.
    let unnamed = certificates.connect_as(&scene, "two words", &certificates.clients).await.unwrap();
    get(unnamed, "/left-pad").await.is(401);
}

#[tokio::test]
async fn client_certificate_ends_on_open_connections_too() {
    let certificates = Certificates::new();
    let scene = certificates.scene().set("tls-client-ca", &certificates.path("clients.pem")).set("require-auth", "true").await;
    publish(&scene);
    let mut stream = certificates.connect_as(&scene, "ci-web", &certificates.clients).await.unwrap();
    let mut status = async || {
        let mut line = Vec::new();
        stream.write_all(format!("HEAD /left-pad HTTP/1.1\r\nhost: {HOST}\r\n\r\n").as_bytes()).await.unwrap();
        while !line.ends_with(b"\r\n\r\n") {
            line.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(line).unwrap().lines().next().unwrap().to_owned()
    };
    assert!(status().await.contains(" 200 "));
    scene.advance(hours(24));
    assert!(status().await.contains(" 401 "));
}

#[tokio::test]
async fn certificate_of_a_trusted_proxy_identifies_no_client() {
    let certificates = Certificates::new();
    let scene = certificates
        .scene()
        .set("tls-client-ca", &certificates.path("clients.pem"))
        .set("require-auth", "true")
        .set("trusted-proxy", "127.0.0.1")
        .await;
    publish(&scene);
    let proxy = certificates.connect_as(&scene, "proxy", &certificates.clients).await.unwrap();
    ask_with(proxy, "/left-pad", HOST, "x-forwarded-for: 192.0.2.7\r\n").await.is(401);
}

/// Returns an HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Returns the header block of a request in HPACK, without Huffman coding.
fn header_block(method: u8, path: &str) -> Vec<u8> {
    let literal = |index: u8, text: &str| [&[index, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [&[method, 0x87], literal(0x04, path).as_slice(), &literal(0x01, HOST)].concat()
}

const GET: u8 = 0x82;
const POST: u8 = 0x83;

/// Opens an HTTP/2 connection that sends nothing of its own accord.
async fn frames(certificates: &Certificates, scene: &Scene) -> TlsStream<TcpStream> {
    let mut stream = certificates.connect(scene, &["h2"]).await.unwrap();
    let opening = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, b"")].concat();
    stream.write_all(&opening).await.unwrap();
    stream
}

/// Reads frames until the server closes or `is_last` returns `true`. Returns their kinds and payloads.
async fn read_frames(stream: &mut TlsStream<TcpStream>, is_last: impl Fn(u8, &[(u8, Vec<u8>)]) -> bool) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    let mut head = [0; 9];
    while stream.read_exact(&mut head).await.is_ok() {
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]).try_into().unwrap()];
        if stream.read_exact(&mut payload).await.is_err() {
            break;
        }
        found.push((head[3], payload));
        if is_last(head[3], &found) {
            break;
        }
    }
    found
}

#[tokio::test]
async fn rapid_resets_end_the_connection_and_reach_no_registry() {
    let certificates = Certificates::new();
    let scene = certificates.scene().await;
    publish(&scene);
    let mut attacker = frames(&certificates, &scene).await;
    let block = header_block(GET, "/left-pad");
    let flood: Vec<u8> = (0..2_000)
        .flat_map(|at| {
            let stream = 2 * at + 1;
            [frame(HEADERS, END_STREAM | END_HEADERS, stream, &block), frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())].concat()
        })
        .collect();
    // The server may close before it has read everything.
    let _ = attacker.write_all(&flood).await;
    let found = read_frames(&mut attacker, |_, _| false).await;
    let goaway = found.iter().find(|(kind, _)| *kind == GOAWAY).map(|(_, payload)| payload[4..8].to_vec());
    // ENHANCE_YOUR_CALM
    assert!(goaway.as_deref() == Some(&11u32.to_be_bytes()) || found.is_empty(), "{found:?}");
    assert!(scene.registry.requests().len() <= 1, "{}", scene.registry.requests().len());
    get(certificates.connect(&scene, &[]).await.unwrap(), "/left-pad").await.is(200);
}

#[tokio::test]
async fn header_blocks_over_the_limit_are_refused() {
    let certificates = Certificates::new();
    let scene = certificates.scene().await;
    let mut attacker = frames(&certificates, &scene).await;
    let mut flood = frame(HEADERS, END_STREAM, 1, &header_block(GET, "/left-pad"));
    // Literal fields `a: b…`, without an end.
    let fields: Vec<u8> = (0..150).flat_map(|_| [&[0, 1, b'a', 100][..], &[b'b'; 100]].concat()).collect();
    for _ in 0..200 {
        flood.extend(frame(CONTINUATION, 0, 1, &fields));
    }
    let _ = attacker.write_all(&flood).await;
    let found = read_frames(&mut attacker, |_, _| false).await;
    assert!(found.iter().all(|(kind, _)| *kind != HEADERS), "{found:?}");
    assert!(scene.registry.requests().is_empty());
    get(certificates.connect(&scene, &[]).await.unwrap(), "/-/coldframe/readyz").await.is(200);
}

#[tokio::test]
async fn streams_over_the_limit_are_refused() {
    let certificates = Certificates::new();
    let scene = certificates.scene().await;
    let mut client = frames(&certificates, &scene).await;
    let block = header_block(POST, "/-/npm/v1/security/advisories/bulk");
    for at in 0..130 {
        client.write_all(&frame(HEADERS, END_HEADERS, 2 * at + 1, &block)).await.unwrap();
    }
    // The bodies never come, so at most 100 requests wait, and few are answered before. The others are refused: REFUSED_STREAM.
    let refused = |found: &[(u8, Vec<u8>)]| {
        found.iter().filter(|(kind, code)| *kind == RST_STREAM && code[..] == 7u32.to_be_bytes()).count()
    };
    let found = read_frames(&mut client, |_, found| refused(found) == 20).await;
    assert_eq!(refused(&found), 20);
    get(certificates.connect(&scene, &[]).await.unwrap(), "/-/coldframe/readyz").await.is(200);
}

#[tokio::test]
async fn settings_flood_of_a_client_that_never_reads_is_not_buffered() {
    let certificates = Certificates::new();
    let scene = certificates.scene().await;
    publish(&scene);
    let mut attacker = frames(&certificates, &scene).await;
    let flood = frame(SETTINGS, 0, 0, b"").repeat(100_000);
    let accepted = tokio::time::timeout(Duration::from_secs(2), async {
        let mut sent = 0usize;
        while attacker.write_all(&flood).await.is_ok() && sent < 200 {
            sent += 1;
        }
        sent
    })
    .await;
    // 180 MB were not accepted: the server reads no more while its acknowledgements cannot be sent, or it has closed.
    assert!(accepted.is_err() || accepted.is_ok_and(|sent| sent < 200));
    get(certificates.connect(&scene, &[]).await.unwrap(), "/left-pad").await.is(200);
}

#[tokio::test]
async fn unfinished_handshakes_are_closed_for_other_clients() {
    let certificates = Certificates::new();
    let scene = certificates.scene().set("max-connections", "8").await;
    let silent = begin_handshakes(8, scene.coldframe.address).await;
    // They are closed after a second because another connection waits, long before `header-timeout`.
    get(certificates.connect(&scene, &[]).await.unwrap(), "/-/coldframe/readyz").await.is(200);
    drop(silent);
}

/// Opens connections that begin a handshake and do not continue it.
async fn begin_handshakes(count: usize, address: SocketAddr) -> Vec<TcpStream> {
    let mut open = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"\x16\x03\x01").await.unwrap();
        open.push(stream);
    }
    open
}

#[tokio::test]
async fn certificate_settings_are_checked_together() {
    let certificates = Certificates::new();
    let errors = |pairs: &[(&str, &str)]| {
        let all = [&[("data-dir", "/data"), ("upstream", "http://registry.example/")], pairs].concat();
        coldframe::config::Config::from_pairs(&all).unwrap_err().to_string()
    };
    assert!(errors(&[("tls-cert", "/a.pem")]).contains("`tls-cert` without `tls-key`"));
    assert!(errors(&[("tls-key", "/a.pem")]).contains("`tls-key` without `tls-cert`"));
    assert!(errors(&[("tls-client-ca", "/a.pem")]).contains("`tls-client-ca` without `tls-cert`"));
    assert!(errors(&[("listen", "https://127.0.0.1:0")]).contains("without `tls-cert`"));
    drop(certificates);
}
