//! A folder for the occasion: gone with whoever made it. A process that was killed leaves its own behind, and the next one sweeps
//! it. Refuses to know what lies inside.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// What the names of such folders begin with.
const PREFIX: &str = "coldframe-run-";

/// How often a folder is made anew that another process swept before it was locked.
const TRIES: usize = 8;

/// The folder. While it lives, the system holds a lock in it that goes with the process, however that ends.
#[derive(Debug)]
pub struct RunTempDir {
    folder: TempDir,
    _lock: File,
}

impl RunTempDir {
    /// Sweeps what killed processes left, and makes a folder that is this user's alone.
    ///
    /// # Errors
    /// When there is no place for it.
    pub fn make() -> io::Result<Self> {
        for _ in 0..TRIES {
            let folder = tempfile::Builder::new().prefix(PREFIX).tempdir()?;
            if let Some(beside) = folder.path().parent() {
                sweep(beside, folder.path());
            }
            if let Some(lock) = lock(folder.path())? {
                return Ok(Self { folder, _lock: lock });
            }
        }
        Err(io::Error::other("other processes sweep every temporary folder that is made"))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

fn lock_of(folder: &Path) -> PathBuf {
    folder.join("alive")
}

/// Takes the lock of a new folder; `None` where a sweeper was faster.
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

/// Removes the folders of processes that are gone. What cannot be removed is another user's.
fn sweep(beside: &Path, own: &Path) {
    let Ok(entries) = fs::read_dir(beside) else { return };
    for entry in entries.flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if path == own || !is_folder || !name.to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let alive = OpenOptions::new().write(true).open(lock_of(&path));
        match alive {
            // Its maker has not come as far, and makes another if this one goes, or was killed before it did.
            Err(error) if error.kind() == io::ErrorKind::NotFound => drop(fs::remove_dir(&path)),
            Err(_) => {}
            Ok(file) => {
                if file.try_lock().is_ok() {
                    // The rest stays for the next sweep.
                    let _ = fs::remove_dir_all(&path);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder as `make` leaves it when its process is killed, or one that lives.
    fn folder(beside: &Path, name: &str) -> (PathBuf, Option<File>) {
        let path = beside.join(name);
        fs::create_dir(&path).unwrap();
        let file = lock(&path).unwrap();
        fs::create_dir(path.join("data")).unwrap();
        fs::write(path.join("data/ledger"), b"rows").unwrap();
        (path, file)
    }

    #[test]
    fn what_a_killed_process_left_is_swept_and_what_lives_stays() {
        let home = tempfile::tempdir().unwrap();
        let (dead, file) = folder(home.path(), "coldframe-run-dead");
        drop(file);
        let (alive, _file) = folder(home.path(), "coldframe-run-alive");
        let (own, other) = (home.path().join("coldframe-run-own"), home.path().join("somebody-elses"));
        fs::create_dir(&own).unwrap();
        fs::create_dir(&other).unwrap();
        fs::create_dir(home.path().join("coldframe-run-empty")).unwrap();
        fs::create_dir_all(home.path().join("coldframe-run-strange/inside")).unwrap();
        sweep(home.path(), &own);
        assert!(!dead.exists() && !home.path().join("coldframe-run-empty").exists());
        assert!(alive.join("data/ledger").exists() && own.exists() && other.exists());
        assert!(home.path().join("coldframe-run-strange/inside").exists(), "nothing says that it was ours");
    }

    #[test]
    fn a_folder_that_was_swept_before_it_was_locked_is_made_anew() {
        let home = tempfile::tempdir().unwrap();
        assert!(lock(&home.path().join("gone")).unwrap().is_none());
        let (path, file) = folder(home.path(), "coldframe-run-taken");
        assert!(file.is_some() && lock(&path).unwrap().is_none());
    }

    #[test]
    fn it_is_gone_with_its_maker() {
        let scratch = RunTempDir::make().unwrap();
        let path = scratch.path().to_owned();
        assert!(path.exists());
        drop(scratch);
        assert!(!path.exists());
    }
}
