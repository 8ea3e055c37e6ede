//! Tracks registries that do not respond, so that after one client timed out, others are served stale packuments at once. Only
//! time spent waiting for upstream's headers counts. A single package may hang, so one other package is tried in the background.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::firewall::package::CacheKey;
use crate::units::timestamp;

/// How long clients do not wait for a slow registry. Then one waits again, in case no running request detects a recovery.
const SLOW_PERIOD: Duration = Duration::from_secs(10);

/// The fraction (1/4) of a client's wait that must have been for headers. Waiting for slots or memory does not count.
const HEADER_WAIT_DIVISOR: u32 = 4;

#[derive(Debug, Default)]
pub(crate) struct SlowRegistries {
    /// Slow registries; bounded by the number of registries.
    slow: Mutex<HashMap<Arc<str>, Since>>,
    /// Packages being fetched, with the start; bounded by the number of request slots.
    asked: Mutex<HashMap<CacheKey, Instant>>,
}

/// When a registry was found slow, by both clocks, and the package that showed it.
#[derive(Debug, Clone)]
struct Since {
    clock: Timestamp,
    watch: Instant,
    cache_key: CacheKey,
    /// Whether another package was tried since.
    is_tried: bool,
}

impl Since {
    /// Checks whether the finding still holds at `now`, if the registry last responded at `heard`.
    fn holds(&self, heard: Option<Instant>, now: Timestamp) -> bool {
        timestamp::is_within(self.clock, SLOW_PERIOD, now) && heard.is_none_or(|heard| heard < self.watch)
    }
}

/// Marks a package as being fetched until dropped.
pub(crate) struct Asking<'a> {
    registries: &'a SlowRegistries,
    cache_key: &'a CacheKey,
}

impl SlowRegistries {
    #[must_use]
    pub(crate) fn ask<'a>(&'a self, cache_key: &'a CacheKey) -> Asking<'a> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).insert(cache_key.clone(), Instant::now());
        Asking { registries: self, cache_key }
    }

    /// Called if a client stopped waiting for a package after `patience`. The registry is slow if the client waited mostly for
    /// headers and the registry sent none to any client meanwhile. `heard` is the time of its last response.
    pub(crate) fn mark_slow(
        &self,
        registry: &Arc<str>,
        cache_key: &CacheKey,
        patience: Duration,
        heard: Option<Instant>,
        now: Timestamp,
    ) {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner).get(cache_key).copied();
        let Some(asked) = asked else { return };
        if asked.elapsed() * HEADER_WAIT_DIVISOR < patience || heard.is_some_and(|heard| heard >= asked) {
            return;
        }
        let mut slow = self.slow.lock().unwrap_or_else(PoisonError::into_inner);
        // Waits for two different packages need no further trial.
        let is_tried =
            slow.get(registry).is_some_and(|since| since.holds(heard, now) && (since.is_tried || since.cache_key != *cache_key));
        let since = Since { clock: now, watch: Instant::now(), cache_key: cache_key.clone(), is_tried };
        slow.insert(Arc::clone(registry), since);
    }

    /// Checks whether to try this package although the registry is slow: if only one other hung so far. `true` for one caller.
    #[must_use]
    pub(crate) fn is_to_be_tried(
        &self,
        registry: &Arc<str>,
        cache_key: &CacheKey,
        heard: Option<Instant>,
        now: Timestamp,
    ) -> bool {
        let mut slow = self.slow.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(since) = slow.get_mut(registry) else { return false };
        let is_due = !since.is_tried && since.cache_key != *cache_key && since.holds(heard, now);
        since.is_tried |= is_due;
        is_due
    }

    /// Forgets that a registry was slow, because it just answered a passthrough request.
    pub(crate) fn mark_responsive(&self, registry: &Arc<str>) {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner).remove(registry);
    }

    /// Checks whether a registry was found slow shortly before `now` and has not responded since `heard`.
    pub(crate) fn holds(&self, registry: &Arc<str>, heard: Option<Instant>, now: Timestamp) -> bool {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner).get(registry).is_some_and(|since| since.holds(heard, now))
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.registries.asked.lock().unwrap_or_else(PoisonError::into_inner).remove(self.cache_key);
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

    fn cache_key() -> CacheKey {
        slot_of("slow")
    }

    #[test]
    fn one_hanging_package_triggers_one_trial_and_two_mark_the_registry_slow() {
        let (registries, registry, other) = (SlowRegistries::default(), Arc::from("https://registry.example/"), slot_of("other"));
        let try_with = |cache_key: &CacheKey, second| registries.is_to_be_tried(&registry, cache_key, None, at(second));
        assert!(!try_with(&other, 0));
        let slow = cache_key();
        let asking = [registries.ask(&slow), registries.ask(&other)];
        registries.mark_slow(&registry, &slow, Duration::ZERO, None, at(0));
        assert!(!try_with(&slow, 1) && try_with(&other, 1) && !try_with(&other, 1) && !try_with(&slot_of("third"), 1));
        registries.mark_slow(&registry, &slow, Duration::ZERO, None, at(20));
        assert!(!try_with(&other, 31));
        registries.mark_slow(&registry, &other, Duration::ZERO, None, at(25));
        assert!(!try_with(&slot_of("third"), 26) && registries.holds(&registry, None, at(26)));
        drop(asking);
    }

    #[test]
    fn slowness_expires_and_ends_with_the_first_response() {
        let (registries, registry, cache_key) = (SlowRegistries::default(), Arc::from("https://registry.example/"), cache_key());
        let other = Arc::from("https://other.example/");
        assert!(!registries.holds(&registry, None, at(0)));
        let asking = registries.ask(&cache_key);
        registries.mark_slow(&registry, &cache_key, Duration::ZERO, None, at(3));
        assert!(registries.holds(&registry, None, at(3)) && registries.holds(&registry, None, at(12)));
        assert!(!registries.holds(&other, None, at(3)));
        // Expired, and not valid before its start if the clock was set back.
        assert!(!registries.holds(&registry, None, at(13)) && !registries.holds(&registry, None, at(2)));
        drop(asking);
        assert!(!registries.holds(&registry, Some(Instant::now()), at(6)));
    }

    #[test]
    fn registry_that_responds_to_other_clients_is_not_slow() {
        let (registries, registry, cache_key) = (SlowRegistries::default(), Arc::from("https://registry.example/"), cache_key());
        let before = Instant::now();
        let _asking = registries.ask(&cache_key);
        registries.mark_slow(&registry, &cache_key, Duration::ZERO, Some(Instant::now()), at(3));
        assert!(!registries.holds(&registry, None, at(3)));
        registries.mark_slow(&registry, &cache_key, Duration::ZERO, Some(before), at(5));
        assert!(registries.holds(&registry, Some(before), at(5)));
    }

    #[test]
    fn waiting_for_a_slot_does_not_count() {
        let (registries, registry, cache_key) = (SlowRegistries::default(), Arc::from("https://registry.example/"), cache_key());
        // Not requested yet: the fetch waits for a slot.
        registries.mark_slow(&registry, &cache_key, Duration::ZERO, None, at(3));
        assert!(!registries.holds(&registry, None, at(3)));
        // Requested just now, after an hour of waiting for a slot.
        let asking = registries.ask(&cache_key);
        registries.mark_slow(&registry, &cache_key, Duration::from_secs(3600), None, at(3));
        assert!(!registries.holds(&registry, None, at(3)));
        drop(asking);
        assert!(registries.asked.lock().unwrap().is_empty());
    }
}
