//! Counters, gauges and histograms, rendered for Prometheus.

pub(crate) mod series;

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::telemetry::labels::{
    BarLabel, CacheLabel, CacheOutcome, DecisionLabel, EndpointLabel, IncidentLabel, Label as _, OutcomeLabel, ReloadLabel,
    RuleLabel, TaskLabel, UpstreamOutcome, UpstreamWhat,
};
use crate::telemetry::metrics::series::Series;

/// A callback that supplies a gauge's value when the metrics are rendered. It must not block.
pub type GaugeCallback = Box<dyn Fn() -> u64 + Send + Sync>;

/// The gauges whose values come from a [`GaugeCallback`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallbackGauge {
    /// Bytes of blobs on disk.
    BlobBytes,
    /// Bytes of package facts, compressed packuments and responses in memory.
    MemoryBytes,
    /// Ledger rows not yet written.
    LedgerPending,
    /// Upstream hosts with an open circuit.
    CircuitsOpen,
    /// Active advisories.
    Advisories,
    /// Feeds that are stale.
    FeedsStale,
}

/// All metrics of a process. Shared by `Arc`.
pub struct Metrics {
    registry: Registry,
    started: Instant,
    uptime: Gauge<u64, AtomicU64>,
    resident: Gauge<u64, AtomicU64>,
    in_flight: Gauge,
    watched: [Gauge<u64, AtomicU64>; 6],
    readings: Mutex<Vec<(CallbackGauge, GaugeCallback)>>,
    pub(crate) requests: Series<(EndpointLabel, OutcomeLabel), Counter>,
    pub(crate) request_seconds: Series<EndpointLabel, Histogram>,
    pub(crate) bytes_sent: Counter,
    pub(crate) upstream: Series<(UpstreamWhat, UpstreamOutcome), Counter>,
    pub(crate) upstream_seconds: Series<UpstreamWhat, Histogram>,
    pub(crate) caches: Series<(CacheLabel, CacheOutcome), Counter>,
    pub(crate) refusals: Series<RuleLabel, Counter>,
    pub(crate) gateway_refusals: Series<BarLabel, Counter>,
    pub(crate) policy_reloads: Series<ReloadLabel, Counter>,
    pub(crate) observed: Counter,
    pub(crate) hidden: Counter,
    pub(crate) stale: Counter,
    pub(crate) prefetched_packuments: Counter,
    pub(crate) incidents: Series<IncidentLabel, Counter>,
    pub(crate) ledger_lost: Counter,
    pub(crate) decisions: Series<DecisionLabel, Gauge>,
    pub(crate) task_failures: Series<TaskLabel, Counter>,
}

impl Metrics {
    /// Creates all metrics, at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("coldframe");
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "Version of Coldframe", build);
        let held = &mut registry;
        Self {
            started: Instant::now(),
            uptime: gauge(held, "uptime_seconds", "Seconds since this process started"),
            resident: gauge(held, "resident_memory_bytes", "Resident memory of this process"),
            in_flight: gauge(held, "requests_in_flight", "Requests whose response is not complete"),
            watched: [
                gauge(held, "blob_bytes", "Bytes of tarballs and packuments on disk"),
                gauge(held, "memory_cache_bytes", "Bytes of package facts, compressed packuments and responses in memory"),
                gauge(held, "ledger_pending_rows", "Ledger rows not yet written"),
                gauge(held, "upstream_circuits_open", "Upstream hosts with an open circuit"),
                gauge(held, "advisories", "Active advisories"),
                gauge(held, "feeds_stale", "Feeds that are stale"),
            ],
            readings: Mutex::default(),
            requests: Series::register(held, "requests", "Requests by endpoint and outcome", Counter::default),
            request_seconds: Series::register(
                held,
                "request_duration_seconds",
                "Time from the request head to the last byte of the response",
                seconds,
            ),
            bytes_sent: counter(held, "bytes_sent", "Response body bytes sent to clients"),
            upstream: Series::register(held, "upstream_requests", "Requests to upstream by kind and outcome", Counter::default),
            upstream_seconds: Series::register(held, "upstream_duration_seconds", "Response time of upstream", seconds),
            caches: Series::register(held, "cache_uses", "Cache lookups by cache and outcome", Counter::default),
            refusals: Series::register(held, "refusals", "Refusals by policy rule", Counter::default),
            gateway_refusals: Series::register(held, "gateway_refusals", "Gateway refusals by reason", Counter::default),
            policy_reloads: Series::register(held, "policy_reloads", "Policy reloads by outcome", Counter::default),
            observed: counter(held, "observed", "Tarballs served despite a warning or an unenforced refusal"),
            hidden: counter(held, "hidden_versions", "Versions hidden from rendered packuments"),
            stale: counter(held, "stale_answers", "Responses served without confirmation by upstream"),
            prefetched_packuments: counter(held, "prefetched_packuments", "Packuments fetched before a client requested them"),
            incidents: Series::register(held, "incidents", "Incidents an operator should investigate, by kind", Counter::default),
            ledger_lost: counter(held, "ledger_lost_rows", "Ledger rows lost before they were written"),
            decisions: Series::register(held, "decisions_active", "Active decisions by kind", Gauge::<i64>::default),
            task_failures: Series::register(held, "task_failures", "Background tasks that panicked", Counter::default),
            registry,
        }
    }

    /// Registers the callback that supplies the value of `gauge`. It must not block.
    pub fn register_gauge(&self, gauge: CallbackGauge, reading: GaugeCallback) {
        self.readings.lock().unwrap_or_else(PoisonError::into_inner).push((gauge, reading));
    }

    /// Counts one request in flight until the guard is dropped.
    #[must_use]
    pub fn begin_request(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// Renders all metrics as `OpenMetrics` text; see [`Metrics::CONTENT_TYPE`].
    #[must_use]
    pub fn render(&self) -> String {
        self.uptime.set(self.started.elapsed().as_secs());
        self.resident.set(resident_bytes().unwrap_or_default());
        for (gauge, reading) in self.readings.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            self.watched[*gauge as usize].set(reading());
        }
        let mut text = String::with_capacity(32 * 1024);
        // Writing to a String does not fail, and partial output is better than none.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// Returns the totals served to clients so far. Coldframe's own pages count only towards `bytes`.
    #[must_use]
    pub fn served(&self) -> Served {
        let is_ours = |endpoint: EndpointLabel| matches!(endpoint, EndpointLabel::Own | EndpointLabel::Unknown);
        let mut served = Served { bytes: self.bytes_sent.get(), ..Served::default() };
        for endpoint in EndpointLabel::ALL.iter().copied().filter(|endpoint| !is_ours(*endpoint)) {
            for outcome in OutcomeLabel::ALL.iter().copied() {
                let count = self.requests.of((endpoint, outcome)).get();
                served.requests += count;
                match (endpoint, outcome) {
                    (_, OutcomeLabel::Refused) => served.refused += count,
                    (EndpointLabel::Tarball, OutcomeLabel::Served) => served.tarballs += count,
                    _ => {}
                }
            }
        }
        served
    }

    /// The media type of [`Metrics::render`].
    pub const CONTENT_TYPE: &'static str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
}

