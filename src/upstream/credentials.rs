//! Credentials for registries, and the rules for the URLs that they are sent to. `Debug` output never contains a secret.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use percent_encoding::{percent_decode, percent_decode_str};
use url::Url;

/// An `Authorization` header value for a registry, marked as sensitive.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials(pub(crate) HeaderValue);

/// Why credentials cannot be sent. Never contains them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    #[error("a token or password contains a character that is invalid in a header")]
    Characters,
    /// npm stores passwords as base64.
    #[error("`_password` is not base64")]
    Password,
}

impl Credentials {
    /// Creates credentials from a token: npm's `_authToken`.
    ///
    /// # Errors
    /// Returns an error if it is not valid in a header, as do the other constructors.
    pub fn bearer(token: &str) -> Result<Self, CredentialsError> {
        Self::header(&format!("Bearer {token}"))
    }

    /// Creates credentials from `user:password` as base64: npm's `_auth`.
    pub(crate) fn basic_encoded(auth: &str) -> Result<Self, CredentialsError> {
        Self::header(&format!("Basic {auth}"))
    }

    pub(crate) fn basic(username: &str, password: &str) -> Result<Self, CredentialsError> {
        Self::basic_encoded(&STANDARD.encode(format!("{username}:{password}")))
    }

    /// Creates credentials from npm's `username` and `_password`, the latter as base64.
    pub(crate) fn from_npm(username: &str, password: &str) -> Result<Self, CredentialsError> {
        let password = STANDARD.decode(password.trim()).map_err(|_| CredentialsError::Password)?;
        Self::basic(username, &String::from_utf8_lossy(&password))
    }

    /// Returns the credentials in a URL (`https://user:password@host/`), if any.
    pub(crate) fn from_url(url: &Url) -> Result<Option<Self>, CredentialsError> {
        if url.username().is_empty() && url.password().is_none() {
            return Ok(None);
        }
        let clear = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        Self::basic(&clear(url.username()), &clear(url.password().unwrap_or_default())).map(Some)
    }

    fn header(text: &str) -> Result<Self, CredentialsError> {
        let mut value = HeaderValue::from_str(text).map_err(|_| CredentialsError::Characters)?;
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

/// Credentials by URL prefix. Keys have npm's form `host[:port]/path/`, without a scheme.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CredentialRules(Arc<BTreeMap<Box<str>, Credentials>>);

impl CredentialRules {
    /// Adds or replaces the credentials for `level`, the text between `//` and the last colon of a key in `.npmrc`.
    pub(crate) fn insert(&mut self, level: &str, credentials: Credentials) {
        Arc::make_mut(&mut self.0).insert(level.into(), credentials);
    }

    /// Returns the credentials of the longest key that is a prefix of `url`. A key matches whole path segments: `host/npm` does
    /// not match `host/npm-other`. Ambiguous paths match no key, because a server may resolve them differently.
    pub fn for_url(&self, url: &Url) -> Option<&Credentials> {
        if self.0.is_empty() || is_ambiguous(url.path()) {
            return None;
        }
        let level = level_of(url);
        let covers = |key: &str| {
            let rest = level.strip_prefix(key);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || key.ends_with('/'))
        };
        self.0.iter().filter(|(key, _)| covers(key)).max_by_key(|(key, _)| key.len()).map(|(_, credentials)| credentials)
    }

    pub(crate) fn addresses(&self, scheme: &str) -> impl Iterator<Item = Url> {
        self.0.keys().filter_map(move |key| Url::parse(&format!("{scheme}://{key}")).ok())
    }
}

impl fmt::Debug for CredentialRules {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_set().entries(self.0.keys()).finish()
    }
}

/// Converts a URL to npm's form of a key: host, port if it is not the scheme's default, path.
pub(crate) fn level_of(url: &Url) -> String {
    format!("{}{}", &url[url::Position::BeforeHost..url::Position::AfterPort], url.path())
}

/// How many times a server may decode a path before it resolves dot segments.
const DECODINGS: usize = 3;

/// Checks whether a server may resolve `path` to another one. This is so for encoded dot segments, dot segments after an encoded
/// slash or a backslash, and dot segments with parameters, which some servers remove first.
pub(crate) fn is_ambiguous(path: &str) -> bool {
    let is_dots = |segment: &[u8]| {
        let bare = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        matches!(bare, b"." | b"..")
    };
    if !path.contains(['%', ';', '\\']) {
        return false;
    }
    let mut decoded = path.as_bytes().to_vec();
    for _ in 0..=DECODINGS {
        if decoded.split(|byte| matches!(byte, b'/' | b'\\')).any(is_dots) {
            return true;
        }
        let next: Vec<u8> = percent_decode(&decoded).collect();
        if next == decoded {
            return false;
        }
        decoded = next;
    }
    // Encoded more often than any client does.
    true
}

