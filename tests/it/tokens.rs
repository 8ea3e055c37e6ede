//! Access tokens in registry mode: accepted in every form that clients send, refused when they ended, and forwarded nowhere.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coldframe::app::standalone::tokens::{self, TokenRequest};
use coldframe::clock::Clock as _;
use coldframe::policy::decisions::Signature;
use coldframe::policy::{PackageScope, Principal, Role};
use coldframe::store::{ApplyStatus, TokenSelector};
use serde_json::json;

use crate::client::{Ask, raw};
use crate::fake_response::Reply;
use crate::harness::{Opening, Scene};
use crate::package::Package;
use crate::raw_http::Response;

const TARBALL: &str = "/left-pad/-/left-pad-1.0.0.tgz";
const BULK: &str = "/-/npm/v1/security/advisories/bulk";

/// A client on another machine: a proxy that is not trusted reports it, so no credentials are lent to it without a token.
const REMOTE: (&str, &str) = ("x-forwarded-for", "192.0.2.7");

/// Creates a token in the data directory, next to the running server, and returns it.
pub async fn create(scene: &Scene, label: &str, role: Role, scope: &[&str], lasts: Option<Duration>) -> String {
    create_for(scene, (label, Principal::Person("ada".into())), role, scope, lasts).await
}

/// Creates a token that belongs to a person, or is used by a machine.
pub async fn create_for(
    scene: &Scene,
    (label, owner): (&str, Principal),
    role: Role,
    scope: &[&str],
    lasts: Option<Duration>,
) -> String {
    let by = Signature { who: "ada".to_owned(), at: scene.clock.now() };
    let expires = lasts.map(|lasts| by.at.checked_add(jiff::SignedDuration::try_from(lasts).unwrap()).unwrap());
    let scope = PackageScope::parse(scope).unwrap();
    let request = TokenRequest { label: label.to_owned(), role, scope, expires, owner };
    let data = scene.data().to_owned();
    let created = tokio::task::spawn_blocking(move || tokens::create(&data, request, by)).await.unwrap().unwrap();
    assert_eq!(created.effect, ApplyStatus::Applied);
    created.secret.reveal().to_owned()
}

/// Revokes a token in the data directory, next to the running server.
pub async fn revoke(scene: &Scene, label: &str) {
    let by = Signature { who: "ada".to_owned(), at: scene.clock.now() };
    let (data, which) = (scene.data().to_owned(), TokenSelector::Label(label.to_owned()));
    let (_, effect) = tokio::task::spawn_blocking(move || tokens::revoke(&data, &which, &by)).await.unwrap().unwrap();
    assert_eq!(effect, ApplyStatus::Applied);
}

pub fn basic(pair: impl AsRef<[u8]>) -> String {
    format!("Basic {}", STANDARD.encode(pair))
}

fn required() -> Opening {
    Scene::open().set("require-auth", "true")
}

/// A scene whose registry shows `@acme/secret` only to the configured credentials.
async fn lending() -> Scene {
    let scene = Scene::open().npmrc("//{place}/:_authToken=configured\n").await;
    scene.publish(Package::new("@acme/secret", "1.0.0").readable_with("configured"));
    scene.publish_old("left-pad", &["1.0.0"]);
    scene
}

