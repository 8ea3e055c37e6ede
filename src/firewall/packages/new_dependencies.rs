//! The new dependencies of young releases: which ones a rule needs, and what their documents say of them.

use std::sync::Arc;

use jiff::Timestamp;

use crate::firewall::package::signal_table::SignalTable;
use crate::firewall::policy_state::{PolicySnapshot, Profile};
use crate::firewall::verdicts::cache::CachedPackage;
use crate::units::timestamp;
use crate::vetting::{BASELINE_AGE, NewDependency, Signal};

/// Returns the signals of a package if a rule needs new dependencies that are not looked up yet, and look-ups are due.
pub(crate) fn pending(
    package: &CachedPackage,
    policy_snapshot: &PolicySnapshot,
    profile: Profile,
    now: Timestamp,
) -> Option<Arc<SignalTable>> {
    if !package.dependencies.is_due(now) {
        return None;
    }
    let signals = package.signals(policy_snapshot, profile);
    let is_needed = !signals.pending.is_empty() && policy_snapshot.asks_signal(Signal::NewbornDependency);
    is_needed.then_some(signals)
}

/// Returns what the packument of a dependency says of it.
pub(crate) fn describe(package: &CachedPackage) -> NewDependency {
    let Some(packument) = &package.packument else { return NewDependency::Absent };
    let latest = packument.dist_tag("latest").and_then(|version| Some(packument.find(version)?.0));
    // Not only `latest`: a release can pin another version.
    let since = timestamp::saturating_sub(package.confirmed.validated, BASELINE_AGE);
    let matters = |at: usize| Some(at) == latest || package.provenance[at].effective > since;
    let entries = packument.entries.iter().enumerate();
    NewDependency::Present {
        first_published: package.first_published,
        has_install_script: entries.filter(|(_, entry)| entry.traits.install_script).any(|(at, _)| matters(at)),
    }
}
