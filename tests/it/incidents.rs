//! Threat intelligence: feed status, the `incident` command, audits from feeds, and exported denials as a feed of another
//! instance.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fake_response::Reply;
use crate::harness::Scene;
use crate::package::Package;
use crate::process::{Program, coldframe, machine_clock, run};
use crate::registry::Registry;

const BULK: &str = "/-/npm/v1/security/advisories/bulk";
const TARBALL: &str = "/left-pad/-/left-pad-1.1.0.tgz";
const QUICK: &str = "/-/npm/v1/security/audits/quick";

fn malware(id: &str, name: &str, version: &str) -> String {
    json!({ "id": id, "modified": "2026-04-01T00:00:00Z", "aliases": [format!("GHSA-{id}")], "summary": "Malicious code",
            "affected": [{ "package": { "ecosystem": "npm", "name": name }, "versions": [version] }] })
    .to_string()
}

fn vulnerability() -> String {
    json!({ "id": "GHSA-aaaa", "modified": "2026-04-01T00:00:00Z", "aliases": ["CVE-2026-1"], "summary": "Prototype pollution",
            "severity": [{ "type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H" }],
            "affected": [{ "package": { "ecosystem": "npm", "name": "left-pad" },
                           "ranges": [{ "type": "SEMVER", "events": [{ "introduced": "0" }, { "fixed": "1.2.0" }] }] }],
            "database_specific": { "severity": "CRITICAL", "cwe_ids": ["CWE-1321"], "github_reviewed": true } })
    .to_string()
}

fn feed(records: &[(&str, String)]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (id, record) in records {
        std::fs::write(folder.path().join(format!("{id}.json")), record).unwrap();
    }
    folder
}

