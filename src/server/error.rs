//! Errors of requests.

use crate::firewall::FirewallError;
use crate::net::{BodyError, ClientError};
use crate::npm::endpoint::EndpointError;
use crate::telemetry::BarLabel;

/// Why a request is refused or failed. [`super::response`] maps each case to a status.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    #[error("{0}")]
    Headers(String),
    /// A browser sent it from a page of another site.
    #[error("coldframe answers this only to its own pages and to programs: {0}")]
    CrossSite(&'static str),
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error("unsupported content encoding, expected `gzip` or `identity`")]
    Coding,
    #[error("unsupported transfer encoding, expected only `chunked`")]
    Transfer,
    #[error(transparent)]
    Rejected(#[from] FirewallError),
    #[error("coldframe does not forward writes; publish to the registry directly, or start coldframe with `--allow-writes`")]
    WritesDisabled,
    /// A packument read for a later write, without credentials of the client.
    #[error("reading a packument for a write requires your own credentials")]
    NeedsCredentials,
    #[error(
        "admin token required; send `Authorization: Bearer` with a token from `admin-token-file` \
         (for `coldframe check --server`, set `--admin-token-file`)"
    )]
    AdminTokenRequired,
    #[error("this page requires an admin token, and `admin-token-file` is not set; `explain-access` opens `check` and `explain`")]
    AdminDisabled,
    #[error("gateway authentication required; add a user name and password to the proxy URL: `http://name:password@host:port`")]
    ProxyAuthRequired,
    /// The gateway refuses the destination. Holds the metric label and the reason.
    #[error("{1}")]
    EgressDenied(BarLabel, String),
    /// The `Host` differs from the host of the connection.
    #[error("{0}")]
    HostMismatch(String),
    /// An intercepted host, but not a registry path.
    #[error("not a registry path; coldframe intercepts only the registry on this host")]
    NotARegistryPath,
    #[error("cannot reach `{place}`: {cause}")]
    Unreachable { place: String, cause: ClientError },
    #[error("cannot read request body: internal error")]
    TaskFailed,
}
