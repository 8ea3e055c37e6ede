//! Integrity and access of tarballs. A version is bound to its bytes and its dependencies, regardless of later statements by
//! upstream. Bytes in the store are served only to clients that may read them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coldframe::npm::{Algorithm, Digest};
use serde_json::{Value, json};

use crate::fake_response::Reply;
use crate::harness::Scene;
use crate::package::{Package, days, hours, minutes, sha1, sha512};
use crate::registry::Registry;

const VICTIM: &str = "/victim/-/victim-1.0.0.tgz";
const CARRIER: &str = "/carrier/-/carrier-1.0.0.tgz";
const SECRET: &str = "/@acme/secret/-/secret-1.0.0.tgz";
const EVIL: &str = "/evil/-/evil-1.0.0.tgz";

/// `victim@1.0.0` with a shasum only.
fn victim() -> Package {
    Package::new("victim", "1.0.0").dist("integrity", Value::Null)
}

/// Changes one digest of `name@1.0.0` in upstream's packument.
fn set_digest(scene: &Scene, name: &str, digest: &'static str, value: String) {
    scene.registry.edit(name, move |packument| packument["versions"]["1.0.0"]["dist"][digest] = json!(value));
}

#[tokio::test]
async fn added_digest_of_other_stored_bytes_is_refused() {
    for is_downloaded_before in [false, true] {
        let scene = Scene::open().await;
        let carrier = Package::new("carrier", "1.0.0").content("malice");
        scene.publish(victim());
        scene.publish(carrier.clone());
        scene.get("/victim").await.is(200);
        scene.get(CARRIER).await.is(200);
        if is_downloaded_before {
            scene.get(VICTIM).await.is(200);
        }
        scene.advance(hours(1));
        set_digest(&scene, "victim", "integrity", sha512(&carrier.tarball));
        assert_ne!(scene.get(VICTIM).await.is(403).body, carrier.tarball);
        // Upstream now serves the other bytes at that URL; they are refused too.
        scene.registry.tamper(VICTIM, carrier.tarball.clone());
        scene.advance(hours(1));
        scene.get(VICTIM).await.is(403);
        if is_downloaded_before {
            scene.get("/victim").await.is(403);
            assert!(scene.metric("coldframe_incidents", "integrity_changed").await >= 1.0);
        }
    }
}

#[tokio::test]
async fn computed_digests_bind_after_restart_for_every_algorithm() {
    let mut scene = Scene::open().await;
    scene.publish(victim());
    let good = victim().tarball;
    scene.get(VICTIM).await.is(200);
    scene.restart().await;
    scene.advance(hours(1));
    set_digest(&scene, "victim", "integrity", Digest::of(Algorithm::Sha256, &good).to_sri());
    assert_eq!(scene.get(VICTIM).await.is(200).body, good);
    assert_eq!(scene.registry.count(VICTIM), 1, "the new digest matches the stored bytes");
    scene.advance(hours(1));
    set_digest(&scene, "victim", "integrity", Digest::of(Algorithm::Sha256, b"others").to_sri());
    scene.get(VICTIM).await.is(403);
    scene.restart().await;
    scene.get("/victim").await.is(403);
}

#[tokio::test]
async fn bytes_must_match_both_new_and_old_digests() {
    let scene = Scene::open().await;
    scene.publish(victim());
    scene.get("/victim").await.is(200);
    scene.advance(hours(1));
    // Now only a SHA-512 is stated, first of the same bytes and then of others.
    let good = victim().tarball;
    scene.publish(Package::new("victim", "1.0.0").dist("shasum", Value::Null));
    assert_eq!(scene.get("/victim").await.versions(), ["1.0.0"]);
    scene.registry.tamper(VICTIM, *b"other bytes");
    set_digest(&scene, "victim", "integrity", sha512(b"other bytes"));
    scene.advance(hours(1));
    scene.get(VICTIM).await.is(403);
    scene.registry.tamper(VICTIM, good);
    scene.get(VICTIM).await.is(403);
}

