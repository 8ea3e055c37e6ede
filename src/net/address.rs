//! Public and private address ranges.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::Host;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressScope {
    /// Any address: the operator named the host.
    Anywhere,
    /// Public addresses only: the host comes from an untrusted source, which must not reach the internal network.
    Public,
}

impl AddressScope {
    /// Returns an error text for an address outside of the scope.
    pub(crate) fn check(self, address: IpAddr) -> Result<(), String> {
        let is_within = self == Self::Anywhere || is_public(address);
        is_within.then_some(()).ok_or_else(|| format!("`{address}` is not a public address"))
    }
}

/// Checks whether the host of a URL is this machine.
pub(crate) fn is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => *name == "localhost" || name.ends_with(".localhost"),
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    }
}

/// Checks whether `address` is on the public internet: not loopback, local, private or reserved, also if embedded in IPv6.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            let reserved = match (a, b, c) {
                // This host, carrier-grade NAT, protocol assignments, 6to4 relays, benchmarks, multicast and future use.
                (0 | 224..=255, ..) | (100, 64..=127, _) | (192, 0, 0) | (192, 88, 99) | (198, 18..=19, _) => true,
                _ => address.is_loopback() || address.is_private() || address.is_link_local() || address.is_documentation(),
            };
            !reserved
        }
        IpAddr::V6(address) => match (embedded_v4(address), address.segments()) {
            (Some(inner), _) => is_public(inner),
            // Protocol assignments with Teredo, and documentation.
            (None, [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x3fff, 0..=0xfff, ..]) => false,
            // Global unicast. Everything else is unspecified, loopback, unique local, link-local, multicast or reserved.
            (None, [first, ..]) => (0x2000..=0x3fff).contains(&first),
        },
    }
}

/// Checks for this machine, this link or a cloud metadata service, also if embedded in IPv6. No name points there legitimately.
pub fn is_internal(address: IpAddr) -> bool {
    /// Azure, Alibaba and Oracle. Amazon and most others use link-local addresses.
    const METADATA: [Ipv4Addr; 3] =
        [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192)];
    match address {
        IpAddr::V4(address) => {
            let first = address.octets()[0];
            first == 0 || first >= 224 || address.is_loopback() || address.is_link_local() || METADATA.contains(&address)
        }
        IpAddr::V6(address) => embedded_v4(address).map_or_else(|| is_inward_v6(address), is_internal),
    }
}

fn is_inward_v6(address: Ipv6Addr) -> bool {
    let amazon = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    // Unspecified, loopback, and deprecated IPv4-compatible addresses.
    let low = address.segments().starts_with(&[0; 6]);
    low || address.is_multicast() || address.is_unicast_link_local() || address == amazon
}

fn embedded_v4(address: Ipv6Addr) -> Option<IpAddr> {
    match address.segments() {
        // NAT64 embeds it at the end, 6to4 after its prefix.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_addresses_are_public() {
        for text in [
            "1.1.1.1",
            "93.184.216.34",
            "100.128.0.1",
            "172.32.0.1",
            "2606:2800:220:1::1",
            "64:ff9b::101:101",
            "::ffff:8.8.8.8",
            "2002:808:808::1",
        ] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn local_and_metadata_addresses_are_internal_even_if_embedded() {
        for text in [
            "127.0.0.1",
            "0.0.0.0",
            "169.254.169.254",
            "168.63.129.16",
            "100.100.100.200",
            "224.0.0.1",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "2002:a9fe:a9fe::",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
        ] {
            assert!(is_internal(text.parse().unwrap()), "{text}");
        }
        for text in ["10.0.0.1", "192.168.1.1", "1.1.1.1", "fd12::1", "2606:2800:220:1::1", "::ffff:10.0.0.1"] {
            assert!(!is_internal(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn private_and_reserved_addresses_are_not_public_even_if_embedded() {
        let ours = [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.1",
            "192.0.0.1",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.7",
            "203.0.113.7",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "100::1",
        ];
        for text in ours {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
    }
}
