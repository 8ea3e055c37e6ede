//! Verifies what the registry signed of a version: ECDSA over P-256 with SHA-256, of `name@version:integrity`. Pure.
//!
//! Keys come from a file or are bundled. An unknown key proves nothing: a registry may have replaced its keys.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::npm::packument::signatures::StatedSignature;
use crate::npm::{Digest, PackageName};
use crate::text;
use crate::units::timestamp;

/// The largest file of keys, in bytes. The registry's own is 3 kB.
pub const MAX_KEYS_BYTES: usize = 256 << 10;

/// The most keys in a file.
const MAX_KEYS: usize = 64;

/// The longest name of a key, in bytes; the registry uses 50.
const MAX_KEY_ID_BYTES: usize = 128;

/// The characters of a key's name that are printed if it is unknown.
const MAX_SHOWN_CHARS: usize = 64;

/// What a public key on P-256 begins with in DER (RFC 5480): its algorithm, its curve, and a point without compression.
const P256_PREFIX: [u8; 27] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03,
    0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];

/// The keys of npm's public registry: name, key, and when it ended. Source: the target `keys.json` of Sigstore's TUF repository,
/// as npm 11 bundles it.
const BUNDLED_KEYS: [(&str, &str, Option<&str>); 2] = [
    (
        "SHA256:jl3bwswu80PjjokCgh0o2w5c2U4LhQAE57gj9cz1kzA",
        "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE1Olb3zMAFFxXKHiIkQO5cJ3Yhl5i6UPp+IhuteBJbuHcA5UogKo0EWtlWwW6KSaKoTNEYL7JlCQiVnkhBktUgg==",
        Some("2025-01-29T00:00:00Z"),
    ),
    (
        "SHA256:DhQ8wR5APBvFHLF/+Tc+AYvPOdTpcIDqOhxsBHRwC7U",
        "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEY6Ya7W++7aUPzvMTrezH6Ycx3c+HOKYCcNGybJZSCJq/fd7Qa8uuAKtdIkUQtQiEKERhAmE5lMMJhP8OkDOa2g==",
        None,
    ),
];

/// Where keys and authorities come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TrustSource {
    /// Nothing is verified.
    #[default]
    Off,
    /// They are in this program. They age: what they do not know may still be right.
    Bundled,
    /// A file of the operator.
    File,
    /// A repository that renews them.
    Repository,
}

/// A key that a registry signs with.
#[derive(Debug, Clone)]
struct SigningKey {
    id: Box<str>,
    key: ParsedPublicKey,
    /// When the registry stopped signing with it.
    ended: Option<Timestamp>,
}

/// The keys that signatures are verified with.
#[derive(Debug, Clone, Default)]
pub struct KeyRing {
    keys: Vec<SigningKey>,
    pub source: TrustSource,
}

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("larger than {MAX_KEYS_BYTES} bytes")]
    TooLarge,
    #[error("not a list of keys: {0}")]
    Json(String),
    #[error("more than {MAX_KEYS} keys")]
    TooMany,
    #[error("no key for signatures of packages")]
    NoKey,
    #[error("a key without a usable `keyid`")]
    Id,
    #[error("two different keys with one name: `{0}`")]
    Repeated(String),
    #[error("the key is not ECDSA over P-256: `{0}`")]
    Kind(String),
    #[error("the key is not valid: `{0}`")]
    Key(String),
    #[error("the end of the key is not a time: `{0}`")]
    End(String),
}

/// What the signatures of a version show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignatureStatus {
    /// A known key signed this name, version and integrity.
    Valid {
        key_id: Box<str>,
    },
    /// It names a known key, which did not sign this name, version and integrity.
    False {
        key_id: Box<str>,
    },
    /// A known key signed it, which had ended before the stated publish time. Some mirrors state when they copied a version.
    KeyEnded {
        key_id: Box<str>,
    },
    /// It is false, and so are those of older releases: the upstream states other digests than the registry signed.
    Rewritten {
        key_id: Box<str>,
    },
    /// No known key is named. The text may come from upstream; it is one line and short.
    UnknownKey {
        key_id: Box<str>,
    },
    /// What is stated cannot be a signature.
    Unusable,
    Unsigned,
    /// No release of the document states a signature.
    NoneStated,
    /// Signatures are not verified.
    Off,
}

