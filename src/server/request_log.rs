//! Watches one request from its head to its answer's last byte, and tells telemetry how it ended, however it did.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{Method, Response, Uri};

use crate::net::Body;
use crate::npm::UserAgent;
use crate::server::response::Reply;
use crate::telemetry::{EndpointLabel, InFlight, Metrics, OutcomeLabel, RequestEnded};

/// One request being watched. Dropped before there was an answer, it tells that its client left.
pub(crate) struct RequestLog {
    metrics: Arc<Metrics>,
    started: Instant,
    method: Method,
    uri: Uri,
    /// Who asked: the peer, until a trusted proxy's word is read.
    pub(crate) client: IpAddr,
    /// By what name, if they logged in.
    pub(crate) user: Option<Arc<str>>,
    /// With which tool, once that is read.
    pub(crate) agent: Option<UserAgent>,
    /// What it asked for, once that is read.
    pub(crate) endpoint: EndpointLabel,
    /// Whether the path may hold a credential, as that of `npm token revoke` does.
    pub(crate) is_private: bool,
    is_forgotten: bool,
    outcome: OutcomeLabel,
    status: u16,
    bytes: u64,
    /// Held for its end: counts the request as in flight.
    _in_flight: InFlight,
}

impl RequestLog {
    /// Starts watching.
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

    /// The path as a log may hold it.
    fn shown_path(&self) -> &str {
        let path = self.uri.path();
        // What was not understood could be a misspelt way to name a token.
        let suspicious = self.endpoint == EndpointLabel::Unknown && path.to_ascii_lowercase().contains("token");
        if self.is_private || suspicious { "(withheld)" } else { path }
    }

    /// Somebody else watches this request: tells nothing.
    pub(crate) fn forget(mut self) {
        self.is_forgotten = true;
    }

    /// There is an answer: goes on watching until its body is sent or given up.
    pub(crate) fn answered(mut self, reply: Reply) -> Response<Body> {
        self.outcome = reply.outcome;
        self.status = reply.response.status().as_u16();
        reply.response.map(|body| {
            body.on_end(move |bytes| {
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
    fn a_path_that_may_hold_a_token_stays_out_of_the_log() {
        let watch =
            |path: &'static str| RequestLog::begin(&Arc::default(), [127, 0, 0, 1].into(), &Method::GET, &Uri::from_static(path));
        assert_eq!(watch("/axios").shown_path(), "/axios");
        assert_eq!(watch("/-/Token/secret").shown_path(), "(withheld)");
        let mut revoked = watch("/-/user/token/secret");
        (revoked.endpoint, revoked.is_private) = (EndpointLabel::Write, true);
        assert_eq!(revoked.shown_path(), "(withheld)");
    }
}
