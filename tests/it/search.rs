//! Search: filtered from what is known and from the dates in the results, never by fetching packuments.

use crate::package::{Package, days, hours};
use crate::scene::Scene;

fn found(answer: &crate::wire::Response) -> Vec<(String, String)> {
    let objects = answer.json()["objects"].as_array().unwrap().clone();
    let told = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    objects.iter().map(|object| (told(&object["package"]["name"]), told(&object["package"]["version"]))).collect()
}

#[tokio::test]
async fn what_is_old_is_found_and_the_query_arrives_upstream() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0").aged(days(30)));
    let answer = scene.get("/-/v1/search?text=left&size=20").await.is(200);
    assert_eq!(found(&answer), [("left-pad".to_owned(), "1.0.0".to_owned())]);
    assert_eq!(scene.registry.last("/-/v1/search").target, "/-/v1/search?text=left&size=20");
}

#[tokio::test]
async fn a_young_version_is_not_named() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0").aged(days(30)));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(1)));
    scene.publish(Package::new("left-newborn", "1.0.0").aged(hours(1)));
    let answer = scene.get("/-/v1/search?text=left").await.is(200);
    assert!(!answer.text().contains("1.1.0"), "{}", answer.text());
    assert!(found(&answer).iter().all(|(name, version)| name != "left-newborn" && version != "1.1.0"), "{}", answer.text());
    assert_eq!(scene.registry.total(), 1, "a search fetches no packuments");
}

#[tokio::test]
async fn a_known_package_is_shown_with_the_version_that_is_visible() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0").aged(days(30)));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(1)));
    scene.get("/left-pad").await.is(200);
    let answer = scene.get("/-/v1/search?text=left").await.is(200);
    assert!(!answer.text().contains("1.1.0"), "{}", answer.text());
    assert!(found(&answer).iter().all(|(_, version)| version == "1.0.0"), "{}", answer.text());
}

#[tokio::test]
async fn a_search_that_fails_upstream_says_so() {
    let scene = Scene::open().await;
    scene.registry.answer("/-/v1/search", crate::reply::Reply::error(503, "the index is being built"));
    let answer = scene.get("/-/v1/search?text=left").await;
    assert!(answer.status >= 400 && !answer.error().is_empty(), "{} {}", answer.status, answer.text());
}

#[tokio::test]
async fn results_that_cannot_be_read_are_not_passed_on() {
    let scene = Scene::open().await;
    for body in ["<html>left-pad 1.1.0</html>", "[]", r#"{"objects":{"left-pad":"1.1.0"}}"#] {
        scene.registry.answer("/-/v1/search", crate::reply::Reply::json(body));
        let answer = scene.get("/-/v1/search?text=left").await.is(502);
        assert!(!answer.text().contains("1.1.0") && !answer.error().is_empty(), "{}", answer.text());
    }
}

/// A date thirty days ago.
fn then(scene: &Scene) -> String {
    coldframe::units::timestamp::saturating_sub(coldframe::clock::Clock::now(&scene.clock), days(30)).to_string()
}

/// A result that names a version wherever a registry may write one.
fn told(version: &str, date: &str) -> String {
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
async fn no_field_of_a_result_says_anything_of_a_hidden_version() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0").aged(days(30)));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(1)));
    scene.get("/left-pad").await.is(200);
    let old = then(&scene);
    scene.registry.answer("/-/v1/search", crate::reply::Reply::json(&told("1.1.0", &old)));
    let answer = scene.get("/-/v1/search?text=left").await.is(200);
    assert!(!answer.text().contains("1.1.0"), "{}", answer.text());
    assert_eq!(found(&answer), [("left-pad".to_owned(), "1.0.0".to_owned())]);
    // The index may name the visible version and describe the hidden `latest`.
    let mixed = told("1.1.0", &old).replace(r#""version":"1.1.0""#, r#""version":"1.0.0""#);
    scene.registry.answer("/-/v1/search", crate::reply::Reply::json(&mixed));
    let answer = scene.get("/-/v1/search?text=left").await.is(200);
    assert!(!answer.text().contains("1.1.0"), "{}", answer.text());
    assert_eq!(found(&answer), [("left-pad".to_owned(), "1.0.0".to_owned())]);
}

#[tokio::test]
async fn a_result_for_a_visible_version_keeps_what_clients_show_and_nothing_else() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0").aged(days(30)));
    scene.registry.answer("/-/v1/search", crate::reply::Reply::json(&told("1.0.0", &then(&scene))));
    let answer = scene.get("/-/v1/search?text=left").await.is(200).json();
    let object = &answer["objects"][0];
    assert_eq!(object["package"]["description"], "about 1.0.0");
    assert_eq!(object["package"]["links"]["homepage"], "https://pad.example/1.0.0");
    assert_eq!((&object["dependents"], &answer["total"]), (&7.into(), &1.into()));
    for member in ["dist-tags", "versions", "readme"] {
        assert!(object["package"].get(member).is_none(), "{member}: {answer}");
    }
    for (of, member) in [(object, "flags"), (object, "updated"), (&answer, "aggregations"), (&object["score"]["detail"], "of")] {
        assert!(of.get(member).is_none(), "{member}: {answer}");
    }
}
