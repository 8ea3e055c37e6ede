//! The configuration and the dependencies of the firewall.

use std::sync::Arc;
use std::time::Duration;

use url::Url;

use crate::clock::Clock;
use crate::policy::Policy;
use crate::policy::decisions::Decision;
use crate::store::{BlobStore, Ledger};
use crate::telemetry::Metrics;
use crate::upstream::Registries;
use crate::vetting::provenance::TrustRoot;
use crate::vetting::signatures::KeyRing;

/// Time and memory limits.
#[derive(Debug, Clone)]
pub struct Config {
    /// How long a packument is fresh.
    pub packument_ttl: Duration,
    /// How long a stale packument is served while upstream is unavailable.
    pub max_stale: Duration,
    /// How long to wait for upstream before a stale packument is served (`stale-wait`).
    pub patience: Duration,
    /// Memory for package snapshots and rendered packuments, in bytes.
    pub memory: u64,
    /// Memory for packuments that are being fetched and parsed, in bytes. A larger packument waits until it can exceed the limit
    /// alone.
    pub packument_memory: u64,
    /// Concurrent prefetches per registry, at most [`FETCHES`]. 0 disables prefetching.
    pub prefetch: usize,
    /// Nonexistent names that one client may request per day. Each is recorded, so that a package that appears later cannot claim
    /// to be old.
    pub absent_names: usize,
    pub limits: SizeLimits,
    /// The keys that the registry's signatures are verified with.
    pub signing_keys: Arc<KeyRing>,
    /// The authorities and logs that provenance is verified with; `None` if it is not verified.
    pub trust_root: Option<Arc<TrustRoot>>,
    /// What renews both while the server runs.
    pub trust_updates: Option<TrustUpdates>,
}

/// The most bytes of one document or tarball.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeLimits {
    /// The largest packument accepted from upstream, decoded.
    pub packument: u64,
    /// The largest tarball accepted from upstream.
    pub tarball: u64,
    /// The memory that opening one tarball may take.
    pub vetting_memory: u64,
}

/// A TUF repository that renews keys and authorities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustUpdates {
    pub repository: Url,
    /// Its root metadata, from which later ones are verified.
    pub root: Vec<u8>,
}

/// The dependencies of a [`Firewall`](crate::firewall::Firewall).
pub struct FirewallDeps {
    pub registries: Registries,
    pub ledger: Arc<dyn Ledger>,
    /// Tarballs and packument documents.
    pub blobs: Arc<dyn BlobStore>,
    pub clock: Arc<dyn Clock>,
    pub metrics: Arc<Metrics>,
    /// The policy of profile 0.
    pub policy: Policy,
    /// The policies of further listeners: profiles 1, 2, …
    pub further_policies: Vec<Policy>,
    /// Every recorded decision.
    pub decisions: Vec<Decision>,
    pub config: Config,
}

/// The maximum of [`Config::absent_names`]: the number of absent names that the ledger records for all clients.
pub const MAX_ABSENT_NAMES: usize = 200_000;

/// Concurrent packument fetches per registry and client: the most that npm clients send at once.
pub const FETCHES: usize = 48;
