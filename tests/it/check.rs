//! `coldframe check`: which lockfile entries would be refused, why, until when, and which version to use instead.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::Scene;
use crate::package::{Package, hours, sha512};
use crate::process::{Program, coldframe, machine_clock, run};
use crate::registry::Registry;

/// A project with lockfiles, and a registry.
struct Project {
    home: TempDir,
    data: TempDir,
    registry: Registry,
}

impl Project {
    async fn make() -> Self {
        let clock = machine_clock();
        Self { home: TempDir::new().unwrap(), data: TempDir::new().unwrap(), registry: Registry::start(&clock).await }
    }

    /// Publishes two versions of axios, the second one hour old, and an old left-pad.
    async fn with_axios() -> Self {
        let project = Self::make().await;
        project.registry.publish(Package::new("axios", "1.14.0"));
        project.registry.publish(Package::new("axios", "1.14.1").aged(hours(1)));
        project.registry.publish(Package::new("left-pad", "1.3.0"));
        project
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.home.path().join(name), text).unwrap();
    }

    /// Runs `coldframe check` in the project against the registry, without `--server`.
    fn check(&self, words: &[&str]) -> (i32, String, String) {
        let mut command = self.command(words);
        command.args(["--upstream", &self.registry.url]);
        run(&mut command)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = coldframe(self.home.path());
        command.arg("check").args(words).arg("--data-dir").arg(self.data.path());
        command
    }

    fn json(&self, words: &[&str]) -> (i32, Value) {
        let (code, text, errors) = self.check(&[&["--format", "json"], words].concat());
        (code, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{errors}")))
    }
}

/// Returns a `package-lock.json` with one package per line from line 4 on. The project requires each with `^1.0.0`.
fn package_lock(packages: &[(&str, Value)]) -> String {
    let required: Vec<_> = packages.iter().map(|(name, _)| format!("{}: \"^1.0.0\"", json!(name))).collect();
    let entries: Vec<_> = packages.iter().map(|(name, entry)| format!("\"node_modules/{name}\": {entry}")).collect();
    format!(
        "{{ \"lockfileVersion\": 3,\n\"packages\": {{\n\"\": {{ \"dependencies\": {{ {} }} }},\n{}\n}} }}\n",
        required.join(", "),
        entries.join(",\n")
    )
}

fn locked(version: &str) -> Value {
    json!({ "version": version })
}

