//! CI exchanges the OIDC token of its job for an access token: only of trusted issuers, for this server, with the named claims.

use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize, PublicKeyComponents};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use coldframe::clock::ManualClock;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fake_response::Reply;
use crate::harness::{NOON, Scene};
use crate::process::{coldframe, run};
use crate::raw_http::Response;
use crate::registry::Registry;
use crate::tokens::basic;

const PAGE: &str = "/-/coldframe/token";

/// An issuer with one key, which serves its key set.
struct Issuer {
    server: Registry,
    key: KeyPair,
}

impl Issuer {
    async fn start() -> Self {
        let clock = ManualClock::at(NOON.parse().unwrap());
        let issuer = Self { server: Registry::start(&clock).await, key: KeyPair::generate(KeySize::Rsa2048).unwrap() };
        issuer.publish_keys(&[&issuer.key("k1")]);
        issuer
    }

    fn key(&self, id: &str) -> Value {
        let PublicKeyComponents { n, e } = PublicKeyComponents::<Vec<u8>>::from(self.key.public_key());
        let coded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({ "kty": "RSA", "kid": id, "use": "sig", "n": coded(&n), "e": coded(&e) })
    }

    fn publish_keys(&self, keys: &[&Value]) {
        self.server.answer("/jwks", Reply::json(&json!({ "keys": keys }).to_string()));
    }

