//! Watches one request from its head to its answer's last byte, and tells telemetry how it ended, however it did.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{Method, Response, Uri};

use super::respond::Reply;
use crate::net::Body;
use crate::npm::Agent;
use crate::telemetry::{EndpointLabel, InFlight, Metrics, OutcomeLabel, RequestEnded};

/// One request being watched. Dropped before there was an answer, it tells that its client left.
pub struct Watch {
    metrics: Arc<Metrics>,
    started: Instant,
    method: Method,
    uri: Uri,
    /// Who asked: the peer, until a trusted proxy's word is read.
    pub client: IpAddr,
    /// With which tool, once that is read.
    pub agent: Option<Agent>,
    /// What it asked for, once that is read.
    pub endpoint: EndpointLabel,
    outcome: OutcomeLabel,
    status: u16,
    bytes: u64,
    /// Held for its end: counts the request as in flight.
    _in_flight: InFlight,
}

impl Watch {
    /// Starts watching.
    pub fn begin(metrics: &Arc<Metrics>, client: IpAddr, method: &Method, uri: &Uri) -> Self {
        Self {
            metrics: metrics.clone(),
            started: Instant::now(),
            method: method.clone(),
            uri: uri.clone(),
            client,
            agent: None,
            endpoint: EndpointLabel::Unknown,
            outcome: OutcomeLabel::Abandoned,
            status: 0,
            bytes: 0,
            _in_flight: metrics.begin_request(),
        }
    }

    /// There is an answer: goes on watching until its body is sent or given up.
    pub fn answered(mut self, reply: Reply) -> Response<Body> {
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

impl Drop for Watch {
    fn drop(&mut self) {
        let ended = RequestEnded {
            endpoint: self.endpoint,
            outcome: self.outcome,
            status: self.status,
            duration: self.started.elapsed(),
            bytes: self.bytes,
            client: self.client,
            agent: self.agent.as_ref(),
            method: self.method.as_str(),
            path: self.uri.path(),
        };
        ended.emit(&self.metrics);
    }
}
