//! Floor 9: the only composition root. Takes a configuration and a clock, makes the rooms and joins them.
//!
//! Refuses to read configuration, flags or the environment, and to decide what a client gets.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use crate::config::Config;
use crate::firewall::{Explanation, Firewall, Rejection};
use crate::npm::Spec;
use crate::store::{Exposure, StoreError};
use crate::telemetry::Clock;
use crate::upstream::UpstreamError;

/// Why there is no server, or no answer.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The first address to listen on cannot be had.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The data directory cannot be had.
    #[error(transparent)]
    DataDir(StoreError),
    /// Upstream cannot be set up: a certificate file, a proxy.
    #[error(transparent)]
    Upstream(UpstreamError),
    /// A question got no answer.
    #[error(transparent)]
    Rejected(#[from] Rejection),
}

/// A server that is bound and not yet running.
pub struct App {
    addresses: Vec<SocketAddr>,
    firewall: Arc<Firewall>,
}

impl App {
    /// x
    pub async fn build(config: Config, clock: Arc<dyn Clock>) -> Result<Self, AppError> {
        let _ = (config, clock);
        todo!()
    }

    /// x
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// x
    pub fn firewall(&self) -> &Arc<Firewall> {
        &self.firewall
    }

    /// x
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), AppError> {
        shutdown.await;
        Ok(())
    }
}

/// x
pub async fn explain(config: Config, spec: &Spec) -> Result<Explanation, AppError> {
    let _ = (config, spec);
    todo!()
}

/// x
pub fn exposure(data_dir: &Path, spec: &Spec) -> Result<Vec<Exposure>, AppError> {
    let _ = (data_dir, spec);
    todo!()
}
