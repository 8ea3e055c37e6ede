//! A packument that hides every version which a client needs is recorded like a refusal, though no request was refused.

use coldframe::npm::PackageName;
use coldframe::store::{DownloadOutcome, Ledger as _, SqliteLedger};

use crate::client::Ask;
use crate::harness::Scene;
use crate::package::{Package, days, hours};

/// A scene with an old and a held left-pad, on which `app` depends as `spec`.
async fn scene_with_dependency(spec: &str) -> Scene {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0").aged(days(40)));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(1)));
    scene.publish(Package::new("app", "1.0.0").depends_on("left-pad", spec));
    scene
}

/// Builds a request like npm's during `npm install`.
fn install(scene: &Scene, path: &str) -> Ask {
    scene.get(path).npm("11.21.2").header("npm-command", "install")
}

/// The refused versions of left-pad in the ledger and their counts. Stops the server.
async fn refused(scene: &mut Scene) -> Vec<(String, u64)> {
    scene.coldframe.stop().await;
    let ledger = SqliteLedger::read_only(scene.data()).unwrap();
    let rows = ledger.exposure(&PackageName::parse("left-pad").unwrap(), None).unwrap();
    let rows = rows.into_iter().filter(|row| row.outcome == DownloadOutcome::Refused);
    rows.map(|row| (row.version, row.times)).collect()
}

#[tokio::test]
async fn hidden_needed_version_is_counted_and_recorded_once_per_client() {
    for spec in ["1.1.0", "^1.1.0", ">1.0.0"] {
        let mut scene = scene_with_dependency(spec).await;
        install(&scene, "/app").await.is(200);
        for _ in 0..3 {
            assert_eq!(install(&scene, "/left-pad").await.versions(), ["1.0.0"]);
        }
        let counted = scene.metric("coldframe_refusals_total", "policy").await;
        assert!((counted - 1.0).abs() < 0.1, "{spec}: {counted}");
        assert_eq!(refused(&mut scene).await, [("1.1.0".to_owned(), 1)], "{spec}");
    }
}

#[tokio::test]
async fn range_satisfied_by_a_visible_version_is_not_recorded() {
    let mut scene = scene_with_dependency("^1.0.0").await;
    install(&scene, "/app").await.is(200);
    install(&scene, "/left-pad").await.is(200);
    assert!(scene.metric("coldframe_refusals_total", "").await < 0.1);
    assert_eq!(refused(&mut scene).await, []);
}

#[tokio::test]
async fn npm_view_is_not_recorded_as_refused() {
    let mut scene = scene_with_dependency("1.1.0").await;
    install(&scene, "/app").await.is(200);
    scene.get("/left-pad").npm("11.21.2").header("npm-command", "view").await.is(200);
    // Two hours after the last request for the parent package, its needs no longer count.
    scene.advance(hours(2));
    install(&scene, "/left-pad").await.is(200);
    assert_eq!(refused(&mut scene).await, []);
}

#[tokio::test]
async fn parent_package_is_known_again_after_restart() {
    let mut scene = scene_with_dependency("1.1.0").await;
    install(&scene, "/app").await.is(200);
    scene.restart().await;
    install(&scene, "/app").await.is(200);
    install(&scene, "/left-pad").await.is(200);
    assert_eq!(refused(&mut scene).await, [("1.1.0".to_owned(), 1)]);
}

#[tokio::test]
async fn refused_manifest_is_in_the_ledger() {
    let mut scene = scene_with_dependency("1.1.0").await;
    install(&scene, "/left-pad/1.1.0").await.is(403);
    assert_eq!(refused(&mut scene).await, [("1.1.0".to_owned(), 1)]);
}
