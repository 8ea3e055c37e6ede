//! The signals of a package's young releases, and the findings in tarballs that were opened. New dependencies are looked up
//! elsewhere; until then, signals that depend on them are pending.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::firewall::package::PackageSnapshot;
use crate::firewall::package::signal_table::SignalTable;
use crate::firewall::package::vetted_tarballs::Vetted;
use crate::firewall::policy_state::PolicySnapshot;
use crate::npm::{Algorithm, Packument};
use crate::policy::advisories::AdvisoryKind;
use crate::store::InspectedTarball;
use crate::units::timestamp;
use crate::vetting::compare::{Comparison, DatedRelease, SignalReport};
use crate::vetting::{BASELINE_AGE, Signal, Signals};

/// A dependency that was first published so shortly before the release that adds it counts as newborn.
const NEWBORN_AGE: Duration = Duration::from_secs(14 * 24 * 3600);

/// The most new dependencies of one package that are looked up. A release with more of them stays pending.
pub(crate) const MAX_NEW_DEPENDENCIES: usize = 32;

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
    for (at, release) in releases.iter().enumerate().filter(|(_, release)| release.effective > since) {
        let is_subpackage = |name: &str| {
            // Searched, not scanned: a package may pin one part in 100,000 versions. Positions are in the document's order.
            packument.parts.get(name).is_some_and(|pins| pins.binary_search_by_key(&at, |position| *position as usize).is_ok())
        };
        let mut report = comparison.compare(release, is_subpackage);
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
