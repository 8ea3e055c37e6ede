//! The destination of a proxy request in canonical form.

use std::fmt;

use http::uri::Authority;
use url::Host;

use crate::net::headers::split_host;
use crate::server::error::RequestError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Destination {
    /// A name in lower case without trailing dot, or an address, normalized from decimal, hexadecimal and short forms.
    pub(crate) host: Host,
    pub(crate) port: u16,
}

impl Destination {
    /// Parses the target of a request. `usual` is the default port.
    /// Returns an error if the host is invalid, the target contains credentials, or a required port is missing.
    pub(crate) fn of(authority: &Authority, usual: Option<u16>) -> Result<Self, RequestError> {
        let text = authority.as_str();
        let invalid = |detail: &str| RequestError::Headers(format!("{detail}: `{}`", text.escape_debug()));
        if text.contains(['@', '%']) {
            return Err(invalid("target is not just a host and port"));
        }
        let (name, port) = split_host(text);
        let port = match port {
            None => usual.ok_or_else(|| invalid("target has no port"))?,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().filter(|port| *port > 0).ok_or_else(|| invalid("invalid target port"))?
            }
            Some(_) => return Err(invalid("invalid target port")),
        };
        let host = Host::parse(name.strip_suffix('.').unwrap_or(name)).map_err(|_| invalid("invalid target host"))?;
        // A name with two trailing dots would bypass our comparison, but a lenient resolver would accept it.
        match &host {
            Host::Domain(name) if name.ends_with('.') || name.is_empty() => Err(invalid("invalid target host")),
            _ => Ok(Self { host, port }),
        }
    }

    /// Returns the host for a resolver, without brackets.
    pub(crate) fn dial_host(&self) -> String {
        match &self.host {
            Host::Domain(name) => name.clone(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, String> {
        let authority: Authority = text.parse().map_err(|_| "not even an authority".to_owned())?;
        Destination::of(&authority, None).map(|place| place.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn address_forms_are_normalized() {
        for text in
            ["127.0.0.1:443", "2130706433:443", "0x7f000001:443", "0x7f.1:443", "127.1:443", "0177.0.0.1:443", "127.0.0.1.:443"]
        {
            assert_eq!(read(text), Ok("127.0.0.1:443".to_owned()), "{text}");
        }
        assert_eq!(read("[::FFFF:127.0.0.1]:443"), Ok("[::ffff:7f00:1]:443".to_owned()));
        assert_eq!(read("Registry.Example.:443"), Ok("registry.example:443".to_owned()));
    }

    #[test]
    fn invalid_targets_are_refused() {
        for (text, expected) in [
            ("registry.example", "target has no port: `registry.example`"),
            ("registry.example:0", "invalid target port: `registry.example:0`"),
            ("registry.example:99999", "invalid target port: `registry.example:99999`"),
            ("user@registry.example:443", "target is not just a host and port: `user@registry.example:443`"),
            ("[::1:443", "not even an authority"),
            ("registry.example..:443", "invalid target host: `registry.example..:443`"),
            ("256.256.256.256:443", "invalid target host: `256.256.256.256:443`"),
        ] {
            assert_eq!(read(text), Err(expected.to_owned()), "{text}");
        }
    }
}
