//! Handles one request from its head to its response, for registry and gateway listeners.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Method, Request, Response};

use crate::firewall::{self, Client, ContentCoding, FirewallError, Profile, RegistryRequest, RegistryResponse};
use crate::net::headers::{best_coding, best_media_type, list};
use crate::net::{Body, FairLimit, FairPermit, MemoryBudget, body};
use crate::npm::PackumentForm;
use crate::npm::tarball_address::{below, is_file};
use crate::npm::{Address, AuditFormat, Endpoint, PackageName};
use crate::server::admin::access::{AdminAccess, Own, UncheckedRequest};
use crate::server::auth::tokens::{AdminTokenError, AdminTokens};
use crate::server::client::ClientResolver;
use crate::server::intercepted_hosts::InterceptTarget;
use crate::server::request_log::RequestLog;
use crate::server::response::{self, CODINGS, Reply};
use crate::server::service::RegistryService;
use crate::server::{Config, RequestError, passthrough};
use crate::telemetry::{EndpointLabel, Metrics};
use crate::upstream::{Authorization, PassthroughRequest};

/// Memory for request bodies until they are forwarded. Above it, bodies wait, except that the oldest body of each client may grow
/// up to the second limit. Thus a client with slow bodies does not prevent others from publishing.
const BODY_MEMORY: u64 = 64 << 20;
const MAX_BODY_MEMORY: u64 = 512 << 20;

/// Bodies up to this size never wait for memory. npm audits are smaller, and a connection may buffer more anyway.
const SMALL_BODY: u64 = 256 << 10;

/// How long a body waits for memory. Shorter than clients wait for a response.
const MEMORY_TIMEOUT: Duration = Duration::from_secs(20);

/// A decompressed body with its permit. The permits limit how many exist at once.
struct Permitted {
    bytes: Bytes,
    _permit: FairPermit,
}

impl AsRef<[u8]> for Permitted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The shared state of all requests, one per process.
pub struct RegistryHandler<A> {
    answers: Arc<A>,
    clients: ClientResolver,
    config: Config,
    own: Own,
    access: AdminAccess,
    metrics: Arc<Metrics>,
    /// Memory for request bodies.
    bodies: Arc<MemoryBudget>,
    /// Limits bodies being decompressed and parsed.
    readers: Arc<FairLimit>,
}

impl<A: RegistryService> RegistryHandler<A> {
    /// Creates a handler that uses `answers`. `listeners` are the bound addresses.
    ///
    /// # Errors
    /// Returns an error if the admin tokens cannot be read.
    pub fn new(
        answers: Arc<A>,
        config: Config,
        listeners: &[SocketAddr],
        own: Own,
        metrics: Arc<Metrics>,
    ) -> Result<Self, AdminTokenError> {
        let tokens = config.admin_tokens.as_deref().map(AdminTokens::open).transpose()?;
        let (clients, access) = (ClientResolver::new(&config, listeners), AdminAccess::new(tokens));
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let bodies = MemoryBudget::for_clients(BODY_MEMORY, MAX_BODY_MEMORY, SMALL_BODY, MEMORY_TIMEOUT);
        let readers = FairLimit::new(firewall::heavy(cores));
        Ok(Self { answers, clients, config, own, access, metrics, bodies, readers })
    }

    /// Replaces the admin tokens with those in another file.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read. The previous tokens stay active.
    pub fn renew_tokens(&self, path: Option<&Path>) -> Result<(), AdminTokenError> {
        self.access.renew(path.map(AdminTokens::open).transpose()?);
        Ok(())
    }

    /// Returns an admin page, under the policy of `profile`.
    pub(crate) async fn admin_page<B>(&self, profile: Profile, unchecked: UncheckedRequest<B>) -> Result<Reply, RequestError>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Display,
    {
        // Held until the response exists, since parsing may need more memory than the body.
        let mut share = self.bodies.share_for(unchecked.peer);
        let mut request = self.access.authorize(&self.clients, &self.config, unchecked, &mut share).await?;
        request.visitor = request.visitor.map(|client| Client { profile, ..client });
        Ok(response::admin((self.own)(request).await))
    }

    /// Returns the firewall.
    pub(crate) fn answers(&self) -> &A {
        &self.answers
    }

    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Returns the server settings.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }
}

/// How a request arrived.
#[derive(Debug, Clone)]
pub enum EntryPoint {
    /// The client uses Coldframe as its registry, at a listener with this policy. The flag tells if the listener is on loopback.
    Registry(Profile, bool),
    /// The client addressed an intercepted host, under the default policy. With the gateway user, if authenticated.
    Intercepted(InterceptTarget, Option<Arc<str>>),
}

