//! The part of the firewall that the server uses, as a trait. Tests implement it without a registry, ledger or disk.

use bytes::Bytes;

use crate::firewall::{Client, ContentCoding, EgressRequest, Firewall, FirewallError, PackumentResponse, TarballResponse};
use crate::npm::PackumentForm;
use crate::npm::{Address, PackageName};
use crate::upstream::{PassthroughRequest, PassthroughResponse};

/// The operations of the firewall. See the methods of [`Firewall`] with the same names.
pub trait RegistryService: Send + Sync + 'static {
    fn packument(
        &self,
        client: &Client,
        name: &PackageName,
        form: PackumentForm,
        coding: ContentCoding,
    ) -> impl Future<Output = Result<PackumentResponse, FirewallError>> + Send;

    fn manifest(
        &self,
        client: &Client,
        name: &PackageName,
        wanted: &str,
    ) -> impl Future<Output = Result<Bytes, FirewallError>> + Send;

    fn dist_tags(&self, client: &Client, name: &PackageName) -> impl Future<Output = Result<Bytes, FirewallError>> + Send;

    fn tarball(
        &self,
        client: &Client,
        name: &PackageName,
        version: &str,
    ) -> impl Future<Output = Result<TarballResponse, FirewallError>> + Send;

    /// Returns the package and version of a tarball address.
    fn locate(
        &self,
        client: &Client,
        address: &Address,
    ) -> impl Future<Output = Result<Option<(PackageName, Box<str>)>, FirewallError>> + Send;

    /// Returns the reason if a host outside the registry must not be reached.
    fn contact(&self, contacting: &EgressRequest<'_>) -> Option<String>;

    fn search(
        &self,
        client: &Client,
        passage: PassthroughRequest,
    ) -> impl Future<Output = Result<PassthroughResponse, FirewallError>> + Send;

    /// Forwards an audit. Also returns a notice for the client, if any.
    fn audit(
        &self,
        client: &Client,
        passage: PassthroughRequest,
        body: Bytes,
        bulk: bool,
    ) -> impl Future<Output = Result<(PassthroughResponse, Option<String>), FirewallError>> + Send;

    fn attestations(
        &self,
        client: &Client,
        name: &PackageName,
        version: &str,
        passage: PassthroughRequest,
    ) -> impl Future<Output = Result<PassthroughResponse, FirewallError>> + Send;

    /// Forwards any other read.
    fn pass(
        &self,
        client: &Client,
        name: Option<&PackageName>,
        passage: PassthroughRequest,
    ) -> impl Future<Output = Result<PassthroughResponse, FirewallError>> + Send;

    /// Forwards a write to a package or the registry.
    fn write(
        &self,
        client: &Client,
        name: Option<&PackageName>,
        passage: PassthroughRequest,
    ) -> impl Future<Output = Result<PassthroughResponse, FirewallError>> + Send;
}

impl RegistryService for Firewall {
    async fn packument(
        &self,
        client: &Client,
        name: &PackageName,
        form: PackumentForm,
        coding: ContentCoding,
    ) -> Result<PackumentResponse, FirewallError> {
        self.packument(client, name, form, coding).await
    }

    async fn manifest(&self, client: &Client, name: &PackageName, wanted: &str) -> Result<Bytes, FirewallError> {
        self.manifest(client, name, wanted).await
    }

    async fn dist_tags(&self, client: &Client, name: &PackageName) -> Result<Bytes, FirewallError> {
        self.dist_tags(client, name).await
    }

    async fn tarball(&self, client: &Client, name: &PackageName, version: &str) -> Result<TarballResponse, FirewallError> {
        self.tarball(client, name, version).await
    }

    async fn locate(&self, client: &Client, address: &Address) -> Result<Option<(PackageName, Box<str>)>, FirewallError> {
        self.locate(client, address).await
    }

    fn contact(&self, contacting: &EgressRequest<'_>) -> Option<String> {
        self.contact(contacting)
    }

    async fn search(&self, client: &Client, passage: PassthroughRequest) -> Result<PassthroughResponse, FirewallError> {
        self.search(client, passage).await
    }

    async fn audit(
        &self,
        client: &Client,
        passage: PassthroughRequest,
        body: Bytes,
        bulk: bool,
    ) -> Result<(PassthroughResponse, Option<String>), FirewallError> {
        self.audit(client, passage, body, bulk).await
    }

    async fn attestations(
        &self,
        client: &Client,
        name: &PackageName,
        version: &str,
        passage: PassthroughRequest,
    ) -> Result<PassthroughResponse, FirewallError> {
        self.attestations(client, name, version, passage).await
    }

    async fn pass(
        &self,
        client: &Client,
        name: Option<&PackageName>,
        passage: PassthroughRequest,
    ) -> Result<PassthroughResponse, FirewallError> {
        self.pass(client, name, passage).await
    }
    async fn write(
        &self,
        client: &Client,
        name: Option<&PackageName>,
        passage: PassthroughRequest,
    ) -> Result<PassthroughResponse, FirewallError> {
        self.write(client, name, passage).await
    }
}
