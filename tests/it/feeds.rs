//! Feeds: versions that an advisory names are hidden everywhere, across reloads and restarts. Clients that got a version before
//! its advisory are recorded.

use std::path::Path;
use std::time::{Duration, Instant};

use coldframe::clock::Clock as _;
use coldframe::feed::{FeedExport, FeedSigner, OsvAffected, OsvRecord};
use coldframe::npm::{Algorithm, Digest};
use coldframe::store::SqliteLedger;
use jiff::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::ABBREVIATED;
use crate::fake_response::Reply;
use crate::harness::Scene;
use crate::package::{Package, days, hours, minutes, sha512, tarball};
use crate::process::{coldframe, machine_clock, run};
use crate::registry::Registry;

const TARBALL: &str = "/left-pad/-/left-pad-1.1.0.tgz";

/// A feed directory of OSV records.
struct Feed(TempDir);

impl Feed {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    fn put(&self, record: &Value) {
        let name = format!("{}.json", record["id"].as_str().unwrap());
        // Renamed into place, so that the server never reads a partial file.
        std::fs::write(self.0.path().join("unfinished"), record.to_string()).unwrap();
        std::fs::rename(self.0.path().join("unfinished"), self.0.path().join(name)).unwrap();
    }
}

/// Returns a malware record that lists versions; `null` marks every version.
fn record(id: &str, name: &str, versions: &Value) -> Value {
    let marks_all = versions.is_null();
    let events = if marks_all { json!([{ "introduced": "0" }]) } else { json!([]) };
    json!({
        "id": id, "modified": "2026-04-03T10:00:00Z", "summary": format!("Malicious code in {name} (npm)"),
        "affected": [{ "package": { "ecosystem": "npm", "name": name }, "versions": versions,
                       "ranges": [{ "type": "SEMVER", "events": events }] }],
    })
}

/// Repeats the request until the response has this status.
async fn until(scene: &Scene, path: &str, status: u16) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let answer = scene.get(path).await;
        if answer.status == status {
            return;
        }
        assert!(Instant::now() < deadline, "{path} stays {}: {}", answer.status, answer.text());
        tokio::task::yield_now().await;
    }
}

fn incidents(data: &Path, kind: &str) -> Vec<String> {
    let ledger = SqliteLedger::read_only(data).unwrap();
    let found = ledger.events(Timestamp::UNIX_EPOCH).unwrap();
    found.into_iter().filter(|incident| incident.kind == kind).map(|incident| incident.detail).collect()
}

#[tokio::test]
async fn a_version_named_in_a_feed_is_hidden_everywhere() {
    let feed = Feed::new();
    feed.put(&record("MAL-2026-1", "left-pad", &json!(["1.1.0"])));
    feed.put(&record("MAL-2026-2", "Left-Pad", &json!(["1.0.0"])));
    let scene = Scene::open().set("feed", feed.path()).await;
    scene.publish_old("left-pad", &["1.0.0", "1.1.0"]);
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    assert_eq!(scene.get("/left-pad").accept(ABBREVIATED).await.versions(), ["1.0.0"]);
    assert_eq!(scene.get("/left-pad").await.tag("latest").unwrap(), "1.0.0");
    for path in ["/left-pad/1.1.0", TARBALL] {
        let refused = scene.get(path).await.is(403);
        for part in ["MAL-2026-1", "Malicious code in left-pad", "rule advisory", "newest allowed: 1.0.0"] {
            assert!(refused.error().contains(part), "{path}: {part:?} is missing in {}", refused.error());
        }
    }
    assert!(!scene.get("/-/package/left-pad/dist-tags").await.text().contains("1.1.0"));
    assert!(!scene.get("/-/v1/search?text=left-pad").await.text().contains("1.1.0"));
    assert_eq!(scene.registry.count(TARBALL), 0);
    scene.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(200);
    assert!(scene.metric("coldframe_advisories", "").await >= 2.0);
}

#[tokio::test]
async fn a_tarball_whose_digest_a_feed_lists_is_refused_under_any_name() {
    let feed = Feed::new();
    let copy = Package::new("left-pad", "1.1.0");
    let mut listed = record("MAL-2026-1", "plain-crypto-js", &json!(["4.2.1"]));
    let hashes = json!({ "sha1": "not hex", "sha512_sri": sha512(&copy.tarball) });
    listed["affected"][0]["database_specific"] = json!({ "indicators": { "package_integrity": [{ "hashes": hashes }] } });
    feed.put(&listed);
    let mut scene = Scene::open().set("feed", feed.path()).await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.publish(copy);
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    let refused = scene.get(TARBALL).await.is(403).error();
    assert!(refused.contains("MAL-2026-1") && refused.contains("it lists the digest of this tarball"), "{refused}");
    scene.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(200);
    // The stored records have the digest too.
    scene.restart().await;
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
}

