//! Exposure: every served or refused tarball and every packument with its hidden versions, found by package name.

use std::process::Command;

use crate::harness::Scene;
use crate::package::{Package, hours};

/// Runs `coldframe exposure` for a spec and returns its output.
fn exposure(scene: &Scene, spec: &str, more: &[&str]) -> String {
    listed(scene, &[&["exposure", spec], more].concat())
}

/// Runs a command on the data directory and returns its output.
fn listed(scene: &Scene, words: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_coldframe"))
        .args(words)
        .args(["--data-dir", scene.data().to_str().unwrap()])
        .env_remove("COLDFRAME_CONFIG")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

async fn traffic() -> Scene {
    let scene = Scene::open().await;
    scene.publish(Package::new("axios", "1.14.0"));
    scene.publish(Package::new("axios", "1.14.1").aged(hours(1)));
    scene.get("/axios").npm("11.21.2").await.is(200);
    scene.get("/axios/-/axios-1.14.0.tgz").npm("11.21.2").await.is(200);
    scene.get("/axios/-/axios-1.14.0.tgz").header("user-agent", "Bun/1.4.5").await.is(200);
    scene.get("/axios/-/axios-1.14.1.tgz").header("user-agent", "pnpm/12.21.0 npm/? node/? linux x64").await.is(403);
    scene
}

#[tokio::test]
async fn exposure_lists_served_and_refused_by_client_and_tool() {
    let mut scene = traffic().await;
    scene.coldframe.stop().await;
    let served = exposure(&scene, "axios@1.14.0", &[]);
    for part in ["127.0.0.1", "npm/11.21.2", "bun/1.4.5", "served"] {
        assert!(served.contains(part), "{part:?} is missing:\n{served}");
    }
    assert!(!served.contains("pnpm"), "{served}");
    let refused = exposure(&scene, "axios@1.14.1", &[]);
    for part in ["127.0.0.1", "pnpm/12.21.0", "refused", "minimum-age"] {
        assert!(refused.contains(part), "{part:?} is missing:\n{refused}");
    }
    assert!(exposure(&scene, "axios@9.9.9", &[]).contains("no requests for"));
}

#[tokio::test]
async fn json_has_the_integrity_of_the_served_bytes() {
    let mut scene = traffic().await;
    scene.coldframe.stop().await;
    let rows: serde_json::Value = serde_json::from_str(&exposure(&scene, "axios@1.14.0", &["--json"])).unwrap();
    let integrity = scene.registry.packument("axios")["versions"]["1.14.0"]["dist"]["integrity"].clone();
    assert!(rows.as_array().unwrap().iter().any(|row| row["integrity"] == integrity), "{rows:#}");
}

#[tokio::test]
async fn exposure_works_while_the_server_runs() {
    let scene = traffic().await;
    let mut output = String::new();
    // Rows are written in batches; a request appears with the next batch at the latest.
    for _ in 0..200 {
        output = exposure(&scene, "axios@1.14.0", &[]);
        if output.contains("bun/1.4.5") {
            break;
        }
        scene.get("/-/coldframe/healthz").await.is(200);
    }
    assert!(output.contains("bun/1.4.5") && output.contains("npm/11.21.2"), "{output}");
}

#[tokio::test]
async fn a_packument_is_recorded_with_its_hidden_versions() {
    let mut scene = Scene::open().await;
    scene.publish(Package::new("axios", "1.14.0"));
    scene.publish(Package::new("axios", "1.14.1").aged(hours(1)));
    scene.get("/axios").npm("11.21.2").await.is(200);
    scene.coldframe.stop().await;
    let ledger = rusqlite::Connection::open(scene.data().join("ledger.sqlite")).unwrap();
    let query = "SELECT subjects.hidden, clients.tool, downloads.outcome FROM downloads
                 JOIN subjects ON subjects.id = downloads.subject JOIN clients ON clients.id = downloads.client
                 WHERE subjects.kind = 'packument' AND subjects.name = 'axios'";
    let row: (String, String, String) = ledger.query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    assert!(row.0.contains("1.14.1") && !row.0.contains("1.14.0"), "{row:?}");
    assert_eq!((row.1.as_str(), row.2.as_str()), ("npm", "served"));
    assert!(exposure(&scene, "axios@1.14.1", &[]).contains("no requests for"), "a hidden version was not exposed");
}

/// The lines of an export as JSON.
fn exported(scene: &Scene, words: &[&str]) -> Vec<serde_json::Value> {
    let text = listed(scene, &[&["ledger", "export"], words].concat());
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn export_has_all_requests_oldest_first_and_filters_must_all_match() {
    let mut scene = traffic().await;
    scene.advance(hours(1));
    scene.publish(Package::new("@acme/ui", "1.0.0"));
    scene.get("/@acme/ui/-/ui-1.0.0.tgz").npm("11.21.2").await.is(200);
    scene.coldframe.stop().await;
    let mut all = exported(&scene, &[]);
    assert_eq!(all[4]["name"], "@acme/ui");
    // Rows of one instant have no order.
    all[..4].sort_by_key(|row| (row["version"].to_string(), row["tool"].to_string()));
    let text = |row: &serde_json::Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
    let of =
        |rows: &[serde_json::Value]| rows.iter().map(|row| text(row, "name") + "@" + &text(row, "version")).collect::<Vec<_>>();
    assert_eq!(of(&all), ["axios@1.14.0", "axios@1.14.0", "axios@1.14.1", "axios@", "@acme/ui@1.0.0"]);
    assert_eq!((&all[3]["kind"], &all[3]["hidden"]), (&"packument".into(), &serde_json::json!(["1.14.1"])));
    assert_eq!((&all[2]["outcome"], &all[2]["rule"]), (&"refused".into(), &"minimum-age".into()));
    assert!(text(&all[1], "integrity").starts_with("sha512-") && all[1]["first"] == all[1]["last"], "{:#}", all[1]);
    let count = |words: &[&str]| exported(&scene, words).len();
    assert_eq!((count(&["--package", "axios"]), count(&["--package", "@acme"]), count(&["--package", "a*"])), (4, 1, 4));
    assert_eq!((count(&["--version", "1.14.0"]), count(&["--outcome", "refused"]), count(&["--rule", "minimum-age"])), (2, 1, 1));
    assert_eq!((count(&["--client", "127.0.0"]), count(&["--client", "10."])), (5, 0));
    let (first, later) = (text(&all[0], "first"), text(&all[4], "last"));
    assert_eq!((count(&["--since", &first]), count(&["--until", &first]), count(&["--until", "2126-01-01"])), (5, 0, 5));
    assert_eq!((count(&["--since", &later]), count(&["--until", &later])), (1, 4));
    assert_eq!(count(&["--package", "axios", "--outcome", "served", "--version", "1.14.0"]), 2);
}

#[tokio::test]
async fn query_lists_the_newest_requests_and_csv_runs_no_formula() {
    let mut scene = traffic().await;
    scene.advance(hours(1));
    scene.get("/axios/-/axios-1.14.1.tgz").header("user-agent", "npm/=cmd|calc!A1 node/v22").await.is(403);
    scene.coldframe.stop().await;
    let newest = listed(&scene, &["ledger", "query", "--limit", "2"]);
    assert_eq!(newest.lines().count(), 4, "{newest}");
    assert!(newest.lines().nth(1).unwrap().contains("axios@1.14.1  refused (minimum-age)"), "{newest}");
    assert!(newest.ends_with("older requests are left out; see --limit\n"), "{newest}");
    let found: serde_json::Value = serde_json::from_str(&listed(&scene, &["ledger", "query", "--json"])).unwrap();
    assert_eq!((found["requests"].as_array().unwrap().len(), &found["hasMore"]), (5, &false.into()));
    assert_eq!(listed(&scene, &["ledger", "query", "--package", "other"]), "no such requests in the ledger\n");
    let csv = listed(&scene, &["ledger", "export", "--format", "csv"]);
    assert!(
        csv.starts_with("first,last,times,client,tool,toolVersion,kind,name,version,integrity,outcome,rule,hidden\n"),
        "{csv}"
    );
    assert_eq!(csv.lines().count(), 6, "{csv}");
    assert!(!csv.contains(",=") && csv.lines().all(|line| !line.starts_with(['=', '+', '-', '@'])), "{csv}");
}

#[tokio::test]
async fn clients_are_listed_with_their_tools() {
    let mut scene = traffic().await;
    scene.coldframe.stop().await;
    let text = listed(&scene, &["clients", "--since", "3650d"]);
    let row = text.lines().nth(1).unwrap();
    for part in ["127.0.0.1", "npm 11.21.2", "bun 1.4.5", "pnpm 12.21.0"] {
        assert!(row.contains(part), "{part:?} is missing:\n{text}");
    }
    let rows: serde_json::Value = serde_json::from_str(&listed(&scene, &["clients", "--since", "3650d", "--json"])).unwrap();
    let pnpm = rows["clients"].as_array().unwrap().iter().find(|row| row["tool"] == "pnpm").unwrap();
    assert_eq!((&pnpm["served"], &pnpm["refused"]), (&0.into(), &1.into()));
    assert_eq!(listed(&scene, &["clients", "--since", "2126-01-01"]), "no client in the ledger since then\n");
}
