//! The OIDC provider that people sign in with, and the roles that its groups have. Pure.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use globset::{Glob, GlobMatcher};
use serde::Deserialize;
use serde_json::{Map, Value};
use url::Url;

use crate::policy::access::Role;
use crate::policy::access::issuer::{SigningAlgorithm, is_secure, label_of};
use crate::units::quantity;

/// The most roles, globs per role, scopes, and groups of a person that are read.
const MAX_ENTRIES: usize = 100;
const MAX_GROUPS: usize = 2_000;

/// The longest session. A group that a person leaves counts until then.
const MAX_LIFE: Duration = Duration::from_secs(12 * 3600);
const DEFAULT_LIFE: &str = "1h";

/// A provider, and what its people may do.
#[derive(Debug, Clone)]
pub struct SignInProvider {
    /// The exact `iss` claim. The provider's configuration is below this address.
    pub issuer: String,
    pub address: Url,
    pub client_id: String,
    /// The file with the secret of the client; `None` for a public client, which PKCE protects.
    pub secret_file: Option<PathBuf>,
    pub algorithm: SigningAlgorithm,
    pub scopes: Vec<String>,
    pub lasts: Duration,
    label: String,
    groups: String,
    /// The groups of each role, the highest role first.
    roles: Vec<(Role, Vec<GlobMatcher>)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ProviderFile {
    issuer: String,
    client_id: String,
    client_secret_file: Option<PathBuf>,
    algorithm: Option<SigningAlgorithm>,
    #[serde(default = "default_scopes")]
    scopes: Vec<String>,
    label: String,
    #[serde(default = "default_groups")]
    groups: String,
    lasts: Option<String>,
    roles: BTreeMap<String, Vec<String>>,
}

fn default_scopes() -> Vec<String> {
    ["openid", "email", "profile"].map(str::to_owned).to_vec()
}

fn default_groups() -> String {
    "groups".to_owned()
}

impl SignInProvider {
    /// Parses the file of a provider.
    ///
    /// # Errors
    /// Returns a text that names the first mistake.
    pub fn parse_file(text: &str) -> Result<Self, String> {
        let file: ProviderFile = toml::from_str(text).map_err(|error| error.to_string())?;
        let address =
            Url::parse(&file.issuer).ok().filter(|url| is_secure(url) && url.query().is_none() && url.fragment().is_none());
        let Some(address) = address else {
            return Err("`issuer` must be an `https` URL without query".to_owned());
        };
        if file.client_id.is_empty() || !file.scopes.iter().any(|scope| scope == "openid") || file.scopes.len() > MAX_ENTRIES {
            return Err("`client-id` must not be empty, and `scopes` must contain `openid`".to_owned());
        }
        if !file.label.contains('{') {
            return Err("`label` must name a claim, such as `{email}`, so that people are told apart".to_owned());
        }
        let lasts =
            quantity::parse_duration(file.lasts.as_deref().unwrap_or(DEFAULT_LIFE)).map_err(|flaw| format!("`lasts` {flaw}"))?;
        if lasts.is_zero() || lasts > MAX_LIFE {
            return Err("`lasts` must be above zero and at most `12h`".to_owned());
        }
        let roles = file.roles.iter().map(|(role, groups)| parse_role(role, groups));
        let mut roles = roles.collect::<Result<Vec<_>, String>>()?;
        if roles.is_empty() {
            return Err("`roles` must name the groups of at least one role, such as `admin = [\"platform\"]`".to_owned());
        }
        roles.sort_by_key(|(role, _)| std::cmp::Reverse(*role));
        Ok(Self {
            issuer: file.issuer,
            address,
            client_id: file.client_id,
            secret_file: file.client_secret_file,
            algorithm: file.algorithm.unwrap_or(SigningAlgorithm::RS256),
            scopes: file.scopes,
            lasts,
            label: file.label,
            groups: file.groups,
            roles,
        })
    }

