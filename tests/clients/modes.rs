//! Every client with its default registry, through the gateway and behind a packet filter's redirect: what it installs, which
//! lockfiles are refused and with which text. No lockfile may contain Coldframe's address.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::package_manager::{Output, Project, Tool, fetch_clients};
use crate::process::{Program, coldframe, run};
use crate::registry::Registry;
use crate::run::{LOCKFILES, assert_only_attestations_undeclared, start_registry};

/// How clients reach Coldframe.
#[derive(Debug, Clone, Copy)]
enum Mode {
    /// The client is configured with a proxy.
    Gateway,
    /// The packet filter redirects the client.
    Transparent,
}

/// A registry, a Coldframe process in front of it, and the certificates that clients must trust.
struct Fixture {
    mode: Mode,
    registry: Registry,
    data: TempDir,
    program: Option<Program>,
}

impl Fixture {
    async fn new(mode: Mode, age: &str) -> Self {
        let mut fixture = Self { mode, registry: start_registry().await, data: TempDir::new().unwrap(), program: None };
        fixture.serve_with_age(age);
        fixture
    }

    /// Starts or restarts Coldframe with this minimum age.
    fn serve_with_age(&mut self, age: &str) {
        // Stop the previous process first, to free its ports and data directory.
        drop(self.program.take());
        let mode = match self.mode {
            Mode::Gateway => ["--gateway", "127.0.0.1:0"],
            Mode::Transparent => ["--transparent", "127.0.0.1:8443"],
        };
        let flags = [&mode[..], &["--min-release-age", age]].concat();
        self.program = Some(Program::serve(self.data.path(), self.data.path(), &self.registry.url, &flags));
        let mut export = coldframe(self.data.path());
        export.args(["ca", "export", "--upstream", &self.registry.url, "--data-dir"]).arg(self.data.path());
        let (code, certificates, errors) = run(&mut export);
        assert_eq!(code, 0, "{errors}");
        std::fs::write(self.data.path().join("trusted.pem"), certificates).unwrap();
    }

    async fn run(&self, project: &Project, arguments: &[&str]) -> Output {
        let greeting = &self.program.as_ref().unwrap().greeting;
        let gateway = greeting.lines().find_map(|line| line.trim_start().strip_prefix("gateway")?.trim_start().split(',').next());
        project.run_through_proxy(gateway, &self.data.path().join("trusted.pem"), arguments).await
    }
}

async fn check_held_versions_are_not_installed(mode: Mode) {
    let fixture = Fixture::new(mode, "72h").await;
    for tool in Tool::ALL {
        let project = Project::new(tool, &[("left-pad", "^1.0.0"), ("@acme/core", "^3.0.0")]);
        let output = fixture.run(&project, &["install"]).await;
        assert_eq!(output.code, 0, "{tool:?}:\n{}", output.text);
        assert_eq!(project.installed("left-pad").as_deref(), Some("1.0.0"), "{tool:?}");
        assert_eq!(project.installed("@acme/core").as_deref(), Some("3.0.0"), "{tool:?}");
        assert_no_local_address(tool, project.folder());
        let project = project.fresh_checkout();
        let again = fixture.run(&project, tool.frozen()).await;
        assert_eq!((again.code, project.installed("left-pad").as_deref()), (0, Some("1.0.0")), "{tool:?}:\n{}", again.text);
    }
    assert_only_attestations_undeclared(&fixture.registry);
}

