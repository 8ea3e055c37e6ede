//! Policies over real sockets: the shipped ones, reloads while serving, one per listener, and subpackages.

use std::time::{Duration, Instant};

use coldframe::store::Ledger as _;
use serde_json::json;

use crate::client::Ask;
use crate::harness::Scene;
use crate::package::{Package, days, hours};
use crate::process::{Program, coldframe, machine_clock, run};
use crate::registry::Registry;

const LOOSE: &str = "[[rule]]\nid = \"minimum-age\"\nhold = \"1h\"\nreason = \"young\"\n";
const TIGHT: &str =
    "[[rule]]\nid = \"nothing\"\ndeny = true\npackages = [\"left-pad\"]\nversions = \">=1.1.0\"\nreason = \"we do not use it\"\n";

/// Opens a scene whose policy is a file with this text.
async fn scene_with_policy(text: &str) -> (Scene, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rules.toml");
    std::fs::write(&path, text).unwrap();
    (Scene::open().set("policy", path.to_str().unwrap()).await, folder)
}

#[tokio::test]
async fn a_refusal_names_the_rule_and_its_reason() {
    let (scene, _folder) = scene_with_policy(TIGHT).await;
    scene.publish_old("left-pad", &["1.0.0", "1.1.0-beta.1", "1.1.0"]);
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0-beta.1"]);
    let refused = scene.get("/left-pad/-/left-pad-1.1.0.tgz").await.is(403).error();
    assert!(refused.contains("we do not use it") && refused.contains("rule nothing") && !refused.contains("opens"), "{refused}");
    assert!(scene.metric("coldframe_refusals", "policy").await >= 1.0);
}

#[tokio::test]
async fn rules_match_manifest_fields() {
    let rules = r#"
[[rule]]
id = "scripts"
deny = true
install-script = true
reason = "x"
[[rule]]
id = "elsewhere"
deny = true
dependencies = ["git", "url"]
reason = "x"
[[rule]]
id = "people"
deny = true
publishers = ["mallory"]
reason = "x"
[[rule]]
id = "deprecated"
deny = true
deprecated = true
reason = "x"
[[rule]]
id = "tag"
deny = true
dist-tags = ["beta"]
reason = "x"
[[rule]]
id = "maintainer"
deny = true
maintainers = ["trent*"]
reason = "x"
"#;
    let (scene, _folder) = scene_with_policy(rules).await;
    let package = |version: &str| Package::new("demo", version).untagged();
    scene.publish(package("1.0.0").field("_npmUser", json!({"name": "alice", "email": "a@example"})).tagged("latest"));
    scene.publish(package("1.0.1").script("postinstall", "node x.js"));
    scene.publish(package("1.0.2").depends_on("evil", "git+https://git.example/evil.git"));
    scene.publish(package("1.0.3").depends_on("evil", "https://files.example/evil.tgz"));
    scene.publish(package("1.0.4").field("_npmUser", json!({"name": "mallory"})));
    scene.publish(package("1.0.5").deprecated("broken"));
    scene.publish(package("1.0.6").tagged("beta"));
    scene.publish(package("1.0.7").field("maintainers", json!([{"name": "alice"}, {"name": "trent2"}])));
    scene.publish(package("1.0.8").field("hasInstallScript", true));
    assert_eq!(scene.get("/demo").await.versions(), ["1.0.0"]);
    for (version, rule) in
        [("1.0.1", "scripts"), ("1.0.2", "elsewhere"), ("1.0.4", "people"), ("1.0.6", "tag"), ("1.0.7", "maintainer")]
    {
        let refused = scene.get(&format!("/demo/-/demo-{version}.tgz")).await.is(403).error();
        assert!(refused.contains(&format!("rule {rule}")), "{refused}");
    }
}

