//! Summarizes all versions of a package for its page: dates, verdicts and dist-tags.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::firewall::client_scope;
use crate::firewall::components::Firewall;
use crate::firewall::error::Result;
use crate::firewall::explain::explanation::DistTagChange;
use crate::firewall::packages::request::DocumentNeed;
use crate::firewall::packages::service::EvaluatedPackage;
use crate::firewall::request::Client;
use crate::npm::{PackageName, PackumentForm};
use crate::policy::Verdict;

/// All versions of a package, as one policy judges them now.
#[derive(Debug, Clone)]
pub(crate) struct PackageOverview {
    pub(crate) name: PackageName,
    /// The registry's address, without credentials.
    pub(crate) upstream: Arc<str>,
    /// When upstream last confirmed the package.
    pub(crate) validated: Timestamp,
    pub(crate) minimum_release_age: Duration,
    pub(crate) tags: Vec<DistTagChange>,
    /// The newest first.
    pub(crate) versions: Vec<OverviewVersion>,
}

#[derive(Debug, Clone)]
pub(crate) struct OverviewVersion {
    /// The key in `versions`.
    pub(crate) key: Box<str>,
    /// The time from which its age counts.
    pub(crate) effective: Timestamp,
    pub(crate) verdict: Verdict,
}

impl Firewall {
    /// Returns all versions of a package with their verdicts.
    pub(crate) async fn overview(&self, client: &Client, name: &PackageName) -> Result<PackageOverview> {
        client_scope::check(client, name)?;
        // The form that an explanation needs as well, which is one click away.
        let need = DocumentNeed::Form(PackumentForm::Full);
        let EvaluatedPackage { lookup, packument, table, .. } = self.0.packages.evaluated(client, name, need, None).await?;
        let (policy_snapshot, profile, package) = (self.0.policy.snapshot(), client.profile, Arc::clone(&lookup.package));
        let summarize = move || {
            let advisories = policy_snapshot.advisories.of(packument.name.as_str()).applicable_to(package.dated(&packument));
            let signals = package.signals(&policy_snapshot, profile);
            let summary = |(at, entry): (usize, &crate::npm::packument::index::VersionEntry)| OverviewVersion {
                key: entry.key.clone(),
                effective: package.facts(&packument, at, (&signals, None), &advisories).effective,
                verdict: table.verdict(at).clone(),
            };
            let mut versions: Vec<_> = packument.entries.iter().enumerate().map(summary).collect();
            versions.sort_by_key(|version| std::cmp::Reverse(version.effective));
            let tags = table.each_tag(&packument).map(|(tag, upstream, shown)| DistTagChange {
                tag: tag.into(),
                upstream: upstream.into(),
                shown: shown.map(Into::into),
            });
            PackageOverview {
                name: packument.name.clone(),
                upstream: Arc::clone(package.registry.id()),
                validated: package.confirmed.validated,
                minimum_release_age: policy_snapshot.policy(profile).minimum_release_age(&packument.name),
                tags: tags.collect(),
                versions,
            }
        };
        self.0.workers.run_over_versions(&lookup.package, client.address, summarize).await
    }
}
