//! Records the requests of one command and their outcomes. Responses pass unchanged.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use crate::firewall::RegistryService;
use crate::firewall::{
    Client, EgressRequest, FirewallError, HiddenVersions, Refusal, RegistryRequest, RegistryResponse, TarballResponse, Want,
};
use crate::npm::{Address, PackageName};

#[derive(Debug, Clone, Default)]
pub(crate) struct RecordedRequests {
    /// The served tarballs, and whether each was cached.
    pub(crate) served: BTreeMap<(PackageName, Box<str>), bool>,
    /// The total bytes of all served tarballs, including repeated ones.
    pub(crate) bytes: u64,
    pub(crate) refused: BTreeMap<(PackageName, Option<Box<str>>), Refusal>,
    /// The failed requests: the error by package.
    pub(crate) failed: BTreeMap<PackageName, String>,
    pub(crate) hidden: BTreeMap<PackageName, HiddenVersions>,
}

/// The maximum number of entries per kind. A command may request any number of packages.
const MAX_ENTRIES: usize = 100_000;

/// A registry service that records requests and passes them on.
pub(crate) struct RequestRecorder<A> {
    inner: Arc<A>,
    /// The project's dependencies by package.
    wants: HashMap<PackageName, Vec<Want>>,
    recorded: Arc<Mutex<RecordedRequests>>,
}

impl<A: RegistryService> RequestRecorder<A> {
    /// Creates a recorder before `inner` for a project with these dependencies.
    pub(crate) fn before(inner: Arc<A>, wants: &[(String, Want)]) -> Self {
        let mut by_package: HashMap<PackageName, Vec<Want>> = HashMap::new();
        for (name, want) in wants {
            // Arguments of a command that are not package names are skipped.
            if let Ok(name) = PackageName::parse(name) {
                by_package.entry(name).or_default().push(want.clone());
            }
        }
        Self { inner, wants: by_package, recorded: Arc::default() }
    }

    pub(crate) fn recorded(&self) -> RecordedRequests {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn update(&self, change: impl FnOnce(&mut RecordedRequests)) {
        change(&mut self.recorded.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Records an error. A missing package is a valid answer and not recorded.
    fn record_error(&self, name: &PackageName, error: &FirewallError) {
        match error {
            FirewallError::Refused(refusal) => {
                let key = (refusal.name.clone(), refusal.version.clone());
                self.update(|recorded| insert(&mut recorded.refused, key, || Refusal::clone(refusal)));
            }
            FirewallError::NotFound(_) => {}
            other => self.update(|recorded| insert(&mut recorded.failed, name.clone(), || other.to_string())),
        }
    }

    fn record_tarball(&self, name: PackageName, version: Box<str>, tarball: &TarballResponse) {
        self.update(|recorded| {
            recorded.bytes += tarball.bytes.len() as u64;
            recorded.failed.remove(&name);
            // A repeated download is always cached, so the first one counts.
            let key = (name, version);
            if !recorded.served.contains_key(&key) {
                insert(&mut recorded.served, key, || tarball.kept);
            }
        });
    }

    fn record_hidden(&self, client: &Client, name: PackageName) {
        let wants = self.wants.get(&name).map(Vec::as_slice).unwrap_or_default();
        let hidden = self.inner.hidden_versions(client, &name, wants);
        self.update(|recorded| {
            recorded.failed.remove(&name);
            if let Some(hidden) = hidden {
                insert(&mut recorded.hidden, name, || hidden);
            }
        });
    }
}

/// Records the latest value of a key, up to the limit of entries.
fn insert<K: Ord, V>(entries: &mut BTreeMap<K, V>, key: K, value: impl FnOnce() -> V) {
    if entries.len() < MAX_ENTRIES || entries.contains_key(&key) {
        entries.insert(key, value());
    }
}

impl<A: RegistryService> RegistryService for RequestRecorder<A> {
    async fn call(&self, client: &Client, request: RegistryRequest) -> Result<RegistryResponse, FirewallError> {
        let is_packument = matches!(request, RegistryRequest::Packument { .. });
        let (name, version) = match &request {
            RegistryRequest::Packument { name, .. }
            | RegistryRequest::Manifest { name, .. }
            | RegistryRequest::DistTags { name } => (Some(name.clone()), None),
            RegistryRequest::Tarball { name, version } => (Some(name.clone()), Some(Box::from(version.as_str()))),
            _ => (None, None),
        };
        let response = self.inner.call(client, request).await;
        let Some(name) = name else { return response };
        if let Err(error) = &response {
            self.record_error(&name, error);
        }
        match (&response, version) {
            (Ok(RegistryResponse::Tarball(tarball)), Some(version)) => self.record_tarball(name, version, tarball),
            (Ok(_) | Err(FirewallError::Refused(_)), _) if is_packument => self.record_hidden(client, name),
            _ => {}
        }
        response
    }

    async fn locate(&self, client: &Client, address: &Address) -> Result<Option<(PackageName, Box<str>)>, FirewallError> {
        let located = self.inner.locate(client, address).await;
        if let Err(error @ FirewallError::Refused(refusal)) = &located {
            self.record_error(&refusal.name, error);
        }
        located
    }

    fn check_egress(&self, request: &EgressRequest<'_>) -> Option<String> {
        self.inner.check_egress(request)
    }

    fn hidden_versions(&self, client: &Client, name: &PackageName, wants: &[Want]) -> Option<HiddenVersions> {
        self.inner.hidden_versions(client, name, wants)
    }
}
