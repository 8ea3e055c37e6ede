//! Connections to intercepted hosts: terminates TLS, and passes requests that name the host of the connection to the handler.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::HOST;
use http::request::Parts;
use http::{Method, Request, Response, Uri};
use rustls::server::Acceptor;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::firewall::RegistryService;
use crate::net::headers::single;
use crate::net::{Body, PeekedStream, RequestBody, UpgradedConnection};
use crate::policy::Identity;
use crate::server::error::RequestError;
use crate::server::gateway::state::Gateway;
use crate::server::intercepted_hosts::InterceptTarget;
use crate::server::registry::handler::handle;
use crate::server::registry::target::EntryPoint;
use crate::server::request_log::RequestLog;
use crate::telemetry::BarLabel;

/// The content type of a TLS handshake record, the first byte of a connection.
pub(crate) const HANDSHAKE: u8 = 22;

/// Maximum size of a `ClientHello` in bytes, with record headers. The largest of real clients are under 3 KiB.
pub(crate) const MAX_HELLO_BYTES: usize = 16 << 10;

/// A fatal TLS alert, as a complete record.
pub(crate) const fn alert(description: u8) -> [u8; 7] {
    [21, 3, 3, 0, 2, 2, description]
}

const DECODE_ERROR: u8 = 50;
const INTERNAL_ERROR: u8 = 80;
const UNRECOGNIZED_NAME: u8 = 112;

/// A connection to an intercepted host.
struct InterceptedConnection<S> {
    gateway: Arc<Gateway<S>>,
    target: InterceptTarget,
    /// The identity that the client authenticated as.
    identity: Option<Arc<Identity>>,
    peer: SocketAddr,
    time_limit: Duration,
}

/// Serves a connection to `target` until it closes. `identity` is the one that the client authenticated as.
pub(crate) async fn serve<S: RegistryService>(
    gateway: Arc<Gateway<S>>,
    target: InterceptTarget,
    identity: Option<Arc<Identity>>,
    connection: UpgradedConnection,
) {
    let UpgradedConnection { mut stream, mut context } = connection;
    let (peer, time_limit) = (context.peer, context.limits.header_timeout);
    let Ok(Ok(Some(first))) = timeout(time_limit, stream.first()).await else { return };
    let intercepted = Arc::new(InterceptedConnection { gateway, target, identity, peer, time_limit });
    match (intercepted.target.secure, first == HANDSHAKE) {
        (true, true) => {}
        (false, false) => return drop(context.serve_http1(stream, request_handler(intercepted)).await),
        (true, false) => {
            let refuse = move |_, request| std::future::ready(intercepted.refuse_plain_http(request));
            return drop(context.serve_http1(stream, refuse).await);
        }
        (false, true) => return intercepted.log_refusal(BarLabel::Tls, "TLS on a plain HTTP port"),
    }
    let Some(secured) = intercepted.tls_handshake(stream).await else { return };
    let speaks_http2 = secured.get_ref().1.alpn_protocol() == Some(b"h2");
    if speaks_http2 {
        context.serve_http2(secured, request_handler(intercepted)).await;
    } else {
        drop(context.serve_http1(secured, request_handler(intercepted)).await);
    }
}

/// Returns the handler for requests on a connection.
fn request_handler<S: RegistryService>(
    intercepted: Arc<InterceptedConnection<S>>,
) -> impl Fn(SocketAddr, Request<RequestBody>) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> + Send + Sync {
    move |peer, request| {
        let intercepted = Arc::clone(&intercepted);
        Box::pin(async move {
            let InterceptedConnection { gateway, target, identity, .. } = &*intercepted;
            let (head, body) = request.into_parts();
            if let Err(error) = check(target, &head) {
                let user = identity.as_ref().map(|identity| &*identity.subject);
                return intercepted.turn_away(user, &head, &error);
            }
            let entry_point = EntryPoint::Intercepted { target: target.clone(), identity: identity.clone() };
            handle(&gateway.handler, &entry_point, peer, Request::from_parts(head, body)).await
        })
    }
}

