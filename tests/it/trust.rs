//! Keys that are renewed from a TUF repository (`trust-updates`), and what a repository that is down or hostile changes: nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coldframe::npm::{Algorithm, Digest};
use serde_json::{Map, Value, json};
use sigstore_tuf::canonical_json::to_canonical_bytes;
use tempfile::TempDir;

use crate::fake_response::Reply;
use crate::harness::{NOON, Scene};
use crate::package::{Package, days, hours};
use crate::registry::Registry;
use crate::signing::{KEY, RegistryKey};

const FUTURE: &str = "2027-01-01T00:00:00Z";
const PAST: &str = "2026-04-01T00:00:00Z";

/// The target with the keys of the fake registry, after its host.
const TARGET: &str = "127.0.0.1/keys.json";

/// A signer of metadata; one key has all roles.
struct Publisher(EcdsaKeyPair);

impl Publisher {
    fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap())
    }

    fn signed(&self, signed: &Value) -> String {
        let signature = self.0.sign(&SystemRandom::new(), &to_canonical_bytes(signed).unwrap()).unwrap();
        let hex: Vec<String> = signature.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        json!({ "signed": signed, "signatures": [{ "keyid": "key", "sig": hex.concat() }] }).to_string()
    }

    fn root(&self) -> String {
        let prefix = STANDARD.decode("MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE").unwrap();
        let public = STANDARD.encode([&prefix[..26], self.0.public_key().as_ref()].concat());
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{public}\n-----END PUBLIC KEY-----\n");
        let role = json!({ "keyids": ["key"], "threshold": 1 });
        let key = json!({ "keytype": "ecdsa", "scheme": "ecdsa-sha2-nistp256", "keyval": { "public": pem } });
        self.signed(&json!({
            "_type": "root", "spec_version": "1.0.31", "version": 1, "expires": FUTURE, "consistent_snapshot": false,
            "keys": { "key": key }, "roles": { "root": role, "timestamp": role, "snapshot": role, "targets": role },
        }))
    }

    /// Returns the files of a repository in this version, by path.
    fn files(&self, version: u64, expires: &str, keys: &str) -> BTreeMap<String, String> {
        let sha256 = Digest::of(Algorithm::Sha256, keys.as_bytes()).to_hex();
        let listed = json!({ "length": keys.len(), "hashes": { "sha256": sha256 } });
        let roles = [
            ("timestamp", "meta", json!({ "snapshot.json": { "version": version } })),
            ("snapshot", "meta", json!({ "targets.json": { "version": version } })),
            ("targets", "targets", Value::Object(Map::from_iter([(TARGET.to_owned(), listed)]))),
        ];
        let files = roles.map(|(kind, member, value)| {
            let expires = if kind == "timestamp" { expires } else { FUTURE };
            let signed =
                json!({ "_type": kind, "spec_version": "1.0.31", "version": version, "expires": expires, member: value });
            (format!("/{kind}.json"), self.signed(&signed))
        });
        files.into_iter().chain([(format!("/targets/{TARGET}"), keys.to_owned())]).collect()
    }
}

/// A Coldframe that renews its keys from a repository, and a registry that signs.
struct Renewed {
    scene: Scene,
    repository: Registry,
    publisher: Publisher,
    key: RegistryKey,
    _folder: TempDir,
}

impl Renewed {
    /// Starts with a repository in this state.
    async fn open(state: impl FnOnce(&Publisher, &str) -> BTreeMap<String, String>) -> Self {
        let (publisher, key, folder) = (Publisher::new(), RegistryKey::new(), TempDir::new().unwrap());
        let repository = Registry::start(&coldframe::clock::ManualClock::at(NOON.parse().unwrap())).await;
        serve(&repository, &state(&publisher, &keys(&key)));
        let root = folder.path().join("root.json");
        std::fs::write(&root, publisher.root()).unwrap();
        let opening = Scene::open().set("trust-updates", &repository.url);
        let scene = opening.set("trust-updates-root", root.to_str().unwrap()).await;
        for patch in 0..4 {
            scene.publish(key.signed(Package::new("demo", &format!("1.0.{patch}")).aged(days(200 - 10 * patch))));
        }
        // The registry did not sign this version.
        let forged = json!([{ "keyid": KEY, "sig": "AAAA" }]);
        scene.publish(Package::new("demo", "1.1.0").aged(days(4)).dist("signatures", forged));
        Self { scene, repository, publisher, key, _folder: folder }
    }

    async fn status(&self, spec: &str) -> String {
        let explained = self.scene.get(&format!("/-/coldframe/explain/{spec}")).accept("application/json").await.is(200).json();
        explained["facts"]["signature"]["status"].as_str().unwrap().to_owned()
    }

    async fn until_status(&self, expected: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.status("demo@1.0.0").await != expected {
            assert!(Instant::now() < deadline, "the signature does not become {expected}: {}", self.warnings().await);
        }
    }

    /// The warnings of the readiness page. The server is ready in any case.
    async fn warnings(&self) -> String {
        self.scene.get("/-/coldframe/readyz").await.is(200).text()
    }

    async fn until_warned(&self, what: &str, is_expected: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let page = self.warnings().await;
            if is_expected(&page) {
                return;
            }
            assert!(Instant::now() < deadline, "{what}: {page}");
        }
    }
}

/// Returns a file of keys.
fn keys(key: &RegistryKey) -> String {
    json!({ "keys": [key.member(None)] }).to_string()
}

