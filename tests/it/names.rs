//! Names, paths, methods and encodings: every spelling means one package, and invalid requests get a plain error.

use crate::client::raw;
use crate::harness::Scene;
use crate::package::{Package, hours};

#[tokio::test]
async fn every_spelling_of_a_scoped_name_is_one_package() {
    let scene = Scene::open().await;
    scene.publish_old("@acme/ui", &["1.0.0"]);
    scene.publish(Package::new("@acme/ui", "1.1.0").aged(hours(1)));
    for path in ["/@acme%2fui", "/@acme%2Fui", "/@acme/ui", "/%40acme/ui", "/%40acme%2fui", "/@%61cme%2fui", "/@acme%2fui/"] {
        assert_eq!(scene.get(path).await.versions(), ["1.0.0"], "{path}");
    }
    assert_eq!(scene.registry.count("/@acme/ui"), 1, "one package, one request");
    for path in ["/@acme%2fui/1.1.0", "/@acme/ui/1.1.0", "/@acme%2Fui/1.1%2e0"] {
        scene.get(path).await.is(403);
    }
    for path in ["/-/package/@acme%2fui/dist-tags", "/-/package/@acme/ui/dist-tags"] {
        assert_eq!(scene.get(path).await.is(200).json()["latest"], "1.0.0");
    }
}

#[tokio::test]
async fn invalid_names_get_400_and_never_reach_upstream() {
    let scene = Scene::open().await;
    let long = format!("/{}", "a".repeat(300));
    for path in [
        "/.hidden",
        "/_private",
        "/a%00b",
        "/..%2f..%2fetc%2fpasswd",
        "/@acme%2f..",
        "/a%252fb",
        "/%ff",
        "/%zz",
        "/node_modules",
        &long,
    ] {
        let answer = scene.get(path).await;
        assert!(matches!(answer.status, 400 | 404), "{path}: {}", answer.status);
        assert!(!answer.error().is_empty());
    }
    assert_eq!(scene.registry.total(), 0);
}

#[tokio::test]
async fn unknown_paths_get_404_and_wrong_methods_405_with_json() {
    let scene = Scene::open().await;
    for path in ["/-/nothing", "/-/npm/v9/keys", "/left-pad/-/left-pad-1.0.0.zip", "/left-pad/a/b/c"] {
        let answer = scene.get(path).await.is(404);
        assert!(answer.header("content-type").starts_with("application/json"), "{path}");
        assert!(!answer.error().is_empty());
    }
    for (method, path) in
        [("POST", "/left-pad/-/left-pad-1.0.0.tgz"), ("DELETE", "/-/ping"), ("GET", "/-/npm/v1/security/advisories/bulk")]
    {
        let answer = scene.ask(method, path).await.is(405);
        assert!(!answer.header("allow").is_empty(), "{method} {path}");
        assert!(!answer.error().is_empty());
    }
    assert_eq!(scene.registry.total(), 0);
}

#[tokio::test]
async fn a_missing_package_gets_404_with_a_text_and_is_fetched_once() {
    // No minimum age, because a package that was missing at first counts as new.
    let scene = Scene::open().set("min-release-age", "0s").await;
    scene.registry.absent("nothing");
    for _ in 0..3 {
        let answer = scene.get("/nothing").await.is(404);
        assert!(answer.error().contains("not found") || answer.error().contains("nothing"), "{}", answer.error());
    }
    assert_eq!(scene.registry.count("/nothing"), 1);
    scene.advance(hours(1));
    scene.publish(Package::new("nothing", "1.0.0"));
    scene.get("/nothing").await.is(200);
}

#[tokio::test]
async fn an_unknown_version_is_404() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.get("/left-pad/9.9.9").await.is(404);
    scene.get("/left-pad/no-such-tag").await.is(404);
    scene.get("/left-pad/-/left-pad-9.9.9.tgz").await.is(404);
    scene.get("/left-pad/^7.0.0").await.is(404);
}

#[tokio::test]
async fn names_that_differ_in_case_are_different_packages() {
    let scene = Scene::open().await;
    scene.publish_old("JSONStream", &["1.0.0"]);
    scene.registry.absent("jsonstream");
    scene.get("/JSONStream").await.is(200);
    scene.get("/jsonstream").await.is(404);
}

#[tokio::test]
async fn a_body_with_a_wrong_encoding_is_refused_with_a_text() {
    let scene = Scene::open().await;
    let bulk = "/-/npm/v1/security/advisories/bulk";
    let answer = scene.ask("POST", bulk).header("content-encoding", "gzip").body("not gzip").await.is(400);
    assert!(!answer.error().is_empty());
    let answer = scene.ask("POST", bulk).header("content-encoding", "zstd").body("whatever").await.is(400);
    assert!(!answer.error().is_empty());
    assert_eq!(scene.registry.total(), 0);
}

#[tokio::test]
async fn invalid_http_gets_400_or_a_closed_connection() {
    let scene = Scene::open().await;
    let answer = raw(scene.coldframe.address, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello").await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    let answer =
        raw(scene.coldframe.address, b"GET /left-pad HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n")
            .await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    let answer = raw(scene.coldframe.address, b"GET /a b HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    let endless = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "a".repeat(1 << 20));
    let answer = raw(scene.coldframe.address, endless.as_bytes()).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    scene.get("/-/coldframe/healthz").await.is(200);
}

#[tokio::test]
async fn the_root_and_ping_are_answered() {
    let scene = Scene::open().await;
    scene.get("/").await.is(200).json();
    scene.get("/-/ping").await.is(200).json();
    scene.get("/-/npm/v1/keys").await.is(200).json();
    assert_eq!(scene.get("/-/whoami").token("alice").await.is(200).json()["username"], "alice");
    scene.get("/-/whoami").await.is(401);
}
