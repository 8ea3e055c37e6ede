//! The ledger in SQLite: one file in the data directory, readable beside a running server. Refuses to know what the rows
//! mean; `packages` and `downloads` say how they lie.
//!
//! Write-ahead log, synced at checkpoints: a kill of the process at any instant loses nothing that was committed, a power
//! cut may lose the last commits and never damages the file.

pub mod decision_writer;
pub(crate) mod decisions;
pub(crate) mod events;
pub(crate) mod packages;
pub(crate) mod pending;
pub(crate) mod read_pool;
pub(crate) mod schema;
pub(crate) mod write_behind;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};

use crate::npm::{Algorithm, Digest, PackageName};
use crate::policy::decisions::Decision;
use crate::store::StoreError;
use crate::store::data_dir::{DataDir, DataDirLock};
use crate::store::ledger::{
    DownloadEvent, Exposure, Ledger, LedgerEvent, PackageChange, PackageKey, PackageRecord, Release, StoredPackument,
    TarballSource,
};
use crate::store::sqlite::events::{DownloadSummary, RecordedEvent};
use crate::store::sqlite::pending::PendingChanges;
use crate::store::sqlite::read_pool::ReadPool;
use crate::store::sqlite::write_behind::WriteBehindLog;

/// How long a connection waits for another process's lock: `exposure` recovering the log of a killed server, a backup.
const BUSY: Duration = Duration::from_secs(5);
/// How long a write waits for it: somebody waits for the answer, and what cannot be written now is written later.
const BUSY_WRITING: Duration = Duration::from_secs(2);
/// Packages that were asked for and never seen: about 200 bytes of disk each. Absences older than any rule's age are forgotten first;
/// while all are younger, clients that ask for more names that do not exist get an error.
const MAX_ABSENCES: usize = 200_000;
/// How often absences are counted while there are too many, in seconds: questions for names that do not exist must not keep the ledger
/// from being written.
const COUNT_INTERVAL: i64 = 60;
/// Statements kept compiled by each connection.
const STATEMENTS: usize = 32;
/// What the write-ahead log is cut back to after a checkpoint, in bytes.
const LOG_SIZE: u32 = 16 << 20;

/// The ledger of a data directory.
pub struct SqliteLedger {
    path: PathBuf,
    readers: ReadPool,
    owner: Option<WriterHandle>,
}

