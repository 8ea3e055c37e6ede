//! Decides which registry receives a client's own credentials, and explains a failure for which they were not sent.

use std::sync::Arc;

use crate::firewall::error::{FirewallError, Result};
use crate::firewall::request::Client;
use crate::npm::PackageName;
use crate::upstream::{Addressed, Authorization, Registries, Registry, UpstreamError};

/// Returns the registry that receives a passthrough request. A request `for_account` needs one that accepts the client's own
/// credentials and is not entitled if there is none.
pub(crate) fn registry_of<'a>(
    registries: &'a Registries,
    client: &Client,
    name: Option<&PackageName>,
    for_account: bool,
) -> Result<&'a Arc<Registry>> {
    let registry = if let Some(name) = name {
        registries.of(name)
    } else {
        let account = for_account.then(|| registries.account(&client.addressed)).flatten();
        account.unwrap_or_else(|| registries.nameless(&client.addressed))
    };
    if for_account && !registry.takes_clients(&client.addressed) {
        return Err(FirewallError::NotEntitled(why(registry, &client.addressed).into()));
    }
    Ok(registry)
}

/// Adds to an upstream denial that the client's own credentials were not sent, if so.
pub(crate) fn explain_unsent(registry: &Registry, client: &Client, rejection: FirewallError) -> FirewallError {
    let Authorization::Own(own) = &client.authorization else { return rejection };
    if registry.takes_clients(&own.addressed) {
        return rejection;
    }
    let why = why(registry, &own.addressed);
    match rejection {
        FirewallError::NotFound(text) => FirewallError::NotFound(format!("{text}; {why}").into()),
        FirewallError::Upstream(UpstreamError::NotFound) => FirewallError::NotFound(format!("not found upstream; {why}").into()),
        FirewallError::Upstream(UpstreamError::Denied { host, status, message }) => {
            UpstreamError::Denied { host, status, message: format!("{message}; {why}").into() }.into()
        }
        other => other,
    }
}

/// Explains why the client's credentials were not sent to `registry`, and which setting changes that.
fn why(registry: &Registry, addressed: &Addressed) -> String {
    let id = registry.id();
    match addressed {
        Addressed::Host(base) => format!(
            "your credentials for {base} are not sent to {id}; if that host also serves this registry, add it to `intercept`"
        ),
        Addressed::Coldframe | Addressed::Named(_) => {
            format!("your credentials are not sent to {id}; to send them, add the registry to `client-credentials`")
        }
    }
}
