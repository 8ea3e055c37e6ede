//! Packuments must be consistent with themselves and with earlier ones.

use crate::fake_response::Reply;
use crate::harness::Scene;
use crate::package::{Package, days, hours};

const TARBALL: &str = "/left-pad/-/left-pad-1.1.0.tgz";

#[tokio::test]
async fn a_version_that_changes_its_integrity_is_refused_from_then_on() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0").aged(days(300)));
    scene.publish(Package::new("left-pad", "1.1.0").aged(days(200)));
    scene.get(TARBALL).await.is(200);
    scene.advance(hours(1));
    scene.publish(Package::new("left-pad", "1.1.0").aged(days(200)).content("something else"));
    let refused = scene.get(TARBALL).await.is(403);
    assert!(refused.error().contains("integrity"), "{}", refused.error());
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.advance(days(30));
    scene.get(TARBALL).await.is(403);
}

#[tokio::test]
async fn a_changed_integrity_is_recorded() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0", "1.1.0"]);
    scene.get("/left-pad").await.is(200);
    scene.advance(hours(1));
    scene.publish(Package::new("left-pad", "1.1.0").content("something else"));
    scene.get("/left-pad").await.is(200);
    assert!(scene.metric("coldframe_incidents", "integrity_changed").await >= 1.0);
}

#[tokio::test]
async fn an_integrity_that_gains_a_digest_counts_as_unchanged() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.1.0").dist("integrity", serde_json::Value::Null));
    scene.get(TARBALL).await.is(200);
    scene.advance(hours(1));
    scene.publish(Package::new("left-pad", "1.1.0"));
    scene.get(TARBALL).await.is(200);
}

#[tokio::test]
async fn a_manifest_with_another_version_or_name_is_hidden() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0", "1.1.0", "1.2.0"]);
    scene.registry.edit("left-pad", |packument| {
        packument["versions"]["1.1.0"]["version"] = "9.9.9".into();
        packument["versions"]["1.2.0"]["name"] = "right-pad".into();
    });
    let packument = scene.get("/left-pad").await;
    assert_eq!(packument.versions(), ["1.0.0"]);
    assert_eq!(packument.tag("latest").unwrap(), "1.0.0");
    for version in ["1.1.0", "1.2.0"] {
        let refused = scene.get(&format!("/left-pad/-/left-pad-{version}.tgz")).await.is(403);
        assert!(refused.error().contains("self-contradiction"), "{}", refused.error());
    }
}

#[tokio::test]
async fn a_packument_of_another_package_is_rejected() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.registry.edit("left-pad", |packument| {
        packument["name"] = "right-pad".into();
        packument["versions"]["1.0.0"]["name"] = "right-pad".into();
    });
    let answer = scene.get("/left-pad").await;
    assert!(answer.status >= 400, "{}", answer.text());
    assert!(scene.get("/left-pad/-/left-pad-1.0.0.tgz").await.status >= 400);
}

#[tokio::test]
async fn a_repeated_key_is_refused_because_parsers_differ_on_it() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    let text = scene.registry.packument("left-pad").to_string();
    let manifest = scene.registry.packument("left-pad")["versions"]["1.0.0"].to_string();
    for (name, text) in [
        ("versions", text.replace("\"versions\":{", &format!("\"versions\":{{\"1.0.0\":{manifest},"))),
        ("escaped", text.replace("\"versions\":{", &format!("\"versions\":{{\"1.0\\u002e0\":{manifest},"))),
        ("time", text.replace("\"time\":{", "\"time\":{\"1.0.0\":\"2012-01-01T00:00:00.000Z\",")),
        ("dist-tags", text.replace("\"dist-tags\":{", "\"dist-tags\":{\"latest\":\"0.0.1\",")),
    ] {
        let package = format!("twice-{name}");
        scene.registry.raw(&package, text.replace("left-pad", &package));
        let answer = scene.get(&format!("/{package}")).await;
        assert!(answer.status >= 400, "{name}: {}", answer.text());
        assert!(answer.error().contains(&package), "{}", answer.error());
    }
}

#[tokio::test]
async fn a_manifest_that_repeats_a_field_is_hidden() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0", "1.1.0"]);
    let text = scene.registry.packument("left-pad").to_string();
    let twice = text.replace("\"_id\":\"left-pad@1.1.0\"", "\"version\":\"1.1.0\",\"_id\":\"left-pad@1.1.0\"");
    assert_ne!(text, twice);
    scene.registry.raw("left-pad", twice);
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.get(TARBALL).await.is(403);
}

