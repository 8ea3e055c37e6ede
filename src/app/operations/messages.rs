//! Requests to a running server, and its answers, as they pass the control socket.

use std::net::SocketAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;

use crate::app::listeners::BoundListener;
use crate::app::operations::adoption::WantedVersions;
use crate::app::operations::requests::RequestOperation;
use crate::config::{Config, Effective, SettingKey};
use crate::firewall::LockedVersion;
use crate::net::{ListenAddress, Scheme};
use crate::server::admin::ClientPolicy;

/// The maximum number of entries of one request: packages or tarballs.
pub(crate) const MAX_ENTRIES: usize = 500;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum OperationRequest {
    /// Describes the server; the answer is a [`Description`].
    Describe,
    /// Writes pending ledger rows.
    Flush,
    /// Explains the verdict on a version; the answer is an [`Explained`].
    Explain { spec: String, at: Option<Timestamp>, profile: usize },
    /// Checks locked versions; the answer is a `CheckResponse`.
    Check { packages: Vec<LockedVersion>, profile: usize },
    /// Plans an approval; the answer is an `ApprovalPlan`.
    Expand { spec: String, records: Vec<String>, profile: usize },
    /// Plans the adoption of lockfile entries; the answer is an `Adoption`.
    Adopt { wanted: WantedVersions, profile: usize },
    /// Asks for approvals or decides on requests as a user of this machine; the answer is that of the HTTP API.
    Request { user: String, operation: RequestOperation, profile: usize },
    /// Removes tarballs by digest and cached packuments by package; the answer is a `Purged`.
    Purge { integrities: Vec<String>, packages: Vec<String> },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum OperationReply {
    Done(Value),
    Failed(String),
    /// The server does not support this request.
    Refused(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ListenerDescription {
    /// The address, with its real port.
    pub(crate) address: SocketAddr,
    #[serde(default)]
    pub(crate) scheme: Scheme,
    /// The index of its policy.
    pub(crate) profile: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PolicyDescription {
    /// The name or path.
    pub(crate) name: String,
    /// The settings that clients should use.
    pub(crate) terms: ClientPolicy,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Description {
    pub(crate) version: String,
    pub(crate) listeners: Vec<ListenerDescription>,
    pub(crate) gateways: Vec<SocketAddr>,
    pub(crate) public_url: Option<Url>,
    pub(crate) policies: Vec<PolicyDescription>,
    /// The upstream registries, without credentials.
    pub(crate) upstreams: Vec<String>,
    pub(crate) settings: Effective,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Explained {
    pub(crate) text: String,
    pub(crate) json: Value,
    pub(crate) is_allowed: bool,
    pub(crate) verdict: String,
    /// The differing verdicts of other policies, with their profiles.
    pub(crate) others: Vec<(usize, String)>,
}

impl ListenerDescription {
    pub(crate) fn listen_address(&self) -> ListenAddress {
        ListenAddress { scheme: self.scheme, socket: self.address }
    }
}

impl Description {
    pub(crate) fn new(config: &Config, bound: &[BoundListener], gateways: Vec<SocketAddr>) -> Self {
        let describe = |bound: &BoundListener| ListenerDescription {
            address: bound.address,
            scheme: bound.scheme,
            profile: bound.profile.0,
        };
        let listeners: Vec<_> = bound.iter().map(describe).collect();
        // As a configuration writes it: with a certificate, only plain HTTP is named.
        let written = |listener: &ListenerDescription| match listener.scheme {
            Scheme::Http if config.server.tls.is_some() => listener.listen_address().to_string(),
            Scheme::Http | Scheme::Https => listener.address.to_string(),
        };
        let names: Vec<_> = config.policies.files.names.iter().map(|name| config.settings.policy_path(name)).collect();
        let mut settings = config.settings.effective.clone();
        let listen = listeners.iter().map(|listener| match (listener.profile, names.get(listener.profile)) {
            (0, _) | (_, None) => written(listener),
            (_, Some(policy)) => format!("{}={policy}", written(listener)),
        });
        settings.set(SettingKey::Listen, listen.collect());
        if !gateways.is_empty() {
            settings.set(SettingKey::Gateway, gateways.iter().map(ToString::to_string).collect());
        }
        // The answer to a request has the current ones.
        let unknown = ClientPolicy { minimum_release_age_seconds: 0, exclude: Vec::new() };
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            listeners,
            gateways,
            public_url: config.server.public_url.clone(),
            policies: names.into_iter().map(|name| PolicyDescription { name, terms: unknown.clone() }).collect(),
            upstreams: Vec::new(),
            settings,
        }
    }
}
