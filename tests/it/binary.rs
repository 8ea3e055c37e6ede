//! The binary: output, exit codes, signals and crash recovery.

use std::net::TcpListener;

use tempfile::TempDir;

use crate::package::{Package, hours};
use crate::process::{Program, coldframe, machine_clock, run};
use crate::registry::Registry;

const TARBALL: &str = "/left-pad/-/left-pad-1.0.0.tgz";

struct Setup {
    home: TempDir,
    data: TempDir,
    registry: Registry,
}

impl Setup {
    async fn new() -> Self {
        let clock = machine_clock();
        Self { home: TempDir::new().unwrap(), data: TempDir::new().unwrap(), registry: Registry::start(&clock).await }
    }

    fn serve(&self, more: &[&str]) -> Program {
        Program::serve(self.home.path(), self.data.path(), &self.registry.url, more)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn startup_message_shows_address_upstream_age_and_npmrc_line() {
    let setup = Setup::new().await;
    let program = setup.serve(&["--min-release-age", "7d"]);
    for part in
        [&format!("http://{}/", program.address), &setup.registry.url, "7 d", &format!("registry=http://{}/", program.address)]
    {
        assert!(program.greeting.contains(part), "{part:?} is missing:\n{}", program.greeting);
    }
    program.get("/-/coldframe/readyz").await.is(200);
    assert_eq!(setup.registry.total(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn occupied_port_exits_with_code_3() {
    let setup = Setup::new().await;
    let occupied = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = occupied.local_addr().unwrap().to_string();
    let mut command = coldframe(setup.home.path());
    command.args(["serve", "--listen", &address, "--upstream", &setup.registry.url, "--data-dir"]).arg(setup.data.path());
    let (code, _, errors) = run(&mut command);
    assert_eq!(code, 3, "{errors}");
    assert!(errors.contains(&address) && errors.contains("in use"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn port_occupied_by_another_coldframe_is_identified() {
    let setup = Setup::new().await;
    let first = setup.serve(&[]);
    let other = TempDir::new().unwrap();
    let mut command = coldframe(setup.home.path());
    command
        .args(["serve", "--listen", &first.address.to_string(), "--upstream", &setup.registry.url, "--data-dir"])
        .arg(other.path());
    let (code, _, errors) = run(&mut command);
    assert_eq!(code, 3, "{errors}");
    for part in ["in use by another Coldframe (version ", "--listen", &first.address.to_string()] {
        assert!(errors.contains(part), "{part:?} is missing: {errors}");
    }
}

#[test]
fn unknown_keys_suggest_the_nearest_names_in_every_file() {
    let home = TempDir::new().unwrap();
    let errors_for = |name: &str, text: &str, words: &[&str]| {
        std::fs::write(home.path().join(name), text).unwrap();
        let (code, _, errors) = run(coldframe(home.path()).args(words).arg(name));
        assert_eq!(code, 2, "{errors}");
        errors
    };
    let config = "release-age = \"72h\"\nupsteam = \"x\"\n[[feed]]\nsource = \"./x\"\ntrus = \"deny\"\n";
    let errors = errors_for("c.toml", config, &["config", "check"]);
    for meant in ["`min-release-age`", "`upstream`", "`trust`"] {
        assert!(errors.contains(&format!("allowed: {meant}, if that was meant")), "{meant}: {errors}");
    }
    let policy = "[[rule]]\nid = \"a\"\nreason = \"b\"\ndeny = true\npackges = [\"x\"]\n";
    let errors = errors_for("p.toml", policy, &["policy", "check"]);
    assert!(errors.contains("`packages`, if that was meant"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn occupied_secondary_port_is_logged_and_the_server_starts() {
    let setup = Setup::new().await;
    setup.registry.publish(Package::new("left-pad", "1.0.0"));
    let occupied = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = occupied.local_addr().unwrap().to_string();
    let program = setup.serve(&["--listen", &address]);
    program.get("/left-pad").await.is(200);
    program.signal("-TERM");
    let (code, errors) = program.wait_for_exit().await;
    assert_eq!(code, 0, "{errors}");
    assert!(errors.contains(&address), "{errors}");
}

#[test]
fn invalid_flag_exits_with_code_2() {
    let home = TempDir::new().unwrap();
    let (code, _, errors) = run(coldframe(home.path()).args(["serve", "--min-realease-age", "7d"]));
    assert_eq!(code, 2);
    assert!(errors.contains("--min-realease-age") && errors.contains("--min-release-age"), "{errors}");
    let (code, _, errors) = run(coldframe(home.path()).args(["serve", "--min-release-age", "7"]));
    assert_eq!(code, 2);
    assert!(errors.contains("unit") && errors.contains("7d"), "{errors}");
}

#[test]
fn all_config_errors_are_reported_with_file_line_and_key() {
    let home = TempDir::new().unwrap();
    let file = home.path().join("coldframe.toml");
    std::fs::write(
        &file,
        "min-release-age = \"soon\"\nupsteam = \"https://registry.example/\"\ncache-size = \"10\"\nlisten = [7]\n",
    )
    .unwrap();
    for words in [vec!["config", "check"], vec!["serve", "--config"]] {
        let (code, _, errors) = run(coldframe(home.path()).args(words).arg(&file));
        assert_eq!(code, 2);
        for part in [
            "coldframe.toml:1",
            "min-release-age",
            "coldframe.toml:2",
            "upsteam",
            "`upstream`",
            "coldframe.toml:3",
            "cache-size",
            "coldframe.toml:4",
        ] {
            assert!(errors.contains(part), "{part:?} is missing:\n{errors}");
        }
    }
    std::fs::write(&file, "min-release-age = \"7d\"\nlisten = [\"0.0.0.0:4873\"]\nrequire-auth = true\n").unwrap();
    let (code, text, errors) = run(coldframe(home.path()).args(["config", "check"]).arg(&file));
    assert!(code == 0 && text.contains("3 settings, no errors\nwarning: `listen`: tokens and packages pass"), "{text}{errors}");
    assert!(text.contains("\nwarning: `feed`: none") && !text.contains("require-auth`"), "{text}");
    let (code, _, errors) = run(coldframe(home.path()).args(["config", "check", "nowhere.toml"]));
    assert!(code == 2 && errors.contains("nowhere.toml"), "{errors}");
}

#[test]
fn new_configuration_file_describes_all_settings_and_replaces_none() {
    let home = TempDir::new().unwrap();
    let file = home.path().join("new.toml");
    let (code, _, errors) = run(coldframe(home.path()).args(["config", "init"]).arg(&file));
    assert!(code == 0 && errors.contains("coldframe serve --config"), "{errors}");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("\n# Directory for tarballs") && text.contains("\n#packument-ttl = \"5m\"\n"), "{text}");
    let (code, checked, _) = run(coldframe(home.path()).args(["config", "check"]).arg(&file));
    assert!(code == 0 && checked.contains("0 settings, no errors"), "{checked}");
    let (code, _, errors) = run(coldframe(home.path()).args(["config", "init"]).arg(&file));
    assert!(code == 1 && errors.contains("cannot create"), "{errors}");
    let (code, printed, _) = run(coldframe(home.path()).args(["config", "init"]));
    assert!(code == 0 && printed == text, "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn flag_overrides_environment_and_environment_overrides_file() {
    let setup = Setup::new().await;
    let file = setup.home.path().join("coldframe.toml");
    std::fs::write(&file, "min-release-age = \"1d\"\npackument-ttl = \"1m\"\nmax-stale = \"1h\"\n").unwrap();
    let mut command = coldframe(setup.home.path());
    command.args(["config", "show", "--min-release-age", "3d", "--upstream", &setup.registry.url, "--config"]).arg(&file);
    command.env("COLDFRAME_MIN_RELEASE_AGE", "2d").env("COLDFRAME_PACKUMENT_TTL", "2m");
    let (code, shown, errors) = run(&mut command);
    assert_eq!(code, 0, "{errors}");
    for (key, value, origin) in [
        ("min-release-age", "3d", "--min-release-age"),
        ("packument-ttl", "2m", "COLDFRAME_PACKUMENT_TTL"),
        ("max-stale", "1h", "coldframe.toml"),
        ("memory", "128MB", "default"),
    ] {
        let line = shown.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("no {key}:\n{shown}"));
        assert!(line.contains(value) && line.contains(origin), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_do_not_share_a_data_directory() {
    let setup = Setup::new().await;
    let first = setup.serve(&[]);
    let mut command = coldframe(setup.home.path());
    command.args(["serve", "--listen", "127.0.0.1:0", "--upstream", &setup.registry.url, "--data-dir"]).arg(setup.data.path());
    let (code, _, errors) = run(&mut command);
    assert_eq!(code, 4, "{errors}");
    assert!(errors.contains(setup.data.path().to_str().unwrap()) && errors.contains("in use"), "{errors}");
    first.get("/-/coldframe/healthz").await.is(200);
    first.kill();
    // The lock does not outlive a killed process.
    setup.serve(&[]).get("/-/coldframe/healthz").await.is(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_during_download_leaves_no_partial_tarball() {
    let setup = Setup::new().await;
    let package = Package::new("left-pad", "1.0.0").sized(2_000_000);
    let bytes = package.tarball.clone();
    setup.registry.publish(package);
    let program = setup.serve(&[]);
    program.get("/left-pad").await.is(200);
    let gate = setup.registry.hold_body(TARBALL, bytes.len() / 2);
    let pending = program.get(TARBALL);
    let pending = tokio::spawn(pending.attempt());
    setup.registry.wait_for_requests(TARBALL, 1).await;
    until_half_is_on_disk(setup.data.path(), bytes.len() as u64 / 8).await;
    program.kill();
    assert!(pending.await.unwrap().is_err(), "no byte was served");
    gate.open();
    let program = setup.serve(&[]);
    assert_eq!(program.get(TARBALL).await.is(200).body, bytes);
    let partial: Vec<_> =
        files(setup.data.path()).into_iter().filter(|(_, length)| (1_000_000..bytes.len() as u64).contains(length)).collect();
    assert!(partial.is_empty(), "{partial:?}");
}

/// Waits until a file below `folder` has at least `length` bytes, so the program is still writing it.
async fn until_half_is_on_disk(folder: &std::path::Path, length: u64) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !files(folder).iter().any(|(_, found)| *found >= length) {
        assert!(std::time::Instant::now() < deadline, "no part of the tarball reached the disk: {:?}", files(folder));
        tokio::task::yield_now().await;
    }
}

fn files(folder: &std::path::Path) -> Vec<(std::path::PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => found.extend(files(&entry.path())),
            Ok(metadata) => found.push((entry.path(), metadata.len())),
            Err(_) => {}
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn signal_lets_running_requests_finish() {
    for signal in ["-TERM", "-INT"] {
        let setup = Setup::new().await;
        setup.registry.publish(Package::new("left-pad", "1.0.0"));
        let program = setup.serve(&[]);
        let gate = setup.registry.hold("/left-pad");
        let pending = program.get("/left-pad").start();
        setup.registry.wait_for_requests("/left-pad", 1).await;
        program.signal(signal);
        gate.open();
        pending.await.unwrap().is(200);
        let (code, errors) = program.wait_for_exit().await;
        assert_eq!(code, 0, "{signal}: {errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_has_a_deadline() {
    let setup = Setup::new().await;
    setup.registry.publish(Package::new("left-pad", "1.0.0"));
    let program = setup.serve(&["--drain-timeout", "1s"]);
    let gate = setup.registry.hold("/left-pad");
    let pending = tokio::spawn(program.get("/left-pad").attempt());
    setup.registry.wait_for_requests("/left-pad", 1).await;
    program.signal("-TERM");
    let (code, errors) = program.wait_for_exit().await;
    assert_eq!(code, 0, "{errors}");
    drop(pending.await);
    drop(gate);
}

#[test]
fn version_help_and_completions_are_printed() {
    let home = TempDir::new().unwrap();
    let (code, text, _) = run(coldframe(home.path()).arg("--version"));
    assert_eq!((code, text.trim()), (0, concat!("coldframe ", env!("CARGO_PKG_VERSION"))));
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, _) = run(coldframe(home.path()).args(["completions", shell]));
        assert!(code == 0 && script.contains("coldframe") && script.contains("min-release-age"), "{shell}");
    }
    let (code, help, _) = run(coldframe(home.path()).arg("--help"));
    assert!(code == 0 && help.contains("serve") && help.contains("explain") && help.contains("exposure"), "{help}");
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_prints_rule_and_opening_and_sets_exit_code() {
    let setup = Setup::new().await;
    setup.registry.publish(Package::new("axios", "1.14.0"));
    setup.registry.publish(Package::new("axios", "1.14.1").aged(hours(1)));
    let explain = |spec: &str| {
        let mut command = coldframe(setup.home.path());
        command.args(["explain", spec, "--upstream", &setup.registry.url, "--data-dir"]).arg(setup.data.path());
        run(&mut command)
    };
    let (code, text, errors) = explain("axios@1.14.1");
    assert_eq!(code, 10, "{text}{errors}");
    for part in
        ["axios@1.14.1", "minimum-age", "1.14.0", "UTC", "latest points to 1.14.0 here, to 1.14.1 upstream", "new-package"]
    {
        assert!(text.contains(part), "{part:?} is missing:\n{text}");
    }
    assert_eq!(explain("axios@1.14.0").0, 0);
    assert_eq!(explain("axios").0, 10, "`latest` is the held version");
    assert_eq!(explain("axios@9.9.9").0, 1);
    let at = |at: &str| {
        let mut command = coldframe(setup.home.path());
        command.args(["explain", "axios@1.14.1", "--at", at, "--json", "--upstream", &setup.registry.url, "--data-dir"]);
        run(command.arg(setup.data.path()))
    };
    let (code, text, _) = at("2999-01-01T00:00Z");
    let text: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &text["verdict"]), (0, &"allow".into()), "{text}");
    assert_eq!(at("2001-01-01T00:00Z").0, 1, "the version did not exist yet");
    assert_eq!(at("2026-01-01").0, 2);
    assert_eq!(explain("not a name").0, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn decision_applies_to_running_server_before_the_command_returns() {
    let setup = Setup::new().await;
    setup.registry.publish(Package::new("left-pad", "1.0.0").aged(hours(1)));
    let program = setup.serve(&[]);
    let decide = |words: &[&str]| {
        let mut command = coldframe(setup.home.path());
        command.args(words).args(["--upstream", &setup.registry.url, "--data-dir"]).arg(setup.data.path());
        run(&mut command)
    };
    program.get(TARBALL).await.is(403);
    let (code, text, errors) = decide(&["approve", "left-pad@^1", "--reason", "INC-7"]);
    assert_eq!(code, 0, "{text}{errors}");
    for part in ["decision 1: approve left-pad@1.0.0", "sha512-", "applied by the running server"] {
        assert!(text.contains(part), "{part:?} is missing:\n{text}");
    }
    program.get(TARBALL).await.is(200);
    assert_eq!(decide(&["explain", "left-pad@1.0.0"]).0, 0);
    let (code, text, _) = decide(&["approve", "left-pad@^1", "--reason", "again"]);
    assert!(code == 0 && text.contains("nothing to approve"), "{text}");
    assert_eq!(decide(&["deny", "left-pad@<2", "--reason", "a RAT"]).0, 0);
    program.get(TARBALL).await.is(403);
    let (code, _, errors) = decide(&["approve", "left-pad@1.0.0", "--reason", "no"]);
    assert!(code == 1 && errors.contains("cannot be approved"), "{errors}");
    let (_, listed, _) = decide(&["decisions", "list"]);
    assert!(listed.contains("left-pad@<2") && listed.contains("a RAT") && listed.lines().count() == 3, "{listed}");
    assert_eq!(decide(&["revoke", "2", "--reason", "a mistake"]).0, 0);
    program.get(TARBALL).await.is(200);
    let (code, _, errors) = decide(&["revoke", "9", "--reason", "x"]);
    assert!(code == 1 && errors.contains("decision 9 is not in this ledger"), "{errors}");
    assert_eq!(decide(&["deny", "left-pad"]).0, 2, "a decision needs a reason");
    assert_eq!(decide(&["freeze", "yesterday", "--for", "1h", "--reason", "x"]).0, 2);
    let (code, _, errors) = decide(&["freeze", "2826-03-31T00:00Z", "--for", "1h", "--reason", "a typo"]);
    assert!(code == 2 && errors.contains("the freeze would hide nothing"), "{errors}");
    let (code, _, errors) = decide(&["break-glass", "--for", "8d", "--reason", "x"]);
    assert!(code == 2 && errors.contains("at most `7d`"), "{errors}");
    program.signal("-TERM");
    assert_eq!(program.wait_for_exit().await.0, 0);
    let (code, text, errors) = decide(&["freeze", "2026-03-31T00:00Z", "--for", "48h", "--scope", "@acme", "--reason", "x"]);
    assert!(code == 0 && text.contains("applies when one starts"), "{text}{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn exposure_works_with_and_without_a_running_server() {
    let setup = Setup::new().await;
    setup.registry.publish(Package::new("left-pad", "1.0.0"));
    let program = setup.serve(&[]);
    program.get(TARBALL).npm("11.21.2").await.is(200);
    let exposure = || {
        let mut command = coldframe(setup.home.path());
        command.args(["exposure", "left-pad@1.0.0", "--data-dir"]).arg(setup.data.path());
        run(&mut command)
    };
    let (code, _, errors) = exposure();
    assert_eq!(code, 0, "{errors}");
    program.signal("-TERM");
    program.wait_for_exit().await;
    let (code, text, errors) = exposure();
    assert_eq!(code, 0, "{errors}");
    assert!(text.contains("127.0.0.1") && text.contains("npm/11.21.2") && text.contains("served"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn upstream_and_token_come_from_npmrc_and_the_token_is_never_printed() {
    let setup = Setup::new().await;
    setup.registry.publish(Package::new("@acme/secret", "1.0.0").readable_with("npm_s3cr3t"));
    let port = setup.registry.address.port();
    let npmrc = format!("registry={}/\n//127.0.0.1:{port}/:_authToken=npm_s3cr3t\n", setup.registry.url);
    std::fs::write(setup.home.path().join(".npmrc"), npmrc).unwrap();
    let mut command = coldframe(setup.home.path());
    command.args(["serve", "--listen", "127.0.0.1:0", "--log-level", "trace", "--data-dir"]).arg(setup.data.path());
    let program = Program::start(&mut command);
    assert!(program.greeting.contains(&setup.registry.url) && program.greeting.contains(".npmrc"), "{}", program.greeting);
    assert_eq!(program.get("/@acme%2fsecret").await.versions(), ["1.0.0"], "a loopback client uses the configured token");
    program.get("/@acme%2fsecret").token("mallory").await.is(404);
    let greeting = program.greeting.clone();
    program.signal("-TERM");
    let (_, errors) = program.wait_for_exit().await;
    let (_, shown, _) = run(coldframe(setup.home.path()).args(["config", "show"]));
    for text in [greeting, errors, shown] {
        assert!(!text.contains("s3cr3t"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn npmrc_that_names_coldframe_is_not_used_as_upstream() {
    let setup = Setup::new().await;
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let project = format!("registry=http://localhost:{}/\n", free.port());
    std::fs::write(setup.home.path().join(".npmrc"), project).unwrap();
    std::fs::create_dir(setup.home.path().join("etc")).unwrap();
    std::fs::write(setup.home.path().join("etc/npmrc"), format!("registry={}/\n", setup.registry.url)).unwrap();
    let mut command = coldframe(setup.home.path());
    command.args(["serve", "--listen", &free.to_string(), "--data-dir"]).arg(setup.data.path());
    command.env("npm_config_globalconfig", setup.home.path().join("etc/npmrc"));
    let program = Program::start(&mut command);
    assert!(program.greeting.contains(&setup.registry.url), "{}", program.greeting);
}

#[tokio::test(flavor = "multi_thread")]
async fn upstream_is_reached_through_the_outbound_proxy_of_the_environment() {
    let setup = Setup::new().await;
    let proxy = Registry::on_other_host(&machine_clock()).await;
    setup.registry.publish(Package::new("left-pad", "1.0.0"));
    let body = setup.registry.packument("left-pad").to_string();
    proxy.answer("http://registry.example/left-pad", crate::fake_response::Reply::json(&body));
    let mut command = coldframe(setup.home.path());
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--upstream", "http://registry.example/", "--data-dir"])
        .arg(setup.data.path());
    command.env("HTTP_PROXY", &proxy.url).env("http_proxy", &proxy.url).env("NO_PROXY", "other.example");
    let program = Program::start(&mut command);
    assert_eq!(program.get("/left-pad").await.versions(), ["1.0.0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn unusable_data_directory_exits_with_code_5() {
    let setup = Setup::new().await;
    let file = setup.home.path().join("file");
    std::fs::write(&file, "").unwrap();
    let mut command = coldframe(setup.home.path());
    command.args(["serve", "--listen", "127.0.0.1:0", "--upstream", &setup.registry.url, "--data-dir"]).arg(file.join("data"));
    let (code, _, errors) = run(&mut command);
    assert_eq!(code, 5, "{errors}");
    assert!(errors.contains("file"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn client_config_uses_running_server_or_local_settings() {
    let setup = Setup::new().await;
    let program = setup.serve(&["--min-release-age", "80h"]);
    let url = format!("http://{}/", program.address);
    let lines = |client: &str, url: &str| {
        let mut command = coldframe(setup.home.path());
        command.args(["client-config", client, "--url", url, "--min-release-age", "30h", "--upstream", &setup.registry.url]);
        run(command.arg("--data-dir").arg(setup.data.path()))
    };
    for (client, line) in [
        ("npm", "min-release-age=4"),
        ("pnpm", "minimumReleaseAge: 4800"),
        ("yarn", "registry \"http://"),
        ("yarn-berry", "npmMinimalAgeGate: 4800"),
        ("bun", "minimumReleaseAge = 288000"),
        ("deno", "min-release-age=4"),
        ("renovate", "\"minimumReleaseAge\": \"4 days\""),
        ("dependabot", "default-days: 4"),
    ] {
        let (code, text, errors) = lines(client, &url);
        assert_eq!(code, 0, "{errors}");
        for part in [line, url.trim_end_matches('/')] {
            assert!(text.contains(part), "{client}: {part:?} is missing:\n{text}");
        }
    }
    let (code, text, _) = lines("npm", "http://127.0.0.1:1/");
    assert!(
        code == 0 && text.contains("min-release-age=2") && text.contains("the settings of this command, cannot ask"),
        "{text}"
    );
    assert_eq!(lines("cargo", &url).0, 2);
    assert_eq!(setup.registry.total(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn healthcheck_reports_readiness_and_ignores_proxies() {
    let setup = Setup::new().await;
    let program = setup.serve(&[]);
    let address = program.address.to_string();
    let ask = |listen: &str| {
        let mut command = coldframe(setup.home.path());
        // Requests through this proxy would fail.
        command.env("HTTP_PROXY", "http://127.0.0.1:1/").env("COLDFRAME_LISTEN", listen);
        run(command.args(["healthcheck", "--upstream", &setup.registry.url]))
    };
    assert_eq!(ask(&address), (0, String::new(), String::new()));
    let elsewhere = ask(&address.replace("127.0.0.1", "0.0.0.0"));
    assert_eq!(elsewhere.0, 0, "the wildcard address is replaced by loopback: {}", elsewhere.2);
    let other = Registry::start(&machine_clock()).await;
    let registry = other.url.trim_start_matches("http://").trim_end_matches('/');
    let (code, _, errors) = ask(registry);
    assert!(code == 1 && errors.contains(registry), "a registry is not a Coldframe: {code} {errors}");
    assert_eq!(other.take_undeclared(), ["GET /-/coldframe/readyz"]);
    program.signal("-TERM");
    program.wait_for_exit().await;
    let (code, _, errors) = ask(&address);
    assert!(code == 1 && errors.contains(&address), "{code} {errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_are_logged_with_author_subject_reason_and_expiry() {
    let setup = Setup::new().await;
    let decide = |words: &[&str]| {
        let (code, shown, errors) = run(coldframe(setup.home.path()).args(words).arg("--data-dir").arg(setup.data.path()));
        assert_eq!(code, 0, "{errors}");
        shown
    };
    // One decision before the server starts, the others while it runs.
    decide(&["deny", "axios@1.14.1", "--reason", "a RAT"]);
    let program = setup.serve(&["--log-format", "json"]);
    decide(&["deny", "lodash@4.18.1", "--reason", "vendor \"mail\"", "--expires", "48h"]);
    decide(&["break-glass", "--for", "1h", "--reason", "an outage"]);
    decide(&["revoke", "2", "--reason", "a mistake"]);
    program.signal("-TERM");
    let (code, errors) = program.wait_for_exit().await;
    assert_eq!(code, 0, "{errors}");
    let lines: Vec<serde_json::Value> = errors.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let find = |message: &str, id: i64| {
        let found = lines.iter().find(|line| line["message"] == message && line["decision.id"] == id);
        found.unwrap_or_else(|| panic!("no `{message}` of decision {id}:\n{errors}"))
    };
    assert_eq!(find("decision loaded", 1)["decision.subject"], "axios@1.14.1");
    let recorded = find("decision recorded", 2);
    for (field, value) in [("kind", "deny"), ("subject", "lodash@4.18.1"), ("reason", "vendor \"mail\""), ("state", "active")] {
        assert_eq!(recorded[format!("decision.{field}")], value, "{recorded}");
    }
    assert!(recorded["decision.author"].is_string() && recorded["decision.expires"].is_string(), "{recorded}");
    let glass = find("break-glass is active", 3);
    assert_eq!((&glass["level"], &glass["decision.reason"]), (&"WARN".into(), &"an outage".into()));
    assert_eq!(find("decision revoked", 2)["decision.revoked_reason"], "a mistake");
}
