//! Verifies OIDC tokens of trusted issuers: signature, issuer, audience and times. Pure: keys and the instant are arguments.

use jiff::Timestamp;
use jsonwebtoken::jwk::{Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::policy::access::issuer::{SigningAlgorithm, TrustedIssuer};
use crate::server::error::JwtError;
use crate::text::json_error;

/// The longest token. Those of CI systems are below 4 kB.
pub(crate) const MAX_JWT_BYTES: usize = 16 << 10;

/// How far clocks of issuers may differ, in seconds.
const LEEWAY: i64 = 60;

/// The most keys of a set. Issuers have a handful.
const MAX_KEYS: usize = 100;

/// The keys of an issuer.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeySet(Vec<Jwk>);

/// What a token must say of itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExpectedToken<'a> {
    pub(crate) issuer: &'a str,
    pub(crate) audience: &'a str,
    pub(crate) algorithm: SigningAlgorithm,
}

impl<'a> From<&'a TrustedIssuer> for ExpectedToken<'a> {
    fn from(issuer: &'a TrustedIssuer) -> Self {
        Self { issuer: &issuer.issuer, audience: &issuer.audience, algorithm: issuer.algorithm }
    }
}

/// What a token says of itself, before anything is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnverifiedJwt {
    pub(crate) issuer: String,
    pub(crate) audiences: Vec<String>,
    pub(crate) key_id: String,
}

#[derive(Deserialize)]
struct UnverifiedClaims {
    iss: String,
    aud: Audiences,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    More(Vec<String>),
}

impl KeySet {
    /// Parses a JSON Web Key Set. Keys of other types are left out.
    pub(crate) fn parse(document: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct WrittenKeys {
            keys: Vec<Value>,
        }
        let written: WrittenKeys = serde_json::from_slice(document).map_err(|error| json_error(&error))?;
        let keys = written.keys.into_iter().take(MAX_KEYS).filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
        Ok(Self(keys.collect()))
    }

    /// Returns the only key with an id that is for signatures.
    pub(crate) fn find(&self, key_id: &str) -> Option<&Jwk> {
        let is_meant = |key: &&Jwk| {
            let is_for_signatures = matches!(key.common.public_key_use, None | Some(PublicKeyUse::Signature));
            key.common.key_id.as_deref() == Some(key_id) && is_for_signatures
        };
        let mut found = self.0.iter().filter(is_meant);
        found.next().filter(|_| found.next().is_none())
    }
}

impl UnverifiedJwt {
    /// Reads the parts of a token that select its issuer and key.
    pub(crate) fn parse(jwt: &str) -> Result<Self, JwtError> {
        if jwt.len() > MAX_JWT_BYTES {
            return Err(JwtError::Malformed);
        }
        let header = jsonwebtoken::decode_header(jwt).map_err(|_| JwtError::Malformed)?;
        let claims = selecting_claims(jwt)?;
        // A critical extension must be understood, and none is.
        let key_id = header.kid.filter(|_| header.crit.is_none()).ok_or(JwtError::Malformed)?;
        let audiences = match claims.aud {
            Audiences::One(audience) => vec![audience],
            Audiences::More(audiences) => audiences,
        };
        Ok(Self { issuer: claims.iss, audiences, key_id })
    }

    /// Checks whether a token claims to be from an issuer, and meant for this server.
    pub(crate) fn is_for(&self, issuer: &TrustedIssuer) -> bool {
        self.is_expected(&issuer.into())
    }

    pub(crate) fn is_expected(&self, expected: &ExpectedToken<'_>) -> bool {
        self.issuer == expected.issuer && self.audiences.iter().any(|audience| audience == expected.audience)
    }
}

