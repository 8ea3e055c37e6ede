//! Questions and commands about threat intelligence: look at feeds, say how they stand, who was exposed, what to do about an
//! advisory, export what is denied. Refuses to decide by itself: what is decided has an author.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::app::operations::{self, Purged};
use crate::app::standalone::decide;
use crate::app::standalone::{firewall, glimpse};
use crate::app::{AppError, outbound};
use crate::clock::Clock;
use crate::config::Config;
use crate::feed::{
    self, ExportSummary, FeedConfig, FeedError, FeedSigner, FeedState, FeedStore, OsvAffected, OsvEvent, OsvPackage, OsvRange,
    OsvRecord, PublicKey, SyncOutcome,
};
use crate::firewall::{ExposedVersion, exposure};
use crate::npm::VersionInterval;
use crate::npm::semver::interval::UpperBound;
use crate::npm::{Integrity, PackageName, Range, Version};
use crate::policy::decisions::{Decision, DecisionAction, DecisionProposal, Signature};
use crate::policy::{PackageGlob, TAKEDOWN_AGE};
use crate::store::blobs::disk;
use crate::store::sqlite::decision_writer::ApplyStatus;
use crate::store::{Ledger, SqliteLedger};
use crate::tls;
use crate::units::timestamp;

/// How long a feed that another process is syncing is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// How one feed stands.
#[derive(Debug, Clone)]
pub struct FeedStatus {
    /// The feed.
    pub feed: FeedConfig,
    /// How it stands.
    pub state: FeedState,
    /// Why it is not fresh, if it is not.
    pub staleness: Option<String>,
    /// Its records that mark every version of an established package and wait for a decision, as the ledger has them.
    pub overbroad: Vec<String>,
}

/// Looks at every feed now; what changed is kept, and a running server takes it up.
///
/// # Errors
/// When there is nobody to ask with.
pub async fn sync(config: Config, clock: Arc<dyn Clock>, accept_shrunk: bool) -> Result<Vec<FeedStatus>, AppError> {
    let client = outbound::client(&config.upstream, &tls::client_config(&config.tls)?);
    let shelf = FeedStore::of(&config.store.data_dir);
    for feed in &config.feeds.followed {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            match feed::sync(feed, &shelf, &client, clock.now(), accept_shrunk).await {
                SyncOutcome::Failed(_, FeedError::Busy) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(PATIENCE / 100).await;
                }
                _ => break,
            }
        }
    }
    Ok(status(&config, clock.now()))
}

/// How every feed stands, by what is kept.
#[must_use]
pub fn status(config: &Config, now: Timestamp) -> Vec<FeedStatus> {
    let (shelf, mistakes) = (FeedStore::of(&config.store.data_dir), overbroad(&config.store.data_dir, now));
    let stand = |feed: &FeedConfig| {
        let state = shelf.state(feed);
        let mark = format!("of the feed `{}`", feed.name);
        let staleness = state.staleness(feed.expiry, now);
        let overbroad = mistakes.iter().filter(|mistake| mistake.contains(&mark)).cloned().collect();
        FeedStatus { feed: feed.clone(), state, staleness, overbroad }
    };
    config.feeds.followed.iter().map(stand).collect()
}

/// Everything that was seen here and that an advisory of this id, or with it as an alias, names. Blocks.
///
/// # Errors
/// When there is no ledger, or no feed that is followed has such an advisory.
pub fn exposed(config: Config, clock: Arc<dyn Clock>, id: &str) -> Result<Vec<ExposedVersion>, AppError> {
    plan(config, clock, id).map(|plan| plan.findings)
}

/// What is to be done about an advisory, or about versions that a person names.
#[derive(Debug, Clone)]
pub struct IncidentPlan {
    /// The advisory's own id; else the versions as they were named.
    pub id: String,
    /// The feed it stands in, if there is one.
    pub feed: Option<String>,
    /// What it says.
    pub summary: String,
    /// The packages it names.
    pub subjects: Vec<AffectedPackage>,
    /// What of it was seen here.
    pub findings: Vec<ExposedVersion>,
    /// How many of their tarballs the store holds now.
    pub stored: usize,
}

