//! Broken and malicious upstreams: every request ends soon, with an error that names the problem, and uses little memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::fake_response::Reply;
use crate::harness::Scene;
use crate::package::{Package, gzip, hours, minutes, sha512};
use crate::registry::Registry;

const TARBALL: &str = "/left-pad/-/left-pad-1.0.0.tgz";

#[tokio::test]
async fn a_small_packument_that_unpacks_to_a_large_one_is_refused() {
    let scene = Scene::open().set("packument-limit", "1MB").await;
    let bomb = gzip(&vec![b' '; 64 << 20]);
    assert!(bomb.len() < 100_000);
    scene.registry.answer("/bomb", Reply::ok(bomb).header("content-encoding", "gzip"));
    let refused = scene.get("/bomb").await;
    assert!(refused.status >= 400 && refused.error().contains("1000000"), "{} {}", refused.status, refused.text());
}

#[tokio::test]
async fn a_tarball_that_unpacks_to_a_large_one_is_served_unchanged() {
    let scene = Scene::open().set("tarball-limit", "100KB").await;
    let bomb = Package::new("bomb", "1.0.0").content(&"0".repeat(20 << 20));
    let bytes = bomb.tarball.clone();
    assert!(bytes.len() < 100_000);
    scene.publish(bomb);
    assert_eq!(scene.get("/bomb/-/bomb-1.0.0.tgz").await.is(200).body, bytes);
}

#[tokio::test]
async fn a_body_longer_than_its_content_length_is_rejected() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.publish_old("other", &["1.0.0"]);
    let body = scene.registry.packument("left-pad").to_string();
    scene.registry.answer("/left-pad", Reply::json(&body).says_length(body.len() - 10));
    let refused = scene.get("/left-pad").await;
    assert!(refused.status >= 500, "{} {}", refused.status, refused.text());
    // The extra bytes are not used as the answer to the next request.
    assert_eq!(scene.get("/other").await.versions(), ["1.0.0"]);
    scene.registry.clear_answer("/left-pad");
    scene.advance(minutes(10));
    let bytes = Package::new("left-pad", "1.0.0").tarball;
    scene.registry.answer(TARBALL, Reply::ok(bytes.clone()).says_length(bytes.len() - 10));
    scene.get(TARBALL).await.is(403);
    assert_eq!(scene.get("/other").await.versions(), ["1.0.0"]);
}

#[tokio::test]
async fn oversized_headers_are_rejected() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.registry.answer("/left-pad", Reply::json("{}").header("x-filler", &"f".repeat(300_000)));
    let refused = scene.get("/left-pad").await.is(502);
    assert!(refused.error().contains("headers are too large"), "{}", refused.error());
    let many = (0..1000).fold(Reply::json("{}"), |reply, number| reply.header(&format!("x-{number}"), "f"));
    scene.registry.answer("/left-pad", many);
    let refused = scene.get("/left-pad").await.is(502);
    assert!(refused.error().contains("headers"), "{}", refused.error());
}

#[tokio::test]
async fn a_silent_upstream_times_out_and_the_stale_answer_is_served() {
    let scene = Scene::open().set("upstream-timeout", "1s").await;
    scene.publish(Package::new("left-pad", "1.0.0").sized(100_000));
    scene.publish_old("other", &["1.0.0"]);
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.advance(minutes(10));
    let gates =
        [scene.registry.hold("/left-pad"), scene.registry.hold_body("/other", 40), scene.registry.hold_body(TARBALL, 50_000)];
    let begun = Instant::now();
    let (stale, silent, tarball) = tokio::join!(scene.get("/left-pad"), scene.get("/other"), scene.get(TARBALL));
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert_eq!((stale.versions(), stale.header("age")), (vec!["1.0.0".to_owned()], "600"));
    for cut in [silent, tarball] {
        assert!(cut.status >= 500 && cut.error().contains("within 1 s"), "{} {}", cut.status, cut.text());
    }
    drop(gates);
}

