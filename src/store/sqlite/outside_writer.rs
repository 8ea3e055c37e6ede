//! Writes to the ledger from a process next to the server, synced to disk, so that the rows survive a power cut.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use crate::store::data_dir::DataDir;
use crate::store::error::StoreError;
use crate::store::sqlite::{self, schema};

/// Interval between checks whether the server has applied a change.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A connection to the ledger of a data directory that a server may own.
pub(crate) struct OutsideWriter {
    root: PathBuf,
    connection: Connection,
    /// The ownership of the data directory, if no server has it.
    owned: Option<DataDir>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApplyStatus {
    Applied,
    /// No server runs. The next one applies it at start.
    AtNextStart,
    /// The running server did not apply it within the time limit.
    Pending,
}

impl OutsideWriter {
    /// Opens the ledger in `root`, which is created if missing. Fails if a server runs and the schema is not this program's.
    pub(crate) fn open(root: &Path) -> Result<Self, StoreError> {
        let path = DataDir::ledger_in(root);
        let (owned, connection) = match DataDir::open(root) {
            Ok(data_dir) => (Some(data_dir), sqlite::open_writer(&path)?),
            Err(StoreError::Locked { .. }) => {
                let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
                let connection = sqlite::connect(&path, flags).map_err(StoreError::ledger("open"))?;
                // Only the running server may migrate the schema.
                schema::expect_known(&connection, &path)?;
                (None, connection)
            }
            Err(error) => return Err(error),
        };
        connection.pragma_update(None, "synchronous", "full").map_err(StoreError::ledger("open"))?;
        connection.pragma_update(None, "foreign_keys", true).map_err(StoreError::ledger("open"))?;
        Ok(Self { root: root.to_owned(), connection, owned })
    }

    pub(crate) fn query<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        query(&self.connection).map_err(StoreError::ledger("read"))
    }

    pub(crate) fn write<T>(&mut self, change: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        change(&mut self.connection).map_err(StoreError::ledger("write"))
    }

    /// Waits at most `at_most` until `applied` returns at least `revision`. Blocks.
    pub(crate) fn wait_applied(
        &self,
        revision: u64,
        at_most: Duration,
        applied: impl Fn(&Connection) -> rusqlite::Result<u64>,
    ) -> Result<ApplyStatus, StoreError> {
        if self.owned.is_some() {
            return Ok(ApplyStatus::AtNextStart);
        }
        let deadline = Instant::now() + at_most;
        loop {
            if self.query(&applied)? >= revision {
                return Ok(ApplyStatus::Applied);
            }
            if Instant::now() >= deadline {
                // The lock may have been held by a process other than a server, or by a server that has ended.
                let is_unlocked = DataDir::open(&self.root).is_ok();
                return Ok(if is_unlocked { ApplyStatus::AtNextStart } else { ApplyStatus::Pending });
            }
            #[expect(clippy::disallowed_methods, reason = "a process of its own, which has nothing else to do")]
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}