/// The first of two published messages with the same SHA-1 ("SHA-1 is a Shambles", 2020), base64.
const COLLIDING: &str = concat!(
    "mQQNBH/oF4ABIAD/S2V5IGlzIHBhcnQgb2YgYSBjb2xsaXNpb24hIEl0J3MgYSB0cmFwIXnGGvCvzAVFFdknTnMHYksdx/sjmIu4",
    "3otXXbp7nqsxwWdLbZdDeKgncy/1hRx2ouYHcrWkfOHqxAu5k8EtjHDiSk+NX83twbMsnPGeMa8kKXWdQuTf2zFxn1h2I+5VKTm2",
    "3NxFn8pTVTtw+H7eMKJH6jr2x1mi8gsyDXYNtk/0eQhP08yzzdSDYtlqnEMGF8r/bDbGN+U/3ihBf2Jv7FTteUOkbl9XMPK7OPsd",
    "9uAJABDQDiSteL+SZBmTYI6NFYp4nzTEb+HmAn81pMv7gnB2xQ7KDot8ymm7LCt5Aln5v5Vw3Y1EN6MRX6/3w8rAmtJSZgVcJxBH",
    "VReOrv+CWiyqKs+13mTOdkHcWaVBqfycdWdW4uI9xxPIwkyXkKprDjin9V8URSocooUN3ZVi/ZoYrUJJaqlwCPdGcvaO9GHriLCZ",
    "M9YmtPkYdJzAJ/3dbEJfxCFoNdATTRUoW6sst4Sk98u0+1FNS/D2I3zwCp6fEyuaBm5v0X9sQph0eFhv9lGvlnR/tCa5hyuaiOQG",
    "P1m7M0zABlD4OoDEJ1G3GXTTAPwoGaLo8eMsG1HLGOa/xNubrvZ11Kr1sVdKBH+PbdLsFTqTQSKTl02Sj4jO2TY8/vl84udCvzTJ",
    "a47zh1Z2/qXMqOX33qC6skE9TeAO5x7gHxYr220er9kl5q66rmo1TvF88gWkBPvbEvxFTUH92VzyRZZkoq0DLR2mCnMmQHXX8eDW",
    "wUA656DYYd8/5XBxiN1eB9FYm5+LZjBVP4/DUrPgwn2oC926TGQCDQ==",
);

#[tokio::test]
async fn sha1_collision_does_not_match_shasum() {
    let scene = Scene::open().await;
    let colliding = STANDARD.decode(COLLIDING).unwrap();
    scene.publish(victim().dist("shasum", sha1(&colliding)));
    scene.registry.tamper(VICTIM, colliding);
    let refused = scene.get(VICTIM).await.is(403);
    assert!(refused.error().contains("integrity"), "{}", refused.error());
    assert!(scene.stored_tarballs().await.is_empty());
}

#[tokio::test]
async fn stating_the_digest_of_a_private_tarball_gives_no_access() {
    let scene = Scene::open().await;
    let secret = Package::new("@acme/secret", "1.0.0").readable_with("alice");
    let stolen = sha512(&secret.tarball);
    scene.publish(secret.clone());
    scene.get(SECRET).token("alice").await.is(200);
    // One package uses its own URL, the other the URL of the private tarball.
    scene.publish(Package::new("evil", "1.0.0").dist("integrity", stolen.clone()).dist("shasum", Value::Null));
    scene.publish(Package::new("sly", "1.0.0").dist("integrity", stolen).dist("shasum", Value::Null).at_path(SECRET));
    for ask in [scene.get(EVIL), scene.get(EVIL).token("mallory"), scene.get("/sly/-/sly-1.0.0.tgz"), scene.ask("HEAD", EVIL)] {
        let answer = ask.await;
        assert!(answer.status >= 400 && answer.body != secret.tarball, "{}", answer.status);
    }
    // Alice may read the private bytes, but only as the private package.
    assert_eq!(scene.get(SECRET).token("alice").await.is(200).body, secret.tarball);
    scene.get(EVIL).token("alice").await.is(403);
}

