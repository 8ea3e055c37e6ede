//! The state of a feed between syncs: what was read when, how many records it has, and the last failure.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::units::timestamp;

/// State of a feed, shown by `coldframe feed status` and used by the next sync.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FeedState {
    /// The source of the records. A state with another source is ignored.
    pub source: String,
    /// When the source was last synced successfully.
    pub synced: Option<Timestamp>,
    pub changed: Option<Timestamp>,
    /// The failure since then, if any.
    pub failure: Option<FeedFailure>,
    /// Incremented with every change of the records.
    pub generation: u64,
    pub tally: FeedCounts,
    /// HTTP validators of the source.
    pub etag: Option<String>,
    pub last_modified: Option<String>,
    /// For a path: a fingerprint of its files when they were read.
    pub stamp: Option<String>,
    /// For a signed index: its serial, which must not decrease.
    pub serial: Option<u64>,
    /// For a signed index: when it expires.
    pub expires: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeedFailure {
    pub at: Timestamp,
    pub why: String,
}

impl FeedState {
    pub(crate) fn is_good(&self) -> bool {
        self.changed.is_some()
    }

    /// Returns why the feed is stale. Returns `None` if it is fresh.
    pub(crate) fn staleness(&self, expiry: Duration, now: Timestamp) -> Option<String> {
        let Some(synced) = self.synced else {
            let why = self.failure.as_ref().map_or("no sync has finished yet", |failure| &failure.why);
            return Some(format!("it was never read: {why}"));
        };
        let last_good = || format!("last good {}", timestamp::format_utc(synced));
        if let Some(failure) = &self.failure {
            return Some(format!("{} ({})", failure.why, last_good()));
        }
        if self.expires.is_some_and(|expires| expires <= now) {
            return Some(format!("its index has expired ({})", last_good()));
        }
        (timestamp::saturating_add(synced, expiry) <= now)
            .then(|| format!("not confirmed for {} ({})", timestamp::format_duration(expiry), last_good()))
    }
}

/// Record counts of a feed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FeedCounts {
    pub records: u64,
    pub withdrawn: u64,
    /// Records about other ecosystems.
    pub foreign: u64,
    /// JSON documents that are not records.
    pub skipped: u64,
    /// Unreadable documents and lines.
    pub unreadable: u64,
    /// Events with an unreadable version. They count as the worse case.
    pub unreadable_events: u64,
    /// The first unreadable document, with the reason.
    pub trouble: Option<String>,
    /// The latest `modified` of all records.
    pub latest: Option<Timestamp>,
    /// The records with this `modified`, at most 1,000.
    pub latest_ids: Vec<String>,
}

impl FeedCounts {
    /// Returns the number of records, including withdrawn ones. A feed must not lose half of them at once.
    pub(crate) fn known(&self) -> u64 {
        self.records + self.withdrawn
    }
}
