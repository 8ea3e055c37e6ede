//! A circuit a host: failures in a row open it, so that nobody waits for a server that is down and a server that drowns is left
//! alone; it is tried again after a while that grows, one request at a time, and the first answer closes it. Refuses to send.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::UpstreamError;
use crate::net::dice;

/// Failures in a row that open a circuit: more than one unlucky request and its neighbours, less than an install notices.
const FAILURES: u32 = 5;

/// How long a host is left alone at first, and at most; between half and all of it, so that many of us do not return at once.
const SHORTEST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(30);

/// The circuits of all hosts that were asked.
#[derive(Debug, Default)]
pub struct Circuits(Mutex<HashMap<Arc<str>, Circuit>>);

/// One host's circuit.
#[derive(Debug)]
enum Circuit {
    /// Requests go through; so many failed since the last answer.
    Closed { failures: u32 },
    /// Requests fail at once, but for one when `until` has come, which tries; should nothing come of it, the next one a `rest`
    /// later.
    Open { until: Instant, rest: Duration, trying: bool, why: Arc<str> },
}

impl Circuits {
    /// How many are open.
    #[must_use]
    pub fn open(&self) -> u64 {
        let circuits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        circuits.values().filter(|circuit| matches!(circuit, Circuit::Open { .. })).count() as u64
    }

    /// Whether `host` may be asked `now`.
    ///
    /// # Errors
    /// [`UpstreamError::Resting`] while its circuit is open.
    pub(super) fn admit(&self, host: &Arc<str>, now: Instant) -> Result<(), UpstreamError> {
        let mut circuits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Circuit::Open { until, rest, trying, why }) = circuits.get_mut(host) else { return Ok(()) };
        if now < *until {
            return Err(UpstreamError::Resting { host: Arc::clone(host), why: Arc::clone(why), wait: *until - now });
        }
        *until = now + *rest;
        *trying = true;
        Ok(())
    }

    /// `host` answered.
    pub(super) fn answered(&self, host: &Arc<str>) {
        let mut circuits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match circuits.get_mut(host) {
            Some(Circuit::Closed { failures }) => *failures = 0,
            None => {}
            Some(Circuit::Open { .. }) => {
                circuits.remove(host);
                tracing::info!(upstream.host = %host, "upstream answers again");
            }
        }
    }

    /// `host` did not answer, or said that it cannot.
    pub(super) fn failed(&self, host: &Arc<str>, why: &str, now: Instant) {
        let mut circuits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let circuit = circuits.entry(Arc::clone(host)).or_insert(Circuit::Closed { failures: 0 });
        let rest = match circuit {
            Circuit::Closed { failures } => {
                *failures += 1;
                if *failures < FAILURES {
                    return;
                }
                tracing::warn!(upstream.host = %host, failures, error = why, "upstream is left alone for a while");
                SHORTEST_REST
            }
            // What was sent before it opened fails later and says nothing new.
            Circuit::Open { trying: false, .. } => return,
            Circuit::Open { rest, .. } => (*rest * 2).min(LONGEST_REST),
        };
        let until = now + rest / 2 + rest.mul_f64(0.5 * dice());
        *circuit = Circuit::Open { until, rest, trying: false, why: why.into() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Arc<str> {
        "registry.example".into()
    }

    fn fail(circuits: &Circuits, times: u32, now: Instant) {
        for _ in 0..times {
            circuits.failed(&host(), "TCP: connection refused", now);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_open_it_and_an_answer_between_does_not() {
        let (circuits, now) = (Circuits::default(), Instant::now());
        fail(&circuits, FAILURES - 1, now);
        circuits.answered(&host());
        fail(&circuits, FAILURES - 1, now);
        assert!(circuits.admit(&host(), now).is_ok());
        assert_eq!(circuits.open(), 0);
        fail(&circuits, 1, now);
        assert_eq!(circuits.open(), 1);
        let told = circuits.admit(&host(), now).unwrap_err().to_string();
        assert!(
            told.starts_with("upstream `registry.example` is down (TCP: connection refused) and is asked again in "),
            "{told}"
        );
        assert!(circuits.admit(&"other.example".into(), now).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn one_tries_after_the_rest_and_the_rest_grows() {
        let circuits = Circuits::default();
        let mut now = Instant::now();
        fail(&circuits, FAILURES, now);
        let mut rests = Vec::new();
        for _ in 0..8 {
            let UpstreamError::Resting { wait, .. } = circuits.admit(&host(), now).unwrap_err() else { panic!("another error") };
            rests.push(wait);
            now += wait;
            assert!(circuits.admit(&host(), now).is_ok(), "one may try");
            assert!(circuits.admit(&host(), now).is_err(), "and only one");
            // It fails some time later, before the next may try.
            now += Duration::from_millis(1);
            fail(&circuits, 1, now);
        }
        assert!(rests.windows(2).all(|pair| pair[1] * 5 > pair[0] * 2), "{rests:?}");
        assert!(rests[7] >= LONGEST_REST / 2 && rests.iter().all(|rest| *rest <= LONGEST_REST), "{rests:?}");
        circuits.answered(&host());
        assert!(circuits.admit(&host(), now).is_ok() && circuits.open() == 0);
    }
}
