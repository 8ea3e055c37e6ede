//! The listener for clients that use Coldframe as their registry.

pub mod handler;

use std::sync::Arc;

use tokio::net::TcpListener;

use crate::firewall::Profile;
use crate::net::{ConnectionLimit, DrainReport, listener};
use crate::server::registry::handler::{EntryPoint, RegistryHandler, handle};
use crate::server::service::RegistryService;

/// Serves a bound listener under the policy of `profile` until `stop` resolves, then drains. All listeners of a process share
/// `limit`.
pub async fn serve<A: RegistryService>(
    listener: TcpListener,
    limit: &Arc<ConnectionLimit>,
    service: &Arc<RegistryHandler<A>>,
    profile: Profile,
    stop: impl Future<Output = ()>,
) -> DrainReport {
    let limits = service.config().limits.clone();
    let service = service.clone();
    // An unknown local address is treated as public.
    let on_loopback = listener.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback());
    let handler = move |peer, request| {
        let service = service.clone();
        async move { handle(&service, &EntryPoint::Registry(profile, on_loopback), peer, request).await }
    };
    listener::serve(listener, &limits, limit, handler, stop).await
}
