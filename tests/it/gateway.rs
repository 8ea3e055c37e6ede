//! The gateway: unmodified clients reach the registry under its own name, and other hosts only if they are allowed.
//! Attempts to bypass it are refused with a reason.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::client::raw;
use crate::gateway_client::{
    REGISTRY, ask, ask_with, connect, connect_refused, connect_tls, gateway, gateway_address, handshake, tls_config,
};
use crate::harness::Scene;
use crate::package::{Package, hours};

/// Starts an echo server.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                drop(tokio::io::copy(&mut from, &mut to).await);
                drop(to.shutdown().await);
            });
        }
    });
    address
}

/// Checks whether the peer closes within 20 s, far longer than it should take.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut bytes = Vec::new();
    tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await.is_ok()
}

fn publish(scene: &Scene) {
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(1)));
}

#[tokio::test]
async fn an_unmodified_client_gets_filtered_answers_under_the_registrys_name() {
    let scene = gateway().await;
    publish(&scene);
    let packument = ask(connect_tls(&scene).await, "/left-pad", REGISTRY).await;
    assert_eq!(packument.versions(), ["1.0.0"]);
    let tarball = "https://registry.example/left-pad/-/left-pad-1.0.0.tgz";
    assert_eq!(packument.json()["versions"]["1.0.0"]["dist"]["tarball"], tarball);
    ask(connect_tls(&scene).await, "/left-pad/-/left-pad-1.0.0.tgz", REGISTRY).await.is(200);
    let young = ask(connect_tls(&scene).await, "/left-pad/-/left-pad-1.1.0.tgz", REGISTRY).await.is(403);
    assert!(young.reason.contains("left-pad@1.1.0") && young.error().contains("72 h"), "{young:?}");
}

#[tokio::test]
async fn stored_private_tarballs_need_a_valid_token_through_the_gateway_too() {
    let scene = gateway().await;
    let secret = Package::new("@acme/secret", "1.0.0").readable_with("alice,bob");
    let stolen = crate::package::sha512(&secret.tarball);
    scene.publish(secret.clone());
    scene.publish(Package::new("evil", "1.0.0").dist("integrity", stolen).dist("shasum", serde_json::Value::Null));
    let path = secret.path();
    let ask = async |path: &str, token: &str| {
        ask_with(connect_tls(&scene).await, path, REGISTRY, &format!("authorization: Bearer {token}\r\n")).await
    };
    ask(&path, "alice").await.is(200);
    assert_eq!(ask(&path, "bob").await.is(200).body, secret.tarball);
    for answer in [
        ask(&path, "mallory").await,
        ask("/evil/-/evil-1.0.0.tgz", "mallory").await,
        crate::gateway_client::ask(connect_tls(&scene).await, &path, REGISTRY).await,
        crate::gateway_client::ask(connect_tls(&scene).await, "/evil/-/evil-1.0.0.tgz", REGISTRY).await,
    ] {
        assert!(answer.status >= 400 && answer.body != secret.tarball, "{}", answer.status);
    }
}

#[tokio::test]
async fn yarns_alias_of_the_npm_registry_is_intercepted_by_default() {
    let scene = Scene::open().set("gateway", "127.0.0.1:0").await;
    publish(&scene);
    let alias = coldframe::upstream::npmrc::yarn_registry_host().unwrap();
    let (head, stream) = connect(gateway_address(&scene), &format!("{alias}:443"), "").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let inside = handshake(tls_config(scene.data(), &scene.clock, &[]), alias, stream).await.unwrap();
    assert_eq!(ask(inside, "/left-pad", alias).await.versions(), ["1.0.0"]);
}

