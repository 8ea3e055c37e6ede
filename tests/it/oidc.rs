//! People sign in at an OIDC provider: only in the browser that began it, for this server, with the role of their groups.

use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize, PublicKeyComponents};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use coldframe::clock::ManualClock;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::Ask;
use crate::fake_response::Reply;
use crate::harness::{NOON, Scene};
use crate::raw_http::Response;
use crate::registry::Registry;
use crate::tokens::{basic, revoke};

const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
const START: &str = "/-/coldframe/sign-in/start?next=health";
const HEALTH: &str = "/-/coldframe/health";

/// A provider with one key and one client.
struct Provider {
    server: Registry,
    key: KeyPair,
}

/// What the browser took to the provider.
struct Begun {
    cookie: String,
    state: String,
    nonce: String,
    url: url::Url,
}

impl Provider {
    async fn start() -> Self {
        let clock = ManualClock::at(NOON.parse().unwrap());
        let provider = Self { server: Registry::start(&clock).await, key: KeyPair::generate(KeySize::Rsa2048).unwrap() };
        let base = provider.issuer();
        provider.configure(&json!({
            "issuer": base, "authorization_endpoint": format!("{base}/authorize"), "token_endpoint": format!("{base}/token"),
            "jwks_uri": format!("{base}/jwks"),
        }));
        let PublicKeyComponents { n, e } = PublicKeyComponents::<Vec<u8>>::from(provider.key.public_key());
        let coded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let key = json!({ "kty": "RSA", "kid": "k1", "use": "sig", "n": coded(&n), "e": coded(&e) });
        provider.server.answer("/jwks", Reply::json(&json!({ "keys": [key] }).to_string()));
        provider
    }

    fn issuer(&self) -> String {
        self.server.url.trim_end_matches('/').to_owned()
    }

    fn configure(&self, configuration: &Value) {
        self.server.answer("/.well-known/openid-configuration", Reply::json(&configuration.to_string()));
    }

    async fn scene(&self) -> (Scene, TempDir) {
        let folder = TempDir::new().unwrap();
        let (file, secret) = (folder.path().join("sign-in.toml"), folder.path().join("secret"));
        std::fs::write(&secret, "s3:cret\n").unwrap();
        let text = format!(
            "issuer = \"{}\"\nclient-id = \"coldframe\"\nclient-secret-file = \"{}\"\nlabel = \"{{email}}\"\n\
             [roles]\nadmin = [\"platform\"]\nclient = [\"staff\"]\n",
            self.issuer(),
            secret.display()
        );
        std::fs::write(&file, text).unwrap();
        let scene = Scene::open().set("require-auth", "true").set("sign-in", file.to_str().unwrap()).await;
        (scene, folder)
    }

    /// Answers the next code with an ID token, with some claims changed.
    fn grant(&self, scene: &Scene, begun: &Begun, changes: &Value) {
        let now = scene.now().as_second();
        let mut claims = json!({
            "iss": self.issuer(), "aud": "coldframe", "sub": "1", "email": "ada@acme.example", "groups": ["platform"],
            "nonce": begun.nonce, "iat": now, "exp": now + 300,
        });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        self.answer(&json!({ "typ": "JWT", "alg": "RS256", "kid": "k1" }), &claims);
    }

    fn answer(&self, header: &Value, claims: &Value) {
        let coded = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", coded(header), coded(claims));
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
        let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature));
        self.server.answer(
            "/token",
            Reply::json(&json!({ "access_token": "x", "token_type": "Bearer", "id_token": token }).to_string()),
        );
    }
}

fn ask(scene: &Scene, path: &str, cookie: &str) -> Ask {
    let ask = scene.get(path).accept(BROWSER);
    if cookie.is_empty() { ask } else { ask.header("cookie", cookie) }
}

async fn begin(scene: &Scene) -> Begun {
    let redirect = ask(scene, START, "").await.is(303);
    let set = redirect.header("set-cookie");
    assert!(set.contains("HttpOnly; SameSite=Lax") && set.contains("Max-Age=600;"), "{set}");
    let url: url::Url = redirect.header("location").parse().unwrap();
    let parameter = |name: &str| url.query_pairs().find(|(known, _)| known == name).unwrap().1.into_owned();
    Begun { cookie: pair(set), state: parameter("state"), nonce: parameter("nonce"), url: url.clone() }
}

