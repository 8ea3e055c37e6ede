//! Forwards requests to upstream: searches, audits, accounts and writes.

use std::fmt::Display;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;

use crate::firewall::RegistryService;
use crate::firewall::{RegistryRequest, RegistryResponse};
use crate::net::body;
use crate::npm::{AuditFormat, Endpoint, PackageName};
use crate::server::config::Config;
use crate::server::error::RequestError;
use crate::server::registry::bodies::{RequestBodies, check_transfer_coding};
use crate::server::registry::target::RequestScope;
use crate::server::response::{self, Reply};
use crate::upstream::Authorization;

/// Forwards requests within the limits of the server.
pub(crate) struct Forwarder<S> {
    pub(crate) service: Arc<S>,
    pub(crate) config: Arc<Config>,
    pub(crate) bodies: Arc<RequestBodies>,
}

impl<S: RegistryService> Forwarder<S> {
    /// Forwards a request to an endpoint that is not answered from packages.
    pub(crate) async fn forward<B: http_body::Body<Data = Bytes, Error: Display> + Send>(
        &self,
        scope: &RequestScope<'_>,
        endpoint: Endpoint,
        body: B,
    ) -> Result<Reply, RequestError> {
        let (client, mut is_private) = (scope.client, true);
        let response = match endpoint {
            Endpoint::Audit(format) => self.audit(scope, format, body).await?,
            Endpoint::Write(name) => self.write(scope, name, body).await?,
            Endpoint::Account(name) => {
                let request = RegistryRequest::PassThrough { name, request: scope.forwarded_for_account(Bytes::new()) };
                self.service.call(&scope.client_with_own_credentials(), request).await?
            }
            endpoint => {
                is_private = endpoint == Endpoint::Whoami;
                let mut request = scope.forwarded(Bytes::new());
                request.for_account = is_private && matches!(client.authorization, Authorization::Own(_));
                let request = match endpoint {
                    Endpoint::Search { .. } => RegistryRequest::Search(request),
                    Endpoint::Attestations { name, version } => RegistryRequest::Attestations { name, version, request },
                    // Whoami, ping and keys. The other endpoints are answered from packages.
                    _ => RegistryRequest::PassThrough { name: None, request },
                };
                self.service.call(client, request).await?
            }
        };
        let reply = response::registry(response, scope.head, scope.base_url);
        Ok(if is_private { response::private(reply) } else { reply })
    }

    /// Forwards an audit unchanged, and adds a notice about its held packages.
    async fn audit<B: http_body::Body<Data = Bytes, Error: Display> + Send>(
        &self,
        scope: &RequestScope<'_>,
        format: AuditFormat,
        body: B,
    ) -> Result<RegistryResponse, RequestError> {
        let (limit, address) = (self.config.body_limit, scope.client.address);
        check_transfer_coding(&scope.head.headers)?;
        let mut reservation = self.bodies.reservation(address);
        let received = body::collect_into(body, limit, self.config.body_timeout, &mut reservation).await?;
        let body = self.bodies.decompress(received.clone(), &scope.head.headers, limit, address).await?;
        let request = RegistryRequest::Audit { request: scope.forwarded(received), body, format };
        Ok(self.service.call(scope.client, request).await?)
    }

    /// Forwards a write if enabled, with the client's own credentials only.
    async fn write<B: http_body::Body<Data = Bytes, Error: Display> + Send>(
        &self,
        scope: &RequestScope<'_>,
        name: Option<PackageName>,
        body: B,
    ) -> Result<RegistryResponse, RequestError> {
        let config = &self.config;
        if !config.allow_writes {
            return Err(RequestError::WritesDisabled);
        }
        let client = scope.client_with_own_credentials();
        let has_credentials = client.authorization != Authorization::None;
        // This packument includes hidden versions. A client that may publish could see them anyway, others must not.
        if matches!(scope.head.method, Method::GET | Method::HEAD) && !has_credentials {
            return Err(RequestError::NeedsCredentials);
        }
        check_transfer_coding(&scope.head.headers)?;
        // A write without credentials is a login, which needs no body limit of a publish.
        let limit = if has_credentials { config.write_limit } else { config.write_limit.min(config.body_limit) };
        let mut reservation = self.bodies.reservation(client.address);
        let received = body::collect_into(body, limit, config.body_timeout, &mut reservation).await?;
        let request = RegistryRequest::Write { name, request: scope.forwarded_for_account(received) };
        Ok(self.service.call(&client, request).await?)
    }
}
