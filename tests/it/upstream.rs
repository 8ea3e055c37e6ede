//! Upstream failures: each gives a clear error, no invalid document is served and no cached one is lost.

use coldframe::store::SqliteLedger;
use serde_json::json;

use crate::fake_response::Reply;
use crate::harness::Scene;
use crate::package::{Package, days, hours, minutes};
use crate::registry::Registry;

#[tokio::test]
async fn upstream_statuses_are_mapped_and_named_in_errors() {
    let scene = Scene::open().await;
    for (upstream, ours) in [(404, 404), (410, 404), (401, 401), (403, 403)] {
        let path = format!("/status-{upstream}");
        scene.registry.answer(&path, Reply::error(upstream, "because I say so"));
        let answer = scene.get(&path).await.is(ours);
        assert!(!answer.error().is_empty());
    }
    for upstream in [400, 418, 429, 500, 502, 503] {
        let path = format!("/status-{upstream}");
        scene.registry.answer(&path, Reply::error(upstream, "not today").header("retry-after", "7"));
        let answer = scene.get(&path).await;
        assert!(answer.status >= 400, "{upstream}: {}", answer.status);
        assert!(answer.error().contains(&upstream.to_string()), "{upstream}: {}", answer.error());
    }
}

#[tokio::test]
async fn retry_after_is_passed_only_as_number_or_date() {
    let scene = Scene::open().await;
    for (received, passed) in [
        ("120", "120"),
        ("0120", "120"),
        ("Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:28:00 GMT"),
        ("Wednesday, 21-Oct-26 07:28:00 GMT", "Wed, 21 Oct 2026 07:28:00 GMT"),
        ("99999999999999999999", ""),
        ("-1", ""),
        ("soon; ::error::PWNED", ""),
        ("Wed, 21 Oct 2026 07:28:00 GMT; ##[x]", ""),
    ] {
        for path in ["/left-pad", "/-/whoami", "/-/npm/v1/keys"] {
            scene.registry.answer(path, Reply::error(429, "later").header("retry-after", received));
            let answer = scene.get(path).await.is(429);
            assert_eq!(answer.header("retry-after"), passed, "{path}: {received}");
        }
    }
}

