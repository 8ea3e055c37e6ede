//! Writes to the ledger, the log and the metrics for the firewall.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use jiff::Timestamp;

use crate::firewall::Components;
use crate::firewall::error::FirewallError;
use crate::firewall::package::history::HistoryEvent;
use crate::firewall::packages::fetch::{FetchRequest, task_failed};
use crate::firewall::verdicts::{OverbroadAdvisory, VerdictTable};
use crate::firewall::wall_clock::MAX_SKEW;
use crate::npm::{Algorithm, Digest, PackageName, Packument};
use crate::policy::is_takedown;
use crate::store::{LedgerEvent, PackageChange, PackageKey};
use crate::telemetry::{
    ClockSkew, FeedOverbroad, IntegrityChanged, MetadataStripped, TaskFailed, TaskLabel, UpstreamAnswered, UpstreamOutcome,
    UpstreamWhat, VersionRemoved,
};
use crate::upstream::{PackumentBody, PackumentReply, Registry, UpstreamError};

impl Components {
    /// Records a change and marks its document as used. A document that is only revalidated is served from memory and would
    /// otherwise be evicted from disk first.
    pub(crate) async fn record(self: &Arc<Self>, request: &FetchRequest, change: PackageChange) {
        let (inner, key) = (Arc::clone(self), request.key());
        let written = self.blocking(move || {
            inner.write(&key, &change);
            let content = change.document.and_then(|document| document.content);
            if let Some(digest) = content.and_then(|content| Digest::from_bytes(Algorithm::Sha256, &content)) {
                inner.blobs.touch(&digest);
            }
        });
        let written = written.await;
        if written.is_err() {
            tracing::error!("ledger task failed");
        }
    }

    /// Writes a change to the ledger. A failure is logged only: the change stays in memory, so that a full disk does not block
    /// installs.
    pub(crate) fn write(&self, key: &PackageKey, change: &PackageChange) {
        if let Err(error) = self.ledger.record_package(key, change) {
            tracing::error!(package.name = %key.name, error = &error as &dyn std::error::Error, "ledger write failed");
        }
    }

    /// Counts an internal task that failed and returns `instead`.
    pub(crate) fn note_lost<T>(&self, error: &tokio::task::JoinError, instead: T) -> T {
        TaskFailed { task: TaskLabel::Request, detail: &error.to_string(), restart: None }.emit(&self.metrics);
        instead
    }

    /// Counts a shared fetch whose task panicked or was aborted at shutdown, and returns its error.
    pub(crate) fn note_lost_fetch(&self) -> FirewallError {
        TaskFailed { task: TaskLabel::Request, detail: "a shared fetch ended without a result", restart: None }
            .emit(&self.metrics);
        task_failed()
    }

    /// Reports the events of a comparison. A version that is missing for a client's own token is not reported as removed.
    pub(crate) fn history_events(&self, name: &PackageName, is_own: bool, findings: &[HistoryEvent]) {
        let mut diverged = findings.iter().filter_map(|finding| match finding {
            HistoryEvent::Parted(version) => Some(version),
            _ => None,
        });
        if let Some(version) = diverged.next() {
            let more = diverged.count();
            tracing::warn!(package.name = %name, package.version = &**version, more, "package views diverged");
            let detail = format!("clients with other credentials are shown a different history; {more} more versions");
            self.event("views_part", Some(name), Some(version), detail);
        }
        for finding in findings {
            match finding {
                HistoryEvent::IntegrityChanged { version, was, now } => {
                    IntegrityChanged { name, version, was, now }.emit(&self.metrics);
                    self.event("integrity_changed", Some(name), Some(version), format!("was {was}, is {now}"));
                }
                HistoryEvent::Gone(_) if is_own => {}
                HistoryEvent::Parted(_) => {}
                HistoryEvent::Gone(release) => {
                    let last_seen = release.gone.unwrap_or(release.first_seen);
                    let takedown =
                        release.replaced || is_takedown(release.counts_from(), last_seen, self.policy_snapshot().longest_age());
                    VersionRemoved { name, version: &release.version, takedown }.emit(&self.metrics);
                    let kind = if takedown { "takedown" } else { "version_gone" };
                    self.event(kind, Some(name), Some(&release.version), format!("last seen {last_seen}"));
                }
            }
        }
    }

