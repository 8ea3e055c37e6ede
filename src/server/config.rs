//! Settings of the HTTP server and the gateway.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use url::Url;

use crate::net::{ConnectionLimits, HostPattern};
use crate::policy::access::issuer::TrustedIssuer;
use crate::policy::access::sign_in_provider::SignInProvider;
use crate::server::intercepted_hosts::InterceptedHosts;
use crate::tls::ServerCertificateFiles;

/// Whether requests without a valid access token are refused (`require-auth`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AuthRequirement {
    #[default]
    Optional,
    Required,
}

/// Access tokens of clients.
#[derive(Debug, Clone, Default)]
pub struct AuthConfig {
    pub requirement: AuthRequirement,
    /// The issuers of OIDC tokens that are exchanged for access tokens.
    pub issuers: Vec<TrustedIssuer>,
    /// The provider that people sign in with.
    pub sign_in: Option<SignInConfig>,
}

/// The provider that people sign in with, and the secret of this server there.
#[derive(Debug, Clone)]
pub struct SignInConfig {
    pub provider: SignInProvider,
    pub secret: Option<ClientSecret>,
}

/// A secret that is not printed.
#[derive(Clone)]
pub struct ClientSecret(pub String);

impl std::fmt::Debug for ClientSecret {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("ClientSecret(…)")
    }
}

#[derive(Debug, Clone)]
pub struct Config {
    /// The URL that clients use: `http` or `https`, without credentials, query and fragment. Its path is the server's prefix.
    pub public_url: Option<Url>,
    /// The files of the certificate of listeners that speak HTTPS.
    pub tls: Option<ServerCertificateFiles>,
    pub trusted_proxies: Vec<IpNet>,
    /// The paths of the upstream registries without trailing slash, longest first. Clients may prepend them to a path.
    pub upstream_prefixes: Vec<Box<str>>,
    pub allow_writes: bool,
    /// Whether the package pages below `/-/coldframe/` are open to clients on other machines.
    pub explains_to_all: bool,
    pub admin_tokens: Option<PathBuf>,
    pub auth: AuthConfig,
    /// The largest audit request body in bytes, both compressed and decompressed.
    pub body_limit: u64,
    /// The largest body of a write in bytes. A publish contains its tarball.
    pub write_limit: u64,
    pub body_timeout: Duration,
    pub limits: ConnectionLimits,
}

#[cfg(test)]
impl Default for Config {
    fn default() -> Self {
        Self {
            public_url: None,
            tls: None,
            trusted_proxies: Vec::new(),
            upstream_prefixes: Vec::new(),
            allow_writes: false,
            explains_to_all: false,
            admin_tokens: None,
            auth: AuthConfig::default(),
            body_limit: 16_000_000,
            write_limit: 250_000_000,
            body_timeout: Duration::from_mins(2),
            limits: ConnectionLimits::default(),
        }
    }
}

#[derive(Debug, Clone)]
pub struct GatewayConfig {
    pub targets: InterceptedHosts,
    /// Other hosts that clients may reach.
    pub allowed: Vec<HostPattern>,
    /// Whether clients may reach any other host (`default-egress`).
    pub tunnels_others: bool,
    /// The file of gateway users. `None` disables authentication.
    pub users: Option<PathBuf>,
}
