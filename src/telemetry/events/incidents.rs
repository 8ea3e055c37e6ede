//! Incidents that an operator should investigate. Each is counted and logged.

use std::time::Duration;

use crate::npm::PackageName;
use crate::telemetry::labels::{IncidentLabel, Label as _, ReloadLabel, TaskLabel};
use crate::telemetry::metrics::Metrics;

pub struct IntegrityChanged<'a> {
    pub name: &'a PackageName,
    pub version: &'a str,
    /// The integrity first seen, as SRI.
    pub was: &'a str,
    /// The integrity that upstream states now, as SRI.
    pub now: &'a str,
}

impl IntegrityChanged<'_> {
    pub fn emit(&self, metrics: &Metrics) {
        metrics.operation.incidents.of(IncidentLabel::IntegrityChanged).inc();
        tracing::warn!(
            package.name = %self.name,
            package.version = self.version,
            integrity.was = self.was,
            integrity.now = self.now,
            "version integrity changed"
        );
    }
}

/// A tarball does not match the integrity in its packument. It was discarded.
pub struct IntegrityMismatch<'a> {
    pub name: &'a PackageName,
    pub version: &'a str,
    pub detail: &'a str,
}

impl IntegrityMismatch<'_> {
    pub fn emit(&self, metrics: &Metrics) {
        metrics.operation.incidents.of(IncidentLabel::IntegrityMismatch).inc();
        tracing::warn!(
            package.name = %self.name,
            package.version = self.version,
            error = self.detail,
            "tarball integrity mismatch"
        );
    }
}

/// Upstream removed a version from a packument.
pub struct VersionRemoved<'a> {
    pub name: &'a PackageName,
    pub version: &'a str,
    /// Whether the version was below its minimum age or was replaced by a security placeholder.
    pub takedown: bool,
}

impl VersionRemoved<'_> {
    pub fn emit(&self, metrics: &Metrics) {
        let kind = if self.takedown { IncidentLabel::Takedown } else { IncidentLabel::Unpublished };
        metrics.operation.incidents.of(kind).inc();
        tracing::warn!(
            package.name = %self.name,
            package.version = self.version,
            takedown = self.takedown,
            "version removed upstream"
        );
    }
}

/// Upstream strips metadata that rules need.
pub struct MetadataStripped<'a> {
    pub upstream: &'a str,
    pub missing: &'a str,
}

impl MetadataStripped<'_> {
    pub fn emit(&self, metrics: &Metrics) {
        metrics.operation.incidents.of(IncidentLabel::MetadataStripped).inc();
        tracing::warn!(upstream.address = self.upstream, missing = self.missing, "upstream strips metadata");
    }
}

/// The local clock and upstream's differ by more than the limit. Ages count by the earlier one.
pub struct ClockSkew<'a> {
    pub upstream: &'a str,
    /// The local clock minus upstream's, in seconds.
    pub seconds: i64,
}

impl ClockSkew<'_> {
    pub fn emit(&self, metrics: &Metrics) {
        metrics.operation.incidents.of(IncidentLabel::ClockSkew).inc();
        tracing::warn!(upstream.address = self.upstream, clock.skew_s = self.seconds, "clock skew detected");
    }
}

pub struct LedgerRowsLost<'a> {
    pub rows: u64,
    pub detail: &'a str,
}

impl LedgerRowsLost<'_> {
    pub fn emit(&self, metrics: &Metrics) {
        metrics.operation.incidents.of(IncidentLabel::LedgerLost).inc();
        metrics.operation.lost_rows.inc_by(self.rows);
        tracing::error!(ledger.rows = self.rows, error = self.detail, "ledger rows lost");
    }
}

/// A background task panicked or was lost.
pub struct TaskFailed<'a> {
    pub task: TaskLabel,
    pub detail: &'a str,
    /// Delay until the task restarts; `None` if it does not.
    pub restart: Option<Duration>,
}

impl TaskFailed<'_> {
    pub fn emit(&self, metrics: &Metrics) {
        metrics.operation.task_failures.of(self.task).inc();
        let restart_ms = self.restart.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        tracing::error!(task.name = self.task.value(), error = self.detail, restart_ms, "task failed");
    }
}

pub struct PolicyReloaded<'a> {
    pub rules: usize,
    /// Whether the rules differ from those before.
    pub is_changed: bool,
    /// Why the reload failed. The previous policies then stay active.
    pub mistake: Option<&'a str>,
}

impl PolicyReloaded<'_> {
    pub fn emit(&self, metrics: &Metrics) {
        let Some(mistake) = self.mistake else {
            metrics.policy.reloads.of(ReloadLabel::Adopted).inc();
            if self.is_changed {
                tracing::info!(policy.rules = self.rules, "policy reloaded");
            } else {
                tracing::info!(policy.rules = self.rules, "policy unchanged");
            }
            return;
        };
        metrics.policy.reloads.of(ReloadLabel::Broken).inc();
        tracing::error!(error = mistake, "policy reload failed");
    }
}

/// A response was served that upstream could not confirm.
pub struct ServedStale<'a> {
    pub name: &'a PackageName,
    pub upstream: &'a str,
    /// Time since upstream last confirmed it.
    pub age: Duration,
    /// Whether a warning for this registry was logged recently. This event is then logged at debug level.
    pub again: bool,
}

impl ServedStale<'_> {
    pub fn emit(&self, metrics: &Metrics) {
        metrics.policy.stale.inc();
        let (name, age_s) = (self.name, self.age.as_secs());
        if self.again {
            tracing::debug!(package.name = %name, upstream.address = self.upstream, age_s, "served stale");
        } else {
            tracing::warn!(
                package.name = %name,
                upstream.address = self.upstream,
                age_s,
                "served stale"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takedown_and_unpublish_are_counted_separately() {
        let metrics = Metrics::new();
        let name = PackageName::parse("axios").unwrap();
        VersionRemoved { name: &name, version: "1.14.1", takedown: true }.emit(&metrics);
        VersionRemoved { name: &name, version: "0.1.0", takedown: false }.emit(&metrics);
        let text = metrics.render();
        assert!(text.contains("coldframe_incidents_total{kind=\"takedown\"} 1\n"), "{text}");
        assert!(text.contains("coldframe_incidents_total{kind=\"unpublished\"} 1\n"), "{text}");
    }
}
