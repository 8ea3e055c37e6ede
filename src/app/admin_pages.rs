//! Joins the doorstep of `/-/coldframe/` to the pages, and the pages to the firewall. Refuses to answer anything itself.

use std::sync::Arc;

use jiff::Timestamp;

use crate::firewall::{CheckedVersion, Client, Explanation, Firewall, FirewallError, LockedVersion};
use crate::npm::PackageSpec;
use crate::server::admin::{Admin, AdminRequest, BoxFuture, ClientPolicy, PackageInspector};
use crate::server::{AuthorizedRequest, Own};

/// Hands what lies below `/-/coldframe/` to `admin`.
pub(crate) fn own(admin: &Arc<Admin>) -> Own {
    let admin = Arc::clone(admin);
    Arc::new(move |request| {
        let admin = Arc::clone(&admin);
        let AuthorizedRequest { method, page, query, accept, agent, visitor, body } = request;
        Box::pin(async move { admin.answer(AdminRequest { method, page, query, accept, agent, visitor, body }).await })
    })
}

impl PackageInspector for Firewall {
    fn check<'a>(&'a self, asker: &'a Client, locked: &'a [LockedVersion]) -> BoxFuture<'a, Vec<CheckedVersion>> {
        Box::pin(Firewall::check(self, asker, locked))
    }

    fn explain<'a>(
        &'a self,
        asker: &'a Client,
        spec: &'a PackageSpec,
        at: Option<Timestamp>,
    ) -> BoxFuture<'a, Result<Explanation, FirewallError>> {
        Box::pin(Firewall::explain(self, asker, &spec.name, spec.wanted.as_deref(), at))
    }

    fn terms(&self, asker: &Client) -> ClientPolicy {
        ClientPolicy::of(self.world().policy(asker.profile))
    }

    fn upstreams(&self) -> Vec<String> {
        Firewall::upstreams(self)
    }
}