/// What only the process that owns the data directory has. The journal goes first: it writes what is left.
struct WriterHandle {
    journal: WriteBehindLog,
    writer: Arc<Mutex<Connection>>,
    owed: Arc<PendingChanges>,
    /// How many packages are recorded only as absent.
    absences: AtomicUsize,
    /// Where nothing could be forgotten: from when on absences may be old enough, in seconds since 1970.
    full_until: AtomicI64,
    _ownership: DataDirLock,
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
        writer.busy_timeout(BUSY_WRITING).map_err(StoreError::ledger("be opened"))?;
        let absences = packages::count_absences(&writer).map_err(StoreError::ledger("be read"))?;
        let writer = Arc::new(Mutex::new(writer));
        let owed = Arc::new(PendingChanges::default());
        let (writing, owing) = (Arc::clone(&writer), Arc::clone(&owed));
        let journal = WriteBehindLog::start(move |batch| {
            let mut connection = writing.lock().unwrap_or_else(PoisonError::into_inner);
            settle(&owing, &mut connection)?;
            events::write(&mut connection, batch).map_err(StoreError::ledger("be written"))
        })
        .map_err(StoreError::file("start a thread that writes", &path))?;
        let owner = WriterHandle {
            journal,
            writer,
            owed,
            absences: absences.into(),
            full_until: i64::MIN.into(),
            _ownership: data_dir.ownership(),
        };
        Ok(Self { path, readers: ReadPool::default(), owner: Some(owner) })
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
        let ledger = Self { path, readers: ReadPool::default(), owner: None };
        ledger
            .read(|connection| schema::expect_known(connection, &ledger.path))
            .map_err(|error| name_damaged(error, &ledger.path))?;
        Ok(ledger)
    }

    /// Copies the ledger of the data directory at `from`, as it stands, into the directory `into`, which has none; nothing
    /// where there is none to copy. Works beside a running server.
    ///
    /// # Errors
    /// When it cannot be read, or the copy not be written.
    pub fn copy(from: &Path, into: &Path) -> Result<(), StoreError> {
        let (path, copy) = (DataDir::ledger_in(from), DataDir::ledger_in(into));
        if !path.exists() {
            return Ok(());
        }
        let connection = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(StoreError::ledger("be opened"))?;
        schema::copy_into(&connection, &copy).map_err(StoreError::ledger("be copied"))
    }

    /// Every tarball that was asked for, served or refused, by name and version.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn asked(&self) -> Result<Vec<DownloadSummary>, StoreError> {
        self.flush();
        self.read(|connection| events::asked(connection).map_err(StoreError::ledger("be read")))
    }

    /// The remembered documents of a package, of every registry and view: what each is stored under.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn documents(&self, name: &PackageName) -> Result<Vec<Digest>, StoreError> {
        self.flush();
        let contents = self.read(|connection| packages::contents(connection, name).map_err(StoreError::ledger("be read")))?;
        Ok(contents.iter().filter_map(|content| Digest::from_bytes(Algorithm::Sha256, content)).collect())
    }

    /// Events that happened at or after `since`, oldest first.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn incidents(&self, since: Timestamp) -> Result<Vec<RecordedEvent>, StoreError> {
        self.flush();
        self.read(|connection| events::incidents(connection, since).map_err(StoreError::ledger("be read")))
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
            let pruned = self.write(|connection| events::prune_some(connection, before))?;
            if pruned == 0 {
                break;
            }
            gone += pruned;
        }
        if gone > 0 {
            self.write(|connection| events::sweep(connection))?;
            while self.write(|connection| events::shrink_some(connection))? {}
        }
        Ok(gone)
    }

    /// Writes the changes that could not be written before, if there are any.
    ///
    /// # Errors
    /// When the ledger still does not take them; they are kept.
    pub fn settle(&self) -> Result<(), StoreError> {
        let Some(owner) = self.owner.as_ref().filter(|owner| !owner.owed.is_empty()) else { return Ok(()) };
        settle(&owner.owed, &mut owner.writer.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many requests and events were noted and are not, and will not be, in the ledger.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.owner.as_ref().map_or(0, |owner| owner.journal.lost())
    }

    /// The revision of what was decided; cheap enough to be asked several times a second.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn decided(&self) -> Result<u64, StoreError> {
        self.read(|connection| decisions::revision(connection).map(|(made, _)| made).map_err(StoreError::ledger("be read")))
    }

    /// Tells whoever waits for it that the decisions up to `revision` are in force.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    pub fn put_in_force(&self, revision: u64) -> Result<(), StoreError> {
        self.write(|connection| decisions::put_in_force(connection, revision))
    }

    /// Forgets absences from before `expired`; whether there is room for others now.
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
        self.readers.read(|| open_reader(&self.path).map_err(StoreError::ledger("be opened")), work)
    }

    fn write<T>(&self, work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let owner = self.owner.as_ref().ok_or(StoreError::ReadOnly)?;
        let mut connection = owner.writer.lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut connection).map_err(StoreError::ledger("be written"))
    }
}

impl Ledger for SqliteLedger {
    fn package(&self, key: &PackageKey) -> Result<PackageRecord, StoreError> {
        // Asked for first: what is written while this reads is then there twice, which changes nothing.
        let owed = self.owner.as_ref().map(|owner| owner.owed.of(key)).unwrap_or_default();
        let mut record = self.read(|connection| packages::read(connection, key).map_err(StoreError::ledger("be read")))?;
        for change in &owed {
            record.apply(change);
        }
        Ok(record)
    }

    fn was_seen(&self, key: &PackageKey) -> Result<bool, StoreError> {
        let owed = self.owner.as_ref().map(|owner| owner.owed.of(key)).unwrap_or_default();
        let shows = |change: &PackageChange| {
            !change.releases.is_empty() || change.document.as_ref().is_some_and(|document| document.content.is_some())
        };
        if owed.iter().any(|change| shows(change)) {
            return Ok(true);
        }
        self.read(|connection| packages::was_seen(connection, key).map_err(StoreError::ledger("be read")))
    }

