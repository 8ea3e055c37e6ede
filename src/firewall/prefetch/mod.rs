//! What clients will ask for next: whoever resolves a release resolves what it depends on then, one package after the other. Packages
//! found this way wait here for somebody who fetches them ahead. Refuses to fetch what is known, and to go on without an end.

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

/// How many packages one question may have fetched ahead: more than most applications consist of. Some depend on all there are.
const MOST: u32 = 1_000;

/// How many packages wait at most; what is found then is left for whoever asks for it.
const WAITING: usize = 2_000;

/// What is looked for in a document on its arrival.
#[derive(Debug, Clone)]
pub(crate) struct PrefetchContext {
    /// The version that is wanted: exactly, by a tag, or by a range.
    wanted: Arc<str>,
    question: Arc<PrefetchBudget>,
    /// Told when somebody asks for this one, while nobody has.
    guess: Option<Arc<Notify>>,
}

/// The question that it began with.
#[derive(Debug)]
struct PrefetchBudget {
    /// How many more may be fetched for its sake.
    left: AtomicU32,
    /// Whether upstream failed over one of them.
    is_over: AtomicBool,
}

impl PrefetchContext {
    /// Behind a client's own question, which does not say what version it will choose.
    #[must_use]
    pub(crate) fn of_question() -> Self {
        let question = PrefetchBudget { left: AtomicU32::new(MOST), is_over: AtomicBool::new(false) };
        Self { wanted: "latest".into(), question: Arc::new(question), guess: None }
    }

    fn next(&self, wanted: &str) -> Self {
        Self { wanted: wanted.into(), question: Arc::clone(&self.question), guess: None }
    }

    fn takes_one(&self) -> bool {
        self.question.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

/// A package that a client will probably ask for, with its slot among those of its registry that are fetched ahead.
pub struct PrefetchTarget(FetchRequest, PrefetchSlot);

/// A slot of one registry, given back when dropped.
struct PrefetchSlot {
    leads: Arc<PrefetchQueue>,
    registry: Arc<str>,
}

impl Drop for PrefetchSlot {
    fn drop(&mut self) {
        let mut taken = self.leads.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.registry) {
            *count = count.saturating_sub(1);
        }
        drop(taken);
        self.leads.came.notify_one();
    }
}

impl PrefetchTarget {
    /// The package.
    #[must_use]
    pub fn name(&self) -> &PackageName {
        &self.0.slot.name
    }
}

/// Leads that nobody follows yet, the oldest first, and those that are followed.
#[derive(Default)]
pub(crate) struct PrefetchQueue {
    waiting: Mutex<(VecDeque<FetchRequest>, HashSet<CacheKey>)>,
    /// Told when there is another one, or a slot for one.
    came: Notify,
    /// How many are followed at each registry: one that hangs does not keep the others from being asked.
    taken: Mutex<HashMap<Arc<str>, usize>>,
    /// Whom to tell that somebody asks for one after all.
    followed: Mutex<HashMap<CacheKey, Arc<Notify>>>,
}

impl PrefetchQueue {
    fn push(&self, request: FetchRequest) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let (queue, slots) = &mut *waiting;
        if queue.len() < WAITING && slots.insert(request.slot.clone()) {
            queue.push_back(request);
            self.came.notify_one();
        }
    }

    /// Somebody waits for this package: if it is on its way as a guess, it is none any more.
    pub(crate) fn hurry(&self, slot: &CacheKey) {
        if let Some(asked) = self.followed.lock().unwrap_or_else(PoisonError::into_inner).get(slot) {
            asked.notify_one();
        }
    }

    fn follow(&self, slot: &CacheKey) -> Arc<Notify> {
        let asked = Arc::default();
        self.followed.lock().unwrap_or_else(PoisonError::into_inner).insert(slot.clone(), Arc::clone(&asked));
        asked
    }

    fn leave(&self, slot: &CacheKey) {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner).remove(slot);
    }

    /// The oldest that its registry has a slot for, of so many at once.
    async fn next(self: &Arc<Self>, at_once: usize) -> PrefetchTarget {
        loop {
            let came = self.came.notified();
            if let Some(lead) = self.find(at_once) {
                return lead;
            }
            came.await;
        }
    }

    fn find(self: &Arc<Self>, at_once: usize) -> Option<PrefetchTarget> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let is_free = |request: &FetchRequest| taken.get(request.registry.id()).is_none_or(|count| *count < at_once);
        let at = waiting.0.iter().position(is_free)?;
        let request = waiting.0.remove(at)?;
        waiting.1.remove(&request.slot);
        let registry = Arc::clone(request.registry.id());
        *taken.entry(Arc::clone(&registry)).or_default() += 1;
        Some(PrefetchTarget(request, PrefetchSlot { leads: Arc::clone(self), registry }))
    }
}

/// Who reads now because somebody waits. Whoever reads for nobody begins when there are few of them: on two cores, when there
/// is none.
pub(crate) struct ParsePriority {
    asked: AtomicUsize,
    fewer: Notify,
    few: usize,
    /// Those that read for nobody: half as many as may read.
    guesses: Semaphore,
}

/// A turn to read, held while it is done.
pub(crate) struct ParseSlot<'a> {
    /// Where it is noted that somebody waits for it, if somebody does.
    asked: Option<&'a ParsePriority>,
    /// Its place among those that read for nobody.
    _guess: Option<SemaphorePermit<'a>>,
}

