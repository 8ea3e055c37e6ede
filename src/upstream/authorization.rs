//! Decides whose credentials a request to a registry carries, and which registries receive a client's own.

use std::fmt;
use std::sync::Arc;

/// What a client addressed. Determines which registries its own credentials are for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Addressed {
    /// Coldframe itself. The credentials are for the only registry, or for those in `client-credentials`.
    #[default]
    Coldframe,
    /// A host by its own URL, without a final slash. The credentials are only for the registry at that URL.
    Host(Arc<str>),
    /// Another name of the registry. Like [`Addressed::Host`] if a registry has that URL, else like [`Addressed::Coldframe`].
    Named(Arc<str>),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Authorization {
    None,
    /// Those of Coldframe's configuration for the URL, if any. Lent to authenticated and loopback clients (ARCHITECTURE.md, Semantics 15).
    Lent,
    /// The client's own, sent only to the registries they are for.
    Own(OwnCredentials),
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub struct OwnCredentials {
    /// The `Authorization` header, verbatim.
    pub header: Arc<str>,
    /// Determines the registries they are for.
    pub addressed: Addressed,
    /// Whether the client may borrow Coldframe's credentials for other registries.
    pub borrows: bool,
}

impl From<&str> for OwnCredentials {
    /// Creates credentials of a client that addressed Coldframe and may not borrow.
    fn from(header: &str) -> Self {
        Self { header: header.into(), addressed: Addressed::Coldframe, borrows: false }
    }
}

impl fmt::Debug for OwnCredentials {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("OwnCredentials").field("addressed", &self.addressed).finish_non_exhaustive()
    }
}

/// Checks whether the base URL `base` of a client's requests addresses the registry at `address`, which ends in a slash. The same
/// host with `http` also addresses an `https` registry if both use default ports, but not the reverse.
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
    fn base_url_addresses_the_same_url_and_its_https_form() {
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
