//! Connections to hosts that the gateway answers for: TLS ends here, with a certificate minted for the host, and what is
//! asked inside goes the way of every other question. Refuses whoever names one host outside and another inside.

use std::net::SocketAddr;
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

use crate::net::headers::single;
use crate::net::{Body, PeekedStream, RequestBody, UpgradedConnection};
use crate::server::RequestError;
use crate::server::gateway::{Forward, refuse};
use crate::server::intercepted_hosts::InterceptTarget;
use crate::server::registry::handler::{EntryPoint, handle};
use crate::server::request_log::RequestLog;
use crate::server::service::RegistryService;
use crate::telemetry::BarLabel;

/// The first byte of a TLS connection.
pub(crate) const HANDSHAKE: u8 = 22;

/// The largest `ClientHello` that is read, in bytes, record headers included. The largest that clients send are under 3 KiB.
pub(crate) const LARGEST_HELLO: usize = 16 << 10;

/// A fatal TLS alert, record and all.
pub(crate) const fn alert(description: u8) -> [u8; 7] {
    [21, 3, 3, 0, 2, 2, description]
}

const DECODE_ERROR: u8 = 50;
const INTERNAL_ERROR: u8 = 80;
const UNRECOGNIZED_NAME: u8 = 112;

/// Serves a connection that was opened to `aim`, by a client of this name if it has one, to its end.
pub(crate) async fn serve<A: RegistryService>(
    gateway: Arc<Forward<A>>,
    aim: InterceptTarget,
    user: Option<Arc<str>>,
    taken: UpgradedConnection,
) {
    let UpgradedConnection { mut stream, mut seat } = taken;
    let (peer, patience) = (seat.peer(), seat.limits().head_timeout);
    let Ok(Ok(Some(first))) = timeout(patience, stream.first()).await else { return };
    let aim = Arc::new(aim);
    match (aim.secure, first == HANDSHAKE) {
        (true, true) => {}
        (false, false) => return seat.http1(stream, answering(gateway, aim, user)).await,
        (true, false) => return seat.http1(stream, refusing(gateway, aim, "plain HTTP where TLS is spoken")).await,
        (false, true) => return tell(&gateway, peer, &aim, BarLabel::Tls, "TLS where plain HTTP is spoken"),
    }
    let Some(secured) = secure(&gateway, &aim, stream, peer, patience).await else { return };
    let speaks_http2 = secured.get_ref().1.alpn_protocol() == Some(b"h2");
    if speaks_http2 {
        seat.http2(secured, answering(gateway, aim, user)).await;
    } else {
        seat.http1(secured, answering(gateway, aim, user)).await;
    }
}

/// The TLS handshake; `None` when there is none, which is logged.
async fn secure<A: RegistryService>(
    gateway: &Forward<A>,
    aim: &InterceptTarget,
    mut stream: PeekedStream<TcpStream>,
    peer: SocketAddr,
    patience: Duration,
) -> Option<TlsStream<PeekedStream<TcpStream>>> {
    stream.allow(Some(LARGEST_HELLO));
    let mut acceptor = LazyConfigAcceptor::new(Acceptor::default(), stream);
    let mut start = match timeout(patience, &mut acceptor).await {
        Ok(Ok(start)) => start,
        Ok(Err(error)) => {
            tell(gateway, peer, aim, BarLabel::Tls, &format!("no ClientHello that is read here: {error}"));
            if let Some(mut stream) = acceptor.take_io() {
                // Whoever sends nonsense may not read what it gets.
                let _ = timeout(patience, stream.write_all(&alert(DECODE_ERROR))).await;
            }
            return None;
        }
        Err(_) => {
            tell(gateway, peer, aim, BarLabel::Tls, "no ClientHello came in time");
            return None;
        }
    };
    let host = &*aim.target.host;
    let config = match (start.client_hello().server_name(), &aim.target.name) {
        (Some(name), _) if !name.eq_ignore_ascii_case(host) => {
            tell(gateway, peer, aim, BarLabel::Mismatch, &format!("TLS for another host: `{name}`"));
            Err(UNRECOGNIZED_NAME)
        }
        (_, None) => Err(UNRECOGNIZED_NAME),
        (_, Some(name)) => gateway.leaves().config_for(name).map_err(|error| {
            tracing::error!(gateway.target = host, error = %error, "cannot mint a certificate");
            INTERNAL_ERROR
        }),
    };
    let config = match config {
        Ok(config) => config,
        Err(description) => {
            let _ = timeout(patience, start.io.write_all(&alert(description))).await;
            return None;
        }
    };
    start.io.allow(None);
    match timeout(patience, start.into_stream(config)).await {
        Ok(Ok(secured)) => Some(secured),
        Ok(Err(error)) => {
            tracing::debug!(client.address = %peer.ip(), gateway.target = host, error = %error, "no TLS handshake");
            None
        }
        Err(_) => None,
    }
}

