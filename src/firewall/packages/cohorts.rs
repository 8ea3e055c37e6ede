//! Works out which versions wait for siblings: exact dependencies of the same scope and publisher that open later. A package that is
//! published in parts, minutes apart, opens as a whole. Look-ups that fail hide nothing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use moka::sync::Cache;

use crate::firewall::package::CacheKey;
use crate::firewall::package::cohort_table::{CohortMember, MAX_COHORT_WAIT};
use crate::firewall::policy_state::{PolicySnapshot, Profile};
use crate::firewall::verdicts::cache::CachedPackage;
use crate::npm::packument::index::SiblingPin;
use crate::policy::{Facts, NO_ADVISORIES};
use crate::units::timestamp;
use crate::vetting::{Findings, Signals};

/// The newest versions of a package for which siblings are looked up.
const MAX_VERSIONS: usize = 32;

/// Packages whose opened versions are remembered.
const MAX_REMEMBERED: u64 = 10_000;

/// The versions that were visible. A sibling that is held later does not close them.
pub(crate) struct OpenedVersions(Cache<(CacheKey, Profile), Arc<HashSet<Box<str>>>>);

impl Default for OpenedVersions {
    fn default() -> Self {
        Self(Cache::new(MAX_REMEMBERED))
    }
}

impl OpenedVersions {
    pub(crate) fn of(&self, package: &CachedPackage, profile: Profile) -> Arc<HashSet<Box<str>>> {
        self.0.get(&(package.cache_key.clone(), profile)).unwrap_or_default()
    }

    /// Remembers versions that became visible. Those that left upstream are forgotten, which bounds the set.
    pub(crate) fn add(&self, package: &CachedPackage, profile: Profile, versions: impl Iterator<Item = Box<str>>) {
        let Some(packument) = &package.packument else { return };
        let known = self.of(package, profile);
        let opened = known.iter().cloned().chain(versions).filter(|version| packument.find(version).is_some()).collect();
        self.0.insert((package.cache_key.clone(), profile), Arc::new(opened));
    }
}

/// Name and version.
pub(crate) type Spec = (Arc<str>, Arc<str>);

/// A version whose own rules open it soon, or opened it recently.
pub(crate) struct Candidate {
    pub at: usize,
    pub opens: Timestamp,
}

/// One version of a sibling.
pub(crate) struct SiblingVersion {
    pub member: CohortMember,
    pub publisher: Option<Arc<str>>,
    pub needs: Vec<Spec>,
}

/// Checks whether the siblings of a package must be looked up before its verdicts are complete.
pub(crate) fn is_due(package: &CachedPackage, policy_snapshot: &PolicySnapshot, profile: Profile) -> bool {
    let has_pins = package.packument.as_ref().is_some_and(|packument| !packument.siblings.pins.is_empty());
    has_pins && package.cohorts(policy_snapshot, profile).is_none()
}

pub(crate) fn specs(pins: &[SiblingPin]) -> Vec<Spec> {
    pins.iter().map(|pin| (Arc::clone(&pin.name), Arc::clone(&pin.version))).collect()
}

/// Returns the newest versions with siblings that rules open in the future, or opened within the longest wait.
pub(crate) fn candidates(package: &CachedPackage, policy_snapshot: &PolicySnapshot, profile: Profile) -> Vec<Candidate> {
    let Some(packument) = &package.packument else { return Vec::new() };
    let validated = package.confirmed.validated;
    let since = timestamp::saturating_sub(timestamp::saturating_sub(validated, policy_snapshot.longest_age()), MAX_COHORT_WAIT);
    let mut pinning: Vec<usize> = packument.siblings.pins.iter().map(|pin| pin.position as usize).collect();
    pinning.dedup();
    pinning.retain(|at| package.provenance[*at].effective > since);
    pinning.sort_by_key(|at| std::cmp::Reverse(package.provenance[*at].effective));
    pinning.truncate(MAX_VERSIONS);
    let opens = openings(package, &pinning, policy_snapshot, profile);
    let candidates = pinning.into_iter().zip(opens).filter_map(|(at, opens)| Some(Candidate { at, opens: opens? }));
    candidates.filter(|candidate| timestamp::saturating_add(candidate.opens, MAX_COHORT_WAIT) > validated).collect()
}

/// Returns when the rules on ages and signals open entries. Advisories, findings and decisions are left out: they change later, and
/// what is open must not close for a sibling.
fn openings(
    package: &CachedPackage,
    entries: &[usize],
    policy_snapshot: &PolicySnapshot,
    profile: Profile,
) -> Vec<Option<Timestamp>> {
    let Some(packument) = package.packument.as_ref().filter(|_| !entries.is_empty()) else { return Vec::new() };
    let advisories = policy_snapshot.advisories.of(packument.name.as_str()).applicable_to(package.dated(packument));
    let rules = policy_snapshot.policy(profile).for_package(&packument.name);
    let signals = package.signals(policy_snapshot, profile);
    let opening = |at: &usize| {
        let facts = Facts {
            advisories: &NO_ADVISORIES,
            pending: Signals::NONE,
            findings: Findings::NONE,
            finding_evidence: &[],
            ..package.facts(packument, *at, (&signals, None), &advisories)
        };
        rules.opening(&facts)
    };
    entries.iter().map(opening).collect()
}

pub(crate) fn describe(
    package: &CachedPackage,
    version: &str,
    policy_snapshot: &PolicySnapshot,
    profile: Profile,
) -> Option<SiblingVersion> {
    let packument = package.packument.as_ref()?;
    let (at, entry) = packument.find(version)?;
    let opens = openings(package, &[at], policy_snapshot, profile).into_iter().next().flatten();
    let member =
        CohortMember { spec: format!("{}@{version}", packument.name), effective: package.provenance[at].effective, opens };
    Some(SiblingVersion { member, publisher: entry.publisher.clone(), needs: specs(packument.pins_of(at)) })
}

/// Returns the siblings that a version needs, directly or through others. One with another publisher does not count; where a
/// document names no publisher, the name is enough.
pub(crate) fn reachable(
    siblings: &HashMap<Spec, SiblingVersion>,
    first: Vec<Spec>,
    publisher: Option<&Arc<str>>,
) -> Vec<CohortMember> {
    let (mut seen, mut open, mut members) = (HashSet::new(), first, Vec::new());
    while let Some(spec) = open.pop() {
        let Some(sibling) = siblings.get(&spec).filter(|_| !seen.contains(&spec)) else { continue };
        let is_other = publisher.zip(sibling.publisher.as_ref()).is_some_and(|(own, other)| own != other);
        seen.insert(spec);
        if !is_other {
            members.push(sibling.member.clone());
            open.extend(sibling.needs.iter().cloned());
        }
    }
    members
}
