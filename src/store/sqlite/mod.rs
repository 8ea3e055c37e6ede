//! The ledger in SQLite: one file in the data directory, readable while a server runs. Calls block.
//!
//! The write-ahead log is synced at checkpoints: a kill loses no commit, a power cut perhaps the last ones, never the file.

pub(crate) mod decision_writer;
pub(crate) mod decisions;
pub(crate) mod events;
pub(crate) mod outside_writer;
pub(crate) mod packages;
pub(crate) mod pending;
pub(crate) mod read_pool;
pub(crate) mod reports;
pub(crate) mod request_connection;
pub(crate) mod request_writer;
pub(crate) mod requests;
pub(crate) mod rows;
pub(crate) mod schema;
pub(crate) mod token_writer;
pub(crate) mod tokens;
pub(crate) mod write_behind;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};

use crate::npm::{Algorithm, Digest, Integrity, PackageName};
use crate::policy::decisions::{Decision, Signature};
use crate::store::access_token::{NewToken, TokenCreation, TokenLedger, TokenRecord, TokenSelector};
use crate::store::data_dir::{DataDir, DataDirLock};
use crate::store::error::StoreError;
use crate::store::ledger::{
    DownloadEvent, Exposure, InspectedTarball, Ledger, LedgerEvent, PackageChange, PackageKey, PackageRecord, RecordedSignals,
    Release, ServedTarball, StoredPackument, TarballSource,
};
use crate::store::ledger_rows::{ClientRow, DownloadRow, RowFilter, RowOrder};
use crate::store::report::{RefusalReport, ReportLedger, SeenClient, YoungRelease, YoungReleases};
use crate::store::sqlite::events::{DownloadSummary, RecordedEvent};
use crate::store::sqlite::pending::PendingChanges;
use crate::store::sqlite::read_pool::ReadPool;
use crate::store::sqlite::request_connection::RequestConnection;
use crate::store::sqlite::write_behind::WriteBehindLog;

/// How long a connection waits for another process's lock, such as a backup or `exposure` after a server was killed.
const BUSY: Duration = Duration::from_secs(5);
/// How long a write waits for a lock. Shorter, because a client waits for the result and a failed write is retried later.
const BUSY_WRITING: Duration = Duration::from_secs(2);
/// Maximum number of requested packages that do not exist, about 200 bytes on disk each. Absences older than any rule's age are
/// deleted first. While all are younger, requests for further missing packages get an error.
const MAX_ABSENCES: usize = 200_000;
/// Interval in seconds between counts of absences at the limit, so that requests for missing packages do not block ledger writes.
const COUNT_INTERVAL: i64 = 60;
const STATEMENTS: usize = 32;
/// Size limit of the write-ahead log after a checkpoint, in bytes.
const LOG_SIZE: u32 = 16 << 20;

pub struct SqliteLedger {
    path: PathBuf,
    readers: ReadPool,
    owner: Option<WriterHandle>,
}

/// State of the process that owns the data directory. The journal is dropped first, because it writes the remaining rows.
struct WriterHandle {
    journal: WriteBehindLog,
    writer: Arc<Mutex<Connection>>,
    pending: Arc<PendingChanges>,
    absences: AtomicUsize,
    /// If too few absences were old enough to delete: the `expired` in Unix seconds that the next attempt needs at least.
    full_until: AtomicI64,
    _ownership: DataDirLock,
}

