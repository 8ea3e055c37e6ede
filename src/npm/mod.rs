//! npm's data formats: names, versions, packuments, tarball addresses, lockfiles. Pure: no clock, no I/O, no async, no policy.

pub mod compression;
pub mod endpoint;
pub mod integrity;
pub mod lockfile;
pub mod name;
pub mod packument;
pub mod semver;
pub mod tarball_address;
pub mod user_agent;

pub use packument::manifest::AbbreviatedFields;
pub use tarball_address::tarball_url;

pub use endpoint::{AuditFormat, Endpoint};
pub use integrity::{Algorithm, Digest, DigestComparison, Hasher, Integrity, Sha1Check};
pub use lockfile::Lockfile;
pub use name::{PackageName, PackageSpec};
pub use packument::PackumentForm;
pub use packument::index::Packument;
pub use packument::manifest_digest::ManifestDigest;
pub use packument::parse::{PackumentError, ParsedPackument};
pub use packument::render::PackumentView;
pub use semver::interval::VersionInterval;
pub use semver::range::Range;
pub use semver::range_table::{PrereleaseMode, RangeTable};
pub use semver::version::Version;
pub use tarball_address::Address;
pub use user_agent::{Tool, UserAgent};
