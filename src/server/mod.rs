//! The HTTP server in front of the firewall. [`registry`] and [`gateway`] accept requests, [`service`] calls the firewall, and
//! [`response`] builds HTTP responses.
//!
//! No policy is evaluated here.

pub mod admin;
pub mod auth;
mod base_urls;
pub mod client;
pub mod gateway;
pub mod intercepted_hosts;
pub mod passthrough;
pub mod registry;
mod request_log;
pub mod response;
pub mod service;

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use url::Url;

use crate::firewall::FirewallError;
use crate::net::HostPattern;
use crate::net::{BodyError, ClientError};
use crate::npm::endpoint::EndpointError;
use crate::telemetry::BarLabel;

pub use admin::access::Own;
pub use auth::gateway_users::GatewayAuth;
pub use auth::password_file::PasswordFileError;
pub use auth::session_password::SessionPassword;
pub use auth::tokens::{AdminTokenError, AdminTokens};
pub use gateway::egress::EgressContext;
pub use gateway::{Forward, RefusedDestination};
pub use intercepted_hosts::{InterceptTarget, InterceptedHosts};
pub use registry::handler::{EntryPoint, RegistryHandler};
pub use service::RegistryService;

/// Settings of the HTTP server.
#[derive(Debug, Clone)]
pub struct Config {
    /// The URL that clients use: `http` or `https`, without credentials, query and fragment. Its path is the server's prefix.
    pub public_url: Option<Url>,
    /// Networks of proxies whose `X-Forwarded-*` headers are trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// The paths of the upstream registries without trailing slash, longest first. Clients may prepend them to a path.
    pub upstream_prefixes: Vec<Box<str>>,
    /// Whether writes are forwarded to the registry.
    pub allow_writes: bool,
    /// Whether the package pages below `/-/coldframe/` are open to clients on other machines.
    pub explains_to_all: bool,
    /// The file of admin tokens, if any.
    pub admin_tokens: Option<PathBuf>,
    /// The largest audit request body in bytes, both compressed and decompressed.
    pub body_limit: u64,
    /// The largest body of a write in bytes. A publish contains its tarball.
    pub write_limit: u64,
    /// Time limit for a request body.
    pub body_timeout: Duration,
    /// Limits of connections.
    pub limits: crate::net::ConnectionLimits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            public_url: None,
            trusted_proxies: Vec::new(),
            upstream_prefixes: Vec::new(),
            allow_writes: false,
            explains_to_all: false,
            admin_tokens: None,
            body_limit: 16_000_000,
            write_limit: 250_000_000,
            body_timeout: Duration::from_mins(2),
            limits: crate::net::ConnectionLimits::default(),
        }
    }
}

/// Settings of the gateway.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// The intercepted hosts.
    pub targets: InterceptedHosts,
    /// Other hosts that clients may reach.
    pub allowed: Vec<HostPattern>,
    /// Whether clients may reach any other host (`default-egress`).
    pub tunnels_others: bool,
    /// The file of gateway users. `None` disables authentication.
    pub users: Option<PathBuf>,
}

/// Why a request is refused or failed. [`response`] maps each case to a status.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Not a registry endpoint.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// Missing, duplicate or invalid headers.
    #[error("{0}")]
    Headers(String),
    /// A browser sent it from a page of another site.
    #[error("coldframe answers this only to its own pages and to programs: {0}")]
    CrossSite(&'static str),
    /// The body could not be read.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// Unsupported content encoding of the body.
    #[error("unsupported content encoding, expected `gzip` or `identity`")]
    Coding,
    /// Unsupported transfer encoding of the body.
    #[error("unsupported transfer encoding, expected only `chunked`")]
    Transfer,
    /// The firewall refused the request or failed.
    #[error(transparent)]
    Rejected(#[from] FirewallError),
    /// A write, and writes are disabled.
    #[error("coldframe does not forward writes; publish to the registry directly, or start coldframe with `--allow-writes`")]
    WritesDisabled,
    /// A packument read for a later write, without credentials of the client.
    #[error("reading a packument for a write requires your own credentials")]
    NeedsCredentials,
    /// An admin page without a valid token.
    #[error(
        "admin token required; send `Authorization: Bearer` with a token from `admin-token-file` \
         (for `coldframe check --server`, set `--admin-token-file`)"
    )]
    AdminTokenRequired,
    /// An admin page on a server without admin tokens.
    #[error(
        "this page requires an admin token, and `admin-token-file` is not set; \
         `explain-access` opens `check` and `explain`"
    )]
    AdminDisabled,
    /// Missing or invalid gateway credentials.
    #[error("gateway authentication required; add a user name and password to the proxy URL: `http://name:password@host:port`")]
    ProxyAuthRequired,
    /// The gateway refuses the destination. Holds the metric label and the reason.
    #[error("{1}")]
    EgressDenied(BarLabel, String),
    /// The `Host` differs from the host of the connection.
    #[error("{0}")]
    HostMismatch(String),
    /// An intercepted host, but not a registry path.
    #[error("{0}")]
    NotARegistryPath(String),
    /// The gateway could not connect.
    #[error("cannot reach `{place}`: {cause}")]
    Unreachable {
        /// Host and port.
        place: String,
        cause: ClientError,
    },
    /// A background task panicked.
    #[error("cannot read request body: internal error")]
    TaskFailed,
}
