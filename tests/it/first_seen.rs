//! First-seen times: no version opens earlier than an honest one would, regardless of what upstream shows to which client.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::SignedDuration;
use rusqlite::Connection;
use serde_json::Value;

use crate::fake_response::Reply;
use crate::harness::Scene;
use crate::package::{Package, days, hours, minutes};

const TARBALL: &str = "/left-pad/-/left-pad-1.1.0.tgz";
/// An hour before the scene begins.
const AN_HOUR_AGO: &str = "2026-04-03T11:00:00.000Z";

/// Returns the registry's current packument with these headers.
fn answer(scene: &Scene, name: &str, headers: &[(&str, &str)]) -> Reply {
    let reply = Reply::json(&scene.registry.packument(name).to_string());
    headers.iter().fold(reply, |reply, (name, value)| reply.header(name, value))
}

/// Returns the current packument of a package without some versions.
fn without(scene: &Scene, name: &str, versions: &[&str]) -> Reply {
    let mut packument = scene.registry.packument(name);
    for version in versions {
        packument["versions"].as_object_mut().unwrap().remove(*version);
        packument["dist-tags"].as_object_mut().unwrap().retain(|_, target| target != version);
    }
    Reply::json(&packument.to_string())
}

#[tokio::test]
async fn a_copy_from_an_upstream_cache_opens_no_version_held_at_its_date() {
    let eighty_hours_ago = "Tue, 31 Mar 2026 04:00:00 GMT";
    let now = "Fri, 03 Apr 2026 12:00:00 GMT";
    for headers in [vec![("date", eighty_hours_ago), ("age", "288000")], vec![("date", now), ("age", "288000")]] {
        let scene = Scene::open().await;
        scene.publish(Package::new("left-pad", "1.0.0"));
        scene.publish(Package::new("left-pad", "1.1.0").aged(hours(100)));
        scene.registry.answer("/left-pad", answer(&scene, "left-pad", &headers));
        assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"], "{headers:?}");
        scene.get(TARBALL).await.is(403);
        // A confirmation from the upstream cache does not make the copy newer.
        scene.advance(minutes(6));
        assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"], "{headers:?}");
        scene.registry.clear_answer("/left-pad");
        scene.advance(minutes(6));
        assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0"], "{headers:?}");
    }
}

#[tokio::test]
async fn a_fetch_is_dated_by_the_local_clock_regardless_of_upstream_headers() {
    for headers in [vec![("date", "Thu, 27 Feb 2025 12:00:00 GMT")], vec![("age", "34560000")]] {
        let mut scene = Scene::open().await;
        scene.publish(Package::new("left-pad", "1.0.0").aged(days(900)));
        scene.registry.answer("/left-pad", answer(&scene, "left-pad", &headers));
        assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
        scene.registry.clear_answer("/left-pad");
        scene.advance(hours(1));
        scene.publish(Package::new("left-pad", "1.1.0").aged(days(300)));
        scene.publish(Package::new("left-pad", "1.2.0").without_time());
        assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
        scene.restart().await;
        assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
        scene.get(TARBALL).await.is(403);
        scene.advance(hours(71));
        assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0"]);
        scene.advance(hours(1));
        assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0", "1.2.0"]);
    }
}

#[tokio::test]
async fn a_slow_upstream_clock_opens_nothing_and_is_named_in_refusals() {
    let scene = Scene::open().await;
    scene.registry.set_clock_offset(SignedDuration::from_hours(-30));
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(100)));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.advance(hours(20));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"], "1.1.0 is old enough only by the upstream clock");
    let refused = scene.get(TARBALL).await.is(403);
    assert!(refused.error().contains("the registry's clock is 30 h behind"), "{}", refused.error());
    // Its documents still count as fetches.
    scene.publish(Package::new("left-pad", "1.2.0").aged(days(90)));
    scene.registry.set_clock_offset(SignedDuration::ZERO);
    scene.advance(minutes(6));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0"]);
    scene.advance(hours(72));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0", "1.2.0"]);
}

#[tokio::test]
async fn new_versions_of_a_package_that_was_missing_count_from_the_last_fetch() {
    let mut scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0").time("2025-04-03T12:00:00.000Z"));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.advance(hours(2));
    scene.registry.remove("left-pad");
    scene.get("/left-pad").await.is(404);
    scene.restart().await;
    scene.advance(hours(1));
    scene.publish(Package::new("left-pad", "1.0.0").time("2025-04-03T12:00:00.000Z"));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(900)));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"], "known versions stay served");
    scene.get(TARBALL).await.is(403);
    scene.advance(hours(71).checked_sub(minutes(1)).unwrap());
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.advance(minutes(1));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0"]);
}

