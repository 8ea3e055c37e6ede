//! Writes: refused by default with the setting that allows them; if allowed, passed with the client's own credentials.

use serde_json::json;

use crate::fake_response::Reply;
use crate::harness::Scene;

const WRITES: &[(&str, &str)] = &[
    ("PUT", "/@acme%2fui"),
    ("PUT", "/-/user/org.couchdb.user:alice"),
    ("DELETE", "/@acme%2fui/-rev/1-0"),
    ("DELETE", "/left-pad/-/left-pad-1.0.0.tgz/-rev/1-0"),
    ("PUT", "/-/package/left-pad/dist-tags/next"),
    ("DELETE", "/-/package/left-pad/dist-tags/next"),
    ("POST", "/-/v1/login"),
    ("POST", "/-/npm/v1/tokens"),
];

#[tokio::test]
async fn writes_are_refused_with_the_name_of_the_setting() {
    let scene = Scene::open().await;
    for (method, path) in WRITES {
        let refused = scene.ask(method, path).token("mine").json(&json!({ "name": "@acme/ui" })).await.is(403);
        assert!(refused.error().contains("allow-writes"), "{method} {path}: {}", refused.error());
        assert!(refused.reason.contains("allow-writes"), "{}", refused.reason);
    }
    assert_eq!(scene.registry.total(), 0);
}

#[tokio::test]
async fn allowed_writes_pass_with_the_clients_credentials_and_body() {
    let scene = Scene::open().set("allow-writes", "true").await;
    let body = json!({ "name": "@acme/ui", "_attachments": {} });
    for (method, path) in WRITES {
        let decoded = percent_encoding::percent_decode_str(path).decode_utf8().unwrap().into_owned();
        scene.registry.answer(&decoded, Reply::json(r#"{"ok":true}"#));
        let answer = scene.ask(method, path).token("mine").header("npm-otp", "123456").json(&body).await.is(200);
        assert_eq!(answer.json()["ok"], true);
        let sent = scene.registry.last(&decoded);
        assert_eq!(sent.method, *method);
        assert_eq!(sent.bearer(), Some("mine"));
        assert_eq!(sent.headers.first("npm-otp"), Some("123456"));
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&sent.body).unwrap(), body);
    }
}

#[tokio::test]
async fn upstream_response_to_a_write_is_passed_through() {
    let scene = Scene::open().set("allow-writes", "true").await;
    let refusal = Reply::error(401, "one-time password please")
        .header("www-authenticate", "OTP")
        .header("npm-notice", "look at your phone");
    scene.registry.answer("/left-pad", refusal);
    let answer = scene.ask("PUT", "/left-pad").token("mine").json(&json!({})).await.is(401);
    assert_eq!(answer.error(), "one-time password please");
    assert_eq!((answer.header("www-authenticate"), answer.header("npm-notice")), ("OTP", "look at your phone"));
}

#[tokio::test]
async fn change_by_a_write_is_visible_after_the_next_fetch() {
    let scene = Scene::open().set("allow-writes", "true").await;
    scene.publish_old("left-pad", &["1.0.0", "2.0.0"]);
    assert_eq!(scene.get("/left-pad").await.tag("latest").unwrap(), "2.0.0");
    scene.registry.answer("/-/package/left-pad/dist-tags/latest", Reply::json("{}"));
    scene.ask("PUT", "/-/package/left-pad/dist-tags/latest").token("mine").body("\"1.0.0\"").await.is(200);
    scene.registry.tag("left-pad", "latest", "1.0.0");
    scene.advance(crate::package::minutes(6));
    assert_eq!(scene.get("/left-pad").await.tag("latest").unwrap(), "1.0.0");
}
