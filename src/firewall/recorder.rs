//! Writes to the ledger, the log and the metrics for the firewall.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use moka::sync::Cache;

use crate::firewall::error::{FirewallError, Refusal};
use crate::firewall::package::PackageSnapshot;
use crate::firewall::package::history::HistoryEvent;
use crate::firewall::package::signal_table::SignalTable;
use crate::firewall::package::signing::evidence;
use crate::firewall::policy_state::PolicyState;
use crate::firewall::request::Client;
use crate::firewall::verdicts::{OverbroadAdvisory, VerdictTable};
use crate::firewall::wall_clock::MAX_SKEW;
use crate::npm::{Integrity, PackageName, Packument};
use crate::policy::{RuleId, Warning, is_takedown};
use crate::store::{DownloadEvent, DownloadKind, DownloadOutcome, Ledger, LedgerEvent, PackageChange, PackageKey};
use crate::telemetry::{
    CacheLabel, CacheOutcome, ClockSkew, FalseSignature, FeedOverbroad, IntegrityChanged, MetadataStripped, Metrics,
    ProvenanceLabel, RequestRefused, ServedStale, ServedWithWarning, UpstreamAnswered, UpstreamOutcome, UpstreamWhat,
    VersionRemoved,
};
use crate::units::timestamp;
use crate::upstream::{PackumentBody, PackumentReply, Registry, UpstreamError};
use crate::vetting::provenance::ProvenanceStatus;
use crate::vetting::signatures::SignatureStatus;
use crate::vetting::{Finding, Signals, compare};

/// The least interval between logs of stale responses per registry.
const STALE_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// How long repeated requests for a withheld version count as one event. Clients retry, and an install requests a packument
/// twice.
const WITHHELD_INTERVAL: Duration = Duration::from_secs(3600);

/// The most entries of each memory that prevents repeated reports.
const MAX_REPORTED: u64 = 20_000;

/// Identifies a withheld version: client, user, package and version.
type WithheldKey = (IpAddr, Option<Arc<str>>, PackageName, Box<str>);

/// Records what the firewall does and sees. Repeated reports are limited.
pub(crate) struct Recorder {
    ledger: Arc<dyn Ledger>,
    metrics: Arc<Metrics>,
    policy: Arc<PolicyState>,
    /// Registries for which a stale response was logged, with the time.
    stale_logged: Cache<Arc<str>, Timestamp>,
    /// Registries whose first packument was checked for missing metadata.
    checked_registries: Mutex<HashSet<Arc<str>>>,
    skew_logged: HourlyLimit,
    /// Overbroad advisories that were reported, by feed, id and package. Each is reported once.
    overbroad_reported: Cache<String, ()>,
    withheld_reported: Cache<WithheldKey, Timestamp>,
    /// Versions whose false signatures were reported.
    false_signatures_reported: Cache<String, ()>,
}

/// What a client requested of a package.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Requested<'a> {
    /// A packument or a part of it, without the versions that the table hides.
    Packument(&'a VerdictTable),
    /// The tarball of a version, with its digests as far as known.
    Tarball(&'a str, Option<&'a Integrity>),
}

impl Recorder {
    #[must_use]
    pub(crate) fn new(ledger: Arc<dyn Ledger>, metrics: Arc<Metrics>, policy: Arc<PolicyState>) -> Self {
        Self {
            ledger,
            metrics,
            policy,
            stale_logged: Cache::new(MAX_REPORTED),
            checked_registries: Mutex::default(),
            skew_logged: HourlyLimit::default(),
            overbroad_reported: Cache::new(MAX_REPORTED),
            withheld_reported: Cache::new(MAX_REPORTED),
            false_signatures_reported: Cache::new(MAX_REPORTED),
        }
    }

    /// Returns the metrics, for events that are not in the ledger.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Writes a change to the ledger. A failure is logged only: the change stays in memory, so that a full disk does not block
    /// installs.
    pub(crate) fn package_change(&self, key: &PackageKey, change: &PackageChange) {
        if let Err(error) = self.ledger.record_package(key, change) {
            tracing::error!(package.name = %key.name, error = &error as &dyn std::error::Error, "ledger write failed");
        }
    }

    /// Records an event in the ledger.
    pub(crate) fn event(&self, kind: &'static str, name: Option<&PackageName>, version: Option<&str>, detail: String) {
        self.ledger_event(LedgerEvent { kind, name: name.cloned(), version: version.map(Into::into), detail });
    }

    pub(crate) fn ledger_event(&self, event: LedgerEvent) {
        self.ledger.record_event(event, self.policy.now());
    }

