//! The signals of a package's young releases, and the findings in tarballs that were opened. New dependencies are looked up
//! elsewhere; until then, signals that depend on them are pending.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;

use crate::firewall::package::dependency_lookups::KnownDependencies;
use crate::firewall::package::provenance::{self, MAX_BASELINE_SOURCES, ProvenanceChecks, provenance_signals};
use crate::firewall::package::signal_records::manifest_of;
use crate::firewall::package::signal_table::SignalTable;
use crate::firewall::package::signing::SignatureVerifier;
use crate::firewall::package::vetted_tarballs::Vetted;
use crate::firewall::package::{LinkedFacts, PackageSnapshot};
use crate::firewall::policy_state::{PolicySnapshot, Profile};
use crate::npm::packument::index::VersionEntry;
use crate::npm::{Algorithm, Integrity, Packument};
use crate::policy::advisories::AdvisoryKind;
use crate::policy::{Advisories, Facts, Verdict};
use crate::store::{InspectedTarball, RecordedSignals};
use crate::units::timestamp;
use crate::vetting::compare::{Comparison, DatedRelease, DepartedRelease, MAX_RECORDED_SIGNALS, SIGNALS_VERSION, SignalReport};
use crate::vetting::provenance::{BuildSource, ProvenanceStatus};
use crate::vetting::{Finding, FindingEvidence, Signal, SignalStrength, Signals};

/// The policies and the profile whose denials count.
#[derive(Clone, Copy)]
pub(crate) struct ProfileView<'a> {
    pub policy_snapshot: &'a PolicySnapshot,
    pub profile: Profile,
}

/// Compares the young releases of a package with its older ones.
pub(crate) fn compare(
    package: &PackageSnapshot,
    view: ProfileView<'_>,
    dependencies: &KnownDependencies,
    vetted: &Vetted,
    checks: &ProvenanceChecks,
) -> SignalTable {
    let policy_snapshot = view.policy_snapshot;
    let mut table = SignalTable {
        revision: policy_snapshot.revision,
        vetted: vetted.revision,
        dependencies: dependencies.revision,
        ..SignalTable::default()
    };
    let now = package.confirmed.validated;
    let window = policy_snapshot.comparison_window();
    let since = timestamp::saturating_sub(now, window);
    let Some(packument) = &package.packument else { return table };
    table.inspections = inspections(package, packument, vetted, &policy_snapshot.advisories);
    table.listed = listed_digests(packument, vetted);
    add_false_provenance(&mut table, packument, vetted);
    let ring = &policy_snapshot.signing_keys;
    let is_signed = !ring.is_empty() && !packument.signatures.is_empty();
    let verifier = is_signed.then(|| SignatureVerifier::new(package, packument, ring));
    if let Some(verifier) = &verifier {
        add_false_signatures(&mut table, package, verifier, vetted, since);
    }
    if package.provenance.iter().all(|history| history.effective <= since) {
        return table;
    }
    let releases = dated_releases(package, packument, view, &table);
    let departed = departed_releases(package, packument, since);
    let comparison = Comparison::new(&releases, &departed, packument, window, now);
    let sources = KnownSources::new(&releases, packument, vetted, since);
    let held_since = timestamp::saturating_sub(now, policy_snapshot.signal_window());
    table.unverified = provenance::unverified(package, checks, policy_snapshot, held_since);
    let recorded = RecordedBefore::new(package, since);
    let mut pending = Vec::new();
    for (at, release) in releases.iter().enumerate().filter(|(_, release)| release.effective > since) {
        let predecessor = comparison.predecessor(release.entry).and_then(|earlier| packument.find(&earlier.key));
        table.predecessors.insert(at, predecessor.map(|(earlier, _)| earlier));
        let mut report = comparison.compare(release, |name| packument.siblings.pins_part(at, name));
        if let Some(verifier) = &verifier {
            add_lost_signature(&mut report, packument, at, verifier);
        } else if ring.is_empty() || !packument.contents.has_signatures {
            report.unobservable = report.unobservable.or(Signal::SignatureLost.into());
        }
        sources.compare(at, &mut report);
        if table.unverified.contains(&at) {
            report.pending = report.pending.or(provenance_signals());
        } else if release.entry.outline.has_slsa_provenance && !sources.is_comparable(at) {
            report.unobservable = report.unobservable.or(provenance_signals());
        }
        recorded.keep(release.entry, &comparison, &mut report);
        let unknown = add_dependencies(&mut report, release.effective, dependencies);
        pending.extend(unknown.iter().map(|name| (unknown.len(), Arc::clone(name))));
        if report != SignalReport::default() {
            table.reports.insert(at, report);
        }
    }
    // Those of releases with few come first: a release with thousands must not keep others from being decided.
    pending.sort_unstable();
    let mut seen = HashSet::new();
    table.pending = pending.into_iter().map(|(_, name)| name).filter(|name| seen.insert(Arc::clone(name))).collect();
    table
}

