//! Several registries: a name that is routed to one is never asked at another, whatever the client, a packument or a redirect names.

use coldframe::config::{Config, RawConfig};
use serde_json::{Value, json};

use crate::fake_response::Reply;
use crate::harness::Scene;
use crate::package::{Package, days};
use crate::registry::Registry;

/// The default registry of a scene, and a private one for `@acme` and `acme-*`.
struct Two {
    scene: Scene,
    private: Registry,
}

async fn two() -> Two {
    let clock = coldframe::clock::ManualClock::at(crate::harness::NOON.parse().unwrap());
    let private = Registry::start(&clock).await;
    let scene = Scene::open().set("route", &format!("@acme acme-*={}", private.url)).await;
    Two { scene, private }
}

/// Opens a scene whose registries have the same host: the default one below `/npm/`, the private one below `/acme/`.
async fn one_host() -> Scene {
    Scene::open()
        .set("upstream", "{registry}/npm")
        .set("route", "@acme={registry}/acme/")
        .npmrc("//{place}/:_authToken=for-all\n")
        .await
}

#[tokio::test]
async fn routed_name_is_asked_at_its_registry_in_every_spelling_and_endpoint() {
    let Two { scene, private } = two().await;
    private.publish(Package::new("@acme/ui", "1.0.0"));
    private.publish(Package::new("acme-cli", "1.0.0"));
    for path in [
        "/@acme/ui",
        "/@acme%2fui",
        "/@acme%2Fui",
        "/%40acme%2fui",
        "/%40acme/ui",
        "/@acme%2fui/latest",
        "/@acme/ui/-/ui-1.0.0.tgz",
        "/@acme%2fui/-/ui-1.0.0.tgz",
        "/-/package/@acme%2fui/dist-tags",
        "/acme-cli",
        "/acme-cli/-/acme-cli-1.0.0.tgz",
    ] {
        scene.get(path).await.is(200);
    }
    assert_eq!(scene.registry.total(), 0);
}

#[tokio::test]
async fn name_that_differs_in_case_is_not_asked_elsewhere() {
    let Two { scene, private } = two().await;
    scene.publish(Package::new("@Acme/ui", "1.0.0"));
    scene.publish(Package::new("ACME-cli", "1.0.0"));
    private.absent("@Acme/ui");
    private.absent("ACME-cli");
    scene.get("/@Acme%2fui").await.is(404);
    scene.get("/ACME-cli").await.is(404);
    // Names with other letters are no package names at all.
    scene.get("/@%D0%B0cme%2fui").await.is(400);
    assert_eq!(scene.registry.total(), 0);
}

#[tokio::test]
async fn missing_private_package_is_missing_although_a_public_one_exists() {
    let Two { scene, private } = two().await;
    scene.publish(Package::new("@acme/ui", "9.9.9"));
    private.absent("@acme/ui");
    scene.get("/@acme%2fui").await.is(404);
    scene.get("/@acme/ui/-/ui-9.9.9.tgz").await.is(404);
    private.answer("/@acme/other", Reply::status(401));
    scene.get("/@acme%2fother").await.is(401);
    private.go_down();
    scene.get("/acme-cli").await.is(502);
    assert_eq!(scene.registry.total(), 0);
}

#[tokio::test]
async fn tarball_path_below_the_prefix_of_another_registry_is_routed_by_its_name() {
    let clock = coldframe::clock::ManualClock::at(crate::harness::NOON.parse().unwrap());
    let private = Registry::start(&clock).await;
    private.publish(Package::new("@acme/ui", "1.0.0"));
    let scene = Scene::open().set("upstream", "{registry}/npm").set("route", &format!("@acme={}", private.url)).await;
    scene.get("/npm/@acme/ui/-/ui-1.0.0.tgz").await.is(200);
    scene.get("/npm/@acme%2fui").await.is(200);
    assert_eq!(scene.registry.total(), 0);
}

#[tokio::test]
async fn packument_cannot_name_a_tarball_of_another_registry() {
    let scene = one_host().await;
    let package = Package::new("left-pad", "1.0.0");
    scene.publish(package.clone());
    for address in ["/acme/@acme/ui/-/ui-1.0.0.tgz", "/npm/..%2facme/@acme/ui/-/ui-1.0.0.tgz", "/npm/%2e%2e%2facme/ui-1.0.0.tgz"]
    {
        let conventional = format!("{}{}", scene.registry.url, package.path());
        let packument = scene.registry.packument("left-pad").to_string();
        let stolen = packument.replace(&conventional, &format!("{}{address}", scene.registry.url));
        scene.registry.answer("/npm/left-pad", Reply::json(&stolen));
        scene.get("/left-pad").await.is(200);
        assert!(scene.get(&package.path()).await.status >= 400, "{address}");
        scene.advance(days(1));
    }
    assert!(scene.registry.requests().iter().all(|request| request.path == "/npm/left-pad"), "{:?}", scene.registry.requests());
}

