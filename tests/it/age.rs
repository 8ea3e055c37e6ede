//! The minimum release age: a held version is hidden on every path, by both the local and the upstream clock. It opens only on a
//! document requested after its opening time.

use jiff::SignedDuration;
use serde_json::json;

use crate::harness::{Scene, times};
use crate::package::{Package, days, hours, minutes};

async fn young_and_old() -> Scene {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0").aged(days(30)));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(1)));
    scene
}

#[tokio::test]
async fn held_version_is_absent_from_both_packument_forms() {
    let scene = young_and_old().await;
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    assert_eq!(scene.get("/left-pad").abbreviated().await.versions(), ["1.0.0"]);
    assert_eq!(scene.get("/left-pad").gzip().await.versions(), ["1.0.0"]);
}

#[tokio::test]
async fn held_version_has_no_manifest_by_version_tag_or_range() {
    let scene = young_and_old().await;
    scene.get("/left-pad/1.1.0").await.is(403);
    assert_eq!(scene.get("/left-pad/latest").await.is(200).json()["version"], "1.0.0");
    assert_eq!(scene.get("/left-pad/^1.0.0").await.is(200).json()["version"], "1.0.0");
    assert_eq!(scene.get("/left-pad/1.0.0").await.is(200).json()["version"], "1.0.0");
}

#[tokio::test]
async fn held_version_has_no_tarball_with_cold_or_warm_cache() {
    let scene = young_and_old().await;
    scene.get("/left-pad/-/left-pad-1.1.0.tgz").await.is(403);
    scene.get("/left-pad").await.is(200);
    scene.get("/left-pad/-/left-pad-1.1.0.tgz").await.is(403);
    scene.ask("HEAD", "/left-pad/-/left-pad-1.1.0.tgz").await.is(403);
    scene.get("/left-pad/-/left-pad-1.1.0.tgz").header("range", "bytes=0-9").await.is(403);
    scene.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(200);
}

#[tokio::test]
async fn dist_tags_skip_held_version() {
    let scene = young_and_old().await;
    assert_eq!(scene.get("/-/package/left-pad/dist-tags").await.is(200).json(), json!({ "latest": "1.0.0" }));
    assert_eq!(scene.get("/left-pad").await.tag("latest").unwrap(), "1.0.0");
}

#[tokio::test]
async fn held_version_opens_at_minimum_age_and_not_a_minute_earlier() {
    let scene = young_and_old().await;
    scene.advance(hours(70) + minutes(59));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.get("/left-pad/-/left-pad-1.1.0.tgz").await.is(403);
    scene.advance(minutes(1));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0"]);
    assert_eq!(scene.get("/left-pad").await.tag("latest").unwrap(), "1.1.0");
    scene.get("/left-pad/-/left-pad-1.1.0.tgz").await.is(200);
}

#[tokio::test]
async fn release_does_not_open_on_a_document_fetched_before_its_opening() {
    let scene = young_and_old().await;
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.advance(hours(70) + minutes(58));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    // After three more minutes the opening time has passed. The cached document is within its TTL, but was requested earlier.
    scene.advance(minutes(3));
    scene.registry.go_down();
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.get("/left-pad/-/left-pad-1.1.0.tgz").await.is(403);
    scene.registry.come_back();
    scene.advance(minutes(6));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0"]);
}

#[tokio::test]
async fn fresh_document_is_fetched_again_when_a_release_opens() {
    let scene = Scene::open().set("packument-ttl", "12h").await;
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(71)));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.advance(hours(2));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0"]);
}

#[tokio::test]
async fn zero_age_disables_the_hold() {
    let scene = Scene::open().set("min-release-age", "0s").await;
    scene.publish(Package::new("left-pad", "1.1.0").aged(minutes(1)));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.1.0"]);
    scene.get("/left-pad/-/left-pad-1.1.0.tgz").await.is(200);
}

#[tokio::test]
async fn exclusion_waives_age_for_matching_packages_only() {
    let scene = Scene::open().set("exclude", "@acme/*").await;
    scene.publish(Package::new("@acme/ui", "1.0.0").aged(minutes(1)));
    scene.publish(Package::new("@acme-evil/ui", "1.0.0").aged(minutes(1)));
    assert_eq!(scene.get("/@acme%2fui").await.versions(), ["1.0.0"]);
    // Coldframe requests the possible parent package of this scope.
    scene.registry.absent("acme-evil");
    scene.get("/@acme-evil%2fui").await.is(403);
}

