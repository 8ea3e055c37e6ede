//! Every client through the gateway, and behind a redirect of the packet filter, with the registry it asks unless it is told
//! otherwise: what it installs, which lockfiles are refused, what its user is told, and that no lockfile names us.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::program::{Program, coldframe, run};
use crate::registry::Registry;
use crate::run::{LOCKFILES, forgive, published};
use crate::tool::{Project, Said, Tool, fetched};

/// How a client comes in.
#[derive(Debug, Clone, Copy)]
enum Door {
    /// It is told of a proxy.
    Gateway,
    /// It is told of nothing.
    Transparent,
}

/// A registry, a Coldframe before it in a process of its own, and what clients have to trust.
struct Place {
    door: Door,
    registry: Registry,
    data: TempDir,
    program: Option<Program>,
}

impl Place {
    async fn open(door: Door, age: &str) -> Self {
        let mut place = Self { door, registry: published().await, data: TempDir::new().unwrap(), program: None };
        place.hold(age);
        place
    }

    /// It starts, or starts again, and holds releases for so long.
    fn hold(&mut self, age: &str) {
        // Its ports and its data directory are free again.
        drop(self.program.take());
        let door = match self.door {
            Door::Gateway => ["--gateway", "127.0.0.1:0"],
            Door::Transparent => ["--transparent", "127.0.0.1:8443"],
        };
        let flags = [&door[..], &["--min-release-age", age]].concat();
        self.program = Some(Program::serve(self.data.path(), self.data.path(), &self.registry.url, &flags));
        let mut export = coldframe(self.data.path());
        export.args(["ca", "export", "--upstream", &self.registry.url, "--data-dir"]).arg(self.data.path());
        let (code, certificates, errors) = run(&mut export);
        assert_eq!(code, 0, "{errors}");
        std::fs::write(self.data.path().join("trusted.pem"), certificates).unwrap();
    }

    async fn run(&self, project: &Project, arguments: &[&str]) -> Said {
        let greeting = &self.program.as_ref().unwrap().greeting;
        let gateway = greeting.lines().find_map(|line| line.trim_start().strip_prefix("gateway")?.trim_start().split(',').next());
        project.run_behind_proxy(gateway, &self.data.path().join("trusted.pem"), arguments).await
    }
}

async fn what_is_young_is_not_installed(door: Door) {
    let place = Place::open(door, "72h").await;
    for tool in Tool::ALL {
        let project = Project::new(tool, &[("left-pad", "^1.0.0"), ("@acme/core", "^3.0.0")]);
        let said = place.run(&project, &["install"]).await;
        assert_eq!(said.code, 0, "{tool:?}:\n{}", said.text);
        assert_eq!(project.installed("left-pad").as_deref(), Some("1.0.0"), "{tool:?}");
        assert_eq!(project.installed("@acme/core").as_deref(), Some("3.0.0"), "{tool:?}");
        assert_names_nobody_here(tool, project.folder());
        let project = project.elsewhere();
        let again = place.run(&project, tool.frozen()).await;
        assert_eq!((again.code, project.installed("left-pad").as_deref()), (0, Some("1.0.0")), "{tool:?}:\n{}", again.text);
    }
    forgive(&place.registry);
}

async fn a_lockfile_that_pins_it_is_refused_with_the_reason(door: Door) {
    let mut place = Place::open(door, "0s").await;
    let mut projects = Vec::new();
    for tool in Tool::ALL {
        let project = Project::new(tool, &[("left-pad", "1.1.0")]);
        let said = place.run(&project, &["install"]).await;
        assert_eq!((said.code, project.installed("left-pad").as_deref()), (0, Some("1.1.0")), "{tool:?}:\n{}", said.text);
        assert_names_nobody_here(tool, project.folder());
        projects.push((tool, project.elsewhere()));
    }
    place.hold("72h");
    for (tool, project) in projects {
        let said = place.run(&project, tool.frozen()).await;
        assert_ne!(said.code, 0, "{tool:?}:\n{}", said.text);
        assert_eq!(project.installed("left-pad"), None, "{tool:?}");
        // What reaches a user of these three is the number alone, whatever is sent.
        let told: &[&str] = match tool {
            Tool::Pnpm12 | Tool::Yarn1 | Tool::Bun => &["403"],
            _ => &["403", "left-pad@1.1.0 is held by coldframe", "minimum release age 72 h", "newest allowed: 1.0.0"],
        };
        for part in told {
            assert!(said.text.contains(part), "{tool:?}: {part:?} is missing:\n{}", said.text);
        }
    }
    forgive(&place.registry);
}

