//! The firewall core: answers package requests from cache, store and upstream, filtered by policy. It knows no HTTP; `server`
//! maps requests and results to it.

pub mod audit;
mod credential_binding;
pub mod error;
pub mod explain;
pub mod exposure;
pub mod package;
pub(crate) mod packages;
pub mod policy_state;
mod prefetch;
pub mod queries;
mod recorder;
pub mod request;
mod responses;
pub mod singleflight;
mod tarballs;
mod verdicts;
mod wall_clock;
mod wanted_versions;

pub use exposure::{ExposedVersion, PurgeResult, rescan};

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use moka::sync::Cache;
use tokio::sync::Semaphore;

pub use error::{FirewallError, Refusal};
pub use explain::explanation::Explanation;
pub use policy_state::Profile;
pub use prefetch::PrefetchTarget;
pub use queries::check::{CheckOutcome, CheckedVersion, LockedVersion};
pub use queries::egress::EgressRequest;
pub use queries::hidden::{HeldVersion, HiddenVersions, WantedVersion};
pub use queries::inspect::{InspectedVersion, PackageInspection};
pub use request::{BaseUrl, Client, ContentCoding, PackumentResponse, RegistryRequest, RegistryResponse, TarballResponse};
pub use wanted_versions::Want;

use jiff::Timestamp;

use crate::clock::Clock;
use crate::firewall::package::{CacheKey, PackageSnapshot};
use crate::firewall::packages::abbreviated::AbbreviatedSupport;
use crate::firewall::packages::fetch::{FetchKey, PackageLookup};
use crate::firewall::packages::fetch_slots::{SharedFetches, Slots};
use crate::firewall::packages::parse_pool::ScratchPool;
use crate::firewall::packages::recheck::OnceMore;
use crate::firewall::packages::slow_registries::SlowRegistries;
use crate::firewall::packages::views::Turns;
use crate::firewall::policy_state::PolicySnapshot;
use crate::firewall::prefetch::{ParsePriority, PrefetchQueue};
use crate::firewall::queries::attestations::Attestations;
use crate::firewall::responses::{CachedView, UnsegmentedKey, UnsegmentedResponse, ViewKey};
use crate::firewall::tarballs::addresses::Addresses;
use crate::firewall::tarballs::early_request::EarlyRequests;
use crate::firewall::tarballs::entitlement::{Entitled, EntitlementKey, Entitlements};
use crate::firewall::tarballs::{Landed, MEMORY_UNITS, TarballKey};
use crate::firewall::wall_clock::WallClock;
use crate::firewall::wanted_versions::Wants;
use crate::net::fair_limit::Sizes;
use crate::net::{FairLimit, MemoryBudget, Reservation};
use crate::npm::{Address, PackageName};
use crate::policy::decisions::Decision;
use crate::policy::{Advisories, Policy, Verdict};
use crate::store::{BlobStore, Ledger};
use crate::telemetry::{Metrics, UpstreamAnswered, UpstreamOutcome, UpstreamWhat};
use crate::upstream::{self, PassthroughRequest, PassthroughResponse, Registries, Renewed, UpstreamConfigError};

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
    /// The largest packument accepted from upstream, in bytes, decoded.
    pub packument_limit: u64,
    /// The largest tarball accepted from upstream, in bytes.
    pub tarball_limit: u64,
}

/// The dependencies of a [`Firewall`].
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

/// Entries in each cache of absent and unreachable packages.
const REMEMBERED_FAILURES: u64 = 10_000;

/// The maximum of [`Config::absent_names`]: the number of absent names that the ledger records for all clients.
pub const MAX_ABSENT_NAMES: usize = 200_000;

/// How long requests for nonexistent names count against a client.
const ABSENT_NAMES_PERIOD: Duration = Duration::from_secs(24 * 3600);

/// Concurrent packument fetches per registry and client: the most that npm clients send at once.
pub const FETCHES: usize = 48;

