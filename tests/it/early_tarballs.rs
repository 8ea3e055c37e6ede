//! A lockfile install requests tarballs only. Each packument is fetched once, in parallel with its tarball. The abbreviated form
//! is used if it contains `time`.

use crate::fake_package::Abbreviated;
use crate::harness::Scene;
use crate::package::{Package, hours, minutes};

const TARBALL: &str = "/left-pad/-/left-pad-1.0.0.tgz";
const OTHER: &str = "/other/-/other-1.0.0.tgz";

fn requested_form(scene: &Scene, path: &str) -> &'static str {
    let accept = scene.registry.last(path).headers.first("accept").unwrap_or_default().to_owned();
    if accept.contains("install-v1") { "abbreviated" } else { "full" }
}

#[tokio::test]
async fn tarball_of_unknown_package_is_requested_in_parallel_with_its_packument() {
    let scene = Scene::open().await;
    let package = Package::new("left-pad", "1.0.0").sized(300_000);
    let bytes = package.tarball.clone();
    scene.publish(package);
    let gate = scene.registry.hold("/left-pad");
    let pending: Vec<_> = (0..10).map(|_| scene.get(TARBALL).start()).collect();
    scene.registry.wait_for_requests(TARBALL, 1).await;
    gate.open();
    for answer in pending {
        assert_eq!(answer.await.unwrap().is(200).body, bytes);
    }
    assert_eq!((scene.registry.count("/left-pad"), scene.registry.count(TARBALL)), (1, 1));
}

#[tokio::test]
async fn early_tarball_is_dropped_when_refused() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0").aged(hours(1)).sized(300_000));
    let gate = scene.registry.hold("/left-pad");
    let pending = scene.get(TARBALL).start();
    scene.registry.wait_for_requests(TARBALL, 1).await;
    gate.open();
    pending.await.unwrap().is(403);
    let stored = scene.stored_files().await;
    assert!(!stored.iter().any(|path| path.to_string_lossy().contains("sha512")), "no tarball is stored: {stored:?}");
    scene.get(TARBALL).await.is(403);
    assert_eq!(scene.registry.count(TARBALL), 1, "a refused tarball of a known package is not requested");
}

#[tokio::test]
async fn early_tarball_is_verified_against_the_packument() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.registry.tamper(TARBALL, *b"something else");
    let gate = scene.registry.hold("/left-pad");
    let pending = scene.get(TARBALL).start();
    scene.registry.wait_for_requests(TARBALL, 1).await;
    gate.open();
    pending.await.unwrap().is(403);
}

#[tokio::test]
async fn conventional_url_is_guessed_at_most_once_when_it_is_wrong() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0").at_path("/files/1.tgz"));
    scene.publish(Package::new("other", "1.0.0").at_path("/files/2.tgz"));
    scene.get(TARBALL).await.is(200);
    scene.get(OTHER).await.is(200);
    assert!(scene.registry.count(TARBALL) <= 1);
    assert_eq!((scene.registry.count("/files/1.tgz"), scene.registry.count("/files/2.tgz")), (1, 1));
    assert_eq!(scene.registry.count(OTHER), 0);
}

#[tokio::test]
async fn abbreviated_form_suffices_for_tarballs_when_it_has_time() {
    let scene = Scene::open().await;
    scene.registry.set_abbreviated(Abbreviated::Timed);
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(1)).script("postinstall", "x"));
    scene.get(TARBALL).await.is(200);
    scene.get("/left-pad/-/left-pad-1.1.0.tgz").await.is(403);
    assert_eq!((scene.registry.count("/left-pad"), requested_form(&scene, "/left-pad")), (1, "abbreviated"));
    // The cached form also serves clients that request it.
    assert_eq!(scene.get("/left-pad").abbreviated().await.versions(), ["1.0.0"]);
    assert_eq!(scene.registry.count("/left-pad"), 1);
    // Revalidation requests the form that is cached.
    scene.advance(minutes(10));
    scene.get(TARBALL).await.is(200);
    assert_eq!((scene.registry.count("/left-pad"), requested_form(&scene, "/left-pad")), (2, "abbreviated"));
    // A request for the full form fetches the full form.
    let full = scene.get("/left-pad").await.is(200);
    assert_eq!(full.json()["readme"], "# A package");
    assert_eq!((scene.registry.count("/left-pad"), requested_form(&scene, "/left-pad")), (3, "full"));
    scene.get(TARBALL).await.is(200);
    scene.get("/left-pad").abbreviated().await.is(200);
    assert_eq!(scene.registry.count("/left-pad"), 3);
}

#[tokio::test]
async fn registry_without_time_in_abbreviated_form_is_remembered() {
    let scene = Scene::open().await;
    scene.registry.set_abbreviated(Abbreviated::Timeless);
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.publish_old("other", &["1.0.0"]);
    scene.get(TARBALL).await.is(200);
    assert_eq!((scene.registry.count("/left-pad"), requested_form(&scene, "/left-pad")), (2, "full"));
    scene.get(OTHER).await.is(200);
    assert_eq!((scene.registry.count("/other"), requested_form(&scene, "/other")), (1, "full"));
}

#[tokio::test]
async fn abbreviated_packument_is_reused_after_restart() {
    let mut scene = Scene::open().await;
    scene.registry.set_abbreviated(Abbreviated::Timed);
    scene.publish(Package::new("left-pad", "1.0.0").script("postinstall", "x"));
    scene.get(TARBALL).await.is(200);
    scene.restart().await;
    scene.advance(minutes(10));
    scene.get(TARBALL).await.is(200);
    assert_eq!(scene.registry.count(TARBALL), 1, "a stored tarball is not requested early");
    assert!(scene.registry.last("/left-pad").headers.first("if-none-match").is_some());
    let full = scene.get("/left-pad").await.is(200);
    assert_eq!(full.json()["versions"]["1.0.0"]["scripts"]["postinstall"], "x");
}
