//! Signals: what a release changed. The attacks are built as packuments; none is real malware.

use serde_json::{Value, json};

use crate::fake_response::Reply;
use crate::harness::Scene;
use crate::package::{Package, days, hours, minutes};

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
    scene.publish(from_ci("@esbuild/openharmony-arm64", "0.25.0").aged(days(4)));
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

/// Publishes a clean release and one with an install script, both of last year, and four days ago a third with the same script.
fn publish_after_malware(scene: &Scene) {
    scene.publish(Package::new("demo", "1.0.0").aged(days(500)));
    scene.publish(Package::new("demo", "1.1.0").aged(days(400)).script("postinstall", "node setup.js"));
    scene.publish(Package::new("demo", "1.1.1").aged(days(4)).script("postinstall", "node setup.js"));
}

async fn shows_first_script(scene: &Scene) -> bool {
    names(&explain(scene, "demo@1.1.1").await["facts"]["signals"]).contains(&"first-install-script")
}

#[tokio::test]
async fn release_that_a_feed_denies_is_no_precedent_however_old_it_is() {
    let feed = tempfile::TempDir::new().unwrap();
    let record = json!({ "id": "MAL-1", "modified": "2026-04-01T00:00:00Z", "summary": "Malicious code",
                         "affected": [{ "package": { "ecosystem": "npm", "name": "demo" }, "versions": ["1.1.0"] }] });
    std::fs::write(feed.path().join("MAL-1.json"), record.to_string()).unwrap();
    let scene = Scene::open().set("feed", feed.path().to_str().unwrap()).await;
    publish_after_malware(&scene);
    assert_eq!(scene.get("/demo").await.versions(), ["1.0.0"]);
    assert!(shows_first_script(&scene).await);
    // Without the feed's record, the script of last year would be a precedent.
    scene.registry.tag("demo", "latest", "1.1.0");
    scene.advance(days(1));
    assert!(shows_first_script(&scene).await, "re-tagging clears nothing");
    scene.registry.unpublish("demo", "1.1.0");
    scene.advance(days(1));
    assert!(shows_first_script(&scene).await, "unpublishing clears nothing");
    assert_eq!(scene.get("/demo").await.versions(), ["1.0.0"]);
}

#[tokio::test]
async fn release_that_is_not_denied_is_a_precedent_after_its_window() {
    let scene = Scene::open().await;
    publish_after_malware(&scene);
    assert!(!shows_first_script(&scene).await);
    assert_eq!(scene.get("/demo").await.versions(), ["1.0.0", "1.1.0", "1.1.1"]);
}

#[tokio::test]
async fn release_that_a_rule_denies_is_no_precedent() {
    let folder = tempfile::TempDir::new().unwrap();
    let rule = "include = [\"default\"]\n[[rule]]\nid = \"bad\"\ndeny = true\npackages = [\"demo\"]\nversions = \"1.1.0\"\nreason = \"x\"\n";
    let path = folder.path().join("rules.toml");
    std::fs::write(&path, rule).unwrap();
    let scene = Scene::open().set("policy", path.to_str().unwrap()).await;
    publish_after_malware(&scene);
    assert_eq!(scene.get("/demo").await.versions(), ["1.0.0"]);
    assert!(shows_first_script(&scene).await);
}

#[tokio::test]
async fn back_dated_release_is_no_precedent() {
    let scene = Scene::open().await;
    scene.publish(Package::new("demo", "1.0.0").aged(days(500)));
    assert_eq!(scene.get("/demo").await.versions(), ["1.0.0"]);
    scene.advance(hours(1));
    // Both appear now. The first states that it is a year old.
    scene.publish(Package::new("demo", "1.1.0").aged(days(400)).script("postinstall", "node setup.js"));
    scene.publish(Package::new("demo", "1.1.1").script("postinstall", "node setup.js"));
    scene.advance(days(4));
    assert_eq!(scene.get("/demo").await.versions(), ["1.0.0"]);
    assert!(shows_first_script(&scene).await);
}

