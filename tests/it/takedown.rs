//! Versions that upstream removed: a young release is never served again, an old one is still served.

use crate::harness::Scene;
use crate::package::{Package, days, hours, minutes};

const TARBALL: &str = "/left-pad/-/left-pad-1.1.0.tgz";

#[tokio::test]
async fn young_release_taken_down_is_not_served_from_cache() {
    let scene = Scene::open().set("min-release-age", "0s").await;
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(1)));
    scene.get(TARBALL).await.is(200);
    scene.advance(hours(3));
    scene.registry.unpublish("left-pad", "1.1.0");
    let refused = scene.get(TARBALL).await.is(403);
    assert!(refused.error().contains("left-pad@1.1.0") && refused.error().contains("rule takedown"), "{}", refused.error());
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    // It stays refused a year later.
    scene.advance(days(400));
    scene.get(TARBALL).await.is(403);
}

#[tokio::test]
async fn release_taken_down_in_hour_3_does_not_open_in_hour_72() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(1)));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.advance(hours(2));
    scene.registry.unpublish("left-pad", "1.1.0");
    scene.advance(hours(80));
    scene.get(TARBALL).await.is(403);
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
}

#[tokio::test]
async fn removed_old_release_is_still_served_to_lockfiles() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.publish(Package::new("left-pad", "1.1.0").aged(days(300)));
    let before = scene.get(TARBALL).await.is(200);
    scene.advance(days(1));
    scene.registry.unpublish("left-pad", "1.1.0");
    let after = scene.get(TARBALL).await.is(200);
    assert_eq!(before.body, after.body);
    assert_eq!(scene.get("/left-pad").await.tag("latest").unwrap(), "1.0.0");
}

#[tokio::test]
async fn removed_package_leaves_old_cached_tarballs() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.1.0").aged(days(300)));
    scene.get(TARBALL).await.is(200);
    scene.advance(days(1));
    scene.registry.remove("left-pad");
    scene.get("/left-pad").await.is(404);
    scene.get(TARBALL).await.is(200);
}

#[tokio::test]
async fn version_replaced_by_security_placeholder_is_a_takedown_at_any_age() {
    let scene = Scene::open().set("min-release-age", "0s").await;
    scene.publish(Package::new("left-pad", "1.1.0").aged(days(40)));
    scene.get(TARBALL).await.is(200);
    scene.advance(hours(1));
    scene.publish(Package::new("left-pad", "0.0.1-security").aged(minutes(1)));
    scene.registry.unpublish("left-pad", "1.1.0");
    scene.get(TARBALL).await.is(403);
}

#[tokio::test]
async fn version_unpublished_before_first_seen_is_refused() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.publish(Package::new("left-pad", "1.1.0").aged(days(300)));
    scene.registry.unpublish("left-pad", "1.1.0");
    scene.get(TARBALL).await.is(403);
}

#[tokio::test]
async fn takedown_survives_restart_and_upstream_outage() {
    let mut scene = Scene::open().set("min-release-age", "0s").await;
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(1)));
    scene.get(TARBALL).await.is(200);
    scene.advance(hours(3));
    scene.registry.unpublish("left-pad", "1.1.0");
    scene.get("/left-pad").await.is(200);
    scene.restart().await;
    scene.registry.go_down();
    scene.get(TARBALL).await.is(403);
    scene.registry.come_back();
    scene.get(TARBALL).await.is(403);
}
