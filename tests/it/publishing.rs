//! Publishing through Coldframe: if writes are allowed, all requests of publishing tools pass and new versions are visible at
//! once. Hidden versions are shown only to clients that may write them.

use coldframe::store::SqliteLedger;
use jiff::Timestamp;
use serde_json::json;

use crate::fake_response::Reply;
use crate::harness::{Opening, Scene};
use crate::package::{Package, hours, minutes};
use crate::process::{Program, machine_clock};
use crate::registry::Registry;

/// Writes that npm 11 and 12 send, and some that no known tool sends.
const WRITES: &[(&str, &str)] = &[
    ("POST", "/-/npm/v1/oidc/token/exchange/package/@acme%2fui"),
    ("POST", "/-/npm/v1/oidc/token/exchange/package/ui"),
    ("POST", "/-/stage/package/@acme%2fui"),
    ("POST", "/-/stage/0b1e/approve"),
    ("DELETE", "/-/stage/0b1e"),
    ("PATCH", "/-/npm/v1/tokens/abc"),
    ("PUT", "/-/not/known/yet"),
    ("POST", "/-/package/@acme%2fui/something"),
    ("DELETE", "/-/not/known/yet"),
];

fn writing() -> Opening {
    Scene::open().set("allow-writes", "true")
}

#[tokio::test]
async fn writes_are_refused_with_the_name_of_the_setting() {
    let scene = Scene::open().await;
    for (method, path) in WRITES {
        let refused = scene.ask(method, path).token("mine").json(&json!({})).await.is(403);
        assert!(refused.error().contains("allow-writes") && refused.reason.contains("allow-writes"), "{method} {path}");
    }
    assert_eq!(scene.registry.total(), 0);
}

