//! One struct per event. `emit()` writes its log line and updates its metrics.

pub mod decisions;
pub mod feeds;
pub mod incidents;
pub mod requests;
