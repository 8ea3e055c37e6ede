//! Pages for people: who may see them, how a session begins and ends, and what an attacker can put into them.

use std::time::Duration;

use coldframe::policy::{Principal, Role};

use crate::client::{Ask, raw};
use crate::fake_response::Reply;
use crate::harness::{Opening, Scene};
use crate::package::{Package, hours};
use crate::raw_http::Response;
use crate::tokens::{create, create_for, revoke};

const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
const PAGE: &str = "/-/coldframe/explain/left-pad@1.1.0";
const SIGN_IN: &str = "/-/coldframe/sign-in";

/// A browser that keeps one cookie of each name, as `__Host-` cookies of one host.
#[derive(Default)]
struct Browser(Vec<(String, String)>);

/// Settings under which every page needs a token.
fn required() -> Opening {
    Scene::open().set("require-auth", "true")
}

impl Browser {
    fn get(&self, scene: &Scene, path: &str) -> Ask {
        self.with_cookies(scene.get(path).accept(BROWSER).header("sec-fetch-site", "same-origin"))
    }

    /// Sends a form as a page of this server would.
    fn post(&self, scene: &Scene, path: &str, fields: &[(&str, &str)]) -> Ask {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let ask = scene.ask("POST", path).accept(BROWSER).header("content-type", "application/x-www-form-urlencoded");
        let ask = ask.header("origin", &scene.coldframe.url()).header("sec-fetch-site", "same-origin").body(body);
        self.with_cookies(ask)
    }

    fn with_cookies(&self, ask: Ask) -> Ask {
        let pairs: Vec<_> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if pairs.is_empty() { ask } else { ask.header("cookie", &pairs.join("; ")) }
    }

    /// Keeps the cookies of a response.
    fn keep(&mut self, response: &Response) {
        for (_, line) in response.headers.0.iter().filter(|(name, _)| name == "set-cookie") {
            let (name, value) = line.split(';').next().unwrap().split_once('=').unwrap();
            self.0.retain(|(known, _)| known != name);
            if !line.contains("Max-Age=0;") {
                self.0.push((name.to_owned(), value.to_owned()));
            }
        }
    }

    /// Signs in with a token, and returns the response to the form.
    async fn sign_in(&mut self, scene: &Scene, token: &str, next: &str) -> Response {
        let form = self.get(scene, SIGN_IN).await.is(200);
        self.keep(&form);
        let fields = [("form", hidden(&form, "form")), ("next", next.to_owned()), ("token", token.to_owned())];
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let response = self.post(scene, SIGN_IN, &fields).await;
        self.keep(&response);
        response
    }
}

/// Returns the value of a hidden field.
fn hidden(page: &Response, name: &str) -> String {
    let text = page.text();
    let (_, rest) = text.split_once(&format!("name=\"{name}\" value=\"")).unwrap_or_else(|| panic!("no field {name}: {text}"));
    rest.split_once('"').unwrap().0.to_owned()
}

fn publish_held(scene: &Scene) {
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(1)));
}

#[tokio::test]
async fn every_page_has_a_strict_policy_and_is_not_stored() {
    let scene = Scene::open().await;
    publish_held(&scene);
    for path in ["/-/coldframe/", PAGE, "/-/coldframe/packages/left-pad", SIGN_IN] {
        for method in ["GET", "HEAD"] {
            let page = scene.ask(method, path).accept(BROWSER).await.is(200);
            assert_eq!(
                page.header("content-security-policy"),
                "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
            );
            let headers =
                ["x-content-type-options", "referrer-policy", "x-frame-options", "cache-control", "cross-origin-opener-policy"];
            let values = headers.map(|name| page.header(name).to_owned());
            assert_eq!(values, ["nosniff", "same-origin", "DENY", "no-store", "same-origin"], "{path}");
            assert!(!page.text().contains("style=\"") && !page.text().contains("<script"), "{path}");
            assert_eq!(method == "HEAD", page.text().is_empty(), "{path}");
        }
    }
    assert!(scene.get("/-/coldframe/style.css").await.is(200).header("content-type").starts_with("text/css"));
}

