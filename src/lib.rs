//! Coldframe: an npm firewall between npm clients and the registry.
//!
//! The layers are listed from the highest to the lowest. A layer imports from lower layers only, and layers on one level do not
//! import each other. `tests/tidy.rs` checks that; ARCHITECTURE.md describes the flows through them.

pub mod cli;

pub mod app;

pub mod config;

pub mod server;

pub mod firewall;

pub mod feed;
pub mod store;
pub mod tls;
pub mod upstream;

pub mod net;
pub mod telemetry;

pub mod policy;

pub mod vetting;

pub mod npm;

pub mod clock;
pub mod diagnostics;
pub(crate) mod files;
pub(crate) mod text;
pub mod units;
