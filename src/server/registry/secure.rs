//! HTTPS connections to the registry listener: the TLS handshake, the client's certificate, and the answer to plain HTTP.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{Request, Response};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::firewall::RegistryService;
use crate::net::listener::connection::Connection;
use crate::net::{Body, RequestBody, UpgradedConnection};
use crate::policy::{AuthMethod, Identity};
use crate::server::error::RequestError;
use crate::server::registry::handler::{RegistryHandler, handle};
use crate::server::registry::target::EntryPoint;
use crate::server::request_log::RequestLog;
use crate::server::response;
use crate::tls::ServerCertificate;

/// The content type of a TLS handshake record, the first byte of a connection.
const HANDSHAKE: u8 = 22;

/// What the connections of one listener share.
pub(crate) struct SecureListener<S> {
    pub(crate) handler: Arc<RegistryHandler<S>>,
    pub(crate) certificate: Arc<ServerCertificate>,
    /// The entry point of a client without a certificate.
    pub(crate) anonymous: EntryPoint,
}

/// Serves one accepted connection until it closes.
pub(crate) async fn serve_connection<S: RegistryService>(
    listener: Arc<SecureListener<S>>,
    stream: TcpStream,
    connection: Connection,
) {
    let UpgradedConnection { mut stream, mut context } = UpgradedConnection::new(stream, connection);
    let Ok(Ok(Some(first))) = timeout(context.limits.header_timeout, stream.first()).await else { return };
    if first != HANDSHAKE {
        let refuse = move |peer, request| std::future::ready(refuse_plain_http(&listener.handler, peer, request));
        // Boxed, like all connections, so that the accept loop's tasks stay small.
        drop(Box::pin(context.serve_http1(stream, refuse)).await);
        return;
    }
    let handshake = listener.certificate.handshake();
    let secured = match context.accept_tls(stream, Arc::clone(&handshake.config)).await {
        Ok(secured) => secured,
        Err(error) => {
            tracing::debug!(client.address = %context.peer.ip(), error = %error, "TLS handshake failed");
            return;
        }
    };
    let session = secured.get_ref().1;
    let is_http2 = session.alpn_protocol() == Some(b"h2");
    let certified = handshake.client_certificate(session).map(|certificate| {
        let identity = Arc::new(Identity::user(Arc::clone(&certificate.subject), AuthMethod::Certificate));
        (certificate, identity)
    });
    drop(handshake);
    let serve_request = move |peer, request| {
        let listener = Arc::clone(&listener);
        // A connection may outlive the validity of its certificate.
        let trusted = certified.as_ref().filter(|(certificate, _)| listener.certificate.trusts(certificate));
        let entry_point = listener.anonymous.with_identity(trusted.map(|(_, identity)| Arc::clone(identity)));
        async move { handle(&listener.handler, &entry_point, peer, request).await }
    };
    if is_http2 {
        Box::pin(context.serve_http2(secured, serve_request)).await;
    } else {
        drop(Box::pin(context.serve_http1(secured, serve_request)).await);
    }
}

/// Refuses a request in plain HTTP on an HTTPS listener.
fn refuse_plain_http<S>(handler: &RegistryHandler<S>, peer: SocketAddr, request: Request<RequestBody>) -> Response<Body> {
    let (head, _) = request.into_parts();
    let log = RequestLog::begin(&handler.metrics, peer.ip().to_canonical(), &head.method, &head.uri);
    log.finish(response::error(&RequestError::Headers("plain HTTP on an HTTPS port; use an `https` URL".to_owned())))
}
