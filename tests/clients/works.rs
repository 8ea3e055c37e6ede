//! What each client installs when something is held back and something older will do.

use crate::package::{Package, days, hours};
use crate::scene::Scene;
use crate::tool::{Project, Tool};

#[tokio::test]
async fn a_range_takes_the_newest_version_that_is_allowed() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0").aged(days(100)).depends_on("@acme/core", "^3.0.0"));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(5)).depends_on("malice", "*"));
    scene.publish(Package::new("@acme/core", "3.0.0").aged(days(100)));
    scene.publish(Package::new("@acme/core", "3.0.1").aged(hours(5)));
    scene.registry.absent("pnpm");
    for tool in Tool::ALL {
        for range in ["^1.0.0", "latest"] {
            let project = Project::new(tool, &[("left-pad", range)]);
            let said = project.run(&scene, &["install"]).await;
            assert_eq!(said.code, 0, "{tool:?} {range}:\n{}", said.text);
            assert_eq!(project.installed("left-pad").as_deref(), Some("1.0.0"), "{tool:?} {range}");
        }
    }
    assert_eq!(scene.registry.count("/malice"), 0);
}

#[tokio::test]
async fn a_lockfile_of_old_versions_installs_frozen_and_from_our_cache() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0").aged(days(100)));
    scene.publish(Package::new("@acme/core", "3.0.0").aged(days(100)));
    scene.registry.absent("pnpm");
    for tool in Tool::ALL {
        let project = Project::new(tool, &[("left-pad", "1.0.0"), ("@acme/core", "3.0.0")]);
        assert_eq!(project.run(&scene, &["install"]).await.code, 0);
        let project = project.elsewhere();
        let said = project.run(&scene, tool.frozen()).await;
        assert_eq!(said.code, 0, "{tool:?}:\n{}", said.text);
        assert_eq!(project.installed("@acme/core").as_deref(), Some("3.0.0"), "{tool:?}");
    }
    assert_eq!(scene.registry.count("/left-pad/-/left-pad-1.0.0.tgz"), 1, "one flight for all clients");
}

#[tokio::test]
async fn an_upstream_that_strips_everything_serves_every_client() {
    let scene = Scene::open().mirror().await;
    scene.publish(Package::new("left-pad", "1.0.0").aged(days(100)));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(5)));
    scene.registry.absent("pnpm");
    for tool in Tool::ALL {
        let project = Project::new(tool, &[("left-pad", "^1.0.0")]);
        let said = project.run(&scene, &["install"]).await;
        assert_eq!((said.code, project.installed("left-pad").as_deref()), (0, Some("1.0.0")), "{tool:?}:\n{}", said.text);
    }
}
