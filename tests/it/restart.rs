//! A restart changes no verdict: first-seen, last-seen, tag history and integrity are in the ledger.

use crate::package::{Package, days, hours};
use crate::scene::Scene;

#[tokio::test]
async fn first_seen_outlives_a_restart() {
    let mut scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.publish(Package::new("left-pad", "1.1.0").without_time());
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.advance(hours(71));
    scene.restart().await;
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.advance(hours(1));
    scene.restart().await;
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0"]);
}

#[tokio::test]
async fn a_backdated_release_stays_young_after_a_restart() {
    let mut scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.get("/left-pad").await.is(200);
    scene.restart().await;
    scene.advance(hours(10));
    scene.publish(Package::new("left-pad", "1.1.0").aged(days(90)));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.restart().await;
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
}

#[tokio::test]
async fn tag_history_outlives_a_restart() {
    let mut scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.9.0", "2.0.0"]);
    scene.registry.tag("left-pad", "latest", "1.9.0");
    scene.get("/left-pad").await.is(200);
    scene.restart().await;
    scene.advance(hours(1));
    scene.publish(Package::new("left-pad", "2.0.1").aged(hours(0)));
    assert_eq!(scene.get("/left-pad").await.tag("latest").unwrap(), "1.9.0");
    scene.restart().await;
    assert_eq!(scene.get("/left-pad").await.tag("latest").unwrap(), "1.9.0");
}

#[tokio::test]
async fn a_known_integrity_outlives_a_restart() {
    let mut scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0", "1.1.0"]);
    scene.get("/left-pad").await.is(200);
    scene.restart().await;
    scene.advance(hours(1));
    scene.publish(Package::new("left-pad", "1.1.0").content("other bytes"));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.get("/left-pad/-/left-pad-1.1.0.tgz").await.is(403);
}

#[tokio::test]
async fn what_was_fetched_is_served_after_a_restart_without_upstream() {
    let mut scene = Scene::open().await;
    let package = Package::new("left-pad", "1.0.0");
    let bytes = package.tarball.clone();
    scene.publish(package);
    let before = scene.get("/left-pad").gzip().await.is(200);
    scene.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(200);
    scene.restart().await;
    scene.registry.go_down();
    assert_eq!(scene.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(200).body, bytes);
    let after = scene.get("/left-pad").gzip().await.is(200);
    assert_eq!(before.versions(), after.versions());
}

#[tokio::test]
async fn a_restart_within_the_ttl_asks_upstream_for_nothing_it_knows() {
    let mut scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.get("/left-pad").await.is(200);
    scene.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(200);
    scene.restart().await;
    scene.get("/left-pad").await.is(200);
    scene.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(200);
    assert_eq!((scene.registry.count("/left-pad"), scene.registry.count("/left-pad/-/left-pad-1.0.0.tgz")), (1, 1));
}

#[tokio::test]
async fn the_same_document_has_the_same_etag_after_a_restart() {
    let mut scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0", "1.1.0"]);
    scene.publish(Package::new("left-pad", "1.2.0").aged(hours(2)));
    // The second Coldframe has another port, and tarball URLs name it: so the client comes by a name.
    let host = |scene: &Scene| scene.get("/left-pad").header("host", "npm.example");
    let etag = host(&scene).await.is(200).header("etag").to_owned();
    scene.restart().await;
    host(&scene).if_none_match(&etag).await.is(304);
}

#[tokio::test]
async fn two_installs_get_the_same_answer() {
    let one = Scene::open().await;
    let other = Scene::open().set("upstream", &one.registry.url).await;
    one.publish_old("left-pad", &["1.0.0", "2.0.0-beta.1", "1.1.0"]);
    one.publish(Package::new("left-pad", "1.2.0").aged(hours(2)));
    let host = |scene: &Scene| scene.get("/left-pad").header("host", "npm.example").gzip();
    let (here, there) = (host(&one).await.is(200), host(&other).await.is(200));
    assert_eq!(here.content(), there.content());
    assert_eq!(here.header("etag"), there.header("etag"));
}
