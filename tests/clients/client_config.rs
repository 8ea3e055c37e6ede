//! The output of `coldframe client-config`, used as the client's only configuration: each client uses Coldframe and the same
//! minimum age, without warnings.

use std::process::Command;

use jiff::{SignedDuration, Timestamp};

use crate::harness::Scene;
use crate::held_versions::publish_packages;
use crate::package::{Package, days};
use crate::package_manager::{Project, Tool};

/// The client's name for `client-config`, and its configuration file.
fn client_and_file(tool: Tool) -> (&'static str, &'static str) {
    match tool {
        // pnpm reads its own settings file from version 10 on.
        Tool::Npm10 | Tool::Npm11 | Tool::Npm12 | Tool::Pnpm9 => ("npm", ".npmrc"),
        Tool::Pnpm10 | Tool::Pnpm12 => ("pnpm", "pnpm-workspace.yaml"),
        Tool::Yarn1 => ("yarn", ".yarnrc"),
        Tool::Yarn3 | Tool::Yarn4 => ("yarn-berry", ".yarnrc.yml"),
        Tool::Bun => ("bun", "bunfig.toml"),
        Tool::Deno => ("deno", ".npmrc"),
    }
}

/// Creates a project with the file that `coldframe client-config` prints for `url`, for a minimum age of 72 hours.
fn project(tool: Tool, scene: &Scene, url: &str, range: &str) -> Project {
    let (client, file) = client_and_file(tool);
    let mut command = Command::new(env!("CARGO_BIN_EXE_coldframe"));
    command.env_clear().env("HOME", scene.data()).args(["client-config", client, "--url", url]);
    let output = command.args(["--upstream", &scene.registry.url]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let project = Project::new(tool, &[("left-pad", range)]);
    project.configure(file, &text);
    project
}

#[tokio::test(flavor = "multi_thread")]
async fn each_client_uses_coldframe_by_its_file_alone() {
    let scene = Scene::open().await;
    publish_packages(&scene);
    for tool in Tool::ALL {
        let project = project(tool, &scene, &scene.coldframe.url(), "^1.0.0");
        let output = project.run_with_project_files(&scene, &["install"]).await;
        assert_eq!((output.code, project.installed("left-pad").as_deref()), (0, Some("1.0.0")), "{tool:?}:\n{}", output.text);
        assert!(!output.text.contains("npm warn") && !output.text.contains("WARN"), "{tool:?}:\n{}", output.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_with_a_minimum_age_setting_apply_it_themselves() {
    let scene = Scene::open().await;
    let now = machine_time();
    let ago = |hours| (now - SignedDuration::from_hours(hours)).to_string();
    scene.publish(Package::new("left-pad", "1.0.0").aged(days(100)));
    // The clients use the machine's clock.
    scene.publish(Package::new("left-pad", "1.1.0").time(ago(74)));
    scene.publish(Package::new("left-pad", "1.2.0").time(ago(70)));
    scene.registry.absent("pnpm");
    for tool in Tool::ALL.into_iter().filter(|tool| !matches!(tool, Tool::Npm10 | Tool::Pnpm9 | Tool::Yarn1)) {
        // Directly from the registry: only the client holds versions.
        let project = project(tool, &scene, &scene.registry.url, "^1.0.0");
        let output = project.run_with_project_files(&scene, &["install"]).await;
        assert_eq!((output.code, project.installed("left-pad").as_deref()), (0, Some("1.1.0")), "{tool:?}:\n{}", output.text);
    }
    // The command first asks the registry for Coldframe's settings, which it does not have.
    assert!(scene.registry.take_undeclared().iter().all(|asked| asked == "GET /-/coldframe/client-config"));
}

#[expect(clippy::disallowed_methods, reason = "clients use the machine's clock")]
fn machine_time() -> Timestamp {
    Timestamp::now()
}
