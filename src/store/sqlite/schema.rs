//! The ledger's tables and how they came to be. Refuses to know who reads them.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use rusqlite::Connection;

use crate::npm::{DigestComparison, Integrity};
use crate::store::StoreError;

/// What each schema adds to the one before it. Entries are never edited once released: ledgers made by them exist.
const MIGRATIONS: [&str; 6] = [FIRST, DECISIONS, DIGESTS, FORMS, LOOKS, RETURNS];

/// Instants are nanoseconds since 1970 UTC, so that a person needs only `datetime(x / 1e9, 'unixepoch')`.
const FIRST: &str = "
    CREATE TABLE packages (
        id INTEGER PRIMARY KEY,
        upstream TEXT NOT NULL,
        name TEXT NOT NULL,
        first_seen INTEGER,
        validated INTEGER,
        changed INTEGER,
        content BLOB,
        length INTEGER NOT NULL DEFAULT 0,
        etag TEXT,
        last_modified TEXT,
        UNIQUE (upstream, name)
    ) STRICT;

    -- An integrity of '' is one that upstream did not state; a NULL would never equal itself.
    CREATE TABLE releases (
        package INTEGER NOT NULL REFERENCES packages (id),
        version TEXT NOT NULL,
        integrity TEXT NOT NULL,
        published INTEGER,
        effective INTEGER NOT NULL,
        first_seen INTEGER NOT NULL,
        gone INTEGER,
        replaced INTEGER NOT NULL,
        PRIMARY KEY (package, version, integrity)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE sightings (
        package INTEGER NOT NULL REFERENCES packages (id),
        tag TEXT NOT NULL,
        version TEXT NOT NULL,
        first_seen INTEGER NOT NULL,
        last_seen INTEGER NOT NULL,
        PRIMARY KEY (package, tag, version, first_seen)
    ) STRICT, WITHOUT ROWID;

    -- Clients and what they ask for repeat a thousandfold; a download is then a row of numbers.
    CREATE TABLE clients (
        id INTEGER PRIMARY KEY,
        address TEXT NOT NULL,
        tool TEXT NOT NULL,
        tool_version TEXT NOT NULL,
        UNIQUE (address, tool, tool_version)
    ) STRICT;

    -- kind is 'tarball' or 'packument'; '' where there is none; hidden is a JSON array of versions, or ''.
    CREATE TABLE subjects (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL,
        version TEXT NOT NULL,
        kind TEXT NOT NULL,
        integrity TEXT NOT NULL,
        hidden TEXT NOT NULL,
        UNIQUE (name, version, kind, integrity, hidden)
    ) STRICT;

    -- outcome is 'served' or 'refused'.
    CREATE TABLE downloads (
        id INTEGER PRIMARY KEY,
        subject INTEGER NOT NULL REFERENCES subjects (id),
        client INTEGER NOT NULL REFERENCES clients (id),
        outcome TEXT NOT NULL,
        rule TEXT,
        times INTEGER NOT NULL,
        first INTEGER NOT NULL,
        last INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX downloads_by_subject ON downloads (subject);
    CREATE INDEX downloads_by_client ON downloads (client);
    CREATE INDEX downloads_by_last ON downloads (last);

    CREATE TABLE incidents (
        id INTEGER PRIMARY KEY,
        kind TEXT NOT NULL,
        name TEXT,
        version TEXT,
        detail TEXT NOT NULL,
        times INTEGER NOT NULL,
        first INTEGER NOT NULL,
        last INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX incidents_by_last ON incidents (last);
";

/// What people decide. `act` is JSON, see `policy::decisions`; rows are never deleted, for they say who opened what.
const DECISIONS: &str = "
    CREATE TABLE decisions (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        act TEXT NOT NULL,
        reason TEXT NOT NULL,
        author TEXT NOT NULL,
        made INTEGER NOT NULL,
        expires INTEGER,
        needs_second INTEGER NOT NULL,
        second TEXT,
        confirmed INTEGER,
        revoked_by TEXT,
        revoked INTEGER,
        revoked_why TEXT
    ) STRICT;

    -- One row: how often something was decided, and how much of that the server has in force.
    CREATE TABLE decided (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        revision INTEGER NOT NULL,
        in_force INTEGER NOT NULL
    ) STRICT;
    INSERT INTO decided (only, revision, in_force) VALUES (1, 0, 0);
";

/// What bytes hash to. `digests` is SRI, '' where nothing is known beyond `integrity`; `manifest` is a `ManifestDigest`.
const DIGESTS: &str = "
    ALTER TABLE releases ADD COLUMN digests TEXT NOT NULL DEFAULT '';
    ALTER TABLE releases ADD COLUMN manifest BLOB;
    ALTER TABLE releases ADD COLUMN manifest_changed INTEGER;

    -- What a full download yielded, by where it came from. upstream is the registry's address, without a view.
    CREATE TABLE tarballs (
        id INTEGER PRIMARY KEY,
        upstream TEXT NOT NULL,
        name TEXT NOT NULL,
        version TEXT NOT NULL,
        address TEXT NOT NULL,
        sha512 BLOB NOT NULL,
        digests TEXT NOT NULL,
        length INTEGER NOT NULL,
        public INTEGER NOT NULL,
        UNIQUE (upstream, name, version, address, sha512)
    ) STRICT;
";

/// The form that upstream was asked for: 'full' or 'abbreviated', NULL where it was not noted yet.
const FORMS: &str = "
    ALTER TABLE packages ADD COLUMN form TEXT;
";

/// What was seen when, by our own clock, and by which view. `looked` of a ledger from before is its `validated`: the best there is.
/// `seen` is 0 for a package that is recorded only as absent. A release that was not there at the package's first look
/// has an instant in `absent`.
const LOOKS: &str = "
    ALTER TABLE packages ADD COLUMN looked INTEGER;
    ALTER TABLE packages ADD COLUMN modified INTEGER;
    ALTER TABLE packages ADD COLUMN seen INTEGER NOT NULL DEFAULT 1;
    CREATE INDEX packages_never_seen ON packages (looked) WHERE seen = 0;

    ALTER TABLE releases ADD COLUMN absent INTEGER;
    ALTER TABLE releases ADD COLUMN held_since INTEGER;
    ALTER TABLE releases ADD COLUMN moved INTEGER;
    ALTER TABLE releases ADD COLUMN dropped INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE releases ADD COLUMN parted INTEGER NOT NULL DEFAULT 0;

    UPDATE packages SET looked = validated;
    UPDATE releases SET absent = (SELECT first_seen FROM packages WHERE packages.id = releases.package)
        WHERE first_seen > (SELECT first_seen FROM packages WHERE packages.id = releases.package);
    UPDATE releases SET dropped = 1
        WHERE gone IS NOT NULL AND (SELECT content FROM packages WHERE packages.id = releases.package) IS NOT NULL;
";

/// The first look that did not have a release that went. `manifest` of a release may be 49 bytes long from here on: install scripts
/// are part of it.
const RETURNS: &str = "
    ALTER TABLE releases ADD COLUMN missing_since INTEGER;
";

/// The schema that begins with `LOOKS`: views that were two histories before are compared.
const COMPARES_VIEWS: i64 = 5;

/// The newest schema this program knows: how many migrations there are.
pub(crate) const KNOWN: i64 = 6;

/// Brings the ledger at `path` up to date, one transaction a step: killed in between, it goes on from there. An older ledger is copied
/// first, into a file beside it that is never deleted.
///
/// # Errors
/// [`StoreError::Newer`] when it is ahead of this program: nothing was touched then. Also when the copy cannot be made.
pub(crate) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let found = version(connection, path)?;
    if (1..KNOWN).contains(&found) {
        snapshot(connection, path, found)?;
    }
    for (step, sql) in (1_i64..).zip(MIGRATIONS).filter(|(step, _)| *step > found) {
        let migrated = StoreError::ledger("be brought up to date");
        let apply = |connection: &mut Connection| {
            let transaction = connection.transaction()?;
            transaction.execute_batch(sql)?;
            if step == COMPARES_VIEWS {
                part_views(&transaction)?;
            }
            transaction.pragma_update(None, "user_version", step)?;
            transaction.commit()
        };
        apply(connection).map_err(migrated)?;
    }
    Ok(())
}

/// Copies the ledger of schema `found` beside itself, as it is before its migration.
fn snapshot(connection: &Connection, path: &Path, found: i64) -> Result<(), StoreError> {
    let copy = path.with_file_name(format!("ledger-schema-{found}.sqlite"));
    let part = path.with_file_name(format!("ledger-schema-{found}.sqlite.part"));
    copy_into(connection, &part).map_err(StoreError::ledger("be copied before its migration"))?;
    File::open(&part).and_then(|file| file.sync_all()).map_err(StoreError::file("sync", &part))?;
    fs::rename(&part, &copy).map_err(StoreError::file("rename", &part))?;
    tracing::info!(path = %copy.display(), schema = found, "ledger copied before its migration");
    Ok(())
}

/// Copies a ledger into the file `copy`, which its owner alone can read. What is there is replaced.
pub(crate) fn copy_into(connection: &Connection, copy: &Path) -> rusqlite::Result<()> {
    // SQLite takes an empty file for none, and would make one that all may read.
    let made = fs::remove_file(copy).or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) });
    made.and_then(|()| make_private(copy)).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    connection.execute("VACUUM INTO ?1", [copy.to_string_lossy()]).map(drop)
}

