//! The product. A question comes in, upstream and store are asked, policy judges, an answer or a refusal goes
//! out.
//!
//! Refuses to know HTTP: no status, no header, no URL path. `server` turns questions and answers into those.

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

pub use exposure::{ExposedVersion, PurgeResult, judge_again};

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use moka::sync::Cache;
use tokio::sync::Semaphore;

use crate::npm::PackumentForm;
pub use error::{FirewallError, Refusal};
pub use explain::explanation::Explanation;
pub use policy_state::Profile;
pub use prefetch::PrefetchTarget;
pub use queries::check::{CheckOutcome, CheckedVersion, LockedVersion};
pub use queries::egress::EgressRequest;
pub use queries::hidden::{HeldVersion, HiddenVersions, WantedVersion};
pub use queries::inspect::{InspectedVersion, PackageInspection};
pub use request::{BaseUrl, Client, ContentCoding, PackumentResponse, TarballResponse};
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
use crate::firewall::tarballs::{CARRIED_UNITS, Landed, TarballKey};
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

/// Bounds on time and memory.
#[derive(Debug, Clone)]
pub struct Config {
    /// How long a packument is used before upstream is asked again.
    pub packument_ttl: Duration,
    /// How long the last answer is served while upstream cannot be asked.
    pub max_stale: Duration,
    /// How long upstream's answer is waited for while the last one could be served instead.
    pub patience: Duration,
    /// Bytes of memory for facts and deflated packuments.
    pub memory: u64,
    /// Bytes of memory for packuments that are fetched and read. One that needs more is read all the same, when its turn comes.
    pub packument_memory: u64,
    /// How many packuments are fetched ahead at once from each registry, at most [`FETCHES`]; none at 0.
    pub fetch_ahead: usize,
    /// Names that one client may ask for in a day and that upstream does not have. Each is recorded, so that a package that appears
    /// later cannot claim to be old.
    pub absent_names: usize,
    /// The largest packument taken from upstream, in bytes, decoded.
    pub packument_limit: u64,
    /// The largest tarball taken from upstream, in bytes.
    pub tarball_limit: u64,
}

/// What a firewall is made of.
pub struct FirewallDeps {
    /// Where packages come from.
    pub registries: Registries,
    /// The durable record.
    pub ledger: Arc<dyn Ledger>,
    /// Tarballs and raw packuments.
    pub blobs: Arc<dyn BlobStore>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The rules in force.
    pub policy: Policy,
    /// The rules of further listeners: those of profile 1, 2, …
    pub further_policies: Vec<Policy>,
    /// What people decided so far.
    pub decisions: Vec<Decision>,
    /// Bounds.
    pub config: Config,
}

/// Packages of which it is remembered that they are not there, or could not be asked for.
const REMEMBERED_FAILURES: u64 = 10_000;

/// The most names of which it can be remembered that a client asked for them in vain: as many as the ledger records of all clients.
pub const MAX_ABSENT_NAMES: usize = 200_000;

/// How long it is remembered that a client asked for names that do not exist.
const ABSENTEES_FOR: Duration = Duration::from_secs(24 * 3600);

/// Packuments that one registry is asked for at once for one client: as many as the clients that ask for most send at once.
pub const FETCHES: usize = 48;

/// What each client may have under way at one registry besides what all share, so that one that asks for what hangs does not keep others
/// waiting; and what all of them together may, of each kind: each costs a socket.
const OWN_SLOTS: usize = 4;
const MOST_SLOTS: usize = 256;

/// How long a packument waits for memory: as long as npm waits for an answer.
const LONGEST_WAIT: Duration = Duration::from_secs(5 * 60);

/// Memory for packuments that are sent as they are or packed by brotli, which few clients ask for: each is a copy of its own. Beyond
/// it, the oldest of each client takes up to the second limit. Small ones never wait.
const PLAIN_MEMORY: u64 = 64 << 20;
const MAX_PLAIN_MEMORY: u64 = 512 << 20;
const SMALL_PLAIN: u64 = 64 << 10;