/// One package of an advisory.
#[derive(Debug, Clone)]
pub struct AffectedPackage {
    /// The package.
    pub name: String,
    /// The versions it names here; none where it means every version.
    pub versions: Vec<String>,
    /// The instant after which nothing of it is shown: before the first bad version that was seen here, at most 14 days ago.
    pub freeze_at: Timestamp,
}

impl IncidentPlan {
    /// What the tarballs hash to that are to go.
    #[must_use]
    pub fn integrities(&self) -> Vec<Integrity> {
        let mut found: Vec<Integrity> = Vec::new();
        for integrity in self.findings.iter().flat_map(|finding| &finding.integrities) {
            if !found.iter().any(|known| known.strongest() == integrity.strongest()) {
                found.push(integrity.clone());
            }
        }
        found
    }

    /// The packages whose remembered documents must go.
    #[must_use]
    pub fn packages(&self) -> Vec<PackageName> {
        self.subjects.iter().filter_map(|subject| PackageName::parse(&subject.name).ok()).collect()
    }

    fn counted(mut self, data_dir: &Path) -> Self {
        let is_stored = |integrity: &&Integrity| disk::holds(data_dir, integrity.strongest());
        self.stored = self.integrities().iter().filter(is_stored).count();
        self
    }
}

/// When a freeze begins: before the first bad version that was seen here was published, and not years back, for what has been out for
/// long is not what is being published now.
fn freeze_at(findings: &[&ExposedVersion], now: Timestamp) -> Timestamp {
    let first = findings.iter().filter_map(|finding| finding.published).min();
    first.map_or(now, |first| timestamp::before(first, Duration::from_secs(1))).max(timestamp::before(now, TAKEDOWN_AGE))
}

/// Works out what is to be done about exact versions of a package that no feed names. Blocks; changes nothing.
///
/// # Errors
/// When the ledger cannot be read.
pub fn plan_versions(
    data_dir: &Path,
    now: Timestamp,
    name: &PackageName,
    versions: &[String],
    named: &str,
) -> Result<IncidentPlan, AppError> {
    let findings = exposure::find_versions(&glimpse(data_dir)?, name, versions, "no advisory").map_err(AppError::DataDir)?;
    let freeze_at = freeze_at(&findings.iter().collect::<Vec<_>>(), now);
    let subject = AffectedPackage { name: name.as_str().to_owned(), versions: versions.to_vec(), freeze_at };
    let summary = "named by a person, in no feed".to_owned();
    Ok(IncidentPlan { id: named.to_owned(), feed: None, summary, subjects: vec![subject], findings, stored: 0 }.counted(data_dir))
}