async fn check_lockfile_with_held_version_is_refused(mode: Mode) {
    let mut fixture = Fixture::new(mode, "0s").await;
    let mut projects = Vec::new();
    for tool in Tool::ALL {
        let project = Project::new(tool, &[("left-pad", "1.1.0")]);
        let output = fixture.run(&project, &["install"]).await;
        assert_eq!((output.code, project.installed("left-pad").as_deref()), (0, Some("1.1.0")), "{tool:?}:\n{}", output.text);
        assert_no_local_address(tool, project.folder());
        projects.push((tool, project.fresh_checkout()));
    }
    fixture.serve_with_age("72h");
    for (tool, project) in projects {
        let output = fixture.run(&project, tool.frozen()).await;
        assert_ne!(output.code, 0, "{tool:?}:\n{}", output.text);
        assert_eq!(project.installed("left-pad"), None, "{tool:?}");
        // These three print only the status, whatever the response contains.
        let expected: &[&str] = match tool {
            Tool::Pnpm12 | Tool::Yarn1 | Tool::Bun => &["403"],
            _ => &["403", "left-pad@1.1.0 is held by coldframe", "minimum release age 72 h", "newest allowed: 1.0.0"],
        };
        for part in expected {
            assert!(output.text.contains(part), "{tool:?}: {part:?} is missing:\n{}", output.text);
        }
    }
    assert_only_attestations_undeclared(&fixture.registry);
}

/// Asserts that the lockfile contains no address of this machine.
fn assert_no_local_address(tool: Tool, folder: &Path) {
    let texts: Vec<_> = LOCKFILES.iter().filter_map(|name| std::fs::read_to_string(folder.join(name)).ok()).collect();
    assert!(texts.iter().any(|text| text.contains("left-pad")), "{tool:?}: no lockfile");
    assert!(!texts.iter().any(|text| text.contains("127.0.0.1")), "{tool:?}: {texts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_held_versions_are_not_installed() {
    check_held_versions_are_not_installed(Mode::Gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_lockfile_with_held_version_is_refused_with_reason() {
    check_lockfile_with_held_version_is_refused(Mode::Gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redirected_held_versions_are_not_installed() {
    if is_enclosed("modes::redirected_held_versions_are_not_installed") {
        check_held_versions_are_not_installed(Mode::Transparent).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redirected_lockfile_with_held_version_is_refused_with_reason() {
    if is_enclosed("modes::redirected_lockfile_with_held_version_is_refused_with_reason") {
        check_lockfile_with_held_version_is_refused(Mode::Transparent).await;
    }
}

/// Set in the process that runs inside the namespace.
const ENCLOSED: &str = "COLDFRAME_TEST_ENCLOSED";

/// Runs this test again in its own network namespace. The registries' names resolve to a documentation address on its loopback
/// interface, whose port 443 is redirected. Clients have no proxy configuration.
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

/// Whether this process runs in its own network namespace. If not, runs the named test in one, or prints why it cannot.
fn is_enclosed(test: &str) -> bool {
    #[expect(clippy::disallowed_methods, reason = "the parent process sets it")]
    let is_inside = std::env::var_os(ENCLOSED).is_some();
    if is_inside {
        return true;
    }
    // Fetch the clients first: the namespace has no outside network.
    fetch_clients();
    let folder = TempDir::new().unwrap();
    let default = coldframe::upstream::npmrc::npm_default_registry();
    let names = [default.host_str().unwrap(), coldframe::upstream::npmrc::yarn_registry_host().unwrap()];
    let hosts = folder.path().join("hosts");
    std::fs::write(&hosts, format!("127.0.0.1 localhost\n198.51.100.20 {}\n", names.join(" "))).unwrap();
    let run_enclosed = |words: &[&std::ffi::OsStr]| {
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "sh", "-c", ENCLOSE, "sh"]).args(words).env(ENCLOSED, "1").env("HOSTS", &hosts);
        let result = command.stdin(Stdio::null()).output().map(|output| {
            let text = [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat();
            (output.status.success(), text)
        });
        result.unwrap_or_else(|error| (false, format!("unshare: {error}")))
    };
    if let (false, why) = run_enclosed(&["true".as_ref()]) {
        // Written directly: the test harness captures the output of tests that pass.
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}, needs root, iproute2 and nftables: {}", why.trim());
        return false;
    }
    let this = std::env::current_exe().unwrap();
    let (succeeded, text) = run_enclosed(&[this.as_os_str(), test.as_ref(), "--exact".as_ref(), "--nocapture".as_ref()]);
    assert!(succeeded && text.contains("1 passed"), "{text}");
    false
}