impl SqliteLedger {
    /// Opens the ledger of a data directory that this process owns, created if missing and migrated if older. Returns
    /// [`StoreError::Newer`] if a newer Coldframe wrote it, and [`StoreError::Damaged`] if it is not a ledger.
    pub(crate) fn open(data_dir: &DataDir) -> Result<Self, StoreError> {
        let path = DataDir::ledger_in(&data_dir.root);
        let writer = open_writer(&path).map_err(|error| name_damaged(error, &path))?;
        writer.busy_timeout(BUSY_WRITING).map_err(StoreError::ledger("open"))?;
        let absences = packages::count_absences(&writer).map_err(StoreError::ledger("read"))?;
        let writer = Arc::new(Mutex::new(writer));
        let pending = Arc::new(PendingChanges::default());
        let (writing, pending_in_writer) = (Arc::clone(&writer), Arc::clone(&pending));
        let journal = WriteBehindLog::start(move |batch| {
            let mut connection = writing.lock().unwrap_or_else(PoisonError::into_inner);
            write_pending(&pending_in_writer, &mut connection)?;
            events::write(&mut connection, batch).map_err(StoreError::ledger("write"))
        })
        .map_err(StoreError::file("start the writer thread for", &path))?;
        let (absences, full_until) = (absences.into(), i64::MIN.into());
        let owner = WriterHandle { journal, writer, pending, absences, full_until, _ownership: Arc::clone(&data_dir.ownership) };
        Ok(Self { path, readers: ReadPool::default(), owner: Some(owner) })
    }

    /// Opens the ledger at `data_dir` for reading, while a server runs or not. Drops queued rows; changes return an error.
    ///
    /// The file is opened for writing if possible: SQLite then creates its shared log index. `query_only` protects the tables.
    ///
    /// # Errors
    /// Returns an error if there is no ledger, if it is damaged, or if its schema is newer or older than this program's.
    pub fn read_only(data_dir: &Path) -> Result<Self, StoreError> {
        let path = DataDir::ledger_in(data_dir);
        // SQLite's own error for a missing file does not name it.
        std::fs::metadata(&path).map_err(StoreError::file("open", &path))?;
        let ledger = Self { path, readers: ReadPool::default(), owner: None };
        ledger
            .read(|connection| schema::expect_known(connection, &ledger.path))
            .map_err(|error| name_damaged(error, &ledger.path))?;
        Ok(ledger)
    }

    /// Copies the ledger, if any, of the data directory `from` into `into`, which must have none. A server may run.
    pub(crate) fn copy(from: &Path, into: &Path) -> Result<(), StoreError> {
        let (path, copy) = (DataDir::ledger_in(from), DataDir::ledger_in(into));
        if !path.exists() {
            return Ok(());
        }
        let connection = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(StoreError::ledger("open"))?;
        schema::copy_into(&connection, &copy).map_err(StoreError::ledger("copy"))
    }

    pub(crate) fn downloads(&self) -> Result<Vec<DownloadSummary>, StoreError> {
        self.flush();
        self.query(events::downloads)
    }

    /// Returns the blob digests of a package's newest documents, of all registries and views.
    pub(crate) fn documents(&self, name: &PackageName) -> Result<Vec<Digest>, StoreError> {
        self.flush();
        let contents = self.query(|connection| packages::contents(connection, name))?;
        Ok(contents.iter().filter_map(|content| Digest::from_bytes(Algorithm::Sha256, content)).collect())
    }

    /// Returns the events at or after `since`, oldest first.
    ///
    /// # Errors
    /// Returns an error if the ledger cannot be read.
    pub fn events(&self, since: Timestamp) -> Result<Vec<RecordedEvent>, StoreError> {
        self.flush();
        self.query(|connection| events::events(connection, since))
    }

    /// Returns at most `limit` requests after the row `after` in this order.
    pub(crate) fn download_rows(
        &self,
        filter: &RowFilter,
        position: (RowOrder, Option<i64>),
        limit: usize,
    ) -> Result<Vec<DownloadRow>, StoreError> {
        self.query(|connection| rows::downloads(connection, filter, position, limit))
    }

    /// Returns the clients with requests since `since`, the last one first.
    pub(crate) fn client_rows(&self, since: Timestamp) -> Result<Vec<ClientRow>, StoreError> {
        self.query(|connection| rows::clients(connection, since))
    }

    /// Returns the recorded signals of a package's releases, of all registries and views.
    pub(crate) fn recorded_signals(&self, name: &PackageName) -> Result<Vec<RecordedSignals>, StoreError> {
        self.query(|connection| packages::signals(connection, name))
    }

