//! A circuit breaker per registry and host: failures in a row open it, and while it is open requests fail at once. After a rest
//! that grows the registry itself is asked, by a request that no client chose, and the first answer closes it. Sends nothing.
//!
//! What opens it must not be for a client to choose. A failed connection counts always; an HTTP failure counts only for packages
//! that the registry answered before, each once; and where connections end over packages that it never answered, it is probed first.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::net::dice;
use crate::upstream::UpstreamError;

/// Failures in a row that open a circuit: more than one unlucky request and its neighbours, less than an install notices.
const FAILURES: usize = 5;

/// How long a host is left alone at first, and at most; between half and all of it, so that many of us do not return at once.
const SHORTEST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(30);

/// How often a host is probed at most because of packages that it never answered: a client can ask for those without end.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// The most hosts that are remembered: redirects may name others than the registry's own.
const MAX_HOSTS: usize = 1_000;

/// The circuits of the hosts of one registry.
#[derive(Debug, Default)]
pub struct CircuitBreakers(Mutex<HashMap<Arc<str>, CircuitState>>);

/// What a failure says of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Evidence<'a> {
    /// There was no connection.
    Connection,
    /// There was none or no good answer for this package, which the registry answered before.
    Package(&'a str),
}

/// How a request may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// At once.
    Free,
    /// After the host answered a probe.
    Trial,
}

/// One host's circuit.
#[derive(Debug)]
enum CircuitState {
    /// Requests go through.
    Closed {
        /// The connections that failed since the last answer.
        connections: usize,
        /// The packages that failed since the last answer.
        packages: BTreeSet<Box<str>>,
        /// The connections that ended over other packages since the last answer, and when that last led to a probe.
        suspicions: usize,
        probed: Option<Instant>,
        /// How long the host is left alone should it open.
        rest: Duration,
    },
    /// Requests fail at once, except that one leads to a probe when `until` has come; should nothing come of that, the next one
    /// a `rest` later.
    Open { until: Instant, rest: Duration, trying: bool, why: Arc<str> },
}

impl CircuitState {
    fn closed(rest: Duration) -> Self {
        Self::Closed { connections: 0, packages: BTreeSet::new(), suspicions: 0, probed: None, rest }
    }

    fn open(rest: Duration, why: &str, now: Instant) -> Self {
        let until = now + rest / 2 + rest.mul_f64(0.5 * dice());
        Self::Open { until, rest, trying: false, why: why.into() }
    }
}

impl CircuitBreakers {
    /// The hosts whose circuits are open.
    pub(crate) fn open_hosts(&self) -> Vec<Arc<str>> {
        let open =
            |(host, circuit): (&Arc<str>, &CircuitState)| matches!(circuit, CircuitState::Open { .. }).then(|| Arc::clone(host));
        self.lock().iter().filter_map(open).collect()
    }

    /// Whether `host` may be asked `now`.
    ///
    /// # Errors
    /// [`UpstreamError::Resting`] while its circuit is open.
    pub(crate) fn admit(&self, host: &Arc<str>, now: Instant) -> Result<Admission, UpstreamError> {
        let mut circuits = self.lock();
        let Some(CircuitState::Open { until, rest, trying, why }) = circuits.get_mut(host) else { return Ok(Admission::Free) };
        if now < *until {
            return Err(UpstreamError::Resting { host: Arc::clone(host), why: Arc::clone(why), wait: *until - now });
        }
        *until = now + *rest;
        *trying = true;
        Ok(Admission::Trial)
    }

    /// `host` answered a request.
    pub(crate) fn answered(&self, host: &Arc<str>) {
        let mut circuits = self.lock();
        match circuits.get_mut(host) {
            Some(closed @ CircuitState::Closed { .. }) => *closed = CircuitState::closed(SHORTEST_REST),
            None => {}
            Some(CircuitState::Open { .. }) => {
                circuits.remove(host);
                tracing::info!(upstream.host = %host, "circuit closed");
            }
        }
    }

