//! Durations, sizes and timestamps as text.

pub(crate) mod quantity;
pub mod timestamp;