#[tokio::test]
async fn a_new_package_is_held_and_subpackages_of_an_old_one_are_not() {
    let scene = Scene::open().await;
    let pins = json!({"@esbuild/linux-x64": "0.25.0", "@esbuild/other": "^0.25.0"});
    scene.publish(Package::new("esbuild", "0.24.0"));
    scene.publish(Package::new("esbuild", "0.25.0").aged(days(4)).field("optionalDependencies", pins));
    scene.publish(Package::new("@esbuild/linux-x64", "0.25.0").aged(days(4)));
    scene.publish(Package::new("@esbuild/other", "0.25.0").aged(days(4)));
    scene.publish(Package::new("plain-crypto-js", "4.2.1").aged(days(4)));
    // With a lockfile, the subpackage is requested first.
    scene.get("/@esbuild/linux-x64/-/linux-x64-0.25.0.tgz").await.is(200);
    assert_eq!(scene.get("/@esbuild%2flinux-x64").await.versions(), ["0.25.0"]);
    let refused = scene.get("/@esbuild%2fother").await.is(403).error();
    assert!(refused.contains("rule new-package") && refused.contains("2026-04-13 12:00 UTC"), "{refused}");
    scene.get("/plain-crypto-js/-/plain-crypto-js-4.2.1.tgz").await.is(403);
    scene.advance(days(10));
    scene.get("/plain-crypto-js/-/plain-crypto-js-4.2.1.tgz").await.is(200);
}

#[tokio::test]
async fn the_observe_policy_serves_and_records_the_rule() {
    let mut scene = Scene::open().set("policy", "observe").await;
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(1)));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.1.0"]);
    scene.get("/left-pad/-/left-pad-1.1.0.tgz").await.is(200);
    assert!(scene.metric("coldframe_observed", "").await >= 1.0);
    scene.coldframe.stop().await;
    let ledger = coldframe::store::SqliteLedger::read_only(scene.data()).unwrap();
    let name = coldframe::npm::PackageName::parse("left-pad").unwrap();
    let seen = ledger.exposure(&name, None).unwrap();
    assert_eq!(seen[0].outcome, coldframe::store::DownloadOutcome::Served);
    assert_eq!(seen[0].rule.as_deref(), Some("new-package"));
}

#[tokio::test]
async fn an_exemption_expires_without_an_upstream_fetch() {
    let rules = "[[rule]]\nid = \"for-now\"\nallow = true\nexpires = \"2026-04-03T13:00:00Z\"\nowner = \"a\"\nreason = \"x\"\n\
                 [[rule]]\nid = \"rest\"\ndeny = true\nreason = \"x\"\n";
    let (scene, _folder) = scene_with_policy(rules).await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.get("/left-pad").await.is(200);
    scene.registry.go_down();
    scene.advance(hours(1));
    scene.get("/left-pad").await.is(403);
    scene.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(403);
}

#[tokio::test]
async fn each_listener_applies_only_its_own_policy() {
    let scene = Scene::open().set("listen", "127.0.0.1:0").set("listen", "127.0.0.1:0=observe").await;
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(1)));
    let second = scene.coldframe.addresses[1];
    for _ in 0..3 {
        assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
        assert_eq!(Ask::new(second, "GET", "/left-pad").await.versions(), ["1.0.0", "1.1.0"]);
        scene.get("/left-pad/-/left-pad-1.1.0.tgz").await.is(403);
        Ask::new(second, "GET", "/left-pad/-/left-pad-1.1.0.tgz").await.is(200);
        scene.advance(hours(1));
    }
}

