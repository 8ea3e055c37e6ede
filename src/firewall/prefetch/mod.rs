//! Queues the dependencies of resolved versions for prefetching, since clients request them one after the other. Known packages
//! are skipped, and each client request has a budget of prefetches.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, Semaphore, SemaphorePermit};

use crate::firewall::Components;
use crate::firewall::error::FirewallError;
use crate::firewall::package::{CacheKey, PackageSnapshot};
use crate::firewall::packages::fetch::FetchRequest;
use crate::npm::AbbreviatedFields;
use crate::npm::PackageName;
use crate::npm::packument::dependencies::Dependency;
use crate::upstream::{Authorization, UpstreamError};

/// The most packages prefetched per client request. Most applications have fewer dependencies, but some packages depend on the
/// whole registry.
const MAX_PREFETCHES: u32 = 1_000;

/// The most packages in the queue. Further ones are fetched when a client requests them.
const MAX_QUEUED: usize = 2_000;

/// Selects which dependencies of a fetched packument are prefetched.
#[derive(Debug, Clone)]
pub(crate) struct PrefetchContext {
    /// The requested version, dist-tag or range.
    wanted: Arc<str>,
    budget: Arc<PrefetchBudget>,
    /// Notified when a client requests this package; `None` if a client already did.
    promoted: Option<Arc<Notify>>,
}

/// The prefetch budget of one client request.
#[derive(Debug)]
struct PrefetchBudget {
    /// The remaining number of prefetches.
    left: AtomicU32,
    /// Whether one of the prefetches failed upstream.
    is_over: AtomicBool,
}

impl PrefetchContext {
    /// Creates the context of a client request, which does not say which version the client will choose.
    #[must_use]
    pub(crate) fn of_question() -> Self {
        let budget = PrefetchBudget { left: AtomicU32::new(MAX_PREFETCHES), is_over: AtomicBool::new(false) };
        Self { wanted: "latest".into(), budget: Arc::new(budget), promoted: None }
    }

    fn next(&self, wanted: &str) -> Self {
        Self { wanted: wanted.into(), budget: Arc::clone(&self.budget), promoted: None }
    }

    fn try_spend(&self) -> bool {
        self.budget.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

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
    #[must_use]
    pub fn name(&self) -> &PackageName {
        &self.0.slot.name
    }
}

/// Packages that wait for a prefetch, oldest first, and those being prefetched.
#[derive(Default)]
pub(crate) struct PrefetchQueue {
    waiting: Mutex<(VecDeque<FetchRequest>, HashSet<CacheKey>)>,
    /// Notified when a package is queued or a slot becomes free.
    changed: Notify,
    /// Running prefetches per registry, so that a hanging registry does not block the others.
    running: Mutex<HashMap<Arc<str>, usize>>,
    /// Notifies a running prefetch that a client requested its package.
    promotions: Mutex<HashMap<CacheKey, Arc<Notify>>>,
}

impl PrefetchQueue {
    fn push(&self, request: FetchRequest) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let (queue, slots) = &mut *waiting;
        if queue.len() < MAX_QUEUED && slots.insert(request.slot.clone()) {
            queue.push_back(request);
            self.changed.notify_one();
        }
    }

    /// Gives a running prefetch of this package the priority of a client request.
    pub(crate) fn promote(&self, slot: &CacheKey) {
        if let Some(asked) = self.promotions.lock().unwrap_or_else(PoisonError::into_inner).get(slot) {
            asked.notify_one();
        }
    }

    fn follow(&self, slot: &CacheKey) -> Arc<Notify> {
        let asked = Arc::default();
        self.promotions.lock().unwrap_or_else(PoisonError::into_inner).insert(slot.clone(), Arc::clone(&asked));
        asked
    }

    fn leave(&self, slot: &CacheKey) {
        self.promotions.lock().unwrap_or_else(PoisonError::into_inner).remove(slot);
    }

