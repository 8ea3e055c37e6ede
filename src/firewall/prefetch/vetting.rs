//! Vets tarballs before clients request them: of releases that are visible or open soon. Only while parsing and vetting leave cores
//! unused, and within a daily budget per package.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;

use crate::firewall::package::CacheKey;
use crate::firewall::packages::Services;
use crate::firewall::packages::request::PackageLookup;
use crate::firewall::request::Client;
use crate::firewall::tarballs::TarballService;
use crate::firewall::tarballs::vetting::inspection_revision;
use crate::firewall::verdicts::VerdictTable;
use crate::firewall::verdicts::cache::CachedPackage;
use crate::npm::{PackageName, Packument};
use crate::policy::Verdict;
use crate::units::timestamp;

/// The most releases in the queue. Further ones are vetted when a client requests them.
const MAX_QUEUED: usize = 1_000;

/// The most releases of a package that are vetted ahead of need per day, and the bytes that are downloaded for that.
const MAX_RELEASES_A_DAY: usize = 3;
const MAX_BYTES_A_DAY: u64 = 64 << 20;

/// The most packages whose budgets are remembered. Beyond it, nothing is vetted ahead until a day has passed.
const MAX_BUDGETS: usize = 50_000;

/// A held release is vetted when it opens within this time.
const OPENS_SOON: Duration = Duration::from_secs(24 * 3600);

/// How often the vetting looks for unused cores.
const IDLE_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// After this time, the next release is vetted, even if a registry does not answer.
const MAX_TIME: Duration = Duration::from_secs(120);

/// A release to vet.
pub struct VettingTarget {
    client: Client,
    cache_key: CacheKey,
    version: Box<str>,
}

impl VettingTarget {
    pub fn name(&self) -> &PackageName {
        &self.cache_key.name
    }

    pub fn version(&self) -> &str {
        &self.version
    }
}

/// What was spent on a package since the beginning of its day.
struct DayBudget {
    began: Timestamp,
    releases: usize,
    bytes: u64,
}

impl DayBudget {
    fn is_over(&self, now: Timestamp) -> bool {
        !timestamp::is_within(self.began, Duration::from_secs(24 * 3600), now)
    }
}

/// The budgets of packages, by registry and name: a package has one budget for all credentials.
#[derive(Default)]
struct Budgets(Mutex<HashMap<(Arc<str>, PackageName), DayBudget>>);

impl Budgets {
    /// Takes one release from the budget of a package. Returns whether there was one left.
    fn take(&self, registry: &Arc<str>, name: &PackageName, now: Timestamp) -> bool {
        let mut budgets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if budgets.len() >= MAX_BUDGETS {
            budgets.retain(|_, budget| !budget.is_over(now));
        }
        let key = (Arc::clone(registry), name.clone());
        if budgets.len() >= MAX_BUDGETS && !budgets.contains_key(&key) {
            return false;
        }
        let new = || DayBudget { began: now, releases: 0, bytes: 0 };
        let budget = budgets.entry(key).or_insert_with(new);
        if budget.is_over(now) {
            *budget = new();
        }
        if budget.releases >= MAX_RELEASES_A_DAY || budget.bytes >= MAX_BYTES_A_DAY {
            return false;
        }
        budget.releases += 1;
        true
    }

    fn spend(&self, registry: &Arc<str>, name: &PackageName, bytes: u64) {
        let mut budgets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(budget) = budgets.get_mut(&(Arc::clone(registry), name.clone())) {
            budget.bytes = budget.bytes.saturating_add(bytes);
        }
    }
}

/// Releases that wait to be vetted, oldest first.
#[derive(Default)]
struct Waiting {
    queue: VecDeque<VettingTarget>,
    known: HashSet<(CacheKey, Box<str>)>,
}

/// Chooses the releases to vet ahead of need.
pub(crate) struct VettingQueue {
    services: Arc<Services>,
    waiting: Mutex<Waiting>,
    changed: Notify,
    budgets: Budgets,
}

