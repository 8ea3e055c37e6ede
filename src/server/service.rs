//! The part of the firewall that the server uses, as a trait. Tests implement it without a registry, ledger or disk.

use crate::firewall::{Client, EgressRequest, Firewall, FirewallError, HiddenVersions, RegistryRequest, RegistryResponse, Want};
use crate::npm::{Address, PackageName};

/// The operations of the firewall. See the methods of [`Firewall`] with the same names.
pub trait RegistryService: Send + Sync + 'static {
    fn call(
        &self,
        client: &Client,
        request: RegistryRequest,
    ) -> impl Future<Output = Result<RegistryResponse, FirewallError>> + Send;

    fn locate(
        &self,
        client: &Client,
        address: &Address,
    ) -> impl Future<Output = Result<Option<(PackageName, Box<str>)>, FirewallError>> + Send;

    fn check_egress(&self, request: &EgressRequest<'_>) -> Option<String>;

    fn hidden_versions(&self, client: &Client, name: &PackageName, wants: &[Want]) -> Option<HiddenVersions>;
}

impl RegistryService for Firewall {
    fn call(
        &self,
        client: &Client,
        request: RegistryRequest,
    ) -> impl Future<Output = Result<RegistryResponse, FirewallError>> + Send {
        self.call(client, request)
    }

    fn locate(
        &self,
        client: &Client,
        address: &Address,
    ) -> impl Future<Output = Result<Option<(PackageName, Box<str>)>, FirewallError>> + Send {
        self.locate(client, address)
    }

    fn check_egress(&self, request: &EgressRequest<'_>) -> Option<String> {
        self.check_egress(request)
    }

    fn hidden_versions(&self, client: &Client, name: &PackageName, wants: &[Want]) -> Option<HiddenVersions> {
        self.hidden_versions(client, name, wants)
    }
}
