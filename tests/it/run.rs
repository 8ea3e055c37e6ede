//! `coldframe run` with its own Coldframe: the environment directs the command to it, the exit code is passed on, and no file,
//! process or port remains.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use base64::Engine as _;
use serde_json::Value;
use tempfile::TempDir;

use crate::client::Ask;
use crate::package::{Package, hours};
use crate::process::{coldframe, machine_clock, run};
use crate::raw_http::Response;
use crate::registry::Registry;

/// A registry with an old and a held left-pad, a home, a data directory and a temporary directory.
pub struct Fixture {
    pub home: TempDir,
    pub data: TempDir,
    pub scratch: TempDir,
    pub registry: Registry,
}

impl Fixture {
    pub async fn new() -> Self {
        let registry = Registry::start(&machine_clock()).await;
        registry.publish(Package::new("left-pad", "1.0.0"));
        registry.publish(Package::new("left-pad", "1.1.0").aged(hours(5)));
        let folder = || TempDir::new().unwrap();
        Self { home: folder(), data: folder(), scratch: folder(), registry }
    }

    pub fn command(&self, flags: &[&str], words: &[&str]) -> Command {
        let mut command = coldframe(self.home.path());
        command.env("PATH", "/usr/bin:/bin").env("TMPDIR", self.scratch.path());
        command.args(["run", "--upstream", &self.registry.url, "--data-dir"]).arg(self.data.path());
        command.args(flags).arg("--").args(words);
        command
    }

    /// Starts a command that prints its environment and then waits for the end of its input.
    pub fn start(&self, flags: &[&str]) -> Running {
        Running::start(&mut self.command(flags, &["sh", "-c", "env; echo; exec cat >/dev/null"]))
    }

    /// Starts a shell script.
    pub fn start_with(&self, script: &str) -> Running {
        Running::start(&mut self.command(&[], &["sh", "-c", script]))
    }

    /// Whether the temporary directory is empty.
    pub fn is_clean(&self) -> bool {
        std::fs::read_dir(self.scratch.path()).unwrap().next().is_none()
    }

    /// The URL of a path on the registry.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.registry.url)
    }
}

