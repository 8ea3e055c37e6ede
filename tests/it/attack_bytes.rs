//! Attacks on bytes and credentials of other clients: access that spreads between URLs, removed versions, redirects, and requests
//! that seem to confirm a writer.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::fake_response::Reply;
use crate::harness::Scene;
use crate::package::{Package, days, hours, minutes, sha512};
use crate::registry::Registry;

const SECRET: &str = "/@acme/secret/-/secret-1.0.0.tgz";
const SLY: &str = "/sly/-/sly-1.0.0.tgz";
const BAIT: &str = "/sly/-/sly-2.0.0.tgz";

/// A private package, and a public one whose `sly@1.0.0` states the URL and integrity of the private tarball.
async fn with_sly() -> (Scene, Vec<u8>) {
    let scene = Scene::open().await;
    let secret = Package::new("@acme/secret", "1.0.0").readable_with("alice");
    scene.publish(secret.clone());
    let stolen = Package::new("sly", "1.0.0").dist("integrity", sha512(&secret.tarball)).dist("shasum", Value::Null);
    scene.publish(stolen.at_url(&format!("{}{SECRET}", scene.registry.url)));
    scene.publish(Package::new("sly", "2.0.0"));
    (scene, secret.tarball)
}

#[tokio::test]
async fn public_package_gives_no_access_to_the_private_tarball_it_links_to() {
    let (scene, secret) = with_sly().await;
    assert_eq!(scene.get(SLY).token("alice").await.is(200).body, secret);
    // Both clients may read another tarball of the same package.
    scene.get(BAIT).await.is(200);
    scene.get(BAIT).token("mallory").await.is(200);
    for ask in [scene.get(SLY), scene.get(SLY).token("mallory"), scene.get(SLY).header("range", "bytes=0-9").token("mallory")] {
        let answer = ask.await;
        assert!(answer.status >= 400, "{}", answer.status);
    }
    assert_eq!(scene.get(SLY).token("alice").await.is(200).body, secret);
}

#[tokio::test]
async fn private_tarball_linked_by_another_package_stays_private_after_unpublish() {
    let (mut scene, secret) = with_sly().await;
    assert_eq!(scene.get(SLY).token("alice").await.is(200).body, secret);
    scene.get("/sly").await.is(200);
    scene.get("/sly").token("mallory").await.is(200);
    scene.advance(hours(1));
    scene.registry.unpublish("sly", "1.0.0");
    for _ in 0..2 {
        scene.get(BAIT).token("mallory").await.is(200);
        for ask in [scene.get(SLY), scene.get(SLY).token("mallory")] {
            assert!(ask.await.status >= 400);
        }
        scene.restart().await;
    }
}

#[tokio::test]
async fn tarball_downloaded_with_a_token_is_not_served_without_one() {
    let scene = Scene::open().await;
    // All clients may read the packument, but only one of the tarballs.
    scene.publish(Package::new("half", "1.0.0"));
    let paid = Package::new("half", "2.0.0");
    scene.publish(paid.clone());
    let path = paid.path();
    scene.get(&path).token("alice").await.is(200);
    scene.registry.answer(&path, Reply::error(401, "who are you?"));
    // It was downloaded with a token; Coldframe never requested it without one.
    scene.get("/half/-/half-1.0.0.tgz").await.is(200);
    let refused = scene.get(&path).await;
    assert!(refused.status >= 400 && refused.body != paid.tarball, "{}", refused.status);
}