/// Returns the release that the tarball of an old entry can be compared with, although no rule judges the result: the highest
/// one below it that was published before it. `table` has the signals under the same policy.
pub(crate) fn predecessor_of_old(
    package: &PackageSnapshot,
    view: ProfileView<'_>,
    table: &SignalTable,
    at: usize,
) -> Option<usize> {
    let packument = package.packument.as_deref()?;
    let (entry, now) = (packument.entries.get(at)?, package.confirmed.validated);
    let window = view.policy_snapshot.comparison_window();
    let releases = dated_releases(package, packument, view, table);
    let comparison = Comparison::new(&releases, &[], packument, window, now);
    let published = |at: usize| package.provenance.get(at).map(|history| history.effective);
    let mut below = comparison.predecessors(entry).filter_map(|earlier| Some(packument.find(&earlier.key)?.0));
    below.find(|earlier| published(*earlier) <= published(at))
}

/// The signals that the ledger has of a package's releases.
struct RecordedBefore<'a> {
    by_version: HashMap<&'a str, &'a RecordedSignals>,
    /// Whether old releases left or changed since they were compared with. Signals that were recorded before stay then: an
    /// attacker must not clear one by changing the baseline.
    has_lost_baseline: bool,
}

impl<'a> RecordedBefore<'a> {
    fn new(package: &'a PackageSnapshot, since: Timestamp) -> Self {
        let has_left = || package.record.releases.iter().any(|row| row.state.gone.is_some() && row.counts_from() <= since);
        let has_changed = || package.provenance.iter().any(|history| history.began <= since && history.effective > since);
        let recorded = &package.record.signals;
        Self {
            by_version: recorded.iter().map(|recorded| (&*recorded.version, recorded)).collect(),
            has_lost_baseline: !recorded.is_empty() && (has_left() || has_changed()),
        }
    }

    fn keep(&self, entry: &VersionEntry, comparison: &Comparison<'_>, report: &mut SignalReport) {
        let recorded = self.by_version.get(&*entry.key);
        if recorded.is_none() && !report.signals.is_empty() && self.by_version.len() >= MAX_RECORDED_SIGNALS {
            report.pending = Signals::of_strength(SignalStrength::Strong);
        }
        let is_current =
            |recorded: &&&RecordedSignals| recorded.code == SIGNALS_VERSION && recorded.manifest == manifest_of(entry);
        for evidence in
            recorded.filter(|_| self.has_lost_baseline).filter(is_current).into_iter().flat_map(|known| &known.evidence)
        {
            if !report.signals.contains(evidence.signal) && !comparison.is_accepted(evidence.signal, entry) {
                report.unobservable = report.unobservable.without(evidence.signal.into());
                report.add(evidence.signal, &evidence.old, &evidence.new);
            }
        }
    }
}