/// How often it is looked whether the last task is done.
const SETTLING: Duration = Duration::from_millis(2);

/// Tarballs that one registry is asked for at once for one client.
const DOWNLOADS: usize = 64;

/// Requests that one registry is passed at once for one client: each holds its answer.
const PASSES: usize = 64;

/// The slots of one registry; one client may hold at most this number of them.
const fn slots(of_one_client: usize) -> Sizes {
    Sizes { shared: of_one_client - OWN_SLOTS, own: OWN_SLOTS, most: MOST_SLOTS }
}

/// How much work on what strangers send is done at once: each core has something to do, and each client is served by turns.
#[must_use]
pub fn heavy(cores: usize) -> Sizes {
    Sizes { shared: cores, own: 1, most: 2 * cores }
}

/// The firewall. One a process; every door hands its questions here.
pub struct Firewall(Arc<Components>);

/// What every question shares. Its methods are spread over the files of this room, one file a kind of question.
struct Components {
    registries: Registries,
    ledger: Arc<dyn Ledger>,
    blobs: Arc<dyn BlobStore>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    config: Config,
    world: ArcSwap<PolicySnapshot>,
    /// What is known of packages, bounded in bytes.
    documents: Cache<CacheKey, Arc<PackageSnapshot>>,
    /// Views of packuments, deflated, bounded in bytes.
    views: Cache<ViewKey, Arc<CachedView>>,
    /// Plain answers, bounded in bytes.
    wholes: Cache<UnsegmentedKey, Arc<UnsegmentedResponse>>,
    /// Packages that are not there, and since when.
    absent: Cache<CacheKey, Timestamp>,
    /// Packages that could not be asked for, and since when.
    unreachable: Cache<CacheKey, Timestamp>,
    /// Views of packages that were asked again because another one contradicts them, and when.
    asked_again: Cache<CacheKey, Timestamp>,
    /// Names that upstream was found not to have just now, for the first time.
    new_absentees: Cache<CacheKey, ()>,
    /// How many of those each client asked for.
    absentees: Cache<IpAddr, usize>,
    /// Packages whose history is being compared with a document.
    histories: Turns,
    /// Our own wall clock, and whether it was set.
    wall_clock: WallClock,
    /// Registries that say nothing.
    silence: SlowRegistries,
    /// Packages that were seen to be parts of others, and of which.
    wholes_of_parts: Cache<PackageName, PackageName>,
    /// Registries of which it was told that last answers are served for theirs, and when.
    stale_told: Cache<Arc<str>, Timestamp>,
    /// Packages that were written to through us, and when: upstream is asked again before they are answered.
    written: Cache<PackageName, Timestamp>,
    /// When the last of them was, in milliseconds since the epoch: a warm request compares this alone.
    last_written: AtomicI64,
    /// Tokens that upstream confirmed for a package, and when; and those that it did not.
    writers: Cache<CacheKey, Timestamp>,
    strangers: Cache<CacheKey, Timestamp>,
    once_more: OnceMore,
    packument_fetches: SharedFetches<FetchKey, Result<PackageLookup, FirewallError>>,
    renderings: SharedFetches<ViewKey, Result<Arc<CachedView>, FirewallError>>,
    tarballs: SharedFetches<TarballKey, Result<Landed, FirewallError>>,
    /// Which credentials may have what is in the store.
    entitlements: Entitlements,
    entitlements_asked: SharedFetches<EntitlementKey, Result<Entitled, FirewallError>>,
    attestations: Attestations,
    fetches: Slots,
    passes: Slots,
    /// Memory for documents that are fetched, read or rendered, so that large ones do so one after the other.
    allowance: Arc<MemoryBudget>,
    /// Memory for answers that are made as a whole, until they are sent: each client has a lane.
    plain: Arc<MemoryBudget>,
    /// Documents taken out of the store at once.
    loads: Arc<FairLimit>,
    /// Documents read or rendered at once: as many as there are cores.
    readers: Arc<FairLimit>,
    /// Held while a document is read that is larger than it says.
    oversized: Mutex<()>,
    /// Work on what clients and upstream sent, beyond documents: as much at once as there are cores.
    heavy: Arc<FairLimit>,
    /// Whose turn it is among those.
    precedence: ParsePriority,
    /// Packages that will probably be asked for.
    leads: Arc<PrefetchQueue>,
    /// What documents want of other packages.
    wants: Wants,
    workbenches: ScratchPool,
    downloads: Slots,
    /// Memory for tarballs that the disk does not take.
    carried: Arc<Semaphore>,
    /// Tarballs asked for before anything is known of them.
    asides: EarlyRequests,
    /// Where packuments place tarballs.
    addresses: Addresses,
    forms: AbbreviatedSupport,
    /// Registries whose first packument was looked at.
    strippers: Mutex<HashSet<Arc<str>>>,
    skew_told: HourlyLimit,
    /// Advisories that are too broad to be obeyed whole, by feed, id and package: each is told once.
    overbroad_told: Cache<String, ()>,
}

