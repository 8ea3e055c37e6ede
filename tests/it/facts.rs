//! The full form of a packument is fetched only if a verdict needs a fact that the abbreviated form lacks.

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::fake_package::Abbreviated;
use crate::harness::Scene;
use crate::package::{Package, days, hours, minutes};

const OLD: &str = "/left-pad/-/left-pad-1.0.0.tgz";
const NEW: &str = "/left-pad/-/left-pad-1.1.0.tgz";

/// Returns the form of each packument request, and whether it had validators.
fn requested_forms(scene: &Scene, path: &str) -> Vec<&'static str> {
    let requests = scene.registry.requests().into_iter().filter(|request| request.path == path);
    let form = |request: crate::fake_response::Request| {
        let abbreviated = request.headers.first("accept").unwrap_or_default().contains("install-v1");
        let conditional = request.headers.first("if-none-match").or_else(|| request.headers.first("if-modified-since")).is_some();
        match (abbreviated, conditional) {
            (true, false) => "abbreviated",
            (true, true) => "abbreviated, if changed",
            (false, false) => "full",
            (false, true) => "full, if changed",
        }
    };
    requests.map(form).collect()
}

/// Opens a scene with a policy, on a registry whose abbreviated form has `time`.
async fn scene_with_policy(rules: &str) -> (Scene, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rules.toml");
    std::fs::write(&path, rules).unwrap();
    let scene = Scene::open().set("policy", path.to_str().unwrap()).await;
    scene.registry.set_abbreviated(Abbreviated::Timed);
    (scene, folder)
}

fn published_by(name: &str, version: &str, publisher: &str) -> Package {
    Package::new(name, version).field("_npmUser", json!({ "name": publisher }))
}

/// Returns the outcomes of `check` for versions of left-pad.
async fn check_outcomes(scene: &Scene, versions: &[&str]) -> Vec<String> {
    let locked: Vec<Value> = versions.iter().map(|version| json!({ "name": "left-pad", "version": version })).collect();
    let answer = scene.ask("POST", "/-/coldframe/check").json(&json!({ "packages": locked })).await.is(200).json();
    let outcomes = answer["packages"].as_array().unwrap().iter();
    outcomes.map(|result| result["outcome"].as_str().unwrap().to_owned()).collect()
}

const PEOPLE: &str = r#"
[[rule]]
id = "publisher"
deny = true
publishers = ["mallory"]
reason = "x"
[[rule]]
id = "maintainer"
deny = true
maintainers = ["trent"]
reason = "x"
[[rule]]
id = "script"
deny = true
install-script = true
reason = "x"
"#;

#[tokio::test]
async fn people_and_script_rules_apply_to_a_tarball_with_a_cold_cache() {
    for (why, young) in [
        ("publisher", published_by("left-pad", "1.1.0", "mallory")),
        ("maintainer", published_by("left-pad", "1.1.0", "ada").field("maintainers", json!([{ "name": "trent" }]))),
        ("script", published_by("left-pad", "1.1.0", "ada").script("postinstall", "node x.js")),
    ] {
        let (scene, _folder) = scene_with_policy(PEOPLE).await;
        scene.publish(published_by("left-pad", "1.0.0", "ada"));
        scene.publish(young);
        let refused = scene.get(NEW).await.is(403).error();
        assert!(refused.contains(&format!("rule {why}")), "{refused}");
        assert_eq!(requested_forms(&scene, "/left-pad"), ["abbreviated", "full"], "{why}");
        assert_eq!(scene.get("/left-pad").abbreviated().await.versions(), ["1.0.0"], "{why}");
        scene.get("/left-pad/1.1.0").await.is(403);
        scene.get(OLD).await.is(200);
        assert_eq!(scene.registry.count("/left-pad"), 2, "{why}: known facts are not fetched again");
    }
}

#[tokio::test]
async fn check_with_a_cold_cache_agrees_with_a_download() {
    let (scene, _folder) = scene_with_policy(PEOPLE).await;
    scene.publish(published_by("left-pad", "1.0.0", "ada"));
    scene.publish(published_by("left-pad", "1.1.0", "mallory"));
    assert_eq!(check_outcomes(&scene, &["1.0.0", "1.1.0"]).await, ["allow", "deny"]);
    scene.get(NEW).await.is(403);
}

#[tokio::test]
async fn the_full_form_is_fetched_only_if_a_verdict_needs_it() {
    let rules = r#"
[[rule]]
id = "publisher"
deny = true
packages = ["other"]
publishers = ["mallory"]
reason = "x"
[[rule]]
id = "young"
deny = true
publishers = ["mallory"]
younger-than = "30d"
reason = "x"
"#;
    let (scene, _folder) = scene_with_policy(rules).await;
    scene.publish(published_by("left-pad", "1.0.0", "mallory"));
    scene.get(OLD).await.is(200);
    assert_eq!(requested_forms(&scene, "/left-pad"), ["abbreviated"], "the rules match another package or younger versions");
    scene.publish(published_by("young", "1.0.0", "mallory").aged(days(9)));
    scene.get("/young/-/young-1.0.0.tgz").await.is(403);
    assert_eq!(requested_forms(&scene, "/young"), ["abbreviated", "full"]);
}