fn run_json(command: &mut std::process::Command) -> Value {
    let (code, out, errors) = run(command);
    assert_eq!(code, 0, "{errors}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
}

#[tokio::test]
async fn audits_are_answered_from_feeds_if_upstream_has_none() {
    let feed = feed(&[("GHSA-aaaa", vulnerability()), ("MAL-1", malware("MAL-1", "right-pad", "1.0.0"))]);
    let scene = Scene::open().set("feed", feed.path().to_str().unwrap()).await;
    let installed = json!({ "left-pad": ["1.1.0", "1.3.0"], "right-pad": ["1.0.0"], "other": ["1.0.0"] });
    for status in [404, 405, 501] {
        scene.registry.answer(BULK, Reply::error(status, "no audits here"));
        let answer = scene.ask("POST", BULK).npm("11.21.2").json(&installed).gzip_body().await.is(200).json();
        assert_eq!(answer.as_object().unwrap().len(), 2, "{answer}");
        let found = &answer["left-pad"][0];
        assert_eq!((&found["severity"], &found["vulnerable_versions"]), (&json!("critical"), &json!("<1.2.0")));
        assert_eq!((&found["cvss"]["score"], &found["cwe"][0]), (&json!(9.8), &json!("CWE-1321")));
        assert!(found["id"].is_u64() && found["url"].as_str().unwrap().ends_with("/GHSA-aaaa"), "{found}");
        assert_eq!(answer["right-pad"][0]["severity"], "critical");
    }
    // Other failures are passed on: a false "0 vulnerabilities" would be worse.
    scene.registry.answer(BULK, Reply::error(500, "boom"));
    scene.ask("POST", BULK).npm("11.21.2").json(&installed).await.is(500);
    scene.registry.answer(QUICK, Reply::error(404, "no audits here"));
    let tree = json!({ "name": "app", "version": "1.0.0", "requires": { "a": "1" },
        "dependencies": { "a": { "version": "1.0.0", "dependencies": { "left-pad": { "version": "1.1.0" } } } } });
    let answer = scene.ask("POST", QUICK).json(&tree).await.is(200).json();
    let found = answer["advisories"].as_object().unwrap().values().next().unwrap();
    assert_eq!(found["findings"], json!([{ "version": "1.1.0", "paths": ["a>left-pad"] }]));
    assert_eq!((&found["patched_versions"], &answer["metadata"]["vulnerabilities"]["critical"]), (&json!(">=1.2.0"), &json!(1)));
    assert_eq!(answer["metadata"]["totalDependencies"], 2);
}

#[tokio::test]
async fn an_upstream_audit_is_merged_with_vulnerability_feeds_and_otherwise_unchanged() {
    let all = feed(&[("GHSA-aaaa", vulnerability()), ("MAL-1", malware("MAL-1", "left-pad", "1.1.0"))]);
    let mut scene = Scene::open().set("feed", all.path().to_str().unwrap()).await;
    let upstream = json!({ "left-pad": [{ "id": 1, "url": "https://advisories.example/GHSA-aaaa", "severity": "low",
        "title": "known", "vulnerable_versions": "<1.2.0" }] });
    scene.registry.answer(BULK, Reply::json(&upstream.to_string()));
    let answer = scene.ask("POST", BULK).npm("11.21.2").json(&json!({ "left-pad": ["1.1.0"] })).await.is(200).json();
    let titles: Vec<_> =
        answer["left-pad"].as_array().unwrap().iter().map(|advisory| advisory["title"].as_str().unwrap()).collect();
    assert_eq!(titles, ["known", "Malicious code"]);
    let malware = feed(&[("MAL-1", malware("MAL-1", "left-pad", "1.1.0"))]);
    scene.restart_with("feed", malware.path().to_str().unwrap()).await;
    let ask = || scene.ask("POST", BULK).npm("11.21.2").json(&json!({ "left-pad": ["1.1.0"] }));
    scene.registry.answer(BULK, Reply::error(404, "no audits here"));
    let answer = ask().await.is(404);
    assert!(answer.text().contains("no audits here"), "{}", answer.text());
    let body = "{ \"left-pad\" : [ ] }\n";
    scene.registry.answer(BULK, Reply::json(body));
    assert_eq!(ask().await.is(200).text(), body, "byte for byte");
}

/// Runs `incident` with a feed that the server does not use, so that only decisions apply.
async fn incident(scene: &Scene, feed: &TempDir) -> Value {
    let home = TempDir::new().unwrap();
    let mut command = coldframe(home.path());
    command.args(["incident", "MAL-7", "--json", "--upstream", &scene.registry.url, "--feed"]).arg(feed.path());
    command.arg("--data-dir").arg(scene.data());
    tokio::task::spawn_blocking(move || run_json(&mut command)).await.unwrap()
}

/// Opens a scene for an incident of left-pad 1.1.0, whose tarball is not fetched yet.
async fn left_pad_before_an_incident() -> (Scene, TempDir) {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.publish(Package::new("left-pad", "1.1.0").sized(200_000));
    scene.get("/left-pad").await.is(200);
    (scene, feed(&[("MAL-7", malware("MAL-7", "left-pad", "1.1.0"))]))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_in_progress_during_an_incident_is_not_stored_or_served() {
    let (scene, feed) = left_pad_before_an_incident().await;
    let gate = scene.registry.hold_body(TARBALL, 1000);
    let (stays, leaves) = (scene.get(TARBALL).start(), scene.get(TARBALL).start());
    scene.registry.wait_for_requests(TARBALL, 1).await;
    let done = incident(&scene, &feed).await;
    assert_eq!(done["removed"], 0, "the tarball is not stored yet: {done}");
    leaves.abort();
    gate.open();
    assert!(stays.await.unwrap().is(403).error().contains("incident MAL-7"));
    assert!(scene.stored_tarballs().await.is_empty());
    scene.get(TARBALL).await.is(403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_download_during_an_incident_is_not_stored_or_served() {
    let (scene, feed) = left_pad_before_an_incident().await;
    // Use up the 64 fetch permits, so that the request for left-pad waits.
    let others: Vec<String> = (0..64).map(|number| format!("other-{number}")).collect();
    let mut held = Vec::new();
    for name in &others {
        scene.publish_old(name, &["1.0.0"]);
        scene.get(&format!("/{name}")).await.is(200);
        let path = format!("/{name}/-/{name}-1.0.0.tgz");
        let gate = scene.registry.hold_body(&path, 10);
        held.push((scene.get(&path).start(), gate));
        scene.registry.wait_for_requests(&path, 1).await;
    }
    let waits = scene.get(TARBALL).start();
    // This request follows the same path, so the one before it is in the queue.
    scene.get("/left-pad/1.1.0").await.is(200);
    incident(&scene, &feed).await;
    assert_eq!(scene.registry.count(TARBALL), 0, "the request still waits");
    for (asking, gate) in held {
        gate.open();
        asking.await.unwrap().is(200);
    }
    assert!(waits.await.unwrap().is(403).error().contains("incident MAL-7"));
    assert_eq!(scene.stored_tarballs().await.len(), others.len());
    scene.get(TARBALL).await.is(403);
}

#[tokio::test(flavor = "multi_thread")]
async fn incident_denies_freezes_purges_and_reports_in_one_command() {
    let (home, data, registry) = (TempDir::new().unwrap(), TempDir::new().unwrap(), Registry::start(&machine_clock()).await);
    registry.publish(Package::new("left-pad", "1.0.0"));
    registry.publish(Package::new("left-pad", "1.1.0"));
    let feed = feed(&[("MAL-7", malware("MAL-7", "left-pad", "1.1.0"))]);
    let config = home.path().join("coldframe.toml");
    // With `warn` the feed holds nothing; only decisions do.
    let table = format!(
        "upstream = \"{}\"\ndata-dir = \"{}\"\n[[feed]]\nname = \"osv\"\nsource = \"{}\"\ntrust = \"warn\"\n",
        registry.url,
        data.path().display(),
        feed.path().display()
    );
    std::fs::write(&config, table).unwrap();
    let mut serve = coldframe(home.path());
    let program = Program::start(serve.args(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(&config));
    program.get(TARBALL).npm("11.21.2").await.is(200);
    let command = |args: &[&str]| {
        let mut command = coldframe(home.path());
        command.args(args).arg("--config").arg(&config);
        command
    };
    let first_client = |exposure: &Value| exposure[0]["clients"][0]["client"].clone();
    // The server records downloads asynchronously.
    let deadline = Instant::now() + Duration::from_secs(30);
    while first_client(&run_json(&mut command(&["exposure", "--json", "--feed", "MAL-7"]))) != "127.0.0.1" {
        assert!(Instant::now() < deadline, "no client is recorded");
    }
    let (code, out, errors) = run(&mut command(&["incident", "MAL-7", "--dry-run"]));
    assert!(code == 0 && out.contains("would deny left-pad: 1.1.0") && out.contains("would freeze left-pad"), "{out}{errors}");
    program.get(TARBALL).await.is(200);
    let done = run_json(&mut command(&["incident", "GHSA-MAL-7", "--json"]));
    assert_eq!((&done["id"], &done["removed"], done["dryRun"].as_bool()), (&json!("MAL-7"), &json!(1), Some(false)));
    assert_eq!(done["pending"], false);
    assert_eq!(first_client(&done["exposure"]), "127.0.0.1");
    assert_eq!(done["decisions"].as_array().unwrap().len(), 2);
    let refused = program.get(TARBALL).await.is(403);
    assert!(refused.error().contains("incident MAL-7"), "{}", refused.error());
    program.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(200);
    let (code, _, errors) = run(&mut command(&["incident", "MAL-404"]));
    assert!(code == 1 && errors.contains("MAL-404"), "{errors}");
    for minor in 0..12 {
        registry.publish(Package::new("whole", &format!("1.{minor}.0")));
    }
    program.get("/whole").await.is(200);
    export_and_follow(home.path(), &config, &registry).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn incident_accepts_a_version_that_no_feed_names() {
    let (home, data, registry) = (TempDir::new().unwrap(), TempDir::new().unwrap(), Registry::start(&machine_clock()).await);
    registry.publish(Package::new("left-pad", "1.0.0"));
    registry.publish(Package::new("left-pad", "1.1.0"));
    let program = Program::serve(home.path(), data.path(), &registry.url, &[]);
    program.get(TARBALL).npm("11.21.2").await.is(200);
    let good = "/left-pad/-/left-pad-1.0.0.tgz";
    program.get(good).await.is(200);
    let incident = |args: &[&str]| {
        let mut command = coldframe(home.path());
        command.arg("incident").args(args).arg("--data-dir").arg(data.path());
        command
    };
    let (code, out, errors) = run(&mut incident(&["left-pad@1.1.0", "--dry-run"]));
    assert_eq!(code, 0, "{errors}");
    for part in [
        "left-pad@1.1.0: named by a person, in no feed",
        "would deny left-pad: 1.1.0",
        "would purge 1 tarball from the store, of 1 known",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    program.get(TARBALL).await.is(200);
    let fetches = registry.count("/left-pad");
    let done = run_json(&mut incident(&["left-pad@1.1.0", "--json"]));
    assert_eq!(
        (&done["feed"], &done["stored"], &done["removed"], &done["packuments"]),
        (&json!(null), &json!(1), &json!(1), &json!(1)),
        "{done}"
    );
    assert_eq!(done["exposure"][0]["clients"][0]["client"], "127.0.0.1", "{done}");
    assert!(program.get(TARBALL).await.is(403).error().contains("incident left-pad@1.1.0"));
    // The other version stays, and the packument is fetched again.
    program.get(good).await.is(200);
    assert_eq!((registry.count(good), registry.count("/left-pad")), (1, fetches + 1));
    // A second run finds nothing to remove, and an unknown version has nothing either.
    let again = run_json(&mut incident(&["left-pad@1.1.0", "--json"]));
    assert_eq!((&again["stored"], &again["removed"]), (&json!(0), &json!(0)), "{again}");
    let never = run_json(&mut incident(&["never@9.9.9", "--json"]));
    assert_eq!(
        (&never["tarballs"], &never["exposure"], &never["decisions"].as_array().unwrap().len()),
        (&json!(0), &json!([]), &2)
    );
    for (args, part) in [("left-pad@^1", "an exact version"), ("MAL-404", "PACKAGE@VERSION")] {
        let (code, _, errors) = run(&mut incident(&[args]));
        assert!(code != 0 && errors.contains(part), "{args}: {code} {errors}");
    }
    // Without a running server, the command does the work.
    program.get(good).await.is(200);
    program.signal("-TERM");
    assert_eq!(program.wait_for_exit().await.0, 0);
    let mut alone = incident(&["left-pad@1.0.0", "--json"]);
    let done = run_json(alone.args(["--upstream", &registry.url]));
    assert_eq!((&done["stored"], &done["removed"], &done["packuments"]), (&json!(1), &json!(1), &json!(1)), "{done}");
}

#[tokio::test(flavor = "multi_thread")]
async fn incident_purges_a_version_with_only_a_shasum() {
    let (home, data, registry) = (TempDir::new().unwrap(), TempDir::new().unwrap(), Registry::start(&machine_clock()).await);
    registry.publish(Package::new("left-pad", "1.0.0").dist("integrity", json!(null)));
    registry.publish(Package::new("left-pad", "1.1.0").dist("integrity", json!(null)));
    let program = Program::serve(home.path(), data.path(), &registry.url, &[]);
    let incident = |spec: &str| {
        let mut command = coldframe(home.path());
        command.args(["incident", spec, "--json", "--upstream", &registry.url, "--data-dir"]).arg(data.path());
        run_json(&mut command)
    };
    let stored_tarballs = || {
        let folder = std::fs::read_dir(data.path().join("blobs/sha512")).into_iter().flatten().flatten();
        folder.map(|shard| std::fs::read_dir(shard.path()).into_iter().flatten().count()).sum::<usize>()
    };
    for tarball in [TARBALL, "/left-pad/-/left-pad-1.0.0.tgz"] {
        program.get(tarball).await.is(200);
    }
    assert_eq!(stored_tarballs(), 2);
    let done = incident("left-pad@1.1.0");
    assert_eq!((&done["tarballs"], &done["stored"], &done["removed"]), (&json!(1), &json!(1), &json!(1)), "{done}");
    assert_eq!(stored_tarballs(), 1);
    // Without a running server, the command does the work.
    program.signal("-TERM");
    assert_eq!(program.wait_for_exit().await.0, 0);
    let done = incident("left-pad@1.0.0");
    assert_eq!((&done["tarballs"], &done["stored"], &done["removed"]), (&json!(1), &json!(1), &json!(1)), "{done}");
    assert_eq!(stored_tarballs(), 0);
}

/// Asserts that a record has the fields that the OSV schema requires and no unknown ones.
fn assert_valid_osv(record: &Value) {
    let known = ["schema_version", "id", "modified", "published", "withdrawn", "summary", "affected"];
    let fields = record.as_object().unwrap();
    assert!(fields.keys().all(|field| known.contains(&field.as_str())), "{record}");
    let id = record["id"].as_str().unwrap();
    assert!(id.strip_prefix("ACME-2").is_some_and(|rest| rest.contains('-')), "{id}");
    for field in ["modified", "published"] {
        let at = record[field].as_str().unwrap();
        assert!(at.parse::<jiff::Timestamp>().is_ok() && at.ends_with('Z'), "{field}: {at}");
    }
    let affected = record["affected"].as_array().unwrap();
    assert!(!affected.is_empty());
    for entry in affected {
        assert!(entry["package"]["ecosystem"] == "npm" && entry["package"]["name"].is_string(), "{record}");
        assert!(entry["versions"].is_array() || entry["ranges"].is_array(), "{record}");
        for range in entry["ranges"].as_array().into_iter().flatten() {
            assert!(range["type"] == "SEMVER" && range["events"][0]["introduced"].is_string(), "{record}");
        }
    }
}

/// Exports the denials. An instance that pins the key applies them and rejects modified files.
async fn export_and_follow(home: &Path, config: &Path, registry: &Registry) {
    let out = home.join("osv-scanner");
    // A package that no client requested: the range is exported without known versions.
    let mut deny = coldframe(home);
    deny.args(["deny", "unseen@>=1.2.0 <1.4.0", "--reason", "CVE-2026-1", "--config"]).arg(config);
    assert_eq!(run(&mut deny).0, 0);
    deny = coldframe(home);
    deny.args(["deny", "@squatted/*", "--reason", "a squatted scope", "--config"]).arg(config);
    assert_eq!(run(&mut deny).0, 0);
    deny = coldframe(home);
    deny.args(["deny", "whole", "--reason", "all of an established package", "--config"]).arg(config);
    assert_eq!(run(&mut deny).0, 0);
    let mut export = coldframe(home);
    export.args(["feed", "export", "--id-prefix", "ACME", "--config"]).arg(config).arg(&out);
    let (code, text, errors) = run(&mut export);
    assert_eq!(code, 0, "{errors}");
    assert!(text.contains("left out") && text.contains("@squatted/*"), "{text}");
    let key = text.lines().find_map(|line| line.trim().strip_prefix("key")).unwrap().trim().to_owned();
    let data = TempDir::new().unwrap();
    let follower = home.join("follower.toml");
    let table = format!(
        "upstream = \"{}\"\ndata-dir = \"{}\"\n[[feed]]\nname = \"acme\"\nsource = \"{}\"\nkey = \"{key}\"\n",
        registry.url,
        data.path().display(),
        out.display()
    );
    std::fs::write(&follower, table).unwrap();
    let mut sync = coldframe(home);
    sync.args(["feed", "sync", "--json", "--config"]).arg(&follower);
    for entry in std::fs::read_dir(out.join("npm")).unwrap().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "json") {
            assert_valid_osv(&serde_json::from_slice(&std::fs::read(entry.path()).unwrap()).unwrap());
        }
    }
    let status = run_json(&mut sync);
    assert_eq!((&status[0]["records"], &status[0]["fresh"]), (&json!(3), &json!(true)), "{status}");
    let mut serve = coldframe(home);
    let program = Program::start(serve.args(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(&follower));
    let refused = program.get("/left-pad/-/left-pad-1.1.0.tgz").await.is(403);
    assert!(refused.error().contains("ACME-"), "{}", refused.error());
    program.get("/whole").await.is(403);
    registry.publish(Package::new("unseen", "1.2.0"));
    registry.publish(Package::new("unseen", "1.3.9"));
    registry.publish(Package::new("unseen", "1.4.0"));
    assert_eq!(program.get("/unseen").await.versions(), ["1.4.0"]);
    // A modified index, then a modified archive.
    let index = std::fs::read_to_string(out.join("index.json")).unwrap();
    std::fs::write(out.join("index.json"), index.replace("\"records\": 3", "\"records\": 4")).unwrap();
    let (code, text, _) = run(&mut sync);
    assert!(code == 1 && text.contains("the signature does not match the configured `key`"), "{text}");
    std::fs::write(out.join("index.json"), index).unwrap();
    std::fs::write(out.join("npm/all.zip"), b"PK\x05\x06").unwrap();
    let (_, text, _) = run(&mut sync);
    assert!(text.contains("differs from the listed file"), "{text}");
    program.get("/left-pad/-/left-pad-1.1.0.tgz").await.is(403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_server_loads_a_sync_that_fetched_only_changes() {
    let (home, data, registry) = (TempDir::new().unwrap(), TempDir::new().unwrap(), Registry::start(&machine_clock()).await);
    registry.publish(Package::new("left-pad", "1.1.0"));
    let list = |lines: &str| Reply::ok(lines.as_bytes().to_vec());
    let (old, new) = (malware("MAL-1", "other", "1.0.0"), malware("MAL-2", "left-pad", "1.1.0").replace("04-01", "04-02"));
    registry.answer("/feeds/npm/index.json", Reply::error(404, "none"));
    registry.answer("/feeds/npm/all.zip", Reply::error(404, "none"));
    registry.answer("/feeds/npm/npm/all.zip", Reply::error(404, "none"));
    registry.answer("/feeds/npm/modified_id.csv", list("2026-04-01T00:00:00Z,MAL-1\n"));
    registry.answer("/feeds/npm/MAL-1.json", Reply::ok(old));
    registry.answer("/feeds/npm/MAL-2.json", Reply::ok(new));
    let url = format!("{}/feeds/npm/", registry.url);
    let program = Program::serve(home.path(), data.path(), &registry.url, &["--feed", &url]);
    program.get("/left-pad").await.is(200);
    registry.answer("/feeds/npm/modified_id.csv", list("2026-04-02T00:00:00Z,MAL-2\n2026-04-01T00:00:00Z,MAL-1\n"));
    let mut sync = coldframe(home.path());
    sync.args(["feed", "sync", "--json", "--feed", &url, "--upstream", &registry.url, "--data-dir"]).arg(data.path());
    assert_eq!(run_json(&mut sync)[0]["records"], 2);
    let deadline = Instant::now() + Duration::from_secs(30);
    while program.get("/left-pad").await.status != 403 {
        assert!(Instant::now() < deadline, "the server does not load the sync");
    }
    assert_eq!(registry.count("/feeds/npm/MAL-1.json"), 1);
    let mut status = coldframe(home.path());
    status.args(["feed", "status", "--feed", &url, "--upstream", &registry.url, "--data-dir"]).arg(data.path());
    let (code, text, _) = run(&mut status);
    assert!(code == 0 && text.starts_with("feeds: fresh\n"), "{text}");
}

#[tokio::test]
async fn an_interrupted_feed_download_is_resumed() {
    let home = TempDir::new().unwrap();
    let mut scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.1.0"]);
    let lines: String = (0..4_000).map(|at| format!("package-{at}@1.0.0\n")).chain(["left-pad@1.1.0\n".to_owned()]).collect();
    let whole = lines.into_bytes();
    let first = Reply::ok(whole.clone()).header("etag", "\"one\"").cut_after(40_000);
    scene.registry.answer("/feeds/list.txt", first);
    let url = format!("{}/feeds/list.txt", scene.registry.url);
    scene.restart_with("feed", &url).await;
    scene.get("/left-pad").await.is(403);
    let ranges: Vec<_> = scene.registry.requests().into_iter().filter(|asked| asked.path == "/feeds/list.txt").collect();
    let resumed = ranges.iter().filter_map(|asked| asked.headers.first("range")).collect::<Vec<_>>();
    assert!(!resumed.is_empty() && resumed.iter().all(|range| *range == "bytes=40000-"), "{resumed:?}");
    assert_eq!(ranges.last().unwrap().headers.first("if-range"), Some("\"one\""));
    let rest = Reply::part(&whole, 40_000).header("etag", "\"one\"");
    scene.registry.answer("/feeds/list.txt", rest);
    scene.advance(Duration::from_secs(400));
    let deadline = Instant::now() + Duration::from_secs(30);
    while scene.metric("coldframe_advisories", "").await < 4_001.0 {
        assert!(Instant::now() < deadline, "the download is not resumed");
    }
    assert!(scene.get("/left-pad").await.is(403).error().contains("rule advisory"));
    drop(home);
}