#[tokio::test]
async fn private_packument_is_not_served_as_tarball() {
    let scene = Scene::open().await;
    scene.publish(Package::new("@acme/secret", "1.0.0").readable_with("alice"));
    scene.get("/@acme%2fsecret").token("alice").await.is(200);
    let files = loop {
        let files = scene.stored_files().await;
        if !files.is_empty() {
            break files;
        }
        tokio::task::yield_now().await;
    };
    for file in files {
        let bytes = std::fs::read(file).unwrap();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512, Algorithm::Sha1] {
            let evil = Package::new("evil", "1.0.0").dist("shasum", Value::Null);
            scene.publish(evil.dist("integrity", Digest::of(algorithm, &bytes).to_sri()));
            scene.advance(minutes(10));
            assert_ne!(scene.get(EVIL).await.is(403).body, bytes);
        }
    }
}

/// Publishes a private package of three versions and returns their tarball paths.
fn publish_secrets(scene: &Scene, readers: &str) -> Vec<String> {
    let versions = ["1.0.0", "1.1.0", "1.2.0"];
    let packages = versions.map(|version| Package::new("@acme/secret", version).readable_with(readers));
    packages
        .into_iter()
        .map(|package| {
            let path = package.path();
            scene.publish(package);
            path
        })
        .collect()
}

/// Returns the number of tarball requests with `token`.
fn requests_with(scene: &Scene, token: Option<&str>) -> usize {
    let requests = scene.registry.requests();
    requests.iter().filter(|request| request.path.contains("/-/") && request.bearer() == token).count()
}

#[tokio::test]
async fn each_token_costs_one_authorization_request_per_package() {
    let scene = Scene::open().await;
    let paths = publish_secrets(&scene, "job-*");
    for job in ["job-1", "job-2", "job-3", "job-4"] {
        for path in &paths {
            scene.get(path).token(job).await.is(200);
        }
    }
    let sent = ["job-1", "job-2", "job-3", "job-4"].map(|job| requests_with(&scene, Some(job)));
    assert_eq!(sent, [3, 1, 1, 1]);
    assert!(requests_with(&scene, None) <= 1, "anonymous access is tried once");
    assert!(scene.registry.requests().iter().all(|request| request.method == "GET"), "a HEAD proves nothing");
    // A client without access gets no tarball.
    for path in &paths {
        scene.get(path).token("mallory").await.is(404);
        scene.get(path).await.is(404);
    }
    // Access is checked again when the packument is fetched again.
    scene.advance(minutes(10));
    for path in &paths {
        scene.get(path).token("job-4").await.is(200);
    }
    assert_eq!(requests_with(&scene, Some("job-4")), 2);
}

#[tokio::test]
async fn public_tarball_is_fetched_once_for_all_tokens() {
    let mut scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    let path = "/left-pad/-/left-pad-1.0.0.tgz";
    scene.get(path).await.is(200);
    scene.get(path).token("alice").await.is(200);
    scene.restart().await;
    for token in ["bob", "carol"] {
        scene.get(path).token(token).await.is(200);
        scene.get(path).await.is(200);
    }
    assert_eq!(scene.registry.count(path), 1);
    // A tarball first downloaded with a token is requested once without.
    scene.publish_old("right-pad", &["1.0.0"]);
    let path = "/right-pad/-/right-pad-1.0.0.tgz";
    for token in ["alice", "bob", "carol"] {
        scene.get(path).token(token).await.is(200);
    }
    scene.get(path).await.is(200);
    assert_eq!(scene.registry.count(path), 2);
    scene.restart().await;
    scene.get(path).token("dave").await.is(200);
    assert_eq!(scene.registry.count(path), 2);
}

#[tokio::test]
async fn token_refused_by_upstream_gets_nothing_from_the_store() {
    let scene = Scene::open().await;
    let paths = publish_secrets(&scene, "alice,bob");
    for path in &paths {
        scene.get(path).token("alice").await.is(200);
        scene.get(path).token("bob").await.is(200);
    }
    // All clients may still read the packument, but not the tarballs.
    for path in &paths {
        scene.registry.answer(path, Reply::error(403, "your token was revoked"));
    }
    scene.advance(minutes(10));
    for path in &paths {
        scene.get(path).token("bob").await.is(403);
    }
    scene.registry.go_down();
    let refused = scene.get(&paths[0]).token("bob").await;
    assert!(refused.status >= 400, "an outage brings nothing back: {}", refused.status);
}