/// Checks that nothing that the registry received contains a token.
#[track_caller]
pub fn assert_nothing_leaked(scene: &Scene, token: &str) {
    let encoded = [STANDARD.encode(token), STANDARD.encode(format!("ada:{token}"))];
    for request in scene.registry.requests() {
        let headers: Vec<_> = request.headers.0.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let text = format!("{} {}\n{}", request.target, headers.join("\n"), String::from_utf8_lossy(&request.body));
        assert!(!text.contains("cfr_") && !encoded.iter().any(|encoded| text.contains(encoded.as_str())), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn token_is_accepted_in_every_form_that_clients_send_and_names_its_label() {
    let mut scene = required().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    let token = create(&scene, "ci-web", Role::Client, &[], None).await;
    let forms =
        [format!("Bearer {token}"), format!("bearer {token}"), basic(format!("any-user:{token}")), basic(format!(":{token}"))];
    for header in &forms {
        for path in ["/left-pad", "/left-pad/1.0.0", "/-/package/left-pad/dist-tags", "/-/v1/search?text=left", TARBALL, "/"] {
            let ask = |method: &str| scene.ask(method, path).header("authorization", header);
            ask("GET").await.is(200);
            ask("HEAD").await.is(200);
        }
    }
    assert_nothing_leaked(&scene, &token);
    scene.coldframe.stop().await;
    let spec = coldframe::npm::PackageSpec::parse("left-pad").unwrap();
    let exposed = coldframe::app::exposure(scene.data(), &spec).unwrap();
    assert!(!exposed.is_empty() && exposed.iter().all(|row| row.client == "ci-web@127.0.0.1"), "{exposed:?}");
    let records = tokens::list(scene.data()).unwrap();
    assert_eq!(records[0].last_used, Some(scene.now()), "the last use is recorded when the server stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_valid_token_every_endpoint_answers_401_and_says_what_to_do() {
    let scene = required().set("allow-writes", "true").set("explain-access", "all").await;
    scene.publish_old("left-pad", &["1.0.0"]);
    let address = scene.coldframe.address;
    let wrong = ["Bearer cfr_wrong".to_owned(), "Bearer npm_own".to_owned(), basic("ada:secret"), "Negotiate x".to_owned()];
    let endpoints = [
        ("GET", "/"),
        ("GET", "/left-pad"),
        ("HEAD", "/left-pad"),
        ("GET", "/left-pad/latest"),
        ("GET", TARBALL),
        ("HEAD", TARBALL),
        ("GET", "/-/package/left-pad/dist-tags"),
        ("GET", "/-/v1/search?text=a"),
        ("GET", "/-/npm/v1/attestations/left-pad@1.0.0"),
        ("GET", "/-/npm/v1/keys"),
        ("GET", "/-/ping"),
        ("GET", "/-/whoami"),
        ("GET", "/-/npm/v1/tokens"),
        ("POST", BULK),
        ("POST", "/-/npm/v1/security/audits"),
        ("PUT", "/left-pad"),
        ("PUT", "/-/user/org.couchdb.user:ada"),
        ("POST", "/-/v1/login"),
        ("DELETE", "/-/package/left-pad/dist-tags/beta"),
        ("GET", "/left-pad?write=true"),
        ("GET", "/no/such/path"),
        ("GET", "/other-place/files/left-pad-1.0.0.tgz"),
        ("GET", "/-/coldframe/metrics"),
        ("GET", "/-/coldframe/explain/left-pad"),
        ("GET", "/-/coldframe/client-config"),
        ("POST", "/-/coldframe/check"),
        ("GET", "/-/coldframe/nothing"),
    ];
    for (method, path) in endpoints {
        let none = scene.ask(method, path).await.is(401);
        assert_eq!(none.header("www-authenticate"), "Bearer realm=\"coldframe\"", "{method} {path}");
        assert_eq!(none.header("cache-control"), "no-store");
        let line = format!("//{address}/:_authToken=TOKEN");
        assert!(none.header("npm-notice").contains(&line), "{none:?}");
        if method != "HEAD" {
            assert!(none.error().contains(&line), "{none:?}");
        }
        for header in &wrong {
            scene.ask(method, path).header("authorization", header).await.is(401);
        }
    }
    assert_eq!(scene.registry.total(), 0);
    for page in ["healthz", "readyz"] {
        scene.get(&format!("/-/coldframe/{page}")).await.is(200);
    }
    let token = create(&scene, "ops", Role::Admin, &[], None).await;
    let metrics = scene.get("/-/coldframe/metrics").token(&token).await.is(200).text();
    assert!(metrics.contains("coldframe_authentications_total{result=\"accepted\"} 1\n"), "{metrics}");
    assert!(!metrics.contains("ops"), "labels of tokens are not labels of metrics");
}

#[tokio::test(flavor = "multi_thread")]
async fn token_line_names_the_public_url() {
    let scene = required().set("public-url", "https://npm.example/registry/").await;
    let refused = scene.get("/registry/left-pad").await.is(401);
    assert!(refused.error().contains("//npm.example/registry/:_authToken=TOKEN"), "{}", refused.error());
}

#[tokio::test(flavor = "multi_thread")]
async fn token_is_forwarded_nowhere_and_configured_credentials_are_lent_instead() {
    let scene = lending().await;
    let token = create(&scene, "ci-web", Role::Client, &[], None).await;
    scene.registry.answer("/-/npm/v1/keys", Reply::json("{}"));
    scene.registry.answer("/-/ping", Reply::json("{}"));
    scene.registry.answer(BULK, Reply::json("{}"));
    scene.registry.answer("/-/npm/v1/attestations/@acme/secret@1.0.0", Reply::json("{}"));
    let remote = |method: &str, path: &str| scene.ask(method, path).header(REMOTE.0, REMOTE.1).token(&token);
    for path in [
        "/@acme%2fsecret",
        "/@acme%2fsecret/latest",
        "/@acme/secret/-/secret-1.0.0.tgz",
        "/-/package/@acme%2fsecret/dist-tags",
        "/-/v1/search?text=secret",
        "/-/npm/v1/attestations/@acme/secret@1.0.0",
        "/-/npm/v1/keys",
        "/-/ping",
    ] {
        remote("GET", path).await.is(200);
    }
    remote("POST", BULK).json(&json!({ "@acme/secret": ["1.0.0"] })).await.is(200);
    assert_eq!(scene.registry.last("/@acme/secret").bearer(), Some("configured"));
    assert_eq!(scene.registry.last("/@acme/secret/-/secret-1.0.0.tgz").bearer(), Some("configured"));
    // A redirect within the registry does not bring it back.
    scene.registry.answer("/left-pad/-/left-pad-1.0.0.tgz", Reply::redirect(302, "/elsewhere.tgz"));
    scene.registry.answer("/elsewhere.tgz", Reply::status(404));
    remote("GET", TARBALL).await;
    assert_nothing_leaked(&scene, &token);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_lent_to_a_token_is_not_served_without_one() {
    let scene = lending().await;
    let token = create(&scene, "ci-web", Role::Client, &[], None).await;
    let paths =
        ["/@acme%2fsecret", "/@acme%2fsecret/1.0.0", "/-/package/@acme%2fsecret/dist-tags", "/@acme/secret/-/secret-1.0.0.tgz"];
    for path in paths {
        scene.get(path).header(REMOTE.0, REMOTE.1).token(&token).await.is(200);
    }
    let etag = scene.get(paths[0]).token(&token).await.is(200).header("etag").to_owned();
    for path in paths {
        let remote = || scene.get(path).header(REMOTE.0, REMOTE.1);
        for ask in [remote(), remote().token("mallory"), remote().if_none_match(&etag), remote().token("cfr_mallory")] {
            let answer = ask.await;
            assert!(matches!(answer.status, 401 | 403 | 404), "{path}: {}", answer.status);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn token_that_ended_is_refused_though_none_is_required() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    let lasting = create(&scene, "lasting", Role::Client, &[], None).await;
    let short = create(&scene, "short", Role::Client, &[], Some(Duration::from_secs(60))).await;
    let get = |token: &str| scene.get("/left-pad").token(token);
    get(&short).await.is(200);
    scene.advance(Duration::from_secs(59));
    get(&short).await.is(200);
    scene.advance(Duration::from_secs(1));
    let refused = get(&short).await.is(401);
    assert!(refused.error().contains("expired") && !refused.text().contains(&short), "{}", refused.error());
    get(&lasting).await.is(200);
    revoke(&scene, "lasting").await;
    // Revoking returned when the server had applied it.
    assert!(get(&lasting).await.is(401).error().contains("revoked"));
    let typo = format!("{}x", &lasting[..lasting.len() - 1]);
    for (token, why) in [(typo.as_str(), "malformed"), ("cfr_", "malformed"), ("CFR_x", "malformed")] {
        assert!(get(token).await.is(401).error().contains(why), "{token}");
        scene.get("/-/coldframe/metrics").token(token).await.is(401);
    }
    scene.get("/left-pad").await.is(200);
    assert_nothing_leaked(&scene, &lasting);
}

#[tokio::test(flavor = "multi_thread")]
async fn token_survives_a_restart_and_so_does_its_revocation() {
    let mut scene = required().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    let kept = create(&scene, "kept", Role::Client, &[], None).await;
    let revoked = create(&scene, "revoked", Role::Client, &[], None).await;
    revoke(&scene, "revoked").await;
    scene.restart().await;
    scene.get("/left-pad").token(&kept).await.is(200);
    scene.get("/left-pad").token(&revoked).await.is(401);
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_headers_are_refused_and_not_forwarded() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    let token = create(&scene, "ci", Role::Client, &[], None).await;
    let address = scene.coldframe.address;
    let send = async |headers: &[u8]| {
        let head = format!("GET /left-pad HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
        let answer = raw(address, &[head.as_bytes(), headers, b"\r\n"].concat()).await;
        answer.lines().next().unwrap_or_default().to_owned()
    };
    let header = |value: &[u8]| [b"authorization: ", value, b"\r\n"].concat();
    let bearer = format!("Bearer {token}").into_bytes();
    for (headers, expected) in [
        (header(&bearer), " 200 "),
        ([header(&bearer), header(&bearer)].concat(), " 400 "),
        ([header(&bearer), header(b"Bearer npm_own")].concat(), " 400 "),
        ([header(b"Bearer npm_own"), header(&bearer)].concat(), " 400 "),
        (header(basic(&token).as_bytes()), " 401 "),
        (header(basic(format!("{token}:")).as_bytes()), " 401 "),
        (header(basic([b"\0:", token.as_bytes()].concat()).as_bytes()), " 200 "),
        (header(basic([b"\xff:", token.as_bytes()].concat()).as_bytes()), " 200 "),
        (header(basic(format!("a:{token}\0")).as_bytes()), " 401 "),
        (header(format!("Bearer \"{token}\"").as_bytes()), " 401 "),
        (header(token.as_bytes()), " 401 "),
        (header(format!("Digest username=\"a\", response=\"{token}\"").as_bytes()), " 401 "),
        (header(&[b"Bearer ", "\u{e4}".as_bytes(), token.as_bytes()].concat()), " 400 "),
        (header(format!("Bearer {token}{}", "x".repeat(6_000)).as_bytes()), " 401 "),
    ] {
        let line = send(&headers).await;
        let shown: String = String::from_utf8_lossy(&headers).chars().take(90).collect();
        assert!(line.contains(expected), "{shown}: {line}");
    }
    // NUL in a header, and headers beyond the limit, are refused while they are read.
    for headers in
        [header(format!("Bearer {token}\0").as_bytes()), header(format!("Bearer {token}{}", "x".repeat(64_000)).as_bytes())]
    {
        let line = send(&headers).await;
        assert!(line.is_empty() || line.contains(" 400 ") || line.contains(" 431 "), "{line}");
    }
    assert_nothing_leaked(&scene, &token);
}

#[tokio::test(flavor = "multi_thread")]
async fn token_in_a_url_or_a_body_is_refused_and_not_forwarded() {
    let scene = Scene::open().set("allow-writes", "true").await;
    let token = create(&scene, "ci", Role::Client, &[], None).await;
    let escaped = token.replace('_', "%5f");
    for (method, path) in [
        ("DELETE", format!("/-/npm/v1/tokens/token/{token}")),
        ("GET", format!("/-/v1/search?text={token}")),
        ("GET", format!("/-/v1/search?text={escaped}")),
        ("GET", format!("/{token}")),
        ("GET", format!("/left-pad?token={token}")),
        ("GET", format!("/-/coldframe/explain/{token}")),
        ("GET", format!("/no/such/{escaped}/path")),
    ] {
        let refused = scene.ask(method, &path).await.is(400);
        assert!(refused.error().contains("URL") && !refused.text().contains(&token[4..]), "{path}: {}", refused.text());
    }
    // `npm login` sends a password in its body.
    let login = json!({ "name": "ada", "password": token });
    let refused = scene.ask("PUT", "/-/user/org.couchdb.user:ada").json(&login).await.is(400);
    assert!(refused.error().contains("body") && !refused.text().contains(&token[4..]), "{}", refused.text());
    scene.ask("POST", BULK).json(&json!({ "left-pad": [token] })).gzip_body().await.is(400);
    // Other headers that upstream gets are left out.
    scene.registry.answer("/-/ping", Reply::json("{}"));
    scene.get("/-/ping").header("npm-session", &token).header("user-agent", &format!("npm/11 {token}")).await.is(200);
    assert_nothing_leaked(&scene, &token);
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_with_a_token_are_refused_and_whoami_names_the_label() {
    let scene = Scene::open().set("allow-writes", "true").npmrc("//{place}/:_authToken=configured\n").await;
    scene.publish_old("left-pad", &["1.0.0"]);
    let token = create(&scene, "ci-web", Role::Admin, &[], None).await;
    for (method, path) in [
        ("PUT", "/left-pad"),
        ("GET", "/left-pad?write=true"),
        ("PUT", "/-/package/left-pad/dist-tags/beta"),
        ("GET", "/-/npm/v1/tokens"),
        ("GET", "/-/package/left-pad/collaborators"),
        ("POST", "/-/v1/login"),
    ] {
        let refused = scene.ask(method, path).token(&token).json(&json!({})).await.is(403);
        assert!(refused.error().contains("credentials of the registry"), "{}", refused.error());
    }
    let answer = scene.get("/-/whoami").token(&token).await.is(200);
    assert_eq!((answer.json(), answer.header("cache-control")), (json!({ "username": "ci-web" }), "no-store"));
    assert_eq!(scene.registry.total(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_is_limited_and_a_valid_token_of_the_same_address_is_served() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    let valid = create(&scene, "ci", Role::Client, &[], None).await;
    let guess = |number: u8| coldframe::policy::access::secret::TokenSecret::from_random([number; 32]);
    let mut statuses = Vec::new();
    for number in 0..100 {
        statuses.push(scene.get("/left-pad").token(guess(number).reveal()).await.status);
    }
    assert!(statuses[0] == 401 && statuses.ends_with(&[429]), "{statuses:?}");
    scene.get("/left-pad").token(&valid).await.is(200);
    let limited: Response = scene.get("/left-pad").token(guess(1).reveal()).await.is(429);
    assert_eq!(limited.header("retry-after"), "60");
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_open_pages_of_operators() {
    let scene = Scene::open().set("listen", "0.0.0.0:0").await;
    scene.publish_old("left-pad", &["1.0.0"]);
    let open = std::net::SocketAddr::from(([127, 0, 0, 1], scene.coldframe.address.port()));
    let body = json!({ "packages": [{ "name": "left-pad", "version": "1.0.0" }] });
    for role in Role::ALL.iter().copied() {
        let token = create(&scene, role.as_str(), role, &[], None).await;
        let get = |page: &str| Ask::new(open, "GET", &format!("/-/coldframe/{page}")).token(&token);
        for page in ["client-config", "explain/left-pad"] {
            get(page).await.is(200);
        }
        Ask::new(open, "POST", "/-/coldframe/check")
            .header("authorization", &basic(format!("x:{token}")))
            .json(&body)
            .await
            .is(200);
        if role == Role::Admin {
            get("metrics").await.is(200);
            get("nothing").await.is(404);
        } else {
            let refused = get("metrics").await.is(403);
            assert!(refused.error().contains(&format!("`{}`", role.as_str())), "{}", refused.error());
        }
        assert_nothing_leaked(&scene, &token);
    }
    Ask::new(open, "GET", "/-/coldframe/explain/left-pad").await.is(403);
}
