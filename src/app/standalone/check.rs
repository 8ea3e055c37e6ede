//! Checks the versions in lockfiles: with a standalone firewall, a remote server, or the server on the data directory.

use std::sync::Arc;

use url::Url;

use crate::app::error::AppError;
use crate::app::remote::RemoteServer;
use crate::app::remote::http::HttpServer;
use crate::app::standalone::{self, StandaloneFirewall};
use crate::clock::Clock;
use crate::config::Config;
use crate::firewall::{Client, LockedVersion};
use crate::server::admin::CheckResponse;

pub(crate) enum Checker {
    /// A firewall in this process, with the policy of this client.
    Here(StandaloneFirewall, Box<Client>),
    Http(Arc<HttpServer>),
    /// The server on the data directory, with one of its policies.
    Running(Box<RemoteServer>, usize),
}

impl Checker {
    /// Creates a checker from `config`, the data directory and upstream's current state. It writes nothing.
    pub(crate) fn here(config: Config, clock: Arc<dyn Clock>) -> Result<Self, AppError> {
        let client = Box::new(standalone::configured_client(&config));
        Ok(Self::Here(standalone::firewall(config, clock)?, client))
    }

    /// Creates a checker that uses the server at `url`. Does not connect yet.
    pub(crate) fn at(url: Url, config: &Config) -> Result<Self, AppError> {
        Ok(Self::Http(Arc::new(HttpServer::for_checks(url, config)?)))
    }

    /// Returns one outcome for each of `locked`, in the same order. A failed lookup is the outcome of its package.
    pub(crate) async fn check(&self, locked: &[LockedVersion]) -> Result<CheckResponse, AppError> {
        match self {
            Self::Here(StandaloneFirewall { value, .. }, client) => {
                Ok(CheckResponse { packages: value.check(client, locked).await, upstreams: value.upstreams() })
            }
            Self::Http(server) => server.check(locked).await,
            Self::Running(server, profile) => server.check(locked, *profile).await,
        }
    }
}