#[tokio::test]
async fn authorization_survives_an_outage_up_to_max_stale() {
    let mut scene = Scene::open().set("max-stale", "5h").await;
    let paths = publish_secrets(&scene, "alice,bob");
    scene.get(&paths[0]).token("alice").await.is(200);
    scene.get(&paths[1]).token("bob").await.is(200);
    scene.advance(minutes(10));
    scene.registry.go_down();
    // Both tokens recently read a tarball of the package and its packument.
    scene.get(&paths[1]).token("alice").await.is(200);
    scene.get(&paths[0]).token("bob").await.is(200);
    for stranger in [scene.get(&paths[0]).token("mallory"), scene.get(&paths[0])] {
        assert!(stranger.await.status >= 400);
    }
    scene.advance(hours(6));
    assert!(scene.get(&paths[0]).token("alice").await.status >= 400);
    scene.restart().await;
    assert!(scene.get(&paths[0]).token("alice").await.status >= 400, "a restart entitles no client");
}

#[tokio::test]
async fn configured_credentials_are_authorized_like_tokens() {
    let mut scene = Scene::open().await;
    let basic = format!("Basic {}", STANDARD.encode("me:pass"));
    let paths = publish_secrets(&scene, &format!("alice,{basic}"));
    scene.get(&paths[0]).token("alice").await.is(200);
    let url = scene.registry.url.replace("http://", "http://me:pass@");
    scene.restart_with("upstream", &url).await;
    let before = scene.registry.count(&paths[0]);
    for _ in 0..3 {
        scene.get(&paths[0]).await.is(200);
    }
    assert!(scene.registry.count(&paths[0]) <= before + 2, "once without credentials, once with them");
    scene.get(&paths[0]).token("mallory").await.is(404);
    // After a restart during an outage, recent access still counts.
    scene.restart().await;
    scene.registry.go_down();
    scene.get(&paths[0]).await.is(200);
    assert!(scene.get(&paths[0]).token("alice").await.status >= 400);
    // It does not count after a refusal, even if the packument is readable.
    scene.registry.come_back();
    scene.registry.answer(&paths[0], Reply::error(403, "your token was revoked"));
    scene.advance(minutes(10));
    scene.get(&paths[0]).await.is(403);
    scene.registry.go_down();
    assert!(scene.get(&paths[0]).await.status >= 400);
}

#[tokio::test]
async fn login_page_denies_access_and_signed_redirect_grants_it() {
    let scene = Scene::open().set("redirect-host", "127.0.0.2").await;
    let storage = Registry::on_other_host(&scene.clock).await;
    let secret = Package::new("@acme/secret", "1.0.0").readable_with("alice,bob,carol,dave");
    scene.publish(secret.clone());
    storage.tamper("/blobs/1.tgz", secret.tarball.clone());
    scene.registry.answer(SECRET, Reply::redirect(302, &format!("{}/blobs/1.tgz?signature=1", storage.url)));
    assert_eq!(scene.get(SECRET).token("alice").await.is(200).body, secret.tarball);
    scene.registry.answer(SECRET, Reply::ok("<html>who are you?</html>").header("content-type", "text/html; charset=utf-8"));
    scene.get(SECRET).token("bob").await.is(404);
    scene.registry.answer(SECRET, Reply::redirect(302, "http://127.0.0.3:1/login"));
    assert!(scene.get(SECRET).token("carol").await.status >= 400);
    assert!(scene.metric("coldframe_incidents", "integrity_mismatch").await < 1.0);
    scene.registry.answer(SECRET, Reply::redirect(302, &format!("{}/blobs/1.tgz?signature=2", storage.url)));
    assert_eq!(scene.get(SECRET).token("dave").await.is(200).body, secret.tarball);
    assert!(storage.requests().iter().all(|request| request.bearer().is_none()));
    // A response of another length does not grant access: its bytes are checked and refused.
    scene.registry.answer(SECRET, Reply::ok("something else"));
    scene.advance(minutes(10));
    scene.get(SECRET).token("dave").await.is(403);
}

