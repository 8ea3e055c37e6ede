//! An exact version newer than the cached document is found by a new fetch; a flood of invented versions causes few fetches.

use std::time::Duration;

use serde_json::json;

use crate::harness::Scene;
use crate::package::{Package, minutes};

const INTERVAL: Duration = Duration::from_secs(10);

/// Opens a scene that fetches left-pad 1.0.0 and then publishes 1.0.1.
async fn published_since() -> Scene {
    let scene = Scene::open().set("exclude", "left-pad").await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.get("/left-pad").await.is(200);
    scene.advance(INTERVAL);
    scene.publish(Package::new("left-pad", "1.0.1"));
    scene
}

#[tokio::test]
async fn a_tarball_published_since_the_last_fetch_is_served() {
    let scene = published_since().await;
    scene.get("/left-pad/-/left-pad-1.0.1.tgz").await.is(200);
    assert_eq!(scene.registry.count("/left-pad"), 2);
    assert!(scene.registry.last("/left-pad").headers.first("if-none-match").is_some(), "the fetch is conditional");
}

#[tokio::test]
async fn a_manifest_published_since_the_last_fetch_is_served() {
    let scene = published_since().await;
    assert_eq!(scene.get("/left-pad/1.0.1").await.is(200).json()["version"], "1.0.1");
    // A tag or a range causes no fetch.
    scene.advance(INTERVAL);
    scene.get("/left-pad/no-such-tag").await.is(404);
    scene.get("/left-pad/%5E7").await.is(404);
    assert_eq!(scene.registry.count("/left-pad"), 2);
}

#[tokio::test]
async fn check_finds_a_version_published_since_the_last_fetch() {
    let scene = published_since().await;
    let body = json!({ "packages": [{ "name": "left-pad", "version": "1.0.1" }, { "name": "left-pad", "version": "9.9.9" }] });
    let answer = scene.ask("POST", "/-/coldframe/check").json(&body).await.is(200).text();
    assert!(answer.contains("allow") && answer.contains("no version 9.9.9"), "{answer}");
    assert_eq!(scene.registry.count("/left-pad"), 2);
}

#[tokio::test]
async fn a_young_version_published_since_the_last_fetch_is_refused_with_the_reason() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.get("/left-pad").await.is(200);
    scene.advance(INTERVAL);
    scene.publish(Package::new("left-pad", "1.0.1").aged(Duration::from_secs(5)));
    let refused = scene.get("/left-pad/-/left-pad-1.0.1.tgz").await.is(403);
    assert!(refused.error().contains("left-pad@1.0.1 is held"), "{}", refused.error());
}

#[tokio::test]
async fn a_flood_of_invented_versions_causes_one_fetch_per_interval() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.get("/left-pad").await.is(200);
    let flood = async || {
        let requests: Vec<_> = (0..30).map(|patch| scene.get(&format!("/left-pad/-/left-pad-7.0.{patch}.tgz")).start()).collect();
        for request in requests {
            request.await.unwrap().is(404);
        }
        for patch in 0..30 {
            scene.get(&format!("/left-pad/8.0.{patch}")).await.is(404);
        }
    };
    flood().await;
    assert_eq!(scene.registry.count("/left-pad"), 1, "the last fetch is recent");
    for interval in 1..=3 {
        scene.advance(INTERVAL);
        flood().await;
        assert_eq!(scene.registry.count("/left-pad"), 1 + interval);
    }
}

#[tokio::test]
async fn invented_tokens_do_not_multiply_the_fetches() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    for token in 0..20 {
        scene.get("/left-pad").token(&format!("made-up-{token}")).await.is(200);
    }
    let before = scene.registry.count("/left-pad");
    scene.advance(INTERVAL);
    for token in 0..20 {
        scene.get("/left-pad/-/left-pad-7.0.0.tgz").token(&format!("made-up-{token}")).await.is(404);
    }
    assert_eq!(scene.registry.count("/left-pad"), before + 1);
}

#[tokio::test]
async fn one_client_causes_at_most_sixty_extra_fetches_a_minute() {
    let scene = Scene::open().await;
    let names: Vec<_> = (0..70).map(|number| format!("part-{number}")).collect();
    for name in &names {
        scene.publish_old(name, &["1.0.0"]);
        scene.get(&format!("/{name}")).await.is(200);
    }
    scene.advance(INTERVAL);
    for name in &names {
        scene.get(&format!("/{name}/-/{name}-7.0.0.tgz")).await.is(404);
    }
    assert_eq!(scene.registry.total(), 70 + 60);
}

#[tokio::test]
async fn an_upstream_without_validators_is_fetched_when_its_document_expires() {
    let scene = Scene::open().mirror().set("exclude", "left-pad").set("packument-ttl", "5m").await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.get("/left-pad").await.is(200);
    scene.advance(minutes(1));
    scene.publish(Package::new("left-pad", "1.0.1"));
    let before = scene.registry.count("/left-pad");
    scene.get("/left-pad/-/left-pad-1.0.1.tgz").await.is(404);
    assert_eq!(scene.registry.count("/left-pad"), before);
    scene.advance(minutes(5));
    scene.get("/left-pad/-/left-pad-1.0.1.tgz").await.is(200);
}

#[tokio::test]
async fn a_failing_upstream_does_not_change_the_answers() {
    let scene = published_since().await;
    scene.registry.go_down();
    scene.get("/left-pad/-/left-pad-1.0.1.tgz").await.is(404);
    scene.get("/left-pad").await.is(200);
    scene.registry.come_back();
}