#[tokio::test]
async fn a_package_missing_at_the_first_fetch_counts_from_then() {
    for path in ["/left-pad", TARBALL, "/left-pad/latest"] {
        let mut scene = Scene::open().await;
        scene.registry.absent("left-pad");
        scene.get(path).await.is(404);
        scene.restart().await;
        scene.advance(hours(1));
        scene.publish(Package::new("left-pad", "1.1.0").aged(hours(20_000)));
        scene.get("/left-pad").await.is(403);
        scene.get(TARBALL).await.is(403);
        // The package counts as new, and new packages wait longer than releases.
        scene.advance(days(14).checked_sub(hours(2)).unwrap());
        scene.get("/left-pad").await.is(403);
        scene.advance(hours(1));
        assert_eq!(scene.get("/left-pad").await.versions(), ["1.1.0"]);
    }
}

#[tokio::test]
async fn only_a_404_of_the_registry_itself_means_a_missing_package() {
    let page = |status| Reply::status(status).header("content-type", "text/html");
    for reply in
        [page(404), page(410), Reply::error(401, "who?"), Reply::error(403, "no"), Reply::error(429, "later"), Reply::status(500)]
    {
        let scene = Scene::open().await;
        scene.registry.answer("/left-pad", reply.clone());
        assert!(scene.get("/left-pad").await.status >= 400);
        scene.registry.clear_answer("/left-pad");
        scene.advance(hours(1));
        // Such an answer does not mean that the package was missing.
        scene.publish(Package::new("left-pad", "1.0.0").aged(days(300)));
        assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
        // Known versions stay after such an answer.
        scene.registry.answer("/left-pad", reply);
        scene.advance(minutes(6));
        let kept = scene.get("/left-pad").await;
        assert!(matches!(kept.status, 200 | 401 | 403), "{}", kept.status);
        scene.registry.clear_answer("/left-pad");
        scene.advance(minutes(6));
        assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    }
}

#[tokio::test]
async fn hours_of_404_do_not_reset_the_age_of_versions() {
    let scene = Scene::open().await;
    let publish = || {
        scene.publish(Package::new("left-pad", "1.0.0").time("2025-04-03T12:00:00.000Z"));
        scene.publish(Package::new("left-pad", "1.1.0").time(AN_HOUR_AGO));
    };
    publish();
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.advance(hours(1));
    scene.registry.remove("left-pad");
    for _ in 0..3 {
        scene.get("/left-pad").await.is(404);
        scene.advance(hours(6));
    }
    publish();
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.advance(hours(52));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0"], "71 hours after it was published");
}

#[tokio::test]
async fn a_young_version_that_was_taken_down_counts_from_its_return() {
    for whole in [false, true] {
        let mut scene = Scene::open().await;
        scene.publish(Package::new("left-pad", "1.0.0").time("2025-04-03T12:00:00.000Z"));
        scene.publish(Package::new("left-pad", "1.1.0").time(AN_HOUR_AGO));
        assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
        scene.advance(hours(2));
        if whole {
            scene.registry.remove("left-pad");
            scene.get("/left-pad").await.is(404);
        } else {
            scene.registry.unpublish("left-pad", "1.1.0");
            assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
        }
        scene.advance(hours(80));
        scene.restart().await;
        scene.publish(Package::new("left-pad", "1.0.0").time("2025-04-03T12:00:00.000Z"));
        scene.publish(Package::new("left-pad", "1.1.0").time(AN_HOUR_AGO));
        assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"], "whole: {whole}");
        scene.get(TARBALL).await.is(403);
        scene.advance(hours(71));
        assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
        scene.advance(hours(1));
        assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0"]);
    }
}

#[tokio::test]
async fn publish_times_that_appear_later_count_for_versions_of_the_first_fetch() {
    let mut scene = Scene::open().await;
    let timeless = Arc::new(AtomicBool::new(true));
    let strips = Arc::clone(&timeless);
    scene.publish(Package::new("left-pad", "1.0.0").time("2025-04-03T12:00:00.000Z"));
    scene.registry.edit("left-pad", move |packument| {
        if strips.load(Ordering::Relaxed) {
            packument.as_object_mut().unwrap().remove("time");
        }
    });
    scene.get("/left-pad").await.is(403);
    scene.advance(hours(1));
    scene.publish(Package::new("left-pad", "1.1.0").time("2025-05-03T12:00:00.000Z"));
    scene.get("/left-pad").await.is(403);
    scene.advance(hours(1));
    timeless.store(false, Ordering::Relaxed);
    scene.publish(Package::new("left-pad", "1.2.0").time("2025-06-03T12:00:00.000Z"));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.restart().await;
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    // Both were missing at the previous fetch, an hour after the first.
    scene.advance(hours(70));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.advance(hours(1));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0", "1.2.0"]);
}

