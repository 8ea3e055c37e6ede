//! Every client behind `coldframe run`: what it installs, which lockfiles are refused, whatever its project's files say, and
//! that its user is told why.

use std::path::Path;

use tempfile::TempDir;

use crate::package::{Package, days, hours};
use crate::program::machine_clock;
use crate::registry::Registry;
use crate::tool::{Project, REGISTRY_VARIABLES, Said, Tool};

/// A registry, and the data directory of the runs before it.
struct Place {
    registry: Registry,
    data: TempDir,
}

impl Place {
    async fn make() -> Self {
        Self { registry: published().await, data: TempDir::new().expect("a folder") }
    }

    /// What stands before a client's own words.
    fn prefix(&self, flags: &[&str]) -> Vec<String> {
        let data = self.data.path().to_str().expect("UTF-8");
        let words = [env!("CARGO_BIN_EXE_coldframe"), "run", "--upstream", &self.registry.url, "--data-dir", data];
        words.iter().chain(flags).chain(&["--"]).map(|word| (*word).to_owned()).collect()
    }

    async fn run(&self, project: &Project, flags: &[&str], arguments: &[&str]) -> Said {
        project.run_behind(self.prefix(flags), arguments).await
    }
}

/// A registry by the machine's clock: left-pad with an old and a young version, and a package of a scope.
pub async fn published() -> Registry {
    let registry = Registry::start(&machine_clock()).await;
    registry.publish(Package::new("left-pad", "1.0.0").aged(days(100)));
    // Too old for what clients hold back by themselves, a day at most, and too young for us.
    registry.publish(Package::new("left-pad", "1.1.0").aged(hours(30)));
    registry.publish(Package::new("@acme/core", "3.0.0").aged(days(100)));
    registry.absent("pnpm");
    registry
}

/// pnpm and deno ask for attestations, of which there are none.
pub fn forgive(registry: &Registry) {
    let undeclared = registry.take_undeclared();
    assert!(undeclared.iter().all(|asked| asked.contains("/-/npm/v1/attestations/")), "{undeclared:?}");
}

/// What the clients call their lockfiles.
pub const LOCKFILES: [&str; 5] = ["package-lock.json", "pnpm-lock.yaml", "yarn.lock", "bun.lock", "deno.lock"];

/// The address under which a public lockfile names its tarballs.
fn public() -> String {
    coldframe::upstream::npmrc::npm_default_registry().as_str().trim_end_matches('/').to_owned()
}

/// Puts another address into every lockfile of a project.
fn readdress(folder: &Path, from: &str, to: &str) {
    for name in LOCKFILES {
        if let Ok(text) = std::fs::read_to_string(folder.join(name)) {
            std::fs::write(folder.join(name), text.replace(from, to)).expect("room");
        }
    }
}

#[tokio::test]
async fn it_installs_and_what_is_young_is_not_installed() {
    let place = Place::make().await;
    for tool in Tool::ALL {
        let project = Project::new(tool, &[("left-pad", "^1.0.0"), ("@acme/core", "^3.0.0")]);
        let said = place.run(&project, &[], &["install"]).await;
        assert_eq!(said.code, 0, "{tool:?}:\n{}", said.text);
        assert_eq!(project.installed("left-pad").as_deref(), Some("1.0.0"), "{tool:?}");
        assert_eq!(project.installed("@acme/core").as_deref(), Some("3.0.0"), "{tool:?}");
        for part in [
            "coldframe: 2 packages",
            "held back    left-pad@1.1.0, wanted as `^1.0.0` by package.json: published",
            "minimum release age 72 h",
            "; opens ",
        ] {
            assert!(said.text.contains(part), "{tool:?}: {part:?} is missing:\n{}", said.text);
        }
        // It goes on being a lockfile of the registry: no port of ours stands in it.
        let again = place.run(&project.elsewhere(), &[], tool.frozen()).await;
        assert_eq!(again.code, 0, "{tool:?}:\n{}", again.text);
    }
    forgive(&place.registry);
}

#[tokio::test]
async fn yarn_3_installs_too_and_what_is_young_is_refused() {
    let place = Place::make().await;
    let project = Project::new(Tool::Yarn3, &[("left-pad", "^1.0.0")]);
    let said = place.run(&project, &[], &["install"]).await;
    assert_eq!((said.code, project.installed("left-pad").as_deref()), (0, Some("1.0.0")), "{}", said.text);
    let project = Project::new(Tool::Yarn3, &[("left-pad", "1.1.0")]);
    let said = place.run(&project, &[], &["install"]).await;
    assert_ne!(said.code, 0, "{}", said.text);
    assert!(said.text.contains("stopped by   left-pad@1.1.0, wanted by package.json"), "{}", said.text);
}