#[tokio::test]
async fn a_registry_that_always_sends_the_full_form_gets_one_request() {
    let (scene, _folder) = scene_with_policy(PEOPLE).await;
    scene.registry.set_abbreviated(Abbreviated::Ignored);
    let complete = |package: Package| package.field("maintainers", json!([{ "name": "ada" }])).script("test", "node test.js");
    scene.publish(complete(published_by("left-pad", "1.0.0", "ada")));
    scene.publish(complete(published_by("left-pad", "1.1.0", "mallory")));
    scene.get(OLD).await.is(200);
    scene.get(NEW).await.is(403);
    assert_eq!(scene.get("/left-pad").await.is(200).json()["readme"], "# A package");
    assert_eq!(requested_forms(&scene, "/left-pad"), ["abbreviated"]);
    // A document without publisher causes a fetch of the full form.
    scene.publish(complete(Package::new("other", "1.0.0")));
    scene.get("/other/-/other-1.0.0.tgz").await.is(200);
    assert_eq!(requested_forms(&scene, "/other"), ["abbreviated", "full"]);
}

#[tokio::test]
async fn a_rule_added_later_gets_its_facts_from_the_full_form() {
    let (mut scene, folder) = scene_with_policy("[[rule]]\nid = \"minimum-age\"\nhold = \"1h\"\nreason = \"x\"\n").await;
    scene.publish(published_by("left-pad", "1.0.0", "mallory"));
    scene.get(OLD).await.is(200);
    std::fs::write(folder.path().join("rules.toml"), PEOPLE).unwrap();
    scene.restart().await;
    scene.get(OLD).await.is(403);
    assert_eq!(requested_forms(&scene, "/left-pad"), ["abbreviated", "full"]);
    // With upstream down the publisher stays unknown, and the request fails.
    let (mut scene, folder) = scene_with_policy("[[rule]]\nid = \"minimum-age\"\nhold = \"1h\"\nreason = \"x\"\n").await;
    scene.publish(published_by("left-pad", "1.0.0", "mallory"));
    scene.get(OLD).await.is(200);
    std::fs::write(folder.path().join("rules.toml"), PEOPLE).unwrap();
    scene.registry.go_down();
    scene.restart().await;
    assert!(scene.get(OLD).await.status >= 500);
}

#[tokio::test]
async fn a_publisher_exemption_opens_a_tarball_with_a_cold_cache() {
    let rules = r#"
[[rule]]
id = "ours"
allow = true
publishers = ["ada"]
older-than = "24h"
expires = "2030-01-01"
owner = "ops"
reason = "x"
[[rule]]
id = "minimum-age"
hold = "72h"
reason = "x"
"#;
    let (scene, _folder) = scene_with_policy(rules).await;
    scene.publish(published_by("left-pad", "1.0.0", "ada").aged(hours(30)));
    scene.publish(published_by("left-pad", "1.1.0", "mallory").aged(hours(30)));
    scene.get(OLD).await.is(200);
    scene.get(NEW).await.is(403);
    assert_eq!(requested_forms(&scene, "/left-pad"), ["abbreviated", "full"]);
}

#[tokio::test]
async fn a_subpackage_needs_the_publisher_of_its_parent_package() {
    const PART: &str = "/@acme-tool/linux/-/linux-1.1.0.tgz";
    // Publisher of the parent package, publisher of the subpackage. The last registry shows no publishers.
    for (parent, subpackage, status) in [
        (Some("ada"), Some("ada"), 200),
        (Some("ada"), Some("mallory"), 403),
        (Some("ada"), None, 403),
        (None, Some("ada"), 403),
        (None, None, 200),
    ] {
        let (scene, _folder) = scene_with_policy("include = \"default\"\n").await;
        let with_publisher = |package: Package, publisher: Option<&str>| match publisher {
            Some(publisher) => package.field("_npmUser", json!({ "name": publisher })),
            None => package,
        };
        scene.publish(with_publisher(Package::new("acme-tool", "1.0.0"), parent));
        let pins = json!({ "@acme-tool/linux": "1.1.0" });
        scene.publish(
            with_publisher(Package::new("acme-tool", "1.1.0").field("optionalDependencies", pins), parent).aged(days(5)),
        );
        scene.publish(with_publisher(Package::new("@acme-tool/linux", "1.1.0"), subpackage).aged(days(5)));
        scene.get(PART).await.is(status);
        let shown = scene.get("/@acme-tool%2flinux").abbreviated().await;
        assert_eq!(shown.status, status, "{parent:?} {subpackage:?}: packument and tarball differ");
    }
}

