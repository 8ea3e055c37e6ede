//! The data directory: creation, exclusive ownership by one process, and cleanup of temporary files.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::files;
use crate::store::error::StoreError;

/// A data directory owned by this process. Ownership lasts until this value and all stores opened in it are dropped.
///
/// It is an operating system lock, so a killed process does not leave a stale lock.
#[derive(Debug)]
pub struct DataDir {
    pub(crate) root: PathBuf,
    /// For a store that may outlive this value.
    pub(super) ownership: DataDirLock,
}

/// The line in the lock file that marks the owner as a server.
const SERVER: &str = "server";

pub(crate) type DataDirLock = Arc<File>;

impl DataDir {
    /// Creates the directory if missing, readable only by its owner, locks it, and removes temporary files of a killed process.
    /// Returns [`StoreError::Locked`] if another process owns it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        create(path)?;
        let opened = Self { ownership: Arc::new(lock(path)?), root: path.to_owned() };
        create(&Self::blobs_in(path))?;
        create(&opened.temporary())?;
        sweep(&opened.temporary())?;
        Ok(opened)
    }

    /// Checks whether another process owns the directory at `path`, by a shared lock that is released at once. Creates nothing.
    pub fn is_owned(path: &Path) -> bool {
        let Ok(file) = File::open(path.join("lock")) else { return false };
        matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
    }

    /// Checks whether this process can determine the owner of the directory at `path`. A missing directory has no owner.
    pub fn is_readable(path: &Path) -> bool {
        !File::open(path.join("lock")).is_err_and(|error| error.kind() != io::ErrorKind::NotFound)
    }

    /// Marks this process, which must own the directory at `path`, as a server.
    pub fn mark_server(path: &Path) -> io::Result<()> {
        fs::write(path.join("lock"), format!("{}\n{SERVER}\n", std::process::id()))
    }

    /// Checks whether the process that owns the directory at `path` is marked as a server.
    pub fn is_server(path: &Path) -> bool {
        Self::is_owned(path) && fs::read_to_string(path.join("lock")).is_ok_and(|text| text.lines().any(|line| line == SERVER))
    }

    /// Returns the path of the ledger in the data directory `root`. Does not require ownership.
    pub(crate) fn ledger_in(root: &Path) -> PathBuf {
        root.join("ledger.sqlite")
    }

    /// Returns the path of the blobs in the data directory `root`. Does not require ownership.
    pub(crate) fn blobs_in(root: &Path) -> PathBuf {
        root.join("blobs")
    }

    /// Returns the folder of unverified blobs. It is on the same file system as the blobs, so that a rename is atomic.
    pub(crate) fn temporary(&self) -> PathBuf {
        self.root.join("tmp")
    }
}

fn create(folder: &Path) -> Result<(), StoreError> {
    files::create_private_folder(folder).map_err(StoreError::file("create", folder))
}

fn lock(root: &Path) -> Result<File, StoreError> {
    let path = root.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(StoreError::file("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(StoreError::Locked { path: root.to_owned() }),
        Err(TryLockError::Error(source)) => return Err(StoreError::file("lock", path)(source)),
    }
    // The process id is informational, so a full disk must not prevent the start.
    let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

fn sweep(temporary: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(temporary).map_err(StoreError::file("list", temporary))? {
        let path = entry.map_err(StoreError::file("list", temporary))?.path();
        remove_if_present(&path).map_err(StoreError::file("remove", path))?;
    }
    Ok(())
}

/// Removes a file. Returns whether it existed.
pub(crate) fn remove_if_present(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        removed => removed.map(|()| true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_owner_is_rejected_until_the_first_ends() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("deep/data");
        let first = DataDir::open(&root).unwrap();
        let refused = DataDir::open(&root).unwrap_err();
        assert_eq!(refused.to_string(), format!("`{}` is in use by another Coldframe", root.display()));
        assert_eq!(fs::read_to_string(root.join("lock")).unwrap(), format!("{}\n", std::process::id()));
        assert!(DataDir::is_owned(&root) && !DataDir::is_server(&root));
        DataDir::mark_server(&root).unwrap();
        assert!(DataDir::is_server(&root) && matches!(DataDir::open(&root), Err(StoreError::Locked { .. })));
        drop(first);
        assert!(!DataDir::is_owned(&root) && !DataDir::is_owned(&home.path().join("missing")));
        DataDir::open(&root).unwrap();
        assert!(!DataDir::is_server(&root));
    }

    #[test]
    fn store_keeps_the_directory_locked() {
        let home = tempfile::tempdir().unwrap();
        let blobs = crate::store::blobs::disk::DiskBlobs::open(&DataDir::open(home.path()).unwrap(), 1 << 20).unwrap();
        assert!(matches!(DataDir::open(home.path()), Err(StoreError::Locked { .. })));
        drop(blobs);
        DataDir::open(home.path()).unwrap();
    }

    #[test]
    fn temporary_files_of_a_killed_process_are_removed() {
        let home = tempfile::tempdir().unwrap();
        let temporary = DataDir::open(home.path()).unwrap().temporary();
        fs::write(temporary.join("half"), b"half a tarball").unwrap();
        drop(DataDir::open(home.path()).unwrap());
        assert_eq!(fs::read_dir(temporary).unwrap().count(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn directory_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("data");
        let _open = DataDir::open(&root).unwrap();
        assert_eq!(fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn file_instead_of_directory_is_an_error() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("data");
        fs::write(&root, b"").unwrap();
        let error = DataDir::open(&root).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot create `{}`", root.display()));
    }
}
