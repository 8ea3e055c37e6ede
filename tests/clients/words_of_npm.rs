//! The rest of npm's words: view, outdated, audit, dist-tags, search, ping; and the notice that ends an install.

use crate::package::{Package, days, hours};
use crate::scene::Scene;
use crate::tool::{Project, Said, Tool};

async fn scene() -> Scene {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0").aged(days(100)));
    scene.publish(Package::new("left-pad", "1.0.1").aged(days(90)));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(5)));
    scene
}

#[track_caller]
fn succeeds(said: Said) -> String {
    assert_eq!(said.code, 0, "{}", said.text);
    said.text
}

#[tokio::test]
async fn an_install_ends_with_what_was_held_back() {
    let scene = scene().await;
    for tool in Tool::NPM {
        let project = Project::new(tool, &[("left-pad", "^1.0.0")]);
        let text = succeeds(project.run(&scene, &["install"]).await);
        let notice = text
            .lines()
            .find(|line| line.starts_with("npm notice"))
            .unwrap_or_else(|| panic!("{tool:?} prints no notice:\n{text}"));
        for part in ["coldframe held back 1 newer release", "left-pad 1.1.0", "2026-04-06 07:00 UTC"] {
            assert!(notice.contains(part), "{tool:?}: {part:?} is missing: {notice}");
        }
    }
}

#[tokio::test]
async fn view_outdated_and_dist_tags_show_what_is_visible() {
    let scene = scene().await;
    for tool in Tool::NPM {
        let project = Project::new(tool, &[("left-pad", "1.0.0")]);
        succeeds(project.run(&scene, &["install"]).await);
        assert_eq!(succeeds(project.run(&scene, &["view", "left-pad", "version"]).await).trim(), "1.0.1");
        assert_eq!(succeeds(project.run(&scene, &["dist-tag", "ls", "left-pad"]).await).trim(), "latest: 1.0.1");
        let outdated = project.run(&scene, &["outdated"]).await;
        assert!(outdated.text.contains("1.0.1") && !outdated.text.contains("1.1.0"), "{}", outdated.text);
        succeeds(project.run(&scene, &["ping"]).await);
    }
}

#[tokio::test]
async fn audit_and_search_pass_through() {
    let scene = scene().await;
    scene.publish(Package::new("left-newborn", "1.0.0").aged(hours(1)));
    for tool in Tool::NPM {
        let project = Project::new(tool, &[("left-pad", "1.0.0")]);
        succeeds(project.run(&scene, &["install"]).await);
        assert!(succeeds(project.run(&scene, &["audit"]).await).contains("found 0 vulnerabilities"));
        let found = succeeds(project.run(&scene, &["search", "left"]).await);
        assert!(found.contains("left-pad") && !found.contains("1.1.0") && !found.contains("left-newborn"), "{found}");
    }
}