impl EntryPoint {
    fn profile(&self) -> Profile {
        match self {
            Self::Registry(profile, _) => *profile,
            Self::Intercepted(..) => Profile::default(),
        }
    }
}

/// Handles a request from `peer`.
pub async fn handle<A, B>(
    service: &RegistryHandler<A>,
    entry_point: &EntryPoint,
    peer: SocketAddr,
    request: Request<B>,
) -> Response<Body>
where
    A: RegistryService,
    B: http_body::Body<Data = Bytes> + Send,
    B::Error: Display,
{
    let (head, body) = request.into_parts();
    let mut log = RequestLog::begin(&service.metrics, peer.ip().to_canonical(), &head.method, &head.uri);
    let (whole, base, read) = match entry_point {
        EntryPoint::Registry(..) => {
            let path = service.clients.strip(head.uri.path());
            (path, None, read(&head, path, &service.config.upstream_prefixes))
        }
        EntryPoint::Intercepted(aim, _) => match aim.registry_path(head.uri.path()) {
            Some((path, base)) => (head.uri.path(), Some(base), read(&head, path, &[])),
            None => (head.uri.path(), aim.outermost(), (head.uri.path(), Err(no_registry()))),
        },
    };
    let (path, endpoint) = read;
    let target = match endpoint {
        Ok(endpoint) => RequestTarget::Endpoint(endpoint),
        Err(error) => match address(&head, whole) {
            Some(address) => RequestTarget::Address(address, error),
            None => return log.finish(response::error(&error)),
        },
    };
    log.endpoint = target.label();
    log.is_private = matches!(target, RequestTarget::Endpoint(Endpoint::Account(None) | Endpoint::Write(None)));
    if let RequestTarget::Endpoint(Endpoint::Admin(page)) = target {
        // Admin pages are not served on intercepted hosts.
        let &EntryPoint::Registry(profile, on_loopback) = entry_point else {
            return log.finish(response::error(&no_registry()));
        };
        let unchecked = UncheckedRequest { peer: peer.ip(), head, page, body, on_loopback };
        let reply = Box::pin(service.admin_page(profile, unchecked)).await;
        return log.finish(reply.unwrap_or_else(|error| response::error(&error)));
    }
    let client = match (base, entry_point) {
        (Some(base), EntryPoint::Intercepted(aim, user)) => {
            let addressed = aim.addressed(&base.text);
            ClientResolver::resolve_intercepted(peer.ip(), user.clone(), &head, (base.clone(), addressed))
        }
        _ => service.clients.resolve(peer.ip(), &head),
    };
    let client = match client {
        Ok(client) => Client { profile: entry_point.profile(), ..client },
        Err(text) => return log.finish(response::error(&RequestError::Headers(text))),
    };
    log.client = client.address;
    log.user.clone_from(&client.user);
    log.agent = Some(client.agent.clone());
    let scope = RequestScope { service, head: &head, whole, path, client: &client };
    let reply = match target {
        RequestTarget::Address(address, error) => match Box::pin(scope.answer_at(&address)).await {
            Ok(Some(reply)) => {
                log.endpoint = EndpointLabel::Tarball;
                Ok(reply)
            }
            Ok(None) => Err(error),
            Err(error) => Err(error),
        },
        RequestTarget::Endpoint(endpoint @ (Endpoint::Packument(_) | Endpoint::Manifest { .. })) if is_file(whole) => {
            Box::pin(scope.answer_file(endpoint, body)).await
        }
        RequestTarget::Endpoint(endpoint) => scope.answer(endpoint, body).await,
    };
    log.finish(reply.unwrap_or_else(|error| response::error(&error)))
}

/// What the path of a request names.
enum RequestTarget {
    Endpoint(Endpoint),
    /// A possible tarball address, and why the path is no known endpoint.
    Address(Address, RequestError),
}

impl RequestTarget {
    fn label(&self) -> EndpointLabel {
        match self {
            Self::Endpoint(endpoint) => label(endpoint),
            Self::Address(..) => EndpointLabel::Unknown,
        }
    }
}

