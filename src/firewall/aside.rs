//! Tarballs asked for beside their packument: an install from a lockfile asks for tarballs alone, and would otherwise wait for
//! upstream twice in a row. What comes early stays in its socket until the verdict; refused, it is never read.
//!
//! Refuses to judge, and to read a byte of a body.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;

use super::known::Slot;
use super::{Asker, Inner};
use crate::npm::PackageName;
use crate::upstream::{Registry, TarballBody, UpstreamError};

/// A package as one partition sees it, and a version.
type Key = (Slot, Box<str>);

/// Tarballs that are on their way before anything is known of them.
#[derive(Default)]
pub(super) struct Asides {
    under_way: Mutex<HashMap<Key, Weak<Aside>>>,
    /// Registries that place their tarballs elsewhere: nothing is guessed there again.
    elsewhere: Mutex<HashSet<Arc<str>>>,
}

/// A body whose head may have come, and its place among the downloads.
pub(super) struct Opened {
    /// What upstream answered at the customary place.
    pub body: Result<TarballBody, UpstreamError>,
    /// Given back when the body was read or dropped.
    pub permit: OwnedSemaphorePermit,
}

/// A tarball on its way. Dropped by the last who waits for it, it is asked for no more.
pub(super) struct Aside(Mutex<Option<JoinHandle<Opened>>>);

impl Drop for Aside {
    fn drop(&mut self) {
        if let Some(task) = self.0.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

impl Asides {
    /// Takes over what is on its way for `version`, if something is: for the one flight that fetches it.
    pub(super) fn take(&self, slot: &Slot, version: &str) -> Option<JoinHandle<Opened>> {
        let key = (slot.clone(), version.into());
        let aside = self.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&key)?.upgrade()?;
        aside.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Learns that `registry` places its tarballs elsewhere.
    pub(super) fn give_up(&self, registry: &Registry) {
        self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner).insert(Arc::clone(registry.id()));
    }

    fn is_worth_trying(&self, registry: &Registry) -> bool {
        !self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner).contains(registry.id())
    }
}

impl Inner {
    /// Asks for a tarball whose package is not known yet, where registries place it by custom. `None` when the package is
    /// known, or there is no room: then the tarball is asked for after its verdict, as ever.
    pub(super) async fn set_out(self: &Arc<Self>, asker: &Asker, name: &PackageName, version: &str) -> Option<Arc<Aside>> {
        let registry = Arc::clone(self.registries.of(name));
        let slot = Slot::of(name, &registry, &asker.authorization);
        if self.is_known(&slot) {
            return None;
        }
        if !self.asides.is_worth_trying(&registry) {
            return None;
        }
        // What was seen before this process began may well be in the store, with its tarballs.
        let (inner, key) = (Arc::clone(self), slot.key(&registry));
        let record = self.blocking(move || inner.ledger.package(&key)).await.ok()?.ok()?;
        if record.document.is_some() {
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
        let permit = Arc::clone(&self.downloads).try_acquire_owned().ok()?;
        let (authorization, name, version) = (asker.authorization.clone(), name.clone(), key.1.clone());
        let task = tokio::spawn(async move {
            let url = registry.customary_tarball(&name, &version);
            Opened { body: registry.tarball(&url, &authorization).await, permit }
        });
        let aside = Arc::new(Aside(Mutex::new(Some(task))));
        under_way.retain(|_, aside| aside.strong_count() > 0);
        under_way.insert(key, Arc::downgrade(&aside));
        Some(aside)
    }

    /// Whether something is known of the package, if only that it is not there.
    pub(super) fn is_known(&self, slot: &Slot) -> bool {
        self.documents.contains_key(slot) || self.documents.contains_key(&slot.shared()) || self.absent.contains_key(slot)
    }
}