/// Of the registry it is a lockfile, and not of this machine.
fn assert_names_nobody_here(tool: Tool, folder: &Path) {
    let texts: Vec<_> = LOCKFILES.iter().filter_map(|name| std::fs::read_to_string(folder.join(name)).ok()).collect();
    assert!(texts.iter().any(|text| text.contains("left-pad")), "{tool:?}: no lockfile");
    assert!(!texts.iter().any(|text| text.contains("127.0.0.1")), "{tool:?}: {texts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn through_the_gateway_what_is_young_is_not_installed() {
    what_is_young_is_not_installed(Door::Gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn through_the_gateway_a_lockfile_that_pins_it_is_refused_with_the_reason() {
    a_lockfile_that_pins_it_is_refused_with_the_reason(Door::Gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_redirect_what_is_young_is_not_installed() {
    if is_enclosed("doors::behind_a_redirect_what_is_young_is_not_installed") {
        what_is_young_is_not_installed(Door::Transparent).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_redirect_a_lockfile_that_pins_it_is_refused_with_the_reason() {
    if is_enclosed("doors::behind_a_redirect_a_lockfile_that_pins_it_is_refused_with_the_reason") {
        a_lockfile_that_pins_it_is_refused_with_the_reason(Door::Transparent).await;
    }
}

/// Says that this process is the one in the namespace.
const ENCLOSED: &str = "COLDFRAME_TEST_ENCLOSED";

/// Runs this test again in a network of its own. The registries' names lead to an address of a network that is documentation's,
/// which that network has itself; port 443 of it is redirected, and clients are told of nothing.
const ENCLOSE: &str = r#"
set -eu
ip link set lo up
ip address add 198.51.100.20/32 dev lo
nft -f - <<'RULES'
table ip coldframe {
    chain output {
        type nat hook output priority -100; policy accept;
        ip daddr 198.51.100.20 tcp dport 443 redirect to :8443
    }
}
RULES
mount --bind "$HOSTS" /etc/hosts
exec "$@"
"#;

/// Whether this process is in a network of its own. Elsewhere it runs the test of this name there, or says why it cannot.
fn is_enclosed(test: &str) -> bool {
    #[expect(clippy::disallowed_methods, reason = "how else would a process tell what it was started for")]
    let is_inside = std::env::var_os(ENCLOSED).is_some();
    if is_inside {
        return true;
    }
    // Inside there is no network to fetch them over.
    fetched();
    let folder = TempDir::new().unwrap();
    let default = coldframe::upstream::npmrc::npm_default_registry();
    let names = [default.host_str().unwrap(), coldframe::upstream::npmrc::yarn_registry_host().unwrap()];
    let hosts = folder.path().join("hosts");
    std::fs::write(&hosts, format!("127.0.0.1 localhost\n198.51.100.20 {}\n", names.join(" "))).unwrap();
    let enclosed = |words: &[&std::ffi::OsStr]| {
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "sh", "-c", ENCLOSE, "sh"]).args(words).env(ENCLOSED, "1").env("HOSTS", &hosts);
        let ended = command.stdin(Stdio::null()).output().map(|output| {
            let text = [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat();
            (output.status.success(), text)
        });
        ended.unwrap_or_else(|error| (false, format!("unshare: {error}")))
    };
    if let (false, why) = enclosed(&["true".as_ref()]) {
        // Past the harness, which keeps to itself what tests that pass say.
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}, which needs root, iproute2 and nftables: {}", why.trim());
        return false;
    }
    let this = std::env::current_exe().unwrap();
    let (succeeded, text) = enclosed(&[this.as_os_str(), test.as_ref(), "--exact".as_ref(), "--nocapture".as_ref()]);
    assert!(succeeded && text.contains("1 passed"), "{text}");
    false
}
