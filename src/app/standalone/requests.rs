//! Requests for approvals from the command line: by the server on the data directory, by a server at a URL, or without a server.

use std::sync::Arc;

use serde_json::Value;

use crate::app::error::AppError;
use crate::app::operations::requests::{RequestOperation, perform};
use crate::app::remote::RemoteServer;
use crate::app::remote::http::HttpServer;
use crate::app::standalone::{StandaloneFirewall, firewall};
use crate::clock::Clock;
use crate::config::Config;
use crate::firewall::ApprovalRequests;
use crate::store::{RequestLedger, RequestWriter};
use crate::telemetry::Metrics;

/// Where operations on requests are performed.
pub(crate) enum RequestEndpoint {
    /// The ledger of the data directory, with the policy of this profile.
    Here { requests: ApprovalRequests, profile: usize, _firewall: StandaloneFirewall },
    /// The server on the data directory, with one of its policies.
    Running(Box<RemoteServer>, usize),
    /// A server that a token identifies this user to.
    Http(Box<HttpServer>),
}

impl RequestEndpoint {
    /// Opens the ledger of a data directory on which no server runs.
    pub(crate) fn here(config: Config, clock: Arc<dyn Clock>) -> Result<Self, AppError> {
        let profile = config.policies.first_profile();
        let ledger = Arc::new(RequestWriter::open(&config.store.data_dir)?) as Arc<dyn RequestLedger>;
        let firewall = firewall(config, Arc::clone(&clock))?;
        let requests = ApprovalRequests::new((*firewall.value).clone(), ledger, clock, Arc::new(Metrics::default()));
        Ok(Self::Here { requests: requests.without_server(), profile, _firewall: firewall })
    }

    /// Performs an operation. Without `--server`, in the name of `user`.
    pub(crate) async fn perform(&self, user: &str, operation: RequestOperation) -> Result<Value, AppError> {
        match self {
            Self::Here { requests, profile, .. } => {
                perform(requests, (user, *profile), operation).await.map_err(AppError::Request)
            }
            Self::Running(server, profile) => server.request(user, operation, *profile).await,
            Self::Http(server) => server.request(&operation).await,
        }
    }
}