#[tokio::test]
async fn an_older_document_removes_and_confirms_no_version() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0"));
    let old = Reply::json(&scene.registry.packument("left-pad").to_string());
    scene.advance(hours(1));
    scene.publish(Package::new("left-pad", "1.1.0").aged(days(30)).untagged());
    scene.publish(Package::new("left-pad", "1.2.0").aged(hours(1)));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0"]);
    scene.registry.answer("/left-pad", old);
    scene.advance(minutes(6));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0"]);
    scene.get(TARBALL).await.is(200);
    // An older document confirms nothing: the version opens when the newer one is seen again.
    scene.advance(hours(20));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0"]);
    scene.registry.clear_answer("/left-pad");
    scene.advance(hours(52));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0", "1.2.0"]);
}

#[tokio::test]
async fn a_document_without_versions_removes_no_version() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0"));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.registry.answer("/left-pad", Reply::json(r#"{"name":"left-pad","versions":{}}"#));
    scene.advance(minutes(6));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(200);
}

#[tokio::test]
async fn an_invented_token_starts_no_new_history() {
    let mut scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0").time("2025-04-03T12:00:00.000Z"));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(200);
    scene.advance(hours(10));
    scene.publish(Package::new("left-pad", "1.0.0").content("other bytes").time("2025-04-03T12:00:00.000Z"));
    scene.publish(Package::new("left-pad", "1.1.0").aged(days(90)));
    for restarts in [false, true] {
        if restarts {
            scene.restart().await;
        }
        for token in ["made-up", "another"] {
            scene.get("/left-pad").token(token).await.is(403);
            scene.get(TARBALL).token(token).await.is(403);
            let refused = scene.get("/left-pad/-/left-pad-1.0.0.tgz").token(token).await.is(403);
            assert!(refused.error().contains("integrity"), "{}", refused.error());
        }
        scene.get("/left-pad").await.is(403);
    }
    scene.advance(hours(72));
    assert_eq!(scene.get("/left-pad").token("made-up").await.versions(), ["1.1.0"]);
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.1.0"]);
}

#[tokio::test]
async fn history_seen_with_a_token_counts_for_clients_without_one() {
    let mut scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0").time("2025-04-03T12:00:00.000Z"));
    scene.get("/left-pad").token("alice").await.is(200);
    scene.advance(hours(10));
    scene.publish(Package::new("left-pad", "1.0.0").content("other bytes").time("2025-04-03T12:00:00.000Z"));
    scene.publish(Package::new("left-pad", "1.1.0").aged(days(90)));
    scene.get("/left-pad").await.is(403);
    scene.get(TARBALL).await.is(403);
    scene.restart().await;
    scene.get("/left-pad").await.is(403);
    scene.advance(hours(62));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.1.0"]);
}

#[tokio::test]
async fn a_request_with_an_invented_token_holds_nothing_for_other_clients() {
    // With any token, this registry shows fewer versions and other bytes.
    let mut scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0").time("2025-04-03T12:00:00.000Z"));
    scene.publish(Package::new("left-pad", "1.1.0").time("2025-05-03T12:00:00.000Z"));
    let mut fewer: Value = scene.registry.packument("left-pad");
    fewer["versions"].as_object_mut().unwrap().remove("1.1.0");
    fewer["dist-tags"]["latest"] = "1.0.0".into();
    fewer["versions"]["1.0.0"]["dist"]["integrity"] = crate::package::sha512(b"other bytes").into();
    fewer["versions"]["1.0.0"]["dist"]["shasum"] = crate::package::sha1(b"other bytes").into();
    scene.registry.answer_tokens("/left-pad", Reply::json(&fewer.to_string()));
    scene.get("/left-pad").token("made-up").await.is(200);
    scene.advance(hours(1));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0"]);
    scene.get(TARBALL).await.is(200);
    scene.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(200);
    scene.restart().await;
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0"]);
    scene.get("/left-pad").token("made-up").await.is(200);
    scene.advance(hours(1));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0"]);
}