#[tokio::test]
async fn an_upstream_that_answers_http_2_is_reported_as_not_http() {
    // An empty SETTINGS frame, then a GOAWAY.
    const FRAMES: &[u8] = b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x01";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(FRAMES).await;
        }
    });
    let scene = Scene::open().set("upstream", &url).await;
    for path in ["/left-pad", TARBALL] {
        let begun = Instant::now();
        let refused = scene.get(path).await;
        assert!(refused.status >= 500 && refused.error().contains("not HTTP"), "{} {}", refused.status, refused.text());
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }
}

/// Starts a registry with a self-signed certificate; returns it and the certificate file.
async fn with_certificate(
    clock: &coldframe::clock::ManualClock,
    name: &str,
    change: impl FnOnce(&mut rcgen::CertificateParams, &mut rustls::ServerConfig),
    folder: &TempDir,
) -> (Registry, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut protocols =
        builder.clone().with_no_client_auth().with_cert_resolver(Arc::new(rustls::server::ResolvesServerCertUsingSni::new()));
    change(&mut params, &mut protocols);
    let certificate = params.self_signed(&key).unwrap();
    let secret = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config = builder.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], secret).unwrap();
    config.alpn_protocols = protocols.alpn_protocols;
    let registry = Registry::secure(clock, Arc::new(config)).await;
    let file = folder.path().join("authority.pem");
    std::fs::write(&file, certificate.pem()).unwrap();
    (registry, file.to_str().unwrap().to_owned())
}

#[tokio::test]
async fn expired_and_foreign_certificates_and_http_2_only_servers_are_refused() {
    type Change = fn(&mut rcgen::CertificateParams, &mut rustls::ServerConfig);
    let cases: [(&str, &str, Change); 3] = [
        ("localhost", "expired", |params, _| params.not_after = rcgen::date_time_ymd(2001, 1, 1)),
        ("other.example", "another name", |_, _| ()),
        ("localhost", "tls", |_, config| config.alpn_protocols = vec![b"h2".to_vec()]),
    ];
    for (name, word, change) in cases {
        let clock = Scene::open().await.clock.clone();
        let folder = TempDir::new().unwrap();
        let (secure, authority) = with_certificate(&clock, name, change, &folder).await;
        let scene = Scene::open().set("upstream", &secure.url).set("upstream-ca", &authority).await;
        for path in ["/left-pad", TARBALL] {
            let refused = scene.get(path).await;
            let error = refused.error().to_ascii_lowercase();
            assert!(refused.status >= 500 && error.contains("tls") && error.contains(word), "{}", refused.text());
        }
        assert_eq!(secure.total(), 0);
    }
}

#[tokio::test]
async fn a_server_that_selects_http_2_without_an_offer_is_refused() {
    // A ServerHello of TLS 1.2: random, no session, a suite, no compression, and ALPN with `h2`.
    let mut hello = vec![0x03, 0x03];
    hello.extend([7; 32]);
    hello.extend(b"\0\xc0\x2b\0\0\x0e\xff\x01\0\x01\0\0\x10\0\x05\0\x03\x02h2");
    let length = u8::try_from(hello.len()).unwrap();
    let record = [&[0x16, 3, 3, 0, length + 4, 2, 0, 0, length][..], &hello].concat();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut hello = [0; 4096];
            let _ = stream.read(&mut hello).await;
            let _ = stream.write_all(&record).await;
            let _ = stream.read(&mut hello).await;
        }
    });
    let scene = Scene::open().set("upstream", &url).await;
    let refused = scene.get("/left-pad").await;
    assert!(refused.status >= 500 && refused.error().contains("SelectedUnofferedApplicationProtocol"), "{}", refused.text());
}