    fn fetches(&self) -> usize {
        self.server.count("/jwks")
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let coded = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", coded(header), coded(claims));
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// A token of a job of `acme/web`, valid for ten minutes, with some claims changed.
    fn token(&self, scene: &Scene, key: &str, changes: &Value) -> String {
        let now = scene.now().as_second();
        let mut claims = json!({
            "iss": "https://ci.example", "aud": "coldframe", "sub": "job", "jti": fastrand::u64(..).to_string(),
            "repository": "acme/web", "ref": "refs/heads/main", "iat": now, "exp": now + 600,
        });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        self.sign(&json!({ "typ": "JWT", "alg": "RS256", "kid": key }), &claims)
    }

    async fn scene(&self) -> (Scene, TempDir) {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("issuers.toml");
        let text = format!(
            "[[issuer]]\nissuer = \"https://ci.example\"\naudience = \"coldframe\"\nkeys = \"{}/jwks\"\n\
             label = \"{{repository}}\"\nscopes = [\"@acme/*\"]\nlasts = \"30m\"\n\
             claims = {{ repository = \"acme/*\", ref = \"refs/heads/*\" }}\n",
            self.server.url
        );
        std::fs::write(&file, text).unwrap();
        let opening = Scene::open().set("require-auth", "true").set("allow-writes", "true");
        let scene = opening.set("trusted-issuers", file.to_str().unwrap()).await;
        scene.publish_old("@acme/ui", &["1.0.0"]);
        scene.publish_old("left-pad", &["1.0.0"]);
        (scene, folder)
    }
}

async fn exchange(scene: &Scene, jwt: &str) -> Response {
    scene.ask("POST", PAGE).token(jwt).await
}

#[tokio::test(flavor = "multi_thread")]
async fn token_of_a_job_is_exchanged_once_for_a_token_of_bounded_life() {
    let issuer = Issuer::start().await;
    let (mut scene, _folder) = issuer.scene().await;
    let jwt = issuer.token(&scene, "k1", &json!({}));
    let issued = exchange(&scene, &jwt).await.is(200);
    assert_eq!(issued.header("cache-control"), "no-store");
    let issued = issued.json();
    assert_eq!(
        (&issued["label"], &issued["role"], &issued["scopes"]),
        (&json!("acme/web"), &json!("client"), &json!(["@acme/*"]))
    );
    let token = issued["token"].as_str().unwrap();
    scene.get("/@acme%2fui").token(token).await.is(200);
    scene.get("/left-pad").token(token).await.is(403);
    let again = exchange(&scene, &jwt).await.is(401);
    assert!(again.error().contains("exchanged before"), "{}", again.error());
    // Another spelling of the signature is the same token.
    exchange(&scene, &format!("{jwt}=")).await.is(401);
    // A second job of the repository gets its own token under the same label.
    exchange(&scene, &issuer.token(&scene, "k1", &json!({}))).await.is(200);
    assert_eq!(issuer.fetches(), 1);
    scene.advance(Duration::from_secs(30 * 60 - 1));
    scene.get("/@acme%2fui").token(token).await.is(200);
    scene.restart().await;
    scene.get("/@acme%2fui").token(token).await.is(200);
    scene.advance(Duration::from_secs(1));
    assert!(scene.get("/@acme%2fui").token(token).await.is(401).error().contains("expired"));
    for request in scene.registry.requests().iter().chain(&issuer.server.requests()) {
        assert!(request.headers.first("authorization").is_none(), "{}", request.target);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_tokens_are_not_exchanged() {
    let (issuer, other) = (Issuer::start().await, Issuer::start().await);
    let (scene, _folder) = issuer.scene().await;
    let now = scene.now().as_second();
    for (changes, status, why) in [
        (json!({ "aud": "npm" }), 401, "audience"),
        (json!({ "iss": "https://evil.example" }), 401, "trusted issuer"),
        (json!({ "exp": now - 61 }), 401, "expired"),
        (json!({ "exp": null }), 401, "expired"),
        (json!({ "nbf": now + 61 }), 401, "not valid yet"),
        (json!({ "repository": "evil/web" }), 403, "claims"),
        (json!({ "repository": "acme/web/evil" }), 403, "claims"),
        (json!({ "repository": ["acme/web"] }), 403, "claims"),
        (json!({ "ref": "refs/pull/7/merge" }), 403, "claims"),
        (json!({ "ref": null }), 403, "claims"),
    ] {
        let refused = exchange(&scene, &issuer.token(&scene, "k1", &changes)).await.is(status);
        assert!(refused.error().contains(why), "{changes}: {}", refused.error());
    }
    let forged = other.token(&scene, "k1", &json!({}));
    assert!(exchange(&scene, &forged).await.is(401).error().contains("not signed by its issuer"));
    let claims = json!({ "iss": "https://ci.example", "aud": "coldframe", "repository": "acme/web", "ref": "refs/heads/main", "exp": now + 600 });
    for header in [json!({ "alg": "none", "kid": "k1" }), json!({ "alg": "HS256", "kid": "k1" }), json!({ "alg": "RS256" })] {
        exchange(&scene, &issuer.sign(&header, &claims)).await.is(401);
    }
    for junk in ["x", "ey.ey.", &"ey.".repeat(10_000), "cfr_x"] {
        exchange(&scene, junk).await.is(401);
    }
    scene.ask("POST", PAGE).await.is(401);
    scene.get(PAGE).token(&issuer.token(&scene, "k1", &json!({}))).await.is(405);
    assert_eq!(coldframe::app::standalone::tokens::list(scene.data()).unwrap(), []);
    assert_eq!(issuer.fetches(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn token_of_an_issuer_is_not_forwarded_instead_of_an_access_token() {
    let issuer = Issuer::start().await;
    let (scene, _folder) = issuer.scene().await;
    let oidc = "/-/npm/v1/oidc/token/exchange/package/@acme%2fui";
    let ours = issuer.token(&scene, "k1", &json!({}));
    for (method, path) in [("GET", "/@acme%2fui"), ("PUT", "/@acme%2fui"), ("GET", "/-/whoami"), ("POST", oidc)] {
        let refused = scene.ask(method, path).token(&ours).await.is(401);
        assert!(refused.error().contains("/-/coldframe/token"), "{}", refused.error());
    }
    let for_npm = issuer.token(&scene, "k1", &json!({ "aud": "npm" }));
    scene.get("/@acme%2fui").token(&for_npm).await.is(401);
    // Nor as a password, where upstream would otherwise get the client's own credentials.
    let (mut scene, _folder) = issuer.scene().await;
    scene.restart_with("require-auth", "false").await;
    for header in [basic(format!("ada:{ours}")), format!("Digest {ours}")] {
        scene.get("/@acme%2fui").header("authorization", &header).await.is(401);
    }
    assert_eq!(scene.registry.total(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn registrys_own_exchange_gets_a_token_that_is_meant_for_it() {
    let issuer = Issuer::start().await;
    let (mut scene, _folder) = issuer.scene().await;
    scene.restart_with("require-auth", "false").await;
    let path = "/-/npm/v1/oidc/token/exchange/package/@acme/ui";
    scene.registry.answer(path, Reply::json(r#"{"token":"npm_x"}"#));
    let for_npm = issuer.token(&scene, "k1", &json!({ "aud": "npm" }));
    scene.ask("POST", path).token(&for_npm).await.is(200);
    assert_eq!(scene.registry.last(path).bearer(), Some(&*for_npm));
    scene.ask("POST", path).token(&issuer.token(&scene, "k1", &json!({}))).await.is(401);
    scene.get("/@acme%2fui").token(&for_npm).await.is(401);
    // Tokens of other issuers are the client's own.
    let other = issuer.token(&scene, "k1", &json!({ "iss": "https://other.example" }));
    scene.get("/@acme%2fui").token(&other).await.is(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_key_is_fetched_at_most_once_a_minute() {
    let issuer = Issuer::start().await;
    let (scene, _folder) = issuer.scene().await;
    exchange(&scene, &issuer.token(&scene, "k1", &json!({}))).await.is(200);
    assert_eq!(issuer.fetches(), 1);
    scene.advance(Duration::from_secs(59));
    for number in 0..20 {
        exchange(&scene, &issuer.token(&scene, &format!("unknown-{number}"), &json!({}))).await.is(401);
    }
    assert_eq!(issuer.fetches(), 1);
    // The issuer rotates its key.
    issuer.publish_keys(&[&issuer.key("k2")]);
    scene.advance(Duration::from_secs(1));
    exchange(&scene, &issuer.token(&scene, "k2", &json!({}))).await.is(200);
    exchange(&scene, &issuer.token(&scene, "k1", &json!({}))).await.is(401);
    assert_eq!(issuer.fetches(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn known_keys_outlast_an_outage_of_the_issuer_for_a_day() {
    let issuer = Issuer::start().await;
    let (scene, _folder) = issuer.scene().await;
    for reply in
        [Reply::error(500, "down"), Reply::redirect(302, "/elsewhere"), Reply::ok("<html>"), Reply::ok(vec![b' '; 300 << 10])]
    {
        issuer.server.answer("/jwks", reply);
        let refused = exchange(&scene, &issuer.token(&scene, "k1", &json!({}))).await.is(503);
        assert_eq!(refused.header("retry-after"), "60");
        scene.advance(Duration::from_secs(60));
    }
    issuer.publish_keys(&[&issuer.key("k1")]);
    exchange(&scene, &issuer.token(&scene, "k1", &json!({}))).await.is(200);
    issuer.server.answer("/jwks", Reply::error(500, "down"));
    scene.advance(Duration::from_secs(24 * 3600 - 1));
    exchange(&scene, &issuer.token(&scene, "k1", &json!({}))).await.is(200);
    scene.advance(Duration::from_secs(61));
    exchange(&scene, &issuer.token(&scene, "k1", &json!({}))).await.is(401);
}

#[test]
fn issuer_without_claims_stops_the_start() {
    let home = TempDir::new().unwrap();
    let file = home.path().join("issuers.toml");
    let text = "[[issuer]]\nissuer = \"https://ci.example\"\naudience = \"a\"\nkeys = \"https://ci.example/jwks\"\nlabel = \"x\"\nclaims = {}\n";
    std::fs::write(&file, text).unwrap();
    let (code, _, errors) =
        run(coldframe(home.path()).args(["serve", "--upstream", "http://127.0.0.1:1/", "--trusted-issuers"]).arg(&file));
    assert!(code == 2 && errors.contains("trusted-issuers") && errors.contains("claims"), "{errors}");
}