#[tokio::test]
async fn unconventional_tarball_paths_are_authorized_one_by_one() {
    let scene = Scene::open().await;
    let versions = ["1.0.0", "1.1.0"];
    let own = |version: &str| format!("/api/v4/projects/7/packages/npm/@acme/ui/-/@acme/ui-{version}.tgz");
    let odd = |version: &str| format!("/files/{version}/ui.tgz");
    for version in versions {
        scene.publish(Package::new("@acme/ui", version).at_path(&own(version)).readable_with("job-*"));
        scene.publish(Package::new("@acme/odd", version).at_path(&odd(version)).readable_with("job-*"));
    }
    for job in ["job-1", "job-2", "job-3"] {
        for version in versions {
            scene.get(&format!("/@acme/ui/-/ui-{version}.tgz")).token(job).await.is(200);
            scene.get(&format!("/@acme/odd/-/odd-{version}.tgz")).token(job).await.is(200);
            scene.get(&format!("/@acme/odd/-/odd-{version}.tgz")).token(job).await.is(200);
        }
    }
    let count = |job: &str, prefix: &str| {
        let requests = scene.registry.requests();
        requests.iter().filter(|request| request.path.starts_with(prefix) && request.bearer() == Some(job)).count()
    };
    assert_eq!(["job-1", "job-2", "job-3"].map(|job| count(job, "/api/")), [2, 1, 1]);
    assert_eq!(["job-1", "job-2", "job-3"].map(|job| count(job, "/files/")), [2, 2, 2]);
}

#[tokio::test]
async fn configured_credentials_refused_by_upstream_get_nothing_in_an_outage() {
    let mut scene = Scene::open().await;
    let basic = format!("Basic {}", STANDARD.encode("me:pass"));
    let secret = Package::new("@acme/secret", "1.0.0").readable_with(&basic);
    scene.publish(secret);
    let url = scene.registry.url.replace("http://", "http://me:pass@");
    scene.restart_with("upstream", &url).await;
    scene.get(SECRET).await.is(200);
    scene.registry.answer(SECRET, Reply::error(403, "revoked"));
    scene.advance(minutes(10));
    scene.get(SECRET).await.is(403);
    scene.registry.go_down();
    for _ in 0..2 {
        assert!(scene.get(SECRET).await.status >= 400);
        scene.advance(minutes(1));
    }
}

#[tokio::test]
async fn removed_version_is_served_to_tokens_that_can_read_the_package() {
    let scene = Scene::open().await;
    for version in ["1.0.0", "2.0.0"] {
        scene.publish(Package::new("left-pad", version).aged(days(900)));
    }
    let path = "/left-pad/-/left-pad-1.0.0.tgz";
    let bytes = scene.get(path).await.is(200).body;
    scene.get("/left-pad").token("job-1").await.is(200);
    scene.advance(days(30));
    scene.get("/left-pad").await.is(200);
    scene.get("/left-pad").token("job-1").await.is(200);
    scene.advance(hours(1));
    scene.registry.unpublish("left-pad", "1.0.0");
    assert_eq!(scene.get(path).await.is(200).body, bytes);
    for job in ["job-1", "job-2"] {
        assert_eq!(scene.get(path).token(job).await.is(200).body, bytes);
    }
}

#[tokio::test]
async fn redirect_to_another_host_and_back_carries_no_credentials() {
    let scene = Scene::open().set("redirect-host", "127.0.0.2").await;
    let storage = Registry::on_other_host(&scene.clock).await;
    let secret = Package::new("@acme/secret", "1.0.0").readable_with("alice");
    scene.publish(secret.clone());
    storage.tamper("/blob.tgz", secret.tarball.clone());
    scene.registry.answer(SECRET, Reply::redirect(307, &format!("{}/blob.tgz", storage.url)));
    scene.get(SECRET).token("alice").await.is(200);
    // The storage host needs no credentials; the registry does.
    scene.registry.answer(SECRET, Reply::error(401, "who are you?"));
    for ask in [scene.get(SECRET), scene.get(SECRET).token("mallory")] {
        assert!(ask.await.status >= 400);
    }
    storage.answer("/blob.tgz", Reply::redirect(302, &format!("{}/stolen", scene.registry.url)));
    scene.registry.answer("/stolen", Reply::ok("x"));
    scene.registry.answer(SECRET, Reply::redirect(302, &format!("{}/blob.tgz", storage.url)));
    scene.advance(minutes(10));
    scene.get(SECRET).token("alice").await;
    assert!(storage.requests().iter().all(|request| request.bearer().is_none()));
    let returned = scene.registry.requests().into_iter().filter(|request| request.path == "/stolen");
    assert!(returned.into_iter().all(|request| request.headers.first("authorization").is_none()));
}

