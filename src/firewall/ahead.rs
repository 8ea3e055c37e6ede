//! What clients will ask for next: whoever resolves a release resolves what it depends on then, one package after the other. Packages
//! found this way wait here for somebody who fetches them ahead. Refuses to fetch what is known, and to go on without an end.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::catalog::Voyage;
use super::known::{Known, Slot};
use super::packument::resolve;
use super::{Inner, Rejection};
use crate::npm::PackageName;
use crate::npm::ingest::Fields;
use crate::npm::requirements::{Requirement, requirements};
use crate::upstream::{Authorization, UpstreamError};

/// How many packages one question may have fetched ahead: more than most applications consist of. Some depend on all there are.
const MOST: u32 = 1_000;

/// How many packages wait at most; what is found then is left for whoever asks for it.
const WAITING: usize = 2_000;

/// What is looked for in a document on its arrival.
#[derive(Debug, Clone)]
pub(super) struct Ahead {
    /// The version that is wanted: exactly, by a tag, or by a range.
    wanted: Arc<str>,
    question: Arc<Question>,
    /// Whether nobody has asked for this one.
    pub(super) is_guess: bool,
}

/// The question that it began with.
#[derive(Debug)]
struct Question {
    /// How many more may be fetched for its sake.
    left: AtomicU32,
    /// Whether upstream failed over one of them.
    is_over: AtomicBool,
}

impl Ahead {
    /// Behind a client's own question, which does not say what version it will choose.
    #[must_use]
    pub(super) fn of_question() -> Self {
        let question = Question { left: AtomicU32::new(MOST), is_over: AtomicBool::new(false) };
        Self { wanted: "latest".into(), question: Arc::new(question), is_guess: false }
    }

    fn next(&self, wanted: &str) -> Self {
        Self { wanted: wanted.into(), question: Arc::clone(&self.question), is_guess: true }
    }

    fn takes_one(&self) -> bool {
        self.question.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

/// A package that somebody will probably ask for.
pub struct Lead(Voyage);

impl Lead {
    /// The package.
    #[must_use]
    pub fn name(&self) -> &PackageName {
        &self.0.slot.name
    }
}

/// Leads that nobody follows yet, the oldest first.
#[derive(Default)]
pub(super) struct Leads {
    waiting: Mutex<(VecDeque<Voyage>, HashSet<Slot>)>,
    came: Notify,
}

impl Leads {
    fn push(&self, voyage: Voyage) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let (queue, slots) = &mut *waiting;
        if queue.len() < WAITING && slots.insert(voyage.slot.clone()) {
            queue.push_back(voyage);
            self.came.notify_one();
        }
    }

    async fn next(&self) -> Voyage {
        loop {
            let came = self.came.notified();
            let next = {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                let next = waiting.0.pop_front();
                if let Some(voyage) = &next {
                    waiting.1.remove(&voyage.slot);
                }
                next
            };
            match next {
                Some(voyage) => return voyage,
                None => came.await,
            }
        }
    }
}

/// Who reads now because somebody waits. Whoever reads for nobody begins when there are few of them: on two cores, when there
/// is none.
pub(super) struct Precedence {
    asked: AtomicUsize,
    fewer: Notify,
    few: usize,
}

/// Somebody waits for what is read while this lives.
pub(super) struct Asked<'a>(&'a Precedence);

impl Precedence {
    /// On so many cores.
    #[must_use]
    pub(super) fn on(cores: usize) -> Self {
        Self { asked: AtomicUsize::default(), fewer: Notify::new(), few: cores / 2 }
    }

    /// Somebody waits.
    pub(super) fn take(&self) -> Asked<'_> {
        self.asked.fetch_add(1, Ordering::AcqRel);
        Asked(self)
    }

    /// Waits until few wait.
    pub(super) async fn give(&self) {
        loop {
            let fewer = self.fewer.notified();
            if self.asked.load(Ordering::Acquire) < self.few.max(1) {
                return;
            }
            fewer.await;
        }
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.0.asked.fetch_sub(1, Ordering::AcqRel);
        self.0.fewer.notify_waiters();
    }
}

impl Inner {
    /// The next package that is worth fetching ahead.
    pub(super) async fn next_lead(&self) -> Lead {
        loop {
            let voyage = self.leads.next().await;
            let is_over = voyage.ahead.as_ref().is_some_and(|ahead| ahead.question.is_over.load(Ordering::Relaxed));
            // It may have come meanwhile.
            if !is_over && !self.is_known(&voyage.slot) {
                return Lead(voyage);
            }
        }
    }

    /// Fetches what a lead leads to, as if somebody asked; whether it was there.
    pub(super) async fn follow_lead(self: &Arc<Self>, Lead(voyage): Lead) -> bool {
        let ahead = voyage.ahead.clone();
        match self.embark(voyage).await {
            Ok(_) => true,
            // Somebody may depend on what was never published, or is not theirs to see.
            Err(Rejection::NotFound(_) | Rejection::Upstream(UpstreamError::NotFound | UpstreamError::Denied { .. })) => false,
            Err(_) => {
                // Whoever cannot be asked is not asked for more.
                ahead.inspect(|ahead| ahead.question.is_over.store(true, Ordering::Relaxed));
                false
            }
        }
    }

    /// Notes what the version that is wanted of a document depends on, as far as nothing is known of it.
    pub(super) fn look_ahead(&self, voyage: &Voyage, known: &Known, document: &[u8], fields: &Fields) {
        let (Some(ahead), Some(packument)) = (&voyage.ahead, &known.packument) else { return };
        let Ok(document) = std::str::from_utf8(document) else { return };
        if ahead.question.is_over.load(Ordering::Relaxed) {
            return;
        }
        let screen = known.screen(&self.world(), voyage.profile);
        let chosen = resolve(packument, &screen, &ahead.wanted).and_then(|key| packument.find(key));
        let Some((at, _)) = chosen.filter(|(at, _)| screen.shown[*at]) else { return };
        for Requirement { name, wanted } in requirements(document, fields, at) {
            let registry = self.registries.of(&name);
            // A client's own credentials go where the client brought them, until it brings them elsewhere.
            if matches!(voyage.authorization, Authorization::Own(_)) && registry.id() != voyage.registry.id() {
                continue;
            }
            let slot = Slot::of(&name, registry, &voyage.authorization);
            let next = Voyage { slot, registry: Arc::clone(registry), ahead: Some(ahead.next(&wanted)), ..voyage.clone() };
            if !self.is_known(&next.slot) && ahead.takes_one() {
                self.leads.push(next);
            }
        }
    }
}
