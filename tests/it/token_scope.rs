//! A token with a scope gets nothing outside it, by any endpoint and any spelling of a name.

use coldframe::policy::Role;
use serde_json::json;

use crate::fake_response::Reply;
use crate::harness::Scene;
use crate::package::Package;
use crate::tokens::create;

const BULK: &str = "/-/npm/v1/security/advisories/bulk";

async fn scene() -> (Scene, String) {
    let scene =
        Scene::open().set("require-auth", "true").set("allow-writes", "true").npmrc("//{place}/:_authToken=configured\n").await;
    for name in ["@acme/ui", "@acme-evil/ui", "left-pad"] {
        scene.publish(Package::new(name, "1.0.0").readable_with("configured"));
    }
    let token = create(&scene, "ci-web", Role::Admin, &["@acme/*"], None).await;
    (scene, token)
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_in_scope_are_served() {
    let (scene, token) = scene().await;
    for path in [
        "/@acme%2fui",
        "/@acme/ui",
        "/@acme%2Fui/latest",
        "/@acme/ui/-/ui-1.0.0.tgz",
        "/@acme%2fui/-/ui-1.0.0.tgz",
        "/-/package/@acme%2fui/dist-tags",
        "/-/coldframe/explain/@acme/ui",
        "/-/coldframe/metrics",
    ] {
        scene.get(path).token(&token).await.is(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_outside_the_scope_are_refused_by_every_spelling() {
    let (scene, token) = scene().await;
    for path in [
        "/left-pad",
        "/left%2dpad",
        "/%6ceft-pad",
        "/left-pad/latest",
        "/left-pad/1.0.0",
        "/left-pad/%5E1",
        "/left-pad/-/left-pad-1.0.0.tgz",
        "/%6ceft-pad/-/left-pad-1.0.0.tgz",
        "/download/left-pad/1.0.0/abcdef0123456789abcdef0123456789abcdef01",
        "/some/prefix/left-pad/-/left-pad-1.0.0.tgz",
        "/files/left-pad-1.0.0.tgz",
        "/-/package/left-pad/dist-tags",
        "/-/npm/v1/attestations/left-pad@1.0.0",
        "/@acme-evil%2fui",
        "/@acme-evil/ui",
        "/@ACME%2fui",
        "/@acme-evil/ui/-/ui-1.0.0.tgz",
        "/-/coldframe/explain/left-pad",
        "/-/coldframe/explain/@acme-evil%2fui@1.0.0",
    ] {
        for method in ["GET", "HEAD"] {
            let refused = scene.ask(method, path).token(&token).await.is(403);
            if method == "GET" {
                assert!(refused.error().contains("outside the scope of the access token ci-web: @acme/*"), "{path}: {refused:?}");
            }
        }
    }
    // What two parsers may read differently is no name at all.
    for path in ["/@acme/../left-pad", "/@acme/%2e%2e/left-pad", "/@acme%2f..%2fleft-pad", "/@acme%252fui", "/@acme\\left-pad"] {
        scene.get(path).token(&token).await.is(400);
    }
    assert_eq!(scene.registry.total(), 0, "nothing was fetched, and nothing lent");
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_and_audits_and_searches_are_limited_to_the_scope() {
    let (scene, token) = scene().await;
    let checked = json!({ "packages": [{ "name": "@acme/ui", "version": "1.0.0" }, { "name": "left-pad", "version": "1.0.0" }] });
    let answer = scene.ask("POST", "/-/coldframe/check").token(&token).json(&checked).await.is(200).json();
    assert_eq!(answer["packages"][0]["outcome"], "allow", "{answer}");
    assert!(answer["packages"][1].to_string().contains("outside the scope"), "{answer}");
    scene.registry.answer(BULK, Reply::json("{}"));
    let audit = |body: serde_json::Value| scene.ask("POST", BULK).token(&token).json(&body).gzip_body();
    audit(json!({ "@acme/ui": ["1.0.0"] })).await.is(200);
    let sent = scene.registry.count(BULK);
    for body in [json!({ "@acme/ui": ["1.0.0"], "left-pad": ["1.0.0"] }), json!({ "left-pad": [] }), json!({ "": [] }), json!([])]
    {
        audit(body).await.is(403);
    }
    let tree = json!({ "name": "app", "dependencies": { "@acme/ui": { "version": "1.0.0", "dependencies": { "left-pad": { "version": "1.0.0" } } } } });
    scene.ask("POST", "/-/npm/v1/security/audits").token(&token).json(&tree).await.is(403);
    assert_eq!(scene.registry.count(BULK), sent);
    let found = scene.get("/-/v1/search?text=").token(&token).await.is(200).json();
    let names: Vec<_> = found["objects"].as_array().unwrap().iter().map(|object| object["package"]["name"].clone()).collect();
    assert!(names.iter().all(|name| name == "@acme/ui") && found["total"] == names.len(), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dependencies_outside_the_scope_are_not_prefetched() {
    let (scene, token) = scene().await;
    scene.publish(Package::new("@acme/app", "1.0.0").readable_with("configured").depends_on("left-pad", "1"));
    scene.get("/@acme%2fapp").npm("11.21.2").token(&token).await.is(200);
    scene.get("/@acme%2fui").npm("11.21.2").token(&token).await.is(200);
    assert_eq!(scene.registry.count("/left-pad"), 0);
}
