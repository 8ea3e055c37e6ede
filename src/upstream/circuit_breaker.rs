//! A circuit breaker per registry and host. Consecutive failures open a circuit; while it is open, requests fail at once. After a
//! growing delay the caller probes the host, and the first response closes the circuit. Does no I/O.
//!
//! A client must not be able to open a circuit. Failed connections always count. Other failures count once per package, and only
//! for packages that the registry answered before. Connections that end for other packages lead to a probe first.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::net::jittered;
use crate::upstream::error::UpstreamError;

/// Consecutive failures that open a circuit. More than a few unlucky requests, and few enough to barely delay an install.
const FAILURES: usize = 5;

/// First and maximum delay of an open circuit. The actual one is random, from half to all of it, so that instances differ.
const MIN_RETRY_INTERVAL: Duration = Duration::from_secs(1);
const MAX_RETRY_INTERVAL: Duration = Duration::from_secs(30);

/// Minimum interval between probes caused by packages that the host never answered. A client can request any number of those.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Maximum number of hosts. Redirects may name hosts other than the registry's own.
const MAX_HOSTS: usize = 1_000;

#[derive(Debug, Default)]
pub struct CircuitBreakers(Mutex<HashMap<Arc<str>, CircuitState>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Evidence<'a> {
    Connection,
    /// The response for a package was missing or an error. The registry answered for this package before.
    Package(&'a str),
    /// The host did not answer a probe, which opens its circuit at once.
    Probe,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    Free,
    /// The host must answer a probe first.
    Trial,
}

#[derive(Debug)]
enum CircuitState {
    Closed {
        /// Failed connections since the last response.
        connections: usize,
        /// Packages that failed since the last response.
        packages: BTreeSet<Box<str>>,
        /// Connections that ended for other packages since the last response, and the time of the last probe.
        suspicions: usize,
        probed: Option<Instant>,
        /// The delay if the circuit opens.
        rest: Duration,
    },
    /// Requests fail at once. After `until`, one request leads to a probe; if that has no result, the next does after `rest`.
    Open { until: Instant, rest: Duration, trying: bool, why: Arc<str> },
}

impl CircuitState {
    fn closed(rest: Duration) -> Self {
        Self::Closed { connections: 0, packages: BTreeSet::new(), suspicions: 0, probed: None, rest }
    }

    fn open(rest: Duration, why: &str, now: Instant) -> Self {
        let until = now + jittered(rest);
        Self::Open { until, rest, trying: false, why: why.into() }
    }
}

impl CircuitBreakers {
    pub(crate) fn open_hosts(&self) -> Vec<Arc<str>> {
        let circuits = self.lock();
        let open = circuits.iter().filter(|(_, circuit)| matches!(circuit, CircuitState::Open { .. }));
        open.map(|(host, _)| Arc::clone(host)).collect()
    }

    /// Checks whether a request to `host` may be sent `now`. Returns [`UpstreamError::CircuitOpen`] while its circuit is open.
    pub(crate) fn check(&self, host: &Arc<str>, now: Instant) -> Result<Admission, UpstreamError> {
        let mut circuits = self.lock();
        let Some(CircuitState::Open { until, rest, trying, why }) = circuits.get_mut(host) else { return Ok(Admission::Free) };
        if now < *until {
            return Err(UpstreamError::CircuitOpen { host: Arc::clone(host), why: Arc::clone(why), wait: *until - now });
        }
        *until = now + *rest;
        *trying = true;
        Ok(Admission::Trial)
    }

    pub(crate) fn record_success(&self, host: &Arc<str>) {
        let mut circuits = self.lock();
        match circuits.get_mut(host) {
            Some(closed @ CircuitState::Closed { .. }) => *closed = CircuitState::closed(MIN_RETRY_INTERVAL),
            None => {}
            Some(CircuitState::Open { .. }) => {
                circuits.remove(host);
                tracing::info!(upstream.host = %host, "circuit closed");
            }
        }
    }

    /// Records that `host` answered a probe. If it fails again before it answers a request, the next delay is longer.
    pub(crate) fn answered_probe(&self, host: &Arc<str>, now: Instant) {
        let mut circuits = self.lock();
        match circuits.get_mut(host) {
            Some(CircuitState::Closed { suspicions, probed, .. }) => (*suspicions, *probed) = (0, Some(now)),
            Some(open @ &mut CircuitState::Open { rest, .. }) => {
                *open = CircuitState::closed((rest * 2).min(MAX_RETRY_INTERVAL));
                tracing::info!(upstream.host = %host, "circuit closed");
            }
            None => {}
        }
    }

    /// Records that `host` did not answer or reported an overload.
    pub(crate) fn record_failure(&self, host: &Arc<str>, evidence: Evidence<'_>, why: &str, now: Instant) {
        let mut circuits = self.lock();
        let circuit = entry(&mut circuits, host);
        let next = match circuit {
            CircuitState::Closed { connections, packages, rest, .. } => {
                match evidence {
                    Evidence::Connection => *connections += 1,
                    Evidence::Package(name) => drop(packages.insert(name.into())),
                    Evidence::Probe => {}
                }
                let failures = (evidence != Evidence::Probe).then(|| *connections + packages.len());
                if failures.is_some_and(|failures| failures < FAILURES) {
                    return;
                }
                tracing::warn!(upstream.host = %host, failures, error = why, "circuit opened");
                CircuitState::open(*rest, why, now)
            }
            // Failures of requests sent before the circuit opened do not count.
            CircuitState::Open { trying: false, .. } => return,
            CircuitState::Open { rest, .. } => CircuitState::open((*rest * 2).min(MAX_RETRY_INTERVAL), why, now),
        };
        *circuit = next;
    }

    /// Records that a connection ended for a package that the registry never answered. Returns whether to probe `host` now.
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

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, CircuitState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the circuit of a host. At the limit, closed circuits are dropped first.
fn entry<'a>(circuits: &'a mut HashMap<Arc<str>, CircuitState>, host: &Arc<str>) -> &'a mut CircuitState {
    if circuits.len() >= MAX_HOSTS && !circuits.contains_key(host) {
        circuits.retain(|_, circuit| matches!(circuit, CircuitState::Open { .. }));
    }
    circuits.entry(Arc::clone(host)).or_insert_with(|| CircuitState::closed(MIN_RETRY_INTERVAL))
}

