//! Records a request from its head to the last byte of its response. Metrics and the log receive every outcome.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{Method, Response, Uri};

use crate::firewall::Client;
use crate::net::Body;
use crate::npm::{Endpoint, UserAgent};
use crate::server::auth::presented::is_in_url;
use crate::server::response::Reply;
use crate::telemetry::{EndpointLabel, InFlight, Metrics, OutcomeLabel, RequestEnded};

/// The record of a request. If it is dropped before a response, the request counts as abandoned by the client.
pub(crate) struct RequestLog {
    /// `None` if another record covers the request.
    metrics: Option<Arc<Metrics>>,
    started: Instant,
    method: Method,
    uri: Uri,
    pub(crate) client: LoggedClient,
    pub(crate) endpoint: EndpointLabel,
    /// Whether the path may contain a credential, as in `npm token revoke`.
    is_private: bool,
    /// Whether the URL contains an access token.
    pub(crate) has_token: bool,
    outcome: OutcomeLabel,
    status: u16,
    bytes: u64,
    /// Counts the request as in flight until it is dropped.
    _in_flight: InFlight,
}

pub(crate) struct LoggedClient {
    /// The peer, or the client reported by a trusted proxy.
    address: IpAddr,
    pub(crate) user: Option<Arc<str>>,
    agent: Option<UserAgent>,
}

impl LoggedClient {
    pub(crate) fn set(&mut self, client: &Client) {
        *self = Self { address: client.address, user: client.user().cloned(), agent: Some(client.agent.clone()) };
    }
}

impl RequestLog {
    pub(crate) fn begin(metrics: &Arc<Metrics>, client: IpAddr, method: &Method, uri: &Uri) -> Self {
        Self {
            metrics: Some(Arc::clone(metrics)),
            started: Instant::now(),
            method: method.clone(),
            uri: uri.clone(),
            client: LoggedClient { address: client, user: None, agent: None },
            endpoint: EndpointLabel::Unknown,
            is_private: false,
            has_token: uri_has_token(uri),
            outcome: OutcomeLabel::Abandoned,
            status: 0,
            bytes: 0,
            _in_flight: metrics.begin_request(),
        }
    }

    pub(crate) fn set_endpoint(&mut self, endpoint: &Endpoint) {
        self.endpoint = label(endpoint);
        self.is_private = matches!(endpoint, Endpoint::Account(None) | Endpoint::Write(None));
    }

    fn shown_path(&self) -> &str {
        let path = self.uri.path();
        // An unknown path could be a misspelled URL with a token.
        let suspicious = self.endpoint == EndpointLabel::Unknown && path.to_ascii_lowercase().contains("token");
        if self.is_private || self.has_token || suspicious { "(withheld)" } else { path }
    }

    /// Discards the record, because another one covers the request.
    pub(crate) fn forget(mut self) {
        self.metrics = None;
    }

    /// Records the response. The record is emitted when the body is sent or dropped.
    pub(crate) fn finish(mut self, reply: Reply) -> Response<Body> {
        self.outcome = reply.outcome;
        self.status = reply.response.status().as_u16();
        reply.response.map(|body| {
            body.on_complete(move |bytes| {
                self.bytes = bytes;
                drop(self);
            })
        })
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        let Some(metrics) = &self.metrics else { return };
        let ended = RequestEnded {
            endpoint: self.endpoint,
            outcome: self.outcome,
            status: self.status,
            duration: self.started.elapsed(),
            bytes: self.bytes,
            client: self.client.address,
            user: self.client.user.as_deref(),
            agent: self.client.agent.as_ref(),
            method: self.method.as_str(),
            path: self.shown_path(),
        };
        ended.emit(metrics);
    }
}

/// Checks the parts of a URL without joining them, since this is done for every request.
fn uri_has_token(uri: &Uri) -> bool {
    uri.authority().is_some_and(|authority| is_in_url(authority.as_str()))
        || uri.path_and_query().is_some_and(|path| is_in_url(path.as_str()))
}

fn label(endpoint: &Endpoint) -> EndpointLabel {
    match endpoint {
        Endpoint::Root => EndpointLabel::Root,
        Endpoint::Packument(_) => EndpointLabel::Packument,
        Endpoint::Manifest { .. } => EndpointLabel::Manifest,
        Endpoint::Tarball { .. } => EndpointLabel::Tarball,
        Endpoint::DistTags(_) => EndpointLabel::DistTags,
        Endpoint::Search { .. } => EndpointLabel::Search,
        Endpoint::Ping => EndpointLabel::Ping,
        Endpoint::Whoami => EndpointLabel::Whoami,
        Endpoint::Keys => EndpointLabel::Keys,
        Endpoint::Attestations { .. } => EndpointLabel::Attestations,
        Endpoint::Audit(_) => EndpointLabel::Audit,
        Endpoint::Account(_) => EndpointLabel::Account,
        Endpoint::Write(_) => EndpointLabel::Write,
        Endpoint::Admin(_) => EndpointLabel::Own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_with_a_token_is_withheld_from_the_log() {
        let log =
            |path: &'static str| RequestLog::begin(&Arc::default(), [127, 0, 0, 1].into(), &Method::GET, &Uri::from_static(path));
        assert_eq!(log("/axios").shown_path(), "/axios");
        assert_eq!(log("/-/Token/secret").shown_path(), "(withheld)");
        let token = crate::policy::access::secret::TokenSecret::from_random([7; 32]);
        let path = format!("/a/{}", token.reveal());
        let spelled = RequestLog::begin(&Arc::default(), [127, 0, 0, 1].into(), &Method::GET, &path.parse().unwrap());
        assert!(spelled.has_token && spelled.shown_path() == "(withheld)");
        let mut revoked = log("/-/user/token/secret");
        revoked.set_endpoint(&Endpoint::Write(None));
        assert_eq!(revoked.shown_path(), "(withheld)");
    }
}
