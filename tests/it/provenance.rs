//! Provenance: where a version was built. The authority and the logs are those of `sigstore`.

use std::future::IntoFuture as _;
use std::time::{Duration, Instant};

use coldframe::npm::{Algorithm, Digest, PackageName};
use coldframe::vetting::provenance::{AttestedRelease, ProvenanceStatus, TrustRoot, verify};
use coldframe::vetting::signatures::TrustSource;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fake_response::Reply;
use crate::harness::Scene;
use crate::package::{Package, days};
use crate::sigstore::{Build, PROVENANCE_TYPE, Sigstore};

/// A registry with attestations, and a Coldframe that trusts their authority.
pub struct Attested {
    pub scene: Scene,
    sigstore: Sigstore,
    _folder: TempDir,
}

impl Attested {
    pub async fn open() -> Self {
        let (sigstore, folder) = (Sigstore::new(), TempDir::new().unwrap());
        let path = folder.path().join("trusted_root.json");
        std::fs::write(&path, sigstore.root().to_string()).unwrap();
        let scene = Scene::open().set("sigstore-root", path.to_str().unwrap()).await;
        Self { scene, sigstore, _folder: folder }
    }

    /// Publishes a release with attestations that the endpoint answers with.
    fn publish_with(&self, package: Package, attestations: &Value) {
        let path = path(&package);
        self.scene.registry.answer(&path, Reply::json(&attestations.to_string()));
        self.scene.publish(announced(package));
    }

    /// Publishes a release that was built as `change` says.
    pub fn publish(&self, package: Package, change: impl FnOnce(&mut Build)) {
        let mut build = Build::of(&package);
        change(&mut build);
        let attestations = self.sigstore.attestations(&build);
        self.publish_with(package, &attestations);
    }

    /// Publishes four old releases of `demo` that were built as usual.
    pub fn publish_old(&self) {
        for patch in 0..4 {
            self.publish(Package::new("demo", &format!("1.0.{patch}")).aged(days(200 - 10 * patch)), |_| {});
        }
    }

    async fn facts(&self, spec: &str) -> Value {
        let explained = self.scene.get(&format!("/-/coldframe/explain/{spec}")).accept("application/json").await;
        explained.is(200).json()["facts"].clone()
    }
}

fn path(package: &Package) -> String {
    format!("/-/npm/v1/attestations/{}@{}", package.name, package.version)
}

/// States in the packument that there are attestations.
fn announced(package: Package) -> Package {
    let url = format!("https://elsewhere.example{}", path(&package));
    package.dist("attestations", json!({ "url": url, "provenance": { "predicateType": PROVENANCE_TYPE } }))
}

/// A release that is past its minimum age, but young.
fn release() -> Package {
    Package::new("demo", "1.1.0").aged(days(4))
}

/// Verifies the attestations of [`release`].
fn verified(root: &Value, attestations: &Value) -> ProvenanceStatus {
    let root = TrustRoot::parse(root.to_string().as_bytes(), TrustSource::File).unwrap();
    let (name, sha512) = (PackageName::parse("demo").unwrap(), Digest::of(Algorithm::Sha512, &release().tarball));
    let release = AttestedRelease { name: &name, version: "1.1.0", sha512: &sha512 };
    verify(&root, release, attestations.to_string().as_bytes())
}

/// The reason of a status that is not valid.
fn why(status: &ProvenanceStatus) -> (&'static str, &str) {
    match status {
        ProvenanceStatus::Valid { .. } => ("valid", ""),
        ProvenanceStatus::False { why } => ("false", why),
        ProvenanceStatus::NotObservable { why } => ("not-observable", why),
    }
}

#[test]
fn provenance_is_valid_and_names_repository_and_workflow() {
    let sigstore = Sigstore::new();
    let status = verified(&sigstore.root(), &sigstore.attestations(&Build::of(&release())));
    let ProvenanceStatus::Valid { source } = &status else { panic!("{status:?}") };
    assert_eq!(&*source.repository, "https://github.com/acme/demo");
    assert_eq!(&*source.workflow, ".github/workflows/release.yml");
    assert_eq!(source.commit.as_deref(), Some(&*"ab".repeat(20)));
}

