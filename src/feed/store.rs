//! What is kept of each feed in the data directory: its last good records, one a line, and how it stands. Refuses to know where
//! they come from.

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

/// The folder of the feeds in a data directory.
#[derive(Debug, Clone)]
pub struct FeedStore(PathBuf);

/// How a feed stands: what `coldframe feed status` shows and what the next look builds on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FeedState {
    /// The source the records came from: those of another are not this feed's.
    pub source: String,
    /// When the source was last found good.
    pub synced: Option<Timestamp>,
    /// When the records in force came.
    pub changed: Option<Timestamp>,
    /// What went wrong since then, if something did.
    pub failure: Option<FeedFailure>,
    /// Counts every change of the records.
    pub generation: u64,
    /// What the records in force are, in numbers.
    pub tally: FeedCounts,
    /// The source's validators, and what tells a directory's content.
    pub etag: Option<String>,
    /// See `etag`.
    pub last_modified: Option<String>,
    /// Of a path: what it was when it was read.
    pub stamp: Option<String>,
    /// Of an index: its serial, which never goes back.
    pub serial: Option<u64>,
    /// Of an index: until when it may be used.
    pub expires: Option<Timestamp>,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeedFailure {
    /// When.
    pub at: Timestamp,
    /// In words.
    pub why: String,
}

impl FeedState {
    /// Whether there are records in force at all.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.changed.is_some()
    }

    /// Why what is in force is not fresh, if it is not.
    #[must_use]
    pub fn staleness(&self, expiry: Duration, now: Timestamp) -> Option<String> {
        let Some(synced) = self.synced else {
            let why = self.failure.as_ref().map_or("it was not read yet", |failure| &failure.why);
            return Some(format!("it was never read: {why}"));
        };
        let told = || format!("last good {}", timestamp::tell(synced));
        if let Some(failure) = &self.failure {
            return Some(format!("{} ({})", failure.why, told()));
        }
        if self.expires.is_some_and(|expires| expires <= now) {
            return Some(format!("its index has expired ({})", told()));
        }
        (timestamp::after(synced, expiry) <= now)
            .then(|| format!("not confirmed for {} ({})", timestamp::tell_age(expiry), told()))
    }
}

/// The place of one feed, this process's own while it is held.
pub(crate) struct FeedLock {
    directory: PathBuf,
    _lock: File,
}

impl FeedStore {
    /// The feeds of the data directory `root`.
    #[must_use]
    pub fn of(root: &Path) -> Self {
        Self(root.join("feeds"))
    }

    /// How a feed stands. A state of another source, or none, is that of a feed that was never read.
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

    /// Takes the place of a feed, for one who changes it.
    pub(crate) fn take(&self, feed: &FeedConfig) -> Result<FeedLock, FeedError> {
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

    /// Where the records of a feed lie.
    pub(crate) fn records(&self, feed: &FeedConfig) -> PathBuf {
        self.directory(feed).join(RECORDS)
    }

    /// The folder of a feed.
    pub(crate) fn directory(&self, feed: &FeedConfig) -> PathBuf {
        self.0.join(&feed.name)
    }
}

const STATE: &str = "state.json";
const RECORDS: &str = "records.jsonl";

impl FeedLock {
    /// Where things may lie that are not finished.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the records lie.
    pub(crate) fn records(&self) -> PathBuf {
        self.directory.join(RECORDS)
    }

    /// Puts new records in the place of the old.
    pub(crate) fn put(&self, records: NamedTempFile, state: &FeedState) -> Result<(), FeedError> {
        let path = self.records();
        records.persist(&path).map_err(|refused| FeedError::file("rename a finished file to", path)(refused.error))?;
        self.note(state)
    }

    /// Writes down how the feed stands.
    pub(crate) fn note(&self, state: &FeedState) -> Result<(), FeedError> {
        let path = self.directory.join(STATE);
        let mut file = NamedTempFile::new_in(&self.directory).map_err(FeedError::file("create a file in", &self.directory))?;
        let text = serde_json::to_vec_pretty(state).map_err(|wrong| FeedError::file("write", &path)(wrong.into()))?;
        file.write_all(&text).and_then(|()| file.as_file().sync_data()).map_err(FeedError::file("write", &path))?;
        file.persist(&path).map(drop).map_err(|refused| FeedError::file("rename a finished file to", path)(refused.error))
    }
}

fn make_private(path: &Path) -> Result<(), FeedError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(FeedError::file("create", path))
}