#[tokio::test(flavor = "multi_thread")]
async fn held_version_is_reported_with_line_rule_opening_and_replacement() {
    let project = Project::with_axios().await;
    project.write("package-lock.json", &package_lock(&[("left-pad", locked("1.3.0")), ("axios", locked("1.14.1"))]));
    let (code, text, errors) = project.check(&[]);
    assert_eq!(code, 75, "every refusal ends with time: {text}{errors}");
    for part in
        ["package-lock.json: 2 versions, 1 would be refused", "axios@1.14.1", "line 5", "minimum-age", "UTC", "use 1.14.0"]
    {
        assert!(text.contains(part), "{part:?} is missing:\n{text}");
    }
    assert!(!text.contains("left-pad"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clean_lockfile_exits_with_code_0_and_resolved_is_optional() {
    let project = Project::with_axios().await;
    project.write("package-lock.json", &package_lock(&[("axios", locked("1.14.0")), ("left-pad", locked("1.3.0"))]));
    let (code, text, errors) = project.check(&[]);
    assert_eq!(code, 0, "{text}{errors}");
    assert!(text.contains("none would be refused") && !text.contains("bypass"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bypassing_entries_are_reported_without_failing() {
    let project = Project::with_axios().await;
    project.registry.publish(Package::new("forked", "1.0.0"));
    let through = |version: &str, url: String| json!({ "version": version, "resolved": url });
    project.write(
        "package-lock.json",
        &package_lock(&[
            ("axios", through("1.14.0", format!("{}/axios/-/axios-1.14.0.tgz", project.registry.url))),
            ("forked", through("1.0.0", "git+ssh://git@git.example/a/forked.git#0123".to_owned())),
            ("left-pad", through("1.3.0", "https://files.example/left-pad-1.3.0.tgz".to_owned())),
        ]),
    );
    let (code, text) = project.json(&[]);
    assert_eq!(code, 0, "{text}");
    let bypasses = text["files"][0]["bypasses"].as_array().unwrap();
    let found: Vec<_> =
        bypasses.iter().map(|entry| (entry["kind"].as_str().unwrap(), entry["place"].as_str().unwrap())).collect();
    assert_eq!(found, [("git", "git.example"), ("other-host", "files.example")]);
    assert_eq!(bypasses[1]["packages"], json!([{ "package": "left-pad@1.3.0", "line": 6 }]));
}

#[tokio::test(flavor = "multi_thread")]
async fn integrity_conflict_and_missing_version_exit_with_code_1() {
    let project = Project::with_axios().await;
    let changed = json!({ "version": "1.14.0", "integrity": sha512(b"other bytes") });
    for (entry, rule) in [(changed, "lockfile-integrity"), (locked("1.99.0"), "not-found")] {
        project.write("package-lock.json", &package_lock(&[("axios", entry)]));
        let (code, text) = project.json(&[]);
        assert_eq!((code, &text["files"][0]["refused"][0]["rule"]), (1, &json!(rule)), "{text}");
    }
    let matching = json!({ "version": "1.14.0", "integrity": sha512(&Package::new("axios", "1.14.0").tarball) });
    project.write("package-lock.json", &package_lock(&[("axios", matching)]));
    assert_eq!(project.json(&[]).0, 0);
    project.write("package-lock.json", &package_lock(&[("axios", locked("1.99.0")), ("left-pad", locked("1.3.0"))]));
    assert_eq!(project.json(&["--min-release-age", "0s"]).0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn replacement_satisfies_all_requesters() {
    let project = Project::make().await;
    for version in ["1.0.0", "1.1.0", "1.2.0", "2.0.0"] {
        project.registry.publish(Package::new("axios", version));
    }
    project.registry.publish(Package::new("axios", "1.3.0").aged(hours(1)));
    project.registry.publish(Package::new("asks", "1.0.0"));
    project.write(
        "yarn.lock",
        "# yarn lockfile v1\n\nasks@^1.0.0:\n  version \"1.0.0\"\n  dependencies:\n    axios \">=1.0.0 <1.2.0 || 1.3.0\"\n\n\
         axios@^1.0.0, \"axios@>=1.0.0 <1.2.0 || 1.3.0\":\n  version \"1.3.0\"\n",
    );
    let (code, text) = project.json(&[]);
    let refused = &text["files"][0]["refused"][0];
    assert_eq!((code, &refused["fits"], &refused["nearest"]), (75, &json!("1.1.0"), &json!("1.2.0")), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dist_tag_requester_gets_the_visible_dist_tag() {
    let project = Project::with_axios().await;
    project.write("yarn.lock", "# yarn lockfile v1\n\naxios@latest:\n  version \"1.14.1\"\n");
    let (code, text) = project.json(&[]);
    assert_eq!((code, &text["files"][0]["refused"][0]["fits"]), (75, &json!("1.14.0")), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn running_and_remote_servers_give_the_same_report() {
    let project = Project::with_axios().await;
    project.write("package-lock.json", &package_lock(&[("axios", locked("1.14.1")), ("left-pad", locked("1.3.0"))]));
    let alone = project.json(&[]);
    let program = Program::serve(project.home.path(), project.data.path(), &project.registry.url, &[]);
    assert_eq!(project.json(&[]), alone, "next to a running server");
    let server = format!("http://{}/", program.address);
    let mut command = project.command(&["--server", &server, "--format", "json"]);
    let (code, text, errors) = run(&mut command);
    let text: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{errors}"));
    assert_eq!((code, text), alone);
    program.kill();
    let (code, _, errors) = run(&mut project.command(&["--server", &server]));
    assert!(code == 1 && errors.contains(&server), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lockfiles_are_found_in_given_folders() {
    let project = Project::with_axios().await;
    std::fs::create_dir(project.home.path().join("app")).unwrap();
    project.write("package-lock.json", &package_lock(&[("left-pad", locked("1.3.0"))]));
    project.write("app/pnpm-lock.yaml", "lockfileVersion: '9.0'\npackages:\n  axios@1.14.1:\n    resolution: {}\n");
    let paths = |words: &[&str]| -> Vec<String> {
        let files = project.json(words).1["files"].as_array().unwrap().clone();
        files.iter().map(|file| file["path"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(paths(&[]), ["package-lock.json"]);
    assert_eq!(paths(&["app", "./package-lock.json"]), ["app/pnpm-lock.yaml", "package-lock.json"]);
    let (code, _, errors) = project.check(&["data"]);
    assert!(code == 2 && errors.contains("data"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_lockfile_is_reported_with_line_and_upstream_is_not_asked() {
    let project = Project::make().await;
    for (name, text, part) in [
        ("package-lock.json", "{\n\"lockfileVersion\": 3,\n\"packages\": {\n<<<<<<< HEAD\n", "line 4"),
        ("pnpm-lock.yaml", "lockfileVersion: '9.0'\npackages: &a\n  x: *a\n", "line 3"),
        ("yarn.lock", "axios@^1:\n  version \"1\n", "line 2"),
        ("bun.lockb", "#!/usr/bin/env bun\n", "save-text-lockfile"),
        ("Cargo.toml", "[package]\n", "package-lock.json"),
    ] {
        project.write(name, text);
        let (code, _, errors) = project.check(&[name]);
        assert!(code == 2 && errors.contains(name) && errors.contains(part), "{name}: {errors}");
    }
    assert_eq!(project.registry.total(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sarif_has_one_result_per_name_and_version() {
    let project = Project::with_axios().await;
    project.write("package-lock.json", &package_lock(&[("axios", locked("1.14.1"))]));
    project.write("bun.lock", r#"{ "lockfileVersion": 1, "packages": { "axios": ["axios@1.14.1", "", {}, ""], "a/axios": ["axios@1.14.1", "", {}, ""] } }"#);
    let (code, text, errors) = project.check(&["--format", "sarif"]);
    assert_eq!(code, 75, "{errors}");
    let text: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&text["version"], &text["runs"][0]["tool"]["driver"]["name"]), (&json!("2.1.0"), &json!("coldframe")));
    let results = text["runs"][0]["results"].as_array().unwrap();
    assert_eq!(results.len(), 1, "{text}");
    let found: Vec<_> = results[0]["locations"].as_array().unwrap().iter().map(|entry| &entry["physicalLocation"]).collect();
    let (first, second) = (&found[0]["artifactLocation"]["uri"], &found[1]["artifactLocation"]["uri"]);
    assert_eq!((first, second, &found[0]["region"]["startLine"]), (&json!("package-lock.json"), &json!("bun.lock"), &json!(4)));
    let rules = text["runs"][0]["tool"]["driver"]["rules"].as_array().unwrap();
    let index = usize::try_from(results[0]["ruleIndex"].as_u64().unwrap()).unwrap();
    assert_eq!(rules[index]["id"], results[0]["ruleId"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn github_format_prints_one_annotation_per_version() {
    let project = Project::with_axios().await;
    project.write("package-lock.json", &package_lock(&[("axios", locked("1.14.1"))]));
    let (code, text, errors) = project.check(&["--format", "github"]);
    assert_eq!(code, 75, "{errors}");
    assert!(
        text.starts_with("::error file=package-lock.json,line=4,title=axios@1.14.1 would be refused::axios@1.14.1: "),
        "{text}"
    );
    assert_eq!(text.lines().count(), 1, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fix_prints_overrides_for_each_client() {
    let project = Project::with_axios().await;
    project.registry.publish(Package::new("asks", "1.0.0"));
    for (name, text, parts) in [
        (
            "package-lock.json",
            r#"{ "lockfileVersion": 3, "packages": { "": { "dependencies": { "asks": "^1" } }, "node_modules/asks": { "version": "1.0.0", "dependencies": { "axios": "^1.0.0" } }, "node_modules/axios": { "version": "1.14.1" } } }"#,
            &[
                "\"overrides\": {",
                "\"axios@1.14.1\": \"1.14.0\"",
                "add to package.json",
                "remove from package-lock.json",
                "line 1: node_modules/axios",
            ][..],
        ),
        (
            "pnpm-lock.yaml",
            "lockfileVersion: '9.0'\npackages:\n  axios@1.14.1:\n    resolution: {}\n",
            &["overrides:", "\"axios@1.14.1\": \"1.14.0\"", "pnpm-workspace.yaml"],
        ),
        (
            "yarn.lock",
            "# yarn lockfile v1\n\nasks@^1:\n  version \"1.0.0\"\n  dependencies:\n    axios \"^1.0.0\"\n\naxios@^1.0.0:\n  version \"1.14.1\"\n",
            &["\"resolutions\": {", "\"axios\": \"1.14.0\""],
        ),
        (
            // yarn 4 overrides by the requested range or alias, one entry for each.
            "yarn.lock",
            "__metadata:\n  version: 8\n\n\"app@workspace:.\":\n  version: 0.0.0-use.local\n  resolution: \"app@workspace:.\"\n  \
             dependencies:\n    asks: \"npm:^1\"\n    axios: \"npm:~1.14.0\"\n    ax: \"npm:axios@^1\"\n\n\"asks@npm:^1\":\n  version: \
             1.0.0\n  resolution: \"asks@npm:1.0.0\"\n  dependencies:\n    axios: \"npm:^1.0.0\"\n\n\"ax@npm:axios@^1, axios@npm:^1.0.0, \
             axios@npm:~1.14.0\":\n  version: 1.14.1\n  resolution: \"axios@npm:1.14.1\"\n",
            &[
                "\"ax@npm:axios@^1\": \"npm:axios@1.14.0\"",
                "\"axios@npm:^1.0.0\": \"1.14.0\"",
                "\"axios@npm:~1.14.0\": \"1.14.0\"",
                "yarn install",
            ],
        ),
        (
            "bun.lock",
            "{ \"lockfileVersion\": 1, \"workspaces\": { \"\": { \"dependencies\": { \"asks\": \"^1\" } } }, \"packages\": {\n\
             \"asks\": [\"asks@1.0.0\", \"\", { \"dependencies\": { \"axios\": \"^1.0.0\" } }, \"\"],\n\
             \"axios\": [\"axios@1.14.1\", \"\", {}, \"\"],\n\
             \"other/axios\": [\"axios@1.14.0\", \"\", {}, \"\"] } }",
            &["bun cannot override one of several versions", "remove from bun.lock", "line 3: axios", "bun install"],
        ),
        (
            "deno.lock",
            r#"{ "version": "5", "specifiers": { "npm:asks@1": "1.0.0" }, "npm": { "asks@1.0.0": { "dependencies": ["axios"] }, "axios@1.14.1": {} } }"#,
            &["rm deno.lock", "\"axios\": \"1.14.0\"", "deno install"],
        ),
    ] {
        project.write(name, text);
        let (code, text, errors) = project.check(&[name, "--fix"]);
        assert_eq!(code, 75, "{errors}");
        for part in parts {
            assert!(text.contains(part), "{name}: {part:?} is missing:\n{text}");
        }
    }
    project.write("package-lock.json", &package_lock(&[("axios", locked("1.14.1"))]));
    let (_, text, _) = project.check(&["package-lock.json", "--fix"]);
    let aliased = json!({ "name": "axios", "version": "1.14.1" });
    project.write("alias-package-lock.json", &package_lock(&[("ax", aliased)]).replace("^1.0.0", "npm:axios@^1.0.0"));
    let (_, alias, errors) = project.check(&["alias-package-lock.json", "--fix"]);
    assert!(alias.contains("npm install --save-exact ax@npm:axios@1.14.0"), "{alias}{errors}");
    assert!(text.contains("npm install --save-exact axios@1.14.0") && !text.contains("overrides"), "{text}");
    assert_eq!(project.check(&["--fix", "--format", "sarif"]).0, 2);
}

#[tokio::test]
async fn check_endpoint_serves_other_machines_only_with_explain_access() {
    let scene = Scene::open().await;
    scene.publish(Package::new("axios", "1.14.0"));
    scene.publish(Package::new("axios", "1.14.1").aged(hours(1)));
    let body = json!({ "packages": [{ "name": "axios", "version": "1.14.1", "ranges": ["^1"] }] }).to_string();
    let ask = |scene: &Scene| scene.ask("POST", "/-/coldframe/check").body(body.as_bytes().to_vec());
    let text = ask(&scene).await.is(200).json();
    let verdict = &text["packages"][0];
    assert_eq!((&verdict["outcome"], &verdict["fits"]), (&json!("hold"), &json!("1.14.0")), "{text}");
    let refused = ask(&scene).header("via", "1.1 proxy.example").await.is(403).text();
    assert!(refused.contains("explain-access"), "{refused}");
    assert_eq!(scene.registry.count("/axios"), 1);
    let open = Scene::open().set("explain-access", "all").await;
    open.publish(Package::new("axios", "1.14.1").aged(hours(1)));
    ask(&open).header("via", "1.1 proxy.example").await.is(200);
}

#[tokio::test]
async fn check_endpoint_is_bounded() {
    let scene = Scene::open().set("body-limit", "100KB").await;
    let ask = |body: String| scene.ask("POST", "/-/coldframe/check").body(body.into_bytes());
    let many: Vec<_> = (0..501).map(|at| json!({ "name": "axios", "version": format!("1.0.{at}") })).collect();
    ask(json!({ "packages": many }).to_string()).await.is(413);
    ask("{".to_owned()).await.is(400);
    ask(json!({ "packages": [] }).to_string() + &" ".repeat(100_000)).await.is(413);
    scene.get("/-/coldframe/check").await.is(405);
    let text = ask(json!({ "packages": [{ "name": "../etc", "version": "1.0.0" }] }).to_string()).await.is(200).json();
    assert_eq!(text["packages"][0]["outcome"], json!("missing"), "{text}");
    assert_eq!(scene.registry.total(), 0);
}

#[tokio::test]
async fn check_endpoint_refuses_cross_site_requests() {
    let scene = Scene::open().await;
    let body = json!({ "packages": [{ "name": "axios", "version": "1.14.1" }] }).to_string();
    let ask = || scene.ask("POST", "/-/coldframe/check").body(body.as_bytes().to_vec());
    for (name, value) in [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("content-type", "text/plain;charset=UTF-8"),
        ("content-type", "application/x-www-form-urlencoded"),
        ("content-type", "multipart/form-data; boundary=x"),
        // DNS rebinding: a foreign name that resolves to this server.
        ("host", "evil.example"),
    ] {
        let refused = ask().header(name, value).await.is(403);
        assert!(refused.reason.len() <= 200, "{}", refused.reason);
    }
    let rebound =
        ask().header("host", "evil.example").header("origin", "http://evil.example").header("sec-fetch-site", "same-origin");
    rebound.await.is(403);
    for page in ["explain/axios", "metrics", "client-config"] {
        scene
            .get(&format!("/-/coldframe/{page}"))
            .header("sec-fetch-site", "cross-site")
            .header("sec-fetch-mode", "cors")
            .await
            .is(403);
        scene.get(&format!("/-/coldframe/{page}")).header("host", "evil.example").await.is(403);
    }
    assert_eq!(scene.registry.total(), 0, "cross-site requests cause no fetch");
    scene.publish(Package::new("axios", "1.14.1"));
    let link =
        scene.get("/-/coldframe/explain/axios").header("sec-fetch-site", "cross-site").header("sec-fetch-mode", "navigate");
    link.header("sec-fetch-dest", "document").accept("text/html").await.is(200);
    ask()
        .header("content-type", "application/json")
        .header("origin", &format!("http://{}", scene.coldframe.address))
        .await
        .is(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_registry_is_reported_once_with_exit_code_69() {
    let project = Project::make().await;
    let packages: Vec<_> = (0..60).map(|at| (format!("away-{at}"), locked("1.0.0"))).collect();
    let packages: Vec<_> = packages.iter().map(|(name, entry)| (name.as_str(), entry.clone())).collect();
    project.write("package-lock.json", &package_lock(&packages));
    project.registry.go_down();
    let (code, text, errors) = project.check(&[]);
    assert_eq!(code, 69, "{text}{errors}");
    assert!(text.starts_with("nothing could be checked: ") && text.lines().count() < 5, "{text}");
    assert!(!text.contains("refused by") && !text.contains("would be refused"), "{text}");
    let (code, text) = project.json(&[]);
    assert_eq!((code, &text["refused"], &text["unchecked"]), (69, &json!(0), &json!(60)), "{text}");
    let listed =
        text["files"][0]["unchecked"].as_array().unwrap().iter().map(|reason| reason["packages"].as_array().unwrap().len());
    assert_eq!(listed.sum::<usize>(), 60, "{text}");
    let (code, text, _) = project.check(&["--format", "sarif"]);
    let sarif: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, sarif["runs"][0]["results"].as_array().unwrap().len()), (69, 0), "{text}");
    let invocation = &sarif["runs"][0]["invocations"][0];
    assert_eq!(invocation["executionSuccessful"], false);
    assert_eq!(invocation["toolExecutionNotifications"].as_array().unwrap().len(), 1, "{text}");
    let notification = invocation["toolExecutionNotifications"][0]["message"]["text"].as_str().unwrap();
    assert!(notification.starts_with("nothing could be checked: "), "{notification}");
    let (code, text, _) = project.check(&["--format", "github"]);
    assert_eq!((code, text.lines().count()), (69, 1), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn non_registry_entries_are_noted_and_build_metadata_is_ignored() {
    let project = Project::make().await;
    let built = Package::new("engine", "1.59.0-next.72");
    project.registry.publish(built);
    project.registry.edit("engine", |packument| {
        packument["versions"]["1.59.0-next.72"]["version"] = json!("1.59.0-next.72+f41d8efcd");
    });
    project.write(
        "package-lock.json",
        &json!({ "lockfileVersion": 3, "packages": {
            "": {},
            "../m/node_modules/n/o": { "version": "1.0.0" },
            "node_modules/o": { "resolved": "../m/node_modules/n/o", "link": true },
            "node_modules/.store/x": { "version": "1.0.0" },
            "node_modules/fsevents": { "optional": true },
            "node_modules/engine": { "version": "1.59.0-next.72+f41d8efcd" },
        } })
        .to_string(),
    );
    let (code, text, errors) = project.check(&[]);
    assert_eq!(code, 0, "{text}{errors}");
    assert!(text.contains("1 version, none would be refused"), "{text}");
    assert!(text.contains("note: 3 entries install nothing from a registry"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn older_lockfile_formats_are_read() {
    let project = Project::with_axios().await;
    project
        .write("package-lock.json", "{ \"lockfileVersion\": 2, \"dependencies\": { \"axios\": { \"version\": \"1.14.1\" } } }");
    project.write(
        "pnpm-lock.yaml",
        "lockfileVersion: 5.4\nspecifiers:\n  axios: ^1.0.0\ndependencies:\n  axios: 1.14.1\npackages:\n  /axios/1.14.1:\n    resolution: {integrity: sha512-x}\n",
    );
    project.write(
        "deno.lock",
        "{ \"version\": \"2\", \"remote\": {}, \"npm\": { \"specifiers\": { \"axios@^1\": \"axios@1.14.1\" }, \"packages\": { \"axios@1.14.1\": {} } } }",
    );
    let (_, text) = project.json(&[]);
    let files = text["files"].as_array().unwrap();
    assert_eq!(files.len(), 3, "{text}");
    for file in files {
        assert_eq!(
            (&file["packages"], &file["refused"][0]["name"], &file["refused"][0]["fits"]),
            (&json!(1), &json!("axios"), &if file["path"] == "package-lock.json" { Value::Null } else { json!("1.14.0") }),
            "{file}"
        );
    }
}

#[test]
fn folder_without_lockfile_exits_with_code_2() {
    let home = TempDir::new().unwrap();
    let (code, _, errors) = run(coldframe(home.path()).arg("check"));
    assert!(code == 2 && errors.contains("no lockfile"), "{errors}");
    assert!(!Path::new(home.path()).join(".local").exists(), "`check` creates no data directory");
}