#[test]
fn each_wrong_statement_is_refused() {
    let sigstore = Sigstore::new();
    let wrong = |change: &dyn Fn(&mut Build)| {
        let mut build = Build::of(&release());
        change(&mut build);
        verified(&sigstore.root(), &sigstore.attestations(&build))
    };
    let is = |status: &ProvenanceStatus, kind: &str, text: &str| {
        let (found, reason) = why(status);
        assert!(found == kind && reason.contains(text), "expected {kind} ({text}): {status:?}");
    };
    is(&wrong(&|build| build.subject = "pkg:npm/dem0@1.1.0".to_owned()), "false", "it is for pkg:npm/dem0@1.1.0");
    is(&wrong(&|build| build.subject = "pkg:npm/demo@1.0.0".to_owned()), "false", "it is for pkg:npm/demo@1.0.0");
    is(&wrong(&|build| build.sha512 = "00".repeat(64)), "false", "does not match");
    is(&wrong(&|build| build.statement = "https://in-toto.io/Statement/v2".to_owned()), "false", "another kind");
    is(&wrong(&|build| build.logged += 4 * 24 * 3600), "false", "CertExpired");
    is(&wrong(&|build| build.logged -= 24 * 3600), "false", "CertNotValidYet");
    is(
        &wrong(&|build| build.issuer = "https://issuer.example".to_owned()),
        "not-observable",
        "an identity of https://issuer.example",
    );
    is(&wrong(&|build| build.predicate = "https://example.com/p".to_owned()), "not-observable", "no provenance");
}

