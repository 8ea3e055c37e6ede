//! Output with hostile input from every source: no printed text may act on a terminal, a CI runner, a browser or a log reader.
//! Every command is run with hostile input, and all of its output is checked.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::Ask;
use crate::fake_response::Reply;
use crate::harness::Scene;
use crate::package::{Package, hours, tarball};
use crate::process::{Program, coldframe, machine_clock, run};
use crate::registry::Registry;

/// A value that starts new lines, contains commands for three CI runners, moves the cursor, sets a title, reverses the text
/// direction and has invisible characters.
const HOSTILE: &str = "x\n::error::PWNED\r\n::add-mask::PWNED\u{85}PWNED\u{2028}PWNED##[set-env]##vso[task.x]##teamcity[y]\u{1b}]0;t\u{7}\u{9b}2J\u{202e}\
                       \u{2066}\u{200b}\u{feff}\u{ad}\u{e0041}\u{7f}|`$(x)`<img src=x>";

/// A hostile value of characters that an HTTP header can contain.
const HOSTILE_LINE: &str = "::error::PWNED ##[add-mask]PWNED ##vso[task.x] x";

/// The workflow commands that a text may contain: none, or those of `check --format github`.
#[derive(Clone, Copy, PartialEq)]
enum Commands {
    None,
    Ours,
}

/// Asserts that a text is harmless.
#[track_caller]
fn assert_harmless(what: &str, text: &str, commands: Commands) {
    for line in text.split('\n') {
        for letter in line.chars() {
            let invisible = matches!(letter, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
                | '\u{feff}' | '\u{e0000}'..='\u{e007f}');
            assert!(!invisible && (!letter.is_control() || letter == '\t'), "{what} prints {letter:?}:\n{text:?}");
        }
        let is_ours = commands == Commands::Ours
            && ["::error file=", "::warning file=", "::notice file="].iter().any(|own| line.starts_with(own));
        assert!(is_ours || !line.trim_start().starts_with("::"), "{what} starts a workflow command: {line:?}");
        assert!(!line.starts_with("PWNED"), "{what} starts a line with a value: {line:?}");
        for command in ["##[", "##vso[", "##teamcity["] {
            assert!(!line.contains(command), "{what} prints {command}: {line:?}");
        }
    }
}

/// Runs a command and checks all of its output.
#[track_caller]
fn printed(command: &mut Command) -> (i32, String, String) {
    let what = format!("{:?}", command.get_args().collect::<Vec<_>>());
    let (code, out, errors) = run(command);
    let commands = if what.contains("\"github\"") { Commands::Ours } else { Commands::None };
    assert_harmless(&what, &out, commands);
    assert_harmless(&what, &errors, Commands::None);
    if what.contains("\"json\"") || what.contains("\"--json\"") || what.contains("\"sarif\"") {
        assert!(out.is_empty() || serde_json::from_str::<Value>(&out).is_ok(), "{what} prints invalid JSON: {out}");
    }
    (code, out, errors)
}

struct Fixture {
    home: TempDir,
    data: TempDir,
    registry: Registry,
}

impl Fixture {
    /// Starts a registry with hostile text in every text field of a packument.
    async fn new() -> Self {
        let registry = Registry::start(&machine_clock()).await;
        registry.publish(Package::new("axios", "1.14.0"));
        let hostile = Package::new("axios", "1.14.1").aged(hours(1)).field("deprecated", HOSTILE);
        let hostile = hostile.field("_npmUser", json!({ "name": HOSTILE, "email": HOSTILE }));
        let hostile = hostile.field("maintainers", json!([{ "name": HOSTILE, "email": HOSTILE }]));
        let hostile = hostile.field("repository", json!({ "type": "git", "url": HOSTILE }));
        let hostile = hostile.field("license", HOSTILE).field("dependencies", json!({ HOSTILE: HOSTILE }));
        registry.publish(hostile.field("scripts", json!({ "postinstall": HOSTILE, HOSTILE: HOSTILE })));
        registry.edit("axios", |packument| {
            packument["dist-tags"][HOSTILE] = json!("1.14.1");
            let other = packument["versions"]["1.14.1"].clone();
            packument["versions"][HOSTILE] = other;
        });
        // An invalid packument, and hostile error texts.
        registry.raw(
            "broken",
            json!({ "name": HOSTILE, "versions": { HOSTILE: { "name": HOSTILE, "version": HOSTILE } } }).to_string(),
        );
        registry.answer("/denied", Reply::error(403, HOSTILE));
        registry.answer("/away", Reply::error(503, HOSTILE));
        for name in ["b", "d", "e", "::error::PWNED", "%1b%5b2J"] {
            registry.absent(name);
        }
        Self { home: TempDir::new().unwrap(), data: TempDir::new().unwrap(), registry }
    }

