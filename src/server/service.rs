//! What the service asks of the firewall, as a trait: so that HTTP is tested without a registry, a ledger and a disk.

use bytes::Bytes;

use crate::firewall::{Client, ContentCoding, EgressRequest, Firewall, FirewallError, PackumentResponse, TarballResponse};
use crate::npm::PackumentForm;
use crate::npm::{Address, PackageName};
use crate::upstream::{PassthroughRequest, PassthroughResponse};

/// The firewall's answers; see the methods of [`Firewall`] that have the same names.
pub trait RegistryService: Send + Sync + 'static {
    /// A packument.
    fn packument(
        &self,
        asker: &Client,
        name: &PackageName,
        form: PackumentForm,
        coding: ContentCoding,
    ) -> impl Future<Output = Result<PackumentResponse, FirewallError>> + Send;

    /// One manifest.
    fn manifest(
        &self,
        asker: &Client,
        name: &PackageName,
        wanted: &str,
    ) -> impl Future<Output = Result<Bytes, FirewallError>> + Send;

    /// The dist-tags.
    fn dist_tags(&self, asker: &Client, name: &PackageName) -> impl Future<Output = Result<Bytes, FirewallError>> + Send;

    /// A tarball.
    fn tarball(
        &self,
        asker: &Client,
        name: &PackageName,
        version: &str,
    ) -> impl Future<Output = Result<TarballResponse, FirewallError>> + Send;

    /// The package and the version whose tarball is at an address.
    fn locate(
        &self,
        asker: &Client,
        address: &Address,
    ) -> impl Future<Output = Result<Option<(PackageName, Box<str>)>, FirewallError>> + Send;

    /// Why somebody may not go to a place beside the registry.
    fn contact(&self, contacting: &EgressRequest<'_>) -> Option<String>;

    /// Search results.
    fn search(
        &self,
        asker: &Client,
        passage: PassthroughRequest,
    ) -> impl Future<Output = Result<PassthroughResponse, FirewallError>> + Send;

    /// An audit, and what is to be told of it.
    fn audit(
        &self,
        asker: &Client,
        passage: PassthroughRequest,
        body: Bytes,
        bulk: bool,
    ) -> impl Future<Output = Result<(PassthroughResponse, Option<String>), FirewallError>> + Send;

    /// Attestations.
    fn attestations(
        &self,
        asker: &Client,
        name: &PackageName,
        version: &str,
        passage: PassthroughRequest,
    ) -> impl Future<Output = Result<PassthroughResponse, FirewallError>> + Send;

    /// Anything else.
    fn pass(
        &self,
        asker: &Client,
        name: Option<&PackageName>,
        passage: PassthroughRequest,
    ) -> impl Future<Output = Result<PassthroughResponse, FirewallError>> + Send;

    /// What changes a package, or the registry.
    fn write(
        &self,
        asker: &Client,
        name: Option<&PackageName>,
        passage: PassthroughRequest,
    ) -> impl Future<Output = Result<PassthroughResponse, FirewallError>> + Send;
}

impl RegistryService for Firewall {
    async fn packument(
        &self,
        asker: &Client,
        name: &PackageName,
        form: PackumentForm,
        coding: ContentCoding,
    ) -> Result<PackumentResponse, FirewallError> {
        self.packument(asker, name, form, coding).await
    }

    async fn manifest(&self, asker: &Client, name: &PackageName, wanted: &str) -> Result<Bytes, FirewallError> {
        self.manifest(asker, name, wanted).await
    }

    async fn dist_tags(&self, asker: &Client, name: &PackageName) -> Result<Bytes, FirewallError> {
        self.dist_tags(asker, name).await
    }

    async fn tarball(&self, asker: &Client, name: &PackageName, version: &str) -> Result<TarballResponse, FirewallError> {
        self.tarball(asker, name, version).await
    }

    async fn locate(&self, asker: &Client, address: &Address) -> Result<Option<(PackageName, Box<str>)>, FirewallError> {
        self.locate(asker, address).await
    }

    fn contact(&self, contacting: &EgressRequest<'_>) -> Option<String> {
        self.contact(contacting)
    }

    async fn search(&self, asker: &Client, passage: PassthroughRequest) -> Result<PassthroughResponse, FirewallError> {
        self.search(asker, passage).await
    }

    async fn audit(
        &self,
        asker: &Client,
        passage: PassthroughRequest,
        body: Bytes,
        bulk: bool,
    ) -> Result<(PassthroughResponse, Option<String>), FirewallError> {
        self.audit(asker, passage, body, bulk).await
    }

    async fn attestations(
        &self,
        asker: &Client,
        name: &PackageName,
        version: &str,
        passage: PassthroughRequest,
    ) -> Result<PassthroughResponse, FirewallError> {
        self.attestations(asker, name, version, passage).await
    }

    async fn pass(
        &self,
        asker: &Client,
        name: Option<&PackageName>,
        passage: PassthroughRequest,
    ) -> Result<PassthroughResponse, FirewallError> {
        self.pass(asker, name, passage).await
    }
    async fn write(
        &self,
        asker: &Client,
        name: Option<&PackageName>,
        passage: PassthroughRequest,
    ) -> Result<PassthroughResponse, FirewallError> {
        self.write(asker, name, passage).await
    }
}
