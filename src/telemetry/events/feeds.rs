//! Events of threat feeds: changes, failures, overbroad advisories, and clients exposed to flagged versions or indicators.

use crate::npm::PackageName;
use crate::telemetry::labels::IncidentLabel;
use crate::telemetry::metrics::Metrics;

/// New records of a feed were applied.
pub struct FeedChanged<'a> {
    pub feed: &'a str,
    pub records: u64,
    pub unreadable: u64,
    /// JSON documents that are not records.
    pub skipped: u64,
}

impl FeedChanged<'_> {
    pub fn emit(&self) {
        tracing::info!(
            feed.name = self.feed,
            feed.records = self.records,
            feed.unreadable = self.unreadable,
            feed.skipped = self.skipped,
            "feed applied"
        );
    }
}

/// A feed could not be read or is not valid. Its last good records stay active.
pub struct FeedFailed<'a> {
    pub feed: &'a str,
    pub detail: &'a str,
    /// Whether the feed has active records. Without any, all packages are refused.
    pub has_records: bool,
}

impl FeedFailed<'_> {
    pub fn emit(&self, metrics: &Metrics) {
        metrics.operation.incidents.of(IncidentLabel::FeedFailed).inc();
        if self.has_records {
            tracing::warn!(feed.name = self.feed, error = self.detail, "feed is stale");
        } else {
            tracing::error!(feed.name = self.feed, error = self.detail, "feed has never been read");
        }
    }
}

/// An advisory covers every version of an established package. Only the versions it lists are refused until an operator
/// decides.
pub struct FeedOverbroad<'a> {
    pub feed: &'a str,
    pub advisory: &'a str,
    pub name: &'a PackageName,
}

impl FeedOverbroad<'_> {
    pub fn emit(&self, metrics: &Metrics) {
        metrics.operation.incidents.of(IncidentLabel::FeedOverbroad).inc();
        tracing::warn!(
            feed.name = self.feed,
            advisory.id = self.advisory,
            package.name = %self.name,
            "advisory covers every version of an established package"
        );
    }
}

/// A client downloaded a version before an advisory flagged it.
pub struct ClientExposed<'a> {
    pub name: &'a PackageName,
    pub version: &'a str,
    pub advisory: &'a str,
    pub feed: &'a str,
    /// The client: address and tool.
    pub client: &'a str,
    pub times: u64,
}

impl ClientExposed<'_> {
    pub fn emit(&self, metrics: &Metrics) {
        metrics.operation.incidents.of(IncidentLabel::Exposure).inc();
        tracing::warn!(
            package.name = %self.name,
            package.version = self.version,
            advisory.id = self.advisory,
            feed.name = self.feed,
            client = self.client,
            times = self.times,
            "client downloaded a flagged version"
        );
    }
}

/// A client requested a connection to an indicator: a host or address that a feed lists as contacted by malware.
pub struct IndicatorContacted<'a> {
    /// The target: host and port.
    pub place: &'a str,
    pub advisory: &'a str,
    pub feed: &'a str,
    pub package: &'a str,
    /// The client's address, preceded by its user name if it has one.
    pub client: &'a str,
    /// Whether the connection was refused, as the feed's configured action decides.
    pub refused: bool,
}

impl IndicatorContacted<'_> {
    pub fn emit(&self, metrics: &Metrics) {
        metrics.operation.incidents.of(IncidentLabel::Exposure).inc();
        tracing::warn!(
            gateway.target = self.place,
            advisory.id = self.advisory,
            feed.name = self.feed,
            package.name = self.package,
            client = self.client,
            refused = self.refused,
            "client contacted an indicator"
        );
    }
}
