//! Signals: what a release changed. The attacks are built as packuments; none is real malware.

use serde_json::{Value, json};

use crate::package::{Package, days, hours, minutes};
use crate::reply::Reply;
use crate::scene::Scene;

/// A release that the project's CI published with provenance.
fn from_ci(name: &str, version: &str) -> Package {
    Package::new(name, version)
        .field("_npmUser", json!({"name": "GitHub Actions", "email": "ci@x.example", "trustedPublisher": {"id": "github"}}))
        .field("gitHead", "c0ffee")
        .depends_on("follow-redirects", "^1.15.0")
        .dist("signatures", json!([{"keyid": "k", "sig": "s"}]))
        .dist("attestations", json!({"url": "https://registry.example/a", "provenance": {"predicateType": "p"}}))
}

/// A release that a person published by hand.
fn by_hand(name: &str, version: &str) -> Package {
    Package::new(name, version)
        .field("_npmUser", json!({"name": "jasonsaayman", "email": "x@proton.example"}))
        .depends_on("follow-redirects", "^1.15.0")
        .dist("signatures", json!([{"keyid": "k", "sig": "s"}]))
}

/// Publishes the history of axios up to the hijack, and the hijack itself `age` hours ago: two release lines within 39 minutes,
/// both with a dependency whose package began 18 hours before.
fn publish_axios(scene: &Scene, age: u64) {
    for (version, age) in [("0.30.3", 200), ("1.12.0", 180), ("1.13.0", 120), ("1.14.0", 60)] {
        scene.publish(from_ci("axios", version).aged(days(age)));
    }
    scene.publish(Package::new("plain-crypto-js", "4.2.0").aged(hours(age + 18)));
    scene.publish(Package::new("plain-crypto-js", "4.2.1").aged(hours(age)).script("postinstall", "node setup.js"));
    scene.publish(by_hand("axios", "1.14.1").depends_on("plain-crypto-js", "^4.2.1").aged(hours(age)));
    scene.publish(by_hand("axios", "0.30.4").depends_on("plain-crypto-js", "^4.2.1").aged(minutes(60 * age - 39)).untagged());
}

async fn explain(scene: &Scene, spec: &str) -> Value {
    scene.get(&format!("/-/coldframe/explain/{spec}")).accept("application/json").await.is(200).json()
}

fn names(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect()
}

#[tokio::test]
async fn hijacked_axios_stays_hidden_past_its_minimum_age_without_any_feed() {
    let scene = Scene::open().await;
    publish_axios(&scene, 96);
    assert_eq!(scene.get("/axios").await.versions(), ["0.30.3", "1.12.0", "1.13.0", "1.14.0"]);
    let refused = scene.get("/axios/-/axios-1.14.1.tgz").await.is(403).error();
    for part in [
        "rule strong-signal",
        "provenance-lost (no provenance, before: provenance in all 4 releases of the year before)",
        "newborn-dependency (plain-crypto-js, first published 2026-03-29 18:00 UTC)",
    ] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    let facts = &explain(&scene, "axios@1.14.1").await["facts"];
    let expected = [
        "provenance-lost",
        "trusted-publisher-lost",
        "newborn-dependency",
        "new-publisher",
        "new-dependency",
        "release-burst",
        "commit-lost",
    ];
    assert_eq!(names(&facts["signals"]), expected);
    let evidence = json!({"signal": "new-publisher", "old": "GitHub Actions", "new": "jasonsaayman"});
    assert!(facts["evidence"].as_array().unwrap().contains(&evidence), "{facts}");
    scene.advance(days(11));
    assert!(scene.get("/axios").await.versions().contains(&"1.14.1".to_owned()), "signals hold for 14 days");
}

#[tokio::test]
async fn next_release_of_an_attacker_shows_the_same_signals() {
    let scene = Scene::open().await;
    publish_axios(&scene, 96);
    scene.publish(by_hand("axios", "1.14.2").depends_on("plain-crypto-js", "^4.2.1").aged(hours(80)));
    // Unpublishing the first one changes nothing.
    for _ in 0..2 {
        let facts = explain(&scene, "axios@1.14.2").await["facts"].clone();
        assert!(names(&facts["signals"]).starts_with(&["provenance-lost", "trusted-publisher-lost", "newborn-dependency"]));
        assert_eq!(scene.get("/axios").await.versions().last().map(String::as_str), Some("1.14.0"));
        scene.registry.unpublish("axios", "1.14.1");
        scene.advance(minutes(6));
    }
}

