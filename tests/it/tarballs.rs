//! Tarballs: verdict first, verified whole before the first byte is sent, cached, and the same for HEAD, ranges and conditions.

use crate::fake_response::Reply;
use crate::harness::Scene;
use crate::package::{Package, hours};
use crate::registry::Registry;

const TARBALL: &str = "/left-pad/-/left-pad-1.1.0.tgz";

async fn scene() -> (Scene, Vec<u8>) {
    let scene = Scene::open().await;
    let package = Package::new("left-pad", "1.1.0").sized(100_000);
    let bytes = package.tarball.clone();
    scene.publish(package);
    (scene, bytes)
}

#[tokio::test]
async fn tarball_is_fetched_once_and_then_served_from_cache() {
    let (scene, bytes) = scene().await;
    for _ in 0..3 {
        let answer = scene.get(TARBALL).await.is(200);
        assert_eq!(answer.body, bytes);
        assert_eq!(answer.header("content-type"), "application/octet-stream");
        assert_eq!(answer.header("content-length"), bytes.len().to_string());
        assert_eq!(answer.header("content-encoding"), "");
    }
    assert_eq!(scene.registry.count(TARBALL), 1);
}

#[tokio::test]
async fn cold_tarball_needs_no_packument_request_from_the_client() {
    let (scene, bytes) = scene().await;
    assert_eq!(scene.get(TARBALL).await.is(200).body, bytes);
    assert_eq!(scene.registry.count("/left-pad"), 1, "the verdict needs the packument");
}

#[tokio::test]
async fn tarball_response_is_not_cacheable_without_revalidation() {
    let (scene, _) = scene().await;
    let control = scene.get(TARBALL).await.is(200).header("cache-control").to_owned();
    assert!(!control.contains("immutable") && !control.contains("31557600"), "{control}");
}

#[tokio::test]
async fn head_is_checked_against_policy_and_has_no_body() {
    let (scene, bytes) = scene().await;
    let head = scene.ask("HEAD", TARBALL).await.is(200);
    assert_eq!(head.header("content-length"), bytes.len().to_string());
    assert!(head.body.is_empty());
    scene.publish(Package::new("young", "1.0.0").aged(hours(1)));
    scene.get("/young").await.is(403);
    scene.ask("HEAD", "/young/-/young-1.0.0.tgz").await.is(403);
    assert_eq!(scene.registry.count("/young/-/young-1.0.0.tgz"), 0, "a refused tarball must not be fetched");
}

#[tokio::test]
async fn range_is_served_from_the_verified_blob() {
    let (scene, bytes) = scene().await;
    let total = bytes.len();
    for (range, expected) in [
        ("bytes=0-99".to_owned(), 0..100),
        ("bytes=100-".to_owned(), 100..total),
        ("bytes=-50".to_owned(), total - 50..total),
        (format!("bytes=10-{}", total * 2), 10..total),
    ] {
        let part = scene.get(TARBALL).header("range", &range).await.is(206);
        assert_eq!(part.header("content-range"), format!("bytes {}-{}/{total}", expected.start, expected.end - 1));
        assert_eq!(part.body, bytes[expected]);
    }
    let past = scene.get(TARBALL).header("range", &format!("bytes={total}-")).await.is(416);
    assert_eq!(past.header("content-range"), format!("bytes */{total}"));
    assert_eq!(scene.get(TARBALL).header("range", "bytes=nonsense").await.is(200).body, bytes);
    assert_eq!(scene.registry.count(TARBALL), 1);
}

#[tokio::test]
async fn if_range_with_another_etag_gets_the_whole_tarball() {
    let (scene, bytes) = scene().await;
    let etag = scene.get(TARBALL).await.is(200).header("etag").to_owned();
    assert!(etag.starts_with('"'), "{etag}");
    scene.get(TARBALL).header("range", "bytes=0-9").header("if-range", &etag).await.is(206);
    let whole = scene.get(TARBALL).header("range", "bytes=0-9").header("if-range", "\"other\"").await.is(200);
    assert_eq!(whole.body, bytes);
}

