//! Incidents that an operator should investigate. Each is counted and logged.

use std::time::Duration;

use crate::npm::PackageName;
use crate::telemetry::labels::{IncidentLabel, Label as _, ProvenanceLabel, ReloadLabel, SignatureLabel, TaskLabel};
use crate::telemetry::metrics::Metrics;
use crate::vetting::signatures::SignatureStatus;

events! {
    IntegrityChanged: warn "version integrity changed" {
        name: &'a PackageName => [package.name = %name],
        version: &'a str => [package.version = version],
        /// The integrity first seen, as SRI.
        was: &'a str => [integrity.was = was],
        /// The integrity that upstream states now, as SRI.
        now: &'a str => [integrity.now = now],
    } |metrics, _| metrics.count_incident(IncidentLabel::IntegrityChanged);

    /// A tarball does not match the integrity in its packument. It was discarded.
    IntegrityMismatch: warn "tarball integrity mismatch" {
        name: &'a PackageName => [package.name = %name],
        version: &'a str => [package.version = version],
        detail: &'a str => [error = detail],
    } |metrics, _| metrics.count_incident(IncidentLabel::IntegrityMismatch);

    /// A tarball holds something that policies may refuse.
    TarballFindings: warn "tarball has findings" {
        name: &'a PackageName => [package.name = %name],
        version: &'a str => [package.version = version],
        findings: &'a str => [vetting.findings = findings],
    } |metrics, _| metrics.count_incident(IncidentLabel::Findings);

    /// A tarball holds kinds of files that the one before did not. Honest releases do this too, so it is no incident.
    TarballChanges: info "tarball has new kinds of files" {
        name: &'a PackageName => [package.name = %name],
        version: &'a str => [package.version = version],
        findings: &'a str => [vetting.findings = findings],
    } |_, _| ();

    /// A version names a key of the registry, which did not sign it.
    FalseSignature: warn "registry signature is false" {
        name: &'a PackageName => [package.name = %name],
        version: &'a str => [package.version = version],
        detail: &'a str => [error = detail],
    } |metrics, _| metrics.count_incident(IncidentLabel::FalseSignature);

    /// An attestation is for something else, or a trusted log or authority contradicts it.
    FalseProvenance: warn "provenance is false" {
        name: &'a PackageName => [package.name = %name],
        version: &'a str => [package.version = version],
        detail: &'a str => [error = detail],
    } |metrics, _| metrics.count_incident(IncidentLabel::FalseProvenance);

    VersionRemoved: warn "version removed upstream" {
        name: &'a PackageName => [package.name = %name],
        version: &'a str => [package.version = version],
        /// Whether the version was below its minimum age or was replaced by a security placeholder.
        takedown: bool => [takedown],
    } |metrics, event| {
        metrics.count_incident(if event.takedown { IncidentLabel::Takedown } else { IncidentLabel::Unpublished });
    };

    MetadataStripped: warn "upstream strips metadata" {
        upstream: &'a str => [upstream.address = upstream],
        missing: &'a str => [missing],
        /// The signals that its documents cannot show.
        not_observable: &'a str => [vetting.not_observable = not_observable],
    } |metrics, _| metrics.count_incident(IncidentLabel::MetadataStripped);

    /// The local clock and upstream's differ by more than the limit. Ages count by the earlier one.
    ClockSkew: warn "clock skew detected" {
        upstream: &'a str => [upstream.address = upstream],
        /// The local clock minus upstream's, in seconds.
        seconds: i64 => [clock.skew_s = seconds],
    } |metrics, _| metrics.count_incident(IncidentLabel::ClockSkew);

    LedgerRowsLost: error "ledger rows lost" {
        rows: u64 => [ledger.rows = rows],
        detail: &'a str => [error = detail],
    } |metrics, event| {
        metrics.count_incident(IncidentLabel::LedgerLost);
        metrics.operation.lost_rows.inc_by(event.rows);
    };

    /// A background task panicked or was lost.
    TaskFailed: error "task failed" {
        task: TaskLabel => [task.name = task.value()],
        detail: &'a str => [error = detail],
        /// Delay until the task restarts; `None` if it does not.
        restart: Option<Duration> => [restart_ms = restart.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX))],
    } |metrics, event| _ = metrics.operation.task_failures.of(event.task).inc();
}

impl Metrics {
    pub(crate) fn count_signature(&self, status: &SignatureStatus) {
        self.fetches.signatures.of(SignatureLabel::from(status)).inc();
    }

    pub(crate) fn count_provenance(&self, result: ProvenanceLabel) {
        self.fetches.provenance.of(result).inc();
    }

    pub(crate) fn count_incident(&self, kind: IncidentLabel) {
        self.operation.incidents.of(kind).inc();
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
        let outcome = if self.mistake.is_some() { ReloadLabel::Broken } else { ReloadLabel::Adopted };
        metrics.policy.reloads.of(outcome).inc();
        match self.mistake {
            Some(mistake) => tracing::error!(error = mistake, "policy reload failed"),
            None if self.is_changed => tracing::info!(policy.rules = self.rules, "policy reloaded"),
            None => tracing::info!(policy.rules = self.rules, "policy unchanged"),
        }
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
            tracing::warn!(package.name = %name, upstream.address = self.upstream, age_s, "served stale");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takedown_and_unpublish_are_counted_separately() {
        let metrics = Metrics::default();
        let name = PackageName::parse("axios").unwrap();
        VersionRemoved { name: &name, version: "1.14.1", takedown: true }.emit(&metrics);
        VersionRemoved { name: &name, version: "0.1.0", takedown: false }.emit(&metrics);
        let text = metrics.render();
        assert!(text.contains("coldframe_incidents_total{kind=\"takedown\"} 1\n"), "{text}");
        assert!(text.contains("coldframe_incidents_total{kind=\"unpublished\"} 1\n"), "{text}");
    }
}