#[tokio::test]
async fn http_2_is_used_if_the_client_offers_it() {
    let scene = gateway().await;
    publish(&scene);
    let (_, stream) = connect(gateway_address(&scene), "registry.example:443", "").await;
    let offering = tls_config(scene.data(), &scene.clock, &["h2", "http/1.1"]);
    let stream = handshake(offering, REGISTRY, stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let driving = tokio::spawn(connection);
    let get = async |url: &str| {
        let request = http::Request::get(url).body(Empty::<Bytes>::new()).unwrap();
        let (head, body) = sender.clone().send_request(request).await.unwrap().into_parts();
        (head.status.as_u16(), String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap())
    };
    let (shown, young, misdirected) = tokio::join!(
        get("https://registry.example/left-pad"),
        get("https://registry.example/left-pad/-/left-pad-1.1.0.tgz"),
        get("https://other.example/left-pad"),
    );
    assert!(shown.0 == 200 && shown.1.contains("\"1.0.0\"") && !shown.1.contains("\"1.1.0\":{"), "{shown:?}");
    assert!(young.0 == 403 && young.1.contains("left-pad@1.1.0"), "{young:?}");
    assert!(misdirected.0 == 421 && misdirected.1.contains("differs from the host of the connection"), "{misdirected:?}");
    drop(sender);
    driving.await.unwrap().unwrap();
}

#[tokio::test]
async fn plain_http_is_intercepted_in_absolute_form_and_in_a_tunnel() {
    let scene = gateway().await;
    publish(&scene);
    let stream = TcpStream::connect(gateway_address(&scene)).await.unwrap();
    let absolute = ask(stream, "http://registry.example/left-pad", REGISTRY).await;
    // Node's built-in client puts the proxy's address in `host`.
    let (head, stream) =
        connect(gateway_address(&scene), "registry.example:80", &format!("host: {}\r\n", gateway_address(&scene))).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let tunnelled = ask(stream, "/left-pad", REGISTRY).await;
    for packument in [absolute, tunnelled] {
        assert_eq!(packument.versions(), ["1.0.0"]);
        let tarball = "http://registry.example/left-pad/-/left-pad-1.0.0.tgz";
        assert_eq!(packument.json()["versions"]["1.0.0"]["dist"]["tarball"], tarball);
    }
}

#[tokio::test]
async fn other_hosts_are_refused_with_the_reason_and_the_flag_to_allow_them() {
    let scene = gateway().await;
    let (line, body) = connect_refused(gateway_address(&scene), "other.example:443").await;
    assert!(line.starts_with("HTTP/1.1 403 egress refused by coldframe, host not allowed"), "{line}");
    let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
    let error = answer["error"].as_str().unwrap();
    assert!(error.contains("`--allow-host other.example`") && error.contains("`--intercept other.example`"), "{error}");
    let (line, _) = connect_refused(gateway_address(&scene), "registry.example:22").await;
    assert!(line.starts_with("HTTP/1.1 403 ") && line.contains("ports 443 and 80"), "{line}");
    let answer = raw(gateway_address(&scene), b"GET http://other.example/ HTTP/1.1\r\nhost: other.example\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 403 egress refused by coldframe, host not allowed"), "{answer}");
}

#[tokio::test]
async fn no_spelling_of_a_local_address_is_allowed() {
    let scene = gateway().set("default-egress", "tunnel").await;
    for target in [
        "127.0.0.1:443",
        "127.0.0.1:80",
        "localhost:443",
        "LOCALHOST.:443",
        "169.254.169.254:80",
        "[::1]:443",
        "[::]:443",
        "0.0.0.0:443",
        "0:443",
        "2130706433:443",
        "0x7f000001:443",
        "0x7f.1:443",
        "017700000001:443",
        "127.1:443",
        "[::ffff:127.0.0.1]:443",
        "[::ffff:7f00:1]:443",
        "[::7f00:1]:443",
        "[64:ff9b::7f00:1]:443",
        "[fe80::1]:443",
        "[fd00:ec2::254]:80",
        "10.0.0.1:443",
        "192.168.1.1:443",
        "172.16.0.1:443",
        "100.100.100.200:80",
        "168.63.129.16:80",
    ] {
        let (line, body) = connect_refused(gateway_address(&scene), target).await;
        assert!(line.starts_with("HTTP/1.1 403 ") && line.contains("not named by `--allow-host`"), "{target}: {line}");
        assert!(body.contains("\"error\""), "{target}: {body}");
    }
    let answer =
        raw(gateway_address(&scene), b"GET http://169.254.169.254/latest HTTP/1.1\r\nhost: 169.254.169.254\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
}

#[tokio::test]
async fn an_allowed_host_is_tunnelled_until_both_sides_are_done() {
    let server = echo().await;
    let scene = gateway().set("allow-host", &server.to_string()).await;
    let (head, mut stream) = connect(gateway_address(&scene), &server.to_string(), "").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let sent = vec![7; 300_000];
    let (mut from, mut to) = stream.split();
    let (written, mut back) = (async { to.write_all(&sent).await.and(to.shutdown().await) }, Vec::new());
    let (written, read) = tokio::join!(written, from.read_to_end(&mut back));
    written.unwrap();
    read.unwrap();
    // The server closed after the client, and all bytes arrived.
    assert!(back == sent, "{} bytes of {}", back.len(), sent.len());
}

#[tokio::test]
async fn bytes_sent_with_the_connect_request_enter_the_tunnel_first() {
    let server = echo().await;
    let scene = gateway().set("allow-host", &server.to_string()).await;
    let mut stream = TcpStream::connect(gateway_address(&scene)).await.unwrap();
    stream.write_all(format!("CONNECT {server} HTTP/1.1\r\n\r\nat once").as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nat once"), "{answer}");
}

#[tokio::test]
async fn plain_requests_to_allowed_hosts_are_forwarded_without_hop_by_hop_headers() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    let registry = scene.registry.address.to_string();
    let gate = gateway().set("allow-host", &registry).await;
    let request = format!(
        "GET http://{registry}/left-pad?a=b HTTP/1.1\r\nhost: {registry}\r\nproxy-authorization: Basic eA==\r\nconnection: close, x-hop\r\nx-hop: 1\r\nx-end: 2\r\n\r\n"
    );
    let answer = raw(gateway_address(&gate), request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"left-pad\""), "{answer}");
    let seen = scene.registry.last("/left-pad");
    assert_eq!(seen.headers.first("x-end"), Some("2"));
    for gone in ["proxy-authorization", "x-hop"] {
        assert!(seen.headers.first(gone).is_none(), "{gone}: {:?}", seen.headers);
    }
    assert!(seen.headers.first("via").unwrap_or_default().contains("coldframe"), "{:?}", seen.headers);
    scene.registry.take_undeclared();
}