    fn write(&self, name: &str, text: &str) -> std::path::PathBuf {
        let path = self.home.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = coldframe(self.home.path());
        command.env("PATH", "/usr/bin:/bin").args(args);
        command
    }

    /// Returns a command with the data directory.
    fn with_data(&self, args: &[&str]) -> Command {
        let mut command = self.command(args);
        command.arg("--data-dir").arg(self.data.path());
        command
    }

    /// Returns a command with the data directory and the registry.
    fn with_upstream(&self, args: &[&str]) -> Command {
        let mut command = self.with_data(args);
        command.args(["--upstream", &self.registry.url]);
        command
    }
}

/// Quotes text for YAML and yarn 1, as JSON in ASCII.
fn quoted(text: &str) -> String {
    let mut quoted = String::new();
    for letter in Value::from(text).to_string().chars() {
        if letter.is_ascii_graphic() || letter == ' ' {
            quoted.push(letter);
        } else {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                write!(quoted, "\\u{unit:04x}").unwrap();
            }
        }
    }
    quoted
}

/// Returns lockfiles of every client with hostile text in each field, next to entries that are refused.
fn lockfiles() -> Vec<(&'static str, String)> {
    let entry = json!({ "version": HOSTILE, "resolved": HOSTILE, "integrity": HOSTILE, "dependencies": { HOSTILE: HOSTILE, "axios": HOSTILE } });
    let young = json!({ "version": "1.14.1", "dependencies": { "axios": HOSTILE } });
    let elsewhere = json!({ "version": "1.0.0", "resolved": format!("https://files.example/{HOSTILE}.tgz") });
    let git = json!({ "version": "1.0.0", "resolved": format!("git+ssh://{HOSTILE}/a.git#01") });
    let alias = format!("node_modules/{HOSTILE}; rm -rf x");
    let npm = json!({ "lockfileVersion": 3, "packages": {
        "": { "name": HOSTILE, "dependencies": { HOSTILE: HOSTILE, "axios": "^1.0.0", format!("{HOSTILE}; rm -rf x"): "npm:axios@^1.0.0" } },
        format!("node_modules/{HOSTILE}"): entry,
        "node_modules/axios": young,
        alias: { "name": "axios", "version": "1.14.1" },
        "node_modules/axios/node_modules/nothing": { "optional": true },
        format!("{HOSTILE}/node_modules/{HOSTILE}"): { "version": "1.0.0" },
        "node_modules/broken": { "version": HOSTILE },
        "node_modules/denied": { "version": "1.0.0" },
        "node_modules/away": { "version": "1.0.0" },
        "node_modules/b": elsewhere,
        "node_modules/c": git,
    } });
    let old = json!({ "lockfileVersion": 1, "dependencies": { HOSTILE: { "version": HOSTILE, "requires": { HOSTILE: HOSTILE } }, "axios": { "version": "1.14.1" },
        "d": { "version": format!("https://files.example/{HOSTILE}.tgz") }, "e": { "version": format!("git+https://{HOSTILE}") } } });
    let q = quoted(HOSTILE);
    let pnpm = |version: &str, key: &str| {
        format!(
            "lockfileVersion: '{version}'\nimporters:\n  {q}:\n    dependencies:\n      {q}:\n        specifier: {q}\n        version: {q}\n      axios:\n        \
             specifier: {q}\n        version: 1.14.1\npackages:\n  {}:\n    resolution: {{integrity: {q}, tarball: {q}}}\n  {key}:\n    resolution: \
             {{integrity: sha512-x}}\n    dependencies:\n      {q}: {q}\n",
            quoted(&format!("{HOSTILE}@{HOSTILE}"))
        )
    };
    let classic = format!(
        "# yarn lockfile v1\n\n{}:\n  version {q}\n  resolved {q}\n  integrity {q}\n  dependencies:\n    {q} {q}\n\naxios@^1.0.0, {}:\n  version \"1.14.1\"\n",
        quoted(&format!("{HOSTILE}@{HOSTILE}")),
        quoted(&format!("axios@{HOSTILE}")),
    );
    let berry = format!(
        "__metadata:\n  version: 8\n\n{}:\n  version: {q}\n  resolution: {}\n  dependencies:\n    {q}: {q}\n\n\"axios@npm:^1.0.0\":\n  version: 1.14.1\n  \
         resolution: \"axios@npm:1.14.1\"\n",
        quoted(&format!("{HOSTILE}@npm:{HOSTILE}")),
        quoted(&format!("{HOSTILE}@npm:{HOSTILE}::__archiveUrl={HOSTILE}")),
    );
    let bun = json!({ "lockfileVersion": 1, "workspaces": { "": { "name": HOSTILE, "dependencies": { HOSTILE: HOSTILE, "axios": HOSTILE } } },
        "packages": { HOSTILE: [format!("{HOSTILE}@{HOSTILE}"), HOSTILE, {}, HOSTILE], "axios": ["axios@1.14.1", "", {}, ""] } });
    let deno = json!({ "version": "5", "specifiers": { format!("npm:{HOSTILE}@{HOSTILE}"): HOSTILE, "npm:axios@^1": "1.14.1" },
        "npm": { format!("{HOSTILE}@{HOSTILE}"): { "integrity": HOSTILE, "tarball": HOSTILE }, "axios@1.14.1": {} }, "remote": { HOSTILE: HOSTILE } });
    vec![
        ("package-lock.json", npm.to_string()),
        ("old-package-lock.json", old.to_string()),
        ("pnpm-lock.yaml", pnpm("9.0", "axios@1.14.1")),
        ("six-pnpm-lock.yaml", pnpm("6.0", "/axios@1.14.1")),
        ("five-pnpm-lock.yaml", pnpm("5.4", "/axios/1.14.1")),
        ("yarn.lock", classic),
        ("berry-yarn.lock", berry),
        ("bun.lock", bun.to_string()),
        ("deno.lock", deno.to_string()),
        ("broken-package-lock.json", format!("{{ \"lockfileVersion\": {q}, {q}")),
        ("unknown-package-lock.json", format!("{{ \"lockfileVersion\": {q} }}")),
        ("broken-pnpm-lock.yaml", format!("lockfileVersion: {q}\n? [{q}]\n: 1\n")),
        ("broken-yarn.lock", format!("# yarn lockfile v1\n{q}\n")),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_lockfile_is_printed_harmlessly() {
    let fixture = Fixture::new().await;
    for (name, text) in lockfiles() {
        // The folder name is hostile too, because a repository may have any.
        let path = fixture.write(&format!("f\n::error::PWNED\u{1b}[2J##[x]/{name}"), &text);
        let path = path.to_str().unwrap();
        let is_broken = name.starts_with("broken") || name.starts_with("unknown");
        for format in ["table", "json", "sarif", "github"] {
            let (code, out, errors) = printed(&mut fixture.with_upstream(&["check", path, "--format", format]));
            assert_eq!(code == 2, is_broken, "{name}: {out}{errors}");
            assert_eq!(!out.is_empty(), !is_broken, "{name}: {errors}");
        }
        printed(&mut fixture.with_upstream(&["check", path, "--fix"]));
        printed(&mut fixture.with_upstream(&["check", path, "--fix", "--format", "json"]));
        printed(&mut fixture.with_upstream(&["adopt", path, "--dry-run"]));
        printed(&mut fixture.with_upstream(&["adopt", path, "--dry-run", "--json"]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn suggested_commands_are_quoted_for_the_shell() {
    let fixture = Fixture::new().await;
    let lockfile = "# yarn lockfile v1\n\n\"x; rm -rf $(y) 'z'@npm:axios@^1.0.0\":\n  version \"1.14.1\"\n";
    fixture.write("yarn.lock", lockfile);
    let (_, out, _) = printed(&mut fixture.with_upstream(&["check", "--fix"]));
    let line = out.lines().find(|line| line.contains("yarn add --exact")).unwrap_or_else(|| panic!("{out}"));
    assert!(
        line.ends_with(r"yarn add --exact 'x; rm -rf $(y) '\''z'\''@npm:axios@1.14.0'"),
        "the alias stays in its quotes: {line}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_packument_is_explained_harmlessly() {
    let fixture = Fixture::new().await;
    for spec in ["axios@1.14.1", "axios", "axios@^1", "broken", "denied", "away"] {
        printed(&mut fixture.with_upstream(&["explain", spec]));
        printed(&mut fixture.with_upstream(&["explain", spec, "--json"]));
        printed(&mut fixture.with_upstream(&["approve", spec, "--reason", "because\u{202e}"]));
    }
    printed(&mut fixture.with_upstream(&["explain", &format!("axios@{HOSTILE}")]));
    for words in [
        &["request", "axios@1.14.1", "--reason", "for the tests"][..],
        &["request", "show", "1"],
        &["request", "show", "1", "--json"],
        &["request", "list"],
        &["request", HOSTILE, "--reason", "x"],
        &["request", "axios@1.14.1", "--reason", HOSTILE_LINE],
        &["request", "axios@1.14.1", "--reason", "x", "--project", HOSTILE],
        &["request", "list", "--state", HOSTILE],
        &["request", "approve", "1", "--digests", HOSTILE, "--record", HOSTILE, "--reason", "x"],
        &["request", "decline", "1", "--reason", HOSTILE],
    ] {
        printed(&mut fixture.with_upstream(words));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_configuration_files_are_quoted_harmlessly() {
    let fixture = Fixture::new().await;
    let q = quoted(HOSTILE);
    let name = "f\n::error::PWNED\u{1b}[2J";
    let rules = format!(
        "{q} = {q}\n[[rule]]\nid = {q}\n{q} = {q}\nreason = {q}\ndeny = {q}\n# \u{202e} \u{1b}[2J ##[x]\nhold = \"\u{202e}\"\n"
    );
    let policy = fixture.write(&format!("{name}/p.toml"), &rules);
    let policy = policy.to_str().unwrap();
    let good = "[[rule]]\nid = \"a\"\nreason = \"\\u001b[2J\\n::error::PWNED\"\npackages = [\"axios\"]\ndeny = true\n";
    let sound = fixture.write(&format!("{name}/q.toml"), good);
    fixture.write(&format!("{name}/q.cases"), &format!("axios@1.14.1 => allow\n{HOSTILE}\naxios@\u{202e} => \u{1b}[2J\n"));
    let sound = sound.to_str().unwrap();
    let incidents =
        fixture.write(&format!("{name}/i.json"), &json!([{ "id": HOSTILE, "name": HOSTILE, "version": HOSTILE }]).to_string());
    let packument = fixture.write(
        &format!("{name}/axios.json"),
        &json!({ "name": "axios", "versions": { HOSTILE: { "name": HOSTILE } } }).to_string(),
    );
    for policy in [policy, sound] {
        printed(&mut fixture.command(&["policy", "check", policy]));
        printed(&mut fixture.command(&["policy", "test", policy]));
        printed(&mut fixture.command(&["policy", "replay", incidents.to_str().unwrap(), "--policy", policy]));
        printed(&mut fixture.command(&["policy", "survey", packument.to_str().unwrap(), "--list", "--policy", policy]));
        printed(&mut fixture.with_upstream(&["policy", "diff", policy]));
        printed(&mut fixture.with_upstream(&["policy", "diff", policy, "--json"]));
    }
    printed(&mut fixture.command(&["policy", "show", HOSTILE_LINE]));
    let settings = format!(
        "{q} = {q}\nlisten = {q}\nupstream = {q}\nmin-release-age = {q}\n# \u{202e}\u{1b}[2J\n[[feed]]\n{q} = {q}\nsource = {q}\n"
    );
    let config = fixture.write(&format!("{name}/coldframe.toml"), &settings);
    let config = config.to_str().unwrap();
    printed(&mut fixture.command(&["config", "check", config]));
    for args in
        [&["config", "show"][..], &["serve"], &["check"], &["doctor"], &["healthcheck"], &["feed", "status"], &["ca", "init"]]
    {
        printed(fixture.command(args).args(["--config", config]));
        printed(fixture.command(args).args([
            "--upstream",
            "http://127.0.0.1:9/\u{202e}\u{1b}[2J",
            "--min-release-age",
            "\u{1b}[2J",
        ]));
    }
    printed(
        fixture
            .command(&["config", "show", "--data-dir", "/nowhere/\u{202e}\u{1b}[2J"])
            .env("COLDFRAME_LOG_LEVEL", "\u{202e}\u{9b}"),
    );
    printed(&mut fixture.command(&["config", "check", "missing\n::error::PWNED\u{1b}[2J"]));
    printed(&mut fixture.command(&["config", "init", "missing/\n::error::PWNED\u{1b}[2J"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_feeds_users_and_the_ledger_are_printed_harmlessly() {
    let fixture = Fixture::new().await;
    let feed = fixture.home.path().join("feed");
    let record = json!({ "id": "MAL-1", "modified": "2026-04-01T00:00:00Z", "aliases": [HOSTILE], "summary": HOSTILE, "details": HOSTILE,
        "affected": [{ "package": { "ecosystem": "npm", "name": "axios" }, "versions": ["1.14.1", HOSTILE] }] });
    let strange = json!({ "id": HOSTILE, "modified": HOSTILE, "affected": [{ "package": { "ecosystem": "npm", "name": HOSTILE }, "versions": [HOSTILE] }] });
    fixture.write("feed/MAL-1.json", &record.to_string());
    fixture.write("feed/strange.json", &strange.to_string());
    fixture.write("feed/broken.json", HOSTILE);
    let feed = feed.to_str().unwrap();
    let server = Program::serve(
        fixture.home.path(),
        fixture.data.path(),
        &fixture.registry.url,
        &["--feed", feed, "--log-level", "debug"],
    );
    for agent in ["npm/\u{a0}\u{202e}11.0.0", &format!("evil/{HOSTILE_LINE}"), "npm/11.21.2 node/v22"] {
        for path in [
            "/axios",
            "/axios/-/axios-1.14.1.tgz",
            "/axios/-/axios-1.14.0.tgz",
            "/broken",
            "/denied",
            "/away",
            "/::error::PWNED",
            "/axios/%1b%5b2J",
        ] {
            let response = Ask::new(server.address, "GET", path).header("user-agent", agent).await;
            assert_harmless(path, &response.reason, Commands::None);
            for (name, value) in &response.headers.0 {
                assert_harmless(&format!("{path} {name}"), value, Commands::None);
                assert!(value.len() <= 200 || !["npm-notice", "warning"].contains(&name.as_str()), "{name}: {value}");
            }
            assert!(response.reason.len() <= 200 && response.reason.is_ascii(), "{}", response.reason);
            if response.status >= 400 {
                assert_harmless(path, response.json()["error"].as_str().unwrap(), Commands::None);
            }
        }
    }
    for accept in ["text/html", "text/plain", "application/json"] {
        for spec in ["axios@1.14.1", "broken", "denied", "axios@%1b%5b2J%0a::error::PWNED"] {
            let response = server.get(&format!("/-/coldframe/explain/{spec}")).accept(accept).await;
            assert_harmless(&format!("explain {spec} as {accept}"), &response.text(), Commands::None);
        }
    }
    assert_harmless("metrics", &server.get("/-/coldframe/metrics").await.text(), Commands::None);
    printed(&mut fixture.with_data(&["deny", "axios@1.14.1", "--reason", "because \u{202e}\u{200b}##[x] of this"]));
    printed(&mut fixture.with_data(&["deny", "axios@1.14.1", "--reason", HOSTILE]));
    for args in [
        &["decisions", "list", "--all"][..],
        &["exposure", "axios"],
        &["exposure", "--contacts"],
        &["ledger", "query", "--client", HOSTILE],
        &["ledger", "query"],
        &["clients"],
        &["freeze", HOSTILE_LINE, "--reason", "x", "--for", "1h"],
    ] {
        printed(&mut fixture.with_data(args));
        printed(fixture.with_data(args).arg("--json"));
    }
    for args in [
        &["feed", "status"][..],
        &["feed", "sync"],
        &["incident", "MAL-1", "--dry-run"],
        &["incident", HOSTILE_LINE, "--dry-run"],
    ] {
        printed(fixture.with_upstream(args).args(["--feed", feed]));
        printed(fixture.with_upstream(args).args(["--feed", feed, "--json"]));
    }
    printed(&mut fixture.with_data(&["exposure", "--advisory", "MAL-1", "--feed", feed]));
    for args in [
        &["confirm", "99"][..],
        &["revoke", "1", "--reason", "\u{202e}"],
        &["break-glass", "--for", "1h", "--reason", "\u{202e}"],
        &["token", "create", "--label", HOSTILE_LINE],
        &["token", "create", "--label", "a", "--scope", HOSTILE_LINE],
        &["token", "revoke", HOSTILE_LINE],
        &["ledger", "export"],
        &["ledger", "export", "--format", "csv"],
        &["ledger", "query", "--package", HOSTILE],
        &["ledger", "query", "--since", HOSTILE_LINE],
        &["clients", "--since", HOSTILE],
    ] {
        printed(&mut fixture.with_data(args));
    }
    printed(&mut fixture.with_data(&[
        "feed",
        "export",
        &format!("{}/out\n::error::PWNED\u{1b}[2J", fixture.home.path().display()),
    ]));
    printed(&mut fixture.command(&["user", "add", HOSTILE_LINE]));
    printed(&mut fixture.command(&["user", "remove", "a\u{202e}", "--gateway-users", "missing\n::error::PWNED"]));
    assert_harmless("the greeting", &server.greeting, Commands::None);
    server.signal("-TERM");
    let (_, log) = server.wait_for_exit().await;
    assert!(log.contains("PWNED"), "the log has the requested names:\n{log}");
    assert_harmless("the log", &log, Commands::None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_in_json_holds_no_control_characters_either() {
    let fixture = Fixture::new().await;
    let server = Program::serve(
        fixture.home.path(),
        fixture.data.path(),
        &fixture.registry.url,
        &["--log-level", "debug", "--log-format", "json"],
    );
    for path in ["/broken", "/denied", "/axios/-/axios-1.14.1.tgz"] {
        server.get(path).header("user-agent", &format!("evil/{HOSTILE_LINE}")).await;
    }
    server.signal("-TERM");
    let (_, log) = server.wait_for_exit().await;
    assert_harmless("the log", &log, Commands::None);
    for line in log.lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_summary_of_a_run_is_printed_harmlessly() {
    let fixture = Fixture::new().await;
    let (name, text) = lockfiles().remove(0);
    fixture.write(name, &text);
    for file in [".npmrc", ".yarnrc"] {
        fixture.write(file, "registry=http://x/\u{1b}[2J\u{202e}\n@\u{202e}s:registry=http://y/##[x]\n");
    }
    fixture.write(
        ".yarnrc.yml",
        &format!(
            "npmRegistryServer: {}\nnpmScopes:\n  {}:\n    npmRegistryServer: {}\n",
            quoted(HOSTILE),
            quoted("::x"),
            quoted(HOSTILE)
        ),
    );
    fixture.write("bunfig.toml", &format!("[install]\nregistry = {}\n", quoted(HOSTILE)));
    fixture.write("pnpm-workspace.yaml", &format!("registries:\n  default: {}\n", quoted(HOSTILE)));
    let report = fixture.home.path().join("report.md");
    let script = format!(
        "curl -s -o /dev/null {0}/axios; curl -s -o /dev/null {0}/axios/-/axios-1.14.1.tgz; curl -s -o /dev/null {0}/broken; exit 1",
        fixture.registry.url
    );
    for more in [&[][..], &["--json"]] {
        let mut command = fixture.with_upstream(&["run"]);
        command.arg("--report").arg(&report).args(more).args(["--", "sh", "-c", &script, "x\n::error::PWNED\u{1b}[2J"]);
        let (_, out, errors) = run(&mut command);
        assert_harmless("run", &out, Commands::None);
        assert_harmless("run", &errors, Commands::None);
    }
    let report = std::fs::read_to_string(&report).unwrap();
    assert!(
        !report.contains("<img") || report.lines().filter(|line| line.contains("<img")).all(|line| line.contains('`')),
        "{report}"
    );
    assert_harmless("the report", &report, Commands::None);
    printed(&mut fixture.with_upstream(&["run", "--", "missing\n::error::PWNED\u{1b}[2J"]));
    printed(&mut fixture.with_upstream(&["doctor"]));
    printed(&mut fixture.with_upstream(&["doctor", "--json"]));
    let manifest = quoted(HOSTILE);
    let manifest = format!(
        r#"{{"name":{manifest},"version":{manifest},"scripts":{{"install":{manifest}}},"dependencies":{{{manifest}:"1"}}}}"#
    );
    let files = [("package/package.json", &*manifest), ("package/\u{1b}[2J\u{202e}", ""), ("x\n::error::PWNED/a", "")];
    let (stated, path) = (fixture.write("manifest.json", "{}"), fixture.home.path().join("a.tgz"));
    std::fs::write(&path, tarball(&files)).unwrap();
    for more in [&[][..], &["--json"]] {
        let (code, ..) = printed(fixture.command(&["vet"]).arg(&path).arg("--manifest").arg(&stated).args(more));
        assert_eq!(code, 10);
    }
    for client in ["npm", "pnpm", "yarn", "bun", "deno"] {
        printed(&mut fixture.with_upstream(&["client-config", client]));
    }
}

#[test]
fn every_command_is_run_with_hostile_input() {
    let home = TempDir::new().unwrap();
    let (_, help, _) = run(coldframe(home.path()).arg("--help"));
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let commands: Vec<_> = commands
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(commands.len() > 15, "{help}");
    let source = include_str!("printed.rs");
    for command in commands {
        // One prints a fixed script and the other the help; neither prints untrusted values.
        let own = ["completions", "help"].contains(&command);
        assert!(own || source.contains(&format!("[\"{command}\"")), "`{command}` is not run with hostile input");
    }
}

#[tokio::test]
async fn a_refusal_of_an_admin_page_is_one_short_line() {
    let folder = TempDir::new().unwrap();
    let scene = Scene::open().set("admin-token-file", tokens(folder.path()).to_str().unwrap()).await;
    let open = Scene::open().await;
    for (scene, host) in [(&scene, "evil.example"), (&open, "evil.example")] {
        for page in ["metrics", "explain/axios", "check"] {
            let response = scene.get(&format!("/-/coldframe/{page}")).header("host", host).await;
            assert!((400..500).contains(&response.status), "{}", response.status);
            assert!(response.reason.len() <= 200 && response.reason.is_ascii(), "{}", response.reason);
            let long = response.headers.0.iter().find(|(_, value)| value.len() > 200);
            assert!(long.is_none(), "{long:?}");
        }
    }
}

/// Writes a file with one admin token.
fn tokens(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("printed-tokens");
    std::fs::write(&path, "0123456789abcdef0123456789abcdef\n").unwrap();
    #[cfg(unix)]
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    path
}