impl Firewall {
    /// A firewall of `parts`. Sends nothing upstream.
    #[must_use]
    pub fn new(parts: FirewallDeps) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        // An index that has to go costs a read and a pass over its document, and no response is found without it: indexes get most. An
        // index takes about 900 bytes a version.
        let eighths = |count: u64| parts.config.memory / 8 * count;
        let documents = Cache::builder().max_capacity(eighths(4)).weigher(|_, known: &Arc<PackageSnapshot>| known.weight());
        let views = Cache::builder().max_capacity(eighths(3)).weigher(|_, view: &Arc<CachedView>| view.weight());
        let wholes = Cache::builder().max_capacity(eighths(1)).weigher(|_, whole: &Arc<UnsegmentedResponse>| whole.weight());
        let allowance = MemoryBudget::of(parts.config.packument_memory, LONGEST_WAIT);
        let world = PolicySnapshot::first(parts.policy, parts.further_policies, parts.decisions, parts.clock.now());
        let wall_clock = WallClock::new(parts.clock.now(), parts.clock.elapsed());
        Self(Arc::new(Components {
            registries: parts.registries,
            ledger: parts.ledger,
            blobs: parts.blobs,
            clock: parts.clock,
            metrics: parts.metrics,
            config: parts.config,
            world: ArcSwap::from_pointee(world),
            documents: documents.build(),
            views: views.build(),
            wholes: wholes.build(),
            absent: Cache::new(REMEMBERED_FAILURES),
            unreachable: Cache::new(REMEMBERED_FAILURES),
            asked_again: Cache::new(REMEMBERED_FAILURES),
            new_absentees: Cache::new(REMEMBERED_FAILURES),
            absentees: Cache::builder().max_capacity(REMEMBERED_FAILURES).time_to_live(ABSENTEES_FOR).build(),
            histories: Turns::default(),
            wall_clock,
            silence: SlowRegistries::default(),
            wholes_of_parts: Cache::new(REMEMBERED_FAILURES),
            stale_told: Cache::new(REMEMBERED_FAILURES),
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
            passes: Slots::new(slots(PASSES)),
            allowance,
            plain: MemoryBudget::for_clients(PLAIN_MEMORY, MAX_PLAIN_MEMORY, SMALL_PLAIN, LONGEST_WAIT),
            loads: FairLimit::new(Sizes { shared: 2 * cores, own: 2, most: 8 * cores }),
            readers: FairLimit::new(Sizes { shared: (cores - 1).max(1), own: 1, most: cores + 1 }),
            oversized: Mutex::default(),
            heavy: FairLimit::new(heavy(cores)),
            precedence: ParsePriority::on(cores),
            leads: Arc::default(),
            wants: Wants::default(),
            workbenches: ScratchPool::new(cores),
            downloads: Slots::new(slots(DOWNLOADS)),
            carried: Arc::new(Semaphore::new(CARRIED_UNITS)),
            asides: EarlyRequests::default(),
            addresses: Addresses::default(),
            forms: AbbreviatedSupport::default(),
            strippers: Mutex::default(),
            skew_told: HourlyLimit::default(),
            overbroad_told: Cache::new(REMEMBERED_FAILURES),
        }))
    }

    /// Judges by these decisions from now on: all that were ever taken.
    pub fn decide(&self, decisions: Vec<Decision>) {
        self.0.decide(&decisions.into());
    }

    /// Judges by these policies from now on, one a profile: swapped whole. No request begun after this returns is
    /// answered by others.
    pub fn adopt(&self, policies: &[Policy]) {
        self.0.adopt(policies);
    }

    /// Every version of a package, with its verdict.
    ///
    /// # Errors
    /// When there is no such package, or upstream cannot be asked.
    pub async fn inspect(&self, asker: &Client, name: &PackageName) -> Result<PackageInspection, FirewallError> {
        self.0.inspect(asker, name).await
    }

    /// What is to be said of versions of a package as of other instants; `None` of one that nobody ever saw.
    ///
    /// # Errors
    /// When there is no such package, or upstream cannot be asked.
    pub async fn judge_then(
        &self,
        asker: &Client,
        name: &PackageName,
        wanted: &[(&str, Timestamp)],
    ) -> Result<Vec<Option<Verdict>>, FirewallError> {
        self.0.judge_then(asker, name, wanted).await
    }

    /// Puts other advisories in force: from the next request on, for every package.
    pub fn follow(&self, advisories: &Advisories) {
        self.0.follow(advisories);
    }

    /// Goes by the hosts and lends the credentials of a configuration that was read again.
    ///
    /// # Errors
    /// When credentials cannot be sent; then all of them stay as they were.
    pub fn renew_upstream(&self, config: &upstream::Config) -> Result<Renewed, UpstreamConfigError> {
        self.0.registries.renew(config)
    }

    /// Forgets what is remembered of a package: upstream is asked again before the next answer.
    pub fn forget(&self, name: &PackageName) {
        let slots: Vec<_> = self.0.documents.iter().map(|(slot, _)| slot).filter(|slot| slot.name == *name).collect();
        for slot in slots {
            self.0.documents.invalidate(&*slot);
        }
    }

    /// What is in force now.
    #[must_use]
    pub fn world(&self) -> Arc<PolicySnapshot> {
        self.0.world()
    }

    /// Explains one version: `wanted` is a version, a dist-tag or a range; `latest` when it is missing. With `at` it is
    /// judged as of that instant.
    ///
    /// # Errors
    /// When there is no such version, or upstream cannot be asked.
    pub async fn explain(
        &self,
        asker: &Client,
        name: &PackageName,
        wanted: Option<&str>,
        at: Option<Timestamp>,
    ) -> Result<Explanation, FirewallError> {
        self.0.explain(asker, name, wanted, at).await
    }

    /// What would become of each of `locked`, in their order. Nothing is served and nobody is noted in the ledger.
    pub async fn check(&self, asker: &Client, locked: &[LockedVersion]) -> Vec<CheckedVersion> {
        self.0.check(asker, locked).await
    }

    /// What is hidden of a package from `asker`, of what is known already, and what of it a project wants by `wants`; `None` when
    /// nothing is, or nothing is known.
    #[must_use]
    pub fn hidden(&self, asker: &Client, name: &PackageName, wants: &[Want]) -> Option<HiddenVersions> {
        self.0.hidden(asker, name, wants)
    }

    /// The addresses that packages come from, without credentials.
    #[must_use]
    pub fn upstreams(&self) -> Vec<String> {
        self.0.registries.ids().map(str::to_owned).collect()
    }

    /// The packument, without what the policy hides.
    ///
    /// # Errors
    /// A refusal when no version is visible; what upstream or the store could not do.
    pub async fn packument(
        &self,
        asker: &Client,
        name: &PackageName,
        form: PackumentForm,
        coding: ContentCoding,
    ) -> Result<PackumentResponse, FirewallError> {
        self.0.packument(asker, name, form, coding).await
    }

    /// One manifest by version, dist-tag or range: JSON.
    ///
    /// # Errors
    /// A refusal when it is hidden, not found, or as [`Firewall::packument`].
    pub async fn manifest(&self, asker: &Client, name: &PackageName, wanted: &str) -> Result<Bytes, FirewallError> {
        self.0.manifest(asker, name, wanted).await
    }

    /// The dist-tags as clients see them: JSON.
    ///
    /// # Errors
    /// As [`Firewall::packument`].
    pub async fn dist_tags(&self, asker: &Client, name: &PackageName) -> Result<Bytes, FirewallError> {
        self.0.dist_tags(asker, name).await
    }

    /// A tarball, verified against its packument.
    ///
    /// # Errors
    /// A refusal when the version is hidden or its bytes are wrong; what upstream or the store could not do.
    pub async fn tarball(&self, asker: &Client, name: &PackageName, version: &str) -> Result<TarballResponse, FirewallError> {
        self.0.tarball(asker, name, version).await
    }

    /// The package and the version whose tarball is at an address of the registry's own, as far as this client is shown it.
    ///
    /// # Errors
    /// A refusal when two packages claim the address, or two versions with different digests; when upstream cannot be asked.
    pub async fn locate(&self, asker: &Client, address: &Address) -> Result<Option<(PackageName, Box<str>)>, FirewallError> {
        self.0.locate(asker, address).await
    }

    /// Why somebody may not go to a place beside the registry, by what the feeds say of it; that they wanted to is an event.
    #[must_use]
    pub fn contact(&self, contacting: &EgressRequest<'_>) -> Option<String> {
        self.0.contact(contacting)
    }

    /// Search results without what the policy hides; the passage is the client's request, the answer upstream's,
    /// filtered.
    ///
    /// # Errors
    /// When upstream cannot be asked.
    pub async fn search(&self, asker: &Client, passage: PassthroughRequest) -> Result<PassthroughResponse, FirewallError> {
        self.0.search(asker, passage).await
    }

    /// An audit, passed on, with what the feeds add; `body` is the client's, decoded, and `bulk` says which shape it has.
    /// The text is for `npm-notice`: what was held back of the packages in it.
    ///
    /// # Errors
    /// When upstream cannot be asked.
    pub async fn audit(
        &self,
        asker: &Client,
        passage: PassthroughRequest,
        body: Bytes,
        bulk: bool,
    ) -> Result<(PassthroughResponse, Option<String>), FirewallError> {
        self.0.audit(asker, passage, body, bulk).await
    }

    /// Attestations of one version, unless it is hidden: then they are not found, which pnpm takes well.
    ///
    /// # Errors
    /// Not found when the version is hidden; when upstream cannot be asked.
    pub async fn attestations(
        &self,
        asker: &Client,
        name: &PackageName,
        version: &str,
        passage: PassthroughRequest,
    ) -> Result<PassthroughResponse, FirewallError> {
        self.0.attestations(asker, name, version, passage).await
    }

    /// Anything else, passed on to the registry of `name`, or to the default one: ping, keys, whoami, accounts.
    ///
    /// # Errors
    /// When upstream cannot be asked.
    pub async fn pass(
        &self,
        asker: &Client,
        name: Option<&PackageName>,
        passage: PassthroughRequest,
    ) -> Result<PassthroughResponse, FirewallError> {
        self.0.pass(asker, name, passage).await
    }

    /// Like [`Firewall::pass`], for what changes the package: its next reader gets what upstream says then.
    ///
    /// # Errors
    /// When upstream cannot be asked.
    pub async fn write(
        &self,
        asker: &Client,
        name: Option<&PackageName>,
        passage: PassthroughRequest,
    ) -> Result<PassthroughResponse, FirewallError> {
        self.0.write_through(asker, name, passage).await
    }

    /// How many leads are followed at once at each registry; none at 0.
    #[must_use]
    pub fn follows_at_once(&self) -> usize {
        self.0.config.fetch_ahead
    }

    /// A package that clients will probably ask for, once there is one.
    pub async fn next_lead(&self) -> PrefetchTarget {
        self.0.next_lead().await
    }

    /// Fetches what a lead leads to, so that whoever asks for it does not wait; whether it was there.
    pub async fn follow_lead(&self, lead: PrefetchTarget) -> bool {
        self.0.follow_lead(lead).await
    }

    /// Checks whether our wall clock can be trusted: whether it moved as time passed, or an upstream agreed with it since.
    ///
    /// # Errors
    /// By how much it was set, for a person.
    pub fn check_clock(&self) -> Result<(), String> {
        let jump = self.0.wall_clock.jump(self.0.clock.now(), self.0.clock.elapsed());
        jump.map_or(Ok(()), |jump| {
            let side = if jump.is_positive() { "forward" } else { "back" };
            let seconds = jump.as_secs().abs();
            Err(format!(
                "this machine's clock was set {side} by {seconds} s; nothing is recorded until an upstream agrees with it"
            ))
        })
    }

    /// Waits until what was begun for requests that are gone is done, so that the store can be closed.
    pub async fn settle(&self) {
        self.0.fetches.settle().await;
        self.0.downloads.settle().await;
        while Arc::strong_count(&self.0) > 1 {
            tokio::time::sleep(SETTLING).await;
        }
    }

    /// Bytes of memory that facts and views take, about.
    #[must_use]
    pub fn weight(&self) -> u64 {
        self.0.documents.weighted_size() + self.0.views.weighted_size() + self.0.wholes.weighted_size()
    }
}

