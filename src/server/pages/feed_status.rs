//! What the pages ask about feeds.

use jiff::Timestamp;

/// A feed, as it is now.
pub(crate) struct FeedStatus {
    pub(crate) name: String,
    pub(crate) trust: &'static str,
    pub(crate) records: u64,
    /// When its source was last read or confirmed.
    pub(crate) synced: Option<Timestamp>,
    pub(crate) changed: Option<Timestamp>,
    /// Why it is stale; `None` if it is fresh.
    pub(crate) staleness: Option<String>,
}

/// Where the pages learn about feeds.
pub(crate) trait FeedStatuses: Send + Sync {
    fn statuses(&self) -> Vec<FeedStatus>;
}
