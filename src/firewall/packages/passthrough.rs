//! Passes requests on to upstream that are not about versions, or that upstream must decide.

use std::sync::Arc;
use std::time::Instant;

use crate::firewall::credential_binding::registry_of;
use crate::firewall::error::Result;
use crate::firewall::packages::Services;
use crate::firewall::packages::fetch_slots::Slots;
use crate::firewall::packages::parse_pool::HeldBytes;
use crate::firewall::recorder::outcome_of;
use crate::firewall::request::Client;
use crate::net::Reservation;
use crate::npm::PackageName;
use crate::telemetry::{UpstreamOutcome, UpstreamWhat};
use crate::upstream::{PassthroughRequest, PassthroughResponse};

/// Passes requests to upstream, with the memory of their responses.
pub(crate) struct Passthrough {
    pub services: Arc<Services>,
    pub slots: Slots,
}

impl Passthrough {
    /// Passes a request to the registry of `name`, or to the default registry. Fails if no registry may receive the client's
    /// credentials that it needs.
    pub(crate) async fn send(
        &self,
        client: &Client,
        name: Option<&PackageName>,
        request: PassthroughRequest,
    ) -> Result<PassthroughResponse> {
        let registry = registry_of(&self.services.registries, client, name, request.for_account)?;
        let request = if registry.takes_clients(&client.addressed) { request } else { request.without_credentials() };
        let _slot = self.slots.of(registry).acquire(client.address).await;
        let mut reservation = self.services.parse_pool.memory.share_in(registry.id());
        let started = Instant::now();
        let response = registry.pass(request, &client.authorization, &mut reservation).await;
        let outcome = response.as_ref().map_or_else(outcome_of, |_| UpstreamOutcome::Changed);
        let detail = response.as_ref().err().map(ToString::to_string);
        self.services.recorder.upstream_answered(UpstreamWhat::Pass, name, started, outcome, detail.as_deref());
        let mut response = response?;
        response.body = HeldBytes::new(response.body, reservation);
        Ok(response)
    }

    /// Reserves memory for parsing an upstream response: eight times its size covers the smallest JSON values. The response holds
    /// memory already, so this uses a lane of its own.
    pub(crate) async fn reserve_for_parsing(&self, response: &PassthroughResponse) -> Result<Reservation> {
        let mut reservation = self.services.parse_pool.memory.share_in(&Arc::from("answers"));
        reservation.grow_to(8 * response.body.len() as u64).await?;
        Ok(reservation)
    }

    /// Reserves `bytes` of memory, which may grow.
    pub(crate) async fn reserve(&self, bytes: u64) -> Result<Reservation> {
        let mut reservation = self.services.parse_pool.memory.share();
        reservation.grow_to(bytes).await?;
        Ok(reservation)
    }
}
