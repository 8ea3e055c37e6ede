//! Fetches a package with one upstream request that all waiting clients share, and falls back on a stale one.
//!
//! Verdicts are as of the instant when upstream last confirmed the package, so a stale packument never opens a version.

use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::timeout;

use crate::firewall::error::{FirewallError, Result};
use crate::firewall::package::history::Parted;
use crate::firewall::package::{CacheKey, Confirmation, PackageSnapshot, ViewComparison};
use crate::firewall::packages::Services;
use crate::firewall::packages::fetch_slots::{SharedFetches, SlotRequest, Slots};
use crate::firewall::packages::ingest::{FetchedDocument, Ingested, Ingester};
use crate::firewall::packages::load::{FetchPermit, NEVER_CHECKED, PreviousState};
use crate::firewall::packages::request::{DocumentNeed, FetchKey, FetchRequest, PackageLookup};
use crate::firewall::packages::requester::{Confirmed, FetchOutcome, PackumentRequester};
use crate::firewall::packages::slow_registries::SlowRegistries;
use crate::firewall::packages::views::{Contradictions, still_diverged};
use crate::firewall::verdicts::cache::CachedPackage;
use crate::net::FairPermit;
use crate::net::fair_limit::Sizes;
use crate::npm::{PackageName, PackumentForm};
use crate::store::{PackageRecord, StoredPackument};
use crate::telemetry::{CacheLabel, CacheOutcome};
use crate::upstream::CacheValidators;

pub(crate) struct Fetcher {
    services: Arc<Services>,
    pub ingester: Arc<Ingester>,
    pub requester: PackumentRequester,
    running: SharedFetches<FetchKey, PackageLookup>,
    pub slots: Slots,
}

impl Fetcher {
    pub(crate) fn new(ingester: Arc<Ingester>, slots: Sizes) -> Self {
        let services = Arc::clone(&ingester.services);
        let requester = PackumentRequester {
            services: Arc::clone(&services),
            ingester: Arc::clone(&ingester),
            slow: SlowRegistries::default(),
        };
        let running = SharedFetches::new(&services.workers);
        Self { services, ingester, requester, running, slots: Slots::new(slots) }
    }

    pub(crate) fn is_running(&self, request: &FetchRequest) -> bool {
        self.running.is_under_way(&self.fetch_key(request))
    }

    /// Waits up to `stale-wait` for upstream, then serves the stale snapshot; the fetch continues and updates the cache.
    pub(crate) async fn fetch_or_stale(self: &Arc<Self>, request: FetchRequest, now: Timestamp) -> Result<PackageLookup> {
        let last = || self.services.cache.get(&request.cache_key).filter(|package| request.need.is_met_by(package));
        if let Some(lookup) = last().and_then(|last| self.stale_without_asking(&request, &last, now)) {
            return Ok(lookup);
        }
        let mut fetching = pin!(self.fetch_shared(request.clone()));
        // Joined first, because it may be running as a prefetch.
        let priority = &self.services.parse_pool.priority;
        let promoted = async { tokio::join!(fetching.as_mut(), async { priority.promote(&request.cache_key) }) };
        if let Ok((result, ())) = timeout(self.services.config.patience, promoted).await {
            return result;
        }
        // A fresh snapshot was stored by this fetch, which is about to complete.
        let last = last().filter(|last| !self.satisfies(&request, last));
        let Some(lookup) = last.and_then(|last| self.stale(&last, now)) else {
            return fetching.await;
        };
        // Not for packages without a snapshot: a client can request any number of those.
        let (registry, waited) = (&request.registry, self.services.config.patience);
        let (heard, gave_up) = (registry.last_heard(), self.services.policy.now());
        self.requester.slow.mark_slow(registry.id(), &request.cache_key, waited, heard, gave_up);
        self.services.cache.unreachable.insert(request.cache_key.clone(), now);
        Ok(lookup)
    }

