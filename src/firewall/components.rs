//! The firewall: creates its components and connects them. Its operations on packages are in `queries`, `audit` and `explain`, one
//! file per kind of request.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::firewall::config::{Config, FETCHES, FirewallDeps};
use crate::firewall::packages::Services;
use crate::firewall::packages::abbreviated::AbbreviatedSupport;
use crate::firewall::packages::attestations::AttestationService;
use crate::firewall::packages::cache::PackageCache;
use crate::firewall::packages::client_limits::{AbsentNames, RecheckLimit};
use crate::firewall::packages::cohorts::OpenedVersions;
use crate::firewall::packages::fetch::Fetcher;
use crate::firewall::packages::fetch_slots::{SharedFetches, Slots};
use crate::firewall::packages::ingest::{Ingester, PackageObserver};
use crate::firewall::packages::load::Loader;
use crate::firewall::packages::parse_pool::ParsePool;
use crate::firewall::packages::passthrough::Passthrough;
use crate::firewall::packages::provenance::ProvenanceVerifier;
use crate::firewall::packages::service::PackageService;
use crate::firewall::packages::subpackages::Subpackages;
use crate::firewall::packages::views::ViewHistories;
use crate::firewall::policy_state::{PolicySnapshot, PolicyState, SnapshotBase};
use crate::firewall::prefetch::vetting::{AheadVetter, VettingQueue, VettingTarget};
use crate::firewall::prefetch::{DependencyHints, PrefetchQueue, PrefetchTarget, Prefetcher};
use crate::firewall::recorder::Recorder;
use crate::firewall::responses::{ResponseCache, ViewCache};
use crate::firewall::tarballs::TarballService;
use crate::firewall::tarballs::addresses::{Addresses, TarballLocator};
use crate::firewall::tarballs::download::{Downloader, MEMORY_UNITS};
use crate::firewall::tarballs::early_request::EarlyRequests;
use crate::firewall::tarballs::entitlement::{EntitlementService, Entitlements};
use crate::firewall::tarballs::provider::TarballProvider;
use crate::firewall::tarballs::served_files::ServedFiles;
use crate::firewall::tarballs::vetting::TarballVetter;
use crate::firewall::wall_clock::WallClock;
use crate::firewall::wanted_versions::Wants;
use crate::firewall::workers::Workers;
use crate::firewall::writer_confirmations::WriterConfirmations;
use crate::net::MemoryBudget;
use crate::net::fair_limit::Sizes;
use crate::npm::PackageName;
use crate::policy::decisions::Decision;
use crate::policy::{Advisories, Policy};
use crate::upstream::{self, Registries, Renewed, UpstreamConfigError};
use crate::vetting::provenance::TrustRoot;
use crate::vetting::signatures::KeyRing;

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

/// Concurrent tarball downloads per registry and client.
const MAX_DOWNLOADS: usize = 64;

/// Concurrent passthrough requests per registry and client. Each holds its response in memory.
const MAX_PASSTHROUGHS: usize = 64;

/// Returns the slots of one registry. One client may hold at most `of_one_client` of them.
const fn slots(of_one_client: usize) -> Sizes {
    Sizes { shared: of_one_client - OWN_SLOTS, own: OWN_SLOTS, most: MAX_SLOTS }
}

/// The firewall, one per process and shared by all listeners.
#[derive(Clone)]
pub struct Firewall(pub(in crate::firewall) Arc<Components>);

impl Firewall {
    /// Creates a firewall. Sends nothing upstream.
    pub(crate) fn new(parts: FirewallDeps) -> Self {
        Self(Arc::new(Components::new(parts)))
    }

    /// Replaces all decisions.
    pub(crate) fn set_decisions(&self, decisions: Vec<Decision>) {
        self.0.policy.set_decisions(&decisions.into());
    }

    /// Replaces all policies at once, one per profile. Requests that begin after this returns use them.
    pub(crate) fn set_policies(&self, policies: &[Policy]) {
        self.0.policy.set_policies(policies);
    }

    /// Replaces the advisories. They apply to every package from the next request on.
    pub(crate) fn set_advisories(&self, advisories: &Advisories) {
        self.0.policy.set_advisories(advisories);
    }

    /// Replaces what signatures and provenance are verified with. Returns whether it differs.
    pub(crate) fn set_trust(&self, config: &Config) -> bool {
        self.0.policy.set_trust(&config.signing_keys, config.trust_root.as_ref())
    }

    /// Replaces keys and authorities of this program by those of a repository. Returns whether they differ.
    pub(crate) fn renew_trust(&self, signing_keys: Option<&Arc<KeyRing>>, trust_root: Option<&Arc<TrustRoot>>) -> bool {
        self.0.policy.renew_trust(signing_keys, trust_root)
    }

    /// Returns the current policies, decisions and advisories.
    pub(crate) fn policy(&self) -> Arc<PolicySnapshot> {
        self.0.policy.snapshot()
    }

