//! The state that all connections of a gateway share, and the record of refused requests.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use http::HeaderMap;
use http::header::PROXY_AUTHORIZATION;

use crate::firewall::{EgressRequest, RegistryService};
use crate::policy::{AuthMethod, Identity};
use crate::server::auth::gateway_users::GatewayAuth;
use crate::server::auth::password_file::PasswordFileError;
use crate::server::auth::presented::Presented;
use crate::server::auth::session_password::SessionPassword;
use crate::server::config::GatewayConfig;
use crate::server::error::RequestError;
use crate::server::gateway::destination::Destination;
use crate::server::gateway::egress::{EgressContext, EgressPolicy};
use crate::server::intercepted_hosts::InterceptedHosts;
use crate::server::registry::handler::RegistryHandler;
use crate::server::response::{self, Reply};
use crate::telemetry::{BarLabel, EgressRefused};
use crate::tls::LeafIssuer;

/// The gateway, one per process and one per session.
pub(crate) struct Gateway<S> {
    pub(crate) handler: Arc<RegistryHandler<S>>,
    /// Issues the certificates of new connections.
    pub(crate) leaf_issuer: ArcSwap<LeafIssuer>,
    pub(crate) intercepted: InterceptedHosts,
    /// The egress policy of new connections.
    pub(crate) egress: ArcSwap<EgressPolicy>,
    /// The users, or `None` if no authentication is required.
    pub(crate) users: Option<GatewayAuth>,
    /// The only user and its password, in the gateway of a session.
    pub(crate) single_user: Option<(Arc<str>, SessionPassword)>,
    refused: RefusedDestinations,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RefusedDestination {
    pub(crate) times: u64,
    /// The reason for the first.
    pub(crate) reason: String,
}

/// Maximum number of recorded destinations, since clients choose them.
const MAX_REFUSED_DESTINATIONS: usize = 100;

/// The first refused destinations, as clients wrote them.
#[derive(Default)]
struct RefusedDestinations(Mutex<BTreeMap<String, RefusedDestination>>);

impl RefusedDestinations {
    fn record(&self, destination: &str, reason: &str) {
        let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.len() < MAX_REFUSED_DESTINATIONS || refused.contains_key(destination) {
            let new_entry = || RefusedDestination { times: 0, reason: reason.to_owned() };
            refused.entry(destination.to_owned()).or_insert_with(new_entry).times += 1;
        }
    }
}

impl<S: RegistryService> Gateway<S> {
    /// Creates a gateway that passes intercepted requests to `handler`. Returns an error if the user file is invalid.
    pub(crate) fn new(
        handler: Arc<RegistryHandler<S>>,
        config: &GatewayConfig,
        leaf_issuer: LeafIssuer,
        egress: EgressContext,
    ) -> Result<Self, PasswordFileError> {
        let users = config.users.as_deref().map(GatewayAuth::open).transpose()?;
        Ok(Self {
            handler,
            leaf_issuer: ArcSwap::from_pointee(leaf_issuer),
            intercepted: config.targets.clone(),
            egress: ArcSwap::from_pointee(EgressPolicy::new(config, Arc::new(egress))),
            users,
            single_user: None,
            refused: RefusedDestinations::default(),
        })
    }

    /// Returns the first hundred refused destinations, as clients wrote them.
    pub(crate) fn refused_destinations(&self) -> BTreeMap<String, RefusedDestination> {
        self.refused.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the egress policy for new connections.
    pub(crate) fn renew_egress(&self, config: &GatewayConfig) {
        self.egress.rcu(|egress| EgressPolicy::new(config, Arc::clone(&egress.context)));
    }

    /// Returns a check that matches names and addresses against feed indicators and records each hit.
    pub(crate) fn indicator_check<'a>(
        &'a self,
        peer: SocketAddr,
        user: Option<&'a str>,
        destination: &'a Destination,
    ) -> impl Fn(&str) -> Option<String> + Send + Sync + 'a {
        move |host| {
            let (client, place) = (peer.ip().to_canonical(), destination.to_string());
            self.handler.service.check_egress(&EgressRequest { client, user, host, place: &place })
        }
    }