    /// Returns the stale snapshot if a fetch of the package failed recently, or the registry is slow. A running fetch then detects
    /// its recovery; if only one package hung so far, another one is fetched in the background.
    fn stale_without_asking(
        self: &Arc<Self>,
        request: &FetchRequest,
        package: &Arc<CachedPackage>,
        now: Timestamp,
    ) -> Option<PackageLookup> {
        let (id, heard, slow) = (request.registry.id(), request.registry.last_heard(), &self.requester.slow);
        if !slow.holds(id, heard, now) && !self.services.cache.is_backing_off(&request.cache_key, now) {
            return None;
        }
        let stale = self.stale(package, now)?;
        if slow.is_to_be_tried(id, &request.cache_key, heard, now) {
            // A result is cached; otherwise the registry stays slow.
            let trial = self.fetch_again(FetchRequest { again: true, ..request.clone() });
            tokio::spawn(self.services.workers.track(trial));
        }
        Some(stale)
    }

    /// Fetches with a new slot. Boxed with an explicit type, because such a fetch starts it recursively.
    fn fetch_again(self: &Arc<Self>, request: FetchRequest) -> Pin<Box<dyn Future<Output = Result<PackageLookup>> + Send>> {
        let inner = Arc::clone(self);
        Box::pin(async move {
            let permit = inner.slots.of(&request.registry).acquire(request.client).await;
            inner.fetch_packument(request, permit).await
        })
    }

    fn satisfies(&self, request: &FetchRequest, package: &CachedPackage) -> bool {
        let asked_since = |instant| package.confirmed.checked != NEVER_CHECKED && package.confirmed.checked >= instant;
        request.not_before.is_none_or(asked_since)
            && self.services.cache.is_fresh(package, request.profile, &self.services.policy.context())
    }

    fn fetch_key(&self, request: &FetchRequest) -> FetchKey {
        (request.cache_key.clone(), request.whole, self.services.cache.written.get(&request.cache_key.name))
    }

    pub(crate) async fn fetch_shared(self: &Arc<Self>, request: FetchRequest) -> Result<PackageLookup> {
        let inner = Arc::clone(self);
        let key = self.fetch_key(&request);
        let (client, slots) = (request.client, self.slots.of(&request.registry));
        let limit = Arc::clone(&slots);
        let fetch = move |cache_key: SlotRequest<_>| async move {
            let permit = cache_key.permit(&limit).await;
            inner.fetch_packument(request, permit).await
        };
        self.running.join(key, client, &slots, fetch).await
    }

    /// Loads what is stored and asks upstream if that is not enough.
    async fn fetch_packument(self: Arc<Self>, request: FetchRequest, permit: FairPermit) -> Result<PackageLookup> {
        let share = self.services.parse_pool.memory.share_in(request.registry.id());
        let permit = FetchPermit { share, _slot: permit };
        let now = self.services.policy.now();
        let previous = self.ingester.loader.load_previous(&request).await?;
        let usable = previous.package.clone().filter(|package| request.need.is_met_by(package));
        if let Some(package) = &usable {
            self.services.workers.evaluate(package, &self.services.policy, request.profile, request.client).await;
            if let Some(lookup) = self.answer_without_upstream(&request, package, now) {
                return Ok(lookup);
            }
        }
        // If the document itself is needed, its snapshot is no fallback.
        let fallback = usable.filter(|_| !request.whole);
        match self.requester.ask(&request, &previous, fallback.as_ref(), permit, now).await {
            FetchOutcome::Undated(package) => Ok(PackageLookup { package, stale: None }),
            FetchOutcome::NotModified { package, confirmed, permit: _permit } => {
                self.confirm(&request, &package, &previous, confirmed).await
            }
            FetchOutcome::Changed(document) => self.ingest_or_stale(request, previous, *document, fallback).await,
            FetchOutcome::NotFound { permit: _permit } => self.mark_removed(request, previous, now).await,
            FetchOutcome::Denied(error) => Err(error.into()),
            FetchOutcome::Failed(error) => self.stale_or_error(&request.cache_key, fallback, error, now),
        }
    }

    /// Answers from what is stored: if it is fresh, or stale while upstream is not asked after a failure.
    fn answer_without_upstream(
        self: &Arc<Self>,
        request: &FetchRequest,
        package: &Arc<CachedPackage>,
        now: Timestamp,
    ) -> Option<PackageLookup> {
        if request.whole || request.again {
            return None;
        }
        if self.satisfies(request, package) {
            self.services.cache.insert_at(&request.cache_key, package);
            return Some(PackageLookup { package: Arc::clone(package), stale: None });
        }
        // For clients that do not wait for this fetch.
        if package.confirmed.checked != NEVER_CHECKED {
            self.services.cache.insert_at(&request.cache_key, package);
        }
        self.stale_without_asking(request, package, now)
    }

