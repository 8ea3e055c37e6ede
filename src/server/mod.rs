//! HTTP for the firewall. Doors let requests in, [`service`] turns them into questions, [`response`] answers.
//!
//! Refuses to judge and to remember: what may be served is the firewall's to say.

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

/// How the doors behave.
#[derive(Debug, Clone)]
pub struct Config {
    /// The address clients know us by: `http` or `https`, without credentials, query and fragment. Its path is our prefix.
    pub public_url: Option<Url>,
    /// Peers whose `X-Forwarded-*` headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// The paths of upstream's registries, without a slash at their end, the longest first. Clients may put them before a path.
    pub upstream_prefixes: Vec<Box<str>>,
    /// Whether what changes the registry is passed on.
    pub allow_writes: bool,
    /// Whether questions about packages below `/-/coldframe/` are answered to clients on other machines too.
    pub explains_to_all: bool,
    /// The file of the tokens by which operators are known; `None` where nobody is.
    pub admin_tokens: Option<PathBuf>,
    /// The largest body of an audit that is taken, in bytes, as it comes and inflated.
    pub body_limit: u64,
    /// The largest body of a write, in bytes: a publish holds its tarball.
    pub write_limit: u64,
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
    /// What connections may cost.
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

/// How the gateway behaves.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// The hosts it answers for itself.
    pub targets: InterceptedHosts,
    /// Other hosts that it tunnels to.
    pub allowed: Vec<HostPattern>,
    /// Whether it tunnels to hosts that nobody named.
    pub tunnels_others: bool,
    /// The file of those who may use it; `None` where everybody may.
    pub users: Option<PathBuf>,
}

/// Why a request is not answered with what it asks for. [`response`] gives each its status.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It asks for nothing a registry knows.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// Its headers do not say where it came from, or say it twice.
    #[error("{0}")]
    Headers(String),
    /// A web page of another site made a browser send it.
    #[error("coldframe answers this only to its own pages and to programs: {0}")]
    CrossSite(&'static str),
    /// Its body was not taken.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// Its body is coded in a way that nobody here reads.
    #[error("the body's content encoding is neither `gzip` nor `identity`")]
    Coding,
    /// Its body came in a transfer coding that nobody here undoes.
    #[error("the body's transfer encoding is not `chunked` alone")]
    Transfer,
    /// The firewall says no, or could not say.
    #[error(transparent)]
    Rejected(#[from] FirewallError),
    /// It would change the registry, and that is not passed on.
    #[error("coldframe passes on no writes: publish to the registry itself, or start coldframe with --allow-writes")]
    WritesAreOff,
    /// It reads a packument in order to send it back changed, and nobody says who does.
    #[error("reading a packument to change it needs credentials of your own")]
    NeedsCredentials,
    /// One of our own pages, asked for by nobody we know.
    #[error(
        "coldframe shows this to its operators: `Authorization: Bearer` with a token of its `admin-token-file` \
         (`coldframe check --server` takes it from a file that `--admin-token-file` names)"
    )]
    NotAnOperator,
    /// As [`RequestError::NotAnOperator`], where there is no token that would do.
    #[error(
        "coldframe shows this page to its operators alone, by a token of the file that `admin-token-file` names, and none is named; \
         `explain-to` opens `check` and `explain`"
    )]
    NoOperators,
    /// A gateway that knows its clients by name does not know this one.
    #[error(
        "this gateway asks for a name and a password it knows: write them into the proxy's address, as in `http://name:password@host:port`"
    )]
    Stranger,
    /// The gateway does not go there: why, for those who count and in words.
    #[error("{1}")]
    Barred(BarLabel, String),
    /// It names another host than the connection it came over.
    #[error("{0}")]
    Misdirected(String),
    /// On a host that the gateway answers for, that is no place of the registry's.
    #[error("{0}")]
    NoPlace(String),
    /// The gateway could not get there.
    #[error("cannot reach `{place}`: {cause}")]
    Unreached {
        /// Host and port.
        place: String,
        /// Why not.
        cause: ClientError,
    },
    /// A task of ours died over it.
    #[error("coldframe failed to read the body")]
    Died,
}