impl Components {
    async fn pass(
        &self,
        asker: &Client,
        name: Option<&PackageName>,
        passage: PassthroughRequest,
    ) -> Result<PassthroughResponse, FirewallError> {
        let registry = self.registry_of(asker, name, passage.for_account)?;
        let passage = if registry.takes_clients(&asker.addressed) { passage } else { passage.without_credentials() };
        let _slot = self.passes.of(registry).acquire(asker.address).await;
        let mut share = self.allowance.share_in(registry.id());
        let asked = Instant::now();
        let passed = registry.pass(passage, &asker.authorization, &mut share).await;
        let outcome = passed.as_ref().map_or_else(crate::firewall::recorder::outcome_of, |_| UpstreamOutcome::Changed);
        let detail = passed.as_ref().err().map(ToString::to_string);
        UpstreamAnswered { what: UpstreamWhat::Pass, outcome, duration: asked.elapsed(), name, detail: detail.as_deref() }
            .emit(&self.metrics);
        let mut passed = passed?;
        passed.body = Bytes::from_owner(Shared { bytes: passed.body, _share: share });
        Ok(passed)
    }
}

impl Components {
    /// Memory for an answer of upstream's that is taken apart: eight times its size holds the smallest parts there are. In a lane of
    /// its own, for the answer itself holds memory already.
    async fn share_of_answer(&self, passed: &PassthroughResponse) -> Result<Reservation, FirewallError> {
        let mut share = self.allowance.share_in(&Arc::from("answers"));
        share.grow_to(8 * passed.body.len() as u64).await?;
        Ok(share)
    }
}

/// The body of an answer with its share of memory.
struct Shared {
    bytes: Bytes,
    _share: Reservation,
}

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Lets something be told at most once an hour.
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
