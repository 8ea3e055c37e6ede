//! What a request asks for, read from its entry point, method, path and headers.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use http::header::{ACCEPT, ACCEPT_ENCODING};
use http::request::Parts;

use crate::firewall::{BaseUrl, Client, ContentCoding, Profile, RegistryRequest};
use crate::net::Scheme;
use crate::net::headers::{best_coding, best_media_type, list};
use crate::npm::tarball_address::{below, is_file};
use crate::npm::{Address, Endpoint, PackumentForm};
use crate::policy::Identity;
use crate::server::auth::presented::Presented;
use crate::server::client::{BaseUrlSource, ClientResolver, Peer};
use crate::server::error::RequestError;
use crate::server::intercepted_hosts::InterceptTarget;
use crate::server::passthrough::passthrough_request;
use crate::server::response::CODINGS;
use crate::upstream::{Authorization, PassthroughRequest};

/// How a request arrived.
#[derive(Debug, Clone)]
pub(crate) enum EntryPoint {
    /// The client uses Coldframe as its registry, at a listener with this policy. With the identity of its certificate, if any.
    Registry { profile: Profile, on_loopback: bool, scheme: Scheme, identity: Option<Arc<Identity>> },
    /// The client addressed an intercepted host, under the default policy. With the identity of the connection, if authenticated.
    Intercepted { target: InterceptTarget, identity: Option<Arc<Identity>> },
}

pub(crate) struct RequestPath<'a> {
    /// The requested path, below our own prefix.
    pub(crate) requested: &'a str,
    /// The path below the registry's base URL.
    pub(crate) in_registry: &'a str,
    /// The base URL of an intercepted registry.
    pub(crate) base: Option<&'a BaseUrl>,
}

pub(crate) enum RequestTarget {
    Package(RegistryRequest),
    /// A package or version with the extension of a tarball, so the path may be the address of one.
    File(RegistryRequest),
    Forwarded(Endpoint),
    Root,
    Admin(String),
    /// A possible tarball address, and why the path is no known endpoint.
    Address(Box<(Address, RequestError)>),
}

pub(crate) struct RequestScope<'a> {
    pub(crate) client: &'a Client,
    pub(crate) head: &'a Parts,
    pub(crate) path: &'a RequestPath<'a>,
    pub(crate) base_url: BaseUrlSource,
    /// The credential in `Authorization`, which is removed from `head` if it is an access token.
    pub(crate) presented: Presented,
}

impl EntryPoint {
    /// Returns the same entry point for a connection with another identity.
    pub(crate) fn with_identity(&self, authenticated: Option<Arc<Identity>>) -> Self {
        let mut entry_point = self.clone();
        let (Self::Registry { identity, .. } | Self::Intercepted { identity, .. }) = &mut entry_point;
        *identity = authenticated;
        entry_point
    }

    /// Returns the peer of a connection: its address, scheme and identity.
    pub(crate) fn peer(&self, address: IpAddr) -> Peer {
        match self {
            Self::Registry { scheme, identity, .. } => Peer { address, scheme: *scheme, identity: identity.clone() },
            Self::Intercepted { identity, .. } => Peer { identity: identity.clone(), ..Peer::from(address) },
        }
    }

    /// Returns the path of a request and the endpoint that it names.
    pub(crate) fn endpoint<'a>(
        &'a self,
        head: &'a Parts,
        clients: &ClientResolver,
        upstream_prefixes: &[Box<str>],
    ) -> (RequestPath<'a>, Result<Endpoint, RequestError>) {
        let path = head.uri.path();
        match self {
            Self::Registry { .. } => {
                let requested = clients.strip(path);
                let (in_registry, endpoint) = parse(head, requested, upstream_prefixes);
                (RequestPath { requested, in_registry, base: None }, endpoint)
            }
            Self::Intercepted { target, .. } => match target.registry_path(path) {
                Some((below, base)) => {
                    let (in_registry, endpoint) = parse(head, below, &[]);
                    (RequestPath { requested: path, in_registry, base: Some(base) }, endpoint)
                }
                None => (
                    RequestPath { requested: path, in_registry: path, base: target.bases.last() },
                    Err(RequestError::NotARegistryPath),
                ),
            },
        }
    }
}

