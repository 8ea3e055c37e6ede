//! Where a tarball's URL or a redirect may lead, and whether credentials go along. Pure: it decides and dials nothing.

use std::sync::Arc;

use url::{ParseError, Url};

use crate::net::AddressScope;
use crate::net::HostPattern;
use crate::net::host_pattern::bare_host;
use crate::upstream::UpstreamError;

/// Where a request goes, and with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FetchTarget {
    pub(crate) url: Url,
    pub(crate) reach: AddressScope,
    /// Whether it is the registry's own host, the only one that is sent a client's own credentials.
    pub(crate) trusted: bool,
    /// Whether credentials were sent on the way here.
    pub(crate) with_credentials: bool,
}

impl FetchTarget {
    /// To the registry itself.
    pub(crate) fn to_registry(url: Url) -> Self {
        Self { url, reach: AddressScope::Anywhere, trusted: true, with_credentials: false }
    }

    /// To the tarball that a manifest places at `stated`, absolute or relative to `registry`.
    ///
    /// A registry behind a TLS-terminating proxy often states `http://` or its inner port: the same host name under another
    /// scheme is the registry, asked at its own scheme and port. Any other place has to be allowed by `hosts`.
    pub(crate) fn to_tarball(registry: &Url, stated: &str, hosts: &[HostPattern]) -> Result<Self, UpstreamError> {
        let Ok(url) = place(registry, stated) else {
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

    /// The next hop after this one's server answered with `location`.
    pub(crate) fn redirected(&self, location: &str, hosts: &[HostPattern]) -> Result<Self, UpstreamError> {
        let refused = |to: Arc<str>, detail: &str| UpstreamError::Redirected { host: host(&self.url), to, detail: detail.into() };
        let Ok(url) = place(&self.url, location) else {
            return Err(refused(name_of_text(location), "that is no `http` or `https` address"));
        };
        if self.url.scheme() == "https" && url.scheme() == "http" {
            return Err(refused(host(&url), "from `https` back to `http`, which no setting allows"));
        }
        if is_same(&self.url, &url) || is_upgrade(&self.url, &url) {
            return Ok(Self { url, ..self.clone() });
        }
        match HostPattern::reach_of(hosts, &url) {
            Some(reach) => Ok(Self { url, reach, trusted: false, with_credentials: self.with_credentials }),
            None => Err(refused(host(&url), "another host has to be named by `--redirect-host`")),
        }
    }

    /// Host and port, for errors.
    pub(crate) fn host(&self) -> Arc<str> {
        host(&self.url)
    }
}

/// Host and port of a URL; the port only where it is not the scheme's own.
pub(crate) fn host(url: &Url) -> Arc<str> {
    let name = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| name.into(), |port| format!("{name}:{port}").into())
}

/// What `text` means under `base`: an `http` or `https` address, without credentials and fragment.
fn place(base: &Url, text: &str) -> Result<Url, ParseError> {
    let mut url = base.join(text)?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(ParseError::RelativeUrlWithoutBase);
    }
    // Neither can fail under these two schemes, which have a host by definition.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_fragment(None);
    Ok(url)
}

/// Same scheme, host and port.
fn is_same(one: &Url, other: &Url) -> bool {
    one.scheme() == other.scheme()
        && bare_host(one) == bare_host(other)
        && one.port_or_known_default() == other.port_or_known_default()
}

/// The same host from `http` to `https`, both at their usual ports.
fn is_upgrade(from: &Url, to: &Url) -> bool {
    (from.scheme(), to.scheme()) == ("http", "https")
        && bare_host(from) == bare_host(to)
        && from.port().is_none()
        && to.port().is_none()
}

/// `url` with the scheme and port of `registry`, whose host it has.
fn at_origin_of(registry: &Url, url: &Url) -> Url {
    let mut moved = registry.clone();
    moved.set_path(url.path());
    moved.set_query(url.query());
    moved
}

/// What stood where an address belonged, fit for one line of a message.
fn name_of_text(text: &str) -> Arc<str> {
    let shown: String = text.chars().filter(char::is_ascii_graphic).take(80).collect();
    // Whatever precedes an `@` could be a password.
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
    fn a_tarball_lies_on_the_registry_however_the_registry_spells_itself() {
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
    fn a_tarball_elsewhere_needs_to_be_allowed_and_goes_without_credentials() {
        let registry = "http://127.0.0.1:4000/";
        let refused =
            Err("the tarball lies on `127.0.0.1:5000`, which is neither upstream nor allowed by `--tarball-host`".to_owned());
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
    fn a_redirect_on_the_same_host_keeps_its_credentials() {
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
    fn a_redirect_elsewhere_needs_to_be_allowed_and_loses_them() {
        let refused =
            |to: &str, detail: &str| Err(format!("upstream `a.example` redirects to `{to}`, which is not allowed: {detail}"));
        let named = "another host has to be named by `--redirect-host`";
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
    fn no_setting_allows_a_way_back_to_plain_http_or_another_scheme() {
        let downgrade = redirect("https://a.example/x", "http://a.example/x", &["*"]).unwrap_err();
        assert!(downgrade.ends_with("from `https` back to `http`, which no setting allows"), "{downgrade}");
        assert!(redirect("https://a.example/x", "ftp://user:secret@b.example/x", &["*"]).unwrap_err().contains("`b.example/x`"));
    }

    #[test]
    fn credentials_that_were_left_behind_stay_behind() {
        let away = FetchTarget::to_registry(url("https://a.example/x"))
            .redirected("https://b.example/y", &globs(&["b.example"]))
            .unwrap();
        assert!(!away.redirected("/z", &[]).unwrap().trusted);
        assert!(away.redirected("https://a.example/x", &globs(&["b.example"])).is_err());
    }
}