#[tokio::test]
async fn established_dependency_is_only_a_weak_signal() {
    let scene = Scene::open().await;
    scene.publish(from_ci("demo", "1.0.0").aged(days(60)));
    scene.publish(from_ci("demo", "1.1.0").depends_on("left-pad", "^1.0.0").aged(days(4)));
    scene.publish_old("left-pad", &["1.0.0"]);
    assert_eq!(scene.get("/demo").await.versions(), ["1.0.0", "1.1.0"]);
    assert_eq!(names(&explain(&scene, "demo@1.1.0").await["facts"]["signals"]), ["new-dependency"]);
    scene.get("/demo/-/demo-1.1.0.tgz").await.is(200);
}

#[tokio::test]
async fn release_waits_while_its_new_dependency_cannot_be_looked_up() {
    let scene = Scene::open().await;
    scene.publish(from_ci("demo", "1.0.0").aged(days(60)));
    scene.publish(from_ci("demo", "1.1.0").depends_on("left-pad", "^1.0.0").aged(days(4)));
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.registry.answer("/left-pad", Reply::status(503));
    assert_eq!(scene.get("/demo").await.versions(), ["1.0.0"]);
    let refused = scene.get("/demo/-/demo-1.1.0.tgz").await.is(403).error();
    assert!(refused.contains("newborn-dependency is not decided yet"), "{refused}");
    scene.registry.clear_answer("/left-pad");
    scene.advance(minutes(6));
    assert_eq!(scene.get("/demo").await.versions(), ["1.0.0", "1.1.0"]);
}

#[tokio::test]
async fn dependency_that_does_not_exist_counts_as_newborn() {
    let scene = Scene::open().await;
    scene.publish(from_ci("demo", "1.0.0").aged(days(60)));
    scene.publish(from_ci("demo", "1.1.0").depends_on("not-yet-there", "^1.0.0").aged(days(4)));
    scene.registry.absent("not-yet-there");
    assert_eq!(scene.get("/demo").await.versions(), ["1.0.0"]);
    let facts = explain(&scene, "demo@1.1.0").await["facts"].clone();
    assert_eq!(facts["evidence"][1]["new"], "not-yet-there, which does not exist");
}

#[tokio::test]
async fn dependency_that_gains_install_scripts_counts_even_if_it_is_old() {
    let scene = Scene::open().await;
    scene.publish(from_ci("demo", "1.0.0").aged(days(60)));
    scene.publish(from_ci("demo", "1.1.0").depends_on("native", "^1.0.0").aged(days(4)));
    scene.publish(Package::new("native", "1.0.0").script("install", "node-gyp rebuild"));
    assert_eq!(scene.get("/demo").await.versions(), ["1.0.0"]);
}

#[tokio::test]
async fn lockstep_subpackages_are_no_new_dependencies() {
    let scene = Scene::open().await;
    scene.publish(from_ci("esbuild", "0.24.0").aged(days(60)));
    let pins = json!({"@esbuild/openharmony-arm64": "0.25.0"});
    scene.publish(from_ci("esbuild", "0.25.0").field("optionalDependencies", pins).aged(days(4)));
    assert_eq!(scene.get("/esbuild").await.versions(), ["0.24.0", "0.25.0"]);
    assert_eq!(names(&explain(&scene, "esbuild@0.25.0").await["facts"]["signals"]), [""; 0]);
}

#[tokio::test]
async fn upstream_without_publishers_is_named_and_hides_nothing() {
    let scene = Scene::open().await;
    scene.publish(Package::new("demo", "1.0.0").aged(days(60)));
    scene.publish(Package::new("demo", "1.1.0").aged(days(4)));
    for version in ["1.0.0", "1.1.0"] {
        let version = version.to_owned();
        scene.registry.edit("demo", move |packument| {
            let manifest = packument["versions"][&version].as_object_mut().unwrap();
            manifest.remove("_npmUser");
            manifest.remove("maintainers");
        });
    }
    assert_eq!(scene.get("/demo").await.versions(), ["1.0.0", "1.1.0"]);
    let facts = explain(&scene, "demo@1.1.0").await["facts"].clone();
    assert!(names(&facts["signalsNotObservable"]).contains(&"new-publisher"), "{facts}");
}