/// Works out what is to be done about an advisory. Blocks; changes nothing.
///
/// # Errors
/// When no feed that is followed has such an advisory, or the ledger cannot be read.
pub fn plan(config: Config, clock: Arc<dyn Clock>, id: &str) -> Result<IncidentPlan, AppError> {
    let (data_dir, now) = (config.store.data_dir.clone(), clock.now());
    let world = firewall(config, clock)?.value.world();
    let found: Vec<_> = world.advisories.called(id).collect();
    let Some(first) = found.first() else { return Err(AppError::NoAdvisory(id.to_owned())) };
    let ledger = glimpse(&data_dir)?;
    let findings = exposure::find(&world, &ledger, now, |advisory| advisory.is_called(id)).map_err(AppError::DataDir)?;
    let mut subjects: Vec<AffectedPackage> = Vec::new();
    for advisory in &found {
        let of_package: Vec<_> = findings.iter().filter(|finding| finding.name.as_str() == advisory.package()).collect();
        let mut versions: Vec<String> = advisory.listed_versions().map(str::to_owned).collect();
        versions.extend(of_package.iter().map(|finding| finding.version.to_string()));
        versions.sort();
        versions.dedup();
        let freeze_at = freeze_at(&of_package, now);
        match subjects.iter_mut().find(|subject| subject.name == advisory.package()) {
            Some(subject) => {
                subject.versions.extend(versions);
                subject.versions.sort();
                subject.versions.dedup();
            }
            None => subjects.push(AffectedPackage { name: advisory.package().to_owned(), versions, freeze_at }),
        }
    }
    let (id, feed, summary) = (first.id.to_owned(), Some(first.feed.to_owned()), first.summary.to_owned());
    Ok(IncidentPlan { id, feed, summary, subjects, findings, stored: 0 }.counted(&data_dir))
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncidentResult {
    /// The decisions that were taken.
    pub decisions: Vec<i64>,
    /// What left the store.
    pub purged: Purged,
    /// Whether the server that runs had not taken a decision in yet when the tarballs went: one may be fetched again.
    pub is_pending: bool,
}

/// Denies and freezes in the author's name. Blocks.
///
/// # Errors
/// When the ledger does not take it; what was decided until then stands.
pub fn decide(
    data_dir: &Path,
    plan: &IncidentPlan,
    author: &Signature,
    freeze_for: Duration,
) -> Result<IncidentResult, AppError> {
    let mut done = IncidentResult { decisions: Vec::new(), purged: Purged::default(), is_pending: false };
    let reason = format!("incident {}", plan.id);
    let mut decide = |act: DecisionAction, expires: Option<Timestamp>| {
        let proposal = DecisionProposal { act, reason: reason.clone(), author: author.clone(), expires, needs_second: false };
        decide::decide(data_dir, &proposal).map(|taken| {
            done.decisions.push(taken.decision.id);
            done.is_pending |= taken.effect == ApplyStatus::Pending;
        })
    };
    for AffectedPackage { name, versions, freeze_at } in &plan.subjects {
        let range = (!versions.is_empty()).then(|| versions.join(" || "));
        decide(DecisionAction::Deny { packages: name.clone(), range }, None)?;
        let thaws = timestamp::after(author.at, freeze_for);
        decide(DecisionAction::Freeze { at: *freeze_at, packages: vec![name.clone()] }, Some(thaws))?;
    }
    Ok(done)
}

/// Takes the tarballs of a plan out of the store where no server can be asked to, and what is remembered of its packages. Blocks.
///
/// # Errors
/// When the store does not let them go.
pub fn purge(data_dir: &Path, plan: &IncidentPlan) -> Result<Purged, AppError> {
    let ledger = SqliteLedger::read_only(data_dir).map_err(AppError::DataDir)?;
    let purged = operations::purge(&ledger, &plan.integrities(), &plan.packages(), |digest| disk::discard(data_dir, digest));
    purged.map_err(AppError::DataDir)
}

/// Writes what people denied here as a signed feed; and which decisions cannot be told as records. Blocks.
///
/// # Errors
/// When the ledger cannot be read, or the directory does not take it.
pub fn export(
    data_dir: &Path,
    directory: &Path,
    id_prefix: &str,
    now: Timestamp,
    expires: Duration,
) -> Result<(ExportSummary, PublicKey, Vec<String>), AppError> {
    let ledger = glimpse(data_dir)?;
    let (_, decisions) = ledger.decisions().map_err(AppError::DataDir)?;
    let (mut records, mut left) = (Vec::new(), Vec::new());
    for decision in &decisions {
        match record(&ledger, decision, id_prefix, now)? {
            Some(record) => records.push(record),
            None if is_denial(decision, now) => {
                left.push(format!(
                    "decision {}, {}: no package that it means is known here",
                    decision.id,
                    decision.proposal.act.subject()
                ));
            }
            None => {}
        }
    }
    let signer = FeedSigner::open(data_dir)?;
    let exported = feed::export(directory, id_prefix, &records, &signer, now, timestamp::after(now, expires))?;
    Ok((exported, signer.public_key(), left))
}

/// Whether it is a denial that is in force.
fn is_denial(decision: &Decision, now: Timestamp) -> bool {
    matches!(decision.proposal.act, DecisionAction::Deny { .. })
        && decision.state(now) == crate::policy::decisions::DecisionState::Active
}

/// A denial as a record; one that was taken back or ended is withdrawn. `None` for other decisions.
fn record(ledger: &dyn Ledger, decision: &Decision, id_prefix: &str, now: Timestamp) -> Result<Option<OsvRecord>, AppError> {
    use crate::policy::decisions::DecisionState;
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
            // Readers do not obey a record whole that marks every version of an established package without listing them.
            None => (versions(ledger, &name, None)?, osv_ranges("*")),
            // Versions that are named one by one need no range.
            Some(range) if range.split("||").all(|part| Version::parse(part.trim()).is_some()) => {
                (versions(ledger, &name, Some(range))?, Vec::new())
            }
            // What is known here is listed, and what will be published within the range is denied there as it is here.
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

/// A range of npm's as OSV's events.
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

/// The packages that a glob names: itself where it is a name, else those the ledger knows.
fn names(ledger: &dyn Ledger, packages: &str) -> Result<Vec<String>, AppError> {
    if crate::npm::PackageName::parse(packages).is_ok() && !packages.contains('*') {
        return Ok(vec![packages.to_owned()]);
    }
    let Ok(glob) = PackageGlob::parse(packages) else { return Ok(Vec::new()) };
    let matcher = glob.matcher();
    let names = ledger.names().map_err(AppError::DataDir)?;
    Ok(names.iter().map(|name| name.as_str().to_owned()).filter(|name| matcher.is_match(name)).collect())
}

/// The versions that a range means, or every one: those that it names exactly, and those the ledger knows.
fn versions(ledger: &dyn Ledger, name: &str, range: Option<&str>) -> Result<Vec<String>, AppError> {
    let named = range.into_iter().flat_map(|text| text.split("||")).map(str::trim);
    let mut versions: Vec<String> = named.filter(|part| Version::parse(part).is_some()).map(str::to_owned).collect();
    let read = range.map(Range::parse);
    let means = |version: &str| match &read {
        None => true,
        Some(range) => range.as_ref().zip(Version::parse(version)).is_some_and(|(range, version)| range.covers(&version)),
    };
    if let Ok(name) = crate::npm::PackageName::parse(name) {
        let releases = ledger.releases(&name).map_err(AppError::DataDir)?;
        versions.extend(releases.iter().filter(|release| means(&release.version)).map(|release| release.version.to_string()));
    }
    versions.sort();
    versions.dedup();
    Ok(versions)
}

/// The id of a record that marks every version of a package, by its id or an alias. Blocks.
///
/// # Errors
/// When no feed that is followed has such a record.
pub fn broad_record(config: Config, clock: Arc<dyn Clock>, id: &str) -> Result<String, AppError> {
    let world = firewall(config, clock)?.value.world();
    let mut found = world.advisories.called(id).filter(|advisory| advisory.is_wholesale());
    found.next().map(|advisory| advisory.id.to_owned()).ok_or_else(|| AppError::NoAdvisory(id.to_owned()))
}

/// The ledger's records that mark every version of an established package, without those that are decided.
fn overbroad(data_dir: &Path, now: Timestamp) -> Vec<String> {
    // Where there is no ledger yet nothing was noticed.
    let Ok(ledger) = SqliteLedger::read_only(data_dir) else { return Vec::new() };
    let decisions = ledger.decisions().map(|(_, decisions)| decisions).unwrap_or_default();
    let active = decisions.iter().filter(|decision| decision.state(now) == crate::policy::decisions::DecisionState::Active);
    let decided: Vec<String> = active
        .filter_map(|decision| match &decision.proposal.act {
            DecisionAction::Record { advisory, .. } => Some(format!("{advisory} of the feed ")),
            _ => None,
        })
        .collect();
    let incidents = ledger.incidents(Timestamp::UNIX_EPOCH).unwrap_or_default();
    let told = incidents.into_iter().filter(|incident| {
        incident.kind == "feed_overbroad" && !decided.iter().any(|decided| incident.detail.starts_with(decided))
    });
    let mut told: Vec<String> =
        told.map(|incident| format!("{}: {}", incident.name.unwrap_or_default(), incident.detail)).collect();
    told.sort();
    told.dedup();
    told
}