/// Returns the releases of a package, each with whether it may be in a baseline. A denied release is in none, however old it is.
/// Only denials that do not depend on signals count: signals depend on the baseline.
fn dated_releases<'a>(
    package: &'a PackageSnapshot,
    packument: &'a Packument,
    ProfileView { policy_snapshot, profile }: ProfileView<'_>,
    table: &SignalTable,
) -> Vec<DatedRelease<'a>> {
    let advisories = policy_snapshot.advisories.of(packument.name.as_str()).applicable_to(package.dated(packument));
    let rules = policy_snapshot.policy(profile).for_package(&packument.name);
    let linked = LinkedFacts { parent: None, signals: table, cohorts: None };
    let of_entry = |(at, entry): (usize, &'a VersionEntry)| {
        let effective = package.provenance[at].effective;
        // Rules that allow what has no signal must not hide a denial.
        let facts = Facts { unobservable: Signals::all(), ..package.facts_with(linked, packument, at, &advisories) };
        let is_malware =
            || advisories.matching(&entry.key, entry.version.as_ref()).any(|advisory| advisory.kind == AdvisoryKind::Malware);
        let verdict = policy_snapshot.evaluate(&rules, &facts, package.confirmed.validated, &mut ());
        let is_approved = || policy_snapshot.active_decisions.approval(&rules, &facts).is_some();
        // The invariants deny what changed its bytes or contradicts itself.
        let is_sound = !matches!(verdict, Verdict::Deny { .. }) && (!is_malware() || is_approved());
        DatedRelease { entry, effective, is_sound, accepted: policy_snapshot.active_decisions.accepted_signals(&facts) }
    };
    packument.entries.iter().enumerate().map(of_entry).collect()
}

/// Returns the versions that upstream had after `since` and no longer has, as far as the ledger or `time` names them.
fn departed_releases<'a>(package: &'a PackageSnapshot, packument: &'a Packument, since: Timestamp) -> Vec<DepartedRelease<'a>> {
    let recorded = package.record.releases.iter().filter(|release| release.state.gone.is_some());
    let recorded = recorded.map(|release| DepartedRelease { version: &release.version, effective: release.effective });
    let named = packument.removed.iter().filter_map(|(version, published)| Some((version, (*published)?)));
    let named = named.map(|(version, effective)| DepartedRelease { version, effective });
    let is_departed = |release: &DepartedRelease<'_>| release.effective > since && packument.find(release.version).is_none();
    recorded.chain(named).filter(is_departed).collect()
}

/// Returns the inspections with findings, by the position of the entry that states the same bytes. A file that feeds list no more
/// is no finding.
fn inspections(
    package: &PackageSnapshot,
    packument: &Packument,
    vetted: &Vetted,
    advisories: &Advisories,
) -> HashMap<usize, Arc<InspectedTarball>> {
    let known = vetted.tarballs.iter().map(|inspected| {
        if inspected.evidence.iter().all(|evidence| advisories.still_lists(evidence)) {
            return Arc::clone(inspected);
        }
        let listed = inspected.evidence.iter().filter(|evidence| advisories.still_lists(evidence)).cloned();
        Arc::new(InspectedTarball { evidence: listed.collect(), ..InspectedTarball::clone(inspected) })
    });
    let suspicious = known.filter(|inspected| !inspected.evidence.is_empty());
    let of_entry = |inspected: Arc<InspectedTarball>| {
        let (at, _) = packument.find(&inspected.version)?;
        let stated = package.integrity_of(at)?;
        // An entry that states a SHA-1 alone was matched with the bytes when they were downloaded.
        let is_same = stated.digest(Algorithm::Sha512).is_none_or(|sha512| *sha512 == inspected.sha512);
        is_same.then_some((at, inspected))
    };
    suspicious.filter_map(of_entry).collect()
}

/// Returns the digests that feeds list, by the position of the entry that states the same bytes.
fn listed_digests(packument: &Packument, vetted: &Vetted) -> HashMap<usize, Integrity> {
    let of_entry = |(version, digests): &(Box<str>, Integrity)| {
        let (at, entry) = packument.find(version)?;
        entry.integrity.as_ref()?.is_covered_by(digests).then(|| (at, digests.clone()))
    };
    vetted.listed.iter().filter_map(of_entry).collect()
}

/// Adds the findings of releases whose signatures are false: young ones, `latest`, and those that clients asked for.
fn add_false_signatures(
    table: &mut SignalTable,
    package: &PackageSnapshot,
    verifier: &SignatureVerifier<'_>,
    vetted: &Vetted,
    since: Timestamp,
) {
    let Some(packument) = &package.packument else { return };
    let young = package.provenance.iter().enumerate().filter(|(_, history)| history.effective > since).map(|(at, _)| at);
    let latest = packument.dist_tag("latest").and_then(|version| Some(packument.find(version)?.0));
    let candidates = young.chain(latest).collect();
    for (at, evidence) in verifier.false_signatures(candidates, &vetted.false_signatures) {
        table.add_finding(at, evidence);
    }
}

