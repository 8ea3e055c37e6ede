//! `coldframe run` with a server on the same data directory: the server decides and records, the run prints the summary.

use base64::Engine as _;
use serde_json::Value;

use crate::client::Ask;
use crate::package::{Package, hours};
use crate::process::{Program, coldframe, machine_clock, run};
use crate::registry::Registry;
use crate::run::{Fixture, Running};

/// Starts a server on the fixture's data directory.
fn serve(fixture: &Fixture, more: &[&str]) -> Program {
    Program::serve(fixture.home.path(), fixture.data.path(), &fixture.registry.url, more)
}

/// Runs another subcommand on the fixture's data directory.
fn subcommand(fixture: &Fixture, words: &[&str]) -> (i32, String, String) {
    let mut command = coldframe(fixture.home.path());
    command.args(words).args(["--upstream", &fixture.registry.url, "--data-dir"]).arg(fixture.data.path());
    run(&mut command)
}

/// Whether the run's gateway accepts connections.
fn is_open(running: &Running) -> bool {
    std::net::TcpStream::connect(running.gateway()).is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn run_uses_the_running_server_and_reports_only_its_own_requests() {
    let fixture = Fixture::new().await;
    fixture.registry.publish(Package::new("axios", "1.0.0"));
    fixture.registry.publish(Package::new("is-odd", "1.0.0").aged(hours(90)));
    let server = serve(&fixture, &["--min-release-age", "100h"]);
    let base = format!("http://{}", server.address);
    // Requests of another client.
    server.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(200);
    server.get("/axios/-/axios-1.0.0.tgz").await.is(200);
    let running = fixture.start(&["--json"]);
    running.ask(&fixture.url("/left-pad")).await.is(200);
    running.ask(&fixture.url("/left-pad/-/left-pad-1.0.0.tgz")).await.is(200);
    running.ask(&fixture.url("/left-pad/-/left-pad-1.1.0.tgz")).await.is(403);
    // The server's policy applies, not the run's own.
    running.ask(&fixture.url("/is-odd/-/is-odd-1.0.0.tgz")).await.is(403);
    // A lockfile written through the server contains the server's address, which the run's own flags do not name.
    running.ask(&format!("{base}/left-pad/-/left-pad-1.0.0.tgz")).await.is(200);
    running.ask("http://elsewhere.example/x").await.is(403);
    let gateway = running.gateway();
    let (code, errors) = running.end();
    assert!(errors.contains("using the running coldframe, policy: default, minimum release age 100 h"), "{errors}");
    let summary: Value = serde_json::from_str(errors.lines().last().unwrap()).unwrap();
    assert_eq!((code, &summary["packages"]["total"], &summary["packages"]["fromCache"]), (0, &1.into(), &1.into()), "{summary}");
    let refused: Vec<_> =
        summary["refused"].as_array().unwrap().iter().map(|refused| refused["name"].as_str().unwrap()).collect();
    assert_eq!(refused, ["is-odd", "left-pad"]);
    assert!(summary["refused"][1]["reason"].as_str().unwrap().contains("newest allowed: 1.0.0"), "{summary}");
    assert_eq!(
        (&summary["hidden"][0]["name"], &summary["hidden"][0]["newer"][0]["version"]),
        (&"left-pad".into(), &"1.1.0".into())
    );
    assert_eq!(
        (&summary["hidden"][0]["newer"][0]["rule"], &summary["policy"]),
        (&"minimum-age".into(), &"default, minimum release age 100 h".into())
    );
    assert_eq!(summary["notReached"][0]["place"], "elsewhere.example", "{summary}");
    assert!(fixture.is_clean());
    assert!(std::net::TcpStream::connect(gateway).is_err(), "the port is still open");
    assert_eq!(fixture.registry.count("/left-pad/-/left-pad-1.0.0.tgz"), 1);
    // The ledger lists the run immediately, under the name of the user who ran it.
    let (code, output, errors) = subcommand(&fixture, &["exposure", "left-pad"]);
    assert_eq!(code, 0, "{errors}");
    let named: Vec<_> = output.lines().filter(|line| line.contains("@127.0.0.1")).collect();
    assert!(named.iter().any(|line| line.contains("1.1.0")) && named.iter().any(|line| line.contains("1.0.0")), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_processes_cannot_use_the_runs_credentials_on_the_server() {
    let fixture = Fixture::new().await;
    let server = serve(&fixture, &["--log-level", "trace"]);
    let running = fixture.start(&[]);
    let tarball = fixture.url("/left-pad/-/left-pad-1.0.0.tgz");
    running.ask_unknown(&tarball).await.is(407);
    running.ask_as("run:0123456789abcdef0123456789abcdef", &tarball).await.is(407);
    let (code, output, errors) = subcommand(&fixture, &["exposure", "left-pad"]);
    assert!(code == 0 && !output.contains("@127.0.0.1"), "{output}{errors}");
    running.ask(&tarball).await.is(200);
    let password = running.pass().split_once(':').unwrap().1.to_owned();
    assert_eq!(password.len(), 32);
    running.end();
    server.signal("-TERM");
    let (_, log) = server.wait_for_exit().await;
    assert!(log.contains("session opened") && !log.contains(&password), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn decision_on_the_server_applies_to_an_active_run() {
    let fixture = Fixture::new().await;
    let _server = serve(&fixture, &[]);
    let running = fixture.start(&[]);
    running.ask(&fixture.url("/left-pad/-/left-pad-1.0.0.tgz")).await.is(200);
    let (code, _, errors) = subcommand(&fixture, &["deny", "left-pad@1.0.0", "--reason", "because"]);
    assert_eq!(code, 0, "{errors}");
    let refused = running.ask(&fixture.url("/left-pad/-/left-pad-1.0.0.tgz")).await.is(403);
    assert!(refused.error().contains("because"), "{refused:?}");
    let (_, errors) = running.end();
    assert!(errors.contains("1 refused") && errors.contains("because"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn run_with_another_policy_or_upstream_uses_its_own_coldframe_and_says_why() {
    let fixture = Fixture::new().await;
    let server = serve(&fixture, &[]);
    let (code, _, errors) = subcommand(&fixture, &["deny", "left-pad@1.0.0", "--reason", "because"]);
    assert_eq!(code, 0, "{errors}");
    let running = fixture.start(&["--min-release-age", "1h"]);
    running.ask(&fixture.url("/left-pad/-/left-pad-1.1.0.tgz")).await.is(200);
    // The server's decisions also apply to the run.
    let refused = running.ask(&fixture.url("/left-pad/-/left-pad-1.0.0.tgz")).await.is(403);
    assert!(refused.error().contains("because"), "{refused:?}");
    let (_, errors) = running.end();
    for part in ["`--min-release-age` needs a separate coldframe", "`coldframe exposure` will not list"] {
        assert!(errors.contains(part), "{part}: {errors}");
    }
    let other = Registry::start(&machine_clock()).await;
    other.publish(Package::new("left-pad", "3.0.0"));
    let mut command = coldframe(fixture.home.path());
    command.env("TMPDIR", fixture.scratch.path()).env("PATH", "/usr/bin:/bin").args([
        "run",
        "--upstream",
        &other.url,
        "--data-dir",
    ]);
    let running = Running::start(command.arg(fixture.data.path()).args(["--", "sh", "-c", "env; echo; exec cat >/dev/null"]));
    assert_eq!(running.ask(&format!("{}/left-pad", other.url)).await.versions(), ["3.0.0"]);
    let (_, errors) = running.end();
    assert!(errors.contains("the server's upstream for packages is `") && errors.contains(&other.url), "{errors}");
    assert!(fixture.is_clean());
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn upstream_that_is_the_servers_address_selects_the_server() {
    let fixture = Fixture::new().await;
    let server = serve(&fixture, &[]);
    std::fs::write(fixture.home.path().join(".npmrc"), format!("registry=http://{}/\n", server.address)).unwrap();
    let mut command = coldframe(fixture.home.path());
    command
        .env("TMPDIR", fixture.scratch.path())
        .env("PATH", "/usr/bin:/bin")
        .args(["run", "--data-dir"])
        .arg(fixture.data.path());
    let running = Running::start(command.args(["--", "sh", "-c", "env; echo; exec cat >/dev/null"]));
    assert_eq!(running.ask(&fixture.url("/left-pad")).await.versions(), ["1.0.0"]);
    running.ask(&format!("http://{}/left-pad/-/left-pad-1.1.0.tgz", server.address)).await.is(403);
    let (_, errors) = running.end();
    assert!(errors.contains("using the running coldframe"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn allowed_hosts_of_a_run_do_not_apply_to_other_runs() {
    let fixture = Fixture::new().await;
    let other = Registry::start(&machine_clock()).await;
    other.publish(Package::new("is-odd", "1.0.0"));
    let _server = serve(&fixture, &[]);
    let host = other.address.to_string();
    let (allowed, blocked) = (fixture.start(&["--allow-host", &host]), fixture.start(&[]));
    allowed.ask(&format!("{}/is-odd", other.url)).await.is(200);
    blocked.ask(&format!("{}/is-odd", other.url)).await.is(403);
    assert!(is_open(&allowed) && is_open(&blocked) && allowed.gateway() != blocked.gateway());
    allowed.end();
    let (_, errors) = blocked.end();
    assert!(errors.contains(&format!("not reached  {host}")), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn summary_is_printed_if_the_server_stops_or_dies_during_a_run() {
    let fixture = Fixture::new().await;
    let server = serve(&fixture, &[]);
    let running = fixture.start(&[]);
    running.ask(&fixture.url("/left-pad/-/left-pad-1.0.0.tgz")).await.is(200);
    server.signal("-TERM");
    let (code, errors) = server.wait_for_exit().await;
    assert_eq!(code, 0, "{errors}");
    assert!(!is_open(&running));
    let (code, errors) = running.end();
    assert!(code == 0 && errors.contains("1 package") && errors.contains("stopped before the command ended"), "{errors}");
    let server = serve(&fixture, &[]);
    let running = fixture.start(&[]);
    server.kill();
    let (code, errors) = running.end();
    assert!(code == 0 && errors.contains("exited without a report"), "{errors}");
    // The dead server's socket is ignored.
    let running = fixture.start(&[]);
    running.ask(&fixture.url("/left-pad")).await.is(200);
    let (code, errors) = running.end();
    assert!(code == 0 && !errors.contains("the running coldframe"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_run_leaves_no_gateway_and_the_next_run_removes_its_folder() {
    let fixture = Fixture::new().await;
    let server = serve(&fixture, &[]);
    let mut running = fixture.start(&[]);
    let gateway = running.gateway();
    running.child.kill().unwrap();
    running.child.wait().unwrap();
    assert!(!fixture.is_clean());
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while std::net::TcpStream::connect(gateway).is_ok() {
        assert!(std::time::Instant::now() < deadline, "the port is still open");
    }
    assert_eq!(run(&mut fixture.command(&[], &["true"])).0, 0);
    assert!(fixture.is_clean());
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_runs_without_a_server_are_independent() {
    let fixture = Fixture::new().await;
    let (first, second) = (fixture.start(&[]), fixture.start(&[]));
    for running in [&first, &second] {
        running.ask(&fixture.url("/left-pad/-/left-pad-1.0.0.tgz")).await.is(200);
    }
    let (code, errors) = first.end();
    assert!(code == 0 && errors.contains("1 package"), "{errors}");
    second.ask(&fixture.url("/left-pad")).await.is(200);
    let (code, errors) = second.end();
    assert!(code == 0 && errors.contains("cannot use the running coldframe: the server accepts no commands"), "{errors}");
    assert!(fixture.is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn server_runs_without_a_control_socket() {
    let fixture = Fixture::new().await;
    let deep = fixture.data.path().join("d".repeat(120));
    let server = Program::serve(fixture.home.path(), &deep, &fixture.registry.url, &[]);
    server.get("/left-pad").await.is(200);
    server.signal("-TERM");
    let (code, errors) = server.wait_for_exit().await;
    assert!(code == 0 && errors.contains("control socket unavailable"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn control_socket_is_limited_to_the_data_directorys_owner() {
    use std::os::unix::fs::PermissionsExt as _;
    let fixture = Fixture::new().await;
    let server = serve(&fixture, &[]);
    let mode = std::fs::metadata(fixture.data.path().join("control")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // A connection with another protocol is closed and does not affect the server.
    for words in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"{}\n", b"{\"protocol\":2}\n", b""] {
        let mut stream = std::os::unix::net::UnixStream::connect(fixture.data.path().join("control")).unwrap();
        std::io::Write::write_all(&mut stream, words).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut output = String::new();
        std::io::Read::read_to_string(&mut stream, &mut output).unwrap();
        assert!(output.contains("another version"), "{output}");
    }
    Ask::new(server.address, "GET", "/left-pad").await.is(200);
    server.signal("-TERM");
    let (code, _) = server.wait_for_exit().await;
    assert!(code == 0 && !fixture.data.path().join("control").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn blocking_version_is_recorded_though_the_client_requests_no_tarball() {
    let fixture = Fixture::new().await;
    let server = serve(&fixture, &[]);
    std::fs::write(fixture.home.path().join("package.json"), r#"{"dependencies":{"left-pad":"1.1.0"}}"#).unwrap();
    let running = fixture.start(&[]);
    let credentials = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(running.pass()));
    for _ in 0..2 {
        let request = running.ask_unknown(&fixture.url("/left-pad")).header("proxy-authorization", &credentials);
        request.npm("11.21.2").header("npm-command", "install").await.is(200);
    }
    assert_eq!(running.end().0, 0);
    let (code, output, errors) = subcommand(&fixture, &["exposure", "left-pad", "--json"]);
    assert_eq!(code, 0, "{errors}");
    let rows: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(
        (rows.as_array().map(Vec::len), &rows[0]["version"], &rows[0]["outcome"]),
        (Some(1), &"1.1.0".into(), &"refused".into()),
        "{output}"
    );
    server.signal("-TERM");
    let (_, log) = server.wait_for_exit().await;
    assert!(log.contains("package.version=\"1.1.0\""), "{log}");
}
