//! A temporary directory that is deleted with its owner. A killed process leaves its own behind; the next one deletes it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

const PREFIX: &str = "coldframe-run-";

/// How often to retry if another process deletes a new directory before it is locked.
const TRIES: usize = 8;

/// A temporary directory. The process holds a file lock in it, which the operating system releases however the process ends.
#[derive(Debug)]
pub(crate) struct RunTempDir {
    folder: TempDir,
    _lock: File,
}

impl RunTempDir {
    /// Deletes the directories of killed processes, and creates one that only this user can access.
    pub(crate) fn make() -> io::Result<Self> {
        for _ in 0..TRIES {
            let folder = tempfile::Builder::new().prefix(PREFIX).tempdir()?;
            // Locked before the folder of temporary files is searched, which may be long: other processes delete unlocked ones.
            let Some(lock) = lock(folder.path())? else { continue };
            if let Some(parent) = folder.path().parent() {
                remove_stale(parent, folder.path());
            }
            return Ok(Self { folder, _lock: lock });
        }
        Err(io::Error::other("other processes delete every new temporary directory"))
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

fn lock_of(folder: &Path) -> PathBuf {
    folder.join("alive")
}

/// Locks a new directory. Returns `None` if another process deleted it first.
fn lock(folder: &Path) -> io::Result<Option<File>> {
    let path = lock_of(folder);
    let file = match OpenOptions::new().write(true).create(true).truncate(false).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    match file.try_lock() {
        Ok(()) => Ok(path.exists().then_some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Deletes the directories of processes that are gone. Directories of other users cannot be deleted and are skipped.
fn remove_stale(parent: &Path, own: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if path == own || !is_folder || !name.to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let alive = OpenOptions::new().write(true).open(lock_of(&path));
        match alive {
            // The owner has not locked it yet, or was killed before. An owner that finds its directory deleted creates another.
            Err(error) if error.kind() == io::ErrorKind::NotFound => drop(fs::remove_dir(&path)),
            Err(_) => {}
            Ok(file) => {
                if file.try_lock().is_ok() {
                    // What remains is deleted by the next process.
                    let _ = fs::remove_dir_all(&path);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Creates a directory like `make`. Dropping the file simulates a killed process.
    fn folder(parent: &Path, name: &str) -> (PathBuf, Option<File>) {
        let path = parent.join(name);
        fs::create_dir(&path).unwrap();
        let file = lock(&path).unwrap();
        fs::create_dir(path.join("data")).unwrap();
        fs::write(path.join("data/ledger"), b"rows").unwrap();
        (path, file)
    }

    #[test]
    fn directories_of_killed_processes_are_deleted_and_live_ones_stay() {
        let home = tempfile::tempdir().unwrap();
        let (dead, file) = folder(home.path(), "coldframe-run-dead");
        drop(file);
        let (alive, _file) = folder(home.path(), "coldframe-run-alive");
        let (own, other) = (home.path().join("coldframe-run-own"), home.path().join("another-program"));
        fs::create_dir(&own).unwrap();
        fs::create_dir(&other).unwrap();
        fs::create_dir(home.path().join("coldframe-run-empty")).unwrap();
        fs::create_dir_all(home.path().join("coldframe-run-strange/inside")).unwrap();
        remove_stale(home.path(), &own);
        assert!(!dead.exists() && !home.path().join("coldframe-run-empty").exists());
        assert!(alive.join("data/ledger").exists() && own.exists() && other.exists());
        assert!(
            home.path().join("coldframe-run-strange/inside").exists(),
            "a directory without a lock file is not deleted with contents"
        );
    }

    #[test]
    fn directory_deleted_before_locking_is_detected() {
        let home = tempfile::tempdir().unwrap();
        assert!(lock(&home.path().join("gone")).unwrap().is_none());
        let (path, file) = folder(home.path(), "coldframe-run-taken");
        assert!(file.is_some() && lock(&path).unwrap().is_none());
    }

    #[test]
    fn directory_is_deleted_on_drop() {
        let scratch = RunTempDir::make().unwrap();
        let path = scratch.path().to_owned();
        assert!(path.exists());
        drop(scratch);
        assert!(!path.exists());
    }

    #[test]
    fn runs_that_start_together_each_get_a_directory() {
        let start = || (0..50).all(|_| RunTempDir::make().is_ok());
        let threads: Vec<_> = (0..8).map(|_| std::thread::spawn(start)).collect();
        assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
    }
}
