//! A client's credentials go to one registry only: the only one configured, the one in `client-credentials`, or the one that the
//! client addressed.

use coldframe::clock::ManualClock;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::client::Ask;
use crate::fake_response::{Reply, Request};
use crate::gateway_client::{REGISTRY, connect, connect_tls, gateway_address, handshake, tls_config};
use crate::harness::{NOON, Opening, Scene};
use crate::package::Package;
use crate::raw_http::Response;
use crate::registry::Registry;
use crate::run::{Fixture, Running};

const SECRET: &str = "/@acme%2fsecret";

/// Returns a private registry for the scope `@acme` with a package for alice, and a scene with a public registry.
async fn two_registries() -> (Registry, Opening) {
    let private = Registry::start(&ManualClock::at(NOON.parse().unwrap())).await;
    private.publish(Package::new("@acme/secret", "1.0.0").readable_with("alice"));
    let scene = Scene::open().npmrc(&format!("@acme:registry={}/\n", private.url));
    (private, scene)
}

/// Adds every header that could carry a credential.
fn with_secrets(ask: Ask) -> Ask {
    ask.token("alice")
        .header("npm-otp", "s3cret")
        .header("npm-session", "s3cret")
        .header("cookie", "s3cret=1")
        .header("proxy-authorization", "Basic s3cret")
        .header("x-npm-token", "s3cret")
}

#[track_caller]
fn assert_no_secrets(request: &Request) {
    let shown = format!("{} {:?}", request.target, request.headers);
    assert!(request.headers.first("authorization").is_none(), "{shown}");
    assert!(!shown.contains("s3cret") && !shown.contains("alice"), "{shown}");
}

#[tokio::test]
async fn token_for_client_credentials_registry_does_not_reach_the_public_one() {
    let (private, scene) = two_registries().await;
    let scene = scene.set("client-credentials", &private.url).set("allow-writes", "true").await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.registry.answer("/-/npm/v1/attestations/left-pad@1.0.0", Reply::json("{}"));
    for path in [
        "/left-pad?token=s3cret",
        "/left-pad/1.0.0",
        "/-/package/left-pad/dist-tags",
        "/left-pad/-/left-pad-1.0.0.tgz",
        "/-/v1/search?text=left&token=s3cret&size=1",
        "/-/ping?token=s3cret",
        "/-/npm/v1/keys?_authToken=s3cret",
        "/-/npm/v1/attestations/left-pad@1.0.0",
    ] {
        with_secrets(scene.get(path)).await.is(200);
    }
    let bulk = json!({ "left-pad": ["1.0.0"] });
    with_secrets(scene.ask("POST", "/-/npm/v1/security/advisories/bulk")).json(&bulk).gzip_body().await.is(200);
    assert!(scene.registry.total() >= 6);
    scene.registry.requests().iter().for_each(assert_no_secrets);
    assert_eq!(scene.registry.last("/-/v1/search").target, "/-/v1/search?text=left&size=1");

    with_secrets(scene.get(SECRET)).await.is(200);
    with_secrets(scene.get("/@acme/secret/-/secret-1.0.0.tgz")).await.is(200);
    assert_eq!(with_secrets(scene.get("/-/whoami")).await.is(200).json()["username"], "alice");
    assert!(private.requests().iter().all(|request| request.bearer() == Some("alice")));
    scene.get(SECRET).token("mallory").await.is(404);
}

#[tokio::test]
async fn without_client_credentials_token_is_not_sent_and_refusal_names_the_setting() {
    let (private, scene) = two_registries().await;
    let scene = scene.set("allow-writes", "true").await;
    scene.publish_old("left-pad", &["1.0.0"]);
    with_secrets(scene.get("/left-pad")).await.is(200);
    let refused = with_secrets(scene.get(SECRET)).await.is(404);
    assert!(refused.error().contains("`client-credentials`") && refused.error().contains(&private.url), "{}", refused.error());
    let (public_sent, private_sent) = (scene.registry.total(), private.total());
    let login = json!({ "name": "alice", "password": "s3cret" });
    for ask in [
        scene.get("/-/whoami"),
        scene.get("/-/npm/v1/tokens"),
        scene.get("/-/package/@acme%2fsecret/access"),
        scene.ask("PUT", SECRET).json(&json!({})),
        scene.ask("PUT", "/left-pad").json(&json!({})),
        scene.ask("PUT", "/-/user/org.couchdb.user:alice").json(&login),
        scene.ask("POST", "/-/stage/1/approve").json(&json!({})),
    ] {
        let refused = with_secrets(ask).await.is(403);
        assert!(refused.error().contains("`client-credentials`"), "{}", refused.error());
    }
    // A login without credential headers has its password in the body.
    scene.ask("PUT", "/-/user/org.couchdb.user:alice").json(&login).await.is(403);
    assert_eq!((scene.registry.total(), private.total()), (public_sent, private_sent));
    scene.registry.requests().iter().chain(&private.requests()).for_each(assert_no_secrets);
}