#[tokio::test]
async fn a_version_without_a_digest_is_refused() {
    let scene = Scene::open().await;
    let bare =
        Package::new("left-pad", "1.1.0").dist("integrity", serde_json::Value::Null).dist("shasum", serde_json::Value::Null);
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.publish(bare);
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.get(TARBALL).await.is(403);
}

#[tokio::test]
async fn a_release_with_only_a_shasum_is_checked_with_it() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.1.0").dist("integrity", serde_json::Value::Null));
    scene.get(TARBALL).await.is(200);
    scene.publish(Package::new("right-pad", "1.0.0").dist("integrity", serde_json::Value::Null));
    scene.registry.tamper("/right-pad/-/right-pad-1.0.0.tgz", "other bytes");
    scene.get("/right-pad/-/right-pad-1.0.0.tgz").await.is(403);
}

#[tokio::test]
async fn wrong_bytes_are_refused_with_the_reason_and_not_stored() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.1.0"));
    scene.get("/left-pad").await.is(200);
    scene.registry.tamper(TARBALL, Package::new("left-pad", "1.1.0").content("malice").tarball);
    let refused = scene.get(TARBALL).await.is(403);
    assert!(refused.error().contains("left-pad@1.1.0") && refused.error().contains("integrity"), "{}", refused.error());
    assert_eq!(scene.stored_tarballs().await, Vec::<std::path::PathBuf>::new());
    // With correct bytes upstream, the request succeeds.
    scene.registry.tamper(TARBALL, Package::new("left-pad", "1.1.0").tarball);
    scene.get(TARBALL).await.is(200);
}

#[tokio::test]
async fn wrong_bytes_of_the_right_length_are_refused_too() {
    let scene = Scene::open().await;
    let package = Package::new("left-pad", "1.1.0");
    let mut bytes = package.tarball.clone();
    *bytes.last_mut().unwrap() ^= 1;
    scene.publish(package);
    scene.registry.tamper(TARBALL, bytes);
    scene.get(TARBALL).await.is(403);
}

#[tokio::test]
async fn a_corrupt_blob_is_fetched_again_and_never_served() {
    let mut scene = Scene::open().await;
    let package = Package::new("left-pad", "1.1.0").sized(4000);
    let good = package.tarball.clone();
    scene.publish(package);
    scene.get(TARBALL).await.is(200);
    scene.coldframe.stop().await;
    let mut corrupted = 0;
    for file in scene.stored_files().await {
        let mut bytes = std::fs::read(&file).unwrap();
        if bytes == good {
            bytes[100] ^= 1;
            let replacement = file.with_extension("corrupt");
            std::fs::write(&replacement, bytes).unwrap();
            std::fs::rename(&replacement, &file).unwrap();
            corrupted += 1;
        }
    }
    assert_eq!(corrupted, 1, "the tarball is stored unchanged in one file");
    scene.restart().await;
    assert_eq!(scene.get(TARBALL).await.is(200).body, good);
    assert_eq!(scene.registry.count(TARBALL), 2);
}

#[tokio::test]
async fn a_version_that_points_to_the_tarball_of_another_is_refused() {
    let scene = Scene::open().await;
    // 1.0.0 is old; its manifest points to the tarball of 1.1.0, which is young.
    let young = Package::new("left-pad", "1.1.0").aged(hours(1)).content("young");
    scene.publish(Package::new("left-pad", "1.0.0").at_path("/left-pad/-/left-pad-1.1.0.tgz"));
    scene.publish(young);
    scene.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(403);
    scene.get(TARBALL).await.is(403);
}

#[tokio::test]
async fn an_odd_tarball_path_is_served_under_the_conventional_one() {
    let scene = Scene::open().await;
    let package = Package::new("left-pad", "1.1.0").at_path("/download/left-pad/1.1.0/0123456789abcdef0123456789abcdef01234567");
    let bytes = package.tarball.clone();
    scene.publish(package);
    let url = scene.get("/left-pad").await.json()["versions"]["1.1.0"]["dist"]["tarball"].as_str().unwrap().to_owned();
    assert_eq!(url, format!("{}{TARBALL}", scene.coldframe.url()));
    assert_eq!(scene.get(TARBALL).await.is(200).body, bytes);
}

#[tokio::test]
async fn a_tarball_that_vanished_upstream_is_not_found() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.1.0"));
    scene.registry.answer(TARBALL, Reply::error(404, "gone"));
    scene.get(TARBALL).await.is(404);
}
