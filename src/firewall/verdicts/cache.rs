//! Caches the verdicts of a package with the package, and what else belongs to one document.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use jiff::Timestamp;

use crate::firewall::package::cohort_table::CohortTable;
use crate::firewall::package::dependency_lookups::DependencyLookups;
use crate::firewall::package::entry_flags::EntryFlags;
use crate::firewall::package::provenance::{self, ProvenanceChecks};
use crate::firewall::package::signal_records::SignalRecords;
use crate::firewall::package::signal_table::SignalTable;
use crate::firewall::package::signals::{self, ProfileView};
use crate::firewall::package::signing::SignatureVerifier;
use crate::firewall::package::stored_tarballs::StoredTarballs;
use crate::firewall::package::vetted_tarballs::{VettedTarballs, compared_with};
use crate::firewall::package::{LinkedFacts, PackageSnapshot, ParentFirstSeen};
use crate::firewall::policy_state::{PolicySnapshot, Profile};
use crate::firewall::singleflight::Turn;
use crate::firewall::verdicts::{VerdictInputs, VerdictTable};
use crate::npm::{Algorithm, Digest, Packument};
use crate::policy::{ApplicableAdvisories, Facts};
use crate::store::InspectedTarball;
use crate::vetting::signatures::SignatureStatus;

/// Tables by profile. That of profile 0, often the only one, is found without a lock.
pub(crate) struct ProfileTables<T> {
    first: ArcSwapOption<T>,
    further: Mutex<HashMap<Profile, Arc<T>>>,
}

impl<T> Default for ProfileTables<T> {
    fn default() -> Self {
        Self { first: ArcSwapOption::empty(), further: Mutex::default() }
    }
}

impl<T> ProfileTables<T> {
    fn find(&self, profile: Profile) -> Option<Arc<T>> {
        if profile == Profile::default() {
            return self.first.load_full();
        }
        self.further.lock().unwrap_or_else(PoisonError::into_inner).get(&profile).cloned()
    }

    fn keep(&self, profile: Profile, table: &Arc<T>) {
        if profile == Profile::default() {
            return self.first.store(Some(Arc::clone(table)));
        }
        self.further.lock().unwrap_or_else(PoisonError::into_inner).insert(profile, Arc::clone(table));
    }
}

impl ProfileTables<VerdictTable> {
    /// Returns the verdicts of a profile for this revision and parent state. Verdicts made before the parent package was known
    /// are not used after it, even if they were stored later.
    fn current(&self, profile: Profile, inputs: VerdictInputs) -> Option<Arc<VerdictTable>> {
        self.find(profile).filter(|table| table.inputs == inputs)
    }
}

/// What was done for entries of one document.
#[derive(Debug, Default)]
pub(crate) struct EntryChecks {
    /// The registry's signature was verified.
    pub signature: EntryFlags,
    pub provenance: ProvenanceChecks,
    /// The tarball was opened again although it is refused.
    pub inspection: EntryFlags,
    /// What the releases to vet ahead of need were last chosen from: a number that differs for other verdicts.
    pub vetting: AtomicU64,
}

/// A package in memory. Dereferences to the snapshot, which never changes.
pub(crate) struct CachedPackage {
    pub snapshot: PackageSnapshot,
    /// Tarballs of this index that are in the store, as far as they were looked up.
    pub tarballs: Arc<StoredTarballs>,
    /// What opening its tarballs showed.
    pub vetted: Arc<VettedTarballs>,
    pub checks: Arc<EntryChecks>,
    /// The document as received, until it is stored.
    pub raw: Arc<Mutex<Option<Bytes>>>,
    /// Verdicts, computed on first use per policy revision.
    verdicts: ProfileTables<VerdictTable>,
    /// Held while a package with many versions is evaluated, so that it is evaluated once.
    pub turn: Turn,
    /// The parent package of its versions, looked up only if a rule needs it.
    pub parent: OnceLock<ParentFirstSeen>,
    /// The new dependencies of its young releases, looked up only if a rule needs them.
    pub dependencies: DependencyLookups,
    /// The signals that are in the ledger.
    pub signal_records: Arc<SignalRecords>,
    /// The versions that wait for siblings, looked up once per policy revision.
    cohorts: ProfileTables<CohortTable>,
    /// Signals, computed on first use per policy revision.
    signals: ProfileTables<SignalTable>,
}

impl Deref for CachedPackage {
    type Target = PackageSnapshot;

    fn deref(&self) -> &PackageSnapshot {
        &self.snapshot
    }
}

