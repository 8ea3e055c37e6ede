//! Refusals give their reason wherever a client shows text: status, reason phrase, `error`, `npm-notice`, `policyRestrictions`.

use serde_json::json;

use crate::harness::Scene;
use crate::package::{Package, hours};

async fn scene() -> Scene {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(1)));
    scene.publish(Package::new("newborn", "2.0.0").aged(hours(2)));
    scene
}

/// Parts of every refusal of left-pad@1.1.0.
const REASONS: &[&str] =
    &["left-pad@1.1.0", "published 2026-04-03 11:00 UTC", "minimum-age", "72 h", "2026-04-06 11:00 UTC", "1.0.0"];

#[track_caller]
fn assert_has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing: {text}");
    }
    assert!(text.is_ascii() && !text.contains(['\r', '\n']), "not one line of ASCII: {text:?}");
}

#[tokio::test]
async fn tarball_refusal_gives_reason_in_phrase_body_and_notice() {
    let scene = scene().await;
    let refused = scene.get("/left-pad/-/left-pad-1.1.0.tgz").npm("10.9.9").await.is(403);
    assert_has(&refused.reason, REASONS);
    assert_has(&refused.error(), REASONS);
    assert_has(refused.header("npm-notice"), REASONS);
    assert!(refused.header("content-type").starts_with("application/json"));
    assert_eq!(refused.header("retry-after"), "");
}

#[tokio::test]
async fn manifest_refusal_gives_the_same_reason() {
    let scene = scene().await;
    assert_has(&scene.get("/left-pad/1.1.0").await.is(403).error(), REASONS);
}

#[tokio::test]
async fn package_without_visible_version_is_403_with_opening_time() {
    let scene = scene().await;
    let refused = scene.get("/newborn").await.is(403);
    for text in [refused.reason.clone(), refused.error(), refused.header("npm-notice").to_owned()] {
        assert_has(&text, &["newborn", "2026-04-17 10:00 UTC", "new-package"]);
    }
}

#[tokio::test]
async fn refusals_are_not_cacheable() {
    let scene = scene().await;
    let refused = scene.get("/left-pad/-/left-pad-1.1.0.tgz").await.is(403);
    let control = refused.header("cache-control");
    assert!(control.contains("no-store") || control.contains("no-cache"), "{control:?}");
}

#[tokio::test]
async fn npm_from_10_8_2_gets_policy_restrictions_in_the_packument() {
    let scene = scene().await;
    for version in ["10.8.2", "10.9.9", "11.21.2", "12.2.0"] {
        let packument = scene.get("/left-pad").npm(version).await.is(200).json();
        let restrictions = &packument["policyRestrictions"];
        assert_has(&restrictions["message"].as_str().unwrap().replace('\n', " "), &["left-pad@1.1.0", "2026-04-06 11:00 UTC"]);
        assert_eq!(restrictions["versions"], json!({ "1.1.0": { "name": "left-pad", "version": "1.1.0" } }));
        assert!(packument["versions"].get("1.1.0").is_none());
    }
}

#[tokio::test]
async fn other_clients_get_no_policy_restrictions() {
    let scene = scene().await;
    let agents = [
        "npm/9.9.4 node/v22",
        "npm/10.8.1 node/v22",
        "pnpm/12.21.0 npm/? node/? linux x64",
        "yarn/1.22.22 npm/? node/v22",
        "Bun/1.4.5",
        "",
    ];
    for agent in agents {
        let packument = scene.get("/left-pad").header("user-agent", agent).await.is(200).json();
        assert!(packument.get("policyRestrictions").is_none(), "{agent}");
    }
    let plain = scene.get("/left-pad").await.header("etag").to_owned();
    let restricted = scene.get("/left-pad").npm("11.21.2").await;
    assert_ne!(restricted.header("etag"), plain);
    assert!(restricted.header("vary").to_ascii_lowercase().contains("user-agent"), "{}", restricted.header("vary"));
}

#[tokio::test]
async fn packument_without_hidden_versions_has_no_restrictions() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    assert!(scene.get("/left-pad").npm("11.21.2").await.is(200).json().get("policyRestrictions").is_none());
}

#[tokio::test]
async fn policy_restrictions_from_upstream_are_replaced() {
    let scene = scene().await;
    scene.registry.edit("left-pad", |packument| {
        packument["policyRestrictions"] =
            json!({ "message": "theirs", "versions": { "0.9.0": { "name": "left-pad", "version": "0.9.0" } } });
    });
    let answer = scene.get("/left-pad").npm("11.21.2").await.is(200);
    assert_eq!(answer.text().matches("policyRestrictions").count(), 1, "parsers differ on a repeated key");
    assert!(answer.json()["policyRestrictions"]["versions"].get("1.1.0").is_some(), "{}", answer.text());
}

#[tokio::test]
async fn upstream_text_cannot_inject_headers() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.publish(Package::new("left-pad", "1.1.0").time("2026\r\nset-cookie: a=b \u{1F4A9}"));
    let refused = scene.get("/left-pad/-/left-pad-1.1.0.tgz").await.is(403);
    assert_eq!(refused.header("set-cookie"), "");
    assert_has(&refused.reason, &["left-pad@1.1.0"]);
    assert_has(refused.header("npm-notice"), &["left-pad@1.1.0"]);
}

#[tokio::test]
async fn refusal_names_the_newest_allowed_version() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0", "1.9.0", "1.10.0"]);
    scene.publish(Package::new("left-pad", "2.0.0").aged(hours(1)));
    let error = scene.get("/left-pad/-/left-pad-2.0.0.tgz").await.is(403).error();
    assert_has(&error, &["1.10.0"]);
}

#[tokio::test]
async fn the_newest_allowed_version_is_the_same_in_every_text() {
    let scene = Scene::open().await;
    for (version, age) in [("1.0.0", hours(900)), ("1.1.0", hours(1)), ("2.0.0", hours(800)), ("3.0.0", hours(2))] {
        scene.publish(Package::new("left-pad", version).aged(age));
    }
    let packument = scene.get("/left-pad").npm("11.21.2").await.is(200).json();
    let message = packument["policyRestrictions"]["message"].as_str().unwrap();
    for (version, nearest) in [("1.1.0", "1.0.0"), ("3.0.0", "2.0.0")] {
        let ending = format!("newest allowed: {nearest}");
        let line = message.lines().find(|line| line.starts_with(&format!("left-pad@{version}:")));
        assert!(line.is_some_and(|line| line.ends_with(&ending)), "{message}");
        let refused = scene.get(&format!("/left-pad/-/left-pad-{version}.tgz")).await.is(403).error();
        assert!(refused.contains(&ending), "{refused}");
    }
    assert_eq!(message.matches("newest allowed").count(), 2, "{message}");
}