    /// Records that a client was served or refused something of a package. `rule` is the one that refused or warned.
    pub(crate) fn request(
        &self,
        (client, now): (&Client, Timestamp),
        name: &PackageName,
        requested: Requested<'_>,
        outcome: DownloadOutcome,
        rule: Option<&RuleId>,
    ) {
        let (kind, version, integrity, hidden) = match requested {
            Requested::Packument(table) => (DownloadKind::Packument, None, None, Arc::clone(&table.hidden)),
            Requested::Tarball(version, integrity) => (DownloadKind::Tarball, Some(version), integrity, Arc::default()),
        };
        let download = DownloadEvent {
            kind,
            name: name.clone(),
            version: version.map(Into::into),
            integrity: integrity.map(|integrity| integrity.strongest().clone()),
            outcome,
            rule: rule.map(|rule| rule.as_str().into()),
            hidden,
            client: client.address,
            user: client.user().cloned(),
            tool: client.agent.tool.as_str(),
            tool_version: client.agent.version.clone(),
        };
        self.ledger.record_download(download, now);
    }

    /// Counts signals that a version shows, and those of them that a rule refuses it for.
    pub(crate) fn signals(&self, found: Signals, refused: Signals) {
        for signal in found.iter() {
            self.metrics.policy.signals.of(signal).inc();
        }
        for signal in found.and(refused).iter() {
            self.metrics.policy.signal_holds.of(signal).inc();
        }
    }

    /// Counts and logs a refusal and returns it as an error. Called once per refusal.
    pub(crate) fn refusal(&self, client: &Client, refusal: Refusal) -> FirewallError {
        RequestRefused {
            name: &refusal.name,
            version: refusal.version.as_deref(),
            rule: &refusal.rule,
            client: client.address,
            user: client.user().map(|user| &**user),
            agent: &client.agent,
            text: &refusal.text,
        }
        .emit(&self.metrics);
        let is_allowed = self.policy.snapshot().policy(client.profile).allows_requests(&refusal.rule);
        let (refusal, base) = (refusal.with_link(&client.base), &client.base);
        let refusal = if is_allowed { refusal.with_request_command(base) } else { refusal.without_request(base) };
        FirewallError::Refused(Arc::new(refusal))
    }

    /// Counts and logs the refusal of the hidden entry at `at` and returns it as an error.
    pub(crate) fn hidden_version(
        &self,
        client: &Client,
        packument: &Packument,
        table: &VerdictTable,
        at: usize,
    ) -> FirewallError {
        let version = &*packument.entries[at].key;
        let nearest = table.nearest_allowed(packument, version);
        match Refusal::of_version(&packument.name, version, table.verdict(at), nearest) {
            Some(refusal) => self.refusal(client, refusal),
            None => FirewallError::Internal("a hidden version has no reason".into()),
        }
    }

    /// Records a refused tarball request in the ledger, if `error` is a refusal, and returns the error.
    pub(crate) fn refused_tarball(
        &self,
        client: &Client,
        package: &PackageSnapshot,
        version: &str,
        error: FirewallError,
    ) -> FirewallError {
        if let FirewallError::Refused(refusal) = &error {
            let entry = package.packument.as_ref().and_then(|packument| packument.find(version));
            let requested = Requested::Tarball(version, entry.and_then(|(_, entry)| entry.integrity.as_ref()));
            let (name, rule) = (&package.cache_key.name, Some(&refusal.rule));
            self.request((client, self.policy.now()), name, requested, DownloadOutcome::Refused, rule);
        }
        error
    }

    /// Reports a hidden version that a known requirement needs, as if its tarball had been requested: most clients fail without
    /// requesting it. Repetitions within the hour are not reported.
    pub(crate) fn withheld(&self, client: &Client, packument: &Packument, table: &VerdictTable, at: usize, now: Timestamp) {
        let entry = &packument.entries[at];
        let key = (client.address, client.user().cloned(), packument.name.clone(), entry.key.clone());
        if self.withheld_reported.get(&key).is_some_and(|at| timestamp::is_within(at, WITHHELD_INTERVAL, now)) {
            return;
        }
        self.withheld_reported.insert(key, now);
        if let FirewallError::Refused(refusal) = self.hidden_version(client, packument, table, at) {
            let requested = Requested::Tarball(&entry.key, entry.integrity.as_ref());
            self.request((client, now), &packument.name, requested, DownloadOutcome::Refused, Some(&refusal.rule));
        }
    }

    /// Reports warnings about a version that was served.
    pub(crate) fn warnings(&self, client: &Client, name: &PackageName, version: &str, warnings: &[Warning]) {
        for Warning { reason, would_refuse } in warnings {
            ServedWithWarning {
                name,
                version,
                rule: &reason.rule,
                would_refuse: *would_refuse,
                client: client.address,
                user: client.user().map(|user| &**user),
                detail: &reason.detail,
            }
            .emit(&self.metrics);
        }
    }

    pub(crate) fn cache_lookup(&self, cache: CacheLabel, outcome: CacheOutcome) {
        // Lookups are too frequent for the log.
        self.metrics.fetches.caches.of((cache, outcome)).inc();
    }

