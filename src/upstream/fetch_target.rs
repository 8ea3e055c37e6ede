//! Decides which tarball URLs and redirects are allowed, and whether credentials are sent there. Does no I/O.

use std::sync::Arc;

use url::Url;

use crate::net::host_pattern::bare_host;
use crate::net::{AddressScope, HostPattern, remove_credentials};
use crate::upstream::error::UpstreamError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FetchTarget {
    pub(crate) url: Url,
    pub(crate) reach: AddressScope,
    /// Whether it is the registry's own host. Only this host receives a client's own credentials.
    pub(crate) trusted: bool,
    /// Whether credentials were sent at an earlier hop.
    pub(crate) with_credentials: bool,
}

impl FetchTarget {
    pub(crate) fn to_registry(url: Url) -> Self {
        Self { url, reach: AddressScope::Anywhere, trusted: true, with_credentials: false }
    }

    /// Returns the target for the tarball URL `stated` in a manifest, absolute or relative to `registry`.
    ///
    /// A registry behind a TLS-terminating proxy often states `http://` or its inner port. The same host name with another scheme
    /// is therefore the registry, requested at its own scheme and port. `hosts` must allow any other host.
    pub(crate) fn to_tarball(registry: &Url, stated: &str, hosts: &[HostPattern]) -> Result<Self, UpstreamError> {
        let Some(url) = resolve_url(registry, stated) else {
            return Err(UpstreamError::TarballHost { to: name_of_text(stated) });
        };
        if is_same(registry, &url) {
            return Ok(Self::to_registry(url));
        }
        if let Some(reach) = HostPattern::reach_of(hosts, &url) {
            return Ok(Self { url, reach, trusted: false, with_credentials: false });
        }
        if bare_host(registry) == bare_host(&url) && registry.scheme() != url.scheme() {
            return Ok(Self::to_registry(at_origin_of(registry, &url)));
        }
        Err(UpstreamError::TarballHost { to: host(&url) })
    }

    pub(crate) fn redirected(&self, location: &str, hosts: &[HostPattern]) -> Result<Self, UpstreamError> {
        let refused = |to: Arc<str>, detail: &str| UpstreamError::Redirected { host: host(&self.url), to, detail: detail.into() };
        let Some(url) = resolve_url(&self.url, location) else {
            return Err(refused(name_of_text(location), "not an `http` or `https` URL"));
        };
        if self.url.scheme() == "https" && url.scheme() == "http" {
            return Err(refused(host(&url), "a redirect from `https` to `http` is never allowed"));
        }
        if is_same(&self.url, &url) || is_upgrade(&self.url, &url) {
            return Ok(Self { url, ..self.clone() });
        }
        match HostPattern::reach_of(hosts, &url) {
            Some(reach) => Ok(Self { url, reach, trusted: false, with_credentials: self.with_credentials }),
            None => Err(refused(host(&url), "allow the host with `--redirect-host`")),
        }
    }

    /// Returns host and port, for errors.
    pub(crate) fn host(&self) -> Arc<str> {
        host(&self.url)
    }
}

/// Returns host and port of a URL, without the scheme's default port.
pub(crate) fn host(url: &Url) -> Arc<str> {
    let name = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| name.into(), |port| format!("{name}:{port}").into())
}

