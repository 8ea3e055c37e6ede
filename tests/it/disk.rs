//! A store that cannot write: clients can still install, and no partial files remain.

use std::fs;

use crate::harness::Scene;
use crate::package::{Package, hours, minutes};

const TARBALL: &str = "/left-pad/-/left-pad-1.0.0.tgz";

/// Opens a scene whose store cannot write files, as on a full disk.
async fn scene_with_full_disk() -> Scene {
    let scene = Scene::open().await;
    fs::remove_dir_all(scene.data().join("tmp")).expect("a folder for temporary files");
    scene
}

#[tokio::test]
async fn packuments_and_tarballs_are_served_without_the_disk() {
    let scene = scene_with_full_disk().await;
    let package = Package::new("left-pad", "1.0.0").sized(300_000);
    let bytes = package.tarball.clone();
    scene.publish(package);
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(1)));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    for _ in 0..2 {
        assert_eq!(scene.get(TARBALL).await.is(200).body, bytes);
    }
    assert_eq!(scene.get(TARBALL).header("range", "bytes=0-9").await.is(206).body, bytes[..10]);
    scene.get("/left-pad/-/left-pad-1.1.0.tgz").await.is(403);
    assert!(scene.stored_tarballs().await.is_empty());
}

#[tokio::test]
async fn unstored_tarball_is_still_vetted() {
    let scene = scene_with_full_disk().await;
    let release = |version| Package::new("left-pad", version).aged(hours(80));
    scene.publish_old("left-pad", &["0.9.0"]);
    scene.publish(release("1.0.0"));
    scene.publish(release("1.1.0").packed(b"no archive".to_vec()));
    scene.get(TARBALL).await.is(200);
    let refused = scene.get("/left-pad/-/left-pad-1.1.0.tgz").await.is(403).error();
    assert!(refused.contains("unreadable"), "{refused}");
}

#[tokio::test]
async fn unstored_tarball_is_still_verified() {
    let scene = scene_with_full_disk().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.registry.tamper(TARBALL, *b"something else");
    let refused = scene.get(TARBALL).await.is(403);
    assert!(refused.error().contains("do not match the packument"), "{}", refused.error());
}

#[tokio::test]
async fn concurrent_clients_share_an_unstored_tarball() {
    let scene = scene_with_full_disk().await;
    let package = Package::new("left-pad", "1.0.0").sized(3_000_000);
    let bytes = package.tarball.clone();
    scene.publish(package);
    let pending: Vec<_> = (0..60).map(|_| scene.get(TARBALL).start()).collect();
    for answer in pending {
        assert_eq!(answer.await.unwrap().is(200).body, bytes);
    }
}

#[tokio::test]
async fn storing_resumes_when_the_disk_accepts_files() {
    let scene = scene_with_full_disk().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.get(TARBALL).await.is(200);
    fs::create_dir(scene.data().join("tmp")).expect("a folder");
    scene.get(TARBALL).await.is(200);
    let sent = scene.registry.count(TARBALL);
    scene.get(TARBALL).await.is(200);
    assert_eq!(scene.registry.count(TARBALL), sent);
}

/// Downloads tarballs of twice the cache size in total and runs `between` after each.
async fn fill_cache(scene: &Scene, mut between: impl AsyncFnMut()) {
    for number in 0..12 {
        let bulk = Package::new(&format!("bulk-{number}"), "1.0.0").sized(200_000);
        let path = bulk.path();
        scene.publish(bulk);
        scene.get(&path).await.is(200);
        between().await;
    }
}

#[tokio::test]
async fn revalidated_packument_is_not_evicted_first() {
    let mut scene = Scene::open().set("cache-size", "1MB").await;
    scene.publish_old("hot", &["1.0.0"]);
    scene.get("/hot").await.is(200);
    fill_cache(&scene, async || {
        scene.advance(minutes(10));
        scene.get("/hot").await.is(200);
    })
    .await;
    scene.restart().await;
    scene.registry.go_down();
    scene.advance(minutes(10));
    assert_eq!(scene.get("/hot").await.versions(), ["1.0.0"]);
}

#[tokio::test]
async fn evicted_document_in_an_outage_is_reported_as_upstream_error() {
    let scene = Scene::open().set("cache-size", "1MB").await;
    scene.publish_old("cold", &["1.0.0"]);
    scene.get("/cold").await.is(200);
    fill_cache(&scene, async || ()).await;
    scene.registry.go_down();
    // The full form is in memory; the abbreviated form needs the document.
    scene.get("/cold").await.is(200);
    let refused = scene.get("/cold").abbreviated().await.is(502);
    assert!(refused.error().contains("upstream"), "{}", refused.error());
}
