//! Lists every version of a package with its verdict and digest, to expand a decision to versions. Also evaluates versions as of
//! other instants.

use std::sync::Arc;

use jiff::Timestamp;

use crate::firewall::components::Firewall;
use crate::firewall::error::Result;
use crate::firewall::package::removed::RemovedVersion;
use crate::firewall::packages::request::DocumentNeed;
use crate::firewall::packages::service::EvaluatedPackage;
use crate::firewall::request::Client;
use crate::npm::{Integrity, PackageName, PackumentForm, Version};
use crate::policy::Verdict;
use crate::policy::rules::RequestAccess;

/// The current state of a package.
#[derive(Debug, Clone)]
pub struct PackageInspection {
    pub name: PackageName,
    /// The upstream dist-tags.
    pub dist_tags: Vec<(Box<str>, Box<str>)>,
    /// All upstream versions, hidden or not, in upstream's order.
    pub versions: Vec<InspectedVersion>,
}

/// One version of a package.
#[derive(Debug, Clone)]
pub struct InspectedVersion {
    /// The key in `versions`.
    pub key: Box<str>,
    /// The key as a version, if valid.
    pub version: Option<Version>,
    pub integrity: Option<Integrity>,
    /// The effective publish time.
    pub effective: Timestamp,
    pub verdict: Verdict,
    /// The advisory ids and strong signals that an approval must name.
    pub records: Vec<String>,
    /// Whether people may ask for it, if it is refused.
    pub request: RequestAccess,
}

impl Firewall {
    /// Returns every version of a package with its verdict.
    pub(crate) async fn inspect(&self, client: &Client, name: &PackageName) -> Result<PackageInspection> {
        let EvaluatedPackage { lookup, packument, table, .. } =
            self.0.packages.evaluated(client, name, DocumentNeed::Form(PackumentForm::Abbreviated), None).await?;
        let (policy_snapshot, profile, package) = (self.0.policy.snapshot(), client.profile, Arc::clone(&lookup.package));
        let inspect = move || {
            let name = &packument.name;
            let advisories = policy_snapshot.advisories.of(name.as_str()).applicable_to(package.dated(&packument));
            let rules = policy_snapshot.policy(profile).for_package(name);
            let signals = package.signals(&policy_snapshot, profile);
            let inspected = |(at, entry): (usize, &crate::npm::packument::index::VersionEntry)| {
                let facts = package.facts(&packument, at, (&signals, None), &advisories);
                InspectedVersion {
                    key: entry.key.clone(),
                    version: entry.version.clone(),
                    integrity: facts.integrity.cloned(),
                    effective: facts.effective,
                    verdict: table.verdict(at).clone(),
                    records: rules.required_overrides(&facts).into_iter().map(str::to_owned).collect(),
                    request: rules.request_access(&facts, package.confirmed.validated),
                }
            };
            let versions = packument.entries.iter().enumerate().map(inspected).collect();
            PackageInspection { name: name.clone(), dist_tags: packument.dist_tags.clone(), versions }
        };
        self.0.workers.run_over_versions(&lookup.package, client.address, inspect).await
    }

    /// Returns the verdict of each version as of its instant, with current rules and feeds and the decisions of that time; `None`
    /// for a version that was never seen.
    pub(crate) async fn evaluate_as_of(
        &self,
        client: &Client,
        name: &PackageName,
        wanted: &[(&str, Timestamp)],
    ) -> Result<Vec<Option<Verdict>>> {
        let package = self.0.packages.lookup(client, name, DocumentNeed::Form(PackumentForm::Abbreviated), None).await?.package;
        let present = self.0.policy.snapshot();
        let packument = package.packument.as_deref();
        let versions = packument.into_iter().flat_map(|packument| package.dated(packument));
        let advisories = present.advisories.of(name.as_str()).applicable_to(versions);
        let signals = package.signals(&present, client.profile);
        let judge_one = |(version, at): &(&str, Timestamp)| {
            let policy_snapshot = present.as_of(*at);
            let rules = policy_snapshot.policy(client.profile).for_package(name);
            if let Some((packument, (place, _))) = packument.and_then(|packument| Some((packument, packument.find(version)?))) {
                let facts = package.facts(packument, place, (&signals, None), &advisories);
                return Some(policy_snapshot.evaluate(&rules, &facts, *at, &mut ()));
            }
            let removed = RemovedVersion::find(&package, version, &policy_snapshot)?;
            Some(policy_snapshot.evaluate(&rules, &removed.facts(Some(*at)), *at, &mut ()))
        };
        Ok(wanted.iter().map(judge_one).collect())
    }
}
