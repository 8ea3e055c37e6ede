//! Tarballs asked for beside their packument: an install from a lockfile asks for tarballs alone, and would otherwise wait for
//! upstream twice in a row. What comes early stays in its socket until the verdict; refused, it is never read.
//!
//! Refuses to judge, and to read a byte of a body.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::task::JoinHandle;

use crate::firewall::Components;
use crate::firewall::package::CacheKey;
use crate::firewall::packages::fetch::ABSENT;
use crate::firewall::request::Client;
use crate::net::FairPermit;
use crate::npm::PackageName;
use crate::store::StoreError;
use crate::units::timestamp;
use crate::upstream::{Registry, TarballBody, UpstreamError};

/// A package as one partition sees it, and a version.
type EarlyKey = (CacheKey, Box<str>);

/// Tarballs that are on their way before anything is known of them.
#[derive(Default)]
pub(crate) struct EarlyRequests {
    under_way: Mutex<HashMap<EarlyKey, Weak<EarlyRequest>>>,
    /// Where the tarballs of each registry were found.
    places: Mutex<HashMap<Arc<str>, Places>>,
}

/// How many tarballs of a registry lay at the customary place, and how many elsewhere. One package that states an odd place does
/// not end the guessing for all others.
#[derive(Debug, Clone, Copy, Default)]
struct Places {
    customary: u32,
    elsewhere: u32,
}

/// From this many tarballs on, older ones count less: a registry may change its ways.
const REMEMBERED_PLACES: u32 = 1_000;

/// A body whose head may have come, and its place among the downloads.
pub(crate) struct OpenedDownload {
    /// What upstream answered at the customary place.
    pub body: Result<TarballBody, UpstreamError>,
    /// Given back when the body was read or dropped.
    pub permit: FairPermit,
}

/// A tarball on its way. Dropped by the last who waits for it, it is asked for no more.
pub(crate) struct EarlyRequest(Mutex<Option<JoinHandle<OpenedDownload>>>);

impl Drop for EarlyRequest {
    fn drop(&mut self) {
        if let Some(task) = self.0.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

impl EarlyRequests {
    /// Takes over what is on its way for `version`, if something is: for the one flight that fetches it.
    pub(crate) fn take(&self, slot: &CacheKey, version: &str) -> Option<JoinHandle<OpenedDownload>> {
        let key = (slot.clone(), version.into());
        let aside = self.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&key)?.upgrade()?;
        aside.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Learns whether a tarball of `registry` lies at the customary place.
    pub(crate) fn learn(&self, registry: &Registry, is_customary: bool) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let places = places.entry(Arc::clone(registry.id())).or_default();
        let count = if is_customary { &mut places.customary } else { &mut places.elsewhere };
        *count += 1;
        if places.customary + places.elsewhere > REMEMBERED_PLACES {
            (places.customary, places.elsewhere) = (places.customary / 2, places.elsewhere / 2);
        }
    }

    /// Whether most tarballs of `registry` lie at the customary place, as far as is known.
    fn is_worth_trying(&self, registry: &Registry) -> bool {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.get(registry.id()).is_none_or(|places| places.elsewhere <= places.customary)
    }
}

impl Components {
    /// Asks for a tarball whose package is not known yet, where registries place it by custom. `None` when the package is
    /// known, or there is no room: then the tarball is asked for after its verdict, as ever.
    pub(crate) async fn set_out(
        self: &Arc<Self>,
        asker: &Client,
        name: &PackageName,
        version: &str,
    ) -> Option<Arc<EarlyRequest>> {
        let registry = Arc::clone(self.registries.of(name));
        let slot = CacheKey::of(name, &registry, &asker.authorization);
        if self.is_known(&slot) {
            return None;
        }
        if !self.asides.is_worth_trying(&registry) {
            return None;
        }
        // What was seen before this process began may well be in the store, with its tarballs.
        let (inner, key, of) = (Arc::clone(self), slot.key(&registry), Box::<str>::from(version));
        let look_up = move || Ok::<_, StoreError>(inner.ledger.was_seen(&key)? || !inner.ledger.tarballs(&key, &of)?.is_empty());
        if self.blocking(look_up).await.ok()?.ok()? {
            return None;
        }
        let mut under_way = self.asides.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (slot, Box::from(version));
        if let Some(aside) = under_way.get(&key).and_then(Weak::upgrade) {
            return Some(aside);
        }
        // Looked at again under the lock: an aside is taken over only when the package is known, so whoever finds neither is
        // the first, and whoever came while another's was taken over sees the package.
        if self.is_known(&key.0) {
            return None;
        }
        let permit = self.downloads.of(&registry).try_acquire(asker.address)?;
        let (authorization, name, version) = (asker.authorization.clone(), name.clone(), key.1.clone());
        let task = tokio::spawn(async move {
            let url = registry.customary_tarball(&name, &version);
            OpenedDownload { body: registry.tarball(&url, &authorization).await, permit }
        });
        let aside = Arc::new(EarlyRequest(Mutex::new(Some(task))));
        under_way.retain(|_, aside| aside.strong_count() > 0);
        under_way.insert(key, Arc::downgrade(&aside));
        Some(aside)
    }

    /// Whether something is known of the package, if only that it was not there a minute ago.
    pub(crate) fn is_known(&self, slot: &CacheKey) -> bool {
        let is_absent = || self.absent.get(slot).is_some_and(|since| timestamp::is_within(since, ABSENT, self.clock.now()));
        self.documents.contains_key(slot) || self.documents.contains_key(&slot.shared()) || is_absent()
    }
}
