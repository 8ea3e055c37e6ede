//! What outlives a process. Blobs (tarballs, raw packuments) by what they hash to, and the ledger.
//!
//! It keeps and finds, and does not judge. Calls block, and callers on async threads go
//! through `spawn_blocking`, except [`BlobStore::open`], which is a future, and [`BlobStore::mapped`], which is a look-up.

pub mod blobs;
#[cfg(test)]
mod conformance;
pub mod data_dir;
pub mod indicator_hit;
pub mod ledger;
pub(crate) mod read_only;
pub mod sqlite;

use std::path::PathBuf;

pub use blobs::disk::{BlobStatistics, DiskBlobs};
pub use blobs::{BlobKind, BlobStore, Committed, OpenBlob, PendingBlob};
pub use data_dir::DataDir;
pub use indicator_hit::IndicatorHit;
pub use ledger::{
    DownloadEvent, DownloadKind, DownloadOutcome, Exposure, LearnedDigests, Ledger, LedgerEvent, PackageChange, PackageKey,
    PackageRecord, Release, StoredPackument, TagSighting, TarballSource,
};
pub use sqlite::SqliteLedger;
pub use sqlite::decision_writer::DecisionWriter;
pub use sqlite::events::{DownloadSummary, RecordedEvent};

/// Where things are kept and how much of the disk they may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The data directory: made when it is missing, owned by one process at a time.
    pub data_dir: PathBuf,
    /// Bytes of disk for tarballs and raw packuments together. The ledger is not counted: its retention bounds it.
    pub cache_size: u64,
}

/// What the store could not do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused.
    #[error("cannot {action} `{}`", path.display())]
    File {
        /// What was tried: `open`, `write`, `rename`, …
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The bytes are not what the packument said.
    #[error(transparent)]
    Mismatch(#[from] crate::npm::integrity::Mismatch),
    /// Nothing that names a blob of its kind was computed of the bytes.
    #[error("the bytes have no digest that names them")]
    Unnamed,
    /// A task of the store ended without an answer.
    #[error("a task of the store was lost: {0}")]
    Lost(String),
    /// SQLite refused.
    #[error("the ledger cannot {action}")]
    Ledger {
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: rusqlite::Error,
    },
    /// The ledger has not been written for so long that no more changes can wait.
    #[error("too many changes wait for the ledger")]
    NoRoom,
    /// The ledger holds something this version does not understand.
    #[error("the ledger is damaged: {0}")]
    Damaged(String),
    /// The data directory was made by a newer Coldframe.
    #[error("`{}` was written by a newer coldframe (schema {found}, this one knows {known})", path.display())]
    Newer {
        /// The ledger's file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest schema this program knows.
        known: i64,
    },
    /// The ledger's schema is older and this handle may not change it.
    #[error("`{}` was written by an older coldframe (schema {found}, this one reads {known}); `coldframe serve` brings it up to date", path.display())]
    Older {
        /// The ledger's file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The schema this program reads.
        known: i64,
    },
    /// A write through a handle that only reads.
    #[error("the ledger is open for reading only")]
    ReadOnly,
    /// Another process owns the data directory.
    #[error("`{}` is in use by another coldframe", path.display())]
    Locked {
        /// The data directory.
        path: PathBuf,
    },
}

impl StoreError {
    /// What `source` means when the ledger was asked to `action`: damage is told apart from an inability.
    fn ledger(action: &'static str) -> impl FnOnce(rusqlite::Error) -> Self {
        move |source| {
            if is_damage(&source) { Self::Damaged(source.to_string()) } else { Self::Ledger { action, source } }
        }
    }

    /// Whether the same may succeed later: a full disk, another process' lock, a limit of the system.
    fn may_pass(&self) -> bool {
        use rusqlite::ErrorCode::{
            CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, FileLockingProtocolFailed, OutOfMemory, ReadOnly, SystemIoFailure,
        };
        let Self::Ledger { source, .. } = self else { return false };
        matches!(
            source.sqlite_error_code(),
            Some(
                CannotOpen
                    | DatabaseBusy
                    | DatabaseLocked
                    | DiskFull
                    | FileLockingProtocolFailed
                    | OutOfMemory
                    | ReadOnly
                    | SystemIoFailure
            )
        )
    }

    /// What `source` means when `action` was tried on `path`.
    fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::File { action, path: path.into(), source }
    }
}