/// Slots per registry that are reserved for each client, so that hanging requests of one client do not block others, and the most
/// slots of all clients together, per kind of request. Each slot costs a socket.
const OWN_SLOTS: usize = 4;
const MAX_SLOTS: usize = 256;

/// How long a packument waits for memory: npm's own request timeout.
const MAX_MEMORY_WAIT: Duration = Duration::from_secs(5 * 60);

/// Memory for uncompressed responses, which few clients request; each is a separate copy. Beyond the first limit, the
/// oldest response of each client may use up to the second. Responses below `SMALL_PLAIN` never wait.
const PLAIN_MEMORY: u64 = 64 << 20;
const MAX_PLAIN_MEMORY: u64 = 512 << 20;
const SMALL_PLAIN: u64 = 64 << 10;

/// How often shutdown checks for remaining tasks.
const DRAIN_POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Concurrent tarball downloads per registry and client.
const MAX_DOWNLOADS: usize = 64;

/// Concurrent passthrough requests per registry and client. Each holds its response in memory.
const MAX_PASSTHROUGHS: usize = 64;

/// Returns the slots of one registry. One client may hold at most `of_one_client` of them.
const fn slots(of_one_client: usize) -> Sizes {
    Sizes { shared: of_one_client - OWN_SLOTS, own: OWN_SLOTS, most: MAX_SLOTS }
}

/// Returns the concurrency of CPU work on untrusted input: all cores are used, and clients take turns.
#[must_use]
pub fn heavy(cores: usize) -> Sizes {
    Sizes { shared: cores, own: 1, most: 2 * cores }
}

/// The firewall, one per process and shared by all listeners.
pub struct Firewall(Arc<Components>);

/// The state that all requests share. Its methods are in the submodules, one file per kind of request.
struct Components {
    registries: Registries,
    ledger: Arc<dyn Ledger>,
    blobs: Arc<dyn BlobStore>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    config: Config,
    policy_snapshot: ArcSwap<PolicySnapshot>,
    /// Package snapshots, bounded in bytes.
    documents: Cache<CacheKey, Arc<PackageSnapshot>>,
    /// Rendered packuments in compressed segments, bounded in bytes.
    views: Cache<ViewKey, Arc<CachedView>>,
    /// Uncompressed responses, bounded in bytes.
    unsegmented: Cache<UnsegmentedKey, Arc<UnsegmentedResponse>>,
    /// Packages that upstream does not have, with the time of that answer.
    absent: Cache<CacheKey, Timestamp>,
    /// Packages whose last fetch failed, with the time of the failure.
    unreachable: Cache<CacheKey, Timestamp>,
    /// Views that were fetched again because another view contradicts them, with the time.
    asked_again: Cache<CacheKey, Timestamp>,
    /// Names that were just recorded as absent for the first time.
    new_absentees: Cache<CacheKey, ()>,
    /// New absent names per client.
    absentees: Cache<IpAddr, usize>,
    /// Locks that serialize history comparisons per package.
    histories: Turns,
    /// Detects whether the system clock was set.
    wall_clock: WallClock,
    /// Registries that do not respond.
    silence: SlowRegistries,
    /// The parent package of each known subpackage.
    wholes_of_parts: Cache<PackageName, PackageName>,
    /// Registries for which a stale response was logged, with the time.
    stale_logged: Cache<Arc<str>, Timestamp>,
    /// Packages that were written through this process, with the time. They are revalidated before the next response.
    written: Cache<PackageName, Timestamp>,
    /// The newest time in `written`, in milliseconds since the epoch. Responses from memory compare only this value.
    last_written: AtomicI64,
    /// Tokens that upstream confirmed as writers of a package, and those that it did not, with the time.
    writers: Cache<CacheKey, Timestamp>,
    strangers: Cache<CacheKey, Timestamp>,
    once_more: OnceMore,
    packument_fetches: SharedFetches<FetchKey, Result<PackageLookup, FirewallError>>,
    renderings: SharedFetches<ViewKey, Result<Arc<CachedView>, FirewallError>>,
    tarballs: SharedFetches<TarballKey, Result<Landed, FirewallError>>,
    /// Which credentials may read which stored tarballs.
    entitlements: Entitlements,
    entitlements_asked: SharedFetches<EntitlementKey, Result<Entitled, FirewallError>>,
    attestations: Attestations,
    fetches: Slots,
    passes: Slots,
    /// Memory for documents that are fetched, parsed or rendered. Large ones are handled one after the other.
    allowance: Arc<MemoryBudget>,
    /// Memory for unsegmented responses until they are sent, with one lane per client.
    plain: Arc<MemoryBudget>,
    /// Limits concurrent loads of documents from the store.
    loads: Arc<FairLimit>,
    /// Limits concurrent parsing and rendering to the number of cores.
    readers: Arc<FairLimit>,
    /// Held while a document larger than its declared length is decoded.
    oversized: Mutex<()>,
    /// Limits other CPU work on untrusted input to the number of cores.
    heavy: Arc<FairLimit>,
    /// Gives client requests priority over prefetches.
    precedence: ParsePriority,
    /// Packages that clients will probably request next.
    prefetch_queue: Arc<PrefetchQueue>,
    /// Version requirements that known packages state for others.
    wants: Wants,
    scratch_pool: ScratchPool,
    downloads: Slots,
    /// Memory for tarballs that cannot be written to disk.
    carried: Arc<Semaphore>,
    /// Tarballs that are requested before their packument is known.
    early_requests: EarlyRequests,
    /// Tarball addresses that packuments state.
    addresses: Addresses,
    forms: AbbreviatedSupport,
    /// Registries whose first packument was checked for missing metadata.
    stripping_registries: Mutex<HashSet<Arc<str>>>,
    skew_logged: HourlyLimit,
    /// Overbroad advisories that were reported, by feed, id and package. Each is reported once.
    overbroad_logged: Cache<String, ()>,
}

