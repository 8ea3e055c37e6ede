//! Prefetch: packuments of dependencies are fetched before the installing client requests them.

use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::fake_response::Reply;
use crate::harness::Scene;
use crate::package::{Package, hours};
use crate::process::{Program, coldframe, machine_clock};
use crate::registry::Registry;

/// Publishes `app`, which depends on `left@^1`, `right` and `end` in a chain. The newest `left` depends on `other` instead.
fn publish(scene: &Scene) {
    scene.publish(Package::new("app", "1.0.0").depends_on("left", "^1.0.0"));
    scene.publish(Package::new("left", "1.0.0").depends_on("right", "1.x"));
    scene.publish(Package::new("left", "2.0.0").depends_on("other", "*"));
    scene.publish(Package::new("right", "1.0.0").depends_on("end", "npm:@real/end@latest"));
    scene.publish_old("@real/end", &["1.0.0"]);
    scene.publish_old("other", &["1.0.0"]);
}

#[tokio::test]
async fn install_prefetches_dependencies_of_chosen_versions() {
    let scene = Scene::open().await;
    publish(&scene);
    scene.get("/app").npm("11.19.1").gzip().await.is(200);
    scene.registry.wait_for_requests("/@real/end", 1).await;
    for path in ["/left", "/right", "/@real%2fend"] {
        assert!(!scene.get(path).npm("11.19.1").gzip().await.is(200).versions().is_empty());
    }
    assert_eq!(scene.registry.total(), 4, "{:?}", scene.registry.requests());
    assert_eq!(scene.registry.count("/other"), 0);
    // The counter is updated when the fetches complete.
    let deadline = Instant::now() + Duration::from_secs(20);
    while scene.metric("coldframe_prefetched_packuments_total", "").await < 3.0 {
        assert!(Instant::now() < deadline, "{}", scene.metric("coldframe_prefetched_packuments_total", "").await);
    }
}

#[tokio::test]
async fn hidden_version_triggers_no_prefetch() {
    let scene = Scene::open().await;
    // A dependency that no release had before would be looked up for its signal.
    scene.publish(Package::new("app", "0.9.0").depends_on("young", "1"));
    scene.publish(Package::new("app", "1.0.0").depends_on("old", "1"));
    scene.publish(Package::new("app", "1.1.0").aged(hours(1)).depends_on("young", "1"));
    scene.publish_old("old", &["1.0.0"]);
    scene.publish_old("young", &["1.0.0"]);
    scene.get("/app").npm("11.19.1").await.is(200);
    scene.registry.wait_for_requests("/old", 1).await;
    assert_eq!(scene.registry.count("/young"), 0);
}

#[tokio::test]
async fn no_prefetch_for_other_commands_other_clients_or_when_disabled() {
    for (setting, agent, command) in [
        ("8", "npm/11.19.1 node/v24.0.0 linux x64", "view"),
        ("8", "Mozilla/5.0", ""),
        ("0", "npm/11.19.1 node/v24.0.0 linux x64", "install"),
    ] {
        let scene = Scene::open().set("prefetch", setting).await;
        publish(&scene);
        scene.get("/app").header("user-agent", agent).header("npm-command", command).await.is(200);
        // A prefetch would have been sent before this request.
        scene.get("/@real%2fend").header("user-agent", "curl/8").await.is(200);
        assert_eq!(scene.registry.total(), 2, "{agent} {command}");
    }
}

#[tokio::test]
async fn prefetch_stops_when_upstream_fails() {
    let scene = Scene::open().set("prefetch", "1").await;
    let names: Vec<_> = (0..20).map(|number| format!("part-{number:02}")).collect();
    let parts: serde_json::Map<_, _> = names.iter().map(|name| (name.clone(), "1".into())).collect();
    scene.publish(Package::new("app", "1.0.0").field("dependencies", parts));
    for name in &names {
        scene.publish_old(name, &["1.0.0"]);
    }
    // 403 and 404 do not count as failures; 400 does.
    scene.registry.answer("/part-00", Reply::status(403));
    scene.registry.answer("/part-01", Reply::status(404));
    scene.registry.answer("/part-03", Reply::status(400));
    scene.get("/app").npm("11.19.1").await.is(200);
    scene.registry.wait_for_requests("/part-03", 1).await;
    scene.get("/part-19").npm("11.19.1").await.is(200);
    assert_eq!(scene.registry.count("/part-04") + scene.registry.count("/part-05"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn prefetch_sends_client_credentials_to_their_own_registry_only() {
    let (home, data, clock) = (TempDir::new().unwrap(), TempDir::new().unwrap(), machine_clock());
    let (registry, acme) = (Registry::start(&clock).await, Registry::start(&clock).await);
    registry.publish(Package::new("app", "1.0.0").field("dependencies", serde_json::json!({"@acme/ui": "1", "left": "1"})));
    registry.publish(Package::new("left", "1.0.0"));
    acme.publish(Package::new("@acme/ui", "1.0.0"));
    std::fs::write(home.path().join(".npmrc"), format!("registry={}/\n@acme:registry={}/\n", registry.url, acme.url)).unwrap();
    let mut command = coldframe(home.path());
    command.args(["serve", "--listen", "127.0.0.1:0", "--client-credentials", &registry.url, "--data-dir"]).arg(data.path());
    let program = Program::start(&mut command);
    program.get("/app").npm("11.19.1").token("mine").await.is(200);
    registry.wait_for_requests("/left", 1).await;
    assert_eq!(registry.last("/left").headers.first("authorization"), Some("Bearer mine"));
    assert_eq!(acme.total(), 0);
    // A client without credentials uses the configured ones, each for its registry.
    program.get("/app").npm("11.19.1").await.is(200);
    acme.wait_for_requests("/@acme/ui", 1).await;
    assert_eq!(acme.last("/@acme/ui").headers.first("authorization"), None);
}
