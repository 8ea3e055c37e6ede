//! What happens in the course of things: requests, questions to upstream, look-ups, refusals. Refuses to decide any of it.

use std::net::IpAddr;
use std::time::Duration;

use crate::npm::{PackageName, UserAgent};
use crate::policy::RuleId;
use crate::telemetry::labels::{
    BarLabel, CacheLabel, CacheOutcome, EndpointLabel, Label, OutcomeLabel, UpstreamOutcome, UpstreamWhat,
};
use crate::telemetry::metrics::{Metrics, observe};

/// A request came to its end: its last byte left, or its client did.
#[derive(Debug, Clone, Copy)]
pub struct RequestEnded<'a> {
    /// What it asked for.
    pub endpoint: EndpointLabel,
    /// What became of it.
    pub outcome: OutcomeLabel,
    /// The status it was answered with; 0 when there was no answer.
    pub status: u16,
    /// From its head to its answer's last byte.
    pub duration: Duration,
    /// Bytes of body sent.
    pub bytes: u64,
    /// Who asked.
    pub client: IpAddr,
    /// By what name, if they logged in.
    pub user: Option<&'a str>,
    /// With which tool, where that was read.
    pub agent: Option<&'a UserAgent>,
    /// The method.
    pub method: &'a str,
    /// The path, without its query, which may hold what is nobody's business.
    pub path: &'a str,
}

impl RequestEnded<'_> {
    /// Counts it, and logs it for those who look closely.
    pub fn emit(&self, metrics: &Metrics) {
        metrics.requests.of((self.endpoint, self.outcome)).inc();
        observe(metrics.request_seconds.of(self.endpoint), self.duration);
        metrics.bytes_sent.inc_by(self.bytes);
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

/// Upstream answered a question, or failed to.
#[derive(Debug, Clone, Copy)]
pub struct UpstreamAnswered<'a> {
    /// What it was asked for.
    pub what: UpstreamWhat,
    /// What it answered.
    pub outcome: UpstreamOutcome,
    /// How long that took.
    pub duration: Duration,
    /// The package, if it was about one.
    pub name: Option<&'a PackageName>,
    /// What went wrong, in words, without credentials.
    pub detail: Option<&'a str>,
}

impl UpstreamAnswered<'_> {
    /// Counts it; a failure is logged as a warning, the rest for those who look closely.
    pub fn emit(&self, metrics: &Metrics) {
        metrics.upstream.of((self.what, self.outcome)).inc();
        observe(metrics.upstream_seconds.of(self.what), self.duration);
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

/// One of our memories was asked.
#[derive(Debug, Clone, Copy)]
pub struct CacheLookup {
    /// Which one.
    pub cache: CacheLabel,
    /// What it had.
    pub outcome: CacheOutcome,
}

impl CacheLookup {
    /// Counts it. There are too many for a log.
    pub fn emit(self, metrics: &Metrics) {
        metrics.caches.of((self.cache, self.outcome)).inc();
    }
}

/// The policy refused something to a client.
#[derive(Debug, Clone, Copy)]
pub struct RequestRefused<'a> {
    /// The package.
    pub name: &'a PackageName,
    /// The version, unless the whole package is kept back.
    pub version: Option<&'a str>,
    /// The rule that decided.
    pub rule: &'a RuleId,
    /// Who asked.
    pub client: IpAddr,
    /// By what name, if they logged in.
    pub user: Option<&'a str>,
    /// With which tool.
    pub agent: &'a UserAgent,
    /// What the client is told.
    pub text: &'a str,
}

impl RequestRefused<'_> {
    /// Counts and logs it.
    pub fn emit(&self, metrics: &Metrics) {
        metrics.refusals.of(self.rule.into()).inc();
        tracing::info!(
            package.name = %self.name,
            package.version = self.version,
            rule.id = self.rule.as_str(),
            client.address = %self.client,
            client.user = self.user,
            client.agent = %self.agent,
            reason = self.text,
            "refused"
        );
    }
}

/// Something was served of which a rule warned, or that it would have refused if it did more than observe.
#[derive(Debug, Clone, Copy)]
pub struct ServedWithWarning<'a> {
    /// The package.
    pub name: &'a PackageName,
    /// The version.
    pub version: &'a str,
    /// The rule.
    pub rule: &'a RuleId,
    /// Whether it would have refused.
    pub would_refuse: bool,
    /// Who got it.
    pub client: IpAddr,
    /// By what name, if they logged in.
    pub user: Option<&'a str>,
    /// Why, in words.
    pub detail: &'a str,
}

impl ServedWithWarning<'_> {
    /// Counts and logs it.
    pub fn emit(&self, metrics: &Metrics) {
        metrics.observed.inc();
        let told = if self.would_refuse { "would have refused" } else { "served with a warning" };
        tracing::info!(
            package.name = %self.name,
            package.version = self.version,
            rule.id = self.rule.as_str(),
            client.address = %self.client,
            client.user = self.user,
            reason = self.detail,
            "{told}"
        );
    }
}

/// The gateway refused to connect somebody, or to go on with a connection.
#[derive(Debug, Clone, Copy)]
pub struct EgressRefused<'a> {
    /// Why.
    pub reason: BarLabel,
    /// Who asked.
    pub client: IpAddr,
    /// By what name, if they logged in.
    pub user: Option<&'a str>,
    /// What they wanted to go to: host and port as they wrote it, `-` where they named none.
    pub target: &'a str,
    /// Why, in words.
    pub text: &'a str,
}

impl EgressRefused<'_> {
    /// Counts and logs it.
    pub fn emit(&self, metrics: &Metrics) {
        metrics.gateway_refusals.of(self.reason).inc();
        tracing::info!(
            client.address = %self.client,
            client.user = self.user,
            gateway.target = self.target,
            gateway.reason = self.reason.value(),
            reason = self.text,
            "the gateway refused"
        );
    }
}

/// A packument was assembled without some of its versions.
#[derive(Debug, Clone, Copy)]
pub struct VersionsHidden<'a> {
    /// The package.
    pub name: &'a PackageName,
    /// How many.
    pub count: u64,
    /// Of how many.
    pub total: u64,
}

impl VersionsHidden<'_> {
    /// Counts the versions, and logs them for those who look closely.
    pub fn emit(&self, metrics: &Metrics) {
        metrics.hidden.inc_by(self.count);
        tracing::debug!(package.name = %self.name, versions.hidden = self.count, versions.total = self.total, "versions hidden");
    }
}

/// A package was fetched that no client had asked for yet.
#[derive(Debug, Clone, Copy)]
pub struct PackumentPrefetched<'a> {
    /// The package.
    pub name: &'a PackageName,
}

impl PackumentPrefetched<'_> {
    /// Counts it, and logs it for those who look closely.
    pub fn emit(self, metrics: &Metrics) {
        metrics.fetched_ahead.inc();
        tracing::debug!(package.name = %self.name, "fetched ahead");
    }
}

/// A duration as logs hold it.
fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_moves_its_counters() {
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