/// Whether the file holds something it should not, as opposed to a disk that is full or a lock that is held.
fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType};
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    match error {
        FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..) => true,
        error => matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::path::Path;
    use std::process::{Command, Stdio};
    use std::sync::Arc;

    use super::*;
    use crate::npm::{Algorithm, Digest, PackageName};
    use crate::store::conformance::{at, download, key, opened, put, release};

    const CHILD: &str = "COLDFRAME_TEST_STORE";

    /// Runs as a child of itself, which is killed while it writes. What it said it had done must be there afterwards.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "the child is told by a variable that it is one")]
    fn killed_at_any_moment_it_keeps_what_it_promised_and_nothing_half_written() {
        if let Some(home) = std::env::var_os(CHILD) {
            return write_long(Path::new(&home));
        }
        let home = tempfile::tempdir().unwrap();
        for acknowledged in [1, 40, 97] {
            let first = count_promises(home.path());
            write_until_killed(home.path(), first + acknowledged);
            let (data_dir, promised) = (DataDir::open(home.path()).unwrap(), first + acknowledged);
            assert_eq!(std::fs::read_dir(data_dir.temporary()).unwrap().count(), 0);
            let (ledger, blobs) = (SqliteLedger::open(&data_dir).unwrap(), DiskBlobs::open(&data_dir, 1 << 30).unwrap());
            let record = ledger.package(&key("axios")).unwrap();
            for number in 0..promised {
                let bytes = content(number);
                assert_eq!(opened(&*blobs, &Digest::of(Algorithm::Sha512, &bytes)).unwrap().unwrap(), bytes, "{number}");
                let version = format!("{number}.0.0");
                assert!(record.releases.iter().any(|release| *release.version == *version), "{version}");
            }
            let blobs: Arc<dyn BlobStore> = blobs;
            put(&blobs, b"and it goes on");
        }
        let seen = SqliteLedger::read_only(home.path()).unwrap().exposure(&PackageName::parse("axios").unwrap(), None).unwrap();
        assert!(!seen.is_empty());
    }

    fn content(number: usize) -> Vec<u8> {
        format!("tarball {number} ").repeat(3000 + number).into_bytes()
    }

    fn count_promises(home: &Path) -> usize {
        SqliteLedger::read_only(home).map_or(0, |ledger| ledger.package(&key("axios")).unwrap().releases.len())
    }

    fn write_until_killed(home: &Path, promised: usize) {
        let test = "store::tests::killed_at_any_moment_it_keeps_what_it_promised_and_nothing_half_written";
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(CHILD, home)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let last = format!("promised {promised}");
        let said = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap).any(|line| line == last);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(said, "the child ended by itself");
    }

    fn write_long(home: &Path) {
        let data_dir = DataDir::open(home).unwrap();
        let ledger = SqliteLedger::open(&data_dir).unwrap();
        let blobs: Arc<dyn BlobStore> = DiskBlobs::open(&data_dir, 1 << 30).unwrap();
        let done = ledger.package(&key("axios")).unwrap().releases.len();
        for number in done..done + 5_000 {
            put(&blobs, &content(number));
            let change = PackageChange { releases: vec![release(&format!("{number}.0.0"), b"")], ..PackageChange::default() };
            ledger.record_package(&key("axios"), &change).unwrap();
            ledger.record_download(download(&format!("{number}.0.0"), [127, 0, 0, 1]), at(0));
            if number % 16 == 0 {
                ledger.flush();
            }
            let mut out = std::io::stdout();
            // The line starts anew: the harness may have written half of one.
            writeln!(out, "\npromised {}", number + 1).unwrap();
        }
    }
}
