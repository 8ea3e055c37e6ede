//! Upstream is down or overloaded: its circuit opens, cached answers are served as stale, and readyz reports the reason.

use std::time::{Duration, Instant};

use crate::fake_response::Reply;
use crate::harness::Scene;
use crate::package::{Package, hours, minutes};

/// Consecutive failures that open the circuit.
const FAILURES_TO_OPEN: usize = 5;

async fn with_open_circuit() -> Scene {
    let scene = Scene::open().await;
    scene.publish_old("cached", &["1.0.0"]);
    scene.get("/cached").await.is(200);
    scene.registry.go_down();
    for number in 0..FAILURES_TO_OPEN {
        scene.get(&format!("/unknown-{number}")).await.is(502);
    }
    scene
}

async fn readiness(scene: &Scene) -> String {
    let page = scene.get("/-/coldframe/readyz").await.is(200);
    page.json()["checks"]["upstream"].as_str().expect("an upstream check").to_owned()
}

#[tokio::test]
async fn repeated_failures_open_the_circuit_for_a_while() {
    let scene = with_open_circuit().await;
    let refused = scene.get("/one-more").await.is(502);
    assert!(refused.error().contains("is down") && refused.error().contains("next attempt in"), "{}", refused.error());
    assert!(readiness(&scene).await.contains("circuit open"));
    assert!((scene.metric("coldframe_upstream_circuits_open", "").await - 1.0).abs() < f64::EPSILON);

    scene.registry.come_back();
    scene.publish_old("one-more", &["1.0.0"]);
    let deadline = Instant::now() + Duration::from_secs(30);
    while scene.get("/one-more").await.status != 200 {
        assert!(Instant::now() < deadline, "upstream is not tried again");
        tokio::task::yield_now().await;
    }
    assert_eq!(readiness(&scene).await, "ok");
    assert!(scene.metric("coldframe_upstream_circuits_open", "").await.abs() < f64::EPSILON);
}

#[tokio::test]
async fn cached_answers_are_marked_as_stale_while_the_circuit_is_open() {
    let scene = with_open_circuit().await;
    scene.advance(minutes(10));
    let stale = scene.get("/cached").await.is(200);
    assert_eq!(stale.header("warning"), "110 - \"Response is Stale\"");
    assert_eq!(stale.header("age"), "600");
    assert!(scene.metric("coldframe_stale_answers_total", "").await >= 1.0);
}

#[tokio::test]
async fn a_silent_upstream_is_awaited_up_to_stale_wait() {
    // `stale-wait` sets the wait; at 0 s there is none.
    for restarted in [false, true] {
        let mut scene = Scene::open().set("stale-wait", if restarted { "1s" } else { "0s" }).await;
        scene.publish_old("cached", &["1.0.0"]);
        scene.publish(Package::new("cached", "1.1.0").aged(hours(71)));
        assert_eq!(scene.get("/cached").await.versions(), ["1.0.0"]);
        if restarted {
            scene.restart().await;
        }
        let gate = scene.registry.hold("/cached");
        scene.advance(hours(2));
        for _ in 0..3 {
            let stale = scene.get("/cached").await.is(200);
            assert_eq!((stale.versions(), stale.header("age")), (vec!["1.0.0".to_owned()], "7200"), "restarted: {restarted}");
            assert_eq!(stale.header("warning"), "110 - \"Response is Stale\"");
            scene.get("/cached/-/cached-1.1.0.tgz").await.is(403);
            scene.get("/cached/-/cached-1.0.0.tgz").await.is(200);
        }
        // The fetch continues, and its result serves later requests.
        scene.registry.wait_for_requests("/cached", 2).await;
        gate.open();
        let deadline = Instant::now() + Duration::from_secs(20);
        while scene.get("/cached").await.versions() != ["1.0.0", "1.1.0"] {
            assert!(Instant::now() < deadline, "the late upstream answer was not used");
        }
        assert_eq!(scene.registry.count("/cached"), 2, "restarted: {restarted}");
    }
}