/// Returns the claims of an expected token that is signed with `key`.
pub(crate) fn verify(jwt: &str, expected: &ExpectedToken<'_>, key: &Jwk, now: Timestamp) -> Result<Map<String, Value>, JwtError> {
    let (algorithm, of_key) = match expected.algorithm {
        SigningAlgorithm::RS256 => (Algorithm::RS256, KeyAlgorithm::RS256),
        SigningAlgorithm::ES256 => (Algorithm::ES256, KeyAlgorithm::ES256),
    };
    let header = jsonwebtoken::decode_header(jwt).map_err(|_| JwtError::Malformed)?;
    if header.alg != algorithm || key.common.key_algorithm.is_some_and(|stated| stated != of_key) {
        return Err(JwtError::Algorithm);
    }
    // Times and names are checked below, by our clock and exactly.
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
    let key = DecodingKey::from_jwk(key).map_err(|_| JwtError::UnknownKey)?;
    let verified = jsonwebtoken::decode::<Map<String, Value>>(jwt, &key, &validation).map_err(|_| JwtError::Signature)?;
    let claims = verified.claims;
    if !UnverifiedJwt::parse(jwt)?.is_expected(expected) {
        return Err(JwtError::Untrusted);
    }
    let instant = |name: &str| claims.get(name).map(|value| value.as_f64().unwrap_or(f64::NAN));
    #[expect(clippy::cast_precision_loss, reason = "seconds of this millennium are exact")]
    let (late, early) = ((now.as_second() - LEEWAY) as f64, (now.as_second() + LEEWAY) as f64);
    // A time that is no number compares as false, and is refused.
    if !instant("exp").is_some_and(|expires| expires > late) {
        return Err(JwtError::Expired);
    }
    if ["nbf", "iat"].into_iter().filter_map(instant).any(|start| start.is_nan() || start > early) {
        return Err(JwtError::NotYet);
    }
    Ok(claims)
}

/// Returns the claims that select an issuer.
fn selecting_claims(jwt: &str) -> Result<UnverifiedClaims, JwtError> {
    jsonwebtoken::dangerous::insecure_decode_claims(jwt).map_err(|_| JwtError::Malformed)
}

