//! An exact version that is newer than our document is found, and a flood of made-up ones costs upstream next to nothing.

use std::time::Duration;

use serde_json::json;

use crate::package::{Package, minutes};
use crate::scene::Scene;

const INTERVAL: Duration = Duration::from_secs(10);

/// left-pad 1.0.0 is known, and 1.0.1 is published after it was looked up.
async fn published_since() -> Scene {
    let scene = Scene::open().set("exclude", "left-pad").await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.get("/left-pad").await.is(200);
    scene.advance(INTERVAL);
    scene.publish(Package::new("left-pad", "1.0.1"));
    scene
}

#[tokio::test]
async fn a_tarball_published_since_the_last_look_is_served() {
    let scene = published_since().await;
    scene.get("/left-pad/-/left-pad-1.0.1.tgz").await.is(200);
    assert_eq!(scene.registry.count("/left-pad"), 2);
    assert!(scene.registry.last("/left-pad").headers.first("if-none-match").is_some(), "it is asked conditionally");
}

#[tokio::test]
async fn a_manifest_published_since_the_last_look_is_served() {
    let scene = published_since().await;
    assert_eq!(scene.get("/left-pad/1.0.1").await.is(200).json()["version"], "1.0.1");
    // What is no exact version asks nothing.
    scene.advance(INTERVAL);
    scene.get("/left-pad/no-such-tag").await.is(404);
    scene.get("/left-pad/%5E7").await.is(404);
    assert_eq!(scene.registry.count("/left-pad"), 2);
}

#[tokio::test]
async fn check_knows_a_version_published_since_the_last_look() {
    let scene = published_since().await;
    let body = json!({ "packages": [{ "name": "left-pad", "version": "1.0.1" }, { "name": "left-pad", "version": "9.9.9" }] });
    let told = scene.ask("POST", "/-/coldframe/check").json(&body).await.is(200).text();
    assert!(told.contains("allow") && told.contains("no version 9.9.9"), "{told}");
    assert_eq!(scene.registry.count("/left-pad"), 2);
}

#[tokio::test]
async fn a_young_version_published_since_the_last_look_is_refused_with_its_reason() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.get("/left-pad").await.is(200);
    scene.advance(INTERVAL);
    scene.publish(Package::new("left-pad", "1.0.1").aged(Duration::from_secs(5)));
    let refused = scene.get("/left-pad/-/left-pad-1.0.1.tgz").await.is(403);
    assert!(refused.error().contains("left-pad@1.0.1 is held"), "{}", refused.error());
}

#[tokio::test]
async fn a_flood_of_made_up_versions_costs_upstream_one_request_per_interval() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.get("/left-pad").await.is(200);
    let flood = async || {
        let asks: Vec<_> = (0..30).map(|patch| scene.get(&format!("/left-pad/-/left-pad-7.0.{patch}.tgz")).start()).collect();
        for ask in asks {
            ask.await.unwrap().is(404);
        }
        for patch in 0..30 {
            scene.get(&format!("/left-pad/8.0.{patch}")).await.is(404);
        }
    };
    flood().await;
    assert_eq!(scene.registry.count("/left-pad"), 1, "it was looked up just now");
    for interval in 1..=3 {
        scene.advance(INTERVAL);
        flood().await;
        assert_eq!(scene.registry.count("/left-pad"), 1 + interval);
    }
}

#[tokio::test]
async fn made_up_tokens_do_not_multiply_the_requests() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    for token in 0..20 {
        scene.get("/left-pad").token(&format!("made-up-{token}")).await.is(200);
    }
    let asked = scene.registry.count("/left-pad");
    scene.advance(INTERVAL);
    for token in 0..20 {
        scene.get("/left-pad/-/left-pad-7.0.0.tgz").token(&format!("made-up-{token}")).await.is(404);
    }
    assert_eq!(scene.registry.count("/left-pad"), asked + 1);
}

#[tokio::test]
async fn one_client_has_sixty_packages_a_minute_looked_up_again() {
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
async fn an_upstream_without_validators_is_asked_when_its_document_expires() {
    let scene = Scene::open().mirror().set("exclude", "left-pad").set("packument-ttl", "5m").await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.get("/left-pad").await.is(200);
    scene.advance(minutes(1));
    scene.publish(Package::new("left-pad", "1.0.1"));
    let asked = scene.registry.count("/left-pad");
    scene.get("/left-pad/-/left-pad-1.0.1.tgz").await.is(404);
    assert_eq!(scene.registry.count("/left-pad"), asked);
    scene.advance(minutes(5));
    scene.get("/left-pad/-/left-pad-1.0.1.tgz").await.is(200);
}

#[tokio::test]
async fn an_upstream_that_fails_meanwhile_changes_nothing() {
    let scene = published_since().await;
    scene.registry.go_down();
    scene.get("/left-pad/-/left-pad-1.0.1.tgz").await.is(404);
    scene.get("/left-pad").await.is(200);
    scene.registry.come_back();
}
