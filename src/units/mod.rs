//! Values with a unit as text: durations and sizes, and instants.

pub mod quantity;
pub mod timestamp;
