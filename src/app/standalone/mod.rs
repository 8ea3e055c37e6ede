//! Questions that are answered once, without a server: beside a running one or on a bare machine. They change nothing.

pub mod adopt;
pub mod check;
pub mod decide;
pub mod incident;
pub mod policy_diff;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use crate::app::{AppError, outbound};
use crate::clock::Clock;
use crate::config::Config;
use crate::firewall::{BaseUrl, Client, Explanation, Firewall, FirewallDeps, Profile};
use crate::npm::{PackageSpec, UserAgent};
use crate::policy::Policy;
use crate::store::read_only::ReadOnlyLedger;
use crate::store::{BlobStore, DataDir, DiskBlobs, Exposure, IndicatorHit, Ledger, SqliteLedger, StoreError, indicator_hit};
use crate::telemetry::Metrics;
use crate::tls;
use crate::upstream::{Addressed, Authorization, Registries};

/// Says whether a version would be served, by `config`, by what its data directory knows, and by what upstream says now;
/// as of `at` where it is given.
///
/// # Errors
/// When there is no such version, upstream cannot be asked, or the ledger is there and cannot be read.
pub async fn explain(
    config: Config,
    clock: Arc<dyn Clock>,
    spec: &PackageSpec,
    at: Option<Timestamp>,
) -> Result<Explanation, AppError> {
    let asker = asker_of(&config);
    let firewall = firewall(config, clock)?;
    Ok(firewall.value.explain(&asker, &spec.name, spec.wanted.as_deref(), at).await?)
}

/// A firewall for one question, and the place where it keeps what it fetches meanwhile.
pub(crate) struct StandaloneFirewall {
    pub(crate) value: Arc<Firewall>,
    _folder: tempfile::TempDir,
}

/// A firewall that judges by `config` and by what its data directory knows, and writes nothing down.
pub(crate) fn firewall(config: Config, clock: Arc<dyn Clock>) -> Result<StandaloneFirewall, AppError> {
    let further = config.further_policies.clone();
    firewall_of(config, clock, further)
}

/// Such a firewall with further policies, those of profile 1, 2, …
pub(crate) fn firewall_of(
    config: Config,
    clock: Arc<dyn Clock>,
    further_policies: Vec<Policy>,
) -> Result<StandaloneFirewall, AppError> {
    let ledger = glimpse(&config.store.data_dir)?;
    let scratch = tempfile::tempdir().map_err(AppError::Scratch)?;
    let data_dir = DataDir::open(scratch.path()).map_err(AppError::DataDir)?;
    let blobs = DiskBlobs::open_temporary(&data_dir, config.store.cache_size).map_err(AppError::DataDir)?;
    let (_, decisions) = ledger.decisions().map_err(AppError::DataDir)?;
    let advisories = outbound::glance(&config.feeds, &config.store.data_dir, scratch.path(), clock.now());
    let firewall = Firewall::new(FirewallDeps {
        registries: Registries::open(&config.upstream, &tls::client_config(&config.tls)?)?,
        ledger: Arc::new(ledger) as Arc<dyn Ledger>,
        blobs: blobs as Arc<dyn BlobStore>,
        clock,
        metrics: Arc::new(Metrics::new()),
        policy: config.policy,
        further_policies,
        decisions,
        config: config.firewall,
    });
    firewall.follow(&advisories);
    Ok(StandaloneFirewall { value: Arc::new(firewall), _folder: scratch })
}

/// Who asked for a package and what became of it, by the ledger in `data_dir`.
///
/// # Errors
/// When there is no ledger, or it cannot be read.
pub fn exposure(data_dir: &Path, spec: &PackageSpec) -> Result<Vec<Exposure>, AppError> {
    let ledger = SqliteLedger::read_only(data_dir).map_err(AppError::DataDir)?;
    ledger.exposure(&spec.name, spec.wanted.as_deref()).map_err(AppError::DataDir)
}

/// Who asked for places that feeds list as what malware talks to, by the ledger in `data_dir`: oldest first, equal ones counted.
///
/// # Errors
/// When there is no ledger, or it cannot be read.
pub fn contacts(data_dir: &Path) -> Result<Vec<IndicatorHitSummary>, AppError> {
    let ledger = SqliteLedger::read_only(data_dir).map_err(AppError::DataDir)?;
    let mut contacts: Vec<IndicatorHitSummary> = Vec::new();
    for event in ledger.incidents(Timestamp::UNIX_EPOCH).map_err(AppError::DataDir)? {
        let read =
            (event.kind == indicator_hit::KIND).then(|| IndicatorHit::read(event.name.as_deref(), &event.detail)).flatten();
        let Some(contact) = read else { continue };
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

/// Somebody asked for a place that a feed lists, so many times.
#[derive(Debug, Clone)]
pub struct IndicatorHitSummary {
    /// Who, for what.
    pub contact: IndicatorHit,
    /// How often.
    pub times: u64,
    /// The first time.
    pub first: Timestamp,
    /// The last time.
    pub last: Timestamp,
}

/// The ledger of a data directory, or none where nothing was kept yet.
pub(crate) fn glimpse(data_dir: &Path) -> Result<ReadOnlyLedger, AppError> {
    match SqliteLedger::read_only(data_dir) {
        Ok(ledger) => Ok(ReadOnlyLedger(Some(ledger))),
        Err(StoreError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(ReadOnlyLedger(None)),
        Err(wrong) => Err(AppError::DataDir(wrong)),
    }
}

/// The same before the policy that the first address of a configuration answers by.
pub(crate) fn asker_of(config: &Config) -> Client {
    Client { profile: Profile(config.listener_policies.first().copied().unwrap_or_default()), ..asker() }
}

/// The one who sits at this machine, to whom its own credentials are lent.
pub(crate) fn asker() -> Client {
    Client {
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        user: None,
        agent: UserAgent::parse(concat!("coldframe/", env!("CARGO_PKG_VERSION"))),
        resolves: false,
        authorization: Authorization::Lent,
        addressed: Addressed::Coldframe,
        base: BaseUrl { text: "http://127.0.0.1".into(), remembered: false, explains: false, intercepted: None },
        profile: Profile::default(),
    }
}
