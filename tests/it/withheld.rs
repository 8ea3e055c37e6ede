//! Refusals that clients make for us: where an answer withholds all that is wanted of a package, that is an event like a refusal.

use coldframe::npm::PackageName;
use coldframe::store::{DownloadOutcome, Ledger as _, SqliteLedger};

use crate::client::Ask;
use crate::package::{Package, days, hours};
use crate::scene::Scene;

/// left-pad with an old and a young version, wanted by `app` as `spec`.
async fn wanted(spec: &str) -> Scene {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0").aged(days(40)));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(1)));
    scene.publish(Package::new("app", "1.0.0").depends_on("left-pad", spec));
    scene
}

/// Asks as npm does while it installs.
fn install(scene: &Scene, path: &str) -> Ask {
    scene.get(path).npm("11.21.2").header("npm-command", "install")
}

/// The versions of left-pad that the ledger says were refused, and how often.
async fn refused(scene: &mut Scene) -> Vec<(String, u64)> {
    scene.coldframe.stop().await;
    let ledger = SqliteLedger::read_only(scene.data()).unwrap();
    let rows = ledger.exposure(&PackageName::parse("left-pad").unwrap(), None).unwrap();
    let rows = rows.into_iter().filter(|row| row.outcome == DownloadOutcome::Refused);
    rows.map(|row| (row.version, row.times)).collect()
}

#[tokio::test]
async fn an_exact_version_that_an_answer_withholds_is_counted_and_in_the_ledger_once_per_client() {
    for spec in ["1.1.0", "^1.1.0", ">1.0.0"] {
        let mut scene = wanted(spec).await;
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
async fn a_range_that_something_shown_satisfies_is_no_event() {
    let mut scene = wanted("^1.0.0").await;
    install(&scene, "/app").await.is(200);
    install(&scene, "/left-pad").await.is(200);
    assert!(scene.metric("coldframe_refusals_total", "").await < 0.1);
    assert_eq!(refused(&mut scene).await, []);
}

#[tokio::test]
async fn who_only_looks_at_a_package_was_refused_nothing() {
    let mut scene = wanted("1.1.0").await;
    install(&scene, "/app").await.is(200);
    scene.get("/left-pad").npm("11.21.2").header("npm-command", "view").await.is(200);
    // For a while no client asked for the package that wants it.
    scene.advance(hours(2));
    install(&scene, "/left-pad").await.is(200);
    assert_eq!(refused(&mut scene).await, []);
}

#[tokio::test]
async fn what_wants_a_version_is_known_again_after_a_restart() {
    let mut scene = wanted("1.1.0").await;
    install(&scene, "/app").await.is(200);
    scene.restart().await;
    install(&scene, "/app").await.is(200);
    install(&scene, "/left-pad").await.is(200);
    assert_eq!(refused(&mut scene).await, [("1.1.0".to_owned(), 1)]);
}

#[tokio::test]
async fn a_manifest_that_is_refused_is_in_the_ledger() {
    let mut scene = wanted("1.1.0").await;
    install(&scene, "/left-pad/1.1.0").await.is(403);
    assert_eq!(refused(&mut scene).await, [("1.1.0".to_owned(), 1)]);
}