impl Firewall {
    /// Creates a firewall. Sends nothing upstream.
    #[must_use]
    pub fn new(parts: FirewallDeps) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        // Half of the memory is for indexes, about 900 bytes per version: every response needs one, and an evicted one must be
        // read and parsed again.
        let eighths = |count: u64| parts.config.memory / 8 * count;
        let documents = Cache::builder().max_capacity(eighths(4)).weigher(|_, known: &Arc<PackageSnapshot>| known.weight());
        let views = Cache::builder().max_capacity(eighths(3)).weigher(|_, view: &Arc<CachedView>| view.weight());
        let unsegmented = Cache::builder().max_capacity(eighths(1)).weigher(|_, whole: &Arc<UnsegmentedResponse>| whole.weight());
        let allowance = MemoryBudget::of(parts.config.packument_memory, MAX_MEMORY_WAIT);
        let policy_snapshot = PolicySnapshot::initial(parts.policy, parts.further_policies, parts.decisions, parts.clock.now());
        let wall_clock = WallClock::new(parts.clock.now(), parts.clock.elapsed());
        Self(Arc::new(Components {
            registries: parts.registries,
            ledger: parts.ledger,
            blobs: parts.blobs,
            clock: parts.clock,
            metrics: parts.metrics,
            config: parts.config,
            policy_snapshot: ArcSwap::from_pointee(policy_snapshot),
            documents: documents.build(),
            views: views.build(),
            unsegmented: unsegmented.build(),
            absent: Cache::new(REMEMBERED_FAILURES),
            unreachable: Cache::new(REMEMBERED_FAILURES),
            asked_again: Cache::new(REMEMBERED_FAILURES),
            new_absentees: Cache::new(REMEMBERED_FAILURES),
            absentees: Cache::builder().max_capacity(REMEMBERED_FAILURES).time_to_live(ABSENT_NAMES_PERIOD).build(),
            histories: Turns::default(),
            wall_clock,
            silence: SlowRegistries::default(),
            wholes_of_parts: Cache::new(REMEMBERED_FAILURES),
            stale_logged: Cache::new(REMEMBERED_FAILURES),
            written: Cache::new(REMEMBERED_FAILURES),
            last_written: AtomicI64::new(i64::MIN),
            writers: Cache::new(REMEMBERED_FAILURES),
            strangers: Cache::new(REMEMBERED_FAILURES),
            once_more: OnceMore::default(),
            packument_fetches: SharedFetches::new(),
            renderings: SharedFetches::new(),
            tarballs: SharedFetches::new(),
            entitlements: Entitlements::default(),
            entitlements_asked: SharedFetches::new(),
            attestations: Attestations::default(),
            fetches: Slots::new(slots(FETCHES)),
            passes: Slots::new(slots(MAX_PASSTHROUGHS)),
            allowance,
            plain: MemoryBudget::for_clients(PLAIN_MEMORY, MAX_PLAIN_MEMORY, SMALL_PLAIN, MAX_MEMORY_WAIT),
            loads: FairLimit::new(Sizes { shared: 2 * cores, own: 2, most: 8 * cores }),
            readers: FairLimit::new(Sizes { shared: (cores - 1).max(1), own: 1, most: cores + 1 }),
            oversized: Mutex::default(),
            heavy: FairLimit::new(heavy(cores)),
            precedence: ParsePriority::on(cores),
            prefetch_queue: Arc::default(),
            wants: Wants::default(),
            scratch_pool: ScratchPool::new(cores),
            downloads: Slots::new(slots(MAX_DOWNLOADS)),
            carried: Arc::new(Semaphore::new(MEMORY_UNITS)),
            early_requests: EarlyRequests::default(),
            addresses: Addresses::default(),
            forms: AbbreviatedSupport::default(),
            stripping_registries: Mutex::default(),
            skew_logged: HourlyLimit::default(),
            overbroad_logged: Cache::new(REMEMBERED_FAILURES),
        }))
    }

    /// Replaces all decisions.
    pub fn set_decisions(&self, decisions: Vec<Decision>) {
        self.0.decide(&decisions.into());
    }

    /// Replaces all policies at once, one per profile. Requests that begin after this returns use them.
    pub fn set_policies(&self, policies: &[Policy]) {
        self.0.adopt(policies);
    }

    /// Returns every version of a package with its verdict.
    ///
    /// # Errors
    /// Returns an error if the package does not exist or upstream is unavailable.
    pub async fn inspect(&self, client: &Client, name: &PackageName) -> Result<PackageInspection, FirewallError> {
        self.0.inspect(client, name).await
    }

    /// Returns the verdict of each version as of its instant; `None` for a version that was never seen.
    ///
    /// # Errors
    /// Returns an error if the package does not exist or upstream is unavailable.
    pub async fn judge_then(
        &self,
        client: &Client,
        name: &PackageName,
        wanted: &[(&str, Timestamp)],
    ) -> Result<Vec<Option<Verdict>>, FirewallError> {
        self.0.evaluate_as_of(client, name, wanted).await
    }

    /// Replaces the advisories. They apply to every package from the next request on.
    pub fn set_advisories(&self, advisories: &Advisories) {
        self.0.follow(advisories);
    }

    /// Applies the hosts and credentials of a reloaded configuration.
    ///
    /// # Errors
    /// Returns an error if credentials cannot be sent as headers. Nothing is changed then.
    pub fn renew_upstream(&self, config: &upstream::Config) -> Result<Renewed, UpstreamConfigError> {
        self.0.registries.renew(config)
    }

    /// Drops a package from memory, so that upstream is asked before the next response.
    pub fn forget(&self, name: &PackageName) {
        let slots: Vec<_> = self.0.documents.iter().map(|(slot, _)| slot).filter(|slot| slot.name == *name).collect();
        for slot in slots {
            self.0.documents.invalidate(&*slot);
        }
    }

    /// Returns the current policies, decisions and advisories.
    #[must_use]
    pub fn policy(&self) -> Arc<PolicySnapshot> {
        self.0.policy_snapshot()
    }

    /// Explains one version. `wanted` is a version, a dist-tag or a range, by default `latest`. `at` evaluates it as of that
    /// instant.
    ///
    /// # Errors
    /// Returns an error if the version does not exist or upstream is unavailable.
    pub async fn explain(
        &self,
        client: &Client,
        name: &PackageName,
        wanted: Option<&str>,
        at: Option<Timestamp>,
    ) -> Result<Explanation, FirewallError> {
        self.0.explain(client, name, wanted, at).await
    }

    /// Checks whether each of `locked` would be served, in their order. Serves nothing and records no download.
    pub async fn check(&self, client: &Client, locked: &[LockedVersion]) -> Vec<CheckedVersion> {
        self.0.check(client, locked).await
    }

    /// Returns the versions of a package that are hidden from the client, from memory only. Includes those that the project
    /// requires by `wants`; `None` if nothing is hidden or nothing is known.
    #[must_use]
    pub fn hidden_versions(&self, client: &Client, name: &PackageName, wants: &[Want]) -> Option<HiddenVersions> {
        self.0.hidden(client, name, wants)
    }

    /// Returns the URLs of all registries, without credentials.
    #[must_use]
    pub fn upstreams(&self) -> Vec<String> {
        self.0.registries.ids().map(str::to_owned).collect()
    }

    /// Answers a registry request of a client.
    ///
    /// # Errors
    /// Returns a refusal if the version is hidden, no version is visible, or the bytes do not match. Returns an error if the
    /// package or version does not exist, and the failure of upstream or the store.
    pub async fn call(&self, client: &Client, request: RegistryRequest) -> Result<RegistryResponse, FirewallError> {
        let components = &self.0;
        // Names are borrowed from the request, and only the futures of packuments and tarballs are not boxed, because this future
        // is part of the future of every request.
        Ok(match request {
            RegistryRequest::Packument { ref name, form, coding } => {
                RegistryResponse::Packument(components.packument(client, name, form, coding).await?)
            }
            RegistryRequest::Tarball { ref name, ref version } => {
                RegistryResponse::Tarball(components.tarball(client, name, version).await?)
            }
            RegistryRequest::Manifest { ref name, ref spec } => {
                RegistryResponse::Manifest(Box::pin(components.manifest(client, name, spec)).await?)
            }
            RegistryRequest::DistTags { ref name } => {
                RegistryResponse::DistTags(Box::pin(components.dist_tags(client, name)).await?)
            }
            RegistryRequest::Search(request) => Box::pin(components.search(client, *request)).await?.into(),
            RegistryRequest::Audit { request, body, format } => {
                let (response, notice) = Box::pin(components.audit(client, *request, body, format)).await?;
                RegistryResponse::Passthrough { response, notice }
            }
            RegistryRequest::Attestations { ref name, ref version, request } => {
                Box::pin(components.attestations(client, name, version, *request)).await?.into()
            }
            RegistryRequest::PassThrough { ref name, request } => {
                Box::pin(components.pass(client, name.as_ref(), *request)).await?.into()
            }
            RegistryRequest::Write { ref name, request } => {
                Box::pin(components.write_through(client, name.as_ref(), *request)).await?.into()
            }
        })
    }

    /// Returns the package and version whose tarball is at an address of the registry, as far as this client may see it.
    ///
    /// # Errors
    /// Returns a refusal if two packages claim the address, or two versions with different digests. Returns an error if upstream
    /// is unavailable.
    pub async fn locate(&self, client: &Client, address: &Address) -> Result<Option<(PackageName, Box<str>)>, FirewallError> {
        self.0.locate(client, address).await
    }

    /// Checks an egress destination against the feed indicators and records a hit. Returns the reason if the connection must be
    /// refused.
    #[must_use]
    pub fn check_egress(&self, request: &EgressRequest<'_>) -> Option<String> {
        self.0.check_egress(request)
    }

    /// Returns the number of concurrent prefetches per registry; 0 if prefetching is disabled.
    #[must_use]
    pub fn follows_at_once(&self) -> usize {
        self.0.config.prefetch
    }

    /// Waits for a package that clients will probably request next.
    pub async fn next_lead(&self) -> PrefetchTarget {
        self.0.next().await
    }

    /// Fetches a prefetch target. Returns whether upstream had it.
    pub async fn follow_lead(&self, lead: PrefetchTarget) -> bool {
        self.0.fetch_target(lead).await
    }

    /// Checks whether the system clock can be trusted: it advanced with the monotonic clock, or an upstream agreed with it since.
    ///
    /// # Errors
    /// Returns a message with the size of the jump.
    pub fn check_clock(&self) -> Result<(), String> {
        let jump = self.0.wall_clock.jump(self.0.clock.now(), self.0.clock.elapsed());
        jump.map_or(Ok(()), |jump| {
            let side = if jump.is_positive() { "forward" } else { "back" };
            let seconds = jump.as_secs().abs();
            Err(format!("the system clock was set {side} by {seconds} s; nothing is recorded until an upstream's clock agrees"))
        })
    }

    /// Waits until all background work is done, so that the store can be closed.
    pub async fn drain(&self) {
        self.0.fetches.settle().await;
        self.0.downloads.settle().await;
        while Arc::strong_count(&self.0) > 1 {
            tokio::time::sleep(DRAIN_POLL_INTERVAL).await;
        }
    }

    /// Returns the approximate memory of the caches, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.0.documents.weighted_size() + self.0.views.weighted_size() + self.0.unsegmented.weighted_size()
    }
}

