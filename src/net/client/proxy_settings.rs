//! Selects the outbound proxy of a request from `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, with the usual rules.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::Matcher;

/// The outbound proxies. Clones share them.
///
/// Loopback is never proxied, since a proxy would resolve it to another machine.
#[derive(Clone, Default)]
pub struct ProxySettings(Option<Arc<Matcher>>);

pub(crate) struct ProxyAddress {
    /// `http://host:port/` or `https://host:port/`.
    pub(crate) uri: Uri,
    /// The `Proxy-Authorization` header, if the proxy URL contained credentials.
    pub(crate) authorization: Option<HeaderValue>,
}

/// Why a proxy setting, a variable or key, is invalid. Never contains the value, which may include a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProxySettingError {
    #[error("invalid proxy address in `{setting}`, expected a URL or `host:port`")]
    Address { setting: String },
    #[error("unsupported proxy scheme in `{setting}`, expected `http` or `https`: `{scheme}`")]
    Scheme { setting: String, scheme: String },
}

/// The name of a variable or key, and its value.
type NamedValue<'a> = Option<(&'a str, &'a str)>;

impl ProxySettings {
    pub fn none() -> Self {
        Self(None)
    }

    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Reads the proxy variables with `variable`: upper case first, then lower case. An empty value is treated as missing.
    /// Returns an error if a variable is not an HTTP proxy. Connecting directly instead would be unexpected.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ProxySettingError> {
        let read = |upper: &str| {
            let lower = upper.to_lowercase();
            let found = variable(upper).filter(|value| !value.trim().is_empty()).map(|value| (upper.to_owned(), value));
            found.or_else(|| variable(&lower).filter(|value| !value.trim().is_empty()).map(|value| (lower, value)))
        };
        // A CGI server passes the `Proxy` request header to programs as `HTTP_PROXY`.
        let http = if variable("REQUEST_METHOD").is_some() { None } else { read("HTTP_PROXY") };
        let (https, all, no) = (read("HTTPS_PROXY"), read("ALL_PROXY"), read("NO_PROXY"));
        let https = https.or_else(|| all.clone());
        let http = http.or(all);
        Self::new(borrow(https.as_ref()), borrow(http.as_ref()), no.as_ref().map(|(_, value)| value.as_str()))
    }

    /// Creates settings from the proxies for `https` and `http` requests, each with the name of its setting, and the direct
    /// hosts. `direct` is a comma-separated list of names (with subdomains), addresses and networks. `*` matches every host.
    pub fn new(https: NamedValue<'_>, http: NamedValue<'_>, direct: Option<&str>) -> Result<Self, ProxySettingError> {
        if https.is_none() && http.is_none() {
            return Ok(Self::none());
        }
        for (setting, value) in [https, http].into_iter().flatten() {
            check(setting, value.trim())?;
        }
        let text = |named: NamedValue<'_>| named.map_or("", |(_, value)| value.trim()).to_owned();
        let matcher = Matcher::builder().https(text(https)).http(text(http)).no(direct.unwrap_or_default().to_owned()).build();
        Ok(Self(Some(Arc::new(matcher))))
    }

    /// Returns the proxy for a request to `target`, if any.
    pub(crate) fn of(&self, target: &Uri) -> Option<ProxyAddress> {
        let matcher = self.0.as_deref()?;
        if target.host().is_none_or(is_loopback) {
            return None;
        }
        let found = matcher.intercept(target)?;
        Some(ProxyAddress { uri: found.uri().clone(), authorization: found.basic_auth().cloned() })
    }
}

impl fmt::Debug for ProxySettings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_deref() {
            None => out.write_str("none"),
            Some(matcher) => matcher.fmt(out),
        }
    }
}

fn borrow(named: Option<&(String, String)>) -> NamedValue<'_> {
    named.map(|(name, value)| (name.as_str(), value.as_str()))
}

/// Rejects a value that the matcher would ignore silently.
fn check(setting: &str, value: &str) -> Result<(), ProxySettingError> {
    let matcher = Matcher::builder().all(value.to_owned()).build();
    let probe = Uri::from_static("https://registry.example/");
    let Some(found) = matcher.intercept(&probe) else {
        return Err(ProxySettingError::Address { setting: setting.to_owned() });
    };
    match found.uri().scheme_str() {
        Some("http" | "https") => Ok(()),
        other => Err(ProxySettingError::Scheme { setting: setting.to_owned(), scheme: other.unwrap_or_default().to_owned() }),
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Result<ProxySettings, ProxySettingError> {
        ProxySettings::from_variables(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    fn through(proxies: &ProxySettings, target: &'static str) -> Option<String> {
        proxies.of(&Uri::from_static(target)).map(|proxy| proxy.uri.to_string())
    }

    #[test]
    fn all_proxy_applies_to_schemes_without_a_proxy() {
        let found = proxies(&[("https_proxy", "http://a.example:1"), ("ALL_PROXY", "b.example:2")]).unwrap();
        assert_eq!(through(&found, "https://registry.example/x").as_deref(), Some("http://a.example:1/"));
        assert_eq!(through(&found, "http://registry.example/x").as_deref(), Some("http://b.example:2/"));
    }

    #[test]
    fn no_proxy_and_loopback_connect_directly() {
        let found = proxies(&[("HTTPS_PROXY", "http://a.example:1"), ("NO_PROXY", "corp.example, 10.0.0.0/8")]).unwrap();
        for direct in [
            "https://registry.corp.example/",
            "https://corp.example/",
            "https://10.1.2.3/",
            "https://127.0.0.1:8080/",
            "https://localhost/",
            "https://[::1]/",
        ] {
            assert_eq!(through(&found, direct), None, "{direct}");
        }
        assert!(through(&found, "https://notcorp.example/").is_some());
        assert_eq!(through(&found, "http://registry.example/"), None);
    }

    #[test]
    fn invalid_proxy_error_omits_the_value() {
        let socks = proxies(&[("ALL_PROXY", "socks5://user:hunter2@a.example:1")]).unwrap_err();
        assert_eq!(socks.to_string(), "unsupported proxy scheme in `ALL_PROXY`, expected `http` or `https`: `socks5`");
        let error = proxies(&[("https_proxy", "http://user:hunter2@")]).unwrap_err();
        assert_eq!(error.to_string(), "invalid proxy address in `https_proxy`, expected a URL or `host:port`");
    }

    #[test]
    fn credentials_appear_only_in_the_header() {
        let found = proxies(&[("HTTPS_PROXY", "http://user:p%40ss@a.example:1")]).unwrap();
        let proxy = found.of(&Uri::from_static("https://registry.example/")).unwrap();
        assert_eq!(proxy.authorization.unwrap(), "Basic dXNlcjpwQHNz");
        assert_eq!(proxy.uri, "http://a.example:1/");
        assert!(!format!("{found:?}").contains("p@ss") && !format!("{found:?}").contains("p%40ss"));
    }

    #[test]
    fn cgi_request_cannot_set_the_proxy() {
        let found = proxies(&[("HTTP_PROXY", "http://evil.example:1"), ("REQUEST_METHOD", "GET")]).unwrap();
        assert_eq!(through(&found, "http://registry.example/"), None);
    }
}
