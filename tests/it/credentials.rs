//! A response fetched with one set of credentials is never served to another.

use crate::fake_response::Reply;
use crate::harness::Scene;
use crate::package::{Package, days, hours};

const TARBALL: &str = "/@acme/secret/-/secret-1.0.0.tgz";

async fn scene() -> Scene {
    let scene = Scene::open().await;
    scene.publish(Package::new("@acme/secret", "1.0.0").readable_with("alice"));
    scene
}

#[tokio::test]
async fn packument_of_one_token_is_not_served_to_another() {
    let scene = scene().await;
    assert_eq!(scene.get("/@acme%2fsecret").token("alice").await.versions(), ["1.0.0"]);
    for _ in 0..2 {
        scene.get("/@acme%2fsecret").token("mallory").await.is(404);
        scene.get("/@acme%2fsecret").await.is(404);
    }
    assert_eq!(scene.get("/@acme%2fsecret").token("alice").await.versions(), ["1.0.0"]);
}

#[tokio::test]
async fn cached_tarball_is_not_served_without_read_access() {
    let scene = scene().await;
    scene.get(TARBALL).token("alice").await.is(200);
    for ask in [scene.get(TARBALL).token("mallory"), scene.get(TARBALL)] {
        let answer = ask.await;
        assert!(matches!(answer.status, 401 | 403 | 404), "{}", answer.status);
    }
    scene.get(TARBALL).token("alice").await.is(200);
}

#[tokio::test]
async fn wrong_token_is_refused_on_every_path() {
    let scene = scene().await;
    scene.get("/@acme%2fsecret").token("alice").await.is(200);
    scene.get(TARBALL).token("alice").await.is(200);
    for path in
        ["/@acme%2fsecret", "/@acme%2fsecret/1.0.0", "/@acme%2fsecret/latest", "/-/package/@acme%2fsecret/dist-tags", TARBALL]
    {
        for ask in [scene.get(path).token("mallory"), scene.get(path), scene.get(path).abbreviated().gzip().token("mallory")] {
            let answer = ask.await;
            assert!(matches!(answer.status, 401 | 403 | 404), "{path}: {}", answer.status);
        }
    }
}

#[tokio::test]
async fn wrong_token_gets_no_304() {
    let scene = scene().await;
    let etag = scene.get("/@acme%2fsecret").token("alice").await.is(200).header("etag").to_owned();
    scene.get("/@acme%2fsecret").token("mallory").if_none_match(&etag).await.is(404);
}

#[tokio::test]
async fn fetch_is_not_shared_between_tokens() {
    let scene = scene().await;
    let gate = scene.registry.hold("/@acme/secret");
    let alice = scene.get("/@acme%2fsecret").token("alice").start();
    let mallory = scene.get("/@acme%2fsecret").token("mallory").start();
    scene.registry.wait_for_requests("/@acme/secret", 2).await;
    gate.open();
    alice.await.unwrap().is(200);
    mallory.await.unwrap().is(404);
}

#[tokio::test]
async fn revoked_token_loses_cached_responses() {
    let scene = scene().await;
    scene.get("/@acme%2fsecret").token("alice").await.is(200);
    scene.registry.answer("/@acme/secret", Reply::error(403, "your token was revoked"));
    scene.advance(crate::package::minutes(10));
    scene.get("/@acme%2fsecret").token("alice").await.is(403);
    scene.get(TARBALL).token("alice").await.is(403);
}

#[tokio::test]
async fn responses_vary_by_authorization() {
    let scene = scene().await;
    let answer = scene.get("/@acme%2fsecret").token("alice").await.is(200);
    assert!(answer.header("vary").to_ascii_lowercase().contains("authorization"), "{}", answer.header("vary"));
}

#[tokio::test]
async fn a_token_is_not_sent_to_another_host() {
    let scene = Scene::open().await;
    let elsewhere = crate::registry::Registry::on_other_host(&scene.clock).await;
    scene.registry.answer("/left-pad", Reply::redirect(302, &format!("{}/left-pad", elsewhere.url)));
    assert!(scene.get("/left-pad").token("alice").await.status >= 400);
    assert_eq!(elsewhere.total(), 0);
}

#[tokio::test]
async fn tokens_are_in_neither_metrics_nor_data_directory() {
    let mut scene = scene().await;
    scene.publish(Package::new("@acme/other", "1.0.0").readable_with("npm_s3cr3tT0ken"));
    scene.get("/@acme%2fother").token("npm_s3cr3tT0ken").await.is(200);
    scene.get("/@acme/other/-/other-1.0.0.tgz").token("npm_s3cr3tT0ken").await.is(200);
    assert!(!scene.get("/-/coldframe/metrics").await.text().contains("s3cr3t"));
    scene.coldframe.stop().await;
    let mut folders = vec![scene.data().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
                continue;
            }
            let bytes = std::fs::read(entry.path()).unwrap();
            let found = bytes.windows(6).any(|window| window == b"s3cr3t");
            assert!(!found, "{} holds the token", entry.path().display());
        }
    }
}

#[tokio::test]
async fn tokens_are_fetched_separately_and_share_one_history() {
    let mut scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.get("/left-pad").token("alice").await.is(200);
    let sent = scene.registry.count("/left-pad");
    scene.get("/left-pad").token("bob").await.is(200);
    assert_eq!(scene.registry.count("/left-pad"), sent + 1);
    scene.advance(hours(10));
    // The release claims to be 90 days old, but ten hours ago no client's packument contained it.
    scene.publish(Package::new("left-pad", "1.1.0").aged(days(90)));
    assert_eq!(scene.get("/left-pad").token("carol").await.versions(), ["1.0.0"]);
    scene.restart().await;
    assert_eq!(scene.get("/left-pad").token("dave").await.versions(), ["1.0.0"]);
    scene.get("/left-pad/-/left-pad-1.1.0.tgz").token("erin").await.is(403);
}