/// Adds the findings of releases whose provenance is false.
fn add_false_provenance(table: &mut SignalTable, packument: &Packument, vetted: &Vetted) {
    for (at, verified) in vetted.current_provenance(packument) {
        if let ProvenanceStatus::False { why } = &verified.status {
            table.add_finding(at, FindingEvidence { finding: Finding::FalseProvenance, detail: why.to_string() });
        }
    }
}

/// Adds the signal of a release that the registry did not sign although it signed earlier ones.
fn add_lost_signature(report: &mut SignalReport, packument: &Packument, at: usize, verifier: &SignatureVerifier<'_>) {
    let is_unsigned = packument.signatures.of(at).all(|stated| stated.key_id.is_empty());
    if let Some(earlier) = is_unsigned.then(|| verifier.signed_precedent()).flatten() {
        report.add(Signal::SignatureLost, &format!("signed by the registry, such as {earlier}"), "no signature of the registry");
    }
}

/// What releases were built from, as far as that was verified.
struct KnownSources<'a> {
    by_position: HashMap<usize, &'a BuildSource>,
    /// Those of the newest releases of the baseline, newest first, with the version.
    baseline: Vec<(&'a str, &'a BuildSource)>,
}

impl<'a> KnownSources<'a> {
    fn new(releases: &[DatedRelease<'_>], packument: &'a Packument, vetted: &'a Vetted, since: Timestamp) -> Self {
        let valid = vetted.current_provenance(packument).filter_map(|(at, verified)| Some((at, verified.status.source()?)));
        let by_position: HashMap<_, _> = valid.collect();
        let is_baseline = |at: &usize| releases.get(*at).is_some_and(|release| release.is_sound && release.effective <= since);
        let mut baseline: Vec<usize> = by_position.keys().copied().filter(is_baseline).collect();
        baseline.sort_unstable_by_key(|at| std::cmp::Reverse((releases.get(*at).map(|release| release.effective), *at)));
        baseline.truncate(MAX_BASELINE_SOURCES);
        let named = |at: usize| Some((&*packument.entries.get(at)?.key, *by_position.get(&at)?));
        let baseline = baseline.into_iter().filter_map(named).collect();
        Self { by_position, baseline }
    }

    /// Checks whether it is known where the entry at `at` was built, and what it is compared with.
    fn is_comparable(&self, at: usize) -> bool {
        self.by_position.contains_key(&at) && !self.baseline.is_empty()
    }

    /// Adds the signal of a release that was built from another repository, or by another workflow, than those of the baseline.
    fn compare(&self, at: usize, report: &mut SignalReport) {
        let (Some(source), Some((earlier, known))) = (self.by_position.get(&at), self.baseline.first()) else { return };
        if self.baseline.iter().any(|(_, known)| known.is_same(source)) {
            return;
        }
        let is_same_repository = self.baseline.iter().any(|(_, known)| known.is_same_repository(source));
        let signal = if is_same_repository { Signal::ProvenanceWorkflowChanged } else { Signal::ProvenanceRepositoryChanged };
        report.add(signal, &format!("{} in {earlier}", known.describe()), &source.describe());
    }
}

/// Adds what is known of the new dependencies of a release. Returns those that are not looked up yet.
fn add_dependencies(report: &mut SignalReport, effective: Timestamp, known: &KnownDependencies) -> Vec<Arc<str>> {
    let mut pending = Vec::new();
    for name in std::mem::take(&mut report.new_dependencies) {
        let Some(dependency) = known.by_name.get(&name) else {
            report.pending = report.pending.or(Signal::NewbornDependency.into());
            pending.push(name);
            continue;
        };
        report.add_dependency(&name, *dependency, effective);
    }
    if report.signals.contains(Signal::NewbornDependency) {
        report.pending = report.pending.without(Signal::NewbornDependency.into());
    }
    pending
}