/// Repeats `probe` for up to 20 s until it returns a value.
async fn until<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < deadline, "timed out waiting for {what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_policy_file_is_applied_and_a_broken_one_is_not() {
    let (scene, folder) = scene_with_policy(LOOSE).await;
    scene.publish_old("left-pad", &["1.0.0", "1.1.0"]);
    assert_eq!(scene.get("/left-pad").await.versions().len(), 2);
    let path = folder.path().join("rules.toml");
    std::fs::write(&path, TIGHT).unwrap();
    until("the new policy", async || (scene.get("/left-pad").await.versions().len() == 1).then_some(())).await;
    assert!(scene.metric("coldframe_policy_reloads", "adopted").await >= 1.0);
    std::fs::write(&path, "[[rule]]\nid = \"broken\"\n").unwrap();
    let readiness = until("the warning in readyz", async || {
        let text = scene.get("/-/coldframe/readyz").await.is(200).text();
        text.contains("rules.toml:1:1").then_some(text)
    });
    assert!(readiness.await.contains("the previous one is active"));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    assert!(scene.metric("coldframe_policy_reloads", "broken").await >= 1.0);
    std::fs::write(&path, LOOSE).unwrap();
    until("the first policy", async || (scene.get("/left-pad").await.versions().len() == 2).then_some(())).await;
    let ready = scene.get("/-/coldframe/readyz").await.is(200).json();
    assert_eq!(ready["checks"]["policy"], "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_during_a_reload_or_gets_an_old_answer_after_it() {
    let (scene, folder) = scene_with_policy(LOOSE).await;
    scene.publish_old("left-pad", &["1.0.0", "1.1.0"]);
    let path = folder.path().join("rules.toml");
    let address = scene.coldframe.address;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let stopped = stopped.clone();
            tokio::spawn(async move {
                let mut answers = 0;
                while !*stopped.borrow() {
                    let versions = Ask::new(address, "GET", "/left-pad").await.is(200).versions();
                    assert!(versions.len() == 1 || versions.len() == 2, "{versions:?}");
                    answers += 1;
                }
                answers
            })
        })
        .collect();
    for round in 0..4 {
        let (text, count) = if round % 2 == 0 { (TIGHT, 1) } else { (LOOSE, 2) };
        std::fs::write(&path, format!("{text}# {round}\n")).unwrap();
        let reloads = f64::from(round + 1);
        until("the reload", async || (scene.metric("coldframe_policy_reloads", "adopted").await >= reloads).then_some(())).await;
        // The counter increases after the swap, so later requests get the new policy.
        for _ in 0..20 {
            assert_eq!(scene.get("/left-pad").await.versions().len(), count);
        }
    }
    stop.send_replace(true);
    for client in clients {
        assert!(client.await.unwrap() > 0);
    }
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn sighup_reloads_the_policy() {
    let home = tempfile::tempdir().unwrap();
    let registry = Registry::start(&machine_clock()).await;
    let folder = home.path().join("rules");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("10-own.toml"), LOOSE).unwrap();
    let policy = folder.to_str().unwrap().to_owned();
    let program = Program::serve(home.path(), &home.path().join("data"), &registry.url, &["--policy", &policy]);
    assert!(program.greeting.contains("policy") && program.greeting.contains("1 h minimum release age"), "{}", program.greeting);
    program.signal("-HUP");
    until("the reload", async || {
        let metrics = program.get("/-/coldframe/metrics").await.is(200).text();
        metrics.contains("coldframe_policy_reloads_total{outcome=\"adopted\"} 1\n").then_some(())
    })
    .await;
}

