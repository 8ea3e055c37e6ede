//! Which registry a client's own credentials may go to, and what a client is told whose credentials were not passed on.

use std::sync::Arc;

use crate::firewall::Components;
use crate::firewall::error::FirewallError;
use crate::firewall::request::Client;
use crate::npm::PackageName;
use crate::upstream::{Addressed, Authorization, Registry, UpstreamError};

impl Components {
    /// The registry that a request is passed on to. One that is `for_account` goes only where the client's own credentials do.
    ///
    /// # Errors
    /// Returns [`FirewallError::NotEntitled`] if there is no such registry.
    pub(crate) fn registry_of(
        &self,
        asker: &Client,
        name: Option<&PackageName>,
        for_account: bool,
    ) -> Result<&Arc<Registry>, FirewallError> {
        let registry = match name {
            Some(name) => self.registries.of(name),
            None if for_account => match self.registries.account(&asker.addressed) {
                Some(registry) => registry,
                None => self.registries.nameless(&asker.addressed),
            },
            None => self.registries.nameless(&asker.addressed),
        };
        if for_account && !registry.takes_clients(&asker.addressed) {
            return Err(FirewallError::NotEntitled(why(registry, &asker.addressed).into()));
        }
        Ok(registry)
    }

    /// Adds to what upstream denied that the client's own credentials were not passed on, if they were not.
    pub(crate) fn explain_unsent(&self, asker: &Client, name: &PackageName, rejection: FirewallError) -> FirewallError {
        let Authorization::Own(own) = &asker.authorization else { return rejection };
        let registry = self.registries.of(name);
        if registry.takes_clients(&own.addressed) {
            return rejection;
        }
        match rejection {
            FirewallError::NotFound(text) => FirewallError::NotFound(format!("{text}; {}", why(registry, &own.addressed)).into()),
            FirewallError::Upstream(UpstreamError::NotFound) => {
                FirewallError::NotFound(format!("not found upstream; {}", why(registry, &own.addressed)).into())
            }
            FirewallError::Upstream(UpstreamError::Denied { host, status, message }) => {
                let message = format!("{message}; {}", why(registry, &own.addressed)).into();
                UpstreamError::Denied { host, status, message }.into()
            }
            other => other,
        }
    }
}

/// Why `registry` was sent no credentials of a client that `addressed` something else, and which setting says otherwise.
fn why(registry: &Registry, addressed: &Addressed) -> String {
    let id = registry.id();
    match addressed {
        Addressed::Host(base) => format!(
            "your credentials for {base} are not sent to {id}: if that host is one more name of it, `intercept` has to name it"
        ),
        Addressed::Coldframe | Addressed::Named(_) => {
            format!(
                "your credentials are not sent to {id}: `client-credentials` names the registries they go to, and not this one"
            )
        }
    }
}
