//! Which form of a packument verdicts are made from: what a document does not carry is not known, and is fetched where it matters.

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::listing::Abbreviated;
use crate::package::{Package, days, hours, minutes};
use crate::scene::Scene;

const OLD: &str = "/left-pad/-/left-pad-1.0.0.tgz";
const NEW: &str = "/left-pad/-/left-pad-1.1.0.tgz";

/// The forms in which a packument was asked for, and whether with validators.
fn asked(scene: &Scene, path: &str) -> Vec<&'static str> {
    let requests = scene.registry.requests().into_iter().filter(|request| request.path == path);
    let tell = |request: crate::reply::Request| {
        let short = request.headers.first("accept").unwrap_or_default().contains("install-v1");
        let conditional = request.headers.first("if-none-match").or_else(|| request.headers.first("if-modified-since")).is_some();
        match (short, conditional) {
            (true, false) => "abbreviated",
            (true, true) => "abbreviated, if changed",
            (false, false) => "full",
            (false, true) => "full, if changed",
        }
    };
    requests.map(tell).collect()
}

/// A registry whose abbreviated form has `time`, and a policy.
async fn ruled(rules: &str) -> (Scene, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rules.toml");
    std::fs::write(&path, rules).unwrap();
    let scene = Scene::open().set("policy", path.to_str().unwrap()).await;
    scene.registry.set_abbreviated(Abbreviated::Timed);
    (scene, folder)
}

fn by(name: &str, version: &str, publisher: &str) -> Package {
    Package::new(name, version).field("_npmUser", json!({ "name": publisher }))
}

