//! What `coldframe client-config` prints, in the file it names, with nothing else to go by: each client comes to
//! Coldframe and waits as long as it does, without a word of complaint.

use std::process::Command;

use jiff::{SignedDuration, Timestamp};

use crate::held_back::fill;
use crate::package::{Package, days};
use crate::scene::Scene;
use crate::tool::{Project, Tool};

/// The word by which a client is asked for, and its file.
fn words(tool: Tool) -> (&'static str, &'static str) {
    match tool {
        // pnpm has settings in a file of its own from 10 on.
        Tool::Npm10 | Tool::Npm11 | Tool::Npm12 | Tool::Pnpm9 => ("npm", ".npmrc"),
        Tool::Pnpm10 | Tool::Pnpm12 => ("pnpm", "pnpm-workspace.yaml"),
        Tool::Yarn1 => ("yarn", ".yarnrc"),
        Tool::Yarn3 | Tool::Yarn4 => ("yarn-berry", ".yarnrc.yml"),
        Tool::Bun => ("bun", "bunfig.toml"),
        Tool::Deno => ("deno", ".npmrc"),
    }
}

/// A project with the file that `coldframe client-config` prints for `url`; its own settings say 72 hours.
fn project(tool: Tool, scene: &Scene, url: &str, range: &str) -> Project {
    let (client, file) = words(tool);
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
async fn each_client_comes_to_coldframe_by_its_file_alone() {
    let scene = Scene::open().await;
    fill(&scene);
    for tool in Tool::ALL {
        let project = project(tool, &scene, &scene.coldframe.url(), "^1.0.0");
        let said = project.run_by_files(&scene, &["install"]).await;
        assert_eq!((said.code, project.installed("left-pad").as_deref()), (0, Some("1.0.0")), "{tool:?}:\n{}", said.text);
        assert!(!said.text.contains("npm warn") && !said.text.contains("WARN"), "{tool:?}:\n{}", said.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_client_that_knows_an_age_waits_by_itself() {
    let scene = Scene::open().await;
    let now = machine_time();
    let ago = |hours| (now - SignedDuration::from_hours(hours)).to_string();
    scene.publish(Package::new("left-pad", "1.0.0").aged(days(100)));
    // By the machine's clock, which is the clients'.
    scene.publish(Package::new("left-pad", "1.1.0").time(ago(74)));
    scene.publish(Package::new("left-pad", "1.2.0").time(ago(70)));
    scene.registry.absent("pnpm");
    for tool in Tool::ALL.into_iter().filter(|tool| !matches!(tool, Tool::Npm10 | Tool::Pnpm9 | Tool::Yarn1)) {
        // Straight to the registry: nobody else holds anything back.
        let project = project(tool, &scene, &scene.registry.url, "^1.0.0");
        let said = project.run_by_files(&scene, &["install"]).await;
        assert_eq!((said.code, project.installed("left-pad").as_deref()), (0, Some("1.1.0")), "{tool:?}:\n{}", said.text);
    }
    // A registry is asked for its terms first, and has none.
    assert!(scene.registry.take_undeclared().iter().all(|asked| asked == "GET /-/coldframe/client-config"));
}

#[expect(clippy::disallowed_methods, reason = "a client has the machine's clock")]
fn machine_time() -> Timestamp {
    Timestamp::now()
}
