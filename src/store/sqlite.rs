//! The ledger in SQLite: one file in the data directory, readable beside a running server. Refuses to know what the rows
//! mean; `packages` and `downloads` say how they lie.
//!
//! Write-ahead log, synced at checkpoints: a kill of the process at any instant loses nothing that was committed, a power
//! cut may lose the last commits and never damages the file.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags};

use super::data_dir::{DataDir, Ownership};
use super::downloads::{self, RecordedIncident};
use super::journal::Journal;
use super::ledger::{Download, Exposure, Incident, Ledger, PackageChange, PackageKey, PackageRecord};
use super::{StoreError, packages, schema};
use crate::npm::PackageName;

/// How long a connection waits for another process's lock: `exposure` recovering the log of a killed server, a backup.
const BUSY: Duration = Duration::from_secs(5);
/// Connections kept for reading; more are opened when more threads read at once.
const READERS: usize = 4;
/// Statements kept compiled by each connection.
const STATEMENTS: usize = 32;
/// What the write-ahead log is cut back to after a checkpoint, in bytes.
const LOG_SIZE: u32 = 16 << 20;

/// The ledger of a data directory.
pub struct SqliteLedger {
    path: PathBuf,
    readers: Mutex<Vec<Connection>>,
    owner: Option<Owner>,
}

/// What only the process that owns the data directory has. The journal goes first: it writes what is left.
struct Owner {
    journal: Journal,
    writer: Arc<Mutex<Connection>>,
    _ownership: Ownership,
}

impl SqliteLedger {
    /// The ledger of a data directory that this process owns; made when it is missing, brought up to date when it is older.
    ///
    /// # Errors
    /// [`StoreError::Newer`] when a newer Coldframe wrote it, [`StoreError::Damaged`] when it is no ledger; otherwise what
    /// SQLite refused.
    pub fn open(data_dir: &DataDir) -> Result<Self, StoreError> {
        let path = DataDir::ledger_in(data_dir.path());
        let writer = open_writer(&path).map_err(|error| name_damaged(error, &path))?;
        let writer = Arc::new(Mutex::new(writer));
        let writing = Arc::clone(&writer);
        let journal = Journal::start(move |batch| {
            let mut connection = writing.lock().unwrap_or_else(PoisonError::into_inner);
            downloads::write(&mut connection, batch).map_err(StoreError::ledger("be written"))
        })
        .map_err(StoreError::file("start a thread that writes", &path))?;
        let owner = Owner { journal, writer, _ownership: data_dir.ownership() };
        Ok(Self { path, readers: Mutex::default(), owner: Some(owner) })
    }

    /// The ledger of the data directory at `data_dir`, to read beside a running server, without one, or after one was
    /// killed. Nothing is recorded through it: what is noted is dropped, and a change is an error.
    ///
    /// The file is opened for writing where that is allowed, since SQLite shares its index of the log through a file
    /// next to it, and makes that when no server runs; `query_only` keeps the tables as they are.
    ///
    /// # Errors
    /// When there is no ledger, or it is damaged, newer or older than what this program reads.
    pub fn read_only(data_dir: &Path) -> Result<Self, StoreError> {
        let path = DataDir::ledger_in(data_dir);
        // SQLite would only say that it is unable to open a file.
        std::fs::metadata(&path).map_err(StoreError::file("open", &path))?;
        let ledger = Self { path, readers: Mutex::default(), owner: None };
        ledger
            .read(|connection| schema::expect_known(connection, &ledger.path))
            .map_err(|error| name_damaged(error, &ledger.path))?;
        Ok(ledger)
    }

    /// Events that happened at or after `since`, oldest first.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn incidents(&self, since: Timestamp) -> Result<Vec<RecordedIncident>, StoreError> {
        self.flush();
        self.read(|connection| downloads::incidents(connection, since).map_err(StoreError::ledger("be read")))
    }

    /// Deletes downloads and incidents that ended before `before`; how many rows it were. In small transactions, so that
    /// whoever writes beside it does not wait; what was deleted when it fails stays deleted. Releases and dist-tags are
    /// never pruned: verdicts rest on them.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    pub fn prune(&self, before: Timestamp) -> Result<u64, StoreError> {
        let mut gone = 0;
        loop {
            let pruned = self.write(|connection| downloads::prune_some(connection, before))?;
            if pruned == 0 {
                break;
            }
            gone += pruned;
        }
        if gone > 0 {
            self.write(|connection| downloads::sweep(connection))?;
        }
        Ok(gone)
    }

    /// How many requests and events were noted and are not, and will not be, in the ledger.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.owner.as_ref().map_or(0, |owner| owner.journal.lost())
    }

    fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let kept = self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match kept {
            Some(connection) => connection,
            None => open_reader(&self.path).map_err(StoreError::ledger("be opened"))?,
        };
        let done = work(&connection)?;
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if readers.len() < READERS {
            readers.push(connection);
        }
        Ok(done)
    }

    fn write<T>(&self, work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let owner = self.owner.as_ref().ok_or(StoreError::ReadOnly)?;
        let mut connection = owner.writer.lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut connection).map_err(StoreError::ledger("be written"))
    }
}

impl Ledger for SqliteLedger {
    fn package(&self, key: &PackageKey) -> Result<PackageRecord, StoreError> {
        self.read(|connection| packages::read(connection, key).map_err(StoreError::ledger("be read")))
    }

    fn record_package(&self, key: &PackageKey, change: &PackageChange) -> Result<(), StoreError> {
        self.write(|connection| packages::write(connection, key, change))
    }

    fn record_download(&self, download: Download, at: Timestamp) {
        if let Some(owner) = &self.owner {
            owner.journal.note_download(download, at);
        }
    }

    fn record_incident(&self, incident: Incident, at: Timestamp) {
        if let Some(owner) = &self.owner {
            owner.journal.note_incident(incident, at);
        }
    }

    /// Includes what was noted just now: it is written first.
    fn exposure(&self, name: &PackageName, version: Option<&str>) -> Result<Vec<Exposure>, StoreError> {
        self.flush();
        self.read(|connection| downloads::exposure(connection, name, version).map_err(StoreError::ledger("be read")))
    }

    fn flush(&self) {
        if let Some(owner) = &self.owner {
            owner.journal.flush();
        }
    }
}

fn open_writer(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = connect(path, flags).map_err(StoreError::ledger("be opened"))?;
    schema::refuse_newer(&connection, path)?;
    let prepare = |connection: &Connection| {
        // Before the first table, or it has no effect: what retention deletes is given back to the disk.
        connection.pragma_update(None, "auto_vacuum", "incremental")?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "normal")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update(None, "journal_size_limit", LOG_SIZE)
    };
    prepare(&connection).map_err(StoreError::ledger("be opened"))?;
    schema::migrate(&mut connection, path)?;
    Ok(connection)
}

fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

/// Says which file is damaged: at start, the person who reads it has to move it away.
fn name_damaged(error: StoreError, path: &Path) -> StoreError {
    match error {
        StoreError::Damaged(detail) => StoreError::Damaged(format!("`{}`: {detail}", path.display())),
        error => error,
    }
}
