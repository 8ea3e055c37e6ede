//! The two forms of a packument and their HTTP headers.

use std::collections::BTreeSet;

use serde_json::json;

use crate::client::ABBREVIATED;
use crate::harness::Scene;
use crate::package::{Package, hours};

async fn scene() -> Scene {
    let scene = Scene::open().await;
    scene.publish(
        Package::new("left-pad", "1.0.0")
            .script("postinstall", "node build.js")
            .depends_on("right-pad", "^1.0.0")
            .field("gitHead", "abc"),
    );
    scene.publish(Package::new("left-pad", "1.1.0").script("test", "node test.js"));
    scene
}

#[tokio::test]
async fn accept_decides_the_form_with_its_quality_values() {
    let scene = scene().await;
    for (accept, abbreviated) in [
        (ABBREVIATED, true),
        ("application/vnd.npm.install-v1+json", true),
        ("application/json;q=0.5, application/vnd.npm.install-v1+json;q=0.9", true),
        ("application/vnd.npm.install-v1+json;q=0.1, application/json", false),
        ("application/vnd.npm.install-v1+json;q=0, */*", false),
        ("application/json", false),
        ("application/json; q=1.0, */*", false),
        ("*/*", false),
    ] {
        let answer = scene.get("/left-pad").accept(accept).await.is(200);
        let expected = if abbreviated { "application/vnd.npm.install-v1+json" } else { "application/json" };
        assert!(answer.header("content-type").starts_with(expected), "{accept}: {}", answer.header("content-type"));
        assert_eq!(answer.json().get("readme").is_none(), abbreviated, "{accept}");
    }
    assert!(scene.get("/left-pad").await.header("content-type").starts_with("application/json"), "the full form is the default");
}

#[tokio::test]
async fn the_abbreviated_form_holds_what_installers_read() {
    let scene = scene().await;
    let packument = scene.get("/left-pad").abbreviated().await.json();
    let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(keys(&packument), ["dist-tags", "modified", "name", "time", "versions"].map(String::from).into());
    let manifest = &packument["versions"]["1.0.0"];
    assert_eq!(manifest["hasInstallScript"], json!(true));
    assert_eq!(manifest["dependencies"], json!({ "right-pad": "^1.0.0" }));
    assert!(manifest.get("gitHead").is_none() && manifest.get("scripts").is_none(), "{manifest}");
    assert!(packument["versions"]["1.1.0"].get("hasInstallScript").is_none(), "a test script is not an install script");
}

#[tokio::test]
async fn unchanged_members_are_sent_byte_for_byte() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    let odd = r#" "odd" : { "number":123456789012345678901234567890.000, "half":"\ud800", "é\/":[ 1 , 2e0 ] }"#;
    let text = scene.registry.packument("left-pad").to_string();
    let text = text.replacen("{\"_id\":\"left-pad@1.0.0\"", &format!("{{{odd},\"_id\":\"left-pad@1.0.0\""), 1);
    scene.registry.raw("left-pad", text.replacen('{', &format!("{{{odd},"), 1));
    let answer = scene.get("/left-pad").await.is(200);
    let bytes = String::from_utf8(answer.body).unwrap();
    let inside = odd.trim_start().split_once(':').unwrap().1.trim();
    assert_eq!(bytes.matches(inside).count(), 2, "{bytes}");
}

#[tokio::test]
async fn gzip_has_one_member_with_the_same_document() {
    let scene = scene().await;
    for accept in ["application/json", ABBREVIATED] {
        let plain = scene.get("/left-pad").accept(accept).await.is(200);
        let packed = scene.get("/left-pad").accept(accept).gzip().await.is(200);
        assert_eq!(packed.header("content-encoding"), "gzip");
        assert_eq!(plain.header("content-encoding"), "");
        assert_eq!(plain.body, packed.content());
    }
    let refused = scene.get("/left-pad").header("accept-encoding", "gzip;q=0, identity").await.is(200);
    assert_eq!(refused.header("content-encoding"), "");
}

/// `Accept-Encoding` of real clients (measured), and the coding that they get.
const CODINGS: [(&str, &str, &str); 7] = [
    ("npm", "gzip", "gzip"),
    ("pnpm 10", "gzip,deflate,br", "gzip"),
    ("yarn 4", "gzip, deflate, br", "gzip"),
    ("deno", "gzip,br", "gzip"),
    ("bun", "gzip, deflate, br, zstd", "zstd"),
    ("pnpm 12", "zstd,gzip,deflate", "zstd"),
    ("a client that accepts only br", "br", ""),
];

