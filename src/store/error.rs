//! Errors of the store.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// `action` is the verb of the failed operation: `open`, `write`, `rename`, …
    #[error("cannot {action} `{}`", path.display())]
    File { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Mismatch(#[from] crate::npm::integrity::Mismatch),
    /// The digest that names a blob of this kind was not computed.
    #[error("cannot name a blob without its digest")]
    Unnamed,
    #[error("a store task ended unexpectedly: {0}")]
    Lost(String),
    #[error("cannot {action} the ledger")]
    Ledger { action: &'static str, source: rusqlite::Error },
    /// The ledger could not be written for so long that the limit of pending changes is reached.
    #[error("too many changes are pending for the ledger")]
    NoRoom,
    /// The ledger contains data that this version cannot read.
    #[error("the ledger is damaged: {0}")]
    Damaged(String),
    #[error("`{}` was written by a newer Coldframe (schema {found}, supported: {known}); upgrade Coldframe", path.display())]
    Newer { path: PathBuf, found: i64, known: i64 },
    /// The ledger's schema is older, and this handle must not migrate it.
    #[error(
        "`{}` was written by an older Coldframe (schema {found}, required: {known}); run `coldframe serve` to migrate it",
        path.display()
    )]
    Older { path: PathBuf, found: i64, known: i64 },
    #[error("cannot write to the ledger, it is open read-only")]
    ReadOnly,
    #[error("`{}` is in use by another Coldframe", path.display())]
    Locked { path: PathBuf },
}

impl StoreError {
    /// Returns a function for `map_err` that converts an error of `action`. Damage becomes [`StoreError::Damaged`].
    pub(crate) fn ledger(action: &'static str) -> impl FnOnce(rusqlite::Error) -> Self {
        move |source| {
            if is_damage(&source) { Self::Damaged(source.to_string()) } else { Self::Ledger { action, source } }
        }
    }

    /// Checks whether a retry may succeed: full disk, lock held by another process, system limit.
    pub(crate) fn is_transient(&self) -> bool {
        use rusqlite::ErrorCode::{
            CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, FileLockingProtocolFailed, OutOfMemory, ReadOnly, SystemIoFailure,
        };
        let Self::Ledger { source, .. } = self else { return false };
        let busy = matches!(source.sqlite_error_code(), Some(DatabaseBusy | DatabaseLocked | FileLockingProtocolFailed));
        busy || matches!(source.sqlite_error_code(), Some(CannotOpen | DiskFull | OutOfMemory | ReadOnly | SystemIoFailure))
    }

    /// Returns a function for `map_err` that adds the operation and the path.
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::File { action, path: path.into(), source }
    }
}

/// Checks whether the file's content is invalid, as opposed to a full disk or a held lock.
fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType};
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    match error {
        FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..) => true,
        error => matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase)),
    }
}