#[tokio::test]
async fn search_shows_nothing_that_only_another_token_may_read() {
    let scene = Scene::open().await;
    scene.publish(Package::new("@acme/secret", "1.2.3").readable_with("alice").aged(days(300)));
    scene.get("/@acme%2fsecret").token("alice").await.is(200);
    // The registry lists the name to all clients, with a version that the private packument does not contain.
    let listed = json!({ "name": "@acme/secret", "version": "0.0.1", "date": "2020-01-01T00:00:00Z" });
    scene.registry.answer("/-/v1/search", Reply::json(&json!({ "objects": [{ "package": listed }], "total": 1 }).to_string()));
    for ask in [scene.get("/-/v1/search?text=secret").token("mallory"), scene.get("/-/v1/search?text=secret")] {
        let answer = ask.await.is(200);
        assert!(!answer.text().contains("1.2.3") && answer.text().contains("0.0.1"), "{}", answer.text());
    }
    let answer = scene.get("/-/v1/search?text=secret").token("alice").await.is(200);
    assert!(answer.text().contains("1.2.3"), "{}", answer.text());
}

#[tokio::test]
async fn request_that_anyone_may_send_does_not_confirm_a_writer() {
    let scene = Scene::open().set("allow-writes", "true").await;
    for name in ["trust", "access", "collaborators"] {
        scene.publish_old(name, &["1.0.0"]);
        scene.publish(Package::new(name, "1.1.0").aged(hours(1)));
        let hidden = format!("/{name}?write=true");
        let star = format!("/-/package/{name}/star");
        scene.registry.answer(&star, Reply::json("{}"));
        scene.ask("PUT", &star).token("fan").json(&json!({})).await.is(200);
        scene.get(&hidden).token("fan").await.is(403);
        // A star with an attachment; registries treat it as a star.
        scene.registry.answer(&format!("/{name}"), Reply::json("{}"));
        let body = json!({ "_id": name, "users": { "fan": true }, "_attachments": { "x": {} } });
        scene.ask("PUT", &format!("/{name}")).token("fan").json(&body).await.is(200);
        scene.registry.clear_answer(&format!("/{name}"));
        scene.get(&hidden).token("fan").await.is(403);
    }
}

#[tokio::test]
async fn substituted_integrity_values_never_serve_other_bytes() {
    for (number, sri) in [
        // Two digests of one algorithm: npm accepts either.
        |good: &str, evil: &str| format!("{good} {evil}"),
        |good: &str, evil: &str| format!("{evil} {good}"),
        |good: &str, evil: &str| format!("{evil}?x {good}?y"),
        |_: &str, evil: &str| evil.to_owned(),
        |_: &str, evil: &str| format!("md5-AAAA {evil}"),
        |_: &str, _: &str| "sha512-AAAA".to_owned(),
        |_: &str, _: &str| "md5-AAAA".to_owned(),
    ]
    .into_iter()
    .enumerate()
    {
        let mut scene = Scene::open().await;
        let carrier = Package::new("carrier", "1.0.0").content("malice");
        let victim = Package::new("victim", "1.0.0");
        scene.publish(victim.clone());
        scene.publish(carrier.clone());
        scene.get("/carrier/-/carrier-1.0.0.tgz").await.is(200);
        scene.get("/victim").await.is(200);
        let integrity = sri(&sha512(&victim.tarball), &sha512(&carrier.tarball));
        scene.advance(hours(1));
        scene.registry.edit("victim", move |packument| {
            packument["versions"]["1.0.0"]["dist"] = json!({
                "tarball": packument["versions"]["1.0.0"]["dist"]["tarball"], "integrity": integrity,
            });
        });
        for restart in [false, true] {
            if restart {
                scene.restart().await;
            }
            scene.registry.tamper("/victim/-/victim-1.0.0.tgz", carrier.tarball.clone());
            let answer = scene.get("/victim/-/victim-1.0.0.tgz").await;
            assert!(answer.status >= 400 && answer.body != carrier.tarball, "{number}: {}", answer.status);
            scene.get("/victim").await.is(403);
        }
    }
}

