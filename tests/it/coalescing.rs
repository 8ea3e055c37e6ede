//! One shared upstream fetch per package and per tarball, for any number of clients, even if some of them leave.

use crate::harness::Scene;
use crate::package::{Package, minutes};

const TARBALL: &str = "/left-pad/-/left-pad-1.0.0.tgz";

#[tokio::test]
async fn many_clients_make_one_request_for_a_packument() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    let gate = scene.registry.hold("/left-pad");
    let mut requests = Vec::new();
    for number in 0..40 {
        let ask = scene.get("/left-pad");
        requests.push(if number % 2 == 0 { ask.gzip().start() } else { ask.abbreviated().start() });
    }
    scene.registry.wait_for_requests("/left-pad", 1).await;
    gate.open();
    for answer in requests {
        assert_eq!(answer.await.unwrap().versions(), ["1.0.0"]);
    }
    assert_eq!(scene.registry.count("/left-pad"), 1);
}

#[tokio::test]
async fn many_clients_make_one_request_for_a_tarball() {
    let scene = Scene::open().await;
    let package = Package::new("left-pad", "1.0.0").sized(200_000);
    let bytes = package.tarball.clone();
    scene.publish(package);
    let gate = scene.registry.hold_body(TARBALL, 1000);
    let requests: Vec<_> = (0..20).map(|_| scene.get(TARBALL).start()).collect();
    scene.registry.wait_for_requests(TARBALL, 1).await;
    gate.open();
    for answer in requests {
        assert_eq!(answer.await.unwrap().is(200).body, bytes);
    }
    assert_eq!(scene.registry.count(TARBALL), 1);
    assert_eq!(scene.registry.count("/left-pad"), 1);
}

#[tokio::test]
async fn a_client_that_leaves_does_not_cancel_the_shared_fetch() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    for path in ["/left-pad", TARBALL] {
        let gate = scene.registry.hold(path);
        let leaves = scene.get(path).start();
        scene.registry.wait_for_requests(path, 1).await;
        let stays = scene.get(path).start();
        leaves.abort();
        assert!(leaves.await.unwrap_err().is_cancelled());
        gate.open();
        stays.await.unwrap().is(200);
        assert_eq!(scene.registry.count(path), 1, "{path}");
    }
}

#[tokio::test]
async fn a_fetch_completes_after_its_last_client_left() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.get("/left-pad").await.is(200);
    let gate = scene.registry.hold_body(TARBALL, 10);
    let leaves = scene.get(TARBALL).start();
    scene.registry.wait_for_requests(TARBALL, 1).await;
    leaves.abort();
    assert!(leaves.await.unwrap_err().is_cancelled());
    gate.open();
    scene.get(TARBALL).await.is(200);
    assert_eq!(scene.registry.count(TARBALL), 1);
}

#[tokio::test]
async fn a_failed_fetch_fails_for_all_waiting_clients_and_the_next_one_starts_again() {
    // No minimum age, because a package that was missing at first counts as new.
    let scene = Scene::open().set("min-release-age", "0s").await;
    scene.publish_old("left-pad", &["1.0.0"]);
    let gate = scene.registry.hold("/left-pad");
    scene.registry.answer("/left-pad", crate::fake_response::Reply::error(404, "not yet"));
    let requests: Vec<_> = (0..5).map(|_| scene.get("/left-pad").start()).collect();
    scene.registry.wait_for_requests("/left-pad", 1).await;
    gate.open();
    for answer in requests {
        answer.await.unwrap().is(404);
    }
    scene.registry.clear_answer("/left-pad");
    scene.advance(minutes(30));
    scene.get("/left-pad").await.is(200);
}

#[tokio::test]
async fn a_slow_package_does_not_delay_another() {
    let scene = Scene::open().await;
    scene.publish_old("slow", &["1.0.0"]);
    scene.publish_old("left-pad", &["1.0.0"]);
    let gate = scene.registry.hold("/slow");
    let slow = scene.get("/slow").start();
    scene.registry.wait_for_requests("/slow", 1).await;
    scene.get("/left-pad").await.is(200);
    assert!(!slow.is_finished());
    gate.open();
    slow.await.unwrap().is(200);
}

#[tokio::test]
async fn a_release_published_during_a_fetch_is_held() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    let gate = scene.registry.hold("/left-pad");
    let requests = scene.get("/left-pad").start();
    scene.registry.wait_for_requests("/left-pad", 1).await;
    scene.publish(Package::new("left-pad", "1.1.0").aged(minutes(0)));
    gate.open();
    assert_eq!(requests.await.unwrap().versions(), ["1.0.0"]);
}
