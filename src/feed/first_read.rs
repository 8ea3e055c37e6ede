//! Remembers when each record that covers every version of a package was first read. Stored next to the records and kept across
//! restarts and downloads. A record that is removed and comes back keeps its instant.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::feed::error::FeedError;
use crate::feed::store::write_synced;

/// Maximum number of records in the file. A feed can have as many records.
const MAX_READINGS: usize = 3_000_000;

pub(crate) struct Readings {
    /// By record id: the instant, and whether the record was read in this pass.
    first: HashMap<Box<str>, (Timestamp, bool)>,
    now: Timestamp,
}

impl Readings {
    /// Loads the file in `directory`. Records that it does not contain count as first read at `now`. Fails if the file exists but
    /// cannot be read.
    pub(crate) fn load(directory: &Path, now: Timestamp) -> Result<Self, FeedError> {
        let path = path(directory);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self { first: HashMap::new(), now }),
            Err(error) => return Err(FeedError::file("read", path)(error)),
        };
        let read: HashMap<Box<str>, Timestamp> =
            serde_json::from_slice(&text).map_err(|error| FeedError::file("read", path)(error.into()))?;
        Ok(Self { first: read.into_iter().map(|(id, at)| (id, (at, false))).collect(), now })
    }

    /// Returns when the record was first read, and records `now` if it is new or earlier (the clock was set back).
    pub(crate) fn first(&mut self, id: &str) -> Timestamp {
        let now = self.now;
        if let Some((at, read)) = self.first.get_mut(id) {
            (*at, *read) = ((*at).min(now), true);
            return *at;
        }
        self.first.insert(id.into(), (now, true));
        now
    }

    /// Writes the file.
    pub(crate) fn save(self, directory: &Path) -> Result<(), FeedError> {
        let path = path(directory);
        let full = self.first.len() > MAX_READINGS;
        let kept = self.first.iter().filter(|(_, (_, read))| *read || !full).map(|(id, (at, _))| (&**id, *at));
        let kept: BTreeMap<&str, Timestamp> = kept.collect();
        let text = serde_json::to_vec(&kept).map_err(|error| FeedError::file("write", &path)(error.into()))?;
        write_synced(&path, &text)
    }
}

fn path(directory: &Path) -> PathBuf {
    directory.join("first-read.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_read_instant_is_kept() {
        let home = tempfile::tempdir().unwrap();
        let at = |second| Timestamp::from_second(second).unwrap();
        let read = |now, ids: &[&str]| {
            let mut readings = Readings::load(home.path(), at(now)).unwrap();
            let first: Vec<_> = ids.iter().map(|id| readings.first(id).as_second()).collect();
            readings.save(home.path()).unwrap();
            first
        };
        assert_eq!(read(100, &["MAL-1"]), [100]);
        assert_eq!(read(200, &["MAL-2"]), [200], "MAL-1 is not in the feed at this point");
        assert_eq!(read(300, &["MAL-1", "MAL-2"]), [100, 200]);
        assert_eq!(read(50, &["MAL-2"]), [50], "the clock was ahead");
        std::fs::write(home.path().join("first-read.json"), "{").unwrap();
        assert!(Readings::load(home.path(), at(400)).is_err(), "an unreadable file is an error");
    }
}
