//! The services that most components of the firewall use.

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