/// Answers what is asked on a connection to `aim`.
fn answering<A: RegistryService>(
    gateway: Arc<Forward<A>>,
    aim: Arc<InterceptTarget>,
    user: Option<Arc<str>>,
) -> impl Fn(SocketAddr, Request<RequestBody>) -> std::pin::Pin<Box<dyn Future<Output = Response<Body>> + Send>> + Send + Sync {
    move |peer, request| {
        let (gateway, aim, user) = (Arc::clone(&gateway), Arc::clone(&aim), user.clone());
        Box::pin(async move {
            let (head, body) = request.into_parts();
            if let Err(error) = check(&aim, &head) {
                return turn_away(&gateway, (peer, user.as_deref()), &head, &error);
            }
            let door = EntryPoint::Intercepted(InterceptTarget::clone(&aim), user);
            handle(&gateway.service, &door, peer, Request::from_parts(head, body)).await
        })
    }
}

/// Refuses whatever is asked on a connection to `aim`.
fn refusing<A: RegistryService>(
    gateway: Arc<Forward<A>>,
    aim: Arc<InterceptTarget>,
    why: &'static str,
) -> impl Fn(SocketAddr, Request<RequestBody>) -> std::future::Ready<Response<Body>> + Send + Sync {
    move |peer, request| {
        let host = &*aim.target.host;
        let error = RequestError::Headers(format!("{why}: `{host}:{}`", aim.port));
        std::future::ready(turn_away(&gateway, (peer, None), &request.into_parts().0, &error))
    }
}

fn turn_away<A: RegistryService>(
    gateway: &Forward<A>,
    client: (SocketAddr, Option<&str>),
    head: &Parts,
    error: &RequestError,
) -> Response<Body> {
    let watch = RequestLog::begin(gateway.service.metrics(), client.0.ip().to_canonical(), &head.method, &head.uri);
    let mut reply = refuse(gateway, client, &head.uri, error);
    if head.version == http::Version::HTTP_2 {
        // HTTP/2 knows no such header.
        reply.response.headers_mut().remove(http::header::CONNECTION);
    }
    watch.answered(reply)
}

/// Refuses a request that names another host than its connection was opened to, in any of the places where it may name one.
fn check(aim: &InterceptTarget, head: &Parts) -> Result<(), RequestError> {
    if head.method == Method::CONNECT {
        return Err(RequestError::Headers("no tunnel inside a tunnel".to_owned()));
    }
    let host = single(&head.headers, &HOST).map_err(RequestError::Headers)?;
    let authority = head.uri.authority().map(http::uri::Authority::as_str);
    let same_scheme = |uri: &Uri| uri.scheme_str().is_none_or(|scheme| (scheme == "https") == aim.secure);
    let named = [host, authority];
    if named.iter().all(Option::is_none) {
        return Err(RequestError::Headers("the `host` header is missing".to_owned()));
    }
    if same_scheme(&head.uri) && named.iter().flatten().all(|host| aim.is_named_by(host)) {
        return Ok(());
    }
    Err(RequestError::Misdirected(format!("this connection was opened to another host: `{}:{}`", aim.target.host, aim.port)))
}

fn tell<A: RegistryService>(gateway: &Forward<A>, peer: SocketAddr, aim: &InterceptTarget, reason: BarLabel, text: &str) {
    let target = format!("{}:{}", aim.target.host, aim.port);
    gateway.note_refusal((peer, None), &target, reason, text);
}
