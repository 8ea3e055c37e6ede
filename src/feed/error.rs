//! Errors of feeds.

use std::path::PathBuf;
use std::sync::Arc;

/// A failed feed operation. The last good records stay active.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FeedError {
    #[error("cannot {action} `{}`: {detail}", path.display())]
    File {
        /// The attempted action: `read`, `write`, `rename`, …
        action: &'static str,
        path: PathBuf,
        detail: Arc<str>,
    },
    /// A server failed. The URL is without credentials.
    #[error("cannot fetch `{url}`: {detail}")]
    Fetch { url: Arc<str>, detail: Arc<str> },
    #[error("cannot read {what}: {detail}")]
    Broken { what: Arc<str>, detail: Arc<str> },
    /// Far fewer records than before: the source may be truncated or emptied by mistake.
    #[error("the feed shrank from {before} to {now} records; run `coldframe feed sync --accept-shrunk` to accept it")]
    Shrunk { before: u64, now: u64 },
    /// The feed is empty, which is usually a mistake.
    #[error(
        "the feed has no record of an npm package; add OSV records or a list, use another path, or set `feed-may-be-empty` \
                 if it starts empty on purpose"
    )]
    NoRecords,
    #[error("the feed was not read within {} s", after.as_secs())]
    TooSlow { after: std::time::Duration },
    #[error("{what} is larger than {limit} bytes")]
    TooLarge { what: Arc<str>, limit: u64 },
    /// The signed index is invalid: signature, serial, expiry or hashes.
    #[error("the index of the feed is invalid: {0}")]
    Index(Arc<str>),
    #[error("another coldframe process is syncing the feed")]
    Busy,
}

impl FeedError {
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::File { action, path: path.into(), detail: source.to_string().into() }
    }

    pub(crate) fn broken(what: impl Into<Arc<str>>, detail: impl std::fmt::Display) -> Self {
        Self::Broken { what: what.into(), detail: detail.to_string().into() }
    }
}
