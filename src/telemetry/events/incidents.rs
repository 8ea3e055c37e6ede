//! What an operator must hear of: each is a warning in the log and a counter. Refuses to decide what follows from it.

use std::time::Duration;

use crate::npm::PackageName;
use crate::telemetry::labels::{IncidentLabel, Label as _, ReloadLabel, TaskLabel};
use crate::telemetry::metrics::Metrics;

/// A version was seen with another integrity than before.
#[derive(Debug, Clone, Copy)]
pub struct IntegrityChanged<'a> {
    /// The package.
    pub name: &'a PackageName,
    /// The version.
    pub version: &'a str,
    /// What it was first seen with, as SRI.
    pub was: &'a str,
    /// What upstream says now, as SRI.
    pub now: &'a str,
}

impl IntegrityChanged<'_> {
    /// Counts and logs it.
    pub fn emit(&self, metrics: &Metrics) {
        metrics.incidents.of(IncidentLabel::IntegrityChanged).inc();
        tracing::warn!(
            package.name = %self.name,
            package.version = self.version,
            integrity.was = self.was,
            integrity.now = self.now,
            "upstream changed the integrity of a version"
        );
    }
}

/// A tarball is not what its packument says. Nothing of it was kept.
#[derive(Debug, Clone, Copy)]
pub struct IntegrityMismatch<'a> {
    /// The package.
    pub name: &'a PackageName,
    /// The version.
    pub version: &'a str,
    /// What it should hash to and what it does.
    pub detail: &'a str,
}

impl IntegrityMismatch<'_> {
    /// Counts and logs it.
    pub fn emit(&self, metrics: &Metrics) {
        metrics.incidents.of(IncidentLabel::IntegrityMismatch).inc();
        tracing::warn!(
            package.name = %self.name,
            package.version = self.version,
            error = self.detail,
            "a tarball is not what its packument says"
        );
    }
}

/// A version left upstream's packument.
#[derive(Debug, Clone, Copy)]
pub struct VersionRemoved<'a> {
    /// The package.
    pub name: &'a PackageName,
    /// The version.
    pub version: &'a str,
    /// Whether it was young, or a security placeholder took its place.
    pub takedown: bool,
}

impl VersionRemoved<'_> {
    /// Counts and logs it.
    pub fn emit(&self, metrics: &Metrics) {
        let kind = if self.takedown { IncidentLabel::Takedown } else { IncidentLabel::Unpublished };
        metrics.incidents.of(kind).inc();
        tracing::warn!(
            package.name = %self.name,
            package.version = self.version,
            takedown = self.takedown,
            "a version is gone upstream"
        );
    }
}

/// Upstream strips what rules ask for.
#[derive(Debug, Clone, Copy)]
pub struct MetadataStripped<'a> {
    /// The registry's address, without credentials.
    pub upstream: &'a str,
    /// What is missing, in words.
    pub missing: &'a str,
}

impl MetadataStripped<'_> {
    /// Counts and logs it.
    pub fn emit(&self, metrics: &Metrics) {
        metrics.incidents.of(IncidentLabel::MetadataStripped).inc();
        tracing::warn!(upstream.address = self.upstream, missing = self.missing, "upstream strips metadata");
    }
}

/// Our clock and upstream's disagree by more than is healthy.
#[derive(Debug, Clone, Copy)]
pub struct ClockSkew<'a> {
    /// The registry's address, without credentials.
    pub upstream: &'a str,
    /// Our clock minus upstream's.
    pub seconds: i64,
}

impl ClockSkew<'_> {
    /// Counts and logs it.
    pub fn emit(&self, metrics: &Metrics) {
        metrics.incidents.of(IncidentLabel::ClockSkew).inc();
        tracing::warn!(
            upstream.address = self.upstream,
            clock.skew_s = self.seconds,
            "the local clock and upstream's disagree: age counts by the earlier one"
        );
    }
}

/// Rows of the ledger were lost.
#[derive(Debug, Clone, Copy)]
pub struct LedgerRowsLost<'a> {
    /// How many.
    pub rows: u64,
    /// Why.
    pub detail: &'a str,
}

impl LedgerRowsLost<'_> {
    /// Counts and logs it.
    pub fn emit(&self, metrics: &Metrics) {
        metrics.incidents.of(IncidentLabel::LedgerLost).inc();
        metrics.ledger_lost.inc_by(self.rows);
        tracing::error!(ledger.rows = self.rows, error = self.detail, "rows of the ledger were lost");
    }
}

/// A task of ours panicked or was lost.
#[derive(Debug, Clone, Copy)]
pub struct TaskFailed<'a> {
    /// Which.
    pub task: TaskLabel,
    /// Why, as far as it said.
    pub detail: &'a str,
    /// When it is started again, if it is.
    pub restart: Option<Duration>,
}

impl TaskFailed<'_> {
    /// Counts and logs it.
    pub fn emit(&self, metrics: &Metrics) {
        metrics.task_failures.of(self.task).inc();
        let restart_ms = self.restart.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        tracing::error!(task.name = self.task.value(), error = self.detail, restart_ms, "task failed");
    }
}

/// The policies were read again.
#[derive(Debug, Clone, Copy)]
pub struct PolicyReloaded<'a> {
    /// How many rules are in force now.
    pub rules: usize,
    /// Whether they are others than before.
    pub is_changed: bool,
    /// Why they are not in force; then those before are.
    pub mistake: Option<&'a str>,
}

impl PolicyReloaded<'_> {
    /// Counts and logs it.
    pub fn emit(&self, metrics: &Metrics) {
        let Some(mistake) = self.mistake else {
            metrics.policy_reloads.of(ReloadLabel::Adopted).inc();
            if self.is_changed {
                tracing::info!(policy.rules = self.rules, "policy reloaded");
            } else {
                tracing::info!(policy.rules = self.rules, "policy unchanged");
            }
            return;
        };
        metrics.policy_reloads.of(ReloadLabel::Broken).inc();
        tracing::error!(error = mistake, "the policy on disk is broken, the one before it stays in force");
    }
}

/// An answer went out that upstream could not confirm.
#[derive(Debug, Clone, Copy)]
pub struct ServedStale<'a> {
    /// The package.
    pub name: &'a PackageName,
    /// The registry's address, without credentials.
    pub upstream: &'a str,
    /// How long ago upstream last confirmed it.
    pub age: Duration,
    /// Whether this registry's last answers were told of a moment ago, so that this one is for those who look closely.
    pub again: bool,
}

impl ServedStale<'_> {
    /// Counts and logs it: each one is in the counter.
    pub fn emit(&self, metrics: &Metrics) {
        metrics.stale.inc();
        let (name, age_s) = (self.name, self.age.as_secs());
        if self.again {
            tracing::debug!(package.name = %name, upstream.address = self.upstream, age_s, "served stale");
        } else {
            tracing::warn!(
                package.name = %name,
                upstream.address = self.upstream,
                age_s,
                "upstream does not answer: last answers are served, marked as stale"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_takedown_and_a_left_pad_are_counted_apart() {
        let metrics = Metrics::new();
        let name = PackageName::parse("axios").unwrap();
        VersionRemoved { name: &name, version: "1.14.1", takedown: true }.emit(&metrics);
        VersionRemoved { name: &name, version: "0.1.0", takedown: false }.emit(&metrics);
        let text = metrics.render();
        assert!(text.contains("coldframe_incidents_total{kind=\"takedown\"} 1\n"), "{text}");
        assert!(text.contains("coldframe_incidents_total{kind=\"unpublished\"} 1\n"), "{text}");
    }
}
