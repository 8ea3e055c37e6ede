//! Floor 4: sockets and HTTP that know nothing of packages. The client half: [`Client`] asks other servers, within deadlines
//! and limits, directly or through an outbound proxy.

pub mod client;
mod client_body;
mod client_connect;
mod client_error;
pub mod deadline;
pub mod dial;
pub mod proxies;
#[cfg(test)]
pub(crate) mod trial;

pub use client::{Client, Outgoing, Response, Settings};
pub use client_body::BodyStream;
pub use client_error::{ClientError, Layer};
pub use deadline::Deadlines;
pub use dial::Reach;
pub use proxies::{Proxies, ProxyError};