    /// `host` answered a probe `now`. Should it fail again before it answers a request, it is left alone for longer.
    pub(crate) fn answered_probe(&self, host: &Arc<str>, now: Instant) {
        let mut circuits = self.lock();
        match circuits.get_mut(host) {
            Some(CircuitState::Closed { suspicions, probed, .. }) => (*suspicions, *probed) = (0, Some(now)),
            Some(open @ CircuitState::Open { .. }) => {
                let CircuitState::Open { rest, .. } = &*open else { return };
                *open = CircuitState::closed((*rest * 2).min(LONGEST_REST));
                tracing::info!(upstream.host = %host, "circuit closed");
            }
            None => {}
        }
    }

    /// `host` did not answer, or said that it cannot.
    pub(crate) fn failed(&self, host: &Arc<str>, evidence: Evidence<'_>, why: &str, now: Instant) {
        let mut circuits = self.lock();
        let circuit = entry(&mut circuits, host);
        let next = match circuit {
            CircuitState::Closed { connections, packages, rest, .. } => {
                match evidence {
                    Evidence::Connection => *connections += 1,
                    Evidence::Package(name) => drop(packages.insert(name.into())),
                }
                let failures = *connections + packages.len();
                if failures < FAILURES {
                    return;
                }
                tracing::warn!(upstream.host = %host, failures, error = why, "circuit opened");
                CircuitState::open(*rest, why, now)
            }
            // What was sent before it opened fails later and says nothing new.
            CircuitState::Open { trying: false, .. } => return,
            CircuitState::Open { rest, .. } => CircuitState::open((*rest * 2).min(LONGEST_REST), why, now),
        };
        *circuit = next;
    }

    /// A connection ended over a package that the registry never answered: whether to probe `host` now.
    pub(crate) fn suspects(&self, host: &Arc<str>, now: Instant) -> bool {
        let mut circuits = self.lock();
        let CircuitState::Closed { suspicions, probed, .. } = entry(&mut circuits, host) else { return false };
        *suspicions += 1;
        let is_due = *suspicions >= FAILURES && probed.is_none_or(|probed| now >= probed + PROBE_INTERVAL);
        if is_due {
            *probed = Some(now);
        }
        is_due
    }

    /// `host` did not answer a probe.
    pub(crate) fn failed_probe(&self, host: &Arc<str>, why: &str, now: Instant) {
        let mut circuits = self.lock();
        let circuit = entry(&mut circuits, host);
        let rest = match circuit {
            CircuitState::Closed { rest, .. } => {
                tracing::warn!(upstream.host = %host, error = why, "circuit opened");
                *rest
            }
            CircuitState::Open { trying: false, .. } => return,
            CircuitState::Open { rest, .. } => (*rest * 2).min(LONGEST_REST),
        };
        *circuit = CircuitState::open(rest, why, now);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, CircuitState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The circuit of a host. Beyond the limit the closed ones are forgotten.
fn entry<'a>(circuits: &'a mut HashMap<Arc<str>, CircuitState>, host: &Arc<str>) -> &'a mut CircuitState {
    if circuits.len() >= MAX_HOSTS && !circuits.contains_key(host) {
        circuits.retain(|_, circuit| matches!(circuit, CircuitState::Open { .. }));
    }
    circuits.entry(Arc::clone(host)).or_insert_with(|| CircuitState::closed(SHORTEST_REST))
}

/// The circuits of all registries.
#[derive(Debug, Clone, Default)]
pub struct AllCircuits(pub(crate) Vec<Arc<CircuitBreakers>>);

