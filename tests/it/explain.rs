//! The explain page: why a version is held, as JSON, text or HTML. Refusals link to it.

use serde_json::{Value, json};

use crate::harness::Scene;
use crate::package::{Package, days, hours};

const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

async fn scene() -> Scene {
    let scene = Scene::open().await;
    for name in ["left-pad", "@acme/ui"] {
        scene.publish(Package::new(name, "1.0.0").aged(days(100)));
        scene.publish(Package::new(name, "1.1.0").aged(hours(1)));
    }
    scene
}

fn page(spec: &str) -> String {
    format!("/-/coldframe/explain/{spec}")
}

async fn explained(scene: &Scene, spec: &str) -> Value {
    scene.get(&page(spec)).accept("application/json").await.is(200).json()
}

#[tokio::test]
async fn a_held_version_is_explained_as_json() {
    let scene = scene().await;
    let explanation = explained(&scene, "left-pad@1.1.0").await;
    assert_eq!(
        (&explanation["verdict"], &explanation["rule"], &explanation["nearest"]),
        (&json!("hold"), &json!("minimum-age"), &json!("1.0.0"))
    );
    assert_eq!(explanation["opens"], json!("2026-04-06T11:00:00Z"));
    assert_eq!(explanation["distTags"], json!([{ "tag": "latest", "upstream": "1.1.0", "here": "1.0.0" }]));
    let outcomes: Vec<_> =
        explanation["rules"].as_array().unwrap().iter().map(|step| step["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == "decides").count(), 1, "{explanation}");
    assert!(explanation["facts"]["integrity"].as_str().unwrap().starts_with("sha512-"), "{explanation}");
    let range = explained(&scene, "left-pad@%5E1").await;
    assert_eq!((&range["version"], &range["asked"]), (&json!("1.1.0"), &json!({ "text": "^1", "given": "1.0.0" })));
    assert_eq!(explained(&scene, "left-pad").await["version"], json!("1.1.0"));
    assert_eq!(explained(&scene, "left-pad@1.0.0").await["verdict"], json!("allow"));
}

#[tokio::test]
async fn terminals_get_text_and_browsers_get_html() {
    let scene = scene().await;
    let text = scene.get(&page("left-pad@1.1.0")).header("user-agent", "curl/8.5.0").accept("*/*").await.is(200);
    assert!(text.header("content-type").starts_with("text/plain"), "{}", text.header("content-type"));
    for part in ["left-pad@1.1.0 is held", "minimum-age", "2026-04-06 11:00 UTC", "left-pad@1.0.0"] {
        assert!(text.text().contains(part), "{part:?} is missing:\n{}", text.text());
    }
    let shown = scene.get(&page("left-pad@1.1.0")).accept(BROWSER).await.is(200);
    assert!(shown.header("content-type").starts_with("text/html"));
    assert!(shown.header("content-security-policy").starts_with("default-src 'none'"));
    assert!(shown.text().contains("<h1>left-pad@1.1.0 is held</h1>"), "{}", shown.text());
    assert_eq!(shown.header("cache-control"), "no-store");
    scene.ask("POST", &page("left-pad")).await.is(405);
}

#[tokio::test]
async fn a_scoped_name_may_have_a_plain_or_an_encoded_slash() {
    let scene = scene().await;
    for spec in ["@acme/ui@1.1.0", "@acme%2fui@1.1.0", "@acme%2Fui@1.1.0", "%40acme%2fui%401.1.0"] {
        assert_eq!(explained(&scene, spec).await["name"], json!("@acme/ui"), "{spec}");
    }
}

#[tokio::test]
async fn hostile_text_is_escaped() {
    let scene = Scene::open().await;
    scene.registry.absent("missing");
    scene.publish(Package::new("left-pad", "1.0.0").aged(hours(1)).tagged("<img src=x onerror=alert(1)>\u{1b}[2J"));
    let shown = scene.get(&page("left-pad")).accept(BROWSER).await.is(200).text();
    assert!(shown.contains("&#60;img src=x onerror=alert(1)&#62;") && !shown.contains("<img"), "{shown}");
    assert!(!shown.contains('\u{1b}'), "{shown}");
    let text = scene.get(&page("left-pad")).header("user-agent", "curl/8.5.0").await.is(200).text();
    assert!(!text.contains('\u{1b}'), "{text}");
    for (spec, status) in
        [("%3Cscript%3E", 400), ("%22%3E", 400), ("..%2f..", 400), ("", 404), ("left-pad@9.9.9", 404), ("missing@1", 404)]
    {
        let refused = scene.get(&page(spec)).accept(BROWSER).await;
        assert_eq!(refused.status, status, "{spec}: {}", refused.text());
        assert!(!refused.text().contains("<script>"), "{}", refused.text());
    }
    scene.get(&page("left-pad@1.0.0%3Cscript%3E")).accept(BROWSER).await.is(404);
}

#[tokio::test]
async fn a_version_is_explained_as_of_another_time() {
    let scene = scene().await;
    scene.get("/left-pad").await.is(200);
    let at = |spec: &str, at: &str| scene.get(&format!("{}?at={at}", page(spec))).accept("application/json");
    let later = at("left-pad@1.1.0", "2026-04-06T11:00Z").await.is(200).json();
    assert_eq!((&later["verdict"], &later["asOf"]), (&json!("allow"), &json!("2026-04-06T11:00:00Z")));
    assert_eq!(at("left-pad@1.1.0", "2026-04-06T10:59Z").await.is(200).json()["verdict"], json!("hold"));
    let before = at("left-pad@1.1.0", "2026-04-01T00:00Z").await.is(404).json();
    assert!(before["error"].as_str().unwrap().contains("2026-04-01 00:00 UTC"), "{before}");
    assert_eq!(at("left-pad", "2026-04-01T00:00Z").await.is(200).json()["version"], json!("1.0.0"));
    at("left-pad", "yesterday").await.is(400);
    assert_eq!(
        explained(&scene, "left-pad@1.1.0").await["verdict"],
        json!("hold"),
        "explaining another time changed the verdict"
    );
}

#[tokio::test]
async fn a_taken_down_version_is_explained() {
    let scene = Scene::open().set("min-release-age", "0s").await;
    scene.publish(Package::new("left-pad", "1.0.0").aged(days(100)));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(1)));
    scene.get("/left-pad").await.is(200);
    scene.advance(hours(3));
    scene.registry.unpublish("left-pad", "1.1.0");
    let explanation = explained(&scene, "left-pad@1.1.0").await;
    assert_eq!(
        (&explanation["verdict"], &explanation["rule"], &explanation["nearest"]),
        (&json!("deny"), &json!("takedown"), &json!("1.0.0"))
    );
    let then = format!("{}?at=2026-04-03T12:00Z", page("left-pad@1.1.0"));
    assert_eq!(scene.get(&then).accept("application/json").await.is(200).json()["verdict"], json!("allow"));
}

