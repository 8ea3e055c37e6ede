//! A host and a port that a client wants to be connected to, in one spelling however it was written. Refuses to judge it.

use std::fmt;
use std::net::IpAddr;

use http::uri::Authority;
use url::Host;

use crate::net::headers::split_host;
use crate::server::RequestError;

/// Where a client wants to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Destination {
    /// A name in lower case without a dot at its end, or an address, however that was written: in decimal or hexadecimal, with
    /// fewer parts.
    pub(crate) host: Host,
    /// The port.
    pub(crate) port: u16,
}

impl Destination {
    /// Reads the target of a request; `usual` is the port where none is written.
    ///
    /// # Errors
    /// When it is no host, brings credentials, or has no port though it needs one.
    pub(crate) fn of(authority: &Authority, usual: Option<u16>) -> Result<Self, RequestError> {
        let text = authority.as_str();
        let wrong = |detail: &str| RequestError::Headers(format!("{detail}: `{}`", text.escape_debug()));
        if text.contains(['@', '%']) {
            return Err(wrong("the target holds more than a host and a port"));
        }
        let (name, port) = split_host(text);
        let port = match port {
            None => usual.ok_or_else(|| wrong("the target lacks a port"))?,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().filter(|port| *port > 0).ok_or_else(|| wrong("the target's port is none"))?
            }
            Some(_) => return Err(wrong("the target's port is none")),
        };
        let host = Host::parse(name.strip_suffix('.').unwrap_or(name)).map_err(|_| wrong("the target is no host"))?;
        // Two dots at the end would be another name than ours for us, and the same one for a resolver that is kind.
        match &host {
            Host::Domain(name) if name.ends_with('.') || name.is_empty() => Err(wrong("the target is no host")),
            _ => Ok(Self { host, port }),
        }
    }

    /// The name, if it is one.
    pub(crate) fn name(&self) -> Option<&str> {
        match &self.host {
            Host::Domain(name) => Some(name),
            Host::Ipv4(_) | Host::Ipv6(_) => None,
        }
    }

    /// The address, if it is one.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        match &self.host {
            Host::Domain(_) => None,
            Host::Ipv4(address) => Some(IpAddr::V4(*address)),
            Host::Ipv6(address) => Some(IpAddr::V6(*address)),
        }
    }

    /// Name or address as a resolver takes it: without brackets.
    pub(crate) fn dialled(&self) -> String {
        self.address().map_or_else(|| self.name().unwrap_or_default().to_owned(), |address| address.to_string())
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
    fn an_address_is_one_however_it_is_written() {
        for text in
            ["127.0.0.1:443", "2130706433:443", "0x7f000001:443", "0x7f.1:443", "127.1:443", "0177.0.0.1:443", "127.0.0.1.:443"]
        {
            assert_eq!(read(text), Ok("127.0.0.1:443".to_owned()), "{text}");
        }
        assert_eq!(read("[::FFFF:127.0.0.1]:443"), Ok("[::ffff:7f00:1]:443".to_owned()));
        assert_eq!(read("Registry.Example.:443"), Ok("registry.example:443".to_owned()));
    }

    #[test]
    fn what_is_no_place_is_told() {
        for (text, told) in [
            ("registry.example", "the target lacks a port: `registry.example`"),
            ("registry.example:0", "the target's port is none: `registry.example:0`"),
            ("registry.example:99999", "the target's port is none: `registry.example:99999`"),
            ("user@registry.example:443", "the target holds more than a host and a port: `user@registry.example:443`"),
            ("[::1:443", "not even an authority"),
            ("registry.example..:443", "the target is no host: `registry.example..:443`"),
            ("256.256.256.256:443", "the target is no host: `256.256.256.256:443`"),
        ] {
            assert_eq!(read(text), Err(told.to_owned()), "{text}");
        }
    }
}