#[tokio::test]
async fn a_redirect_of_a_tarball_to_another_host_is_not_followed() {
    let scene = Scene::open().await;
    let elsewhere = Registry::on_other_host(&scene.clock).await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.registry.answer(TARBALL, Reply::redirect(302, &format!("{}{TARBALL}", elsewhere.url)));
    let refused = scene.get(TARBALL).await;
    assert!(refused.status >= 400 && refused.error().contains("redirect"), "{}", refused.text());
    scene.registry.answer(TARBALL, Reply::redirect(302, TARBALL));
    let refused = scene.get(TARBALL).await;
    assert!(refused.status >= 400 && refused.error().contains("in a row"), "{}", refused.text());
    assert_eq!(elsewhere.total(), 0);
}

#[tokio::test]
async fn an_integrity_that_changes_with_each_answer_keeps_its_first_value() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["0.9.0", "1.0.0"]);
    let bytes = Package::new("left-pad", "1.0.0").tarball;
    let (answers, other) = (AtomicUsize::new(0), sha512(b"other bytes"));
    scene.registry.edit("left-pad", move |packument| {
        if answers.fetch_add(1, Ordering::Relaxed) % 2 == 1 {
            packument["versions"]["1.0.0"]["dist"]["integrity"] = json!(other);
        }
    });
    for round in 0..6 {
        let packument = scene.get("/left-pad").await.is(200);
        let shown = packument.json()["versions"]["1.0.0"]["dist"]["integrity"].clone();
        assert!(shown.is_null() || shown == json!(sha512(&bytes)), "round {round}: {shown}");
        let tarball = scene.get(TARBALL).await;
        assert!(tarball.status == 403 || tarball.body == bytes, "round {round}: {}", tarball.status);
        scene.advance(minutes(10));
    }
    assert!(scene.metric("coldframe_incidents", "integrity_changed").await >= 1.0);
}

#[tokio::test]
async fn a_version_that_comes_and_goes_is_not_held_again() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0", "1.1.0"]);
    let answers = AtomicUsize::new(0);
    scene.registry.edit("left-pad", move |packument| {
        if answers.fetch_add(1, Ordering::Relaxed) % 2 == 1 {
            packument["versions"].as_object_mut().unwrap().remove("1.1.0");
            packument["dist-tags"]["latest"] = json!("1.0.0");
        }
    });
    for round in 0..6 {
        let shown = scene.get("/left-pad").await.versions();
        assert!(shown == ["1.0.0", "1.1.0"] || (round > 0 && shown == ["1.0.0"]), "round {round}: {shown:?}");
        scene.advance(minutes(10));
    }
    // A young version that comes and goes keeps its first-seen time.
    scene.publish(Package::new("left-pad", "1.2.0").aged(hours(1)));
    for _ in 0..6 {
        assert!(!scene.get("/left-pad").await.versions().contains(&"1.2.0".to_owned()));
        scene.advance(hours(10));
    }
}

/// Returns `count` dist-tags on one version.
fn tagged(count: usize, prefix: &str, version: &str) -> Value {
    (0..count).map(|number| (format!("{prefix}{number}"), json!(version))).collect::<serde_json::Map<_, _>>().into()
}

#[tokio::test]
async fn a_packument_with_too_many_dist_tags_is_rejected() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.publish_old("right-pad", &["1.0.0"]);
    scene.registry.edit("left-pad", |packument| packument["dist-tags"] = tagged(80_000, "t", "1.0.0"));
    let refused = scene.get("/left-pad").await.is(502);
    assert!(refused.error().contains("more than 20000 members in `dist-tags`"), "{}", refused.error());
    assert_eq!(scene.get("/right-pad").await.versions(), ["1.0.0"]);
}

#[tokio::test]
async fn thousands_of_dist_tags_may_move_with_each_fetch() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0", "1.1.0"]);
    for (round, version) in ["1.0.0", "1.1.0", "1.0.0"].into_iter().enumerate() {
        scene.registry.edit("left-pad", move |packument| packument["dist-tags"] = tagged(10_000, &format!("t{round}-"), version));
        scene.advance(hours(2));
        assert_eq!(scene.get("/left-pad").await.tags().len(), 10_000);
    }
}
