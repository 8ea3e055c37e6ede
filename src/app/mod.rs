//! Floor 9: the only composition root. Takes a configuration and a clock, makes the rooms and joins them.
//!
//! Refuses to read flags, files or the environment, and to decide what a client gets.

mod glimpse;
mod listening;
pub mod question;
mod retention;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

pub use question::{explain, exposure};

use listening::Bound;

use crate::config::Config;
use crate::firewall::{Firewall, Parts, Rejection};
use crate::net::Limits;
use crate::store::{Blobs, DataDir, DiskBlobs, Ledger, SqliteLedger, StoreError};
use crate::telemetry::Clock;
use crate::upstream::{Registries, UpstreamError};

/// Why there is no server, or no answer.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The first address to listen on cannot be had.
    #[error("cannot listen on `{address}`")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The data directory cannot be had.
    #[error("cannot use the data directory")]
    DataDir(#[source] StoreError),
    /// Upstream cannot be set up: a certificate file, a proxy.
    #[error("cannot set up upstream")]
    Upstream(#[source] UpstreamError),
    /// There is no place for what a question needs for a moment.
    #[error("cannot make a temporary directory")]
    Scratch(#[source] std::io::Error),
    /// Some of what was noted did not reach the disk.
    #[error("requests that are missing in the ledger: {0}")]
    LedgerLost(u64),
    /// A question got no answer.
    #[error(transparent)]
    Rejected(#[from] Rejection),
}

/// A server that is bound and not yet running. Nothing was sent upstream.
pub struct App {
    bound: Vec<Bound>,
    addresses: Vec<SocketAddr>,
    firewall: Arc<Firewall>,
    ledger: Arc<SqliteLedger>,
    clock: Arc<dyn Clock>,
    limits: Limits,
    ledger_retention: Duration,
}

impl App {
    /// Opens the data directory and takes its lock, makes the rooms, and binds the addresses. Blocks for as long as the
    /// disk takes.
    ///
    /// # Errors
    /// When the data directory is in use or cannot be used, upstream cannot be set up, or the first address is not free.
    pub async fn build(config: Config, clock: Arc<dyn Clock>) -> Result<Self, AppError> {
        let data_dir = DataDir::open(&config.store.data_dir).map_err(AppError::DataDir)?;
        let ledger = Arc::new(SqliteLedger::open(&data_dir).map_err(AppError::DataDir)?);
        let blobs = DiskBlobs::open(&data_dir, config.store.cache_size).map_err(AppError::DataDir)?;
        let registries = Registries::open(&config.upstream).map_err(AppError::Upstream)?;
        let firewall = Arc::new(Firewall::new(Parts {
            registries,
            ledger: Arc::clone(&ledger) as Arc<dyn Ledger>,
            blobs: blobs as Arc<dyn Blobs>,
            clock: Arc::clone(&clock),
            policy: config.policy,
            config: config.firewall,
        }));
        let bound = listening::bind(&config.listen).await?;
        let addresses = bound.iter().map(|bound| bound.address).collect();
        let (limits, ledger_retention) = (config.limits, config.ledger_retention);
        Ok(Self { bound, addresses, firewall, ledger, clock, limits, ledger_retention })
    }

    /// The addresses that clients can connect to, with their real ports; the first one is the first of the configuration.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The firewall behind them.
    #[must_use]
    pub fn firewall(&self) -> &Arc<Firewall> {
        &self.firewall
    }

    /// Serves until `shutdown` resolves; then takes no more requests, lets those in flight finish until the drain deadline,
    /// and writes the ledger.
    ///
    /// # Errors
    /// When some of what was served or refused could not be written to the ledger.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), AppError> {
        let stop = watch::Sender::new(false);
        let room = self.limits.room();
        let mut listeners = JoinSet::new();
        for bound in self.bound {
            let (limits, room, mut stopped) = (self.limits.clone(), Arc::clone(&room), stop.subscribe());
            listeners.spawn(async move {
                let stopped = async move {
                    // An error means that the sender is gone, and with it whoever could ask for more.
                    let _ = stopped.wait_for(|stop| *stop).await;
                };
                crate::net::listener::serve(bound.listener, &limits, &room, handler, stopped).await
            });
        }
        let retention = tokio::spawn(retention::keep(Arc::clone(&self.ledger), self.clock, self.ledger_retention));
        shutdown.await;
        tracing::info!("stopping");
        stop.send_replace(true);
        while listeners.join_next().await.is_some() {}
        retention.abort();
        let lost = flush(self.ledger).await;
        tracing::info!("stopped");
        if lost == 0 { Ok(()) } else { Err(AppError::LedgerLost(lost)) }
    }
}

/// Writes what the ledger was told and has not yet written; says how much of it was lost since the start.
async fn flush(ledger: Arc<SqliteLedger>) -> u64 {
    let flushed = tokio::task::spawn_blocking(move || {
        ledger.flush();
        ledger.lost()
    });
    // A panic in there loses an unknown number, which is at least one.
    flushed.await.unwrap_or(1)
}
