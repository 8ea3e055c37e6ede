//! What a session gives to its command: the way to the gateway, and the report at the end.

use std::collections::BTreeMap;

use url::Url;

use crate::app::session::recorder::RecordedRequests;
use crate::server::{RefusedDestination, SessionPassword};

/// What a client needs to connect through the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyEndpoint {
    /// The URL of the gateway.
    pub proxy: Url,
    /// The password for the gateway.
    pub pass: SessionPassword,
    /// The registry URL for clients: upstream's own, if the gateway can intercept it.
    pub registry: Url,
}

/// The report of a command's requests.
#[derive(Debug, Clone, Default)]
pub struct RunReport {
    /// The recorded requests.
    pub noted: RecordedRequests,
    /// Refused requests for other hosts, by host and port.
    pub turned_away: BTreeMap<String, RefusedDestination>,
    /// An error at the end of the session.
    pub trouble: Option<String>,
}