/// Parses a path, if necessary below one of `prefixes`. Clients that replace only the host of lockfile URLs keep upstream's path.
/// Returns the parsed path too.
fn read<'a>(head: &Parts, path: &'a str, prefixes: &[Box<str>]) -> (&'a str, Result<Endpoint, RequestError>) {
    let parse = |path: &str| Endpoint::parse(head.method.as_str(), path, head.uri.query());
    let error = match parse(path) {
        Ok(endpoint) => return (path, Ok(endpoint)),
        Err(error) => error,
    };
    let is_read = matches!(head.method, Method::GET | Method::HEAD);
    let below = prefixes.iter().filter(|_| is_read).find_map(|prefix| {
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

/// Returns the possible tarball address of a read request.
fn address(head: &Parts, path: &str) -> Option<Address> {
    let is_read = matches!(head.method, Method::GET | Method::HEAD);
    Address::of_request(path, head.uri.query()).ok().filter(|_| is_read)
}

fn no_registry() -> RequestError {
    RequestError::NotARegistryPath("not a registry path; coldframe intercepts only the registry on this host".to_owned())
}

/// A request of a known client.
struct RequestScope<'a, A> {
    service: &'a RegistryHandler<A>,
    head: &'a Parts,
    /// The requested path, below our own prefix.
    whole: &'a str,
    /// The path below the registry's base URL.
    path: &'a str,
    client: &'a Client,
}

impl<A: RegistryService> RequestScope<'_, A> {
    /// Returns the tarball at a registry-specific address, if there is one.
    async fn answer_at(&self, address: &Address) -> Result<Option<Reply>, RequestError> {
        let answers = &*self.service.answers;
        let Some((name, version)) = answers.locate(self.client, address).await? else { return Ok(None) };
        let answer = answers.call(self.client, RegistryRequest::Tarball { name, version: version.into() }).await?;
        Ok(Some(self.respond(answer)))
    }

    fn respond(&self, answer: RegistryResponse) -> Reply {
        response::registry(answer, self.head, self.service.clients.base_url_source())
    }

    /// Handles a path that looks like a package or version but has the extension of a tarball.
    async fn answer_file<B>(&self, endpoint: Endpoint, body: B) -> Result<Reply, RequestError>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Display,
    {
        let reply = match address(self.head, self.whole) {
            Some(address) => self.answer_at(&address).await?,
            None => None,
        };
        match reply {
            Some(reply) => Ok(reply),
            None => self.answer(endpoint, body).await,
        }
    }

    /// Handles a tarball path whose version is missing: the path may be the address of another version.
    async fn answer_elsewhere(&self, missing: FirewallError) -> Result<Reply, RequestError> {
        let reply = match address(self.head, self.whole) {
            Some(address) => self.answer_at(&address).await?,
            None => None,
        };
        reply.ok_or_else(|| missing.into())
    }

    /// Handles an endpoint.
    async fn answer<B>(&self, endpoint: Endpoint, body: B) -> Result<Reply, RequestError>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Display,
    {
        let request = match endpoint {
            Endpoint::Packument(name) => {
                let (form, coding) = self.wanted();
                RegistryRequest::Packument { name, form, coding }
            }
            Endpoint::Tarball { name, version } => RegistryRequest::Tarball { name, version },
            Endpoint::Manifest { name, wanted } => RegistryRequest::Manifest { name, spec: wanted },
            Endpoint::DistTags(name) => RegistryRequest::DistTags { name },
            Endpoint::Root | Endpoint::Admin(_) => return Ok(response::root(self.head)),
            // Boxed: these futures are large and rare, and would enlarge the future of every request.
            forwarded => return Box::pin(self.forward(forwarded, body)).await,
        };
        let is_tarball = matches!(request, RegistryRequest::Tarball { .. });
        match self.service.answers.call(self.client, request).await {
            Err(missing @ FirewallError::NotFound(_)) if is_tarball => Box::pin(self.answer_elsewhere(missing)).await,
            answer => Ok(self.respond(answer?)),
        }
    }

    /// Handles endpoints that are forwarded to upstream.
    async fn forward<B>(&self, endpoint: Endpoint, body: B) -> Result<Reply, RequestError>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Display,
    {
        let is_shared =
            matches!(endpoint, Endpoint::Search { .. } | Endpoint::Attestations { .. } | Endpoint::Ping | Endpoint::Keys);
        let (answers, client) = (&*self.service.answers, self.client);
        let answer = match endpoint {
            Endpoint::Audit(format) => self.audit(format, body).await?,
            Endpoint::Write(name) => self.write(name, body).await?,
            Endpoint::Search { .. } => answers.call(client, RegistryRequest::Search(self.passage(Bytes::new()))).await?,
            Endpoint::Attestations { name, version } => {
                let request = self.passage(Bytes::new());
                answers.call(client, RegistryRequest::Attestations { name, version, request }).await?
            }
            Endpoint::Account(name) => {
                let request = RegistryRequest::PassThrough { name, request: self.account_passage(Bytes::new()) };
                answers.call(&own_credentials_only(client), request).await?
            }
            Endpoint::Whoami if matches!(client.authorization, Authorization::Own(_)) => {
                let request = RegistryRequest::PassThrough { name: None, request: self.account_passage(Bytes::new()) };
                answers.call(client, request).await?
            }
            // Whoami, ping and keys. The other endpoints are handled above.
            _ => {
                let request = RegistryRequest::PassThrough { name: None, request: self.passage(Bytes::new()) };
                answers.call(client, request).await?
            }
        };
        let reply = self.respond(answer);
        Ok(if is_shared { reply } else { response::private(reply) })
    }

    /// Returns the preferred packument form and coding.
    fn wanted(&self) -> (PackumentForm, ContentCoding) {
        let accept = list(&self.head.headers, &ACCEPT);
        let forms = ["application/json", "application/vnd.npm.install-v1+json"];
        let form = [PackumentForm::Full, PackumentForm::Abbreviated][best_media_type(accept.as_deref(), &forms)];
        let codings = list(&self.head.headers, &ACCEPT_ENCODING);
        let coding = best_coding(codings.as_deref(), &CODINGS.map(|(name, _)| name)).map(|at| CODINGS[at].1);
        (form, coding.unwrap_or(ContentCoding::Identity))
    }

    fn passage(&self, body: Bytes) -> Box<PassthroughRequest> {
        Box::new(passthrough::passthrough_request(self.head, self.path, body))
    }

    /// Returns the forwarded request, restricted to a registry that the client's own credentials are for.
    fn account_passage(&self, body: Bytes) -> Box<PassthroughRequest> {
        let mut request = self.passage(body);
        request.for_account = true;
        request
    }

    /// Forwards an audit unchanged, and adds a notice about its held packages.
    async fn audit<B>(&self, format: AuditFormat, body: B) -> Result<RegistryResponse, RequestError>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Display,
    {
        let config = &self.service.config;
        self.check_transfer()?;
        let mut share = self.service.bodies.share_for(self.client.address);
        let received = body::collect_into(body, config.body_limit, config.body_timeout, &mut share).await?;
        let decoded = self.inflate(received.clone()).await?;
        let request = RegistryRequest::Audit { request: self.passage(received), body: decoded, format };
        Ok(self.service.answers.call(self.client, request).await?)
    }

    /// Rejects transfer encodings other than `chunked`, whose payload would be misread.
    fn check_transfer(&self) -> Result<(), RequestError> {
        match list(&self.head.headers, &TRANSFER_ENCODING) {
            Some(coding) if !coding.trim().eq_ignore_ascii_case("chunked") => Err(RequestError::Transfer),
            _ => Ok(()),
        }
    }

    /// Decompresses a body. Limits how many are decompressed at once, each until its last reader drops it.
    async fn inflate(&self, bytes: Bytes) -> Result<Bytes, RequestError> {
        let limit = self.service.config.body_limit;
        let coding = list(&self.head.headers, &CONTENT_ENCODING).map(|coding| coding.trim().to_ascii_lowercase());
        let is_packed = match coding.as_deref() {
            None | Some("" | "identity") => false,
            Some("gzip" | "x-gzip") => true,
            Some(_) => return Err(RequestError::Coding),
        };
        let permit = self.service.readers.acquire(self.client.address).await;
        let reading = tokio::task::spawn_blocking(move || {
            let bytes = if is_packed { body::gunzip(&bytes, limit)? } else { bytes };
            Ok(Bytes::from_owner(Permitted { bytes, _permit: permit }))
        });
        reading.await.map_err(|error| {
            tracing::error!(error = %error, "decompression task failed");
            RequestError::TaskFailed
        })?
    }

    /// Forwards a write if enabled, with the client's own credentials only.
    async fn write<B>(&self, name: Option<PackageName>, body: B) -> Result<RegistryResponse, RequestError>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Display,
    {
        let config = &self.service.config;
        if !config.allow_writes {
            return Err(RequestError::WritesDisabled);
        }
        let own = own_credentials_only(self.client);
        let reads = matches!(self.head.method, Method::GET | Method::HEAD);
        // This packument includes hidden versions. A client that may publish could see them anyway, others must not.
        if reads && own.authorization == Authorization::None {
            return Err(RequestError::NeedsCredentials);
        }
        self.check_transfer()?;
        // A write without credentials is a login, which needs no body limit of a publish.
        let limit =
            if own.authorization == Authorization::None { config.write_limit.min(config.body_limit) } else { config.write_limit };
        let mut share = self.service.bodies.share_for(self.client.address);
        let received = body::collect_into(body, limit, config.body_timeout, &mut share).await?;
        let request = RegistryRequest::Write { name, request: self.account_passage(received) };
        Ok(self.service.answers.call(&own, request).await?)
    }
}

/// Returns the client without configured credentials.
fn own_credentials_only(client: &Client) -> Client {
    let authorization = match &client.authorization {
        Authorization::Own(own) => Authorization::Own(own.clone()),
        Authorization::Lent | Authorization::None => Authorization::None,
    };
    Client { authorization, ..client.clone() }
}

fn label(endpoint: &Endpoint) -> EndpointLabel {
    match endpoint {
        Endpoint::Root => EndpointLabel::Root,
        Endpoint::Packument(_) => EndpointLabel::Packument,
        Endpoint::Manifest { .. } => EndpointLabel::Manifest,
        Endpoint::Tarball { .. } => EndpointLabel::Tarball,
        Endpoint::DistTags(_) => EndpointLabel::DistTags,
        Endpoint::Search { .. } => EndpointLabel::Search,
        Endpoint::Ping => EndpointLabel::Ping,
        Endpoint::Whoami => EndpointLabel::Whoami,
        Endpoint::Keys => EndpointLabel::Keys,
        Endpoint::Attestations { .. } => EndpointLabel::Attestations,
        Endpoint::Audit(_) => EndpointLabel::Audit,
        Endpoint::Account(_) => EndpointLabel::Account,
        Endpoint::Write(_) => EndpointLabel::Write,
        Endpoint::Admin(_) => EndpointLabel::Own,
    }
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
    use crate::upstream::PassthroughResponse;

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
                        let refusal = Refusal { name, version: None, rule, opens: None, text, link: None };
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
            let place = address.path().strip_prefix("files/").and_then(|file| file.split_once('@'));
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
        let own: Own =
            Arc::new(|call| Box::pin(async move { Response::new(Bytes::from(format!("own {} {}", call.method, call.page))) }));
        let listeners = [SocketAddr::from(([127, 0, 0, 1], 4873))];
        Arc::new(RegistryHandler::new(Arc::default(), config, &listeners, own, Arc::default()).unwrap())
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
        let entry_point = EntryPoint::Registry(Profile::default(), true);
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
            assert_eq!((get(&service, &path).await, service.answers.take()), (200, vec![call.to_owned()]), "{path}");
        }
        assert_eq!(send(&service, "GET", "/", &[], b"").await.2, format!("{{\"coldframe\":\"{}\"}}", env!("CARGO_PKG_VERSION")));
        assert_eq!(send(&service, "GET", "/-/coldframe/healthz", &[], b"").await.2, "own GET healthz");
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
        assert!(service.answers.take().is_empty());
    }

    #[tokio::test]
    async fn headers_choose_form_and_coding() {
        let service = service(Config::default());
        let npm_9 = [
            ("accept", "application/vnd.npm.install-v1+json; q=1.0, application/json; q=0.8, */*"),
            ("accept-encoding", "gzip,deflate"),
        ];
        send(&service, "GET", "/axios", &npm_9, b"").await;
        assert_eq!(service.answers.take(), ["packument axios Abbreviated Gzip http://127.0.0.1:4873 for lent"]);
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
        assert!(closed.answers.take().is_empty());
        let open = writable();
        send(&open, "PUT", "/@acme%2fui", &[("authorization", "Bearer t")], b"{}").await;
        send(&open, "PUT", "/-/user/org.couchdb.user:me", &[], b"{}").await;
        let passed = ["pass Some(\"@acme/ui\") PUT @acme%2fui for own", "pass None PUT -/user/org.couchdb.user:me for none"];
        assert_eq!(open.answers.take(), passed);
    }

    #[tokio::test]
    async fn packument_read_for_a_write_is_a_write() {
        assert_eq!(get(&service(Config::default()), "/axios?write=true").await, 403);
        let open = writable();
        assert_eq!(get(&open, "/axios?write=true").await, 401);
        assert!(open.answers.take().is_empty());
        assert_eq!(send(&open, "GET", "/axios?write=true", &[("authorization", "Bearer t")], b"").await.0, 200);
        assert_eq!(open.answers.take(), ["pass Some(\"axios\") GET axios?write=true for own"]);
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
        assert_eq!(service.answers.take(), [call]);
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
            registry::serve(listener, &limit, &served, Profile::default(), async { stopped.await.unwrap() }).await
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
        assert_eq!(server.await.unwrap().cut, 0);
    }
}