#[tokio::test]
async fn alias_of_a_known_dependency_is_a_new_dependency() {
    let scene = Scene::open().await;
    scene.publish(from_ci("demo", "1.0.0").depends_on("form-data", "^4.0.0").aged(days(60)));
    scene.publish(from_ci("demo", "1.1.0").depends_on("form-data", "npm:plain-crypto-js@^4.2.1").aged(days(4)));
    scene.publish(Package::new("plain-crypto-js", "4.2.1").aged(days(5)));
    assert_eq!(scene.get("/demo").await.versions(), ["1.0.0"]);
    let evidence = explain(&scene, "demo@1.1.0").await["facts"]["evidence"].clone();
    assert!(evidence.to_string().contains("plain-crypto-js, first published"), "{evidence}");
}

#[tokio::test]
async fn peer_dependency_is_looked_up_because_npm_installs_it() {
    let scene = Scene::open().await;
    scene.publish(from_ci("demo", "1.0.0").aged(days(60)));
    let peers = json!({"plain-crypto-js": "^4.2.1"});
    scene.publish(from_ci("demo", "1.1.0").field("peerDependencies", peers).aged(days(4)));
    scene.publish(Package::new("plain-crypto-js", "4.2.1").aged(days(5)));
    assert_eq!(scene.get("/demo").await.versions(), ["1.0.0"]);
}

#[tokio::test]
async fn unpublishing_one_line_of_a_burst_clears_nothing() {
    let scene = Scene::open().await;
    publish_axios(&scene, 96);
    scene.get("/axios").await.is(200);
    scene.registry.unpublish("axios", "0.30.4");
    scene.advance(minutes(6));
    assert!(names(&explain(&scene, "axios@1.14.1").await["facts"]["signals"]).contains(&"release-burst"));
}

/// A part of `rolldown`, and the release that pins it exactly.
fn publish_parts(scene: &Scene, parent: std::time::Duration, child: std::time::Duration) {
    scene.publish(Package::new("@rolldown/binding-x", "1.0.0").aged(days(400)));
    scene.publish(
        Package::new("rolldown", "1.0.0").field("optionalDependencies", json!({"@rolldown/binding-x": "1.0.0"})).aged(days(400)),
    );
    scene.publish(Package::new("@rolldown/binding-x", "1.1.0").aged(child));
    scene.publish(
        Package::new("rolldown", "1.1.0").field("optionalDependencies", json!({"@rolldown/binding-x": "1.1.0"})).aged(parent),
    );
}

#[tokio::test]
async fn version_opens_with_the_exact_siblings_that_it_needs() {
    let scene = Scene::open().await;
    // The child was published 88 minutes after its parent.
    publish_parts(&scene, minutes(72 * 60 + 10), minutes(72 * 60 + 10 - 88));
    assert_eq!(scene.get("/rolldown").await.versions(), ["1.0.0"]);
    assert_eq!(scene.get("/rolldown").await.tag("latest").unwrap(), "1.0.0");
    let refused = scene.get("/rolldown/-/rolldown-1.1.0.tgz").await.is(403).error();
    assert!(
        refused.contains("rule cohort") && refused.contains("waits for @rolldown/binding-x@1.1.0, which opens at "),
        "{refused}"
    );
    let explained = explain(&scene, "rolldown@1.1.0").await;
    assert_eq!((&explained["rule"], &explained["verdict"]), (&json!("cohort"), &json!("hold")));
    scene.advance(minutes(77));
    assert_eq!(scene.get("/rolldown").await.versions(), ["1.0.0"]);
    scene.advance(minutes(2));
    assert_eq!(scene.get("/rolldown").await.versions(), ["1.0.0", "1.1.0"]);
    assert_eq!(scene.get("/@rolldown%2fbinding-x").await.versions(), ["1.0.0", "1.1.0"]);
}

#[tokio::test]
async fn held_version_states_the_opening_of_its_siblings() {
    let scene = Scene::open().await;
    publish_parts(&scene, minutes(100), minutes(12));
    scene.get("/@rolldown%2fbinding-x").await.is(200);
    scene.get("/rolldown").await.is(200);
    scene.advance(hours(72));
    assert_eq!(scene.get("/rolldown").await.versions(), ["1.0.0", "1.1.0"]);
}