fn pair(set: &str) -> String {
    set.split(';').next().unwrap().to_owned()
}

/// Follows the provider's redirect back, as a browser does that comes from another site.
async fn reply(scene: &Scene, begun: &Begun, query: &str) -> Response {
    let path = format!("/-/coldframe/sign-in/reply?{query}");
    let ask = ask(scene, &path, &begun.cookie).header("sec-fetch-site", "cross-site").header("sec-fetch-mode", "navigate");
    ask.header("sec-fetch-dest", "document").await
}

fn session(response: &Response) -> Option<String> {
    let cookies = response.headers.0.iter().filter(|(name, _)| name == "set-cookie");
    cookies.map(|(_, set)| pair(set)).find(|pair| pair.starts_with("coldframe-session=") && !pair.ends_with('='))
}

#[tokio::test(flavor = "multi_thread")]
async fn person_signs_in_with_the_role_of_a_group_and_is_signed_out_by_a_revocation() {
    let provider = Provider::start().await;
    let (scene, _folder) = provider.scene().await;
    let form = ask(&scene, HEALTH, "").await.is(401).text();
    assert!(form.contains("sign-in/start?next=health\">Sign in with 127.0.0.1"), "{form}");
    let begun = begin(&scene).await;
    let sent: std::collections::BTreeMap<_, _> = begun.url.query_pairs().into_owned().collect();
    assert_eq!((sent["response_type"].as_str(), sent["client_id"].as_str()), ("code", "coldframe"));
    assert_eq!(sent["redirect_uri"], format!("{}/-/coldframe/sign-in/reply", scene.coldframe.url()));
    assert_eq!((sent["code_challenge_method"].as_str(), sent["code_challenge"].len()), ("S256", 43));
    provider.grant(&scene, &begun, &json!({}));
    let page = reply(&scene, &begun, &format!("code=abc&state={}", begun.state)).await.is(200);
    assert!(page.text().contains("content=\"0;url=../health\""), "{}", page.text());
    let session = session(&page).unwrap();
    // The code, the verifier of the challenge, and the secret of the client.
    let exchanged = provider.server.last("/token");
    let form: std::collections::BTreeMap<_, _> = url::form_urlencoded::parse(&exchanged.body).into_owned().collect();
    assert_eq!((form["grant_type"].as_str(), form["code"].as_str()), ("authorization_code", "abc"));
    let challenge = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, form["code_verifier"].as_bytes());
    assert_eq!(URL_SAFE_NO_PAD.encode(challenge), sent["code_challenge"]);
    assert_eq!(exchanged.headers.first("authorization").unwrap(), basic("coldframe:s3%3Acret"));
    let health = ask(&scene, HEALTH, &session).await.is(200).text();
    assert!(health.contains("ada@acme.example <span class=\"quiet\">(admin)"), "{health}");
    // The session is a token in the ledger, which ends like any other.
    revoke(&scene, "ada@acme.example").await;
    ask(&scene, HEALTH, &session).await.is(401);
}