#[tokio::test]
async fn version_page_says_what_why_until_when_and_what_to_take_instead() {
    let scene = Scene::open().await;
    publish_held(&scene);
    scene.get("/left-pad/-/left-pad-1.1.0.tgz").npm("10.9.0").await.is(403);
    let page = scene.get(PAGE).accept(BROWSER).await.is(200).text();
    for part in [
        "left-pad@1.1.0 is held",
        "minimum-age",
        "2026-04-06 11:00 UTC",
        "left-pad@1.0.0",
        "127.0.0.1",
        "refused",
        "../packages/left-pad",
    ] {
        assert!(page.contains(part), "no {part}:\n{page}");
    }
    let page = scene.get("/-/coldframe/packages/left-pad").accept(BROWSER).await.is(200).text();
    for part in ["2: 1 allowed, 1 held, 0 denied", "../explain/left-pad@1.1.0", "<svg", "latest"] {
        assert!(page.contains(part), "no {part}:\n{page}");
    }
    // Programs get what they always got.
    assert_eq!(scene.get(PAGE).accept("application/json").await.is(200).json()["verdict"], "hold");
    assert_eq!(scene.get(PAGE).await.is(200).json()["verdict"], "hold");
    scene.registry.absent("missing");
    scene.get("/-/coldframe/packages/missing").accept(BROWSER).await.is(404);
    scene.get("/-/coldframe/explain/%2e%2e").accept(BROWSER).await.is(400);
}

#[tokio::test]
async fn relative_links_work_below_any_prefix() {
    let scene = Scene::open().set("public-url", "http://localhost/npm/").await;
    scene.publish_old("@acme/ui", &["1.0.0"]);
    for (path, root) in [
        ("/npm/-/coldframe/", "./"),
        ("/-/coldframe/packages/@acme/ui", "../../"),
        ("/npm/-/coldframe/packages/@acme%2fui", "../"),
        ("/npm/-/coldframe/explain/@acme/ui@1.0.0", "../../"),
    ] {
        let page = scene.get(path).header("host", "localhost").accept(BROWSER).await.is(200).text();
        assert!(page.contains(&format!("href=\"{root}style.css\"")), "{path}\n{page}");
    }
    let redirect = scene.get("/npm/-/coldframe").header("host", "localhost").accept(BROWSER).await.is(303);
    assert_eq!(redirect.header("location"), "coldframe/");
    for (wanted, location) in [
        ("left-pad", "packages/left-pad"),
        ("%40acme%2Fui", "packages/@acme/ui"),
        ("%40acme%2Fui%40%5E1", "explain/@acme/ui@%5E1"),
        ("a%40%0d%0ax:%20y", "explain/a@x%3A%20y"),
    ] {
        let found = scene.get(&format!("/-/coldframe/find?package={wanted}")).header("host", "localhost").accept(BROWSER).await;
        assert_eq!((found.status, found.header("location")), (303, location));
    }
    scene.get("/-/coldframe/find?package=//evil.example").header("host", "localhost").accept(BROWSER).await.is(400);
}

#[tokio::test(flavor = "multi_thread")]
async fn session_begins_with_a_token_and_ends_with_it_or_at_sign_out() {
    let scene = required().await;
    publish_held(&scene);
    let token = create(&scene, "ada", Role::Client, &[], None).await;
    let mut browser = Browser::default();
    let refused = browser.get(&scene, PAGE).await.is(401);
    assert!(refused.text().contains("name=\"token\"") && refused.header("www-authenticate").is_empty(), "{refused:?}");
    let begun = browser.sign_in(&scene, &token, "explain/left-pad@1.1.0").await.is(303);
    assert_eq!(begun.header("location"), "./explain/left-pad@1.1.0");
    let set = begun.header("set-cookie");
    assert!(
        set.starts_with("coldframe-session=") && set.contains("HttpOnly; SameSite=Strict") && set.contains("Path=/;"),
        "{set}"
    );
    let page = browser.get(&scene, PAGE).await.is(200);
    assert!(page.text().contains("ada <span class=\"quiet\">(client)"), "{}", page.text());
    // A session opens pages, and nothing else.
    browser.with_cookies(scene.get("/left-pad")).await.is(401);
    browser.with_cookies(scene.get("/-/coldframe/metrics")).await.is(401);
    browser.with_cookies(scene.get(PAGE).accept("application/json")).await.is(401);
    // Signing out ends copies of the cookie too.
    let copy = Browser(browser.0.clone());
    let form = hidden(&page, "form");
    let out = browser.post(&scene, "/-/coldframe/sign-out", &[("form", &form)]).await.is(303);
    browser.keep(&out);
    copy.get(&scene, PAGE).await.is(401);
    browser.get(&scene, PAGE).await.is(401);
    // Revoking the token ends its sessions.
    browser.sign_in(&scene, &token, "").await.is(303);
    browser.get(&scene, PAGE).await.is(200);
    revoke(&scene, "ada").await;
    browser.get(&scene, PAGE).await.is(401);
    assert!(browser.sign_in(&scene, &token, "").await.is(401).text().contains("revoked"));
}

