//! Which releases of a package need their provenance verified, and what was done about it. Pure, apart from the flags.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use jiff::Timestamp;

use crate::firewall::package::PackageSnapshot;
use crate::firewall::package::entry_flags::EntryFlags;
use crate::firewall::package::vetted_tarballs::Vetted;
use crate::firewall::policy_state::PolicySnapshot;
use crate::npm::Packument;
use crate::npm::packument::index::VersionEntry;
use crate::units::timestamp;
use crate::vetting::{Signal, Signals};

/// The most releases of the baseline whose provenance a young release is compared with.
pub(crate) const MAX_BASELINE_SOURCES: usize = 3;

/// The most young releases of one package whose provenance is verified before a client asks for their tarballs: the newest ones.
/// Some packages publish each commit.
const MAX_AHEAD: usize = 16;

/// Seconds until attestations that did not arrive in time are asked for again. Each round lets a request wait.
const RETRY_SECONDS: i64 = 10;

/// The rounds after which attestations that never arrive count as those that cannot be fetched: they hide nothing.
const MAX_ROUNDS: u32 = 3;

/// The signals that need verified provenance.
pub(crate) fn provenance_signals() -> Signals {
    [Signal::ProvenanceRepositoryChanged, Signal::ProvenanceWorkflowChanged].into_iter().collect()
}

/// What was done about the provenance of one document's entries.
#[derive(Debug, Default)]
pub(crate) struct ProvenanceChecks {
    done: EntryFlags,
    /// The Unix time from which the next round is due.
    due: AtomicI64,
    /// The rounds in which something did not arrive in time.
    rounds: AtomicU32,
}

impl ProvenanceChecks {
    /// Checks whether the provenance of the entry at `at` was asked for in this revision, whatever that showed.
    pub(crate) fn is_done(&self, revision: u64, at: usize) -> bool {
        self.done.has(revision, at)
    }

    /// Checks whether a round may begin.
    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        now.as_second() >= self.due.load(Ordering::Relaxed)
    }

    /// Notes that the provenance of the entry at `at` of `count` was asked for.
    pub(crate) fn finish(&self, revision: u64, at: usize, count: usize) {
        self.done.add(revision, at, count);
    }

    /// Notes that something did not arrive in the round that began at `now`. Returns whether another round is worth a try. Requests
    /// before the next round is due count as the same one.
    pub(crate) fn retry(&self, now: Timestamp) -> bool {
        if !self.is_due(now) {
            return self.rounds.load(Ordering::Relaxed) < MAX_ROUNDS;
        }
        self.due.store(now.as_second().saturating_add(RETRY_SECONDS), Ordering::Relaxed);
        self.rounds.fetch_add(1, Ordering::Relaxed) + 1 < MAX_ROUNDS
    }
}

/// Checks whether policy and configuration need verified provenance.
pub(crate) fn is_asked(policy_snapshot: &PolicySnapshot) -> bool {
    policy_snapshot.trust_root.is_some() && provenance_signals().iter().any(|signal| policy_snapshot.asks_signal(signal))
}

/// Checks whether it is known where an entry was built, or that it states that falsely. What could not be decided may be decided by
/// authorities that were renewed since.
pub(crate) fn is_decided(vetted: &Vetted, entry: &VersionEntry) -> bool {
    vetted.provenance_of(entry).is_some_and(|verified| verified.status.is_decided())
}

/// Returns the releases that the provenance of the entry at `at` is compared with, newest first.
pub(crate) fn baseline(package: &PackageSnapshot, packument: &Packument, at: usize) -> Vec<usize> {
    let is_attested = |other, entry: &VersionEntry| other != at && entry.outline.has_slsa_provenance;
    package.newest_baseline(packument, MAX_BASELINE_SOURCES, is_attested)
}

/// Returns the newest releases since `since` whose provenance was not asked for yet.
pub(crate) fn unverified(
    package: &PackageSnapshot,
    checks: &ProvenanceChecks,
    policy_snapshot: &PolicySnapshot,
    since: Timestamp,
) -> Vec<usize> {
    let Some(packument) = package.packument.as_ref().filter(|_| is_asked(policy_snapshot)) else { return Vec::new() };
    let entries = packument.entries.iter().zip(&*package.provenance).enumerate();
    let young = entries.filter(|(_, (entry, history))| entry.outline.has_slsa_provenance && history.effective > since);
    let mut newest: Vec<_> = young.map(|(at, (_, history))| (std::cmp::Reverse(history.effective), at)).collect();
    newest.sort_unstable();
    newest.truncate(MAX_AHEAD);
    newest.into_iter().map(|(_, at)| at).filter(|at| !checks.is_done(policy_snapshot.revision, *at)).collect()
}

/// Checks whether the entry at `at` is as young as a rule on signals may ask, and its provenance was not asked for yet.
pub(crate) fn is_needed(
    package: &PackageSnapshot,
    checks: &ProvenanceChecks,
    policy_snapshot: &PolicySnapshot,
    at: usize,
) -> bool {
    let entry = package.packument.as_ref().and_then(|packument| packument.entries.get(at));
    if !entry.is_some_and(|entry| entry.outline.has_slsa_provenance) || checks.is_done(policy_snapshot.revision, at) {
        return false;
    }
    let since = timestamp::saturating_sub(package.confirmed.validated, policy_snapshot.comparison_window());
    package.provenance.get(at).is_some_and(|history| history.effective > since) && is_asked(policy_snapshot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attestations_that_never_arrive_are_asked_for_three_times() {
        let (checks, now) = (ProvenanceChecks::default(), Timestamp::from_second(1_000).unwrap());
        let later = Timestamp::from_second(1_010).unwrap();
        assert!(checks.is_due(now) && checks.retry(now));
        assert!(!checks.is_due(now) && (0..9).all(|_| checks.retry(now)));
        assert!(checks.is_due(later) && checks.retry(later));
        let last = Timestamp::from_second(1_020).unwrap();
        assert!(!checks.retry(last) && !checks.retry(last));
        checks.finish(4, 1, 2);
        assert!(checks.is_done(4, 1) && !checks.is_done(4, 0) && !checks.is_done(5, 1));
    }
}
