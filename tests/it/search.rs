//! Search: results are filtered by cached verdicts and by the dates in the results, without fetching packuments.

use crate::harness::Scene;
use crate::package::{Package, days, hours};

/// Names and versions in a search result.
fn found(answer: &crate::raw_http::Response) -> Vec<(String, String)> {
    let objects = answer.json()["objects"].as_array().unwrap().clone();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    objects.iter().map(|object| (text(&object["package"]["name"]), text(&object["package"]["version"]))).collect()
}

#[tokio::test]
async fn old_package_is_found_and_query_is_passed_upstream() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0").aged(days(30)));
    let answer = scene.get("/-/v1/search?text=left&size=20").await.is(200);
    assert_eq!(found(&answer), [("left-pad".to_owned(), "1.0.0".to_owned())]);
    assert_eq!(scene.registry.last("/-/v1/search").target, "/-/v1/search?text=left&size=20");
}

#[tokio::test]
async fn held_version_is_not_in_the_result() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0").aged(days(30)));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(1)));
    scene.publish(Package::new("left-newborn", "1.0.0").aged(hours(1)));
    let answer = scene.get("/-/v1/search?text=left").await.is(200);
    assert!(!answer.text().contains("1.1.0"), "{}", answer.text());
    assert!(found(&answer).iter().all(|(name, version)| name != "left-newborn" && version != "1.1.0"), "{}", answer.text());
    assert_eq!(scene.registry.total(), 1, "a search must fetch no packuments");
}

#[tokio::test]
async fn known_package_is_listed_with_its_visible_version() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0").aged(days(30)));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(1)));
    scene.get("/left-pad").await.is(200);
    let answer = scene.get("/-/v1/search?text=left").await.is(200);
    assert!(!answer.text().contains("1.1.0"), "{}", answer.text());
    assert!(found(&answer).iter().all(|(_, version)| version == "1.0.0"), "{}", answer.text());
}

#[tokio::test]
async fn failed_upstream_search_is_reported() {
    let scene = Scene::open().await;
    scene.registry.answer("/-/v1/search", crate::fake_response::Reply::error(503, "the index is being built"));
    let answer = scene.get("/-/v1/search?text=left").await;
    assert!(answer.status >= 400 && !answer.error().is_empty(), "{} {}", answer.status, answer.text());
}

#[tokio::test]
async fn unreadable_results_are_not_passed_on() {
    let scene = Scene::open().await;
    for body in ["<html>left-pad 1.1.0</html>", "[]", r#"{"objects":{"left-pad":"1.1.0"}}"#] {
        scene.registry.answer("/-/v1/search", crate::fake_response::Reply::json(body));
        let answer = scene.get("/-/v1/search?text=left").await.is(502);
        assert!(!answer.text().contains("1.1.0") && !answer.error().is_empty(), "{}", answer.text());
    }
}

/// The date 30 days before the scene's time.
fn month_ago(scene: &Scene) -> String {
    coldframe::units::timestamp::saturating_sub(coldframe::clock::Clock::now(&scene.clock), days(30)).to_string()
}

/// A search result with `version` in every field where a registry may write it.
fn result_naming(version: &str, date: &str) -> String {
    let words = format!("about {version}");
    let package = serde_json::json!({
        "name": "left-pad",
        "version": version,
        "date": date,
        "description": words,
        "keywords": [words],
        "links": {"homepage": format!("https://pad.example/{version}"), "repository": words},
        "author": {"name": words},
        "publisher": {"username": words},
        "maintainers": [{"username": "ada"}, {"username": words}],
        "license": words,
        "dist-tags": {"latest": version},
        "versions": [version],
        "readme": words,
    });
    let score = serde_json::json!({"final": 1.0, "detail": {"quality": 1.0, "of": version}});
    let objects =
        serde_json::json!([{"package": package, "score": score, "flags": {version: true}, "updated": version, "dependents": 7}]);
    serde_json::json!({"objects": objects, "total": 1, "time": "now", "aggregations": {version: 1}}).to_string()
}

#[tokio::test]
async fn no_result_field_reveals_a_hidden_version() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0").aged(days(30)));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(1)));
    scene.get("/left-pad").await.is(200);
    let old = month_ago(&scene);
    scene.registry.answer("/-/v1/search", crate::fake_response::Reply::json(&result_naming("1.1.0", &old)));
    let answer = scene.get("/-/v1/search?text=left").await.is(200);
    assert!(!answer.text().contains("1.1.0"), "{}", answer.text());
    assert_eq!(found(&answer), [("left-pad".to_owned(), "1.0.0".to_owned())]);
    // The index may name the visible version and describe the hidden `latest`.
    let mixed = result_naming("1.1.0", &old).replace(r#""version":"1.1.0""#, r#""version":"1.0.0""#);
    scene.registry.answer("/-/v1/search", crate::fake_response::Reply::json(&mixed));
    let answer = scene.get("/-/v1/search?text=left").await.is(200);
    assert!(!answer.text().contains("1.1.0"), "{}", answer.text());
    assert_eq!(found(&answer), [("left-pad".to_owned(), "1.0.0".to_owned())]);
}

#[tokio::test]
async fn result_for_visible_version_keeps_only_fields_that_clients_show() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0").aged(days(30)));
    scene.registry.answer("/-/v1/search", crate::fake_response::Reply::json(&result_naming("1.0.0", &month_ago(&scene))));
    let answer = scene.get("/-/v1/search?text=left").await.is(200).json();
    let object = &answer["objects"][0];
    assert_eq!(object["package"]["description"], "about 1.0.0");
    assert_eq!(object["package"]["links"]["homepage"], "https://pad.example/1.0.0");
    assert_eq!((&object["dependents"], &answer["total"]), (&7.into(), &1.into()));
    for member in ["dist-tags", "versions", "readme"] {
        assert!(object["package"].get(member).is_none(), "{member}: {answer}");
    }
    for (parent, member) in
        [(object, "flags"), (object, "updated"), (&answer, "aggregations"), (&object["score"]["detail"], "of")]
    {
        assert!(parent.get(member).is_none(), "{member}: {answer}");
    }
}
