//! What the registry signed of a version: name, version and integrity. The keys are generated here.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Opening, Scene};
use crate::package::{Package, days};
use crate::process::{coldframe, run};

pub const KEY: &str = "SHA256:test";

/// What public keys on P-256 begin with, before the point.
const P256_PREFIX: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE";

/// A key of the registry.
pub struct RegistryKey(EcdsaKeyPair);

impl RegistryKey {
    pub fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap())
    }

    /// Signs a text in the form of `sig`.
    fn sign(&self, message: &str) -> String {
        STANDARD.encode(self.0.sign(&SystemRandom::new(), message.as_bytes()).unwrap())
    }

    /// Adds the registry's signature of a release.
    pub fn signed(&self, package: Package) -> Package {
        let sig = self.sign(&message(&package));
        package.dist("signatures", json!([{ "keyid": KEY, "sig": sig }]))
    }

    pub fn member(&self, expires: Option<&str>) -> Value {
        // The prefix ends with the first byte of the point; 27 bytes are 36 digits without padding.
        let key = format!("{P256_PREFIX}{}", STANDARD.encode(&self.0.public_key().as_ref()[1..]));
        let kind = "ecdsa-sha2-nistp256";
        json!({ "keyid": KEY, "keytype": kind, "scheme": kind, "key": key, "expires": expires })
    }

    /// Writes a file with this key.
    pub fn file(&self, folder: &TempDir, expires: Option<&str>) -> String {
        let path = folder.path().join("keys.json");
        std::fs::write(&path, json!({ "keys": [self.member(expires)] }).to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// What the registry signs of a release.
fn message(package: &Package) -> String {
    format!("{}@{}:{}", package.name, package.version, package.manifest["dist"]["integrity"].as_str().unwrap())
}

/// A registry that signs, and a Coldframe that knows its key.
struct Signed {
    scene: Scene,
    key: RegistryKey,
    _folder: TempDir,
}

impl Signed {
    async fn open() -> Self {
        Self::with(None, |opening| opening).await
    }

    async fn with(expires: Option<&str>, more: impl FnOnce(Opening) -> Opening) -> Self {
        let (key, folder) = (RegistryKey::new(), TempDir::new().unwrap());
        let scene = more(Scene::open().set("signing-keys", &key.file(&folder, expires))).await;
        Self { scene, key, _folder: folder }
    }

    fn publish(&self, package: Package) {
        self.scene.publish(self.key.signed(package));
    }

    /// Publishes four old releases of `demo`, `1.0.0` to `1.0.3`.
    fn publish_old(&self) {
        for patch in 0..4 {
            self.publish(old(patch));
        }
    }

    async fn explained(&self, spec: &str) -> Value {
        self.scene.get(&format!("/-/coldframe/explain/{spec}")).accept("application/json").await.is(200).json()
    }

    async fn status(&self, spec: &str) -> Value {
        self.explained(spec).await["facts"]["signature"]["status"].clone()
    }

    async fn signals(&self, spec: &str) -> Value {
        self.explained(spec).await["facts"]["signals"].clone()
    }

    async fn versions(&self) -> Vec<String> {
        self.scene.get("/demo").await.versions()
    }

    /// Checks that a tarball is refused for its signature.
    async fn is_refused(&self, version: &str) {
        let refused = self.scene.get(&format!("/demo/-/demo-{version}.tgz")).await.is(403).error();
        let why = "false-signature (the key SHA256:test did not sign this name, version and integrity)";
        assert!(refused.contains("rule false-signature") && refused.contains(why), "{refused}");
        assert_eq!(self.status(&format!("demo@{version}")).await, "false");
    }
}

fn old(patch: u64) -> Package {
    Package::new("demo", &format!("1.0.{patch}")).aged(days(200 - 10 * patch))
}

/// A release that is past its minimum age, but young.
fn release() -> Package {
    Package::new("demo", "1.1.0").aged(days(4))
}

#[tokio::test]
async fn signed_release_is_served_and_explained_with_its_key() {
    let signed = Signed::open().await;
    signed.publish_old();
    signed.publish(release());
    signed.scene.get("/demo/-/demo-1.1.0.tgz").await.is(200);
    signed.scene.get("/demo/-/demo-1.0.0.tgz").await.is(200);
    signed.scene.get("/demo/-/demo-1.0.0.tgz").await.is(200);
    let signature = signed.explained("demo@1.1.0").await["facts"]["signature"].clone();
    assert_eq!(signature["status"], "valid");
    assert_eq!((&signature["key"], &signature["detail"]), (&json!(KEY), &json!("by the registry's key SHA256:test")));
    // The second request for a tarball verifies nothing.
    assert_eq!(signed.scene.metric("coldframe_signatures_total", "\"valid\"").await.to_string(), "2");
    assert_eq!(signed.signals("demo@1.1.0").await, json!([]));
}

#[tokio::test]
async fn young_release_with_a_signature_of_another_version_is_hidden() {
    let signed = Signed::open().await;
    signed.publish_old();
    let stolen = signed.key.sign(&message(&old(0)));
    signed.scene.publish(release().dist("signatures", json!([{ "keyid": KEY, "sig": stolen }])));
    assert_eq!(signed.versions().await, ["1.0.0", "1.0.1", "1.0.2", "1.0.3"]);
    signed.is_refused("1.1.0").await;
    assert_eq!(signed.scene.metric("coldframe_incidents_total", "false_signature").await.to_string(), "1");
}

#[tokio::test]
async fn signatures_of_other_names_digests_and_keys_are_false() {
    let (right, sha1) = (message(&release()), release().manifest["dist"]["shasum"].as_str().unwrap().to_owned());
    for (what, message) in [
        ("another name", Some(right.replace("demo@", "dem0@"))),
        ("another algorithm", Some(right.replace("sha512-", "sha384-"))),
        ("SHA-1 instead", Some(format!("demo@1.1.0:{sha1}"))),
        ("build metadata", Some(right.replace("1.1.0", "1.1.0+build"))),
        ("another key", None),
    ] {
        let signed = Signed::open().await;
        signed.publish_old();
        let sig = message.map_or_else(|| RegistryKey::new().sign(&right), |message| signed.key.sign(&message));
        signed.scene.publish(release().dist("signatures", json!([{ "keyid": KEY, "sig": sig }])));
        assert_eq!(signed.status("demo@1.1.0").await, "false", "{what}");
        assert_eq!(signed.versions().await.len(), 4, "{what}");
    }
}

#[tokio::test]
async fn junk_as_a_signature_is_false_and_a_huge_one_is_not_read() {
    for (sig, expected) in [("AAAA", "false"), ("not base64", "false"), (&*"A".repeat(10_000_000), "unusable")] {
        let signed = Signed::open().await;
        signed.publish_old();
        signed.scene.publish(release().dist("signatures", json!([{ "keyid": KEY, "sig": sig }])));
        assert_eq!(signed.status("demo@1.1.0").await, expected, "{sig:.40}");
    }
}

#[tokio::test]
async fn old_release_with_a_false_signature_is_hidden_once_it_was_asked_for() {
    let signed = Signed::open().await;
    signed.publish_old();
    let stolen = signed.key.sign(&message(&old(3)));
    signed.scene.publish(old(0).dist("signatures", json!([{ "keyid": KEY, "sig": stolen }])));
    signed.scene.publish(old(5));
    signed.publish(Package::new("demo", "1.0.4").aged(days(140)));
    assert_eq!(signed.versions().await.len(), 6);
    signed.is_refused("1.0.0").await;
    assert!(!signed.versions().await.contains(&"1.0.0".to_owned()));
    signed.scene.get("/demo/-/demo-1.0.1.tgz").await.is(200);
    assert_eq!(signed.scene.metric("coldframe_signatures_total", "\"false\"").await.to_string(), "1");
}

#[tokio::test]
async fn swapped_signatures_of_two_releases_are_both_false() {
    let signed = Signed::open().await;
    signed.publish_old();
    let [first, second] = [4, 5].map(old);
    let [sig, other] = [&first, &second].map(|package| signed.key.sign(&message(package)));
    signed.scene.publish(first.dist("signatures", json!([{ "keyid": KEY, "sig": other }])));
    signed.scene.publish(second.dist("signatures", json!([{ "keyid": KEY, "sig": sig }])));
    signed.is_refused("1.0.4").await;
    signed.is_refused("1.0.5").await;
}

#[tokio::test]
async fn false_signature_beside_a_right_one_is_false() {
    let signed = Signed::open().await;
    signed.publish_old();
    let (right, wrong) = (signed.key.sign(&message(&release())), signed.key.sign("demo@1.1.0:"));
    let both = json!([{ "keyid": KEY, "sig": right }, { "keyid": KEY, "sig": wrong }]);
    signed.scene.publish(release().dist("signatures", both));
    signed.is_refused("1.1.0").await;
}

#[tokio::test]
async fn missing_signature_is_a_signal_if_earlier_releases_have_one() {
    for (stated, status) in [
        (json!([]), "unsigned"),
        (Value::Null, "unsigned"),
        (json!([{ "keyid": "", "sig": "" }]), "unusable"),
        (json!(vec![json!({ "keyid": KEY, "sig": "AAAA" }); 10_000]), "unusable"),
        (json!({ "keyid": KEY }), "unusable"),
    ] {
        let signed = Signed::open().await;
        signed.publish_old();
        signed.scene.publish(release().dist("signatures", stated.clone()));
        assert_eq!(signed.status("demo@1.1.0").await, status, "{stated:.40}");
        let facts = signed.explained("demo@1.1.0").await["facts"].clone();
        assert_eq!(facts["signals"], json!(["signature-lost"]), "{facts}");
        assert_eq!(facts["evidence"][0]["old"], "signed by the registry, such as 1.0.3");
        // One weak signal alone holds nothing.
        signed.scene.get("/demo/-/demo-1.1.0.tgz").await.is(200);
    }
}

#[tokio::test]
async fn unknown_key_is_not_observable() {
    let signed = Signed::open().await;
    signed.publish_old();
    let sig = signed.key.sign(&message(&release()));
    signed.scene.publish(release().dist("signatures", json!([{ "keyid": "SHA256:newer\u{1b}[2J", "sig": sig }])));
    signed.scene.get("/demo/-/demo-1.1.0.tgz").await.is(200);
    let signature = signed.explained("demo@1.1.0").await["facts"]["signature"].clone();
    assert_eq!(signature["status"], "unknown-key");
    let expected = "not observable: the key is not known here: SHA256:newer\\u001b[2J";
    assert_eq!(signature["detail"], expected);
    assert_eq!(signed.signals("demo@1.1.0").await, json!([]));
}

#[tokio::test]
async fn mirror_that_packs_tarballs_again_is_recognized() {
    let signed = Signed::open().await;
    for package in (0..4).map(old).chain([release()]) {
        let original = signed.key.sign(&message(&package));
        signed.scene.publish(package.content("packed again").dist("signatures", json!([{ "keyid": KEY, "sig": original }])));
    }
    signed.scene.get("/demo/-/demo-1.1.0.tgz").await.is(200);
    signed.scene.get("/demo/-/demo-1.0.0.tgz").await.is(200);
    assert_eq!(signed.status("demo@1.1.0").await, "rewritten");
    assert_eq!(signed.scene.metric("coldframe_signatures_total", "\"rewritten\"").await.to_string(), "2");
}

#[tokio::test]
async fn upstream_without_signatures_is_not_observable() {
    let signed = Signed::open().await;
    for package in (0..4).map(old).chain([release()]) {
        signed.scene.publish(package.dist("signatures", Value::Null));
    }
    signed.scene.get("/demo/-/demo-1.1.0.tgz").await.is(200);
    let facts = signed.explained("demo@1.1.0").await["facts"].clone();
    assert_eq!(facts["signature"]["status"], "not-observable");
    assert!(facts["signalsNotObservable"].as_array().unwrap().contains(&json!("signature-lost")), "{facts}");
}

#[tokio::test]
async fn key_that_ended_is_valid_for_earlier_releases() {
    let signed = Signed::open().await;
    signed.publish_old();
    let ended = (signed.scene.now() - days(10)).to_string();
    let folder = TempDir::new().unwrap();
    let path = signed.key.file(&folder, Some(&ended));
    let mut scene = signed.scene;
    scene.restart_with("signing-keys", &path).await;
    let signed = Signed { scene, ..signed };
    signed.publish(release());
    signed.scene.get("/demo/-/demo-1.0.3.tgz").await.is(200);
    assert_eq!(signed.status("demo@1.0.3").await, "valid");
    // Mirrors that state when they copied a version would be refused otherwise.
    signed.scene.get("/demo/-/demo-1.1.0.tgz").await.is(200);
    assert_eq!(signed.status("demo@1.1.0").await, "key-ended");
}

#[tokio::test]
async fn false_signature_is_found_again_after_a_restart() {
    let mut signed = Signed::open().await;
    signed.publish_old();
    let wrong = json!([{ "keyid": KEY, "sig": signed.key.sign("demo") }]);
    signed.scene.publish(release().dist("signatures", wrong));
    signed.is_refused("1.1.0").await;
    signed.scene.restart().await;
    signed.is_refused("1.1.0").await;
}

#[tokio::test]
async fn nothing_is_verified_without_keys() {
    let mut signed = Signed::open().await;
    signed.publish_old();
    let wrong = json!([{ "keyid": KEY, "sig": signed.key.sign("demo") }]);
    signed.scene.publish(release().dist("signatures", wrong));
    signed.scene.restart_with("signing-keys", "none").await;
    signed.scene.get("/demo/-/demo-1.1.0.tgz").await.is(200);
    assert_eq!(signed.status("demo@1.1.0").await, "off");
}

#[tokio::test]
async fn policy_observe_serves_a_false_signature_with_a_warning() {
    let signed = Signed::with(None, |opening| opening.set("policy", "observe")).await;
    signed.publish_old();
    signed.scene.publish(release().dist("signatures", json!([{ "keyid": KEY, "sig": "AAAA" }])));
    signed.scene.get("/demo/-/demo-1.1.0.tgz").await.is(200);
    assert!(signed.scene.metric("coldframe_observed_total", "").await > 0.0);
}

#[test]
fn unusable_file_of_keys_is_an_error() {
    let home = TempDir::new().unwrap();
    let path = home.path().join("keys.json");
    for (text, expected) in [("{\"keys\":[]}", "no key for signatures of packages"), ("[", "not a list of keys")] {
        std::fs::write(&path, text).unwrap();
        let (code, _, errors) = run(coldframe(home.path()).args(["serve", "--signing-keys", "keys.json"]));
        assert!(code != 0 && errors.contains("`signing-keys` cannot be used") && errors.contains(expected), "{errors}");
    }
    let (code, _, errors) = run(coldframe(home.path()).args(["serve", "--signing-keys", "missing.json"]));
    assert!(code != 0 && errors.contains("`signing-keys` cannot be read"), "{errors}");
    let (code, _, errors) = run(coldframe(home.path()).args(["serve", "--trust-updates", "https://tuf.example/"]));
    assert!(code != 0 && errors.contains("`trust-updates` without `trust-updates-root`"), "{errors}");
}
