//! Connects the admin pages below `/-/coldframe/` to the firewall.

use std::sync::Arc;

use jiff::Timestamp;

use crate::app::core::Core;
use crate::app::health::HealthChecks;
use crate::firewall::{CheckedVersion, Client, Explanation, Firewall, FirewallError, LockedVersion};
use crate::npm::PackageSpec;
use crate::server::Own;
use crate::server::admin::{Admin, BoxFuture, ClientPolicy, PackageInspector, SharedInspector};

/// Creates the pages, which report these health checks.
pub(crate) fn open(core: &Core, checks: HealthChecks) -> Admin {
    let inspector = Arc::clone(&core.firewall) as SharedInspector;
    Admin::new(Arc::clone(&core.metrics), checks.required, checks.warnings, inspector)
}

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
