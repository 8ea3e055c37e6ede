//! The registry we stand in front of. Asks it for packuments, tarballs and everything else; refuses to judge.

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

/// Who is to blame, which decides what a client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The request was wrong.
    Client,
    /// Upstream was.
    Upstream,
    /// We were.
    Internal,
}

/// What upstream did not do. Cheap to clone: every waiter of one flight gets it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum UpstreamError {
    /// No connection: refused, DNS, TLS. `detail` names the layer and the cause.
    #[error("cannot reach upstream `{host}`: {detail}")]
    Unreachable {
        /// Host and port.
        host: Arc<str>,
        /// DNS, TCP or TLS, and its words.
        detail: Arc<str>,
    },
    /// It took longer than it may.
    #[error("upstream `{host}` did not answer within {} s", after.as_secs())]
    TimedOut {
        /// Host and port.
        host: Arc<str>,
        /// The deadline that passed.
        after: Duration,
    },
    /// It failed too often and is left alone for a while: nothing was sent.
    #[error("upstream `{host}` is down ({why}) and is asked again in {} s", wait.as_secs() + 1)]
    Resting {
        /// Host and port.
        host: Arc<str>,
        /// How it failed last.
        why: Arc<str>,
        /// Until it is asked again.
        wait: Duration,
    },
    /// The connection ended before the body did, or the body is longer or shorter than was said.
    #[error("upstream `{host}` sent a broken answer: {detail}")]
    Broken {
        /// Host and port.
        host: Arc<str>,
        /// What is wrong with it.
        detail: Arc<str>,
    },
    /// More bytes than a limit allows.
    #[error("upstream `{host}` sent more than {limit} bytes")]
    TooLarge {
        /// Host and port.
        host: Arc<str>,
        /// The limit in bytes.
        limit: u64,
    },
    /// Ours, not upstream's: other documents took the memory there is for them.
    #[error("no memory came free for another large packument within {} s: `packument-memory` sets how much there is", after.as_secs())]
    NoRoom {
        /// How long it was waited for.
        after: Duration,
    },
    /// It is not there (404, 410).
    #[error("not found upstream")]
    NotFound,
    /// 404 or 410, but not in the registry's words: a proxy's page, which says nothing of the package.
    #[error("upstream `{host}` answered {status} without JSON, as proxies do")]
    MissingPage {
        /// Host and port.
        host: Arc<str>,
        /// 404 or 410.
        status: u16,
    },
    /// 401 or 403: upstream wants other credentials.
    #[error("upstream `{host}` refused with {status}: {message}")]
    Denied {
        /// Host and port.
        host: Arc<str>,
        /// 401 or 403.
        status: u16,
        /// Its message, one line of ASCII, bounded.
        message: Arc<str>,
    },
    /// Any other status that is no success: 429, 5xx, an unexpected 4xx.
    #[error("upstream `{host}` answered {status}")]
    Status {
        /// Host and port.
        host: Arc<str>,
        /// The status.
        status: u16,
        /// Its `Retry-After`, if it sent one.
        retry_after: Option<Arc<str>>,
    },
    /// A redirect that is not followed.
    #[error("upstream `{host}` redirects to `{to}`, which is not allowed: {detail}")]
    Redirected {
        /// Host and port.
        host: Arc<str>,
        /// The host it points to, or what stood in `Location`.
        to: Arc<str>,
        /// Why not, and which setting would allow it.
        detail: Arc<str>,
    },
    /// `dist.tarball` names a host that is not the upstream's and is not allowed.
    #[error("the tarball lies on `{to}`, which is neither upstream nor allowed by `--tarball-host`")]
    TarballHost {
        /// That host.
        to: Arc<str>,
    },
}

impl From<BudgetTimeout> for UpstreamError {
    fn from(BudgetTimeout { after }: BudgetTimeout) -> Self {
        Self::NoRoom { after }
    }
}

impl UpstreamError {
    /// Who is to blame.
    #[must_use]
    pub fn source(&self) -> Fault {
        match self {
            Self::NotFound | Self::Denied { .. } => Fault::Client,
            Self::NoRoom { .. } => Fault::Internal,
            _ => Fault::Upstream,
        }
    }
}