#[tokio::test(flavor = "multi_thread")]
async fn session_ends_with_its_life_and_roles_are_read_at_each_sign_in() {
    let provider = Provider::start().await;
    let (scene, _folder) = provider.scene().await;
    for (groups, status) in [(json!(["staff"]), 403), (json!("platform"), 200)] {
        let begun = begin(&scene).await;
        provider.grant(&scene, &begun, &json!({ "groups": groups }));
        let page = reply(&scene, &begun, &format!("code=a&state={}", begun.state)).await.is(200);
        let session = session(&page).unwrap();
        ask(&scene, HEALTH, &session).await.is(status);
        scene.advance(Duration::from_secs(3600));
        ask(&scene, HEALTH, &session).await.is(401);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reply_counts_only_in_the_browser_that_began_it_and_in_time() {
    let provider = Provider::start().await;
    let (scene, _folder) = provider.scene().await;
    let (begun, other) = (begin(&scene).await, begin(&scene).await);
    provider.grant(&scene, &begun, &json!({}));
    for query in [
        format!("code=a&state={}", other.state),
        "code=a&state=".to_owned(),
        "code=a".to_owned(),
        format!("code=a&state={}x", begun.state),
    ] {
        let page = reply(&scene, &begun, &query).await.is(403);
        assert!(session(&page).is_none(), "{query}");
    }
    let without = Begun { cookie: String::new(), state: begun.state.clone(), nonce: String::new(), url: begun.url.clone() };
    reply(&scene, &without, &format!("code=a&state={}", begun.state)).await.is(403);
    assert_eq!(provider.server.count("/token"), 0, "nothing is exchanged before the browser is known");
    scene.advance(Duration::from_secs(600));
    reply(&scene, &begun, &format!("code=a&state={}", begun.state)).await.is(403);
    // The provider's own refusal is repeated, and is inert.
    let begun = begin(&scene).await;
    let refused = reply(&scene, &begun, &format!("error=%3Cscript%3E%E2%80%AE&state={}", begun.state)).await.is(403).text();
    assert!(refused.contains("&#60;script&#62;") && !refused.contains('\u{202e}'), "{refused}");
    assert_eq!(provider.server.count("/token"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn id_token_must_be_signed_for_this_sign_in_and_this_server() {
    let provider = Provider::start().await;
    let (scene, _folder) = provider.scene().await;
    let now = scene.now().as_second();
    for changes in [
        json!({ "nonce": "other" }),
        json!({ "nonce": null }),
        json!({ "aud": "another" }),
        json!({ "aud": ["coldframe", "another"] }),
        json!({ "aud": ["coldframe", "another"], "azp": "another" }),
        json!({ "azp": "another" }),
        json!({ "iss": "https://evil.example" }),
        json!({ "exp": now - 100 }),
        json!({ "iat": now + 1_000 }),
        json!({ "groups": ["others"] }),
        json!({ "groups": null }),
        json!({ "email": null }),
        json!({ "email_verified": false }),
    ] {
        let begun = begin(&scene).await;
        provider.grant(&scene, &begun, &changes);
        let page = reply(&scene, &begun, &format!("code=a&state={}", begun.state)).await;
        assert!(matches!(page.status, 401 | 403) && session(&page).is_none(), "{changes}: {}", page.status);
    }
    let begun = begin(&scene).await;
    for header in [
        json!({ "alg": "none", "kid": "k1" }),
        json!({ "alg": "HS256", "kid": "k1" }),
        json!({ "alg": "RS256", "kid": "k2" }),
        json!({ "alg": "RS256" }),
    ] {
        let claims = json!({ "iss": provider.issuer(), "aud": "coldframe", "email": "a", "groups": "platform", "nonce": begun.nonce, "exp": now + 300 });
        provider.answer(&header, &claims);
        let page = reply(&scene, &begun, &format!("code=a&state={}", begun.state)).await;
        assert!(page.status >= 400 && session(&page).is_none(), "{header}: {}", page.status);
    }
    let begun = begin(&scene).await;
    provider.grant(&scene, &begun, &json!({ "aud": ["coldframe", "another"], "azp": "coldframe" }));
    reply(&scene, &begun, &format!("code=a&state={}", begun.state)).await.is(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn provider_that_is_down_or_names_another_issuer_signs_nobody_in() {
    let provider = Provider::start().await;
    let base = provider.issuer();
    for configuration in [
        json!({}),
        json!({ "issuer": "https://evil.example", "authorization_endpoint": format!("{base}/a"), "token_endpoint": format!("{base}/t"), "jwks_uri": format!("{base}/j") }),
        json!({ "issuer": base, "authorization_endpoint": "http://evil.example/a", "token_endpoint": format!("{base}/t"), "jwks_uri": format!("{base}/j") }),
    ] {
        provider.configure(&configuration);
        let (scene, _folder) = provider.scene().await;
        let page = ask(&scene, START, "").await.is(503);
        assert!(page.text().contains("cannot be reached"), "{configuration}");
        // Signing in with a token still works.
        ask(&scene, "/-/coldframe/sign-in", "").await.is(200);
    }
    let scene = Scene::open().await;
    ask(&scene, START, "").await.is(404);
    ask(&scene, "/-/coldframe/sign-in/reply?code=a&state=b", "").await.is(404);
}