    /// Returns the details of the events of a kind since `since`, each with when it was last recorded.
    pub(crate) fn event_details(&self, kind: &str, since: Timestamp) -> Result<Vec<(String, Timestamp)>, StoreError> {
        self.query(|connection| events::details_of(connection, kind, since))
    }

    /// Deletes downloads and events that ended before `before`; returns their number. Small transactions keep other writers from
    /// waiting; an error does not undo earlier ones. Verdicts need releases and dist-tags, which are never pruned.
    pub(crate) fn prune(&self, before: Timestamp) -> Result<u64, StoreError> {
        let mut deleted = 0;
        while let pruned @ 1.. = self.write(|connection| events::prune_some(connection, before))? {
            deleted += pruned;
        }
        if deleted > 0 {
            self.write(|connection| events::sweep(connection))?;
            while self.write(|connection| events::shrink_some(connection))? {}
        }
        Ok(deleted)
    }

    /// Writes the pending changes, if any. They stay pending if the ledger still cannot be written.
    pub(crate) fn write_pending(&self) -> Result<(), StoreError> {
        let Some(owner) = self.owner.as_ref().filter(|owner| !owner.pending.is_empty()) else { return Ok(()) };
        write_pending(&owner.pending, &mut owner.writer.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns how many rows are not written yet.
    pub(crate) fn pending_rows(&self) -> u64 {
        self.owner.as_ref().map_or(0, |owner| (owner.journal.pending() + owner.pending.rows()) as u64)
    }

    pub(crate) fn lost_rows(&self) -> u64 {
        self.owner.as_ref().map_or(0, |owner| owner.journal.lost())
    }

    /// Returns the revision of the recorded decisions. Cheap enough to poll several times a second.
    pub(crate) fn decision_revision(&self) -> Result<u64, StoreError> {
        self.query(|connection| decisions::revision(connection).map(|(made, _)| made))
    }

    /// Records that the server applies the decisions up to `revision`. Other processes wait for this.
    pub(crate) fn set_applied_revision(&self, revision: u64) -> Result<(), StoreError> {
        self.write(|connection| decisions::set_applied(connection, revision))
    }

    /// Deletes absences from before `expired`. Returns whether the number of absences is below the limit now.
    fn forget_absences(&self, owner: &WriterHandle, expired: Timestamp) -> Result<bool, StoreError> {
        let full_until = owner.full_until.load(Ordering::Relaxed);
        if expired.as_second() < full_until {
            return Ok(false);
        }
        let left = self.write(|connection| {
            packages::forget_absences(connection, expired)?;
            packages::count_absences(connection)
        })?;
        owner.absences.store(left, Ordering::Relaxed);
        let is_full = left >= MAX_ABSENCES;
        let again = if is_full { expired.as_second().saturating_add(COUNT_INTERVAL) } else { i64::MIN };
        owner.full_until.store(again, Ordering::Relaxed);
        Ok(!is_full)
    }

    fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.readers.read(|| open_reader(&self.path).map_err(StoreError::ledger("open")), work)
    }

    fn query<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        self.read(|connection| query(connection).map_err(StoreError::ledger("read")))
    }

    /// Returns the changes not written yet. Fetch them before a read: applying a change twice has no effect.
    fn pending(&self, key: &PackageKey) -> Vec<Arc<PackageChange>> {
        self.owner.as_ref().map(|owner| owner.pending.of(key)).unwrap_or_default()
    }

    fn write<T>(&self, work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let owner = self.owner.as_ref().ok_or(StoreError::ReadOnly)?;
        let mut connection = owner.writer.lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut connection).map_err(StoreError::ledger("write"))
    }
}

impl ReportLedger for SqliteLedger {
    fn last_requests(&self, name: &PackageName, version: Option<&str>, limit: usize) -> Result<Vec<Exposure>, StoreError> {
        self.flush();
        self.query(|connection| reports::last_requests(connection, name, version, limit))
    }

