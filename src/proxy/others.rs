//! Hosts that the gateway does not answer for: to which of them it goes, and at which addresses. Refuses to dial.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use url::Url;

use super::place::Place;
use super::{Gateway, ProxyError};
use crate::net::{is_inward, is_public};
use crate::upstream::HostGlob;

/// What may be reached.
#[derive(Debug)]
pub struct Others {
    allowed: Vec<HostGlob>,
    /// Addresses that are written out, each with its port if one is.
    addresses: Vec<(IpAddr, Option<u16>)>,
    tunnels: bool,
    /// Where this process listens.
    ours: Vec<SocketAddr>,
}

/// Leave to go to one place; which of its addresses may be dialled is another question.
#[derive(Debug)]
pub(super) struct Leave<'a> {
    others: &'a Others,
    /// The host is written out, so that a private address of it is meant.
    named: bool,
    /// The host is this machine by its name.
    local: bool,
}

impl Others {
    /// As the gateway is configured; `ours` are the addresses this process listens at.
    #[must_use]
    pub fn new(gateway: &Gateway, ours: Vec<SocketAddr>) -> Self {
        let address = |glob: &HostGlob| {
            let host = glob.host()?.trim_start_matches('[').trim_end_matches(']');
            Some((host.parse::<IpAddr>().ok()?.to_canonical(), glob.port()))
        };
        let addresses = gateway.allowed.iter().filter_map(address).collect();
        Self { allowed: gateway.allowed.clone(), addresses, tunnels: gateway.tunnels_others, ours }
    }

    /// Leave to go to `place`.
    ///
    /// # Errors
    /// [`ProxyError::Barred`], in words.
    pub(super) fn admit(&self, place: &Place) -> Result<Leave<'_>, ProxyError> {
        let usual = matches!(place.port, 443 | 80);
        let mut allowing = self.allowed.iter().filter(|glob| Self::allows(glob, place) && (usual || glob.port().is_some()));
        let named = allowing.clone().any(|glob| glob.host().is_some());
        let local = named && place.name().is_some_and(|name| name == "localhost" || name.ends_with(".localhost"));
        if allowing.next().is_some() || (self.tunnels && usual) {
            return Ok(Leave { others: self, named, local });
        }
        let host = &place.host;
        Err(ProxyError::Barred(if usual {
            format!(
                "coldframe does not connect to this host, `--allow-host {host}` has it do so and `--intercept {host}` has it answer \
                 from upstream: `{place}`"
            )
        } else {
            format!("coldframe connects to ports 443 and 80 only, `--allow-host {place}` allows another: `{place}`")
        }))
    }

    fn allows(glob: &HostGlob, place: &Place) -> bool {
        // Such a URL has no other port than the one that is written.
        Url::parse(&format!("http://{place}/")).is_ok_and(|url| glob.reach(&url).is_some())
    }

    /// Whether a connection to `address` would come back to us.
    fn is_ours(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        let takes = |listening: &SocketAddr| {
            listening.port() == address.port()
                && (listening.ip().to_canonical() == ip
                    // Only an address of this machine can be bound.
                    || (listening.ip().is_unspecified() && (ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok())))
        };
        self.ours.iter().any(takes)
    }
}

impl Leave<'_> {
    /// Whether `address`, which the place was resolved to, may be dialled.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn permits(&self, address: SocketAddr) -> Result<(), String> {
        let ip = address.ip().to_canonical();
        if self.others.is_ours(address) {
            return Err(format!("`{address}` is coldframe itself"));
        }
        let written = |(known, port): &(IpAddr, Option<u16>)| *known == ip && port.is_none_or(|port| port == address.port());
        if self.others.addresses.iter().any(written) {
            return Ok(());
        }
        let permitted =
            if self.named { !is_inward(ip) || (self.local && ip.is_loopback()) } else { is_public(ip) && !is_inward(ip) };
        let whose = if is_inward(ip) { "this machine's, this link's or a cloud's own" } else { "a private or reserved" };
        if permitted { Ok(()) } else { Err(format!("`{ip}` is {whose} address, which nobody named")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::Targets;

    fn others(allowed: &[&str], tunnels_others: bool) -> Others {
        let allowed = allowed.iter().map(|glob| glob.parse().unwrap()).collect();
        let gateway = Gateway { targets: Targets::default(), allowed, tunnels_others };
        Others::new(&gateway, vec!["127.0.0.1:4873".parse().unwrap(), "0.0.0.0:8080".parse().unwrap()])
    }

    fn leads(others: &Others, place: &str, address: &str) -> Result<(), String> {
        let place = Place::of(&place.parse().unwrap(), None).unwrap();
        let leave = others.admit(&place).map_err(|error| error.to_string())?;
        leave.permits(SocketAddr::new(address.parse().unwrap(), place.port))
    }

    #[test]
    fn a_host_that_nobody_allowed_is_refused_with_what_allows_it() {
        let told = leads(&others(&["*.example"], false), "other.test:443", "1.1.1.1").unwrap_err();
        assert!(told.contains("`--allow-host other.test`") && told.ends_with("`other.test:443`"), "{told}");
        let told = leads(&others(&["git.example"], true), "git.example:22", "1.1.1.1").unwrap_err();
        assert!(told.contains("ports 443 and 80 only") && told.contains("`--allow-host git.example:22`"), "{told}");
        assert!(leads(&others(&["git.example:22"], false), "git.example:22", "1.1.1.1").is_ok());
        assert!(leads(&others(&["git.example:22"], false), "git.example:443", "1.1.1.1").is_err());
        assert!(leads(&others(&[], true), "any.test:80", "1.1.1.1").is_ok());
    }

    #[test]
    fn the_address_that_is_dialled_decides() {
        let open = others(&["named.example", "*.pattern.example"], true);
        for (place, address, expected) in [
            ("any.test:443", "10.0.0.1", false),
            ("any.test:443", "127.0.0.1", false),
            ("any.test:443", "::ffff:127.0.0.1", false),
            ("any.test:443", "169.254.169.254", false),
            ("any.test:443", "fd00:ec2::254", false),
            ("a.pattern.example:443", "192.168.1.1", false),
            ("a.pattern.example:443", "1.1.1.1", true),
            ("named.example:443", "10.0.0.1", true),
            ("named.example:443", "127.0.0.1", false),
            ("named.example:443", "169.254.169.254", false),
            ("localhost:443", "127.0.0.1", false),
            ("127.0.0.1:443", "127.0.0.1", false),
        ] {
            assert_eq!(leads(&open, place, address).is_ok(), expected, "{place} at {address}");
        }
        let named = others(&["localhost", "127.0.0.2", "10.0.0.1", "[::1]"], false);
        for (place, address) in
            [("localhost:443", "127.0.0.1"), ("127.0.0.2:443", "127.0.0.2"), ("10.0.0.1:80", "10.0.0.1"), ("[::1]:443", "::1")]
        {
            assert_eq!(leads(&named, place, address), Ok(()), "{place}");
        }
    }

    #[test]
    fn nothing_leads_back_to_us() {
        let all = others(&["127.0.0.1:4873", "127.0.0.1:8080", "localhost:4873"], true);
        for place in ["127.0.0.1:4873", "127.0.0.1:8080", "localhost:4873"] {
            let told = leads(&all, place, "127.0.0.1").unwrap_err();
            assert!(told.ends_with("is coldframe itself"), "{told}");
        }
    }
}