    /// Applies the hosts and credentials of a reloaded configuration. Changes nothing if credentials cannot be sent as headers.
    pub(crate) fn renew_upstream(&self, config: &upstream::Config) -> Result<Renewed, UpstreamConfigError> {
        self.0.registries.renew(config)
    }

    /// Returns the URLs of all registries, without credentials.
    pub(crate) fn upstreams(&self) -> Vec<String> {
        self.0.registries.ids().map(str::to_owned).collect()
    }

    /// Compares the files of tarballs that were served with those that feeds list. Returns whether it found one, so that verdicts
    /// changed.
    pub(crate) async fn scan_served_files(&self) -> bool {
        self.0.served_files.scan().await.unwrap_or_else(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "scan of served files failed");
            false
        })
    }

    /// Drops a package from memory, so that upstream is asked before the next response.
    pub(crate) fn forget(&self, name: &PackageName) {
        self.0.cache.forget(name);
    }

    /// Returns the number of concurrent prefetches per registry; 0 if prefetching is disabled.
    pub(crate) fn max_prefetches(&self) -> usize {
        self.0.prefetcher.queue.limit
    }

    /// Waits for a package that clients will probably request next.
    pub(crate) async fn next_prefetch(&self) -> PrefetchTarget {
        self.0.prefetcher.next().await
    }

    /// Fetches a prefetch target. Returns whether upstream had it.
    pub(crate) async fn prefetch(&self, target: PrefetchTarget) -> bool {
        self.0.prefetcher.fetch(target).await
    }

    /// Waits for a release whose tarball clients will probably request, and for unused cores.
    pub(crate) async fn next_vetting(&self) -> VettingTarget {
        self.0.ahead_vetter.next().await
    }

    /// Vets a tarball before a client requests it. Returns whether it was opened.
    pub(crate) async fn vet_ahead(&self, target: VettingTarget) -> bool {
        self.0.ahead_vetter.vet(target).await
    }

    /// Checks whether the system clock can be trusted: it advanced with the monotonic clock, or an upstream agreed with it since.
    pub(crate) fn check_clock(&self) -> Result<(), String> {
        self.0.wall_clock.check()
    }

    /// Waits until all background work is done, so that the store can be closed.
    pub(crate) async fn drain(&self) {
        self.0.fetcher.slots.settle().await;
        self.0.tarballs.provider.slots.settle().await;
        self.0.workers.settle().await;
    }

    /// Returns the approximate memory of the caches, in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.0.cache.packages.weighted_size() + self.0.responses.memory_bytes()
    }
}

/// The components that all requests share.
pub(crate) struct Components {
    pub registries: Arc<Registries>,
    pub policy: Arc<PolicyState>,
    pub wall_clock: Arc<WallClock>,
    pub recorder: Arc<Recorder>,
    pub workers: Arc<Workers>,
    pub cache: Arc<PackageCache>,
    pub subpackages: Arc<Subpackages>,
    /// Version requirements that known packages state for others.
    pub wants: Arc<Wants>,
    pub fetcher: Arc<Fetcher>,
    pub packages: Arc<PackageService>,
    pub responses: Arc<ResponseCache>,
    pub tarballs: Arc<TarballService>,
    pub served_files: ServedFiles,
    pub locator: TarballLocator,
    pub passthrough: Arc<Passthrough>,
    pub prefetcher: Prefetcher,
    pub vetting_queue: Arc<VettingQueue>,
    pub ahead_vetter: AheadVetter,
    pub attestations: Arc<AttestationService>,
    pub writers: WriterConfirmations,
}

