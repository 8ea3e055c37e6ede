//! Vetting: what tarballs hold. The attacks are built here; none is real malware.

use std::future::IntoFuture as _;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::harness::Scene;
use crate::package::{Package, days, hours, tarball};
use crate::process::{coldframe, machine_clock, run};
use crate::registry::Registry;

/// Publishes an old and a four days old release. The packument of the newer one states `stated`, and its tarball holds `files`.
fn publish(scene: &Scene, stated: Package, files: &[(&str, &str)]) {
    scene.publish(Package::new("demo", "1.0.0").aged(days(60)));
    scene.publish(stated.aged(days(4)).packed(tarball(files)));
}

fn release() -> Package {
    Package::new("demo", "1.1.0")
}

fn manifest(more: &str) -> String {
    format!(r#"{{"name":"demo","version":"1.1.0","main":"index.js"{more}}}"#)
}

async fn explained(scene: &Scene, spec: &str) -> Value {
    scene.get(&format!("/-/coldframe/explain/{spec}")).accept("application/json").await.is(200).json()
}

/// The number of tarballs with findings.
async fn counted(scene: &Scene) -> String {
    scene.metric("coldframe_incidents_total", "findings").await.to_string()
}

/// Checks that the tarball is refused with this text, and that the version is hidden afterwards.
async fn is_refused(scene: &Scene, text: &str) {
    assert_eq!(scene.get("/demo").await.versions(), ["1.0.0", "1.1.0"]);
    let refused = scene.get("/demo/-/demo-1.1.0.tgz").await.is(403).error();
    assert!(refused.contains("rule tarball-findings") && refused.contains(text), "{text}: {refused}");
    assert_eq!(scene.get("/demo").await.versions(), ["1.0.0"]);
    scene.get("/demo/-/demo-1.0.0.tgz").await.is(200);
}

#[tokio::test]
async fn plain_tarball_that_matches_its_packument_is_served() {
    let scene = Scene::open().await;
    let files = [("package/package.json", &*manifest("")), ("package/index.js", "")];
    publish(&scene, release(), &files);
    scene.get("/demo/-/demo-1.1.0.tgz").await.is(200);
    assert_eq!(scene.get("/demo").await.versions(), ["1.0.0", "1.1.0"]);
    assert_eq!(explained(&scene, "demo@1.1.0").await["facts"]["findings"], json!([]));
}

#[tokio::test]
async fn install_script_that_the_packument_does_not_state_is_refused() {
    let scene = Scene::open().await;
    let hidden = manifest(r#","scripts":{"postinstall":"node evil.js"}"#);
    publish(&scene, release(), &[("package/package.json", &hidden), ("package/evil.js", "")]);
    is_refused(&scene, r#"manifest-confusion (scripts: postinstall is "node evil.js", which the packument does not state)"#)
        .await;
    let facts = explained(&scene, "demo@1.1.0").await["facts"].clone();
    assert_eq!(facts["findings"][0]["finding"], "manifest-confusion", "{facts}");
    assert_eq!(counted(&scene).await, "1");
}

#[tokio::test]
async fn dependency_that_the_packument_does_not_state_is_refused() {
    let scene = Scene::open().await;
    let hidden = manifest(r#","dependencies":{"plain-crypto-js":"^4.2.1"}"#);
    publish(&scene, release(), &[("package/package.json", &hidden)]);
    is_refused(&scene, "plain-crypto-js").await;
}

#[tokio::test]
async fn binding_gyp_without_a_script_is_refused() {
    let scene = Scene::open().await;
    let files = [("package/package.json", &*manifest("")), ("package/binding.gyp", "{'targets':[]}")];
    publish(&scene, release(), &files);
    is_refused(&scene, "implicit-build (npm builds its binding.gyp at install").await;
}

#[tokio::test]
async fn archive_that_clients_unpack_differently_is_refused() {
    let scene = Scene::open().await;
    let plain = manifest("");
    let evil = manifest(r#","scripts":{"install":"node evil.js"}"#);
    publish(&scene, release(), &[("package/package.json", &evil), ("package/package.json", &plain)]);
    is_refused(&scene, "ambiguous-archive (package/package.json is given twice, with other content)").await;
}

#[tokio::test]
async fn archive_that_leaves_its_folder_is_refused() {
    let scene = Scene::open().await;
    publish(&scene, release(), &[("package/package.json", &manifest("")), ("package/../../.bashrc", "evil")]);
    is_refused(&scene, "unsafe-archive (a path that leaves the package: package/../../.bashrc)").await;
}

#[tokio::test]
async fn tarball_that_is_no_archive_is_refused() {
    let scene = Scene::open().await;
    scene.publish(Package::new("demo", "1.0.0").aged(days(60)));
    scene.publish(release().aged(days(4)).packed(b"not an archive".to_vec()));
    is_refused(&scene, "unreadable (it is not a gzip file)").await;
}

#[tokio::test]
async fn findings_survive_a_restart_and_end_with_the_window() {
    let mut scene = Scene::open().await;
    publish(&scene, release(), &[("package/package.json", &manifest(r#","dependencies":{"a":"1"}"#))]);
    is_refused(&scene, "manifest-confusion").await;
    scene.restart().await;
    assert_eq!(scene.get("/demo").await.versions(), ["1.0.0"]);
    scene.advance(days(10));
    assert_eq!(scene.get("/demo").await.versions(), ["1.0.0", "1.1.0"]);
    scene.get("/demo/-/demo-1.1.0.tgz").await.is(200);
}

#[tokio::test]
async fn findings_of_a_release_stay_when_its_packument_changes_later() {
    let scene = Scene::open().await;
    publish(&scene, release(), &[("package/package.json", &manifest(r#","dependencies":{"a":"1"}"#))]);
    is_refused(&scene, "manifest-confusion").await;
    scene.registry.edit("demo", |packument| packument["description"] = json!("another document"));
    scene.advance(days(1));
    assert_eq!(scene.get("/demo").await.versions(), ["1.0.0"]);
    scene.get("/demo/-/demo-1.1.0.tgz").await.is(403);
}

#[tokio::test]
async fn new_kinds_of_files_alone_are_no_incident() {
    let scene = Scene::open().await;
    let packed = |version: &str, more: &[(&str, &str)]| {
        let manifest = format!(r#"{{"name":"demo","version":"{version}","main":"index.js","bin":{{"demo":"cli.js"}}}}"#);
        let files = [("package/package.json", &*manifest), ("package/index.js", "")];
        tarball(&[&files, more].concat())
    };
    let release = |version: &str| Package::new("demo", version).field("bin", json!({ "demo": "cli.js" }));
    scene.publish(release("1.0.0").aged(days(60)).packed(packed("1.0.0", &[])));
    scene.publish(release("1.1.0").aged(days(4)).packed(packed("1.1.0", &[("package/cli.js", "")])));
    scene.get("/demo/-/demo-1.1.0.tgz").await.is(200);
    let explained = explained(&scene, "demo@1.1.0").await;
    assert!(explained.to_string().contains("entry-file-added"), "{explained:#}");
    assert_eq!(counted(&scene).await, "0");
}

#[tokio::test]
async fn many_clients_open_a_tarball_once() {
    let scene = Scene::open().await;
    publish(&scene, release(), &[("package/package.json", &manifest(r#","dependencies":{"a":"1"}"#))]);
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        clients.spawn(scene.get("/demo/-/demo-1.1.0.tgz").into_future());
    }
    for answer in clients.join_all().await {
        answer.is(403);
    }
    assert_eq!(counted(&scene).await, "1");
}

#[tokio::test]
async fn old_releases_are_not_opened_by_the_default_policy() {
    let scene = Scene::open().await;
    scene.publish(Package::new("demo", "1.0.0").aged(days(60)).packed(b"not an archive".to_vec()));
    scene.get("/demo/-/demo-1.0.0.tgz").await.is(200);
}

#[tokio::test]
async fn archive_beyond_the_memory_is_a_finding_that_blocks_no_old_release() {
    let paths: Vec<String> = (0..10_100).map(|at| format!("package/{at}.txt")).collect();
    let manifest = manifest("");
    let files: Vec<_> = paths.iter().map(|path| (&**path, "")).chain([("package/package.json", &*manifest)]).collect();
    let large = tarball(&files);
    for (memory, age, status) in [("10MB", 4, 403), ("10MB", 60, 200), ("100MB", 4, 200)] {
        let scene = Scene::open().set("vetting-memory", memory).await;
        scene.publish(Package::new("demo", "1.0.0").aged(days(200)));
        scene.publish(release().aged(days(age)).packed(large.clone()));
        let answer = scene.get("/demo/-/demo-1.1.0.tgz").await.is(status);
        let is_named = || answer.error().contains("archive-bomb (more than 10000 files and folders)");
        assert!(status == 200 || is_named(), "{memory}: {}", answer.text());
    }
}

#[tokio::test]
async fn refused_tarball_is_opened_again_with_more_memory() {
    let paths: Vec<String> = (0..10_100).map(|at| format!("package/{at}.txt")).collect();
    let manifest = manifest("");
    let files: Vec<_> = paths.iter().map(|path| (&**path, "")).chain([("package/package.json", &*manifest)]).collect();
    let (large, path) = (tarball(&files), "/demo/-/demo-1.1.0.tgz");
    for (policy, age) in [("default", 4), ("strict", 400)] {
        let mut scene = Scene::open().set("policy", policy).set("vetting-memory", "10MB").await;
        scene.publish(Package::new("demo", "1.0.0").aged(days(600)));
        scene.publish(release().aged(days(age)).packed(large.clone()));
        scene.get(path).await.is(403);
        scene.get(path).await.is(403);
        assert_eq!(counted(&scene).await, "1", "{policy}: it is opened once with the same memory");
        scene.restart_with("vetting-memory", "100MB").await;
        assert_eq!(scene.get("/demo").await.versions(), ["1.0.0"]);
        scene.get(path).await.is(200);
        assert_eq!(scene.get("/demo").await.versions(), ["1.0.0", "1.1.0"]);
        assert_eq!(scene.registry.count(path), 1);
    }
}

#[tokio::test]
async fn findings_that_stay_refuse_a_tarball_that_is_opened_again() {
    let mut scene = Scene::open().await;
    publish(&scene, release(), &[("package/package.json", &manifest(r#","dependencies":{"a":"1"}"#))]);
    is_refused(&scene, "manifest-confusion").await;
    scene.restart_with("vetting-memory", "50MB").await;
    for _ in 0..2 {
        let refused = scene.get("/demo/-/demo-1.1.0.tgz").await.is(403).error();
        assert!(refused.contains("manifest-confusion"), "{refused}");
        assert_eq!(scene.get("/demo").await.versions(), ["1.0.0"]);
    }
    assert_eq!(counted(&scene).await, "1", "it is opened again once");
}

#[tokio::test]
async fn strict_policy_refuses_old_unreadable_archives() {
    let scene = Scene::open().set("policy", "strict").await;
    scene.publish(Package::new("demo", "1.0.0").aged(days(600)));
    scene.publish(Package::new("demo", "1.1.0").aged(days(400)).packed(b"not an archive".to_vec()));
    let refused = scene.get("/demo/-/demo-1.1.0.tgz").await.is(403).error();
    assert!(refused.contains("rule finding") && refused.contains("unreadable"), "{refused}");
    assert_eq!(scene.get("/demo").await.versions(), ["1.0.0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn vet_explains_a_held_version_and_a_file_without_a_network() {
    let (home, registry) = (TempDir::new().unwrap(), Registry::start(&machine_clock()).await);
    let hidden = manifest(r#","scripts":{"postinstall":"node evil.js"}"#);
    let made = tarball(&[("package/package.json", &hidden)]);
    registry.publish(Package::new("demo", "1.0.0").aged(days(60)));
    registry.publish(release().aged(hours(1)).field("gypfile", true).packed(made.clone()));
    let mut vet = coldframe(home.path());
    let (code, out, errors) = run(vet.args(["vet", "demo", "--upstream", &registry.url]));
    assert_eq!(code, 10, "{out}{errors}");
    assert!(out.starts_with("demo@1.1.0: findings (1 files, "), "{out}");
    assert!(out.contains("  finding: manifest-confusion: scripts: postinstall is \"node evil.js\""), "{out}");
    assert!(out.contains("  signal: binding-gyp-added: a binding.gyp, before: none of 1 earlier releases"), "{out}");
    let path = home.path().join("demo.tgz");
    std::fs::write(&path, made).unwrap();
    let (code, out, _) = run(coldframe(home.path()).args(["vet", "--json"]).arg(&path));
    let found: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &found["vetted"][0]["findings"], &found["vetted"][0]["files"]), (0, &json!([]), &json!(1)));
    // A file that is opened with little memory has a finding.
    let names: Vec<String> = (0..10_100).map(|number| format!("package/{number}.js")).collect();
    let manifest = manifest("");
    let many: Vec<_> = [("package/package.json", &*manifest)].into_iter().chain(names.iter().map(|name| (&**name, ""))).collect();
    std::fs::write(&path, tarball(&many)).unwrap();
    for (memory, expected) in [("10MB", 10), ("100MB", 0)] {
        let (code, out, _) = run(coldframe(home.path()).args(["vet", "--vetting-memory", memory]).arg(&path));
        assert!(code == expected && out.contains("more than 10000 files") == (code == 10), "{out}");
    }
    let (code, _, errors) = run(coldframe(home.path()).args(["vet", "missing.tgz"]));
    assert!(code == 1 && errors.contains("cannot read `missing.tgz`"), "{errors}");
}