#[tokio::test]
async fn sibling_that_cannot_be_looked_up_or_has_another_publisher_hides_nothing() {
    let scene = Scene::open().await;
    publish_parts(&scene, minutes(72 * 60 + 10), minutes(72 * 60 + 10 - 88));
    scene.registry.answer("/@rolldown/binding-x", Reply::status(503));
    assert_eq!(scene.get("/rolldown").await.versions(), ["1.0.0", "1.1.0"]);
    // What is open stays open.
    scene.registry.clear_answer("/@rolldown/binding-x");
    scene.advance(minutes(6));
    assert_eq!(scene.get("/rolldown").await.versions(), ["1.0.0", "1.1.0"]);

    let scene = Scene::open().await;
    publish_parts(&scene, minutes(72 * 60 + 10), minutes(72 * 60 + 10 - 88));
    for (name, publisher) in [("@rolldown/binding-x", "mallory"), ("rolldown", "ada")] {
        scene.registry.edit(name, move |packument| {
            packument["versions"]["1.1.0"]["_npmUser"] = json!({"name": publisher, "email": "x@x.example"});
        });
    }
    assert_eq!(scene.get("/rolldown").await.versions(), ["1.0.0", "1.1.0"]);
}

#[tokio::test]
async fn sibling_that_is_held_for_weeks_delays_by_seven_days_at_most() {
    let scene = Scene::open().await;
    publish_parts(&scene, hours(74), hours(73));
    // Its first install script holds the child for 14 days.
    scene.registry.edit("@rolldown/binding-x", |packument| {
        packument["versions"]["1.1.0"]["scripts"] = json!({"postinstall": "node x.js"});
    });
    assert_eq!(scene.get("/rolldown").await.versions(), ["1.0.0"]);
    scene.advance(days(7));
    assert_eq!(scene.get("/rolldown").await.versions(), ["1.0.0", "1.1.0"]);
}

#[tokio::test]
async fn packages_that_need_each_other_open_with_the_latest() {
    let scene = Scene::open().await;
    for (name, other) in [("@zag-js/a", "@zag-js/b"), ("@zag-js/b", "@zag-js/a")] {
        scene.publish(Package::new(name, "1.0.0").depends_on(other, "1.0.0").aged(days(400)));
    }
    scene.publish(Package::new("@zag-js/a", "1.1.0").depends_on("@zag-js/b", "1.1.0").aged(minutes(72 * 60 + 30)));
    scene.publish(Package::new("@zag-js/b", "1.1.0").depends_on("@zag-js/a", "1.1.0").aged(minutes(71 * 60 + 30)));
    for path in ["/@zag-js%2fa", "/@zag-js%2fb"] {
        assert_eq!(scene.get(path).await.versions(), ["1.0.0"], "{path}");
    }
    scene.advance(minutes(31));
    for path in ["/@zag-js%2fa", "/@zag-js%2fb"] {
        assert_eq!(scene.get(path).await.versions(), ["1.0.0", "1.1.0"], "{path}");
    }
}

#[tokio::test]
async fn range_on_a_sibling_delays_nothing() {
    let scene = Scene::open().await;
    scene.publish(Package::new("@babel/parser", "7.0.0").aged(days(400)));
    scene.publish(Package::new("@babel/core", "7.0.0").depends_on("@babel/parser", "^7.0.0").aged(days(400)));
    scene.publish(Package::new("@babel/parser", "7.1.0").aged(hours(71)));
    scene.publish(Package::new("@babel/core", "7.1.0").depends_on("@babel/parser", "^7.0.0").aged(hours(73)));
    assert_eq!(scene.get("/@babel%2fcore").await.versions(), ["7.0.0", "7.1.0"]);
}

#[tokio::test]
async fn release_stays_hidden_while_a_look_up_is_slow_and_costs_one_wait() {
    let scene = Scene::open().await;
    scene.publish(from_ci("demo", "1.0.0").aged(days(60)));
    scene.publish(from_ci("demo", "1.1.0").depends_on("left-pad", "^1.0.0").aged(days(4)));
    scene.publish_old("left-pad", &["1.0.0"]);
    let gate = scene.registry.hold("/left-pad");
    // The first request waits for two seconds, the next ones not at all.
    for _ in 0..3 {
        assert_eq!(scene.get("/demo").await.versions(), ["1.0.0"]);
    }
    assert_eq!(scene.registry.count("/left-pad"), 1);
    gate.open();
    scene.registry.wait_for_requests("/left-pad", 1).await;
    scene.advance(minutes(1));
    assert_eq!(scene.get("/demo").await.versions(), ["1.0.0", "1.1.0"]);
}

