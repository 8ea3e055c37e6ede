//! The new dependencies of young releases: which ones a rule needs, and what their documents say of them.

use std::sync::Arc;

use jiff::Timestamp;

use crate::firewall::package::signal_table::SignalTable;
use crate::firewall::policy_state::PolicySnapshot;
use crate::firewall::verdicts::cache::CachedPackage;
use crate::units::timestamp;
use crate::vetting::{BASELINE_AGE, NewDependency, Signal};

/// Returns the new dependencies of a package that a rule needs and that are not looked up yet, if look-ups are due.
pub(crate) fn pending<'a>(
    package: &CachedPackage,
    signals: &'a SignalTable,
    policy_snapshot: &PolicySnapshot,
    now: Timestamp,
) -> &'a [Arc<str>] {
    let is_needed = || policy_snapshot.asks_signal(Signal::NewbornDependency);
    if signals.pending.is_empty() || !package.dependencies.is_due(now) || !is_needed() { &[] } else { &signals.pending }
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