/// A malware record on another package that lists these digests of a tarball.
fn listing(id: &str, hashes: &Value) -> Value {
    let mut listed = record(id, "plain-crypto-js", &json!(["4.2.1"]));
    listed["affected"][0]["database_specific"] = json!({ "indicators": { "package_integrity": [{ "hashes": hashes }] } });
    listed
}

/// Returns a digest of bytes as hex.
fn hex(algorithm: Algorithm, bytes: &[u8]) -> String {
    Digest::of(algorithm, bytes).to_hex()
}

#[tokio::test]
async fn a_digest_that_is_known_only_after_the_download_is_compared_before_the_first_byte() {
    for hashes in [
        |bytes: &[u8]| json!({ "sha512_sri": sha512(bytes) }),
        |bytes: &[u8]| json!({ "sha512": hex(Algorithm::Sha512, bytes) }),
        |bytes: &[u8]| json!({ "sha256": hex(Algorithm::Sha256, bytes) }),
    ] {
        let (feed, old) = (Feed::new(), Package::new("left-pad", "1.1.0").dist("integrity", Value::Null));
        feed.put(&listing("MAL-2026-1", &hashes(&old.tarball)));
        let mut scene = Scene::open().set("feed", feed.path()).await;
        scene.publish_old("left-pad", &["1.0.0"]);
        scene.publish(old);
        // Only a SHA-1 is stated, which the feed does not list.
        assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0"]);
        let refused = scene.get(TARBALL).await.is(403).error();
        assert!(refused.contains("MAL-2026-1") && refused.contains("it lists the digest of this tarball"), "{refused}");
        assert!(scene.stored_tarballs().await.is_empty());
        assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
        scene.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(200);
        // Digests of downloaded bytes are in the ledger.
        scene.restart().await;
        assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
        scene.get(TARBALL).await.is(403);
        assert_eq!(scene.registry.count(TARBALL), 1);
    }
}

#[tokio::test]
async fn a_digest_is_compared_for_cached_tarballs_and_an_approval_overrides_it() {
    let (feed, old) = (Feed::new(), Package::new("left-pad", "1.1.0").dist("integrity", Value::Null));
    feed.put(&record("MAL-2026-0", "other", &json!(["1.0.0"])));
    let scene = Scene::open().set("feed", feed.path()).await;
    let sha256 = hex(Algorithm::Sha256, &old.tarball);
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.publish(old);
    scene.get(TARBALL).await.is(200);
    feed.put(&listing("MAL-2026-1", &json!({ "sha256": sha256 })));
    until(&scene, TARBALL, 403).await;
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    feed.put(&listing("MAL-2026-1", &json!({ "sha256": hex(Algorithm::Sha256, b"other bytes") })));
    until(&scene, TARBALL, 200).await;
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0"]);
}

