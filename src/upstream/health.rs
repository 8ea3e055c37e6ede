//! The observed state of a registry: circuits, retry budget, and what it answered.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use moka::sync::Cache;

use crate::upstream::circuit_breaker::CircuitBreakers;

/// Maximum number of packages remembered as answered per registry. More than an organisation uses.
const MAX_ANSWERED: u64 = 50_000;

/// The observed state of one registry, shared by all scopes that use it.
pub(crate) struct Health {
    pub(crate) circuits: Arc<CircuitBreakers>,
    pub(crate) retries: RetryBudget,
    /// Packages that it answered before.
    pub(crate) answered: Cache<Box<str>, ()>,
    /// When it last answered.
    pub(crate) heard: Mutex<Option<Instant>>,
}

impl Health {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            circuits: Arc::default(),
            retries: RetryBudget::default(),
            answered: Cache::new(MAX_ANSWERED),
            heard: Mutex::default(),
        })
    }
}

/// Limits retries to a tenth of the answered requests plus an initial 20, so that retries do not triple the load of an overloaded
/// server.
pub(crate) struct RetryBudget(AtomicU32);

impl RetryBudget {
    const WHOLE: u32 = 10;
    const MAX_TOKENS: u32 = 20 * Self::WHOLE;

    pub(crate) fn earn(&self) {
        let more = |tenths: u32| (tenths < Self::MAX_TOKENS).then_some(tenths + 1);
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    pub(crate) fn spend(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tenths| tenths.checked_sub(Self::WHOLE)).is_ok()
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self(AtomicU32::new(Self::MAX_TOKENS))
    }
}
