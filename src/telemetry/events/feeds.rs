//! Events of threat feeds: changes, failures, overbroad advisories, and clients exposed to flagged versions or indicators.

use crate::npm::PackageName;
use crate::telemetry::labels::IncidentLabel;
use crate::telemetry::metrics::Metrics;

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
        metrics.count_incident(IncidentLabel::FeedFailed);
        if self.has_records {
            tracing::warn!(feed.name = self.feed, error = self.detail, "feed is stale");
        } else {
            tracing::error!(feed.name = self.feed, error = self.detail, "feed has never been read");
        }
    }
}

events! {
    /// An advisory covers every version of an established package. Only those it lists are refused until an operator decides.
    FeedOverbroad: warn "advisory covers every version of an established package" {
        feed: &'a str => [feed.name = feed],
        advisory: &'a str => [advisory.id = advisory],
        name: &'a PackageName => [package.name = %name],
    } |metrics, _| metrics.count_incident(IncidentLabel::FeedOverbroad);

    /// A client downloaded a version before an advisory flagged it.
    ClientExposed: warn "client downloaded a flagged version" {
        name: &'a PackageName => [package.name = %name],
        version: &'a str => [package.version = version],
        advisory: &'a str => [advisory.id = advisory],
        feed: &'a str => [feed.name = feed],
        /// The client: address and tool.
        client: &'a str => [client],
        times: u64 => [times],
    } |metrics, _| metrics.count_incident(IncidentLabel::Exposure);

    /// A client requested a connection to an indicator: a host or address that a feed lists as contacted by malware.
    IndicatorContacted: warn "client contacted an indicator" {
        /// The target: host and port.
        place: &'a str => [gateway.target = place],
        advisory: &'a str => [advisory.id = advisory],
        feed: &'a str => [feed.name = feed],
        package: &'a str => [package.name = package],
        /// The client's address, preceded by its user name if it has one.
        client: &'a str => [client],
        /// Whether the connection was refused, as the feed's configured action decides.
        refused: bool => [refused],
    } |metrics, _| metrics.count_incident(IncidentLabel::Exposure);
}