impl From<PackageSnapshot> for CachedPackage {
    fn from(snapshot: PackageSnapshot) -> Self {
        Self {
            vetted: Arc::new(VettedTarballs::new(&snapshot.record.inspections, &snapshot.record.provenance)),
            signal_records: Arc::new(SignalRecords::new(&snapshot.record.signals)),
            snapshot,
            tarballs: Arc::default(),
            checks: Arc::default(),
            raw: Arc::default(),
            verdicts: ProfileTables::default(),
            turn: Turn::default(),
            parent: OnceLock::new(),
            dependencies: DependencyLookups::default(),
            cohorts: ProfileTables::default(),
            signals: ProfileTables::default(),
        }
    }
}

impl CachedPackage {
    /// Creates a package whose document is not stored yet.
    pub(crate) fn with_document(snapshot: PackageSnapshot, raw: Bytes) -> Self {
        Self { raw: Arc::new(Mutex::new(Some(raw))), ..Self::from(snapshot) }
    }

    /// Returns the package with the same document in another snapshot of it.
    pub(crate) fn with_snapshot(&self, snapshot: PackageSnapshot) -> Self {
        Self {
            tarballs: Arc::clone(&self.tarballs),
            vetted: Arc::clone(&self.vetted),
            checks: Arc::clone(&self.checks),
            signal_records: Arc::clone(&self.signal_records),
            raw: Arc::clone(&self.raw),
            ..Self::from(snapshot)
        }
    }

    /// Returns the verdicts of the index under the policy of `profile`; empty without a packument.
    pub(crate) fn verdicts(&self, policy_snapshot: &PolicySnapshot, profile: Profile) -> Arc<VerdictTable> {
        if let Some(table) = self.verdicts.current(profile, self.inputs(policy_snapshot, profile)) {
            return table;
        }
        self.assert_off_async_threads();
        let signals = self.signals(policy_snapshot, profile);
        let cohorts = self.cohorts(policy_snapshot, profile);
        let linked = LinkedFacts { parent: self.parent.get(), signals: &signals, cohorts: cohorts.as_deref() };
        let table = Arc::new(VerdictTable::of(self, linked, policy_snapshot, profile));
        self.verdicts.keep(profile, &table);
        table
    }

    /// Checks whether verdicts are computed, or cheap enough to compute on an async thread.
    pub(crate) fn is_judged(&self, policy_snapshot: &PolicySnapshot, profile: Profile) -> bool {
        let is_made = || self.verdicts.current(profile, self.inputs(policy_snapshot, profile)).is_some();
        !self.has_many_versions() || (self.by_version.get().is_some() && is_made())
    }

    fn inputs(&self, policy_snapshot: &PolicySnapshot, profile: Profile) -> VerdictInputs {
        VerdictInputs {
            revision: policy_snapshot.revision,
            has_parent: self.parent.get().is_some(),
            dependencies: self.dependencies.revision(),
            vetted: self.vetted.revision(),
            cohorts: self.cohorts(policy_snapshot, profile).map(|table| table.generation),
        }
    }

    /// Returns the versions that wait for siblings, if these were looked up for this policy revision.
    pub(crate) fn cohorts(&self, policy_snapshot: &PolicySnapshot, profile: Profile) -> Option<Arc<CohortTable>> {
        // Without pins there are none. Most packages have no siblings.
        self.packument.as_ref().filter(|packument| !packument.siblings.pins.is_empty())?;
        self.cohorts.find(profile).filter(|table| table.revision == policy_snapshot.revision)
    }

    pub(crate) fn set_cohorts(&self, profile: Profile, table: CohortTable) {
        self.cohorts.keep(profile, &Arc::new(table));
    }

    /// Computes everything that needs a pass over all versions.
    pub(crate) fn judge(&self, policy_snapshot: &PolicySnapshot, profile: Profile) {
        self.sorted();
        drop(self.verdicts(policy_snapshot, profile));
    }

    /// Returns the signals of its young releases, compared with what the policy of `profile` does not deny.
    pub(crate) fn signals(&self, policy_snapshot: &PolicySnapshot, profile: Profile) -> Arc<SignalTable> {
        let (dependencies, vetted) = (self.dependencies.load(), self.vetted.load());
        let is_current = |table: &Arc<SignalTable>| {
            table.revision == policy_snapshot.revision
                && table.dependencies == dependencies.revision
                && table.vetted == vetted.revision
        };
        if let Some(table) = self.signals.find(profile).filter(is_current) {
            return table;
        }
        let table = Arc::new(signals::compare(
            self,
            ProfileView { policy_snapshot, profile },
            &dependencies,
            &vetted,
            &self.checks.provenance,
        ));
        self.signals.keep(profile, &table);
        table
    }

