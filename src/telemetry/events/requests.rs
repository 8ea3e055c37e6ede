//! Events of normal operation: requests, upstream responses, cache lookups and refusals.

use std::net::IpAddr;
use std::time::Duration;

use crate::npm::{PackageName, UserAgent};
use crate::policy::RuleId;
use crate::telemetry::labels::{
    BarLabel, CacheLabel, CacheOutcome, EndpointLabel, Label, OutcomeLabel, UpstreamOutcome, UpstreamWhat,
};
use crate::telemetry::metrics::Metrics;

/// A request ended: the last byte was sent or the client disconnected.
pub struct RequestEnded<'a> {
    pub endpoint: EndpointLabel,
    pub outcome: OutcomeLabel,
    /// The response status; 0 if there was no response.
    pub status: u16,
    /// Time from the request head to the last byte of the response.
    pub duration: Duration,
    pub bytes: u64,
    pub client: IpAddr,
    pub user: Option<&'a str>,
    /// The client's tool; `None` if its header was not read.
    pub agent: Option<&'a UserAgent>,
    pub method: &'a str,
    /// The path without its query, which may contain private data.
    pub path: &'a str,
}

impl RequestEnded<'_> {
    pub fn emit(&self, metrics: &Metrics) {
        metrics.requests.total.of((self.endpoint, self.outcome)).inc();
        metrics.requests.seconds.of(self.endpoint).observe(self.duration.as_secs_f64());
        metrics.requests.bytes_sent.inc_by(self.bytes);
        tracing::debug!(
            client.address = %self.client,
            client.user = self.user,
            client.agent = self.agent.map(tracing::field::display),
            request.method = self.method,
            request.path = self.path.get(..512).unwrap_or(self.path),
            request.endpoint = self.endpoint.value(),
            response.status = self.status,
            response.outcome = self.outcome.value(),
            response.bytes = self.bytes,
            duration_ms = milliseconds(self.duration),
            "request ended"
        );
    }
}

/// Upstream answered a request or failed to.
pub struct UpstreamAnswered<'a> {
    pub what: UpstreamWhat,
    pub outcome: UpstreamOutcome,
    pub duration: Duration,
    pub name: Option<&'a PackageName>,
    /// The error, without credentials.
    pub detail: Option<&'a str>,
}

impl UpstreamAnswered<'_> {
    /// Counts the response. A failure is logged as a warning, other outcomes at debug level.
    pub fn emit(&self, metrics: &Metrics) {
        metrics.fetches.upstream.of((self.what, self.outcome)).inc();
        metrics.fetches.upstream_seconds.of(self.what).observe(self.duration.as_secs_f64());
        let name = self.name.map(tracing::field::display);
        let (what, duration_ms) = (self.what.value(), milliseconds(self.duration));
        if self.outcome == UpstreamOutcome::Failed {
            tracing::warn!(package.name = name, upstream.what = what, duration_ms, error = self.detail, "upstream failed");
            return;
        }
        let outcome = self.outcome.value();
        tracing::debug!(package.name = name, upstream.what = what, upstream.outcome = outcome, duration_ms, "upstream answered");
    }
}

pub struct CacheLookup {
    pub cache: CacheLabel,
    pub outcome: CacheOutcome,
}

impl CacheLookup {
    /// Counts the lookup. Lookups are too frequent for the log.
    pub fn emit(self, metrics: &Metrics) {
        metrics.fetches.caches.of((self.cache, self.outcome)).inc();
    }
}

pub struct RequestRefused<'a> {
    pub name: &'a PackageName,
    /// The version; `None` if the whole package is refused.
    pub version: Option<&'a str>,
    pub rule: &'a RuleId,
    pub client: IpAddr,
    pub user: Option<&'a str>,
    pub agent: &'a UserAgent,
    /// The refusal text sent to the client.
    pub text: &'a str,
}

impl RequestRefused<'_> {
    pub fn emit(&self, metrics: &Metrics) {
        metrics.policy.refusals.of(self.rule.into()).inc();
        tracing::info!(
            package.name = %self.name,
            package.version = self.version,
            rule.id = self.rule.as_str(),
            client.address = %self.client,
            client.user = self.user,
            client.agent = %self.agent,
            reason = self.text,
            "request refused"
        );
    }
}

/// A version was served despite a warning or an unenforced refusal.
pub struct ServedWithWarning<'a> {
    pub name: &'a PackageName,
    pub version: &'a str,
    pub rule: &'a RuleId,
    /// Whether the rule would have refused it if it were enforced.
    pub would_refuse: bool,
    pub client: IpAddr,
    pub user: Option<&'a str>,
    pub detail: &'a str,
}

impl ServedWithWarning<'_> {
    pub fn emit(&self, metrics: &Metrics) {
        metrics.policy.observed.inc();
        let message = if self.would_refuse { "refusal not enforced" } else { "served with warning" };
        tracing::info!(
            package.name = %self.name,
            package.version = self.version,
            rule.id = self.rule.as_str(),
            client.address = %self.client,
            client.user = self.user,
            reason = self.detail,
            "{message}"
        );
    }
}

/// The gateway refused a connection or closed it.
pub struct EgressRefused<'a> {
    pub reason: BarLabel,
    pub client: IpAddr,
    pub user: Option<&'a str>,
    /// The requested host and port as the client wrote them; `-` if it named none.
    pub target: &'a str,
    pub text: &'a str,
}

impl EgressRefused<'_> {
    pub fn emit(&self, metrics: &Metrics) {
        metrics.policy.gateway_refusals.of(self.reason).inc();
        tracing::info!(
            client.address = %self.client,
            client.user = self.user,
            gateway.target = self.target,
            gateway.reason = self.reason.value(),
            reason = self.text,
            "egress refused"
        );
    }
}

/// A packument was rendered without some of its versions.
pub struct VersionsHidden<'a> {
    pub name: &'a PackageName,
    pub count: u64,
    pub total: u64,
}

impl VersionsHidden<'_> {
    pub fn emit(&self, metrics: &Metrics) {
        metrics.policy.hidden_versions.inc_by(self.count);
        tracing::debug!(package.name = %self.name, versions.hidden = self.count, versions.total = self.total, "versions hidden");
    }
}

/// A packument was fetched before a client requested it.
pub struct PackumentPrefetched<'a> {
    pub name: &'a PackageName,
}

impl PackumentPrefetched<'_> {
    pub fn emit(self, metrics: &Metrics) {
        metrics.policy.prefetched.inc();
        tracing::debug!(package.name = %self.name, "packument prefetched");
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_updates_its_metrics() {
        let metrics = Metrics::new();
        let ended = RequestEnded {
            endpoint: EndpointLabel::Tarball,
            outcome: OutcomeLabel::Served,
            status: 200,
            duration: Duration::from_millis(3),
            bytes: 1234,
            client: IpAddr::from([127, 0, 0, 1]),
            user: None,
            agent: None,
            method: "GET",
            path: "/axios/-/axios-1.0.0.tgz",
        };
        ended.emit(&metrics);
        let name = PackageName::parse("axios").unwrap();
        VersionsHidden { name: &name, count: 7, total: 9 }.emit(&metrics);
        let text = metrics.render();
        for line in [
            "coldframe_requests_total{endpoint=\"tarball\",outcome=\"served\"} 1\n",
            "coldframe_bytes_sent_total 1234\n",
            "coldframe_request_duration_seconds_bucket{le=\"0.005\",endpoint=\"tarball\"} 1\n",
            "coldframe_hidden_versions_total 7\n",
        ] {
            assert!(text.contains(line), "{line} is missing from\n{text}");
        }
    }
}