#[tokio::test]
async fn a_private_package_is_not_held_because_other_clients_get_404() {
    let mut scene = Scene::open().await;
    scene.publish(Package::new("@acme/ui", "1.0.0").readable_with("alice"));
    scene.get("/@acme%2fui").await.is(404);
    scene.get("/@acme%2fui").token("mallory").await.is(404);
    scene.advance(hours(1));
    assert_eq!(scene.get("/@acme%2fui").token("alice").await.versions(), ["1.0.0"]);
    scene.get("/@acme/ui/-/ui-1.0.0.tgz").token("alice").await.is(200);
    scene.restart().await;
    assert_eq!(scene.get("/@acme%2fui").token("alice").await.versions(), ["1.0.0"]);
    scene.get("/@acme%2fui").await.is(404);
}

#[tokio::test]
async fn a_version_hidden_from_one_token_is_not_removed_for_another() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0").time("2025-04-03T12:00:00.000Z"));
    scene.publish(Package::new("left-pad", "1.1.0").time(AN_HOUR_AGO));
    let (all, fewer) = (answer(&scene, "left-pad", &[]), without(&scene, "left-pad", &["1.1.0"]));
    for token in ["alice", "mallory", "alice", "mallory", "alice"] {
        let reply = if token == "alice" { &all } else { &fewer };
        scene.registry.answer_tokens("/left-pad", reply.clone());
        assert_eq!(scene.get("/left-pad").token(token).await.versions(), ["1.0.0"]);
        scene.advance(hours(15));
    }
    scene.registry.answer_tokens("/left-pad", all.clone());
    assert_eq!(scene.get("/left-pad").token("alice").await.versions(), ["1.0.0", "1.1.0"], "76 hours after it was published");
}

#[tokio::test]
async fn a_contradiction_causes_few_upstream_requests() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.get("/left-pad").await.is(200);
    scene.advance(hours(1));
    scene.publish(Package::new("left-pad", "1.1.0").aged(days(90)));
    let before = scene.registry.count("/left-pad");
    for number in 0..20 {
        scene.get("/left-pad").token(&format!("made-up-{number}")).await.is(200);
    }
    let fetches = scene.registry.count("/left-pad") - before;
    assert!(fetches <= 20 + 6, "{fetches} requests for 20 tokens");
}

#[tokio::test]
async fn a_changed_clock_records_nothing_until_an_upstream_agrees() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(1)));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.get("/-/coldframe/readyz").await.is(200);
    let noon = scene.now();
    scene.registry.set_clock_offset(SignedDuration::from_hours(-100));
    scene.clock.set(coldframe::units::timestamp::saturating_add(noon, hours(100)));
    let readiness = scene.get("/-/coldframe/readyz").await.is(503);
    assert!(readiness.text().contains("clock was set forward by 360000 s"), "{}", readiness.text());
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.get(TARBALL).await.is(403);
    // After the correction, nothing is dated by the wrong clock.
    scene.registry.set_clock_offset(SignedDuration::ZERO);
    scene.clock.set(coldframe::units::timestamp::saturating_add(noon, hours(1)));
    scene.publish(Package::new("left-pad", "1.2.0").aged(days(30)));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.get("/-/coldframe/readyz").await.is(200);
    scene.advance(hours(70));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0"]);
    scene.advance(hours(2));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0", "1.2.0"]);
}

