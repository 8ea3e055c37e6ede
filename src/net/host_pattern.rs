//! Host patterns that an operator allows besides the registry, such as `*.storage.example` or `files.example:8443`.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use globset::{GlobBuilder, GlobMatcher};
use url::Url;

use crate::net::address::AddressScope;

/// A host, or a pattern in which `*` matches any characters including dots. With a port, it matches only that port.
///
/// An exact host may have any address, also a private one, since the operator named it. A host matched by a pattern must have a
/// public address, since upstream chose the host.
#[derive(Debug, Clone)]
pub struct HostPattern {
    written: Box<str>,
    /// `None` for an exact host.
    pattern: Option<GlobMatcher>,
    host: Box<str>,
    /// The only allowed port, if one is named.
    pub(crate) port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostPatternError {
    /// A URL, a path, an invalid character or an empty value.
    #[error("invalid host, expected for example `files.example`, `*.files.example` or `files.example:8443`: `{0}`")]
    Host(String),
    #[error("invalid port, expected a number from 1 to 65535: `{0}`")]
    Port(String),
}

impl FromStr for HostPattern {
    type Err = HostPatternError;

    fn from_str(text: &str) -> Result<Self, HostPatternError> {
        let written = text.trim();
        let invalid = || HostPatternError::Host(written.escape_debug().to_string());
        let (host, port) = split(written).ok_or_else(invalid)?;
        let to_port = |digits: &str| {
            let port = digits.parse().ok().filter(|port| *port != 0);
            port.ok_or_else(|| HostPatternError::Port(digits.escape_debug().to_string()))
        };
        let port = port.map(to_port).transpose()?;
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let v6 = host.starts_with('[');
        let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'*');
        if host.is_empty() || !(v6 || host.bytes().all(is_valid)) {
            return Err(invalid());
        }
        let glob = host.contains('*').then(|| GlobBuilder::new(&host).build()).transpose().map_err(|_| invalid())?;
        let pattern = glob.map(|glob| glob.compile_matcher());
        Ok(Self { written: written.into(), pattern, host: host.into(), port })
    }
}

impl HostPattern {
    /// Returns the addresses that a request to `url` may reach, if the pattern matches its host.
    pub fn reach(&self, url: &Url) -> Option<AddressScope> {
        let host = bare_host(url)?;
        if self.port.is_some() && self.port != url.port_or_known_default() {
            return None;
        }
        match &self.pattern {
            None => (*self.host == *host).then_some(AddressScope::Anywhere),
            Some(pattern) => pattern.is_match(&host).then_some(AddressScope::Public),
        }
    }

    /// Returns the exact host in lower case, or `None` for a pattern.
    pub fn host(&self) -> Option<&str> {
        self.pattern.is_none().then_some(&*self.host)
    }

    /// Returns the widest scope that any of `globs` allows for `url`.
    pub(crate) fn reach_of(globs: &[Self], url: &Url) -> Option<AddressScope> {
        globs.iter().filter_map(|glob| glob.reach(url)).max_by_key(|reach| *reach == AddressScope::Anywhere)
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.written)
    }
}

impl PartialEq for HostPattern {
    fn eq(&self, other: &Self) -> bool {
        (&self.host, self.port) == (&other.host, other.port)
    }
}

impl Eq for HostPattern {}

/// Returns the host of a URL in canonical form: lower case (by the parser), no trailing dot, IPv6 in brackets.
pub(crate) fn bare_host(url: &Url) -> Option<String> {
    url.host_str().map(|host| host.trim_end_matches('.').to_owned()).filter(|host| !host.is_empty())
}

/// Removes user name and password. A URL without a host has none.
pub fn remove_credentials(url: &mut Url) {
    // Both fail only for a URL without a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
}

/// Splits host and port. An IPv6 address must have brackets and keeps them.
fn split(text: &str) -> Option<(String, Option<&str>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let address: Ipv6Addr = address.parse().ok()?;
        let port = if port.is_empty() { None } else { Some(port.strip_prefix(':')?) };
        return Some((format!("[{address}]"), port));
    }
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    Some((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(glob: &str, url: &str) -> Option<AddressScope> {
        glob.parse::<HostPattern>().unwrap().reach(&Url::parse(url).unwrap())
    }

    #[test]
    fn exact_host_may_be_private_and_pattern_may_not() {
        assert_eq!(reach("Files.example", "https://files.example./x"), Some(AddressScope::Anywhere));
        assert_eq!(reach("*.files.example", "https://a.b.files.example/x"), Some(AddressScope::Public));
        assert_eq!(reach("*.files.example", "https://files.example/x"), None);
        assert_eq!(reach("files.example", "https://evil.example/files.example"), None);
        assert_eq!(reach("*.files.example", "https://x.files.example.evil.example/"), None);
        assert_eq!(reach("10.0.0.7:9000", "http://10.0.0.7:9000/x"), Some(AddressScope::Anywhere));
        assert_eq!(reach("[0:0::1]:9000", "http://[::1]:9000/x"), Some(AddressScope::Anywhere));
    }

    #[test]
    fn named_port_must_match() {
        assert_eq!(reach("files.example:443", "https://files.example/"), Some(AddressScope::Anywhere));
        assert_eq!(reach("files.example:8443", "https://files.example/"), None);
        assert_eq!(reach("files.example", "https://files.example:8443/"), Some(AddressScope::Anywhere));
    }

    #[test]
    fn widest_scope_wins() {
        let globs: Vec<HostPattern> = ["*.files.example", "a.files.example"].iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(HostPattern::reach_of(&globs, &Url::parse("https://a.files.example/").unwrap()), Some(AddressScope::Anywhere));
        assert_eq!(HostPattern::reach_of(&globs, &Url::parse("https://b.files.example/").unwrap()), Some(AddressScope::Public));
        assert_eq!(HostPattern::reach_of(&globs, &Url::parse("https://c.example/").unwrap()), None);
    }

    #[test]
    fn url_is_not_a_host() {
        for invalid in [
            "",
            "https://files.example",
            "files.example/x",
            "a b",
            "::1",
            "[::1",
            "[x]",
            "files.example:0",
            "files.example:99999",
            "{a,b}.example",
            "é.example",
        ] {
            assert!(invalid.parse::<HostPattern>().is_err(), "{invalid:?}");
        }
    }
}
