//! What the service asks of the firewall, as a trait: so that HTTP is tested without a registry, a ledger and a disk.

use bytes::Bytes;

use crate::firewall::{Answer, Asker, Coding, Contacting, Firewall, Rejection, Tarball};
use crate::npm::Form;
use crate::npm::{Address, PackageName};
use crate::upstream::{Passage, Passed};

/// The firewall's answers; see the methods of [`Firewall`] that have the same names.
pub trait Answers: Send + Sync + 'static {
    /// A packument.
    fn packument(
        &self,
        asker: &Asker,
        name: &PackageName,
        form: Form,
        coding: Coding,
    ) -> impl Future<Output = Result<Answer, Rejection>> + Send;

    /// One manifest.
    fn manifest(&self, asker: &Asker, name: &PackageName, wanted: &str) -> impl Future<Output = Result<Bytes, Rejection>> + Send;

    /// The dist-tags.
    fn dist_tags(&self, asker: &Asker, name: &PackageName) -> impl Future<Output = Result<Bytes, Rejection>> + Send;

    /// A tarball.
    fn tarball(
        &self,
        asker: &Asker,
        name: &PackageName,
        version: &str,
    ) -> impl Future<Output = Result<Tarball, Rejection>> + Send;

    /// The package and the version whose tarball is at an address.
    fn locate(
        &self,
        asker: &Asker,
        address: &Address,
    ) -> impl Future<Output = Result<Option<(PackageName, Box<str>)>, Rejection>> + Send;

    /// Why somebody may not go to a place beside the registry.
    fn contact(&self, contacting: &Contacting<'_>) -> Option<String>;

    /// Search results.
    fn search(&self, asker: &Asker, passage: Passage) -> impl Future<Output = Result<Passed, Rejection>> + Send;

    /// An audit, and what is to be told of it.
    fn audit(
        &self,
        asker: &Asker,
        passage: Passage,
        body: Bytes,
        bulk: bool,
    ) -> impl Future<Output = Result<(Passed, Option<String>), Rejection>> + Send;

    /// Attestations.
    fn attestations(
        &self,
        asker: &Asker,
        name: &PackageName,
        version: &str,
        passage: Passage,
    ) -> impl Future<Output = Result<Passed, Rejection>> + Send;

    /// Anything else.
    fn pass(
        &self,
        asker: &Asker,
        name: Option<&PackageName>,
        passage: Passage,
    ) -> impl Future<Output = Result<Passed, Rejection>> + Send;

    /// What changes a package, or the registry.
    fn write(
        &self,
        asker: &Asker,
        name: Option<&PackageName>,
        passage: Passage,
    ) -> impl Future<Output = Result<Passed, Rejection>> + Send;
}

impl Answers for Firewall {
    async fn packument(&self, asker: &Asker, name: &PackageName, form: Form, coding: Coding) -> Result<Answer, Rejection> {
        self.packument(asker, name, form, coding).await
    }

    async fn manifest(&self, asker: &Asker, name: &PackageName, wanted: &str) -> Result<Bytes, Rejection> {
        self.manifest(asker, name, wanted).await
    }

    async fn dist_tags(&self, asker: &Asker, name: &PackageName) -> Result<Bytes, Rejection> {
        self.dist_tags(asker, name).await
    }

    async fn tarball(&self, asker: &Asker, name: &PackageName, version: &str) -> Result<Tarball, Rejection> {
        self.tarball(asker, name, version).await
    }

    async fn locate(&self, asker: &Asker, address: &Address) -> Result<Option<(PackageName, Box<str>)>, Rejection> {
        self.locate(asker, address).await
    }

    fn contact(&self, contacting: &Contacting<'_>) -> Option<String> {
        self.contact(contacting)
    }

    async fn search(&self, asker: &Asker, passage: Passage) -> Result<Passed, Rejection> {
        self.search(asker, passage).await
    }

    async fn audit(
        &self,
        asker: &Asker,
        passage: Passage,
        body: Bytes,
        bulk: bool,
    ) -> Result<(Passed, Option<String>), Rejection> {
        self.audit(asker, passage, body, bulk).await
    }

    async fn attestations(
        &self,
        asker: &Asker,
        name: &PackageName,
        version: &str,
        passage: Passage,
    ) -> Result<Passed, Rejection> {
        self.attestations(asker, name, version, passage).await
    }

    async fn pass(&self, asker: &Asker, name: Option<&PackageName>, passage: Passage) -> Result<Passed, Rejection> {
        self.pass(asker, name, passage).await
    }
    async fn write(&self, asker: &Asker, name: Option<&PackageName>, passage: Passage) -> Result<Passed, Rejection> {
        self.write(asker, name, passage).await
    }
}
