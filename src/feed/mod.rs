//! Threat intelligence from outside. OSV records and plain lists become [`Advisories`](crate::policy::Advisories);
//! the last good ones are kept. Refuses to judge, and to decide when it is time to look again.

pub mod config;
mod export;
mod first_read;
pub(crate) mod format;
mod import;
mod osv;
pub(crate) mod source;
mod store;
mod sync;

use std::path::PathBuf;
use std::sync::Arc;

pub use config::{FeedConfig, FeedSource, PublicKey};
pub use export::{ExportSummary, FeedSigner, export};
pub use import::FeedCounts;
pub use osv::{OsvAffected, OsvEvent, OsvPackage, OsvRange, OsvRecord};
pub use store::{FeedFailure, FeedState, FeedStore};
pub use sync::{LoadedFeed, SyncOutcome, load, read_path, sync};

/// What could not be done with a feed. The last good records stay in force.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FeedError {
    /// The file system refused.
    #[error("cannot {action} `{}`: {detail}", path.display())]
    File {
        /// What was tried: `read`, `write`, `rename`, …
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        detail: Arc<str>,
    },
    /// A server did not do its part. The address is without credentials.
    #[error("cannot fetch `{url}`: {detail}")]
    Fetch {
        /// What was asked for.
        url: Arc<str>,
        /// What went wrong.
        detail: Arc<str>,
    },
    /// What came is no feed.
    #[error("{what} cannot be read: {detail}")]
    Broken {
        /// What was read.
        what: Arc<str>,
        /// What is wrong with it.
        detail: Arc<str>,
    },
    /// Far fewer records than before: truncated, or emptied by mistake.
    #[error("it shrank from {before} records to {now}; `coldframe feed sync --accept-shrunk` takes it all the same")]
    Shrunk {
        /// Records in force.
        before: u64,
        /// Records now.
        now: u64,
    },
    /// There is nothing in it, which is more often a mistake than meant.
    #[error(
        "there is no record of an npm package in it: put OSV records or a list into it, name another path, or set \
         `feed-may-be-empty` if it begins empty on purpose"
    )]
    NoRecords,
    /// It took longer than a look may take in all.
    #[error("it was not read within {} s", after.as_secs())]
    TooSlow {
        /// How long it may take.
        after: std::time::Duration,
    },
    /// More than is taken.
    #[error("{what} is larger than {limit} bytes")]
    TooLarge {
        /// What was read.
        what: Arc<str>,
        /// The limit.
        limit: u64,
    },
    /// Its index does not hold: signature, serial, expiry or hashes.
    #[error("its index does not hold: {0}")]
    Index(Arc<str>),
    /// Another process is at it.
    #[error("another coldframe is syncing it")]
    Busy,
}

impl FeedError {
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::File { action, path: path.into(), detail: source.to_string().into() }
    }

    fn broken(what: impl Into<Arc<str>>, detail: impl std::fmt::Display) -> Self {
        Self::Broken { what: what.into(), detail: detail.to_string().into() }
    }
}
