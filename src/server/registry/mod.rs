//! The listener for clients that use Coldframe as their registry.

mod bodies;
pub(crate) mod handler;
mod secure;
pub(crate) mod target;

use std::sync::Arc;

use tokio::net::TcpListener;

use crate::firewall::{Profile, RegistryService};
use crate::net::listener::connection::serve_connection;
use crate::net::{ConnectionLimit, Scheme, listener};
use crate::server::registry::handler::{RegistryHandler, handle};
use crate::server::registry::secure::SecureListener;
use crate::server::registry::target::EntryPoint;
use crate::tls::ServerCertificate;

/// A bound listener, the policy of its clients, and its certificate if it speaks HTTPS.
pub(crate) struct RegistryListener {
    pub(crate) listener: TcpListener,
    pub(crate) profile: Profile,
    pub(crate) certificate: Option<Arc<ServerCertificate>>,
}

/// Serves a bound listener until `stop` resolves, then drains. All listeners share `limit`.
pub(crate) async fn serve<S: RegistryService>(
    bound: RegistryListener,
    limit: &Arc<ConnectionLimit>,
    handler: &Arc<RegistryHandler<S>>,
    stop: impl Future<Output = ()>,
) -> usize {
    let RegistryListener { listener, profile, certificate } = bound;
    let limits = handler.config.limits;
    let handler = Arc::clone(handler);
    // An unknown local address is treated as public.
    let on_loopback = listener.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback());
    let scheme = if certificate.is_some() { Scheme::Https } else { Scheme::Http };
    let entry_point = EntryPoint::Registry { profile, on_loopback, scheme, identity: None };
    if let Some(certificate) = certificate {
        let secure = Arc::new(SecureListener { handler, certificate, anonymous: entry_point });
        let handle = move |stream, connection| secure::serve_connection(Arc::clone(&secure), stream, connection);
        return listener::serve(listener, &limits, limit, handle, stop).await;
    }
    let shared = Arc::new((handler, entry_point));
    let serve_request = move |peer, request| {
        let shared = Arc::clone(&shared);
        async move { handle(&shared.0, &shared.1, peer, request).await }
    };
    let handle = move |stream, connection| serve_connection(stream, connection, serve_request.clone());
    listener::serve(listener, &limits, limit, handle, stop).await
}
