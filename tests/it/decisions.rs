//! Decisions of people while the server runs: they apply immediately, to exactly their subject, and until they expire.

use std::time::{Duration, Instant};

use coldframe::app::standalone::decide::{self, RecordedDecision};
use coldframe::clock::Clock as _;
use coldframe::npm::PackageName;
use coldframe::policy::decisions::{ApprovedVersion, DecisionAction, DecisionProposal, Signature};
use coldframe::policy::verdict::CHANGED_INTEGRITY;
use coldframe::store::ApplyStatus;
use coldframe::store::{DownloadOutcome, Ledger as _, SqliteLedger};
use serde_json::json;

use crate::harness::Scene;
use crate::package::{Package, days, hours, sha512};
use crate::process::{coldframe, run};

fn signature(scene: &Scene, who: &str) -> Signature {
    Signature { who: who.to_owned(), at: scene.clock.now() }
}

/// Records a decision as `ada` and waits until the server applies it.
async fn decide(scene: &Scene, act: DecisionAction, lasts: Option<Duration>, needs_second: bool) -> RecordedDecision {
    let author = signature(scene, "ada");
    let expires = lasts.map(|lasts| author.at.checked_add(jiff::SignedDuration::try_from(lasts).unwrap()).unwrap());
    let proposal = DecisionProposal { act, reason: "INC-7".to_owned(), author, expires, needs_second };
    let data = scene.data().to_owned();
    let recorded = tokio::task::spawn_blocking(move || decide::record_decision(&data, &proposal)).await.unwrap().unwrap();
    assert_eq!(recorded.effect, ApplyStatus::Applied);
    recorded
}

async fn revoke(scene: &Scene, id: i64) {
    let (data, by) = (scene.data().to_owned(), signature(scene, "ada"));
    let recorded = tokio::task::spawn_blocking(move || decide::revoke(&data, id, &by, "a mistake")).await.unwrap().unwrap();
    assert_eq!(recorded.effect, ApplyStatus::Applied);
}

/// Returns an approval of the version and bytes of `package`.
fn approval(package: &Package, records: &[&str]) -> DecisionAction {
    let approved = ApprovedVersion { version: package.version.clone(), integrity: sha512(&package.tarball), until: None };
    DecisionAction::Approve {
        package: package.name.clone(),
        asked: package.version.clone(),
        versions: vec![approved],
        records: records.iter().map(|record| (*record).to_owned()).collect(),
    }
}

fn deny(packages: &str, range: Option<&str>) -> DecisionAction {
    DecisionAction::Deny { packages: packages.to_owned(), range: range.map(str::to_owned) }
}

fn freeze(scene: &Scene, packages: &[&str]) -> DecisionAction {
    DecisionAction::Freeze { at: scene.clock.now(), packages: packages.iter().map(|glob| (*glob).to_owned()).collect() }
}

