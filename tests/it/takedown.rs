//! What upstream took away: a young release is never served again, an old one goes on being served.

use crate::package::{Package, days, hours, minutes};
use crate::scene::Scene;

const TARBALL: &str = "/left-pad/-/left-pad-1.1.0.tgz";

#[tokio::test]
async fn a_release_taken_down_young_is_not_served_from_cache() {
    let scene = Scene::open().set("min-release-age", "0s").await;
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(1)));
    scene.get(TARBALL).await.is(200);
    scene.advance(hours(3));
    scene.registry.unpublish("left-pad", "1.1.0");
    let refused = scene.get(TARBALL).await.is(403);
    assert!(refused.error().contains("left-pad@1.1.0") && refused.error().contains("taken down"), "{}", refused.error());
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    // And not a year later either.
    scene.advance(days(400));
    scene.get(TARBALL).await.is(403);
}

#[tokio::test]
async fn a_release_taken_down_in_hour_three_does_not_open_in_hour_72() {
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
async fn an_old_release_that_goes_is_still_served_to_those_who_locked_it() {
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
async fn a_whole_package_that_goes_leaves_what_was_old_and_cached() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.1.0").aged(days(300)));
    scene.get(TARBALL).await.is(200);
    scene.advance(days(1));
    scene.registry.remove("left-pad");
    scene.get("/left-pad").await.is(404);
    scene.get(TARBALL).await.is(200);
}

#[tokio::test]
async fn what_a_security_placeholder_replaced_is_a_takedown_however_old() {
    let scene = Scene::open().set("min-release-age", "0s").await;
    scene.publish(Package::new("left-pad", "1.1.0").aged(days(40)));
    scene.get(TARBALL).await.is(200);
    scene.advance(hours(1));
    scene.publish(Package::new("left-pad", "0.0.1-security").aged(minutes(1)));
    scene.registry.unpublish("left-pad", "1.1.0");
    scene.get(TARBALL).await.is(403);
}

#[tokio::test]
async fn what_was_unpublished_before_it_was_ever_seen_is_refused() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.publish(Package::new("left-pad", "1.1.0").aged(days(300)));
    scene.registry.unpublish("left-pad", "1.1.0");
    scene.get(TARBALL).await.is(403);
}

#[tokio::test]
async fn a_takedown_outlives_a_restart_and_an_upstream_that_is_down() {
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
