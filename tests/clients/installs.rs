//! What each client installs if a newer version is held and an older one satisfies the range.

use crate::harness::Scene;
use crate::package::{Package, days, hours};
use crate::package_manager::{Project, Tool};

#[tokio::test]
async fn range_resolves_to_the_newest_allowed_version() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0").aged(days(100)).depends_on("@acme/core", "^3.0.0"));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(5)).depends_on("malice", "*"));
    scene.publish(Package::new("@acme/core", "3.0.0").aged(days(100)));
    scene.publish(Package::new("@acme/core", "3.0.1").aged(hours(5)));
    scene.registry.absent("pnpm");
    scene.registry.absent("malice");
    for tool in Tool::ALL {
        for range in ["^1.0.0", "latest"] {
            let project = Project::new(tool, &[("left-pad", range)]);
            let output = project.run(&scene, &["install"]).await;
            assert_eq!(output.code, 0, "{tool:?} {range}:\n{}", output.text);
            assert_eq!(project.installed("left-pad").as_deref(), Some("1.0.0"), "{tool:?} {range}");
        }
    }
    // Coldframe itself looks up a dependency that no older release has, once. No client asks for it.
    assert_eq!(scene.registry.count("/malice"), 1);
}

#[tokio::test]
async fn lockfile_of_old_versions_installs_frozen_from_the_cache() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0").aged(days(100)));
    scene.publish(Package::new("@acme/core", "3.0.0").aged(days(100)));
    scene.registry.absent("pnpm");
    for tool in Tool::ALL {
        let project = Project::new(tool, &[("left-pad", "1.0.0"), ("@acme/core", "3.0.0")]);
        assert_eq!(project.run(&scene, &["install"]).await.code, 0);
        let project = project.fresh_checkout();
        let output = project.run(&scene, tool.frozen()).await;
        assert_eq!(output.code, 0, "{tool:?}:\n{}", output.text);
        assert_eq!(project.installed("@acme/core").as_deref(), Some("3.0.0"), "{tool:?}");
    }
    assert_eq!(scene.registry.count("/left-pad/-/left-pad-1.0.0.tgz"), 1, "all clients must share one fetch");
}

#[tokio::test]
async fn every_client_installs_from_a_stripping_mirror() {
    let scene = Scene::open().mirror().await;
    scene.publish(Package::new("left-pad", "1.0.0").aged(days(100)));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(5)));
    scene.registry.absent("pnpm");
    for tool in Tool::ALL {
        let project = Project::new(tool, &[("left-pad", "^1.0.0")]);
        let output = project.run(&scene, &["install"]).await;
        assert_eq!((output.code, project.installed("left-pad").as_deref()), (0, Some("1.0.0")), "{tool:?}:\n{}", output.text);
    }
}