/// Serves these files of a repository, and no newer root.
fn serve(repository: &Registry, files: &BTreeMap<String, String>) {
    repository.answer("/2.root.json", Reply::status(404));
    for path in ["/timestamp.json", "/snapshot.json", "/targets.json", &format!("/targets/{TARGET}")] {
        let reply = files.get(path).map_or_else(|| Reply::status(404), |body| Reply::ok(body.clone()));
        repository.answer(path, reply);
    }
}

#[tokio::test]
async fn renewed_keys_take_effect() {
    let renewed = Renewed::open(|publisher, keys| publisher.files(1, FUTURE, keys)).await;
    renewed.until_status("valid").await;
    assert_eq!(renewed.status("demo@1.1.0").await, "false");
    let refused = renewed.scene.get("/demo/-/demo-1.1.0.tgz").await.is(403).error();
    assert!(refused.contains("rule false-signature"), "{refused}");
    // A day later the registry signs with another key.
    let other = RegistryKey::new();
    serve(&renewed.repository, &renewed.publisher.files(2, FUTURE, &keys(&other)));
    renewed.scene.publish(other.signed(Package::new("other", "1.0.0")));
    assert_eq!(renewed.status("other").await, "false");
    renewed.scene.advance(days(1));
    let deadline = Instant::now() + Duration::from_secs(30);
    while renewed.status("other").await != "valid" {
        assert!(Instant::now() < deadline, "the other key is not known: {}", renewed.warnings().await);
    }
}

/// What is wrong with a repository, its files in a version, and a word of the warning.
type FailingState<'a> = (&'a str, &'a dyn Fn(u64) -> BTreeMap<String, String>, &'a str);

#[tokio::test]
async fn repository_that_fails_changes_nothing_and_is_reported() {
    let renewed = Renewed::open(|publisher, keys| publisher.files(5, FUTURE, keys)).await;
    renewed.until_status("valid").await;
    let (publisher, listed, other) = (&renewed.publisher, keys(&renewed.key), Publisher::new());
    let honest = |version| publisher.files(version, FUTURE, &listed);
    let with = |mut files: BTreeMap<String, String>, path: &str, body: String| {
        files.insert(path.to_owned(), body);
        files
    };
    // One that is listed as before is not fetched again.
    let listed_anew = |version| publisher.files(version, FUTURE, &keys(&RegistryKey::new()));
    let target = format!("/targets/{TARGET}");
    let states: [FailingState<'_>; 8] = [
        ("down", &|_| BTreeMap::new(), "timestamp"),
        ("older than before", &|version| honest(version - 9), "timestamp"),
        ("expired", &|version| publisher.files(version, PAST, &listed), "expired"),
        ("signed by another key", &|version| other.files(version, FUTURE, &listed), "signature"),
        ("too large", &|version| with(honest(version), "/timestamp.json", " ".repeat(1 << 20)), "timestamp"),
        ("no metadata", &|version| with(honest(version), "/timestamp.json", "[[[[\u{1b}[2J".to_owned()), "not renewed"),
        ("other content than listed", &|version| with(listed_anew(version), &target, keys(&RegistryKey::new())), TARGET),
        ("keys that cannot be used", &|version| publisher.files(version, FUTURE, "{}"), "key"),
    ];
    for (round, (what, state, why)) in (1..).zip(states) {
        serve(&renewed.repository, &state(10 * round));
        renewed.scene.advance(days(1));
        renewed.until_warned(what, |page| page.contains("were not renewed from")).await;
        let page = renewed.warnings().await;
        assert!(page.to_lowercase().contains(why) && !page.contains('\u{1b}'), "{what}: {page}");
        // What was known before stays, and hides no more and no less.
        assert_eq!(renewed.status("demo@1.0.0").await, "valid", "{what}");
        assert_eq!(renewed.scene.get("/demo").await.versions(), ["1.0.0", "1.0.1", "1.0.2", "1.0.3"], "{what}");
        renewed.scene.get("/demo/-/demo-1.0.3.tgz").await.is(200);
        // The next attempt is an hour later.
        serve(&renewed.repository, &honest(10 * round + 5));
        renewed.scene.advance(hours(1));
        renewed.until_warned(what, |page| !page.contains("were not renewed from")).await;
    }
}

#[tokio::test]
async fn nothing_is_hidden_while_no_key_can_be_fetched() {
    let mut renewed = Renewed::open(|_, _| BTreeMap::new()).await;
    renewed.until_warned("no warning", |page| page.contains("were not renewed from")).await;
    assert_eq!(renewed.status("demo@1.1.0").await, "unknown-key");
    assert_eq!(renewed.scene.get("/demo").await.versions().len(), 5);
    renewed.scene.get("/demo/-/demo-1.1.0.tgz").await.is(200);
    // The metadata that was seen last is on disk, so an older state is refused after a restart too.
    let files = |version| renewed.publisher.files(version, FUTURE, &keys(&renewed.key));
    let (newer, older) = (files(2), files(1));
    serve(&renewed.repository, &newer);
    renewed.scene.advance(hours(1));
    renewed.until_status("valid").await;
    serve(&renewed.repository, &older);
    renewed.scene.restart().await;
    renewed.until_warned("an older state is used", |page| page.contains("were not renewed from")).await;
    assert_eq!(renewed.status("demo@1.1.0").await, "unknown-key");
}