#[tokio::test]
async fn only_changes_that_affect_installs_hold_an_old_version() {
    type Edit = fn(&mut Value);
    let changes: [(&str, Edit); 9] = [
        ("dependencies", |manifest| manifest["dependencies"]["honest"] = json!("npm:evil@1.0.0")),
        ("fewer dependencies", |manifest| manifest["dependencies"] = json!({})),
        ("optional", |manifest| manifest["optionalDependencies"] = json!({ "evil": "1.0.0" })),
        ("peers", |manifest| manifest["peerDependencies"] = json!({ "evil": "*" })),
        ("bin", |manifest| manifest["bin"] = json!({ "npm": "index.js" })),
        ("bin as text", |manifest| manifest["bin"] = json!("index.js")),
        ("scripts", |manifest| manifest["scripts"] = json!({ "postinstall": "node index.js" })),
        ("preinstall", |manifest| manifest["scripts"] = json!({ "preinstall": "node index.js" })),
        ("install script", |manifest| manifest["hasInstallScript"] = json!(true)),
    ];
    let honest: [(&str, Edit); 6] = [
        ("deprecated", |manifest| manifest["deprecated"] = json!("use another")),
        ("empty", |manifest| manifest["peerDependencies"] = json!({})),
        ("signatures", |manifest| manifest["dist"]["signatures"] = json!([{ "keyid": "x", "sig": "y" }])),
        ("size", |manifest| manifest["dist"]["unpackedSize"] = json!(7)),
        ("development", |manifest| manifest["devDependencies"] = json!({ "tape": "5" })),
        ("people", |manifest| manifest["maintainers"] = json!([{ "name": "new" }])),
    ];
    let all = changes.iter().map(|change| (change, true)).chain(honest.iter().map(|change| (change, false)));
    let mut scene = Scene::open().await;
    for (number, (&(what, edit), holds)) in all.enumerate() {
        let name = format!("old-{number}");
        scene.publish(Package::new(&name, "1.0.0").aged(days(900)).depends_on("honest", "1.0.0"));
        let path = format!("/{name}/-/{name}-1.0.0.tgz");
        scene.get(&path).await.is(200);
        scene.advance(hours(1));
        scene.registry.edit(&name, move |packument| edit(&mut packument["versions"]["1.0.0"]));
        let expected = if holds { 403 } else { 200 };
        for ask in [
            scene.get(&path),
            scene.get(&format!("/{name}")),
            scene.get(&format!("/{name}")).abbreviated(),
            scene.get(&format!("/{name}/1.0.0")),
        ] {
            assert_eq!(ask.await.status, expected, "{what}");
        }
    }
    scene.restart().await;
    scene.registry.go_down();
    for number in 0..changes.len() {
        scene.get(&format!("/old-{number}/-/old-{number}-1.0.0.tgz")).await.is(403);
    }
    scene.get("/old-9/-/old-9-1.0.0.tgz").await.is(200);
}

#[tokio::test]
async fn concurrent_clients_get_only_what_their_token_may_read() {
    let (scene, secret) = with_sly().await;
    let gate = scene.registry.hold(SECRET);
    let alice = [scene.get(SLY).token("alice").start(), scene.get(SLY).token("alice").start()];
    let others = [scene.get(SLY).token("mallory").start(), scene.get(SLY).start()];
    scene.registry.wait_for_requests(SECRET, 3).await;
    gate.open();
    for answer in alice {
        assert_eq!(answer.await.unwrap().is(200).body, secret);
    }
    for answer in others {
        let answer = answer.await.unwrap();
        assert!(answer.status >= 400 && answer.body != secret, "{}", answer.status);
    }
}

