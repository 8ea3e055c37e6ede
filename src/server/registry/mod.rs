//! The registry-mode door: clients name us as their registry. Binds nothing itself.

pub mod handler;

use std::sync::Arc;

use tokio::net::TcpListener;

use crate::firewall::Profile;
use crate::net::{ConnectionLimit, DrainReport, listener};
use crate::server::registry::handler::{EntryPoint, RegistryHandler, handle};
use crate::server::service::RegistryService;

/// Serves a bound listener until `stop` resolves, then drains, by the policy of `profile`. `room` is shared by all listeners of a process.
pub async fn serve<A: RegistryService>(
    listener: TcpListener,
    room: &Arc<ConnectionLimit>,
    service: &Arc<RegistryHandler<A>>,
    profile: Profile,
    stop: impl Future<Output = ()>,
) -> DrainReport {
    let limits = service.config().limits.clone();
    let service = service.clone();
    // One whose address cannot be told is taken for one that others reach.
    let at_home = listener.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback());
    let handler = move |peer, request| {
        let service = service.clone();
        async move { handle(&service, &EntryPoint::Registry(profile, at_home), peer, request).await }
    };
    listener::serve(listener, &limits, room, handler, stop).await
}