    fn young_releases(&self, wanted: &YoungReleases, part: (usize, usize)) -> Result<Vec<YoungRelease>, StoreError> {
        self.query(|connection| reports::young_releases(connection, wanted, part))
    }

    fn refusals(&self, since: Timestamp, limits: (usize, usize)) -> Result<RefusalReport, StoreError> {
        self.flush();
        self.query(|connection| reports::refusals(connection, since, limits))
    }

    fn clients(&self, limit: usize) -> Result<Vec<SeenClient>, StoreError> {
        self.flush();
        self.query(|connection| reports::clients(connection, limit))
    }
}

impl Ledger for SqliteLedger {
    fn package(&self, key: &PackageKey) -> Result<PackageRecord, StoreError> {
        let pending = self.pending(key);
        let mut record = self.query(|connection| packages::read(connection, key))?;
        for change in &pending {
            record.apply(change);
        }
        Ok(record)
    }

    fn was_seen(&self, key: &PackageKey) -> Result<bool, StoreError> {
        let pending = self.pending(key);
        let shows = |change: &PackageChange| {
            !change.releases.is_empty() || change.document.as_ref().is_some_and(|document| document.content.is_some())
        };
        if pending.iter().any(|change| shows(change)) {
            return Ok(true);
        }
        self.query(|connection| packages::was_seen(connection, key))
    }

    fn tarballs(&self, key: &PackageKey, version: &str) -> Result<Vec<TarballSource>, StoreError> {
        let pending = self.pending(key);
        let mut tarballs = self.query(|connection| packages::tarballs(connection, key, version))?;
        let waiting = pending.iter().flat_map(|change| &change.tarballs).filter(|source| *source.version == *version);
        tarballs.extend(waiting.cloned());
        Ok(tarballs)
    }

    /// If the disk is full or the lock is held, keeps this and later changes in memory. Only the first waits for the lock.
    fn record_package(&self, key: &PackageKey, change: &PackageChange) -> Result<(), StoreError> {
        let owner = self.owner.as_ref().ok_or(StoreError::ReadOnly)?;
        if owner.pending.is_empty() {
            let mut connection = owner.writer.lock().unwrap_or_else(PoisonError::into_inner);
            // Another thread's write may have failed in the meantime.
            if owner.pending.is_empty() {
                match packages::write(&mut connection, key, change).map_err(StoreError::ledger("write")) {
                    Err(error) if error.is_transient() && owner.pending.push(key, change) => {
                        let cause = &error as &dyn std::error::Error;
                        tracing::error!(package.name = %key.name, error = cause, "ledger write failed, changes are pending");
                        return Ok(());
                    }
                    written => return written,
                }
            }
        }
        if owner.pending.push(key, change) { Ok(()) } else { Err(StoreError::NoRoom) }
    }

    fn tarball_summary(&self, sha512: &Digest, code: u32) -> Result<Option<Vec<u8>>, StoreError> {
        self.query(|connection| packages::tarball_summary(connection, sha512, code))
    }

    fn record_tarball_summary(&self, sha512: &Digest, code: u32, summary: &[u8]) -> Result<(), StoreError> {
        self.write(|connection| packages::write_tarball_summary(connection, sha512, code, summary))
    }

    fn record_absence(&self, key: &PackageKey, document: &StoredPackument, expired: Timestamp) -> Result<bool, StoreError> {
        let owner = self.owner.as_ref().ok_or(StoreError::ReadOnly)?;
        let is_full = owner.absences.load(Ordering::Relaxed) >= MAX_ABSENCES;
        // A recorded absence takes no additional space.
        let is_recorded = || {
            let is_pending = owner.pending.of(key).iter().any(|change| change.document.is_some());
            Ok::<_, StoreError>(is_pending || self.query(|connection| packages::is_recorded(connection, key))?)
        };
        if is_full && !is_recorded()? && !self.forget_absences(owner, expired)? {
            return Ok(false);
        }
        // A repeated absence is counted twice, so the table is recounted slightly early.
        owner.absences.fetch_add(1, Ordering::Relaxed);
        self.record_package(key, &PackageChange { document: Some(document.clone()), ..PackageChange::default() }).map(|()| true)
    }

