//! Credentials from `.npmrc` are sent only to URLs below the one they are configured for, even if a manifest or a redirect
//! names another URL.

use crate::fake_response::Reply;
use crate::harness::Scene;
use crate::package::Package;

/// Opens a scene on a registry below `/npm/` with a token, and another token for the tarballs of project 7.
async fn scene() -> Scene {
    let npmrc = "//{place}/npm/:_authToken=for-npm\n//{place}/projects/7/:_authToken=for-project\n";
    Scene::open().set("upstream", "{registry}/npm").npmrc(npmrc).await
}

/// Publishes a package whose tarball is at `path`; `decoded` is the path that the registry receives.
fn publish(scene: &Scene, name: &str, path: &str, decoded: &str) {
    let package = Package::new(name, "1.0.0");
    scene.publish(package.clone());
    let conventional = format!("{}{}", scene.registry.url, package.path());
    let packument = scene.registry.packument(name).to_string();
    let body = packument.replace(&conventional, &format!("{}{path}", scene.registry.url));
    scene.registry.answer(&format!("/npm/{name}"), Reply::json(&body));
    scene.registry.answer(decoded, Reply::ok(package.tarball));
}

#[tokio::test]
async fn a_manifest_that_names_another_path_of_the_host_does_not_get_the_token() {
    let scene = scene().await;
    for (number, (path, decoded)) in [
        ("/other/a.tgz", "/other/a.tgz"),
        ("/npm-evil/a.tgz", "/npm-evil/a.tgz"),
        ("/NPM/a.tgz", "/NPM/a.tgz"),
        ("/npm/../evil/a.tgz", "/evil/a.tgz"),
        ("/npm/%2e%2e/evil/b.tgz", "/evil/b.tgz"),
        ("/npm/..%2fevil/a.tgz", "/npm/../evil/a.tgz"),
        ("/npm/%2e%2e%2fevil/b.tgz", "/npm/../evil/b.tgz"),
        ("/npm/..%5cevil/a.tgz", "/npm/..\\evil/a.tgz"),
        ("/npm/%252e%252e%252fevil/a.tgz", "/npm/%2e%2e%2fevil/a.tgz"),
        ("/npm/..;/evil/a.tgz", "/npm/..;/evil/a.tgz"),
        ("/projects/77/a.tgz", "/projects/77/a.tgz"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("ui-{number}");
        publish(&scene, &name, path, decoded);
        scene.get(&format!("/{name}")).await.is(200);
        scene.get(&format!("/{name}/-/{name}-1.0.0.tgz")).await;
        assert_eq!(scene.registry.last(&format!("/npm/{name}")).bearer(), Some("for-npm"));
        let sent = scene.registry.requests().into_iter().filter(|request| request.path == decoded);
        assert!(sent.into_iter().all(|request| request.headers.first("authorization").is_none()), "{path}");
    }
}

#[tokio::test]
async fn a_tarball_path_with_its_own_token_gets_that_token() {
    let scene = scene().await;
    publish(&scene, "ui", "/projects/7/ui.tgz", "/projects/7/ui.tgz");
    scene.get("/ui").await.is(200);
    scene.get("/ui/-/ui-1.0.0.tgz").await.is(200);
    assert_eq!(scene.registry.last("/npm/ui").bearer(), Some("for-npm"));
    assert_eq!(scene.registry.last("/projects/7/ui.tgz").bearer(), Some("for-project"));
}

#[tokio::test]
async fn a_redirect_gets_the_token_of_its_target_or_none() {
    let scene = scene().await;
    for (number, (target, token)) in [
        ("/projects/7/a.tgz", Some("for-project")),
        ("/projects/8/a.tgz", None),
        ("/npm/b.tgz", Some("for-npm")),
        ("/npmx/a.tgz", None),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("ui-{number}");
        publish(&scene, &name, &format!("/npm/{name}.tgz"), &format!("/npm/{name}.tgz"));
        scene.registry.answer(&format!("/npm/{name}.tgz"), Reply::redirect(302, &format!("{}{target}", scene.registry.url)));
        scene.registry.answer(target, Reply::ok(Package::new(&name, "1.0.0").tarball));
        scene.get(&format!("/{name}")).await.is(200);
        scene.get(&Package::new(&name, "1.0.0").path()).await.is(200);
        assert_eq!(scene.registry.last(target).bearer(), token, "{target}");
    }
    // A packument's redirect follows the same rule.
    scene.registry.answer("/npm/moved", Reply::redirect(301, "/elsewhere/moved"));
    scene.publish(Package::new("moved", "1.0.0"));
    scene.registry.answer("/elsewhere/moved", Reply::json(&scene.registry.packument("moved").to_string()));
    scene.get("/moved").await.is(200);
    assert_eq!(scene.registry.last("/elsewhere/moved").bearer(), None);
}
