//! A gateway for one command: on a loopback port of its own, with a CA that exists only in memory.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use rustls_pki_types::CertificateDer;

use crate::app::error::AppError;
use crate::app::listeners::{BoundListener, bind_one};
use crate::clock::Clock;
use crate::firewall::Profile;
use crate::firewall::RegistryService;
use crate::net::{ConnectionLimit, OutboundProxy};
use crate::server::{self, EgressContext, Gateway, RefusedDestination, RegistryHandler, SessionPassword, gateway};
use crate::telemetry::Metrics;
use crate::tls::{CaSet, CertificateAuthority, LeafIssuer, TlsError, ca};

/// The address of the gateway: any free loopback port.
const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The bound gateway.
pub(crate) struct LoopbackGateway<A> {
    bound: BoundListener,
    proxy: Arc<Gateway<A>>,
    certificate: CertificateDer<'static>,
}

impl<A: RegistryService> LoopbackGateway<A> {
    /// Creates a CA for the intercepted hosts and binds a port. Clients need the password and are recorded as one user.
    /// Connections to addresses in `ours` are denied.
    ///
    /// # Errors
    /// Returns an error if the system has no randomness or no free port.
    pub(crate) async fn open(
        answers: Arc<A>,
        (service, gateway, parent): (server::Config, &server::GatewayConfig, OutboundProxy),
        ((user, pass), ours): ((Arc<str>, SessionPassword), &[SocketAddr]),
        metrics: Arc<Metrics>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, AppError> {
        let hosts = gateway.targets.hosts();
        let pem = ca::generate(&hosts, clock.now()).map_err(AppError::Authority)?;
        let current = CertificateAuthority::read(pem.as_bytes(), pem.as_bytes());
        let current = current.map_err(|detail| AppError::Authority(TlsError::Unusable { path: "memory".into(), detail }))?;
        let certificate = current.certificate().clone();
        let leaves = LeafIssuer::new(CaSet { current, retiring: Vec::new() }, &hosts, &hosts, Arc::clone(clock));
        let leaves = leaves.map_err(AppError::Authority)?;
        let bound = bind_one(ANY_PORT, Profile::default()).await;
        let bound = bound.map_err(|source| AppError::Listen { address: ANY_PORT, source })?;
        let service = Arc::new(RegistryHandler::new(answers, service, &[], None, metrics)?);
        let ours = ours.iter().copied().chain([bound.address]).collect();
        let way = EgressContext { ours, parent };
        let proxy = Arc::new(Gateway::new(service, gateway, leaves, way)?.for_single_user(user, pass));
        Ok(Self { bound, proxy, certificate })
    }

    /// Returns the address of the gateway.
    pub(crate) fn address(&self) -> SocketAddr {
        self.bound.address
    }

    /// Returns the certificate that clients must trust.
    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Serves until `stop` resolves. Returns the refused destinations.
    pub(crate) async fn serve(self, connections: usize, stop: impl Future<Output = ()>) -> BTreeMap<String, RefusedDestination> {
        gateway::serve(self.bound.listener, &ConnectionLimit::of(connections), &self.proxy, stop).await;
        self.proxy.refused_destinations()
    }
}
