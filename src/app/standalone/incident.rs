//! Threat intelligence commands: sync feeds and report their status, plan and execute incident responses, export denials.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::app::error::AppError;
use crate::app::operations::{self, Purged};
use crate::app::outbound;
use crate::app::standalone::{decide, firewall, open_read_only};
use crate::clock::Clock;
use crate::config::Config;
use crate::feed::{
    self, ExportSummary, FeedConfig, FeedError, FeedExport, FeedSigner, FeedState, FeedStore, OnShrink, OsvAffected, OsvEvent,
    OsvPackage, OsvRange, OsvRecord, PublicKey, SyncOutcome,
};
use crate::firewall::{ExposedVersion, exposure};
use crate::net::HttpClient;
use crate::npm::semver::interval::UpperBound;
use crate::npm::{Integrity, PackageName, Range, Version, VersionInterval};
use crate::policy::decisions::{Decision, DecisionAction, DecisionProposal, DecisionState, Signature};
use crate::policy::{PackageGlob, TAKEDOWN_AGE};
use crate::store::ApplyStatus;
use crate::store::blobs::disk;
use crate::store::{Ledger, SqliteLedger};
use crate::tls;
use crate::units::timestamp;

/// How long to wait for a feed that another process is syncing.
const FEED_LOCK_WAIT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
pub(crate) struct StoredFeedStatus {
    pub(crate) feed: FeedConfig,
    pub(crate) state: FeedState,
    pub(crate) staleness: Option<String>,
    /// Its records that affect every version of an established package and await a decision, by the ledger.
    pub(crate) overbroad: Vec<String>,
}

/// Syncs all feeds and stores the changes, which a running server then loads.
pub(crate) async fn sync(config: Config, clock: Arc<dyn Clock>, on_shrink: OnShrink) -> Result<Vec<StoredFeedStatus>, AppError> {
    let client = HttpClient::new(&outbound::like_upstream(&config.upstream, &tls::client_config(&config.tls)?));
    let store = FeedStore::of(&config.store.data_dir);
    for feed in &config.feeds.followed {
        let deadline = tokio::time::Instant::now() + FEED_LOCK_WAIT;
        loop {
            match feed::sync(feed, &store, &client, clock.now(), on_shrink).await {
                SyncOutcome::Failed(_, FeedError::Busy) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(FEED_LOCK_WAIT / 100).await;
                }
                _ => break,
            }
        }
    }
    Ok(status(&config, clock.now()))
}

pub(crate) fn status(config: &Config, now: Timestamp) -> Vec<StoredFeedStatus> {
    let (store, errors) = (FeedStore::of(&config.store.data_dir), overbroad(&config.store.data_dir, now));
    let stand = |feed: &FeedConfig| {
        let state = store.state(feed);
        let mark = format!("of the feed `{}`", feed.name);
        let staleness = state.staleness(feed.expiry, now);
        let overbroad = errors.iter().filter(|error| error.contains(&mark)).cloned().collect();
        StoredFeedStatus { feed: feed.clone(), state, staleness, overbroad }
    };
    config.feeds.followed.iter().map(stand).collect()
}

/// The plan for an advisory, or for versions named by an operator.
#[derive(Debug, Clone)]
pub(crate) struct IncidentPlan {
    /// The advisory's id, or the versions as they were named.
    pub(crate) id: String,
    /// The feed of the advisory, if there is one.
    pub(crate) feed: Option<String>,
    pub(crate) summary: String,
    pub(crate) subjects: Vec<AffectedPackage>,
    /// The affected versions that were seen here.
    pub(crate) findings: Vec<ExposedVersion>,
    /// The number of their tarballs in the store.
    pub(crate) stored: usize,
}

#[derive(Debug, Clone)]
pub(crate) struct AffectedPackage {
    pub(crate) name: String,
    /// The affected versions; empty if all versions are affected.
    pub(crate) versions: Vec<String>,
    /// When the freeze begins, which hides later releases: before the first affected version seen here, at most 14 days ago.
    pub(crate) freeze_at: Timestamp,
}

impl IncidentPlan {
    /// Returns the integrity values of the tarballs to remove.
    pub(crate) fn integrities(&self) -> Vec<Integrity> {
        let mut found: Vec<Integrity> = Vec::new();
        for integrity in self.findings.iter().flat_map(|finding| &finding.integrities) {
            if !found.iter().any(|known| known.strongest() == integrity.strongest()) {
                found.push(integrity.clone());
            }
        }
        found
    }

