//! The part of the firewall that the server uses, as a trait. Tests implement it without a registry, ledger or disk.

use crate::firewall::client_scope;
use crate::firewall::components::Firewall;
use crate::firewall::error::Result;
use crate::firewall::queries::egress::EgressRequest;
use crate::firewall::queries::hidden::HiddenVersions;
use crate::firewall::request::{Client, RegistryRequest, RegistryResponse};
use crate::firewall::verdicts::Want;
use crate::npm::{Address, PackageName};

/// Answers the requests of clients.
pub trait RegistryService: Send + Sync + 'static {
    /// Answers a registry request of a client. Refuses it if the version is hidden, no version is visible, or the bytes do not
    /// match. Fails if the package or version does not exist, or if upstream or the store fails.
    fn call(&self, client: &Client, request: RegistryRequest) -> impl Future<Output = Result<RegistryResponse>> + Send;

    /// Returns the package and version whose tarball is at an address of the registry, as far as this client may see it.
    /// Refuses it if two packages claim the address, or two versions with different digests.
    fn locate(&self, client: &Client, address: &Address) -> impl Future<Output = Result<Option<(PackageName, Box<str>)>>> + Send;

    /// Returns the reason if a host outside the registry must not be reached.
    fn check_egress(&self, request: &EgressRequest<'_>) -> Option<String>;

    /// Returns the versions of a package that are hidden from the client, from memory only.
    fn hidden_versions(&self, client: &Client, name: &PackageName, wants: &[Want]) -> Option<HiddenVersions>;
}

impl RegistryService for Firewall {
    async fn call(&self, client: &Client, request: RegistryRequest) -> Result<RegistryResponse> {
        client_scope::check_request(client, &request)?;
        // Names are borrowed from the request, and only the futures of packuments and tarballs are not boxed, because this future
        // is part of the future of every request.
        Ok(match request {
            RegistryRequest::Packument { ref name, form, coding } => {
                RegistryResponse::Packument(self.packument(client, name, form, coding).await?)
            }
            RegistryRequest::Tarball { ref name, ref version } => {
                RegistryResponse::Tarball(self.0.tarballs.get(client, name, version).await?)
            }
            RegistryRequest::Manifest { ref name, ref spec } => {
                RegistryResponse::Manifest(Box::pin(self.manifest(client, name, spec)).await?)
            }
            RegistryRequest::DistTags { ref name } => RegistryResponse::DistTags(Box::pin(self.dist_tags(client, name)).await?),
            RegistryRequest::Search(request) => Box::pin(self.search(client, *request)).await?.into(),
            RegistryRequest::Audit { request, body, format } => {
                let (response, notice) = Box::pin(self.audit(client, *request, body, format)).await?;
                RegistryResponse::Passthrough { response, notice }
            }
            RegistryRequest::Attestations { ref name, ref version, request } => {
                Box::pin(self.attestations(client, name, version, *request)).await?.into()
            }
            RegistryRequest::PassThrough { ref name, request } => {
                Box::pin(self.0.passthrough.send(client, name.as_ref(), *request)).await?.into()
            }
            RegistryRequest::Write { ref name, request } => Box::pin(self.write(client, name.as_ref(), *request)).await?.into(),
        })
    }

    async fn locate(&self, client: &Client, address: &Address) -> Result<Option<(PackageName, Box<str>)>> {
        self.0.locator.locate(client, address).await
    }

    fn check_egress(&self, request: &EgressRequest<'_>) -> Option<String> {
        self.check_egress(request)
    }

    fn hidden_versions(&self, client: &Client, name: &PackageName, wants: &[Want]) -> Option<HiddenVersions> {
        self.hidden_versions(client, name, wants)
    }
}
