//! Events of normal operation: requests, upstream responses, cache lookups and refusals.

use std::net::IpAddr;
use std::time::Duration;

use crate::npm::{PackageName, UserAgent};
use crate::policy::RuleId;
use crate::telemetry::labels::{AuthLabel, BarLabel, EndpointLabel, Label, OutcomeLabel, UpstreamOutcome, UpstreamWhat};
use crate::telemetry::metrics::Metrics;

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

events! {
    /// A request ended: the last byte was sent or the client disconnected.
    RequestEnded: debug "request ended" {
        client: IpAddr => [client.address = %client],
        user: Option<&'a str> => [client.user = user],
        /// The client's tool; `None` if its header was not read.
        agent: Option<&'a UserAgent> => [client.agent = agent.map(tracing::field::display)],
        method: &'a str => [request.method = method],
        /// The path without its query, which may contain private data.
        path: &'a str => [request.path = path.get(..512).unwrap_or(path)],
        endpoint: EndpointLabel => [request.endpoint = endpoint.value()],
        /// The response status; 0 if there was no response.
        status: u16 => [response.status = status],
        outcome: OutcomeLabel => [response.outcome = outcome.value()],
        bytes: u64 => [response.bytes = bytes],
        /// Time from the request head to the last byte of the response.
        duration: Duration => [duration_ms = milliseconds(*duration)],
    } |metrics, event| {
        metrics.requests.total.of((event.endpoint, event.outcome)).inc();
        metrics.requests.seconds.of(event.endpoint).observe(event.duration.as_secs_f64());
        metrics.requests.bytes_sent.inc_by(event.bytes);
    };

    RequestRefused: info "request refused" {
        name: &'a PackageName => [package.name = %name],
        /// The version; `None` if the whole package is refused.
        version: Option<&'a str> => [package.version = version],
        rule: &'a RuleId => [rule.id = rule.as_str()],
        client: IpAddr => [client.address = %client],
        user: Option<&'a str> => [client.user = user],
        agent: &'a UserAgent => [client.agent = %agent],
        text: &'a str => [reason = text],
    } |metrics, event| _ = metrics.policy.refusals.of(event.rule.into()).inc();

    /// An access token was refused.
    AuthenticationFailed: warn "authentication failed" {
        client: IpAddr => [client.address = %client],
        /// The label of the token, if it was issued here.
        user: Option<&'a str> => [client.user = user],
        reason: AuthLabel => [reason = reason.value()],
    } |_, _| {};

    /// The gateway refused a connection or closed it.
    EgressRefused: info "egress refused" {
        client: IpAddr => [client.address = %client],
        user: Option<&'a str> => [client.user = user],
        /// The requested host and port as the client wrote them; `-` if it named none.
        target: &'a str => [gateway.target = target],
        reason: BarLabel => [gateway.reason = reason.value()],
        text: &'a str => [reason = text],
    } |metrics, event| _ = metrics.policy.gateway_refusals.of(event.reason).inc();

    /// A packument was rendered without some of its versions.
    VersionsHidden: debug "versions hidden" {
        name: &'a PackageName => [package.name = %name],
        count: u64 => [versions.hidden = count],
        total: u64 => [versions.total = total],
    } |metrics, event| _ = metrics.policy.hidden_versions.inc_by(event.count);

    /// A packument was fetched before a client requested it.
    PackumentPrefetched: debug "packument prefetched" {
        name: &'a PackageName => [package.name = %name],
    } |metrics, _| _ = metrics.policy.prefetched.inc();

    /// A tarball was opened before a client requested it.
    TarballVettedAhead: debug "tarball vetted ahead" {
        name: &'a PackageName => [package.name = %name],
        version: &'a str => [package.version = version],
    } |metrics, _| _ = metrics.policy.vetted_ahead.inc();
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_updates_its_metrics() {
        let metrics = Metrics::default();
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
