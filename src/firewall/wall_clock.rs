//! Detects changes of the system clock by comparing it with a monotonic clock. After a jump, nothing dated by the system clock is
//! recorded until an upstream's clock agrees.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// The allowed difference from the monotonic clock. NTP corrects a fraction of a second; `clock_skew` uses the same limit.
pub(crate) const MAX_SKEW: SignedDuration = SignedDuration::from_mins(5);

/// The system clock at the last instant it was known to be correct.
#[derive(Debug)]
pub(crate) struct WallClock(Mutex<Reading>);

/// Readings of both clocks at one instant.
#[derive(Debug, Clone, Copy)]
struct Reading {
    now: Timestamp,
    elapsed: Duration,
}

impl WallClock {
    /// Creates a detector that assumes the clock is correct at `now`.
    #[must_use]
    pub(crate) fn new(now: Timestamp, elapsed: Duration) -> Self {
        Self(Mutex::new(Reading { now, elapsed }))
    }

    /// Returns the jump since the clock was last correct, if it exceeds [`MAX_SKEW`].
    #[must_use]
    pub(crate) fn jump(&self, now: Timestamp, elapsed: Duration) -> Option<SignedDuration> {
        let right = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = SignedDuration::try_from(elapsed.saturating_sub(right.elapsed)).unwrap_or(SignedDuration::MAX);
        let jump = now.duration_since(right.now).saturating_sub(passed);
        (jump.abs() > MAX_SKEW).then_some(jump)
    }

    /// Checks whether the clock is correct. An `upstream` clock that agrees makes it correct again.
    #[must_use]
    pub(crate) fn is_right(&self, now: Timestamp, elapsed: Duration, upstream: Option<Timestamp>) -> bool {
        if self.jump(now, elapsed).is_none() {
            return true;
        }
        let agrees = upstream.is_some_and(|upstream| now.duration_since(upstream).abs() <= MAX_SKEW);
        if agrees {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Reading { now, elapsed };
        }
        agrees
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_775_000_000 + second).unwrap()
    }

    #[test]
    fn clock_jump_is_reported_until_an_upstream_clock_agrees() {
        let clock = WallClock::new(at(0), Duration::ZERO);
        assert!(clock.is_right(at(86_400), Duration::from_secs(86_390), None));
        for set in [4_000, -4_000] {
            let (now, elapsed) = (at(86_400 + set), Duration::from_secs(86_400));
            assert_eq!(clock.jump(now, elapsed).map(|jump| jump.as_secs()), Some(set));
            assert!(!clock.is_right(now, elapsed, None));
            assert!(!clock.is_right(now, elapsed, Some(at(86_400))));
        }
        let (now, elapsed) = (at(90_400), Duration::from_secs(86_400));
        assert!(clock.is_right(now, elapsed, Some(at(90_399))));
        assert!(clock.jump(now, elapsed).is_none() && clock.is_right(at(90_401), Duration::from_secs(86_401), None));
        // A jump in the other direction.
        assert!(!clock.is_right(at(86_402), Duration::from_secs(86_402), None));
    }
}
