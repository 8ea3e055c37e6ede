//! The commands on a data directory whose server runs: they answer for that server, by its address, policy, feeds and decisions, and say
//! where a flag would mean something else.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::package::{Package, days, sha512};
use crate::program::{Program, coldframe, machine_clock, run};
use crate::registry::Registry;
use crate::run::Running;

/// A registry whose `left-pad@1.1.0` is ten days old, a data directory, and a lockfile that holds that version.
struct Place {
    home: TempDir,
    data: TempDir,
    registry: Registry,
    lockfile: std::path::PathBuf,
}

impl Place {
    async fn make() -> Self {
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

    /// A command that is told the data directory alone: neither the upstream nor an address of the server.
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
    let place = Place::make().await;
    let server = place.serve(&["--min-release-age", "30d"]);
    let url = format!("http://{}/", server.address);
    let (code, told, errors) = place.run(&["explain", "left-pad@1.1.0"]);
    assert!(code == 10 && told.contains("minimum release age 30 d"), "{code}: {told}{errors}");
    assert!(
        errors.contains(&format!("answered by the running server at {url}, policy: default, minimum release age 30 d")),
        "{errors}"
    );
    let (code, told, errors) = place.run(&["explain", "left-pad@1.1.0", "--json"]);
    let explained: Value = serde_json::from_str(&told).unwrap_or_else(|wrong| panic!("{wrong}: {told}"));
    assert!(code == 10 && explained["upstream"].as_str().unwrap().starts_with(&place.registry.url), "{told}{errors}");
    let (code, told, errors) = place.run(&["check", place.lockfile()]);
    assert!(code == 75 && told.contains("left-pad"), "{code}: {told}{errors}");
    let (code, told, errors) = place.run(&["adopt", "--dry-run", place.lockfile()]);
    assert!(code == 0 && told.contains("1 adopted, 0 left out, 0 already allowed"), "{code}: {told}{errors}");
    server.get("/left-pad/-/left-pad-1.1.0.tgz").await.is(403);
    let (code, told, errors) = place.run(&["approve", "left-pad@1.1.0", "--reason", "INC-7"]);
    assert!(code == 0 && told.contains("decision 1: approve left-pad"), "{code}: {told}{errors}");
    server.get("/left-pad/-/left-pad-1.1.0.tgz").await.is(200);
    // What was decided counts as well, and its ledger is asked for what it noted just now.
    let (code, told, errors) = place.run(&["explain", "left-pad@1.1.0"]);
    assert!(code == 0 && told.contains("INC-7"), "{code}: {told}{errors}");
    let (code, told, errors) = place.run(&["exposure", "left-pad@1.1.0"]);
    assert!(code == 0 && told.contains("served") && told.contains("refused by minimum-age"), "{code}: {told}{errors}");
    // Without it the settings of the command count, as before it ran.
    server.signal("-TERM");
    assert_eq!(server.ended().await.0, 0);
    let (code, told, errors) = run(place.command(&["explain", "left-pad@1.0.0"]).args(["--upstream", &place.registry.url]));
    assert!(code == 0 && told.contains("72 h") && !errors.contains("the running server"), "{code}: {told}{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_about_places_names_the_running_server() {
    let place = Place::make().await;
    let server = place.serve(&["--min-release-age", "30d"]);
    let url = format!("http://{}/", server.address);
    let (code, told, errors) = place.run(&["client-config", "npm"]);
    assert!(code == 0 && told.contains(&format!("registry={url}")) && told.contains("min-release-age=30"), "{told}{errors}");
    std::fs::write(place.home.path().join(".npmrc"), format!("registry={url}\n")).unwrap();
    let (code, told, errors) = place.run(&["doctor"]);
    assert!(code == 0 && told.contains(&format!("Coldframe answers at {url}")), "{code}: {told}{errors}");
    assert!(told.contains("npm asks Coldframe") && !told.contains(":4873"), "{told}");
    assert_eq!(place.run(&["healthcheck"]), (0, String::new(), String::new()));
    // Another server is asked where it is named, and said to be another.
    let (home, data) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let other = Program::serve(home.path(), data.path(), &place.registry.url, &["--min-release-age", "2d"]);
    let named = format!("http://{}/", other.address);
    let (code, told, errors) = place.run(&["client-config", "npm", "--url", &named]);
    assert!(
        code == 0 && told.contains("min-release-age=2") && told.contains("not the server on the local data directory"),
        "{told}{errors}"
    );
    let (_, told, errors) = place.run(&["doctor", "--server", &named]);
    assert!(told.contains(&format!("the server at {named} does not use the data directory")), "{told}{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flag_that_means_another_policy_is_named_and_what_it_would_change() {
    let place = Place::make().await;
    let _server = place.serve(&["--min-release-age", "30d"]);
    let (code, told, errors) = place.run(&["explain", "left-pad@1.1.0", "--min-release-age", "1h"]);
    assert!(code == 10 && told.contains("30 d"), "{code}: {told}{errors}");
    for part in
        ["--min-release-age: `min-release-age` is 1h here and 30d on the server", "with the settings of this command: allowed"]
    {
        assert!(errors.contains(part), "{part}: {errors}");
    }
    // The same age in other words is no other policy.
    let (_, _, errors) = place.run(&["explain", "left-pad@1.1.0", "--min-release-age", "720h"]);
    assert!(!errors.contains("on the server"), "{errors}");
    let mut command = place.command(&["check", place.lockfile()]);
    let (code, _, errors) = run(command.env("COLDFRAME_EXCLUDE", "left-pad").env("COLDFRAME_FEED", "/nowhere"));
    assert_eq!(code, 75, "{errors}");
    for part in
        ["COLDFRAME_EXCLUDE: `exclude` is left-pad here and none for the server", "COLDFRAME_FEED: `feed` is /nowhere here"]
    {
        assert!(errors.contains(part), "{part}: {errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_address_of_the_server_answers_by_its_own_policy() {
    let place = Place::make().await;
    let loose = place.home.path().join("loose.toml");
    std::fs::write(&loose, "[[rule]]\nid = \"minimum-age\"\nhold = \"1h\"\nreason = \"x\"\n").unwrap();
    let listen = format!("127.0.0.1:0={}", loose.display());
    let server = place.serve(&["--min-release-age", "30d"]);
    drop(server);
    let mut command = coldframe(place.home.path());
    let first = place.home.path().join("strict.toml");
    std::fs::write(&first, "[[rule]]\nid = \"own-age\"\nhold = \"30d\"\nreason = \"x\"\n").unwrap();
    command.args(["serve", "--upstream", &place.registry.url, "--listen"]).arg(format!("127.0.0.1:0={}", first.display()));
    let server = Program::start(command.args(["--listen", &listen, "--data-dir"]).arg(place.data.path()));
    // The policy of the first address, not the one that no address has.
    let (code, told, errors) = place.run(&["explain", "left-pad@1.1.0"]);
    assert!(code == 10 && told.contains("own-age"), "{code}: {told}{errors}");
    assert!(errors.contains("loose.toml") && errors.contains(": allowed"), "{errors}");
    let named = loose.to_str().unwrap();
    let (code, told, errors) = place.run(&["explain", "left-pad@1.1.0", "--policy", named]);
    assert!(code == 0 && !errors.contains("on the server"), "{code}: {told}{errors}");
    let (code, told, _) = place.run(&["check", place.lockfile(), "--policy", named]);
    assert_eq!(code, 0, "{told}");
    let (_, told, _) = place.run(&["client-config", "npm", "--policy", named]);
    assert!(told.contains("registry=http://127.0.0.1:") && !told.contains(&server.address.to_string()), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_socket_is_not_replaced_by_other_settings() {
    let place = Place::make().await;
    // Too long a path for a socket.
    let deep = place.data.path().join("d".repeat(120));
    let server = Program::serve(place.home.path(), &deep, &place.registry.url, &["--min-release-age", "30d"]);
    let mut command = coldframe(place.home.path());
    command.args(["check", place.lockfile(), "--upstream", &place.registry.url, "--data-dir"]).arg(&deep);
    let (code, told, errors) = run(&mut command);
    assert!(code == 1 && told.is_empty() && errors.contains("the server has no control socket"), "{code}: {told}{errors}");
    drop(server);
    let (code, told, errors) = run(&mut command);
    assert_eq!(code, 0, "{told}{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_at_its_address_does_not_make_it_ready() {
    let place = Place::make().await;
    let (server, other) = (place.serve(&[]), TempDir::new().unwrap());
    let ask = |data: &Path| {
        let mut command = coldframe(place.home.path());
        command.args(["healthcheck", "--upstream", &place.registry.url, "--listen", &server.address.to_string()]);
        run(command.arg("--data-dir").arg(data))
    };
    assert_eq!(ask(place.data.path()), (0, String::new(), String::new()));
    // One where no server ever was, and one where one was.
    let (code, _, errors) = ask(&other.path().join("never"));
    assert!(code == 1 && errors.contains("no server runs on the data directory"), "{code}: {errors}");
    Program::serve(place.home.path(), other.path(), &place.registry.url, &[]).kill();
    let (code, _, errors) = ask(other.path());
    assert!(code == 1 && errors.contains("no server runs on the data directory"), "{code}: {errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_command_is_advised_that_opens_what_an_operator_denied() {
    let place = Place::make().await;
    assert_eq!(place.run(&["deny", "left-pad@1.0.0", "--reason", "INC-7"]).0, 0);
    let tarball = |version: &str| format!("{}/left-pad/-/left-pad-{version}.tgz", place.registry.url);
    for server in [true, false] {
        let server = server.then(|| place.serve(&["--min-release-age", "30d"]));
        let mut command = place.command(&["run"]);
        command.env("PATH", "/usr/bin:/bin").args(["--upstream", &place.registry.url]);
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

/// Another process that has the data directory.
struct Squatter {
    _lock: std::fs::File,
    socket: UnixListener,
}

impl Squatter {
    fn on(data: &Path) -> Self {
        let lock = std::fs::File::create(data.join("lock")).unwrap();
        lock.try_lock().unwrap();
        Self { _lock: lock, socket: UnixListener::bind(data.join("control")).unwrap() }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_be_asked_is_not_replaced_by_other_settings() {
    let place = Place::make().await;
    let squatter = Squatter::on(place.data.path());
    // It hangs.
    let mut command = place.command(&["check", place.lockfile()]);
    command.args(["--upstream", &place.registry.url]);
    let (code, told, errors) = run(&mut command);
    assert!(code == 1 && told.is_empty() && errors.contains("no answer within 5 s"), "{code}: {told}{errors}");
    let (code, _, errors) = run(place.command(&["healthcheck"]).args(["--upstream", &place.registry.url]));
    assert!(code == 1 && errors.contains("no answer within 5 s"), "{code}: {errors}");
    // It is of another version.
    let socket = squatter.socket.try_clone().unwrap();
    let replying = std::thread::spawn(move || {
        use std::io::{BufRead as _, Write as _};
        // Two that it let hang, and one.
        for stream in socket.incoming().take(3).flatten() {
            let mut line = String::new();
            let _ = std::io::BufReader::new(&stream).read_line(&mut line);
            let _ = (&stream).write_all(b"{\"Refused\":\"the server has another version\"}\n");
        }
    });
    let (code, told, errors) = run(place.command(&["explain", "left-pad"]).args(["--upstream", &place.registry.url]));
    assert!(code == 1 && told.is_empty() && errors.contains("the server has another version"), "{code}: {told}{errors}");
    replying.join().unwrap();
    // A socket that a process left which was killed misleads no command.
    drop(squatter);
    let (code, told, errors) = run(place.command(&["explain", "left-pad@1.0.0"]).args(["--upstream", &place.registry.url]));
    assert!(code == 0 && told.contains("72 h"), "{code}: {told}{errors}");
    // A server that starts there clears it away.
    let server = place.serve(&["--min-release-age", "30d"]);
    assert_eq!(place.run(&["explain", "left-pad@1.1.0"]).0, 10);
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_is_not_replaced_by_other_settings() {
    let place = Place::make().await;
    let server = place.serve(&["--min-release-age", "30d", "--drain-timeout", "60s"]);
    let gate = place.registry.hold("/left-pad");
    let asking = server.get("/left-pad").start();
    place.registry.wait_for_requests("/left-pad", 1).await;
    server.signal("-TERM");
    let mut command = place.command(&["explain", "left-pad@1.1.0"]);
    command.args(["--upstream", &place.registry.url]);
    // Until it takes no more questions it answers them.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let (code, told, errors) = loop {
        let asked = run(place.command(&["healthcheck"]).args(["--upstream", &place.registry.url]));
        if asked.2.contains("starting or stopping") || std::time::Instant::now() > deadline {
            break run(&mut command);
        }
    };
    assert!(code == 1 && told.is_empty() && errors.contains("is starting or stopping"), "{code}: {told}{errors}");
    gate.open();
    drop(asking);
    let (code, errors) = server.ended().await;
    assert_eq!(code, 0, "{errors}");
    assert!(!place.data.path().join("control").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_advises_asks_the_server_that_answered_it() {
    let place = Place::make().await;
    let server = place.serve(&["--min-release-age", "30d"]);
    let data = place.data.path().to_str().unwrap();
    let url = format!("{}/left-pad/-/left-pad-1.1.0.tgz", place.registry.url);
    let start = |flags: &[&str]| {
        let mut command = coldframe(place.home.path());
        command.env("PATH", "/usr/bin:/bin").args(["run", "--upstream", &place.registry.url, "--data-dir", data]).args(flags);
        Running::start(command.args(["--", "sh", "-c", "env; echo; cat >/dev/null; exit 3"]))
    };
    let running = start(&[]);
    running.ask(&url).await.is(403);
    let (code, errors) = running.end();
    assert!(code == 3 && errors.contains("using the running coldframe"), "{errors}");
    let advised = format!("coldframe explain left-pad@1.1.0 --data-dir {data}");
    assert!(errors.lines().any(|line| line.trim() == advised), "{errors}");
    let words: Vec<_> = advised.split(' ').skip(1).collect();
    assert_eq!(run(coldframe(place.home.path()).args(words)).0, 10);
    drop(server);
    // A run of its own has its own flags: what it advises has them too.
    let running = start(&["--min-release-age", "20d"]);
    running.ask(&url).await.is(403);
    let (_, errors) = running.end();
    let advised =
        format!("coldframe explain left-pad@1.1.0 --upstream {} --min-release-age 20d --data-dir {data}", place.registry.url);
    assert!(errors.lines().any(|line| line.trim() == advised), "{errors}");
}

/// Whether this process is root: only then can a socket be another user's.
fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_another_user_put_there_is_not_believed() {
    use std::os::unix::process::CommandExt as _;
    if !is_root() {
        eprintln!("only root can put another user's socket there: the unit test in `control` holds the rest");
        return;
    }
    let place = Place::make().await;
    for folder in [place.home.path(), place.data.path()] {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    // A server of another user, which all users may connect to.
    let mut command = coldframe(place.home.path());
    command.uid(65533).args(["serve", "--listen", "127.0.0.1:0", "--upstream", &place.registry.url, "--data-dir"]);
    let server = Program::start(command.arg(place.data.path()).args(["--min-release-age", "0s"]));
    std::fs::set_permissions(place.data.path().join("control"), std::fs::Permissions::from_mode(0o777)).unwrap();
    let mut asked = place.command(&["explain", "left-pad@1.1.0"]);
    let (code, told, errors) = run(asked.uid(65532));
    assert!(code == 1 && told.is_empty() && errors.contains("belongs to another user: uid 65533"), "{code}: {told}{errors}");
    // Root neither, where others may write the data directory; where only that user may, the server is what root asks.
    let (code, told, errors) = place.run(&["explain", "left-pad@1.1.0"]);
    assert!(code == 1 && told.is_empty() && errors.contains("belongs to another user"), "{code}: {told}{errors}");
    std::os::unix::fs::chown(place.data.path(), Some(65533), None).unwrap();
    std::fs::set_permissions(place.data.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let (code, told, errors) = place.run(&["explain", "left-pad@1.1.0"]);
    assert!(code == 0, "{code}: {told}{errors}");
    drop(server);
}
