//! Detects whether files changed since they were last read.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// Interval between polls of watched files. `stat` works on every file system, through links and on mounted volumes.
pub const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Polls in a row after which changing files are read although they still change: five seconds.
const MAX_UNSTABLE_POLLS: u32 = 20;

/// Modification time and length of files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileStamps(Vec<(PathBuf, Option<(SystemTime, u64)>)>);

impl FileStamps {
    pub fn at<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Self {
        let look = |path: &PathBuf| {
            let metadata = fs::metadata(path).ok();
            (path.clone(), metadata.and_then(|metadata| Some((metadata.modified().ok()?, metadata.len()))))
        };
        Self(paths.into_iter().map(look).collect())
    }

    pub fn any_missing(&self) -> bool {
        self.0.iter().any(|(_, look)| look.is_none())
    }
}

/// Decides when watched files must be read again: after they changed and did not change between two polls. Overwriting a file
/// empties it first, and an empty file can be valid: a policy without rules, a user list without users.
#[derive(Debug, Clone)]
pub struct FilePoller {
    read: FileStamps,
    seen: FileStamps,
    unstable_polls: u32,
}

impl FilePoller {
    /// Returns a poller for files that were read with these stamps.
    pub fn from(look: FileStamps) -> Self {
        Self { seen: look.clone(), read: look, unstable_polls: 0 }
    }

    /// Checks whether the files must be read: `now` differs from the stamps of the last read and equals those of the last poll.
    pub fn changed(&mut self, now: FileStamps) -> bool {
        if now == self.read {
            self.seen = now;
            self.unstable_polls = 0;
            return false;
        }
        if now != self.seen && self.unstable_polls < MAX_UNSTABLE_POLLS {
            self.unstable_polls += 1;
            self.seen = now;
            return false;
        }
        *self = Self::from(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_files_are_read_once_stable_or_after_the_poll_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let write = |text: &str| {
            fs::write(&path, text).unwrap();
            FileStamps::at([&path])
        };
        let mut poller = FilePoller::from(write("one"));
        assert!(!poller.changed(FileStamps::at([&path])));
        let (emptied, written) = (write(""), write("other"));
        assert!(!poller.changed(emptied));
        assert_eq!([(); 3].map(|()| poller.changed(written.clone())), [false, true, false]);
        fs::remove_file(&path).unwrap();
        let gone = FileStamps::at([&path]);
        assert!(gone.any_missing() && !written.any_missing());
        assert_eq!([(); 3].map(|()| poller.changed(gone.clone())), [false, true, false]);
        let due: Vec<_> = (0..=MAX_UNSTABLE_POLLS as usize).map(|longer| poller.changed(write(&"x".repeat(longer)))).collect();
        assert!(due.last() == Some(&true) && due.iter().filter(|due| **due).count() == 1, "{due:?}");
        // A change that is reverted before the second poll does not count.
        let mut poller = FilePoller::from(gone.clone());
        assert_eq!([written, gone.clone(), gone].map(|look| poller.changed(look)), [false; 3]);
    }
}
