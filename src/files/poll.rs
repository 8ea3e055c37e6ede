//! Whether files changed since they were read. Refuses to read them.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// How often files that are followed are looked at: a call to `stat` each, which sees what happens on every file system, through
/// links and mounted volumes too.
pub const EVERY: Duration = Duration::from_millis(250);

/// How many looks in a row files may differ from the look before until they are read all the same: five seconds.
const RESTLESS: u32 = 20;

/// What files look like: when each was changed, and its length.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileStamps(Vec<(PathBuf, Option<(SystemTime, u64)>)>);

impl FileStamps {
    /// What those at `paths` look like now.
    pub fn at<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Self {
        let look = |path: &PathBuf| {
            let metadata = fs::metadata(path).ok();
            (path.clone(), metadata.and_then(|metadata| Some((metadata.modified().ok()?, metadata.len()))))
        };
        Self(paths.into_iter().map(look).collect())
    }

    /// Whether any of them is not there.
    #[must_use]
    pub fn lacks_any(&self) -> bool {
        self.0.iter().any(|(_, look)| look.is_none())
    }
}

/// Files that are read again when they have changed and stand still. Whoever overwrites a file empties it first, and one that holds
/// nothing is not always broken: no rule is a policy, and nobody a list of users.
#[derive(Debug, Clone)]
pub struct FilePoller {
    taken: FileStamps,
    seen: FileStamps,
    restless: u32,
}

impl FilePoller {
    /// Files that are read after they looked like this.
    #[must_use]
    pub fn from(look: FileStamps) -> Self {
        Self { seen: look.clone(), taken: look, restless: 0 }
    }

    /// Whether they are to be read, since they look like `now`, as at the last look, and not as when they were read.
    pub fn are_due(&mut self, now: FileStamps) -> bool {
        if now == self.taken {
            self.seen = now;
            self.restless = 0;
            return false;
        }
        if now != self.seen && self.restless < RESTLESS {
            self.restless += 1;
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
    fn what_changed_is_due_once_when_it_stands_still_and_what_never_does_at_last() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let write = |text: &str| {
            fs::write(&path, text).unwrap();
            FileStamps::at([&path])
        };
        let mut followed = FilePoller::from(write("one"));
        assert!(!followed.are_due(FileStamps::at([&path])));
        let (emptied, written) = (write(""), write("other"));
        assert!(!followed.are_due(emptied));
        assert_eq!([(); 3].map(|()| followed.are_due(written.clone())), [false, true, false]);
        fs::remove_file(&path).unwrap();
        let gone = FileStamps::at([&path]);
        assert!(gone.lacks_any() && !written.lacks_any());
        assert_eq!([(); 3].map(|()| followed.are_due(gone.clone())), [false, true, false]);
        let due: Vec<_> = (0..=RESTLESS as usize).map(|longer| followed.are_due(write(&"x".repeat(longer)))).collect();
        assert!(due.last() == Some(&true) && due.iter().filter(|due| **due).count() == 1, "{due:?}");
        // A change that is taken back was none.
        let mut followed = FilePoller::from(gone.clone());
        assert_eq!([written, gone.clone(), gone].map(|look| followed.are_due(look)), [false; 3]);
    }
}
