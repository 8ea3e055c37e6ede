//! Records the requests of one command and their outcomes. Responses pass unchanged.

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

/// The recorded requests of a command.
#[derive(Debug, Clone, Default)]
pub struct RecordedRequests {
    /// The served tarballs, and whether each was cached.
    pub served: BTreeMap<(PackageName, Box<str>), bool>,
    /// The total bytes of all served tarballs, including repeated ones.
    pub bytes: u64,
    /// The refused versions and packages.
    pub refused: BTreeMap<(PackageName, Option<Box<str>>), Refusal>,
    /// The failed requests: the error by package.
    pub failed: BTreeMap<PackageName, String>,
    /// The versions hidden from packuments.
    pub hidden: BTreeMap<PackageName, HiddenVersions>,
}

/// The maximum number of entries per kind. A command may request any number of packages.
const MAX_ENTRIES: usize = 100_000;

/// A registry service that records requests and passes them on.
pub(crate) struct RequestRecorder<A> {
    inner: Arc<A>,
    /// The project's dependencies by package.
    wants: HashMap<PackageName, Vec<Want>>,
    noted: Arc<Mutex<RecordedRequests>>,
}

/// A service that knows the hidden versions of packages.
pub(crate) trait Hides {
    /// Returns the versions of a package that are hidden from `client`, and which of them are wanted.
    fn hidden(&self, client: &Client, name: &PackageName, wants: &[Want]) -> Option<HiddenVersions>;
}

impl Hides for Firewall {
    fn hidden(&self, client: &Client, name: &PackageName, wants: &[Want]) -> Option<HiddenVersions> {
        Firewall::hidden(self, client, name, wants)
    }
}

impl<A: RegistryService + Hides> RequestRecorder<A> {
    /// Creates a recorder before `inner` for a project with these dependencies.
    pub(crate) fn before(inner: Arc<A>, wants: &[(String, Want)]) -> Self {
        let mut by_package: HashMap<PackageName, Vec<Want>> = HashMap::new();
        for (name, want) in wants {
            // Arguments of a command that are not package names are skipped.
            if let Ok(name) = PackageName::parse(name) {
                by_package.entry(name).or_default().push(want.clone());
            }
        }
        Self { inner, wants: by_package, noted: Arc::default() }
    }

    /// Returns what was recorded so far.
    pub(crate) fn noted(&self) -> RecordedRequests {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, change: impl FnOnce(&mut RecordedRequests)) {
        change(&mut self.noted.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Records an error. A missing package is a valid answer and not recorded.
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

    fn note_hidden(&self, client: &Client, name: &PackageName) {
        let wants = self.wants.get(name).map(Vec::as_slice).unwrap_or_default();
        let hidden = self.inner.hidden(client, name, wants);
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

/// Records the latest value of a key, up to the limit of entries.
fn keep<K: Ord, V>(kept: &mut BTreeMap<K, V>, key: K, value: impl FnOnce() -> V) {
    if kept.len() < MAX_ENTRIES || kept.contains_key(&key) {
        kept.insert(key, value());
    }
}

impl<A: RegistryService + Hides> RegistryService for RequestRecorder<A> {
    async fn packument(
        &self,
        client: &Client,
        name: &PackageName,
        form: PackumentForm,
        coding: ContentCoding,
    ) -> Result<PackumentResponse, FirewallError> {
        let answered = self.noting(name, self.inner.packument(client, name, form, coding).await);
        if matches!(answered, Ok(_) | Err(FirewallError::Refused(_))) {
            self.note_hidden(client, name);
        }
        answered
    }

    async fn manifest(&self, client: &Client, name: &PackageName, wanted: &str) -> Result<Bytes, FirewallError> {
        self.noting(name, self.inner.manifest(client, name, wanted).await)
    }

    async fn dist_tags(&self, client: &Client, name: &PackageName) -> Result<Bytes, FirewallError> {
        self.noting(name, self.inner.dist_tags(client, name).await)
    }

    async fn tarball(&self, client: &Client, name: &PackageName, version: &str) -> Result<TarballResponse, FirewallError> {
        let answered = self.noting(name, self.inner.tarball(client, name, version).await);
        if let Ok(tarball) = &answered {
            self.note(|noted| {
                noted.bytes += tarball.bytes.len() as u64;
                noted.failed.remove(name);
                // A repeated download is always cached, so the first one counts.
                let key = (name.clone(), version.into());
                if !noted.served.contains_key(&key) {
                    keep(&mut noted.served, key, || tarball.kept);
                }
            });
        }
        answered
    }

    async fn locate(&self, client: &Client, address: &Address) -> Result<Option<(PackageName, Box<str>)>, FirewallError> {
        let located = self.inner.locate(client, address).await;
        if let Err(rejection @ FirewallError::Refused(refusal)) = &located {
            self.note_rejection(&refusal.name, rejection);
        }
        located
    }

    fn contact(&self, contacting: &EgressRequest<'_>) -> Option<String> {
        self.inner.contact(contacting)
    }

    async fn search(&self, client: &Client, passage: PassthroughRequest) -> Result<PassthroughResponse, FirewallError> {
        self.inner.search(client, passage).await
    }

    async fn audit(
        &self,
        client: &Client,
        passage: PassthroughRequest,
        body: Bytes,
        bulk: bool,
    ) -> Result<(PassthroughResponse, Option<String>), FirewallError> {
        self.inner.audit(client, passage, body, bulk).await
    }

    async fn attestations(
        &self,
        client: &Client,
        name: &PackageName,
        version: &str,
        passage: PassthroughRequest,
    ) -> Result<PassthroughResponse, FirewallError> {
        self.inner.attestations(client, name, version, passage).await
    }

    async fn pass(
        &self,
        client: &Client,
        name: Option<&PackageName>,
        passage: PassthroughRequest,
    ) -> Result<PassthroughResponse, FirewallError> {
        self.inner.pass(client, name, passage).await
    }

    async fn write(
        &self,
        client: &Client,
        name: Option<&PackageName>,
        passage: PassthroughRequest,
    ) -> Result<PassthroughResponse, FirewallError> {
        self.inner.write(client, name, passage).await
    }
}
