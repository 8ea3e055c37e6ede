//! Issuers of OIDC tokens that CI may exchange for access tokens, and the claims that they must have. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use globset::{GlobBuilder, GlobMatcher};
use serde::Deserialize;
use serde_json::{Map, Value};
use url::Url;

use crate::npm::{Algorithm, Digest};
use crate::policy::access::scope::PackageScope;
use crate::policy::access::{MAX_LABEL_BYTES, Role};
use crate::units::quantity;

/// The most entries of a file, and the most claims of an entry.
const MAX_ISSUERS: usize = 100;
const MAX_CLAIMS: usize = 20;

/// The longest life of an exchanged token. An install is over by then.
const MAX_LIFE: Duration = Duration::from_secs(24 * 3600);
const DEFAULT_LIFE: &str = "1h";

/// Bytes of a hash at the end of a label that could not be written as the claims have it.
const LABEL_HASH_BYTES: usize = 8;

/// How a token may be signed. Algorithms with a shared secret are not among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum SigningAlgorithm {
    RS256,
    ES256,
}

/// Tokens of one issuer that may be exchanged, and for what.
#[derive(Debug, Clone)]
pub struct TrustedIssuer {
    /// The exact `iss` claim.
    pub issuer: String,
    /// A value of the `aud` claim. It says that a token is meant for this server.
    pub audience: String,
    /// Where its keys are, as a JSON Web Key Set.
    pub keys: Url,
    pub algorithm: SigningAlgorithm,
    claims: Vec<(String, Vec<GlobMatcher>)>,
    label: String,
    pub grant: TokenGrant,
}

