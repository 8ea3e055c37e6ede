//! Registries that say nothing, learnt from a client that waited for one in vain, so that others need not wait as well. Only time
//! spent waiting for upstream's headers counts: not for slots, memory or our own work. It may be one package alone that hangs: another
//! one is then to be asked for, which no client waits for. Asks nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::firewall::package::CacheKey;
use crate::units::timestamp;

/// How long a silent registry is not waited for: then one client waits again, in case no request is under way that would hear it.
const LASTS: Duration = Duration::from_secs(10);

/// The part of a client's wait that must have been for headers: the rest was ours, and says nothing of the registry.
const LEAST_PART: u32 = 4;

/// What is known of each registry, by its id, and what each is asked now.
#[derive(Debug, Default)]
pub(crate) struct SlowRegistries {
    /// Since when: there are as many as there are registries.
    silent: Mutex<HashMap<Arc<str>, Since>>,
    /// The packages that are asked for, and since when. There are as many as there are slots for requests.
    asked: Mutex<HashMap<CacheKey, Instant>>,
}

/// An instant by the clock and by a monotonic one, and over which package it began.
#[derive(Debug, Clone)]
struct Since {
    clock: Timestamp,
    watch: Instant,
    slot: CacheKey,
    /// Whether another package was or is asked for.
    is_tried: bool,
}

impl Since {
    /// Whether it counts `now`, when the registry was last `heard` then.
    fn holds(&self, heard: Option<Instant>, now: Timestamp) -> bool {
        timestamp::is_within(self.clock, LASTS, now) && heard.is_none_or(|heard| heard < self.watch)
    }
}

/// A package that is asked for, until it is dropped.
pub(crate) struct Asking<'a> {
    silence: &'a SlowRegistries,
    slot: &'a CacheKey,
}

impl SlowRegistries {
    /// Notes that a registry is asked for a package from now on.
    #[must_use]
    pub(crate) fn ask<'a>(&'a self, slot: &'a CacheKey) -> Asking<'a> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).insert(slot.clone(), Instant::now());
        Asking { silence: self, slot }
    }

    /// A client waited for a package for `patience` and waits no longer. The registry is silent if most of that was spent waiting
    /// for it, and it sent no headers to any client meanwhile: `heard` says when it last did.
    pub(crate) fn begin(&self, registry: &Arc<str>, slot: &CacheKey, patience: Duration, heard: Option<Instant>, now: Timestamp) {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner).get(slot).copied();
        let Some(asked) = asked else { return };
        if asked.elapsed() * LEAST_PART < patience || heard.is_some_and(|heard| heard >= asked) {
            return;
        }
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        // Clients that waited for different packages are enough.
        let is_tried =
            silent.get(registry).is_some_and(|since| since.holds(heard, now) && (since.is_tried || since.slot != *slot));
        let since = Since { clock: now, watch: Instant::now(), slot: slot.clone(), is_tried };
        silent.insert(Arc::clone(registry), since);
    }

    /// Whether to ask for a package that a silent registry would not be asked for: it is silent over one other package so far. `true`
    /// once, for the caller that asks.
    #[must_use]
    pub(crate) fn is_to_be_tried(&self, registry: &Arc<str>, slot: &CacheKey, heard: Option<Instant>, now: Timestamp) -> bool {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(since) = silent.get_mut(registry) else { return false };
        let is_due = !since.is_tried && since.slot != *slot && since.holds(heard, now);
        since.is_tried |= is_due;
        is_due
    }

    /// Whatever was found of a registry no longer counts: something passed through us to it just now.
    pub(crate) fn end(&self, registry: &Arc<str>) {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner).remove(registry);
    }

    /// Whether it was found silent shortly before `now`, and was not `heard` since.
    pub(crate) fn holds(&self, registry: &Arc<str>, heard: Option<Instant>, now: Timestamp) -> bool {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner).get(registry).is_some_and(|since| since.holds(heard, now))
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.silence.asked.lock().unwrap_or_else(PoisonError::into_inner).remove(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::package::CredentialScope;
    use crate::npm::PackageName;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_775_000_000 + second).unwrap()
    }

    fn slot_of(name: &str) -> CacheKey {
        CacheKey { name: PackageName::parse(name).unwrap(), partition: CredentialScope::Anonymous }
    }

    fn slot() -> CacheKey {
        slot_of("slow")
    }

    #[test]
    fn silence_over_one_package_is_tried_with_one_other_and_over_two_is_believed() {
        let (silence, registry, other) = (SlowRegistries::default(), Arc::from("https://registry.example/"), slot_of("other"));
        let try_with = |slot: &CacheKey, second| silence.is_to_be_tried(&registry, slot, None, at(second));
        assert!(!try_with(&other, 0));
        let slow = slot();
        let asking = [silence.ask(&slow), silence.ask(&other)];
        silence.begin(&registry, &slow, Duration::ZERO, None, at(0));
        assert!(!try_with(&slow, 1) && try_with(&other, 1) && !try_with(&other, 1) && !try_with(&slot_of("third"), 1));
        silence.begin(&registry, &slow, Duration::ZERO, None, at(20));
        assert!(!try_with(&other, 31));
        silence.begin(&registry, &other, Duration::ZERO, None, at(25));
        assert!(!try_with(&slot_of("third"), 26) && silence.holds(&registry, None, at(26)));
        drop(asking);
    }

    #[test]
    fn it_lasts_a_while_and_ends_with_the_first_word() {
        let (silence, registry, slot) = (SlowRegistries::default(), Arc::from("https://registry.example/"), slot());
        let other = Arc::from("https://other.example/");
        assert!(!silence.holds(&registry, None, at(0)));
        let asking = silence.ask(&slot);
        silence.begin(&registry, &slot, Duration::ZERO, None, at(3));
        assert!(silence.holds(&registry, None, at(3)) && silence.holds(&registry, None, at(12)));
        assert!(!silence.holds(&other, None, at(3)));
        // Over, and a clock that was set back is not within it.
        assert!(!silence.holds(&registry, None, at(13)) && !silence.holds(&registry, None, at(2)));
        drop(asking);
        assert!(!silence.holds(&registry, Some(Instant::now()), at(6)));
    }

    #[test]
    fn a_registry_that_answers_others_meanwhile_is_not_silent() {
        let (silence, registry, slot) = (SlowRegistries::default(), Arc::from("https://registry.example/"), slot());
        let before = Instant::now();
        let _asking = silence.ask(&slot);
        silence.begin(&registry, &slot, Duration::ZERO, Some(Instant::now()), at(3));
        assert!(!silence.holds(&registry, None, at(3)));
        silence.begin(&registry, &slot, Duration::ZERO, Some(before), at(5));
        assert!(silence.holds(&registry, Some(before), at(5)));
    }

    #[test]
    fn our_own_waiting_is_not_a_registrys_silence() {
        let (silence, registry, slot) = (SlowRegistries::default(), Arc::from("https://registry.example/"), slot());
        // It waits for a slot.
        silence.begin(&registry, &slot, Duration::ZERO, None, at(3));
        assert!(!silence.holds(&registry, None, at(3)));
        // It was asked just now, after an hour of waiting for a slot.
        let asking = silence.ask(&slot);
        silence.begin(&registry, &slot, Duration::from_secs(3600), None, at(3));
        assert!(!silence.holds(&registry, None, at(3)));
        drop(asking);
        assert!(silence.asked.lock().unwrap().is_empty());
    }
}
