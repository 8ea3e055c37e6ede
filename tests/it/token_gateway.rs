//! Access tokens in the gateway: as password or bearer token of the proxy, inside an intercepted connection, and in tunnels.

use std::time::Duration;

use coldframe::policy::Role;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::client::raw;
use crate::gateway_client::{REGISTRY, ask, ask_with, connect, gateway, gateway_address, handshake, tls_config};
use crate::harness::Scene;
use crate::tokens::{assert_nothing_leaked, basic, create, revoke};

async fn line(scene: &Scene, target: &str, headers: &str) -> String {
    connect(gateway_address(scene), target, headers).await.0.lines().next().unwrap_or_default().to_owned()
}

fn proxy(value: &str) -> String {
    format!("proxy-authorization: {value}\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn token_opens_the_gateway_and_names_its_label() {
    let mut scene = gateway().set("require-auth", "true").await;
    scene.publish_old("left-pad", &["1.0.0"]);
    let token = create(&scene, "ci-web", Role::Client, &[], None).await;
    for headers in ["", &proxy("Bearer cfr_x"), &proxy(&basic("ada:secret")), &proxy("Bearer npm_own")] {
        let (head, _) = connect(gateway_address(&scene), "registry.example:443", headers).await;
        assert!(head.starts_with("HTTP/1.1 407 ") && head.contains("proxy-authenticate: "), "{headers}: {head}");
        assert!(line(&scene, "other.example:443", headers).await.starts_with("HTTP/1.1 407 "));
    }
    for headers in [proxy(&format!("Bearer {token}")), proxy(&basic(format!("any:{token}")))] {
        let (_, stream) = connect(gateway_address(&scene), "registry.example:443", &headers).await;
        let stream = handshake(tls_config(scene.data(), &scene.clock, &[]), REGISTRY, stream).await.unwrap();
        ask(stream, "/left-pad/-/left-pad-1.0.0.tgz", REGISTRY).await.is(200);
        let request = format!(
            "GET http://registry.example/left-pad HTTP/1.1\r\nhost: registry.example\r\nconnection: close\r\n{headers}\r\n"
        );
        assert!(raw(gateway_address(&scene), request.as_bytes()).await.starts_with("HTTP/1.1 200 "));
        // A host that is not allowed is refused after the login.
        assert!(line(&scene, "other.example:443", &headers).await.starts_with("HTTP/1.1 403 "));
    }
    assert_nothing_leaked(&scene, &token);
    scene.coldframe.stop().await;
    let spec = coldframe::npm::PackageSpec::parse("left-pad").unwrap();
    let exposed = coldframe::app::exposure(scene.data(), &spec).unwrap();
    assert_eq!(exposed.iter().map(|row| row.client.as_str()).collect::<Vec<_>>(), ["ci-web@127.0.0.1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn token_inside_an_intercepted_connection_is_verified_and_not_forwarded() {
    let scene = gateway().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    let token = create(&scene, "ci-web", Role::Client, &["@acme/*"], None).await;
    let inside = async |headers: &str| {
        let (_, stream) = connect(gateway_address(&scene), "registry.example:443", "").await;
        let stream = handshake(tls_config(scene.data(), &scene.clock, &[]), REGISTRY, stream).await.unwrap();
        ask_with(stream, "/left-pad", REGISTRY, headers).await
    };
    inside("").await.is(200);
    inside("authorization: Bearer cfr_x\r\n").await.is(401);
    let refused = inside(&format!("authorization: Bearer {token}\r\n")).await.is(403);
    assert!(refused.error().contains("outside the scope"), "{refused:?}");
    assert_nothing_leaked(&scene, &token);
}

#[tokio::test(flavor = "multi_thread")]
async fn scope_of_the_connection_limits_requests_with_the_clients_own_credentials() {
    let scene = gateway().set("require-auth", "true").set("allow-writes", "true").await;
    scene.publish_old("left-pad", &["1.0.0"]);
    let token = create(&scene, "ci-web", Role::Client, &["@acme/*"], None).await;
    let (_, stream) = connect(gateway_address(&scene), "registry.example:443", &proxy(&format!("Bearer {token}"))).await;
    let stream = handshake(tls_config(scene.data(), &scene.clock, &[]), REGISTRY, stream).await.unwrap();
    ask_with(stream, "/left-pad", REGISTRY, "authorization: Bearer npm_own\r\n").await.is(403);
    assert_eq!(scene.registry.total(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn open_connections_end_with_their_token() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let scene = gateway().set("require-auth", "true").set("allow-host", &target).await;
    scene.publish_old("left-pad", &["1.0.0"]);
    let token = create(&scene, "ci-web", Role::Client, &[], None).await;
    let headers = proxy(&format!("Bearer {token}"));
    let (_, stream) = connect(gateway_address(&scene), "registry.example:443", &headers).await;
    let mut kept = handshake(tls_config(scene.data(), &scene.clock, &[]), REGISTRY, stream).await.unwrap();
    let request = format!("GET /left-pad HTTP/1.1\r\nhost: {REGISTRY}\r\n\r\n");
    let (head, mut tunnel) = connect(gateway_address(&scene), &target, &headers).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let (mut other_end, _) = listener.accept().await.unwrap();
    tunnel.write_all(b"ping").await.unwrap();
    let mut received = [0; 4];
    other_end.read_exact(&mut received).await.unwrap();
    revoke(&scene, "ci-web").await;
    kept.write_all(request.as_bytes()).await.unwrap();
    let mut first = [0; 12];
    kept.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 401");
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(20), other_end.read_to_end(&mut rest)).await;
    assert!(closed.is_ok() && rest.is_empty(), "the tunnel stays open");
    assert!(line(&scene, &target, &headers).await.starts_with("HTTP/1.1 407 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn token_in_a_request_to_another_host_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = listener.local_addr().unwrap();
    let scene = gateway().set("allow-host", &place.to_string()).await;
    let token = create(&scene, "ci-web", Role::Client, &[], None).await;
    for (target, headers) in [
        (format!("http://{place}/"), format!("authorization: Bearer {token}\r\n")),
        (format!("http://{place}/"), format!("authorization: {}\r\n", basic(format!("a:{token}")))),
        (format!("http://{place}/"), format!("cookie: a={token}\r\n")),
        (format!("http://{place}/?token={token}"), String::new()),
        (format!("http://a:{token}@{place}/"), String::new()),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nhost: {place}\r\nconnection: close\r\n{headers}\r\n");
        let answer = raw(gateway_address(&scene), request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && !answer.contains(&token), "{target} {headers}: {answer}");
    }
    // The proxy's own header is removed before the request is sent.
    let request = format!(
        "GET http://{place}/ HTTP/1.1\r\nhost: {place}\r\nconnection: close\r\n{}\r\n",
        proxy(&format!("Bearer {token}"))
    );
    let gateway = gateway_address(&scene);
    let asking = tokio::spawn(async move { raw(gateway, request.as_bytes()).await });
    let (mut stream, _): (TcpStream, _) = listener.accept().await.unwrap();
    let mut received = vec![0; 4096];
    let length = stream.read(&mut received).await.unwrap();
    let received = String::from_utf8_lossy(&received[..length]).into_owned();
    assert!(received.starts_with("GET / HTTP/1.1\r\n") && !received.contains("cfr_"), "{received}");
    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    assert!(asking.await.unwrap().starts_with("HTTP/1.1 204 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_tokens_open_the_same_gateway() {
    let folder = tempfile::TempDir::new().unwrap();
    let users = folder.path().join("users");
    std::fs::write(&users, "").unwrap();
    let scene = gateway().set("gateway-users", users.to_str().unwrap()).await;
    let token = create(&scene, "ci-web", Role::Client, &[], None).await;
    assert!(line(&scene, "registry.example:443", "").await.starts_with("HTTP/1.1 407 "));
    assert!(line(&scene, "registry.example:443", &proxy(&basic(format!("ada:{token}")))).await.starts_with("HTTP/1.1 200 "));
}
