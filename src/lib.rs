//! Coldframe: an npm firewall that stands between npm clients and the registry.
//!
//! The rooms below are listed from the highest floor to the lowest; a room imports only from lower floors, and rooms
//! that share a floor do not know each other. `tests/tidy.rs` holds that, ARCHITECTURE.md tells the whole story.

pub mod cli;

pub mod app;

pub mod config;

pub mod admin;
pub mod patrol;
pub mod proxy;

pub mod firewall;

pub mod feed;
pub mod store;
pub mod tls;
pub mod upstream;

pub mod net;

pub mod telemetry;

pub mod policy;

pub mod vet;

pub mod file;
pub mod npm;
pub mod text;
