//! Attacks on facts that the cached document lacks: newer versions, fields copied from a publisher's `package.json`, and requests
//! after a restart, in an outage and with tokens.

use std::time::Duration;

use serde_json::json;

use crate::fake_package::Abbreviated;
use crate::fake_response::Reply;
use crate::harness::Scene;
use crate::package::{Package, minutes};

const INTERVAL: Duration = Duration::from_secs(10);

const OLD: &str = "/left-pad/-/left-pad-1.0.0.tgz";
const NEW: &str = "/left-pad/-/left-pad-1.1.0.tgz";

/// Opens a scene with rules on facts that the registry's abbreviated form, which has `time`, lacks.
async fn scene_with_rules() -> (Scene, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rules.toml");
    let rules = r#"
[[rule]]
id = "publisher"
deny = true
publishers = ["mallory"]
reason = "x"
[[rule]]
id = "script"
deny = true
install-script = true
reason = "x"
"#;
    std::fs::write(&path, rules).unwrap();
    let scene = Scene::open().set("policy", path.to_str().unwrap()).await;
    scene.registry.set_abbreviated(Abbreviated::Timed);
    (scene, folder)
}

fn by(version: &str, publisher: &str) -> Package {
    Package::new("left-pad", version).field("_npmUser", json!({ "name": publisher }))
}

#[tokio::test]
async fn rules_apply_to_versions_published_since_the_last_fetch() {
    // Cold: the full document was never needed before. Otherwise it is cached in full.
    for cold in [true, false] {
        let (scene, _folder) = scene_with_rules().await;
        scene.publish(by("1.0.0", "ada"));
        if cold {
            scene.registry.set_abbreviated(Abbreviated::Ignored);
        }
        scene.get(OLD).await.is(200);
        scene.registry.set_abbreviated(Abbreviated::Timed);
        scene.advance(INTERVAL);
        scene.publish(by("1.1.0", "ada"));
        scene.publish(by("1.2.0", "mallory"));
        scene.publish(by("1.3.0", "ada").script("postinstall", "node x.js"));
        scene.get(NEW).await.is(200);
        for (version, rule) in [("1.2.0", "publisher"), ("1.3.0", "script")] {
            let refused = scene.get(&format!("/left-pad/-/left-pad-{version}.tgz")).await.is(403).error();
            assert!(refused.contains(&format!("rule {rule}")), "{refused}");
        }
    }
}

#[tokio::test]
async fn check_of_newly_published_version_agrees_with_download() {
    let scene = Scene::open().set("exclude", "left-pad").await;
    scene.registry.set_abbreviated(Abbreviated::Timed);
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.get(OLD).await.is(200);
    scene.advance(INTERVAL);
    // From now on a mirror leaves `time` out.
    scene.registry.set_abbreviated(Abbreviated::Embellished);
    scene.publish(Package::new("left-pad", "1.1.0"));
    let body = json!({ "packages": [{ "name": "left-pad", "version": "1.1.0" }] });
    let text = scene.ask("POST", "/-/coldframe/check").json(&body).await.is(200).json();
    assert_eq!(text["packages"][0]["outcome"], "allow", "{text}");
    scene.get(NEW).await.is(200);
}

#[tokio::test]
async fn missing_or_false_has_install_script_is_not_trusted() {
    let (scene, _folder) = scene_with_rules().await;
    // The registry copies `hasInstallScript` from `package.json` and leaves `scripts` out.
    scene.publish(by("1.0.0", "ada").field("hasInstallScript", true));
    scene.publish(by("1.1.0", "ada").script("postinstall", "node x.js"));
    scene.publish(by("1.2.0", "ada").script("postinstall", "node x.js").field("hasInstallScript", false));
    scene.publish(by("1.3.0", "ada"));
    for version in ["1.0.0", "1.1.0", "1.2.0"] {
        scene.get(&format!("/left-pad/-/left-pad-{version}.tgz")).await.is(403);
    }
    scene.get("/left-pad/-/left-pad-1.3.0.tgz").await.is(200);
    assert_eq!(scene.get("/left-pad").abbreviated().await.versions(), ["1.3.0"]);
}

#[tokio::test]
async fn publisher_rule_applies_with_tokens_after_restart_and_in_outage() {
    let (mut scene, _folder) = scene_with_rules().await;
    scene.publish(by("1.0.0", "ada"));
    scene.publish(by("1.1.0", "mallory"));
    for token in ["one", "two"] {
        scene.get(NEW).token(token).await.is(403);
        scene.get(OLD).token(token).await.is(200);
    }
    scene.get(NEW).await.is(403);
    scene.ask("HEAD", NEW).await.is(403);
    scene.get(NEW).header("range", "bytes=0-9").await.is(403);
    scene.get(OLD).await.is(200);
    for down in [false, true] {
        if down {
            scene.registry.go_down();
        }
        scene.restart().await;
        scene.advance(minutes(10));
        scene.get(NEW).await.is(403);
        scene.get("/left-pad/1.1.0").await.is(403);
        scene.get(OLD).await.is(200);
        assert_eq!(scene.get("/left-pad").abbreviated().await.versions(), ["1.0.0"]);
    }
}

#[tokio::test]
async fn tarball_at_unconventional_path_is_found_when_newer_than_last_fetch() {
    let scene = Scene::open().set("exclude", "left-pad").await;
    let path = |version: &str| format!("/files/left-pad-{version}.tgz");
    scene.registry.absent("files");
    scene.publish(Package::new("left-pad", "1.0.0").at_path(&path("1.0.0")));
    scene.get(&path("1.0.0")).await.is(200);
    scene.advance(INTERVAL);
    scene.publish(Package::new("left-pad", "1.1.0").at_path(&path("1.1.0")));
    scene.get(&path("1.1.0")).await.is(200);
    assert_eq!(scene.registry.count("/left-pad"), 2);
    for interval in 1..=2 {
        scene.advance(INTERVAL);
        for patch in 0..20 {
            scene.get(&path(&format!("7.0.{patch}"))).await.is(404);
        }
        assert_eq!(scene.registry.count("/left-pad"), 2 + interval, "made-up URLs cost one request per interval");
    }
}

#[tokio::test]
async fn attestations_of_newly_published_version_are_found() {
    let scene = Scene::open().set("exclude", "left-pad").await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.get("/left-pad").await.is(200);
    scene.advance(INTERVAL);
    scene.publish(Package::new("left-pad", "1.1.0"));
    let path = "/-/npm/v1/attestations/left-pad@1.1.0";
    scene.registry.answer(path, Reply::json(r#"{"attestations":[]}"#));
    scene.get(path).await.is(200);
    scene.get("/-/npm/v1/attestations/left-pad@7.0.0").await.is(404);
    assert_eq!(scene.registry.count("/left-pad"), 2);
}