#[tokio::test]
async fn a_silent_upstream_costs_an_install_one_wait_in_all() {
    for restarted in [false, true] {
        let mut scene = Scene::open().set("stale-wait", "1s").await;
        let paths: Vec<_> = (0..12).map(|number| format!("/package-{number}")).collect();
        for path in &paths {
            scene.publish_old(&path[1..], &["1.0.0"]);
            scene.get(path).await.is(200);
        }
        if restarted {
            scene.restart().await;
        }
        let gates: Vec<_> = paths.iter().map(|path| scene.registry.hold(path)).collect();
        scene.advance(minutes(10));
        let begun = Instant::now();
        for path in &paths {
            let stale = scene.get(path).await.is(200);
            assert_eq!((stale.versions(), stale.header("age")), (vec!["1.0.0".to_owned()], "600"), "restarted: {restarted}");
        }
        assert!(begun.elapsed() < Duration::from_secs(6), "restarted: {restarted}, {:?}", begun.elapsed());
        // One more package is fetched in the background, because only the first one might hang.
        scene.registry.wait_for_requests(&paths[1], 2).await;
        let extra_fetches = |scene: &Scene| paths.iter().map(|path| scene.registry.count(path) - 1).collect::<Vec<_>>();
        assert_eq!(extra_fetches(&scene)[2..], [0; 10], "restarted: {restarted}");
        // Later one request tries upstream again and waits once more.
        scene.advance(Duration::from_secs(11));
        let begun = Instant::now();
        assert_eq!(scene.get(&paths[1]).await.is(200).header("age"), "611");
        assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
        assert_eq!(scene.get(&paths[2]).await.is(200).header("age"), "611");
        scene.registry.wait_for_requests(&paths[2], 2).await;
        assert_eq!(extra_fetches(&scene), [1, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        // The first upstream answer ends this.
        gates.iter().for_each(crate::registry::Gate::open);
        let deadline = Instant::now() + Duration::from_secs(20);
        for path in &paths[2..] {
            while scene.get(path).await.is(200).headers.first("warning").is_some() {
                assert!(Instant::now() < deadline, "upstream is not asked again");
            }
        }
    }
}

#[tokio::test]
async fn one_slow_package_does_not_stop_fetches_of_others() {
    let scene = Scene::open().set("stale-wait", "1s").await;
    scene.publish_old("slow", &["1.0.0"]);
    scene.publish_old("other", &["1.0.0"]);
    scene.get("/slow").await.is(200);
    scene.get("/other").await.is(200);
    let _gate = scene.registry.hold("/slow");
    scene.advance(minutes(10));
    let slow = scene.get("/slow").start();
    scene.registry.wait_for_requests("/slow", 2).await;
    assert_eq!(scene.get("/other").await.is(200).headers.first("warning"), None);
    assert_eq!(slow.await.unwrap().is(200).header("age"), "600");
    scene.advance(minutes(10));
    assert_eq!(scene.get("/other").await.is(200).headers.first("warning"), None);
}

#[tokio::test]
async fn without_a_usable_stale_answer_clients_wait_for_upstream() {
    let scene = Scene::open().set("stale-wait", "0s").set("max-stale", "1h").await;
    scene.publish_old("cached", &["1.0.0"]);
    scene.publish_old("cold", &["1.0.0"]);
    scene.get("/cached").await.is(200);
    scene.advance(hours(2));
    for (path, times) in [("/cold", 1), ("/cached", 2)] {
        let gate = scene.registry.hold(path);
        let request = scene.get(path).start();
        scene.registry.wait_for_requests(path, times).await;
        gate.open();
        let answer = request.await.unwrap().is(200);
        assert_eq!((answer.versions(), answer.headers.first("warning")), (vec!["1.0.0".to_owned()], None), "{path}");
    }
}

#[tokio::test]
async fn a_version_that_reaches_its_age_during_an_outage_opens_after_it() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(71)));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.registry.go_down();
    scene.advance(hours(2));
    for _ in 0..2 * FAILURES_TO_OPEN {
        assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    }
    scene.registry.come_back();
    let deadline = Instant::now() + Duration::from_secs(30);
    while scene.get("/left-pad").await.versions().len() < 2 {
        assert!(Instant::now() < deadline, "the version does not open after the outage");
        scene.advance(Duration::from_secs(6));
    }
}

#[tokio::test]
async fn an_overloaded_upstream_is_retried_after_retry_after() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.registry.answer("/left-pad", Reply::status(503).header("retry-after", "1"));
    let request = scene.get("/left-pad").start();
    scene.registry.wait_for_requests("/left-pad", 1).await;
    scene.registry.clear_answer("/left-pad");
    request.await.unwrap().is(200);
    assert_eq!(scene.registry.count("/left-pad"), 2);
}

#[tokio::test]
async fn a_long_retry_after_is_passed_on_to_the_client() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.registry.answer("/left-pad", Reply::status(503).header("retry-after", "60"));
    let refused = scene.get("/left-pad").await.is(503);
    assert_eq!(refused.header("retry-after"), "60");
    assert_eq!(scene.registry.count("/left-pad"), 1);
}

#[tokio::test]
async fn without_retry_after_a_request_is_tried_three_times() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.get("/left-pad").await.is(200);
    for status in [429, 502, 503, 504] {
        scene.registry.answer("/left-pad/-/left-pad-1.0.0.tgz", Reply::status(status));
        let before = scene.registry.count("/left-pad/-/left-pad-1.0.0.tgz");
        scene.get("/left-pad/-/left-pad-1.0.0.tgz").await;
        assert_eq!(scene.registry.count("/left-pad/-/left-pad-1.0.0.tgz") - before, 3, "{status}");
        // A success in between keeps the circuit closed.
        scene.registry.clear_answer("/left-pad/-/left-pad-1.0.0.tgz");
        scene.publish_old(&format!("other-{status}"), &["1.0.0"]);
        scene.get(&format!("/other-{status}")).await.is(200);
    }
}

#[tokio::test]
async fn a_failing_package_does_not_open_the_circuit() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.registry.answer("/broken", Reply::status(500));
    for _ in 0..3 * FAILURES_TO_OPEN {
        scene.get("/broken").await.is(502);
    }
    scene.get("/left-pad").await.is(200);
    assert_eq!(readiness(&scene).await, "ok");
}