    /// Reports advisories that mark every version of an established package and wait for an operator's decision. Each is reported
    /// once.
    pub(crate) fn overbroad_advisories(&self, name: &PackageName, table: &VerdictTable) {
        for OverbroadAdvisory { feed, id } in &table.overbroad {
            let key = format!("{feed}\0{id}\0{name}");
            if self.overbroad_logged.get(&key).is_some() {
                continue;
            }
            self.overbroad_logged.insert(key, ());
            FeedOverbroad { feed, advisory: id, name }.emit(&self.metrics);
            let detail = format!(
                "{id} of the feed `{feed}` marks every version of an established package; old ones are served until an operator runs \
                 `coldframe feed obey {id}` or `coldframe feed set-aside {id}`"
            );
            self.event("feed_overbroad", Some(name), None, detail);
        }
    }

    /// Records an event in the ledger.
    pub(crate) fn event(&self, kind: &'static str, name: Option<&PackageName>, version: Option<&str>, detail: String) {
        let incident = LedgerEvent { kind, name: name.cloned(), version: version.map(Into::into), detail };
        self.ledger.record_event(incident, self.clock.now());
    }

    /// Reports an upstream whose clock differs from the system clock.
    pub(crate) fn clock_skew(&self, registry: &Registry, clock: Option<Timestamp>, now: Timestamp) {
        let skew = clock.map(|clock| now.duration_since(clock));
        let Some(skew) = skew.filter(|skew| skew.abs() > MAX_SKEW) else { return };
        if !self.skew_logged.is_due(now) {
            return;
        }
        ClockSkew { upstream: registry.id(), seconds: skew.as_secs() }.emit(&self.metrics);
        self.event("clock_skew", None, None, format!("{} s ahead of {}", skew.as_secs(), registry.id()));
    }

    /// Reports, by its first packument, a registry that strips metadata, as mirrors do.
    pub(crate) fn missing_metadata(&self, registry: &Registry, packument: &Packument) {
        if packument.entries.is_empty()
            || !self.stripping_registries.lock().unwrap_or_else(PoisonError::into_inner).insert(Arc::clone(registry.id()))
        {
            return;
        }
        let missing: Vec<_> = [
            (packument.contents.has_time, "time"),
            (packument.contents.has_publishers, "_npmUser"),
            (packument.contents.has_signatures, "dist.signatures"),
        ]
        .into_iter()
        .filter(|(there, _)| !there)
        .map(|(_, what)| what)
        .collect();
        if missing.is_empty() {
            return;
        }
        let missing = missing.join(", ");
        MetadataStripped { upstream: registry.id(), missing: &missing }.emit(&self.metrics);
        self.event("metadata_stripped", Some(&packument.name), None, format!("{} sends no {missing}", registry.id()));
    }

    pub(crate) fn upstream_answered(
        &self,
        request: &FetchRequest,
        asked: Instant,
        fetched: &Result<PackumentReply, UpstreamError>,
    ) {
        let outcome = match fetched {
            Ok(fetched) if matches!(fetched.freshness, PackumentBody::NotModified) => UpstreamOutcome::NotModified,
            Ok(_) => UpstreamOutcome::Changed,
            Err(error) => outcome_of(error),
        };
        let detail = fetched.as_ref().err().map(ToString::to_string);
        let name = Some(&request.slot.name);
        UpstreamAnswered { what: UpstreamWhat::Packument, outcome, duration: asked.elapsed(), name, detail: detail.as_deref() }
            .emit(&self.metrics);
    }
}

/// Returns the metric outcome of an upstream error. A denial concerns the client's credentials and is not a failure.
pub(crate) fn outcome_of(error: &UpstreamError) -> UpstreamOutcome {
    match error {
        UpstreamError::NotFound => UpstreamOutcome::NotFound,
        UpstreamError::Denied { .. } => UpstreamOutcome::Denied,
        _ => UpstreamOutcome::Failed,
    }
}