    /// Returns the packages whose cached documents must be removed.
    pub(crate) fn packages(&self) -> Vec<PackageName> {
        self.subjects.iter().filter_map(|subject| PackageName::parse(&subject.name).ok()).collect()
    }

    fn counted(mut self, data_dir: &Path) -> Self {
        let is_stored = |integrity: &&Integrity| disk::holds(data_dir, integrity.strongest());
        self.stored = self.integrities().iter().filter(is_stored).count();
        self
    }
}

/// Returns the instant of the freeze: just before the first affected version that was seen here was published, but at most
/// [`TAKEDOWN_AGE`] ago, because older versions are not part of an ongoing incident.
fn freeze_at(findings: &[&ExposedVersion], now: Timestamp) -> Timestamp {
    let first = findings.iter().filter_map(|finding| finding.published).min();
    first
        .map_or(now, |first| timestamp::saturating_sub(first, Duration::from_secs(1)))
        .max(timestamp::saturating_sub(now, TAKEDOWN_AGE))
}

/// Plans the response for exact versions of a package that no feed names. Blocks; changes nothing.
pub(crate) fn plan_versions(
    data_dir: &Path,
    now: Timestamp,
    name: &PackageName,
    versions: &[String],
    named: &str,
) -> Result<IncidentPlan, AppError> {
    let findings = exposure::find_versions(&open_read_only(data_dir)?, name, versions, "no advisory")?;
    let freeze_at = freeze_at(&findings.iter().collect::<Vec<_>>(), now);
    let subject = AffectedPackage { name: name.as_str().to_owned(), versions: versions.to_vec(), freeze_at };
    let summary = "named by a person, in no feed".to_owned();
    Ok(IncidentPlan { id: named.to_owned(), feed: None, summary, subjects: vec![subject], findings, stored: 0 }.counted(data_dir))
}