#[tokio::test]
async fn only_local_clients_get_explanations_unless_a_setting_allows_all() {
    let closed = scene().await;
    let through_proxy = |scene: &Scene| scene.get(&page("left-pad")).header("via", "1.1 proxy.example");
    let refused = through_proxy(&closed).accept(BROWSER).await.is(403);
    assert!(refused.text().contains("explain-access") && !refused.text().contains("1.1.0"), "{}", refused.text());
    assert_eq!(closed.registry.total(), 0);
    let open = Scene::open().set("explain-access", "all").await;
    open.publish(Package::new("left-pad", "1.0.0"));
    through_proxy(&open).await.is(200);
}

#[tokio::test]
async fn every_refusal_ends_with_the_url_of_its_explanation() {
    let scene = scene().await;
    scene.publish(Package::new("newborn", "1.0.0").aged(hours(1)));
    let base = scene.coldframe.url();
    let version = format!("why: {base}/-/coldframe/explain/left-pad@1.1.0");
    for path in ["/left-pad/-/left-pad-1.1.0.tgz", "/left-pad/1.1.0"] {
        let refused = scene.get(path).npm("11.21.2").await.is(403);
        for text in [&refused.reason, &refused.error(), refused.header("npm-notice")] {
            assert!(text.ends_with(&version) && text.matches("http").count() == 1, "{path}: {text}");
        }
    }
    let error = scene.get("/newborn").await.is(403).error();
    assert!(error.ends_with(&format!("why: {base}/-/coldframe/explain/newborn")), "{error}");
    let packument = scene.get("/left-pad").npm("11.21.2").await.is(200).json();
    let message = packument["policyRestrictions"]["message"].as_str().unwrap();
    assert!(message.ends_with(&format!("\n{version}")) && message.matches("http").count() == 1, "{message}");
    let audit = scene.ask("POST", "/-/npm/v1/security/advisories/bulk").npm("11.21.2").json(&json!({ "left-pad": ["1.0.0"] }));
    let notice = audit.await.header("npm-notice").to_owned();
    assert!(notice.ends_with(&version), "{notice}");
    // The link works.
    let link = version.strip_prefix(&format!("why: {base}")).unwrap();
    scene.get(link).accept(BROWSER).await.is(200);
}

