//! The ledger's tables and how they came to be. Refuses to know who reads them.

use std::path::Path;

use rusqlite::Connection;

use super::StoreError;

/// What each schema adds to the one before it. Entries are never edited once released: ledgers made by them exist.
const MIGRATIONS: [&str; 4] = [FIRST, DECISIONS, DIGESTS, FORMS];

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

/// What people decide. `act` is JSON, see `policy::decision`; rows are never deleted, for they say who opened what.
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

/// The newest schema this program knows: how many migrations there are.
pub(super) const KNOWN: i64 = 4;

/// Brings the ledger at `path` up to date, one transaction a step: killed in between, it goes on from there.
///
/// # Errors
/// [`StoreError::Newer`] when it is ahead of this program: nothing was touched then.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let found = version(connection, path)?;
    for (step, sql) in (1_i64..).zip(MIGRATIONS).filter(|(step, _)| *step > found) {
        let migrated = StoreError::ledger("be brought up to date");
        let apply = |connection: &mut Connection| {
            let transaction = connection.transaction()?;
            transaction.execute_batch(sql)?;
            transaction.pragma_update(None, "user_version", step)?;
            transaction.commit()
        };
        apply(connection).map_err(migrated)?;
    }
    Ok(())
}

/// Makes sure that the ledger at `path` can be read as it is.
///
/// # Errors
/// [`StoreError::Newer`] and [`StoreError::Older`] when it cannot.
pub(super) fn expect_known(connection: &Connection, path: &Path) -> Result<(), StoreError> {
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
pub(super) fn refuse_newer(connection: &Connection, path: &Path) -> Result<(), StoreError> {
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