#[tokio::test(flavor = "multi_thread")]
async fn session_expires_with_its_token_and_after_a_working_day() {
    let scene = required().await;
    publish_held(&scene);
    let short = create(&scene, "short", Role::Client, &[], Some(Duration::from_secs(600))).await;
    let long = create(&scene, "long", Role::Client, &[], None).await;
    let (mut first, mut second) = (Browser::default(), Browser::default());
    first.sign_in(&scene, &short, "").await.is(303);
    second.sign_in(&scene, &long, "").await.is(303);
    scene.advance(Duration::from_secs(600));
    first.get(&scene, PAGE).await.is(401);
    second.get(&scene, PAGE).await.is(200);
    scene.advance(hours(10));
    second.get(&scene, PAGE).await.is(401);
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_in_form_cannot_be_sent_by_another_site_or_without_its_cookie() {
    let scene = required().await;
    let token = create(&scene, "ada", Role::Client, &[], None).await;
    let mut browser = Browser::default();
    let form = browser.get(&scene, SIGN_IN).await.is(200);
    browser.keep(&form);
    let field = hidden(&form, "form");
    let fields = [("form", field.as_str()), ("token", token.as_str())];
    for (name, value) in [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("sec-fetch-site", "none"),
        ("content-type", "text/plain"),
        ("content-type", "application/json"),
    ] {
        let refused = browser.post(&scene, SIGN_IN, &fields).header(name, value).await.is(403);
        assert!(refused.header("set-cookie").is_empty(), "{name}: {value}");
    }
    // Without cookies, with the form of another browser, and with a forged one.
    Browser::default().post(&scene, SIGN_IN, &fields).await.is(403);
    let other = Browser::default().get(&scene, SIGN_IN).await.is(200);
    browser.post(&scene, SIGN_IN, &[("form", &hidden(&other, "form")), ("token", &token)]).await.is(403);
    browser.post(&scene, SIGN_IN, &[("form", "x"), ("token", &token)]).await.is(403);
    browser.post(&scene, SIGN_IN, &[("token", &token)]).await.is(403);
    // Neither origin nor site: not a browser.
    let head = format!("POST {SIGN_IN} HTTP/1.1\r\nhost: {}\r\ncontent-length: 0\r\n\r\n", scene.coldframe.address);
    assert!(raw(scene.coldframe.address, head.as_bytes()).await.starts_with("HTTP/1.1 403"));
    browser.post(&scene, SIGN_IN, &[("form", &field), ("token", &"x".repeat(9_000))]).await.is(413);
    scene.get(&format!("{SIGN_IN}?token={token}")).await.is(400);
    browser.get(&scene, "/-/coldframe/sign-out").await.is(405);
    browser.post(&scene, SIGN_IN, &fields).await.is(303);
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_in_begins_a_new_session_and_ends_the_one_before() {
    let scene = required().await;
    publish_held(&scene);
    let token = create(&scene, "ada", Role::Client, &[], None).await;
    let mut browser = Browser::default();
    browser.sign_in(&scene, &token, "").await.is(303);
    let before = Browser(browser.0.clone());
    browser.sign_in(&scene, &token, "").await.is(303);
    before.get(&scene, PAGE).await.is(401);
    browser.get(&scene, PAGE).await.is(200);
    // Cookies that were changed, doubled or are far too long.
    let (name, value) = browser.0.iter().find(|(name, _)| name == "coldframe-session").unwrap().clone();
    for cookie in [
        format!("{name}={value}x"),
        format!("{name}={value}; {name}={value}"),
        format!("__Host-{name}={value}"),
        format!("{name}=.{value}"),
        format!("{name}={}", "A".repeat(6_000)),
        format!("{name}="),
        "=;;=".to_owned(),
    ] {
        scene.get(PAGE).accept(BROWSER).header("cookie", &cookie).await.is(401);
    }
    scene.get(PAGE).accept(BROWSER).header("cookie", &format!("a=b; {name}={value}")).await.is(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn address_to_return_to_is_one_of_our_pages() {
    let scene = required().await;
    let token = create(&scene, "ada", Role::Client, &[], None).await;
    for next in ["https://evil.example", "//evil.example", "/\\evil", "explain/../../x", "a:b", "sign-out", "explain/a\r\nx: y"] {
        let mut browser = Browser::default();
        let begun = browser.sign_in(&scene, &token, next).await.is(303);
        assert_eq!(begun.header("location"), "./", "{next}");
        let encoded: String = url::form_urlencoded::byte_serialize(next.as_bytes()).collect();
        let form = browser.get(&scene, &format!("{SIGN_IN}?next={encoded}")).await.is(200);
        assert_eq!(hidden(&form, "next"), "", "{next}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_tokens_are_limited_per_address_and_valid_ones_are_not() {
    let scene = required().await;
    let token = create(&scene, "ada", Role::Client, &[], None).await;
    let mut browser = Browser::default();
    for wrong in ["cfr_wrong", "secret", ""] {
        let refused = browser.sign_in(&scene, wrong, "").await.is(401);
        assert!(refused.text().contains("role=\"alert\""), "{wrong}");
    }
    let form = browser.get(&scene, SIGN_IN).await.is(200);
    browser.keep(&form);
    let field = hidden(&form, "form");
    for _ in 0..60 {
        let page = browser.post(&scene, SIGN_IN, &[("form", &field), ("token", "guess")]).await;
        assert!(page.status == 401 || page.status == 429, "{}", page.status);
    }
    browser.sign_in(&scene, "guess", "").await.is(429);
    browser.sign_in(&scene, &token, "").await.is(303);
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_in_needs_https_beyond_this_machine() {
    let scene = required().set("listen", "0.0.0.0:0").set("trusted-proxy", "127.0.0.0/8").await;
    publish_held(&scene);
    let token = create(&scene, "ada", Role::Client, &[], None).await;
    let local = std::net::SocketAddr::from(([127, 0, 0, 1], scene.coldframe.address.port()));
    let ask = |path: &str, scheme: &str| {
        let ask =
            Ask::new(local, "GET", path).accept(BROWSER).header("host", "npm.example").header("x-forwarded-for", "192.0.2.7");
        ask.header("x-forwarded-proto", scheme)
    };
    for path in [SIGN_IN, PAGE] {
        let refused = ask(path, "http").await.is(403);
        assert!(refused.text().contains("needs HTTPS") && refused.header("set-cookie").is_empty(), "{refused:?}");
    }
    let form = ask(SIGN_IN, "https").await.is(200);
    let set = form.header("set-cookie").to_owned();
    assert!(set.starts_with("__Host-coldframe-form=") && set.contains("; Secure; Path=/; ") && !set.contains("Domain"), "{set}");
    let post = |origin: &str, scheme: &str| {
        let fields = [("form", hidden(&form, "form")), ("token", token.clone())];
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let ask = Ask::new(local, "POST", SIGN_IN).header("host", "npm.example").header("x-forwarded-for", "192.0.2.7");
        let ask = ask.header("x-forwarded-proto", scheme).header("content-type", "application/x-www-form-urlencoded");
        ask.header("origin", origin).header("cookie", set.split(';').next().unwrap()).body(body)
    };
    post("http://npm.example", "http").await.is(403);
    post("http://npm.example", "https").await.is(403);
    let begun = post("https://npm.example", "https").await.is(303);
    let set = begun.header("set-cookie").to_owned();
    assert!(set.starts_with("__Host-coldframe-session=") && set.contains("; Secure; Path=/; "), "{set}");
    let cookie = set.split(';').next().unwrap();
    ask(PAGE, "https").header("cookie", cookie).await.is(200);
    ask(PAGE, "http").header("cookie", cookie).await.is(403);
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_token_signs_in_until_it_leaves_the_file() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("tokens");
    std::fs::write(&path, "0123456789abcdef-operator\n").unwrap();
    let scene = required().set("admin-token-file", path.to_str().unwrap()).await;
    publish_held(&scene);
    let mut browser = Browser::default();
    browser.sign_in(&scene, "0123456789abcdef-operatoR", "").await.is(401);
    let begun = browser.sign_in(&scene, "0123456789abcdef-operator", "").await.is(303);
    assert!(!begun.header("set-cookie").contains("operator"));
    assert!(browser.get(&scene, PAGE).await.is(200).text().contains("(admin)"));
    std::fs::write(&path, "another-token-altogether\n").unwrap();
    browser.get(&scene, PAGE).await.is(401);
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_and_scopes_limit_what_a_viewer_sees() {
    let scene = required().await;
    publish_held(&scene);
    scene.publish_old("@acme/ui", &["1.0.0"]);
    let client = create(&scene, "client", Role::Client, &[], None).await;
    let approver = create(&scene, "approver", Role::Approver, &[], None).await;
    let scoped = create(&scene, "scoped", Role::Approver, &["@acme/*"], None).await;
    scene.get("/left-pad/-/left-pad-1.0.0.tgz").token(&client).await.is(200);
    for (token, sees) in [(&client, false), (&approver, true)] {
        let mut browser = Browser::default();
        browser.sign_in(&scene, token, "").await.is(303);
        for path in ["/-/coldframe/explain/left-pad@1.0.0", "/-/coldframe/packages/left-pad"] {
            let page = browser.get(&scene, path).await.is(200);
            assert_eq!(page.text().contains("client@127.0.0.1"), sees, "{path}");
            // The same with the token in a header.
            let page = scene.get(path).accept(BROWSER).token(token).await.is(200);
            assert_eq!(page.text().contains("client@127.0.0.1"), sees, "{path}");
        }
    }
    let mut browser = Browser::default();
    browser.sign_in(&scene, &scoped, "").await.is(303);
    browser.get(&scene, "/-/coldframe/packages/@acme/ui").await.is(200);
    browser.get(&scene, "/-/coldframe/packages/left-pad").await.is(403);
    browser.get(&scene, PAGE).await.is(403);
}

#[tokio::test]
async fn pages_are_open_only_where_the_json_was() {
    let scene = Scene::open().set("listen", "0.0.0.0:0").await;
    publish_held(&scene);
    let local = std::net::SocketAddr::from(([127, 0, 0, 1], scene.coldframe.address.port()));
    for path in ["/-/coldframe/", PAGE, "/-/coldframe/packages/left-pad"] {
        Ask::new(local, "GET", path).accept(BROWSER).await.is(401);
    }
    let scene = Scene::open().await;
    publish_held(&scene);
    // DNS rebinding, a proxy that was not declared, and a page of another site.
    scene.get(PAGE).accept(BROWSER).header("host", "rebound.example").await.is(403);
    scene.get(PAGE).accept(BROWSER).header("x-forwarded-for", "192.0.2.7").await.is(403);
    let foreign = scene.get(PAGE).accept(BROWSER).header("sec-fetch-site", "cross-site").header("sec-fetch-mode", "navigate");
    foreign.clone().header("sec-fetch-dest", "iframe").await.is(403);
    foreign.header("sec-fetch-dest", "document").await.is(200);
    let old = raw(scene.coldframe.address, format!("GET {PAGE} HTTP/1.0\r\naccept: text/html\r\n\r\n").as_bytes()).await;
    assert!(old.starts_with("HTTP/1.0 403") || old.starts_with("HTTP/1.1 403"), "{old}");
}

#[tokio::test(flavor = "multi_thread")]
async fn link_from_another_site_is_opened_again_so_that_the_session_is_sent() {
    let scene = required().await;
    publish_held(&scene);
    let ask = scene.get(PAGE).accept(BROWSER).header("sec-fetch-site", "cross-site").header("sec-fetch-mode", "navigate");
    let page = ask.header("sec-fetch-dest", "document").await.is(200).text();
    assert!(page.contains("http-equiv=\"refresh\"") && !page.contains("1.1.0 is held"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn text_of_strangers_is_inert_in_every_page() {
    const HOSTILE: &str = "<script>alert(1)</script>\u{202e}\u{200b}\"'><img src=x>\u{1b}[2J";
    let scene = Scene::open().await;
    let document = serde_json::json!({
        "name": "left-pad",
        "dist-tags": { "latest": "1.0.0", HOSTILE: "1.0.0" },
        "time": { "1.0.0": "2026-01-01T00:00:00.000Z", HOSTILE: "2026-01-01T00:00:00.000Z", "modified": "2026-01-01T00:00:00.000Z" },
        "maintainers": [{ "name": HOSTILE }],
        "versions": {
            "1.0.0": { "name": "left-pad", "version": "1.0.0", "_npmUser": { "name": HOSTILE }, "deprecated": HOSTILE, "maintainers": [{ "name": HOSTILE }],
                       "dist": { "tarball": format!("{}/left-pad/-/left-pad-1.0.0.tgz", scene.registry.url.trim_end_matches('/')), "shasum": "da39a3ee5e6b4b0d3255bfef95601890afd80709" } },
            HOSTILE: { "name": "left-pad", "version": HOSTILE, "dist": { "tarball": HOSTILE, "shasum": "da39a3ee5e6b4b0d3255bfef95601890afd80709" } },
        },
    });
    scene.registry.answer("/left-pad", Reply::json(&document.to_string()));
    let encoded: String = url::form_urlencoded::byte_serialize(HOSTILE.as_bytes()).collect();
    let encoded = encoded.replace('+', "%20");
    for path in [
        "/-/coldframe/packages/left-pad".to_owned(),
        "/-/coldframe/explain/left-pad@1.0.0".to_owned(),
        format!("/-/coldframe/explain/left-pad@{encoded}"),
        format!("/-/coldframe/explain/left-pad?at={encoded}"),
        format!("/-/coldframe/explain/{encoded}"),
        format!("/-/coldframe/packages/{encoded}"),
        format!("/-/coldframe/find?package={encoded}"),
        format!("/-/coldframe/sign-in?next={encoded}"),
    ] {
        let page = scene.get(&path).accept(BROWSER).await.text();
        assert!(!page.is_empty() || path.contains("find"), "{path}");
        for part in ["<script", "<img", "\u{202e}", "\u{200b}", "\u{1b}", "alert(1)</"] {
            assert!(!page.contains(part), "{path} has {part:?}:\n{page}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn version_is_asked_for_and_approved_in_the_browser_by_another_person() {
    let scene = required().await;
    publish_held(&scene);
    let ada = create_for(&scene, ("ada", Principal::Person("ada".into())), Role::Requester, &[], None).await;
    let grace = create_for(&scene, ("grace", Principal::Person("grace".into())), Role::Approver, &[], None).await;
    let (mut asker, mut approver) = (Browser::default(), Browser::default());
    asker.sign_in(&scene, &ada, "").await.is(303);
    approver.sign_in(&scene, &grace, "").await.is(303);
    let form = hidden(&asker.get(&scene, PAGE).await.is(200), "form");
    let fields =
        [("form", form.as_str()), ("spec", "left-pad@1.1.0"), ("reason", "<script>the fix"), ("project", ""), ("for", "30d")];
    // Another person's form, no form, and a form of another site.
    approver.post(&scene, "/-/coldframe/requests", &fields).await.is(403);
    asker.post(&scene, "/-/coldframe/requests", &fields[1..]).await.is(403);
    asker.post(&scene, "/-/coldframe/requests", &fields).header("origin", "https://evil.example").await.is(403);
    let asked = asker.post(&scene, "/-/coldframe/requests", &fields).await.is(303);
    assert_eq!(asked.header("location"), "./requests/1");
    let page = "/-/coldframe/requests/1";
    let own = asker.get(&scene, page).await.is(200);
    assert!(own.text().contains("requests/1/withdraw") && !own.text().contains("requests/1/approve"), "{}", own.text());
    let list = approver.get(&scene, "/-/coldframe/requests").await.is(200).text();
    assert!(list.contains("&#60;script&#62;the fix") && list.contains("href=\"./requests/1\""), "{list}");
    let shown = approver.get(&scene, page).await.is(200);
    let (form, digests) = (hidden(&shown, "form"), hidden(&shown, "digests"));
    let fields = [("form", form.as_str()), ("digests", digests.as_str()), ("reason", "looks fine")];
    // Who asks cannot approve, and other bytes than those shown are not approved.
    let own_form = hidden(&own, "form");
    asker.post(&scene, &format!("{page}/approve"), &[("form", &own_form), fields[1], fields[2]]).await.is(403);
    approver.post(&scene, &format!("{page}/approve"), &[fields[0], ("digests", "sha512-AAAA"), fields[2]]).await.is(409);
    approver.get(&scene, &format!("{page}/approve")).await.is(405);
    scene.get("/left-pad/-/left-pad-1.1.0.tgz").token(&ada).await.is(403);
    approver.post(&scene, &format!("{page}/approve"), &fields).await.is(303);
    scene.get("/left-pad/-/left-pad-1.1.0.tgz").token(&ada).await.is(200);
    assert!(approver.get(&scene, page).await.is(200).text().contains("approved"));
}
