//! Names things as npm names them. Pure: no clock, no I/O, no async, and no idea of policy.

pub mod compression;
pub mod endpoint;
pub mod integrity;
pub mod lockfile;
pub mod name;
pub mod packument;
pub mod semver;
pub mod tarball_address;
pub mod user_agent;

pub use packument::manifest::Fields;
pub use tarball_address::tarball_url;

pub use endpoint::Endpoint;
pub use integrity::{Agreement, Algorithm, Digest, Hasher, Integrity};
pub use lockfile::Lockfile;
pub use name::{PackageName, Spec};
pub use packument::index::Packument;
pub use packument::manifest_digest::ManifestDigest;
pub use packument::parse::{IngestError, Ingested};
pub use packument::render::{Form, View};
pub use semver::interval::Interval;
pub use semver::range::Range;
pub use semver::range_table::{Prereleases, RangeTable};
pub use semver::version::Version;
pub use tarball_address::Address;
pub use user_agent::{Agent, Tool};
