//! Upstream is down, or drowns: it is left alone, what is cached goes on, and everybody can read why.

use std::time::{Duration, Instant};

use crate::package::{Package, hours, minutes};
use crate::reply::Reply;
use crate::scene::Scene;

/// So many failures in a row, and upstream is left alone.
const ENOUGH: usize = 5;

async fn with_upstream_left_alone() -> Scene {
    let scene = Scene::open().await;
    scene.publish_old("cached", &["1.0.0"]);
    scene.get("/cached").await.is(200);
    scene.registry.go_down();
    for number in 0..ENOUGH {
        scene.get(&format!("/unknown-{number}")).await.is(502);
    }
    scene
}

async fn readiness(scene: &Scene) -> String {
    let page = scene.get("/-/coldframe/readyz").await.is(200);
    page.json()["checks"]["upstream"].as_str().expect("a word on upstream").to_owned()
}

#[tokio::test]
async fn an_upstream_that_fails_again_and_again_is_left_alone_for_a_while() {
    let scene = with_upstream_left_alone().await;
    let refused = scene.get("/one-more").await.is(502);
    assert!(refused.error().contains("is down") && refused.error().contains("next attempt in"), "{}", refused.error());
    assert!(readiness(&scene).await.contains("circuit open"));
    assert!((scene.metric("coldframe_upstream_circuits_open", "").await - 1.0).abs() < f64::EPSILON);

    scene.registry.come_back();
    scene.publish_old("one-more", &["1.0.0"]);
    let deadline = Instant::now() + Duration::from_secs(30);
    while scene.get("/one-more").await.status != 200 {
        assert!(Instant::now() < deadline, "it is tried again");
        tokio::task::yield_now().await;
    }
    assert_eq!(readiness(&scene).await, "ok");
    assert!(scene.metric("coldframe_upstream_circuits_open", "").await.abs() < f64::EPSILON);
}

#[tokio::test]
async fn what_is_cached_goes_on_marked_as_stale_and_opens_nothing() {
    let scene = with_upstream_left_alone().await;
    scene.advance(minutes(10));
    let stale = scene.get("/cached").await.is(200);
    assert_eq!(stale.header("warning"), "110 - \"Response is Stale\"");
    assert_eq!(stale.header("age"), "600");
    assert!(scene.metric("coldframe_stale_answers_total", "").await >= 1.0);
}

#[tokio::test]
async fn a_silent_upstream_is_not_waited_for_while_the_last_answer_will_do() {
    // With no patience at all nobody waits; that there is some, and how long, is the setting's.
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
        // The flight goes on, and what it brings is for the next.
        scene.registry.wait_for_requests("/cached", 2).await;
        gate.open();
        let deadline = Instant::now() + Duration::from_secs(20);
        while scene.get("/cached").await.versions() != ["1.0.0", "1.1.0"] {
            assert!(Instant::now() < deadline, "what upstream said at last was not taken in");
        }
        assert_eq!(scene.registry.count("/cached"), 2, "restarted: {restarted}");
    }
}

