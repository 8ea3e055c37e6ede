//! Which outbound proxy a request goes through: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` as other programs
//! read them. Refuses to know how a proxy is spoken to.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::Matcher;

/// The outbound proxies in force; clones share them.
///
/// Loopback is never proxied: on the far side of a proxy it would be another machine.
#[derive(Clone, Default)]
pub struct ProxySettings(Option<Arc<Matcher>>);

/// One proxy, for one request.
pub(crate) struct ProxyAddress {
    /// `http://host:port/` or `https://host:port/`.
    pub(crate) uri: Uri,
    /// Its `Proxy-Authorization`, if its address held credentials.
    pub(crate) authorization: Option<HeaderValue>,
}

/// What is wrong with a proxy setting. Never holds the value: that may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProxySettingError {
    /// Neither a URL nor `host:port`.
    #[error("the value of `{setting}` is not the address of a proxy")]
    Address {
        /// The variable or the key.
        setting: String,
    },
    /// Something else than an HTTP proxy.
    #[error("`{setting}` names a `{scheme}` proxy; http and https ones are spoken to")]
    Scheme {
        /// The variable or the key.
        setting: String,
        /// The scheme.
        scheme: String,
    },
}

/// A setting and where it came from: its variable, or its key.
type NamedValue<'a> = Option<(&'a str, &'a str)>;

impl ProxySettings {
    /// No proxy at all.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// Whether there is none for anything.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// As the variables say that `variable` looks up: upper case first, then lower case; empty is as good as missing.
    ///
    /// # Errors
    /// When a variable holds something that is not an HTTP proxy: going direct instead would surprise.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ProxySettingError> {
        let read = |upper: &str| {
            let lower = upper.to_lowercase();
            let found = variable(upper).filter(|value| !value.trim().is_empty()).map(|value| (upper.to_owned(), value));
            found.or_else(|| variable(&lower).filter(|value| !value.trim().is_empty()).map(|value| (lower, value)))
        };
        // A CGI server hands a request's `Proxy` header to its programs as `HTTP_PROXY`.
        let http = if variable("REQUEST_METHOD").is_some() { None } else { read("HTTP_PROXY") };
        let (https, all, no) = (read("HTTPS_PROXY"), read("ALL_PROXY"), read("NO_PROXY"));
        let https = https.or_else(|| all.clone());
        let http = http.or(all);
        Self::new(borrow(https.as_ref()), borrow(http.as_ref()), no.as_ref().map(|(_, value)| value.as_str()))
    }

    /// The proxies for `https` and `http` requests, each with the name of its setting, and the hosts that are asked
    /// directly: names with their subdomains, addresses and networks, comma-separated; `*` is every host.
    ///
    /// # Errors
    /// When a value is not an HTTP proxy.
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

    /// The proxy of a request to `target`, if it has one.
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

/// The matcher drops what it does not understand; whoever set it meant something.
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
    fn each_scheme_has_its_proxy_and_all_proxy_fills_in() {
        let found = proxies(&[("https_proxy", "http://a.example:1"), ("ALL_PROXY", "b.example:2")]).unwrap();
        assert_eq!(through(&found, "https://registry.example/x").as_deref(), Some("http://a.example:1/"));
        assert_eq!(through(&found, "http://registry.example/x").as_deref(), Some("http://b.example:2/"));
    }

    #[test]
    fn no_proxy_and_loopback_go_direct() {
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
    fn what_is_no_http_proxy_is_a_mistake_told_without_its_value() {
        let socks = proxies(&[("ALL_PROXY", "socks5://user:hunter2@a.example:1")]).unwrap_err();
        assert_eq!(socks.to_string(), "`ALL_PROXY` names a `socks5` proxy; http and https ones are spoken to");
        let wrong = proxies(&[("https_proxy", "http://user:hunter2@")]).unwrap_err();
        assert_eq!(wrong.to_string(), "the value of `https_proxy` is not the address of a proxy");
    }

    #[test]
    fn credentials_reach_the_header_and_nothing_else() {
        let found = proxies(&[("HTTPS_PROXY", "http://user:p%40ss@a.example:1")]).unwrap();
        let proxy = found.of(&Uri::from_static("https://registry.example/")).unwrap();
        assert_eq!(proxy.authorization.unwrap(), "Basic dXNlcjpwQHNz");
        assert_eq!(proxy.uri, "http://a.example:1/");
        assert!(!format!("{found:?}").contains("p@ss") && !format!("{found:?}").contains("p%40ss"));
    }

    #[test]
    fn a_cgi_request_cannot_set_the_proxy() {
        let found = proxies(&[("HTTP_PROXY", "http://evil.example:1"), ("REQUEST_METHOD", "GET")]).unwrap();
        assert_eq!(through(&found, "http://registry.example/"), None);
    }
}
