//! A gateway for one command: on a loopback port of its own, with an authority that lives in memory and dies with it. Refuses
//! to know who answers behind it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use rustls_pki_types::CertificateDer;

use crate::app::AppError;
use crate::app::listeners::{BoundListener, bind_one};
use crate::clock::Clock;
use crate::firewall::Profile;
use crate::net::{ConnectionLimit, OutboundProxy};
use crate::server::{
    self, EgressContext, Forward, Own, RefusedDestination, RegistryHandler, RegistryService, SessionPassword, gateway,
};
use crate::telemetry::Metrics;
use crate::tls::{CaSet, CertificateAuthority, LeafIssuer, TlsError, ca};

/// Where the gateway listens: any port that is free, on this machine alone.
const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The gateway, bound.
pub(crate) struct LoopbackGateway<A> {
    bound: BoundListener,
    door: Arc<Forward<A>>,
    certificate: CertificateDer<'static>,
}

impl<A: RegistryService> LoopbackGateway<A> {
    /// Makes an authority for the hosts it answers for, and binds a port. Who shows the pass is `guest`, and nobody else gets
    /// through; nothing leads to what is `ours`.
    ///
    /// # Errors
    /// When the system has no randomness, or no port.
    pub(crate) async fn open(
        answers: Arc<A>,
        (service, gateway, parent): (server::Config, &server::GatewayConfig, OutboundProxy),
        ((guest, pass), ours): ((Arc<str>, SessionPassword), &[SocketAddr]),
        metrics: Arc<Metrics>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, AppError> {
        let hosts = gateway.targets.hosts();
        let pem = ca::create(&hosts, clock.now()).map_err(AppError::Authority)?;
        let current = CertificateAuthority::read(pem.as_bytes(), pem.as_bytes());
        let current = current.map_err(|detail| AppError::Authority(TlsError::Unusable { path: "memory".into(), detail }))?;
        let certificate = current.certificate().clone();
        let leaves = LeafIssuer::new(CaSet { current, retiring: Vec::new() }, &hosts, &hosts, Arc::clone(clock));
        let leaves = leaves.map_err(AppError::Authority)?;
        let bound = bind_one(ANY_PORT, Profile::default()).await;
        let bound = bound.map_err(|source| AppError::Listen { address: ANY_PORT, source })?;
        let service = Arc::new(RegistryHandler::new(answers, service, &[], pages(), metrics)?);
        let ours = ours.iter().copied().chain([bound.address]).collect();
        let way = EgressContext { ours, parent };
        let door = Arc::new(Forward::new(service, gateway, leaves, way)?.known_as(guest, pass));
        Ok(Self { bound, door, certificate })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.bound.address
    }

    /// What clients have to trust.
    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Serves until `stop` resolves; the places that were asked for and refused.
    pub(crate) async fn serve(self, connections: usize, stop: impl Future<Output = ()>) -> BTreeMap<String, RefusedDestination> {
        gateway::serve(self.bound.listener, &ConnectionLimit::of(connections), &self.door, stop).await;
        self.door.turned_away()
    }
}

/// A gateway shows its health and nothing else of itself.
fn pages() -> Own {
    Arc::new(|_| Box::pin(std::future::ready(Response::new(Bytes::from_static(b"ok\n")))))
}
