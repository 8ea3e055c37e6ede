//! Other npm commands: view, outdated, audit, dist-tag, search and ping, and the notice at the end of an install.

use crate::harness::Scene;
use crate::package::{Package, days, hours};
use crate::package_manager::{Output, Project, Tool};

async fn scene() -> Scene {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0").aged(days(100)));
    scene.publish(Package::new("left-pad", "1.0.1").aged(days(90)));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(5)));
    scene
}

#[track_caller]
/// Asserts that the client succeeded and returns its output.
fn success_output(output: Output) -> String {
    assert_eq!(output.code, 0, "{}", output.text);
    output.text
}

#[tokio::test]
async fn install_ends_with_a_notice_of_held_versions() {
    let scene = scene().await;
    for tool in Tool::NPM {
        let project = Project::new(tool, &[("left-pad", "^1.0.0")]);
        let text = success_output(project.run(&scene, &["install"]).await);
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
async fn view_outdated_and_dist_tag_show_visible_versions() {
    let scene = scene().await;
    for tool in Tool::NPM {
        let project = Project::new(tool, &[("left-pad", "1.0.0")]);
        success_output(project.run(&scene, &["install"]).await);
        assert_eq!(success_output(project.run(&scene, &["view", "left-pad", "version"]).await).trim(), "1.0.1");
        assert_eq!(success_output(project.run(&scene, &["dist-tag", "ls", "left-pad"]).await).trim(), "latest: 1.0.1");
        let outdated = project.run(&scene, &["outdated"]).await;
        assert!(outdated.text.contains("1.0.1") && !outdated.text.contains("1.1.0"), "{}", outdated.text);
        success_output(project.run(&scene, &["ping"]).await);
    }
}

#[tokio::test]
async fn audit_and_search_work() {
    let scene = scene().await;
    scene.publish(Package::new("left-newborn", "1.0.0").aged(hours(1)));
    for tool in Tool::NPM {
        let project = Project::new(tool, &[("left-pad", "1.0.0")]);
        success_output(project.run(&scene, &["install"]).await);
        assert!(success_output(project.run(&scene, &["audit"]).await).contains("found 0 vulnerabilities"));
        let found = success_output(project.run(&scene, &["search", "left"]).await);
        assert!(found.contains("left-pad") && !found.contains("1.1.0") && !found.contains("left-newborn"), "{found}");
    }
}
