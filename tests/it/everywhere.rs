//! Hidden is hidden everywhere: every endpoint, spelling, form, encoding and client, in every state of the cache.
//! A held release carries a mark in its manifest and its tarball; the mark must not come out anywhere.

use crate::client::{ABBREVIATED, Ask};
use crate::package::{Package, days, hours, minutes};
use crate::scene::Scene;
use crate::wire::Response;

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

/// Each path as different clients ask for it.
fn ways(scene: &Scene, path: &str) -> Vec<Ask> {
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
        plain().token("somebody"),
        plain().header("host", "elsewhere.example"),
        scene.ask("HEAD", path),
    ]
}

fn shows_nothing(state: &str, path: &str, answer: &Response) {
    let content = answer.content();
    let marked =
        [MARK.as_bytes(), &held().tarball[20..60]].iter().any(|mark| content.windows(mark.len()).any(|window| window == *mark));
    assert!(!marked, "{state}: {path} gave the held release away: {} {:?}", answer.status, answer.headers);
    if path.contains("1.1.0.tgz") || path.contains("1%2e1%2e0.tgz") {
        assert!(answer.status >= 400, "{state}: {path}: {}", answer.status);
    }
}

fn held() -> Package {
    Package::new("@acme/ui", "1.1.0").aged(hours(1)).depends_on(MARK, "*").content(MARK).tagged("next")
}

/// Asks for everything in every way at once, so that the answers also race.
async fn try_everything(scene: &Scene, state: &str) {
    let asking: Vec<_> =
        PATHS.iter().flat_map(|path| ways(scene, path).into_iter().map(move |ask| (path, ask.start()))).collect();
    for (path, answer) in asking {
        shows_nothing(state, path, &answer.await.unwrap());
    }
}

#[tokio::test]
async fn a_held_release_comes_out_nowhere_in_no_state() {
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
    // The release has aged, but nobody could ask whether it is still there.
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
async fn what_was_served_and_then_taken_down_comes_out_nowhere() {
    let mut scene = Scene::open().set("min-release-age", "0s").await;
    scene.publish(Package::new("@acme/ui", "1.0.0").aged(days(30)));
    scene.publish(held());
    scene.registry.absent("-/npm/v1/attestations/@acme/ui@1.1.0");
    for path in PATHS {
        for ask in ways(&scene, path) {
            drop(ask.await);
        }
    }
    let seen = scene.get("/@acme/ui/-/ui-1.1.0.tgz").await.is(200);
    assert_eq!(seen.body, held().tarball, "it was in every cache there is");
    scene.advance(minutes(10));
    scene.registry.unpublish("@acme/ui", "1.1.0");
    try_everything(&scene, "taken down").await;
    scene.restart().await;
    scene.registry.go_down();
    try_everything(&scene, "taken down, restarted, upstream down").await;
}

#[tokio::test]
async fn many_clients_at_the_moment_of_opening_see_all_or_nothing() {
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