impl SignatureStatus {
    /// Returns a word for JSON and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Valid { .. } => "valid",
            Self::False { .. } => "false",
            Self::KeyEnded { .. } => "key-ended",
            Self::Rewritten { .. } => "rewritten",
            Self::UnknownKey { .. } => "unknown-key",
            Self::Unusable => "unusable",
            Self::Unsigned => "unsigned",
            Self::NoneStated => "not-observable",
            Self::Off => "off",
        }
    }

    pub fn key_id(&self) -> Option<&str> {
        match self {
            Self::Valid { key_id }
            | Self::False { key_id }
            | Self::KeyEnded { key_id }
            | Self::Rewritten { key_id }
            | Self::UnknownKey { key_id } => Some(key_id),
            Self::Unusable | Self::Unsigned | Self::NoneStated | Self::Off => None,
        }
    }

    /// Describes it in one line.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Valid { key_id } => format!("by the registry's key {key_id}"),
            Self::False { key_id } => format!("false: the key {key_id} did not sign this name, version and integrity"),
            Self::KeyEnded { key_id } => {
                format!("not observable: the key {key_id} had ended before the stated publish time")
            }
            Self::Rewritten { .. } => {
                "not observable: upstream states other digests than the registry signed, for older releases too".to_owned()
            }
            Self::UnknownKey { key_id } => format!("not observable: the key is not known here: {key_id}"),
            Self::Unusable => "none: upstream states something else as its signature".to_owned(),
            Self::Unsigned => "none, though other releases have one".to_owned(),
            Self::NoneStated => "not observable: upstream sends no signatures of the registry".to_owned(),
            Self::Off => "not verified, as `signing-keys` demands".to_owned(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        json!({ "status": self.as_str(), "key": self.key_id(), "detail": self.describe() })
    }
}

/// What a registry signs of a version.
#[derive(Debug, Clone, Copy)]
pub struct SignedRelease<'a> {
    pub name: &'a PackageName,
    pub version: &'a str,
    /// The strongest digest that the packument states, which the tarball must match.
    pub integrity: &'a Digest,
    /// The publish time that upstream states. A key may end after it signed.
    pub published: Option<Timestamp>,
}

/// A file of keys, as registries serve them (`keyid`, `key`) or as TUF's target (`keyId`, `publicKey`).
#[derive(Deserialize)]
struct KeysDocument {
    keys: Vec<KeyMember>,
}

#[derive(Deserialize)]
struct KeyMember {
    #[serde(alias = "keyId", default)]
    keyid: String,
    #[serde(default)]
    keytype: Option<String>,
    #[serde(default)]
    scheme: Option<String>,
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    expires: Option<String>,
    #[serde(default, rename = "keyUsage")]
    usage: Option<String>,
    #[serde(default, rename = "publicKey")]
    public_key: Option<PublicKeyMember>,
}

#[derive(Deserialize)]
struct PublicKeyMember {
    #[serde(rename = "rawBytes")]
    raw_bytes: String,
    #[serde(default, rename = "keyDetails")]
    details: Option<String>,
    #[serde(default, rename = "validFor")]
    valid_for: Option<ValidityMember>,
}

#[derive(Deserialize)]
struct ValidityMember {
    #[serde(default)]
    end: Option<String>,
}

impl KeyMember {
    /// Checks whether it states to be a key of another kind than ECDSA over P-256. Registries state that in several words.
    fn is_of_another_kind(&self) -> bool {
        let details = self.public_key.as_ref().and_then(|key| key.details.as_deref());
        let is_other = |stated: &Option<String>| stated.as_deref().is_some_and(|kind| kind != "ecdsa-sha2-nistp256");
        details.is_some_and(|details| details != "PKIX_ECDSA_P256_SHA_256") || is_other(&self.keytype) || is_other(&self.scheme)
    }