/// Returns the rule by which the ledger says a tarball was served, and the number of downloads.
fn served_by(scene: &Scene, name: &str) -> (Option<String>, u64) {
    let ledger = SqliteLedger::read_only(scene.data()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let exposures = ledger.exposure(&PackageName::parse(name).unwrap(), None).unwrap();
        if let Some(served) = exposures.into_iter().find(|exposure| exposure.outcome == DownloadOutcome::Served) {
            return (served.rule, served.times);
        }
        assert!(Instant::now() < deadline, "no tarball of {name} was served");
        std::thread::yield_now();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exposure_names_the_approval_that_allowed_a_version() {
    let scene = Scene::open().await;
    let young = Package::new("axios", "1.14.1").aged(hours(1));
    scene.publish(young.clone());
    let recorded = decide(&scene, approval(&young, &[]), Some(hours(5)), false).await;
    scene.get("/axios/-/axios-1.14.1.tgz").await.is(200);
    served_by(&scene, "axios");
    let home = tempfile::TempDir::new().unwrap();
    let data = scene.data().to_str().unwrap();
    let (code, text, errors) = run(coldframe(home.path()).args(["exposure", "axios", "--data-dir", data]));
    assert_eq!(code, 0, "{errors}");
    assert!(text.contains(&format!("served (approval {})", recorded.decision.id)), "{text}");
    let (_, text, _) = run(coldframe(home.path()).args(["exposure", "axios", "--json", "--data-dir", data]));
    let rows: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(rows[0]["decisions"], json!([recorded.decision.id]), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn approval_binds_every_digest_of_its_bytes() {
    let scene = Scene::open().await;
    let victim = Package::new("victim", "1.0.0").aged(hours(1)).dist("integrity", serde_json::Value::Null);
    let carrier = Package::new("carrier", "1.0.0").content("malice");
    scene.publish(victim.clone());
    scene.publish(carrier.clone());
    scene.get("/carrier/-/carrier-1.0.0.tgz").await.is(200);
    let shasum = coldframe::npm::Digest::of(coldframe::npm::Algorithm::Sha1, &victim.tarball).to_sri();
    let approved = ApprovedVersion { version: "1.0.0".to_owned(), integrity: shasum, until: None };
    let act = DecisionAction::Approve {
        package: "victim".to_owned(),
        asked: "1.0.0".to_owned(),
        versions: vec![approved],
        records: Vec::new(),
    };
    decide(&scene, act, None, false).await;
    // Before any client requests the package, upstream adds the digest of other bytes that are in the store.
    let digest = sha512(&carrier.tarball);
    scene.registry.edit("victim", move |packument| packument["versions"]["1.0.0"]["dist"]["integrity"] = json!(digest));
    let path = "/victim/-/victim-1.0.0.tgz";
    scene.get(path).await.is(403);
    scene.registry.tamper(path, carrier.tarball.clone());
    scene.get(path).await.is(403);
    // An approval of a SHA-512 binds even if upstream states only a shasum.
    let bound = Package::new("bound", "1.0.0").aged(hours(1));
    scene.publish(bound.clone().dist("integrity", serde_json::Value::Null));
    let act = DecisionAction::Approve {
        package: "bound".to_owned(),
        asked: "1.0.0".to_owned(),
        versions: vec![ApprovedVersion {
            version: "1.0.0".to_owned(),
            integrity: format!(
                "{} {}",
                sha512(b"other bytes"),
                coldframe::npm::Digest::of(coldframe::npm::Algorithm::Sha1, &bound.tarball).to_sri()
            ),
            until: None,
        }],
        records: Vec::new(),
    };
    decide(&scene, act, None, false).await;
    scene.get("/bound/-/bound-1.0.0.tgz").await.is(403);
}

#[tokio::test(flavor = "multi_thread")]
async fn approval_opens_its_version_immediately_and_expires() {
    let scene = Scene::open().await;
    let young = Package::new("axios", "1.14.1").aged(hours(1));
    scene.publish_old("axios", &["1.14.0"]);
    scene.publish(young.clone());
    assert_eq!(scene.get("/axios").await.versions(), ["1.14.0"]);
    decide(&scene, approval(&young, &[]), Some(hours(5)), false).await;
    assert_eq!(scene.get("/axios").await.versions(), ["1.14.0", "1.14.1"]);
    scene.get("/axios/-/axios-1.14.1.tgz").await.is(200);
    assert_eq!(scene.get("/axios").await.json()["dist-tags"]["latest"], "1.14.1");
    scene.advance(hours(5));
    assert_eq!(scene.get("/axios").await.versions(), ["1.14.0"]);
    scene.get("/axios/-/axios-1.14.1.tgz").await.is(403);
}

#[tokio::test(flavor = "multi_thread")]
async fn approval_does_not_cover_other_bytes_or_later_versions() {
    let scene = Scene::open().await;
    let young = Package::new("axios", "1.14.1").aged(hours(1));
    scene.publish(young.clone());
    decide(&scene, approval(&young.clone().content("other bytes"), &[]), None, false).await;
    scene.get("/axios/-/axios-1.14.1.tgz").await.is(403);
    decide(&scene, approval(&young, &[]), None, false).await;
    scene.get("/axios/-/axios-1.14.1.tgz").await.is(200);
    scene.publish(Package::new("axios", "1.14.2").aged(hours(0)));
    scene.advance(hours(1));
    assert_eq!(scene.get("/axios").await.versions(), ["1.14.1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn denial_closes_cached_versions_with_its_reason_until_revoked() {
    let scene = Scene::open().await;
    scene.publish_old("axios", &["1.14.0", "1.14.1", "1.15.0-rc.1"]);
    scene.get("/axios/-/axios-1.14.1.tgz").await.is(200);
    let recorded = decide(&scene, deny("axios", Some(">=1.14.1")), None, false).await;
    let refused = scene.get("/axios/-/axios-1.14.1.tgz").await.is(403).text();
    for part in ["denied by ada", "INC-7", "(rule denied)", "newest allowed: 1.14.0"] {
        assert!(refused.contains(part), "{part:?} is missing: {refused}");
    }
    assert_eq!(scene.get("/axios").await.versions(), ["1.14.0"], "a denied range includes its prereleases");
    revoke(&scene, recorded.decision.id).await;
    scene.get("/axios/-/axios-1.14.1.tgz").await.is(200);
    assert_eq!(scene.get("/axios").await.versions().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn denial_overrides_approval() {
    let scene = Scene::open().await;
    let young = Package::new("@acme/ui", "1.0.0").aged(hours(1));
    scene.registry.absent("acme");
    scene.publish(young.clone());
    decide(&scene, deny("@acme/*", None), None, false).await;
    decide(&scene, approval(&young, &[]), None, false).await;
    scene.get("/@acme%2fui/-/ui-1.0.0.tgz").await.is(403);
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_survive_restart() {
    let mut scene = Scene::open().await;
    let young = Package::new("axios", "1.14.1").aged(hours(1));
    scene.publish(young.clone());
    scene.publish_old("left-pad", &["1.0.0"]);
    decide(&scene, approval(&young, &[]), None, false).await;
    decide(&scene, deny("left-pad", None), None, false).await;
    scene.restart().await;
    scene.get("/axios/-/axios-1.14.1.tgz").await.is(200);
    scene.get("/left-pad").await.is(403);
}

#[tokio::test(flavor = "multi_thread")]
async fn freeze_hides_later_releases_and_ends_on_a_newer_document() {
    let scene = Scene::open().set("min-release-age", "1h").await;
    scene.publish_old("axios", &["1.14.0"]);
    scene.publish_old("left-pad", &["0.9.0"]);
    decide(&scene, freeze(&scene, &[]), Some(hours(48)), false).await;
    scene.advance(hours(2));
    scene.publish(Package::new("axios", "1.14.1").aged(hours(1)));
    scene.publish(Package::new("left-pad", "1.0.0").aged(hours(1)));
    scene.advance(hours(40));
    assert_eq!(scene.get("/axios").await.versions(), ["1.14.0"]);
    let refused = scene.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(403).text();
    assert!(refused.contains("frozen by ada") && refused.contains("opens 2026-04-05 12:00 UTC"), "{refused}");
    scene.advance(hours(6));
    let sent = scene.registry.count("/axios");
    assert_eq!(scene.get("/axios").await.versions(), ["1.14.0", "1.14.1"]);
    assert_eq!(scene.registry.count("/axios"), sent + 1, "the packument is fetched again when the freeze ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn scope_freeze_affects_its_scope_only_and_yields_to_later_approval() {
    let scene = Scene::open().set("min-release-age", "0s").await;
    decide(&scene, freeze(&scene, &["@acme/*"]), Some(days(2)), false).await;
    scene.advance(hours(2));
    let fix = Package::new("@acme/ui", "1.0.0").aged(hours(1));
    scene.publish(fix.clone());
    scene.publish(Package::new("left-pad", "1.0.0").aged(hours(1)));
    scene.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(200);
    scene.get("/@acme%2fui/-/ui-1.0.0.tgz").await.is(403);
    decide(&scene, approval(&fix, &[]), None, false).await;
    scene.get("/@acme%2fui/-/ui-1.0.0.tgz").await.is(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn break_glass_waives_age_and_expires() {
    let scene = Scene::open().await;
    scene.publish(Package::new("axios", "1.14.1").aged(hours(1)));
    scene.publish(Package::new("left-pad", "1.0.0").aged(hours(1)));
    scene.get("/axios").await.is(403);
    decide(&scene, DecisionAction::BreakGlass, Some(hours(1)), false).await;
    assert_eq!(scene.get("/axios").await.versions(), ["1.14.1"]);
    scene.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(200);
    let (rule, times) = served_by(&scene, "left-pad");
    assert_eq!((rule.as_deref(), times), (Some("break-glass"), 1), "downloads allowed by break-glass are in the ledger");
    scene.advance(hours(1));
    scene.get("/axios").await.is(403);
    scene.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(403);
}

/// Opens a scene with `strict`, one custom rule, a feed with a critical vulnerability and a feed with malware.
fn strict_with_feeds(folder: &std::path::Path) -> crate::harness::Opening {
    let affected = |name: &str| json!([{ "package": { "ecosystem": "npm", "name": name }, "versions": ["1.0.0"] }]);
    let put = |feed: &str, record: &serde_json::Value| {
        std::fs::create_dir_all(folder.join(feed)).unwrap();
        std::fs::write(folder.join(feed).join("record.json"), record.to_string()).unwrap();
    };
    put(
        "holes",
        &json!({ "id": "GHSA-1", "modified": "2026-04-01T00:00:00Z", "affected": affected("holed"),
        "database_specific": { "severity": "CRITICAL", "github_reviewed": true } }),
    );
    put("malware", &json!({ "id": "MAL-1", "modified": "2026-04-01T00:00:00Z", "affected": affected("malware") }));
    let rules = "include = [\"strict\"]\n[[rule]]\nid = \"no-ui\"\ndeny = true\npackages = [\"@acme/ui\"]\nreason = \"x\"\n";
    std::fs::write(folder.join("rules.toml"), rules).unwrap();
    Scene::open()
        .set("policy", folder.join("rules.toml").to_str().unwrap())
        .set("feed", folder.join("holes").to_str().unwrap())
        .set("feed", folder.join("malware").to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn break_glass_does_not_override_advisories_rules_or_decisions() {
    let folder = tempfile::TempDir::new().unwrap();
    let scene = strict_with_feeds(folder.path()).await;
    scene.registry.absent("acme");
    for name in ["young", "holed", "malware", "@acme/ui", "denied", "frozen"] {
        scene.publish(Package::new(name, "1.0.0").aged(hours(1)));
    }
    decide(&scene, deny("denied", None), None, false).await;
    let before = DecisionAction::Freeze { at: "2026-04-03T10:00:00Z".parse().unwrap(), packages: vec!["frozen".to_owned()] };
    decide(&scene, before, Some(days(2)), false).await;
    decide(&scene, DecisionAction::BreakGlass, Some(hours(1)), false).await;
    scene.get("/young/-/young-1.0.0.tgz").await.is(200);
    for (path, rule) in [
        ("/holed/-/holed-1.0.0.tgz", "critical-vulnerability"),
        ("/malware/-/malware-1.0.0.tgz", "advisory"),
        ("/@acme%2fui/-/ui-1.0.0.tgz", "no-ui"),
        ("/denied/-/denied-1.0.0.tgz", "denied"),
        ("/frozen/-/frozen-1.0.0.tgz", "freeze"),
    ] {
        let refused = scene.get(path).await.is(403).error();
        assert!(refused.contains(&format!("(rule {rule})")), "{rule}: {refused}");
    }
    let text = scene.get("/-/coldframe/explain/holed@1.0.0").accept("application/json").await.is(200).json();
    assert_eq!((&text["rule"], &text["waiver"]), (&json!("critical-vulnerability"), &json!(null)));
    let outcome = |rule: &str| {
        let steps = text["rules"].as_array().unwrap();
        steps.iter().find(|step| step["rule"] == rule).map(|step| step["outcome"].clone())
    };
    assert_eq!((outcome("break-glass"), outcome("no-ui")), (Some(json!("no match")), Some(json!("no match"))), "{text}");
    assert_eq!(outcome("critical-vulnerability"), Some(json!("decides")), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_integrity_needs_an_explicit_approval_by_two_people() {
    let scene = Scene::open().await;
    scene.publish_old("axios", &["1.14.0"]);
    scene.get("/axios").await.is(200);
    let changed = Package::new("axios", "1.14.0").content("other bytes");
    scene.publish(changed.clone());
    scene.advance(hours(1));
    scene.get("/axios/-/axios-1.14.0.tgz").await.is(403);
    decide(&scene, approval(&changed, &[]), None, false).await;
    scene.get("/axios/-/axios-1.14.0.tgz").await.is(403);
    let recorded = decide(&scene, approval(&changed, &[CHANGED_INTEGRITY]), None, true).await;
    scene.get("/axios/-/axios-1.14.0.tgz").await.is(403);
    let confirm = |who: &str| {
        let (data, by, id) = (scene.data().to_owned(), signature(&scene, who), recorded.decision.id);
        tokio::task::spawn_blocking(move || decide::confirm(&data, id, &by))
    };
    let alone = confirm("ada").await.unwrap().unwrap_err().to_string();
    assert!(alone.contains("must be confirmed by another system user"), "{alone}");
    confirm("grace").await.unwrap().unwrap();
    scene.get("/axios/-/axios-1.14.0.tgz").await.is(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn active_decisions_are_counted_by_kind_until_they_end() {
    let mut scene = Scene::open().await;
    let active = async |scene: &Scene, kind: &str| scene.metric("coldframe_decisions_active", &format!("\"{kind}\"")).await;
    assert!(active(&scene, "deny").await.abs() < 0.1);
    let denied = decide(&scene, deny("lodash", None), None, false).await;
    decide(&scene, DecisionAction::BreakGlass, Some(hours(1)), false).await;
    decide(&scene, freeze(&scene, &[]), None, true).await;
    for (kind, count) in [("deny", 1.0), ("observe", 1.0), ("freeze", 0.0), ("approve", 0.0)] {
        assert!((active(&scene, kind).await - count).abs() < 0.1, "{kind}");
    }
    scene.restart().await;
    assert!((active(&scene, "deny").await - 1.0).abs() < 0.1, "active decisions are counted from the start");
    revoke(&scene, denied.decision.id).await;
    assert!(active(&scene, "deny").await.abs() < 0.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn environment_variables_do_not_make_a_second_person() {
    let scene = Scene::open().await;
    let home = tempfile::TempDir::new().unwrap();
    let command = |words: &[&str]| {
        let mut command = crate::process::coldframe(home.path());
        command.args(words).arg("--data-dir").arg(scene.data());
        for name in ["SUDO_USER", "USER", "LOGNAME", "USERNAME"] {
            command.env(name, "bob");
        }
        crate::process::run(&mut command)
    };
    let (code, shown, errors) = command(&["deny", "lodash", "--reason", "vendor mail", "--json"]);
    assert_eq!(code, 0, "{errors}");
    let author = serde_json::from_str::<serde_json::Value>(&shown).unwrap()["author"].as_str().unwrap().to_owned();
    assert_ne!(author, "bob");
    let by = signature(&scene, &author);
    let proposal = DecisionProposal {
        act: DecisionAction::BreakGlass,
        reason: "INC-7".to_owned(),
        author: by,
        expires: None,
        needs_second: true,
    };
    let data = scene.data().to_owned();
    let recorded = tokio::task::spawn_blocking(move || decide::record_decision(&data, &proposal)).await.unwrap().unwrap();
    let id = recorded.decision.id.to_string();
    let (code, _, errors) = command(&["confirm", &id]);
    assert_ne!(code, 0);
    // In a container no second user exists, and the error says so.
    assert!(errors.contains("another user of this system") || errors.contains("in a container"), "{errors}");
    let decisions = decide::decisions(scene.data()).unwrap();
    assert!(decisions.iter().all(|decision| decision.second.is_none()), "{decisions:?}");
}
