//! Looks up packages in memory, in the store, or with one shared request to upstream.

pub(crate) mod abbreviated;
pub(crate) mod attestations;
pub(crate) mod cache;
pub(crate) mod client_limits;
pub(crate) mod cohorts;
pub(crate) mod fetch;
pub(crate) mod fetch_slots;
pub(crate) mod ingest;
pub(crate) mod load;
pub(crate) mod new_dependencies;
pub(crate) mod parse_pool;
pub(crate) mod passthrough;
pub(crate) mod provenance;
pub(crate) mod record_signals;
pub(crate) mod request;
pub(crate) mod requester;
pub(crate) mod service;
pub(crate) mod sibling_lookups;
pub(crate) mod slow_registries;
pub(crate) mod subpackages;
pub(crate) mod views;

use std::sync::Arc;

use crate::firewall::config::Config;
use crate::firewall::packages::cache::PackageCache;
use crate::firewall::packages::parse_pool::ParsePool;
use crate::firewall::policy_state::PolicyState;
use crate::firewall::recorder::Recorder;
use crate::firewall::wall_clock::WallClock;
use crate::firewall::workers::Workers;
use crate::store::{BlobStore, Ledger};
use crate::upstream::Registries;

/// What most components of the firewall use.
pub(crate) struct Services {
    pub registries: Arc<Registries>,
    pub ledger: Arc<dyn Ledger>,
    pub blobs: Arc<dyn BlobStore>,
    pub policy: Arc<PolicyState>,
    pub wall_clock: Arc<WallClock>,
    pub recorder: Arc<Recorder>,
    pub workers: Arc<Workers>,
    pub cache: Arc<PackageCache>,
    pub parse_pool: Arc<ParsePool>,
    pub config: Config,
    /// The number of processor cores.
    pub cores: usize,
}