    /// Reads a new document. Fetches again if it cannot be used as it is, and falls back on the last snapshot if it is unreadable.
    async fn ingest_or_stale(
        self: Arc<Self>,
        request: FetchRequest,
        previous: PreviousState,
        document: FetchedDocument,
        fallback: Option<Arc<CachedPackage>>,
    ) -> Result<PackageLookup> {
        let time = document.time;
        match Arc::clone(&self.ingester).ingest(request.clone(), document, previous).await {
            Ok(Ingested::Done(package)) => Ok(PackageLookup { package, stale: None }),
            Ok(Ingested::Contradicts(contradictions)) => {
                let asked = self.ask_views_again(&request, contradictions, time).await;
                // Fetched again instead of kept, so that no document in memory waits for other views.
                self.fetch_again(FetchRequest { asked: Some(Arc::new(asked)), ..request }).await
            }
            // Fetched without validators: a registry with one ETag for both forms would confirm this document.
            Ok(Ingested::NeedsFullForm) => {
                let cache_key = request.cache_key.clone();
                match self.fetch_again(FetchRequest { need: DocumentNeed::Facts, ..request }).await {
                    Err(error) if error.is_upstreams_failure() => self.stale_or_error(&cache_key, fallback, error, time.checked),
                    other => other,
                }
            }
            Err(error @ FirewallError::Unreadable { .. }) => {
                self.stale_or_error(&request.cache_key, fallback, error, time.checked)
            }
            Err(error) => Err(error),
        }
    }

    async fn confirm(
        self: &Arc<Self>,
        request: &FetchRequest,
        package: &Arc<CachedPackage>,
        before: &PreviousState,
        how: Confirmed,
    ) -> Result<PackageLookup> {
        self.services.recorder.cache_lookup(CacheLabel::Document, CacheOutcome::Revalidated);
        let Confirmed { form, has_no_more, time, validators } = how;
        let CacheValidators { etag, last_modified } = validators.unwrap_or_else(|| package.validators());
        let before_this = package.confirmed.validated;
        let validated = if time.behind.is_some() { before_this } else { time.validated.max(before_this) };
        let (checked, stored_form) = (time.checked, Some(form));
        let document =
            StoredPackument { validated, looked: checked, etag, last_modified, form: stored_form, ..package.document.clone() };
        let (cache_key, time) = (request.cache_key.clone(), Confirmation { validated, ..time });
        let snapshot = package.snapshot.clone();
        let mut confirmed =
            PackageSnapshot { cache_key, form, has_no_more, document: document.clone(), confirmed: time, ..snapshot };
        // Other views or tokens may have been shown something since that applies here.
        if confirmed.views.disputed
            || request.again
            || !self.ingester.views.is_last_look(&request.cache_key.name, confirmed.views.look)
        {
            let contradictions;
            (confirmed, contradictions) = self.compare_confirmed(request, confirmed, before, None).await?;
            if !contradictions.is_empty() {
                let diverged = self.ask_views_again(request, contradictions, time).await;
                (confirmed, _) = self.compare_confirmed(request, confirmed, before, Some(diverged)).await?;
            }
        }
        self.ingester.record_confirmation(request, document).await;
        let confirmed = Arc::new(package.with_snapshot(confirmed));
        self.services.workers.evaluate(&confirmed, &self.services.policy, request.profile, request.client).await;
        self.services.cache.insert(&confirmed);
        Ok(PackageLookup { package: confirmed, stale: None })
    }

    async fn compare_confirmed(
        self: &Arc<Self>,
        request: &FetchRequest,
        package: PackageSnapshot,
        before: &PreviousState,
        diverged: Option<Parted>,
    ) -> Result<(PackageSnapshot, Contradictions)> {
        let (ingester, request, before) = (Arc::clone(&self.ingester), request.clone(), before.clone());
        self.services.workers.run(move || ingester.compare_again(&request, package, &before, diverged.as_ref())).await?
    }

