//! A lockfile install asks for tarballs alone: the packument behind each is fetched beside it, once, in the smaller form where
//! that tells when versions were published.

use crate::listing::Abbreviated;
use crate::package::{Package, hours, minutes};
use crate::scene::Scene;

const TARBALL: &str = "/left-pad/-/left-pad-1.0.0.tgz";
const OTHER: &str = "/other/-/other-1.0.0.tgz";

fn form_asked(scene: &Scene, path: &str) -> &'static str {
    let accept = scene.registry.last(path).headers.first("accept").unwrap_or_default().to_owned();
    if accept.contains("install-v1") { "abbreviated" } else { "full" }
}

#[tokio::test]
async fn a_tarball_of_an_unknown_package_is_asked_for_while_its_packument_is_on_its_way() {
    let scene = Scene::open().await;
    let package = Package::new("left-pad", "1.0.0").sized(300_000);
    let bytes = package.tarball.clone();
    scene.publish(package);
    let gate = scene.registry.hold("/left-pad");
    let asking: Vec<_> = (0..10).map(|_| scene.get(TARBALL).start()).collect();
    scene.registry.wait_for_requests(TARBALL, 1).await;
    gate.open();
    for answer in asking {
        assert_eq!(answer.await.unwrap().is(200).body, bytes);
    }
    assert_eq!((scene.registry.count("/left-pad"), scene.registry.count(TARBALL)), (1, 1));
}

#[tokio::test]
async fn what_came_early_goes_to_nobody_when_it_is_refused() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0").aged(hours(1)).sized(300_000));
    let gate = scene.registry.hold("/left-pad");
    let asking = scene.get(TARBALL).start();
    scene.registry.wait_for_requests(TARBALL, 1).await;
    gate.open();
    asking.await.unwrap().is(403);
    let kept = scene.stored_files().await;
    assert!(!kept.iter().any(|path| path.to_string_lossy().contains("sha512")), "no tarball is kept: {kept:?}");
    scene.get(TARBALL).await.is(403);
    assert_eq!(scene.registry.count(TARBALL), 1, "once its package is known, what is refused is not asked for");
}

#[tokio::test]
async fn bytes_that_came_early_are_held_against_the_packument() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.registry.tamper(TARBALL, *b"something else");
    let gate = scene.registry.hold("/left-pad");
    let asking = scene.get(TARBALL).start();
    scene.registry.wait_for_requests(TARBALL, 1).await;
    gate.open();
    asking.await.unwrap().is(403);
}

#[tokio::test]
async fn a_registry_that_places_its_tarballs_elsewhere_is_guessed_at_once() {
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
async fn the_abbreviated_form_does_for_tarballs_where_it_has_time() {
    let scene = Scene::open().await;
    scene.registry.set_abbreviated(Abbreviated::Timed);
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(1)).script("postinstall", "x"));
    scene.get(TARBALL).await.is(200);
    scene.get("/left-pad/-/left-pad-1.1.0.tgz").await.is(403);
    assert_eq!((scene.registry.count("/left-pad"), form_asked(&scene, "/left-pad")), (1, "abbreviated"));
    // It does for who wants that form, too.
    assert_eq!(scene.get("/left-pad").abbreviated().await.versions(), ["1.0.0"]);
    assert_eq!(scene.registry.count("/left-pad"), 1);
    // Asked again later, it is confirmed in the form it is in.
    scene.advance(minutes(10));
    scene.get(TARBALL).await.is(200);
    assert_eq!((scene.registry.count("/left-pad"), form_asked(&scene, "/left-pad")), (2, "abbreviated"));
    // Who wants all of it gets all of it.
    let full = scene.get("/left-pad").await.is(200);
    assert_eq!(full.json()["readme"], "# A package");
    assert_eq!((scene.registry.count("/left-pad"), form_asked(&scene, "/left-pad")), (3, "full"));
    scene.get(TARBALL).await.is(200);
    scene.get("/left-pad").abbreviated().await.is(200);
    assert_eq!(scene.registry.count("/left-pad"), 3);
}

#[tokio::test]
async fn a_registry_without_time_in_the_abbreviated_form_is_found_out_once() {
    let scene = Scene::open().await;
    scene.registry.set_abbreviated(Abbreviated::Timeless);
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.publish_old("other", &["1.0.0"]);
    scene.get(TARBALL).await.is(200);
    assert_eq!((scene.registry.count("/left-pad"), form_asked(&scene, "/left-pad")), (2, "full"));
    scene.get(OTHER).await.is(200);
    assert_eq!((scene.registry.count("/other"), form_asked(&scene, "/other")), (1, "full"));
}

#[tokio::test]
async fn an_abbreviated_packument_is_known_again_after_a_restart() {
    let mut scene = Scene::open().await;
    scene.registry.set_abbreviated(Abbreviated::Timed);
    scene.publish(Package::new("left-pad", "1.0.0").script("postinstall", "x"));
    scene.get(TARBALL).await.is(200);
    scene.restart().await;
    scene.advance(minutes(10));
    scene.get(TARBALL).await.is(200);
    assert_eq!(scene.registry.count(TARBALL), 1, "the store has it, so it is not asked for early");
    assert!(scene.registry.last("/left-pad").headers.first("if-none-match").is_some());
    let full = scene.get("/left-pad").await.is(200);
    assert_eq!(full.json()["versions"]["1.0.0"]["scripts"]["postinstall"], "x");
}