#[tokio::test]
async fn forwarded_client_gets_nothing_fetched_with_configured_credentials() {
    let mut scene = Scene::open().await;
    let basic = format!("Basic {}", STANDARD.encode("me:pass"));
    let secret = Package::new("@acme/secret", "1.0.0").readable_with(&basic);
    scene.publish(secret.clone());
    let url = scene.registry.url.replace("http://", "http://me:pass@");
    scene.restart_with("upstream", &url).await;
    let strangers = |scene: &Scene, path: &str| {
        [
            scene.get(path).header("x-forwarded-for", "10.0.0.1"),
            scene.get(path).header("via", "1.1 proxy"),
            scene.get(path).header("forwarded", "for=10.0.0.1").token("mallory"),
        ]
    };
    for is_down in [false, true] {
        if is_down {
            scene.registry.go_down();
        }
        assert_eq!(scene.get(SECRET).await.is(200).body, secret.tarball);
        for path in [SECRET, "/@acme%2fsecret", "/@acme%2fsecret/1.0.0", "/-/package/@acme%2fsecret/dist-tags"] {
            for stranger in strangers(&scene, path) {
                let answer = stranger.await;
                assert!(answer.status >= 400 && answer.body != secret.tarball, "{path} {}", answer.status);
            }
        }
        scene.restart().await;
    }
}

#[tokio::test]
async fn token_does_not_bypass_the_hold_on_a_changed_version() {
    for is_token_first in [false, true] {
        let mut scene = Scene::open().await;
        scene.publish(Package::new("left-pad", "1.0.0").aged(days(900)));
        scene.publish(Package::new("left-pad", "0.9.0").aged(days(300)).untagged());
        scene.publish_old("evil", &["1.0.0"]);
        let path = "/left-pad/-/left-pad-1.0.0.tgz";
        let first = if is_token_first { scene.get(path).token("job-1") } else { scene.get(path) };
        first.await.is(200);
        scene.advance(hours(1));
        scene.registry.edit("left-pad", |packument| {
            packument["versions"]["1.0.0"]["dependencies"] = json!({ "evil": "1.0.0" });
        });
        for _ in 0..2 {
            for ask in [
                scene.get("/left-pad").token("made-up"),
                scene.get("/left-pad").token("made-up").abbreviated(),
                scene.get("/left-pad"),
                scene.get("/left-pad").token("another"),
            ] {
                assert_eq!(ask.await.is(200).versions(), ["0.9.0"], "token first: {is_token_first}");
            }
            scene.get(path).token("made-up").await.is(403);
            scene.get(path).await.is(403);
            scene.restart().await;
        }
        // The changed manifest is old enough then, but its tarball contradicts it.
        scene.advance(hours(73));
        for refused in [scene.get(path), scene.get(path).token("made-up")] {
            let error = refused.await.is(403).error();
            assert!(error.contains("rule tarball-findings"), "{error}");
        }
        scene.advance(days(12));
        scene.get(path).await.is(200);
        scene.get(path).token("made-up").await.is(200);
    }
}

#[tokio::test]
async fn token_does_not_bypass_integrity_checks_of_another_view() {
    for (is_downloaded, is_token_first) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut scene = Scene::open().await;
        let victim = Package::new("victim", "1.0.0").dist("integrity", Value::Null);
        let carrier = Package::new("carrier", "1.0.0").content("malice");
        scene.publish(victim.clone());
        scene.publish(carrier.clone());
        let path = victim.path();
        let with = |is_token: bool, path: &str| if is_token { scene.get(path).token("made-up") } else { scene.get(path) };
        with(is_token_first, if is_downloaded { &path } else { "/victim" }).await.is(200);
        scene.get("/carrier/-/carrier-1.0.0.tgz").await.is(200);
        scene.advance(hours(1));
        // The new statement shares no digest with the old one.
        let other = sha512(&carrier.tarball);
        scene.registry.edit("victim", move |packument| {
            let dist = &mut packument["versions"]["1.0.0"]["dist"];
            dist["shasum"] = Value::Null;
            dist["integrity"] = json!(other);
        });
        scene.registry.tamper(&path, carrier.tarball.clone());
        for _ in 0..2 {
            for is_token in [!is_token_first, is_token_first] {
                let ask = if is_token { scene.get(&path).token("made-up") } else { scene.get(&path) };
                let answer = ask.await;
                assert!(answer.status == 403 && answer.body != carrier.tarball, "{is_downloaded} {is_token_first} {is_token}");
            }
            scene.restart().await;
        }
    }
}