/// What a token that was exchanged may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenGrant {
    pub role: Role,
    pub scope: PackageScope,
    pub lasts: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IssuerFile {
    #[serde(default)]
    issuer: Vec<WrittenIssuer>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenIssuer {
    issuer: String,
    audience: String,
    keys: Url,
    algorithm: Option<SigningAlgorithm>,
    claims: BTreeMap<String, OneOrMore>,
    label: String,
    role: Option<String>,
    #[serde(default)]
    scopes: Vec<String>,
    lasts: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl TrustedIssuer {
    /// Parses a file of issuers.
    ///
    /// # Errors
    /// Returns a text that names the first invalid entry.
    pub fn parse_file(text: &str) -> Result<Vec<Self>, String> {
        let file: IssuerFile = toml::from_str(text).map_err(|error| error.to_string())?;
        if file.issuer.is_empty() || file.issuer.len() > MAX_ISSUERS {
            return Err(format!("expected 1 to {MAX_ISSUERS} entries `[[issuer]]`"));
        }
        let numbered = (1..).zip(file.issuer);
        numbered.map(|(number, written)| Self::new(written).map_err(|error| format!("issuer {number}: {error}"))).collect()
    }

    fn new(written: WrittenIssuer) -> Result<Self, String> {
        let WrittenIssuer { issuer, audience, keys, algorithm, claims, label, role, scopes, lasts } = written;
        if issuer.is_empty() || audience.is_empty() {
            return Err("`issuer` and `audience` must not be empty".to_owned());
        }
        if !is_secure(&keys) {
            return Err("`keys` must be an `https` URL".to_owned());
        }
        // Every workflow of a public issuer has a valid token, so that the signature alone proves nothing.
        if claims.is_empty() || claims.len() > MAX_CLAIMS {
            return Err(format!("`claims` must name 1 to {MAX_CLAIMS} claims, such as `repository = \"acme/*\"`"));
        }
        let claims = claims.into_iter().map(|(name, globs)| Ok((name, globs.compile()?)));
        let role = role.as_deref().unwrap_or(Role::Client.as_str());
        // Machines never decide.
        let role = Role::parse(role).filter(|role| *role <= Role::Requester);
        let lasts =
            quantity::parse_duration(lasts.as_deref().unwrap_or(DEFAULT_LIFE)).map_err(|flaw| format!("`lasts` {flaw}"))?;
        if lasts.is_zero() || lasts > MAX_LIFE {
            return Err("`lasts` must be above zero and at most `24h`".to_owned());
        }
        Ok(Self {
            issuer,
            audience,
            keys,
            algorithm: algorithm.unwrap_or(SigningAlgorithm::RS256),
            claims: claims.collect::<Result<_, String>>()?,
            label,
            grant: TokenGrant {
                role: role.ok_or("`role` must be `client` or `requester`")?,
                scope: PackageScope::parse(&scopes)?,
                lasts,
            },
        })
    }

    /// Checks whether a token with these claims, whose signature, issuer and audience are valid, may be exchanged.
    pub fn accepts(&self, claims: &Map<String, Value>) -> bool {
        self.claims.iter().all(|(name, globs)| {
            let value = claims.get(name).and_then(claim_text);
            value.is_some_and(|value| globs.iter().any(|glob| glob.is_match(&value)))
        })
    }

    /// Returns the label of the exchanged token.
    pub fn label(&self, claims: &Map<String, Value>) -> String {
        label_of(&self.label, claims)
    }
}

/// Checks whether a URL is `https`, or `http` on this machine.
pub(crate) fn is_secure(url: &Url) -> bool {
    let is_local = || matches!(url.host_str(), Some("127.0.0.1" | "[::1]" | "localhost"));
    url.scheme() == "https" || (url.scheme() == "http" && is_local())
}

/// Fills the `{claim}`s of a label. What a label cannot hold is replaced, and a hash keeps such labels apart.
pub(crate) fn label_of(template: &str, claims: &Map<String, Value>) -> String {
    let mut text = String::new();
    for (at, part) in template.split('{').enumerate() {
        match part.split_once('}').filter(|_| at > 0) {
            Some((name, rest)) => {
                text.push_str(&claims.get(name).and_then(claim_text).unwrap_or_default());
                text.push_str(rest);
            }
            None => text.push_str(part),
        }
    }
    let is_allowed = |letter: char| letter.is_ascii_alphanumeric() || "._-+@/".contains(letter);
    let mut label: String = text.chars().map(|letter| if is_allowed(letter) { letter } else { '-' }).collect();
    if !label.starts_with(|first: char| first.is_ascii_alphabetic()) {
        label.insert_str(0, "ci-");
    }
    if label != text || label.len() > MAX_LABEL_BYTES {
        label.truncate(MAX_LABEL_BYTES - LABEL_HASH_BYTES - 1);
        let hash = Digest::of(Algorithm::Sha256, text.as_bytes()).to_hex();
        label = format!("{label}-{}", &hash[..LABEL_HASH_BYTES]);
    }
    label
}

impl OneOrMore {
    /// Compiles globs over a claim. A `*` stops at a slash, so `acme/*` does not cover `acme/web/other`.
    fn compile(self) -> Result<Vec<GlobMatcher>, String> {
        let globs = match self {
            Self::One(glob) => vec![glob],
            Self::More(globs) => globs,
        };
        if globs.is_empty() || globs.len() > MAX_CLAIMS {
            return Err(format!("a claim needs 1 to {MAX_CLAIMS} globs"));
        }
        let compile = |glob: &String| {
            let compiled = GlobBuilder::new(glob).literal_separator(true).build();
            compiled.map(|glob| glob.compile_matcher()).map_err(|error| error.to_string())
        };
        globs.iter().map(compile).collect()
    }
}

/// Returns the text of a claim that is a single value. Lists and objects match nothing.
fn claim_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::policy::access::check_label;

    const FILE: &str = r#"
        [[issuer]]
        issuer = "https://ci.example"
        audience = "coldframe"
        keys = "https://ci.example/.well-known/jwks"
        label = "{repository}@{ref}"
        scopes = ["@acme/*"]
        claims = { repository = "acme/*", ref = ["refs/heads/main", "refs/tags/v*"], protected = "true" }
    "#;

    fn claims(repository: &str, reference: &str) -> Map<String, Value> {
        let json = json!({ "repository": repository, "ref": reference, "protected": true });
        json.as_object().unwrap().clone()
    }

    #[test]
    fn star_stops_at_a_slash_and_all_claims_must_match() {
        let issuer = TrustedIssuer::parse_file(FILE).unwrap().remove(0);
        assert!(issuer.accepts(&claims("acme/web", "refs/heads/main")) && issuer.accepts(&claims("acme/web", "refs/tags/v1")));
        for (repository, reference) in [
            ("acme/web/evil", "refs/heads/main"),
            ("acme-evil/web", "refs/heads/main"),
            ("ACME/web", "refs/heads/main"),
            ("acme/web", "refs/heads/main-evil"),
            ("acme/web", "refs/tags/v1/evil"),
            ("acme/web", "xrefs/heads/main"),
            ("evil/acme/web", "refs/heads/main"),
        ] {
            assert!(!issuer.accepts(&claims(repository, reference)), "{repository} {reference}");
        }
        let mut without = claims("acme/web", "refs/heads/main");
        without.insert("protected".to_owned(), json!(["true"]));
        assert!(!issuer.accepts(&without), "a list is not its element");
        without.remove("protected");
        assert!(!issuer.accepts(&without));
    }

    #[test]
    fn label_is_valid_whatever_the_claims_hold_and_distinct() {
        let issuer = TrustedIssuer::parse_file(FILE).unwrap().remove(0);
        assert_eq!(issuer.label(&claims("acme/web", "main")), "acme/web@main");
        let long = "x".repeat(100);
        let mut seen = std::collections::BTreeSet::new();
        for (repository, reference) in [
            ("acme/web", "a b"),
            ("acme/web", "a-b"),
            ("acme/web", "a\u{1b}[2J\n"),
            ("7", "7"),
            ("", ""),
            ("acme/web", &long),
            ("acme/web", &format!("{long}y")),
            ("ä", "ö"),
        ] {
            let label = issuer.label(&claims(repository, reference));
            assert!(check_label(&label).is_ok(), "{label}");
            assert!(seen.insert(label.clone()), "{label}");
        }
    }

    #[test]
    fn unsafe_entries_are_rejected() {
        for (from, to, problem) in [
            (
                "claims = { repository = \"acme/*\", ref = [\"refs/heads/main\", \"refs/tags/v*\"], protected = \"true\" }",
                "claims = {}",
                "claims",
            ),
            ("https://ci.example/.well-known/jwks", "http://ci.example/jwks", "https"),
            ("audience = \"coldframe\"", "audience = \"\"", "audience"),
            ("label = ", "role = \"admin\"\nlabel = ", "role"),
            ("label = ", "role = \"approver\"\nlabel = ", "role"),
            ("label = ", "lasts = \"25h\"\nlabel = ", "lasts"),
            ("label = ", "algorithm = \"HS256\"\nlabel = ", "algorithm"),
            ("label = ", "algorithm = \"none\"\nlabel = ", "algorithm"),
            ("label = ", "unknown = 1\nlabel = ", "unknown"),
            ("[\"@acme/*\"]", "[\"[\"]", "issuer 1"),
        ] {
            let error = TrustedIssuer::parse_file(&FILE.replace(from, to)).unwrap_err();
            assert!(error.contains(problem), "{problem}: {error}");
        }
        assert!(TrustedIssuer::parse_file("").is_err());
    }
}