#[test]
fn each_changed_part_of_a_bundle_is_refused() {
    let sigstore = Sigstore::new();
    let (root, honest) = (sigstore.root(), sigstore.attestations(&Build::of(&release())));
    let other = sigstore.attestations(&Build::of(&release()));
    let changed = |pointer: &str, value: Value| {
        let mut attestations = honest.clone();
        *attestations.pointer_mut(&format!("/attestations/0/bundle{pointer}")).unwrap() = value;
        verified(&root, &attestations)
    };
    let part = |pointer: &str| other.pointer(&format!("/attestations/0/bundle{pointer}")).unwrap().clone();
    for pointer in [
        "/dsseEnvelope/signatures/0/sig",
        "/verificationMaterial/certificate",
        "/verificationMaterial/tlogEntries",
        "/verificationMaterial/tlogEntries/0/inclusionPromise",
        "/verificationMaterial/tlogEntries/0/canonicalizedBody",
        "/verificationMaterial/tlogEntries/0/inclusionProof",
    ] {
        let status = changed(pointer, part(pointer));
        assert_eq!(why(&status).0, "false", "{pointer}: {status:?}");
    }
    let hash = json!("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    let entry = "/verificationMaterial/tlogEntries/0";
    assert_eq!(why(&changed(&format!("{entry}/inclusionProof/hashes/0"), hash.clone())).0, "false");
    assert_eq!(why(&changed(&format!("{entry}/inclusionProof/logIndex"), json!("1"))).0, "false");
    assert_eq!(why(&changed(&format!("{entry}/integratedTime"), json!("1767268801"))).0, "false");
    // A statement that the build did not sign.
    let forged = json!(base64_of(&Build { sha512: "00".repeat(64), ..Build::of(&release()) }));
    assert_eq!(why(&changed("/dsseEnvelope/payload", forged)).0, "false");
}

/// The payload of a build's envelope.
fn base64_of(build: &Build) -> String {
    let bundle = Sigstore::new().bundle(build);
    bundle["dsseEnvelope"]["payload"].as_str().unwrap().to_owned()
}

#[test]
fn unknown_authorities_and_formats_are_not_observable() {
    let (sigstore, other) = (Sigstore::new(), Sigstore::new());
    let honest = sigstore.attestations(&Build::of(&release()));
    assert_eq!(why(&verified(&other.root(), &honest)).0, "not-observable");
    for part in ["tlogs", "ctlogs", "certificateAuthorities"] {
        let mut root = sigstore.root();
        root[part] = other.root()[part].clone();
        let status = verified(&root, &honest);
        assert_eq!(why(&status).0, "not-observable", "{part}: {status:?}");
    }
    let root = sigstore.root();
    let mut newer = honest.clone();
    newer["attestations"][0]["bundle"]["mediaType"] = json!("application/vnd.dev.sigstore.bundle.v9+json");
    assert_eq!(why(&verified(&root, &newer)).0, "not-observable");
    let entry = &honest["attestations"][0];
    for document in [
        json!(null),
        json!([]),
        json!({}),
        json!({ "attestations": [] }),
        json!({ "attestations": [{}] }),
        json!({ "attestations": [{ "predicateType": PROVENANCE_TYPE, "bundle": null }] }),
        json!({ "attestations": vec![entry; 9] }),
        json!({ "attestations": [entry], "padding": "x".repeat(1 << 20) }),
    ] {
        let status = verified(&root, &document);
        assert_eq!(why(&status).0, "not-observable", "{status:?}");
    }
    let deep = format!("{{\"attestations\":{}", "[".repeat(100_000));
    let trusted = TrustRoot::parse(root.to_string().as_bytes(), TrustSource::File).unwrap();
    let (name, sha512) = (PackageName::parse("demo").unwrap(), Digest::of(Algorithm::Sha512, b""));
    let release = AttestedRelease { name: &name, version: "1.1.0", sha512: &sha512 };
    assert_eq!(why(&verify(&trusted, release, deep.as_bytes())).0, "not-observable");
}

#[test]
fn too_many_parts_are_not_verified() {
    let sigstore = Sigstore::new();
    let honest = sigstore.attestations(&Build::of(&release()));
    let mut many = honest.clone();
    let entries = &mut many["attestations"][0]["bundle"]["verificationMaterial"]["tlogEntries"];
    *entries = json!(vec![entries[0].clone(); 5]);
    let status = verified(&sigstore.root(), &many);
    assert_eq!(why(&status), ("not-observable", "the bundle has too many log entries"));
    let mut long = honest;
    let proof = &mut long["attestations"][0]["bundle"]["verificationMaterial"]["tlogEntries"][0]["inclusionProof"];
    proof["hashes"] = json!(vec![proof["hashes"][0].clone(); 65]);
    let status = verified(&sigstore.root(), &long);
    assert_eq!(why(&status), ("not-observable", "the bundle has too many hashes in a proof"));
}

#[test]
fn bundled_root_is_usable() {
    assert!(TrustRoot::bundled().is_ok());
    for document in ["", "{}", "[]", "{\"tlogs\":1}"] {
        assert!(TrustRoot::parse(document.as_bytes(), TrustSource::File).is_err(), "{document}");
    }
}

#[tokio::test]
async fn release_built_as_before_is_served_and_explained() {
    let attested = Attested::open().await;
    attested.publish_old();
    attested.publish(release(), |_| {});
    attested.scene.get("/demo/-/demo-1.1.0.tgz").await.is(200);
    let facts = attested.facts("demo@1.1.0").await;
    assert_eq!(facts["signals"], json!([]), "{facts}");
    let provenance = &facts["provenance"];
    assert_eq!((&provenance["status"], &provenance["since"]), (&json!("valid"), &json!("1.0.1")), "{facts}");
    let detail = "built from github.com/acme/demo, .github/workflows/release.yml, as 1.0.1 was";
    assert_eq!(provenance["detail"], detail);
    assert_eq!(attested.scene.metric("coldframe_provenance_total", "\"valid\"").await.to_string(), "4");
    let since = json!({ "version": "1.0.0", "published": "2025-09-15T12:00:00Z", "releases": 5, "attested": 5 });
    assert_eq!(facts["provenanceSince"], since, "{facts}");
}

#[tokio::test]
async fn package_that_lost_provenance_is_explained_with_the_releases_that_have_it() {
    let attested = Attested::open().await;
    attested.scene.publish(Package::new("demo", "0.9.0").aged(days(300)));
    attested.publish_old();
    attested.scene.publish(release());
    let text = attested.scene.get("/-/coldframe/explain/demo@1.1.0").header("user-agent", "curl/8.5.0").await.is(200).text();
    let since = "1.0.0 of 2025-09-15 12:00 UTC, as far as upstream states; 4 of 5 releases from it on have it";
    assert!(text.contains("provenance        none, though other releases") && text.contains(since), "{text}");
}

#[tokio::test]
async fn release_built_from_another_repository_is_refused() {
    let mut attested = Attested::open().await;
    attested.publish_old();
    attested.publish(release(), |build| build.repository = "https://github.com/mallory/demo".to_owned());
    // Its attestations are verified before the first packument is answered.
    assert_eq!(attested.scene.get("/demo").await.versions().len(), 4);
    let refused = attested.scene.get("/demo/-/demo-1.1.0.tgz").await.is(403).error();
    assert!(refused.contains("rule strong-signal") && refused.contains("provenance-repository-changed"), "{refused}");
    assert!(refused.contains("github.com/mallory/demo"), "{refused}");
    assert_eq!(attested.scene.get("/demo").await.versions().len(), 4);
    // The result is in the ledger.
    attested.scene.restart().await;
    assert_eq!(attested.scene.get("/demo").await.versions().len(), 4);
}

#[tokio::test]
async fn attestations_are_verified_for_the_packument_once() {
    let attested = Attested::open().await;
    attested.publish_old();
    attested.publish(release(), |_| {});
    for _ in 0..3 {
        assert_eq!(attested.scene.get("/demo").await.versions().len(), 5);
        attested.scene.get("/demo/-/demo-1.1.0.tgz").await.is(200);
    }
    assert_eq!(attested.scene.registry.count(&path(&release())), 1);
    // Three releases of the baseline, each once.
    let asked: usize =
        (0..4).map(|patch| attested.scene.registry.count(&path(&Package::new("demo", &format!("1.0.{patch}"))))).sum();
    assert_eq!(asked, 3);
}

#[tokio::test]
async fn release_is_hidden_until_its_attestations_arrive() {
    let attested = Attested::open().await;
    attested.publish_old();
    attested.publish(release(), |build| build.repository = "https://github.com/mallory/demo".to_owned());
    let gate = attested.scene.registry.hold(&path(&release()));
    assert_eq!(attested.scene.get("/demo").await.versions().len(), 4);
    let facts = attested.facts("demo@1.1.0").await;
    assert_eq!(facts["signalsPending"], json!(["provenance-repository-changed", "provenance-workflow-changed"]), "{facts}");
    let refused = attested.scene.get("/demo/-/demo-1.1.0.tgz").await.is(403).error();
    assert!(refused.contains("provenance-repository-changed is not decided yet"), "{refused}");
    gate.open();
    // They are verified when they arrive, not with the next round.
    let deadline = Instant::now() + Duration::from_secs(20);
    while !attested.facts("demo@1.1.0").await["signalsPending"].as_array().unwrap().is_empty() {
        assert!(Instant::now() < deadline);
    }
    let refused = attested.scene.get("/demo/-/demo-1.1.0.tgz").await.is(403).error();
    assert!(refused.contains("github.com/mallory/demo"), "{refused}");
    assert_eq!(attested.scene.registry.count(&path(&release())), 1);
}

#[tokio::test]
async fn attestations_that_never_arrive_hide_a_release_for_three_rounds() {
    let attested = Attested::open().await;
    attested.publish_old();
    attested.publish(release(), |_| {});
    let _gate = attested.scene.registry.hold(&path(&release()));
    for visible in [4, 4, 5] {
        assert_eq!(attested.scene.get("/demo").await.versions().len(), visible);
        // Within ten seconds, no request waits again.
        assert_eq!(attested.scene.get("/demo").await.versions().len(), visible);
        attested.scene.advance(Duration::from_secs(10));
    }
    attested.scene.get("/demo/-/demo-1.1.0.tgz").await.is(200);
    let facts = attested.facts("demo@1.1.0").await;
    let hidden = facts["signalsNotObservable"].as_array().unwrap();
    assert!(hidden.contains(&json!("provenance-repository-changed")), "{facts}");
}

#[tokio::test]
async fn another_workflow_is_a_weak_signal_and_the_case_of_a_repository_is_none() {
    let attested = Attested::open().await;
    attested.publish_old();
    attested.publish(release(), |build| {
        build.repository = "https://github.com/Acme/Demo".to_owned();
        build.workflow = ".github/workflows/other.yml".to_owned();
    });
    attested.scene.get("/demo/-/demo-1.1.0.tgz").await.is(200);
    let facts = attested.facts("demo@1.1.0").await;
    assert_eq!(facts["signals"], json!(["provenance-workflow-changed"]), "{facts}");
}

#[tokio::test]
async fn false_provenance_is_a_finding_that_strict_refuses() {
    for (policy, status) in [("default", 200), ("strict", 403)] {
        let attested = Attested::open().await;
        let mut scene = attested.scene;
        scene.restart_with("policy", policy).await;
        let attested = Attested { scene, ..attested };
        attested.publish_old();
        attested.publish(release().aged(days(20)), |build| build.subject = "pkg:npm/other@1.1.0".to_owned());
        attested.scene.get("/demo/-/demo-1.1.0.tgz").await.is(status);
        let facts = attested.facts("demo@1.1.0").await;
        assert_eq!(facts["findings"][0]["finding"], "false-provenance", "{facts}");
        assert_eq!(facts["provenance"]["status"], "false");
        assert_eq!(attested.scene.metric("coldframe_incidents_total", "false_provenance").await.to_string(), "1");
    }
}

#[tokio::test]
async fn attestations_that_cannot_be_fetched_hide_nothing() {
    for reply in [Reply::status(404), Reply::status(500), Reply::ok("<html>"), Reply::json("{}")] {
        let attested = Attested::open().await;
        attested.publish_old();
        attested.scene.registry.answer(&path(&release()), reply);
        attested.scene.publish(announced(release()));
        attested.scene.get("/demo/-/demo-1.1.0.tgz").await.is(200);
        let facts = attested.facts("demo@1.1.0").await;
        assert_ne!(facts["provenance"]["status"], "valid", "{facts}");
        assert_eq!(facts["signals"], json!([]), "{facts}");
    }
}

#[tokio::test]
async fn old_releases_and_those_without_attestations_cause_no_request() {
    let attested = Attested::open().await;
    // No test declared these attestations, so a request for one would fail.
    attested.scene.publish(announced(Package::new("demo", "1.0.0").aged(days(60))));
    attested.scene.publish(release());
    attested.scene.get("/demo/-/demo-1.0.0.tgz").await.is(200);
    attested.scene.get("/demo/-/demo-1.1.0.tgz").await.is(200);
    assert_eq!(attested.facts("demo@1.1.0").await["provenance"]["status"], "missing");
}

#[tokio::test]
async fn provenance_is_not_verified_without_a_root() {
    let scene = Scene::open().set("sigstore-root", "none").await;
    scene.publish(Package::new("demo", "1.0.0").aged(days(60)));
    scene.publish(announced(release()));
    scene.get("/demo/-/demo-1.1.0.tgz").await.is(200);
    let explained = scene.get("/-/coldframe/explain/demo@1.1.0").accept("application/json").await.is(200).json();
    assert_eq!(explained["facts"]["provenance"]["status"], "off");
}

#[tokio::test]
async fn what_an_older_root_could_not_decide_is_decided_by_another() {
    let mut attested = Attested::open().await;
    attested.publish_old();
    attested.publish(release(), |build| build.repository = "https://github.com/mallory/demo".to_owned());
    let (unknown, folder) = (Sigstore::new(), TempDir::new().unwrap());
    let (old, new) = (folder.path().join("old.json"), folder.path().join("new.json"));
    std::fs::write(&old, unknown.root().to_string()).unwrap();
    std::fs::write(&new, attested.sigstore.root().to_string()).unwrap();
    attested.scene.restart_with("sigstore-root", old.to_str().unwrap()).await;
    attested.scene.get("/demo/-/demo-1.1.0.tgz").await.is(200);
    assert_eq!(attested.facts("demo@1.1.0").await["provenance"]["status"], "not-observable");
    attested.scene.restart_with("sigstore-root", new.to_str().unwrap()).await;
    attested.scene.get("/demo/-/demo-1.1.0.tgz").await.is(403);
}

#[tokio::test]
async fn many_clients_ask_for_attestations_once() {
    let attested = Attested::open().await;
    attested.publish_old();
    attested.publish(release(), |build| build.repository = "https://github.com/mallory/demo".to_owned());
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..8 {
        clients.spawn(attested.scene.get("/demo/-/demo-1.1.0.tgz").into_future());
    }
    // None is served while another waits for the attestations.
    for answer in clients.join_all().await {
        answer.is(403);
    }
    assert_eq!(attested.scene.registry.count(&path(&release())), 1);
}
