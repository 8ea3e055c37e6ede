//! One struct per event; `emit()` writes its log line and counts it.

pub mod decisions;
pub mod feeds;
pub mod incidents;
pub mod requests;
