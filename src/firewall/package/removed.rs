//! A version that the newest packument lacks, as the ledger first saw it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::firewall::package::{PackageSnapshot, history};
use crate::firewall::policy_state::PolicySnapshot;
use crate::npm::{Algorithm, Integrity, Packument, Version};
use crate::policy::{Advisories, ApplicableAdvisories, Facts, Presence, Removal, UnknownFacts};
use crate::store::{InspectedTarball, Release};

pub(crate) struct RemovedVersion<'a> {
    package: &'a PackageSnapshot,
    version: &'a str,
    parsed: Option<Version>,
    /// The release as first seen; `None` if it was never seen.
    pub first: Option<&'a Release>,
    /// Every digest that its bytes must match.
    digests: Option<Integrity>,
    published: Option<Timestamp>,
    effective: Timestamp,
    longest_age: Duration,
    advisories: ApplicableAdvisories<'a>,
    /// All advisories, which list files too.
    listed: &'a Advisories,
}

impl<'a> RemovedVersion<'a> {
    /// Returns what is known of a removed version; `None` if it never existed.
    pub(crate) fn find(package: &'a PackageSnapshot, version: &'a str, policy_snapshot: &'a PolicySnapshot) -> Option<Self> {
        let rows: Vec<&Release> = package.releases_of(version).collect();
        let removed = package.packument.as_ref().and_then(|packument| packument.find_departed(version));
        let first = history::first_known_release(&rows);
        if first.is_none() && removed.is_none() {
            return None;
        }
        let advisories = policy_snapshot.advisories.of(package.cache_key.name.as_str());
        let seen = if advisories.has_wholesale() { versions_ever_seen(package) } else { Vec::new() };
        Some(Self {
            package,
            version,
            parsed: Version::parse(version),
            first,
            digests: first.and_then(Release::known_digests),
            published: first.and_then(|row| row.published).or_else(|| removed.and_then(|(_, published)| *published)),
            effective: first.map_or(package.confirmed.validated, Release::counts_from),
            longest_age: policy_snapshot.longest_age(),
            listed: &policy_snapshot.advisories,
            advisories: advisories
                .applicable_to(seen.iter().map(|(key, version, effective)| (*key, version.as_ref(), *effective))),
        })
    }

    /// Adds digests of its bytes that the record lacks.
    #[must_use]
    pub(crate) fn with_digests(self, more: Option<&Integrity>) -> Self {
        let union = self.digests.as_ref().zip(more).and_then(|(known, more)| known.union(more));
        Self { digests: union.or(self.digests), ..self }
    }

    pub(crate) fn is_known(package: &PackageSnapshot, version: &str) -> bool {
        let has_left = |packument: &Arc<Packument>| packument.find_departed(version).is_some();
        package.releases_of(version).any(|row| row.integrity.is_some()) || package.packument.as_ref().is_some_and(has_left)
    }

    /// Returns the facts of the version, as of `at` if given: the version may still have existed then.
    pub(crate) fn facts(&self, at: Option<Timestamp>) -> Facts<'_> {
        let last_seen = self.first.and_then(|row| row.state.gone);
        let was_there = at.is_some_and(|at| last_seen.is_some_and(|gone| at <= gone));
        let replaced = self.first.is_some_and(|row| row.state.replaced);
        let removed = Presence::Gone(Removal { last_seen, replaced, longest_age: self.longest_age });
        let sha512 = self.digests.as_ref().and_then(|digests| digests.digest(Algorithm::Sha512));
        let is_same = |known: &&InspectedTarball| *known.version == *self.version && Some(&known.sha512) == sha512;
        let inspected = self.package.record.inspections.iter().find(is_same);
        let evidence = inspected.map(|inspected| &*inspected.evidence).unwrap_or_default();
        let recorded = self.package.record.signals.iter().find(|recorded| *recorded.version == *self.version);
        let signals = recorded.map(|recorded| &*recorded.evidence).unwrap_or_default();
        Facts {
            published: self.published,
            has_integrity: self.first.is_some(),
            integrity: self.digests.as_ref(),
            first_published: self.package.first_published,
            presence: if was_there { Presence::Present } else { removed },
            parsed: self.parsed.as_ref(),
            advisories: &self.advisories,
            signals: signals.iter().map(|evidence| evidence.signal).collect(),
            evidence: signals,
            findings: evidence
                .iter()
                .filter(|evidence| self.listed.still_lists(evidence))
                .map(|evidence| evidence.finding)
                .collect(),
            finding_evidence: evidence,
            // The ledger does not record them.
            unknown: UnknownFacts::ALL,
            ..Facts::of(&self.package.cache_key.name, self.version, self.effective)
        }
    }

    pub(crate) fn is_later_than(&self, at: Option<Timestamp>) -> bool {
        at.is_some_and(|at| self.effective > at || self.published.is_some_and(|published| published > at))
    }
}

/// Returns every version ever seen with its effective time. A removal does not make the package less established.
fn versions_ever_seen(package: &PackageSnapshot) -> Vec<(&str, Option<Version>, Timestamp)> {
    package.assert_off_async_threads();
    let current =
        package.packument.iter().flat_map(|packument| package.dated(packument)).map(|(key, _, effective)| (key, effective));
    let recorded = package.record.releases.iter().map(|release| (&*release.version, release.counts_from()));
    let mut seen: Vec<(&str, Timestamp)> = current.chain(recorded).collect();
    seen.sort_unstable();
    seen.reverse();
    // Keep the latest time of each version.
    seen.dedup_by_key(|(key, _)| *key);
    seen.into_iter().map(|(key, effective)| (key, Version::parse(key), effective)).collect()
}