    /// Handles a package that upstream does not have. Known versions are marked as removed and stay in the ledger, so that
    /// lockfiles with old versions keep working and takedowns are reported.
    async fn mark_removed(
        self: &Arc<Self>,
        request: FetchRequest,
        before: PreviousState,
        now: Timestamp,
    ) -> Result<PackageLookup> {
        let FetchRequest { cache_key, registry, .. } = request.clone();
        let recorded = if cache_key.is_client_scoped() {
            // A token that may not read a package also receives a 404, so this is not an observation.
            None
        } else {
            let ingester = Arc::clone(&self.ingester);
            self.services.workers.run(move || ingester.record_vanished(&request, &before, now)).await??
        };
        let Some((record, document)) = recorded else {
            let not_found = absent(&cache_key.name);
            self.services.cache.packages.invalidate(&cache_key);
            self.services.cache.absent.insert(cache_key, now);
            return Err(not_found);
        };
        let package = Arc::new(CachedPackage::from(PackageSnapshot {
            cache_key,
            registry,
            form: PackumentForm::Full,
            has_no_more: false,
            packument: None,
            provenance: Arc::default(),
            record,
            by_version: OnceLock::new(),
            document,
            confirmed: Confirmation { validated: now, checked: now, behind: None },
            views: ViewComparison::default(),
            first_published: None,
        }));
        self.services.cache.insert(&package);
        Ok(PackageLookup { package, stale: None })
    }

    /// Returns the stale snapshot for a limited time after an upstream failure, else the error.
    fn stale_or_error(
        &self,
        cache_key: &CacheKey,
        package: Option<Arc<CachedPackage>>,
        rejection: FirewallError,
        now: Timestamp,
    ) -> Result<PackageLookup> {
        let lookup = package.and_then(|package| self.stale(&package, now)).ok_or(rejection)?;
        self.services.cache.unreachable.insert(cache_key.clone(), now);
        self.services.cache.insert_at(cache_key, &lookup.package);
        Ok(lookup)
    }

    fn stale(&self, package: &Arc<CachedPackage>, now: Timestamp) -> Option<PackageLookup> {
        // Fetched with other credentials and not confirmed for these.
        if package.confirmed.checked == NEVER_CHECKED {
            return None;
        }
        let age = Duration::try_from(now.duration_since(package.confirmed.checked)).unwrap_or_default();
        if age > self.services.config.max_stale {
            return None;
        }
        self.services.recorder.served_stale(package, age, now);
        Some(PackageLookup { package: Arc::clone(package), stale: Some(age) })
    }

    /// Fetches the views in `contradictions` again. Returns the versions over which all still disagree. Boxed: it is recursive.
    fn ask_views_again<'a>(
        self: &'a Arc<Self>,
        request: &'a FetchRequest,
        contradictions: Contradictions,
        asked: Confirmation,
    ) -> Pin<Box<dyn Future<Output = Parted> + Send + 'a>> {
        Box::pin(async move {
            let mut answers = Vec::new();
            for (_, _, view) in &contradictions {
                // There are at most three.
                if !answers.iter().any(|(asked, _)| asked == view) {
                    answers.push((view.clone(), self.ask_view_again(request, view, asked).await));
                }
            }
            still_diverged(contradictions, &answers)
        })
    }

    /// Fetches one view again. Returns its record if upstream answered since, and not from a cache.
    async fn ask_view_again(
        self: &Arc<Self>,
        request: &FetchRequest,
        view: &CacheKey,
        asked: Confirmation,
    ) -> Option<Arc<PackageRecord>> {
        let authorization = view.authorization();
        let cache_key = CacheKey::of(&view.name, &request.registry, &authorization);
        self.ingester.views.refetched.insert(view.clone(), self.services.policy.now());
        let again = FetchRequest {
            cache_key,
            authorization,
            need: DocumentNeed::Index,
            render_request: None,
            ahead: None,
            whole: false,
            again: true,
            asked: Some(Arc::default()),
            ..request.clone()
        };
        let _ = self.fetch_shared(again).await;
        let (loader, registry, view) = (Arc::clone(&self.ingester.loader), Arc::clone(&request.registry), view.clone());
        let record = self.services.workers.run(move || loader.read_record(&view, &registry).ok()).await.ok()??;
        let document = record.document.as_ref()?;
        let is_new = document.looked >= asked.checked && (document.content.is_none() || document.validated >= asked.validated);
        is_new.then_some(record)
    }
}

pub(crate) fn absent(name: &PackageName) -> FirewallError {
    FirewallError::NotFound(format!("{name} is not in the upstream registry").into())
}