    /// Waits for the oldest package whose registry has a free slot of `at_once`.
    async fn next(self: &Arc<Self>, at_once: usize) -> PrefetchTarget {
        loop {
            let changed = self.changed.notified();
            if let Some(target) = self.find(at_once) {
                return target;
            }
            changed.await;
        }
    }

    fn find(self: &Arc<Self>, at_once: usize) -> Option<PrefetchTarget> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let is_free = |request: &FetchRequest| running.get(request.registry.id()).is_none_or(|count| *count < at_once);
        let at = waiting.0.iter().position(is_free)?;
        let request = waiting.0.remove(at)?;
        waiting.1.remove(&request.slot);
        let registry = Arc::clone(request.registry.id());
        *running.entry(Arc::clone(&registry)).or_default() += 1;
        Some(PrefetchTarget(request, PrefetchSlot { prefetch_queue: Arc::clone(self), registry }))
    }
}

/// Gives parsing for clients priority over parsing for prefetches, which starts only while few clients wait: on two cores, while
/// none does.
pub(crate) struct ParsePriority {
    asked: AtomicUsize,
    fewer: Notify,
    few: usize,
    /// Slots for prefetches: half the number of cores.
    prefetches: Semaphore,
}

/// A parsing slot, held while a packument is parsed.
pub(crate) struct ParseSlot<'a> {
    /// Set if a client waits for the packument.
    asked: Option<&'a ParsePriority>,
    /// The slot of a prefetch.
    _slot: Option<SemaphorePermit<'a>>,
}

impl ParsePriority {
    /// Creates the priorities for `cores` cores.
    #[must_use]
    pub(crate) fn on(cores: usize) -> Self {
        Self {
            asked: AtomicUsize::default(),
            fewer: Notify::new(),
            few: (cores / 2).max(1),
            prefetches: Semaphore::new(cores.div_ceil(2)),
        }
    }

    /// Waits for a parsing slot. A prefetch waits until few clients do, or until a client requests its package.
    pub(crate) async fn turn(&self, ahead: Option<&PrefetchContext>) -> ParseSlot<'_> {
        let Some(asked) = ahead.and_then(|ahead| ahead.promoted.as_ref()) else { return self.client_slot() };
        let wait_turn = async {
            let permit = self.prefetches.acquire().await;
            self.wait_until_few().await;
            permit
        };
        tokio::select! {
            biased;
            () = asked.notified() => self.client_slot(),
            permit = wait_turn => ParseSlot { asked: None, _slot: permit.ok() },
        }
    }

    fn client_slot(&self) -> ParseSlot<'_> {
        self.asked.fetch_add(1, Ordering::AcqRel);
        ParseSlot { asked: Some(self), _slot: None }
    }

    /// Waits until few clients wait.
    async fn wait_until_few(&self) {
        loop {
            let fewer = self.fewer.notified();
            if self.asked.load(Ordering::Acquire) < self.few {
                return;
            }
            fewer.await;
        }
    }
}

impl Drop for ParseSlot<'_> {
    fn drop(&mut self) {
        if let Some(precedence) = self.asked {
            precedence.asked.fetch_sub(1, Ordering::AcqRel);
            precedence.fewer.notify_waiters();
        }
    }
}

impl Components {
    /// Waits for the next package worth prefetching.
    pub(crate) async fn next(&self) -> PrefetchTarget {
        loop {
            let PrefetchTarget(request, slot) = self.prefetch_queue.next(self.config.prefetch).await;
            let is_over = request.ahead.as_ref().is_some_and(|ahead| ahead.budget.is_over.load(Ordering::Relaxed));
            // It may have been fetched since it was queued.
            if !is_over && !self.is_known(&request.slot) {
                return PrefetchTarget(request, slot);
            }
        }
    }