#[cfg(test)]
pub(crate) mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::rsa::{KeyPair, KeySize, PublicKeyComponents};
    use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    use super::*;

    /// A key of an issuer, and the set that it publishes.
    pub(crate) struct TestIssuer {
        key: KeyPair,
    }

    impl TestIssuer {
        pub(crate) fn new() -> Self {
            Self { key: KeyPair::generate(KeySize::Rsa2048).unwrap() }
        }

        pub(crate) fn jwk(&self, key_id: &str) -> Value {
            let public = self.key.public_key();
            let PublicKeyComponents { n, e } = PublicKeyComponents::<Vec<u8>>::from(public);
            let coded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
            json!({ "kty": "RSA", "kid": key_id, "use": "sig", "alg": "RS256", "n": coded(&n), "e": coded(&e) })
        }

        pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
            let coded = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
            let message = format!("{}.{}", coded(header), coded(claims));
            let mut signature = vec![0; self.key.public_modulus_len()];
            self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
            format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
        }
    }

    fn issuer() -> TrustedIssuer {
        let file = "[[issuer]]\nissuer = \"https://ci.example\"\naudience = \"coldframe\"\nkeys = \"https://ci.example/jwks\"\n\
                    label = \"ci\"\nclaims = { sub = \"a\" }\n";
        TrustedIssuer::parse_file(file).unwrap().remove(0)
    }

    fn claims() -> Value {
        json!({ "iss": "https://ci.example", "aud": "coldframe", "sub": "a", "exp": 1_000, "iat": 400, "nbf": 400 })
    }

    fn check(signer: &TestIssuer, header: &Value, claims: &Value, key: &Value, now: i64) -> Result<(), JwtError> {
        let keys = KeySet::parse(json!({ "keys": [key] }).to_string().as_bytes()).unwrap();
        let jwt = signer.sign(header, claims);
        let unverified = UnverifiedJwt::parse(&jwt)?;
        let key = keys.find(&unverified.key_id).ok_or(JwtError::UnknownKey)?;
        verify(&jwt, &(&issuer()).into(), key, Timestamp::from_second(now).unwrap()).map(drop)
    }

    fn header() -> Value {
        json!({ "typ": "JWT", "alg": "RS256", "kid": "k1" })
    }

    fn with(mut base: Value, name: &str, value: Value) -> Value {
        base[name] = value;
        base
    }

    #[test]
    fn only_a_token_of_the_issuer_for_this_server_is_accepted() {
        let (signer, other) = (TestIssuer::new(), TestIssuer::new());
        let key = signer.jwk("k1");
        let of = |claims: &Value| check(&signer, &header(), claims, &key, 500);
        assert_eq!(of(&claims()), Ok(()));
        assert_eq!(of(&with(claims(), "aud", json!(["other", "coldframe"]))), Ok(()));
        for (name, value) in [
            ("iss", json!("https://ci.example/")),
            ("iss", json!("https://evil.example")),
            ("aud", json!("coldframe2")),
            ("aud", json!([])),
        ] {
            assert_eq!(of(&with(claims(), name, value.clone())), Err(JwtError::Untrusted), "{name} {value}");
        }
        for (name, value) in [("iss", json!(7)), ("iss", Value::Null), ("aud", Value::Null), ("aud", json!({ "a": 1 }))] {
            assert_eq!(of(&with(claims(), name, value.clone())), Err(JwtError::Malformed), "{name} {value}");
        }
        assert_eq!(check(&signer, &header(), &claims(), &other.jwk("k1"), 500), Err(JwtError::Signature));
        assert_eq!(check(&signer, &header(), &claims(), &signer.jwk("k2"), 500), Err(JwtError::UnknownKey));
        let encrypts = with(key.clone(), "use", json!("enc"));
        assert_eq!(check(&signer, &header(), &claims(), &encrypts, 500), Err(JwtError::UnknownKey));
    }

    #[test]
    fn algorithm_and_extensions_are_not_chosen_by_the_token() {
        let signer = TestIssuer::new();
        let key = signer.jwk("k1");
        for (header, expected) in [
            (with(header(), "alg", json!("RS512")), JwtError::Algorithm),
            (with(header(), "alg", json!("HS256")), JwtError::Algorithm),
            (with(header(), "alg", json!("ES256")), JwtError::Algorithm),
            (with(header(), "alg", json!("none")), JwtError::Malformed),
            (json!({ "alg": "RS256" }), JwtError::Malformed),
            (with(header(), "crit", json!(["x"])), JwtError::Malformed),
        ] {
            assert_eq!(check(&signer, &header, &claims(), &key, 500), Err(expected), "{header}");
        }
        // A key in the header is not used.
        let other = TestIssuer::new();
        let header = with(header(), "jwk", other.jwk("k1"));
        assert_eq!(check(&other, &header, &claims(), &key, 500), Err(JwtError::Signature));
        let stated = with(key, "alg", json!("RS512"));
        assert_eq!(check(&signer, &self::header(), &claims(), &stated, 500), Err(JwtError::Algorithm));
    }

    #[test]
    fn times_are_judged_by_our_clock_with_leeway() {
        let signer = TestIssuer::new();
        let key = signer.jwk("k1");
        let at = |claims: &Value, now: i64| check(&signer, &header(), claims, &key, now);
        assert_eq!((at(&claims(), 1_059), at(&claims(), 1_060)), (Ok(()), Err(JwtError::Expired)));
        assert_eq!((at(&claims(), 340), at(&claims(), 339)), (Ok(()), Err(JwtError::NotYet)));
        for value in [Value::Null, json!("1000"), json!([]), json!(-1)] {
            assert_eq!(at(&with(claims(), "exp", value.clone()), 500), Err(JwtError::Expired), "{value}");
        }
        assert_eq!(at(&with(claims(), "nbf", json!("0")), 500), Err(JwtError::NotYet));
    }

    #[test]
    fn malformed_tokens_are_refused() {
        let signer = TestIssuer::new();
        let jwt = signer.sign(&header(), &claims());
        let long = format!("{jwt}{}", "x".repeat(MAX_JWT_BYTES));
        for text in ["", ".", "..", "a.b.c", &jwt[1..], &long, "e30.e30."] {
            assert_eq!(UnverifiedJwt::parse(text), Err(JwtError::Malformed), "{text}");
        }
        assert!(KeySet::parse(b"{}").is_err() && KeySet::parse(b"").is_err());
        let odd = json!({ "keys": [{ "kty": "oct", "kid": "k1", "k": "AA" }, { "kid": "k1" }, 7] });
        let keys = KeySet::parse(odd.to_string().as_bytes()).unwrap();
        let symmetric = keys.find("k1").map(|key| verify(&jwt, &(&issuer()).into(), key, Timestamp::from_second(500).unwrap()));
        assert!(symmetric.is_none_or(|verified| verified.is_err()));
        let twice = json!({ "keys": [signer.jwk("k1"), signer.jwk("k1")] });
        assert!(KeySet::parse(twice.to_string().as_bytes()).unwrap().find("k1").is_none(), "an ambiguous key is none");
    }
}
