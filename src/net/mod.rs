//! Sockets and HTTP. Refuses to know npm, and what is asked over them.
//!
//! The server half: bodies, headers, listeners with limits and deadlines. The client half: [`Client`] asks other servers,
//! within deadlines and limits, directly or through an outbound proxy.

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

pub use host_pattern::{HostGlob, HostGlobError};

pub use body::{Body, BodyError};
pub use chunked_buf::Stretch;
pub use client::body::BodyStream;
pub use client::deadlines::Deadlines;
pub use client::dial::{Reach, addresses_of, are_permitted, dial_permitted, is_inward, is_our_own, is_public};
pub use client::error::{ClientError, Layer};
pub use client::outbound_proxy::{Far, Parent, Relayed};
pub use client::proxy_settings::{Proxies, ProxyError};
pub use client::{Client, Outgoing, Response, Settings, Trust, dice, pause, pseudonym};
pub use fair_limit::{FairLimit, FairPermit};
pub use fd_limit::OpenFiles;
pub use listener::activity::Arriving;
pub use listener::connection::{HandOver, Opened, Seat, Taken};
pub use listener::connection_limit::Room;
pub use listener::{Drained, Limits};
pub use memory_budget::{Allowance, NoRoom, Share};