#[tokio::test]
async fn each_client_gets_the_same_document_in_a_coding_that_it_accepts() {
    let scene = scene().await;
    for form in ["application/json", ABBREVIATED] {
        let plain = scene.get("/left-pad").accept(form).await.is(200);
        assert_eq!(plain.header("content-encoding"), "");
        for (client, accepted, coding) in CODINGS {
            let ask = || scene.get("/left-pad").accept(form).header("accept-encoding", accepted);
            let packed = ask().await.is(200);
            assert_eq!(packed.header("content-encoding"), coding, "{client}");
            assert_eq!(packed.content(), plain.body, "{client}");
            let head = scene.ask("HEAD", "/left-pad").accept(form).header("accept-encoding", accepted).await.is(200);
            for name in ["etag", "content-length", "content-encoding", "vary"] {
                assert_eq!(head.header(name), packed.header(name), "{client} {name}");
            }
            ask().if_none_match(packed.header("etag")).await.is(304);
        }
    }
}

#[tokio::test]
async fn the_first_answer_has_the_requested_coding() {
    for (client, accepted, coding) in CODINGS {
        let scene = scene().await;
        let packed = scene.get("/left-pad").header("accept-encoding", accepted).await.is(200);
        assert_eq!(packed.header("content-encoding"), coding, "{client}");
        assert!(packed.versions().contains(&"1.0.0".to_owned()), "{client}");
    }
}

#[tokio::test]
async fn each_coding_stays_valid_while_a_large_packument_changes() {
    let scene = Scene::open().await;
    let filler = (0..4000).map(|number| format!("{number:04}")).collect::<Vec<_>>().concat();
    for number in 0..60 {
        let age = if number % 7 == 0 { hours(1 + number) } else { hours(1000 + number) };
        scene.publish(Package::new("large", &format!("1.{number}.0")).field("notes", filler.as_str()).aged(age));
    }
    for _ in 0..3 {
        let plain = scene.get("/large").await;
        let packed = scene.get("/large").gzip().await;
        assert_eq!(plain.versions(), packed.versions());
        assert_eq!(plain.body, packed.content());
        let packed = scene.get("/large").header("accept-encoding", "zstd").await.is(200);
        assert_eq!((packed.header("content-encoding"), packed.content()), ("zstd", plain.body.clone()));
        scene.advance(hours(24));
    }
    assert_eq!(scene.get("/large").gzip().await.versions().len(), 60);
}

#[tokio::test]
async fn an_etag_is_strong_and_belongs_to_one_form_and_encoding() {
    let scene = scene().await;
    let mut tags = BTreeSet::new();
    for accept in ["application/json", ABBREVIATED] {
        tags.insert(scene.get("/left-pad").accept(accept).await.header("etag").to_owned());
        for coding in ["gzip", "zstd"] {
            let packed = scene.get("/left-pad").accept(accept).header("accept-encoding", coding).await;
            tags.insert(packed.header("etag").to_owned());
        }
    }
    assert_eq!(tags.len(), 6, "{tags:?}");
    assert!(tags.iter().all(|tag| tag.starts_with('"') && tag.ends_with('"')), "{tags:?}");
}

#[tokio::test]
async fn a_known_etag_is_answered_304_until_something_changes() {
    let scene = scene().await;
    let etag = scene.get("/left-pad").gzip().await.header("etag").to_owned();
    let unchanged = scene.get("/left-pad").gzip().if_none_match(&etag).await.is(304);
    assert_eq!(unchanged.header("etag"), etag);
    assert!(unchanged.body.is_empty());
    scene.get("/left-pad").gzip().if_none_match(&format!("\"other\", W/{etag}")).await.is(304);
    scene.get("/left-pad").gzip().if_none_match("*").await.is(304);
    scene.get("/left-pad").if_none_match(&etag).await.is(200);
    scene.advance(hours(1));
    scene.publish(Package::new("left-pad", "1.2.0"));
    assert_ne!(scene.get("/left-pad").gzip().if_none_match(&etag).await.is(200).header("etag"), etag);
}

#[tokio::test]
async fn an_etag_changes_when_a_version_opens_without_an_upstream_change() {
    let scene = scene().await;
    scene.publish(Package::new("left-pad", "1.2.0").aged(hours(71)));
    let before = scene.get("/left-pad").await.is(200);
    scene.advance(hours(1));
    let after = scene.get("/left-pad").if_none_match(before.header("etag")).await.is(200);
    assert_ne!(before.header("etag"), after.header("etag"));
    let instant = |answer: &crate::raw_http::Response| httpdate::parse_http_date(answer.header("last-modified")).unwrap();
    assert!(instant(&after) > instant(&before), "Last-Modified increases when a version opens");
}

#[tokio::test]
async fn if_modified_since_alone_is_never_answered_304() {
    let scene = scene().await;
    let answer = scene.get("/left-pad").await.is(200);
    let date = answer.header("last-modified").to_owned();
    assert!(!date.is_empty());
    scene.get("/left-pad").header("if-modified-since", &date).await.is(200);
    scene.get("/left-pad").header("if-modified-since", &date).if_none_match(answer.header("etag")).await.is(304);
}

#[tokio::test]
async fn packuments_have_no_cache_and_vary() {
    let scene = scene().await;
    let answer = scene.get("/left-pad").gzip().await.is(200);
    assert!(answer.header("cache-control").contains("no-cache"), "{}", answer.header("cache-control"));
    assert!(!answer.header("cache-control").contains("max-age"));
    let vary = answer.header("vary").to_ascii_lowercase();
    for name in ["accept", "accept-encoding"] {
        assert!(vary.split(',').any(|part| part.trim() == name), "{vary}");
    }
}

