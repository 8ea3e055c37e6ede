//! Counters, gauges and histograms, rendered for Prometheus.

pub(crate) mod families;
pub(crate) mod series;

use std::time::Instant;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

pub use families::{CallbackGauge, GaugeCallback, Served};

use crate::telemetry::metrics::families::{
    CallbackGauges, FetchMetrics, OperationMetrics, PolicyMetrics, ProcessMetrics, RequestMetrics,
};

/// All metrics of a process. Shared by `Arc`. The fields are in the order of the rendered text.
pub struct Metrics {
    registry: Registry,
    started: Instant,
    process: ProcessMetrics,
    callbacks: CallbackGauges,
    pub(crate) requests: RequestMetrics,
    pub(crate) fetches: FetchMetrics,
    pub(crate) policy: PolicyMetrics,
    pub(crate) operation: OperationMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("coldframe");
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "Version of Coldframe", build);
        Self {
            started: Instant::now(),
            process: ProcessMetrics::register(&mut registry),
            callbacks: CallbackGauges::register(&mut registry),
            requests: RequestMetrics::register(&mut registry),
            fetches: FetchMetrics::register(&mut registry),
            policy: PolicyMetrics::register(&mut registry),
            operation: OperationMetrics::register(&mut registry),
            registry,
        }
    }
}

impl Metrics {
    pub const CONTENT_TYPE: &'static str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// Registers the callback that supplies the value of `gauge`. It must not block.
    pub fn register_gauge(&self, gauge: CallbackGauge, callback: GaugeCallback) {
        self.callbacks.add(gauge, callback);
    }

    /// Counts one request in flight until the guard is dropped.
    pub fn begin_request(&self) -> InFlight {
        self.process.requests_in_flight.inc();
        InFlight(self.process.requests_in_flight.clone())
    }

    /// Renders all metrics as `OpenMetrics` text; see [`Metrics::CONTENT_TYPE`].
    pub fn render(&self) -> String {
        self.process.update(self.started);
        self.callbacks.update();
        let mut text = String::with_capacity(32 * 1024);
        // Writing to a String does not fail, and partial output is better than none.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

pub struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callback_gauge_is_read_at_rendering() {
        let metrics = Metrics::default();
        metrics.register_gauge(CallbackGauge::MemoryBytes, Box::new(|| 4711));
        assert!(metrics.render().contains("coldframe_memory_cache_bytes 4711\n"));
    }

    #[test]
    fn every_series_exists_from_the_start() {
        let text = Metrics::default().render();
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
        let metrics = Metrics::default();
        let guard = metrics.begin_request();
        assert!(metrics.render().contains("coldframe_requests_in_flight 1\n"));
        drop(guard);
        assert!(metrics.render().contains("coldframe_requests_in_flight 0\n"));
    }

    #[test]
    fn metrics_keep_their_order_and_help() {
        let text = Metrics::default().render();
        let heads: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# HELP coldframe_")).collect();
        expect_test::expect![[r#"
            build Version of Coldframe.
            uptime_seconds Seconds since this process started.
            resident_memory_bytes Resident memory of this process.
            requests_in_flight Requests whose response is not complete.
            blob_bytes Bytes of tarballs and packuments on disk.
            memory_cache_bytes Bytes of package facts, compressed packuments and responses in memory.
            ledger_pending_rows Ledger rows not yet written.
            upstream_circuits_open Upstream hosts with an open circuit.
            advisories Active advisories.
            feeds_stale Feeds that are stale.
            requests Requests by endpoint and outcome.
            request_duration_seconds Time from the request head to the last byte of the response.
            authentications Access tokens by result.
            bytes_sent Response body bytes sent to clients.
            upstream_requests Requests to upstream by kind and outcome.
            upstream_duration_seconds Response time of upstream.
            signatures Registry signatures verified before a tarball was served, by result.
            provenance Attestations of builds that were verified, by result.
            cache_uses Cache lookups by cache and outcome.
            refusals Refusals by policy rule.
            gateway_refusals Gateway refusals by reason.
            policy_reloads Policy reloads by outcome.
            observed Tarballs served despite a warning or an unenforced refusal.
            signals Versions that show a signal, by signal.
            signal_holds Versions that a rule refuses for a signal, by signal.
            hidden_versions Versions hidden from rendered packuments.
            stale_answers Responses served without confirmation by upstream.
            prefetched_packuments Packuments fetched before a client requested them.
            tarballs_vetted_ahead Tarballs opened before a client requested them.
            incidents Incidents an operator should investigate, by kind.
            ledger_lost_rows Ledger rows lost before they were written.
            decisions_active Active decisions by kind.
            approval_requests Changes of requests for approvals.
            approval_requests_open Open requests for approvals.
            task_failures Background tasks that panicked."#]]
        .assert_eq(&heads.join("\n"));
    }
}