#[tokio::test]
async fn conditional_request_gets_304_only_while_the_version_is_allowed() {
    let (scene, _) = scene().await;
    let etag = scene.get(TARBALL).await.is(200).header("etag").to_owned();
    scene.get(TARBALL).if_none_match(&etag).await.is(304);
    scene.advance(hours(1));
    scene.publish(Package::new("left-pad", "1.1.0").content("other bytes"));
    scene.get(TARBALL).if_none_match(&etag).await.is(403);
}

#[tokio::test]
async fn no_byte_is_sent_before_the_whole_tarball_is_verified() {
    let (scene, bytes) = scene().await;
    let gate = scene.registry.hold_body(TARBALL, bytes.len() - 1);
    let asking = scene.get(TARBALL).start();
    scene.registry.wait_for_requests(TARBALL, 1).await;
    let mut probe = tokio::net::TcpStream::connect(scene.coldframe.address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut probe, format!("GET {TARBALL} HTTP/1.1\r\nhost: here\r\n\r\n").as_bytes())
        .await
        .unwrap();
    // A round trip on another connection gives early bytes time to arrive.
    scene.get("/-/coldframe/healthz").await.is(200);
    let mut early = [0_u8; 1];
    assert!(probe.try_read(&mut early).is_err(), "a byte was sent before verification");
    assert!(!asking.is_finished());
    gate.open();
    assert_eq!(asking.await.unwrap().is(200).body, bytes);
}

#[tokio::test]
async fn tarball_on_another_host_is_refused_on_request() {
    let scene = Scene::open().await;
    let other = Registry::on_other_host(&scene.clock).await;
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.publish(Package::new("left-pad", "1.1.0").at_url(&format!("{}{TARBALL}", other.url)));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0"]);
    let refused = scene.get(TARBALL).await.is(403);
    assert!(refused.error().contains("tarball-host"), "{}", refused.error());
    assert_eq!(other.total(), 0);
}

#[tokio::test]
async fn tarball_on_an_allowed_host_is_fetched_without_credentials() {
    let scene = Scene::open().set("tarball-host", "127.0.0.2").await;
    let other = Registry::on_other_host(&scene.clock).await;
    let package = Package::new("left-pad", "1.1.0").at_url(&format!("{}{TARBALL}", other.url));
    other.publish(Package::new("left-pad", "1.1.0"));
    scene.publish(package);
    scene.get(TARBALL).token("secret").await.is(200);
    assert_eq!(other.last(TARBALL).headers.first("authorization"), None);
}

#[tokio::test]
async fn tarball_url_with_another_scheme_is_refused() {
    let scene = Scene::open().await;
    for (number, url) in ["file:///etc/passwd", "ftp://registry.example/a.tgz", "not a url", ""].iter().enumerate() {
        let version = format!("1.{number}.0");
        scene.publish(Package::new("left-pad", &version).at_url(url));
        let answer = scene.get(&format!("/left-pad/-/left-pad-{version}.tgz")).await;
        assert!((400..500).contains(&answer.status), "{url}: {}", answer.status);
    }
}

#[tokio::test]
async fn redirect_on_the_same_host_is_followed() {
    let (scene, bytes) = scene().await;
    scene.registry.answer(TARBALL, Reply::redirect(302, "/storage/blob"));
    scene.registry.answer("/storage/blob", Reply::ok(bytes.clone()));
    assert_eq!(scene.get(TARBALL).await.is(200).body, bytes);
}

#[tokio::test]
async fn redirect_to_another_host_is_not_followed() {
    let (scene, bytes) = scene().await;
    let other = Registry::on_other_host(&scene.clock).await;
    other.answer("/blob", Reply::ok(bytes));
    scene.registry.answer(TARBALL, Reply::redirect(302, &format!("{}/blob", other.url)));
    let refused = scene.get(TARBALL).await;
    assert!(refused.status >= 400, "{}", refused.status);
    assert!(refused.error().contains("redirect"), "{}", refused.error());
    assert_eq!(other.total(), 0);
}

#[tokio::test]
async fn redirect_loop_is_cut_off() {
    let (scene, _) = scene().await;
    scene.registry.answer(TARBALL, Reply::redirect(302, TARBALL));
    assert!(scene.get(TARBALL).await.status >= 400);
    assert!(scene.registry.count(TARBALL) < 30);
}

