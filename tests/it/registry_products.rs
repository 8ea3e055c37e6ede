//! Upstreams shaped like the registries that companies run: prefixes, credentials, redirects, missing times, and refusals of their own.

use serde_json::json;

use crate::fake_response::Reply;
use crate::harness::{Opening, Scene};
use crate::package::{Package, hours};

/// Opens a scene in which `@acme` is served below `prefix`, with more keys of its table.
fn product(prefix: &str, keys: &str) -> Opening {
    Scene::open().file(&format!("[[upstream]]\nurl = \"{{registry}}{prefix}\"\nscopes = [\"@acme\"]\n{keys}"))
}

/// Publishes `@acme/ui@1.0.0` below `prefix`, with its tarball at `tarball`.
fn publish(scene: &Scene, prefix: &str, tarball: &str, with_time: impl Fn(Package) -> Package) {
    let package = with_time(Package::new("@acme/ui", "1.0.0"));
    scene.publish(package.clone());
    let conventional = format!("{}{}", scene.registry.url, package.path());
    let body =
        scene.registry.packument("@acme/ui").to_string().replace(&conventional, &format!("{}{tarball}", scene.registry.url));
    scene.registry.answer(&format!("{prefix}/@acme/ui"), Reply::json(&body));
    scene.registry.answer(tarball, Reply::ok(package.tarball));
}

#[tokio::test]
async fn artifactory_has_basic_credentials_and_a_long_prefix() {
    let prefix = "/artifactory/api/npm/npm-local";
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "pass word\n").unwrap();
    let keys = format!("username = \"ci\"\ntoken-file = \"{}\"\n", token.display());
    let scene = product(prefix, &keys).await;
    publish(&scene, prefix, &format!("{prefix}/@acme/ui/-/@acme/ui-1.0.0.tgz"), |package| package);
    scene.get("/@acme%2fui").await.is(200);
    scene.get("/@acme/ui/-/ui-1.0.0.tgz").await.is(200);
    let sent = |path: &str| scene.registry.last(path).headers.first("authorization").unwrap_or_default().to_owned();
    assert_eq!(sent(&format!("{prefix}/@acme/ui")), "Basic Y2k6cGFzcyB3b3Jk");
    assert_eq!(sent(&format!("{prefix}/@acme/ui/-/@acme/ui-1.0.0.tgz")), "Basic Y2k6cGFzcyB3b3Jk");
}

#[tokio::test]
async fn codeartifact_has_short_lived_tokens_of_a_helper() {
    let prefix = "/npm/main";
    let scene = product(prefix, "token-command = [\"printf\", \"short-lived\\\\n\"]\ntoken-life = \"10h\"\n").await;
    publish(&scene, prefix, &format!("{prefix}/@acme/ui/-/ui-1.0.0.tgz"), |package| package);
    scene.get("/@acme%2fui").await.is(200);
    assert_eq!(scene.registry.last(&format!("{prefix}/@acme/ui")).bearer(), Some("short-lived"));
    // The default upstream has the same host.
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.get("/left-pad").await.is(200);
    assert_eq!(scene.registry.last("/left-pad").bearer(), None);
}

#[tokio::test]
async fn upstream_is_not_asked_without_credentials_that_cannot_be_obtained() {
    let scene = product("/npm/main", "token-command = [\"false\"]\n").await;
    let error = scene.get("/@acme%2fui").await.is(502).error();
    assert!(error.contains("cannot obtain credentials from `false`"), "{error}");
    assert_eq!(scene.registry.total(), 0);
}

#[tokio::test]
async fn github_packages_names_tarballs_by_digest_and_its_firewall_gives_a_reason() {
    let prefix = "/npm";
    let scene = product(prefix, "").await;
    publish(&scene, prefix, "/npm/download/@acme/ui/1.0.0/0123abcd", |package| package);
    scene.get("/@acme%2fui").await.is(200);
    scene.get("/@acme/ui/-/ui-1.0.0.tgz").await.is(200);
    scene.registry.answer("/npm/@acme/blocked", Reply::error(403, "blocked by policy: critical vulnerability"));
    let refused = scene.get("/@acme%2fblocked").await.is(403).error();
    assert!(refused.contains("blocked by policy: critical vulnerability"), "{refused}");
}

