//! Exposure: every served or refused tarball and every packument with its hidden versions, found by package name.

use std::process::Command;

use crate::harness::Scene;
use crate::package::{Package, hours};

/// Runs `coldframe exposure` for a spec and returns its output.
fn exposure(scene: &Scene, spec: &str, more: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_coldframe"))
        .args(["exposure", spec, "--data-dir", scene.data().to_str().unwrap()])
        .args(more)
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