    /// Returns the highest role of a person with these claims, if one of the groups has a role.
    pub fn role(&self, claims: &Map<String, Value>) -> Option<Role> {
        let groups: Vec<&str> = match claims.get(&self.groups) {
            Some(Value::String(group)) => vec![group],
            Some(Value::Array(groups)) => groups.iter().take(MAX_GROUPS).filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let has = |globs: &[GlobMatcher]| groups.iter().any(|group| globs.iter().any(|glob| glob.is_match(group)));
        self.roles.iter().find(|(_, globs)| has(globs)).map(|(role, _)| *role)
    }

    /// Returns the label of a person, which the ledger, the log and decisions name. `None` if a claim that it needs is missing, or if
    /// it is an address that the provider has not verified.
    pub fn label(&self, claims: &Map<String, Value>) -> Option<String> {
        let mut named = self.label.split('{').skip(1).filter_map(|part| part.split_once('}').map(|(name, _)| name));
        let is_stated = |name: &str| claims.get(name).is_some_and(|value| value.as_str().is_some_and(|text| !text.is_empty()));
        let is_unverified = self.label.contains("{email}") && claims.get("email_verified") == Some(&Value::Bool(false));
        (named.all(is_stated) && !is_unverified).then(|| label_of(&self.label, claims))
    }
}

fn parse_role(role: &str, groups: &[String]) -> Result<(Role, Vec<GlobMatcher>), String> {
    let known = Role::parse(role)
        .ok_or_else(|| format!("unknown role, expected `client`, `requester`, `approver` or `admin`: `{role}`"))?;
    if groups.is_empty() || groups.len() > MAX_ENTRIES {
        return Err(format!("a role needs 1 to {MAX_ENTRIES} groups: `{role}`"));
    }
    let compile = |group: &String| Glob::new(group).map(|glob| glob.compile_matcher()).map_err(|error| error.to_string());
    Ok((known, groups.iter().map(compile).collect::<Result<_, String>>()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const FILE: &str = "issuer = \"https://id.example\"\nclient-id = \"coldframe\"\nlabel = \"{email}\"\n\
        [roles]\nadmin = [\"platform\"]\napprover = [\"security-*\"]\nclient = [\"staff\"]\n";

    fn claims(json: &Value) -> Map<String, Value> {
        json.as_object().unwrap().clone()
    }

    #[test]
    fn highest_role_of_a_persons_groups_counts() {
        let provider = SignInProvider::parse_file(FILE).unwrap();
        let role = |groups: Value| provider.role(&claims(&json!({ "groups": groups })));
        assert_eq!(role(json!(["staff", "security-web", "x"])), Some(Role::Approver));
        assert_eq!((role(json!(["platform", "staff"])), role(json!("staff"))), (Some(Role::Admin), Some(Role::Client)));
        for none in [
            json!([]),
            json!(["Platform"]),
            json!("platform,staff"),
            json!({ "platform": true }),
            json!([["platform"]]),
            json!(null),
        ] {
            assert_eq!(role(none.clone()), None, "{none}");
        }
    }

    #[test]
    fn label_needs_its_claims_and_a_verified_address() {
        let provider = SignInProvider::parse_file(FILE).unwrap();
        let label = |json: Value| provider.label(&claims(&json));
        assert_eq!(label(json!({ "email": "ada@acme.example" })).as_deref(), Some("ada@acme.example"));
        assert_eq!(label(json!({ "email": "ada@acme.example", "email_verified": true })).as_deref(), Some("ada@acme.example"));
        for none in [
            json!({}),
            json!({ "email": "" }),
            json!({ "email": ["a"] }),
            json!({ "email": "ada@acme.example", "email_verified": false }),
        ] {
            assert_eq!(label(none.clone()), None, "{none}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (from, to, part) in [
            ("https://id.example", "http://id.example", "https"),
            ("{email}", "people", "name a claim"),
            ("admin =", "root =", "unknown role"),
            ("[\"platform\"]", "[]", "groups"),
            ("client-id = \"coldframe\"", "client-id = \"\"", "client-id"),
            ("label", "labels", "labels"),
            ("label", "lasts = \"13h\"\nlabel", "12h"),
            ("label", "scopes = [\"email\"]\nlabel", "openid"),
        ] {
            let error = SignInProvider::parse_file(&FILE.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