    fn record_download(&self, download: DownloadEvent, at: Timestamp) {
        if let Some(owner) = &self.owner {
            owner.journal.queue_download(download, at);
        }
    }

    fn record_event(&self, event: LedgerEvent, at: Timestamp) {
        if let Some(owner) = &self.owner {
            owner.journal.queue_event(event, at);
        }
    }

    /// Includes queued rows, which are written first.
    fn exposure(&self, name: &PackageName, version: Option<&str>) -> Result<Vec<Exposure>, StoreError> {
        self.flush();
        self.query(|connection| events::exposure(connection, name, version))
    }

    fn decisions(&self) -> Result<(u64, Vec<Decision>), StoreError> {
        self.query(decisions::read)
    }

    fn names(&self) -> Result<Vec<PackageName>, StoreError> {
        self.flush();
        self.query(packages::names)
    }

    fn releases(&self, name: &PackageName) -> Result<Vec<Release>, StoreError> {
        self.query(|connection| packages::releases(connection, name))
    }

    fn downloaded(&self, name: &PackageName) -> Result<Vec<TarballSource>, StoreError> {
        self.query(|connection| packages::downloaded(connection, name))
    }

    fn downloaded_with(&self, is_wanted: &dyn Fn(&Integrity) -> bool) -> Result<Vec<(PackageName, TarballSource)>, StoreError> {
        self.query(|connection| packages::downloaded_with(connection, is_wanted))
    }

    fn inspected_with_listed_files(&self) -> Result<Vec<(PackageKey, InspectedTarball)>, StoreError> {
        self.query(packages::inspected_with_listed_files)
    }

    /// Includes queued rows, which are written first.
    fn served_tarballs(&self, since: Timestamp, limit: usize) -> Result<Vec<ServedTarball>, StoreError> {
        self.flush();
        self.query(|connection| events::served_tarballs(connection, since, limit))
    }

    fn package_keys(&self, name: &PackageName) -> Result<Vec<PackageKey>, StoreError> {
        self.query(|connection| packages::keys(connection, name))
    }

    fn has_event(&self, event: &LedgerEvent) -> Result<bool, StoreError> {
        self.query(|connection| events::has_event(connection, event))
    }

    fn flush(&self) {
        if let Some(owner) = &self.owner {
            owner.journal.flush();
        }
        if let Err(error) = self.write_pending() {
            tracing::error!(error = &error as &dyn std::error::Error, "pending package changes not written");
        }
    }
}

impl TokenLedger for SqliteLedger {
    fn tokens(&self, ended: Timestamp) -> Result<(u64, Vec<TokenRecord>), StoreError> {
        self.query(|connection| tokens::read(connection, ended))
    }

    fn token_revision(&self) -> Result<u64, StoreError> {
        self.query(|connection| tokens::revision(connection).map(|(recorded, _)| recorded))
    }

    fn set_applied_token_revision(&self, revision: u64) -> Result<(), StoreError> {
        self.write(|connection| tokens::set_applied(connection, revision))
    }

    fn create_token(&self, token: &NewToken) -> Result<TokenCreation, StoreError> {
        self.write(|connection| tokens::create(connection, token))
    }

    fn issue_token(&self, token: &NewToken) -> Result<TokenCreation, StoreError> {
        self.write(|connection| tokens::issue(connection, token))
    }

    fn revoke_token(&self, which: &TokenSelector, by: &Signature) -> Result<Option<u64>, StoreError> {
        self.write(|connection| tokens::revoke(connection, which, by))
    }

    fn record_token_uses(&self, uses: &[(i64, Timestamp)]) -> Result<(), StoreError> {
        self.write(|connection| tokens::record_uses(connection, uses))
    }
}

impl RequestConnection for SqliteLedger {
    fn query<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        Self::query(self, query)
    }

    fn write<T>(&self, change: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        Self::write(self, change)
    }
}