#[tokio::test]
async fn package_with_only_held_releases_is_refused_with_opening_time() {
    let scene = Scene::open().await;
    scene.publish(Package::new("newborn", "1.0.0").aged(hours(2)));
    for accept in ["application/json", crate::client::ABBREVIATED] {
        let refused = scene.get("/newborn").accept(accept).await.is(403);
        assert!(refused.error().contains("newborn") && refused.error().contains("2026-04-17 10:00 UTC"), "{}", refused.error());
    }
    scene.get("/newborn/latest").await.is(403);
    scene.get("/-/package/newborn/dist-tags").await.is(403);
}

#[tokio::test]
async fn both_forms_list_publish_times_of_hidden_versions() {
    let scene = young_and_old().await;
    for accept in ["application/json", crate::client::ABBREVIATED] {
        let shown = times(&scene.get("/left-pad").accept(accept).await);
        assert_eq!(shown["1.1.0"], "2026-04-03T11:00:00.000Z");
        assert_eq!(shown["1.0.0"], "2026-03-04T12:00:00.000Z");
    }
}

#[tokio::test]
async fn age_counts_from_first_seen_without_publish_time() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.publish(Package::new("left-pad", "1.1.0").without_time());
    scene.publish(Package::new("left-pad", "1.2.0").time("last Tuesday"));
    scene.publish(Package::new("left-pad", "1.3.0").time(7));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.advance(hours(71));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.advance(hours(1));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0", "1.2.0", "1.3.0"]);
}

#[tokio::test]
async fn packument_without_time_is_held_from_first_seen() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.registry.edit("left-pad", |packument| drop(packument.as_object_mut().unwrap().remove("time")));
    scene.get("/left-pad").await.is(403);
    scene.advance(hours(72));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
}

#[tokio::test]
async fn future_publish_time_is_held_until_minimum_age() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.publish(Package::new("left-pad", "1.1.0").time("2026-04-04T12:00:00.000Z"));
    scene.get("/left-pad").await.is(200);
    scene.advance(hours(95));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.advance(hours(1));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0"]);
}

#[tokio::test]
async fn fast_local_clock_opens_nothing_early() {
    let scene = Scene::open().await;
    scene.registry.set_clock_offset(SignedDuration::from_hours(-23));
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(75)));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"], "it is 52 hours old by upstream's clock");
    scene.get("/left-pad/-/left-pad-1.1.0.tgz").await.is(403);
    scene.advance(hours(20));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0"]);
}

#[tokio::test]
async fn fast_upstream_clock_opens_nothing_early() {
    let scene = Scene::open().await;
    scene.registry.set_clock_offset(SignedDuration::from_hours(48));
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(52)));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
}

#[tokio::test]
async fn backdated_release_counts_from_when_it_was_last_missing() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0"));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.advance(hours(10));
    scene.publish(Package::new("left-pad", "1.1.0").aged(days(90)));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.get("/left-pad/-/left-pad-1.1.0.tgz").await.is(403);
    // Its age counts from the last fetch that did not list it.
    scene.advance(hours(62));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0"]);
}

#[tokio::test]
async fn old_version_that_disappears_and_returns_is_not_held_again() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0", "1.1.0"]);
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0"]);
    scene.advance(hours(1));
    scene.registry.unpublish("left-pad", "1.1.0");
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.advance(hours(1));
    scene.publish(Package::new("left-pad", "1.1.0").time("2025-04-03T12:00:00.000Z"));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0"]);
}

#[tokio::test]
async fn publish_time_moved_back_does_not_open_early() {
    let scene = young_and_old().await;
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.advance(hours(1));
    scene.publish(Package::new("left-pad", "1.1.0").aged(days(300)));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.advance(hours(70));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0"]);
}

#[tokio::test]
async fn minimum_age_applies_behind_a_mirror_that_strips_metadata() {
    let scene = Scene::open().mirror().await;
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(1)));
    for accept in ["application/json", crate::client::ABBREVIATED] {
        let packument = scene.get("/left-pad").accept(accept).gzip().await;
        assert_eq!(packument.versions(), ["1.0.0"]);
        assert_eq!(packument.tag("latest").unwrap(), "1.0.0");
        assert!(packument.header("etag").starts_with('"'));
    }
    scene.advance(hours(72));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0"]);
}

#[tokio::test]
async fn changed_policy_applies_to_cached_releases_after_restart() {
    let mut scene = Scene::open().set("min-release-age", "0s").await;
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(1)));
    scene.get("/left-pad/-/left-pad-1.1.0.tgz").await.is(200);
    scene.restart_with("min-release-age", "72h").await;
    scene.get("/left-pad/-/left-pad-1.1.0.tgz").await.is(403);
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
}
