//! Records the signals of young releases in the ledger and counts them, so that they outlast the releases.

use crate::firewall::packages::Services;
use crate::firewall::policy_state::{PolicySnapshot, Profile};
use crate::firewall::verdicts::cache::CachedPackage;
use crate::store::PackageChange;
use crate::vetting::compare::SignalEvidence;

/// Records and counts the signals of a package that are new. Blocks.
pub(crate) fn record(services: &Services, package: &CachedPackage, policy_snapshot: &PolicySnapshot, profile: Profile) {
    let Some(packument) = &package.packument else { return };
    let table = package.signals(policy_snapshot, profile);
    if table.reports.is_empty() {
        return;
    }
    let changed = package.signal_records.add(packument, &table, services.policy.now());
    if changed.is_empty() {
        return;
    }
    let verdicts = package.verdicts(policy_snapshot, profile);
    for new in &changed {
        // The signals that the rule tests which refuses the version.
        let rule = verdicts.verdict(new.at).reason().map(|reason| &reason.rule);
        let tested = rule.map(|rule| policy_snapshot.policy(profile).signals_of(rule)).unwrap_or_default();
        services.recorder.signals(new.added, tested);
        if !new.added.and(tested).is_empty() {
            let texts: Vec<_> = new.recorded.evidence.iter().map(SignalEvidence::describe_with_name).collect();
            services.recorder.event("signals", Some(&packument.name), Some(&new.recorded.version), texts.join("; "));
        }
    }
    let signals = changed.into_iter().map(|new| new.recorded).collect();
    let change = PackageChange { signals, ..PackageChange::default() };
    services.recorder.package_change(&package.cache_key.key(&package.registry), &change);
}
