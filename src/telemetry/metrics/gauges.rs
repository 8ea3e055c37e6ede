//! Gauges whose values are read when the metrics are rendered.

use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::telemetry::metrics::series::Register as _;

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

    /// Reads the current values.
    pub(crate) fn update(&self) {
        for (gauge, callback) in self.callbacks.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            self.gauges[*gauge as usize].set(callback());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Metrics;

    #[test]
    fn callback_gauge_is_read_at_rendering() {
        let metrics = Metrics::new();
        metrics.register_gauge(CallbackGauge::MemoryBytes, Box::new(|| 4711));
        assert!(metrics.render().contains("coldframe_memory_cache_bytes 4711\n"));
    }
}
