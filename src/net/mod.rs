//! Floor 4: sockets and HTTP. Bodies, headers, listeners with limits and deadlines. Refuses to know what is asked over them.

pub mod body;
pub mod headers;
pub mod listener;
mod stall;

pub use body::{Body, BodyError};
pub use listener::{Drained, Limits};