/// A command that waits for the end of its input.
pub struct Running {
    pub child: Child,
    input: Option<ChildStdin>,
    environment: Vec<(String, String)>,
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let printed = lines.by_ref().map(Result::unwrap).take_while(|line| !line.is_empty());
        let environment =
            printed.filter_map(|line| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())));
        let environment = environment.collect();
        Self { input: child.stdin.take(), child, environment }
    }

    pub fn variable(&self, name: &str) -> Option<&str> {
        self.environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn gateway(&self) -> SocketAddr {
        self.proxy().1.parse().unwrap()
    }

    /// The proxy credentials, as `name:password`.
    pub fn pass(&self) -> &str {
        self.proxy().0
    }

    fn proxy(&self) -> (&str, &str) {
        let proxy = self.variable("HTTP_PROXY").unwrap_or_else(|| panic!("no proxy: {:?}", self.environment));
        proxy.trim_start_matches("http://").trim_end_matches('/').split_once('@').unwrap()
    }

    /// Sends a request through the gateway with the run's credentials.
    pub async fn ask(&self, url: &str) -> Response {
        self.ask_as(self.pass(), url).await
    }

    /// Sends a request through the gateway with the given credentials.
    pub async fn ask_as(&self, pass: &str, url: &str) -> Response {
        let encoded = base64::engine::general_purpose::STANDARD.encode(pass);
        self.ask_unknown(url).header("proxy-authorization", &format!("Basic {encoded}")).await
    }

    /// Builds a request to the gateway without credentials, as any local process can.
    pub fn ask_unknown(&self, url: &str) -> Ask {
        let host = url.trim_start_matches("http://").split('/').next().unwrap();
        Ask::new(self.gateway(), "GET", url).header("host", host)
    }

    /// Ends the command. Returns the exit code and the standard error.
    pub fn end(mut self) -> (i32, String) {
        drop(self.input.take());
        let mut errors = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        (self.child.wait().unwrap().code().unwrap_or(-1), errors)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn command_uses_the_gateway_and_summary_lists_held_and_refused_versions() {
    let fixture = Fixture::new().await;
    let report = fixture.home.path().join("report.md");
    std::fs::write(&report, "before\n").unwrap();
    let running = fixture.start(&["--report", report.to_str().unwrap()]);
    let packument = running.ask(&fixture.url("/left-pad")).await;
    assert_eq!(packument.versions(), ["1.0.0"]);
    // The tarball URL is the registry's, so the lockfile is the same as without Coldframe.
    assert_eq!(packument.json()["versions"]["1.0.0"]["dist"]["tarball"], fixture.url("/left-pad/-/left-pad-1.0.0.tgz"));
    running.ask(&fixture.url("/left-pad/-/left-pad-1.0.0.tgz")).await.is(200);
    running.ask(&fixture.url("/left-pad/-/left-pad-1.1.0.tgz")).await.is(403);
    let gateway = running.gateway();
    let (code, errors) = running.end();
    assert_eq!(code, 0, "{errors}");
    for part in [
        "coldframe: 1 package, 0 from the cache; 1 with newer releases held back; 1 refused",
        "refused      left-pad@1.1.0 is held by coldframe: published",
        "held back    left-pad@1.1.0: published",
        "minimum release age 72 h (rule minimum-age); opens ",
        "newest allowed: 1.0.0",
        "coldframe approve left-pad@1.1.0 --reason",
    ] {
        assert!(errors.contains(part), "{part:?} is missing:\n{errors}");
    }
    let page = std::fs::read_to_string(&report).unwrap();
    assert!(page.starts_with("before\n### Coldframe: `sh -c") && page.contains("| left-pad@1.1.0 is held"), "{page}");
    assert!(fixture.is_clean());
    assert!(std::net::TcpStream::connect(gateway).is_err(), "the port is still open");
    // A second run uses the cache in the data directory.
    let again = fixture.start(&["--json"]);
    again.ask(&fixture.url("/left-pad/-/left-pad-1.0.0.tgz")).await.is(200);
    let (_, errors) = again.end();
    let summary: Value = serde_json::from_str(errors.lines().last().unwrap()).unwrap();
    assert_eq!(summary["packages"]["fromCache"], 1, "{summary}");
    assert_eq!(fixture.registry.count("/left-pad/-/left-pad-1.0.0.tgz"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_yarn_2_projects_get_a_warning() {
    let fixture = Fixture::new().await;
    for (file, text, has_warning) in [
        ("package.json", "{\"packageManager\": \"yarn@2.4.3+sha224.00\"}", true),
        ("package.json", "{\"packageManager\": \"yarn@3.8.7\"}", false),
        (".yarnrc.yml", "yarnPath: .yarn/releases/yarn-2.4.3.cjs\n", true),
        (".yarnrc.yml", "yarnPath: .yarn/releases/yarn-4.18.1.cjs\n", false),
        (".yarnrc.yml", "yarnPath:\n  - [\n", false),
    ] {
        std::fs::write(fixture.home.path().join(file), text).unwrap();
        let (code, _, errors) = run(&mut fixture.command(&[], &["true"]));
        assert_eq!(code, 0, "{errors}");
        assert_eq!(errors.contains("yarn 2 sends no password to a proxy"), has_warning, "{text}: {errors}");
        std::fs::remove_file(fixture.home.path().join(file)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn private_tarball_is_served_only_to_an_authorized_token() {
    let fixture = Fixture::new().await;
    let secret = Package::new("@acme/secret", "1.0.0").readable_with("alice");
    let stolen = crate::package::sha512(&secret.tarball);
    fixture.registry.publish(secret.clone());
    fixture.registry.publish(Package::new("evil", "1.0.0").dist("integrity", stolen).dist("shasum", Value::Null));
    let running = fixture.start(&[]);
    let credentials = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(running.pass()));
    let ask = |path: &str| running.ask_unknown(&fixture.url(path)).header("proxy-authorization", &credentials);
    assert_eq!(ask(&secret.path()).token("alice").await.is(200).body, secret.tarball);
    for denied in [ask(&secret.path()), ask(&secret.path()).token("mallory"), ask("/evil/-/evil-1.0.0.tgz")] {
        let answer = denied.await;
        assert!(answer.status >= 400 && answer.body != secret.tarball, "{}", answer.status);
    }
    assert_eq!(running.end().0, 0);
}

/// A script that prints its environment, waits, and fails.
const FAILS: &str = "env; echo; cat >/dev/null; exit 1";

#[tokio::test(flavor = "multi_thread")]
async fn summary_of_failed_command_lists_blocking_versions_then_held_updates() {
    let fixture = Fixture::new().await;
    for (name, old, young) in [("object-inspect", "1.13.4", "1.14.0"), ("dep", "1.0.0", "2.0.0")] {
        fixture.registry.publish(Package::new(name, old));
        fixture.registry.publish(Package::new(name, young).aged(hours(3)));
    }
    fixture.registry.publish(Package::new("app", "1.0.0").depends_on("dep", "^1.0.0"));
    let manifest = r#"{"dependencies":{"left-pad":"^1.0.0","object-inspect":"1.14.0","app":"1.0.0","x":"file:../x"}}"#;
    std::fs::write(fixture.home.path().join("package.json"), manifest).unwrap();
    let running = fixture.start_with(FAILS);
    for path in ["/app", "/dep", "/left-pad", "/object-inspect"] {
        running.ask(&fixture.url(path)).await.is(200);
    }
    let (code, errors) = running.end();
    assert_eq!(code, 1, "{errors}");
    let at = |part: &str| errors.find(part).unwrap_or_else(|| panic!("{part:?} is missing:\n{errors}"));
    assert!(errors.lines().any(|line| line.contains("stopped by object-inspect@1.14.0;")), "{errors}");
    let stopped = at("stopped by   object-inspect@1.14.0, wanted by package.json: published");
    let held = at("held back    left-pad@1.1.0, wanted as `^1.0.0` by package.json: published");
    let rest = at("held back    1 package has a newer release that nothing here requests");
    assert!(stopped < held && held < rest, "{errors}");
    assert!(at("coldframe check --fix") < at("coldframe approve object-inspect@1.14.0 --reason"), "{errors}");
    assert!(!errors.contains("approve left-pad") && !errors.contains("dep@2.0.0"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn version_named_on_the_command_line_is_reported_as_blocking() {
    let fixture = Fixture::new().await;
    let running = Running::start(&mut fixture.command(&[], &["sh", "-c", FAILS, "left-pad@1.1.0"]));
    running.ask(&fixture.url("/left-pad")).await.is(200);
    let (_, errors) = running.end();
    assert!(errors.contains("stopped by   left-pad@1.1.0, wanted by this command: published"), "{errors}");
    let running = Running::start(&mut fixture.command(&["--json"], &["sh", "-c", FAILS, "left-pad@^1.1"]));
    running.ask(&fixture.url("/left-pad")).await.is(200);
    let (_, errors) = running.end();
    let summary: Value = serde_json::from_str(errors.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&summary["stoppedBy"][0]["version"], &summary["stoppedBy"][0]["spec"]),
        (&"1.1.0".into(), &"^1.1".into()),
        "{summary}"
    );
}

/// The TCP ports on which a process listens.
#[cfg(target_os = "linux")]
fn ports(process: u32) -> Vec<u16> {
    let files = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    let files: Vec<_> = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok()).collect();
    let table = ["tcp", "tcp6"].map(|table| std::fs::read_to_string(format!("/proc/{process}/net/{table}")).unwrap_or_default());
    let listens = |line: &str| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let socket = format!("socket:[{}]", columns.get(9)?);
        let port = columns.get(1)?.rsplit(':').next()?;
        let is_own = columns.get(3) == Some(&"0A") && files.iter().any(|file| *file == Path::new(&socket));
        is_own.then(|| u16::from_str_radix(port, 16).ok())?
    };
    table.iter().flat_map(|table| table.lines().filter_map(listens)).collect()
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn other_local_processes_find_one_port_and_get_407() {
    let fixture = Fixture::new().await;
    let (running, other) = (fixture.start(&["--json"]), fixture.start(&[]));
    assert_eq!(ports(running.child.id()), [running.gateway().port()]);
    let tarball = fixture.url("/left-pad/-/left-pad-1.0.0.tgz");
    let asked = running.ask_unknown(&tarball).await.is(407);
    assert!(asked.headers.first("proxy-authenticate").is_some_and(|scheme| scheme.starts_with("Basic ")), "{asked:?}");
    for credentials in [other.pass(), "run:", "run:0123456789abcdef0123456789abcdef", "eve"] {
        running.ask_as(credentials, &tarball).await.is(407);
    }
    Ask::new(running.gateway(), "CONNECT", "registry.example:443").await.is(407);
    Ask::new(running.gateway(), "GET", "/left-pad").await.is(407);
    assert_eq!(fixture.registry.total(), 0);
    running.ask(&tarball).await.is(200);
    assert!(fixture.registry.last("/left-pad/-/left-pad-1.0.0.tgz").headers.first("proxy-authorization").is_none());
    other.end();
    let (_, errors) = running.end();
    let summary: Value = serde_json::from_str(errors.lines().last().unwrap()).unwrap();
    // Requests without credentials are not part of the summary.
    assert_eq!(
        (&summary["packages"]["total"], summary["notReached"].as_array().map(Vec::len)),
        (&1.into(), Some(0)),
        "{summary}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_variable_points_to_the_gateway_and_none_bypasses_it() {
    let fixture = Fixture::new().await;
    let mut command = fixture.command(&[], &["sh", "-c", "env; echo; exec cat >/dev/null"]);
    command.env("NO_PROXY", "127.0.0.1").env("ALL_PROXY", "http://127.0.0.1:9").env("NPM_CONFIG_NOPROXY", "127.0.0.1");
    command.env("npm_config_replace_registry_host", "never");
    let running = Running::start(&mut command);
    let proxy = running.variable("HTTPS_PROXY").unwrap().to_owned();
    for name in ["http_proxy", "YARN_HTTPS_PROXY", "npm_config_proxy", "npm_config_https_proxy", "pnpm_config_proxy"] {
        assert_eq!(running.variable(name), Some(proxy.as_str()), "{name}");
    }
    for name in ["npm_config_registry", "NPM_CONFIG_REGISTRY", "pnpm_config_registry", "YARN_NPM_REGISTRY_SERVER"] {
        assert_eq!(running.variable(name).map(|url| url.trim_end_matches('/')), Some(fixture.registry.url.as_str()));
    }
    assert_eq!(running.variable("NO_PROXY"), Some("none.invalid"));
    for name in ["ALL_PROXY", "NPM_CONFIG_NOPROXY", "npm_config_replace_registry_host", "npm_config_no_proxy"] {
        assert_eq!(running.variable(name), None, "{name}");
    }
    for name in ["NODE_EXTRA_CA_CERTS", "DENO_CERT", "npm_config_cafile"] {
        let pem = std::fs::read_to_string(running.variable(name).unwrap()).unwrap();
        assert!(pem.starts_with("-----BEGIN CERTIFICATE-----") && !pem.contains("PRIVATE"), "{name}");
    }
    running.end();
    std::fs::write(fixture.home.path().join(".npmrc"), "no-proxy=127.0.0.1\n").unwrap();
    let running = fixture.start(&[]);
    assert_eq!(running.variable("npm_config_no_proxy"), Some("none.invalid"));
    running.end();
}

/// A run whose registry is not on this machine.
fn run_with_remote_registry(fixture: &Fixture) -> Command {
    let mut command = coldframe(fixture.home.path());
    command.env("PATH", "/usr/bin:/bin").env("TMPDIR", fixture.scratch.path());
    command.args(["run", "--upstream", "http://npm.registry.example/", "--data-dir"]).arg(fixture.data.path());
    command.args(["--", "sh", "-c", "env; echo; exec cat >/dev/null"]);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn local_servers_and_the_users_exceptions_are_reached_directly() {
    const LOOPBACK: &str = "localhost,.localhost,127.0.0.1,::1,[::1]";
    let fixture = Fixture::new().await;
    let mut command = run_with_remote_registry(&fixture);
    command.env("NO_PROXY", "internal.example,*,.registry.example,db.example:5432 example");
    std::fs::write(fixture.home.path().join(".npmrc"), "noproxy=wiki.example,npm.registry.example\n").unwrap();
    let running = Running::start(&mut command);
    let expected = format!("{LOOPBACK},internal.example,db.example:5432,wiki.example");
    for name in ["NO_PROXY", "no_proxy", "npm_config_noproxy", "pnpm_config_noproxy", "pnpm_config_no_proxy"] {
        assert_eq!(running.variable(name), Some(expected.as_str()), "{name}");
    }
    running.end();
    // The run overrides the line that `client-config` writes, so loopback stays reachable directly.
    std::fs::write(fixture.home.path().join(".npmrc"), "registry=http://127.0.0.1:4873/\n").unwrap();
    let running = Running::start(&mut run_with_remote_registry(&fixture));
    assert_eq!(running.variable("NO_PROXY"), Some(LOOPBACK));
    running.end();
    for (file, text) in [(".npmrc", "@acme:registry=http://localhost:4873/\n"), (".npmrc", "noproxy=wiki.example\n")] {
        std::fs::write(fixture.home.path().join(file), text).unwrap();
        let running = Running::start(&mut run_with_remote_registry(&fixture));
        let expected = if text.starts_with('@') { "none.invalid".to_owned() } else { format!("{LOOPBACK},wiki.example") };
        assert_eq!(running.variable("NO_PROXY"), Some(expected.as_str()), "{text}");
        running.end();
    }
    // An address on this machine in a lockfile counts as a registry.
    let lockfile = r#"{"lockfileVersion":3,"packages":{"node_modules/left-pad":{"version":"1.0.0","resolved":"http://localhost:4873/left-pad/-/left-pad-1.0.0.tgz"}}}"#;
    std::fs::write(fixture.home.path().join("package-lock.json"), lockfile).unwrap();
    let running = Running::start(&mut run_with_remote_registry(&fixture));
    assert_eq!(running.variable("NO_PROXY"), Some("wiki.example"));
    running.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn yarn_gets_the_ca_file_under_the_setting_of_its_version() {
    let fixture = Fixture::new().await;
    for (file, set, unset) in [
        ("nodeLinker: node-modules\n", None, &["YARN_HTTPS_CA_FILE_PATH", "YARN_CA_FILE_PATH"][..]),
        ("httpsCaFilePath: ./own.pem\n", Some("YARN_HTTPS_CA_FILE_PATH"), &["YARN_CA_FILE_PATH"][..]),
        ("caFilePath: ./own.pem\n", Some("YARN_CA_FILE_PATH"), &["YARN_HTTPS_CA_FILE_PATH"][..]),
    ] {
        std::fs::write(fixture.home.path().join(".yarnrc.yml"), file).unwrap();
        let running = fixture.start(&[]);
        for name in unset.iter().chain(&["YARN_REGISTRY"]) {
            assert_eq!(running.variable(name), None, "{name} with {file}");
        }
        if let Some(name) = set {
            let pem = std::fs::read_to_string(running.variable(name).unwrap()).unwrap();
            assert!(pem.starts_with("-----BEGIN CERTIFICATE-----"), "{name}");
        }
        running.end();
    }
    // yarn 1 prefers its own file to npm's variables. yarn 2 fails on yarn 1's variable.
    std::fs::remove_file(fixture.home.path().join(".yarnrc.yml")).unwrap();
    std::fs::write(fixture.home.path().join(".yarnrc"), "registry \"http://127.0.0.1:9/\"\n").unwrap();
    let running = fixture.start(&[]);
    assert_eq!(running.variable("YARN_REGISTRY").map(|url| url.trim_end_matches('/')), Some(fixture.registry.url.as_str()));
    running.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn lockfile_with_coldframes_address_works_though_nothing_listens_there() {
    let fixture = Fixture::new().await;
    let running = fixture.start(&["--listen", "127.0.0.1:14873"]);
    for host in ["127.0.0.1:14873", "localhost:14873"] {
        running.ask(&format!("http://{host}/left-pad/-/left-pad-1.0.0.tgz")).await.is(200);
        running.ask(&format!("http://{host}/left-pad/-/left-pad-1.1.0.tgz")).await.is(403);
    }
    running.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn other_hosts_are_blocked_and_listed_in_the_summary() {
    let fixture = Fixture::new().await;
    let other = Registry::start(&machine_clock()).await;
    let lockfile = format!(
        r#"{{"lockfileVersion":3,"packages":{{"node_modules/left-pad":{{"version":"1.0.0","resolved":"{}/left-pad/-/left-pad-1.0.0.tgz"}}}}}}"#,
        other.url
    );
    std::fs::write(fixture.home.path().join("package-lock.json"), lockfile).unwrap();
    let running = fixture.start(&[]);
    let refused = running.ask(&format!("{}/left-pad", other.url)).await.is(403);
    assert!(refused.error().contains("--allow-host"), "{refused:?}");
    let (_, errors) = running.end();
    let host = other.address.to_string();
    assert!(errors.contains(&format!("1 lockfile entries use `{host}`, which this run blocks")), "{errors}");
    assert!(errors.contains(&format!("not reached  {host}: egress refused")), "{errors}");
    assert_eq!(other.total(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_code_is_the_commands_or_128_plus_signal() {
    let fixture = Fixture::new().await;
    let code = |words: &[&str]| run(&mut fixture.command(&[], words)).0;
    assert_eq!(code(&["sh", "-c", "exit 42"]), 42);
    assert_eq!(code(&["sh", "-c", "kill -9 $$"]), 128 + 9);
    assert_eq!(code(&["no-such-program"]), 127);
    assert_eq!(code(&["/"]), 126);
    assert!(fixture.is_clean());
    assert_eq!(fixture.registry.total(), 0);
    let (code, _, errors) = run(&mut fixture.command(&["--report", "/nowhere/report.md"], &["sh", "-c", "echo ran >&2"]));
    assert!(code == 2 && errors.contains("/nowhere/report.md") && !errors.contains("ran"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stdin_and_stdout_are_passed_through() {
    let fixture = Fixture::new().await;
    let mut command = fixture.command(&[], &["cat"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"text\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"text\n"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_reach_the_command_and_its_children() {
    let fixture = Fixture::new().await;
    let signalled = |signal: &str, script: &str| {
        let mut command = fixture.command(&[], &["sh", "-c", script]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        child.wait().unwrap().code()
    };
    assert_eq!(signalled("-TERM", "trap 'exit 7' TERM; sleep 600 & echo; wait"), Some(7));
    assert_eq!(signalled("-HUP", "trap 'exit 8' HUP; sleep 600 & echo; wait"), Some(8));
    assert_eq!(signalled("-INT", "echo; exec sleep 600"), Some(128 + 2));
    assert!(fixture.is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_left_by_a_killed_command_are_terminated() {
    let fixture = Fixture::new().await;
    let (code, output, errors) = run(&mut fixture.command(&[], &["sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!; kill -9 $$"]));
    assert!(code == 137 && errors.contains("terminated processes that the command left running"), "{code} {errors}");
    let process = Path::new("/proc").join(output.trim());
    let state = std::fs::read_to_string(process.join("stat")).unwrap_or_default();
    // Without a parent that reaps it, the process remains as a zombie.
    assert!(state.is_empty() || state.contains(") Z "), "{state}");
}

#[tokio::test(flavor = "multi_thread")]
async fn scope_registries_of_other_hosts_are_reported_before_the_command_runs() {
    let fixture = Fixture::new().await;
    std::fs::write(fixture.home.path().join("package-lock.json"), r#"{"lockfileVersion":3,"packages":{}}"#).unwrap();
    // In yarn's file: Coldframe reads scopes in `.npmrc` itself and uses them as upstreams.
    std::fs::write(
        fixture.home.path().join(".yarnrc.yml"),
        "npmScopes:\n  acme:\n    npmRegistryServer: https://acme.example/npm\n",
    )
    .unwrap();
    std::fs::write(fixture.home.path().join("yarn.lock"), "__metadata:\n  version: 8\n").unwrap();
    let (code, output, errors) = run(&mut fixture.command(&[], &["sh", "-c", "echo here >&2"]));
    assert_eq!((code, output.as_str()), (0, ""), "{errors}");
    let named = errors.find("`@acme:registry` in `").unwrap_or_else(|| panic!("scope not reported: {errors}"));
    let line = errors[named..].lines().next().unwrap();
    for part in [".yarnrc.yml:3`", "points to acme.example", "this run blocks it, `--intercept HOST`"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(named < errors.find("here").unwrap(), "reported after the command ran: {errors}");
    // An intercepted host is not reported.
    let (_, _, errors) = run(&mut fixture.command(&["--intercept", "acme.example"], &["true"]));
    assert!(!errors.contains("@acme"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn summary_without_network_lists_failed_packages_and_the_upstream() {
    let fixture = Fixture::new().await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = coldframe(fixture.home.path());
    command.env("PATH", "/usr/bin:/bin").env("TMPDIR", fixture.scratch.path()).args([
        "run",
        "--upstream",
        &format!("http://{closed}/"),
    ]);
    command.arg("--data-dir").arg(fixture.data.path()).args(["--", "sh", "-c", "env; echo; cat >/dev/null; exit 9"]);
    let running = Running::start(&mut command);
    running.ask(&format!("http://{closed}/left-pad")).await.is(502);
    let (code, errors) = running.end();
    assert_eq!(code, 9, "{errors}");
    let why = format!("failed       left-pad: cannot reach upstream `{closed}`");
    for part in ["coldframe: no package was served; 1 failed", &why, "what to do:\n  coldframe doctor"] {
        assert!(errors.contains(part), "{part}: {errors}");
    }
    assert!(fixture.is_clean());
}