#[test]
fn policy_check_test_and_replay_report_results_and_errors() {
    let home = tempfile::tempdir().unwrap();
    let (code, stdout, _) = run(coldframe(home.path()).args(["policy", "check"]));
    assert!(code == 0 && stdout.contains("default: 13 rules, no errors"), "{stdout}");
    let own = home.path().join("own.toml");
    std::fs::write(&own, "include = \"default\"\n[[rule]]\nid = \"ours\"\nallow = true\nscopes = [\"@acme\"]\nreason = \"x\"\n")
        .unwrap();
    let (code, stdout, _) = run(coldframe(home.path()).args(["policy", "check"]).arg(&own));
    assert!(code == 0 && stdout.contains("warning:") && stdout.contains("has no `owner`, `expires`"), "{stdout}");
    assert_eq!(run(coldframe(home.path()).args(["policy", "check", "--strict"]).arg(&own)).0, 2);
    std::fs::write(&own, "[[rule]]\nid = \"x\"\nhold = \"14\"\n").unwrap();
    let (code, _, stderr) = run(coldframe(home.path()).args(["policy", "check"]).arg(&own));
    assert!(code == 2 && stderr.contains("own.toml:3:8: `hold` lacks a unit: `14`") && stderr.contains("= allowed:"), "{stderr}");
    let (code, stdout, _) = run(coldframe(home.path()).args(["policy", "test", "strict"]));
    assert!(code == 0 && stdout.contains("passed, 0 failed"), "{stdout}");
    std::fs::write(&own, LOOSE).unwrap();
    std::fs::write(home.path().join("own.cases"), "axios@1.14.1 at 2026-03-31T01:00Z => deny by minimum-age\n").unwrap();
    let (code, stdout, _) = run(coldframe(home.path()).args(["policy", "test"]).arg(&own));
    assert!(code == 1 && stdout.contains("= found: hold by minimum-age until 2026-03-31T02:00:00Z"), "{stdout}");
    let incidents = home.path().join("incidents.json");
    let incident = |id: &str, hours: serde_json::Value, bound: &str| {
        json!({"id": id, "published_at": "2026-03-31T00:21:00Z", "hours_live": hours, "hours_live_bound": bound,
            "kind": "compromise-of-established-package", "packages": [{"name": "axios", "versions": ["1.14.1"]}],
            "signals": {"publisher_changed": null}})
    };
    let held = [
        incident("quick", json!(2.9), "exact"),
        incident("slow", json!(100), "upper"),
        incident("unknown", json!(null), "unknown"),
    ];
    std::fs::write(&incidents, json!({ "incidents": held }).to_string()).unwrap();
    let (code, stdout, stderr) = run(coldframe(home.path()).args(["policy", "replay", "--json"]).arg(&incidents));
    assert_eq!(code, 0, "{stderr}");
    let rows: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let outcomes: Vec<_> = rows.as_array().unwrap().iter().map(|row| row["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["stopped", "missed", "undecidable"]);
    assert_eq!((&rows[0]["rule"], &rows[0]["until"]), (&json!("minimum-age"), &json!("2026-04-03T00:21:00Z")));
    assert!(stderr.contains(&format!("3 incidents in {}", incidents.display())), "{stderr}");
    std::fs::write(&incidents, "{\"cases\":[]}").unwrap();
    let (code, _, stderr) = run(coldframe(home.path()).args(["policy", "replay"]).arg(&incidents));
    assert!(code == 2 && stderr.contains("cannot parse incidents in") && stderr.contains("policies/README.md"), "{stderr}");
}

#[test]
fn replay_without_a_file_uses_and_names_the_shipped_incidents() {
    let home = tempfile::tempdir().unwrap();
    for (policy, counts) in [
        ("default", "0 stopped at publication, 23 stopped until detection, 5 missed, 8 undecidable"),
        ("strict", "1 stopped at publication, 23 stopped until detection, 4 missed, 8 undecidable"),
    ] {
        let (code, stdout, errors) = run(coldframe(home.path()).args(["policy", "replay", "--policy", policy]));
        assert_eq!(code, 0, "{errors}");
        let line = format!("{policy}: of 36 incidents in policies/incidents.json (shipped) {counts}");
        assert!(stdout.contains(&line), "{stdout}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_diff_lists_broken_versions_and_their_clients() {
    let home = tempfile::tempdir().unwrap();
    let registry = Registry::start(&machine_clock()).await;
    registry.publish(Package::new("left-pad", "1.0.0"));
    registry.publish(Package::new("left-pad", "1.1.0"));
    let data = home.path().join("data");
    let program = Program::serve(home.path(), &data, &registry.url, &[]);
    program.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(200);
    program.get("/left-pad/-/left-pad-1.1.0.tgz").await.is(200);
    let candidate = home.path().join("tight.toml");
    std::fs::write(&candidate, TIGHT).unwrap();
    let stdout = until("the ledger", async || {
        let mut command = coldframe(home.path());
        command.args(["policy", "diff"]).arg(&candidate).args(["--upstream", &registry.url, "--data-dir"]).arg(&data);
        let (code, stdout, stderr) = tokio::task::spawn_blocking(move || run(&mut command)).await.unwrap();
        assert_eq!(code, 0, "{stderr}");
        stdout.contains("of 2 requested tarballs").then_some(stdout)
    });
    let stdout = stdout.await;
    assert!(stdout.contains("breaks  left-pad@1.1.0  nothing") && stdout.contains("127.0.0.1"), "{stdout}");
    assert!(stdout.contains("1 would break, 0 would open"), "{stdout}");
    drop(program);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fifo_instead_of_a_policy_file_changes_nothing_and_the_next_file_is_applied() {
    let (scene, folder) = scene_with_policy(LOOSE).await;
    scene.publish_old("left-pad", &["1.0.0", "1.1.0"]);
    let path = folder.path().join("rules.toml");
    std::fs::remove_file(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    until("the error in readyz", async || {
        scene.get("/-/coldframe/readyz").await.text().contains("not a regular file").then_some(())
    })
    .await;
    assert_eq!(scene.get("/left-pad").await.versions().len(), 2);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, TIGHT).unwrap();
    until("the new policy", async || (scene.get("/left-pad").await.versions().len() == 1).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_diff_judges_versions_at_the_time_of_their_download() {
    let scene = Scene::open().set("policy", "observe").await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(1)));
    scene.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(200);
    scene.get("/left-pad/-/left-pad-1.1.0.tgz").await.is(200);
    // The command uses the machine's clock, by which both versions are old.
    let home = tempfile::tempdir().unwrap();
    let rows = until("the ledger", async || {
        let mut command = coldframe(home.path());
        command.args(["policy", "diff", "default", "--json", "--policy", "observe"]);
        command.args(["--upstream", &scene.registry.url, "--data-dir"]).arg(scene.data());
        let (code, stdout, stderr) = tokio::task::spawn_blocking(move || run(&mut command)).await.unwrap();
        assert_eq!(code, 0, "{stderr}");
        let rows: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        (!rows.as_array().unwrap().is_empty()).then_some(rows)
    });
    let expected = json!([{
        "name": "left-pad", "version": "1.1.0", "clients": ["127.0.0.1"], "times": 1, "first": "2026-04-03T12:00:00Z",
        "now": { "verdict": "allow", "rule": null, "until": null },
        "then": { "verdict": "hold", "rule": "minimum-age", "until": "2026-04-06T11:00:00Z" },
    }]);
    assert_eq!(rows.await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn survey_counts_the_updates_of_the_packages_of_a_lockfile() {
    let (home, registry) = (tempfile::tempdir().unwrap(), Registry::start(&machine_clock()).await);
    for name in ["quiet", "@acme/scripted"] {
        registry.publish(Package::new(name, "1.0.0").aged(days(400)));
    }
    registry.publish(Package::new("quiet", "1.1.0").aged(days(200)));
    registry.publish(Package::new("@acme/scripted", "1.1.0").aged(days(100)).script("postinstall", "node setup.js"));
    registry.absent("missing");
    let entry = |name: &str| {
        (
            format!("node_modules/{name}"),
            json!({ "version": "1.1.0", "resolved": format!("https://registry.example/{name}/-/x.tgz"), "integrity": "sha512-AAAA" }),
        )
    };
    let mut packages = serde_json::Map::from_iter(["quiet", "@acme/scripted", "missing"].map(entry));
    packages.insert(String::new(), json!({ "name": "app", "version": "1.0.0" }));
    packages.insert(
        "node_modules/forked".to_owned(),
        json!({ "version": "1.0.0", "resolved": "git+ssh://git@git.example/forked.git#c0ffee" }),
    );
    let lockfile = home.path().join("package-lock.json");
    std::fs::write(&lockfile, json!({ "name": "app", "lockfileVersion": 3, "packages": packages }).to_string()).unwrap();
    let survey = |more: &[&str]| {
        let mut command = coldframe(home.path());
        run(command.args(["policy", "survey", "package-lock.json", "--upstream", &registry.url]).args(more))
    };
    let (code, out, errors) = survey(&["--updates", "--policy", "default"]);
    assert_eq!(code, 0, "{out}{errors}");
    for part in [
        "2 stable updates of 2 packages",
        "with a strong signal: 500.0 per 1,000",
        "first-install-script           strong    1        500.0",
        "default  1            500.0      11 d               0       strong-signal 1",
        "most held by default: @acme/scripted 1",
    ] {
        assert!(out.contains(part), "{part:?} is missing: {out}");
    }
    assert!(errors.contains("missing is left out: upstream answers 404"), "{errors}");
    assert_eq!((registry.count("/quiet"), registry.count("/forked")), (1, 0));
    // A packument next to the lockfile is counted once.
    std::fs::write(home.path().join("quiet.json"), registry.packument("quiet").to_string()).unwrap();
    let (_, out, _) = survey(&["quiet.json", "--at", "2100-01-01T00:00:00Z"]);
    assert!(out.starts_with("default over 2 packages and 4 versions"), "{out}");
    assert_eq!(registry.count("/quiet"), 1);
}
