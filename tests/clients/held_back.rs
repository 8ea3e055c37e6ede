//! What each client prints when Coldframe holds something back.

use std::net::TcpListener;

use expect_test::{Expect, expect};

use crate::package::{Package, days, hours};
use crate::scene::Scene;
use crate::tool::{Project, Tool};

/// left-pad with an old 1.0.0 and a young 1.1.0 and 2.0.0, and a newborn package.
fn fill(scene: &Scene) {
    scene.publish(Package::new("left-pad", "1.0.0").aged(days(100)));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(5)));
    scene.publish(Package::new("left-pad", "2.0.0").aged(hours(1)));
    scene.publish(Package::new("newborn", "1.0.0").aged(hours(2)));
    // pnpm looks for a newer self.
    scene.registry.absent("pnpm");
}

#[track_caller]
fn fails(scene: &Scene, tool: Tool, name: &str, range: &str, expected: &Expect) {
    let project = Project::new(tool, &[(name, range)]);
    let said = project.run(scene, &["install"]);
    assert_ne!(said.code, 0, "{tool:?} should fail:\n{}", said.text);
    assert_eq!(project.installed(name), None);
    expected.assert_eq(&said.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exact_pin_that_is_hidden() {
    let scene = Scene::open().await;
    fill(&scene);
    let fails = |tool, expected: Expect| fails(&scene, tool, "left-pad", "1.1.0", &expected);
    fails(Tool::Npm10, expect![[""]]);
    fails(Tool::Npm11, expect![[""]]);
    fails(Tool::Pnpm10, expect![[""]]);
    fails(Tool::Pnpm12, expect![[""]]);
    fails(Tool::Yarn1, expect![[""]]);
    fails(Tool::Yarn4, expect![[""]]);
    fails(Tool::Bun, expect![[""]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_with_nothing_visible() {
    let scene = Scene::open().await;
    fill(&scene);
    let fails = |tool, expected: Expect| fails(&scene, tool, "left-pad", "^2.0.0", &expected);
    fails(Tool::Npm10, expect![[""]]);
    fails(Tool::Npm11, expect![[""]]);
    fails(Tool::Pnpm10, expect![[""]]);
    fails(Tool::Pnpm12, expect![[""]]);
    fails(Tool::Yarn1, expect![[""]]);
    fails(Tool::Yarn4, expect![[""]]);
    fails(Tool::Bun, expect![[""]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_package_that_is_young() {
    let scene = Scene::open().await;
    fill(&scene);
    let fails = |tool, expected: Expect| fails(&scene, tool, "newborn", "*", &expected);
    fails(Tool::Npm10, expect![[""]]);
    fails(Tool::Npm11, expect![[""]]);
    fails(Tool::Pnpm10, expect![[""]]);
    fails(Tool::Pnpm12, expect![[""]]);
    fails(Tool::Yarn1, expect![[""]]);
    fails(Tool::Yarn4, expect![[""]]);
    fails(Tool::Bun, expect![[""]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_down() {
    let scene = Scene::open().await;
    fill(&scene);
    scene.registry.goes_down();
    let fails = |tool, expected: Expect| fails(&scene, tool, "left-pad", "1.0.0", &expected);
    fails(Tool::Npm10, expect![[""]]);
    fails(Tool::Npm11, expect![[""]]);
    fails(Tool::Pnpm10, expect![[""]]);
    fails(Tool::Pnpm12, expect![[""]]);
    fails(Tool::Yarn4, expect![[""]]);
    fails(Tool::Bun, expect![[""]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_young_tarball_from_a_lockfile() {
    // A lockfile names the address it was written before, so the second Coldframe stands where the first one stood.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut scene = Scene::open().set("listen", &free).set("min-release-age", "0s").await;
    fill(&scene);
    let mut projects = Vec::new();
    for tool in Tool::ALL {
        let project = Project::new(tool, &[("left-pad", "1.1.0")]);
        let said = project.run(&scene, &["install"]);
        assert_eq!((said.code, project.installed("left-pad").as_deref()), (0, Some("1.1.0")), "{tool:?}: {}", said.text);
        projects.push((tool, project.elsewhere()));
    }
    scene.restart_with("min-release-age", "72h").await;
    let expected = [expect![[""]], expect![[""]], expect![[""]], expect![[""]], expect![[""]], expect![[""]], expect![[""]]];
    for ((tool, project), expected) in projects.into_iter().zip(expected) {
        let said = project.run(&scene, tool.frozen());
        assert_ne!(said.code, 0, "{tool:?} should fail:\n{}", said.text);
        assert_eq!(project.installed("left-pad"), None, "{tool:?}");
        expected.assert_eq(&said.text);
    }
}