impl VettingQueue {
    pub(crate) fn new(services: &Arc<Services>) -> Self {
        Self { services: Arc::clone(services), waiting: Mutex::default(), changed: Notify::new(), budgets: Budgets::default() }
    }

    /// Queues the releases of a package that a client installs and will probably request, once per table of verdicts.
    pub(crate) fn note(self: &Arc<Self>, client: &Client, lookup: &PackageLookup, table: &Arc<VerdictTable>) {
        if !client.is_installing || self.services.config.prefetch == 0 || !lookup.package.is_new_for_vetting(table) {
            return;
        }
        let (queue, client, package, table) = (Arc::clone(self), client.clone(), Arc::clone(&lookup.package), Arc::clone(table));
        if !package.has_many_versions() {
            return queue.choose(&client, &package, &table);
        }
        // The response does not wait for a pass over all versions.
        tokio::spawn(self.services.workers.track(async move {
            let address = client.address;
            let (workers, known) = (Arc::clone(&queue.services.workers), Arc::clone(&package));
            // A failed task was logged.
            let _ = workers.run_over_versions(&known, address, move || queue.choose(&client, &package, &table)).await;
        }));
    }

    fn choose(&self, client: &Client, package: &CachedPackage, table: &VerdictTable) {
        let context = self.services.policy.context();
        let window = context.policy_snapshot.policy(client.profile).finding_window();
        let (Some(packument), Some(window)) = (&package.packument, window) else { return };
        let revision = inspection_revision(&self.services, &context.policy_snapshot.advisories);
        let is_vetted = |at: usize| package.is_vetted(at, revision);
        let chosen = candidates(package, packument, table, (window, &is_vetted));
        for entry in chosen.into_iter().filter_map(|at| packument.entries.get(at)) {
            let (client, cache_key, version) = (client.clone(), package.cache_key.clone(), entry.key.clone());
            self.push(VettingTarget { client, cache_key, version }, package, context.now);
        }
    }

    fn push(&self, target: VettingTarget, package: &CachedPackage, now: Timestamp) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (target.cache_key.clone(), target.version.clone());
        if waiting.queue.len() < MAX_QUEUED
            && !waiting.known.contains(&key)
            && self.budgets.take(package.registry.id(), &target.cache_key.name, now)
        {
            waiting.known.insert(key);
            waiting.queue.push_back(target);
            drop(waiting);
            self.changed.notify_one();
        }
    }

    /// Waits for the oldest release, and for unused cores.
    async fn next(&self) -> VettingTarget {
        loop {
            let changed = self.changed.notified();
            if !self.waiting.lock().unwrap_or_else(PoisonError::into_inner).queue.is_empty() {
                self.wait_for_idle().await;
            }
            // Taken last, so that nothing is lost if the caller stops waiting.
            let next = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).queue.pop_front();
            if let Some(target) = next {
                return target;
            }
            changed.await;
        }
    }

    async fn wait_for_idle(&self) {
        while !(self.services.workers.heavy.has_free() && self.services.parse_pool.threads.has_free()) {
            tokio::time::sleep(IDLE_POLL_INTERVAL).await;
        }
    }

    /// Lets a release be queued again.
    fn forget(&self, target: &VettingTarget) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.known.remove(&(target.cache_key.clone(), target.version.clone()));
    }
}