impl fmt::Debug for Credentials {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Credentials(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_of_npm_credentials_become_a_header() {
        assert_eq!(Credentials::bearer("t0k").unwrap().0, "Bearer t0k");
        assert_eq!(Credentials::basic_encoded("dTpw").unwrap().0, "Basic dTpw");
        assert_eq!(Credentials::from_npm("u", "cA==").unwrap().0, "Basic dTpw");
        let url = Url::parse("https://u:p%40@registry.example/").unwrap();
        assert_eq!(Credentials::from_url(&url).unwrap().unwrap().0, "Basic dTpwQA==");
        assert_eq!(Credentials::from_url(&Url::parse("https://registry.example/").unwrap()).unwrap(), None);
    }

    fn rules(keys: &[&str]) -> CredentialRules {
        let mut rules = CredentialRules::default();
        for key in keys {
            rules.insert(key, Credentials::bearer(key).unwrap());
        }
        rules
    }

    fn key_for(rules: &CredentialRules, url: &str) -> Option<String> {
        let credentials = rules.for_url(&Url::parse(url).unwrap())?;
        Some(credentials.0.to_str().unwrap().trim_start_matches("Bearer ").to_owned())
    }

    #[test]
    fn longest_configured_prefix_decides_which_credentials_are_sent() {
        let rules = rules(&[
            "git.example/api/v4/packages/npm/",
            "git.example/api/v4/projects/7/packages/npm/",
            "npm.example/npm",
            "a.example:8443/",
        ]);
        for (url, key) in [
            ("https://git.example/api/v4/packages/npm/@acme%2fui", Some("git.example/api/v4/packages/npm/")),
            (
                "https://git.example/api/v4/projects/7/packages/npm/@acme/ui/-/a.tgz",
                Some("git.example/api/v4/projects/7/packages/npm/"),
            ),
            ("https://git.example/api/v4/projects/8/packages/npm/@acme/ui/-/a.tgz", None),
            ("https://GIT.example:443/api/v4/packages/npm/ui?x=1#y", Some("git.example/api/v4/packages/npm/")),
            ("https://git.example:8443/api/v4/packages/npm/ui", None),
            ("https://npm.example/npm", Some("npm.example/npm")),
            ("https://npm.example/npm/ui", Some("npm.example/npm")),
            ("https://npm.example/npm-evil/ui", None),
            ("https://npm.example/NPM/ui", None),
            ("https://npm.example//npm/ui", None),
            ("https://npm.example.evil.example/npm/ui", None),
            ("https://npm.example@evil.example/npm/ui", None),
            ("https://npm.example./npm/ui", None),
            ("https://a.example:8443/x", Some("a.example:8443/")),
            ("https://a.example/x", None),
        ] {
            assert_eq!(key_for(&rules, url).as_deref(), key, "{url}");
        }
        let rules = self::rules(&["h.example/", "h.example/a/", "h.example/a/b"]);
        assert_eq!(key_for(&rules, "https://h.example/a/b/c").as_deref(), Some("h.example/a/b"));
        assert_eq!(key_for(&rules, "https://h.example/a/bc").as_deref(), Some("h.example/a/"));
    }

    #[test]
    fn ambiguous_path_gets_no_credentials() {
        let rules = rules(&["h.example/npm/"]);
        for path in [
            "/npm/../evil/x",
            "/npm/%2e%2e/evil/x",
            "/npm/%2e./evil/x",
            "/npm/..%2fevil/x",
            "/npm/%2e%2e%2fevil/x",
            "/npm/..%5cevil/x",
            "/npm/..\\evil/x",
            "/npm/%252e%252e%252fevil/x",
            "/npm/%25252e%25252e/evil/x",
            "/npm/%2525252e%2525252e/evil/x",
            "/npm/..;/evil/x",
            "/npm/..;a=b/evil/x",
            "/npm/%2e%2e;/evil/x",
        ] {
            assert_eq!(key_for(&rules, &format!("https://h.example{path}")), None, "{path}");
        }
        for path in ["/npm/@acme%2fui", "/npm/@acme%2Fui/-/ui-1.0.0%2Bbuild.tgz", "/npm/a%20b", "/npm/a;b", "/npm/x/../y"] {
            assert!(key_for(&rules, &format!("https://h.example{path}")).is_some(), "{path}");
        }
    }

    #[test]
    fn debug_output_of_rules_has_no_secrets() {
        let mut rules = CredentialRules::default();
        rules.insert("h.example/npm/", Credentials::bearer("t0k").unwrap());
        let shown = format!("{rules:?}");
        assert!(shown.contains("h.example/npm/") && !shown.contains("t0k"), "{shown}");
    }

    #[test]
    fn invalid_credentials_are_rejected_and_not_shown() {
        assert_eq!(Credentials::bearer("a\r\nb: c").unwrap_err(), CredentialsError::Characters);
        assert_eq!(Credentials::from_npm("u", "%").unwrap_err(), CredentialsError::Password);
        let shown = format!("{:?}", Credentials::bearer("t0k").unwrap());
        assert!(!shown.contains("t0k"), "{shown}");
    }
}
