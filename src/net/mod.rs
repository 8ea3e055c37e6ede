//! Sockets and HTTP, without npm.
//!
//! Server half: bodies, headers, and listeners with limits and deadlines. Client half: [`HttpClient`] sends requests to other
//! servers with deadlines and limits, directly or through an outbound proxy.

pub mod address;
pub mod body;
mod chunked_buf;
pub mod client;
pub mod fair_limit;
mod fd_limit;
pub mod headers;
pub mod host_pattern;
pub mod listener;
pub mod memory_budget;
#[cfg(test)]
pub(crate) mod testing;

pub use host_pattern::{HostPattern, HostPatternError, remove_credentials};

pub use address::{AddressScope, is_internal, is_public};
pub use body::{Body, BodyError};
pub use chunked_buf::ChunkedBuf;
pub use client::body::BodyStream;
pub use client::deadlines::Deadlines;
pub use client::dial::{all_permitted, dial_permitted, is_own_connection, resolve_all};
pub use client::error::{ClientError, ConnectStage};
pub use client::outbound_proxy::{OutboundProxy, ProxyConnection, TunnelStream};
pub use client::proxy_settings::{ProxySettingError, ProxySettings};
pub use client::{ClientConfig, ClientRequest, ClientResponse, HttpClient, TlsTrust, backoff, jittered};
pub use fair_limit::{FairLimit, FairPermit};
pub use fd_limit::FdLimit;
pub use headers::{via, via_pseudonym};
pub use listener::DrainReport;
pub use listener::activity::RequestBody;
pub use listener::connection::{Connection, PeekedStream, Upgrade, UpgradedConnection};
pub use listener::connection_limit::ConnectionLimit;
pub use listener::limits::ConnectionLimits;
pub use memory_budget::{BudgetTimeout, MemoryBudget, Reservation};
