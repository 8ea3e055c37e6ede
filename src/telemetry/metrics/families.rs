//! The metrics by what they are about. Each group registers its own.

use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::telemetry::labels::{
    ApprovalRequestLabel, AuthLabel, BarLabel, CacheLabel, CacheOutcome, DecisionLabel, EndpointLabel, IncidentLabel, Label as _,
    OutcomeLabel, ProvenanceLabel, ReloadLabel, RuleLabel, SignatureLabel, TaskLabel, UpstreamOutcome, UpstreamWhat,
};
use crate::telemetry::metrics::series::{Register, Series};
use crate::vetting::Signal;

/// Declares groups of metrics, each with its name and help.
macro_rules! metrics {
    ($($(#[$about:meta])* $group:ident { $($field:ident: $kind:ty = $name:literal, $help:literal;)* })*) => {$(
        $(#[$about])*
        pub(crate) struct $group { $(pub(crate) $field: $kind,)* }

        impl $group {
            pub(crate) fn register(registry: &mut Registry) -> Self {
                Self { $($field: Register::register(registry, $name, $help),)* }
            }
        }
    )*};
}

metrics! {
    ProcessMetrics {
        uptime: Gauge<u64, AtomicU64> = "uptime_seconds", "Seconds since this process started";
        resident: Gauge<u64, AtomicU64> = "resident_memory_bytes", "Resident memory of this process";
        requests_in_flight: Gauge = "requests_in_flight", "Requests whose response is not complete";
    }

    RequestMetrics {
        total: Series<(EndpointLabel, OutcomeLabel), Counter> = "requests", "Requests by endpoint and outcome";
        seconds: Series<EndpointLabel, Histogram> =
            "request_duration_seconds", "Time from the request head to the last byte of the response";
        authentications: Series<AuthLabel, Counter> = "authentications", "Access tokens by result";
        bytes_sent: Counter = "bytes_sent", "Response body bytes sent to clients";
    }

    FetchMetrics {
        upstream: Series<(UpstreamWhat, UpstreamOutcome), Counter> =
            "upstream_requests", "Requests to upstream by kind and outcome";
        upstream_seconds: Series<UpstreamWhat, Histogram> = "upstream_duration_seconds", "Response time of upstream";
        signatures: Series<SignatureLabel, Counter> =
            "signatures", "Registry signatures verified before a tarball was served, by result";
        provenance: Series<ProvenanceLabel, Counter> = "provenance", "Attestations of builds that were verified, by result";
        caches: Series<(CacheLabel, CacheOutcome), Counter> = "cache_uses", "Cache lookups by cache and outcome";
    }

    PolicyMetrics {
        refusals: Series<RuleLabel, Counter> = "refusals", "Refusals by policy rule";
        gateway_refusals: Series<BarLabel, Counter> = "gateway_refusals", "Gateway refusals by reason";
        reloads: Series<ReloadLabel, Counter> = "policy_reloads", "Policy reloads by outcome";
        observed: Counter = "observed", "Tarballs served despite a warning or an unenforced refusal";
        signals: Series<Signal, Counter> = "signals", "Versions that show a signal, by signal";
        signal_holds: Series<Signal, Counter> = "signal_holds", "Versions that a rule refuses for a signal, by signal";
        hidden_versions: Counter = "hidden_versions", "Versions hidden from rendered packuments";
        stale: Counter = "stale_answers", "Responses served without confirmation by upstream";
        prefetched: Counter = "prefetched_packuments", "Packuments fetched before a client requested them";
        vetted_ahead: Counter = "tarballs_vetted_ahead", "Tarballs opened before a client requested them";
    }

    OperationMetrics {
        incidents: Series<IncidentLabel, Counter> = "incidents", "Incidents an operator should investigate, by kind";
        lost_rows: Counter = "ledger_lost_rows", "Ledger rows lost before they were written";
        decisions: Series<DecisionLabel, Gauge> = "decisions_active", "Active decisions by kind";
        approval_requests: Series<ApprovalRequestLabel, Counter> = "approval_requests", "Changes of requests for approvals";
        open_approval_requests: Gauge = "approval_requests_open", "Open requests for approvals";
        task_failures: Series<TaskLabel, Counter> = "task_failures", "Background tasks that panicked";
    }
}

impl ProcessMetrics {
    pub(crate) fn update(&self, started: Instant) {
        self.uptime.set(started.elapsed().as_secs());
        self.resident.set(resident_bytes().unwrap_or_default());
    }
}

impl RequestMetrics {
    /// Returns the totals so far. Coldframe's own pages count only towards `bytes`.
    pub(crate) fn served(&self) -> Served {
        let is_ours = |endpoint: EndpointLabel| matches!(endpoint, EndpointLabel::Own | EndpointLabel::Unknown);
        let mut served = Served { bytes: self.bytes_sent.get(), ..Served::default() };
        for endpoint in EndpointLabel::ALL.iter().copied().filter(|endpoint| !is_ours(*endpoint)) {
            for outcome in OutcomeLabel::ALL.iter().copied() {
                let count = self.total.of((endpoint, outcome)).get();
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
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Served {
    pub requests: u64,
    pub tarballs: u64,
    pub refused: u64,
    /// Bytes of response bodies, including Coldframe's own pages.
    pub bytes: u64,
}

impl Served {
    /// Returns the difference to the earlier totals `before`.
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

/// A callback that supplies a gauge's value when the metrics are rendered. It must not block.
pub type GaugeCallback = Box<dyn Fn() -> u64 + Send + Sync>;

/// The gauges whose values come from a [`GaugeCallback`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallbackGauge {
    BlobBytes,
    MemoryBytes,
    LedgerPending,
    CircuitsOpen,
    Advisories,
    FeedsStale,
}

/// Name and help of each gauge, in the order of [`CallbackGauge`].
const GAUGES: [(&str, &str); 6] = [
    ("blob_bytes", "Bytes of tarballs and packuments on disk"),
    ("memory_cache_bytes", "Bytes of package facts, compressed packuments and responses in memory"),
    ("ledger_pending_rows", "Ledger rows not yet written"),
    ("upstream_circuits_open", "Upstream hosts with an open circuit"),
    ("advisories", "Active advisories"),
    ("feeds_stale", "Feeds that are stale"),
];

pub(crate) struct CallbackGauges {
    gauges: [Gauge<u64, AtomicU64>; GAUGES.len()],
    callbacks: Mutex<Vec<(CallbackGauge, GaugeCallback)>>,
}

impl CallbackGauges {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        Self { gauges: GAUGES.map(|(name, help)| Gauge::register(registry, name, help)), callbacks: Mutex::default() }
    }

    pub(crate) fn add(&self, gauge: CallbackGauge, callback: GaugeCallback) {
        self.callbacks.lock().unwrap_or_else(PoisonError::into_inner).push((gauge, callback));
    }

    pub(crate) fn update(&self) {
        for (gauge, callback) in self.callbacks.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            self.gauges[*gauge as usize].set(callback());
        }
    }
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
    fn served_totals_exclude_own_pages() {
        let metrics = RequestMetrics::register(&mut Registry::default());
        let before = metrics.served();
        for (endpoint, outcome, count) in [
            (EndpointLabel::Packument, OutcomeLabel::Served, 5),
            (EndpointLabel::Packument, OutcomeLabel::Refused, 2),
            (EndpointLabel::Tarball, OutcomeLabel::Served, 3),
            (EndpointLabel::Tarball, OutcomeLabel::Refused, 1),
            (EndpointLabel::Own, OutcomeLabel::Served, 100),
        ] {
            metrics.total.of((endpoint, outcome)).inc_by(count);
        }
        metrics.bytes_sent.inc_by(1_000);
        let served = Served { requests: 11, tarballs: 3, refused: 3, bytes: 1_000 };
        assert_eq!((metrics.served().since(before), metrics.served().since(metrics.served())), (served, Served::default()));
    }
}
