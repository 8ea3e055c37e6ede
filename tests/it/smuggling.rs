//! Requests that two parsers may read differently. Each is refused and its connection closed, or every parser reads the same
//! single request. A request hidden behind it is never executed.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::client::raw;
use crate::gateway_client::{REGISTRY, connect, connect_tls, gateway, gateway_address, handshake, tls_config};
use crate::harness::Scene;

/// A smuggled request. It must get no response and must not reach upstream.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nhost: a\r\n\r\n";

const AUDIT: &str = "/-/npm/v1/security/advisories/bulk";

/// Framing that two parsers may read differently: headers and body.
const AMBIGUOUS: &[(&str, &str)] = &[
    ("content-length: 3\r\ncontent-length: 40\r\n", "abc"),
    ("content-length: 3, 40\r\n", "abc"),
    ("content-length: +3\r\n", "abc"),
    ("content-length: 0x3\r\n", "abc"),
    ("content-length: -1\r\n", ""),
    ("content-length: 3 3\r\n", "abc"),
    ("content-length: 18446744073709551616\r\n", "abc"),
    ("content-length:\r\n", ""),
    ("transfer-encoding: xchunked\r\n", "0\r\n\r\n"),
    ("transfer-encoding: chunked, identity\r\n", "0\r\n\r\n"),
    ("transfer-encoding: identity\r\n", "0\r\n\r\n"),
    ("transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n", "0\r\n\r\n"),
    ("transfer-encoding : chunked\r\n", "0\r\n\r\n"),
    (" transfer-encoding: chunked\r\n", "0\r\n\r\n"),
    ("x: y\r\n transfer-encoding: chunked\r\n", "0\r\n\r\n"),
    ("x: y\r\n\tfolded\r\ncontent-length: 3\r\n", "abc"),
    ("x y: z\r\ncontent-length: 3\r\n", "abc"),
    ("x: a\0b\r\ncontent-length: 3\r\n", "abc"),
    ("x: a\rb\r\ncontent-length: 3\r\n", "abc"),
    (": empty\r\ncontent-length: 3\r\n", "abc"),
    ("no colon\r\ncontent-length: 3\r\n", "abc"),
];

/// The statuses of all responses in `answer`.
fn statuses(answer: &str) -> Vec<&str> {
    // Only heads contain this text: no body of Coldframe's has it.
    answer.split("HTTP/1.1 ").skip(1).map(|rest| &rest[..3]).collect()
}

/// Sends `bytes` on a new connection and keeps the sending side open. Returns whether the server closed it, and its answer.
async fn closes_after(scene: &Scene, bytes: &[u8]) -> (bool, String) {
    closes(TcpStream::connect(scene.coldframe.address).await.expect("a connection"), bytes).await
}

