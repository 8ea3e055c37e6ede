//! Transparent connections: handled by the server name in their `ClientHello`. All others are closed. `tests/netns` tests them
//! behind a real packet filter.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::gateway_client::{REGISTRY, ask, handshake, tls_config};
use crate::harness::{Opening, Scene};
use crate::package::{Package, hours};

fn transparent() -> Opening {
    Scene::open().set("transparent", "127.0.0.1:0").set("intercept", REGISTRY)
}

async fn connect(scene: &Scene) -> TcpStream {
    TcpStream::connect(scene.coldframe.transparent.expect("a transparent listener")).await.unwrap()
}

/// A minimal TLS 1.2 `ClientHello` with these extensions.
fn hello(extensions: &[u8]) -> Vec<u8> {
    let length = |bytes: usize| u16::try_from(bytes).unwrap().to_be_bytes();
    let body = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0xc0, 0x2b], &[1, 0], &length(extensions.len()), extensions].concat();
    let message = [&[1, 0][..], &length(body.len()), &body].concat();
    [&[22, 3, 1][..], &length(message.len()), &message].concat()
}

#[tokio::test]
async fn intercepted_name_is_served_and_other_hosts_inside_are_refused() {
    let scene = transparent().await;
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(1)));
    let inside = async || handshake(tls_config(scene.data(), &scene.clock, &[]), REGISTRY, connect(&scene).await).await.unwrap();
    let packument = ask(inside().await, "/left-pad", REGISTRY).await;
    assert_eq!(packument.versions(), ["1.0.0"]);
    let tarball = "https://registry.example/left-pad/-/left-pad-1.0.0.tgz";
    assert_eq!(packument.json()["versions"]["1.0.0"]["dist"]["tarball"], tarball);
    ask(inside().await, "/left-pad/-/left-pad-1.1.0.tgz", REGISTRY).await.is(403);
    ask(inside().await, "/left-pad", "other.example").await.is(421);
    ask(inside().await, "/-/coldframe/metrics", REGISTRY).await.is(404);
}

#[tokio::test]
async fn egress_rules_of_tunnels_apply_to_transparent_connections() {
    let scene =
        transparent().set("gateway", "127.0.0.1:0").set("default-egress", "tunnel").set("allow-host", "nowhere.example").await;
    let handshake_error = async |name: &'static str| {
        let result = handshake(tls_config(scene.data(), &scene.clock, &[]), name, connect(&scene).await).await;
        result.unwrap_err().to_string()
    };
    assert!(handshake_error("localhost").await.contains("AccessDenied"));
    assert!(handshake_error("nowhere.example").await.contains("AccessDenied"));
    let count = async |reason: &str| scene.metric("coldframe_gateway_refusals_total", &format!("reason=\"{reason}\"")).await;
    assert!(count("address").await >= 1.0 && count("unreached").await >= 1.0);
    let closed = transparent().await;
    let refused = handshake(tls_config(closed.data(), &closed.clock, &[]), "other.example", connect(&closed).await).await;
    assert!(refused.unwrap_err().to_string().contains("AccessDenied"));
    assert!(closed.metric("coldframe_gateway_refusals_total", "reason=\"host\"").await >= 1.0);
}

/// A `ClientHello` for a name, spelled exactly like that.
pub fn hello_for(name: &str) -> Vec<u8> {
    let length = |more: usize| u16::try_from(name.len() + more).unwrap().to_be_bytes();
    hello(&[&[0, 0][..], &length(5), &length(3), &[0], &length(0), name.as_bytes()].concat())
}

#[tokio::test]
async fn no_spelling_of_a_local_address_is_dialled() {
    let scene = transparent().set("default-egress", "tunnel").await;
    let names = ["localhost", "127.0.0.1", "2130706433", "0x7f000001", "0x7f.1", "017700000001", "127.1", "0", "[::1]", "::1"];
    for name in names.into_iter().chain(["169.254.169.254", "LOCALHOST.", "user@registry.example", "registry.example:443"]) {
        let mut stream = connect(&scene).await;
        stream.write_all(&hello_for(name)).await.unwrap();
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
        // At most a TLS alert.
        assert!(ended.is_ok() && answer.len() <= 7, "{name}: {answer:?}");
    }
    let count = async |reason: &str| scene.metric("coldframe_gateway_refusals_total", &format!("reason=\"{reason}\"")).await;
    let (refused, dialled) = (count("address").await + count("tls").await + count("malformed").await, count("unreached").await);
    assert!(refused >= 14.0 && dialled.abs() < f64::EPSILON, "{refused} were refused, {dialled} were dialled");
    assert_eq!(scene.registry.total(), 0);
}

#[tokio::test]
async fn connection_without_server_name_is_closed() {
    let scene = transparent().set("header-timeout", "1s").await;
    let large = hello(&[&[0, 21, 0x75, 0x30][..], &vec![0; 30_000]].concat());
    let grease = [[22, 3, 1, 0x40, 0].to_vec(), vec![1; 16_384], [22, 3, 1, 0x40, 0].to_vec(), vec![1; 16_384]].concat();
    let openings = [
        ("plaintext", b"GET / HTTP/1.1\r\nhost: registry.example\r\n\r\n".to_vec()),
        ("CONNECT", b"CONNECT registry.example:443 HTTP/1.1\r\n\r\n".to_vec()),
        ("no name", hello(&[])),
        ("address as name", hello(&[&[0, 0, 0, 14, 0, 12, 0, 0, 9][..], b"127.0.0.1"].concat())),
        ("too large", large),
        ("nonsense", grease),
        ("partial hello", hello(&[])[..20].to_vec()),
        ("nothing", Vec::new()),
    ];
    let cases = u32::try_from(openings.len()).unwrap();
    for (case, bytes) in openings {
        let mut stream = connect(&scene).await;
        // The server may close the connection before all bytes are written.
        let _ = stream.write_all(&bytes).await;
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok() && answer.len() <= 7, "{case}: {answer:?}");
    }
    let counted = scene.metric("coldframe_gateway_refusals_total", "reason=\"tls\"").await;
    assert!((counted - f64::from(cases)).abs() < f64::EPSILON, "{counted} of {cases}");
    assert_eq!(scene.registry.total(), 0);
}