#[derive(Debug, Clone, Default)]
pub struct AllCircuits(pub(crate) Vec<Arc<CircuitBreakers>>);

impl AllCircuits {
    pub(crate) fn open(&self) -> u64 {
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
            circuits.record_failure(&host(), Evidence::Connection, "TCP: connection refused", now);
        }
    }

    fn open(circuits: &CircuitBreakers) -> usize {
        circuits.open_hosts().len()
    }

    #[tokio::test(start_paused = true)]
    async fn only_consecutive_failures_open_the_circuit() {
        let (circuits, now) = (CircuitBreakers::default(), Instant::now());
        fail(&circuits, FAILURES - 1, now);
        circuits.record_success(&host());
        fail(&circuits, FAILURES - 1, now);
        assert!(circuits.check(&host(), now).is_ok());
        assert_eq!(open(&circuits), 0);
        fail(&circuits, 1, now);
        assert_eq!(open(&circuits), 1);
        let message = circuits.check(&host(), now).unwrap_err().to_string();
        assert!(
            message.starts_with("upstream `registry.example` is down (TCP: connection refused); next attempt in "),
            "{message}"
        );
        assert!(circuits.check(&"other.example".into(), now).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn one_trial_after_each_delay_and_delays_grow() {
        let circuits = CircuitBreakers::default();
        let mut now = Instant::now();
        fail(&circuits, FAILURES, now);
        let mut rests = Vec::new();
        for _ in 0..8 {
            let UpstreamError::CircuitOpen { wait, .. } = circuits.check(&host(), now).unwrap_err() else {
                panic!("another error")
            };
            rests.push(wait);
            now += wait;
            assert!(circuits.check(&host(), now).is_ok(), "one trial is allowed");
            assert!(circuits.check(&host(), now).is_err(), "a second trial is not allowed");
            // The trial fails before the next one is allowed.
            now += Duration::from_millis(1);
            fail(&circuits, 1, now);
        }
        assert!(rests.windows(2).all(|pair| pair[1] * 5 > pair[0] * 2), "{rests:?}");
        assert!(rests[7] >= MAX_RETRY_INTERVAL / 2 && rests.iter().all(|rest| *rest <= MAX_RETRY_INTERVAL), "{rests:?}");
        circuits.record_success(&host());
        assert!(circuits.check(&host(), now).is_ok() && open(&circuits) == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn repeated_failures_of_one_package_count_once() {
        let (circuits, now) = (CircuitBreakers::default(), Instant::now());
        for _ in 0..10 * FAILURES {
            circuits.record_failure(&host(), Evidence::Package("broken"), "503", now);
        }
        assert_eq!(open(&circuits), 0);
        for name in ["a", "b", "c", "d"] {
            circuits.record_failure(&host(), Evidence::Package(name), "503", now);
        }
        assert_eq!(open(&circuits), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_of_unknown_packages_cause_at_most_one_probe_per_second() {
        let (circuits, mut now) = (CircuitBreakers::default(), Instant::now());
        let probes = |now: Instant| (0..100).filter(|_| circuits.suspects(&host(), now)).count();
        assert_eq!(probes(now), 1);
        circuits.answered_probe(&host(), now);
        assert_eq!((probes(now), open(&circuits)), (0, 0));
        now += PROBE_INTERVAL;
        assert_eq!(probes(now), 1);
        circuits.record_failure(&host(), Evidence::Probe, "no answer", now);
        assert_eq!((open(&circuits), probes(now)), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn delay_grows_if_only_probes_are_answered() {
        let (circuits, mut now, mut rests) = (CircuitBreakers::default(), Instant::now(), Vec::new());
        for _ in 0..8 {
            fail(&circuits, FAILURES, now);
            let UpstreamError::CircuitOpen { wait, .. } = circuits.check(&host(), now).unwrap_err() else {
                panic!("another error")
            };
            rests.push(wait);
            now += wait;
            assert_eq!(circuits.check(&host(), now).unwrap(), Admission::Trial);
            circuits.answered_probe(&host(), now);
            assert_eq!(circuits.check(&host(), now).unwrap(), Admission::Free);
        }
        assert!(rests[7] >= MAX_RETRY_INTERVAL / 2, "{rests:?}");
        circuits.record_success(&host());
        fail(&circuits, FAILURES, now);
        let UpstreamError::CircuitOpen { wait, .. } = circuits.check(&host(), now).unwrap_err() else { panic!("another error") };
        assert!(wait <= MIN_RETRY_INTERVAL, "{wait:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn hosts_beyond_the_limit_are_dropped_unless_open() {
        let (circuits, now) = (CircuitBreakers::default(), Instant::now());
        fail(&circuits, FAILURES, now);
        for number in 0..3 * MAX_HOSTS {
            circuits.record_failure(&format!("{number}.example").into(), Evidence::Connection, "TCP", now);
        }
        assert!(circuits.lock().len() <= MAX_HOSTS && open(&circuits) == 1);
    }
}