/// What `check` says of versions of left-pad.
async fn checked(scene: &Scene, versions: &[&str]) -> Vec<String> {
    let locked: Vec<Value> = versions.iter().map(|version| json!({ "name": "left-pad", "version": version })).collect();
    let answer = scene.ask("POST", "/-/coldframe/check").json(&json!({ "packages": locked })).await.is(200).json();
    let outcomes = answer["packages"].as_array().unwrap().iter();
    outcomes.map(|judged| judged["outcome"].as_str().unwrap().to_owned()).collect()
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
async fn a_tarball_asked_cold_is_judged_by_who_published_it() {
    for (why, young) in [
        ("publisher", by("left-pad", "1.1.0", "mallory")),
        ("maintainer", by("left-pad", "1.1.0", "ada").field("maintainers", json!([{ "name": "trent" }]))),
        ("script", by("left-pad", "1.1.0", "ada").script("postinstall", "node x.js")),
    ] {
        let (scene, _folder) = ruled(PEOPLE).await;
        scene.publish(by("left-pad", "1.0.0", "ada"));
        scene.publish(young);
        let refused = scene.get(NEW).await.is(403).error();
        assert!(refused.contains(&format!("rule {why}")), "{refused}");
        assert_eq!(asked(&scene, "/left-pad"), ["abbreviated", "full"], "{why}");
        assert_eq!(scene.get("/left-pad").abbreviated().await.versions(), ["1.0.0"], "{why}");
        scene.get("/left-pad/1.1.0").await.is(403);
        scene.get(OLD).await.is(200);
        assert_eq!(scene.registry.count("/left-pad"), 2, "{why}: what is known is not asked for again");
    }
}

#[tokio::test]
async fn a_check_asked_cold_says_what_a_download_would_meet() {
    let (scene, _folder) = ruled(PEOPLE).await;
    scene.publish(by("left-pad", "1.0.0", "ada"));
    scene.publish(by("left-pad", "1.1.0", "mallory"));
    assert_eq!(checked(&scene, &["1.0.0", "1.1.0"]).await, ["allow", "deny"]);
    scene.get(NEW).await.is(403);
}

#[tokio::test]
async fn the_full_form_is_fetched_only_where_a_verdict_hangs_on_it() {
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
    let (scene, _folder) = ruled(rules).await;
    scene.publish(by("left-pad", "1.0.0", "mallory"));
    scene.get(OLD).await.is(200);
    assert_eq!(asked(&scene, "/left-pad"), ["abbreviated"], "another package's rule, and an age that has passed");
    scene.publish(by("young", "1.0.0", "mallory").aged(days(9)));
    scene.get("/young/-/young-1.0.0.tgz").await.is(403);
    assert_eq!(asked(&scene, "/young"), ["abbreviated", "full"]);
}

#[tokio::test]
async fn a_registry_that_sends_the_full_form_whatever_is_asked_is_asked_once() {
    let (scene, _folder) = ruled(PEOPLE).await;
    scene.registry.set_abbreviated(Abbreviated::Ignored);
    let dress = |package: Package| package.field("maintainers", json!([{ "name": "ada" }])).script("test", "node test.js");
    scene.publish(dress(by("left-pad", "1.0.0", "ada")));
    scene.publish(dress(by("left-pad", "1.1.0", "mallory")));
    scene.get(OLD).await.is(200);
    scene.get(NEW).await.is(403);
    assert_eq!(scene.get("/left-pad").await.is(200).json()["readme"], "# A package");
    assert_eq!(asked(&scene, "/left-pad"), ["abbreviated"]);
    // Of one that does not say who published it, that is asked.
    scene.publish(dress(Package::new("other", "1.0.0")));
    scene.get("/other/-/other-1.0.0.tgz").await.is(200);
    assert_eq!(asked(&scene, "/other"), ["abbreviated", "full"]);
}

#[tokio::test]
async fn a_rule_that_comes_later_is_answered_from_the_full_form() {
    let (mut scene, folder) = ruled("[[rule]]\nid = \"minimum-age\"\nhold = \"1h\"\nreason = \"x\"\n").await;
    scene.publish(by("left-pad", "1.0.0", "mallory"));
    scene.get(OLD).await.is(200);
    std::fs::write(folder.path().join("rules.toml"), PEOPLE).unwrap();
    scene.restart().await;
    scene.get(OLD).await.is(403);
    assert_eq!(asked(&scene, "/left-pad"), ["abbreviated", "full"]);
    // Without upstream nothing is known of who published it.
    let (mut scene, folder) = ruled("[[rule]]\nid = \"minimum-age\"\nhold = \"1h\"\nreason = \"x\"\n").await;
    scene.publish(by("left-pad", "1.0.0", "mallory"));
    scene.get(OLD).await.is(200);
    std::fs::write(folder.path().join("rules.toml"), PEOPLE).unwrap();
    scene.registry.go_down();
    scene.restart().await;
    assert!(scene.get(OLD).await.status >= 500);
}

#[tokio::test]
async fn an_exemption_for_a_publisher_opens_a_tarball_that_is_asked_cold() {
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
    let (scene, _folder) = ruled(rules).await;
    scene.publish(by("left-pad", "1.0.0", "ada").aged(hours(30)));
    scene.publish(by("left-pad", "1.1.0", "mallory").aged(hours(30)));
    scene.get(OLD).await.is(200);
    scene.get(NEW).await.is(403);
    assert_eq!(asked(&scene, "/left-pad"), ["abbreviated", "full"]);
}

#[tokio::test]
async fn a_part_is_spared_for_a_publisher_that_is_known_and_the_same() {
    const PART: &str = "/@acme-tool/linux/-/linux-1.1.0.tgz";
    // Publisher of the whole, publisher of the part; the last registry shows none at all.
    for (whole, part, status) in [
        (Some("ada"), Some("ada"), 200),
        (Some("ada"), Some("mallory"), 403),
        (Some("ada"), None, 403),
        (None, Some("ada"), 403),
        (None, None, 200),
    ] {
        let (scene, _folder) = ruled("include = \"default\"\n").await;
        let dress = |package: Package, publisher: Option<&str>| match publisher {
            Some(publisher) => package.field("_npmUser", json!({ "name": publisher })),
            None => package,
        };
        scene.publish(dress(Package::new("acme-tool", "1.0.0"), whole));
        let pins = json!({ "@acme-tool/linux": "1.1.0" });
        scene.publish(dress(Package::new("acme-tool", "1.1.0").field("optionalDependencies", pins), whole).aged(days(5)));
        scene.publish(dress(Package::new("@acme-tool/linux", "1.1.0"), part).aged(days(5)));
        scene.get(PART).await.is(status);
        let shown = scene.get("/@acme-tool%2flinux").abbreviated().await;
        assert_eq!(shown.status, status, "{whole:?} {part:?}: both answers are the same");
    }
}

#[tokio::test]
async fn a_version_that_left_upstream_has_no_publisher_that_could_be_trusted() {
    let (mut scene, folder) = ruled("[[rule]]\nid = \"minimum-age\"\nhold = \"1h\"\nreason = \"x\"\n").await;
    scene.publish(by("left-pad", "1.0.0", "ada"));
    scene.publish(by("left-pad", "1.1.0", "mallory"));
    scene.get(NEW).await.is(200);
    scene.registry.unpublish("left-pad", "1.1.0");
    scene.advance(minutes(10));
    scene.get(NEW).await.is(200);
    std::fs::write(folder.path().join("rules.toml"), PEOPLE).unwrap();
    scene.restart().await;
    assert!(scene.get(NEW).await.is(403).error().contains("rule publisher"));
}

/// A mirror without `time` in the abbreviated form, whose entries have members of its own.
async fn embellishing() -> Scene {
    let scene = Scene::open().await;
    scene.registry.set_abbreviated(Abbreviated::Embellished);
    scene.registry.share_etag();
    scene.publish_old("left-pad", &["1.0.0", "1.1.0"]);
    scene
}

#[tokio::test]
async fn members_of_a_mirrors_own_make_no_abbreviated_packument_a_full_one() {
    let mut scene = embellishing().await;
    scene.get(OLD).await.is(200);
    assert_eq!(asked(&scene, "/left-pad"), ["abbreviated", "full"], "asked once for the whole, without validators");
    assert_eq!(scene.get("/left-pad").abbreviated().await.versions(), ["1.0.0", "1.1.0"]);
    assert_eq!(scene.get("/left-pad").await.is(200).json()["readme"], "# A package");
    assert_eq!(scene.registry.count("/left-pad"), 2);
    scene.restart().await;
    scene.advance(minutes(10));
    scene.get(NEW).await.is(200);
    assert_eq!(asked(&scene, "/left-pad")[2..], ["full, if changed"]);
}

#[tokio::test]
async fn times_that_a_cdn_sends_now_and_then_hold_nothing_back() {
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
    // The whole is asked for from then on, and confirmed by its own validators alone.
    assert!(!asked(&scene, "/left-pad").contains(&"full, if changed") || scene.registry.count("/left-pad") > 2);
    assert_eq!(scene.get("/left-pad").await.is(200).json()["readme"], "# A package");
}

#[tokio::test]
async fn a_full_packument_is_never_confirmed_by_the_validators_of_an_abbreviated_one() {
    let mut scene = Scene::open().await;
    scene.registry.set_abbreviated(Abbreviated::Timed);
    scene.registry.share_etag();
    scene.publish(Package::new("left-pad", "1.0.0").field("notes", "kept in the full form alone"));
    for restarts in [false, true] {
        scene.get(OLD).await.is(200);
        if restarts {
            scene.restart().await;
        }
        let full = scene.get("/left-pad").await.is(200).json();
        assert_eq!(full["versions"]["1.0.0"]["notes"], "kept in the full form alone");
    }
}

#[tokio::test]
async fn a_document_whose_form_was_not_noted_is_decided_again_after_a_restart() {
    let mut scene = Scene::open().await;
    scene.registry.set_abbreviated(Abbreviated::Timed);
    scene.registry.share_etag();
    scene.publish(Package::new("left-pad", "1.0.0").field("notes", "kept in the full form alone"));
    scene.get(OLD).await.is(200);
    scene.coldframe.stop().await;
    let ledger = Connection::open(scene.data().join("ledger.sqlite")).unwrap();
    assert_eq!(ledger.execute("UPDATE packages SET form = NULL", ()).unwrap(), 1);
    drop(ledger);
    scene.restart().await;
    let full = scene.get("/left-pad").await.is(200).json();
    assert_eq!(full["versions"]["1.0.0"]["notes"], "kept in the full form alone");
    assert_eq!(asked(&scene, "/left-pad"), ["abbreviated", "full"]);
}