/// Schema 2 of the ledger, from before views were compared.
const SCHEMA_2: &str = "
    CREATE TABLE packages (id INTEGER PRIMARY KEY, upstream TEXT NOT NULL, name TEXT NOT NULL, first_seen INTEGER, validated INTEGER,
        changed INTEGER, content BLOB, length INTEGER NOT NULL DEFAULT 0, etag TEXT, last_modified TEXT, UNIQUE (upstream, name)) STRICT;
    CREATE TABLE releases (package INTEGER NOT NULL REFERENCES packages (id), version TEXT NOT NULL, integrity TEXT NOT NULL,
        published INTEGER, effective INTEGER NOT NULL, first_seen INTEGER NOT NULL, gone INTEGER, replaced INTEGER NOT NULL,
        PRIMARY KEY (package, version, integrity)) STRICT, WITHOUT ROWID;
    CREATE TABLE sightings (package INTEGER NOT NULL REFERENCES packages (id), tag TEXT NOT NULL, version TEXT NOT NULL,
        first_seen INTEGER NOT NULL, last_seen INTEGER NOT NULL, PRIMARY KEY (package, tag, version, first_seen)) STRICT, WITHOUT ROWID;
    CREATE TABLE clients (id INTEGER PRIMARY KEY, address TEXT NOT NULL, tool TEXT NOT NULL, tool_version TEXT NOT NULL,
        UNIQUE (address, tool, tool_version)) STRICT;
    CREATE TABLE subjects (id INTEGER PRIMARY KEY, name TEXT NOT NULL, version TEXT NOT NULL, kind TEXT NOT NULL,
        integrity TEXT NOT NULL, hidden TEXT NOT NULL, UNIQUE (name, version, kind, integrity, hidden)) STRICT;
    CREATE TABLE downloads (id INTEGER PRIMARY KEY, subject INTEGER NOT NULL REFERENCES subjects (id),
        client INTEGER NOT NULL REFERENCES clients (id), outcome TEXT NOT NULL, rule TEXT, times INTEGER NOT NULL,
        first INTEGER NOT NULL, last INTEGER NOT NULL) STRICT;
    CREATE INDEX downloads_by_subject ON downloads (subject);
    CREATE INDEX downloads_by_client ON downloads (client);
    CREATE INDEX downloads_by_last ON downloads (last);
    CREATE TABLE incidents (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, name TEXT, version TEXT, detail TEXT NOT NULL,
        times INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL) STRICT;
    CREATE INDEX incidents_by_last ON incidents (last);
    CREATE TABLE decisions (id INTEGER PRIMARY KEY AUTOINCREMENT, act TEXT NOT NULL, reason TEXT NOT NULL, author TEXT NOT NULL,
        made INTEGER NOT NULL, expires INTEGER, needs_second INTEGER NOT NULL, second TEXT, confirmed INTEGER, revoked_by TEXT,
        revoked INTEGER, revoked_why TEXT) STRICT;
    CREATE TABLE decided (only INTEGER PRIMARY KEY CHECK (only = 1), revision INTEGER NOT NULL, in_force INTEGER NOT NULL) STRICT;
    INSERT INTO decided (only, revision, in_force) VALUES (1, 0, 0);
    PRAGMA user_version = 2;
";

/// Replaces the ledger of a scene with an empty one of schema 2; returns it, to be filled before the restart.
async fn old_ledger(scene: &mut Scene) -> Connection {
    scene.coldframe.stop().await;
    let path = scene.data().join("ledger.sqlite");
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
    }
    let ledger = Connection::open(&path).unwrap();
    ledger.pragma_update(None, "auto_vacuum", "incremental").unwrap();
    ledger.pragma_update(None, "journal_mode", "wal").unwrap();
    ledger.execute_batch(SCHEMA_2).unwrap();
    ledger
}

/// Inserts a package that a view fetched this many hours before the scene began. Each version has its bytes and its effective
/// age in hours.
fn insert_package(ledger: &Connection, scene: &Scene, view: &str, name: &str, fetched: i64, versions: &[(&str, &[u8], i64)]) {
    let at = |hours_ago: i64| i64::try_from(scene.now().as_nanosecond()).unwrap() - hours_ago * 3_600_000_000_000;
    let upstream = format!("{}/{view}", scene.registry.url);
    let columns =
        "INSERT INTO packages (upstream, name, first_seen, validated, changed, content) VALUES (?1, ?2, ?3, ?4, ?3, ?5)";
    ledger.execute(columns, (&upstream, name, at(1000), at(fetched), [1_u8; 32])).unwrap();
    let id = ledger.last_insert_rowid();
    for (version, bytes, effective) in versions {
        let columns = "INSERT INTO releases VALUES (?1, ?2, ?3, ?4, ?4, ?5, NULL, 0)";
        ledger.execute(columns, (id, version, crate::package::sha512(bytes), at(*effective), at(1000))).unwrap();
    }
}

