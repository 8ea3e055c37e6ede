//! The audit at the end of an install: it is passed through, and the response carries a notice of held updates.

use serde_json::json;

use crate::fake_response::Reply;
use crate::harness::Scene;
use crate::package::{Package, days, hours};

const BULK: &str = "/-/npm/v1/security/advisories/bulk";

async fn scene() -> Scene {
    let scene = Scene::open().await;
    scene.publish(Package::new("axios", "1.14.0").aged(days(40)));
    scene.publish(Package::new("axios", "1.14.1").aged(hours(1)));
    scene.publish(Package::new("@acme/ui", "1.0.0"));
    scene
}

#[tokio::test]
async fn audit_and_its_response_are_forwarded() {
    let scene = scene().await;
    let advisories =
        r#"{"axios":[{"id":1,"title":"bad","severity":"high","url":"https://advisory.example","vulnerable_versions":"<1"}]}"#;
    scene.registry.answer(BULK, Reply::json(advisories));
    let body = json!({ "axios": ["1.14.0"] });
    let answer = scene.ask("POST", BULK).npm("11.21.2").json(&body).await.is(200);
    assert_eq!(answer.json()["axios"][0]["severity"], "high");
    let sent = scene.registry.last(BULK);
    assert_eq!(sent.method, "POST");
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&sent.body).unwrap(), body);
}

#[tokio::test]
async fn gzip_audit_is_parsed_and_forwarded_unchanged() {
    let scene = scene().await;
    scene.get("/axios").npm("11.21.2").await.is(200);
    let body = json!({ "axios": ["1.14.0"], "@acme/ui": ["1.0.0"] });
    let answer = scene.ask("POST", BULK).npm("11.21.2").json(&body).gzip_body().await.is(200);
    assert!(answer.header("npm-notice").contains("axios 1.14.1"), "{}", answer.header("npm-notice"));
    let sent = scene.registry.last(BULK);
    let plain = if sent.headers.first("content-encoding") == Some("gzip") {
        let mut plain = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(sent.body.as_slice()), &mut plain).unwrap();
        plain
    } else {
        sent.body
    };
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&plain).unwrap(), body);
}

#[tokio::test]
async fn notice_lists_held_updates_and_when_they_open() {
    let scene = scene().await;
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.publish(Package::new("left-pad", "1.0.1").aged(hours(2)));
    for name in ["/axios", "/left-pad", "/@acme%2fui"] {
        scene.get(name).npm("11.21.2").await.is(200);
    }
    let body = json!({ "axios": ["1.14.0"], "left-pad": ["1.0.0"], "@acme/ui": ["1.0.0"] });
    let notice = scene.ask("POST", BULK).npm("11.21.2").json(&body).await.is(200).header("npm-notice").to_owned();
    for part in
        ["coldframe held back 2 newer releases", "axios 1.14.1", "2026-04-06 11:00 UTC", "left-pad 1.0.1", "2026-04-06 10:00 UTC"]
    {
        assert!(notice.contains(part), "{part:?} is missing: {notice}");
    }
    assert!(notice.is_ascii() && !notice.contains("@acme/ui"), "{notice}");
}

#[tokio::test]
async fn notice_lists_direct_dependencies_first_and_no_platform_packages() {
    let scene = Scene::open().await;
    scene.publish(Package::new("app", "1.0.0").depends_on("dep", "^1.0.0"));
    for name in ["dep", "zeta", "@esbuild/linux-x64"] {
        scene.publish(Package::new(name, "1.0.0"));
        scene.publish(Package::new(name, "1.1.0").aged(hours(2)));
        scene.publish(Package::new(name, "1.2.0").aged(hours(1)));
    }
    for path in ["/app", "/dep", "/zeta", "/@esbuild%2flinux-x64"] {
        scene.get(path).npm("11.21.2").await.is(200);
    }
    let body = json!({ "app": ["1.0.0"], "dep": ["1.0.0"], "zeta": ["1.0.0"], "@esbuild/linux-x64": ["1.0.0"] });
    let notice = scene.ask("POST", BULK).npm("11.21.2").json(&body).await.is(200).header("npm-notice").to_owned();
    let (zeta, dep) = (notice.find("zeta 1.2.0 opens"), notice.find("dep 1.2.0 opens"));
    assert!(notice.starts_with("coldframe held back 2 newer releases: ") && zeta.is_some() && zeta < dep, "{notice}");
    assert!(!notice.contains("1.1.0") && !notice.contains("linux-x64"), "{notice}");
}

#[tokio::test]
async fn no_notice_without_held_updates() {
    let scene = scene().await;
    scene.get("/@acme%2fui").await.is(200);
    let answer = scene.ask("POST", BULK).npm("11.21.2").json(&json!({ "@acme/ui": ["1.0.0"] })).await.is(200);
    assert_eq!(answer.header("npm-notice"), "");
}

#[tokio::test]
async fn audit_fetches_no_packuments() {
    let scene = scene().await;
    scene.ask("POST", BULK).npm("11.21.2").json(&json!({ "axios": ["1.14.0"], "unheard-of": ["1.0.0"] })).await.is(200);
    assert_eq!(scene.registry.total(), 1, "{:?}", scene.registry.requests());
}

#[tokio::test]
async fn failed_audit_still_carries_the_notice() {
    let scene = scene().await;
    scene.get("/axios").npm("11.21.2").await.is(200);
    scene.registry.answer(BULK, Reply::error(500, "boom"));
    let answer = scene.ask("POST", BULK).npm("11.21.2").json(&json!({ "axios": ["1.14.0"] })).await;
    assert!(answer.header("npm-notice").contains("axios 1.14.1"), "{} {}", answer.status, answer.header("npm-notice"));
}

#[tokio::test]
async fn legacy_audit_endpoints_are_passed_through() {
    let scene = scene().await;
    for path in ["/-/npm/v1/security/audits", "/-/npm/v1/security/audits/quick"] {
        scene
            .ask("POST", path)
            .npm("9.9.4")
            .json(&json!({ "name": "app", "requires": {}, "dependencies": {} }))
            .gzip_body()
            .await
            .is(200);
        assert_eq!(scene.registry.count(path), 1);
    }
}

#[tokio::test]
async fn decompression_bomb_in_audit_is_refused() {
    let scene = scene().await;
    let bomb = vec![b' '; 300 << 20];
    let answer = scene.ask("POST", BULK).header("content-type", "application/json").body(bomb).gzip_body().await;
    assert!((400..500).contains(&answer.status), "{}", answer.status);
    assert_eq!(scene.registry.total(), 0);
}