/// Returns the releases below the age `window` to vet, the most important first: `latest` as clients see it, upstream's `latest`, the newest visible release,
/// and those that open soon.
fn candidates(
    package: &CachedPackage,
    packument: &Packument,
    table: &VerdictTable,
    (window, is_vetted): (Duration, &dyn Fn(usize) -> bool),
) -> Vec<usize> {
    let validated = package.confirmed.validated;
    let since = timestamp::saturating_sub(validated, window);
    let soon = timestamp::saturating_add(validated, OPENS_SOON);
    let effective = |at: usize| package.provenance.get(at).map(|history| history.effective);
    let opens_soon = |at: usize| table.verdict(at).opens_at().is_some_and(|opens| opens <= soon);
    let is_held = |at: usize| matches!(table.verdict(at), Verdict::Hold { .. });
    let (shown, stated) = (table.tag(packument, "latest"), packument.dist_tag("latest"));
    let position = |version: Option<&str>| Some(packument.find(version?)?.0);
    let (latest, upstream_latest) = (position(shown), position(stated).filter(|at| is_held(*at)));
    let young = (0..packument.entries.len()).filter(|at| effective(*at) > Some(since));
    let mut visible: Vec<usize> = young.filter(|at| table.shown.get(*at) == Some(&true) || opens_soon(*at)).collect();
    visible.sort_unstable_by_key(|at| (table.shown.get(*at) != Some(&true), std::cmp::Reverse(effective(*at))));
    let mut chosen = Vec::with_capacity(MAX_RELEASES_A_DAY);
    for at in latest.into_iter().chain(upstream_latest).chain(visible) {
        if effective(at) > Some(since) && !chosen.contains(&at) && !is_vetted(at) {
            chosen.push(at);
        }
        if chosen.len() == MAX_RELEASES_A_DAY {
            break;
        }
    }
    chosen
}

/// Vets the releases of the queue, one after the other.
pub(crate) struct AheadVetter {
    pub services: Arc<Services>,
    pub queue: Arc<VettingQueue>,
    pub tarballs: Arc<TarballService>,
}

impl AheadVetter {
    /// Waits for a release that is worth vetting while no client waits for a core.
    pub(crate) async fn next(&self) -> VettingTarget {
        self.queue.next().await
    }

    /// Opens the tarball of a release with the credentials of the client that asked for its package. Returns whether that succeeded.
    pub(crate) async fn vet(&self, target: VettingTarget) -> bool {
        let vetting = tokio::time::timeout(MAX_TIME, self.run(&target)).await;
        self.queue.forget(&target);
        vetting.unwrap_or(None).is_some()
    }

    async fn run(&self, target: &VettingTarget) -> Option<()> {
        // A package that was evicted since is not worth loading.
        let package = self.services.cache.get(&target.cache_key)?;
        let (at, _) = package.packument.as_ref()?.find(&target.version)?;
        let lookup = PackageLookup { package, stale: None };
        let bytes = self.tarballs.vet_ahead(&target.client, &lookup, at).await;
        let bytes = bytes.inspect_err(|error| {
            tracing::debug!(package.name = %target.name(), package.version = target.version(), error = %error, "tarball not vetted ahead");
        });
        self.queue.budgets.spend(lookup.package.registry.id(), target.name(), bytes.ok()?);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_has_a_daily_budget_of_releases_and_bytes() {
        let (budgets, registry) = (Budgets::default(), Arc::from("https://registry.example/"));
        let (demo, other) = (PackageName::parse("demo").unwrap(), PackageName::parse("other").unwrap());
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        assert_eq!((0..5).filter(|_| budgets.take(&registry, &demo, at(0))).count(), MAX_RELEASES_A_DAY);
        assert!(budgets.take(&registry, &other, at(0)));
        budgets.spend(&registry, &other, MAX_BYTES_A_DAY);
        assert!(!budgets.take(&registry, &other, at(86_399)));
        assert!(budgets.take(&registry, &other, at(86_401)) && budgets.take(&registry, &demo, at(86_401)));
    }

    #[test]
    fn full_table_of_budgets_admits_no_further_package_until_a_day_has_passed() {
        let (budgets, registry) = (Budgets::default(), Arc::from("https://registry.example/"));
        let name = |number: usize| PackageName::parse(&format!("demo-{number}")).unwrap();
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        assert!((0..MAX_BUDGETS).all(|number| budgets.take(&registry, &name(number), at(0))));
        assert!(!budgets.take(&registry, &name(MAX_BUDGETS), at(10)) && budgets.take(&registry, &name(0), at(10)));
        assert!(budgets.take(&registry, &name(MAX_BUDGETS), at(86_401)));
    }
}