#[tokio::test]
async fn migration_merges_two_histories_and_keeps_a_copy() {
    let mut scene = Scene::open().await;
    let ledger = old_ledger(&mut scene).await;
    let (one, two) = (Package::new("left-pad", "1.0.0"), Package::new("left-pad", "1.1.0"));
    // Each view saw a version that the other did not.
    insert_package(&ledger, &scene, "", "left-pad", 200, &[("1.0.0", &one.tarball, 900)]);
    insert_package(&ledger, &scene, "#own", "left-pad", 300, &[("1.1.0", &two.tarball, 800)]);
    // A hundred packages with the same bytes in both views, and one with different bytes.
    let packages: Vec<_> = (0..100).map(|number| Package::new(&format!("package-{number}"), "1.0.0")).collect();
    for package in &packages {
        insert_package(&ledger, &scene, "", &package.name, 200, &[("1.0.0", &package.tarball, 900)]);
        insert_package(&ledger, &scene, "#own", &package.name, 150, &[("1.0.0", &package.tarball, 900)]);
    }
    let shown = Package::new("right-pad", "1.0.0");
    insert_package(&ledger, &scene, "", "right-pad", 200, &[("1.0.0", &shown.tarball, 900)]);
    insert_package(&ledger, &scene, "#own", "right-pad", 150, &[("1.0.0", b"shown to tokens", 900)]);
    drop(ledger);
    scene.restart().await;
    for package in [one, two, shown].into_iter().chain(packages) {
        scene.publish(package);
    }
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0"]);
    assert_eq!(scene.get("/left-pad").token("alice").await.versions(), ["1.0.0", "1.1.0"]);
    for name in (0..100).map(|number| format!("package-{number}")).chain(["right-pad".to_owned()]) {
        assert_eq!(scene.get(&format!("/{name}")).await.versions(), ["1.0.0"]);
        if name != "right-pad" {
            assert_eq!(scene.get(&format!("/{name}")).token("alice").await.versions(), ["1.0.0"]);
        }
    }
    assert!(scene.metric("coldframe_incidents", "integrity_changed").await < 2.0);
    scene.coldframe.stop().await;
    let copy = Connection::open(scene.data().join("ledger-schema-2.sqlite")).unwrap();
    let count = |sql| copy.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!((count("PRAGMA user_version"), count("SELECT count(*) FROM packages")), (2, 204));
}

#[cfg(unix)]
#[tokio::test]
async fn ledger_files_are_accessible_only_to_their_owner() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut scene = Scene::open().await;
    drop(old_ledger(&mut scene).await);
    let open = |mode| std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(scene.data(), open(0o777)).unwrap();
    std::fs::set_permissions(scene.data().join("ledger.sqlite"), open(0o666)).unwrap();
    scene.restart().await;
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.get("/left-pad").await.is(200);
    let mut seen = 0;
    for file in std::fs::read_dir(scene.data()).unwrap().flatten() {
        let name = file.file_name().to_string_lossy().into_owned();
        if name.starts_with("ledger") {
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{name}");
            seen += 1;
        }
    }
    assert!(seen >= 4, "{seen} files, expected the ledger, its log, its index and the copy");
}

#[tokio::test]
async fn upstream_time_sets_how_publish_times_count() {
    for (mode, first, backdated) in [("checked", true, false), ("first-seen", false, false), ("trust", true, true)] {
        let mut scene = Scene::open().set("upstream-time", mode).await;
        scene.publish(Package::new("left-pad", "1.0.0").time("2025-04-03T12:00:00.000Z"));
        let shown = |answer: &crate::raw_http::Response, version: &str| {
            answer.status == 200 && answer.versions().iter().any(|shown| shown == version)
        };
        assert_eq!(shown(&scene.get("/left-pad").await, "1.0.0"), first, "{mode}");
        scene.advance(hours(1));
        scene.publish(Package::new("left-pad", "1.1.0").aged(days(90)));
        assert_eq!(shown(&scene.get("/left-pad").await, "1.1.0"), backdated, "{mode}");
        scene.restart().await;
        assert_eq!(shown(&scene.get("/left-pad").await, "1.1.0"), backdated, "{mode}");
        scene.advance(days(15));
        assert!(shown(&scene.get("/left-pad").await, "1.1.0"), "{mode}");
    }
}

#[tokio::test]
async fn a_version_removed_below_the_longest_rule_age_is_taken_down() {
    let went = async |age: &str| {
        let scene = Scene::open().set("min-release-age", age).await;
        scene.publish(Package::new("left-pad", "1.0.0"));
        scene.publish(Package::new("left-pad", "1.1.0").aged(days(30)));
        scene.get("/left-pad").await.is(200);
        let before = scene.get(TARBALL).await.status;
        scene.advance(hours(1));
        scene.registry.unpublish("left-pad", "1.1.0");
        let after = scene.get(TARBALL).await;
        (before, after.status, String::from_utf8_lossy(&after.body).contains("rule takedown"))
    };
    assert_eq!(went("72h").await, (200, 200, false));
    assert_eq!(went("60d").await, (403, 403, true));
}