#[tokio::test]
async fn invalid_packument_is_refused_with_the_byte_offset() {
    let scene = Scene::open().await;
    for (name, garbage) in [
        ("html", "<html>maintenance</html>".to_owned()),
        ("cut", r#"{"name":"cut","versions":{"1.0.0":{"na"#.to_owned()),
        ("list", "[]".to_owned()),
        ("null", "null".to_owned()),
        ("empty", String::new()),
        ("deep", format!(r#"{{"name":"deep","versions":{{}},"x":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000))),
        ("versions", r#"{"name":"versions","versions":[],"time":{},"dist-tags":{}}"#.to_owned()),
        ("after", r#"{"name":"after","versions":{},"time":{},"dist-tags":{}} trailing"#.to_owned()),
    ] {
        scene.registry.raw(name, garbage);
        let answer = scene.get(&format!("/{name}")).await;
        assert!(answer.status >= 400, "{name}: {}", answer.text());
        assert!(answer.error().contains(name), "{name}: {}", answer.error());
    }
    scene.registry.raw("cut", r#"{"name":"cut","versions":{"1.0.0":{"na"#);
    assert!(scene.get("/cut").await.error().contains("38"), "the byte offset is missing");
    scene.get("/-/coldframe/healthz").await.is(200);
}

#[tokio::test]
async fn packument_with_broken_body_is_refused() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    let body = scene.registry.packument("left-pad").to_string();
    let replies = [
        Reply::json(&body).cut_after(50),
        Reply::json(&body).says_length(body.len() + 10),
        Reply::json(&body).chunked().cut_after(50),
        Reply::ok(crate::package::gzip(body.as_bytes())[..60].to_vec()).header("content-encoding", "gzip"),
        Reply::ok(b"\x8b\x02\x80{}\x03".to_vec()).header("content-encoding", "br"),
    ];
    for (number, reply) in replies.into_iter().enumerate() {
        scene.registry.answer("/left-pad", reply);
        let answer = scene.get("/left-pad").await;
        assert!(answer.status >= 400, "{number}: {}", answer.text());
        assert!(!answer.error().is_empty());
        scene.advance(minutes(10));
    }
    scene.registry.clear_answer("/left-pad");
    scene.advance(minutes(10));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
}

#[tokio::test]
async fn broken_tarball_is_neither_served_nor_stored() {
    let scene = Scene::open().await;
    let package = Package::new("left-pad", "1.0.0").sized(50_000);
    let (path, bytes) = (package.path(), package.tarball.clone());
    scene.publish(package);
    scene.get("/left-pad").await.is(200);
    for reply in [
        Reply::ok(bytes.clone()).cut_after(1000),
        Reply::ok(bytes.clone()).says_length(bytes.len() + 10),
        Reply::ok(bytes.clone()).chunked().cut_after(1000),
        Reply::ok(Vec::new()),
        Reply::error(500, "no"),
    ] {
        scene.registry.answer(&path, reply);
        let answer = scene.get(&path).await;
        assert!(answer.status >= 400, "{}", answer.status);
        assert_eq!(scene.stored_tarballs().await, Vec::<std::path::PathBuf>::new());
    }
    scene.registry.clear_answer(&path);
    assert_eq!(scene.get(&path).await.is(200).body, bytes);
}

#[tokio::test]
async fn stale_packument_is_served_during_outage_and_opens_nothing() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(71)));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(200);
    scene.registry.go_down();
    scene.advance(hours(2));
    let stale = scene.get("/left-pad").await.is(200);
    assert_eq!(stale.versions(), ["1.0.0"]);
    scene.get("/left-pad/-/left-pad-1.1.0.tgz").await.is(403);
    scene.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(200);
    scene.registry.come_back();
    scene.advance(minutes(10));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0"]);
}

#[tokio::test]
async fn stale_packument_is_not_served_beyond_max_stale() {
    let scene = Scene::open().set("max-stale", "24h").await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.get("/left-pad").await.is(200);
    scene.registry.go_down();
    scene.advance(hours(23));
    scene.get("/left-pad").await.is(200);
    scene.advance(hours(2));
    let answer = scene.get("/left-pad").await;
    assert!(answer.status >= 500, "{}", answer.status);
    assert!(answer.error().contains("upstream"), "{}", answer.error());
}

#[tokio::test]
async fn upstream_error_keeps_cached_versions() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.get("/left-pad").await.is(200);
    for reply in [Reply::error(500, "no"), Reply::error(429, "slow down"), Reply::ok("<html>"), Reply::error(401, "who?")] {
        scene.registry.answer("/left-pad", reply);
        scene.advance(hours(1));
        let answer = scene.get("/left-pad").await;
        assert!(matches!(answer.status, 200 | 401), "{} {}", answer.status, answer.text());
    }
    scene.registry.clear_answer("/left-pad");
    scene.advance(hours(1));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
}

#[tokio::test]
async fn unreachable_upstream_error_names_the_failed_layer() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    for (upstream, word) in
        [(format!("http://127.0.0.1:{port}"), "refused"), ("http://no-such-host.invalid".to_owned(), "no-such-host.invalid")]
    {
        let scene = Scene::open().set("upstream", &upstream).await;
        for path in ["/left-pad", "/left-pad/-/left-pad-1.0.0.tgz"] {
            let answer = scene.get(path).await;
            assert!(answer.status >= 500, "{}", answer.status);
            assert!(answer.error().contains(word), "{}", answer.error());
            assert!(answer.reason.is_ascii() && answer.reason.len() > 10, "{}", answer.reason);
        }
    }
}

#[tokio::test]
async fn plaintext_upstream_on_https_is_reported_as_tls_error() {
    let plain = Scene::open().await;
    let scene = Scene::open().set("upstream", &plain.registry.url.replace("http://", "https://")).await;
    let answer = scene.get("/left-pad").await;
    assert!(answer.status >= 500);
    assert!(answer.error().to_ascii_lowercase().contains("tls"), "{}", answer.error());
}

#[tokio::test]
async fn unknown_authority_is_refused_until_configured() {
    let identity = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(identity.signing_key.serialize_der()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![identity.cert.der().clone()], key)
        .unwrap();
    let clock = Scene::open().await.clock.clone();
    let secure = Registry::secure(&clock, std::sync::Arc::new(config)).await;
    secure.publish(Package::new("left-pad", "1.0.0"));

    let scene = Scene::open().set("upstream", &secure.url).await;
    let answer = scene.get("/left-pad").await;
    assert!(answer.status >= 500 && answer.error().to_ascii_lowercase().contains("certificate"), "{}", answer.text());

    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("authority.pem");
    std::fs::write(&file, identity.cert.pem()).unwrap();
    let scene = Scene::open().set("upstream", &secure.url).set("upstream-ca", file.to_str().unwrap()).await;
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(200);
}

#[tokio::test]
async fn packument_redirect_is_followed_only_on_the_same_host() {
    let scene = Scene::open().await;
    let other = Registry::on_other_host(&scene.clock).await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.registry.answer("/alias", Reply::redirect(301, "/moved/left-pad"));
    let body = scene.registry.packument("left-pad").to_string().replace("left-pad", "alias");
    scene.registry.answer("/moved/left-pad", Reply::json(&body));
    assert_eq!(scene.get("/alias").await.versions(), ["1.0.0"]);
    scene.registry.answer("/away", Reply::redirect(302, &format!("{}/away", other.url)));
    let answer = scene.get("/away").await;
    assert!(answer.status >= 400 && answer.error().contains("redirect"), "{}", answer.text());
    assert_eq!(other.total(), 0);
}