#[tokio::test]
async fn a_publisher_rule_refuses_a_version_removed_upstream() {
    let (mut scene, folder) = scene_with_policy("[[rule]]\nid = \"minimum-age\"\nhold = \"1h\"\nreason = \"x\"\n").await;
    scene.publish(published_by("left-pad", "1.0.0", "ada"));
    scene.publish(published_by("left-pad", "1.1.0", "mallory"));
    scene.get(NEW).await.is(200);
    scene.registry.unpublish("left-pad", "1.1.0");
    scene.advance(minutes(10));
    scene.get(NEW).await.is(200);
    std::fs::write(folder.path().join("rules.toml"), PEOPLE).unwrap();
    scene.restart().await;
    assert!(scene.get(NEW).await.is(403).error().contains("rule publisher"));
}

/// Opens a scene on a mirror whose abbreviated form has no `time` and has extra members in each version.
async fn mirror_with_extra_members() -> Scene {
    let scene = Scene::open().await;
    scene.registry.set_abbreviated(Abbreviated::Embellished);
    scene.registry.share_etag();
    scene.publish_old("left-pad", &["1.0.0", "1.1.0"]);
    scene
}

#[tokio::test]
async fn extra_members_do_not_make_an_abbreviated_packument_full() {
    let mut scene = mirror_with_extra_members().await;
    scene.get(OLD).await.is(200);
    assert_eq!(
        requested_forms(&scene, "/left-pad"),
        ["abbreviated", "full"],
        "the full form is fetched once, without validators"
    );
    assert_eq!(scene.get("/left-pad").abbreviated().await.versions(), ["1.0.0", "1.1.0"]);
    assert_eq!(scene.get("/left-pad").await.is(200).json()["readme"], "# A package");
    assert_eq!(scene.registry.count("/left-pad"), 2);
    scene.restart().await;
    scene.advance(minutes(10));
    scene.get(NEW).await.is(200);
    assert_eq!(requested_forms(&scene, "/left-pad")[2..], ["full, if changed"]);
}

#[tokio::test]
async fn intermittent_times_from_a_cdn_hold_no_version() {
    let mut scene = Scene::open().await;
    scene.registry.set_abbreviated(Abbreviated::Timed);
    scene.registry.share_etag();
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.publish_old("other", &["1.0.0"]);
    scene.get(OLD).await.is(200);
    for how in [Abbreviated::Embellished, Abbreviated::Timed, Abbreviated::Timeless] {
        scene.registry.set_abbreviated(how);
        scene.publish(Package::new("left-pad", "1.1.0").aged(days(400)).tagged(&format!("{how:?}").to_lowercase()));
        scene.advance(minutes(10));
        scene.get(OLD).await.is(200);
        scene.restart().await;
        scene.get(OLD).await.is(200);
    }
    scene.get("/other/-/other-1.0.0.tgz").await.is(200);
    // From then on the full form is fetched and revalidated with its own validators.
    assert!(!requested_forms(&scene, "/left-pad").contains(&"full, if changed") || scene.registry.count("/left-pad") > 2);
    assert_eq!(scene.get("/left-pad").await.is(200).json()["readme"], "# A package");
}

#[tokio::test]
async fn validators_of_the_abbreviated_form_never_confirm_the_full_form() {
    let mut scene = Scene::open().await;
    scene.registry.set_abbreviated(Abbreviated::Timed);
    scene.registry.share_etag();
    scene.publish(Package::new("left-pad", "1.0.0").field("notes", "only in the full form"));
    for restarts in [false, true] {
        scene.get(OLD).await.is(200);
        if restarts {
            scene.restart().await;
        }
        let full = scene.get("/left-pad").await.is(200).json();
        assert_eq!(full["versions"]["1.0.0"]["notes"], "only in the full form");
    }
}

#[tokio::test]
async fn a_document_of_unrecorded_form_is_fetched_in_full_after_a_restart() {
    let mut scene = Scene::open().await;
    scene.registry.set_abbreviated(Abbreviated::Timed);
    scene.registry.share_etag();
    scene.publish(Package::new("left-pad", "1.0.0").field("notes", "only in the full form"));
    scene.get(OLD).await.is(200);
    scene.coldframe.stop().await;
    let ledger = Connection::open(scene.data().join("ledger.sqlite")).unwrap();
    assert_eq!(ledger.execute("UPDATE packages SET form = NULL", ()).unwrap(), 1);
    drop(ledger);
    scene.restart().await;
    let full = scene.get("/left-pad").await.is(200).json();
    assert_eq!(full["versions"]["1.0.0"]["notes"], "only in the full form");
    assert_eq!(requested_forms(&scene, "/left-pad"), ["abbreviated", "full"]);
}