#[tokio::test]
async fn redirect_to_another_registry_is_refused() {
    let scene = one_host().await;
    scene.registry.answer("/npm/left-pad", Reply::redirect(302, "/acme/@acme%2fui"));
    assert!(scene.get("/left-pad").await.error().contains("belongs to another configured registry"));
    scene.registry.answer("/acme/@acme/ui", Reply::redirect(302, "/npm/left-pad"));
    assert!(scene.get("/@acme%2fui").await.error().contains("belongs to another configured registry"));
    assert_eq!(scene.registry.total(), 2);
}

#[tokio::test]
async fn dependencies_are_fetched_ahead_only_from_their_own_registry() {
    let Two { scene, private } = two().await;
    private.publish(Package::new("@acme/ui", "1.0.0"));
    let dependencies = json!({ "@acme/ui": "^1.0.0", "alias": "npm:@acme/ui@^1.0.0" });
    scene.publish(Package::new("site", "1.0.0").field("dependencies", dependencies));
    scene.get("/site").abbreviated().npm("10.0.0").await.is(200);
    private.wait_for_requests("/@acme/ui", 1).await;
    assert!(scene.registry.requests().iter().all(|request| request.path == "/site"), "{:?}", scene.registry.requests());
}

#[tokio::test]
async fn audit_sends_no_names_of_other_registries() {
    let Two { scene, .. } = two().await;
    scene.registry.answer("/-/npm/v1/security/advisories/bulk", Reply::json("{}"));
    let body = json!({ "left-pad": ["1.0.0"], "@acme/ui": ["1.0.0"], "acme-cli": ["1.0.0"], "@Acme/x": ["1.0.0"] });
    let answer = scene.ask("POST", "/-/npm/v1/security/advisories/bulk").json(&body).gzip_body().await.is(200);
    assert!(answer.header("npm-notice").contains("did not send 3 names of other registries"), "{}", answer.header("npm-notice"));
    let sent = scene.registry.last("/-/npm/v1/security/advisories/bulk");
    assert_eq!(serde_json::from_slice::<Value>(&sent.body).unwrap(), json!({ "left-pad": ["1.0.0"] }));
    scene.registry.answer("/-/npm/v1/security/audits", Reply::json("{}"));
    let tree =
        json!({ "name": "@acme/site", "requires": { "@acme/ui": "1" }, "dependencies": { "@acme/ui": { "version": "1.0.0" } } });
    scene.ask("POST", "/-/npm/v1/security/audits").json(&tree).await.is(200);
    let sent = scene.registry.last("/-/npm/v1/security/audits");
    assert!(!String::from_utf8_lossy(&sent.body).contains("acme"), "{}", String::from_utf8_lossy(&sent.body));
}