#[tokio::test]
async fn trusted_and_staged_publishing_pass_with_the_clients_own_credentials() {
    let scene = writing().await;
    for (method, path) in WRITES {
        let decoded = percent_encoding::percent_decode_str(path).decode_utf8().unwrap().into_owned();
        scene.registry.answer(&decoded, Reply::json(r#"{"token":"npm_short"}"#));
        let answer = scene.ask(method, path).token("identity").json(&json!({ "a": 1 })).await.is(200);
        assert_eq!(answer.header("cache-control"), "no-store");
        let sent = scene.registry.last(&decoded);
        assert_eq!((sent.method.as_str(), sent.bearer(), sent.body.as_slice()), (*method, Some("identity"), &b"{\"a\":1}"[..]));
        // The machine's own credentials are not added.
        scene.ask(method, path).json(&json!({})).await;
        assert_eq!(scene.registry.last(&decoded).bearer(), None);
    }
    scene.registry.answer("/-/stage", Reply::json(r#"{"items":[]}"#));
    scene.get("/-/stage?package=ui&page=0").token("mine").await.is(200);
    assert_eq!(scene.registry.last("/-/stage").bearer(), Some("mine"));
    // A staged tarball has no verdict, so it is not served.
    scene.get("/-/stage/0b1e/tarball").token("mine").await.is(404);
}

#[tokio::test]
async fn a_publish_clears_cached_404s_for_all_clients() {
    let scene = writing().await;
    scene.registry.absent("fresh");
    for _ in 0..2 {
        scene.get("/fresh").await.is(404);
        scene.get("/fresh").token("publisher").await.is(404);
        scene.get("/fresh").token("other").await.is(404);
    }
    let fetches = scene.registry.count("/fresh");
    assert_eq!(fetches, 3, "a 404 is cached");
    scene.registry.answer("/fresh", Reply::json("{}"));
    scene.ask("PUT", "/fresh").token("publisher").json(&json!({})).await.is(200);
    scene.registry.clear_answer("/fresh");
    // Age zero, because an older publish time would contradict the cached 404s and cause more fetches.
    scene.publish(Package::new("fresh", "1.0.0").aged(hours(0)));
    for answer in
        [scene.get("/fresh").token("publisher").await, scene.get("/fresh").await, scene.get("/fresh").token("other").await]
    {
        assert_ne!(answer.status, 404, "{}", answer.text());
    }
    assert_eq!(scene.registry.count("/fresh"), fetches + 1 + 3);
}

#[tokio::test]
async fn a_request_after_a_publish_does_not_join_an_earlier_fetch() {
    let scene = writing().await;
    scene.registry.absent("fresh");
    let gate = scene.registry.hold("/fresh");
    let early = scene.get("/fresh").start();
    scene.registry.wait_for_requests("/fresh", 1).await;
    scene.registry.answer("/-/package/fresh/dist-tags/next", Reply::json("{}"));
    scene.ask("PUT", "/-/package/fresh/dist-tags/next").token("publisher").body("\"1.0.0\"").await.is(200);
    let late = scene.get("/fresh").start();
    scene.registry.wait_for_requests("/fresh", 2).await;
    gate.open();
    early.await.unwrap().is(404);
    late.await.unwrap().is(404);
}

#[tokio::test]
async fn a_refused_write_causes_no_fetch() {
    let scene = writing().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.get("/left-pad").await.is(200);
    scene.registry.answer("/-/package/left-pad/dist-tags/next", Reply::error(401, "who are you?"));
    for _ in 0..5 {
        scene.ask("PUT", "/-/package/left-pad/dist-tags/next").token("made-up").body("\"1.0.0\"").await.is(401);
        scene.get("/left-pad").await.is(200);
    }
    assert_eq!(scene.registry.count("/left-pad"), 1);
}

/// Opens a scene with an old and a hidden version of left-pad.
async fn with_hidden() -> Scene {
    let scene = writing().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(1)));
    scene
}

/// Moves a dist-tag through Coldframe; upstream accepts it.
async fn move_tag(scene: &Scene, name: &str, token: &str) {
    let path = format!("/-/package/{name}/dist-tags/next");
    scene.registry.answer(&path, Reply::json("{}"));
    scene.ask("PUT", &path).token(token).body("\"1.0.0\"").await.is(200);
}

#[track_caller]
fn assert_hidden(answer: &crate::raw_http::Response) {
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert!(!answer.text().contains("1.1.0") && !answer.text().contains("tarball"), "{}", answer.text());
}

#[tokio::test]
async fn an_unconfirmed_token_does_not_get_the_unfiltered_packument() {
    let scene = with_hidden().await;
    for path in ["/left-pad?write=true", "/left-pad/?write=true", "/left%2dpad?a=b&write=true"] {
        assert_hidden(&scene.get(path).token("made-up").await);
    }
    scene.get("/left-pad?write=true").await.is(401);
    // The token belongs to an account that may only read the package.
    let collaborators = "/-/package/left-pad/collaborators";
    for collaborators_json in
        [r#"{"reader":"read-only","owner":"read-write"}"#, r#"{"reader":"read"}"#, "{}", "[]", r#"{"":"read-write"}"#]
    {
        scene.registry.answer(collaborators, Reply::json(collaborators_json));
        scene.advance(minutes(1));
        assert_hidden(&scene.get("/left-pad?write=true").token("reader").await);
    }
    // Upstream accepted a write that needs no permission, and a write to another package.
    scene.registry.answer("/left-pad", Reply::json("{}"));
    scene.ask("PUT", "/left-pad").token("fan").json(&json!({ "_id": "left-pad", "users": { "fan": true } })).await.is(200);
    scene.registry.clear_answer("/left-pad");
    assert_hidden(&scene.get("/left-pad?write=true").token("fan").await);
    move_tag(&scene, "other", "owner-of-other").await;
    assert_hidden(&scene.get("/left-pad?write=true").token("owner-of-other").await);
    // Upstream refused the write.
    scene.registry.answer("/-/package/left-pad/dist-tags/next", Reply::error(403, "no"));
    scene.ask("PUT", "/-/package/left-pad/dist-tags/next").token("refused").body("\"1.0.0\"").await.is(403);
    assert_hidden(&scene.get("/left-pad?write=true").token("refused").await);
}

#[tokio::test]
async fn an_accepted_write_unlocks_the_unfiltered_packument_for_an_hour() {
    let mut scene = with_hidden().await;
    move_tag(&scene, "left-pad", "owner").await;
    let whole = scene.get("/left-pad?write=true").token("owner").await.is(200);
    assert_eq!(whole.versions(), ["1.0.0", "1.1.0"]);
    assert_eq!(whole.header("cache-control"), "no-store");
    assert!(!whole.text().contains(&scene.registry.url), "upstream URLs: {}", whole.text());
    assert!(whole.text().contains(&format!("{}/left-pad/-/left-pad-1.1.0.tgz", scene.coldframe.url())));
    // Other clients and ordinary requests get the filtered packument.
    assert_eq!(scene.get("/left-pad").token("owner").await.versions(), ["1.0.0"]);
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    assert_hidden(&scene.get("/left-pad?write=true").token("made-up").await);
    scene.get("/left-pad/-/left-pad-1.1.0.tgz").token("owner").await.is(403);
    scene.advance(minutes(59));
    scene.get("/left-pad?write=true").token("owner").await.is(200);
    scene.advance(minutes(2));
    assert_hidden(&scene.get("/left-pad?write=true").token("owner").await);
    scene.coldframe.stop().await;
    let ledger = SqliteLedger::read_only(scene.data()).unwrap();
    let events = ledger.events(Timestamp::UNIX_EPOCH).unwrap();
    let shown = events.iter().filter(|event| event.kind == "unfiltered_packument");
    assert_eq!(shown.map(|event| event.times).sum::<u64>(), 2);
}

#[tokio::test]
async fn a_collaborator_gets_the_unfiltered_packument_and_writes_it_back_with_upstream_urls() {
    let scene = with_hidden().await;
    scene.registry.answer("/-/package/left-pad/collaborators", Reply::json(r#"{"owner":"read-write"}"#));
    let mut packument = scene.get("/left-pad?write=true").token("owner").await.is(200).json();
    packument["versions"]["1.1.0"]["deprecated"] = "broken".into();
    scene.registry.answer("/left-pad", Reply::json("{}"));
    scene.ask("PUT", "/left-pad").token("owner").json(&packument).await.is(200);
    let sent: serde_json::Value = serde_json::from_slice(&scene.registry.last("/left-pad").body).unwrap();
    let url = &sent["versions"]["1.1.0"]["dist"]["tarball"];
    assert_eq!(*url, format!("{}/left-pad/-/left-pad-1.1.0.tgz", scene.registry.url));
    assert_eq!(sent["versions"]["1.1.0"]["deprecated"], "broken");
}

#[tokio::test]
async fn a_packument_that_hides_nothing_needs_no_confirmation() {
    let scene = writing().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    let whole = scene.get("/left-pad?write=true").token("fan").await.is(200);
    assert_eq!(whole.versions(), ["1.0.0"]);
    assert!(!whole.text().contains(&scene.registry.url), "{}", whole.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_401_or_403_is_not_counted_as_a_failure() {
    let (home, data, registry) =
        (tempfile::TempDir::new().unwrap(), tempfile::TempDir::new().unwrap(), Registry::start(&machine_clock()).await);
    registry.publish(Package::new("@acme/secret", "1.0.0").readable_with("alice"));
    registry.answer("/denied", Reply::error(401, "who are you?"));
    registry.answer("/forbidden", Reply::error(403, "not you"));
    let package = Package::new("ui", "1.0.0");
    let tarball = package.path();
    registry.publish(package);
    registry.answer(&tarball, Reply::error(401, "who are you?"));
    let program = Program::serve(home.path(), data.path(), &registry.url, &[]);
    program.get("/@acme%2fsecret").await.is(404);
    program.get("/denied").await.is(401);
    program.get("/forbidden").token("mallory").await.is(403);
    program.get("/ui").await.is(200);
    program.get(&tarball).await.is(401);
    let metrics = program.get("/-/coldframe/metrics").await.is(200).text();
    let failed =
        metrics.lines().filter(|line| line.starts_with("coldframe_upstream_requests_total") && line.contains("\"failed\""));
    assert!(failed.into_iter().all(|line| line.ends_with(" 0")), "{metrics}");
    program.signal("-TERM");
    let (_, errors) = program.wait_for_exit().await;
    assert!(!errors.contains("upstream failed"), "{errors}");
}
