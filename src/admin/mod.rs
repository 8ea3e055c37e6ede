//! Floor 7: what Coldframe shows of itself below `/-/coldframe/`: health and numbers. Refuses to ask upstream anything.

pub mod pages;

pub use pages::{Admin, Check};
