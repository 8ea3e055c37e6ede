//! Stores each feed in the data directory: its last good records, one per line, and its state.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::feed::config::FeedConfig;
use crate::feed::error::FeedError;
use crate::feed::state::FeedState;
use crate::files;

/// The feeds directory in a data directory.
#[derive(Debug, Clone)]
pub struct FeedStore(PathBuf);

/// Exclusive access to the directory of one feed.
pub(crate) struct FeedLock {
    /// The directory of the feed, also used for temporary files.
    pub(crate) directory: PathBuf,
    _lock: File,
}

impl FeedStore {
    /// Returns the store in the data directory `root`.
    pub fn of(root: &Path) -> Self {
        Self(root.join("feeds"))
    }

    /// Returns the state of a feed. Without a state, or with one of another source, returns the state of a feed that was never
    /// read.
    pub(crate) fn state(&self, feed: &FeedConfig) -> FeedState {
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
        files::create_private_folder(&directory).map_err(FeedError::file("create", &directory))?;
        let path = directory.join("lock");
        let lock = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let lock = lock.map_err(FeedError::file("open", &path))?;
        match lock.try_lock() {
            Ok(()) => Ok(FeedLock { directory, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(FeedError::Busy),
            Err(TryLockError::Error(source)) => Err(FeedError::file("lock", path)(source)),
        }
    }

    pub(crate) fn directory(&self, feed: &FeedConfig) -> PathBuf {
        self.0.join(&feed.name)
    }
}

const STATE: &str = "state.json";
pub(crate) const RECORDS: &str = "records.jsonl";

impl FeedLock {
    pub(crate) fn records(&self) -> PathBuf {
        self.directory.join(RECORDS)
    }

    pub(crate) fn replace_records(&self, records: NamedTempFile, state: &FeedState) -> Result<(), FeedError> {
        persist(records, &self.records())?;
        self.write_state(state)
    }

    pub(crate) fn write_state(&self, state: &FeedState) -> Result<(), FeedError> {
        let path = self.directory.join(STATE);
        let text = serde_json::to_vec_pretty(state).map_err(|error| FeedError::file("write", &path)(error.into()))?;
        write_synced(&path, &text)
    }
}

/// Replaces the file at `path` atomically.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), FeedError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = NamedTempFile::new_in(folder).map_err(FeedError::file("create a file in", folder))?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_data()).map_err(FeedError::file("write", path))?;
    persist(file, path)
}

/// Moves a complete temporary file to `path`.
pub(crate) fn persist(file: NamedTempFile, path: &Path) -> Result<(), FeedError> {
    file.persist(path).map(drop).map_err(|error| FeedError::file("rename a temporary file to", path)(error.error))
}