    fn tarballs(&self, key: &PackageKey, version: &str) -> Result<Vec<TarballSource>, StoreError> {
        let owed = self.owner.as_ref().map(|owner| owner.owed.of(key)).unwrap_or_default();
        let mut tarballs =
            self.read(|connection| packages::tarballs(connection, key, version).map_err(StoreError::ledger("be read")))?;
        let waiting = owed.iter().flat_map(|change| &change.tarballs).filter(|source| *source.version == *version);
        tarballs.extend(waiting.cloned());
        Ok(tarballs)
    }

    /// While the disk or another process does not let the ledger be written, the change waits in memory, and those after it
    /// with it: only the first waits for the lock.
    fn record_package(&self, key: &PackageKey, change: &PackageChange) -> Result<(), StoreError> {
        let owner = self.owner.as_ref().ok_or(StoreError::ReadOnly)?;
        if owner.owed.is_empty() {
            let mut connection = owner.writer.lock().unwrap_or_else(PoisonError::into_inner);
            // Another one may have found out in the meantime.
            if owner.owed.is_empty() {
                match packages::write(&mut connection, key, change).map_err(StoreError::ledger("be written")) {
                    Err(error) if error.may_pass() && owner.owed.push(key, change) => {
                        let cause = &error as &dyn std::error::Error;
                        tracing::error!(package.name = %key.name, error = cause, "the ledger cannot be written, changes wait in memory");
                        return Ok(());
                    }
                    written => return written,
                }
            }
        }
        if owner.owed.push(key, change) { Ok(()) } else { Err(StoreError::NoRoom) }
    }

    fn record_absence(&self, key: &PackageKey, document: &StoredPackument, expired: Timestamp) -> Result<bool, StoreError> {
        let owner = self.owner.as_ref().ok_or(StoreError::ReadOnly)?;
        let is_full = owner.absences.load(Ordering::Relaxed) >= MAX_ABSENCES;
        // One that is recorded takes no more than it does already.
        let is_recorded = || {
            let known = |connection: &Connection| packages::is_recorded(connection, key).map_err(StoreError::ledger("be read"));
            Ok::<_, StoreError>(owner.owed.of(key).iter().any(|change| change.document.is_some()) || self.read(known)?)
        };
        if is_full && !is_recorded()? && !self.forget_absences(owner, expired)? {
            return Ok(false);
        }
        // A repeated absence is counted twice, so that the table is counted again a little early.
        owner.absences.fetch_add(1, Ordering::Relaxed);
        self.record_package(key, &PackageChange { document: Some(document.clone()), ..PackageChange::default() }).map(|()| true)
    }

    fn record_download(&self, download: DownloadEvent, at: Timestamp) {
        if let Some(owner) = &self.owner {
            owner.journal.note_download(download, at);
        }
    }

    fn record_incident(&self, incident: LedgerEvent, at: Timestamp) {
        if let Some(owner) = &self.owner {
            owner.journal.note_incident(incident, at);
        }
    }

    /// Includes what was noted just now: it is written first.
    fn exposure(&self, name: &PackageName, version: Option<&str>) -> Result<Vec<Exposure>, StoreError> {
        self.flush();
        self.read(|connection| events::exposure(connection, name, version).map_err(StoreError::ledger("be read")))
    }

    fn decisions(&self) -> Result<(u64, Vec<Decision>), StoreError> {
        self.read(|connection| decisions::read(connection).map_err(StoreError::ledger("be read")))
    }

    fn names(&self) -> Result<Vec<PackageName>, StoreError> {
        self.flush();
        self.read(|connection| packages::names(connection).map_err(StoreError::ledger("be read")))
    }

    fn releases(&self, name: &PackageName) -> Result<Vec<Release>, StoreError> {
        self.read(|connection| packages::releases(connection, name).map_err(StoreError::ledger("be read")))
    }

