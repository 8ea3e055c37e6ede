//! The shapes of past attacks, built as packuments and tarballs without malware. Each is judged by `default` without any feed: an hour
//! after its publication it is hidden; the table says what still hides it when its minimum age has passed, and which signals it shows.

use serde_json::{Value, json};

use crate::harness::Scene;
use crate::package::{Package, days, hours, minutes, tarball};

struct Shape {
    /// The malicious version, published an hour ago.
    spec: (&'static str, &'static str),
    publish: fn(&Scene),
    /// The rule that holds it after four days; `None` if only its age stops it.
    rule: Option<&'static str>,
    signals: &'static [&'static str],
}

const SHAPES: &[Shape] = &[
    // 2026: an own dependency 18 hours old, published by hand, on two lines within 39 minutes.
    Shape {
        spec: ("axios", "1.14.1"),
        publish: axios,
        rule: Some("strong-signal"),
        signals: &[
            "provenance-lost",
            "trusted-publisher-lost",
            "newborn-dependency",
            "new-publisher",
            "new-dependency",
            "release-burst",
            "commit-lost",
        ],
    },
    // 2018: handed over to a new maintainer, who added a dependency that was a month old.
    Shape {
        spec: ("event-stream", "3.3.6"),
        publish: event_stream,
        rule: Some("weak-signals"),
        signals: &["new-publisher", "new-dependency"],
    },
    // 2021: an install script on three lines.
    Shape {
        spec: ("ua-parser-js", "0.7.29"),
        publish: ua_parser,
        rule: Some("strong-signal"),
        signals: &["first-install-script", "release-burst"],
    },
    // 2025: an install script that loads a DLL.
    Shape {
        spec: ("eslint-config-prettier", "10.1.6"),
        publish: eslint_config_prettier,
        rule: Some("strong-signal"),
        signals: &["first-install-script", "provenance-lost", "trusted-publisher-lost", "new-publisher", "commit-lost"],
    },
    // 2025: Shai-Hulud, a worm of several megabytes that runs at install.
    Shape {
        spec: ("@ctrl/tinycolor", "4.1.1"),
        publish: shai_hulud,
        rule: Some("strong-signal"),
        signals: &["first-install-script", "size-jump"],
    },
    // 2026: Phantom Gyp, a `binding.gyp` that the packument does not mention. Its tarball shows it.
    Shape { spec: ("ai-sdk-ollama", "3.9.1"), publish: phantom_gyp, rule: Some("tarball-findings"), signals: &[] },
    // 2026: TanStack, a git dependency with a `prepare` script, with valid provenance.
    Shape {
        spec: ("@tanstack/history", "1.161.9"),
        publish: tanstack,
        rule: Some("strong-signal"),
        signals: &["remote-dependency-added", "newborn-dependency", "new-dependency"],
    },
    // 2025: PhantomRaven, new packages with a dependency at an `http:` address. Nothing is older, so only their age holds them.
    Shape { spec: ("unused-imports", "1.0.0"), publish: phantom_raven, rule: Some("new-package"), signals: &[] },
    // 2022: node-ipc, a dependency that its author published eight hours before.
    Shape {
        spec: ("node-ipc", "11.1.0"),
        publish: node_ipc,
        rule: Some("strong-signal"),
        signals: &["newborn-dependency", "new-dependency"],
    },
    // 2026: mastra, the recipe of axios again.
    Shape {
        spec: ("@mastra/core", "1.42.1"),
        publish: mastra,
        rule: Some("strong-signal"),
        signals: &[
            "provenance-lost",
            "trusted-publisher-lost",
            "newborn-dependency",
            "new-publisher",
            "new-dependency",
            "commit-lost",
        ],
    },
    // 2026: keyv, from its own CI with valid provenance. Only its size differs.
    Shape { spec: ("keyv", "6.0.0"), publish: keyv, rule: None, signals: &["size-jump"] },
    // 2025: postmark-mcp, one line of code by its usual publisher.
    Shape { spec: ("postmark-mcp", "1.0.16"), publish: postmark, rule: None, signals: &[] },
    // 2025: chalk and debug, code that runs in browsers, by a known maintainer whose account was stolen.
    Shape { spec: ("chalk", "5.6.1"), publish: chalk, rule: None, signals: &["size-jump"] },
    // 2024: @solana/web3.js, two versions of one line within an hour, by a known maintainer whose account was stolen.
    Shape { spec: ("@solana/web3.js", "1.95.6"), publish: solana, rule: None, signals: &[] },
];

