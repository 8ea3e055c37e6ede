//! Client for the upstream registries: packuments, tarballs and passed-through requests. Retries and circuits are per registry.

mod authorization;
mod circuit_breaker;
pub mod config;
pub(crate) mod credential_source;
pub mod credentials;
mod error;
mod fetch_target;
pub mod npmrc;
mod packument;
mod passthrough;
mod registries;
pub mod registry;
mod response;
mod tarball;
#[cfg(test)]
mod testing;

pub use authorization::{Addressed, Authorization, OwnCredentials};
pub use circuit_breaker::AllCircuits;
pub use config::{Config, RegistryConfig, Route, Routes, SettingOrigin, TimeMode, UpstreamConfigError};
pub use credential_source::{CredentialSource, CredentialSourceKind};
pub use credentials::{CredentialRules, Credentials, CredentialsError};
pub use error::UpstreamError;
pub use npmrc::environment::NpmEnvironment;
pub use npmrc::{NpmConfig, NpmrcError};
pub use packument::{CacheValidators, PackumentBody, PackumentReply};
pub use passthrough::{PassthroughRequest, PassthroughResponse};
pub use registries::{Registries, Renewed};
pub use registry::Registry;
pub use tarball::{Offer, TarballBody};