fn write_pending(pending: &PendingChanges, writer: &mut Connection) -> Result<(), StoreError> {
    if pending.is_empty() {
        return Ok(());
    }
    pending.flush(|key, change| packages::write(writer, key, change)).map_err(StoreError::ledger("write"))?;
    tracing::info!("pending package changes written");
    Ok(())
}

pub(crate) fn open_writer(path: &Path) -> Result<Connection, StoreError> {
    schema::make_private(path).map_err(StoreError::file("open", path))?;
    keep_private(path);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = connect(path, flags).map_err(StoreError::ledger("open"))?;
    schema::version(&connection, path)?;
    let prepare = |connection: &Connection| {
        // Returns the space of pruned rows to the disk. Has no effect after the first table is created.
        connection.pragma_update(None, "auto_vacuum", "incremental")?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "normal")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update(None, "journal_size_limit", LOG_SIZE)
    };
    prepare(&connection).map_err(StoreError::ledger("open"))?;
    schema::migrate(&mut connection, path)?;
    Ok(connection)
}

/// Restricts the ledger's files to their owner, with log and index, which have the mode that older versions gave the ledger.
#[cfg(unix)]
fn keep_private(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        let Ok(metadata) = std::fs::metadata(&file) else { continue };
        let others = metadata.permissions().mode() & 0o077;
        if others == 0 {
            continue;
        }
        if let Err(error) = std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)) {
            let cause = &error as &dyn std::error::Error;
            tracing::warn!(path = %Path::new(&file).display(), error = cause, "cannot restrict ledger file to its owner");
        }
    }
}

#[cfg(not(unix))]
fn keep_private(_path: &Path) {}

fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.pragma_update(None, "query_only", true)?;
    // The first query opens the log and its index, so that later reads need no new file descriptor.
    connection.query_row("SELECT 1 FROM sqlite_schema", [], |_| Ok(())).optional()?;
    Ok(connection)
}

pub(crate) fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