fn user(name: &str) -> Value {
    json!({ "name": name, "email": format!("{name}@x.example") })
}

fn ci() -> Value {
    json!({ "name": "GitHub Actions", "email": "ci@x.example", "trustedPublisher": { "id": "github" } })
}

fn by(name: &str, version: &str, publisher: &str) -> Package {
    Package::new(name, version).field("_npmUser", user(publisher)).dist("signatures", json!([{ "keyid": "k", "sig": "s" }]))
}

fn from_ci(name: &str, version: &str) -> Package {
    by(name, version, "")
        .field("_npmUser", ci())
        .field("gitHead", "c0ffee")
        .dist("attestations", json!({ "url": "https://registry.example/a", "provenance": { "predicateType": "p" } }))
}

/// Publishes four releases of the last year.
fn history(scene: &Scene, versions: [&str; 4], release: impl Fn(&str) -> Package) {
    for (version, age) in versions.into_iter().zip([300, 200, 120, 60]) {
        scene.publish(release(version).aged(days(age)));
    }
}

fn axios(scene: &Scene) {
    history(scene, ["0.30.3", "1.12.0", "1.13.0", "1.14.0"], |version| from_ci("axios", version));
    scene.publish(Package::new("plain-crypto-js", "4.2.1").aged(hours(19)).script("postinstall", "node setup.js"));
    let hijacked = |version| by("axios", version, "jasonsaayman").depends_on("plain-crypto-js", "^4.2.1");
    scene.publish(hijacked("0.30.4").aged(minutes(21)).untagged());
    scene.publish(hijacked("1.14.1").aged(hours(1)));
}

fn event_stream(scene: &Scene) {
    history(scene, ["3.3.2", "3.3.3", "3.3.4", "3.3.5"], |version| by("event-stream", version, "dominictarr"));
    scene.publish(Package::new("flatmap-stream", "0.1.0").aged(days(35)));
    scene.publish(by("event-stream", "3.3.6", "right9ctrl").depends_on("flatmap-stream", "^0.1.0").aged(hours(1)));
}

fn ua_parser(scene: &Scene) {
    history(scene, ["0.7.26", "0.7.27", "0.7.28", "0.7.28-1"], |version| by("ua-parser-js", version, "faisalman"));
    for (version, age) in [("0.7.29", 60), ("0.8.0", 56), ("1.0.0", 40)] {
        scene.publish(by("ua-parser-js", version, "faisalman").script("preinstall", "node preinstall.js").aged(minutes(age)));
    }
}

fn eslint_config_prettier(scene: &Scene) {
    history(scene, ["10.1.2", "10.1.3", "10.1.4", "10.1.5"], |version| from_ci("eslint-config-prettier", version));
    let hijacked = by("eslint-config-prettier", "10.1.6", "jounqin").script("install", "node install.js");
    scene.publish(hijacked.aged(hours(1)));
}

fn shai_hulud(scene: &Scene) {
    let sized = |version: &str, bytes: u64| by("@ctrl/tinycolor", version, "scttcper").dist("unpackedSize", json!(bytes));
    history(scene, ["4.0.3", "4.0.4", "4.1.0-beta.1", "4.1.0"], |version| sized(version, 240_000));
    scene.publish(sized("4.1.1", 4_000_000).script("postinstall", "node bundle.js").aged(hours(1)));
}

fn phantom_gyp(scene: &Scene) {
    history(scene, ["3.8.3", "3.8.4", "3.8.5", "3.9.0"], |version| by("ai-sdk-ollama", version, "jagreehal"));
    let manifest = r#"{"name":"ai-sdk-ollama","version":"3.9.1","main":"index.js"}"#;
    let packed = tarball(&[("package/package.json", manifest), ("package/binding.gyp", "{'targets':[]}")]);
    scene.publish(by("ai-sdk-ollama", "3.9.1", "jagreehal").packed(packed).aged(hours(1)));
}

