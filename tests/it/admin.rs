//! Health, readiness and metrics, and which clients may read them.

use crate::client::Ask;
use crate::harness::Scene;
use crate::package::{Package, hours};

const TOKEN: &str = "0123456789abcdef-operator";

/// Returns the temporary folder and path of an admin token file.
fn tokens(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("tokens");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

#[tokio::test]
async fn health_and_readiness_responses_are_not_cached() {
    let scene = Scene::open().await;
    for path in ["/-/coldframe/healthz", "/-/coldframe/readyz"] {
        let answer = scene.get(path).await.is(200);
        assert!(answer.header("cache-control").contains("no-store"), "{path}: {}", answer.header("cache-control"));
    }
    scene.get("/-/coldframe/nothing").await.is(404);
    scene.ask("POST", "/-/coldframe/healthz").await.is(405);
}

#[tokio::test]
async fn metrics_count_requests_hidden_versions_and_refusals() {
    let scene = Scene::open().await;
    scene.publish(Package::new("left-pad", "1.0.0"));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(1)));
    scene.get("/left-pad").await.is(200);
    scene.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(200);
    scene.get("/left-pad/-/left-pad-1.1.0.tgz").await.is(403);
    let text = scene.get("/-/coldframe/metrics").await.is(200).text();
    for name in ["requests", "upstream", "hidden", "refus", "bytes", "in_flight", "resident"] {
        assert!(text.lines().any(|line| line.starts_with("coldframe_") && line.contains(name)), "no {name}:\n{text}");
    }
    assert!(scene.metric("coldframe_refusals", "policy").await >= 1.0, "{text}");
    assert!(!text.contains("left-pad"), "metrics have no package names as labels");
}

#[tokio::test]
async fn non_loopback_listener_requires_admin_token_beyond_health() {
    let (_folder, path) = tokens(TOKEN);
    let opening = || Scene::open().set("listen", "0.0.0.0:0").set("gateway", "127.0.0.1:0").set("admin-token-file", &path);
    let scene = opening().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    let open = std::net::SocketAddr::from(([127, 0, 0, 1], scene.coldframe.address.port()));
    let body = serde_json::json!({ "packages": [{ "name": "left-pad", "version": "1.0.0" }] });
    for address in [open, scene.coldframe.gateway.unwrap()] {
        for page in ["healthz", "readyz"] {
            Ask::new(address, "GET", &format!("/-/coldframe/{page}")).await.is(200);
        }
        for (method, page) in [("GET", "metrics"), ("POST", "check"), ("GET", "nothing")] {
            let ask = || Ask::new(address, method, &format!("/-/coldframe/{page}")).json(&body);
            let refused = ask().await.is(401);
            assert!(refused.error().contains("`admin-token-file`"), "{refused:?}");
            assert_eq!(refused.header("www-authenticate"), "Bearer realm=\"coldframe\"");
            ask().token("0123456789abcdef-operatoR").await.is(401);
            ask().token(TOKEN).await.is(if page == "nothing" { 404 } else { 200 });
        }
    }
    // An admin token is never sent upstream.
    assert!(scene.registry.last("/left-pad").headers.first("authorization").is_none());
    // A token removed from the file is refused at the next request.
    std::fs::write(&path, "another-token-altogether").unwrap();
    Ask::new(open, "GET", "/-/coldframe/metrics").token(TOKEN).await.is(401);
    let plain = Scene::open().set("listen", "0.0.0.0:0").await;
    let open = std::net::SocketAddr::from(([127, 0, 0, 1], plain.coldframe.address.port()));
    let refused = Ask::new(open, "GET", "/-/coldframe/metrics").await.is(403);
    assert!(refused.error().contains("`admin-token-file` is not set"), "{refused:?}");
    // `explain-access` opens the explain and check pages only.
    let explaining = opening().set("explain-access", "all").await;
    explaining.publish_old("left-pad", &["1.0.0"]);
    let open = std::net::SocketAddr::from(([127, 0, 0, 1], explaining.coldframe.address.port()));
    Ask::new(open, "POST", "/-/coldframe/check").json(&body).await.is(200);
    Ask::new(open, "GET", "/-/coldframe/metrics").await.is(401);
}

#[tokio::test]
async fn pipe_or_device_as_token_file_is_not_read() {
    let (_folder, path) = tokens(TOKEN);
    let scene = Scene::open().set("listen", "0.0.0.0:0").set("admin-token-file", &path).await;
    let open = std::net::SocketAddr::from(([127, 0, 0, 1], scene.coldframe.address.port()));
    let ask = || Ask::new(open, "GET", "/-/coldframe/metrics").token(TOKEN);
    ask().await.is(200);
    std::fs::remove_file(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    ask().await.is(401);
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
    ask().await.is(401);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, TOKEN).unwrap();
    ask().await.is(200);
}

#[tokio::test]
async fn loopback_client_needs_no_token_and_forwarded_request_is_refused() {
    let scene = Scene::open().await;
    scene.get("/-/coldframe/metrics").await.is(200);
    scene.get("/-/coldframe/metrics").header("x-forwarded-for", "192.0.2.7").await.is(403);
    scene.get("/-/coldframe/metrics").header("host", "elsewhere.example").await.is(403);
    scene.get("/-/coldframe/healthz").header("host", "elsewhere.example").await.is(200);
}
