//! What comes of threat intelligence: feeds that change, fail or say too much, and who got what turned out to be bad. Refuses to
//! decide what follows from it.

use crate::npm::PackageName;
use crate::telemetry::labels::IncidentLabel;
use crate::telemetry::metrics::Metrics;

/// Other records of a feed are in force.
#[derive(Debug, Clone, Copy)]
pub struct FeedChanged<'a> {
    /// The feed.
    pub feed: &'a str,
    /// Records in force.
    pub records: u64,
    /// Documents that cannot be read.
    pub unreadable: u64,
    /// JSON that is no record.
    pub skipped: u64,
}

impl FeedChanged<'_> {
    /// Logs it.
    pub fn emit(&self) {
        tracing::info!(
            feed.name = self.feed,
            feed.records = self.records,
            feed.unreadable = self.unreadable,
            feed.skipped = self.skipped,
            "a feed is in force"
        );
    }
}

/// A feed could not be read, or is not what it should be: the last good records stay in force.
#[derive(Debug, Clone, Copy)]
pub struct FeedFailed<'a> {
    /// The feed.
    pub feed: &'a str,
    /// Why.
    pub detail: &'a str,
    /// Whether there are records in force at all.
    pub has_records: bool,
}

impl FeedFailed<'_> {
    /// Counts and logs it.
    pub fn emit(&self, metrics: &Metrics) {
        metrics.incidents.of(IncidentLabel::FeedFailed).inc();
        if self.has_records {
            tracing::warn!(feed.name = self.feed, error = self.detail, "a feed is stale: its last good records stay in force");
        } else {
            tracing::error!(feed.name = self.feed, error = self.detail, "feed was never read, everything is refused");
        }
    }
}

/// An advisory marks every version of an established package. It is obeyed for the versions it lists.
#[derive(Debug, Clone, Copy)]
pub struct FeedOverbroad<'a> {
    /// The feed.
    pub feed: &'a str,
    /// The advisory.
    pub advisory: &'a str,
    /// The package.
    pub name: &'a PackageName,
}

impl FeedOverbroad<'_> {
    /// Counts and logs it.
    pub fn emit(&self, metrics: &Metrics) {
        metrics.incidents.of(IncidentLabel::FeedOverbroad).inc();
        tracing::warn!(
            feed.name = self.feed,
            advisory.id = self.advisory,
            package.name = %self.name,
            "an advisory marks every version of an established package: an operator must decide about it"
        );
    }
}

/// A client got a version that turned out to be bad.
#[derive(Debug, Clone, Copy)]
pub struct ClientExposed<'a> {
    /// The package.
    pub name: &'a PackageName,
    /// The version.
    pub version: &'a str,
    /// The advisory.
    pub advisory: &'a str,
    /// The feed it stands in.
    pub feed: &'a str,
    /// Who got it: address and tool.
    pub client: &'a str,
    /// How often.
    pub times: u64,
}

impl ClientExposed<'_> {
    /// Counts and logs it.
    pub fn emit(&self, metrics: &Metrics) {
        metrics.incidents.of(IncidentLabel::Exposure).inc();
        tracing::warn!(
            package.name = %self.name,
            package.version = self.version,
            advisory.id = self.advisory,
            feed.name = self.feed,
            client = self.client,
            times = self.times,
            "a client got a version that turned out to be bad"
        );
    }
}

/// Somebody asked the gateway for a place that a feed lists as what malware talks to.
#[derive(Debug, Clone, Copy)]
pub struct IndicatorContacted<'a> {
    /// The place: host and port.
    pub place: &'a str,
    /// The record that lists it.
    pub advisory: &'a str,
    /// The feed it stands in.
    pub feed: &'a str,
    /// The package that the record is about.
    pub package: &'a str,
    /// Who asked: address, behind a name if they have one.
    pub client: &'a str,
    /// Whether they were refused: the feed is followed that far.
    pub refused: bool,
}

impl IndicatorContacted<'_> {
    /// Counts and logs it.
    pub fn emit(&self, metrics: &Metrics) {
        metrics.incidents.of(IncidentLabel::Exposure).inc();
        tracing::warn!(
            gateway.target = self.place,
            advisory.id = self.advisory,
            feed.name = self.feed,
            package.name = self.package,
            client = self.client,
            refused = self.refused,
            "a client asked for a place that malware talks to"
        );
    }
}