impl AllCircuits {
    /// How many hosts have an open circuit.
    #[must_use]
    pub fn open(&self) -> u64 {
        let open: BTreeSet<Arc<str>> = self.0.iter().flat_map(|circuits| circuits.open_hosts()).collect();
        open.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Arc<str> {
        "registry.example".into()
    }

    fn fail(circuits: &CircuitBreakers, times: usize, now: Instant) {
        for _ in 0..times {
            circuits.failed(&host(), Evidence::Connection, "TCP: connection refused", now);
        }
    }

    fn open(circuits: &CircuitBreakers) -> usize {
        circuits.open_hosts().len()
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_open_it_and_an_answer_between_does_not() {
        let (circuits, now) = (CircuitBreakers::default(), Instant::now());
        fail(&circuits, FAILURES - 1, now);
        circuits.answered(&host());
        fail(&circuits, FAILURES - 1, now);
        assert!(circuits.admit(&host(), now).is_ok());
        assert_eq!(open(&circuits), 0);
        fail(&circuits, 1, now);
        assert_eq!(open(&circuits), 1);
        let told = circuits.admit(&host(), now).unwrap_err().to_string();
        assert!(
            told.starts_with("upstream `registry.example` is down (TCP: connection refused) and is asked again in "),
            "{told}"
        );
        assert!(circuits.admit(&"other.example".into(), now).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn one_tries_after_the_rest_and_the_rest_grows() {
        let circuits = CircuitBreakers::default();
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
        assert!(circuits.admit(&host(), now).is_ok() && open(&circuits) == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_package_counts_once_however_often_it_fails() {
        let (circuits, now) = (CircuitBreakers::default(), Instant::now());
        for _ in 0..10 * FAILURES {
            circuits.failed(&host(), Evidence::Package("broken"), "503", now);
        }
        assert_eq!(open(&circuits), 0);
        for name in ["a", "b", "c", "d"] {
            circuits.failed(&host(), Evidence::Package(name), "503", now);
        }
        assert_eq!(open(&circuits), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn connections_that_end_over_unknown_packages_lead_to_a_probe_at_most_once_a_second() {
        let (circuits, mut now) = (CircuitBreakers::default(), Instant::now());
        let asked = |now: Instant| (0..100).filter(|_| circuits.suspects(&host(), now)).count();
        assert_eq!(asked(now), 1);
        circuits.answered_probe(&host(), now);
        assert_eq!((asked(now), open(&circuits)), (0, 0));
        now += PROBE_INTERVAL;
        assert_eq!(asked(now), 1);
        circuits.failed_probe(&host(), "no answer", now);
        assert_eq!((open(&circuits), asked(now)), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_answers_probes_and_no_requests_is_left_alone_for_longer_each_time() {
        let (circuits, mut now, mut rests) = (CircuitBreakers::default(), Instant::now(), Vec::new());
        for _ in 0..8 {
            fail(&circuits, FAILURES, now);
            let UpstreamError::Resting { wait, .. } = circuits.admit(&host(), now).unwrap_err() else { panic!("another error") };
            rests.push(wait);
            now += wait;
            assert_eq!(circuits.admit(&host(), now).unwrap(), Admission::Trial);
            circuits.answered_probe(&host(), now);
            assert_eq!(circuits.admit(&host(), now).unwrap(), Admission::Free);
        }
        assert!(rests[7] >= LONGEST_REST / 2, "{rests:?}");
        circuits.answered(&host());
        fail(&circuits, FAILURES, now);
        let UpstreamError::Resting { wait, .. } = circuits.admit(&host(), now).unwrap_err() else { panic!("another error") };
        assert!(wait <= SHORTEST_REST, "{wait:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn hosts_beyond_the_limit_are_forgotten_unless_they_are_left_alone() {
        let (circuits, now) = (CircuitBreakers::default(), Instant::now());
        fail(&circuits, FAILURES, now);
        for number in 0..3 * MAX_HOSTS {
            circuits.failed(&format!("{number}.example").into(), Evidence::Connection, "TCP", now);
        }
        assert!(circuits.lock().len() <= MAX_HOSTS && open(&circuits) == 1);
    }
}
