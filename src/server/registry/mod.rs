//! The listener for clients that use Coldframe as their registry.

mod bodies;
pub(crate) mod handler;
pub(crate) mod target;

use std::sync::Arc;

use tokio::net::TcpListener;

use crate::firewall::{Profile, RegistryService};
use crate::net::listener::connection::serve_connection;
use crate::net::{ConnectionLimit, listener};
use crate::server::registry::handler::{RegistryHandler, handle};
use crate::server::registry::target::EntryPoint;

/// Serves a bound listener under the policy of `profile` until `stop` resolves, then drains. All listeners share `limit`.
pub(crate) async fn serve<S: RegistryService>(
    listener: TcpListener,
    limit: &Arc<ConnectionLimit>,
    handler: &Arc<RegistryHandler<S>>,
    profile: Profile,
    stop: impl Future<Output = ()>,
) -> usize {
    let limits = handler.config.limits;
    let handler = Arc::clone(handler);
    // An unknown local address is treated as public.
    let on_loopback = listener.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback());
    let serve_request = move |peer, request| {
        let handler = Arc::clone(&handler);
        async move { handle(&handler, &EntryPoint::Registry { profile, on_loopback }, peer, request).await }
    };
    let handle = move |stream, connection| serve_connection(stream, connection, serve_request.clone());
    listener::serve(listener, &limits, limit, handle, stop).await
}
