//! Durations, sizes and timestamps as text.

pub mod quantity;
pub mod timestamp;