    /// Counts a stale response, and logs it at most once per minute and registry.
    pub(crate) fn served_stale(&self, package: &PackageSnapshot, age: Duration, now: Timestamp) {
        self.cache_lookup(CacheLabel::Document, CacheOutcome::Stale);
        let upstream = package.registry.id();
        let again = self.stale_logged.get(upstream).is_some_and(|logged| timestamp::is_within(logged, STALE_LOG_INTERVAL, now));
        if !again {
            self.stale_logged.insert(Arc::clone(upstream), now);
        }
        ServedStale { name: &package.cache_key.name, upstream, age, again }.emit(&self.metrics);
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
                    let last_seen = release.state.gone.unwrap_or(release.first_seen);
                    let takedown = release.state.replaced
                        || is_takedown(release.counts_from(), last_seen, self.policy.snapshot().longest_age());
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
            if self.overbroad_reported.get(&key).is_some() {
                continue;
            }
            self.overbroad_reported.insert(key, ());
            FeedOverbroad { feed, advisory: id, name }.emit(&self.metrics);
            let detail = format!(
                "{id} of the feed `{feed}` marks every version of an established package; old ones are served until an operator runs \
                 `coldframe feed obey {id}` or `coldframe feed set-aside {id}`"
            );
            self.event("feed_overbroad", Some(name), None, detail);
        }
    }

    /// Counts the result of a registry signature that was verified, and reports a false one. Each is reported once.
    pub(crate) fn signature(&self, name: &PackageName, version: &str, status: &SignatureStatus) {
        self.metrics.count_signature(status);
        if let Some(evidence) = evidence(status) {
            self.false_signature(name, version, &evidence.detail);
        }
    }

    /// Counts what a provenance shows.
    pub(crate) fn provenance(&self, status: &ProvenanceStatus) {
        self.metrics.count_provenance(ProvenanceLabel::from(status));
    }

    /// Counts a provenance that could not be fetched.
    pub(crate) fn provenance_missing(&self) {
        self.metrics.count_provenance(ProvenanceLabel::Missing);
    }

    /// Reports the false signatures in a table. Each is reported once.
    pub(crate) fn false_signatures(&self, packument: &Packument, signals: &SignalTable) {
        for (at, found) in &signals.false_origins {
            let signature = found.iter().find(|evidence| evidence.finding == Finding::FalseSignature);
            if let (Some(entry), Some(evidence)) = (packument.entries.get(*at), signature) {
                self.false_signature(&packument.name, &entry.key, &evidence.detail);
            }
        }
    }

    fn false_signature(&self, name: &PackageName, version: &str, detail: &str) {
        let key = format!("{name}@{version}");
        if self.false_signatures_reported.get(&key).is_some() {
            return;
        }
        self.false_signatures_reported.insert(key, ());
        FalseSignature { name, version, detail }.emit(&self.metrics);
        self.event("false_signature", Some(name), Some(version), detail.to_owned());
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
            || !self.checked_registries.lock().unwrap_or_else(PoisonError::into_inner).insert(Arc::clone(registry.id()))
        {
            return;
        }
        let missing = packument.contents.missing();
        if missing.is_empty() {
            return;
        }
        let missing = missing.join(", ");
        let not_observable = compare::unobservable(packument.contents).describe();
        MetadataStripped { upstream: registry.id(), missing: &missing, not_observable: &not_observable }.emit(&self.metrics);
        let signals =
            if not_observable.is_empty() { not_observable } else { format!("; signals not observable: {not_observable}") };
        self.event("metadata_stripped", Some(&packument.name), None, format!("{} sends no {missing}{signals}", registry.id()));
    }

    /// Counts and logs the reply to a packument request.
    pub(crate) fn packument_reply(&self, name: &PackageName, started: Instant, reply: &Result<PackumentReply, UpstreamError>) {
        let outcome = match reply {
            Ok(reply) if matches!(reply.freshness, PackumentBody::NotModified) => UpstreamOutcome::NotModified,
            Ok(_) => UpstreamOutcome::Changed,
            Err(error) => outcome_of(error),
        };
        let detail = reply.as_ref().err().map(ToString::to_string);
        self.upstream_answered(UpstreamWhat::Packument, Some(name), started, outcome, detail.as_deref());
    }

    /// Counts and logs the answer to a request to upstream. `detail` is the error.
    pub(crate) fn upstream_answered(
        &self,
        what: UpstreamWhat,
        name: Option<&PackageName>,
        started: Instant,
        outcome: UpstreamOutcome,
        detail: Option<&str>,
    ) {
        UpstreamAnswered { what, outcome, duration: started.elapsed(), name, detail }.emit(&self.metrics);
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

/// Allows an event at most once an hour.
#[derive(Debug)]
struct HourlyLimit(AtomicI64);

impl Default for HourlyLimit {
    fn default() -> Self {
        Self(AtomicI64::new(i64::MIN))
    }
}

impl HourlyLimit {
    fn is_due(&self, now: Timestamp) -> bool {
        let (now, last) = (now.as_second(), self.0.load(Ordering::Relaxed));
        let due = last == i64::MIN || now.saturating_sub(last).abs() >= 3600;
        due && self.0.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}
