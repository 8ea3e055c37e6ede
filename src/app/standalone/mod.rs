//! Operations without a server, for single commands. They do not change the data directory.

pub mod decide;
pub mod incident;
pub mod ledger;
pub mod policy_diff;
pub(crate) mod requests;
pub mod tokens;

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use crate::app::core::local_client;
use crate::app::error::AppError;
use crate::app::outbound;
use crate::app::remote::RemoteServer;
use crate::app::remote::http::HttpServer;
use crate::clock::Clock;
use crate::config::Config;
use crate::firewall::{Client, Explanation, Firewall, FirewallDeps, LockedVersion};
use crate::npm::PackageSpec;
use crate::server::admin::CheckResponse;
use crate::store::read_only::ReadOnlyLedger;
use crate::store::{
    BlobStore, DataDir, DiskBlobs, Exposure, IndicatorHit, Ledger, RecordedSignals, SqliteLedger, StoreError, indicator_hit,
};
use crate::telemetry::Metrics;
use crate::tls;
use crate::upstream::Registries;
use crate::vetting::inspect::Inspection;

/// Explains the verdict on a version, by `config`, the data directory and upstream's current state; as of `at` if it is given.
pub(crate) async fn explain(
    config: Config,
    clock: Arc<dyn Clock>,
    spec: &PackageSpec,
    at: Option<Timestamp>,
) -> Result<Explanation, AppError> {
    let local_client = configured_client(&config);
    let firewall = firewall(config, clock)?;
    Ok(firewall.value.explain(&local_client, &spec.name, spec.wanted.as_deref(), at).await?)
}

/// Opens the tarball of a version, and explains the version.
pub(crate) async fn vet(
    config: Config,
    clock: Arc<dyn Clock>,
    spec: &PackageSpec,
) -> Result<(Explanation, Inspection), AppError> {
    let local_client = configured_client(&config);
    let firewall = firewall(config, clock)?;
    Ok(firewall.value.vet(&local_client, &spec.name, spec.wanted.as_deref()).await?)
}

/// A firewall for a single operation, and the temporary directory for its cache.
pub(crate) struct StandaloneFirewall {
    pub(crate) value: Arc<Firewall>,
    _folder: tempfile::TempDir,
}

/// Creates a firewall from `config` and the data directory. It writes nothing there.
pub(crate) fn firewall(config: Config, clock: Arc<dyn Clock>) -> Result<StandaloneFirewall, AppError> {
    let ledger = open_read_only(&config.store.data_dir)?;
    let scratch = tempfile::tempdir().map_err(AppError::Scratch)?;
    let data_dir = DataDir::open(scratch.path())?;
    let blobs = DiskBlobs::open_temporary(&data_dir, config.store.cache_size)?;
    let (_, decisions) = ledger.decisions()?;
    let advisories = outbound::load_feeds_once(&config.feeds, &config.store.data_dir, scratch.path(), clock.now());
    let firewall = Firewall::new(FirewallDeps {
        registries: Registries::open(&config.upstream, &tls::client_config(&config.tls)?)?,
        ledger: Arc::new(ledger) as Arc<dyn Ledger>,
        blobs: blobs as Arc<dyn BlobStore>,
        clock,
        metrics: Arc::new(Metrics::default()),
        policy: config.policies.default,
        further_policies: config.policies.further,
        decisions,
        config: config.firewall,
    });
    firewall.set_advisories(&advisories);
    Ok(StandaloneFirewall { value: Arc::new(firewall), _folder: scratch })
}

/// Returns which clients requested a package and with what outcome, by the ledger in `data_dir`.
///
/// # Errors
/// Returns an error if there is no ledger, or if it cannot be read.
pub fn exposure(data_dir: &Path, spec: &PackageSpec) -> Result<Vec<Exposure>, AppError> {
    let ledger = SqliteLedger::read_only(data_dir)?;
    Ok(ledger.exposure(&spec.name, spec.wanted.as_deref())?)
}

/// Returns the signals that releases showed when they were young, by the ledger in `data_dir`.
pub(crate) fn recorded_signals(data_dir: &Path, spec: &PackageSpec) -> Result<Vec<RecordedSignals>, AppError> {
    let mut signals = SqliteLedger::read_only(data_dir)?.recorded_signals(&spec.name)?;
    signals.retain(|recorded| spec.wanted.as_deref().is_none_or(|wanted| *wanted == *recorded.version));
    signals.sort_by(|left, right| left.version.cmp(&right.version).then(right.recorded.cmp(&left.recorded)));
    signals.dedup_by(|other, first| other.version == first.version);
    Ok(signals)
}

/// Returns the clients that contacted indicators of feeds, by the ledger in `data_dir`: oldest first, repeated hits counted.
pub(crate) fn indicator_hits(data_dir: &Path) -> Result<Vec<IndicatorHitSummary>, AppError> {
    let ledger = SqliteLedger::read_only(data_dir)?;
    let mut contacts: Vec<IndicatorHitSummary> = Vec::new();
    for event in ledger.events(Timestamp::UNIX_EPOCH)?.into_iter().filter(|event| event.kind == indicator_hit::KIND) {
        let Some(contact) = IndicatorHit::from_event(event.name.as_deref(), &event.detail) else { continue };
        match contacts.iter_mut().find(|known| known.contact == contact) {
            Some(known) => {
                known.times += event.times;
                known.last = known.last.max(event.last);
            }
            None => contacts.push(IndicatorHitSummary { contact, times: event.times, first: event.first, last: event.last }),
        }
    }
    Ok(contacts)
}

/// Repeated hits of one client on one indicator.
#[derive(Debug, Clone)]
pub(crate) struct IndicatorHitSummary {
    pub(crate) contact: IndicatorHit,
    pub(crate) times: u64,
    pub(crate) first: Timestamp,
    pub(crate) last: Timestamp,
}

/// Opens the ledger of a data directory read-only. A missing ledger counts as empty.
pub(crate) fn open_read_only(data_dir: &Path) -> Result<ReadOnlyLedger, AppError> {
    match SqliteLedger::read_only(data_dir) {
        Ok(ledger) => Ok(ReadOnlyLedger(Some(ledger))),
        Err(StoreError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(ReadOnlyLedger(None)),
        Err(error) => Err(error.into()),
    }
}

/// Returns the local client with the policy of the first configured address.
pub(crate) fn configured_client(config: &Config) -> Client {
    local_client(config.policies.first_profile())
}

/// Checks the versions in lockfiles.
pub(crate) enum Checker {
    /// A firewall in this process, with the policy of this client.
    Here(StandaloneFirewall, Box<Client>),
    Http(Arc<HttpServer>),
    /// The server on the data directory, with one of its policies.
    Running(Box<RemoteServer>, usize),
}

impl Checker {
    /// Creates a checker from `config`, the data directory and upstream's current state. It writes nothing.
    pub(crate) fn here(config: Config, clock: Arc<dyn Clock>) -> Result<Self, AppError> {
        let client = Box::new(configured_client(&config));
        Ok(Self::Here(firewall(config, clock)?, client))
    }

    /// Returns one outcome for each of `locked`, in the same order. A failed lookup is the outcome of its package.
    pub(crate) async fn check(&self, locked: &[LockedVersion]) -> Result<CheckResponse, AppError> {
        match self {
            Self::Here(StandaloneFirewall { value, .. }, client) => Ok(CheckResponse::of(value, client, locked).await),
            Self::Http(server) => server.check(locked).await,
            Self::Running(server, profile) => server.check(locked, *profile).await,
        }
    }
}
