//! Every version of a package with its verdict and its bytes' digest: what a decision is expanded to when it is taken. And what is said
//! of some as of other instants. Refuses to decide, and to serve anything.

use std::sync::Arc;

use jiff::Timestamp;

use crate::firewall::Components;
use crate::firewall::error::FirewallError;
use crate::firewall::package::removed::RemovedVersion;
use crate::firewall::packages::fetch::DocumentNeed;
use crate::firewall::queries::packument::EvaluatedPackage;
use crate::firewall::request::Client;
use crate::npm::PackumentForm;
use crate::npm::{Integrity, PackageName, Version};
use crate::policy::{Verdict, judge};

/// A package as it stands.
#[derive(Debug, Clone)]
pub struct PackageInspection {
    /// The package.
    pub name: PackageName,
    /// Where dist-tags point upstream.
    pub dist_tags: Vec<(Box<str>, Box<str>)>,
    /// The versions upstream has, hidden or not, in its order.
    pub versions: Vec<InspectedVersion>,
}

/// One of its versions.
#[derive(Debug, Clone)]
pub struct InspectedVersion {
    /// The key in `versions`.
    pub key: Box<str>,
    /// The same as a version, where it is one.
    pub version: Option<Version>,
    /// What its tarball hashes to.
    pub integrity: Option<Integrity>,
    /// The effective publish time.
    pub effective: Timestamp,
    /// What is said of it now.
    pub verdict: Verdict,
    /// The records and strong signals that an approval of it has to name.
    pub records: Vec<String>,
}

impl Components {
    pub(crate) async fn inspect(
        self: &Arc<Self>,
        asker: &Client,
        name: &PackageName,
    ) -> Result<PackageInspection, FirewallError> {
        let EvaluatedPackage { reading, packument, screen, .. } =
            self.spoken(asker, name, DocumentNeed::Form(PackumentForm::Abbreviated), None).await?;
        let (world, profile, known) = (self.world(), asker.profile, Arc::clone(&reading.known));
        let inspect = move || {
            let name = &packument.name;
            let advisories = world.advisories.of(name.as_str()).among(known.dated(&packument));
            let rules = world.policy(profile).about(name);
            let inspected = |(at, entry): (usize, &crate::npm::packument::index::VersionEntry)| {
                let facts = known.facts(&packument, at, &advisories);
                InspectedVersion {
                    key: entry.key.clone(),
                    version: entry.version.clone(),
                    integrity: facts.integrity.cloned(),
                    effective: facts.effective,
                    verdict: screen.verdict(at).clone(),
                    records: rules.overridden(&facts).into_iter().map(str::to_owned).collect(),
                }
            };
            let versions = packument.entries.iter().enumerate().map(inspected).collect();
            PackageInspection { name: name.clone(), dist_tags: packument.dist_tags.clone(), versions }
        };
        self.over_versions(&reading.known, asker.address, inspect).await
    }

    /// What is to be said of each version as of its instant, by the rules and feeds of now and the decisions of then; `None` of one
    /// that nobody ever saw.
    pub(crate) async fn judge_then(
        self: &Arc<Self>,
        asker: &Client,
        name: &PackageName,
        wanted: &[(&str, Timestamp)],
    ) -> Result<Vec<Option<Verdict>>, FirewallError> {
        let known = self.reading(asker, name, DocumentNeed::Form(PackumentForm::Abbreviated), None).await?.known;
        let present = self.world();
        let packument = known.packument.as_deref();
        let versions = packument.into_iter().flat_map(|packument| known.dated(packument));
        let advisories = present.advisories.of(name.as_str()).among(versions);
        let judge_one = |(version, at): &(&str, Timestamp)| {
            let world = present.as_of(*at);
            let rules = world.policy(asker.profile).about(name);
            if let Some((packument, (place, _))) = packument.and_then(|packument| Some((packument, packument.find(version)?))) {
                let facts = known.facts(packument, place, &advisories);
                return Some(judge(&rules, &world.standing, &facts, *at));
            }
            let departed = RemovedVersion::find(&known, version, &world)?;
            Some(judge(&rules, &world.standing, &departed.facts(Some(*at)), *at))
        };
        Ok(wanted.iter().map(judge_one).collect())
    }
}