#[tokio::test]
async fn packument_over_the_limit_is_refused() {
    let scene = Scene::open().set("packument-limit", "100KB").await;
    scene.publish(Package::new("large", "1.0.0").field("notes", "a".repeat(200_000)));
    let answer = scene.get("/large").await;
    assert!(answer.status >= 400 && answer.error().contains("100000"), "{} {}", answer.status, answer.text());
}

#[tokio::test]
async fn upstream_request_is_for_the_full_form_and_conditional() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.get("/left-pad").abbreviated().await.is(200);
    let first = scene.registry.last("/left-pad");
    assert!(!first.headers.first("accept").unwrap_or_default().contains("install-v1"), "{:?}", first.headers);
    assert!(first.headers.first("accept-encoding").unwrap_or_default().contains("gzip"));
    scene.advance(minutes(6));
    scene.get("/left-pad").await.is(200);
    let second = scene.registry.last("/left-pad");
    assert!(second.headers.first("if-none-match").is_some(), "{:?}", second.headers);
    assert_eq!(scene.registry.count("/left-pad"), 2);
}

#[tokio::test]
async fn upstream_gets_no_request_within_the_ttl() {
    let scene = Scene::open().set("packument-ttl", "5m").await;
    scene.publish_old("left-pad", &["1.0.0"]);
    for _ in 0..5 {
        scene.get("/left-pad").await.is(200);
        scene.get("/left-pad").abbreviated().gzip().await.is(200);
        scene.advance(std::time::Duration::from_secs(59));
    }
    assert_eq!(scene.registry.count("/left-pad"), 1);
    scene.advance(minutes(1));
    scene.get("/left-pad").await.is(200);
    assert_eq!(scene.registry.count("/left-pad"), 2);
}

#[tokio::test]
async fn scoped_package_is_requested_below_the_path_prefix() {
    let scene = Scene::open().await;
    scene.publish_old("@acme/ui", &["1.0.0"]);
    let prefixed = Scene::open().set("upstream", &format!("{}/repository/npm", scene.registry.url)).await;
    let body = scene.registry.packument("@acme/ui").to_string().replace("/@acme/ui/-/", "/repository/npm/@acme/ui/-/");
    scene.registry.answer("/repository/npm/@acme/ui", Reply::json(&body));
    scene.registry.answer("/repository/npm/@acme/ui/-/ui-1.0.0.tgz", Reply::ok(Package::new("@acme/ui", "1.0.0").tarball));
    assert_eq!(prefixed.get("/@acme%2fui").await.versions(), ["1.0.0"]);
    prefixed.get("/@acme/ui/-/ui-1.0.0.tgz").await.is(200);
    assert!(scene.registry.last("/repository/npm/@acme/ui").target.to_ascii_lowercase().contains("@acme%2fui"));
}

#[tokio::test]
async fn startup_and_readiness_send_no_upstream_request() {
    let scene = Scene::open().await;
    scene.get("/-/coldframe/readyz").await.is(200);
    scene.get("/-/coldframe/healthz").await.is(200);
    scene.get("/-/coldframe/metrics").await.is(200);
    assert_eq!(scene.registry.total(), 0);
}

#[tokio::test]
async fn clock_skew_and_stripped_metadata_are_reported() {
    let scene = Scene::open().await;
    scene.registry.set_clock_offset(jiff::SignedDuration::from_mins(-20));
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.get("/left-pad").await.is(200);
    assert!(scene.metric("coldframe_incidents", "clock_skew").await >= 1.0);

    let scene = Scene::open().mirror().await;
    scene.publish(Package::new("left-pad", "1.0.0").aged(days(19)));
    scene.get("/left-pad").await.is(200);
    assert!(scene.metric("coldframe_incidents", "metadata_stripped").await >= 1.0);
}

#[tokio::test]
async fn missing_attestations_are_named_where_signatures_are_missing_too() {
    for (dist, missing) in [
        ("attestations", "sends no _npmUser, dist.signatures;"),
        ("signatures", "sends no _npmUser;"),
        ("fileCount", "sends no _npmUser, dist.signatures, dist.attestations;"),
    ] {
        let mut scene = Scene::open().await;
        let stated =
            json!({ "url": "https://elsewhere.example/", "provenance": { "predicateType": "https://slsa.dev/provenance/v1" } });
        let stated = if dist == "signatures" { json!([{ "keyid": "SHA256:x", "sig": "AAAA" }]) } else { stated };
        scene.publish(Package::new("left-pad", "1.0.0").dist(dist, stated));
        scene.get("/left-pad").await.is(200);
        scene.coldframe.stop().await;
        let events = SqliteLedger::read_only(scene.data()).unwrap().events(jiff::Timestamp::UNIX_EPOCH).unwrap();
        let detail = events.iter().find(|event| event.kind == "metadata_stripped").map(|event| event.detail.clone());
        assert!(detail.as_ref().is_some_and(|detail| detail.contains(missing)), "{dist}: {detail:?}");
    }
}