/// Plans the response to an advisory. Blocks; changes nothing.
/// Returns an error if no configured feed has such an advisory, or if the ledger cannot be read.
pub(crate) fn plan_incident(config: Config, clock: Arc<dyn Clock>, id: &str) -> Result<IncidentPlan, AppError> {
    let (data_dir, now) = (config.store.data_dir.clone(), clock.now());
    let policy_snapshot = firewall(config, clock)?.value.policy();
    let found: Vec<_> = policy_snapshot.advisories.with_id(id).collect();
    let Some(first) = found.first() else { return Err(AppError::NoAdvisory(id.to_owned())) };
    let ledger = open_read_only(&data_dir)?;
    let findings = exposure::find_exposed(&policy_snapshot, &ledger, now, |advisory| advisory.is_called(id))?;
    let mut subjects: Vec<AffectedPackage> = Vec::new();
    for advisory in &found {
        let of_package: Vec<_> = findings.iter().filter(|finding| finding.name.as_str() == advisory.package()).collect();
        let at = subjects.iter().position(|subject| subject.name == advisory.package()).unwrap_or(subjects.len());
        if at == subjects.len() {
            let (name, freeze_at) = (advisory.package().to_owned(), freeze_at(&of_package, now));
            subjects.push(AffectedPackage { name, versions: Vec::new(), freeze_at });
        }
        let versions = &mut subjects[at].versions;
        versions.extend(advisory.listed_versions().map(str::to_owned));
        versions.extend(of_package.iter().map(|finding| finding.version.to_string()));
        versions.sort();
        versions.dedup();
    }
    let (id, feed, summary) = (first.id.to_owned(), Some(first.feed.to_owned()), first.summary.to_owned());
    Ok(IncidentPlan { id, feed, summary, subjects, findings, stored: 0 }.counted(&data_dir))
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IncidentResult {
    pub(crate) decisions: Vec<i64>,
    pub(crate) purged: Purged,
    /// Whether the running server had not applied a decision when the tarballs were removed, so that one may be fetched again.
    pub(crate) is_pending: bool,
}

/// Records the denials and freezes of a plan in the author's name. Blocks.
/// Returns an error if the ledger cannot be written. Decisions recorded before the error stay.
pub(crate) fn decide(
    data_dir: &Path,
    plan: &IncidentPlan,
    author: &Signature,
    freeze_for: Duration,
) -> Result<IncidentResult, AppError> {
    let mut done = IncidentResult { decisions: Vec::new(), purged: Purged::default(), is_pending: false };
    let reason = format!("incident {}", plan.id);
    let mut decide = |act: DecisionAction, expires: Option<Timestamp>| {
        let proposal = DecisionProposal { act, reason: reason.clone(), author: author.clone(), expires, needs_second: false };
        decide::record_decision(data_dir, &proposal).map(|recorded| {
            done.decisions.push(recorded.decision.id);
            done.is_pending |= recorded.effect == ApplyStatus::Pending;
        })
    };
    for AffectedPackage { name, versions, freeze_at } in &plan.subjects {
        let range = (!versions.is_empty()).then(|| versions.join(" || "));
        decide(DecisionAction::Deny { packages: name.clone(), range }, None)?;
        let thaws = timestamp::saturating_add(author.at, freeze_for);
        decide(DecisionAction::Freeze { at: *freeze_at, packages: vec![name.clone()] }, Some(thaws))?;
    }
    Ok(done)
}

/// Removes the tarballs and cached documents of a plan from the store, if no server runs that could do it. Blocks.
pub(crate) fn purge(data_dir: &Path, plan: &IncidentPlan) -> Result<Purged, AppError> {
    let ledger = SqliteLedger::read_only(data_dir)?;
    let purged = operations::purge(&ledger, &plan.integrities(), &plan.packages(), |digest| disk::remove_blob(data_dir, digest));
    Ok(purged?)
}

/// Exports the denials of operators as a signed feed. Also returns the decisions that cannot be expressed as records. Blocks.
pub(crate) fn export(
    data_dir: &Path,
    directory: &Path,
    id_prefix: &str,
    now: Timestamp,
    expires: Duration,
) -> Result<(ExportSummary, PublicKey, Vec<String>), AppError> {
    let ledger = open_read_only(data_dir)?;
    let (_, decisions) = ledger.decisions()?;
    let (mut records, mut left) = (Vec::new(), Vec::new());
    for decision in &decisions {
        match record(&ledger, decision, id_prefix, now)? {
            Some(record) => records.push(record),
            None if matches!(decision.proposal.act, DecisionAction::Deny { .. })
                && decision.state(now) == DecisionState::Active =>
            {
                left.push(format!("decision {}, {}: matches no known package", decision.id, decision.proposal.act.subject()));
            }
            None => {}
        }
    }
    let signer = FeedSigner::open(data_dir)?;
    let exported = feed::export(
        directory,
        FeedExport { id_prefix, records: &records, expires: timestamp::saturating_add(now, expires) },
        &signer,
        now,
    )?;
    Ok((exported, signer.public_key(), left))
}

/// Converts a denial to a record. A revoked or expired one is marked as withdrawn. Returns `None` for other decisions.
fn record(ledger: &dyn Ledger, decision: &Decision, id_prefix: &str, now: Timestamp) -> Result<Option<OsvRecord>, AppError> {
    let DecisionAction::Deny { packages, range } = &decision.proposal.act else { return Ok(None) };
    let made = decision.proposal.author.at;
    let ended = match decision.state(now) {
        DecisionState::Active => None,
        DecisionState::Expired => decision.proposal.expires,
        DecisionState::Revoked => decision.revoked.as_ref().map(|(by, _)| by.at),
        DecisionState::AwaitsSecond => return Ok(None),
    };
    let mut affected = Vec::new();
    for name in names(ledger, packages)? {
        let (versions, ranges) = match range {
            // Consumers do not fully trust a record that affects every version of an established package without a list.
            None => (versions(ledger, &name, None)?, osv_ranges("*")),
            // Exact versions need no range.
            Some(range) if range.split("||").all(|part| Version::parse(part.trim()).is_some()) => {
                (versions(ledger, &name, Some(range))?, Vec::new())
            }
            // Known versions are listed. The range also covers future versions, which are denied here too.
            Some(range) => (versions(ledger, &name, Some(range))?, osv_ranges(range)),
        };
        if versions.is_empty() && ranges.is_empty() {
            continue;
        }
        let package = OsvPackage { ecosystem: "npm".to_owned(), name };
        affected.push(OsvAffected { package, versions, ranges, ..OsvAffected::default() });
    }
    if affected.is_empty() {
        return Ok(None);
    }
    Ok(Some(OsvRecord {
        schema_version: "1.7.4".to_owned(),
        id: format!("{id_prefix}-{}-{}", made.to_string().get(..4).unwrap_or("0000"), decision.id),
        modified: ended.unwrap_or(made).to_string(),
        published: made.to_string(),
        withdrawn: ended.map(|at| at.to_string()),
        summary: decision.proposal.reason.clone(),
        affected,
        ..OsvRecord::default()
    }))
}

fn osv_ranges(text: &str) -> Vec<OsvRange> {
    let intervals = Range::parse(text).map(|range| VersionInterval::of(&range)).unwrap_or_default();
    let range = |interval: VersionInterval| {
        let first = interval.from.unwrap_or_else(|| "0".to_owned());
        let mut events = vec![OsvEvent { introduced: Some(first), ..OsvEvent::default() }];
        events.extend(interval.end.map(|end| match end {
            UpperBound::Before(end) => OsvEvent { fixed: Some(end), ..OsvEvent::default() },
            UpperBound::Through(end) => OsvEvent { last_affected: Some(end), ..OsvEvent::default() },
        }));
        OsvRange { kind: "SEMVER".to_owned(), events }
    };
    intervals.into_iter().map(range).collect()
}

/// Returns the packages that a glob matches: the name itself if it is one, or else matching packages in the ledger.
fn names(ledger: &dyn Ledger, packages: &str) -> Result<Vec<String>, AppError> {
    if PackageName::parse(packages).is_ok() && !packages.contains('*') {
        return Ok(vec![packages.to_owned()]);
    }
    let Ok(glob) = PackageGlob::parse(packages) else { return Ok(Vec::new()) };
    let matcher = glob.0.compile_matcher();
    let names = ledger.names()?;
    Ok(names.iter().map(|name| name.as_str().to_owned()).filter(|name| matcher.is_match(name)).collect())
}

/// Returns the versions in a range, or all versions: exact versions of the range, and versions in the ledger.
fn versions(ledger: &dyn Ledger, name: &str, range: Option<&str>) -> Result<Vec<String>, AppError> {
    let named = range.into_iter().flat_map(|text| text.split("||")).map(str::trim);
    let mut versions: Vec<String> = named.filter(|part| Version::parse(part).is_some()).map(str::to_owned).collect();
    let read = range.map(Range::parse);
    let means = |version: &str| match &read {
        None => true,
        Some(range) => range.as_ref().zip(Version::parse(version)).is_some_and(|(range, version)| range.covers(&version)),
    };
    if let Ok(name) = PackageName::parse(name) {
        let releases = ledger.releases(&name)?;
        versions.extend(releases.iter().filter(|release| means(&release.version)).map(|release| release.version.to_string()));
    }
    versions.sort();
    versions.dedup();
    Ok(versions)
}

/// Returns the id of a record that affects every version of a package, by its id or an alias. Blocks.
/// Returns an error if no configured feed has such a record.
pub(crate) fn broad_record(config: Config, clock: Arc<dyn Clock>, id: &str) -> Result<String, AppError> {
    let policy_snapshot = firewall(config, clock)?.value.policy();
    let mut found = policy_snapshot.advisories.with_id(id).filter(|advisory| advisory.affects_every_version());
    found.next().map(|advisory| advisory.id.to_owned()).ok_or_else(|| AppError::NoAdvisory(id.to_owned()))
}

/// Returns the undecided records in the ledger that affect every version of an established package.
fn overbroad(data_dir: &Path, now: Timestamp) -> Vec<String> {
    // Without a ledger there are no records.
    let Ok(ledger) = SqliteLedger::read_only(data_dir) else { return Vec::new() };
    let decisions = ledger.decisions().map(|(_, decisions)| decisions).unwrap_or_default();
    let active = decisions.iter().filter(|decision| decision.state(now) == DecisionState::Active);
    let decided: Vec<String> = active
        .filter_map(|decision| match &decision.proposal.act {
            DecisionAction::Record { advisory, .. } => Some(format!("{advisory} of the feed ")),
            _ => None,
        })
        .collect();
    let incidents = ledger.events(Timestamp::UNIX_EPOCH).unwrap_or_default();
    let records = incidents.into_iter().filter(|incident| {
        incident.kind == "feed_overbroad" && !decided.iter().any(|decided| incident.detail.starts_with(decided))
    });
    let mut records: Vec<String> =
        records.map(|incident| format!("{}: {}", incident.name.unwrap_or_default(), incident.detail)).collect();
    records.sort();
    records.dedup();
    records
}