#[tokio::test]
async fn old_version_that_gains_a_dependency_is_held() {
    let mut scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0").aged(days(900)).depends_on("honest", "1.0.0"));
    let path = "/left-pad/-/left-pad-1.0.0.tgz";
    scene.get(path).await.is(200);
    scene.advance(hours(1));
    scene.registry.edit("left-pad", |packument| packument["versions"]["1.0.0"]["dependencies"]["evil"] = json!("1.0.0"));
    scene.get("/left-pad").await.is(403);
    scene.get(path).await.is(403);
    scene.restart().await;
    scene.advance(hours(71));
    scene.get("/left-pad").await.is(403);
    scene.advance(hours(2));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
}

#[tokio::test]
async fn attestations_are_fetched_once_and_checked_each_time() {
    let scene = Scene::open().await;
    let path = "/-/npm/v1/attestations/left-pad@1.0.0";
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(1)));
    scene.registry.answer(path, Reply::json(r#"{"attestations":[]}"#));
    for hours_later in [0, 1, 200] {
        scene.advance(hours(hours_later));
        assert_eq!(scene.get(path).await.is(200).json(), json!({ "attestations": [] }));
    }
    assert_eq!(scene.registry.count(path), 1);
    // A hidden version has no attestations, even if they are cached.
    scene.registry.edit("left-pad", |packument| {
        packument["versions"]["1.0.0"]["dist"]["integrity"] = json!(sha512(b"other bytes"));
    });
    scene.advance(hours(1));
    scene.get(path).await.is(404);
    assert_eq!(scene.registry.count(path), 1);
}

#[tokio::test]
async fn attestations_are_cached_per_token_and_absence_briefly() {
    let scene = Scene::open().await;
    let path = "/-/npm/v1/attestations/@acme/secret@1.0.0";
    scene.publish(Package::new("@acme/secret", "1.0.0").readable_with("alice,bob"));
    scene.registry.answer(path, Reply::error(404, "none"));
    for _ in 0..3 {
        scene.get(path).token("alice").await.is(404);
    }
    assert_eq!(scene.registry.count(path), 1);
    scene.registry.answer(path, Reply::json(r#"{"attestations":[]}"#));
    scene.advance(minutes(2));
    for _ in 0..3 {
        scene.get(path).token("alice").await.is(200);
        scene.get(path).token("bob").await.is(200);
        scene.get(path).await.is(404);
    }
    assert_eq!(scene.registry.count(path), 3, "once per token with access, and once for the 404");
    // A response of a proxy in front of the registry is passed on and not cached.
    scene.publish_old("left-pad", &["1.0.0"]);
    let path = "/-/npm/v1/attestations/left-pad@1.0.0";
    scene.registry.answer(path, Reply::ok("<html>").header("content-type", "text/html"));
    scene.get(path).await.is(200);
    scene.get(path).await.is(200);
    assert_eq!(scene.registry.count(path), 2);
}

#[tokio::test]
async fn absent_name_or_unconventional_path_does_not_disable_early_requests() {
    // No minimum age, because the age of a package that was absent at first counts from its appearance.
    let scene = Scene::open().set("min-release-age", "0s").await;
    let paths = ["/one/-/one-1.0.0.tgz", "/two/-/two-1.0.0.tgz", "/late/-/late-1.0.0.tgz", "/last/-/last-1.0.0.tgz"];
    scene.registry.absent("late");
    scene.get("/late").await.is(404);
    scene.publish_old("one", &["1.0.0"]);
    scene.publish_old("two", &["1.0.0"]);
    scene.get(paths[0]).await.is(200);
    scene.get(paths[1]).await.is(200);
    scene.publish(Package::new("odd", "1.0.0").at_path("/files/odd.tgz"));
    scene.get("/odd/-/odd-1.0.0.tgz").await.is(200);
    scene.advance(minutes(2));
    for (name, path) in [("late", paths[2]), ("last", paths[3])] {
        scene.publish_old(name, &["1.0.0"]);
        let gate = scene.registry.hold(&format!("/{name}"));
        let pending = scene.get(path).start();
        scene.registry.wait_for_requests(path, 1).await;
        gate.open();
        pending.await.unwrap().is(200);
        assert_eq!(scene.registry.count(path), 1);
    }
}