#[tokio::test]
async fn a_file_that_a_feed_lists_by_its_sha1_is_refused() {
    let (feed, loader) = (Feed::new(), "console.log('loader')\n");
    let mut listed = record("MAL-2026-1", "keyv", &json!(["6.0.0"]));
    let evidence = json!([{ "path": "setup.mjs", "sha1": hex(Algorithm::Sha1, loader.as_bytes()) }]);
    listed["affected"][0]["database_specific"] = json!({ "indicators": { "evidence_files": evidence } });
    feed.put(&listed);
    let scene = Scene::open().set("feed", feed.path()).await;
    scene.publish_old("left-pad", &["1.0.0"]);
    let files = [("package/package.json", r#"{"name":"left-pad","version":"1.1.0"}"#), ("package/any-name.js", loader)];
    scene.publish(Package::new("left-pad", "1.1.0").aged(days(5)).packed(tarball(&files)));
    let refused = scene.get(TARBALL).await.is(403).error();
    assert!(refused.contains("rule advised-file") && refused.contains("any-name.js: MAL-2026-1 of the feed"), "{refused}");
}

#[tokio::test]
async fn a_tarball_with_a_file_that_a_feed_lists_is_refused() {
    let feed = Feed::new();
    feed.put(&record("MAL-2026-0", "other", &json!(["1.0.0"])));
    let mut scene = Scene::open().set("feed", feed.path()).await;
    let loader = "console.log('loader')\n";
    let manifest = r#"{"name":"left-pad","version":"1.1.0"}"#;
    scene.publish_old("left-pad", &["1.0.0"]);
    let files = [("package/package.json", manifest), ("package/any-name.js", loader)];
    scene.publish(Package::new("left-pad", "1.1.0").aged(days(5)).packed(tarball(&files)));
    scene.get(TARBALL).await.is(200);
    // Listed after it was opened.
    let hex = hex(Algorithm::Sha256, loader.as_bytes());
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let mut listed = record("MAL-2026-1", "keyv", &json!(["6.0.0"]));
    let evidence = json!([{ "path": "setup.mjs", "sha256": hex }, { "sha256": "not hex" }, { "sha256": empty }]);
    listed["affected"][0]["database_specific"] = json!({ "indicators": { "evidence_files": evidence } });
    feed.put(&listed);
    scene.restart().await;
    let refused = scene.get(TARBALL).await.is(403).error();
    let text = "rule advised-file";
    assert!(refused.contains(text) && refused.contains("any-name.js: MAL-2026-1 of the feed"), "{refused}");
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(200);
}

#[tokio::test]
async fn withdrawn_and_narrowed_records_open_versions_without_a_restart() {
    let feed = Feed::new();
    feed.put(&record("MAL-2026-1", "left-pad", &json!(["1.0.0", "1.1.0"])));
    let scene = Scene::open().set("feed", feed.path()).await;
    scene.publish_old("left-pad", &["1.0.0", "1.1.0"]);
    scene.get("/left-pad").await.is(403);
    feed.put(&record("MAL-2026-1", "left-pad", &json!(["1.0.0"])));
    until(&scene, TARBALL, 200).await;
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.1.0"]);
    let mut withdrawn = record("MAL-2026-1", "left-pad", &json!(["1.0.0"]));
    withdrawn["withdrawn"] = json!("2026-04-03T11:00:00Z");
    feed.put(&withdrawn);
    until(&scene, "/left-pad/1.0.0", 200).await;
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0"]);
}

#[tokio::test]
async fn a_served_version_that_a_feed_names_later_is_purged_and_its_clients_are_recorded() {
    let feed = Feed::new();
    feed.put(&record("MAL-2026-1", "other", &json!(["1.0.0"])));
    let mut scene = Scene::open().set("feed", feed.path()).await;
    scene.publish_old("left-pad", &["1.0.0", "1.1.0"]);
    scene.get(TARBALL).npm("11.21.2").await.is(200);
    scene.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(200);
    let kept = scene.stored_files().await.into_iter().filter(|path| path.to_string_lossy().contains("sha512")).count();
    assert_eq!(kept, 2);
    feed.put(&record("MAL-2026-7", "left-pad", &json!(["1.1.0"])));
    until(&scene, "/left-pad/1.1.0", 403).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    while scene.metric("coldframe_incidents_total", "exposure").await < 1.0 {
        assert!(Instant::now() < deadline, "no client is recorded");
    }
    let kept = scene.stored_files().await.into_iter().filter(|path| path.to_string_lossy().contains("sha512")).count();
    assert_eq!(kept, 1);
    // Recorded once, even if the version is checked again.
    scene.restart().await;
    scene.get(TARBALL).await.is(403);
    scene.coldframe.stop().await;
    let named = incidents(scene.data(), "exposure");
    assert_eq!(named, ["MAL-2026-7 of the feed `".to_owned() + &feed_name(&feed) + "`: 127.0.0.1 (npm/11.21.2)"]);
}

/// Waits until this number of clients is recorded as exposed.
async fn until_exposed(scene: &Scene, count: f64) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while scene.metric("coldframe_incidents_total", "exposure").await < count {
        assert!(Instant::now() < deadline, "no client is recorded");
    }
}

/// Runs `coldframe exposure` for an advisory on the data of a stopped server.
fn exposure(scene: &Scene, feed: &Feed, id: &str) -> Value {
    let home = TempDir::new().unwrap();
    let mut command = coldframe(home.path());
    command.args(["exposure", "--advisory", id, "--json", "--feed", feed.path(), "--data-dir"]).arg(scene.data());
    let (code, out, errors) = run(&mut command);
    assert_eq!(code, 0, "{out}{errors}");
    serde_json::from_str(&out).unwrap()
}

#[tokio::test]
async fn bytes_that_were_served_under_another_name_are_found_by_a_digest_that_a_feed_gains() {
    let (feed, copy) = (Feed::new(), Package::new("left-pad", "1.1.0"));
    feed.put(&record("MAL-2026-0", "other", &json!(["1.0.0"])));
    let mut scene = Scene::open().set("feed", feed.path()).await;
    let sha256 = hex(Algorithm::Sha256, &copy.tarball);
    // The same bytes under two names, and another version of one.
    scene.publish(Package::new("copied", "3.0.0").packed(copy.tarball.clone()));
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.publish(copy);
    for path in [TARBALL, "/left-pad/-/left-pad-1.0.0.tgz", "/copied/-/copied-3.0.0.tgz"] {
        scene.get(path).npm("11.21.2").await.is(200);
    }
    feed.put(&listing("MAL-2026-7", &json!({ "sha256": sha256 })));
    until_exposed(&scene, 2.0).await;
    scene.get(TARBALL).await.is(403);
    scene.get("/copied/-/copied-3.0.0.tgz").await.is(403);
    assert_eq!(scene.stored_tarballs().await.len(), 1);
    scene.restart().await;
    scene.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(200);
    scene.coldframe.stop().await;
    let client = format!("MAL-2026-7 of the feed `{}`: 127.0.0.1 (npm/11.21.2)", feed_name(&feed));
    assert_eq!(incidents(scene.data(), "exposure"), [client.clone(), client]);
    let found = exposure(&scene, &feed, "MAL-2026-7");
    let specs: Vec<_> = found
        .as_array()
        .unwrap()
        .iter()
        .map(|row| format!("{}@{}", row["name"].as_str().unwrap(), row["version"].as_str().unwrap()))
        .collect();
    assert_eq!(specs, ["copied@3.0.0", "left-pad@1.1.0"], "{found}");
    assert_eq!(found[0]["clients"][0]["client"], "127.0.0.1");
}

#[tokio::test]
async fn old_release_that_was_served_with_a_file_that_a_feed_gains_is_found_and_refused() {
    let (feed, loader) = (Feed::new(), "console.log('loader')\n");
    feed.put(&record("MAL-2026-0", "other", &json!(["1.0.0"])));
    let mut scene = Scene::open().set("feed", feed.path()).await;
    scene.publish_old("left-pad", &["1.0.0"]);
    // Too old to be opened when it is served.
    let files = [("package/package.json", r#"{"name":"left-pad","version":"1.1.0"}"#), ("package/any-name.js", loader)];
    scene.publish(Package::new("left-pad", "1.1.0").aged(days(200)).packed(tarball(&files)));
    scene.get(TARBALL).npm("11.21.2").await.is(200);
    scene.get("/left-pad/-/left-pad-1.0.0.tgz").npm("11.21.2").await.is(200);
    let mut listed = record("MAL-2026-8", "keyv", &json!(["6.0.0"]));
    let evidence = json!([{ "path": "setup.mjs", "sha256": hex(Algorithm::Sha256, loader.as_bytes()) }]);
    listed["affected"][0]["database_specific"] = json!({ "indicators": { "evidence_files": evidence } });
    feed.put(&listed);
    until_exposed(&scene, 1.0).await;
    let refused = scene.get(TARBALL).await.is(403).error();
    assert!(refused.contains("rule advised-file") && refused.contains("any-name.js: MAL-2026-8 of the feed"), "{refused}");
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    assert_eq!(scene.stored_tarballs().await.len(), 1);
    scene.restart().await;
    scene.get(TARBALL).await.is(403);
    scene.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(200);
    // Another old release with that file is served unopened, and found within an hour.
    let files = [("package/package.json", r#"{"name":"copied","version":"1.0.0"}"#), ("package/other.js", loader)];
    scene.publish(Package::new("copied", "1.0.0").aged(days(200)).packed(tarball(&files)));
    scene.get("/copied/-/copied-1.0.0.tgz").npm("11.21.2").await.is(200);
    scene.advance(hours(1));
    until(&scene, "/copied/-/copied-1.0.0.tgz", 403).await;
    // A file that is listed no more refuses nothing, however it was found.
    feed.put(&record("MAL-2026-8", "keyv", &json!(["6.0.0"])));
    until(&scene, TARBALL, 200).await;
    feed.put(&listed);
    until(&scene, TARBALL, 403).await;
    scene.coldframe.stop().await;
    let found = exposure(&scene, &feed, "MAL-2026-8");
    let row = |row: &Value| (row["name"].clone(), row["version"].clone(), row["refused"].clone());
    let rows: Vec<_> = found.as_array().unwrap().iter().map(row).collect();
    let expected = [("copied", "1.0.0"), ("left-pad", "1.1.0")].map(|(name, version)| (json!(name), json!(version), json!(true)));
    assert_eq!(rows, expected, "{found}");
}

fn feed_name(feed: &Feed) -> String {
    coldframe::feed::FeedSource::parse(feed.path()).unwrap().name()
}

#[tokio::test]
async fn a_broken_feed_keeps_the_last_good_records_and_is_reported() {
    let home = TempDir::new().unwrap();
    let list = home.path().join("list.txt");
    std::fs::write(&list, "left-pad@1.1.0\na@1.0.0\nb@1.0.0\nc@1.0.0\n").unwrap();
    let mut scene = Scene::open().set("feed", list.to_str().unwrap()).await;
    scene.publish_old("left-pad", &["1.0.0", "1.1.0"]);
    scene.get(TARBALL).await.is(403);
    let stale = |text: String| text.contains("`list` is stale: the feed shrank from 4 to 1 records");
    std::fs::write(&list, "a@1.0.0\n").unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !stale(scene.get("/-/coldframe/readyz").await.is(200).text()) {
        assert!(Instant::now() < deadline, "readyz does not report the stale feed");
    }
    scene.get(TARBALL).await.is(403);
    assert!(scene.metric("coldframe_feeds_stale", "").await >= 1.0);
    assert!(scene.metric("coldframe_incidents_total", "feed_failed").await >= 1.0);
    // A broken file across a restart, with readiness depending on the feed.
    std::fs::write(&list, [0xff, 0xfe, 0x00]).unwrap();
    scene.restart_with("feed-readiness", "true").await;
    scene.get(TARBALL).await.is(403);
    scene.get("/-/coldframe/readyz").await.is(503);
    // A FIFO is rejected without waiting for a writer.
    std::fs::remove_file(&list).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&list).status().unwrap().success());
    while !scene.get("/-/coldframe/readyz").await.is(503).text().contains("not a regular file") {
        assert!(Instant::now() < deadline, "readyz does not report the FIFO");
    }
    scene.get(TARBALL).await.is(403);
    std::fs::remove_file(&list).unwrap();
    std::fs::write(&list, "a@1.0.0\nb@1.0.0\nc@1.0.0\n").unwrap();
    until(&scene, TARBALL, 200).await;
    scene.get("/-/coldframe/readyz").await.is(200);
}

#[tokio::test]
async fn a_remote_feed_survives_an_offline_restart_and_is_reported_as_stale() {
    let home = TempDir::new().unwrap();
    let mut scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0", "1.1.0"]);
    scene.registry.answer("/feeds/list.txt", Reply::ok("left-pad@1.1.0\n").header("etag", "\"one\""));
    let url = format!("{}/feeds/list.txt", scene.registry.url);
    scene.restart_with("feed", &url).await;
    scene.get(TARBALL).await.is(403);
    scene.registry.answer("/feeds/list.txt", Reply::error(500, "boom"));
    scene.restart().await;
    scene.get(TARBALL).await.is(403);
    let deadline = Instant::now() + Duration::from_secs(30);
    while !scene.get("/-/coldframe/readyz").await.is(200).text().contains("unexpected status 500") {
        assert!(Instant::now() < deadline, "readyz does not report the stale feed");
    }
    // The feed recovers automatically.
    scene.registry.answer("/feeds/list.txt", Reply::ok("left-pad@1.0.0\n").header("etag", "\"two\""));
    scene.advance(minutes(6));
    until(&scene, TARBALL, 200).await;
    scene.get("/left-pad/1.0.0").await.is(403);
    let request = scene.registry.last("/feeds/list.txt");
    assert_eq!(request.headers.first("if-none-match"), Some("\"one\""));
    drop(home);
}

#[tokio::test]
async fn a_feed_that_was_never_read_refuses_everything_unless_a_setting_allows_it() {
    let home = TempDir::new().unwrap();
    let nowhere = home.path().join("nowhere");
    let mut scene = Scene::open().set("feed", nowhere.to_str().unwrap()).await;
    scene.publish_old("left-pad", &["1.0.0"]);
    let refused = scene.get("/left-pad").await.is(403);
    assert!(refused.error().contains("nowhere") && refused.error().contains("feed-missing"), "{}", refused.error());
    scene.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(403);
    scene.restart_with("unsafe-serve-without-feed", "true").await;
    scene.get("/left-pad").await.is(200);
    // The file is loaded when it appears.
    std::fs::write(&nowhere, "left-pad@1.0.0\n").unwrap();
    until(&scene, "/left-pad", 403).await;
}

#[tokio::test]
async fn oversized_feeds_are_rejected_quickly() {
    let homes = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let sparse = |path: &Path| std::fs::File::create(path).unwrap().set_len(1 << 40).unwrap();
    sparse(&homes[0].path().join("index.json"));
    sparse(&homes[1].path().join("list.txt"));
    let server = Registry::start(&machine_clock()).await;
    for absent in ["index.json", "coldframe-feed.json", "modified_id.csv", "all.zip", "npm/all.zip"] {
        server.answer(&format!("/feeds/{absent}"), Reply::status(404));
    }
    // Links for which a quadratic comparison would be slow.
    let mut page = String::new();
    for number in 0..600_000 {
        page.push_str(&format!("href=\"{number}.json\""));
    }
    server.answer("/feeds/", Reply::ok(page));
    let list = homes[1].path().join("list.txt");
    let feeds = [homes[0].path().to_str().unwrap(), list.to_str().unwrap(), &format!("{}/feeds/", server.url)];
    let scene = feeds.iter().fold(Scene::open(), |scene, feed| scene.set("feed", feed)).await;
    for expected in ["index.json` is larger than", "list.txt is larger than", "records without an archive"] {
        until_ready_contains(&scene, 503, expected).await;
    }
}

#[tokio::test]
async fn a_record_for_all_of_an_established_package_blocks_listed_and_young_versions() {
    let feed = Feed::new();
    let mut broad = record("MAL-2026-1", "left-pad", &Value::Null);
    broad["affected"][0]["versions"] = json!(["1.0.3"]);
    feed.put(&broad);
    let mut scene = Scene::open().set("feed", feed.path()).await;
    scene.publish_over_years("left-pad");
    scene.publish(Package::new("left-pad", "1.0.11").aged(days(80)));
    let versions = scene.get("/left-pad").await.versions();
    assert!(versions.len() == 10 && !versions.contains(&"1.0.3".to_owned()), "{versions:?}");
    scene.get("/left-pad/-/left-pad-1.0.3.tgz").await.is(403);
    scene.get("/left-pad/-/left-pad-1.0.4.tgz").await.is(200);
    // Versions of a takeover are younger than 90 days when it is found.
    assert!(scene.get("/left-pad/1.0.11").await.is(403).error().contains("MAL-2026-1"));
    assert!(scene.metric("coldframe_incidents_total", "feed_overbroad").await >= 1.0);
    scene.coldframe.stop().await;
    let details = incidents(scene.data(), "feed_overbroad");
    assert!(details.len() == 1 && details[0].contains("MAL-2026-1"), "{details:?}");
    // A package with few versions is blocked completely.
    broad["affected"][0]["package"]["name"] = json!("right-pad");
    feed.put(&broad);
    scene.restart().await;
    scene.publish_old("right-pad", &["1.0.0", "1.1.0"]);
    scene.get("/right-pad").await.is(403);
}

/// Returns a malware record that marks every version and lists none.
fn broad() -> Value {
    record("MAL-2026-1", "left-pad", &Value::Null)
}

#[tokio::test]
async fn publishing_more_versions_does_not_escape_a_record() {
    let feed = Feed::new();
    feed.put(&broad());
    let scene = Scene::open().set("feed", feed.path()).await;
    for patch in 0..9 {
        scene.publish(Package::new("left-pad", &format!("1.0.{patch}")).aged(days(300 - 30 * patch)));
    }
    scene.get("/left-pad").await.is(403);
    // Published in bulk 45 days earlier, and now.
    for (minor, age) in [(1, days(45)), (2, hours(0))] {
        for patch in 0..12 {
            scene.publish(Package::new("left-pad", &format!("1.{minor}.{patch}")).aged(age));
        }
        scene.advance(minutes(10));
        scene.get("/left-pad").await.is(403);
        scene.get("/left-pad/-/left-pad-1.0.1.tgz").await.is(403);
    }
    scene.advance(days(40));
    scene.get("/left-pad").await.is(403);
    assert!(scene.get("/left-pad/-/left-pad-1.0.1.tgz").await.is(403).error().contains("MAL-2026-1"));
}

#[tokio::test]
async fn a_list_entry_without_a_date_blocks_the_whole_package() {
    let home = TempDir::new().unwrap();
    let list = home.path().join("blocked.txt");
    std::fs::write(&list, "left-pad\n").unwrap();
    let scene = Scene::open().set("feed", list.to_str().unwrap()).await;
    scene.publish_over_years("left-pad");
    scene.get("/left-pad").await.is(403);
    scene.get("/left-pad/-/left-pad-1.0.4.tgz").await.is(403);
}

#[tokio::test]
async fn the_first_read_time_of_a_record_survives_restarts_and_changes() {
    let feed = Feed::new();
    feed.put(&broad());
    let mut scene = Scene::open().set("feed", feed.path()).await;
    scene.publish_over_years("left-pad");
    scene.publish(Package::new("left-pad", "1.0.11").aged(days(60)));
    scene.get("/left-pad/-/left-pad-1.0.10.tgz").await.is(200);
    scene.get("/left-pad/-/left-pad-1.0.11.tgz").await.is(403);
    for _ in 0..3 {
        scene.advance(days(60));
        let mut changed = broad();
        changed["modified"] = json!(scene.clock.now().to_string());
        feed.put(&changed);
        scene.restart().await;
        scene.get("/left-pad/-/left-pad-1.0.10.tgz").await.is(200);
        scene.get("/left-pad/-/left-pad-1.0.11.tgz").await.is(403);
    }
}

/// Runs `coldframe feed …` while the server runs.
async fn feed_command(scene: &Scene, feed: &Feed, args: &[&str]) -> String {
    let home = TempDir::new().unwrap();
    let mut command = coldframe(home.path());
    command
        .arg("feed")
        .args(args)
        .args(["--upstream", &scene.registry.url, "--feed", feed.path(), "--data-dir"])
        .arg(scene.data());
    let (code, stdout, errors) = tokio::task::spawn_blocking(move || run(&mut command)).await.unwrap();
    assert_eq!(code, 0, "{stdout}{errors}");
    stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overbroad_record_is_reported_until_an_operator_decides() {
    let feed = Feed::new();
    feed.put(&broad());
    let scene = Scene::open().set("feed", feed.path()).await;
    scene.publish_over_years("left-pad");
    scene.publish(Package::new("left-pad", "1.0.11").aged(days(60)));
    let (old, young) = ("/left-pad/-/left-pad-1.0.4.tgz", "/left-pad/-/left-pad-1.0.11.tgz");
    scene.get(old).await.is(200);
    scene.advance(days(30));
    scene.get(young).await.is(403);
    until_status_contains(&scene, &feed, "MAL-2026-1 of the feed").await;
    feed_command(&scene, &feed, &["set-aside", "MAL-2026-1", "--reason", "the maintainer rotated the token"]).await;
    until(&scene, young, 200).await;
    assert!(!feed_command(&scene, &feed, &["status"]).await.contains("MAL-2026-1"));
    feed_command(&scene, &feed, &["obey", "MAL-2026-1", "--reason", "it is bad after all"]).await;
    until(&scene, old, 403).await;
    scene.get(young).await.is(403);
}

/// Repeats `feed status` until its output contains `part`.
async fn until_status_contains(scene: &Scene, feed: &Feed, part: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let stdout = feed_command(scene, feed, &["status"]).await;
        if stdout.contains(part) {
            return;
        }
        assert!(Instant::now() < deadline, "`feed status` lacks {part}: {stdout}");
    }
}

#[tokio::test]
async fn a_tarball_that_a_feed_names_during_its_download_is_refused_and_not_stored() {
    let feed = Feed::new();
    feed.put(&record("MAL-2026-9", "other", &json!(["1.0.0"])));
    let scene = Scene::open().set("feed", feed.path()).await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.publish(Package::new("left-pad", "1.1.0").sized(200_000));
    scene.get("/left-pad").await.is(200);
    let gate = scene.registry.hold_body(TARBALL, 1000);
    let (stays, leaves) = (scene.get(TARBALL).start(), scene.get(TARBALL).start());
    scene.registry.wait_for_requests(TARBALL, 1).await;
    feed.put(&record("MAL-2026-1", "left-pad", &json!(["1.1.0"])));
    until(&scene, "/left-pad/1.1.0", 403).await;
    leaves.abort();
    gate.open();
    let refused = stays.await.unwrap().is(403);
    assert!(refused.error().contains("MAL-2026-1"), "{}", refused.error());
    assert_eq!(scene.stored_tarballs().await, [""; 0].map(std::path::PathBuf::from));
    scene.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(200);
    assert_eq!(scene.stored_tarballs().await.len(), 1);
}

/// Exports denials of left-pad like another instance, signed at `now` and valid for an hour.
fn export(out: &Feed, signer: &FeedSigner, now: Timestamp, versions: &[&str]) -> u64 {
    let denied = |version: &&str| OsvRecord {
        id: format!("ACME-2026-{}", version.replace('.', "")),
        modified: "2026-04-01T00:00:00Z".to_owned(),
        affected: vec![OsvAffected {
            package: coldframe::feed::OsvPackage { ecosystem: "npm".to_owned(), name: "left-pad".to_owned() },
            versions: vec![(*version).to_owned()],
            ..OsvAffected::default()
        }],
        ..OsvRecord::default()
    };
    let records: Vec<_> = versions.iter().map(denied).collect();
    let expires = now + jiff::SignedDuration::from_hours(1);
    coldframe::feed::export(out.0.path(), FeedExport { id_prefix: "ACME", records: &records, expires }, signer, now)
        .unwrap()
        .serial
}

/// Repeats `readyz` until it has this status and contains `part`.
async fn until_ready_contains(scene: &Scene, status: u16, part: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let answer = scene.get("/-/coldframe/readyz").await;
        if answer.status == status && answer.text().contains(part) {
            return;
        }
        assert!(Instant::now() < deadline, "readyz stays {}: {}", answer.status, answer.text());
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_rolled_back_or_expired_index_keeps_the_last_good_one() {
    let (out, keys) = (Feed::new(), TempDir::new().unwrap());
    let signer = FeedSigner::open(keys.path()).unwrap();
    let noon: Timestamp = crate::harness::NOON.parse().unwrap();
    let first = export(&out, &signer, noon, &["1.1.0"]);
    let mut scene = Scene::open().set("feed", out.path()).set("feed-readiness", "true").await;
    scene.publish_old("left-pad", &["1.0.0", "1.1.0", "1.2.0"]);
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.2.0"]);
    until_ready_contains(&scene, 200, "").await;
    let files = ["index.json", "index.json.sig", "npm/all.zip"];
    let old = files.map(|name| std::fs::read(out.0.path().join(name)).unwrap());
    let second = export(&out, &signer, noon, &["1.1.0", "1.2.0"]);
    assert_eq!(second, first + 1);
    until(&scene, "/left-pad/1.2.0", 403).await;
    // An attacker restores the previous index, so that 1.2.0 would be served again.
    for (name, bytes) in files.iter().zip(&old) {
        std::fs::write(out.0.path().join(name), bytes).unwrap();
    }
    until_ready_contains(&scene, 503, &format!("its serial went back from {second} to {first}")).await;
    assert!((scene.metric("coldframe_feeds_stale", "").await - 1.0).abs() < 0.1);
    scene.get("/left-pad/1.2.0").await.is(403);
    scene.restart().await;
    until_ready_contains(&scene, 503, "its serial went back").await;
    scene.get("/left-pad/1.2.0").await.is(403);
    export(&out, &signer, noon, &["1.1.0", "1.2.0"]);
    until_ready_contains(&scene, 200, "").await;
    // The index expires because it is not signed again.
    scene.advance(hours(2));
    until_ready_contains(&scene, 503, "expired 2026-04-03 13:00 UTC").await;
    scene.get("/left-pad/1.2.0").await.is(403);
    scene.get("/left-pad/1.0.0").await.is(200);
    export(&out, &signer, noon + jiff::SignedDuration::from_hours(2), &["1.1.0"]);
    until_ready_contains(&scene, 200, "").await;
    until(&scene, "/left-pad/1.2.0", 200).await;
}

/// Returns a vulnerability record with `fixed` as the first fixed version.
fn vulnerability(id: &str, name: &str, fixed: &str, reviewed: bool) -> Value {
    json!({
        "id": id, "modified": "2026-04-03T10:00:00Z", "summary": "Prototype pollution",
        "affected": [{ "package": { "ecosystem": "npm", "name": name },
                       "ranges": [{ "type": "SEMVER", "events": [{ "introduced": "0" }, { "fixed": fixed }] }] }],
        "database_specific": { "github_reviewed": reviewed, "severity": "HIGH" },
    })
}

#[tokio::test]
async fn a_fix_named_by_a_reviewed_advisory_opens_after_a_day() {
    let feed = Feed::new();
    feed.put(&vulnerability("GHSA-35jh-r3h4-6jhm", "lodash", "4.17.21", true));
    feed.put(&vulnerability("GHSA-1111-1111-1111", "unreviewed", "1.0.1", false));
    feed.put(&vulnerability("GHSA-2222-2222-2222", "stranger", "1.0.1", true));
    let published = |name: &str, version: &str, by: &str| {
        Package::new(name, version).field("_npmUser", json!({ "name": by })).dist("signatures", json!([]))
    };
    let open = |setting: Option<&'static str>| {
        let scene = Scene::open().set("feed", feed.path());
        if let Some(age) = setting { scene.set("fix-lane", age) } else { scene }
    };
    let scene = open(None).await;
    let fill = |scene: &Scene| {
        for (name, old, young, by) in [
            ("lodash", "4.17.20", "4.17.21", "ada"),
            ("lodash", "4.17.19", "4.17.22", "ada"),
            ("unreviewed", "1.0.0", "1.0.1", "ada"),
            ("stranger", "1.0.0", "1.0.1", "mallory"),
        ] {
            scene.publish(published(name, old, "ada"));
            scene.publish(published(name, young, by).aged(hours(20)));
        }
    };
    fill(&scene);
    until(&scene, "/lodash/4.17.21", 403).await;
    scene.advance(hours(4));
    scene.get("/lodash/-/lodash-4.17.21.tgz").await.is(200);
    assert_eq!(scene.get("/lodash").await.versions(), ["4.17.19", "4.17.20", "4.17.21"], "only the fix opens");
    scene.get("/unreviewed/1.0.1").await.is(403);
    scene.get("/stranger/1.0.1").await.is(403);
    let off = open(Some("0s")).await;
    fill(&off);
    off.advance(hours(4));
    off.get("/lodash/4.17.21").await.is(403);
}

#[tokio::test]
async fn a_fix_with_a_signal_waits_for_the_usual_age() {
    let feed = Feed::new();
    feed.put(&vulnerability("GHSA-35jh-r3h4-6jhm", "lodash", "4.17.21", true));
    let ada = || json!({ "name": "ada" });
    let signed = |version| Package::new("lodash", version).field("_npmUser", ada()).dist("signatures", json!([]));
    let old = || signed("4.17.20");
    let fix = || signed("4.17.21").aged(hours(30));
    let attested = json!({ "url": "https://registry.example/-/npm/v1/attestations/lodash", "provenance": {} });
    for (why, old, fix, status) in [
        ("nothing changed", old(), fix(), 200),
        ("it gained an install script", old(), fix().script("postinstall", "node x.js"), 403),
        ("it had one before", old().script("postinstall", "x"), fix().script("postinstall", "y"), 200),
        ("it gained a dependency", old(), fix().depends_on("plain-crypto-js", "^4"), 403),
        ("its dependency has another range", old().depends_on("a", "^1"), fix().depends_on("a", "^2"), 200),
        ("it lost its provenance", old().dist("attestations", attested), fix(), 403),
        ("all earlier versions are young too", old().aged(days(3)), fix(), 403),
    ] {
        let scene = Scene::open().set("feed", feed.path()).await;
        scene.publish(old);
        scene.publish(fix);
        scene.publish_old("plain-crypto-js", &["4.2.0"]);
        let answer = scene.get("/lodash/-/lodash-4.17.21.tgz").await;
        assert_eq!(answer.status, status, "{why}: {}", answer.text());
    }
}
