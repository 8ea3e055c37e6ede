//! A restart changes no verdict: the ledger stores first-seen, last-seen, tag history and integrity.

use crate::harness::Scene;
use crate::package::{Package, days, hours};

#[tokio::test]
async fn first_seen_survives_restart() {
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
async fn backdated_release_stays_held_after_restart() {
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
async fn tag_history_survives_restart() {
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
async fn known_integrity_survives_restart() {
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
async fn cached_documents_are_served_after_restart_without_upstream() {
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
async fn restart_within_ttl_refetches_nothing() {
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
async fn etag_survives_restart() {
    let mut scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0", "1.1.0"]);
    scene.publish(Package::new("left-pad", "1.2.0").aged(hours(2)));
    // The restarted server has another port, and tarball URLs contain the host. A fixed `Host` keeps them equal.
    let host = |scene: &Scene| scene.get("/left-pad").header("host", "npm.example");
    let etag = host(&scene).await.is(200).header("etag").to_owned();
    scene.restart().await;
    host(&scene).if_none_match(&etag).await.is(304);
}

#[tokio::test]
async fn two_servers_send_the_same_packument() {
    let first = Scene::open().await;
    let second = Scene::open().set("upstream", &first.registry.url).await;
    first.publish_old("left-pad", &["1.0.0", "2.0.0-beta.1", "1.1.0"]);
    first.publish(Package::new("left-pad", "1.2.0").aged(hours(2)));
    let host = |scene: &Scene| scene.get("/left-pad").header("host", "npm.example").gzip();
    let (left, right) = (host(&first).await.is(200), host(&second).await.is(200));
    assert_eq!(left.content(), right.content());
    assert_eq!(left.header("etag"), right.header("etag"));
}