#[tokio::test]
async fn gitlab_states_no_times_so_age_counts_from_the_first_look() {
    let prefix = "/api/v4/projects/7/packages/npm";
    let scene = product(prefix, "time = \"first-seen\"\n").await;
    publish(&scene, prefix, &format!("{prefix}/@acme/ui/-/@acme/ui-1.0.0.tgz"), Package::without_time);
    // With the packument, the tarball's own address is known.
    scene.get("/@acme%2fui").await;
    scene.get("/@acme/ui/-/ui-1.0.0.tgz").await.is(403);
    scene.advance(hours(24 * 14));
    scene.get("/@acme/ui/-/ui-1.0.0.tgz").await.is(200);
}

#[tokio::test]
async fn azure_states_false_times_which_first_seen_does_not_believe() {
    let prefix = "/acme/_packaging/feed/npm/registry";
    let scene = product(prefix, "time = \"first-seen\"\n").await;
    let old = |package: Package| package.aged(hours(24 * 900));
    publish(&scene, prefix, &format!("{prefix}/@acme/ui/-/ui-1.0.0.tgz"), old);
    scene.get("/@acme/ui/-/ui-1.0.0.tgz").await.is(403);
    scene.advance(hours(24 * 14));
    scene.get("/@acme/ui/-/ui-1.0.0.tgz").await.is(200);
}

#[tokio::test]
async fn own_packages_can_be_installed_at_once_while_other_rules_apply() {
    let prefix = "/repository/npm-private";
    let scene = product(prefix, "time = \"ignore-age\"\n").await;
    publish(&scene, prefix, &format!("{prefix}/@acme/ui/-/ui-1.0.0.tgz"), |package| package.aged(hours(1)));
    scene.get("/@acme/ui/-/ui-1.0.0.tgz").await.is(200);
    scene.publish(Package::new("left-pad", "1.0.0").aged(hours(1)));
    scene.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(403);
    // A tarball that is not what the packument states is refused whatever its age.
    let package = Package::new("@acme/forged", "1.0.0");
    scene.publish(package.clone());
    let conventional = format!("{}{}", scene.registry.url, package.path());
    let body = scene.registry.packument("@acme/forged").to_string();
    let address = format!("{prefix}/@acme/forged/-/forged-1.0.0.tgz");
    let body = body.replace(&conventional, &format!("{}{address}", scene.registry.url));
    scene.registry.answer(&format!("{prefix}/@acme/forged"), Reply::json(&body));
    scene.registry.answer(&address, Reply::ok("other bytes"));
    assert_ne!(scene.get(&package.path()).await.status, 200);
}

#[tokio::test]
async fn nexus_asks_for_a_login_and_is_believed() {
    let prefix = "/repository/npm-private";
    let scene = product(prefix, "").await;
    scene.registry.answer(&format!("{prefix}/@acme/ui"), Reply::error(401, "authentication required"));
    scene.get("/@acme%2fui").await.is(401);
    let error = json!({ "error": "no such package available" }).to_string();
    scene.registry.answer(&format!("{prefix}/@acme/other"), Reply::json(&error));
    // A 200 without a packument is no packument.
    assert!(scene.get("/@acme%2fother").await.status >= 400);
    assert!(scene.registry.requests().iter().all(|request| request.path.starts_with(prefix)));
}

#[tokio::test]
async fn cloudsmith_redirects_tarballs_to_storage_without_credentials() {
    let prefix = "/acme/main";
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "entitlement").unwrap();
    let scene = product(prefix, &format!("token-file = \"{}\"\n", token.display())).await;
    let tarball = format!("{prefix}/@acme/ui/-/ui-1.0.0.tgz");
    publish(&scene, prefix, &tarball, |package| package);
    scene.registry.answer(&tarball, Reply::redirect(302, "/storage/ui.tgz?signature=x"));
    scene.registry.answer("/storage/ui.tgz", Reply::ok(Package::new("@acme/ui", "1.0.0").tarball));
    scene.get("/@acme/ui/-/ui-1.0.0.tgz").await;
    assert_eq!(scene.registry.last(&tarball).bearer(), Some("entitlement"));
    let storage = scene.registry.requests().into_iter().filter(|request| request.path.starts_with("/storage"));
    assert!(storage.into_iter().all(|request| request.headers.first("authorization").is_none()));
}