impl Components {
    fn new(deps: FirewallDeps) -> Self {
        let config = deps.config.clone();
        // Half of the memory is for indexes, about 900 bytes per version: every response needs one, and an evicted one must be
        // read and parsed again.
        let eighths = |count: u64| config.memory / 8 * count;
        let services = Arc::new(services(deps, eighths(4)));
        let (wants, subpackages) = (Arc::new(Wants::default()), Arc::new(Subpackages::default()));
        let (addresses, entitlements) = (Arc::new(Addresses::default()), Arc::new(Entitlements::default()));
        let (queue, views) =
            (Arc::new(PrefetchQueue::new(config.prefetch)), Arc::new(ViewCache::new(eighths(3), Arc::clone(&services.policy))));
        let hints = DependencyHints { services: Arc::clone(&services), queue: Arc::clone(&queue), wants: Arc::clone(&wants) };
        let observers: [Arc<dyn PackageObserver>; 5] = [
            Arc::<Subpackages>::clone(&subpackages),
            Arc::<Addresses>::clone(&addresses),
            Arc::<Entitlements>::clone(&entitlements),
            Arc::new(hints),
            Arc::<ViewCache>::clone(&views),
        ];
        let loader = Arc::new(Loader::new(Arc::clone(&services), Arc::clone(&wants)));
        let ingester = Ingester {
            services: Arc::clone(&services),
            loader: Arc::clone(&loader),
            views: ViewHistories::default(),
            forms: AbbreviatedSupport::default(),
            absent_names: AbsentNames::new(config.absent_names),
            observers: Box::new(observers),
        };
        let fetcher = Arc::new(Fetcher::new(Arc::new(ingester), slots(FETCHES)));
        let passthrough = Arc::new(Passthrough { services: Arc::clone(&services), slots: Slots::new(slots(MAX_PASSTHROUGHS)) });
        let attestations = Arc::new(AttestationService::new(&services, &passthrough));
        let provenance =
            Arc::new(ProvenanceVerifier { services: Arc::clone(&services), attestations: Arc::clone(&attestations) });
        let packages = Arc::new(PackageService {
            services: Arc::clone(&services),
            loader,
            fetcher: Arc::clone(&fetcher),
            subpackages: Arc::clone(&subpackages),
            provenance,
            rechecks: RecheckLimit::default(),
            opened: OpenedVersions::default(),
        });
        let plain = MemoryBudget::for_clients(PLAIN_MEMORY, MAX_PLAIN_MEMORY, SMALL_PLAIN, MAX_MEMORY_WAIT);
        let provider = Arc::new(tarball_provider(&services, entitlements));
        let tarballs = Arc::new(TarballService {
            services: Arc::clone(&services),
            packages: Arc::clone(&packages),
            vetter: TarballVetter::new(&services, &packages, &provider),
            provider,
        });
        let vetting_queue = Arc::new(VettingQueue::new(&services));
        Self {
            ahead_vetter: AheadVetter {
                services: Arc::clone(&services),
                queue: Arc::clone(&vetting_queue),
                tarballs: Arc::clone(&tarballs),
            },
            vetting_queue,
            responses: Arc::new(ResponseCache::new(&services, views, eighths(1), plain, Arc::clone(&packages))),
            tarballs,
            served_files: ServedFiles::new(&services),
            locator: TarballLocator { services: Arc::clone(&services), addresses, packages: Arc::clone(&packages) },
            passthrough,
            prefetcher: Prefetcher { services: Arc::clone(&services), queue, fetcher: Arc::clone(&fetcher) },
            attestations,
            writers: WriterConfirmations::default(),
            packages,
            fetcher,
            wants,
            subpackages,
            registries: Arc::clone(&services.registries),
            policy: Arc::clone(&services.policy),
            wall_clock: Arc::clone(&services.wall_clock),
            recorder: Arc::clone(&services.recorder),
            workers: Arc::clone(&services.workers),
            cache: Arc::clone(&services.cache),
        }
    }
}

/// Creates what provides verified tarballs.
fn tarball_provider(services: &Arc<Services>, entitlements: Arc<Entitlements>) -> TarballProvider {
    let downloads = Arc::new(Slots::new(slots(MAX_DOWNLOADS)));
    let entitlements = Arc::new(EntitlementService {
        services: Arc::clone(services),
        known: entitlements,
        running: SharedFetches::new(&services.workers),
        slots: Arc::clone(&downloads),
    });
    let downloader = Downloader {
        services: Arc::clone(services),
        slots: Arc::clone(&downloads),
        early: EarlyRequests::new(services, &downloads),
        entitlements: Arc::clone(&entitlements),
        memory: Arc::new(Semaphore::new(MEMORY_UNITS)),
    };
    TarballProvider {
        services: Arc::clone(services),
        entitlements,
        downloader: Arc::new(downloader),
        running: SharedFetches::new(&services.workers),
        slots: downloads,
    }
}

/// Creates the services. `cache` is the memory for indexes, in bytes.
fn services(deps: FirewallDeps, cache: u64) -> Services {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let config = deps.config;
    let wall_clock = Arc::new(WallClock::new(Arc::clone(&deps.clock)));
    let base =
        SnapshotBase { signing_keys: Arc::clone(&config.signing_keys), trust_root: config.trust_root.clone(), revision: 0 };
    let policy = Arc::new(PolicyState::new(deps.clock, deps.policy, deps.further_policies, deps.decisions, &base));
    let memory = MemoryBudget::of(config.packument_memory, MAX_MEMORY_WAIT);
    Services {
        registries: Arc::new(deps.registries),
        recorder: Arc::new(Recorder::new(Arc::clone(&deps.ledger), Arc::clone(&deps.metrics), Arc::clone(&policy))),
        workers: Arc::new(Workers::new(cores, deps.metrics)),
        ledger: deps.ledger,
        blobs: deps.blobs,
        policy,
        wall_clock,
        cache: Arc::new(PackageCache::new(cache, config.packument_ttl)),
        parse_pool: Arc::new(ParsePool::new(cores, memory, config.limits.packument)),
        config,
        cores,
    }
}
