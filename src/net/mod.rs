//! Sockets and HTTP, without npm.
//!
//! Server half: bodies, headers, and listeners with limits and deadlines. Client half: [`HttpClient`] sends requests to other
//! servers with deadlines and limits, directly or through an outbound proxy.

pub(crate) mod address;
pub(crate) mod body;
mod chunked_buf;
pub(crate) mod client;
pub(crate) mod fair_limit;
mod fd_limit;
pub(crate) mod headers;
pub(crate) mod host_pattern;
mod listen_address;
pub(crate) mod listener;
pub(crate) mod memory_budget;
#[cfg(test)]
pub(crate) mod testing;

pub(crate) use address::{AddressScope, is_internal, is_loopback, is_public};
pub use body::Body;
pub(crate) use body::BodyError;
pub(crate) use client::body::BodyStream;
pub(crate) use client::connector::{ClientConfig, Deadlines};
pub(crate) use client::dial::{all_permitted, dial_permitted, is_own_connection, resolve_all};
pub(crate) use client::error::{ClientError, ConnectStage};
pub(crate) use client::outbound_proxy::{OutboundProxy, ProxyConnection, TunnelStream};
pub(crate) use client::proxy_settings::{ProxySettingError, ProxySettings};
pub(crate) use client::{ClientRequest, ClientResponse, HttpClient, TlsTrust, backoff, jittered};
pub(crate) use fair_limit::{FairLimit, FairPermit};
pub use fd_limit::FdLimit;
pub(crate) use headers::via;
pub use headers::{ByteRange, requested_range, via_pseudonym};
pub(crate) use host_pattern::{HostPattern, remove_credentials};
pub use listen_address::{ListenAddress, Scheme};
pub(crate) use listener::activity::RequestBody;
pub(crate) use listener::connection::{PeekedStream, Upgrade, UpgradedConnection};
pub(crate) use listener::connection_limit::{ConnectionLimit, ConnectionLimits};
pub(crate) use memory_budget::{BudgetTimeout, MemoryBudget, Reservation};
