//! Notes what one command asked for and what became of it, on its way to whoever answers. Refuses to change an answer.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::firewall::{
    Client, ContentCoding, EgressRequest, Firewall, FirewallError, HiddenVersions, PackumentResponse, Refusal, TarballResponse,
    Want,
};
use crate::npm::PackumentForm;
use crate::npm::{Address, PackageName};
use crate::server::RegistryService;
use crate::upstream::{PassthroughRequest, PassthroughResponse};

/// What was noted.
#[derive(Debug, Clone, Default)]
pub struct RecordedRequests {
    /// Each tarball that was served, and whether it was here already.
    pub served: BTreeMap<(PackageName, Box<str>), bool>,
    /// The bytes of all of them, as often as they were served.
    pub bytes: u64,
    /// Each version that was refused, or whole package.
    pub refused: BTreeMap<(PackageName, Option<Box<str>>), Refusal>,
    /// What could not be answered, by package: why.
    pub failed: BTreeMap<PackageName, String>,
    /// What packuments were answered without.
    pub hidden: BTreeMap<PackageName, HiddenVersions>,
}

/// Packages that are noted of a kind: a command names as many as it likes.
const MOST: usize = 100_000;

/// Notes while it passes on.
pub(crate) struct RequestRecorder<A> {
    inner: Arc<A>,
    /// What the project wants, by package.
    wants: HashMap<PackageName, Vec<Want>>,
    noted: Arc<Mutex<RecordedRequests>>,
}

/// Who can tell what a packument was answered without.
pub(crate) trait Hides {
    /// What is hidden of a package from `asker`, and what of it is wanted.
    fn hidden(&self, asker: &Client, name: &PackageName, wants: &[Want]) -> Option<HiddenVersions>;
}

impl Hides for Firewall {
    fn hidden(&self, asker: &Client, name: &PackageName, wants: &[Want]) -> Option<HiddenVersions> {
        Firewall::hidden(self, asker, name, wants)
    }
}

impl<A: RegistryService + Hides> RequestRecorder<A> {
    /// A witness before `inner` for a project that wants these packages.
    pub(crate) fn before(inner: Arc<A>, wants: &[(String, Want)]) -> Self {
        let mut by_package: HashMap<PackageName, Vec<Want>> = HashMap::new();
        for (name, want) in wants {
            // Words of a command that name no package are left out.
            if let Ok(name) = PackageName::parse(name) {
                by_package.entry(name).or_default().push(want.clone());
            }
        }
        Self { inner, wants: by_package, noted: Arc::default() }
    }

    /// What has been noted until now.
    pub(crate) fn noted(&self) -> RecordedRequests {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, change: impl FnOnce(&mut RecordedRequests)) {
        change(&mut self.noted.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Notes why there is no answer; that there is no such package is an answer.
    fn note_rejection(&self, name: &PackageName, rejection: &FirewallError) {
        match rejection {
            FirewallError::Refused(refusal) => {
                let key = (refusal.name.clone(), refusal.version.clone());
                self.note(|noted| keep(&mut noted.refused, key, || Refusal::clone(refusal)));
            }
            FirewallError::NotFound(_) => {}
            other => self.note(|noted| keep(&mut noted.failed, name.clone(), || other.to_string())),
        }
    }

    fn note_hidden(&self, asker: &Client, name: &PackageName) {
        let wants = self.wants.get(name).map(Vec::as_slice).unwrap_or_default();
        let hidden = self.inner.hidden(asker, name, wants);
        self.note(|noted| {
            noted.failed.remove(name);
            if let Some(hidden) = hidden {
                keep(&mut noted.hidden, name.clone(), || hidden);
            }
        });
    }

    fn noting<T>(&self, name: &PackageName, answered: Result<T, FirewallError>) -> Result<T, FirewallError> {
        if let Err(rejection) = &answered {
            self.note_rejection(name, rejection);
        }
        answered
    }
}

/// Notes a value, the latest of a key, while there is room.
fn keep<K: Ord, V>(kept: &mut BTreeMap<K, V>, key: K, value: impl FnOnce() -> V) {
    if kept.len() < MOST || kept.contains_key(&key) {
        kept.insert(key, value());
    }
}

impl<A: RegistryService + Hides> RegistryService for RequestRecorder<A> {
    async fn packument(
        &self,
        asker: &Client,
        name: &PackageName,
        form: PackumentForm,
        coding: ContentCoding,
    ) -> Result<PackumentResponse, FirewallError> {
        let answered = self.noting(name, self.inner.packument(asker, name, form, coding).await);
        if matches!(answered, Ok(_) | Err(FirewallError::Refused(_))) {
            self.note_hidden(asker, name);
        }
        answered
    }

    async fn manifest(&self, asker: &Client, name: &PackageName, wanted: &str) -> Result<Bytes, FirewallError> {
        self.noting(name, self.inner.manifest(asker, name, wanted).await)
    }

    async fn dist_tags(&self, asker: &Client, name: &PackageName) -> Result<Bytes, FirewallError> {
        self.noting(name, self.inner.dist_tags(asker, name).await)
    }

    async fn tarball(&self, asker: &Client, name: &PackageName, version: &str) -> Result<TarballResponse, FirewallError> {
        let answered = self.noting(name, self.inner.tarball(asker, name, version).await);
        if let Ok(tarball) = &answered {
            self.note(|noted| {
                noted.bytes += tarball.bytes.len() as u64;
                noted.failed.remove(name);
                // What was fetched for this command lies in the store when it is asked for again.
                let key = (name.clone(), version.into());
                if !noted.served.contains_key(&key) {
                    keep(&mut noted.served, key, || tarball.kept);
                }
            });
        }
        answered
    }

    async fn locate(&self, asker: &Client, address: &Address) -> Result<Option<(PackageName, Box<str>)>, FirewallError> {
        let located = self.inner.locate(asker, address).await;
        if let Err(rejection @ FirewallError::Refused(refusal)) = &located {
            self.note_rejection(&refusal.name, rejection);
        }
        located
    }

    fn contact(&self, contacting: &EgressRequest<'_>) -> Option<String> {
        self.inner.contact(contacting)
    }

    async fn search(&self, asker: &Client, passage: PassthroughRequest) -> Result<PassthroughResponse, FirewallError> {
        self.inner.search(asker, passage).await
    }

    async fn audit(
        &self,
        asker: &Client,
        passage: PassthroughRequest,
        body: Bytes,
        bulk: bool,
    ) -> Result<(PassthroughResponse, Option<String>), FirewallError> {
        self.inner.audit(asker, passage, body, bulk).await
    }

    async fn attestations(
        &self,
        asker: &Client,
        name: &PackageName,
        version: &str,
        passage: PassthroughRequest,
    ) -> Result<PassthroughResponse, FirewallError> {
        self.inner.attestations(asker, name, version, passage).await
    }

    async fn pass(
        &self,
        asker: &Client,
        name: Option<&PackageName>,
        passage: PassthroughRequest,
    ) -> Result<PassthroughResponse, FirewallError> {
        self.inner.pass(asker, name, passage).await
    }

    async fn write(
        &self,
        asker: &Client,
        name: Option<&PackageName>,
        passage: PassthroughRequest,
    ) -> Result<PassthroughResponse, FirewallError> {
        self.inner.write(asker, name, passage).await
    }
}
