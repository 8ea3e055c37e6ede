//! Floor 4: sockets and HTTP. Refuses to know npm, and what is asked over them.
//!
//! The server half: bodies, headers, listeners with limits and deadlines. The client half: [`Client`] asks other servers,
//! within deadlines and limits, directly or through an outbound proxy.

pub mod allowance;
pub mod body;
pub mod client;
mod client_body;
mod client_connect;
mod client_error;
pub mod deadline;
pub mod dial;
pub mod fair_limit;
mod files;
pub mod headers;
pub mod listener;
mod original;
pub mod parent;
pub mod proxies;
mod relay;
mod room;
mod seat;
mod stall;
mod stretch;
#[cfg(test)]
pub(crate) mod trial;
mod turn;

pub use allowance::{Allowance, NoRoom, Share};
pub use body::{Body, BodyError};
pub use client::{Client, Outgoing, Response, Settings, Trust, dice, pause, pseudonym};
pub use client_body::BodyStream;
pub use client_error::{ClientError, Layer};
pub use deadline::Deadlines;
pub use dial::{Reach, addresses_of, are_permitted, dial_permitted, is_inward, is_our_own, is_public};
pub use fair_limit::{FairLimit, FairPermit};
pub use files::OpenFiles;
pub use listener::{Drained, Limits};
pub use parent::{Far, Parent, Relayed};
pub use proxies::{Proxies, ProxyError};
pub use room::Room;
pub use seat::{HandOver, Opened, Seat, Taken};
pub use stretch::Stretch;
pub use turn::Arriving;