impl Components {
    async fn pass(
        &self,
        client: &Client,
        name: Option<&PackageName>,
        passage: PassthroughRequest,
    ) -> Result<PassthroughResponse, FirewallError> {
        let registry = self.registry_of(client, name, passage.for_account)?;
        let passage = if registry.takes_clients(&client.addressed) { passage } else { passage.without_credentials() };
        let _slot = self.passes.of(registry).acquire(client.address).await;
        let mut share = self.allowance.share_in(registry.id());
        let asked = Instant::now();
        let passed = registry.pass(passage, &client.authorization, &mut share).await;
        let outcome = passed.as_ref().map_or_else(crate::firewall::recorder::outcome_of, |_| UpstreamOutcome::Changed);
        let detail = passed.as_ref().err().map(ToString::to_string);
        UpstreamAnswered { what: UpstreamWhat::Pass, outcome, duration: asked.elapsed(), name, detail: detail.as_deref() }
            .emit(&self.metrics);
        let mut passed = passed?;
        passed.body = Bytes::from_owner(ReservedBytes { bytes: passed.body, _share: share });
        Ok(passed)
    }
}

impl Components {
    /// Reserves memory for parsing an upstream response: eight times its size covers the smallest JSON values. The response holds
    /// memory already, so this uses a lane of its own.
    async fn share_of_answer(&self, passed: &PassthroughResponse) -> Result<Reservation, FirewallError> {
        let mut share = self.allowance.share_in(&Arc::from("answers"));
        share.grow_to(8 * passed.body.len() as u64).await?;
        Ok(share)
    }
}

/// A response body with its memory reservation.
struct ReservedBytes {
    bytes: Bytes,
    _share: Reservation,
}

impl AsRef<[u8]> for ReservedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Allows an event at most once an hour.
#[derive(Debug)]
struct HourlyLimit(AtomicI64);

impl Default for HourlyLimit {
    fn default() -> Self {
        Self(AtomicI64::new(i64::MIN))
    }
}

impl HourlyLimit {
    fn is_due(&self, now: Timestamp) -> bool {
        let (now, last) = (now.as_second(), self.0.load(Ordering::Relaxed));
        let due = last == i64::MIN || now.saturating_sub(last).abs() >= 3600;
        due && self.0.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}