    fn read(&self) -> Result<SigningKey, KeysError> {
        if self.keyid.is_empty() || self.keyid.len() > MAX_KEY_ID_BYTES {
            return Err(KeysError::Id);
        }
        let shown = || shorten(&self.keyid).into_string();
        if self.is_of_another_kind() {
            return Err(KeysError::Kind(shown()));
        }
        let (encoded, end) = match (&self.key, &self.public_key) {
            (Some(key), None) => (key, self.expires.as_ref()),
            (None, Some(key)) => (&key.raw_bytes, key.valid_for.as_ref().and_then(|valid| valid.end.as_ref())),
            _ => return Err(KeysError::Key(shown())),
        };
        let ended = match end {
            Some(end) => Some(timestamp::parse(end).ok_or_else(|| KeysError::End(shorten(end).into_string()))?),
            None => None,
        };
        let der = STANDARD.decode(encoded).map_err(|_| KeysError::Key(shown()))?;
        Ok(SigningKey { id: self.keyid.as_str().into(), key: p256_key(&der).ok_or_else(|| KeysError::Key(shown()))?, ended })
    }
}

impl PartialEq for KeyRing {
    fn eq(&self, other: &Self) -> bool {
        let same = |(left, right): (&SigningKey, &SigningKey)| {
            (&left.id, left.ended, left.key.as_ref()) == (&right.id, right.ended, right.key.as_ref())
        };
        self.source == other.source && self.len() == other.len() && self.keys.iter().zip(&other.keys).all(same)
    }
}

impl KeyRing {
    /// Returns the keys in this program.
    pub fn bundled() -> Self {
        let keys = BUNDLED_KEYS.iter().filter_map(|(id, key, ended)| {
            let key = p256_key(&STANDARD.decode(key).ok()?)?;
            Some(SigningKey { id: (*id).into(), key, ended: ended.and_then(timestamp::parse) })
        });
        Self { keys: keys.collect(), source: TrustSource::Bundled }
    }

    /// Reads a file of keys.
    ///
    /// # Errors
    /// Returns an error if any key for signatures is not usable, so that a mistake in a file does not end in fewer checks.
    pub fn parse(document: &[u8], source: TrustSource) -> Result<Self, KeysError> {
        if document.len() > MAX_KEYS_BYTES {
            return Err(KeysError::TooLarge);
        }
        let KeysDocument { keys: members } =
            serde_json::from_slice(document).map_err(|error| KeysError::Json(text::json_error(&error)))?;
        if members.len() > MAX_KEYS {
            return Err(KeysError::TooMany);
        }
        let mut keys: Vec<SigningKey> = Vec::new();
        let for_signatures = |member: &&KeyMember| member.usage.as_deref().is_none_or(|usage| usage == "npm:signatures");
        for member in members.iter().filter(for_signatures) {
            let key = member.read()?;
            match keys.iter_mut().find(|known| known.id == key.id) {
                Some(known) if known.key.as_ref() != key.key.as_ref() => {
                    return Err(KeysError::Repeated(shorten(&key.id).into_string()));
                }
                // The later end: a shorter one may be that of another use.
                Some(known) => known.ended = known.ended.zip(key.ended).map(|(first, second)| first.max(second)),
                None => keys.push(key),
            }
        }
        if keys.is_empty() { Err(KeysError::NoKey) } else { Ok(Self { keys, source }) }
    }

    /// Returns the number of keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Verifies what a packument states as the signatures of a release. Each signature by a known key must be right: a false one
    /// besides a right one is still false.
    pub fn verify<'a>(&self, release: SignedRelease<'_>, stated: impl Iterator<Item = StatedSignature<'a>>) -> SignatureStatus {
        if self.keys.is_empty() {
            return SignatureStatus::Off;
        }
        let message = format!("{}@{}:{}", release.name.as_str(), release.version, release.integrity.to_sri());
        let mut found = SignatureStatus::Unsigned;
        for StatedSignature { key_id, signature } in stated {
            let Some(key) = self.keys.iter().find(|key| *key.id == *key_id) else {
                match found {
                    SignatureStatus::Unsigned | SignatureStatus::Unusable if !key_id.is_empty() => {
                        found = SignatureStatus::UnknownKey { key_id: shorten(key_id) };
                    }
                    SignatureStatus::Unsigned => found = SignatureStatus::Unusable,
                    _ => {}
                }
                continue;
            };
            let key_id = key.id.clone();
            if key.key.verify_sig(message.as_bytes(), signature).is_err() {
                return SignatureStatus::False { key_id };
            }
            let is_over = key.ended.zip(release.published).is_some_and(|(ended, published)| published > ended);
            found = if is_over { SignatureStatus::KeyEnded { key_id } } else { SignatureStatus::Valid { key_id } };
        }
        found
    }
}

