//! Requests a tarball in parallel with its packument: an install from a lockfile requests only tarballs and would wait for
//! upstream twice. The response stays in its socket until the verdict; if refused, its body is never read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::task::JoinHandle;

use crate::firewall::package::CacheKey;
use crate::firewall::packages::Services;
use crate::firewall::packages::fetch_slots::Slots;
use crate::firewall::request::Client;
use crate::net::FairPermit;
use crate::npm::PackageName;
use crate::store::StoreError;
use crate::upstream::{Registry, TarballBody, UpstreamError};

/// A package view and a version.
type EarlyKey = (CacheKey, Box<str>);

/// Early requests for tarballs of unknown packages.
pub(crate) struct EarlyRequests {
    under_way: Mutex<HashMap<EarlyKey, Weak<EarlyRequest>>>,
    /// Where each registry places its tarballs.
    places: Mutex<HashMap<Arc<str>, Places>>,
    slots: Arc<Slots>,
    services: Arc<Services>,
}

/// How many tarballs of a registry were at the conventional URL, and how many elsewhere. One package with an unusual URL does not
/// stop early requests for the others.
#[derive(Debug, Clone, Copy, Default)]
struct Places {
    customary: u32,
    elsewhere: u32,
}

/// The number of tarballs from which older ones count half, since a registry may change its layout.
const REMEMBERED_PLACES: u32 = 1_000;

/// The response to an early request, with its download slot, which is released with the body.
pub(crate) struct OpenedDownload {
    pub body: Result<TarballBody, UpstreamError>,
    pub permit: FairPermit,
}

/// An early request, aborted when its last holder drops it.
pub(crate) struct EarlyRequest(Mutex<Option<JoinHandle<OpenedDownload>>>);

impl Drop for EarlyRequest {
    fn drop(&mut self) {
        if let Some(task) = self.0.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

impl EarlyRequests {
    pub(crate) fn new(services: &Arc<Services>, slots: &Arc<Slots>) -> Self {
        let (services, slots) = (Arc::clone(services), Arc::clone(slots));
        Self { under_way: Mutex::default(), places: Mutex::default(), slots, services }
    }

    /// Takes the early request for `version`, if one is running, for the download that will use it.
    pub(crate) fn take(&self, cache_key: &CacheKey, version: &str) -> Option<JoinHandle<OpenedDownload>> {
        let key = (cache_key.clone(), version.into());
        let early = self.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&key)?.upgrade()?;
        early.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Records whether a tarball of `registry` is at the conventional URL.
    pub(crate) fn learn(&self, registry: &Registry, is_customary: bool) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let places = places.entry(Arc::clone(registry.id())).or_default();
        let count = if is_customary { &mut places.customary } else { &mut places.elsewhere };
        *count += 1;
        if places.customary + places.elsewhere > REMEMBERED_PLACES {
            (places.customary, places.elsewhere) = (places.customary / 2, places.elsewhere / 2);
        }
    }

    /// Checks whether most known tarballs of `registry` are at the conventional URL.
    fn is_worth_trying(&self, registry: &Registry) -> bool {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.get(registry.id()).is_none_or(|places| places.elsewhere <= places.customary)
    }

    /// Starts an early request for a tarball whose package is unknown, at the conventional URL. `None` if the package is known or
    /// no slot is free; the tarball is then requested after its verdict.
    pub(crate) async fn start(&self, client: &Client, name: &PackageName, version: &str) -> Option<Arc<EarlyRequest>> {
        let registry = Arc::clone(self.services.registries.of(name));
        let cache_key = CacheKey::of(name, &registry, &client.authorization);
        if self.services.cache.is_known(&cache_key, self.services.policy.now()) || !self.is_worth_trying(&registry) {
            return None;
        }
        // A package recorded by an earlier process may be in the store with its tarballs.
        let (ledger, key, of) = (Arc::clone(&self.services.ledger), cache_key.key(&registry), Box::<str>::from(version));
        let look_up = move || Ok::<_, StoreError>(ledger.was_seen(&key)? || !ledger.tarballs(&key, &of)?.is_empty());
        if self.services.workers.run(look_up).await.ok()?.ok()? {
            return None;
        }
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (cache_key, Box::from(version));
        if let Some(early) = under_way.get(&key).and_then(Weak::upgrade) {
            return Some(early);
        }
        // Checked again under the lock: an early request is taken only once its package is known. A caller that finds neither is
        // the first; one that arrives after the taking sees the package.
        if self.services.cache.is_known(&key.0, self.services.policy.now()) {
            return None;
        }
        let permit = self.slots.of(&registry).try_acquire(client.address)?;
        let (authorization, name, version) = (client.authorization.clone(), name.clone(), key.1.clone());
        let task = tokio::spawn(async move {
            let url = registry.conventional_tarball_url(&name, &version);
            OpenedDownload { body: registry.tarball(&url, &authorization).await, permit }
        });
        let early = Arc::new(EarlyRequest(Mutex::new(Some(task))));
        under_way.retain(|_, early| early.strong_count() > 0);
        under_way.insert(key, Arc::downgrade(&early));
        Some(early)
    }
}
