//! Tarballs at unconventional URLs: each URL leads to the version whose packument states it, or to a refusal.

use serde_json::Value;

use crate::fake_response::Reply;
use crate::harness::Scene;
use crate::package::{Package, hours};
use crate::raw_http::Response;
use crate::run::Fixture;

const DIGEST: &str = "0123456789abcdef0123456789abcdef01234567";

fn tarball_url(packument: &Response, version: &str) -> Value {
    packument.json()["versions"][version]["dist"]["tarball"].clone()
}

/// Tarball paths of `@acme/ui` as different registries lay them out.
fn tarball_paths(version: &str) -> [String; 4] {
    [
        format!("/download/@acme/ui/{version}/{DIGEST}"),
        format!("/api/v4/projects/7/packages/npm/@acme/ui/-/@acme/ui-{version}.tgz"),
        format!("/@acme/ui/-/@acme/ui-{version}.tgz"),
        format!("/files/account/ui-{version}.tgz"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn tarball_is_fetched_from_the_path_in_upstreams_packument() {
    for (number, path) in tarball_paths("1.0.0").into_iter().enumerate() {
        let place = Fixture::new().await;
        let young = &tarball_paths("1.1.0")[number];
        place.registry.publish(Package::new("@acme/ui", "1.0.0").at_path(&path));
        place.registry.publish(Package::new("@acme/ui", "1.1.0").at_path(young).aged(hours(5)));
        place.registry.absent("ui");
        place.registry.absent("account");
        // The client has a lockfile made without Coldframe; no packument is cached yet.
        let cold = place.start(&[]);
        if number < 3 {
            cold.ask(&place.url(&path)).await.is(200);
            cold.ask(&place.url(young)).await.is(403);
        }
        let packument = cold.ask(&place.url("/@acme%2fui")).await;
        assert_eq!(packument.versions(), ["1.0.0"], "{path}");
        assert_eq!(tarball_url(&packument, "1.0.0"), place.url(&path));
        cold.ask(&place.url(&path)).await.is(200);
        cold.ask(&place.url(young)).await.is(403);
        // The conventional path, from a lockfile made with an older Coldframe.
        cold.ask(&place.url("/@acme/ui/-/ui-1.0.0.tgz")).await.is(200);
        cold.ask(&place.url("/@acme/ui/-/ui-1.1.0.tgz")).await.is(403);
        let (code, errors) = cold.end();
        assert_eq!(code, 0, "{errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn packument_cannot_link_to_another_packages_hidden_tarball() {
    let place = Fixture::new().await;
    let hidden = Package::new("left-pad", "1.1.0").aged(hours(5));
    let deep = "/api/v4/projects/7/packages/npm/left-pad/-/left-pad-1.1.0.tgz";
    for (number, path) in
        ["/left-pad/-/left-pad-1.1.0.tgz", deep, &format!("/download/left-pad/1.1.0/{DIGEST}")].iter().enumerate()
    {
        let name = format!("evil-{number}");
        let mut evil = Package::new(&name, "1.0.0").at_url(&place.url(path));
        evil.tarball.clone_from(&hidden.tarball);
        place.registry.publish(evil);
        let running = place.start(&[]);
        let packument = running.ask(&place.url(&format!("/{name}"))).await;
        assert_eq!(tarball_url(&packument, "1.0.0"), place.url(&format!("/{name}/-/{name}-1.0.0.tgz")), "{path}");
        let answer = running.ask(&place.url(path)).await;
        assert!(matches!(answer.status, 403 | 404), "{path}: {}", answer.status);
        let encoded = path.replacen("left-pad", "left%2dpad", 1);
        let answer = running.ask(&place.url(&encoded)).await;
        assert!(matches!(answer.status, 403 | 404), "{encoded}: {}", answer.status);
        running.end();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unusable_tarball_url_is_replaced_by_the_conventional_one() {
    let place = Fixture::new().await;
    for (version, url) in [
        ("2.0.0", "http://files.example/left-pad/-/left-pad-2.0.0.tgz".to_owned()),
        ("2.1.0", format!("http://files.example@{}/left-pad/-/x.tgz", place.registry.address)),
        ("2.2.0", place.url("/a/../left-pad/-/x.tgz")),
        ("2.3.0", format!("{}#x", place.url("/left-pad/-/x.tgz"))),
        ("2.4.0", place.url("/left-pad/-/left-pad-1.0.0.tgz")),
        ("2.5.0", place.url("/-/ping")),
    ] {
        place.registry.publish(Package::new("left-pad", version).at_url(&url));
    }
    let running = place.start(&["--allow-host", "files.example"]);
    let packument = running.ask(&place.url("/left-pad")).await;
    for version in ["2.0.0", "2.1.0", "2.2.0", "2.3.0", "2.4.0", "2.5.0"] {
        assert_eq!(tarball_url(&packument, version), place.url(&format!("/left-pad/-/left-pad-{version}.tgz")));
    }
    running.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn tarball_url_claimed_by_two_packages_is_refused() {
    let place = Fixture::new().await;
    let shared = "/files/blob-1.0.0.tgz";
    place.registry.publish(Package::new("one", "1.0.0").at_path(shared));
    place.registry.publish(Package::new("two", "1.0.0").at_url(&place.url(shared)));
    for name in ["blob", "files"] {
        place.registry.absent(name);
    }
    let running = place.start(&[]);
    assert_eq!(tarball_url(&running.ask(&place.url("/one")).await, "1.0.0"), place.url(shared));
    running.ask(&place.url(shared)).await.is(200);
    running.ask(&place.url("/two")).await.is(200);
    let refused = running.ask(&place.url(shared)).await.is(403);
    assert!(refused.error().contains("claimed by another package"), "{}", refused.error());
    running.ask(&place.url("/one/-/one-1.0.0.tgz")).await.is(200);
    running.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn tarball_url_of_two_versions_with_different_digests_is_refused() {
    let place = Fixture::new().await;
    let shared = "/files/pair-1.0.0.tgz";
    place.registry.publish(Package::new("pair", "1.0.0").at_path(shared));
    place.registry.publish(Package::new("pair", "1.0.1").at_url(&place.url(shared)));
    place.registry.absent("files");
    let running = place.start(&[]);
    let refused = running.ask(&place.url(shared)).await.is(403);
    assert!(refused.error().contains("a different digest"), "{}", refused.error());
    running.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_tarball_url_costs_at_most_three_requests_and_is_never_tunnelled() {
    let place = Fixture::new().await;
    place.registry.publish(Package::new("left-pad", "3.0.0").at_path("/files/left-pad-3.0.0.tgz"));
    let running = place.start(&["--default-egress", "tunnel"]);
    for name in ["files", "FILES", "stranger", "b", "c", "d", "e", "@a/e", "@a/b", "@c/e"] {
        place.registry.absent(name);
    }
    running.ask(&place.url("/files/left-pad-3.0.0.tgz")).await.is(200);
    for path in ["/files/stranger-1.0.0.tgz", "/@a/b/@c/d/e-1.0.0.tgz", "/files/left-pad-3.0.1.tgz", "/FILES/left-pad-3.0.0.tgz"]
    {
        let before = place.registry.total();
        running.ask(&place.url(path)).await.is(404);
        let sent: Vec<String> = place.registry.requests().split_off(before).into_iter().map(|request| request.path).collect();
        assert!(sent.len() <= 3 && !sent.iter().any(|sent| sent == path), "{path}: {sent:?}");
    }
    // A path that cannot name a tarball costs no request.
    let before = place.registry.total();
    running.ask(&place.url("/wp-admin/setup/login")).await.is(404);
    assert_eq!(place.registry.total(), before);
    running.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn tarball_path_is_percent_decoded_once() {
    let place = Fixture::new().await;
    let path = format!("/download/@acme/ui/1.0.0/{DIGEST}");
    place.registry.publish(Package::new("@acme/ui", "1.0.0").at_path(&path));
    place.registry.publish(Package::new("tool", "1.0.0").at_path("/files/tool-1.0.0.tgz"));
    place.registry.publish(Package::new("tool", "1.1.0").at_path("/files/tool-1.1.0.tgz").aged(hours(1)));
    place.registry.absent("files");
    let running = place.start(&[]);
    for spelling in [path.replace("@acme/ui", "@acme%2fui"), path.replace('@', "%40"), format!("{path}?cache=no")] {
        running.ask(&place.url(&spelling)).await.is(200);
    }
    for (spelling, status) in [
        ("/files/tool-1.0.0.tgz", 200),
        ("/files/%74ool-1.0.0.tgz?x=1", 200),
        ("/%66iles/tool-1.1.0.tgz", 403),
        ("/files/tool-1.1.0.tgz", 403),
        ("/files/tool-1.1.0.tgz?x", 403),
        ("/files%2ftool-1.1.0.tgz", 403),
    ] {
        assert_eq!(running.ask(&place.url(spelling)).await.status, status, "{spelling}");
    }
    for path in ["/files/%2574ool-1.0.0.tgz", "/files/./tool-1.0.0.tgz", "/x/../files/tool-1.0.0.tgz", "/files//tool-1.0.0.tgz"] {
        let answer = running.ask(&place.url(path)).await;
        assert!(matches!(answer.status, 400 | 404), "{path}: {}", answer.status);
    }
    running.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn private_tarball_url_resolves_only_with_a_token_that_saw_the_packument() {
    let scene = Scene::open().await;
    // The path contains no package name, so only a packument can map it to a package.
    let path = "/blobs/1.0.0/0a1b2c";
    scene.publish(Package::new("secret", "1.0.0").at_path(path).readable_with("token"));
    scene.registry.absent("blobs");
    scene.get("/secret").token("token").await.is(200);
    scene.get(path).token("token").await.is(200);
    scene.get(path).await.is(404);
    scene.get(path).token("other").await.is(404);
}

#[tokio::test]
async fn request_path_may_start_with_upstreams_path() {
    let mut scene = Scene::open().await;
    let prefix = "/artifactory/api/npm/virtual";
    for (version, age) in [("1.0.0", 1_000), ("1.1.0", 1)] {
        let path = format!("{prefix}/left-pad/-/left-pad-{version}.tgz");
        scene.publish(Package::new("left-pad", version).at_path(&path).aged(hours(age)));
    }
    let packument = scene.registry.packument("left-pad").to_string();
    scene.registry.answer(&format!("{prefix}/left-pad"), Reply::json(&packument));
    let upstream = format!("{}{prefix}/", scene.registry.url);
    scene.restart_with("upstream", &upstream).await;
    // npm requests this path when it replaces the host of a lockfile's URLs.
    scene.get(&format!("{prefix}/left-pad/-/left-pad-1.0.0.tgz")).await.is(200);
    scene.get(&format!("{prefix}/left-pad/-/left-pad-1.1.0.tgz")).await.is(403);
    scene.get(&format!("{prefix}/left%2dpad/-/left-pad-1.1.0.tgz")).await.is(403);
    let shown = scene.get("/left-pad").await;
    assert_eq!(shown.versions(), ["1.0.0"]);
    let expected = format!("http://{}/left-pad/-/left-pad-1.0.0.tgz", scene.coldframe.address);
    assert_eq!(tarball_url(&shown, "1.0.0"), expected);
    assert_eq!(scene.get(&format!("{prefix}/left-pad")).await.versions(), ["1.0.0"]);
    scene.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(200);
    scene.ask("PUT", &format!("{prefix}/left-pad")).await.is(404);
    scene.get(&format!("{prefix}{prefix}/left-pad/-/left-pad-1.0.0.tgz")).await.is(404);
}
