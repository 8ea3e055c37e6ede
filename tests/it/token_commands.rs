//! `coldframe token`: prints a token once, lists tokens without it, and revokes tokens of a running server.

use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::package::{Package, days};
use crate::process::{Program, coldframe, machine_clock, run};
use crate::registry::Registry;

fn token(home: &Path, data: &Path, words: &[&str]) -> (i32, String, String) {
    run(coldframe(home).arg("token").args(words).arg("--data-dir").arg(data))
}

#[test]
fn token_is_shown_once_and_listed_without_its_secret() {
    let (home, data) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let token = |words: &[&str]| token(home.path(), data.path(), words);
    assert_eq!(token(&["list"]), (0, "no active tokens\n".to_owned(), String::new()));
    let (code, secret, errors) = token(&[
        "create",
        "--label",
        "ci-web",
        "--role",
        "approver",
        "--expires",
        "90d",
        "--scope",
        "@acme",
        "--scope",
        "left-pad",
    ]);
    assert!(code == 0 && secret.starts_with("cfr_") && secret.trim_end().len() == 53 && secret.lines().count() == 1, "{secret}");
    assert!(errors.contains("token 1: ci-web, role approver, @acme/*, left-pad") && !errors.contains(secret.trim()), "{errors}");
    assert!(errors.contains("no server runs on this data directory"), "{errors}");
    for (words, problem) in [
        (&["create", "--label", "ci-web"][..], "the active token 1 has this label"),
        (&["revoke", "9"], "no token with this number or label that is not revoked: `9`"),
    ] {
        let (code, _, errors) = token(words);
        assert!(code == 1 && errors.contains(problem), "{errors}");
    }
    for words in [
        &["create", "--label", "7"][..],
        &["create", "--label", "a\u{1b}[2J"],
        &["create", "--label", "b", "--role", "root"],
        &["create", "--label", "b", "--scope", "["],
        &["create", "--label", "b", "--expires", "0s"],
        &["create"],
    ] {
        let (code, _, errors) = token(words);
        assert!(code == 2 && !errors.contains('\u{1b}'), "{words:?}: {errors}");
    }
    let (_, text, _) = token(&["list"]);
    let row = text.lines().nth(1).unwrap();
    assert!(
        row.contains("ci-web") && row.contains("approver") && row.contains("@acme/*, left-pad") && row.contains("never"),
        "{text}"
    );
    let (_, json, _) = token(&["create", "--label", "other", "--json"]);
    let created: Value = serde_json::from_str(&json).unwrap();
    assert!(created["token"].as_str().unwrap().starts_with("cfr_") && created["role"] == "client", "{json}");
    let (_, listed, _) = token(&["list", "--json"]);
    assert!(!listed.contains("cfr_") && listed.contains("\"scopes\""), "{listed}");
    assert_eq!(token(&["revoke", "1"]).0, 0);
    let (code, text, _) = token(&["revoke", "other"]);
    assert!(code == 0 && text.contains("revoked token 2: other"), "{text}");
    assert_eq!(token(&["list"]).1, "no active tokens\n");
    let (_, all, _) = token(&["list", "--all", "--json"]);
    let all: Value = serde_json::from_str(&all).unwrap();
    assert!(all.as_array().unwrap().iter().all(|record| record["state"] == "revoked"), "{all}");
    // Only hashes are on disk.
    let secret = secret.trim();
    for file in std::fs::read_dir(data.path()).unwrap().flatten().filter(|file| file.path().is_file()) {
        let bytes = std::fs::read(file.path()).unwrap();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{}", file.path().display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn running_server_applies_tokens_and_logs_none() {
    let registry = Registry::start(&machine_clock()).await;
    registry.publish(Package::new("left-pad", "1.0.0").aged(days(400)));
    let (home, data) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let server =
        Program::serve(home.path(), data.path(), &registry.url, &["--require-auth", "--log-level", "trace", "--allow-writes"]);
    let token = |words: &[&str]| token(home.path(), data.path(), words);
    server.get("/left-pad").await.is(401);
    let (code, secret, errors) = token(&["create", "--label", "ci-web"]);
    assert!(code == 0 && errors.contains("applied by the running server"), "{errors}");
    let secret = secret.trim();
    server.get("/left-pad").token(secret).await.is(200);
    server.get("/left-pad/-/left-pad-1.0.0.tgz").token(secret).await.is(200);
    server.get(&format!("/-/npm/v1/tokens/{secret}")).token(secret).await.is(400);
    server.get(&format!("/-/coldframe/explain/{secret}")).await.is(400);
    server.get("/left-pad?write=true").token(secret).await.is(403);
    let (code, text, errors) = token(&["revoke", "ci-web"]);
    assert!(code == 0 && text.contains("applied by the running server"), "{text}{errors}");
    let refused = server.get("/left-pad").token(secret).await.is(401);
    assert!(refused.error().contains("revoked"), "{}", refused.error());
    server.signal("-TERM");
    let (code, log) = server.wait_for_exit().await;
    assert!(code == 0 && !log.contains(&secret[4..]), "{log}");
    assert!(log.contains("authentication failed") && log.contains("ci-web"), "{log}");
}