/// Makes an empty file for its owner alone, if there is none.
pub(crate) fn make_private(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

/// Views of one package had a history each: they are one now, except for versions whose bytes they never saw alike.
fn part_views(connection: &Connection) -> rusqlite::Result<()> {
    let mut names =
        connection.prepare("SELECT upstream, name FROM packages WHERE upstream LIKE '%#own' OR upstream LIKE '%#anonymous'")?;
    let names: BTreeSet<(String, String)> = names
        .query_map([], |row| {
            let upstream: String = row.get(0)?;
            Ok((upstream.split('#').next().unwrap_or_default().to_owned(), row.get(1)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let mut views =
        connection.prepare("SELECT id FROM packages WHERE name = ?2 AND upstream IN (?1, ?1 || '#own', ?1 || '#anonymous')")?;
    let mut stated = connection.prepare("SELECT version, integrity FROM releases WHERE package = ?1 AND integrity <> ''")?;
    let mut part = connection.prepare("UPDATE releases SET parted = 1 WHERE package = ?1 AND version = ?2")?;
    for (registry, name) in names {
        let ids = views.query_map([&registry, &name], |row| row.get(0))?.collect::<rusqlite::Result<Vec<i64>>>()?;
        let mut by_view: Vec<(i64, HashMap<String, Vec<Integrity>>)> = Vec::new();
        for id in ids {
            let mut versions: HashMap<String, Vec<Integrity>> = HashMap::new();
            let rows = stated.query_map([id], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
            for row in rows {
                let (version, integrity) = row?;
                versions.entry(version).or_default().extend(Integrity::parse(Some(&integrity), None));
            }
            by_view.push((id, versions));
        }
        for (place, (one, versions)) in by_view.iter().enumerate() {
            for (other, others) in &by_view[place + 1..] {
                for (version, digests) in versions {
                    let Some(others) = others.get(version) else { continue };
                    let same = |digest: &Integrity| others.iter().any(|other| digest.agreement(other) == DigestComparison::Same);
                    if !digests.iter().any(same) {
                        part.execute((one, version))?;
                        part.execute((other, version))?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// Makes sure that the ledger at `path` can be read as it is.
///
/// # Errors
/// [`StoreError::Newer`] and [`StoreError::Older`] when it cannot.
pub(crate) fn expect_known(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let found = version(connection, path)?;
    if found < KNOWN {
        return Err(StoreError::Older { path: path.to_owned(), found, known: KNOWN });
    }
    Ok(())
}

/// Makes sure that this program may touch the ledger at `path`.
///
/// # Errors
/// [`StoreError::Newer`] when it is ahead of this program.
pub(crate) fn refuse_newer(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    version(connection, path).map(|_| ())
}

fn version(connection: &Connection, path: &Path) -> Result<i64, StoreError> {
    let found = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(StoreError::ledger("be opened"))?;
    if found > KNOWN {
        return Err(StoreError::Newer { path: path.to_owned(), found, known: KNOWN });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_migration_is_a_schema_of_its_own() {
        assert_eq!(i64::try_from(MIGRATIONS.len()), Ok(KNOWN));
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, Path::new("ledger")).unwrap();
        expect_known(&connection, Path::new("ledger")).unwrap();
        migrate(&mut connection, Path::new("ledger")).unwrap();
    }
}
