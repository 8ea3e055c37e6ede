//! Hosts that an operator allows besides the registry: `*.storage.example`, `files.example:8443`. Refuses to know for what.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use globset::{GlobBuilder, GlobMatcher};
use url::Url;

use crate::net::client::dial::AddressScope;

/// A host, or a pattern of hosts in which `*` stands for any characters, dots included; with a port, that port only.
///
/// A host that is written out may have any address, private ones too: whoever named it meant it. What a pattern matches
/// must have a public address, because then it is upstream that names the host.
#[derive(Debug, Clone)]
pub struct HostPattern {
    written: Box<str>,
    /// `None` for a host that is written out.
    pattern: Option<GlobMatcher>,
    host: Box<str>,
    port: Option<u16>,
}

/// What is wrong with a host or pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostPatternError {
    /// A URL, a path, a character that no host has, or nothing.
    #[error("expected a host such as `files.example`, `*.files.example` or `files.example:8443`: `{0}`")]
    Host(String),
    /// Not a port.
    #[error("a port is a number from 1 to 65535: `{0}`")]
    Port(String),
}

impl FromStr for HostPattern {
    type Err = HostPatternError;

    fn from_str(text: &str) -> Result<Self, HostPatternError> {
        let written = text.trim();
        let wrong = || HostPatternError::Host(written.escape_debug().to_string());
        let (host, port) = split(written).ok_or_else(wrong)?;
        let port = match port {
            None => None,
            Some(digits) => Some(
                digits
                    .parse()
                    .ok()
                    .filter(|port| *port != 0)
                    .ok_or_else(|| HostPatternError::Port(digits.escape_debug().to_string()))?,
            ),
        };
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let v6 = host.starts_with('[');
        let right = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'*');
        if host.is_empty() || !(v6 || host.bytes().all(right)) {
            return Err(wrong());
        }
        let pattern =
            if host.contains('*') { Some(GlobBuilder::new(&host).build().map_err(|_| wrong())?.compile_matcher()) } else { None };
        Ok(Self { written: written.into(), pattern, host: host.into(), port })
    }
}

impl HostPattern {
    /// How far a request to `url` may reach, if this allows its host.
    #[must_use]
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

    /// The one port that is allowed, if one is named.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The host as it is written out, lower case; `None` for a pattern.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.pattern.is_none().then_some(&*self.host)
    }

    /// How far a request to `url` may reach by the most generous of `globs`.
    pub(crate) fn reach_of(globs: &[Self], url: &Url) -> Option<AddressScope> {
        let mut found = None;
        for reach in globs.iter().filter_map(|glob| glob.reach(url)) {
            if reach == AddressScope::Anywhere {
                return Some(reach);
            }
            found = Some(reach);
        }
        found
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

/// The host of a URL in one spelling: lower case (the parser sees to that), no dot at its end, IPv6 in brackets.
pub(crate) fn bare_host(url: &Url) -> Option<String> {
    url.host_str().map(|host| host.trim_end_matches('.').to_owned()).filter(|host| !host.is_empty())
}

/// Host and port; an IPv6 address keeps its brackets, and needs them.
fn split(text: &str) -> Option<(String, Option<&str>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let address: Ipv6Addr = address.parse().ok()?;
        let port = if port.is_empty() { None } else { Some(port.strip_prefix(':')?) };
        return Some((format!("[{address}]"), port));
    }
    match text.split_once(':') {
        Some((host, port)) => Some((host.to_owned(), Some(port))),
        None => Some((text.to_owned(), None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(glob: &str, url: &str) -> Option<AddressScope> {
        glob.parse::<HostPattern>().unwrap().reach(&Url::parse(url).unwrap())
    }

    #[test]
    fn a_host_written_out_may_be_private_and_a_pattern_may_not() {
        assert_eq!(reach("Files.example", "https://files.example./x"), Some(AddressScope::Anywhere));
        assert_eq!(reach("*.files.example", "https://a.b.files.example/x"), Some(AddressScope::Public));
        assert_eq!(reach("*.files.example", "https://files.example/x"), None);
        assert_eq!(reach("files.example", "https://evil.example/files.example"), None);
        assert_eq!(reach("*.files.example", "https://x.files.example.evil.example/"), None);
        assert_eq!(reach("10.0.0.7:9000", "http://10.0.0.7:9000/x"), Some(AddressScope::Anywhere));
        assert_eq!(reach("[0:0::1]:9000", "http://[::1]:9000/x"), Some(AddressScope::Anywhere));
    }

    #[test]
    fn a_port_that_is_named_must_match() {
        assert_eq!(reach("files.example:443", "https://files.example/"), Some(AddressScope::Anywhere));
        assert_eq!(reach("files.example:8443", "https://files.example/"), None);
        assert_eq!(reach("files.example", "https://files.example:8443/"), Some(AddressScope::Anywhere));
    }

    #[test]
    fn the_most_generous_of_several_wins() {
        let globs: Vec<HostPattern> = ["*.files.example", "a.files.example"].iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(HostPattern::reach_of(&globs, &Url::parse("https://a.files.example/").unwrap()), Some(AddressScope::Anywhere));
        assert_eq!(HostPattern::reach_of(&globs, &Url::parse("https://b.files.example/").unwrap()), Some(AddressScope::Public));
        assert_eq!(HostPattern::reach_of(&globs, &Url::parse("https://c.example/").unwrap()), None);
    }

    #[test]
    fn a_url_is_not_a_host() {
        for wrong in [
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
            assert!(wrong.parse::<HostPattern>().is_err(), "{wrong:?}");
        }
    }
}