#[tokio::test]
async fn the_explanation_url_has_the_host_that_the_client_used() {
    let scene = scene().await;
    let refused = scene.get("/@acme%2fui/-/ui-1.1.0.tgz").header("host", "box.example:4873").await.is(403).error();
    assert!(refused.ends_with("why: http://box.example:4873/-/coldframe/explain/@acme/ui@1.1.0"), "{refused}");
    let public = Scene::open().set("public-url", "https://npm.example/registry/").await;
    public.publish(Package::new("left-pad", "1.1.0").aged(hours(1)));
    let refused = public.get("/left-pad").await.is(403).error();
    assert!(refused.ends_with("why: https://npm.example/registry/-/coldframe/explain/left-pad"), "{refused}");
}

#[tokio::test]
async fn client_config_returns_age_and_exclusions_to_local_clients() {
    let scene = Scene::open().set("min-release-age", "100h").set("exclude", "@acme/*").await;
    let terms = scene.get("/-/coldframe/client-config").await.is(200).json();
    assert_eq!(terms, json!({ "minimumReleaseAgeSeconds": 360_000, "exclude": ["@acme/*"] }));
    let refused = scene.get("/-/coldframe/client-config").header("via", "1.1 proxy.example").await.is(403).text();
    assert!(!refused.contains("acme"), "{refused}");
}

#[tokio::test]
async fn the_release_whose_tarball_is_compared_is_named() {
    let scene = scene().await;
    scene.publish(Package::new("left-pad", "1.0.1").aged(days(80)).tagged("old"));
    scene.publish(Package::new("newborn", "1.0.0").aged(days(3)));
    for (spec, status, version, text) in [
        ("left-pad@1.1.0", "known", json!("1.0.1"), "1.0.1, whose tarball its own is compared with"),
        ("newborn", "none", Value::Null, "none: no release below it is old enough"),
        ("left-pad@1.0.1", "not-needed", Value::Null, "not needed: no rule judges any more"),
    ] {
        let predecessor = explained(&scene, spec).await["facts"]["predecessor"].clone();
        assert_eq!((&predecessor["status"], &predecessor["version"]), (&json!(status), &version), "{spec}");
        for accept in [BROWSER, "text/plain"] {
            let shown = scene.get(&page(spec)).header("user-agent", "curl/8.5.0").accept(accept).await.is(200).text();
            assert!(shown.contains("predecessor") && shown.contains(text), "{spec}: {shown}");
        }
    }
    let as_of = scene.get(&format!("{}?at=2026-04-06T11:00Z", page("left-pad@1.1.0"))).accept("application/json");
    assert_eq!(as_of.await.is(200).json()["facts"]["predecessor"], Value::Null);
}