    /// Verifies the registry's signature of the entry at `at`, unless that was done with the keys of this revision and found nothing
    /// false. Takes 60 µs, and none for a package without signatures.
    pub(crate) fn verify_signature(&self, policy_snapshot: &PolicySnapshot, at: usize) -> Option<SignatureStatus> {
        let packument = self.packument.as_deref().filter(|packument| !packument.signatures.is_empty())?;
        if policy_snapshot.signing_keys.is_empty() || self.checks.signature.has(policy_snapshot.revision, at) {
            return None;
        }
        let entry = packument.entries.get(at)?;
        if self.vetted.load().false_signatures.contains(&entry.key) {
            return None;
        }
        let status = SignatureVerifier::new(self, packument, &policy_snapshot.signing_keys).verify(at);
        if matches!(status, SignatureStatus::False { .. }) {
            self.vetted.add_false_signature(&entry.key);
        } else {
            self.checks.signature.add(policy_snapshot.revision, at, packument.entries.len());
        }
        Some(status)
    }

    /// Returns the young releases whose provenance is not verified yet, if that is due.
    pub(crate) fn unverified<'a>(&self, signals: &'a SignalTable, now: Timestamp) -> &'a [usize] {
        if self.checks.provenance.is_due(now) { &signals.unverified } else { &[] }
    }

    /// Checks whether the provenance of the entry at `at` must be verified before it is served.
    pub(crate) fn needs_provenance(&self, policy_snapshot: &PolicySnapshot, at: usize) -> bool {
        provenance::is_needed(self, &self.checks.provenance, policy_snapshot, at)
    }

    /// Checks whether releases to vet ahead of need were not chosen from these verdicts yet.
    pub(crate) fn is_new_for_vetting(&self, table: &VerdictTable) -> bool {
        let VerdictInputs { revision, vetted, .. } = table.inputs;
        let validated = self.confirmed.validated.as_second().cast_unsigned();
        let number = validated ^ revision.rotate_left(40) ^ vetted.rotate_left(56);
        // Read first: most requests find it unchanged, and a write slows other cores.
        let chosen = &self.checks.vetting;
        chosen.load(Ordering::Relaxed) != number && chosen.swap(number, Ordering::Relaxed) != number
    }

    /// Returns the release whose tarball that of the entry at `at` is compared with, by the signals that were computed last.
    pub(crate) fn predecessor(&self, at: usize) -> Option<usize> {
        self.last_signals()?.predecessors.get(&at).copied().flatten()
    }

    /// Returns a digest of what an inspection of the entry at `at` is compared with now. `revision` is that of inspections.
    pub(crate) fn compared_with(&self, at: usize, revision: u64) -> Option<[u8; 32]> {
        let packument = self.packument.as_ref()?;
        self.last_signals()?;
        let earlier = self.predecessor(at).and_then(|earlier| packument.entries.get(earlier));
        Some(compared_with(packument.entries.get(at)?, earlier, revision))
    }

    /// Returns what opening these bytes as the tarball of the entry at `at` showed, if that is current.
    pub(crate) fn inspection(&self, at: usize, sha512: &Digest, revision: u64) -> Option<Arc<InspectedTarball>> {
        let entry = self.packument.as_ref()?.entries.get(at)?;
        self.vetted.current(&entry.key, sha512, self.compared_with(at, revision)?)
    }

    /// Checks whether the tarball that the entry at `at` states was opened. `revision` is that of inspections.
    pub(crate) fn is_vetted(&self, at: usize, revision: u64) -> bool {
        let sha512 = self.integrity_of(at).and_then(|integrity| integrity.digest(Algorithm::Sha512));
        sha512.is_some_and(|sha512| self.inspection(at, sha512, revision).is_some())
    }

    /// Returns the signals that were computed last, if any. They may be those of an earlier policy revision.
    pub(crate) fn last_signals(&self) -> Option<Arc<SignalTable>> {
        self.signals.find(Profile::default())
    }

    /// Returns the facts of the entry at `at`.
    pub(crate) fn facts<'a>(
        &'a self,
        packument: &'a Packument,
        at: usize,
        (signals, cohorts): (&'a SignalTable, Option<&'a CohortTable>),
        advisories: &'a ApplicableAdvisories<'a>,
    ) -> Facts<'a> {
        self.facts_with(LinkedFacts { parent: self.parent.get(), signals, cohorts }, packument, at, advisories)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_without_parent_package_are_not_used_once_it_is_known() {
        let inputs = |revision, has_parent| VerdictInputs { revision, has_parent, dependencies: 0, vetted: 0, cohorts: None };
        let table = |has_parent| Arc::new(VerdictTable::empty(inputs(1, has_parent)));
        for profile in [Profile::default(), Profile(1)] {
            let cache = ProfileTables::default();
            cache.keep(profile, &table(true));
            // Stored late by a thread that began before the parent was known.
            cache.keep(profile, &table(false));
            assert!(cache.current(profile, inputs(1, true)).is_none() && cache.current(profile, inputs(2, false)).is_none());
            cache.keep(profile, &table(true));
            assert!(cache.current(profile, inputs(1, true)).is_some());
        }
    }
}