impl<S: RegistryService> InterceptedConnection<S> {
    /// Performs the TLS handshake. Returns `None` if it fails, which is logged.
    async fn tls_handshake(&self, mut stream: PeekedStream<TcpStream>) -> Option<TlsStream<PeekedStream<TcpStream>>> {
        stream.allowance = Some(MAX_HELLO_BYTES);
        let mut acceptor = LazyConfigAcceptor::new(Acceptor::default(), stream);
        let mut start = match timeout(self.time_limit, &mut acceptor).await {
            Ok(Ok(start)) => start,
            Ok(Err(error)) => {
                self.log_refusal(BarLabel::Tls, &format!("invalid ClientHello: {error}"));
                if let Some(mut stream) = acceptor.take_io() {
                    // A broken client may not read the alert.
                    let _ = timeout(self.time_limit, stream.write_all(&alert(DECODE_ERROR))).await;
                }
                return None;
            }
            Err(_) => {
                self.log_refusal(BarLabel::Tls, "no ClientHello received in time");
                return None;
            }
        };
        let host = &*self.target.host.name;
        let config = match (start.client_hello().server_name(), &self.target.host.dns_name) {
            (Some(name), _) if !name.eq_ignore_ascii_case(host) => {
                self.log_refusal(BarLabel::Mismatch, &format!("TLS server name is another host: `{name}`"));
                Err(UNRECOGNIZED_NAME)
            }
            (_, None) => Err(UNRECOGNIZED_NAME),
            (_, Some(name)) => self.gateway.leaf_issuer.load().server_config(name).map_err(|error| {
                tracing::error!(gateway.target = host, error = %error, "cannot issue certificate");
                INTERNAL_ERROR
            }),
        };
        let config = match config {
            Ok(config) => config,
            Err(description) => {
                let _ = timeout(self.time_limit, start.io.write_all(&alert(description))).await;
                return None;
            }
        };
        start.io.allowance = None;
        match timeout(self.time_limit, start.into_stream(config)).await {
            Ok(Ok(secured)) => Some(secured),
            Ok(Err(error)) => {
                tracing::debug!(client.address = %self.peer.ip(), gateway.target = host, error = %error, "TLS handshake failed");
                None
            }
            Err(_) => None,
        }
    }

    /// Refuses a request in plain HTTP on a TLS port.
    fn refuse_plain_http(&self, request: Request<RequestBody>) -> Response<Body> {
        let InterceptTarget { host, port, .. } = &self.target;
        let error = RequestError::Headers(format!("plain HTTP on a TLS port: `{}:{port}`", host.name));
        self.turn_away(None, &request.into_parts().0, &error)
    }

    fn turn_away(&self, user: Option<&str>, head: &Parts, error: &RequestError) -> Response<Body> {
        let metrics = &self.gateway.handler.metrics;
        let log = RequestLog::begin(metrics, self.peer.ip().to_canonical(), &head.method, &head.uri);
        let mut reply = self.gateway.refuse((self.peer, user), &head.uri, error);
        if head.version == http::Version::HTTP_2 {
            // HTTP/2 has no `Connection` header.
            reply.response.headers_mut().remove(http::header::CONNECTION);
        }
        log.finish(reply)
    }

    fn log_refusal(&self, reason: BarLabel, text: &str) {
        let address = format!("{}:{}", self.target.host.name, self.target.port);
        self.gateway.record_refusal((self.peer, None), &address, reason, text);
    }
}

/// Rejects a request whose target or `Host` differs from the host of its connection.
fn check(target: &InterceptTarget, head: &Parts) -> Result<(), RequestError> {
    if head.method == Method::CONNECT {
        return Err(RequestError::Headers("CONNECT is not allowed inside a tunnel".to_owned()));
    }
    let host = single(&head.headers, &HOST).map_err(RequestError::Headers)?;
    let authority = head.uri.authority().map(http::uri::Authority::as_str);
    let same_scheme = |uri: &Uri| uri.scheme_str().is_none_or(|scheme| (scheme == "https") == target.secure);
    let named = [host, authority];
    if named.iter().all(Option::is_none) {
        return Err(RequestError::Headers("missing `host` header".to_owned()));
    }
    if same_scheme(&head.uri) && named.iter().flatten().all(|host| target.matches_host(host)) {
        return Ok(());
    }
    Err(RequestError::HostMismatch(format!(
        "request host differs from the host of the connection: `{}:{}`",
        target.host.name, target.port
    )))
}
