//! Handles one request from its head to its response, for registry and gateway listeners.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{Method, Request, Response};

use crate::firewall::{Client, FirewallError, Profile, RegistryRequest, RegistryResponse, RegistryService};
use crate::net::{Body, ListenAddress, body};
use crate::npm::endpoint::EndpointError;
use crate::npm::{Address, AuditFormat, Endpoint, PackageName};
use crate::policy::Identity;
use crate::policy::access::secret;
use crate::server::admin::Admin;
use crate::server::admin::access::{AdminCredentials, UncheckedRequest, authorize};
use crate::server::auth::authenticator::Authenticator;
use crate::server::auth::exchange::{IssuedToken, TokenExchange};
use crate::server::auth::presented::Presented;
use crate::server::auth::tokens::{AdminTokenError, AdminTokens};
use crate::server::client::ClientResolver;
use crate::server::config::Config;
use crate::server::error::RequestError;
use crate::server::pages::{Page, PageGate, Pages};
use crate::server::registry::bodies::{RequestBodies, check_transfer_coding};
use crate::server::registry::target::{EntryPoint, RequestPath, RequestScope, RequestTarget};
use crate::server::request_log::RequestLog;
use crate::server::response::{self, Reply};
use crate::telemetry::{EndpointLabel, Metrics};
use crate::upstream::Authorization;

/// The shared state of all requests, one per process.
pub(crate) struct RegistryHandler<S> {
    pub(crate) service: Arc<S>,
    clients: ClientResolver,
    pub(crate) config: Config,
    /// `None` in the gateway of a session, which answers every admin page with `ok`.
    admin: Option<Arc<Admin>>,
    admin_tokens: ArcSwapOption<AdminTokens>,
    pub(crate) metrics: Arc<Metrics>,
    bodies: RequestBodies,
    /// `None` in the gateway of a session, whose password is its authentication. Access tokens are dropped there: the
    /// configuration lends the user the credentials that npm's configuration has.
    pub(crate) auth: Option<Arc<Authenticator>>,
    /// The pages for people. `None` in the gateway of a session.
    pages: Option<Arc<Pages>>,
    /// `None` unless issuers are trusted.
    pub(crate) exchange: Option<Arc<TokenExchange>>,
}

/// The page that exchanges OIDC tokens. They are its authentication.
const EXCHANGE_PAGE: &str = "token";

/// A request as it arrived, before it is answered.
struct ArrivedRequest<'a> {
    entry_point: &'a EntryPoint,
    peer: IpAddr,
    head: &'a Parts,
    presented: Presented,
}

