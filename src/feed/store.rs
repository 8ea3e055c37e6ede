//! Stores each feed in the data directory: its last good records, one per line, and its state.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::feed::FeedError;
use crate::feed::config::FeedConfig;
use crate::feed::import::FeedCounts;
use crate::units::timestamp;

/// The feeds directory in a data directory.
#[derive(Debug, Clone)]
pub struct FeedStore(PathBuf);

/// State of a feed, shown by `coldframe feed status` and used by the next sync.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FeedState {
    /// The source of the records. A state with another source is ignored.
    pub source: String,
    /// When the source was last synced successfully.
    pub synced: Option<Timestamp>,
    /// When the active records were imported.
    pub changed: Option<Timestamp>,
    /// The failure since then, if any.
    pub failure: Option<FeedFailure>,
    /// Incremented with every change of the records.
    pub generation: u64,
    /// Counts of the active records.
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
    /// The error text.
    pub why: String,
}

impl FeedState {
    /// Checks whether the feed has active records.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.changed.is_some()
    }

    /// Returns why the feed is stale. Returns `None` if it is fresh.
    #[must_use]
    pub fn staleness(&self, expiry: Duration, now: Timestamp) -> Option<String> {
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

/// Exclusive access to the directory of one feed.
pub(crate) struct FeedLock {
    directory: PathBuf,
    _lock: File,
}

impl FeedStore {
    /// Returns the store in the data directory `root`.
    #[must_use]
    pub fn of(root: &Path) -> Self {
        Self(root.join("feeds"))
    }

    /// Returns the state of a feed. Without a state, or with one of another source, returns the state of a feed that was never
    /// read.
    #[must_use]
    pub fn state(&self, feed: &FeedConfig) -> FeedState {
        let text = fs::read(self.directory(feed).join(STATE)).unwrap_or_default();
        let state: FeedState = serde_json::from_slice(&text).unwrap_or_default();
        if state.source == feed.source.to_string() {
            state
        } else {
            FeedState { source: feed.source.to_string(), ..FeedState::default() }
        }
    }

    /// Locks a feed for changes. Fails if another process holds the lock.
    pub(crate) fn lock(&self, feed: &FeedConfig) -> Result<FeedLock, FeedError> {
        let directory = self.directory(feed);
        make_private(&directory)?;
        let path = directory.join("lock");
        let lock = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let lock = lock.map_err(FeedError::file("open", &path))?;
        match lock.try_lock() {
            Ok(()) => Ok(FeedLock { directory, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(FeedError::Busy),
            Err(TryLockError::Error(source)) => Err(FeedError::file("lock", path)(source)),
        }
    }

    /// Returns the path of a feed's records.
    pub(crate) fn records(&self, feed: &FeedConfig) -> PathBuf {
        self.directory(feed).join(RECORDS)
    }

    /// Returns the directory of a feed.
    pub(crate) fn directory(&self, feed: &FeedConfig) -> PathBuf {
        self.0.join(&feed.name)
    }
}

const STATE: &str = "state.json";
const RECORDS: &str = "records.jsonl";

impl FeedLock {
    /// Returns the directory of the feed, also used for temporary files.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the path of the records.
    pub(crate) fn records(&self) -> PathBuf {
        self.directory.join(RECORDS)
    }

    /// Replaces the records.
    pub(crate) fn replace_records(&self, records: NamedTempFile, state: &FeedState) -> Result<(), FeedError> {
        let path = self.records();
        records.persist(&path).map_err(|error| FeedError::file("rename a temporary file to", path)(error.error))?;
        self.write_state(state)
    }

    /// Writes the state.
    pub(crate) fn write_state(&self, state: &FeedState) -> Result<(), FeedError> {
        let path = self.directory.join(STATE);
        let mut file = NamedTempFile::new_in(&self.directory).map_err(FeedError::file("create a file in", &self.directory))?;
        let text = serde_json::to_vec_pretty(state).map_err(|error| FeedError::file("write", &path)(error.into()))?;
        file.write_all(&text).and_then(|()| file.as_file().sync_data()).map_err(FeedError::file("write", &path))?;
        file.persist(&path).map(drop).map_err(|error| FeedError::file("rename a temporary file to", path)(error.error))
    }
}

fn make_private(path: &Path) -> Result<(), FeedError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(FeedError::file("create", path))
}
