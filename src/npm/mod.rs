//! Floor 0: names things as npm names them. Pure: no clock, no I/O, no async, and no idea of policy.

pub mod agent;
pub mod brotli;
pub mod endpoint;
pub mod gzip;
pub mod ingest;
pub mod instant;
pub mod integrity;
pub mod lockfile;
mod lockfile_bun;
mod lockfile_deno;
mod lockfile_node;
mod lockfile_npm;
mod lockfile_pnpm;
mod lockfile_spec;
mod lockfile_yarn;
mod manifest;
pub mod name;
pub mod packument;
pub mod press;
pub mod render;
pub mod tag;
pub mod version;
mod walk;
mod zstd;

pub use agent::{Agent, Tool};
pub use endpoint::Endpoint;
pub use ingest::{IngestError, Ingested};
pub use integrity::{Agreement, Algorithm, Digest, Hasher, Integrity};
pub use lockfile::Lockfile;
pub use name::{PackageName, Spec};
pub use packument::Packument;
pub use render::{Form, View};
pub use version::{Range, Version};
