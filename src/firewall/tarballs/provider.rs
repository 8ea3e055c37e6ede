//! Provides verified tarballs: from the store, for clients entitled to the stored bytes, or by one shared download.

use std::sync::Arc;

use crate::firewall::error::{FirewallError, Result, no_version};
use crate::firewall::package::PackageSnapshot;
use crate::firewall::package::stored_tarballs::StoredTarball;
use crate::firewall::packages::Services;
use crate::firewall::packages::fetch_slots::{SharedFetches, Slots};
use crate::firewall::request::Client;
use crate::firewall::tarballs::admission::AdmittedTarball;
use crate::firewall::tarballs::download::{DownloadSource, Downloader, TarballKey, VerifiedTarball, open_blob};
use crate::firewall::tarballs::entitlement::{Entitled, EntitlementService};
use crate::firewall::verdicts::cache::CachedPackage;
use crate::npm::{Algorithm, Integrity, Sha1Check};
use crate::store::TarballSource;

pub(crate) struct TarballProvider {
    pub services: Arc<Services>,
    pub entitlements: Arc<EntitlementService>,
    pub downloader: Arc<Downloader>,
    pub running: SharedFetches<TarballKey, VerifiedTarball>,
    pub slots: Arc<Slots>,
}

impl TarballProvider {
    /// Downloads a tarball that is not in the store, once for all clients that wait for it.
    pub(crate) async fn download(
        &self,
        client: &Client,
        package: &Arc<CachedPackage>,
        version: &str,
        admitted: &AdmittedTarball,
    ) -> Result<VerifiedTarball> {
        let cache_key = &package.cache_key;
        let entry =
            package.packument.as_ref().and_then(|packument| Some((admitted.entry?, packument.entries.get(admitted.entry?)?)));
        let Some((at, entry)) = entry else {
            if cache_key.is_client_scoped() {
                return Err(no_version(&cache_key.name, version));
            }
            return Err(FirewallError::NotFound(
                format!("this version of {} was removed upstream and is not in the cache", cache_key.name).into(),
            ));
        };
        let source = DownloadSource {
            package: Arc::clone(package),
            at,
            cache_key: cache_key.clone(),
            version: entry.key.clone(),
            url: entry.tarball.clone(),
            registry: Arc::clone(&package.registry),
            authorization: client.authorization.clone(),
            sha1: sha1_check(package, version, &admitted.integrity),
            revision: admitted.revision,
        };
        let (downloader, integrity) = (Arc::clone(&self.downloader), admitted.integrity.clone());
        let key = (cache_key.clone(), entry.key.clone(), entry.tarball.clone(), integrity.clone());
        let slots = self.slots.of(&package.registry);
        let fetch = move |request| downloader.fetch(source, integrity, request);
        self.running.join(key, client.address, &slots, fetch).await
    }

    /// Returns the tarball from the store if it came from the stated URL, matches every digest, and the client is entitled to it.
    pub(crate) async fn stored(
        &self,
        client: &Client,
        package: &Arc<CachedPackage>,
        version: &str,
        admitted: &AdmittedTarball,
    ) -> Result<Option<VerifiedTarball>> {
        let Some(stored) = self.find_stored(package, version, admitted).await? else { return Ok(None) };
        let Some(bytes) = open_blob(&*self.services.blobs, &stored.name).await else { return Ok(None) };
        let entitled = match admitted.entry {
            _ if stored.is_public() => Entitled::Yes,
            None if self.entitlements.is_entitled_to_departed(package, &stored) => Entitled::Yes,
            None => Entitled::Unclear,
            Some(_) if self.entitlements.is_entitled(package, &stored) => Entitled::Yes,
            Some(at) => Box::pin(self.entitlements.ask(package, at, &stored, client)).await?,
        };
        Ok((entitled == Entitled::Yes).then(|| VerifiedTarball { bytes, digests: stored.digests.clone() }))
    }

    /// Looks up the stored tarball of an entry in memory, then in the ledger, which records the source of each tarball.
    async fn find_stored(
        &self,
        package: &Arc<CachedPackage>,
        version: &str,
        admitted: &AdmittedTarball,
    ) -> Result<Option<Arc<StoredTarball>>> {
        let integrity = &admitted.integrity;
        let in_memory = admitted.entry.and_then(|at| package.tarballs.get(at));
        if let Some(stored) = in_memory.filter(|stored| integrity.is_covered_by(&stored.digests)) {
            return Ok(Some(stored));
        }
        let (ledger, key, of) =
            (Arc::clone(&self.services.ledger), package.cache_key.key(&package.registry), Box::<str>::from(version));
        let sources = self.services.workers.run(move || ledger.tarballs(&key, &of)).await?;
        let sources = sources.unwrap_or_else(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "ledger read failed");
            Vec::new()
        });
        let packument = package.packument.as_ref();
        let entry = packument.and_then(|packument| Some((admitted.entry?, packument.entries.get(admitted.entry?)?)));
        let fits = |source: &TarballSource| {
            entry.is_none_or(|(_, entry)| source.address == entry.tarball) && integrity.is_covered_by(&source.digests)
        };
        let mut fitting =
            sources.into_iter().filter(fits).filter_map(|source| StoredTarball::recall(&package.cache_key.name, source));
        let first = fitting.next();
        let stored = match fitting.find(StoredTarball::is_public) {
            // For a removed version any URL is valid; a public one is preferred.
            Some(public) if entry.is_none() => Some(public),
            _ => first,
        };
        let Some(stored) = stored.map(Arc::new) else { return Ok(None) };
        if let (Some((at, _)), Some(packument)) = (entry, packument) {
            package.tarballs.set(at, packument.entries.len(), &stored);
        }
        Ok(Some(stored))
    }
}

/// Returns how to compute the SHA-1 of a version. Collisions matter only if no other digest was known before its bytes were
/// downloaded.
fn sha1_check(package: &PackageSnapshot, version: &str, integrity: &Integrity) -> Sha1Check {
    let is_weak = |integrity: &Integrity| integrity.strongest().algorithm() == Algorithm::Sha1;
    let is_known_by_sha1_alone =
        is_weak(integrity) || package.releases_of(version).filter_map(|row| row.integrity.as_ref()).any(is_weak);
    if is_known_by_sha1_alone { Sha1Check::DetectCollisions } else { Sha1Check::Plain }
}
