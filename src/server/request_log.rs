//! Records a request from its head to the last byte of its response. Metrics and the log receive every outcome.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{Method, Response, Uri};

use crate::net::Body;
use crate::npm::UserAgent;
use crate::server::response::Reply;
use crate::telemetry::{EndpointLabel, InFlight, Metrics, OutcomeLabel, RequestEnded};

/// The record of a request. If it is dropped before a response, the request counts as abandoned by the client.
pub(crate) struct RequestLog {
    metrics: Arc<Metrics>,
    started: Instant,
    method: Method,
    uri: Uri,
    /// The peer, or the client reported by a trusted proxy.
    pub(crate) client: IpAddr,
    /// The authenticated user.
    pub(crate) user: Option<Arc<str>>,
    pub(crate) agent: Option<UserAgent>,
    pub(crate) endpoint: EndpointLabel,
    /// Whether the path may contain a credential, as in `npm token revoke`.
    pub(crate) is_private: bool,
    is_forgotten: bool,
    outcome: OutcomeLabel,
    status: u16,
    bytes: u64,
    /// Counts the request as in flight until it is dropped.
    _in_flight: InFlight,
}

impl RequestLog {
    /// Starts recording.
    pub(crate) fn begin(metrics: &Arc<Metrics>, client: IpAddr, method: &Method, uri: &Uri) -> Self {
        Self {
            metrics: metrics.clone(),
            started: Instant::now(),
            method: method.clone(),
            uri: uri.clone(),
            client,
            user: None,
            agent: None,
            endpoint: EndpointLabel::Unknown,
            is_private: false,
            is_forgotten: false,
            outcome: OutcomeLabel::Abandoned,
            status: 0,
            bytes: 0,
            _in_flight: metrics.begin_request(),
        }
    }

    /// Returns the path for the log.
    fn shown_path(&self) -> &str {
        let path = self.uri.path();
        // An unknown path could be a misspelled URL with a token.
        let suspicious = self.endpoint == EndpointLabel::Unknown && path.to_ascii_lowercase().contains("token");
        if self.is_private || suspicious { "(withheld)" } else { path }
    }

    /// Discards the record, because another one covers the request.
    pub(crate) fn forget(mut self) {
        self.is_forgotten = true;
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
        if self.is_forgotten {
            return;
        }
        let ended = RequestEnded {
            endpoint: self.endpoint,
            outcome: self.outcome,
            status: self.status,
            duration: self.started.elapsed(),
            bytes: self.bytes,
            client: self.client,
            user: self.user.as_deref(),
            agent: self.agent.as_ref(),
            method: self.method.as_str(),
            path: self.shown_path(),
        };
        ended.emit(&self.metrics);
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
        let mut revoked = log("/-/user/token/secret");
        (revoked.endpoint, revoked.is_private) = (EndpointLabel::Write, true);
        assert_eq!(revoked.shown_path(), "(withheld)");
    }
}