impl<S: RegistryService> RegistryHandler<S> {
    /// Creates a handler. `listeners` are the bound addresses. Returns an error if the admin tokens cannot be read.
    pub(crate) fn new(
        service: Arc<S>,
        config: Config,
        listeners: &[ListenAddress],
        admin: Option<Arc<Admin>>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, AdminTokenError> {
        let tokens = config.admin_tokens.as_deref().map(AdminTokens::open).transpose()?;
        let (clients, admin_tokens) = (ClientResolver::new(&config, listeners), ArcSwapOption::new(tokens.map(Arc::new)));
        Ok(Self {
            service,
            clients,
            config,
            admin,
            admin_tokens,
            metrics,
            bodies: RequestBodies::new(),
            auth: None,
            pages: None,
            exchange: None,
        })
    }

    /// Returns the handler with access tokens, and their exchange.
    pub(crate) fn with_auth(self, auth: Arc<Authenticator>, exchange: Option<Arc<TokenExchange>>) -> Self {
        Self { auth: Some(auth), exchange, ..self }
    }

    /// Returns the handler with pages for people.
    pub(crate) fn with_pages(self, pages: Pages) -> Self {
        Self { pages: Some(Arc::new(pages)), ..self }
    }

    /// Issues an access token for the OIDC token of a request.
    async fn exchange<B>(&self, exchange: &TokenExchange, unchecked: UncheckedRequest<B>) -> Result<Reply, RequestError> {
        let UncheckedRequest { peer, head, .. } = unchecked;
        if head.method != Method::POST {
            let method = head.method.as_str().chars().take(20).collect();
            return Err(EndpointError::Method { method, allow: "POST" }.into());
        }
        let client = self.clients.resolve(&peer, &head).map_err(RequestError::Headers)?;
        let header = head.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let IssuedToken { secret, record } = exchange.exchange(client.address, header).await?;
        Ok(response::issued(&serde_json::json!({
            "token": secret.reveal(),
            "label": record.token.label,
            "role": record.token.role.as_str(),
            "scopes": record.token.scope.globs(),
            "expires": record.token.expires,
        })))
    }

    /// Replaces the admin tokens with those in another file. If it cannot be read, the previous tokens stay active.
    pub(crate) fn renew_tokens(&self, path: Option<&Path>) -> Result<(), AdminTokenError> {
        self.admin_tokens.store(path.map(AdminTokens::open).transpose()?.map(Arc::new));
        Ok(())
    }

    /// Returns an admin page, under the policy of `profile`.
    pub(crate) async fn admin_page<B: http_body::Body<Data = Bytes, Error: Display> + Send>(
        &self,
        profile: Profile,
        unchecked: UncheckedRequest<B>,
    ) -> Result<Reply, RequestError> {
        if let Some(exchange) = self.exchange.as_ref().filter(|_| unchecked.page == EXCHANGE_PAGE) {
            return self.exchange(exchange, unchecked).await;
        }
        // Held until the response exists, since parsing may need more memory than the body.
        let mut reservation = self.bodies.memory.share_for(unchecked.peer.address);
        let credentials = AdminCredentials { tokens: self.admin_tokens.load_full(), auth: self.auth.as_deref() };
        if let Some(pages) = &self.pages
            && let Some(page) = Page::of(&unchecked)
        {
            let gate = PageGate { credentials, resolver: &self.clients, config: &self.config, profile };
            return Ok(response::admin(pages.answer(page, &gate, unchecked, &mut reservation).await));
        }
        let mut request = authorize(credentials, &self.clients, &self.config, unchecked, &mut reservation).await?;
        request.client = request.client.map(|client| Client { profile, ..client });
        Ok(response::admin(match &self.admin {
            Some(admin) => admin.answer(request).await,
            None => Response::new(Bytes::from_static(b"ok\n")),
        }))
    }

    /// Returns the client of a request. Records it. Fails if its access token is invalid, or if it has none and needs one.
    fn client(&self, arrived: &ArrivedRequest<'_>, path: &RequestPath<'_>, log: &mut RequestLog) -> Result<Client, RequestError> {
        let &ArrivedRequest { entry_point, peer, head, presented } = arrived;
        let client = match (entry_point, path.base) {
            (EntryPoint::Intercepted { target, identity }, Some(base)) => {
                let addressed = target.addressed(&base.text);
                ClientResolver::resolve_intercepted(peer, identity.clone(), head, (base.clone(), addressed))
            }
            _ => self.clients.resolve(&entry_point.peer(peer), head),
        };
        let profile = if let EntryPoint::Registry { profile, .. } = entry_point { *profile } else { Profile::default() };
        let mut client = Client { profile, ..client.map_err(RequestError::Headers)? };
        if let Some(exchange) = &self.exchange
            && let Authorization::Own(own) = &client.authorization
            && (exchange.is_ours(&own.header) || (exchange.is_of_issuer(&own.header) && !is_registry_exchange(path)))
        {
            log.client.set(&Client { authorization: Authorization::None, ..client.clone() });
            return Err(RequestError::NotExchanged(client.base.text.to_string()));
        }
        let authenticated = self.authenticate(&client, presented);
        if let Ok(Some(identity)) = &authenticated {
            client = Client { identity: Some(Arc::clone(identity)), authorization: Authorization::Lent, ..client };
        }
        log.client.set(&client);
        authenticated.map(|_| client)
    }

    /// Returns the identity of the access token that a request bears, if any. The identity of its connection must be valid still.
    fn authenticate(&self, client: &Client, presented: Presented) -> Result<Option<Arc<Identity>>, RequestError> {
        let Some(auth) = &self.auth else { return Ok(None) };
        if let Some(identity) = &client.identity {
            auth.confirm(identity).map_err(RequestError::TokenRefused)?;
        }
        let identity = auth.authenticate(client.address, presented)?;
        if identity.is_none() && client.identity.is_none() && auth.is_required() {
            return Err(auth.missing(&client.base));
        }
        Ok(identity)
    }

    /// Returns the tarball at a registry-specific address, if there is one.
    async fn tarball_at(&self, client: &Client, address: &Address) -> Result<Option<RegistryResponse>, FirewallError> {
        let Some((name, version)) = self.service.locate(client, address).await? else { return Ok(None) };
        self.service.call(client, RegistryRequest::Tarball { name, version: version.into() }).await.map(Some)
    }

    /// Answers a request for a package or version whose path has the extension of a tarball.
    async fn file(&self, scope: &RequestScope<'_>, request: RegistryRequest) -> Result<RegistryResponse, FirewallError> {
        if let Some(address) = scope.path.address(scope.head)
            && let Some(tarball) = self.tarball_at(scope.client, &address).await?
        {
            return Ok(tarball);
        }
        self.service.call(scope.client, request).await
    }

    /// Answers a request for a tarball that is missing: the path may be the address of another version.
    async fn other_tarball(&self, scope: &RequestScope<'_>, missing: FirewallError) -> Result<RegistryResponse, FirewallError> {
        let Some(address) = scope.path.address(scope.head) else { return Err(missing) };
        self.tarball_at(scope.client, &address).await?.ok_or(missing)
    }

    /// Forwards a request to an endpoint that is not answered from packages.
    async fn forward<B: http_body::Body<Data = Bytes, Error: Display> + Send>(
        &self,
        scope: &RequestScope<'_>,
        endpoint: Endpoint,
        body: B,
    ) -> Result<Reply, RequestError> {
        let (client, mut is_private) = (scope.client, true);
        let has_token = matches!(scope.presented, Presented::Token(_)) && self.auth.is_some();
        let response = match endpoint {
            Endpoint::Account(_) | Endpoint::Write(_) if has_token => return Err(RequestError::TokenForRegistry),
            Endpoint::Whoami if has_token => {
                return Ok(response::whoami(client.user().map_or("", |user| user), scope.head));
            }
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
        let mut reservation = self.bodies.memory.share_for(address);
        let received = body::collect_into(body, limit, self.config.body_timeout, &mut reservation).await?;
        let body = self.bodies.decompress(received.clone(), &scope.head.headers, limit, address).await?;
        if secret::is_in(&body) {
            return Err(RequestError::TokenInRequest("body"));
        }
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
        let mut reservation = self.bodies.memory.share_for(client.address);
        let received = body::collect_into(body, limit, config.body_timeout, &mut reservation).await?;
        // `npm login` sends a password in its body.
        if secret::is_in(&received) {
            return Err(RequestError::TokenInRequest("body"));
        }
        let request = RegistryRequest::Write { name, request: scope.forwarded_for_account(received) };
        Ok(self.service.call(&client, request).await?)
    }
}

/// Checks whether a path is that of the registry's own exchange of OIDC tokens, for trusted publishing.
fn is_registry_exchange(path: &RequestPath<'_>) -> bool {
    path.in_registry.starts_with("/-/npm/v1/oidc/token/exchange/")
}

pub(crate) async fn handle<S: RegistryService, B: http_body::Body<Data = Bytes, Error: Display> + Send>(
    handler: &RegistryHandler<S>,
    entry_point: &EntryPoint,
    peer: SocketAddr,
    request: Request<B>,
) -> Response<Body> {
    let (mut head, body) = request.into_parts();
    let mut log = RequestLog::begin(&handler.metrics, peer.ip().to_canonical(), &head.method, &head.uri);
    let presented = match Presented::take(&mut head.headers, &AUTHORIZATION) {
        _ if log.has_token => return log.finish(response::error(&RequestError::TokenInRequest("URL"))),
        Ok(presented) => presented,
        Err(error) => return log.finish(response::error(&RequestError::Headers(error))),
    };
    let (path, endpoint) = entry_point.endpoint(&head, &handler.clients, &handler.config.upstream_prefixes);
    if let Ok(endpoint) = &endpoint {
        log.set_endpoint(endpoint);
    }
    let target = match RequestTarget::of(endpoint, &head, &path) {
        Ok(RequestTarget::Admin(page)) => {
            // Admin pages are not served on intercepted hosts.
            let &EntryPoint::Registry { profile, on_loopback, .. } = entry_point else {
                return log.finish(response::error(&RequestError::NotARegistryPath));
            };
            let unchecked = UncheckedRequest { peer: entry_point.peer(peer.ip()), head, page, body, on_loopback, presented };
            let reply = Box::pin(handler.admin_page(profile, unchecked)).await;
            return log.finish(reply.unwrap_or_else(|error| response::error(&error)));
        }
        target => target,
    };
    // Before errors of the path: a client without a valid token learns nothing.
    let arrived = ArrivedRequest { entry_point, peer: peer.ip(), head: &head, presented };
    let (client, target) = match handler.client(&arrived, &path, &mut log).and_then(|client| Ok((client, target?))) {
        Ok(client_and_target) => client_and_target,
        Err(error) => return log.finish(response::error(&error)),
    };
    let base_url = handler.clients.base_url_source();
    let scope = RequestScope { client: &client, head: &head, path: &path, base_url, presented };
    // All futures but that of a packument or tarball are boxed. They are large and rare, and would enlarge every request.
    let answer = match target {
        RequestTarget::Package(request) => {
            let is_tarball = matches!(request, RegistryRequest::Tarball { .. });
            match handler.service.call(&client, request).await {
                Err(missing @ FirewallError::NotFound(_)) if is_tarball => Box::pin(handler.other_tarball(&scope, missing)).await,
                answer => answer,
            }
        }
        RequestTarget::File(request) => Box::pin(handler.file(&scope, request)).await,
        RequestTarget::Address(unknown) => match Box::pin(handler.tarball_at(&client, &unknown.0)).await {
            Ok(Some(tarball)) => {
                log.endpoint = EndpointLabel::Tarball;
                Ok(tarball)
            }
            Ok(None) => return log.finish(response::error(&unknown.1)),
            Err(error) => Err(error),
        },
        RequestTarget::Forwarded(endpoint) => {
            let reply = Box::pin(handler.forward(&scope, endpoint, body)).await;
            return log.finish(reply.unwrap_or_else(|error| response::error(&error)));
        }
        RequestTarget::Root | RequestTarget::Admin(_) => return log.finish(response::root(&head)),
    };
    log.finish(match answer {
        Ok(answer) => response::registry(answer, scope.head, scope.base_url),
        Err(error) => response::error(&error.into()),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::Mutex;

    use http::{HeaderMap, StatusCode};
    use http_body_util::{BodyExt as _, Full};
    use jiff::Timestamp;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::firewall::{EgressRequest, HiddenVersions, PackumentResponse, Refusal, TarballResponse, Want};
    use crate::npm::{Algorithm, Digest, Integrity};
    use crate::policy::RuleId;
    use crate::server::registry;
    use crate::upstream::{PassthroughRequest, PassthroughResponse};

    /// A firewall stub: serves every request, refuses `young`, and records the calls.
    #[derive(Default)]
    struct Stub(Mutex<Vec<String>>);

    impl Stub {
        fn note(&self, client: &Client, what: impl Display) {
            let source = match &client.authorization {
                Authorization::None => "none",
                Authorization::Lent => "lent",
                Authorization::Own(_) => "own",
            };
            self.0.lock().unwrap().push(format!("{what} for {source}"));
        }

        fn take(&self) -> Vec<String> {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    fn upstream_said(passage: &PassthroughRequest) -> PassthroughResponse {
        PassthroughResponse {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: Bytes::from(format!("{} {}", passage.method, passage.path)),
        }
    }

    impl RegistryService for Stub {
        async fn call(&self, client: &Client, request: RegistryRequest) -> Result<RegistryResponse, FirewallError> {
            match request {
                RegistryRequest::Packument { name, form, coding } => {
                    self.note(client, format!("packument {name} {form:?} {coding:?} {}", client.base.text));
                    if name.as_str() == "hangs" {
                        std::future::pending::<()>().await;
                    }
                    if name.as_str() == "young" {
                        let text = "young has no version older than 72 h".into();
                        let rule = RuleId::File("minimum-age".into());
                        let refusal = Refusal { name, version: None, rule, opens: None, text, link: None, request: None };
                        return Err(FirewallError::Refused(Arc::new(refusal)));
                    }
                    let chunks: Arc<[Bytes]> = Arc::new([Bytes::from_static(b"{}")]);
                    let (etag, last_modified) = ("\"e\"".into(), Timestamp::UNIX_EPOCH);
                    let answer = PackumentResponse { chunks, length: 2, form, coding, etag, last_modified, stale: None };
                    Ok(RegistryResponse::Packument(answer))
                }
                RegistryRequest::Manifest { name, spec } => {
                    self.note(client, format!("manifest {name} {spec}"));
                    Ok(RegistryResponse::Manifest(Bytes::from_static(b"{}")))
                }
                RegistryRequest::DistTags { name } => {
                    self.note(client, format!("dist-tags {name}"));
                    Ok(RegistryResponse::DistTags(Bytes::from_static(b"{}")))
                }
                RegistryRequest::Tarball { name, version } => {
                    self.note(client, format!("tarball {name} {version}"));
                    let bytes = Bytes::from_static(b"0123456789");
                    let integrity = Integrity::single(Digest::of(Algorithm::Sha512, &bytes));
                    Ok(RegistryResponse::Tarball(TarballResponse { integrity, bytes, kept: true }))
                }
                RegistryRequest::Search(request) => {
                    self.note(client, format!("search {}", request.path));
                    Ok(upstream_said(&request).into())
                }
                RegistryRequest::Audit { request, body, format } => {
                    self.note(client, format!("audit {} bytes, read {body:?} {format:?}", request.body.len()));
                    let notice = Some("held back axios 1.14.1".to_owned());
                    Ok(RegistryResponse::Passthrough { response: upstream_said(&request), notice })
                }
                RegistryRequest::Attestations { name, version, request } => {
                    self.note(client, format!("attestations {name} {version}"));
                    Ok(upstream_said(&request).into())
                }
                RegistryRequest::PassThrough { name, request } | RegistryRequest::Write { name, request } => {
                    self.note(client, format!("pass {name:?} {} {}", request.method, request.path));
                    Ok(upstream_said(&request).into())
                }
            }
        }

        async fn locate(&self, _: &Client, address: &Address) -> Result<Option<(PackageName, Box<str>)>, FirewallError> {
            let place = address.path.strip_prefix("files/").and_then(|file| file.split_once('@'));
            Ok(place.map(|(name, version)| (PackageName::parse(name).unwrap(), version.into())))
        }

        fn check_egress(&self, _request: &EgressRequest<'_>) -> Option<String> {
            None
        }

        fn hidden_versions(&self, _client: &Client, _name: &PackageName, _wants: &[Want]) -> Option<HiddenVersions> {
            None
        }
    }

    fn service(config: Config) -> Arc<RegistryHandler<Stub>> {
        let listeners = [SocketAddr::from(([127, 0, 0, 1], 4873)).into()];
        Arc::new(RegistryHandler::new(Arc::default(), config, &listeners, None, Arc::default()).unwrap())
    }

    fn writable() -> Arc<RegistryHandler<Stub>> {
        service(Config { allow_writes: true, ..Config::default() })
    }

    /// Sends a request from this machine and returns status, headers and body.
    async fn send(
        service: &RegistryHandler<Stub>,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> (u16, HeaderMap, String) {
        let request = Request::builder().method(method).uri(path).header("host", "127.0.0.1:4873");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let request = request.body(Full::new(Bytes::copy_from_slice(body))).unwrap();
        let entry_point = EntryPoint::Registry {
            profile: Profile::default(),
            on_loopback: true,
            scheme: crate::net::Scheme::Http,
            identity: None,
        };
        let response = handle(service, &entry_point, SocketAddr::from(([127, 0, 0, 1], 50_000)), request).await;
        let (head, body) = response.into_parts();
        let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        (head.status.as_u16(), head.headers, body)
    }

    async fn get(service: &RegistryHandler<Stub>, path: &str) -> u16 {
        send(service, "GET", path, &[], b"").await.0
    }

    #[tokio::test]
    async fn paths_map_to_firewall_calls() {
        let service = service(Config::default());
        for (path, call) in [
            ("/axios", "packument axios Full Identity http://127.0.0.1:4873 for lent"),
            ("/@acme%2fui/^1", "manifest @acme/ui ^1 for lent"),
            ("/-/package/axios/dist-tags", "dist-tags axios for lent"),
            ("/axios/-/axios-1.0.0.tgz", "tarball axios 1.0.0 for lent"),
            ("/-/v1/search?text=a", "search -/v1/search?text=a for lent"),
            ("/-/npm/v1/attestations/axios@1.0.0", "attestations axios 1.0.0 for lent"),
            ("/-/ping", "pass None GET -/ping for lent"),
            ("/-/npm/v1/keys", "pass None GET -/npm/v1/keys for lent"),
            ("/-/whoami", "pass None GET -/whoami for lent"),
            ("/-/npm/v1/tokens", "pass None GET -/npm/v1/tokens for none"),
            ("/-/package/@acme%2fui/access", "pass Some(\"@acme/ui\") GET -/package/@acme%2fui/access for none"),
        ] {
            let path = path.replace('^', "%5E");
            assert_eq!((get(&service, &path).await, service.service.take()), (200, vec![call.to_owned()]), "{path}");
        }
        assert_eq!(send(&service, "GET", "/", &[], b"").await.2, format!("{{\"coldframe\":\"{}\"}}", env!("CARGO_PKG_VERSION")));
        assert_eq!(send(&service, "GET", "/-/coldframe/healthz", &[], b"").await.2, "ok\n");
    }

    #[tokio::test]
    async fn access_token_in_a_session_is_dropped_and_not_forwarded() {
        let session = writable();
        for header in ["Bearer cfr_x", "Basic YTpjZnJfeA==", "cfr_x"] {
            send(&session, "GET", "/axios/1.0.0", &[("authorization", header)], b"").await;
            send(&session, "PUT", "/axios", &[("authorization", header)], b"{}").await;
            let expected = ["manifest axios 1.0.0 for lent", "pass Some(\"axios\") PUT axios for none"];
            assert_eq!(session.service.take(), expected, "{header}");
        }
    }

    #[tokio::test]
    async fn unknown_paths_return_json_errors() {
        let service = service(Config::default());
        for (method, path, expected) in
            [("GET", "/_x", 400), ("GET", "/-/x", 404), ("POST", "/-/ping", 405), ("PATCH", "/a", 405)]
        {
            let (status, headers, body) = send(&service, method, path, &[], b"").await;
            assert_eq!((status, headers["content-type"].to_str().unwrap()), (expected, "application/json"), "{path}");
            let json: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert!(json["error"].is_string(), "{body}");
            assert_eq!(headers.contains_key("allow"), expected == 405);
        }
        assert!(service.service.take().is_empty());
    }

    #[tokio::test]
    async fn headers_choose_form_and_coding() {
        let service = service(Config::default());
        let npm_9 = [
            ("accept", "application/vnd.npm.install-v1+json; q=1.0, application/json; q=0.8, */*"),
            ("accept-encoding", "gzip,deflate"),
        ];
        send(&service, "GET", "/axios", &npm_9, b"").await;
        assert_eq!(service.service.take(), ["packument axios Abbreviated Gzip http://127.0.0.1:4873 for lent"]);
        let (status, headers, body) = send(&service, "GET", "/axios", &[("if-none-match", "\"e\"")], b"").await;
        assert_eq!((status, headers["etag"].to_str().unwrap(), body.as_str()), (304, "\"e\"", ""));
    }

    #[tokio::test]
    async fn writes_are_refused_unless_enabled() {
        let closed = service(Config::default());
        let (status, headers, body) = send(&closed, "PUT", "/axios", &[("authorization", "Bearer t")], b"{}").await;
        assert!(
            status == 403
                && body.contains("--allow-writes")
                && headers["npm-notice"].to_str().unwrap().contains("--allow-writes")
        );
        assert!(closed.service.take().is_empty());
        let open = writable();
        send(&open, "PUT", "/@acme%2fui", &[("authorization", "Bearer t")], b"{}").await;
        send(&open, "PUT", "/-/user/org.couchdb.user:me", &[], b"{}").await;
        let passed = ["pass Some(\"@acme/ui\") PUT @acme%2fui for own", "pass None PUT -/user/org.couchdb.user:me for none"];
        assert_eq!(open.service.take(), passed);
    }

    #[tokio::test]
    async fn packument_read_for_a_write_is_a_write() {
        assert_eq!(get(&service(Config::default()), "/axios?write=true").await, 403);
        let open = writable();
        assert_eq!(get(&open, "/axios?write=true").await, 401);
        assert!(open.service.take().is_empty());
        assert_eq!(send(&open, "GET", "/axios?write=true", &[("authorization", "Bearer t")], b"").await.0, 200);
        assert_eq!(open.service.take(), ["pass Some(\"axios\") GET axios?write=true for own"]);
    }

    #[tokio::test]
    async fn audit_is_parsed_decompressed_and_forwarded_unchanged() {
        let service = service(Config { body_limit: 64, ..Config::default() });
        let path = "/-/npm/v1/security/advisories/bulk";
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(b"{\"axios\":[\"1.0.0\"]}").unwrap();
        let packed = encoder.finish().unwrap();
        let (status, headers, _) = send(&service, "POST", path, &[("content-encoding", "gzip")], &packed).await;
        assert_eq!((status, headers["npm-notice"].to_str().unwrap()), (200, "held back axios 1.14.1"));
        let call = format!("audit {} bytes, read b\"{{\\\"axios\\\":[\\\"1.0.0\\\"]}}\" Bulk for lent", packed.len());
        assert_eq!(service.service.take(), [call]);
        assert_eq!(send(&service, "POST", path, &[("content-encoding", "gzip")], b"no gzip").await.0, 400);
        assert_eq!(send(&service, "POST", path, &[("content-encoding", "br")], b"x").await.0, 400);
        let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        bomb.write_all(&[b' '; 65]).unwrap();
        assert_eq!(send(&service, "POST", path, &[("content-encoding", "gzip")], &bomb.finish().unwrap()).await.0, 413);
    }

    #[tokio::test]
    async fn requests_are_counted_by_outcome() {
        let service = service(Config::default());
        get(&service, "/axios").await;
        get(&service, "/young").await;
        get(&service, "/_x").await;
        let numbers = service.metrics.render();
        for line in [
            "coldframe_requests_total{endpoint=\"packument\",outcome=\"served\"} 1\n",
            "coldframe_requests_total{endpoint=\"packument\",outcome=\"refused\"} 1\n",
            "coldframe_requests_total{endpoint=\"unknown\",outcome=\"client_error\"} 1\n",
            "coldframe_requests_in_flight 0\n",
        ] {
            assert!(numbers.contains(line), "{line} is missing from\n{numbers}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn disconnected_client_is_counted_as_abandoned() {
        let service = service(Config::default());
        let call = tokio::time::timeout(std::time::Duration::from_secs(1), get(&service, "/hangs")).await;
        assert!(call.is_err());
        let numbers = service.metrics.render();
        assert!(numbers.contains("coldframe_requests_total{endpoint=\"packument\",outcome=\"abandoned\"} 1\n"), "{numbers}");
        assert!(numbers.contains("coldframe_requests_in_flight 0\n"), "{numbers}");
    }

    #[tokio::test]
    async fn socket_response_has_reason_phrase_and_head_has_no_body() {
        let service = service(Config::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let limit = crate::net::ConnectionLimit::of(8);
        let served = service.clone();
        let server = tokio::spawn(async move {
            let bound = registry::RegistryListener { listener, profile: Profile::default(), certificate: None };
            registry::serve(bound, &limit, &served, async { stopped.await.unwrap() }).await
        });
        let ask = async |method: &str, path: &str, more: &str| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{more}\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let refused = ask("GET", "/young", "").await;
        assert!(refused.starts_with("HTTP/1.1 403 young has no version older than 72 h\r\n"), "{refused}");
        let headed = ask("HEAD", "/axios/-/axios-1.0.0.tgz", "").await;
        assert!(headed.contains("content-length: 10\r\n") && headed.ends_with("\r\n\r\n"), "{headed}");
        let part = ask("GET", "/axios/-/axios-1.0.0.tgz", "range: bytes=3-\r\n").await;
        assert!(part.starts_with("HTTP/1.1 206 ") && part.ends_with("\r\n\r\n3456789"), "{part}");
        let unchanged = ask("GET", "/axios", "if-none-match: \"e\"\r\n").await;
        assert!(
            unchanged.starts_with("HTTP/1.1 304 ") && !unchanged.contains("content-length") && unchanged.ends_with("\r\n\r\n"),
            "{unchanged}"
        );
        stop.send(()).unwrap();
        assert_eq!(server.await.unwrap(), 0);
    }
}