    fn downloaded(&self, name: &PackageName) -> Result<Vec<TarballSource>, StoreError> {
        self.read(|connection| packages::downloaded(connection, name).map_err(StoreError::ledger("be read")))
    }

    fn has_incident(&self, incident: &LedgerEvent) -> Result<bool, StoreError> {
        self.read(|connection| events::has_incident(connection, incident).map_err(StoreError::ledger("be read")))
    }

    fn flush(&self) {
        if let Some(owner) = &self.owner {
            owner.journal.flush();
        }
        if let Err(error) = self.settle() {
            tracing::error!(error = &error as &dyn std::error::Error, "changes to packages are not in the ledger yet");
        }
    }
}

/// Writes what could not be written before.
fn settle(owed: &PendingChanges, writer: &mut Connection) -> Result<(), StoreError> {
    if owed.is_empty() {
        return Ok(());
    }
    owed.settle(|key, change| packages::write(writer, key, change)).map_err(StoreError::ledger("be written"))?;
    tracing::info!("the ledger is written again, nothing was lost of what was seen");
    Ok(())
}

pub(crate) fn open_writer(path: &Path) -> Result<Connection, StoreError> {
    schema::make_private(path).map_err(StoreError::file("open", path))?;
    keep_private(path);
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

/// Takes the ledger's files away from everyone but their owner, whatever the directory lets others do. SQLite gives its log and index
/// the mode of the ledger itself, so those of a ledger that an older version made are narrowed too.
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
            tracing::warn!(path = %Path::new(&file).display(), error = &error as &dyn std::error::Error, "ledger file stays readable for others");
        }
    }
}

#[cfg(not(unix))]
fn keep_private(_path: &Path) {}

fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.pragma_update(None, "query_only", true)?;
    // Its log and the index of that are opened at the first look: whoever reads later needs no file for it.
    connection.query_row("SELECT 1 FROM sqlite_schema", [], |_| Ok(())).optional()?;
    Ok(connection)
}