    /// Fetches a prefetch target like a client request. Returns whether upstream had it.
    pub(crate) async fn fetch_target(self: &Arc<Self>, PrefetchTarget(mut request, _slot): PrefetchTarget) -> bool {
        let (slot, promoted) = (request.slot.clone(), self.prefetch_queue.follow(&request.slot));
        if let Some(ahead) = &mut request.ahead {
            ahead.promoted = Some(promoted);
        }
        let ahead = request.ahead.clone();
        let landed = self.fetch_shared(request).await;
        self.prefetch_queue.leave(&slot);
        match landed {
            Ok(_) => true,
            // A dependency may be unpublished or not readable with these credentials. Other prefetches continue.
            Err(
                FirewallError::NotFound(_)
                | FirewallError::Upstream(
                    UpstreamError::NotFound | UpstreamError::MissingPage { .. } | UpstreamError::Denied { .. },
                ),
            ) => false,
            Err(_) => {
                // Upstream failed, so the request's remaining prefetches are cancelled.
                ahead.inspect(|ahead| ahead.budget.is_over.store(true, Ordering::Relaxed));
                false
            }
        }
    }

    /// Records the dependencies of the requested version of a document and queues unknown ones for prefetching.
    pub(crate) fn send_dependency_hints(
        &self,
        request: &FetchRequest,
        known: &PackageSnapshot,
        document: &[u8],
        fields: &AbbreviatedFields,
    ) {
        let spec = request.ahead.as_ref().map_or("latest", |ahead| &*ahead.wanted);
        let wanted = self.note_wants(known, document, fields, spec);
        let Some(ahead) = request.ahead.as_ref().filter(|ahead| !ahead.budget.is_over.load(Ordering::Relaxed)) else { return };
        for Dependency { name, wanted } in wanted {
            let registry = self.registries.of(&name);
            // A client's own credentials are sent only to the registry for which the client sent them.
            if matches!(request.registry.select_authorization(&request.authorization), Authorization::Own(_))
                && registry.id() != request.registry.id()
            {
                continue;
            }
            let slot = CacheKey::of(&name, registry, &request.authorization);
            let next = FetchRequest {
                slot,
                registry: Arc::clone(registry),
                ahead: Some(ahead.next(&wanted)),
                asked: None,
                ..request.clone()
            };
            if !self.is_known(&next.slot) && ahead.try_spend() {
                self.prefetch_queue.push(next);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    fn render_request() -> (PrefetchContext, Arc<Notify>) {
        let asked = Arc::new(Notify::new());
        (PrefetchContext { promoted: Some(Arc::clone(&asked)), ..PrefetchContext::of_question().next("1") }, asked)
    }

    #[tokio::test(start_paused = true)]
    async fn prefetch_waits_until_a_client_requests_the_package() {
        let precedence = ParsePriority::on(2);
        let (one, asked) = render_request();
        let awaited = precedence.turn(Some(&PrefetchContext::of_question())).await;
        assert!(timeout(TIMEOUT, precedence.turn(Some(&one))).await.is_err());
        // A promoted prefetch does not wait for other clients.
        asked.notify_one();
        let promoted = timeout(TIMEOUT, precedence.turn(Some(&one))).await.unwrap();
        drop(awaited);
        let (other, _) = render_request();
        assert!(timeout(TIMEOUT, precedence.turn(Some(&other))).await.is_err());
        drop(promoted);
        let held = timeout(TIMEOUT, precedence.turn(Some(&other))).await.unwrap();
        // One prefetch at a time. Client requests do not wait for it.
        assert!(timeout(TIMEOUT, precedence.turn(Some(&one))).await.is_err());
        drop(timeout(TIMEOUT, precedence.turn(None)).await.unwrap());
        drop(held);
        drop(timeout(TIMEOUT, precedence.turn(Some(&one))).await.unwrap());
    }

    #[test]
    fn client_request_has_a_limited_prefetch_budget() {
        let first = PrefetchContext::of_question();
        let then = first.next("^1").next("^2");
        assert_eq!(
            (0..2 * MAX_PREFETCHES).filter(|at| if at % 2 == 0 { &first } else { &then }.try_spend()).count(),
            MAX_PREFETCHES as usize
        );
    }
}