#[tokio::test]
async fn search_shows_no_public_package_under_a_private_name() {
    let Two { scene, private } = two().await;
    let result = |name: &str| json!({ "package": { "name": name, "version": "1.0.0", "date": "2020-01-01T00:00:00Z" } });
    let results = json!({ "objects": [result("left-pad"), result("@acme/ui"), result("acme-cli")], "total": 3 });
    scene.registry.answer("/-/v1/search", Reply::json(&results.to_string()));
    private.answer("/-/v1/search", Reply::json(&results.to_string()));
    let names = |answer: Value| -> Vec<String> {
        let objects = answer["objects"].as_array().unwrap();
        objects.iter().map(|object| object["package"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let public = names(scene.get("/-/v1/search?text=pad").await.is(200).json());
    assert_eq!(public, ["left-pad"]);
    let asked = scene.registry.total();
    // A search that names private packages is for their registry.
    for text in ["@acme/ui", "scope:acme", "%40acme", "acme-cli", "pad%20@acme"] {
        assert_eq!(
            names(scene.get(&format!("/-/v1/search?text={text}")).await.is(200).json()),
            ["@acme/ui", "acme-cli"],
            "{text}"
        );
    }
    assert_eq!(scene.registry.total(), asked);
}

#[tokio::test]
async fn history_of_another_registry_does_not_count_after_a_route_changes() {
    let clock = coldframe::clock::ManualClock::at(crate::harness::NOON.parse().unwrap());
    let private = Registry::start(&clock).await;
    let mut scene = Scene::open().await;
    scene.publish(Package::new("@acme/ui", "1.0.0").content("public"));
    scene.get("/@acme/ui/-/ui-1.0.0.tgz").await.is(200);
    private.publish(Package::new("@acme/ui", "1.0.0").content("private"));
    let asked = scene.registry.total();
    scene.restart_with("route", &format!("@acme={}", private.url)).await;
    let packument = scene.get("/@acme%2fui").await.is(200);
    // Not `integrity-changed`: the digests of the other registry's version are not those of this one.
    assert_eq!(packument.versions(), ["1.0.0"]);
    let tarball = scene.get("/@acme/ui/-/ui-1.0.0.tgz").await.is(200).content();
    assert_eq!(tarball, Package::new("@acme/ui", "1.0.0").content("private").tarball);
    assert_eq!(scene.registry.total(), asked);
}

fn load(toml: &str) -> Result<Config, String> {
    let toml = format!("data-dir = \"/data\"\n{toml}");
    let raw = RawConfig::from_text(std::path::Path::new("coldframe.toml"), &toml).map_err(|error| error.to_string())?;
    Config::from_raw(&raw).map_err(|error| error.to_string())
}

#[test]
fn upstream_tables_are_the_default_or_routes_in_order() {
    let config = load(
        "[[upstream]]\nurl = \"https://registry.example/\"\n\
         [[upstream]]\nurl = \"https://acme.example/npm\"\nscopes = [\"@acme\"]\npackages = [\"acme-*\"]\ntime = \"first-seen\"\n\
         [[upstream]]\nurl = \"https://acme.example/npm\"\nscopes = [\"@also\"]\n",
    )
    .unwrap();
    assert_eq!(config.upstream.default.address().as_str(), "https://registry.example/");
    let routes: Vec<_> = config.upstream.routes.iter().map(|route| (route.scopes.join(","), route.packages.join(","))).collect();
    assert_eq!(routes, [("@acme".to_owned(), "acme-*".to_owned()), ("@also".to_owned(), String::new())]);
}

#[test]
fn mistakes_in_upstream_tables_are_reported() {
    let default = "[[upstream]]\nurl = \"https://registry.example/\"\n";
    for (toml, expected) in [
        (format!("{default}{default}"), "two upstreams without `scopes` and `packages`"),
        (format!("{default}[[upstream]]\nscopes = [\"@acme\"]\n"), "an upstream without `url`"),
        (
            format!("{default}[[upstream]]\nurl = \"https://acme.example/\"\npackages = [\"*\"]\n"),
            "invalid package glob of an upstream",
        ),
        (format!("{default}[[upstream]]\nurl = \"https://acme.example/\"\nscopes = [\"acme\"]\n"), "invalid scope"),
        (format!("{default}[[upstream]]\nurl = \"ftp://acme.example/\"\nscopes = [\"@acme\"]\n"), "not an `http` or `https` URL"),
        (
            format!("{default}[[upstream]]\nurl = \"https://acme.example/\"\nscope = [\"@acme\"]\n"),
            "unknown key of an upstream: `scope`",
        ),
        (format!("{default}[[upstream]]\nurl = \"https://acme.example/\"\nscopes = [7]\n"), "`scopes` cannot be of this type"),
        (
            format!("{default}[[upstream]]\nurl = \"https://acme.example/\"\nscopes = [\"@acme\"]\ntime = \"never\"\n"),
            "has an unknown value",
        ),
    ] {
        let error = load(&toml).unwrap_err();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    let route = |keys: &str| format!("{default}[[upstream]]\nurl = \"https://acme.example/\"\nscopes = [\"@acme\"]\n{keys}\n");
    let globs = format!("{default}[[upstream]]\nurl = \"https://acme.example/\"\npackages = [\"acme-*\"]\n");
    for (toml, expected) in [
        (route("token-file = \"a\"\ntoken-command = [\"b\"]"), "has several sources of its token"),
        (route("token-life = \"1h\""), "is without `token-command`"),
        (route("token-command = [\"b\"]\ntoken-life = \"soon\""), "`token-life` "),
        (route("username = \"ci\""), "is without a token"),
        (route("token-variable = \"s3cret\""), "the variable of `token-variable` is not set"),
        (
            route("time = \"ignore-age\"").replace(default, &globs),
            "is `ignore-age` after an upstream that may serve the same names",
        ),
        (default.replace("\n[[", "[[") + "time = \"ignore-age\"\n", "cannot be `ignore-age` for the default upstream"),
    ] {
        let error = load(&toml).unwrap_err();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}
