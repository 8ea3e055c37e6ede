//! What people who decide on a version want to know: what its manifest changed, and who uses the package.

use std::sync::Arc;

use crate::firewall::components::Firewall;
use crate::firewall::error::Result;
use crate::firewall::packages::request::DocumentNeed;
use crate::firewall::packages::service::EvaluatedPackage;
use crate::firewall::request::Client;
use crate::npm::packument::index::VersionEntry;
use crate::npm::{PackageName, Packument, PackumentForm};
use crate::store::{Exposure, StoreError};
use crate::vetting::manifest_changes::ManifestChanges;

impl Firewall {
    /// Returns the requests for tarballs of a package, by the ledger. Blocks.
    pub(crate) fn exposure_of(&self, name: &PackageName) -> std::result::Result<Vec<Exposure>, StoreError> {
        self.0.packages.services.ledger.exposure(name, None)
    }

    /// Returns the earlier version that a manifest is compared with, and what changed. The earlier version is `predecessor`, or else
    /// the highest one below. `None` if there is none, or if upstream sent another document meanwhile.
    pub(crate) async fn manifest_changes(
        &self,
        client: &Client,
        name: &PackageName,
        (version, predecessor): (&str, Option<&str>),
    ) -> Result<Option<(Box<str>, ManifestChanges)>> {
        let need = DocumentNeed::Form(PackumentForm::Full);
        let EvaluatedPackage { lookup, packument, .. } = self.0.packages.evaluated(client, name, need, None).await?;
        let permit = self.0.packages.loader.loads.acquire(client.address).await;
        let (read, document) = self.0.packages.document_with(client, lookup.clone(), permit).await?;
        if read.package.content() != lookup.package.content() {
            return Ok(None);
        }
        let (of, wanted) = (Arc::clone(&packument), Box::<str>::from(version));
        let predecessor = predecessor.map(Box::<str>::from);
        let compare = move || {
            let (_, entry) = of.find(&wanted)?;
            let earlier = match predecessor {
                Some(key) => of.find(&key).map(|(_, earlier)| earlier),
                None => highest_below(&of, entry),
            }?;
            let (old, new) = (earlier.spans.manifest.of(&document), entry.spans.manifest.of(&document));
            Some((earlier.key.clone(), ManifestChanges::between(old, new)?))
        };
        self.0.workers.run_over_versions(&lookup.package, client.address, compare).await
    }
}

/// Returns the highest version below an entry. A prerelease is taken only if there is no other version.
fn highest_below<'a>(packument: &'a Packument, entry: &VersionEntry) -> Option<&'a VersionEntry> {
    let own = entry.version.as_ref()?;
    let below = packument.entries.iter().filter_map(|earlier| Some((earlier.version.as_ref()?, earlier)));
    let below = below.filter(|(version, _)| *version < own);
    below.max_by_key(|(version, _)| (!version.is_prerelease(), *version)).map(|(_, earlier)| earlier)
}
