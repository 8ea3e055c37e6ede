//! Serves attestations. They are fetched once, since they do not change for the same bytes, and the verdict is checked for every
//! request.

use crate::firewall::components::Firewall;
use crate::firewall::error::{Result, no_version};
use crate::firewall::packages::request::DocumentNeed;
use crate::firewall::packages::service::EvaluatedPackage;
use crate::firewall::request::Client;
use crate::npm::{PackageName, PackumentForm};
use crate::upstream::{PassthroughRequest, PassthroughResponse};

impl Firewall {
    /// Returns the attestations of one visible version.
    pub(crate) async fn attestations(
        &self,
        client: &Client,
        name: &PackageName,
        version: &str,
        passage: PassthroughRequest,
    ) -> Result<PassthroughResponse> {
        let need = DocumentNeed::Form(PackumentForm::Abbreviated);
        let mut evaluated = self.0.packages.evaluated(client, name, need, None).await?;
        if evaluated.packument.find(version).is_none()
            && self.0.packages.recheck(client, &evaluated.lookup, version, need).await.is_some()
        {
            evaluated = self.0.packages.evaluated(client, name, need, None).await?;
        }
        let EvaluatedPackage { lookup, packument, table, .. } = evaluated;
        let shown = packument.find(version).filter(|(at, _)| table.shown[*at]);
        let Some(digest) = shown.and_then(|(_, entry)| Some(entry.integrity.as_ref()?.strongest().clone())) else {
            return Err(no_version(name, version));
        };
        if !passage.is_plain_get() {
            return self.0.passthrough.send(client, Some(name), passage).await;
        }
        let key = (lookup.package.cache_key.clone(), Box::from(version), digest);
        Ok(self.0.attestations.fetch(client, key).await?.response.clone())
    }
}
