//! Whose credentials a request to a registry carries, and which registries a client's own are for.

use std::fmt;
use std::sync::Arc;

/// What a client addressed, which says which registries its own credentials are for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Addressed {
    /// Coldframe itself: its credentials are for the only registry, or for those that `client-credentials` names.
    #[default]
    Coldframe,
    /// A host by its own address, without a slash at the end: its credentials are for the registry at that address alone.
    Host(Arc<str>),
    /// A host that the operator named as one more name of the registry: as [`Addressed::Host`] where a registry is at that address,
    /// else as [`Addressed::Coldframe`].
    Named(Arc<str>),
}

/// Whose credentials a request upstream carries.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Authorization {
    /// No credentials.
    None,
    /// The ones from Coldframe's own configuration, if there are any for the URL (DESIGN §5: lent to authenticated and loopback clients).
    Lent,
    /// The client's own, where the registry is one of those that they are for.
    Own(OwnCredentials),
}

/// A client's own credentials.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct OwnCredentials {
    /// Its `Authorization` header, as it came.
    pub header: Arc<str>,
    /// Which registries they are for.
    pub addressed: Addressed,
    /// Whether the client may borrow Coldframe's where they are not.
    pub borrows: bool,
}

impl From<&str> for OwnCredentials {
    /// Those of a client of Coldframe's that borrows nothing.
    fn from(header: &str) -> Self {
        Self { header: header.into(), addressed: Addressed::Coldframe, borrows: false }
    }
}

impl fmt::Debug for OwnCredentials {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("OwnCredentials").field("addressed", &self.addressed).finish_non_exhaustive()
    }
}

/// Whether a client that wrote `base` before its paths addressed the registry at `address`, which ends in a slash. The same host in
/// plain HTTP counts for a registry in TLS, both at their usual ports; not the other way around.
pub(crate) fn is_address(address: &str, base: &str) -> bool {
    let address = address.trim_end_matches('/');
    let has_port = |rest: &str| {
        rest.split('/').next().and_then(|authority| authority.rsplit(']').next()).is_some_and(|end| end.contains(':'))
    };
    let upgraded = address.strip_prefix("https://").filter(|rest| !has_port(rest));
    address == base || (upgraded.is_some() && upgraded == base.strip_prefix("http://"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_addresses_the_registry_that_it_spells_and_its_secure_form() {
        for (address, base, expected) in [
            ("https://registry.example/", "https://registry.example", true),
            ("https://registry.example/", "http://registry.example", true),
            ("http://registry.example/", "https://registry.example", false),
            ("https://registry.example/npm/", "https://registry.example/npm", true),
            ("https://registry.example/npm/", "https://registry.example", false),
            ("https://registry.example/", "https://registry.example:8443", false),
            ("https://registry.example:8443/", "http://registry.example:8443", false),
            ("https://[::1]/", "http://[::1]", true),
            ("https://registry.example/", "https://registry.example.evil.example", false),
        ] {
            assert_eq!(is_address(address, base), expected, "{address} {base}");
        }
    }

    #[test]
    fn own_credentials_are_not_printed() {
        let shown = format!("{:?}", Authorization::Own("Bearer hunter2".into()));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
