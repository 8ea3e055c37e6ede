//! Health and numbers.

use crate::package::{Package, hours};
use crate::scene::Scene;

#[tokio::test]
async fn health_and_readiness_are_answered_and_kept_by_nobody() {
    let scene = Scene::open().await;
    for path in ["/-/coldframe/healthz", "/-/coldframe/readyz"] {
        let answer = scene.get(path).await.is(200);
        assert!(answer.header("cache-control").contains("no-store"), "{path}: {}", answer.header("cache-control"));
    }
    scene.get("/-/coldframe/nothing").await.is(404);
    scene.ask("POST", "/-/coldframe/healthz").await.is(405);
}

#[tokio::test]
async fn metrics_count_requests_hidden_versions_and_refusals() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(1)));
    scene.get("/left-pad").await.is(200);
    scene.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(200);
    scene.get("/left-pad/-/left-pad-1.1.0.tgz").await.is(403);
    let text = scene.get("/-/coldframe/metrics").await.is(200).text();
    for name in ["requests", "upstream", "hidden", "refus", "bytes", "in_flight", "resident"] {
        assert!(text.lines().any(|line| line.starts_with("coldframe_") && line.contains(name)), "no {name}:\n{text}");
    }
    assert!(scene.metric("coldframe_refusals", "policy").await >= 1.0, "{text}");
    assert!(!text.contains("left-pad"), "package names are no label values");
}
