//! `coldframe run` beside a Coldframe that runs on the same data directory: led there, judged and noted there, summed up here.

use base64::Engine as _;
use serde_json::Value;

use crate::client::Ask;
use crate::package::{Package, hours};
use crate::program::{Program, coldframe, machine_clock, run};
use crate::registry::Registry;
use crate::run::{Fixture, Running};

/// A server on the place's data directory.
fn serve(fixture: &Fixture, more: &[&str]) -> Program {
    Program::serve(fixture.home.path(), fixture.data.path(), &fixture.registry.url, more)
}

/// Another command of the program on the place's data directory.
fn beside(fixture: &Fixture, words: &[&str]) -> (i32, String, String) {
    let mut command = coldframe(fixture.home.path());
    command.args(words).args(["--upstream", &fixture.registry.url, "--data-dir"]).arg(fixture.data.path());
    run(&mut command)
}

/// Whether anybody answers at the gateway that a command was led to.
fn is_open(running: &Running) -> bool {
    std::net::TcpStream::connect(running.gateway()).is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_led_to_the_server_that_runs_and_sums_up_what_it_alone_asked() {
    let fixture = Fixture::new().await;
    fixture.registry.publish(Package::new("axios", "1.0.0"));
    fixture.registry.publish(Package::new("is-odd", "1.0.0").aged(hours(90)));
    let server = serve(&fixture, &["--min-release-age", "100h"]);
    let base = format!("http://{}", server.address);
    // Somebody else's.
    server.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(200);
    server.get("/axios/-/axios-1.0.0.tgz").await.is(200);
    let running = fixture.start(&["--json"]);
    running.ask(&fixture.url("/left-pad")).await.is(200);
    running.ask(&fixture.url("/left-pad/-/left-pad-1.0.0.tgz")).await.is(200);
    running.ask(&fixture.url("/left-pad/-/left-pad-1.1.0.tgz")).await.is(403);
    // By the server's policy, not by the one that this command would have.
    running.ask(&fixture.url("/is-odd/-/is-odd-1.0.0.tgz")).await.is(403);
    // A lockfile that was written through the server names it, though this command's own flags do not.
    running.ask(&format!("{base}/left-pad/-/left-pad-1.0.0.tgz")).await.is(200);
    running.ask("http://elsewhere.example/x").await.is(403);
    let gateway = running.gateway();
    let (code, errors) = running.end();
    assert!(errors.contains("using the running coldframe, policy: default, minimum release age 100 h"), "{errors}");
    let summed: Value = serde_json::from_str(errors.lines().last().unwrap()).unwrap();
    assert_eq!((code, &summed["packages"]["total"], &summed["packages"]["fromCache"]), (0, &1.into(), &1.into()), "{summed}");
    let refused: Vec<_> = summed["refused"].as_array().unwrap().iter().map(|refused| refused["name"].as_str().unwrap()).collect();
    assert_eq!(refused, ["is-odd", "left-pad"]);
    assert!(summed["refused"][1]["reason"].as_str().unwrap().contains("newest allowed: 1.0.0"), "{summed}");
    assert_eq!(
        (&summed["hidden"][0]["name"], &summed["hidden"][0]["newer"][0]["version"]),
        (&"left-pad".into(), &"1.1.0".into())
    );
    assert_eq!(
        (&summed["hidden"][0]["newer"][0]["rule"], &summed["policy"]),
        (&"minimum-age".into(), &"default, minimum release age 100 h".into())
    );
    assert_eq!(summed["notReached"][0]["place"], "elsewhere.example", "{summed}");
    assert!(fixture.is_clean());
    assert!(std::net::TcpStream::connect(gateway).is_err(), "the port is open still");
    assert_eq!(fixture.registry.count("/left-pad/-/left-pad-1.0.0.tgz"), 1);
    // The ledger knows it at once, by the name of whoever ran it.
    let (code, told, errors) = beside(&fixture, &["exposure", "left-pad"]);
    assert_eq!(code, 0, "{errors}");
    let named: Vec<_> = told.lines().filter(|line| line.contains("@127.0.0.1")).collect();
    assert!(named.iter().any(|line| line.contains("1.1.0")) && named.iter().any(|line| line.contains("1.0.0")), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_asks_the_running_server_in_the_name_of_whoever_runs_a_command() {
    let fixture = Fixture::new().await;
    let server = serve(&fixture, &["--log-level", "trace"]);
    let running = fixture.start(&[]);
    let tarball = fixture.url("/left-pad/-/left-pad-1.0.0.tgz");
    running.ask_unknown(&tarball).await.is(407);
    running.ask_as("run:0123456789abcdef0123456789abcdef", &tarball).await.is(407);
    let (code, told, errors) = beside(&fixture, &["exposure", "left-pad"]);
    assert!(code == 0 && !told.contains("@127.0.0.1"), "{told}{errors}");
    running.ask(&tarball).await.is(200);
    let password = running.pass().split_once(':').unwrap().1.to_owned();
    assert_eq!(password.len(), 32);
    running.end();
    server.signal("-TERM");
    let (_, log) = server.ended().await;
    assert!(log.contains("session opened") && !log.contains(&password), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_decided_at_the_running_server_holds_in_a_run_that_is_under_way() {
    let fixture = Fixture::new().await;
    let _server = serve(&fixture, &[]);
    let running = fixture.start(&[]);
    running.ask(&fixture.url("/left-pad/-/left-pad-1.0.0.tgz")).await.is(200);
    let (code, _, errors) = beside(&fixture, &["deny", "left-pad@1.0.0", "--reason", "because"]);
    assert_eq!(code, 0, "{errors}");
    let refused = running.ask(&fixture.url("/left-pad/-/left-pad-1.0.0.tgz")).await.is(403);
    assert!(refused.error().contains("because"), "{refused:?}");
    let (_, errors) = running.end();
    assert!(errors.contains("1 refused") && errors.contains("because"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_asks_for_another_policy_or_another_upstream_is_not_led_to_it_and_is_told() {
    let fixture = Fixture::new().await;
    let server = serve(&fixture, &[]);
    let (code, _, errors) = beside(&fixture, &["deny", "left-pad@1.0.0", "--reason", "because"]);
    assert_eq!(code, 0, "{errors}");
    let running = fixture.start(&["--min-release-age", "1h"]);
    running.ask(&fixture.url("/left-pad/-/left-pad-1.1.0.tgz")).await.is(200);
    // What was decided there holds here too.
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
async fn the_servers_own_address_as_upstream_is_the_server_itself() {
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
async fn hosts_that_a_run_names_are_its_own_and_nobody_elses() {
    let fixture = Fixture::new().await;
    let elsewhere = Registry::start(&machine_clock()).await;
    elsewhere.publish(Package::new("is-odd", "1.0.0"));
    let _server = serve(&fixture, &[]);
    let host = elsewhere.address.to_string();
    let (with, without) = (fixture.start(&["--allow-host", &host]), fixture.start(&[]));
    with.ask(&format!("{}/is-odd", elsewhere.url)).await.is(200);
    without.ask(&format!("{}/is-odd", elsewhere.url)).await.is(403);
    assert!(is_open(&with) && is_open(&without) && with.gateway() != without.gateway());
    with.end();
    let (_, errors) = without.end();
    assert!(errors.contains(&format!("not reached  {host}")), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_or_dies_during_a_run_does_not_stop_its_summary() {
    let fixture = Fixture::new().await;
    let server = serve(&fixture, &[]);
    let running = fixture.start(&[]);
    running.ask(&fixture.url("/left-pad/-/left-pad-1.0.0.tgz")).await.is(200);
    server.signal("-TERM");
    let (code, errors) = server.ended().await;
    assert_eq!(code, 0, "{errors}");
    assert!(!is_open(&running));
    let (code, errors) = running.end();
    assert!(code == 0 && errors.contains("1 package") && errors.contains("stopped before the command ended"), "{errors}");
    let server = serve(&fixture, &[]);
    let running = fixture.start(&[]);
    server.kill();
    let (code, errors) = running.end();
    assert!(code == 0 && errors.contains("exited without a report"), "{errors}");
    // The socket that it left misleads nobody.
    let running = fixture.start(&[]);
    running.ask(&fixture.url("/left-pad")).await.is(200);
    let (code, errors) = running.end();
    assert!(code == 0 && !errors.contains("the running coldframe"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_killed_leaves_no_gateway_and_its_folder_goes_with_the_next() {
    let fixture = Fixture::new().await;
    let server = serve(&fixture, &[]);
    let mut running = fixture.start(&[]);
    let gateway = running.gateway();
    running.child.kill().unwrap();
    running.child.wait().unwrap();
    assert!(!fixture.is_clean());
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while std::net::TcpStream::connect(gateway).is_ok() {
        assert!(std::time::Instant::now() < deadline, "the port is open still");
    }
    assert_eq!(run(&mut fixture.command(&[], &["true"])).0, 0);
    assert!(fixture.is_clean());
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_runs_at_once_without_a_server_do_not_need_each_other() {
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
async fn where_there_can_be_no_socket_a_server_serves_all_the_same() {
    let fixture = Fixture::new().await;
    let deep = fixture.data.path().join("d".repeat(120));
    let server = Program::serve(fixture.home.path(), &deep, &fixture.registry.url, &[]);
    server.get("/left-pad").await.is(200);
    server.signal("-TERM");
    let (code, errors) = server.ended().await;
    assert!(code == 0 && errors.contains("control socket unavailable"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_whoever_may_write_the_data_directory_may_use_the_socket() {
    use std::os::unix::fs::PermissionsExt as _;
    let fixture = Fixture::new().await;
    let server = serve(&fixture, &[]);
    let mode = std::fs::metadata(fixture.data.path().join("control")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // It is no door of the network's: what does not speak its language ends, and disturbs nobody.
    for words in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"{}\n", b"{\"protocol\":2}\n", b""] {
        let mut stream = std::os::unix::net::UnixStream::connect(fixture.data.path().join("control")).unwrap();
        std::io::Write::write_all(&mut stream, words).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut told = String::new();
        std::io::Read::read_to_string(&mut stream, &mut told).unwrap();
        assert!(told.contains("another version"), "{told}");
    }
    Ask::new(server.address, "GET", "/left-pad").await.is(200);
    server.signal("-TERM");
    let (code, _) = server.ended().await;
    assert!(code == 0 && !fixture.data.path().join("control").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stops_a_command_is_in_the_servers_ledger_though_its_client_asks_for_no_tarball() {
    let fixture = Fixture::new().await;
    let server = serve(&fixture, &[]);
    std::fs::write(fixture.home.path().join("package.json"), r#"{"dependencies":{"left-pad":"1.1.0"}}"#).unwrap();
    let running = fixture.start(&[]);
    let shown = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(running.pass()));
    for _ in 0..2 {
        let asking = running.ask_unknown(&fixture.url("/left-pad")).header("proxy-authorization", &shown);
        asking.npm("11.21.2").header("npm-command", "install").await.is(200);
    }
    assert_eq!(running.end().0, 0);
    let (code, told, errors) = beside(&fixture, &["exposure", "left-pad", "--json"]);
    assert_eq!(code, 0, "{errors}");
    let rows: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(
        (rows.as_array().map(Vec::len), &rows[0]["version"], &rows[0]["outcome"]),
        (Some(1), &"1.1.0".into(), &"refused".into()),
        "{told}"
    );
    server.signal("-TERM");
    let (_, log) = server.ended().await;
    assert!(log.contains("package.version=\"1.1.0\""), "{log}");
}
