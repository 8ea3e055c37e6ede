//! Forwards requests to upstream: searches, audits, accounts and writes.

use std::fmt::Display;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;

use crate::firewall::RegistryRequest;
use crate::net::body;
use crate::npm::{AuditFormat, Endpoint, PackageName};
use crate::server::config::Config;
use crate::server::error::RequestError;
use crate::server::registry::bodies::{RequestBodies, check_transfer_coding};
use crate::server::registry::target::RequestScope;
use crate::server::response::{self, Reply};
use crate::server::service::RegistryService;
use crate::upstream::Authorization;

/// Forwards requests within the limits of the server.
pub(crate) struct Forwarder<S> {
    pub(crate) service: Arc<S>,
    pub(crate) config: Arc<Config>,
    pub(crate) bodies: Arc<RequestBodies>,
}

impl<S: RegistryService> Forwarder<S> {
    /// Forwards a request to an endpoint that is not answered from packages.
    pub(crate) async fn forward<B>(&self, scope: &RequestScope<'_>, endpoint: Endpoint, body: B) -> Result<Reply, RequestError>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Display,
    {
        let mut client = scope.client;
        let own;
        let (request, is_private) = match endpoint {
            Endpoint::Audit(format) => return self.audit(scope, format, body).await,
            Endpoint::Write(name) => return self.write(scope, name, body).await,
            Endpoint::Search { .. } => (RegistryRequest::Search(scope.forwarded(Bytes::new())), false),
            Endpoint::Attestations { name, version } => {
                (RegistryRequest::Attestations { name, version, request: scope.forwarded(Bytes::new()) }, false)
            }
            Endpoint::Account(name) => {
                own = scope.client_with_own_credentials();
                client = &own;
                (RegistryRequest::PassThrough { name, request: scope.forwarded_for_account(Bytes::new()) }, true)
            }
            Endpoint::Whoami => {
                let mut request = scope.forwarded(Bytes::new());
                request.for_account = matches!(client.authorization, Authorization::Own(_));
                (RegistryRequest::PassThrough { name: None, request }, true)
            }
            // Ping and keys. The other endpoints are answered from packages.
            _ => (RegistryRequest::PassThrough { name: None, request: scope.forwarded(Bytes::new()) }, false),
        };
        let reply = scope.respond(self.service.call(client, request).await?);
        Ok(if is_private { response::private(reply) } else { reply })
    }

    /// Forwards an audit unchanged, and adds a notice about its held packages.
    async fn audit<B>(&self, scope: &RequestScope<'_>, format: AuditFormat, body: B) -> Result<Reply, RequestError>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Display,
    {
        let (limit, address) = (self.config.body_limit, scope.client.address);
        check_transfer_coding(&scope.head.headers)?;
        let mut reservation = self.bodies.reservation(address);
        let received = body::collect_into(body, limit, self.config.body_timeout, &mut reservation).await?;
        let body = self.bodies.decompress(received.clone(), &scope.head.headers, limit, address).await?;
        let request = RegistryRequest::Audit { request: scope.forwarded(received), body, format };
        Ok(response::private(scope.respond(self.service.call(scope.client, request).await?)))
    }

    /// Forwards a write if enabled, with the client's own credentials only.
    async fn write<B>(&self, scope: &RequestScope<'_>, name: Option<PackageName>, body: B) -> Result<Reply, RequestError>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Display,
    {
        let config = &self.config;
        if !config.allow_writes {
            return Err(RequestError::WritesDisabled);
        }
        let client = scope.client_with_own_credentials();
        let reads = matches!(scope.head.method, Method::GET | Method::HEAD);
        // This packument includes hidden versions. A client that may publish could see them anyway, others must not.
        if reads && client.authorization == Authorization::None {
            return Err(RequestError::NeedsCredentials);
        }
        check_transfer_coding(&scope.head.headers)?;
        // A write without credentials is a login, which needs no body limit of a publish.
        let limit = match client.authorization {
            Authorization::None => config.write_limit.min(config.body_limit),
            _ => config.write_limit,
        };
        let mut reservation = self.bodies.reservation(client.address);
        let received = body::collect_into(body, limit, config.body_timeout, &mut reservation).await?;
        let request = RegistryRequest::Write { name, request: scope.forwarded_for_account(received) };
        Ok(response::private(scope.respond(self.service.call(&client, request).await?)))
    }
}
