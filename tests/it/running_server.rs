//! Commands on a data directory with a running server: they answer by its address, policy, feeds and decisions, and report flags
//! that differ from its settings.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::package::{Package, days, sha512};
use crate::process::{Program, coldframe, machine_clock, run};
use crate::registry::Registry;
use crate::run::Running;

/// A registry whose `left-pad@1.1.0` is ten days old, a data directory, and a lockfile with that version.
struct Fixture {
    home: TempDir,
    data: TempDir,
    registry: Registry,
    lockfile: std::path::PathBuf,
}

impl Fixture {
    async fn new() -> Self {
        let registry = Registry::start(&machine_clock()).await;
        registry.publish(Package::new("left-pad", "1.0.0").aged(days(400)));
        let young = Package::new("left-pad", "1.1.0").aged(days(10));
        let (home, data) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let lockfile = home.path().join("package-lock.json");
        let entry = json!({ "version": "1.1.0", "integrity": sha512(&young.tarball) });
        let text =
            json!({ "name": "app", "lockfileVersion": 3, "packages": { "": { "name": "app" }, "node_modules/left-pad": entry } });
        std::fs::write(&lockfile, text.to_string()).unwrap();
        registry.publish(young);
        Self { home, data, registry, lockfile }
    }

    fn serve(&self, more: &[&str]) -> Program {
        Program::serve(self.home.path(), self.data.path(), &self.registry.url, more)
    }

