//! Every client under `coldframe run`: what it installs, which lockfiles are refused and with which text, regardless of the
//! project's own configuration.

use std::path::Path;

use tempfile::TempDir;

use crate::package::{Package, days, hours};
use crate::package_manager::{Output, Project, REGISTRY_VARIABLES, Tool};
use crate::process::machine_clock;
use crate::registry::Registry;

/// A registry, and the data directory of the runs.
struct Fixture {
    registry: Registry,
    data: TempDir,
}

impl Fixture {
    async fn new() -> Self {
        Self { registry: start_registry().await, data: TempDir::new().expect("temporary directory") }
    }

    /// The words before the client's command.
    fn prefix(&self, flags: &[&str]) -> Vec<String> {
        let data = self.data.path().to_str().expect("UTF-8");
        let words = [env!("CARGO_BIN_EXE_coldframe"), "run", "--upstream", &self.registry.url, "--data-dir", data];
        words.iter().chain(flags).chain(&["--"]).map(|word| (*word).to_owned()).collect()
    }

    async fn run(&self, project: &Project, flags: &[&str], arguments: &[&str]) -> Output {
        project.run_with_prefix(self.prefix(flags), arguments).await
    }
}

/// Starts a registry on the machine's clock: left-pad with an old and a held version, and a scoped package.
pub async fn start_registry() -> Registry {
    let registry = Registry::start(&machine_clock()).await;
    registry.publish(Package::new("left-pad", "1.0.0").aged(days(100)));
    // Above the clients' own minimum age, at most a day, and below Coldframe's.
    registry.publish(Package::new("left-pad", "1.1.0").aged(hours(30)));
    registry.publish(Package::new("@acme/core", "3.0.0").aged(days(100)));
    registry.absent("pnpm");
    registry
}

/// Asserts that only attestations were undeclared. pnpm and deno request them, and there are none.
pub fn assert_only_attestations_undeclared(registry: &Registry) {
    let undeclared = registry.take_undeclared();
    assert!(undeclared.iter().all(|asked| asked.contains("/-/npm/v1/attestations/")), "{undeclared:?}");
}

/// The clients' lockfiles.
pub const LOCKFILES: [&str; 5] = ["package-lock.json", "pnpm-lock.yaml", "yarn.lock", "bun.lock", "deno.lock"];

/// The base URL of tarballs in lockfiles made against the public registry.
fn public_url() -> String {
    coldframe::upstream::npmrc::npm_default_registry().as_str().trim_end_matches('/').to_owned()
}

/// Replaces an address in every lockfile of a project.
fn replace_address(folder: &Path, from: &str, to: &str) {
    for name in LOCKFILES {
        if let Ok(text) = std::fs::read_to_string(folder.join(name)) {
            std::fs::write(folder.join(name), text.replace(from, to)).expect("write to the project");
        }
    }
}

#[tokio::test]
async fn install_uses_only_allowed_versions() {
    let fixture = Fixture::new().await;
    for tool in Tool::ALL {
        let project = Project::new(tool, &[("left-pad", "^1.0.0"), ("@acme/core", "^3.0.0")]);
        let output = fixture.run(&project, &[], &["install"]).await;
        assert_eq!(output.code, 0, "{tool:?}:\n{}", output.text);
        assert_eq!(project.installed("left-pad").as_deref(), Some("1.0.0"), "{tool:?}");
        assert_eq!(project.installed("@acme/core").as_deref(), Some("3.0.0"), "{tool:?}");
        for part in [
            "coldframe: 2 packages",
            "held back    left-pad@1.1.0, wanted as `^1.0.0` by package.json: published",
            "minimum release age 72 h",
            "; opens ",
        ] {
            assert!(output.text.contains(part), "{tool:?}: {part:?} is missing:\n{}", output.text);
        }
        // The lockfile contains the registry's address, not the run's port.
        let again = fixture.run(&project.fresh_checkout(), &[], tool.frozen()).await;
        assert_eq!(again.code, 0, "{tool:?}:\n{}", again.text);
    }
    assert_only_attestations_undeclared(&fixture.registry);
}

#[tokio::test]
async fn yarn_3_installs_and_held_version_is_refused() {
    let fixture = Fixture::new().await;
    let project = Project::new(Tool::Yarn3, &[("left-pad", "^1.0.0")]);
    let output = fixture.run(&project, &[], &["install"]).await;
    assert_eq!((output.code, project.installed("left-pad").as_deref()), (0, Some("1.0.0")), "{}", output.text);
    let project = Project::new(Tool::Yarn3, &[("left-pad", "1.1.0")]);
    let output = fixture.run(&project, &[], &["install"]).await;
    assert_ne!(output.code, 0, "{}", output.text);
    assert!(output.text.contains("stopped by   left-pad@1.1.0, wanted by package.json"), "{}", output.text);
}

/// The prefix that sends a client directly to the registry.
fn direct_prefix(registry: &str) -> Vec<String> {
    let variables = REGISTRY_VARIABLES.iter().map(|name| format!("{name}={registry}/"));
    let allowed = "YARN_UNSAFE_HTTP_WHITELIST=127.0.0.1".to_owned();
    ["env".to_owned(), allowed].into_iter().chain(variables).collect()
}

