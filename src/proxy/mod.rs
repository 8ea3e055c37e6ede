//! Floor 7: HTTP for the firewall. Doors let requests in, [`service`] turns them into questions, [`respond`] answers.
//!
//! Refuses to judge and to remember: what may be served is the firewall's to say.

pub mod answers;
pub mod asker;
pub mod passage;
pub mod respond;
pub mod reverse;
pub mod service;
mod watch;

use std::time::Duration;

use ipnet::IpNet;
use url::Url;

pub use answers::Answers;
pub use service::{Own, Service};

/// How the doors behave.
#[derive(Debug, Clone)]
pub struct Config {
    /// The address clients know us by: `http` or `https`, without credentials, query and fragment. Its path is our prefix.
    pub public_url: Option<Url>,
    /// Peers whose `X-Forwarded-*` headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether what changes the registry is passed on.
    pub allow_writes: bool,
    /// The largest body of a read or an audit that is taken, in bytes, as it comes.
    pub body_limit: u64,
    /// The largest body of an audit, in bytes, inflated.
    pub inflated_limit: u64,
    /// The largest body of a write, in bytes: a publish holds its tarball.
    pub write_limit: u64,
    /// How long a body may take to arrive.
    pub body_deadline: Duration,
    /// What connections may cost.
    pub limits: crate::net::Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            public_url: None,
            trusted_proxies: Vec::new(),
            allow_writes: false,
            body_limit: 8 << 20,
            inflated_limit: 16 << 20,
            write_limit: 256 << 20,
            body_deadline: Duration::from_secs(120),
            limits: crate::net::Limits::default(),
        }
    }
}