/// What leads a client to the registry without us.
fn directly(registry: &str) -> Vec<String> {
    let variables = REGISTRY_VARIABLES.iter().map(|name| format!("{name}={registry}/"));
    let allowed = "YARN_UNSAFE_HTTP_WHITELIST=127.0.0.1".to_owned();
    ["env".to_owned(), allowed].into_iter().chain(variables).collect()
}

#[tokio::test]
async fn a_lockfile_that_names_the_registrys_own_places_works_directly_and_behind_it() {
    let place = Place::make().await;
    let digest = "0".repeat(40);
    for (name, path) in [
        ("@acme/github", format!("/download/@acme/github/1.0.0/{digest}")),
        ("@acme/gitlab", "/api/v4/projects/7/packages/npm/@acme/gitlab/-/@acme/gitlab-1.0.0.tgz".to_owned()),
        ("@acme/artifactory", "/@acme/artifactory/-/@acme/artifactory-1.0.0.tgz".to_owned()),
    ] {
        place.registry.publish(Package::new(name, "1.0.0").at_path(&path).aged(days(100)));
    }
    let dependencies = [("@acme/github", "1.0.0"), ("@acme/gitlab", "1.0.0"), ("@acme/artifactory", "1.0.0")];
    let direct = directly(&place.registry.url);
    for tool in Tool::ALL {
        let is_installed = |project: &Project| dependencies.iter().all(|(name, _)| project.installed(name).is_some());
        let project = Project::new(tool, &dependencies);
        let said = project.run_behind(direct.clone(), &["install"]).await;
        assert!(said.code == 0 && is_installed(&project), "{tool:?}:\n{}", said.text);
        let project = project.elsewhere();
        let said = place.run(&project, &[], tool.frozen()).await;
        assert!(said.code == 0 && is_installed(&project), "{tool:?} behind coldframe:\n{}", said.text);
        let project = Project::new(tool, &dependencies);
        let said = place.run(&project, &[], &["install"]).await;
        assert!(said.code == 0 && is_installed(&project), "{tool:?} behind coldframe:\n{}", said.text);
        let project = project.elsewhere();
        let said = project.run_behind(direct.clone(), tool.frozen()).await;
        assert!(said.code == 0 && is_installed(&project), "{tool:?} directly:\n{}", said.text);
    }
    forgive(&place.registry);
}

#[tokio::test]
async fn a_lockfile_that_pins_the_young_version_is_refused_whomever_it_names() {
    let place = Place::make().await;
    let registry = place.registry.url.clone();
    for tool in Tool::ALL {
        for named in [registry.as_str(), &public(), "http://127.0.0.1:14873"] {
            let project = Project::new(tool, &[("left-pad", "1.1.0")]);
            let said = place.run(&project, &["--min-release-age", "0s"], &["install"]).await;
            assert_eq!((said.code, project.installed("left-pad").as_deref()), (0, Some("1.1.0")), "{tool:?}:\n{}", said.text);
            let project = project.elsewhere();
            readdress(project.folder(), &registry, named);
            let said = place.run(&project, &["--listen", "127.0.0.1:14873", "--min-release-age", "1h"], tool.frozen()).await;
            assert_eq!(
                (said.code, project.installed("left-pad").as_deref()),
                (0, Some("1.1.0")),
                "{tool:?} {named}:\n{}",
                said.text
            );
            let project = project.elsewhere();
            let said = place.run(&project, &["--listen", "127.0.0.1:14873"], tool.frozen()).await;
            assert_ne!(said.code, 0, "{tool:?} {named}:\n{}", said.text);
            assert_eq!(project.installed("left-pad"), None, "{tool:?} {named}");
            for part in [
                "left-pad@1.1.0",
                "minimum release age 72 h",
                "opens ",
                "newest allowed: 1.0.0",
                "coldframe approve left-pad@1.1.0",
            ] {
                assert!(said.text.contains(part), "{tool:?} {named}: {part:?} is missing:\n{}", said.text);
            }
        }
    }
    forgive(&place.registry);
}

#[tokio::test]
async fn files_of_the_project_lead_nobody_past_it() {
    let place = Place::make().await;
    let registry = &place.registry.address;
    for tool in Tool::ALL {
        let project = Project::new(tool, &[("left-pad", "^1.0.0")]);
        let dead = "http://127.0.0.1:9";
        let npmrc = format!(
            "registry={dead}/\nhttps-proxy={dead}/\nproxy={dead}/\nnoproxy=127.0.0.1,{registry}\nno-proxy=127.0.0.1,{registry}\n"
        );
        let write = |name: &str, text: &str| std::fs::write(project.folder().join(name), text).expect("room");
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
        let said = place.run(&project, &[], &["install"]).await;
        assert_eq!(said.code, 0, "{tool:?}:\n{}", said.text);
        assert_eq!(project.installed("left-pad").as_deref(), Some("1.0.0"), "{tool:?}:\n{}", said.text);
    }
}
