//! Dist-tags move only if their target is hidden, never point to a hidden version, and follow SemVer and history, not dates.

use crate::harness::Scene;
use crate::package::{Package, days, hours};

#[tokio::test]
async fn tag_with_visible_target_is_unchanged() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0", "2.0.0"]);
    scene.registry.tag("left-pad", "latest", "1.0.0");
    scene.registry.tag("left-pad", "next", "2.0.0");
    let tags = scene.get("/left-pad").await.tags();
    assert_eq!((tags["latest"].as_str(), tags["next"].as_str()), ("1.0.0", "2.0.0"));
}

#[tokio::test]
async fn hidden_latest_moves_by_precedence_and_not_by_date() {
    let scene = Scene::open().await;
    scene.publish(Package::new("axios", "1.14.0").aged(days(40)));
    scene.publish(Package::new("axios", "0.35.0").aged(days(4)).tagged("legacy"));
    scene.publish(Package::new("axios", "1.14.1").aged(hours(2)));
    let tags = scene.get("/axios").await.tags();
    assert_eq!((tags["latest"].as_str(), tags["legacy"].as_str()), ("1.14.0", "0.35.0"));
}

#[tokio::test]
async fn hidden_tag_never_moves_above_its_target() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["3.0.0", "1.0.0"]);
    scene.publish(Package::new("left-pad", "2.0.0").aged(hours(2)));
    assert_eq!(scene.get("/left-pad").await.tag("latest").unwrap(), "1.0.0");
}

#[tokio::test]
async fn hidden_tag_returns_to_its_last_seen_target() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.9.0", "2.0.0"]);
    scene.registry.tag("left-pad", "latest", "1.9.0");
    assert_eq!(scene.get("/left-pad").await.tag("latest").unwrap(), "1.9.0");
    scene.advance(hours(1));
    scene.publish(Package::new("left-pad", "2.0.1").aged(hours(0)));
    assert_eq!(scene.get("/left-pad").await.tag("latest").unwrap(), "1.9.0", "2.0.0 is higher, but `latest` was 1.9.0");
}

#[tokio::test]
async fn last_seen_target_older_than_the_hold_is_ignored() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.9.0", "2.0.0"]);
    scene.registry.tag("left-pad", "latest", "1.9.0");
    assert_eq!(scene.get("/left-pad").await.tag("latest").unwrap(), "1.9.0");
    scene.advance(days(30));
    scene.publish(Package::new("left-pad", "2.0.1").aged(hours(1)));
    assert_eq!(scene.get("/left-pad").await.tag("latest").unwrap(), "2.0.0");
}

#[tokio::test]
async fn prerelease_tag_stays_in_its_channel() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.publish(Package::new("left-pad", "2.0.0-beta.1").untagged());
    scene.publish(Package::new("left-pad", "2.0.0-canary.9").untagged());
    scene.publish(Package::new("left-pad", "2.0.0-beta.2").tagged("beta").aged(hours(1)));
    scene.publish(Package::new("left-pad", "2.0.0-canary.10").tagged("canary").aged(hours(1)));
    let tags = scene.get("/left-pad").await.tags();
    assert_eq!((tags["beta"].as_str(), tags["canary"].as_str()), ("2.0.0-beta.1", "2.0.0-canary.9"));
}

#[tokio::test]
async fn stable_tag_does_not_move_to_a_prerelease() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.publish(Package::new("left-pad", "2.0.0-rc.1").untagged());
    scene.publish(Package::new("left-pad", "2.0.0").aged(hours(1)));
    assert_eq!(scene.get("/left-pad").await.tag("latest").unwrap(), "1.0.0");
}

#[tokio::test]
async fn tag_moves_to_deprecated_version_only_as_last_resort() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.publish(Package::new("left-pad", "1.1.0").deprecated("broken"));
    scene.publish(Package::new("left-pad", "1.2.0").aged(hours(1)));
    assert_eq!(scene.get("/left-pad").await.tag("latest").unwrap(), "1.0.0");

    scene.publish(Package::new("right-pad", "1.0.0").deprecated("old"));
    scene.publish(Package::new("right-pad", "1.1.0").aged(hours(1)));
    assert_eq!(scene.get("/right-pad").await.tag("latest").unwrap(), "1.0.0");
}

#[tokio::test]
async fn tag_without_fallback_is_removed_but_latest_takes_a_prerelease() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0-rc.1").untagged());
    scene.publish(Package::new("left-pad", "1.0.0").aged(hours(1)));
    scene.publish(Package::new("left-pad", "2.0.0-beta.1").tagged("beta").aged(hours(1)));
    let tags = scene.get("/left-pad").await.tags();
    assert_eq!(tags.get("latest").map(String::as_str), Some("1.0.0-rc.1"));
    assert_eq!(tags.get("beta"), None);
}

#[tokio::test]
async fn no_tag_dangles_in_either_form_or_the_dist_tags_endpoint() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0", "1.1.0", "2.0.0-beta.1"]);
    for (index, tag) in ["latest", "beta", "next", "old", "nightly"].iter().enumerate() {
        scene.publish(Package::new("left-pad", &format!("3.{index}.0-{tag}.0")).tagged(tag).aged(hours(1)));
    }
    scene.registry.tag("left-pad", "ghost", "9.9.9");
    for accept in ["application/json", crate::client::ABBREVIATED] {
        let packument = scene.get("/left-pad").accept(accept).await;
        let versions = packument.versions();
        for (tag, version) in packument.tags() {
            assert!(versions.contains(&version), "{tag} dangles: {version}");
        }
    }
    let full = scene.get("/left-pad").await.tags();
    let tags = scene.get("/-/package/left-pad/dist-tags").await.is(200).json();
    assert_eq!(serde_json::to_value(full).unwrap(), tags);
}

#[tokio::test]
async fn tag_returns_to_its_target_when_it_opens() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(71)));
    assert_eq!(scene.get("/left-pad").await.tag("latest").unwrap(), "1.0.0");
    scene.advance(hours(1));
    assert_eq!(scene.get("/left-pad").await.tag("latest").unwrap(), "1.1.0");
}