impl RequestTarget {
    /// Returns what the endpoint of a request asks for. A path without a known endpoint may be a tarball address.
    pub(crate) fn of(
        endpoint: Result<Endpoint, RequestError>,
        head: &Parts,
        path: &RequestPath<'_>,
    ) -> Result<Self, RequestError> {
        let request = match endpoint {
            Ok(Endpoint::Packument(name)) => {
                let (form, coding) = preferred_form(head);
                RegistryRequest::Packument { name, form, coding }
            }
            Ok(Endpoint::Tarball { name, version }) => return Ok(Self::Package(RegistryRequest::Tarball { name, version })),
            Ok(Endpoint::Manifest { name, wanted }) => RegistryRequest::Manifest { name, spec: wanted },
            Ok(Endpoint::DistTags(name)) => return Ok(Self::Package(RegistryRequest::DistTags { name })),
            Ok(Endpoint::Root) => return Ok(Self::Root),
            Ok(Endpoint::Admin(page)) => return Ok(Self::Admin(page)),
            Ok(forwarded) => return Ok(Self::Forwarded(forwarded)),
            Err(error) => {
                return match path.address(head) {
                    Some(address) => Ok(Self::Address(Box::new((address, error)))),
                    None => Err(error),
                };
            }
        };
        Ok(if is_file(path.requested) { Self::File(request) } else { Self::Package(request) })
    }
}

impl RequestPath<'_> {
    /// Returns the possible tarball address of a read request.
    pub(crate) fn address(&self, head: &Parts) -> Option<Address> {
        Address::of_request(self.requested, head.uri.query()).ok().filter(|_| is_read(head))
    }
}

impl RequestScope<'_> {
    pub(crate) fn forwarded(&self, body: Bytes) -> Box<PassthroughRequest> {
        Box::new(passthrough_request(self.head, self.path.in_registry, body))
    }

    /// Returns the request to forward, restricted to a registry that the client's own credentials are for.
    pub(crate) fn forwarded_for_account(&self, body: Bytes) -> Box<PassthroughRequest> {
        let mut request = self.forwarded(body);
        request.for_account = true;
        request
    }

    /// Returns the client without configured credentials.
    pub(crate) fn client_with_own_credentials(&self) -> Client {
        let authorization = match &self.client.authorization {
            Authorization::Own(own) => Authorization::Own(own.clone()),
            Authorization::Lent | Authorization::None => Authorization::None,
        };
        Client { authorization, ..self.client.clone() }
    }
}

/// Parses a path, or the one below a prefix: clients that replace only the host of lockfile URLs keep upstream's path.
fn parse<'a>(head: &Parts, path: &'a str, prefixes: &[Box<str>]) -> (&'a str, Result<Endpoint, RequestError>) {
    let parse = |path: &str| Endpoint::parse(head.method.as_str(), path, head.uri.query());
    let error = match parse(path) {
        Ok(endpoint) => return (path, Ok(endpoint)),
        Err(error) => error,
    };
    let below = prefixes.iter().filter(|_| is_read(head)).find_map(|prefix| {
        let path = below(std::slice::from_ref(prefix), path)?;
        let is_package = |endpoint: &Endpoint| {
            matches!(
                endpoint,
                Endpoint::Packument(_) | Endpoint::Manifest { .. } | Endpoint::Tarball { .. } | Endpoint::DistTags(_)
            )
        };
        Some((path, parse(path).ok().filter(is_package)?))
    });
    match below {
        Some((path, endpoint)) => (path, Ok(endpoint)),
        None => (path, Err(error.into())),
    }
}

fn is_read(head: &Parts) -> bool {
    matches!(head.method, Method::GET | Method::HEAD)
}

fn preferred_form(head: &Parts) -> (PackumentForm, ContentCoding) {
    let accept = list(&head.headers, &ACCEPT);
    let forms = ["application/json", "application/vnd.npm.install-v1+json"];
    let form = [PackumentForm::Full, PackumentForm::Abbreviated][best_media_type(accept.as_deref(), &forms)];
    let codings = list(&head.headers, &ACCEPT_ENCODING);
    let coding = best_coding(codings.as_deref(), &CODINGS.map(|(name, _)| name)).map(|at| CODINGS[at].1);
    (form, coding.unwrap_or(ContentCoding::Identity))
}
