//! A held release is hidden on every endpoint, in every spelling, form and encoding, and in every state of the cache.
//! Its manifest and its tarball contain a mark that no answer may contain.

use serde_json::json;

use crate::client::{ABBREVIATED, Ask};
use crate::harness::Scene;
use crate::package::{Package, days, hours, minutes};
use crate::raw_http::Response;

const MARK: &str = "mark-of-the-held-release";

const PATHS: &[&str] = &[
    "/@acme%2fui",
    "/@acme%2Fui",
    "/@acme/ui",
    "/%40acme%2fui",
    "/@acme%2fui/1.1.0",
    "/@acme/ui/1.1.0",
    "/@acme%2fui/v1.1.0",
    "/@acme%2fui/=1.1.0",
    "/@acme%2fui/latest",
    "/@acme%2fui/next",
    "/@acme%2fui/^1.0.0",
    "/@acme%2fui/%3E%3D1.1.0",
    "/@acme%2fui/*",
    "/@acme/ui/-/ui-1.1.0.tgz",
    "/@acme%2fui/-/ui-1.1.0.tgz",
    "/@acme%2fui/-/ui-1%2e1%2e0.tgz",
    "/@acme/ui/-/@acme/ui-1.1.0.tgz",
    "/@acme/ui/-/ui-1.1.0.tgz?x=1",
    "/-/package/@acme%2fui/dist-tags",
    "/-/v1/search?text=ui",
    "/-/npm/v1/attestations/@acme%2fui@1.1.0",
];

/// Returns requests for a path in the ways of different clients.
fn variants(scene: &Scene, path: &str) -> Vec<Ask> {
    let plain = || scene.get(path);
    vec![
        plain(),
        plain().gzip(),
        plain().accept(ABBREVIATED),
        plain().accept(ABBREVIATED).gzip(),
        plain().npm("11.21.2").gzip(),
        plain().npm("9.9.4"),
        plain().header("range", "bytes=0-100000"),
        plain().header("if-none-match", "\"something\""),
        plain().header("if-modified-since", "Fri, 01 Jan 2038 00:00:00 GMT"),
        plain().token("alice"),
        plain().header("host", "elsewhere.example"),
        scene.ask("HEAD", path),
    ]
}

fn assert_hidden(state: &str, path: &str, answer: &Response) {
    let content = answer.content();
    let marked =
        [MARK.as_bytes(), &held().tarball[20..60]].iter().any(|mark| content.windows(mark.len()).any(|window| window == *mark));
    assert!(!marked, "{state}: {path} exposes the held release: {} {:?}", answer.status, answer.headers);
    if path.contains("1.1.0.tgz") || path.contains("1%2e1%2e0.tgz") {
        assert!(answer.status >= 400, "{state}: {path}: {}", answer.status);
    }
}

fn held() -> Package {
    Package::new("@acme/ui", "1.1.0").aged(hours(1)).field("engines", json!({ MARK: "*" })).content(MARK).tagged("next")
}

/// Sends all requests concurrently, so that they also race with each other.
async fn try_everything(scene: &Scene, state: &str) {
    let asking: Vec<_> =
        PATHS.iter().flat_map(|path| variants(scene, path).into_iter().map(move |ask| (path, ask.start()))).collect();
    for (path, answer) in asking {
        assert_hidden(state, path, &answer.await.unwrap());
    }
}

#[tokio::test]
async fn a_held_release_is_hidden_in_every_cache_state() {
    let mut scene = Scene::open().await;
    scene.publish(Package::new("@acme/ui", "1.0.0").aged(days(30)));
    scene.publish(held());
    scene.registry.tag("@acme/ui", "latest", "1.1.0");
    scene.registry.absent("-/npm/v1/attestations/@acme/ui@1.1.0");
    try_everything(&scene, "cold, then warm").await;
    scene.advance(minutes(10));
    try_everything(&scene, "asked again").await;
    scene.restart().await;
    try_everything(&scene, "restarted").await;
    scene.registry.go_down();
    scene.advance(minutes(10));
    try_everything(&scene, "upstream down").await;
    // Upstream cannot confirm the release, so it stays hidden even past its minimum age.
    scene.advance(hours(10));
    scene.restart().await;
    try_everything(&scene, "restarted while upstream is down").await;
    scene.advance(hours(90));
    try_everything(&scene, "aged while upstream is down").await;
    scene.registry.come_back();
    scene.registry.unpublish("@acme/ui", "1.1.0");
    scene.advance(minutes(10));
    try_everything(&scene, "taken down").await;
    scene.restart().await;
    try_everything(&scene, "taken down, restarted").await;
}

#[tokio::test]
async fn a_release_taken_down_after_it_was_served_is_hidden_everywhere() {
    let mut scene = Scene::open().set("min-release-age", "0s").await;
    scene.publish(Package::new("@acme/ui", "1.0.0").aged(days(30)));
    scene.publish(held());
    scene.registry.absent("-/npm/v1/attestations/@acme/ui@1.1.0");
    for path in PATHS {
        for ask in variants(&scene, path) {
            drop(ask.await);
        }
    }
    let seen = scene.get("/@acme/ui/-/ui-1.1.0.tgz").await.is(200);
    assert_eq!(seen.body, held().tarball, "the release was not cached");
    scene.advance(minutes(10));
    scene.registry.unpublish("@acme/ui", "1.1.0");
    try_everything(&scene, "taken down").await;
    scene.restart().await;
    scene.registry.go_down();
    try_everything(&scene, "taken down, restarted, upstream down").await;
}

#[tokio::test]
async fn many_clients_at_the_opening_time_get_consistent_answers() {
    let scene = Scene::open().await;
    scene.publish(Package::new("@acme/ui", "1.0.0").aged(days(30)));
    scene.publish(held());
    scene.get("/@acme%2fui").await.is(200);
    scene.advance(std::time::Duration::from_secs(71 * 3600 - 30));
    let before: Vec<_> = (0..20).map(|_| scene.get("/@acme%2fui").gzip().start()).collect();
    for answer in before {
        assert_eq!(answer.await.unwrap().versions(), ["1.0.0"]);
    }
    scene.advance(minutes(1));
    let after: Vec<_> = (0..20).map(|_| scene.get("/@acme%2fui").gzip().start()).collect();
    for answer in after {
        assert_eq!(answer.await.unwrap().versions(), ["1.0.0", "1.1.0"]);
    }
}
