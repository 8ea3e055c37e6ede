//! Client for the upstream registries: packuments, tarballs and passed-through requests. Retries and circuit breakers are per
//! registry.

mod authorization;
mod circuit_breaker;
pub mod config;
pub mod credentials;
mod fetch_target;
pub mod npmrc;
mod packument;
mod passthrough;
pub mod registry;
mod tarball;
#[cfg(test)]
mod testing;

use std::sync::Arc;
use std::time::Duration;

pub use authorization::{Addressed, Authorization, OwnCredentials};
pub use circuit_breaker::AllCircuits;
pub use config::{Config, RegistryConfig, SettingOrigin, TimeMode, UpstreamConfigError};
pub use credentials::{CredentialRules, Credentials, CredentialsError};
pub use npmrc::environment::NpmEnvironment;

pub use npmrc::{NpmConfig, NpmrcError};
pub use packument::{CacheValidators, PackumentBody, PackumentReply};
pub use passthrough::{PassthroughRequest, PassthroughResponse};
pub use registry::{Registries, Registry, Renewed};
pub use tarball::{Offer, TarballBody};

use crate::net::BudgetTimeout;

/// Who caused an error. Determines the response to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The request is invalid or not authorized.
    Client,
    /// Upstream failed.
    Upstream,
    /// Coldframe failed.
    Internal,
}

/// An error of an upstream request. Cheap to clone, because all waiters of a shared fetch receive it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum UpstreamError {
    /// No connection: refused, DNS or TLS.
    #[error("cannot reach upstream `{host}`: {detail}")]
    Unreachable {
        host: Arc<str>,
        /// The layer (DNS, TCP or TLS) and its error.
        detail: Arc<str>,
    },
    /// A deadline passed.
    #[error("upstream `{host}` did not answer within {} s", after.as_secs())]
    TimedOut {
        host: Arc<str>,
        /// The deadline.
        after: Duration,
    },
    /// The circuit is open after too many failures. Nothing was sent.
    #[error("upstream `{host}` is down ({why}); next attempt in {} s", wait.as_secs() + 1)]
    CircuitOpen {
        host: Arc<str>,
        /// The last failure.
        why: Arc<str>,
        /// Time until the next attempt.
        wait: Duration,
    },
    /// The response is invalid, for example cut off or of another length than stated.
    #[error("upstream `{host}` sent an invalid response: {detail}")]
    Broken { host: Arc<str>, detail: Arc<str> },
    /// The response exceeds a limit.
    #[error("upstream `{host}` sent more than {limit} bytes")]
    TooLarge {
        host: Arc<str>,
        /// The limit in bytes.
        limit: u64,
    },
    /// The memory for documents was in use by others until the deadline. Not a fault of upstream.
    #[error("cannot reserve memory for a large packument within {} s; increase `packument-memory`", after.as_secs())]
    BudgetTimeout {
        /// The deadline.
        after: Duration,
    },
    /// The object does not exist (404, 410).
    #[error("not found upstream")]
    NotFound,
    /// 404 or 410 without JSON. Probably a page of a proxy, which does not prove that the package is missing.
    #[error("upstream `{host}` answered {status} without JSON, probably from a proxy")]
    MissingPage { host: Arc<str>, status: u16 },
    /// 401 or 403: upstream requires other credentials.
    #[error("upstream `{host}` refused with {status}: {message}")]
    Denied {
        host: Arc<str>,
        status: u16,
        /// Upstream's message: one line of ASCII, bounded.
        message: Arc<str>,
    },
    /// Any other error status: 429, 5xx, or an unexpected 4xx.
    #[error("upstream `{host}` answered {status}")]
    Status {
        host: Arc<str>,
        status: u16,
        /// The `Retry-After` header.
        retry_after: Option<Arc<str>>,
    },
    /// A redirect that is not followed.
    #[error("upstream `{host}` redirects to `{to}`, which is not allowed: {detail}")]
    Redirected {
        host: Arc<str>,
        /// The target host, or the text of `Location` if it is not a URL.
        to: Arc<str>,
        /// Why it is not allowed, and the setting that allows it.
        detail: Arc<str>,
    },
    /// `dist.tarball` names a host that is neither upstream nor allowed.
    #[error("tarball host is neither upstream nor allowed by `--tarball-host`: `{to}`")]
    TarballHost { to: Arc<str> },
}

impl From<BudgetTimeout> for UpstreamError {
    fn from(BudgetTimeout { after }: BudgetTimeout) -> Self {
        Self::BudgetTimeout { after }
    }
}

impl UpstreamError {
    /// Returns who caused the error.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::NotFound | Self::Denied { .. } => Fault::Client,
            Self::BudgetTimeout { .. } => Fault::Internal,
            _ => Fault::Upstream,
        }
    }
}