#[tokio::test]
async fn login_goes_to_client_credentials_registry() {
    let (private, scene) = two_registries().await;
    let scene = scene.set("client-credentials", &private.url).set("allow-writes", "true").await;
    private.answer("/-/user/org.couchdb.user:alice", Reply::json(r#"{"token":"alice"}"#));
    scene.ask("PUT", "/-/user/org.couchdb.user:alice").json(&json!({ "password": "s3cret" })).await.is(200);
    assert_eq!((scene.registry.total(), private.total()), (0, 1));
}

#[tokio::test]
async fn token_for_another_registry_is_ignored() {
    let (private, scene) = two_registries().await;
    let scene = scene.set("client-credentials", &private.url).await;
    scene.publish_old("left-pad", &["1.0.0"]);
    for _ in 0..3 {
        scene.get("/left-pad").token("alice").await.is(200);
        scene.get("/left-pad").token("bob").await.is(200);
        scene.get("/left-pad").await.is(200);
    }
    assert_eq!(scene.registry.count("/left-pad"), 1, "tokens that are not sent upstream share one view");
}

#[tokio::test]
async fn manifest_cannot_send_token_to_another_registry_on_same_host() {
    let clock = ManualClock::at(NOON.parse().unwrap());
    let host = Registry::start(&clock).await;
    let package = Package::new("@acme/ui", "1.0.0");
    host.publish(package.clone());
    let body = host.packument("@acme/ui").to_string().replace("/@acme/ui/-/", "/public/stolen/");
    host.answer("/private/@acme/ui", Reply::json(&body));
    host.answer("/public/stolen/ui-1.0.0.tgz", Reply::ok(package.tarball.clone()));
    let npmrc = format!("@acme:registry={0}/private/\n@other:registry={0}/public/\n", host.url);
    let scene = Scene::open().npmrc(&npmrc).set("client-credentials", &format!("{}/private/", host.url)).await;
    scene.get("/@acme%2fui").token("alice").await.is(200);
    scene.get("/@acme/ui/-/ui-1.0.0.tgz").token("alice").await;
    assert_eq!(host.last("/private/@acme/ui").bearer(), Some("alice"));
    let stolen = host.requests().into_iter().filter(|request| request.path.starts_with("/public/"));
    assert!(stolen.into_iter().all(|request| request.bearer().is_none()));
}

#[tokio::test]
async fn client_credentials_must_name_a_registry() {
    let config = coldframe::config::Config::from_pairs(&[
        ("data-dir", "/data"),
        ("upstream", "https://registry.example/npm/"),
        ("client-credentials", "https://registry.example/npm-other/"),
    ]);
    let text = config.unwrap_err().to_string();
    assert!(
        text.contains("`client-credentials` is not a configured registry") && text.contains("`https://registry.example/npm/`"),
        "{text}"
    );
}

/// Sends a request with a token over a gateway connection.
async fn ask_with<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(mut stream: S, path: &str, host: &str) -> Response {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer alice\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    Response::read(&mut stream, false).await.unwrap()
}

#[tokio::test]
async fn token_through_intercepted_host_reaches_the_only_registry() {
    let scene = crate::gateway_client::gateway().await;
    scene.publish(Package::new("@acme/secret", "1.0.0").readable_with("alice"));
    ask_with(connect_tls(&scene).await, SECRET, REGISTRY).await.is(200);
    assert_eq!(scene.registry.last("/@acme/secret").bearer(), Some("alice"));
}

#[tokio::test]
async fn token_through_intercepted_host_reaches_none_of_several_registries() {
    let (private, scene) = two_registries().await;
    let scene = scene.set("gateway", "127.0.0.1:0").set("intercept", REGISTRY).await;
    scene.publish_old("left-pad", &["1.0.0"]);
    ask_with(connect_tls(&scene).await, "/left-pad", REGISTRY).await.is(200);
    ask_with(connect_tls(&scene).await, SECRET, REGISTRY).await.is(404);
    scene.registry.requests().iter().chain(&private.requests()).for_each(assert_no_secrets);
}

#[tokio::test]
async fn token_for_npms_default_registry_does_not_reach_a_mirror() {
    let scene = Scene::open().set("gateway", "127.0.0.1:0").await;
    scene.publish_old("left-pad", &["1.0.0"]);
    let default: &'static str = coldframe::upstream::npmrc::npm_default_registry().host_str().unwrap().to_owned().leak();
    for host in [default, coldframe::upstream::npmrc::yarn_registry_host().unwrap()] {
        let (head, stream) = connect(gateway_address(&scene), &format!("{host}:443"), "").await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let stream = handshake(tls_config(scene.data(), &scene.clock, &[]), host, stream).await.unwrap();
        ask_with(stream, "/left-pad", host).await.is(200);
    }
    scene.registry.requests().iter().for_each(assert_no_secrets);
}

#[tokio::test(flavor = "multi_thread")]
async fn run_sends_token_to_the_addressed_registry_only() {
    let place = Fixture::new().await;
    let private = Registry::start(&crate::process::machine_clock()).await;
    private.publish(Package::new("@acme/secret", "1.0.0").readable_with("alice"));
    std::fs::write(place.home.path().join(".npmrc"), format!("@acme:registry={}/\n", private.url)).unwrap();
    let running = place.start(&[]);
    let ask = async |running: &Running, url: String| {
        use base64::Engine as _;
        let pass = base64::engine::general_purpose::STANDARD.encode(running.pass());
        running.ask_unknown(&url).header("proxy-authorization", &format!("Basic {pass}")).token("alice").await
    };
    ask(&running, format!("{}{SECRET}", private.url)).await.is(200);
    ask(&running, format!("{}/@acme/secret/-/secret-1.0.0.tgz", private.url)).await.is(200);
    assert!(private.requests().iter().all(|request| request.bearer() == Some("alice")));
    // The client addressed the private registry, but the package is from the public one.
    ask(&running, format!("{}/left-pad", private.url)).await.is(200);
    assert_eq!(place.registry.last("/left-pad").bearer(), None);
    // The client addressed the public registry.
    let sent = private.total();
    assert_eq!(ask(&running, place.url(SECRET)).await.status, 404);
    assert!(private.requests()[sent..].iter().all(|request| request.bearer().is_none()));
    let (code, errors) = running.end();
    assert_eq!(code, 0, "{errors}");
}
