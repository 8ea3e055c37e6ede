//! Looks up the siblings of a package, within limits, so that versions wait for them.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, timeout_at};

use crate::firewall::package::cohort_table::{self, CohortTable};
use crate::firewall::packages::cohorts::{Candidate, SiblingVersion, Spec, candidates, describe, is_due, reachable, specs};
use crate::firewall::packages::request::DocumentNeed;
use crate::firewall::packages::service::PackageService;
use crate::firewall::policy_state::PolicySnapshot;
use crate::firewall::request::Client;
use crate::firewall::verdicts::cache::CachedPackage;
use crate::npm::PackageName;

/// The most siblings of a package that are looked up. Further ones are not waited for.
const MAX_SIBLINGS: usize = 128;

/// The most versions of siblings that are described. Each may need many others.
const MAX_SIBLING_VERSIONS: usize = 1_024;

/// How long a request waits for siblings.
const SIBLING_WAIT: Duration = Duration::from_secs(2);

impl PackageService {
    /// Looks up the siblings of a package, if that is due. Waits only where a version is open by its own rules; otherwise the
    /// look-ups continue in the background.
    pub(crate) async fn load_cohorts(self: &Arc<Self>, client: &Client, package: &Arc<CachedPackage>) {
        let policy_snapshot = self.services.policy.snapshot();
        if !is_due(package, &policy_snapshot, client.profile) {
            return;
        }
        let (judged, snapshot, profile) = (Arc::clone(package), Arc::clone(&policy_snapshot), client.profile);
        let find = move || candidates(&judged, &snapshot, profile);
        let mut found = self.services.workers.run_over_versions(package, client.address, find).await.unwrap_or_default();
        let (opened, packument) = (self.opened.of(package, client.profile), package.packument.as_deref());
        let key = |candidate: &Candidate| packument.and_then(|packument| Some(&packument.entries.get(candidate.at)?.key));
        found.retain(|candidate| key(candidate).is_some_and(|key| !opened.contains(key)));
        let validated = package.confirmed.validated;
        let has_opened = found.iter().any(|candidate| candidate.opens <= validated);
        if !has_opened {
            // Nothing that is open depends on siblings. Without a version to wait for, this table is final.
            package.set_cohorts(client.profile, CohortTable { revision: policy_snapshot.revision, ..CohortTable::default() });
        }
        if found.is_empty() {
            return;
        }
        let (service, client, package) = (Arc::clone(self), client.clone(), Arc::clone(package));
        let resolving = self.services.workers.track(async move {
            let waits = service.resolve_cohorts(&client, &package, &policy_snapshot, &found).await;
            package.set_cohorts(client.profile, waits);
        });
        let resolving = tokio::spawn(resolving);
        if has_opened {
            // A failed task hides nothing.
            let _ = resolving.await;
        }
    }

    /// Looks up the parent of a sibling. Boxed with its type hidden: a parent may be rechecked, which works out its own cohorts.
    fn load_parent_of<'a>(
        self: &'a Arc<Self>,
        client: &'a Client,
        package: &'a CachedPackage,
    ) -> Pin<Box<dyn Future<Output = bool> + Send + 'a>> {
        Box::pin(self.load_parent(client, package))
    }

    async fn resolve_cohorts(
        self: &Arc<Self>,
        client: &Client,
        package: &CachedPackage,
        policy_snapshot: &Arc<PolicySnapshot>,
        found: &[Candidate],
    ) -> CohortTable {
        let mut table = CohortTable { revision: policy_snapshot.revision, generation: 1, ..CohortTable::default() };
        let Some(packument) = &package.packument else { return table };
        let needed: Vec<Spec> = found.iter().flat_map(|candidate| specs(packument.pins_of(candidate.at))).collect();
        let siblings = self.load_siblings(client, needed, policy_snapshot).await;
        let mut opened = Vec::new();
        for candidate in found {
            let entry = &packument.entries[candidate.at];
            let members = reachable(&siblings, specs(packument.pins_of(candidate.at)), entry.publisher.as_ref());
            let wait = cohort_table::wait(candidate.opens, &members);
            match wait.filter(|wait| wait.until > package.confirmed.validated) {
                Some(wait) => drop(table.waits.insert(candidate.at, wait)),
                None if candidate.opens <= package.confirmed.validated => opened.push(entry.key.clone()),
                None => {}
            }
        }
        self.opened.add(package, client.profile, opened.into_iter());
        table
    }

    /// Looks up siblings, and those that they need in turn.
    async fn load_siblings(
        self: &Arc<Self>,
        client: &Client,
        mut needed: Vec<Spec>,
        policy_snapshot: &Arc<PolicySnapshot>,
    ) -> HashMap<Spec, SiblingVersion> {
        let deadline = Instant::now() + SIBLING_WAIT;
        let (mut packages, mut siblings) = (HashMap::<Arc<str>, Option<Arc<CachedPackage>>>::new(), HashMap::new());
        while !needed.is_empty() {
            let mut names: Vec<_> =
                needed.iter().map(|(name, _)| name).filter(|name| !packages.contains_key(*name)).cloned().collect();
            names.sort_unstable();
            names.dedup();
            names.truncate(MAX_SIBLINGS.saturating_sub(packages.len()));
            packages.extend(names.iter().map(|name| (Arc::clone(name), None)));
            let mut lookups = JoinSet::new();
            for name in names {
                let (service, client) = (Arc::clone(self), client.clone());
                lookups.spawn(async move {
                    let parsed = PackageName::parse(&name).ok()?;
                    let lookup = service.lookup_unlinked(&client, &parsed, DocumentNeed::Index, None).await.ok()?;
                    Some((name, lookup.package))
                });
            }
            while let Ok(Some(joined)) = timeout_at(deadline, lookups.join_next()).await {
                if let Ok(Some((name, package))) = joined {
                    // A new part of an established package does not wait like a new package.
                    let _ = timeout_at(deadline, self.load_parent_of(client, &package)).await;
                    packages.insert(name, Some(package));
                }
            }
            let mut next = Vec::new();
            for spec in std::mem::take(&mut needed) {
                let package = packages.get(&spec.0).and_then(Option::as_ref).filter(|_| !siblings.contains_key(&spec));
                let Some(package) = package.filter(|_| siblings.len() < MAX_SIBLING_VERSIONS) else { continue };
                let (judged, snapshot, profile) = (Arc::clone(package), Arc::clone(policy_snapshot), client.profile);
                let version = Arc::clone(&spec.1);
                let describe = move || describe(&judged, &version, &snapshot, profile);
                let described = self.services.workers.run_over_versions(package, client.address, describe).await;
                if let Ok(Some(sibling)) = described {
                    next.extend(sibling.needs.iter().cloned());
                    siblings.insert(spec, sibling);
                }
            }
            needed = next;
        }
        siblings
    }
}