/// Resolves `text` against `base` to an `http` or `https` URL without credentials and fragment.
fn resolve_url(base: &Url, text: &str) -> Option<Url> {
    let mut url = base.join(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    remove_credentials(&mut url);
    url.set_fragment(None);
    Some(url)
}

/// Checks for the same scheme, host and port.
fn is_same(left: &Url, right: &Url) -> bool {
    left.scheme() == right.scheme()
        && bare_host(left) == bare_host(right)
        && left.port_or_known_default() == right.port_or_known_default()
}

/// Checks for the same host from `http` to `https`, both at default ports.
fn is_upgrade(from: &Url, to: &Url) -> bool {
    (from.scheme(), to.scheme()) == ("http", "https")
        && bare_host(from) == bare_host(to)
        && (from.port(), to.port()) == (None, None)
}

/// Returns `url` with the scheme and port of `registry`, which has the same host.
fn at_origin_of(registry: &Url, url: &Url) -> Url {
    let mut moved = registry.clone();
    moved.set_path(url.path());
    moved.set_query(url.query());
    moved
}

/// Shortens text that is not a URL for an error message.
fn name_of_text(text: &str) -> Arc<str> {
    let shown: String = text.chars().filter(char::is_ascii_graphic).take(80).collect();
    // Text before an `@` could be a password.
    shown.rsplit_once('@').map_or(shown.as_str(), |(_, rest)| rest).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn globs(texts: &[&str]) -> Vec<HostPattern> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn tarball(registry: &str, stated: &str, hosts: &[&str]) -> Result<(String, AddressScope, bool), String> {
        let route = FetchTarget::to_tarball(&url(registry), stated, &globs(hosts)).map_err(|error| error.to_string())?;
        Ok((route.url.to_string(), route.reach, route.trusted))
    }

    #[test]
    fn tarball_url_with_another_scheme_or_port_is_the_registry() {
        let registry = "https://npm.example/api/npm/main/";
        let here = |path: &str| Ok((format!("https://npm.example/{path}"), AddressScope::Anywhere, true));
        assert_eq!(tarball(registry, "https://npm.example/other/prefix/a-1.0.0.tgz", &[]), here("other/prefix/a-1.0.0.tgz"));
        assert_eq!(tarball(registry, "https://NPM.example:443/a.tgz", &[]), here("a.tgz"));
        assert_eq!(tarball(registry, "http://npm.example/a.tgz", &[]), here("a.tgz"));
        assert_eq!(tarball(registry, "http://npm.example:8081/a.tgz?x=1", &[]), here("a.tgz?x=1"));
        assert_eq!(tarball(registry, "https://user:secret@npm.example/a.tgz#top", &[]), here("a.tgz"));
        assert_eq!(tarball(registry, "a/-/a-1.0.0.tgz", &[]), here("api/npm/main/a/-/a-1.0.0.tgz"));
        assert_eq!(tarball(registry, "/a.tgz", &[]), here("a.tgz"));
    }

    #[test]
    fn tarball_on_another_host_must_be_allowed_and_gets_no_credentials() {
        let registry = "http://127.0.0.1:4000/";
        let refused = Err("tarball host is neither upstream nor allowed by `--tarball-host`: `127.0.0.1:5000`".to_owned());
        assert_eq!(tarball(registry, "http://127.0.0.1:5000/a.tgz", &[]), refused);
        assert_eq!(tarball(registry, "http://127.0.0.1:5000/a.tgz", &["127.0.0.1:5001"]), refused);
        let allowed = |reach| Ok(("http://127.0.0.1:5000/a.tgz".to_owned(), reach, false));
        assert_eq!(tarball(registry, "http://127.0.0.1:5000/a.tgz", &["127.0.0.1:5000"]), allowed(AddressScope::Anywhere));
        assert_eq!(tarball(registry, "http://127.0.0.1:5000/a.tgz", &["127.*"]), allowed(AddressScope::Public));
        for text in ["file:///etc/passwd", "ftp://files.example/a.tgz", "data:,x", "http://"] {
            assert!(tarball(registry, text, &["*"]).is_err(), "{text}");
        }
    }

    fn redirect(from: &str, location: &str, hosts: &[&str]) -> Result<(String, AddressScope, bool), String> {
        let route = FetchTarget::to_registry(url(from)).redirected(location, &globs(hosts)).map_err(|error| error.to_string())?;
        Ok((route.url.to_string(), route.reach, route.trusted))
    }

    #[test]
    fn redirect_on_the_same_host_keeps_credentials() {
        assert_eq!(
            redirect("https://a.example/x", "/y", &[]),
            Ok(("https://a.example/y".to_owned(), AddressScope::Anywhere, true))
        );
        assert_eq!(
            redirect("http://a.example/x", "https://a.example/y", &[]),
            Ok(("https://a.example/y".to_owned(), AddressScope::Anywhere, true))
        );
    }

    #[test]
    fn redirect_to_another_host_must_be_allowed_and_loses_credentials() {
        let refused =
            |to: &str, detail: &str| Err(format!("upstream `a.example` redirects to `{to}`, which is not allowed: {detail}"));
        let named = "allow the host with `--redirect-host`";
        assert_eq!(redirect("https://a.example/x", "https://b.example/y", &[]), refused("b.example", named));
        assert_eq!(redirect("https://a.example/x", "https://a.example:8443/y", &[]), refused("a.example:8443", named));
        assert_eq!(
            redirect("https://a.example/x", "//a.example.evil.example/", &["*.b.example"]),
            refused("a.example.evil.example", named)
        );
        let allowed = |reach| Ok(("https://s.b.example/y".to_owned(), reach, false));
        assert_eq!(redirect("https://a.example/x", "https://s.b.example/y", &["*.b.example"]), allowed(AddressScope::Public));
        assert_eq!(
            redirect("https://a.example/x", "https://s.b.example/y", &["*.b.example", "s.b.example"]),
            allowed(AddressScope::Anywhere)
        );
    }

    #[test]
    fn redirect_to_plain_http_or_another_scheme_is_never_allowed() {
        let downgrade = redirect("https://a.example/x", "http://a.example/x", &["*"]).unwrap_err();
        assert!(downgrade.ends_with("a redirect from `https` to `http` is never allowed"), "{downgrade}");
        assert!(redirect("https://a.example/x", "ftp://user:secret@b.example/x", &["*"]).unwrap_err().contains("`b.example/x`"));
    }

    #[test]
    fn credentials_are_not_sent_again_after_another_host() {
        let away = FetchTarget::to_registry(url("https://a.example/x"))
            .redirected("https://b.example/y", &globs(&["b.example"]))
            .unwrap();
        assert!(!away.redirected("/z", &[]).unwrap().trusted);
        assert!(away.redirected("https://a.example/x", &globs(&["b.example"])).is_err());
    }
}