/// Like `closes_after`, on an existing connection.
async fn closes<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, bytes: &[u8]) -> (bool, String) {
    stream.write_all(bytes).await.expect("an open connection");
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
    (read.is_ok(), String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test]
async fn ambiguous_framing_is_refused_and_the_connection_closed() {
    let scene = Scene::open().await;
    let post = |headers: &str, body: &str| format!("POST {AUDIT} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n{body}{HIDDEN}");
    for (headers, body) in AMBIGUOUS {
        let (closed, answer) = closes_after(&scene, post(headers, body).as_bytes()).await;
        assert!(closed, "{headers:?} is left open: {answer}");
        assert_eq!(statuses(&answer), ["400"], "{headers:?}: {answer}");
    }
    assert_eq!(scene.registry.total(), 0);
}

#[tokio::test]
async fn ambiguous_framing_is_refused_on_every_gateway_listener() {
    let scene = gateway().set("transparent", "127.0.0.1:0").await;
    let post = |target: &str, headers: &str, body: &str| {
        format!("POST {target}{AUDIT} HTTP/1.1\r\nhost: registry.example\r\n{headers}\r\n{body}{HIDDEN}")
    };
    for (headers, body) in AMBIGUOUS {
        let (origin, absolute) = (post("", headers, body), post("http://registry.example", headers, body));
        let proxy = TcpStream::connect(gateway_address(&scene)).await.expect("a connection");
        let (_, tunnel) = connect(gateway_address(&scene), "registry.example:80", "").await;
        let redirected =
            TcpStream::connect(scene.coldframe.transparent.expect("a transparent listener")).await.expect("a connection");
        let redirected = handshake(tls_config(scene.data(), &scene.clock, &[]), REGISTRY, redirected).await.expect("a handshake");
        let (proxy, tunnel, secured, redirected) = tokio::join!(
            closes(proxy, absolute.as_bytes()),
            closes(tunnel, origin.as_bytes()),
            closes(connect_tls(&scene).await, origin.as_bytes()),
            closes(redirected, origin.as_bytes()),
        );
        for (which, (closed, answer)) in [("proxy", proxy), ("tunnel", tunnel), ("TLS", secured), ("redirected", redirected)] {
            assert!(closed, "{which}: {headers:?} is left open: {answer}");
            assert_eq!(statuses(&answer), ["400"], "{which}: {headers:?}: {answer}");
        }
    }
    assert_eq!(scene.registry.total(), 0);
}

#[tokio::test]
async fn requests_passed_to_another_host_are_reframed() {
    let other = Scene::open().await;
    let host = other.registry.address.to_string();
    let scene = gateway().set("allow-host", &host).await;
    let post =
        |headers: &str, body: &str| format!("POST http://{host}/far HTTP/1.1\r\nhost: {host}\r\n{headers}\r\n{body}{HIDDEN}");
    for (headers, body) in AMBIGUOUS {
        let proxy = TcpStream::connect(gateway_address(&scene)).await.expect("a connection");
        let (closed, answer) = closes(proxy, post(headers, body).as_bytes()).await;
        assert!(closed, "{headers:?} is left open: {answer}");
        assert_eq!(statuses(&answer), ["400"], "{headers:?}: {answer}");
    }
    let both = "content-length: 99\r\ntransfer-encoding: chunked\r\nconnection: close\r\n";
    let answer = raw(gateway_address(&scene), post(both, "2\r\n{}\r\n0\r\n\r\n").as_bytes()).await;
    assert_eq!(statuses(&answer).len(), 1, "{answer}");
    let sent = other.registry.last("/far");
    assert_eq!((sent.body.as_slice(), sent.headers.first("content-length")), (&b"{}"[..], None));
    assert_eq!((other.registry.count("/far"), other.registry.count("/hidden")), (1, 0));
    other.registry.take_undeclared();
}

#[tokio::test]
async fn invalid_chunks_end_the_connection_and_hide_no_request() {
    let scene = Scene::open().await;
    for chunks in [
        format!("zz\r\n{HIDDEN}"),
        format!("-1\r\n{HIDDEN}"),
        format!("0x0\r\n\r\n{HIDDEN}"),
        format!("+0\r\n\r\n{HIDDEN}"),
        format!("10000000000000000\r\n{HIDDEN}"),
        format!("ffffffffffffffff\r\n{HIDDEN}"),
        format!("3\r\nabcd\r\n0\r\n\r\n{HIDDEN}"),
        format!("3\nabc\n0\n\n{HIDDEN}"),
        format!("3;a\nb\r\nabc\r\n0\r\n\r\n{HIDDEN}"),
        format!("\r\n3\r\nabc\r\n0\r\n\r\n{HIDDEN}"),
    ] {
        let request = format!("POST {AUDIT} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n{chunks}");
        let answer = raw(scene.coldframe.address, request.as_bytes()).await;
        assert!(statuses(&answer).len() <= 1, "{chunks:?}: {answer}");
        assert!(!answer.starts_with("HTTP/1.1 2"), "{chunks:?}: {answer}");
    }
    assert_eq!(scene.registry.total(), 0);
}

#[tokio::test]
async fn chunked_overrides_content_length_and_other_codings_are_refused() {
    let scene = Scene::open().await;
    let both = |headers: &str| {
        format!("POST {AUDIT} HTTP/1.1\r\nhost: localhost\r\n{headers}connection: close\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n")
    };
    for headers in
        ["content-length: 99\r\ntransfer-encoding: chunked\r\n", "transfer-encoding: chunked\r\ncontent-length: 99\r\n"]
    {
        let answer = raw(scene.coldframe.address, both(headers).as_bytes()).await;
        assert_eq!(statuses(&answer), ["200"], "{headers:?}: {answer}");
        let sent = scene.registry.last(AUDIT);
        assert_eq!((sent.body.as_slice(), sent.headers.first("content-length")), (&b"{}"[..], Some("2")), "{headers:?}");
        assert!(sent.headers.first("transfer-encoding").is_none());
    }
    let before = scene.registry.total();
    for coding in ["gzip, chunked", "chunked, chunked", "identity, chunked"] {
        let answer = raw(scene.coldframe.address, both(&format!("transfer-encoding: {coding}\r\n")).as_bytes()).await;
        assert_eq!(statuses(&answer), ["400"], "{coding}: {answer}");
    }
    assert_eq!(scene.registry.total(), before);
}

#[tokio::test]
async fn request_text_in_a_body_is_never_executed() {
    let scene = Scene::open().set("allow-writes", "true").await;
    scene.publish_old("left-pad", &["1.0.0"]);
    let length = HIDDEN.len();
    for (method, path) in
        [("GET", "/left-pad"), ("POST", AUDIT), ("PUT", "/unknown"), ("GET", "/-/coldframe/healthz"), ("POST", "/../x")]
    {
        for framing in [
            format!("content-length: {length}\r\n\r\n{HIDDEN}"),
            format!("transfer-encoding: chunked\r\n\r\n{length:x}\r\n{HIDDEN}\r\n0\r\n\r\n"),
        ] {
            let request = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{framing}");
            let answer = raw(scene.coldframe.address, request.as_bytes()).await;
            assert_eq!(statuses(&answer).len(), 1, "{request:?}: {answer}");
        }
    }
    assert_eq!(scene.registry.count("/hidden"), 0);
    scene.registry.take_undeclared();
}

#[tokio::test]
async fn bare_line_feeds_end_lines_and_hide_no_request() {
    let scene = Scene::open().await;
    let answer = raw(scene.coldframe.address, b"GET /-/coldframe/healthz HTTP/1.1\nhost: localhost\n\n").await;
    assert_eq!(statuses(&answer), ["200"], "{answer}");
    // The bare line feed ends the header line, so the `content-length` after it applies.
    let request = format!("POST {AUDIT} HTTP/1.1\r\nhost: localhost\r\nx: y\ncontent-length: {}\r\n\r\n{HIDDEN}", HIDDEN.len());
    let answer = raw(scene.coldframe.address, request.as_bytes()).await;
    assert_eq!(statuses(&answer).len(), 1, "{answer}");
    assert_eq!(scene.registry.count("/hidden"), 0);
}

#[tokio::test]
async fn request_without_exactly_one_valid_host_is_refused() {
    let scene = Scene::open().await;
    for headers in [
        "host: a\r\nhost: b\r\n",
        "",
        "host: a b\r\n",
        "host: a/b\r\n",
        "host: user@a\r\n",
        "host: a:99999\r\n",
        "host: \u{e9}\r\n",
    ] {
        let request = format!("GET /left-pad HTTP/1.1\r\n{headers}connection: close\r\n\r\n");
        let answer = raw(scene.coldframe.address, request.as_bytes()).await;
        assert_eq!(statuses(&answer), ["400"], "{headers:?}: {answer}");
    }
    assert_eq!(scene.registry.total(), 0);
}

#[tokio::test]
async fn absolute_target_is_answered_here_and_never_dialled() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    let ask = async |target: &str| {
        let request = format!("GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        raw(scene.coldframe.address, request.as_bytes()).await
    };
    // The target's host overrides `Host` (RFC 9112). It appears in tarball URLs and is never dialled.
    let answer = ask("http://other.example/left-pad").await;
    assert_eq!(statuses(&answer), ["200"], "{answer}");
    assert!(answer.contains("http://other.example/left-pad/-/left-pad-1.0.0.tgz"), "{answer}");
    assert_eq!(scene.registry.count("/left-pad"), 1);
    for target in
        ["http://other.example:99999/left-pad", "http://user@other.example/left-pad", "*", "other.example:80", "left-pad", "?x"]
    {
        let answer = ask(target).await;
        assert!(matches!(statuses(&answer).as_slice(), ["400" | "404"]), "{target}: {answer}");
    }
    let connect = raw(scene.coldframe.address, b"CONNECT other.example:443 HTTP/1.1\r\nhost: other.example:443\r\n\r\n").await;
    assert!(matches!(statuses(&connect).as_slice(), ["400" | "404" | "405"]), "{connect}");
}

#[tokio::test]
async fn malicious_paths_never_reach_upstream() {
    let scene = Scene::open().set("allow-writes", "true").await;
    for path in [
        "/../etc/passwd",
        "/./left-pad",
        "/left-pad/..",
        "/left-pad/%2e%2e/x",
        "/%2e%2e%2fx",
        "/@acme/..%2fx",
        "/@acme%2f%2e%2e",
        "/left-pad/-/../../x",
        "/left-pad/-/left-pad-1.0.0.tgz/..",
        "/left-pad/-/..%2fleft-pad-1.0.0.tgz",
        "//left-pad",
        "/left-pad//1.0.0",
        "/left%00pad",
        "/left-pad%00.tgz",
        "/left-pad/-/left-pad-1.0.0%00.tgz",
        "/%",
        "/%4",
        "/%zz",
        "/%u0041",
        "/%c0%ae%c0%ae/x",
        "/left%5cpad",
        "/left\\pad",
        "/%25252e",
        "/left%0d%0apad",
        "/left-pad%20",
        "/-/package/..%2fx/dist-tags",
        "/-/coldframe/..%2f..%2fx",
        "/-/coldframe/../x",
        "/-/npm/v1/attestations/..%2fx@1.0.0",
        "/download/../x/1",
        "/@/x",
        "/@acme/",
        "/@acme%2f",
    ] {
        for method in ["GET", "HEAD", "PUT"] {
            let request = format!(
                "{method} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer t\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            );
            let answer = raw(scene.coldframe.address, request.as_bytes()).await;
            assert!(matches!(statuses(&answer).as_slice(), ["400" | "404" | "405"]), "{method} {path}: {answer}");
        }
    }
    assert_eq!(scene.registry.total(), 0);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let scene = Scene::open().await;
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    for name in names {
        scene.publish_old(name, &["1.0.0"]);
    }
    // Upstream delays the first. The others must not overtake it.
    let gate = scene.registry.hold("/a");
    let mut stream = TcpStream::connect(scene.coldframe.address).await.expect("a connection");
    let ask = |name: &&str| format!("GET /{name} HTTP/1.1\r\nhost: localhost\r\naccept: application/json\r\n\r\n");
    let mut requests: String = names.iter().map(ask).collect();
    requests.push_str(&format!("POST {AUDIT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n{{}}"));
    requests.push_str("GET /-/coldframe/healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(requests.as_bytes()).await.expect("an open connection");
    scene.registry.wait_for_requests("/a", 1).await;
    gate.open();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("end of the connection");
    let answer = String::from_utf8_lossy(&answer);
    assert_eq!(statuses(&answer), ["200"; 10], "{answer}");
    let offsets: Vec<_> = names.iter().map(|name| answer.find(&format!("\"name\":\"{name}\"")).expect("its packument")).collect();
    assert!(offsets.is_sorted(), "{offsets:?}");
}