#[tokio::test]
async fn head_has_the_headers_of_get_and_no_body() {
    let scene = scene().await;
    let get = scene.get("/left-pad").gzip().await.is(200);
    let head = scene.ask("HEAD", "/left-pad").gzip().await.is(200);
    assert!(head.body.is_empty());
    for name in ["etag", "content-length", "content-type", "content-encoding", "last-modified"] {
        assert_eq!(head.header(name), get.header(name), "{name}");
    }
}

#[tokio::test]
async fn tarball_urls_have_the_host_that_the_client_used() {
    let scene = scene().await;
    let tarball_url =
        |answer: &crate::raw_http::Response| answer.json()["versions"]["1.0.0"]["dist"]["tarball"].as_str().unwrap().to_owned();
    let path = "/left-pad/-/left-pad-1.0.0.tgz";
    assert_eq!(tarball_url(&scene.get("/left-pad").await), format!("{}{path}", scene.coldframe.url()));
    assert_eq!(
        tarball_url(&scene.get("/left-pad").header("host", "npm.example:8080").await),
        format!("http://npm.example:8080{path}")
    );
    let forwarded = scene.get("/left-pad").header("x-forwarded-host", "evil.example").header("x-forwarded-proto", "https").await;
    assert_eq!(tarball_url(&forwarded), format!("{}{path}", scene.coldframe.url()), "the peer is not a trusted proxy");
}

#[tokio::test]
async fn forwarded_headers_of_a_trusted_proxy_set_the_host() {
    let scene = Scene::open().set("trusted-proxy", "127.0.0.0/8").await;
    scene.publish_old("left-pad", &["1.0.0"]);
    let answer = scene.get("/left-pad").header("x-forwarded-host", "npm.example").header("x-forwarded-proto", "https").await;
    assert_eq!(answer.json()["versions"]["1.0.0"]["dist"]["tarball"], "https://npm.example/left-pad/-/left-pad-1.0.0.tgz");
}

#[tokio::test]
async fn public_url_and_its_prefix_are_in_every_tarball_url() {
    let scene = Scene::open().set("public-url", "https://npm.example/registry/").await;
    scene.publish_old("@acme/ui", &["1.0.0"]);
    let url = "https://npm.example/registry/@acme/ui/-/ui-1.0.0.tgz";
    for accept in ["application/json", ABBREVIATED] {
        let answer = scene.get("/@acme%2fui").accept(accept).header("host", "other.example").await;
        assert_eq!(answer.json()["versions"]["1.0.0"]["dist"]["tarball"], url);
    }
    let manifest = scene.get("/@acme%2fui/1.0.0").await.is(200).json();
    assert_eq!(manifest["dist"]["tarball"], url);
    // A reverse proxy may strip the prefix or keep it.
    scene.get("/@acme/ui/-/ui-1.0.0.tgz").await.is(200);
    scene.get("/registry/@acme/ui/-/ui-1.0.0.tgz").await.is(200);
    assert_eq!(scene.get("/registry/@acme%2fui").await.versions(), ["1.0.0"]);
}

#[tokio::test]
async fn every_form_works_with_a_mirror_that_has_none_of_them() {
    let scene = Scene::open().mirror().await;
    scene.publish(Package::new("left-pad", "1.0.0").script("install", "node-gyp rebuild"));
    let full = scene.get("/left-pad").gzip().await.is(200);
    assert_eq!((full.header("content-encoding"), full.header("etag").is_empty()), ("gzip", false));
    scene.get("/left-pad").gzip().if_none_match(full.header("etag")).await.is(304);
    let abbreviated = scene.get("/left-pad").abbreviated().await.json();
    assert_eq!(abbreviated["versions"]["1.0.0"]["hasInstallScript"], json!(true));
}

#[tokio::test]
async fn unknown_hosts_are_answered_with_one_upstream_request() {
    let scene = scene().await;
    for number in 0..200 {
        let host = format!("host-{number}.example");
        let answer = scene.get("/left-pad").header("host", &host).await.is(200);
        assert!(answer.text().contains(&format!("http://{host}/left-pad/-/")));
    }
    assert_eq!(scene.registry.count("/left-pad"), 1);
}

#[tokio::test]
async fn junk_hosts_do_not_keep_a_real_host_out_of_the_cache() {
    let scene = scene().await;
    let hits = async || scene.metric("coldframe_cache_uses", "cache=\"answer\",outcome=\"hit\"").await;
    for number in 0..20 {
        scene.get("/left-pad").header("host", &format!("junk-{number}.example")).await.is(200);
    }
    // The real host comes after the junk.
    let before = hits().await;
    for _ in 0..3 {
        scene.get("/left-pad").header("host", "box.example:4873").await.is(200);
    }
    assert!((hits().await - before - 2.0).abs() < 0.1, "the first answer is rendered, the others are cached");
}