fn tanstack(scene: &Scene) {
    history(scene, ["1.161.5", "1.161.6", "1.161.7", "1.161.8"], |version| from_ci("@tanstack/history", version));
    scene.registry.absent("@tanstack/setup");
    let optional = json!({ "@tanstack/setup": "github:tanstack/router#79ac49e" });
    scene.publish(from_ci("@tanstack/history", "1.161.9").field("optionalDependencies", optional).aged(hours(1)));
}

fn phantom_raven(scene: &Scene) {
    scene.publish(by("unused-imports", "1.0.0", "npmhell").depends_on("ui-styles-pkg", "http://host.example/pkg").aged(hours(1)));
}

fn node_ipc(scene: &Scene) {
    history(scene, ["9.2.1", "10.1.0", "10.1.3", "11.0.0"], |version| by("node-ipc", version, "riaevangelist"));
    scene.publish(Package::new("peacenotwar", "9.1.3").aged(hours(9)));
    scene.publish(by("node-ipc", "11.1.0", "riaevangelist").depends_on("peacenotwar", "^9.1.3").aged(hours(1)));
}

fn mastra(scene: &Scene) {
    history(scene, ["1.40.0", "1.41.0", "1.41.1", "1.42.0"], |version| from_ci("@mastra/core", version));
    scene.publish(Package::new("easy-day-js", "1.11.21").aged(hours(30)));
    scene.publish(Package::new("easy-day-js", "1.11.22").aged(hours(2)).script("postinstall", "node x.js"));
    scene.publish(by("@mastra/core", "1.42.1", "ehindero").depends_on("easy-day-js", "^1.11.21").aged(hours(1)));
}

fn keyv(scene: &Scene) {
    let sized = |version: &str, bytes: u64| from_ci("keyv", version).dist("unpackedSize", json!(bytes));
    history(scene, ["5.5.2", "5.5.3", "5.5.4", "5.6.0"], |version| sized(version, 100_000));
    scene.publish(sized("6.0.0", 828_000).aged(hours(1)));
}

fn postmark(scene: &Scene) {
    history(scene, ["1.0.12", "1.0.13", "1.0.14", "1.0.15"], |version| by("postmark-mcp", version, "phanpak"));
    scene.publish(by("postmark-mcp", "1.0.16", "phanpak").aged(hours(1)));
}

fn chalk(scene: &Scene) {
    let sized = |version: &str, bytes: u64| by("chalk", version, "qix").dist("unpackedSize", json!(bytes));
    history(scene, ["5.4.0", "5.4.1", "5.5.0", "5.6.0"], |version| sized(version, 44_000));
    scene.publish(sized("5.6.1", 150_000).aged(hours(1)));
}

fn solana(scene: &Scene) {
    history(scene, ["1.95.2", "1.95.3", "1.95.4", "1.95.5"], |version| by("@solana/web3.js", version, "steveluscher"));
    scene.publish(by("@solana/web3.js", "1.95.6", "steveluscher").aged(hours(1)));
    scene.publish(by("@solana/web3.js", "1.95.7", "steveluscher").aged(minutes(14)));
}

async fn explain(scene: &Scene, (name, version): (&str, &str)) -> Value {
    let path = format!("/-/coldframe/explain/{name}@{version}");
    scene.get(&path).accept("application/json").await.is(200).json()
}

#[tokio::test]
async fn each_attack_is_held_by_what_the_table_says() {
    for Shape { spec, publish, rule, signals } in SHAPES {
        let scene = Scene::open().await;
        publish(&scene);
        let (name, version) = *spec;
        let explained = explain(&scene, *spec).await;
        assert_eq!(explained["verdict"], "hold", "{name} an hour after its publication");
        assert_eq!(explained["facts"]["signals"], json!(signals), "{name}");
        scene.advance(days(4));
        let unscoped = name.rsplit('/').next().unwrap();
        let tarball = scene.get(&format!("/{name}/-/{unscoped}-{version}.tgz")).await;
        let explained = explain(&scene, *spec).await;
        assert_eq!(explained["rule"].as_str(), *rule, "{name} after four days: {}", explained["reason"]);
        assert_eq!(tarball.status == 403, rule.is_some(), "{name}");
        let shown = scene.get(&format!("/{}", name.replace('/', "%2f"))).await;
        assert_eq!(shown.status == 200 && shown.versions().contains(&version.to_owned()), rule.is_none(), "{name}");
    }
}