#[tokio::test]
async fn a_silent_upstream_costs_an_install_one_wait_and_not_one_a_package() {
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
        // One other is asked for, for which no client waits: the first alone might hang.
        scene.registry.wait_for_requests(&paths[1], 2).await;
        let asked = |scene: &Scene| paths.iter().map(|path| scene.registry.count(path) - 1).collect::<Vec<_>>();
        assert_eq!(asked(&scene)[2..], [0; 10], "restarted: {restarted}");
        // After a while somebody looks again, and waits as long.
        scene.advance(Duration::from_secs(11));
        let begun = Instant::now();
        assert_eq!(scene.get(&paths[1]).await.is(200).header("age"), "611");
        assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
        assert_eq!(scene.get(&paths[2]).await.is(200).header("age"), "611");
        scene.registry.wait_for_requests(&paths[2], 2).await;
        assert_eq!(asked(&scene), [1, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        // The first word of upstream is enough.
        gates.iter().for_each(crate::registry::Gate::open);
        let deadline = Instant::now() + Duration::from_secs(20);
        for path in &paths[2..] {
            while scene.get(path).await.is(200).headers.first("warning").is_some() {
                assert!(Instant::now() < deadline, "it is not asked again");
            }
        }
    }
}

#[tokio::test]
async fn an_upstream_that_is_slow_over_one_package_is_asked_for_the_others() {
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
async fn whoever_has_nothing_else_or_too_old_a_thing_waits_for_upstream() {
    let scene = Scene::open().set("stale-wait", "0s").set("max-stale", "1h").await;
    scene.publish_old("cached", &["1.0.0"]);
    scene.publish_old("cold", &["1.0.0"]);
    scene.get("/cached").await.is(200);
    scene.advance(hours(2));
    for (path, times) in [("/cold", 1), ("/cached", 2)] {
        let gate = scene.registry.hold(path);
        let asking = scene.get(path).start();
        scene.registry.wait_for_requests(path, times).await;
        gate.open();
        let answer = asking.await.unwrap().is(200);
        assert_eq!((answer.versions(), answer.headers.first("warning")), (vec!["1.0.0".to_owned()], None), "{path}");
    }
}

#[tokio::test]
async fn a_version_that_ripens_during_an_outage_waits_for_its_end() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(71)));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.registry.go_down();
    scene.advance(hours(2));
    for _ in 0..2 * ENOUGH {
        assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    }
    scene.registry.come_back();
    let deadline = Instant::now() + Duration::from_secs(30);
    while scene.get("/left-pad").await.versions().len() < 2 {
        assert!(Instant::now() < deadline, "it opens when upstream confirms it");
        scene.advance(Duration::from_secs(6));
    }
}

#[tokio::test]
async fn an_overloaded_upstream_is_asked_again_when_it_says_so() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.registry.answer("/left-pad", Reply::status(503).header("retry-after", "1"));
    let asking = scene.get("/left-pad").start();
    scene.registry.wait_for_requests("/left-pad", 1).await;
    scene.registry.clear_answer("/left-pad");
    asking.await.unwrap().is(200);
    assert_eq!(scene.registry.count("/left-pad"), 2);
}

#[tokio::test]
async fn an_upstream_that_needs_longer_is_not_waited_for() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.registry.answer("/left-pad", Reply::status(503).header("retry-after", "60"));
    let refused = scene.get("/left-pad").await.is(503);
    assert_eq!(refused.header("retry-after"), "60");
    assert_eq!(scene.registry.count("/left-pad"), 1);
}

#[tokio::test]
async fn one_that_says_nothing_is_asked_three_times_in_all() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.get("/left-pad").await.is(200);
    for status in [429, 502, 503, 504] {
        scene.registry.answer("/left-pad/-/left-pad-1.0.0.tgz", Reply::status(status));
        let before = scene.registry.count("/left-pad/-/left-pad-1.0.0.tgz");
        scene.get("/left-pad/-/left-pad-1.0.0.tgz").await;
        assert_eq!(scene.registry.count("/left-pad/-/left-pad-1.0.0.tgz") - before, 3, "{status}");
        // An answer in between, so that it does not pass for down.
        scene.registry.clear_answer("/left-pad/-/left-pad-1.0.0.tgz");
        scene.publish_old(&format!("other-{status}"), &["1.0.0"]);
        scene.get(&format!("/other-{status}")).await.is(200);
    }
}

#[tokio::test]
async fn a_package_that_upstream_cannot_answer_does_not_cost_the_others() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.registry.answer("/broken", Reply::status(500));
    for _ in 0..3 * ENOUGH {
        scene.get("/broken").await.is(502);
    }
    scene.get("/left-pad").await.is(200);
    assert_eq!(readiness(&scene).await, "ok");
}
