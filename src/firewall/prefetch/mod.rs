//! Prefetches the dependencies of resolved versions, since clients request them one after the other. Known packages are skipped,
//! and each client request has a budget of prefetches.

pub(crate) mod vetting;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::firewall::error::FirewallError;
use crate::firewall::package::CacheKey;
use crate::firewall::packages::Services;
use crate::firewall::packages::fetch::Fetcher;
use crate::firewall::packages::ingest::{IngestEvent, PackageObserver};
use crate::firewall::packages::request::{FetchRequest, PrefetchContext};
use crate::firewall::wanted_versions::Wants;
use crate::npm::PackageName;
use crate::npm::packument::dependencies::Dependency;
use crate::upstream::{Authorization, UpstreamError};

/// The most packages in the queue. Further ones are fetched when a client requests them.
const MAX_QUEUED: usize = 2_000;

/// A package to prefetch, with its prefetch slot at the registry.
pub struct PrefetchTarget(FetchRequest, PrefetchSlot);

/// A prefetch slot of one registry, released on drop.
struct PrefetchSlot {
    prefetch_queue: Arc<PrefetchQueue>,
    registry: Arc<str>,
}

impl Drop for PrefetchSlot {
    fn drop(&mut self) {
        let mut running = self.prefetch_queue.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = running.get_mut(&self.registry) {
            *count = count.saturating_sub(1);
        }
        drop(running);
        self.prefetch_queue.changed.notify_one();
    }
}

impl PrefetchTarget {
    pub fn name(&self) -> &PackageName {
        &self.0.cache_key.name
    }
}

/// Packages that wait for a prefetch, oldest first, and those being prefetched.
pub(crate) struct PrefetchQueue {
    /// Concurrent prefetches per registry; 0 disables prefetching.
    pub limit: usize,
    waiting: Mutex<(VecDeque<FetchRequest>, HashSet<CacheKey>)>,
    /// Notified when a package is queued or a slot becomes free.
    changed: Notify,
    /// Running prefetches per registry, so that a hanging registry does not block the others.
    running: Mutex<HashMap<Arc<str>, usize>>,
}

impl PrefetchQueue {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, waiting: Mutex::default(), changed: Notify::new(), running: Mutex::default() }
    }

    fn push(&self, request: FetchRequest) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let (queue, slots) = &mut *waiting;
        if queue.len() < MAX_QUEUED && slots.insert(request.cache_key.clone()) {
            queue.push_back(request);
            self.changed.notify_one();
        }
    }

    /// Waits for the oldest package whose registry has a free slot.
    async fn next(self: &Arc<Self>) -> PrefetchTarget {
        loop {
            let changed = self.changed.notified();
            if let Some(target) = self.find() {
                return target;
            }
            changed.await;
        }
    }

    fn find(self: &Arc<Self>) -> Option<PrefetchTarget> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let is_free = |request: &FetchRequest| running.get(request.registry.id()).is_none_or(|count| *count < self.limit);
        let at = waiting.0.iter().position(is_free)?;
        let request = waiting.0.remove(at)?;
        waiting.1.remove(&request.cache_key);
        let registry = Arc::clone(request.registry.id());
        *running.entry(Arc::clone(&registry)).or_default() += 1;
        Some(PrefetchTarget(request, PrefetchSlot { prefetch_queue: Arc::clone(self), registry }))
    }
}

/// Queues the dependencies of new documents, if prefetching is enabled, and records the requirements.
pub(crate) struct DependencyHints {
    pub services: Arc<Services>,
    pub queue: Arc<PrefetchQueue>,
    pub wants: Arc<Wants>,
}

impl PackageObserver for DependencyHints {
    fn ingested(&self, event: &mut IngestEvent<'_>) {
        let request = event.request;
        let spec = request.ahead.as_ref().map_or("latest", |ahead| &*ahead.wanted);
        let context = self.services.policy.context();
        let wanted = self.wants.note_dependencies(event.package, &context.policy_snapshot, event.document, event.fields, spec);
        let Some(ahead) = request.ahead.as_ref().filter(|ahead| self.queue.limit > 0 && !ahead.is_over()) else { return };
        for Dependency { name, wanted } in wanted {
            let registry = self.services.registries.of(&name);
            // A client's own credentials are sent only to the registry for which the client sent them.
            if matches!(request.registry.select_authorization(&request.authorization), Authorization::Own(_))
                && registry.id() != request.registry.id()
            {
                continue;
            }
            let next = FetchRequest {
                cache_key: CacheKey::of(&name, registry, &request.authorization),
                registry: Arc::clone(registry),
                ahead: Some(ahead.next(&wanted)),
                asked: None,
                ..request.clone()
            };
            if !self.services.cache.is_known(&next.cache_key, context.now) && ahead.try_spend() {
                self.queue.push(next);
            }
        }
    }
}

pub(crate) struct Prefetcher {
    pub services: Arc<Services>,
    pub queue: Arc<PrefetchQueue>,
    pub fetcher: Arc<Fetcher>,
}

impl Prefetcher {
    pub(crate) async fn next(&self) -> PrefetchTarget {
        loop {
            let PrefetchTarget(request, slot) = self.queue.next().await;
            let is_over = request.ahead.as_ref().is_some_and(PrefetchContext::is_over);
            // It may have been fetched since it was queued.
            if !is_over && !self.services.cache.is_known(&request.cache_key, self.services.policy.now()) {
                return PrefetchTarget(request, slot);
            }
        }
    }

    /// Fetches a prefetch target like a client request. Returns whether upstream had it.
    pub(crate) async fn fetch(&self, PrefetchTarget(mut request, _slot): PrefetchTarget) -> bool {
        let (cache_key, promoted) = (request.cache_key.clone(), self.services.parse_pool.priority.register(&request.cache_key));
        if let Some(ahead) = &mut request.ahead {
            ahead.promoted = Some(promoted);
        }
        let ahead = request.ahead.clone();
        let landed = self.fetcher.fetch_shared(request).await;
        self.services.parse_pool.priority.unregister(&cache_key);
        match &landed {
            // A dependency may be unpublished or not readable with these credentials. Other prefetches continue.
            Ok(_)
            | Err(
                FirewallError::NotFound(_)
                | FirewallError::Upstream(
                    UpstreamError::NotFound | UpstreamError::MissingPage { .. } | UpstreamError::Denied { .. },
                ),
            ) => {}
            // Upstream failed, so the request's remaining prefetches are cancelled.
            Err(_) => drop(ahead.inspect(PrefetchContext::cancel)),
        }
        landed.is_ok()
    }
}