#[tokio::test]
async fn one_failing_look_up_keeps_back_only_the_releases_that_need_it() {
    let scene = Scene::open().await;
    scene.publish(from_ci("demo", "1.0.0").aged(days(60)));
    scene.publish(from_ci("demo", "1.1.0").depends_on("left-pad", "^1.0.0").aged(days(5)));
    scene.publish(from_ci("demo", "1.2.0").depends_on("broken", "^1.0.0").aged(days(4)));
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.registry.answer("/broken", Reply::status(503));
    assert_eq!(scene.get("/demo").await.versions(), ["1.0.0", "1.1.0"]);
}

#[tokio::test]
async fn release_with_thousands_of_new_dependencies_stays_hidden_and_does_not_keep_back_others() {
    let scene = Scene::open().await;
    scene.publish(from_ci("demo", "1.0.0").aged(days(60)));
    scene.publish(from_ci("demo", "1.1.0").depends_on("left-pad", "^1.0.0").aged(days(5)));
    let many: serde_json::Map<String, Value> = (0..10_000).map(|number| (format!("a-{number}"), json!("1"))).collect();
    scene.publish(from_ci("demo", "1.2.0").field("dependencies", many).aged(days(4)));
    scene.publish_old("left-pad", &["1.0.0"]);
    for number in 0..10_000 {
        scene.registry.absent(&format!("a-{number}"));
    }
    for _ in 0..2 {
        assert_eq!(scene.get("/demo").await.versions(), ["1.0.0", "1.1.0"]);
        scene.advance(minutes(1));
    }
    let asked = (0..10_000).filter(|number| scene.registry.count(&format!("/a-{number}")) > 0).count();
    assert!(asked <= 31, "{asked} look-ups");
}

#[tokio::test]
async fn dependencies_on_itself_and_in_a_cycle_are_decided() {
    let scene = Scene::open().await;
    scene.publish(from_ci("demo", "1.0.0").aged(days(60)));
    scene.publish(from_ci("demo", "1.1.0").depends_on("demo", "^1.0.0").depends_on("other", "1").aged(days(4)));
    scene.publish(from_ci("other", "1.0.0").aged(days(60)));
    scene.publish(from_ci("other", "1.1.0").depends_on("demo", "1").aged(days(4)));
    assert_eq!(scene.get("/demo").await.versions(), ["1.0.0", "1.1.0"]);
    assert_eq!(scene.get("/other").await.versions(), ["1.0.0", "1.1.0"]);
}

#[tokio::test]
async fn unpublishing_the_baseline_clears_no_recorded_signal() {
    let mut scene = Scene::open().await;
    publish_axios(&scene, 96);
    scene.get("/axios").await.is(200);
    let before = explain(&scene, "axios@1.14.1").await;
    for version in ["1.12.0", "1.13.0", "1.14.0"] {
        scene.registry.unpublish("axios", version);
    }
    scene.restart().await;
    scene.advance(minutes(6));
    assert_eq!(scene.get("/axios").await.versions(), ["0.30.3"]);
    let after = explain(&scene, "axios@1.14.1").await;
    let after = names(&after["facts"]["signals"]);
    assert!(names(&before["facts"]["signals"]).iter().all(|signal| after.contains(signal)), "{after:?}");
}

#[tokio::test]
async fn signals_of_a_vanished_version_are_explained_and_counted() {
    let scene = Scene::open().await;
    publish_axios(&scene, 2);
    scene.get("/axios").await.is(200);
    assert!(scene.metric("coldframe_signals_total", "provenance-lost").await >= 2.0);
    assert!(scene.metric("coldframe_signal_holds_total", "provenance-lost").await >= 2.0);
    assert_eq!(scene.metric("coldframe_signal_holds_total", "new-publisher").await.to_string(), "0");
    scene.registry.unpublish("axios", "1.14.1");
    scene.advance(hours(1));
    scene.get("/axios").await.is(200);
    let facts = explain(&scene, "axios@1.14.1").await["facts"].clone();
    assert!(facts["gone"].as_str().unwrap().starts_with("last seen"), "{facts}");
    assert!(names(&facts["signals"]).contains(&"newborn-dependency"), "{facts}");
    assert!(facts["evidence"].to_string().contains("plain-crypto-js, first published"), "{facts}");
}