impl ParsePriority {
    /// On so many cores.
    #[must_use]
    pub(crate) fn on(cores: usize) -> Self {
        Self {
            asked: AtomicUsize::default(),
            fewer: Notify::new(),
            few: (cores / 2).max(1),
            guesses: Semaphore::new(cores.div_ceil(2)),
        }
    }

    /// The turn of what is looked at ahead, or is not: a guess waits until few others do, or until somebody asks for it.
    pub(crate) async fn turn(&self, ahead: Option<&PrefetchContext>) -> ParseSlot<'_> {
        let Some(asked) = ahead.and_then(|ahead| ahead.guess.as_ref()) else { return self.take() };
        let gives_way = async {
            let permit = self.guesses.acquire().await;
            self.give().await;
            permit
        };
        tokio::select! {
            biased;
            () = asked.notified() => self.take(),
            permit = gives_way => ParseSlot { asked: None, _guess: permit.ok() },
        }
    }

    fn take(&self) -> ParseSlot<'_> {
        self.asked.fetch_add(1, Ordering::AcqRel);
        ParseSlot { asked: Some(self), _guess: None }
    }

    /// Waits until few wait.
    async fn give(&self) {
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
    /// The next package that is worth fetching ahead.
    pub(crate) async fn next_lead(&self) -> PrefetchTarget {
        loop {
            let PrefetchTarget(request, slot) = self.leads.next(self.config.fetch_ahead).await;
            let is_over = request.ahead.as_ref().is_some_and(|ahead| ahead.question.is_over.load(Ordering::Relaxed));
            // It may have come meanwhile.
            if !is_over && !self.is_known(&request.slot) {
                return PrefetchTarget(request, slot);
            }
        }
    }

    /// Fetches what a lead leads to, as if somebody asked; whether it was there.
    pub(crate) async fn follow_lead(self: &Arc<Self>, PrefetchTarget(mut request, _slot): PrefetchTarget) -> bool {
        let (slot, guess) = (request.slot.clone(), self.leads.follow(&request.slot));
        if let Some(ahead) = &mut request.ahead {
            ahead.guess = Some(guess);
        }
        let ahead = request.ahead.clone();
        let landed = self.fetch_shared(request).await;
        self.leads.leave(&slot);
        match landed {
            Ok(_) => true,
            // Somebody may depend on what was never published, or is not theirs to see.
            Err(
                FirewallError::NotFound(_)
                | FirewallError::Upstream(
                    UpstreamError::NotFound | UpstreamError::MissingPage { .. } | UpstreamError::Denied { .. },
                ),
            ) => false,
            Err(_) => {
                // Whoever cannot be asked is not asked for more.
                ahead.inspect(|ahead| ahead.question.is_over.store(true, Ordering::Relaxed));
                false
            }
        }
    }

    /// Notes what the version that is wanted of a document depends on; what is not known of it is fetched ahead.
    pub(crate) fn look_ahead(
        &self,
        request: &FetchRequest,
        known: &PackageSnapshot,
        document: &[u8],
        fields: &AbbreviatedFields,
    ) {
        let spec = request.ahead.as_ref().map_or("latest", |ahead| &*ahead.wanted);
        let wanted = self.note_wants(known, document, fields, spec);
        let Some(ahead) = request.ahead.as_ref().filter(|ahead| !ahead.question.is_over.load(Ordering::Relaxed)) else { return };
        for Dependency { name, wanted } in wanted {
            let registry = self.registries.of(&name);
            // A client's own credentials go where the client brought them, until it brings them elsewhere.
            if matches!(request.authorization.toward(&request.registry), Authorization::Own(_))
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
            if !self.is_known(&next.slot) && ahead.takes_one() {
                self.leads.push(next);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const A_WHILE: Duration = Duration::from_secs(60);

    fn guess() -> (PrefetchContext, Arc<Notify>) {
        let asked = Arc::new(Notify::new());
        (PrefetchContext { guess: Some(Arc::clone(&asked)), ..PrefetchContext::of_question().next("1") }, asked)
    }

    #[tokio::test(start_paused = true)]
    async fn a_guess_gives_way_until_somebody_asks_for_it() {
        let precedence = ParsePriority::on(2);
        let (one, asked) = guess();
        let waited_for = precedence.turn(Some(&PrefetchContext::of_question())).await;
        assert!(timeout(A_WHILE, precedence.turn(Some(&one))).await.is_err());
        // Others who wait are no hindrance to whoever is waited for.
        asked.notify_one();
        let hurried = timeout(A_WHILE, precedence.turn(Some(&one))).await.unwrap();
        drop(waited_for);
        let (other, _) = guess();
        assert!(timeout(A_WHILE, precedence.turn(Some(&other))).await.is_err());
        drop(hurried);
        let held = timeout(A_WHILE, precedence.turn(Some(&other))).await.unwrap();
        // One at a time, and nobody who is waited for waits for it.
        assert!(timeout(A_WHILE, precedence.turn(Some(&one))).await.is_err());
        drop(timeout(A_WHILE, precedence.turn(None)).await.unwrap());
        drop(held);
        drop(timeout(A_WHILE, precedence.turn(Some(&one))).await.unwrap());
    }

    #[test]
    fn a_question_leads_to_so_many_and_no_more() {
        let first = PrefetchContext::of_question();
        let then = first.next("^1").next("^2");
        assert_eq!((0..2 * MOST).filter(|at| if at % 2 == 0 { &first } else { &then }.takes_one()).count(), MOST as usize);
    }
}