    /// Returns the identity of the client, or `None` if none is required. Removes the credentials, which must not be forwarded.
    pub(crate) async fn authenticate(
        &self,
        client: IpAddr,
        headers: &mut HeaderMap,
    ) -> Result<Option<Arc<Identity>>, RequestError> {
        let named = |user: Arc<str>, method| Some(Arc::new(Identity::user(user, method)));
        if let Some((single_user, pass)) = &self.single_user {
            let user = Some(single_user).filter(|_| pass.matches(headers)).cloned().ok_or(RequestError::ProxyAuthRequired)?;
            headers.remove(PROXY_AUTHORIZATION);
            return Ok(named(user, AuthMethod::Session));
        }
        let presented = Presented::take(headers, &PROXY_AUTHORIZATION).map_err(|_| RequestError::ProxyAuthRequired)?;
        let auth = self.handler.auth.as_ref();
        if let Some(auth) = auth {
            let identity = auth.authenticate(client, presented).map_err(|error| match error {
                RequestError::TokenRefused(refusal) => RequestError::ProxyTokenRefused(refusal),
                error => error,
            })?;
            if identity.is_some() {
                return Ok(identity);
            }
        }
        let user = match &self.users {
            Some(users) => Some(users.authenticate(client, headers).await.ok_or(RequestError::ProxyAuthRequired)?),
            None if auth.is_some_and(|auth| auth.is_required()) => return Err(RequestError::ProxyAuthRequired),
            None => None,
        };
        headers.remove(PROXY_AUTHORIZATION);
        Ok(user.and_then(|user| named(user, AuthMethod::Password)))
    }

    /// Counts and logs a refusal.
    pub(crate) fn record_refusal(&self, (peer, user): (SocketAddr, Option<&str>), target: &str, reason: BarLabel, text: &str) {
        // Without credentials, this is an unknown client or one that waits for a challenge, such as git.
        if reason != BarLabel::Login {
            self.refused.record(target, text);
        }
        let client = peer.ip().to_canonical();
        EgressRefused { client, user, target, reason, text }.emit(&self.handler.metrics);
    }

    /// Returns and logs a refusal. Closes the connection, since the bytes that follow may be anything.
    pub(crate) fn refuse(&self, client: (SocketAddr, Option<&str>), target: &http::Uri, error: &RequestError) -> Reply {
        // What contains a token is not logged.
        let authority = target.authority().filter(|_| !matches!(error, RequestError::TokenInRequest(_)));
        let target = authority.map_or("-", |authority| authority.as_str());
        self.record_refusal(client, target, reason(error), &error.to_string());
        response::and_close(response::error(error))
    }
}

pub(crate) fn reason(error: &RequestError) -> BarLabel {
    match error {
        RequestError::EgressDenied(label, _) => *label,
        RequestError::HostMismatch(_) => BarLabel::Mismatch,
        RequestError::ProxyAuthRequired
        | RequestError::ProxyTokenRefused(_)
        | RequestError::TokenRequired(_)
        | RequestError::TokenRefused(_)
        | RequestError::TooManyGuesses
        | RequestError::RoleTooLow { .. }
        | RequestError::ExchangeRefused(_)
        | RequestError::NotExchanged(_)
        | RequestError::AlreadyExchanged
        | RequestError::ClaimsRefused
        | RequestError::AdminTokenRequired
        | RequestError::AdminDisabled => BarLabel::Login,
        RequestError::Unreachable { .. } => BarLabel::Unreached,
        _ => BarLabel::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_destinations_are_bounded() {
        let refused = RefusedDestinations::default();
        for number in 0..=MAX_REFUSED_DESTINATIONS {
            refused.record(&format!("host-{number}:443"), "first");
        }
        refused.record("host-0:443", "second");
        let refused = refused.0.into_inner().unwrap();
        assert_eq!(refused.len(), MAX_REFUSED_DESTINATIONS);
        assert_eq!(refused["host-0:443"], RefusedDestination { times: 2, reason: "first".to_owned() });
    }
}