    /// A command that gets only the data directory, without the upstream or the server's address.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = coldframe(self.home.path());
        command.args(words).arg("--data-dir").arg(self.data.path());
        command
    }

    fn run(&self, words: &[&str]) -> (i32, String, String) {
        run(&mut self.command(words))
    }

    fn lockfile(&self) -> &str {
        self.lockfile.to_str().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verdicts_are_those_of_the_running_server() {
    let fixture = Fixture::new().await;
    let server = fixture.serve(&["--min-release-age", "30d"]);
    let url = format!("http://{}/", server.address);
    let (code, output, errors) = fixture.run(&["explain", "left-pad@1.1.0"]);
    assert!(code == 10 && output.contains("minimum release age 30 d"), "{code}: {output}{errors}");
    assert!(
        errors.contains(&format!("answered by the running server at {url}, policy: default, minimum release age 30 d")),
        "{errors}"
    );
    let (code, output, errors) = fixture.run(&["explain", "left-pad@1.1.0", "--json"]);
    let explained: Value = serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"));
    assert!(code == 10 && explained["upstream"].as_str().unwrap().starts_with(&fixture.registry.url), "{output}{errors}");
    let (code, output, errors) = fixture.run(&["check", fixture.lockfile()]);
    assert!(code == 75 && output.contains("left-pad"), "{code}: {output}{errors}");
    let (code, output, errors) = fixture.run(&["adopt", "--dry-run", fixture.lockfile()]);
    assert!(code == 0 && output.contains("1 adopted, 0 left out, 0 already allowed"), "{code}: {output}{errors}");
    server.get("/left-pad/-/left-pad-1.1.0.tgz").await.is(403);
    let (code, output, errors) = fixture.run(&["approve", "left-pad@1.1.0", "--reason", "INC-7"]);
    assert!(code == 0 && output.contains("decision 1: approve left-pad"), "{code}: {output}{errors}");
    server.get("/left-pad/-/left-pad-1.1.0.tgz").await.is(200);
    // The decision applies, and the command sees the server's latest ledger rows.
    let (code, output, errors) = fixture.run(&["explain", "left-pad@1.1.0"]);
    assert!(code == 0 && output.contains("INC-7"), "{code}: {output}{errors}");
    let (code, output, errors) = fixture.run(&["exposure", "left-pad@1.1.0"]);
    assert!(code == 0 && output.contains("served") && output.contains("refused by minimum-age"), "{code}: {output}{errors}");
    // After the server stops, the command's own settings apply.
    server.signal("-TERM");
    assert_eq!(server.wait_for_exit().await.0, 0);
    let (code, output, errors) = run(fixture.command(&["explain", "left-pad@1.0.0"]).args(["--upstream", &fixture.registry.url]));
    assert!(code == 0 && output.contains("72 h") && !errors.contains("the running server"), "{code}: {output}{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_print_the_running_servers_address() {
    let fixture = Fixture::new().await;
    let server = fixture.serve(&["--min-release-age", "30d"]);
    let url = format!("http://{}/", server.address);
    let (code, output, errors) = fixture.run(&["client-config", "npm"]);
    assert!(
        code == 0 && output.contains(&format!("registry={url}")) && output.contains("min-release-age=30"),
        "{output}{errors}"
    );
    std::fs::write(fixture.home.path().join(".npmrc"), format!("registry={url}\n")).unwrap();
    let (code, output, errors) = fixture.run(&["doctor"]);
    assert!(code == 0 && output.contains(&format!("Coldframe answers at {url}")), "{code}: {output}{errors}");
    assert!(output.contains("npm asks Coldframe") && !output.contains(":4873"), "{output}");
    assert_eq!(fixture.run(&["healthcheck"]), (0, String::new(), String::new()));
    // A server named by its address is queried, with a note that it is another one.
    let (home, data) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let other = Program::serve(home.path(), data.path(), &fixture.registry.url, &["--min-release-age", "2d"]);
    let named = format!("http://{}/", other.address);
    let (code, output, errors) = fixture.run(&["client-config", "npm", "--url", &named]);
    assert!(
        code == 0 && output.contains("min-release-age=2") && output.contains("not the server on the local data directory"),
        "{output}{errors}"
    );
    let (_, output, errors) = fixture.run(&["doctor", "--server", &named]);
    assert!(output.contains(&format!("the server at {named} does not use the data directory")), "{output}{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn flag_that_differs_from_the_server_is_reported_with_its_effect() {
    let fixture = Fixture::new().await;
    let _server = fixture.serve(&["--min-release-age", "30d"]);
    let (code, output, errors) = fixture.run(&["explain", "left-pad@1.1.0", "--min-release-age", "1h"]);
    assert!(code == 10 && output.contains("30 d"), "{code}: {output}{errors}");
    for part in
        ["--min-release-age: `min-release-age` is 1h here and 30d on the server", "with the settings of this command: allowed"]
    {
        assert!(errors.contains(part), "{part}: {errors}");
    }
    // The same age in another unit is the same policy.
    let (_, _, errors) = fixture.run(&["explain", "left-pad@1.1.0", "--min-release-age", "720h"]);
    assert!(!errors.contains("on the server"), "{errors}");
    let mut command = fixture.command(&["check", fixture.lockfile()]);
    let (code, _, errors) = run(command.env("COLDFRAME_EXCLUDE", "left-pad").env("COLDFRAME_FEED", "/nowhere"));
    assert_eq!(code, 75, "{errors}");
    for part in
        ["COLDFRAME_EXCLUDE: `exclude` is left-pad here and none on the server", "COLDFRAME_FEED: `feed` is /nowhere here"]
    {
        assert!(errors.contains(part), "{part}: {errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_server_address_answers_by_its_own_policy() {
    let fixture = Fixture::new().await;
    let loose = fixture.home.path().join("loose.toml");
    std::fs::write(&loose, "[[rule]]\nid = \"minimum-age\"\nhold = \"1h\"\nreason = \"x\"\n").unwrap();
    let listen = format!("127.0.0.1:0={}", loose.display());
    let server = fixture.serve(&["--min-release-age", "30d"]);
    drop(server);
    let mut command = coldframe(fixture.home.path());
    let first = fixture.home.path().join("strict.toml");
    std::fs::write(&first, "[[rule]]\nid = \"own-age\"\nhold = \"30d\"\nreason = \"x\"\n").unwrap();
    command.args(["serve", "--upstream", &fixture.registry.url, "--listen"]).arg(format!("127.0.0.1:0={}", first.display()));
    let server = Program::start(command.args(["--listen", &listen, "--data-dir"]).arg(fixture.data.path()));
    // The policy of the first address applies, not the default one, which no address uses.
    let (code, output, errors) = fixture.run(&["explain", "left-pad@1.1.0"]);
    assert!(code == 10 && output.contains("own-age"), "{code}: {output}{errors}");
    assert!(errors.contains("loose.toml") && errors.contains(": allowed"), "{errors}");
    let named = loose.to_str().unwrap();
    let (code, output, errors) = fixture.run(&["explain", "left-pad@1.1.0", "--policy", named]);
    assert!(code == 0 && !errors.contains("on the server"), "{code}: {output}{errors}");
    let (code, output, _) = fixture.run(&["check", fixture.lockfile(), "--policy", named]);
    assert_eq!(code, 0, "{output}");
    let (_, output, _) = fixture.run(&["client-config", "npm", "--policy", named]);
    assert!(output.contains("registry=http://127.0.0.1:") && !output.contains(&server.address.to_string()), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn command_fails_if_the_server_has_no_control_socket() {
    let fixture = Fixture::new().await;
    // The path is too long for a socket.
    let deep = fixture.data.path().join("d".repeat(120));
    let server = Program::serve(fixture.home.path(), &deep, &fixture.registry.url, &["--min-release-age", "30d"]);
    let mut command = coldframe(fixture.home.path());
    command.args(["check", fixture.lockfile(), "--upstream", &fixture.registry.url, "--data-dir"]).arg(&deep);
    let (code, output, errors) = run(&mut command);
    assert!(code == 1 && output.is_empty() && errors.contains("the server has no control socket"), "{code}: {output}{errors}");
    drop(server);
    let (code, output, errors) = run(&mut command);
    assert_eq!(code, 0, "{output}{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn healthcheck_ignores_another_server_at_the_same_address() {
    let fixture = Fixture::new().await;
    let (server, other) = (fixture.serve(&[]), TempDir::new().unwrap());
    let ask = |data: &Path| {
        let mut command = coldframe(fixture.home.path());
        command.args(["healthcheck", "--upstream", &fixture.registry.url, "--listen", &server.address.to_string()]);
        run(command.arg("--data-dir").arg(data))
    };
    assert_eq!(ask(fixture.data.path()), (0, String::new(), String::new()));
    // A data directory that never had a server, then one whose server was killed.
    let (code, _, errors) = ask(&other.path().join("never"));
    assert!(code == 1 && errors.contains("no server runs on the data directory"), "{code}: {errors}");
    Program::serve(fixture.home.path(), other.path(), &fixture.registry.url, &[]).kill();
    let (code, _, errors) = ask(other.path());
    assert!(code == 1 && errors.contains("no server runs on the data directory"), "{code}: {errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn denied_version_gets_no_advice_to_approve_it() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.run(&["deny", "left-pad@1.0.0", "--reason", "INC-7"]).0, 0);
    let tarball = |version: &str| format!("{}/left-pad/-/left-pad-{version}.tgz", fixture.registry.url);
    for server in [true, false] {
        let server = server.then(|| fixture.serve(&["--min-release-age", "30d"]));
        let mut command = fixture.command(&["run"]);
        command.env("PATH", "/usr/bin:/bin").args(["--upstream", &fixture.registry.url]);
        if server.is_none() {
            command.args(["--min-release-age", "30d"]);
        }
        let running = Running::start(command.args(["--", "sh", "-c", "env; echo; exec cat >/dev/null"]));
        for version in ["1.0.0", "1.1.0"] {
            running.ask(&tarball(version)).await.is(403);
        }
        let (_, errors) = running.end();
        assert!(!errors.contains("approve left-pad@1.0.0"), "{errors}");
        assert!(errors.contains("coldframe decisions list") && errors.contains("coldframe approve left-pad@1.1.0"), "{errors}");
    }
}

/// A process that holds the data directory's lock and socket without answering.
struct UnresponsiveServer {
    _lock: std::fs::File,
    socket: UnixListener,
}

impl UnresponsiveServer {
    fn bind(data: &Path) -> Self {
        let lock = std::fs::File::create(data.join("lock")).unwrap();
        lock.try_lock().unwrap();
        Self { _lock: lock, socket: UnixListener::bind(data.join("control")).unwrap() }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn command_fails_if_the_server_does_not_answer() {
    let fixture = Fixture::new().await;
    let unresponsive = UnresponsiveServer::bind(fixture.data.path());
    // The server hangs.
    let mut command = fixture.command(&["check", fixture.lockfile()]);
    command.args(["--upstream", &fixture.registry.url]);
    let (code, output, errors) = run(&mut command);
    assert!(code == 1 && output.is_empty() && errors.contains("no answer within 5 s"), "{code}: {output}{errors}");
    let (code, _, errors) = run(fixture.command(&["healthcheck"]).args(["--upstream", &fixture.registry.url]));
    assert!(code == 1 && errors.contains("no answer within 5 s"), "{code}: {errors}");
    // The server has another version.
    let socket = unresponsive.socket.try_clone().unwrap();
    let replying = std::thread::spawn(move || {
        use std::io::{BufRead as _, Write as _};
        // Two pending connections from above, and the new one.
        for stream in socket.incoming().take(3).flatten() {
            let mut line = String::new();
            let _ = std::io::BufReader::new(&stream).read_line(&mut line);
            let _ = (&stream).write_all(b"{\"Refused\":\"the server has another version\"}\n");
        }
    });
    let (code, output, errors) = run(fixture.command(&["explain", "left-pad"]).args(["--upstream", &fixture.registry.url]));
    assert!(code == 1 && output.is_empty() && errors.contains("the server has another version"), "{code}: {output}{errors}");
    replying.join().unwrap();
    // A stale socket of a dead process is ignored.
    drop(unresponsive);
    let (code, output, errors) = run(fixture.command(&["explain", "left-pad@1.0.0"]).args(["--upstream", &fixture.registry.url]));
    assert!(code == 0 && output.contains("72 h"), "{code}: {output}{errors}");
    // A new server removes the stale socket.
    let server = fixture.serve(&["--min-release-age", "30d"]);
    assert_eq!(fixture.run(&["explain", "left-pad@1.1.0"]).0, 10);
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn command_fails_while_the_server_stops() {
    let fixture = Fixture::new().await;
    let server = fixture.serve(&["--min-release-age", "30d", "--drain-timeout", "60s"]);
    let gate = fixture.registry.hold("/left-pad");
    let asking = server.get("/left-pad").start();
    fixture.registry.wait_for_requests("/left-pad", 1).await;
    server.signal("-TERM");
    let mut command = fixture.command(&["explain", "left-pad@1.1.0"]);
    command.args(["--upstream", &fixture.registry.url]);
    // The server answers until it closes the control socket.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let (code, output, errors) = loop {
        let asked = run(fixture.command(&["healthcheck"]).args(["--upstream", &fixture.registry.url]));
        if asked.2.contains("starting or stopping") || std::time::Instant::now() > deadline {
            break run(&mut command);
        }
    };
    assert!(code == 1 && output.is_empty() && errors.contains("is starting or stopping"), "{code}: {output}{errors}");
    gate.open();
    drop(asking);
    let (code, errors) = server.wait_for_exit().await;
    assert_eq!(code, 0, "{errors}");
    assert!(!fixture.data.path().join("control").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn advised_command_uses_the_server_that_answered_the_run() {
    let fixture = Fixture::new().await;
    let server = fixture.serve(&["--min-release-age", "30d"]);
    let data = fixture.data.path().to_str().unwrap();
    let url = format!("{}/left-pad/-/left-pad-1.1.0.tgz", fixture.registry.url);
    let start = |flags: &[&str]| {
        let mut command = coldframe(fixture.home.path());
        command.env("PATH", "/usr/bin:/bin").args(["run", "--upstream", &fixture.registry.url, "--data-dir", data]).args(flags);
        Running::start(command.args(["--", "sh", "-c", "env; echo; cat >/dev/null; exit 3"]))
    };
    let running = start(&[]);
    running.ask(&url).await.is(403);
    let (code, errors) = running.end();
    assert!(code == 3 && errors.contains("using the running coldframe"), "{errors}");
    let advised = format!("coldframe explain left-pad@1.1.0 --data-dir {data}");
    assert!(errors.lines().any(|line| line.trim() == advised), "{errors}");
    let words: Vec<_> = advised.split(' ').skip(1).collect();
    assert_eq!(run(coldframe(fixture.home.path()).args(words)).0, 10);
    drop(server);
    // A run with its own Coldframe has its own flags, and so has the advised command.
    let running = start(&["--min-release-age", "20d"]);
    running.ask(&url).await.is(403);
    let (_, errors) = running.end();
    let advised =
        format!("coldframe explain left-pad@1.1.0 --upstream {} --min-release-age 20d --data-dir {data}", fixture.registry.url);
    assert!(errors.lines().any(|line| line.trim() == advised), "{errors}");
}

/// Whether this process is root. Only root can create another user's socket.
fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

#[tokio::test(flavor = "multi_thread")]
async fn control_socket_of_another_user_is_rejected() {
    use std::os::unix::process::CommandExt as _;
    if !is_root() {
        eprintln!("SKIPPED: only root can create another user's socket; the unit test in `control` covers the rest");
        return;
    }
    let fixture = Fixture::new().await;
    for folder in [fixture.home.path(), fixture.data.path()] {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    // A server of another user whose socket accepts all users.
    let mut command = coldframe(fixture.home.path());
    command.uid(65533).args(["serve", "--listen", "127.0.0.1:0", "--upstream", &fixture.registry.url, "--data-dir"]);
    let server = Program::start(command.arg(fixture.data.path()).args(["--min-release-age", "0s"]));
    std::fs::set_permissions(fixture.data.path().join("control"), std::fs::Permissions::from_mode(0o777)).unwrap();
    let mut asked = fixture.command(&["explain", "left-pad@1.1.0"]);
    let (code, output, errors) = run(asked.uid(65532));
    assert!(code == 1 && output.is_empty() && errors.contains("belongs to another user: uid 65533"), "{code}: {output}{errors}");
    // Root rejects it too while others may write the data directory. If only that user may, root uses the server.
    let (code, output, errors) = fixture.run(&["explain", "left-pad@1.1.0"]);
    assert!(code == 1 && output.is_empty() && errors.contains("belongs to another user"), "{code}: {output}{errors}");
    std::os::unix::fs::chown(fixture.data.path(), Some(65533), None).unwrap();
    std::fs::set_permissions(fixture.data.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let (code, output, errors) = fixture.run(&["explain", "left-pad@1.1.0"]);
    assert!(code == 0, "{code}: {output}{errors}");
    drop(server);
}
