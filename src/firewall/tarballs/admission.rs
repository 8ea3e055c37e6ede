//! Decides whether a tarball may be served, and which digests its bytes must match.

use std::sync::Arc;

use crate::firewall::error::{Refusal, Result, no_version};
use crate::firewall::package::removed::RemovedVersion;
use crate::firewall::packages::Services;
use crate::firewall::policy_state::{PolicySnapshot, Profile};
use crate::firewall::recorder::Recorder;
use crate::firewall::request::Client;
use crate::firewall::verdicts::cache::CachedPackage;
use crate::npm::{Integrity, Packument};
use crate::policy::{Verdict, Warning};
use crate::store::Release;
use crate::units::timestamp;

/// A tarball that may be served.
pub(crate) struct AdmittedTarball {
    /// Every digest that its bytes must match: stated now or before, computed, and approved.
    pub integrity: Integrity,
    /// The index of the packument entry. `None` for a version that was removed upstream, which can only come from the store.
    pub entry: Option<usize>,
    /// Warnings that do not refuse it.
    pub notes: Vec<Warning>,
    /// Whether a rule may refuse it for what it holds.
    pub needs_vetting: bool,
    /// The policy revision that admitted it.
    pub revision: u64,
    /// The revision of what was found about the package's versions.
    pub vetted: u64,
}

/// Returns what may be served and the digests that it must match, or the refusal. With many versions, only a visible version is
/// admitted on the async thread.
pub(crate) async fn admit(
    services: &Services,
    client: &Client,
    package: &Arc<CachedPackage>,
    version: &str,
    policy_snapshot: &Arc<PolicySnapshot>,
) -> Result<AdmittedTarball> {
    let is_shown = || {
        let found = package.packument.as_ref().and_then(|packument| packument.find(version));
        package.is_judged(policy_snapshot, client.profile)
            && found.is_some_and(|(at, _)| package.verdicts(policy_snapshot, client.profile).shown[at])
    };
    if !package.has_many_versions() || is_shown() {
        return decide(&services.recorder, client, package, version, policy_snapshot);
    }
    let (recorder, policy_snapshot) = (Arc::clone(&services.recorder), Arc::clone(policy_snapshot));
    let (client, known, version) = (client.clone(), Arc::clone(package), Box::<str>::from(version));
    let address = client.address;
    let decide = move || decide(&recorder, &client, &known, &version, &policy_snapshot);
    Box::pin(services.workers.run_over_versions(package, address, decide)).await?
}

fn decide(
    recorder: &Recorder,
    client: &Client,
    package: &CachedPackage,
    version: &str,
    policy_snapshot: &PolicySnapshot,
) -> Result<AdmittedTarball> {
    let name = &package.cache_key.name;
    let Some((packument, (at, entry))) =
        package.packument.as_ref().and_then(|packument| Some((packument, packument.find(version)?)))
    else {
        return admit_removed(recorder, client, package, version, policy_snapshot);
    };
    let table = package.verdicts(policy_snapshot, client.profile);
    recorder.overbroad_advisories(name, &table);
    if !table.shown[at] {
        return Err(recorder.hidden_version(client, packument, &table, at));
    }
    // A version without an integrity is hidden.
    let stated = entry.integrity.as_ref().ok_or_else(|| no_version(name, version))?;
    let integrity = package.provenance.get(at).and_then(|provenance| provenance.digests.as_ref()).unwrap_or(stated);
    let integrity = policy_snapshot.active_decisions.with_approved_digests(name, version, integrity);
    let window = policy_snapshot.policy(client.profile).finding_window();
    let until = window.map(|window| timestamp::saturating_add(package.provenance[at].effective, window));
    let needs_vetting = until.is_some_and(|until| package.confirmed.validated < until);
    Ok(AdmittedTarball {
        integrity,
        entry: Some(at),
        notes: table.notes(at).to_vec(),
        needs_vetting,
        revision: policy_snapshot.revision,
        vetted: table.inputs.vetted,
    })
}

/// Admits a version that was removed upstream: old versions are still served to clients whose lockfile contains them.
fn admit_removed(
    recorder: &Recorder,
    client: &Client,
    package: &CachedPackage,
    version: &str,
    policy_snapshot: &PolicySnapshot,
) -> Result<AdmittedTarball> {
    let name = &package.cache_key.name;
    let vetted = package.vetted.revision();
    let removed = evaluate_removed(package, version, policy_snapshot, client.profile).ok_or_else(|| no_version(name, version))?;
    let (verdict, first, notes) = removed;
    let table = package.verdicts(policy_snapshot, client.profile);
    let nearest = package.packument.as_ref().and_then(|packument| table.nearest_allowed(packument, version));
    if let Some(refusal) = Refusal::of_version(name, version, &verdict, nearest) {
        // It may exist for other tokens, which must not be disclosed.
        let is_told = |packument: &Arc<Packument>| packument.find_departed(version).is_some();
        if package.cache_key.is_client_scoped() && !package.packument.as_ref().is_some_and(is_told) {
            return Err(no_version(name, version));
        }
        return Err(recorder.refusal(client, refusal));
    }
    let integrity = first.and_then(Release::known_digests).ok_or_else(|| no_version(name, version))?;
    let integrity = policy_snapshot.active_decisions.with_approved_digests(name, version, &integrity);
    let revision = policy_snapshot.revision;
    Ok(AdmittedTarball { integrity, entry: None, notes, needs_vetting: false, revision, vetted })
}

/// Returns the verdict, first release and warnings of a version that was removed upstream; `None` if it never existed.
pub(crate) fn evaluate_removed<'a>(
    package: &'a CachedPackage,
    version: &'a str,
    policy_snapshot: &'a PolicySnapshot,
    profile: Profile,
) -> Option<(Verdict, Option<&'a Release>, Vec<Warning>)> {
    let vetted = package.vetted.load();
    let removed = RemovedVersion::find(package, version, policy_snapshot)?.with_digests(vetted.listed_digests(version));
    let facts = removed.facts(None);
    let rules = policy_snapshot.policy(profile).for_package(facts.name);
    let mut notes = Vec::new();
    let verdict = policy_snapshot.evaluate(&rules, &facts, package.confirmed.validated, &mut notes);
    Some((verdict, removed.first, notes))
}