pub(crate) fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::store::conformance::{at, download, key, ledger_laws, release};
    use crate::store::ledger::{DownloadKind, Release};

    ledger_laws!(tempfile::tempdir().unwrap(), |home: &tempfile::TempDir| Arc::new(open(home.path())));

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
    fn a_reader_beside_the_writer_sees_what_was_flushed() {
        let home = tempfile::tempdir().unwrap();
        let ledger = open(home.path());
        let beside = SqliteLedger::read_only(home.path()).unwrap();
        assert_eq!(beside.exposure(&axios(), None).unwrap(), []);
        ledger.record_download(download("1.14.1", [10, 0, 0, 1]), at(1));
        ledger.flush();
        assert_eq!(beside.exposure(&axios(), Some("1.14.1")).unwrap().len(), 1);
        drop(ledger);
        assert_eq!(beside.exposure(&axios(), Some("1.14.1")).unwrap().len(), 1);
    }

    #[test]
    fn a_reader_without_a_writer_changes_nothing() {
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
            reader.read(|connection| connection.execute_batch("DELETE FROM downloads").map_err(StoreError::ledger("be written")));
        assert!(refused.is_err());
    }

    #[test]
    fn a_newer_schema_is_refused_and_left_as_it_is() {
        let home = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(home.path()).unwrap();
        let path = DataDir::ledger_in(home.path());
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        let before = std::fs::read(&path).unwrap();
        let said = format!("`{}` was written by a newer coldframe (schema 99, this one knows {})", path.display(), schema::KNOWN);
        assert_eq!(SqliteLedger::open(&data_dir).err().unwrap().to_string(), said);
        assert_eq!(SqliteLedger::read_only(home.path()).err().unwrap().to_string(), said);
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn an_older_schema_is_brought_up_to_date_by_its_owner_alone() {
        let home = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(home.path()).unwrap();
        std::fs::write(DataDir::ledger_in(home.path()), b"").unwrap();
        assert!(matches!(SqliteLedger::read_only(home.path()), Err(StoreError::Older { found: 0, .. })));
        drop(SqliteLedger::open(&data_dir).unwrap());
        SqliteLedger::read_only(home.path()).unwrap();
    }

    #[test]
    fn garbage_in_place_of_the_ledger_is_a_clear_error_and_is_kept() {
        let home = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(home.path()).unwrap();
        let path = DataDir::ledger_in(home.path());
        std::fs::write(&path, "garbage ".repeat(2000)).unwrap();
        let said = format!("the ledger is damaged: `{}`: file is not a database", path.display());
        assert_eq!(SqliteLedger::open(&data_dir).err().unwrap().to_string(), said);
        assert_eq!(SqliteLedger::read_only(home.path()).err().unwrap().to_string(), said);
        assert_eq!(std::fs::read(&path).unwrap(), "garbage ".repeat(2000).as_bytes());
    }

    #[test]
    fn a_damaged_page_is_an_error_and_never_a_record_without_releases() {
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
    fn an_integrity_that_cannot_be_read_is_damage() {
        let home = tempfile::tempdir().unwrap();
        let ledger = open(home.path());
        ledger
            .record_package(&key("axios"), &PackageChange { releases: vec![release("1.0.0", b"")], ..PackageChange::default() })
            .unwrap();
        ledger.write(|connection| connection.execute("UPDATE releases SET integrity = 'sha512-zz'", [])).unwrap();
        assert!(matches!(ledger.package(&key("axios")), Err(StoreError::Damaged(_))));
    }

    #[test]
    fn a_change_that_fails_leaves_no_part_of_itself() {
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
        assert!(matches!(ledger.record_package(&key("axios"), &change), Err(StoreError::Ledger { action: "be written", .. })));
        let rows =
            |table| ledger.read(|connection| Ok(connection.query_row(table, [], |row| row.get::<_, i64>(0)).unwrap())).unwrap();
        assert_eq!((rows("SELECT count(*) FROM releases"), rows("SELECT count(*) FROM packages")), (0, 0));
    }

    #[test]
    fn a_package_of_thousands_is_written_and_read_in_no_time() {
        let home = tempfile::tempdir().unwrap();
        let (ledger, change) = (open(home.path()), thousands());
        let start = Instant::now();
        ledger.record_package(&key("axios"), &change).unwrap();
        assert_eq!(ledger.package(&key("axios")).unwrap().releases.len(), 3500);
        // A hundredfold of what it takes; one transaction a release would take longer still.
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    }

    #[test]
    fn retention_removes_what_ended_before_and_gives_the_disk_back() {
        let home = tempfile::tempdir().unwrap();
        let ledger = open(home.path());
        for number in 0..12_000_u32 {
            let [_, high, low, end] = number.to_be_bytes();
            ledger.record_download(download(&format!("{number}.0.0"), [10, high, low, end]), at(i64::from(number)));
        }
        let incident = LedgerEvent { kind: "clock_skew", name: Some(axios()), version: None, detail: "six minutes".to_owned() };
        ledger.record_incident(incident.clone(), at(3));
        ledger.record_incident(LedgerEvent { kind: "version_gone", ..incident }, at(20_000));
        assert_eq!(ledger.incidents(at(0)).unwrap().len(), 2);
        assert_eq!(ledger.prune(at(11_999)).unwrap(), 12_000);
        assert_eq!(ledger.prune(at(11_999)).unwrap(), 0);
        let left = ledger.exposure(&axios(), None).unwrap();
        assert_eq!((left.len(), left[0].version.as_str()), (1, "11999.0.0"));
        let incidents = ledger.incidents(at(0)).unwrap();
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
    fn what_was_hidden_is_kept_as_json_once() {
        let home = tempfile::tempdir().unwrap();
        let ledger = open(home.path());
        let hidden: Arc<[Box<str>]> = Arc::new(["1.14.1".into(), "0.30.4".into()]);
        for client in 0..5 {
            let asked = DownloadEvent {
                kind: DownloadKind::Packument,
                version: None,
                integrity: None,
                hidden: Arc::clone(&hidden),
                ..download("", [10, 0, 0, client])
            };
            ledger.record_download(asked, at(0));
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
