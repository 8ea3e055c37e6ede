//! The signals of a package's young releases, and the findings in tarballs that were opened. New dependencies are looked up
//! elsewhere; until then, signals that depend on them are pending.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::firewall::package::PackageSnapshot;
use crate::firewall::package::signal_table::SignalTable;
use crate::firewall::package::signing::SignatureVerifier;
use crate::firewall::package::vetted_tarballs::Vetted;
use crate::firewall::policy_state::PolicySnapshot;
use crate::npm::{Algorithm, Packument};
use crate::policy::advisories::AdvisoryKind;
use crate::store::InspectedTarball;
use crate::units::timestamp;
use crate::vetting::compare::{Comparison, DatedRelease, SignalReport};
use crate::vetting::provenance::{BuildSource, ProvenanceStatus};
use crate::vetting::{BASELINE_AGE, Finding, FindingEvidence, Signal, Signals};

/// A dependency that was first published so shortly before the release that adds it counts as newborn.
const NEWBORN_AGE: Duration = Duration::from_secs(14 * 24 * 3600);

/// The most new dependencies of one package that are looked up. A release with more of them stays pending.
pub(crate) const MAX_NEW_DEPENDENCIES: usize = 32;

/// The most releases of the baseline whose provenance a young release is compared with.
pub(crate) const MAX_BASELINE_SOURCES: usize = 3;

/// What upstream says of a dependency that no earlier release had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NewDependency {
    /// It does not exist. An attacker may create it later.
    Absent,
    Present {
        /// `None` if upstream sends no publish times.
        first_published: Option<Timestamp>,
        /// Whether its `latest` version or a young one has install scripts.
        has_install_script: bool,
    },
}

/// New dependencies by name.
pub(crate) type NewDependencies = HashMap<Arc<str>, NewDependency>;

/// Compares the young releases of a package with its older ones.
pub(crate) fn compare(
    package: &PackageSnapshot,
    policy_snapshot: &PolicySnapshot,
    dependencies: Option<&NewDependencies>,
    vetted: &Vetted,
) -> SignalTable {
    let mut table = SignalTable {
        revision: policy_snapshot.revision,
        vetted: vetted.revision,
        has_dependencies: dependencies.is_some(),
        ..SignalTable::default()
    };
    let now = package.confirmed.validated;
    let window = policy_snapshot.signal_window().max(BASELINE_AGE);
    let since = timestamp::saturating_sub(now, window);
    let Some(packument) = &package.packument else { return table };
    table.inspections = inspections(package, packument, vetted);
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
    let advisories = policy_snapshot.advisories.of(packument.name.as_str()).applicable_to(package.dated(packument));
    let releases = packument.entries.iter().zip(&*package.provenance).map(|(entry, history)| {
        let is_malware =
            advisories.matching(&entry.key, entry.version.as_ref()).any(|advisory| advisory.kind == AdvisoryKind::Malware);
        let is_sound = !is_malware && !history.integrity_changed && entry.inconsistency.is_none();
        DatedRelease { entry, effective: history.effective, is_sound }
    });
    let releases: Vec<_> = releases.collect();
    let comparison = Comparison::new(&releases, packument.contents, window, now);
    let sources = KnownSources::new(&releases, packument, vetted, since);
    for (at, release) in releases.iter().enumerate().filter(|(_, release)| release.effective > since) {
        let is_subpackage = |name: &str| {
            // Searched, not scanned: a package may pin one part in 100,000 versions. Positions are in the document's order.
            packument.parts.get(name).is_some_and(|pins| pins.binary_search_by_key(&at, |position| *position as usize).is_ok())
        };
        let predecessor = comparison.predecessor(release.entry).and_then(|earlier| packument.find(&earlier.key));
        table.predecessors.insert(at, predecessor.map(|(earlier, _)| earlier));
        let mut report = comparison.compare(release, is_subpackage);
        if let Some(verifier) = &verifier {
            add_lost_signature(&mut report, packument, at, verifier);
        } else if ring.is_empty() || !packument.contents.has_signatures {
            report.unobservable = report.unobservable.or([Signal::SignatureLost].into_iter().collect());
        }
        sources.compare(at, &mut report);
        table.pending.extend(add_dependencies(&mut report, release.effective, dependencies));
        if report != SignalReport::default() {
            table.reports.insert(at, report);
        }
    }
    table.pending.sort_unstable();
    table.pending.dedup();
    table
}

/// Returns the inspections with findings, by the position of the entry that states the same bytes.
fn inspections(package: &PackageSnapshot, packument: &Packument, vetted: &Vetted) -> HashMap<usize, Arc<InspectedTarball>> {
    let suspicious = vetted.tarballs.iter().filter(|inspected| !inspected.evidence.is_empty());
    let of_entry = |inspected: &Arc<InspectedTarball>| {
        let (at, entry) = packument.find(&inspected.version)?;
        let stated = package.provenance[at].digests.as_ref().or(entry.integrity.as_ref())?;
        // An entry that states a SHA-1 alone was matched with the bytes when they were downloaded.
        let is_same = stated.digest(Algorithm::Sha512).is_none_or(|sha512| *sha512 == inspected.sha512);
        is_same.then(|| (at, Arc::clone(inspected)))
    };
    suspicious.filter_map(of_entry).collect()
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
fn add_dependencies(report: &mut SignalReport, effective: Timestamp, known: Option<&NewDependencies>) -> Vec<Arc<str>> {
    let mut pending = Vec::new();
    for name in std::mem::take(&mut report.new_dependencies) {
        let Some(dependency) = known.and_then(|known| known.get(&name)) else {
            report.pending = [Signal::NewbornDependency].into_iter().collect();
            pending.push(name);
            continue;
        };
        match *dependency {
            NewDependency::Absent => report.add(Signal::NewbornDependency, "", &format!("{name}, which does not exist")),
            NewDependency::Present { first_published: Some(first), .. }
                if timestamp::saturating_add(first, NEWBORN_AGE) > effective =>
            {
                let first = timestamp::format_utc(first);
                report.add(Signal::NewbornDependency, "", &format!("{name}, first published {first}"));
            }
            NewDependency::Present { has_install_script: true, .. } => {
                report.add(Signal::NewbornDependency, "", &format!("{name}, which has install scripts"));
            }
            NewDependency::Present { .. } => {}
        }
    }
    if !report.signals.and([Signal::NewbornDependency].into_iter().collect()).is_empty() {
        report.pending = Signals::NONE;
    }
    pending
}
