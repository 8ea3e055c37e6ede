//! Refuses requests for packages outside the scope of the client's access token, before anything is looked up or fetched.

use crate::firewall::error::{FirewallError, Result, one_line};
use crate::firewall::request::{Client, RegistryRequest};
use crate::npm::PackageName;
use crate::policy::Identity;

/// Requests without a package that reveal none: ping, the registry's keys, and the account of the client's own credentials.
const NAMELESS_PATHS: [&str; 3] = ["-/ping", "-/npm/v1/keys", "-/whoami"];

/// Checks that a client may ask for a package.
pub(crate) fn check(client: &Client, name: &PackageName) -> Result<()> {
    match limited(client) {
        Some(identity) if !identity.scope.contains(name) => Err(outside(identity, name.as_str())),
        _ => Ok(()),
    }
}

/// Checks that a client may send a request. Searches and audits are checked where they are read.
pub(crate) fn check_request(client: &Client, request: &RegistryRequest) -> Result<()> {
    let Some(identity) = limited(client) else { return Ok(()) };
    match request {
        RegistryRequest::Packument { name, .. }
        | RegistryRequest::Manifest { name, .. }
        | RegistryRequest::DistTags { name }
        | RegistryRequest::Tarball { name, .. }
        | RegistryRequest::Attestations { name, .. }
        | RegistryRequest::PassThrough { name: Some(name), .. }
        | RegistryRequest::Write { name: Some(name), .. } => check(client, name),
        RegistryRequest::Search(_) | RegistryRequest::Audit { .. } => Ok(()),
        RegistryRequest::PassThrough { name: None, request } | RegistryRequest::Write { name: None, request } => {
            let path = request.path.split('?').next().unwrap_or_default();
            if NAMELESS_PATHS.contains(&path) { Ok(()) } else { Err(outside(identity, "a request that names no package")) }
        }
    }
}

/// Returns the error for something outside the scope of a client's token.
pub(crate) fn outside(identity: &Identity, what: &str) -> FirewallError {
    let Identity { subject, scope, .. } = identity;
    FirewallError::NotEntitled(one_line(&format!("{what} is outside the scope of the access token {subject}: {scope}")).into())
}

/// Returns the client's identity if it may not ask for every package.
pub(crate) fn limited(client: &Client) -> Option<&Identity> {
    client.identity.as_deref().filter(|identity| !identity.scope.is_unlimited())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::firewall::{BaseUrl, Profile};
    use crate::npm::UserAgent;
    use crate::policy::{AuthMethod, PackageScope, Principal, Role};
    use crate::upstream::{Addressed, Authorization, PassthroughRequest};

    fn client(globs: &[&str]) -> Client {
        let scope = PackageScope::parse(globs).unwrap();
        let principal = Principal::Machine("ada".into());
        let identity = Identity { subject: "ci".into(), role: Role::Client, scope, method: AuthMethod::Token(1), principal };
        Client {
            address: [127, 0, 0, 1].into(),
            identity: Some(Arc::new(identity)),
            agent: UserAgent::parse(""),
            is_installing: false,
            authorization: Authorization::Lent,
            addressed: Addressed::Coldframe,
            base: BaseUrl { text: "".into(), cacheable: false, serves_admin: false, intercepted: None },
            profile: Profile::default(),
        }
    }

    #[test]
    fn other_names_and_nameless_requests_are_outside_a_scope() {
        let pass =
            |path: &str| RegistryRequest::PassThrough { name: None, request: Box::new(PassthroughRequest::get(path.to_owned())) };
        let (scoped, free) = (client(&["@acme/*"]), client(&[]));
        let tags = |name: &str| RegistryRequest::DistTags { name: PackageName::parse(name).unwrap() };
        for (request, expected) in [
            (tags("@acme/ui"), true),
            (tags("left-pad"), false),
            (pass("-/ping"), true),
            (pass("-/npm/v1/keys?x"), true),
            (pass("-/org/acme/package"), false),
            (pass("-/npm/v1/tokens"), false),
        ] {
            assert_eq!(check_request(&scoped, &request).is_ok(), expected);
            assert!(check_request(&free, &request).is_ok());
        }
        let refused = check(&scoped, &PackageName::parse("left-pad").unwrap()).unwrap_err().to_string();
        assert_eq!(refused, "left-pad is outside the scope of the access token ci: @acme/*");
    }
}