#[tokio::test]
async fn tarball_over_the_limit_is_refused() {
    let scene = Scene::open().set("tarball-limit", "50KB").await;
    scene.publish(Package::new("left-pad", "1.1.0").sized(100_000));
    let before = scene.get("/left-pad").await.is(200);
    assert_eq!(before.versions(), ["1.1.0"]);
    let answer = scene.get(TARBALL).await;
    assert!(answer.status >= 400 && answer.error().contains("50000"), "{} {}", answer.status, answer.text());
}

#[tokio::test]
async fn cache_has_a_size_limit_and_evicts_least_recently_used() {
    let scene = Scene::open().set("cache-size", "1MB").await;
    for number in 0..10 {
        let name = format!("pad-{number}");
        scene.publish(Package::new(&name, "1.0.0").sized(300_000));
        scene.get(&format!("/{name}/-/{name}-1.0.0.tgz")).await.is(200);
    }
    let bytes: u64 =
        scene.stored_files().await.iter().filter_map(|file| std::fs::metadata(file).ok()).map(|file| file.len()).sum();
    assert!(bytes <= 1_600_000, "{bytes} bytes are stored");
    scene.get("/pad-9/-/pad-9-1.0.0.tgz").await.is(200);
    assert_eq!(scene.registry.count("/pad-9/-/pad-9-1.0.0.tgz"), 1, "the newest must be cached");
    scene.get("/pad-0/-/pad-0-1.0.0.tgz").await.is(200);
    assert_eq!(scene.registry.count("/pad-0/-/pad-0-1.0.0.tgz"), 2, "the oldest must be evicted and fetched again");
}

#[tokio::test]
async fn every_spelling_of_a_scoped_tarball_is_the_same_tarball() {
    let scene = Scene::open().await;
    let package = Package::new("@acme/ui", "1.0.0");
    let bytes = package.tarball.clone();
    scene.publish(package);
    for path in
        ["/@acme/ui/-/ui-1.0.0.tgz", "/@acme%2fui/-/ui-1.0.0.tgz", "/@acme%2Fui/-/ui-1.0.0.tgz", "/%40acme%2fui/-/ui-1.0.0.tgz"]
    {
        assert_eq!(scene.get(path).await.is(200).body, bytes, "{path}");
    }
    scene.publish(Package::new("@acme/young", "1.0.0").aged(hours(1)));
    scene.registry.absent("acme");
    for path in ["/@acme/young/-/young-1.0.0.tgz", "/@acme%2fyoung/-/young-1.0.0.tgz", "/%40acme%2Fyoung/-/young-1.0.0.tgz"] {
        scene.get(path).await.is(403);
    }
}

#[tokio::test]
async fn redirect_to_a_configured_host_is_followed_without_credentials() {
    let scene = Scene::open().set("redirect-host", "127.0.0.2").await;
    let other = Registry::on_other_host(&scene.clock).await;
    let package = Package::new("left-pad", "1.1.0");
    other.answer("/blob", Reply::ok(package.tarball.clone()));
    scene.publish(package);
    scene.registry.answer(TARBALL, Reply::redirect(302, &format!("{}/blob", other.url)));
    scene.get(TARBALL).token("secret").await.is(200);
    assert_eq!(scene.registry.last(TARBALL).bearer(), Some("secret"));
    assert_eq!(other.last("/blob").headers.first("authorization"), None);
}

#[tokio::test]
async fn redirect_to_a_host_allowed_by_pattern_needs_a_public_address() {
    let scene = Scene::open().set("redirect-host", "127.*").await;
    let other = Registry::on_other_host(&scene.clock).await;
    scene.publish(Package::new("left-pad", "1.1.0"));
    scene.registry.answer(TARBALL, Reply::redirect(302, &format!("{}/blob", other.url)));
    let refused = scene.get(TARBALL).await;
    assert!(refused.status >= 400 && refused.error().contains("public"), "{} {}", refused.status, refused.text());
    assert_eq!(other.total(), 0);
}

#[tokio::test]
async fn redirected_bytes_are_verified() {
    let scene = Scene::open().set("redirect-host", "127.0.0.2").await;
    let other = Registry::on_other_host(&scene.clock).await;
    other.answer("/blob", Reply::ok("malice"));
    scene.publish(Package::new("left-pad", "1.1.0"));
    scene.registry.answer(TARBALL, Reply::redirect(302, &format!("{}/blob", other.url)));
    scene.get(TARBALL).await.is(403);
}
