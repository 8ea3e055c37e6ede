//! The data directory: made, owned by one process, swept. Refuses to know what lies in the files it names.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::store::StoreError;

/// A data directory that this process owns for as long as this value, or a store opened in it, lives.
///
/// The lock is the operating system's, so a killed process leaves none behind.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    ownership: DataDirLock,
}

/// The line of the lock's file that says that a server owns the directory.
const SERVER: &str = "server";

/// Keeps the data directory this process's own while it is held.
pub(crate) type DataDirLock = Arc<File>;

impl DataDir {
    /// Makes the directory when it is missing (readable by its owner alone), takes its lock, and removes what a killed
    /// process left half-written.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process owns it; otherwise what the file system refused.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        make_private(path)?;
        let ownership = Arc::new(lock(path)?);
        let opened = Self { root: path.to_owned(), ownership };
        make_private(&opened.blobs())?;
        make_private(&opened.temporary())?;
        sweep(&opened.temporary())?;
        Ok(opened)
    }

    /// Whether another process owns the directory at `path` now. Makes nothing and takes nothing: the lock that it tries is shared and
    /// given back at once.
    #[must_use]
    pub fn is_owned(path: &Path) -> bool {
        let Ok(file) = File::open(path.join("lock")) else { return false };
        matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
    }

    /// Whether this process may find out who owns the directory at `path`. One that is not there has no owner.
    #[must_use]
    pub fn is_readable(path: &Path) -> bool {
        !File::open(path.join("lock")).is_err_and(|error| error.kind() != io::ErrorKind::NotFound)
    }

    /// Notes that the process that owns the directory at `path`, this one, is a server.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn mark_server(path: &Path) -> io::Result<()> {
        fs::write(path.join("lock"), format!("{}\n{SERVER}\n", std::process::id()))
    }

    /// Whether the process that owns the directory at `path` noted that it is a server.
    #[must_use]
    pub fn is_server(path: &Path) -> bool {
        Self::is_owned(path) && fs::read_to_string(path.join("lock")).is_ok_and(|text| text.lines().any(|line| line == SERVER))
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Where the ledger of the data directory `root` lies, whether or not this process owns it.
    pub(crate) fn ledger_in(root: &Path) -> PathBuf {
        root.join("ledger.sqlite")
    }

    /// Where the blobs lie.
    pub(crate) fn blobs(&self) -> PathBuf {
        Self::blobs_in(&self.root)
    }

    /// Where the blobs of the data directory `root` lie, whether or not this process owns it.
    pub(crate) fn blobs_in(root: &Path) -> PathBuf {
        root.join("blobs")
    }

    /// Where blobs land until they are verified. On the same file system as the blobs, so that a rename is atomic.
    pub(crate) fn temporary(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// A share of the ownership, for a store that may outlive this value.
    pub(crate) fn ownership(&self) -> DataDirLock {
        Arc::clone(&self.ownership)
    }
}

fn make_private(path: &Path) -> Result<(), StoreError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(StoreError::file("create", path))
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
    // For people who look; nothing reads it back, so a disk too full for it is no reason to stay closed.
    let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

fn sweep(temporary: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(temporary).map_err(StoreError::file("list", temporary))? {
        let path = entry.map_err(StoreError::file("list", temporary))?.path();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(StoreError::file("remove", path)(error)),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_is_refused_until_the_first_has_gone() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("deep/data");
        let first = DataDir::open(&root).unwrap();
        let refused = DataDir::open(&root).unwrap_err();
        assert_eq!(refused.to_string(), format!("`{}` is in use by another coldframe", root.display()));
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
    fn a_store_keeps_the_directory_owned_after_the_directory_value_went() {
        let home = tempfile::tempdir().unwrap();
        let blobs = crate::store::blobs::disk::DiskBlobs::open(&DataDir::open(home.path()).unwrap(), 1 << 20).unwrap();
        assert!(matches!(DataDir::open(home.path()), Err(StoreError::Locked { .. })));
        drop(blobs);
        DataDir::open(home.path()).unwrap();
    }

    #[test]
    fn what_a_killed_process_left_half_written_is_swept() {
        let home = tempfile::tempdir().unwrap();
        let temporary = DataDir::open(home.path()).unwrap().temporary();
        fs::write(temporary.join("half"), b"half a tarball").unwrap();
        drop(DataDir::open(home.path()).unwrap());
        assert_eq!(fs::read_dir(temporary).unwrap().count(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_may_look_into_it() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("data");
        let _open = DataDir::open(&root).unwrap();
        assert_eq!(fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_file_in_its_place_is_a_clear_error() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("data");
        fs::write(&root, b"").unwrap();
        let error = DataDir::open(&root).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot create `{}`", root.display()));
    }
}
