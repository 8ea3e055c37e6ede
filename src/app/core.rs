//! What all entry points of a process share: the store, the firewall on it, the metrics and the clock.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::app::error::AppError;
use crate::clock::Clock;
use crate::config::Config;
use crate::firewall::{ApprovalRequests, BaseUrl, Client, Firewall, FirewallDeps, Profile};
use crate::net::TlsTrust;
use crate::npm::{PackageName, UserAgent};
use crate::policy::decisions::Decision;
use crate::server::admin::HealthChecks;
use crate::store::{BlobStore, DataDir, DiskBlobs, Ledger, PackageKey, RequestLedger, SqliteLedger, StoreError};
use crate::telemetry::{CallbackGauge, Metrics};
use crate::tls;
use crate::upstream::{Addressed, AllCircuits, Authorization, Registries};

/// How long to retry opening a data directory that is in use.
const DATA_DIR_WAIT: Duration = Duration::from_secs(2);

/// The components on one data directory. Clones share them.
#[derive(Clone)]
pub(crate) struct Core {
    pub(crate) ledger: Arc<SqliteLedger>,
    pub(crate) blobs: Arc<dyn BlobStore>,
    pub(crate) firewall: Arc<Firewall>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) trust: TlsTrust,
    circuits: AllCircuits,
}

/// All decisions in the ledger, and their revision.
pub(crate) type RevisedDecisions = (u64, Vec<Decision>);

impl Core {
    /// Opens the store and builds the firewall with the recorded decisions. Blocks on disk I/O.
    pub(crate) fn open(data_dir: &DataDir, config: &Config, clock: Arc<dyn Clock>) -> Result<(Self, RevisedDecisions), AppError> {
        let ledger = Arc::new(SqliteLedger::open(data_dir)?);
        let blobs = DiskBlobs::open(data_dir, config.store.cache_size)?;
        let trust = tls::client_config(&config.tls)?;
        let registries = Registries::open(&config.upstream, &trust)?;
        let circuits = registries.circuits();
        let (revision, decisions) = ledger.decisions()?;
        ledger.set_applied_revision(revision)?;
        let metrics = Arc::new(Metrics::default());
        let firewall = Arc::new(Firewall::new(FirewallDeps {
            registries,
            ledger: Arc::clone(&ledger) as Arc<dyn Ledger>,
            blobs: Arc::clone(&blobs) as Arc<dyn BlobStore>,
            clock: Arc::clone(&clock),
            metrics: Arc::clone(&metrics),
            policy: config.policies.default.clone(),
            further_policies: config.policies.further.clone(),
            decisions: decisions.clone(),
            config: config.firewall.clone(),
        }));
        let (stored, open) = (Arc::clone(&blobs), circuits.clone());
        metrics.register_gauge(CallbackGauge::BlobBytes, Box::new(move || stored.statistics().bytes));
        let journal = Arc::clone(&ledger);
        metrics.register_gauge(CallbackGauge::LedgerPending, Box::new(move || journal.pending_rows()));
        metrics.register_gauge(CallbackGauge::CircuitsOpen, Box::new(move || open.open()));
        // A weak reference, because the firewall holds the metrics. A cycle would keep the data directory locked.
        let weak = Arc::downgrade(&firewall);
        let memory = move || weak.upgrade().map_or(0, |firewall| firewall.memory_bytes());
        metrics.register_gauge(CallbackGauge::MemoryBytes, Box::new(memory));
        Ok((Self { ledger, blobs, firewall, metrics, clock, trust, circuits }, (revision, decisions)))
    }

    /// Upstream is a warning only: a server that can serve its cache is ready, and a check would send requests.
    pub(crate) fn add_checks(&self, checks: &mut HealthChecks) {
        let (ledger, firewall, circuits) = (Arc::clone(&self.ledger), Arc::clone(&self.firewall), self.circuits.clone());
        checks.require("ledger", move || {
            let name = PackageName::parse("coldframe").map_err(|error| error.to_string())?;
            ledger.package(&PackageKey { upstream: "".into(), name }).map(drop).map_err(|error| error.to_string())
        });
        checks.require("clock", move || firewall.check_clock());
        checks.warn("upstream", move || match circuits.open() {
            0 => Ok(()),
            open => Err(format!("circuit open for {open} upstream host(s) after repeated failures; cached packages are served")),
        });
    }

    /// Returns the requests for approvals of this data directory.
    pub(crate) fn approval_requests(&self) -> ApprovalRequests {
        let ledger = Arc::clone(&self.ledger) as Arc<dyn RequestLedger>;
        ApprovalRequests::new((*self.firewall).clone(), ledger, Arc::clone(&self.clock), Arc::clone(&self.metrics))
    }

    /// Writes the pending ledger rows. Returns how many rows were lost since the start.
    pub(crate) async fn flush(&self) -> u64 {
        let ledger = Arc::clone(&self.ledger);
        let flushed = tokio::task::spawn_blocking(move || {
            ledger.flush();
            ledger.lost_rows()
        });
        flushed.await.unwrap_or_else(|error| {
            tracing::error!(error = %error, "ledger flush failed");
            // The number is unknown, but at least one.
            1
        })
    }
}

/// Returns the client that commands on this machine are, with this policy. It may use the configured credentials.
pub(crate) fn local_client(profile: usize) -> Client {
    Client {
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        identity: None,
        agent: UserAgent::parse(concat!("coldframe/", env!("CARGO_PKG_VERSION"))),
        is_installing: false,
        authorization: Authorization::Lent,
        addressed: Addressed::Coldframe,
        base: BaseUrl { text: "http://127.0.0.1".into(), cacheable: false, serves_admin: false, intercepted: None },
        profile: Profile(profile),
    }
}

/// Opens and locks the data directory. Retries while it is locked, because a killed process keeps its lock until it is gone.
pub(crate) async fn open_data_dir(path: &Path) -> Result<DataDir, StoreError> {
    let deadline = tokio::time::Instant::now() + DATA_DIR_WAIT;
    loop {
        match DataDir::open(path) {
            Err(StoreError::Locked { .. }) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(DATA_DIR_WAIT / 20).await;
            }
            opened => return opened,
        }
    }
}
