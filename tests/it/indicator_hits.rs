//! Network indicators: the gateway refuses hosts and addresses that a feed lists, even if they are otherwise allowed. `exposure`
//! names the clients that tried to connect.

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::client::raw;
use crate::gateway_client::{connect, connect_refused, gateway, gateway_address, handshake, tls_config};
use crate::harness::Scene;
use crate::process::{coldframe, run};

fn feed() -> (TempDir, String) {
    let folder = TempDir::new().unwrap();
    let record = |id: &str, iocs: &Value| {
        json!({ "id": id, "modified": "2026-04-03T10:00:00Z", "summary": "Malicious code in axios (npm)",
                "affected": [{ "package": { "ecosystem": "npm", "name": "axios" }, "versions": ["1.14.1"],
                               "database_specific": { "iocs": iocs } }] })
    };
    let iocs = json!({ "domains": ["evil[.]example", "registry.example"], "ips": ["198.51.100.7", "127.0.0.1"], "urls": ["https://fine.example/x"] });
    let records =
        [("MAL-2026-2307", iocs), ("MAL-2026-1", json!("none")), ("MAL-2026-2", json!({ "domains": [7, "fine.example"] }))];
    for (id, iocs) in &records {
        std::fs::write(folder.path().join(format!("{id}.json")), record(id, iocs).to_string()).unwrap();
    }
    let path = folder.path().to_str().unwrap().to_owned();
    (folder, path)
}

fn exposure(scene: &Scene, words: &[&str]) -> String {
    let mut command = coldframe(scene.data());
    let (code, text, errors) =
        run(command.arg("exposure").args(words).args(["--upstream", &scene.registry.url, "--data-dir"]).arg(scene.data()));
    assert_eq!(code, 0, "{errors}");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn listed_destination_is_refused_and_recorded_as_exposure() {
    let (_folder, path) = feed();
    let mut scene = gateway()
        .set("feed", &path)
        .set("default-egress", "tunnel")
        .set("allow-host", "evil.example")
        .set("allow-host", "localhost")
        .await;
    for target in [
        "evil.example:443",
        "EVIL.example.:443",
        "cdn.evil.example:443",
        "198.51.100.7:443",
        "[::ffff:198.51.100.7]:443",
        "evil.example:8443",
    ] {
        let (line, body) = connect_refused(gateway_address(&scene), target).await;
        assert!(
            line.starts_with("HTTP/1.1 403 ")
                && line.contains("MAL-2026-2307")
                && body.contains("as contacted by malware in `axios`"),
            "{target}: {line}"
        );
    }
    let answer = raw(gateway_address(&scene), b"GET http://evil.example/beacon HTTP/1.1\r\nhost: evil.example\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("MAL-2026-2307"), "{answer}");
    // A name that resolves to a listed address is refused too.
    let (line, _) = connect_refused(gateway_address(&scene), "localhost:443").await;
    assert!(line.contains("MAL-2026-2307") && line.contains("`127.0.0.1`"), "{line}");
    // Not refused: a name with a listed suffix but no dot, a name from an unreadable record, and the registry itself.
    for (target, code) in [("notevil.example:443", "50"), ("fine.example:443", "50"), ("registry.example:443", "200")] {
        let (head, _) = connect(gateway_address(&scene), target, "").await;
        assert!(head.starts_with(&format!("HTTP/1.1 {code}")), "{target}: {head}");
    }
    assert!(scene.metric("coldframe_gateway_refusals_total", "reason=\"indicator\"").await >= 8.0);
    scene.coldframe.stop().await;
    let all = exposure(&scene, &["--contacts"]);
    for part in ["127.0.0.1", "evil.example:443", "198.51.100.7:443", "localhost:443", "MAL-2026-2307", "axios"] {
        assert!(all.contains(part), "{part}:\n{all}");
    }
    assert!(exposure(&scene, &["axios"]).contains("indicator hits:"));
    assert!(exposure(&scene, &["--feed", &path, "--advisory", "MAL-2026-2307"]).contains("cdn.evil.example:443"));
    let text: Value = serde_json::from_str(&exposure(&scene, &["axios", "--json"])).unwrap();
    assert_eq!((&text[0]["client"], &text[0]["advisory"]), (&json!("127.0.0.1"), &json!("MAL-2026-2307")), "{text}");
    assert!(!exposure(&scene, &["left-pad"]).contains("indicator hits"));
}

#[tokio::test(flavor = "multi_thread")]
async fn listed_sni_name_is_refused_and_recorded_as_exposure() {
    let (_folder, path) = feed();
    let mut scene = gateway()
        .set("transparent", "127.0.0.1:0")
        .set("feed", &path)
        .set("default-egress", "tunnel")
        .set("allow-host", "evil.example")
        .set("allow-host", "localhost")
        .await;
    let address = scene.coldframe.transparent.unwrap();
    for name in ["evil.example", "cdn.evil.example", "localhost"] {
        let stream = TcpStream::connect(address).await.unwrap();
        let refused = handshake(tls_config(scene.data(), &scene.clock, &[]), name, stream).await.unwrap_err();
        assert!(refused.to_string().contains("AccessDenied"), "{name}: {refused}");
    }
    assert!(scene.metric("coldframe_gateway_refusals_total", "reason=\"indicator\"").await >= 3.0);
    scene.coldframe.stop().await;
    let all = exposure(&scene, &["--contacts"]);
    for name in ["evil.example", "cdn.evil.example", "localhost"] {
        // 443 is the assumed port if the packet filter gives no original destination.
        assert!(all.contains(&format!(" {name}:443 ")), "{name}:\n{all}");
    }
}

#[tokio::test]
async fn gateway_refusals_are_counted_by_reason() {
    let scene = gateway().await;
    connect_refused(gateway_address(&scene), "other.example:443").await;
    connect_refused(gateway_address(&scene), "registry.example:22").await;
    connect_refused(gateway_address(&scene), "user@other.example:443").await;
    let through = Scene::open().set("gateway", "127.0.0.1:0").set("default-egress", "tunnel").await;
    connect_refused(gateway_address(&through), "10.0.0.1:443").await;
    let via = format!("via: 1.1 {}\r\n", coldframe::net::via_pseudonym());
    connect(gateway_address(&scene), "registry.example:443", &via).await;
    for reason in ["host", "port", "malformed", "loop"] {
        let count = scene.metric("coldframe_gateway_refusals_total", &format!("reason=\"{reason}\"")).await;
        assert!((count - 1.0).abs() < f64::EPSILON, "{reason}: {count}");
    }
    assert!(through.metric("coldframe_gateway_refusals_total", "reason=\"address\"").await >= 1.0);
    // The other reasons are exported from the start with the value 0.
    for reason in ["indicator", "mismatch", "tls", "login", "unreached"] {
        assert!(
            scene.metric("coldframe_gateway_refusals_total", &format!("reason=\"{reason}\"")).await.abs() < f64::EPSILON,
            "{reason}"
        );
    }
}