/// Totals of requests and bytes served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Served {
    pub requests: u64,
    /// Tarballs served.
    pub tarballs: u64,
    /// Requests refused by policy.
    pub refused: u64,
    /// Bytes of response bodies, including Coldframe's own pages.
    pub bytes: u64,
}

impl Served {
    /// Returns the difference to the earlier totals `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(before.requests),
            tarballs: self.tarballs.saturating_sub(before.tarballs),
            refused: self.refused.saturating_sub(before.refused),
            bytes: self.bytes.saturating_sub(before.bytes),
        }
    }

    /// Logs the totals if there was any request.
    pub fn emit(self, interval: Duration) {
        if self.requests == 0 {
            return;
        }
        tracing::info!(
            requests.total = self.requests,
            requests.refused = self.refused,
            tarballs.served = self.tarballs,
            response.bytes = self.bytes,
            interval_s = interval.as_secs(),
            "requests served"
        );
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// Counts a request as in flight until dropped.
#[derive(Debug)]
pub struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn gauge<N, A>(registry: &mut Registry, name: &str, help: &str) -> Gauge<N, A>
where
    Gauge<N, A>: prometheus_client::registry::Metric + Default + Clone,
{
    let made = Gauge::default();
    registry.register(name, help, made.clone());
    made
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let made = Counter::default();
    registry.register(name, help, made.clone());
    made
}

/// Creates a histogram with buckets from 0.5 ms, the time of a cached response, to 60 s, when all deadlines have passed.
fn seconds() -> Histogram {
    Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0])
}

/// Records a duration in a histogram.
pub(crate) fn observe(histogram: &Histogram, duration: Duration) {
    histogram.observe(duration.as_secs_f64());
}

/// Returns the resident memory in bytes. `None` where `/proc` does not provide it.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_exists_from_the_start() {
        let text = Metrics::new().render();
        for series in [
            "coldframe_requests_total{endpoint=\"packument\",outcome=\"refused\"} 0",
            "coldframe_refusals_total{rule=\"policy\"} 0",
            "coldframe_cache_uses_total{cache=\"blob\",outcome=\"hit\"} 0",
            "coldframe_upstream_requests_total{what=\"tarball\",outcome=\"failed\"} 0",
            "coldframe_incidents_total{kind=\"clock_skew\"} 0",
            "coldframe_requests_in_flight 0",
            "coldframe_build_info{version=",
            "coldframe_upstream_duration_seconds_bucket{le=\"0.5\",what=\"packument\"} 0",
        ] {
            assert!(text.contains(series), "{series} is missing from\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn request_is_in_flight_until_its_guard_is_dropped() {
        let metrics = Metrics::new();
        let guard = metrics.begin_request();
        assert!(metrics.render().contains("coldframe_requests_in_flight 1\n"));
        drop(guard);
        assert!(metrics.render().contains("coldframe_requests_in_flight 0\n"));
    }

    #[test]
    fn served_totals_exclude_own_pages() {
        let metrics = Metrics::new();
        let before = metrics.served();
        for (endpoint, outcome, count) in [
            (EndpointLabel::Packument, OutcomeLabel::Served, 5),
            (EndpointLabel::Packument, OutcomeLabel::Refused, 2),
            (EndpointLabel::Tarball, OutcomeLabel::Served, 3),
            (EndpointLabel::Tarball, OutcomeLabel::Refused, 1),
            (EndpointLabel::Own, OutcomeLabel::Served, 100),
        ] {
            metrics.requests.of((endpoint, outcome)).inc_by(count);
        }
        metrics.bytes_sent.inc_by(1_000);
        let served = Served { requests: 11, tarballs: 3, refused: 3, bytes: 1_000 };
        assert_eq!((metrics.served().since(before), metrics.served().since(metrics.served())), (served, Served::default()));
    }

    #[test]
    fn callback_gauge_is_read_at_rendering() {
        let metrics = Metrics::new();
        metrics.register_gauge(CallbackGauge::MemoryBytes, Box::new(|| 4711));
        assert!(metrics.render().contains("coldframe_memory_cache_bytes 4711\n"));
    }
}
