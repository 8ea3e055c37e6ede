//! Connects the admin pages below `/-/coldframe/` to the firewall.

use std::sync::Arc;

use jiff::Timestamp;

use crate::firewall::{CheckedVersion, Client, Explanation, Firewall, FirewallError, LockedVersion};
use crate::npm::PackageSpec;
use crate::server::Own;
use crate::server::admin::{Admin, BoxFuture, ClientPolicy, PackageInspector};

/// Returns a handler that passes requests below `/-/coldframe/` to `admin`.
pub(crate) fn own(admin: &Arc<Admin>) -> Own {
    let admin = Arc::clone(admin);
    Arc::new(move |request| {
        let admin = Arc::clone(&admin);
        Box::pin(async move { admin.answer(request).await })
    })
}

impl PackageInspector for Firewall {
    fn check<'a>(&'a self, client: &'a Client, locked: &'a [LockedVersion]) -> BoxFuture<'a, Vec<CheckedVersion>> {
        Box::pin(Firewall::check(self, client, locked))
    }

    fn explain<'a>(
        &'a self,
        client: &'a Client,
        spec: &'a PackageSpec,
        at: Option<Timestamp>,
    ) -> BoxFuture<'a, Result<Explanation, FirewallError>> {
        Box::pin(Firewall::explain(self, client, &spec.name, spec.wanted.as_deref(), at))
    }

    fn terms(&self, client: &Client) -> ClientPolicy {
        ClientPolicy::of(self.policy().policy(client.profile))
    }

    fn upstreams(&self) -> Vec<String> {
        Firewall::upstreams(self)
    }
}