/// Adds the path to a damage error, because the operator must move the file away.
fn name_damaged(error: StoreError, path: &Path) -> StoreError {
    match error {
        StoreError::Damaged(detail) => StoreError::Damaged(format!("`{}`: {detail}", path.display())),
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::store::conformance::{at, download, key, ledger_laws, release, token_laws};
    use crate::store::ledger::{DownloadKind, Release};
    use crate::store::request_conformance::request_laws;

    ledger_laws!(tempfile::tempdir().unwrap(), |home: &tempfile::TempDir| Arc::new(open(home.path())));
    token_laws!(tempfile::tempdir().unwrap(), |home: &tempfile::TempDir| Arc::new(open(home.path())));
    request_laws!(tempfile::tempdir().unwrap(), |home: &tempfile::TempDir| Arc::new(open(home.path())));

    fn open(home: &Path) -> SqliteLedger {
        SqliteLedger::open(&DataDir::open(home).unwrap()).unwrap()
    }

    fn axios() -> PackageName {
        PackageName::parse("axios").unwrap()
    }

    fn thousands() -> PackageChange {
        let release = |number: usize| Release { first_seen: at(0), ..release(&format!("{number}.0.0"), &number.to_le_bytes()) };
        PackageChange { releases: (0..3500).map(release).collect(), ..PackageChange::default() }
    }

    #[test]
    fn concurrent_reader_sees_flushed_rows() {
        let home = tempfile::tempdir().unwrap();
        let ledger = open(home.path());
        let reader = SqliteLedger::read_only(home.path()).unwrap();
        assert_eq!(reader.exposure(&axios(), None).unwrap(), []);
        ledger.record_download(download("1.14.1", [10, 0, 0, 1]), at(1));
        ledger.flush();
        assert_eq!(reader.exposure(&axios(), Some("1.14.1")).unwrap().len(), 1);
        drop(ledger);
        assert_eq!(reader.exposure(&axios(), Some("1.14.1")).unwrap().len(), 1);
    }

    #[test]
    fn read_only_ledger_changes_nothing() {
        let home = tempfile::tempdir().unwrap();
        let missing = SqliteLedger::read_only(home.path()).err().unwrap();
        assert_eq!(missing.to_string(), format!("cannot open `{}`", home.path().join("ledger.sqlite").display()));
        let ledger = open(home.path());
        ledger.record_download(download("1.14.1", [10, 0, 0, 1]), at(1));
        drop(ledger);
        assert!(!home.path().join("ledger.sqlite-shm").exists());
        let reader = SqliteLedger::read_only(home.path()).unwrap();
        assert_eq!(reader.exposure(&axios(), None).unwrap().len(), 1);
        assert!(matches!(reader.record_package(&key("axios"), &PackageChange::default()), Err(StoreError::ReadOnly)));
        reader.record_download(download("1.14.1", [10, 0, 0, 1]), at(2));
        reader.flush();
        assert_eq!(reader.exposure(&axios(), None).unwrap()[0].times, 1);
        let refused =
            reader.read(|connection| connection.execute_batch("DELETE FROM downloads").map_err(StoreError::ledger("write")));
        assert!(refused.is_err());
    }

    #[test]
    fn newer_schema_is_rejected_and_unchanged() {
        let home = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(home.path()).unwrap();
        let path = DataDir::ledger_in(home.path());
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        let before = std::fs::read(&path).unwrap();
        let expected = format!(
            "`{}` was written by a newer Coldframe (schema 99, supported: {}); upgrade Coldframe",
            path.display(),
            schema::CURRENT
        );
        assert_eq!(SqliteLedger::open(&data_dir).err().unwrap().to_string(), expected);
        assert_eq!(SqliteLedger::read_only(home.path()).err().unwrap().to_string(), expected);
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn only_the_owner_migrates_an_older_schema() {
        let home = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(home.path()).unwrap();
        std::fs::write(DataDir::ledger_in(home.path()), b"").unwrap();
        assert!(matches!(SqliteLedger::read_only(home.path()), Err(StoreError::Older { found: 0, .. })));
        drop(SqliteLedger::open(&data_dir).unwrap());
        SqliteLedger::read_only(home.path()).unwrap();
    }

    #[test]
    fn garbage_file_is_reported_and_kept() {
        let home = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(home.path()).unwrap();
        let path = DataDir::ledger_in(home.path());
        std::fs::write(&path, "garbage ".repeat(2000)).unwrap();
        let expected = format!("the ledger is damaged: `{}`: file is not a database", path.display());
        assert_eq!(SqliteLedger::open(&data_dir).err().unwrap().to_string(), expected);
        assert_eq!(SqliteLedger::read_only(home.path()).err().unwrap().to_string(), expected);
        assert_eq!(std::fs::read(&path).unwrap(), "garbage ".repeat(2000).as_bytes());
    }

    #[test]
    fn damaged_page_is_an_error_and_not_an_empty_record() {
        let home = tempfile::tempdir().unwrap();
        let ledger = open(home.path());
        ledger.record_package(&key("axios"), &thousands()).unwrap();
        drop(ledger);
        let path = DataDir::ledger_in(home.path());
        let mut bytes = std::fs::read(&path).unwrap();
        let length = bytes.len();
        bytes[length / 4..].fill(0x5a);
        std::fs::write(&path, bytes).unwrap();
        let error = SqliteLedger::open(&DataDir::open(home.path()).unwrap()).and_then(|ledger| ledger.package(&key("axios")));
        assert!(matches!(error, Err(StoreError::Damaged(_))), "{error:?}");
    }

    #[test]
    fn invalid_integrity_is_damage() {
        let home = tempfile::tempdir().unwrap();
        let ledger = open(home.path());
        ledger
            .record_package(&key("axios"), &PackageChange { releases: vec![release("1.0.0", b"")], ..PackageChange::default() })
            .unwrap();
        ledger.write(|connection| connection.execute("UPDATE releases SET integrity = 'sha512-zz'", [])).unwrap();
        assert!(matches!(ledger.package(&key("axios")), Err(StoreError::Damaged(_))));
    }

    #[test]
    fn failed_change_is_rolled_back() {
        let home = tempfile::tempdir().unwrap();
        let ledger = open(home.path());
        ledger.write(|connection| connection.execute_batch("DROP TABLE sightings")).unwrap();
        let sighting = crate::store::ledger::TagSighting {
            tag: "latest".into(),
            version: "1.0.0".into(),
            first_seen: at(0),
            last_seen: at(0),
        };
        let change = PackageChange { releases: vec![release("1.0.0", b"")], tags: vec![sighting], ..PackageChange::default() };
        assert!(matches!(ledger.record_package(&key("axios"), &change), Err(StoreError::Ledger { action: "write", .. })));
        let rows =
            |table| ledger.read(|connection| Ok(connection.query_row(table, [], |row| row.get::<_, i64>(0)).unwrap())).unwrap();
        assert_eq!((rows("SELECT count(*) FROM releases"), rows("SELECT count(*) FROM packages")), (0, 0));
    }

    #[test]
    fn package_with_thousands_of_releases_is_fast() {
        let home = tempfile::tempdir().unwrap();
        let (ledger, change) = (open(home.path()), thousands());
        let start = Instant::now();
        ledger.record_package(&key("axios"), &change).unwrap();
        assert_eq!(ledger.package(&key("axios")).unwrap().releases.len(), 3500);
        // 100 times the usual duration. One transaction per release would exceed it.
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    }

    #[test]
    fn pruning_deletes_old_rows_and_frees_disk_space() {
        let home = tempfile::tempdir().unwrap();
        let ledger = open(home.path());
        for number in 0..12_000_u32 {
            let [_, high, low, end] = number.to_be_bytes();
            ledger.record_download(download(&format!("{number}.0.0"), [10, high, low, end]), at(i64::from(number)));
        }
        let incident = LedgerEvent { kind: "clock_skew", name: Some(axios()), version: None, detail: "six minutes".to_owned() };
        ledger.record_event(incident.clone(), at(3));
        ledger.record_event(LedgerEvent { kind: "version_gone", ..incident }, at(20_000));
        assert_eq!(ledger.events(at(0)).unwrap().len(), 2);
        assert_eq!(ledger.prune(at(11_999)).unwrap(), 12_000);
        assert_eq!(ledger.prune(at(11_999)).unwrap(), 0);
        let left = ledger.exposure(&axios(), None).unwrap();
        assert_eq!((left.len(), left[0].version.as_str()), (1, "11999.0.0"));
        let incidents = ledger.events(at(0)).unwrap();
        assert_eq!(
            (incidents.len(), incidents[0].kind.as_str(), incidents[0].name.as_deref()),
            (1, "version_gone", Some("axios"))
        );
        let count =
            |sql| ledger.read(|connection| Ok(connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap())).unwrap();
        assert_eq!((count("SELECT count(*) FROM clients"), count("SELECT count(*) FROM subjects")), (1, 1));
        assert_eq!(count("PRAGMA freelist_count"), 0);
    }

    #[test]
    fn hidden_versions_are_stored_once_as_json() {
        let home = tempfile::tempdir().unwrap();
        let ledger = open(home.path());
        let hidden: Arc<[Box<str>]> = Arc::new(["1.14.1".into(), "0.30.4".into()]);
        for client in 0..5 {
            let download = DownloadEvent {
                kind: DownloadKind::Packument,
                version: None,
                integrity: None,
                hidden: Arc::clone(&hidden),
                ..download("", [10, 0, 0, client])
            };
            ledger.record_download(download, at(0));
        }
        ledger.flush();
        let read = ledger.read(|connection| {
            Ok(connection
                .query_row("SELECT count(*), max(hidden) FROM subjects", [], |row| Ok((row.get(0)?, row.get(1)?)))
                .unwrap())
        });
        let (rows, json): (i64, String) = read.unwrap();
        assert_eq!((rows, json.as_str()), (1, r#"["1.14.1","0.30.4"]"#));
    }
}