#[tokio::test]
async fn lockfile_with_registry_specific_urls_works_directly_and_in_a_run() {
    let fixture = Fixture::new().await;
    let digest = "0".repeat(40);
    for (name, path) in [
        ("@acme/github", format!("/download/@acme/github/1.0.0/{digest}")),
        ("@acme/gitlab", "/api/v4/projects/7/packages/npm/@acme/gitlab/-/@acme/gitlab-1.0.0.tgz".to_owned()),
        ("@acme/artifactory", "/@acme/artifactory/-/@acme/artifactory-1.0.0.tgz".to_owned()),
    ] {
        fixture.registry.publish(Package::new(name, "1.0.0").at_path(&path).aged(days(100)));
    }
    let dependencies = [("@acme/github", "1.0.0"), ("@acme/gitlab", "1.0.0"), ("@acme/artifactory", "1.0.0")];
    let direct = direct_prefix(&fixture.registry.url);
    for tool in Tool::ALL {
        let is_installed = |project: &Project| dependencies.iter().all(|(name, _)| project.installed(name).is_some());
        let project = Project::new(tool, &dependencies);
        let output = project.run_with_prefix(direct.clone(), &["install"]).await;
        assert!(output.code == 0 && is_installed(&project), "{tool:?}:\n{}", output.text);
        let project = project.fresh_checkout();
        let output = fixture.run(&project, &[], tool.frozen()).await;
        assert!(output.code == 0 && is_installed(&project), "{tool:?} through coldframe:\n{}", output.text);
        let project = Project::new(tool, &dependencies);
        let output = fixture.run(&project, &[], &["install"]).await;
        assert!(output.code == 0 && is_installed(&project), "{tool:?} through coldframe:\n{}", output.text);
        let project = project.fresh_checkout();
        let output = project.run_with_prefix(direct.clone(), tool.frozen()).await;
        assert!(output.code == 0 && is_installed(&project), "{tool:?} directly:\n{}", output.text);
    }
    assert_only_attestations_undeclared(&fixture.registry);
}

#[tokio::test]
async fn lockfile_with_held_version_is_refused_for_every_host_it_names() {
    let fixture = Fixture::new().await;
    let registry = fixture.registry.url.clone();
    for tool in Tool::ALL {
        for address in [registry.as_str(), &public_url(), "http://127.0.0.1:14873"] {
            let project = Project::new(tool, &[("left-pad", "1.1.0")]);
            let output = fixture.run(&project, &["--min-release-age", "0s"], &["install"]).await;
            assert_eq!((output.code, project.installed("left-pad").as_deref()), (0, Some("1.1.0")), "{tool:?}:\n{}", output.text);
            let project = project.fresh_checkout();
            replace_address(project.folder(), &registry, address);
            let output = fixture.run(&project, &["--listen", "127.0.0.1:14873", "--min-release-age", "1h"], tool.frozen()).await;
            assert_eq!(
                (output.code, project.installed("left-pad").as_deref()),
                (0, Some("1.1.0")),
                "{tool:?} {address}:\n{}",
                output.text
            );
            let project = project.fresh_checkout();
            let output = fixture.run(&project, &["--listen", "127.0.0.1:14873"], tool.frozen()).await;
            assert_ne!(output.code, 0, "{tool:?} {address}:\n{}", output.text);
            assert_eq!(project.installed("left-pad"), None, "{tool:?} {address}");
            for part in [
                "left-pad@1.1.0",
                "minimum release age 72 h",
                "opens ",
                "newest allowed: 1.0.0",
                "coldframe approve left-pad@1.1.0",
            ] {
                assert!(output.text.contains(part), "{tool:?} {address}: {part:?} is missing:\n{}", output.text);
            }
        }
    }
    assert_only_attestations_undeclared(&fixture.registry);
}

#[tokio::test]
async fn project_files_cannot_bypass_the_run() {
    let fixture = Fixture::new().await;
    let registry = &fixture.registry.address;
    for tool in Tool::ALL {
        let project = Project::new(tool, &[("left-pad", "^1.0.0")]);
        let dead = "http://127.0.0.1:9";
        let npmrc = format!(
            "registry={dead}/\nhttps-proxy={dead}/\nproxy={dead}/\nnoproxy=127.0.0.1,{registry}\nno-proxy=127.0.0.1,{registry}\n"
        );
        let write = |name: &str, text: &str| std::fs::write(project.folder().join(name), text).expect("write to the project");
        write(".npmrc", &npmrc);
        match tool {
            Tool::Yarn4 => {
                write(
                    ".yarnrc.yml",
                    &format!("nodeLinker: node-modules\nnpmRegistryServer: \"{dead}\"\nhttpProxy: \"{dead}\"\n"),
                );
            }
            Tool::Yarn1 => write(".yarnrc", &format!("registry \"{dead}/\"\n")),
            Tool::Bun => write("bunfig.toml", &format!("[install]\nregistry = \"{dead}/\"\n")),
            _ => {}
        }
        let output = fixture.run(&project, &[], &["install"]).await;
        assert_eq!(output.code, 0, "{tool:?}:\n{}", output.text);
        assert_eq!(project.installed("left-pad").as_deref(), Some("1.0.0"), "{tool:?}:\n{}", output.text);
    }
}
