//! Detects changes of the system clock by comparing it with a monotonic clock. After a jump, nothing dated by the system clock is
//! recorded until an upstream's clock agrees.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::clock::Clock;

/// The allowed difference from the monotonic clock. NTP corrects a fraction of a second; `clock_skew` uses the same limit.
pub(crate) const MAX_SKEW: SignedDuration = SignedDuration::from_mins(5);

/// The system clock, with the last instant at which it was known to be correct.
pub(crate) struct WallClock {
    clock: Arc<dyn Clock>,
    correct: Mutex<Reading>,
}

/// Readings of both clocks at one instant.
#[derive(Debug, Clone, Copy)]
struct Reading {
    now: Timestamp,
    elapsed: Duration,
}

impl WallClock {
    /// Creates a detector that assumes that the clock is correct now.
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let correct = Mutex::new(Reading { now: clock.now(), elapsed: clock.elapsed() });
        Self { clock, correct }
    }

    /// Returns the jump from the last correct instant to `now`, if it exceeds [`MAX_SKEW`].
    fn jump(&self, now: Timestamp) -> Option<SignedDuration> {
        let correct = *self.correct.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = self.clock.elapsed().saturating_sub(correct.elapsed);
        let passed = SignedDuration::try_from(passed).unwrap_or(SignedDuration::MAX);
        let jump = now.duration_since(correct.now).saturating_sub(passed);
        (jump.abs() > MAX_SKEW).then_some(jump)
    }

    /// Checks whether the clock was correct at `now`, which was just read. An `upstream` clock that agrees makes it correct again.
    pub(crate) fn is_correct(&self, now: Timestamp, upstream: Option<Timestamp>) -> bool {
        if self.jump(now).is_none() {
            return true;
        }
        let agrees = upstream.is_some_and(|upstream| now.duration_since(upstream).abs() <= MAX_SKEW);
        if agrees {
            *self.correct.lock().unwrap_or_else(PoisonError::into_inner) = Reading { now, elapsed: self.clock.elapsed() };
        }
        agrees
    }

    /// Checks whether the clock is correct now. The error states the size of the jump.
    pub(crate) fn check(&self) -> Result<(), String> {
        let Some(jump) = self.jump(self.clock.now()) else { return Ok(()) };
        let direction = if jump.is_positive() { "forward" } else { "back" };
        let seconds = jump.as_secs().abs();
        Err(format!("the system clock was set {direction} by {seconds} s; nothing is recorded until an upstream's clock agrees"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_775_000_000 + second).unwrap()
    }

    #[test]
    fn clock_jump_is_reported_until_an_upstream_clock_agrees() {
        let clock = ManualClock::at(at(0));
        let wall_clock = WallClock::new(Arc::new(clock.clone()));
        clock.advance(Duration::from_secs(86_390));
        clock.set(at(86_400));
        assert!(wall_clock.is_correct(clock.now(), None));
        clock.advance(Duration::from_secs(10));
        for jump in [4_000, -4_000] {
            clock.set(at(86_400 + jump));
            assert_eq!(wall_clock.jump(clock.now()).map(|jump| jump.as_secs()), Some(jump));
            assert!(!wall_clock.is_correct(clock.now(), None) && wall_clock.check().is_err());
            assert!(!wall_clock.is_correct(clock.now(), Some(at(86_400))));
        }
        clock.set(at(90_400));
        assert!(wall_clock.is_correct(clock.now(), Some(at(90_399))) && wall_clock.check().is_ok());
        clock.advance(Duration::from_secs(1));
        assert!(wall_clock.is_correct(clock.now(), None));
        // A jump in the other direction.
        clock.advance(Duration::from_secs(1));
        clock.set(at(86_402));
        assert!(!wall_clock.is_correct(clock.now(), None));
    }
}