#[tokio::test]
async fn requests_that_loop_back_to_coldframe_are_refused() {
    // A free port, so that the settings can allow it before Coldframe listens on it.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let free = free.to_string();
    let scene = Scene::open().set("gateway", &free).set("allow-host", &free).set("allow-host", "127.0.0.1").await;
    let (line, _) = connect_refused(gateway_address(&scene), &free).await;
    assert!(line.contains("is coldframe itself"), "{line}");
    let via = format!("via: 1.1 elsewhere, 1.1 {}\r\n", coldframe::net::via_pseudonym());
    let (head, _) = connect(gateway_address(&scene), "registry.example:443", &via).await;
    assert!(head.starts_with("HTTP/1.1 403 request loop: coldframe already handled this request"), "{head}");
}

#[tokio::test]
async fn a_host_that_differs_from_the_connect_target_is_refused() {
    let scene = gateway().await;
    publish(&scene);
    // In the ClientHello.
    let (_, stream) = connect(gateway_address(&scene), "registry.example:443", "").await;
    let other = handshake(tls_config(scene.data(), &scene.clock, &[]), "other.example", stream).await.unwrap_err();
    assert!(other.to_string().contains("UnrecognisedName"), "{other}");
    // In `Host`, and in an absolute target.
    let host = ask(connect_tls(&scene).await, "/left-pad", "other.example").await.is(421);
    assert!(host.reason.contains("differs from the host of the connection: `registry.example:443`"), "{host:?}");
    ask(connect_tls(&scene).await, "/left-pad", "registry.example:8443").await.is(421);
    ask(connect_tls(&scene).await, "https://other.example/left-pad", REGISTRY).await.is(421);
    ask(connect_tls(&scene).await, "https://other.example/left-pad", "other.example").await.is(421);
    ask(connect_tls(&scene).await, "http://registry.example/left-pad", REGISTRY).await.is(421);
    ask(connect_tls(&scene).await, "https://registry.example/left-pad", REGISTRY).await.is(200);
    ask(connect_tls(&scene).await, "/left-pad", "registry.example:443").await.is(200);
    // In the request to the gateway itself.
    for request in [
        "GET http://registry.example/left-pad HTTP/1.1\r\nhost: other.example\r\n\r\n",
        "CONNECT registry.example:443 HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "CONNECT user@registry.example:443 HTTP/1.1\r\n\r\n",
        "CONNECT registry.example HTTP/1.1\r\n\r\n",
        "GET https://registry.example/left-pad HTTP/1.1\r\nhost: registry.example\r\n\r\n",
        "GET ftp://registry.example/left-pad HTTP/1.1\r\nhost: registry.example\r\n\r\n",
        "GET http://registry.example:443/left-pad HTTP/1.1\r\nhost: registry.example:443\r\n\r\n",
    ] {
        let answer = raw(gateway_address(&scene), request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{request:?}: {answer}");
    }
    assert_eq!(scene.registry.count("/left-pad"), 1);
}

#[tokio::test]
async fn wrong_protocols_are_refused_on_tls_and_plain_ports() {
    let scene = gateway().await;
    let (_, stream) = connect(gateway_address(&scene), "registry.example:443", "").await;
    let plain = ask(stream, "/left-pad", REGISTRY).await.is(400);
    assert!(plain.reason.contains("plain HTTP on a TLS port"), "{plain:?}");
    // TLS where plain HTTP is spoken.
    let (_, stream) = connect(gateway_address(&scene), "registry.example:80", "").await;
    assert!(handshake(tls_config(scene.data(), &scene.clock, &[]), REGISTRY, stream).await.is_err());
    // A ClientHello of 40,000 bytes, in three records.
    let (_, mut stream) = connect(gateway_address(&scene), "registry.example:443", "").await;
    let mut hello = vec![1, 0, 0x9c, 0x40, 3, 3];
    hello.resize(40_004, 0);
    for piece in hello.chunks(16_000) {
        let length = u16::try_from(piece.len()).unwrap().to_be_bytes();
        let record = [&[22, 3, 1][..], &length, piece].concat();
        if stream.write_all(&record).await.is_err() {
            break;
        }
    }
    assert!(is_closed(&mut stream).await);
    assert_eq!(scene.registry.total(), 0);
}

#[tokio::test]
async fn a_gateway_client_has_no_admin_access() {
    let scene = gateway().await;
    let ask_gateway = async |path: &str| ask(TcpStream::connect(gateway_address(&scene)).await.unwrap(), path, "gateway").await;
    ask_gateway("/-/coldframe/healthz").await.is(200);
    ask_gateway("/-/coldframe/readyz").await.is(200);
    let metrics = ask_gateway("/-/coldframe/metrics").await.is(403);
    assert!(metrics.error().contains("`admin-token-file`"), "{metrics:?}");
    let misdirected = ask_gateway("/left-pad").await.is(400);
    assert!(misdirected.error().contains("configure it as a proxy, not as a registry"), "{misdirected:?}");
    for path in ["/-/coldframe/metrics", "/-/coldframe/healthz"] {
        ask(connect_tls(&scene).await, path, REGISTRY).await.is(404);
    }
}

#[tokio::test]
async fn stalled_handshakes_and_tunnels_are_closed() {
    let server = echo().await;
    let scene = gateway()
        .set("allow-host", &server.to_string())
        .set("header-timeout", "1s")
        .set("idle-timeout", "1s")
        .set("max-connections", "4")
        .await;
    for begun in [&b""[..], &[22], &[22, 3, 1, 1, 0, 1, 0]] {
        let (_, mut stream) = connect(gateway_address(&scene), "registry.example:443", "").await;
        stream.write_all(begun).await.unwrap();
        assert!(is_closed(&mut stream).await, "{begun:?}");
    }
    let (_, mut stream) = connect(gateway_address(&scene), &server.to_string(), "").await;
    assert!(is_closed(&mut stream).await);
    // Abort at every stage, more often than the connection limit; then a new connection still works.
    for _ in 0..8 {
        drop(connect(gateway_address(&scene), &server.to_string(), "").await);
        drop(connect(gateway_address(&scene), "registry.example:443", "").await);
        drop(connect_tls(&scene).await);
        drop(TcpStream::connect(gateway_address(&scene)).await);
    }
    publish(&scene);
    ask(connect_tls(&scene).await, "/left-pad", REGISTRY).await.is(200);
}

#[tokio::test]
async fn idle_tunnels_are_closed_at_the_limit_and_on_shutdown() {
    let server = echo().await;
    let mut scene = gateway().set("allow-host", &server.to_string()).set("max-connections", "2").await;
    let (_, mut first) = connect(gateway_address(&scene), &server.to_string(), "").await;
    let (_, mut second) = connect(gateway_address(&scene), &server.to_string(), "").await;
    scene.get("/-/coldframe/healthz").await.is(200);
    assert!(tokio::select! { closed = is_closed(&mut first) => closed, closed = is_closed(&mut second) => closed });
    let (_, mut third) = connect(gateway_address(&scene), &server.to_string(), "").await;
    scene.coldframe.stop().await;
    assert!(is_closed(&mut third).await);
}