/// Returns a key on P-256 from its DER. The library would take keys on other curves too, or points alone.
fn p256_key(der: &[u8]) -> Option<ParsedPublicKey> {
    let is_p256 = der.starts_with(&P256_PREFIX) && der.len() == P256_PREFIX.len() + 64;
    is_p256.then(|| ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, der).ok()).flatten()
}

/// Returns text from outside as one short line.
fn shorten(text: &str) -> Box<str> {
    text::single_line(text).chars().take(MAX_SHOWN_CHARS).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::npm::Algorithm;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};

    struct Signer(EcdsaKeyPair);

    impl Signer {
        fn new() -> Self {
            Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap())
        }

        fn der(&self) -> Vec<u8> {
            [&P256_PREFIX[..26], self.0.public_key().as_ref()].concat()
        }

        fn member(&self, id: &str, expires: Option<&str>) -> Value {
            let kind = "ecdsa-sha2-nistp256";
            json!({ "keyid": id, "keytype": kind, "scheme": kind, "key": STANDARD.encode(self.der()), "expires": expires })
        }

        fn sign(&self, message: &str) -> Vec<u8> {
            self.0.sign(&SystemRandom::new(), message.as_bytes()).unwrap().as_ref().to_vec()
        }
    }

    fn ring(members: &[Value]) -> Result<KeyRing, KeysError> {
        KeyRing::parse(json!({ "keys": members }).to_string().as_bytes(), TrustSource::File)
    }

    /// Verifies signatures of demo@1.0.0, with this publish time.
    fn verify(ring: &KeyRing, published: Option<&str>, signatures: &[(&str, &[u8])]) -> SignatureStatus {
        let (name, integrity) = (PackageName::parse("demo").unwrap(), Digest::of(Algorithm::Sha512, b"demo"));
        let published = published.and_then(timestamp::parse);
        let release = SignedRelease { name: &name, version: "1.0.0", integrity: &integrity, published };
        ring.verify(release, signatures.iter().map(|(key_id, signature)| StatedSignature { key_id, signature }))
    }

    fn message() -> String {
        format!("demo@1.0.0:{}", Digest::of(Algorithm::Sha512, b"demo").to_sri())
    }

    #[test]
    fn bundled_keys_are_usable() {
        let ring = KeyRing::bundled();
        assert_eq!((ring.len(), ring.source), (BUNDLED_KEYS.len(), TrustSource::Bundled));
        assert!(ring.keys[0].ended.is_some() && ring.keys[1].ended.is_none());
    }

    #[test]
    fn signature_is_valid_for_its_name_version_integrity_and_key() {
        let (signer, other) = (Signer::new(), Signer::new());
        let ring = ring(&[signer.member("a", None), other.member("b", None)]).unwrap();
        let signed = signer.sign(&message());
        let status = |signatures: &[(&str, &[u8])]| verify(&ring, None, signatures).as_str();
        assert_eq!(status(&[("a", &signed)]), "valid");
        assert_eq!(status(&[("b", &signed)]), "false");
        assert_eq!(status(&[("c", &signed)]), "unknown-key");
        assert_eq!(status(&[("", &[])]), "unusable");
        assert_eq!(status(&[]), "unsigned");
        for wrong in ["demo@1.0.1:", "demos@1.0.0:", "@1.0.0:"] {
            let sri = Digest::of(Algorithm::Sha512, b"demo").to_sri();
            assert_eq!(status(&[("a", &signer.sign(&format!("{wrong}{sri}")))]), "false", "{wrong}");
        }
        for algorithm in [Algorithm::Sha1, Algorithm::Sha256] {
            let sri = Digest::of(algorithm, b"demo").to_sri();
            assert_eq!(status(&[("a", &signer.sign(&format!("demo@1.0.0:{sri}")))]), "false", "{sri}");
        }
        for junk in [&[][..], &[0x30], &[0; 72], &signed[1..]] {
            assert_eq!(status(&[("a", junk)]), "false");
        }
        // A false signature is not excused by a right one, nor by an unknown one.
        assert_eq!(status(&[("a", &signed), ("b", &signed)]), "false");
        assert_eq!(status(&[("c", &signed), ("b", &signed)]), "false");
        assert_eq!(status(&[("c", &signed), ("a", &signed)]), "valid");
        assert_eq!(verify(&KeyRing::default(), None, &[("a", &signed)]).as_str(), "off");
    }

    #[test]
    fn key_is_valid_for_what_was_published_before_its_end() {
        let signer = Signer::new();
        let ring = ring(&[signer.member("a", Some("2025-01-29T00:00:00.000Z"))]).unwrap();
        let signed = signer.sign(&message());
        let status = |published| verify(&ring, published, &[("a", &signed)]);
        assert_eq!(status(Some("2025-01-28T00:00:00Z")).as_str(), "valid");
        assert_eq!(status(Some("2025-01-30T00:00:00Z")).as_str(), "key-ended");
        // Without a publish time, the key may have been valid then.
        assert_eq!(status(None).as_str(), "valid");
    }

    #[test]
    fn keys_are_read_in_both_forms() {
        let signer = Signer::new();
        let raw = STANDARD.encode(signer.der());
        let target = |usage: &str, end: Value| {
            json!({ "keyId": "a", "keyUsage": usage, "publicKey": {
                "rawBytes": raw, "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": { "start": "1999-01-01T00:00:00Z", "end": end },
            } })
        };
        let read = ring(&[target("npm:signatures", json!("2030-01-01T00:00:00Z")), target("npm:attestations", Value::Null)]);
        let read = read.unwrap();
        assert_eq!((read.len(), read.keys[0].ended), (1, timestamp::parse("2030-01-01T00:00:00Z")));
        assert!(matches!(ring(&[target("npm:attestations", Value::Null)]), Err(KeysError::NoKey)));
    }

    #[test]
    fn files_with_mistakes_are_refused() {
        let (signer, other) = (Signer::new(), Signer::new());
        let edited = |edit: &dyn Fn(&mut Value)| {
            let mut member = signer.member("a", None);
            edit(&mut member);
            ring(&[member]).unwrap_err().to_string()
        };
        assert_eq!(edited(&|member| member["keytype"] = json!("rsa")), "the key is not ECDSA over P-256: `a`");
        assert_eq!(edited(&|member| member["key"] = json!("AAAA")), "the key is not valid: `a`");
        assert_eq!(edited(&|member| member["key"] = json!("?")), "the key is not valid: `a`");
        assert_eq!(edited(&|member| member["expires"] = json!("soon\n")), "the end of the key is not a time: `soon\\n`");
        assert_eq!(edited(&|member| member["keyid"] = json!("")), "a key without a usable `keyid`");
        let p384 = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).unwrap();
        assert_eq!(edited(&|member| member["key"] = json!(STANDARD.encode(p384.public_key()))), "the key is not valid: `a`");
        let repeated = ring(&[signer.member("a", None), other.member("a", None)]).unwrap_err();
        assert_eq!(repeated.to_string(), "two different keys with one name: `a`");
        assert!(ring(&[signer.member("a", None), signer.member("a", None)]).is_ok_and(|ring| ring.len() == 1));
        assert!(matches!(ring(&vec![signer.member("a", None); MAX_KEYS + 1]), Err(KeysError::TooMany)));
        assert!(matches!(KeyRing::parse(&vec![b' '; MAX_KEYS_BYTES + 1], TrustSource::File), Err(KeysError::TooLarge)));
        for document in ["", "[]", "{}", "null", &"[".repeat(5000)] {
            assert!(matches!(KeyRing::parse(document.as_bytes(), TrustSource::File), Err(KeysError::Json(_))), "{document:.9}");
        }
    }

    #[test]
    fn names_of_unknown_keys_are_short_and_one_line() {
        let ring = ring(&[Signer::new().member("a", None)]).unwrap();
        let name = format!("\u{1b}[2J\n{}", "k".repeat(1000));
        let status = verify(&ring, None, &[(&name, &[])]);
        let shown = status.key_id().unwrap();
        assert!(shown.len() <= MAX_SHOWN_CHARS && shown.starts_with("\\u001b[2J\\n"), "{shown}");
    }
}
