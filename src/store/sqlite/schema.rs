//! The ledger's schema and its migrations.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use rusqlite::Connection;

use crate::npm::{DigestComparison, Integrity};
use crate::store::data_dir::remove_if_present;
use crate::store::error::StoreError;

/// The migration to each schema from the one before. A released entry must never change, because ledgers created by it exist.
const MIGRATIONS: [&str; 13] = [
    FIRST,
    DECISIONS,
    DIGESTS,
    FORMS,
    LOOKS,
    RETURNS,
    INSPECTIONS,
    PROVENANCE,
    TARBALL_SUMMARIES,
    SIGNALS,
    TOKENS,
    REQUESTS,
    REPORTS,
];

/// The first schema. Instants are Unix time in nanoseconds; `datetime(x / 1e9, 'unixepoch')` makes them readable.
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

    -- An integrity of '' is one that upstream did not state. NULL cannot be used, because it never equals itself.
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

    -- Clients and subjects repeat thousands of times, so a download refers to them by id.
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

/// Decisions of operators. `act` is JSON, see `policy::decisions`. Rows are kept, because they document who allowed what.
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

    -- One row: the revision of the recorded decisions, and the one that the server applies.
    CREATE TABLE decided (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        revision INTEGER NOT NULL,
        in_force INTEGER NOT NULL
    ) STRICT;
    INSERT INTO decided (only, revision, in_force) VALUES (1, 0, 0);
";

/// Digests. `digests` is SRI, '' if nothing is known beyond `integrity`; `manifest` is a `ManifestDigest`.
const DIGESTS: &str = "
    ALTER TABLE releases ADD COLUMN digests TEXT NOT NULL DEFAULT '';
    ALTER TABLE releases ADD COLUMN manifest BLOB;
    ALTER TABLE releases ADD COLUMN manifest_changed INTEGER;

    -- Downloaded tarballs by URL. upstream is the registry's address, without a view.
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

/// The form that upstream was asked for: 'full' or 'abbreviated', NULL in rows of older versions.
const FORMS: &str = "
    ALTER TABLE packages ADD COLUMN form TEXT;
";

/// Lookups by the local clock and per view. For older rows `looked` is `validated`, the closest known time. `seen` is 0 for a
/// package recorded only as absent. `absent` is set for a release that the package's first lookup lacked.
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

/// The first lookup without a release that disappeared. From here on, `manifest` may be 49 bytes long, with install scripts.
const RETURNS: &str = "
    ALTER TABLE releases ADD COLUMN missing_since INTEGER;
";

/// Opened tarballs. `code` is `vetting::inspect::INSPECTION_VERSION`; `findings` is a JSON array of pairs of finding and detail.
const INSPECTIONS: &str = "
    CREATE TABLE inspections (
        package INTEGER NOT NULL REFERENCES packages (id),
        version TEXT NOT NULL,
        sha512 BLOB NOT NULL,
        code INTEGER NOT NULL,
        manifest BLOB,
        findings TEXT NOT NULL,
        PRIMARY KEY (package, version, sha512)
    ) STRICT, WITHOUT ROWID;
";

/// Verified provenance. `code` is `vetting::provenance::PROVENANCE_VERSION`; `result` is a `ProvenanceStatus` as JSON.
const PROVENANCE: &str = "
    CREATE TABLE provenance (
        package INTEGER NOT NULL REFERENCES packages (id),
        version TEXT NOT NULL,
        sha512 BLOB NOT NULL,
        code INTEGER NOT NULL,
        result TEXT NOT NULL,
        PRIMARY KEY (package, version, sha512)
    ) STRICT, WITHOUT ROWID;
";

/// What later releases are compared with. `summary` is made by `vetting::contents`; `code` is the version of that code. Rows are
/// only a cache: the oldest ones are deleted.
const TARBALL_SUMMARIES: &str = "
    CREATE TABLE tarball_summaries (
        id INTEGER PRIMARY KEY,
        sha512 BLOB NOT NULL UNIQUE,
        code INTEGER NOT NULL,
        summary BLOB NOT NULL
    ) STRICT;
";

/// Signals of releases. `evidence` is a JSON array of `[signal, old, new]`.
const SIGNALS: &str = "
    CREATE TABLE signals (
        package INTEGER NOT NULL REFERENCES packages (id),
        version TEXT NOT NULL,
        code INTEGER NOT NULL,
        manifest BLOB NOT NULL,
        recorded INTEGER NOT NULL,
        evidence TEXT NOT NULL,
        PRIMARY KEY (package, version)
    ) STRICT, WITHOUT ROWID;
";

/// Access tokens: `hash` is the SHA-256 of the token, `scopes` a JSON array of globs. `last_used` is coarse.
const TOKENS: &str = "
    CREATE TABLE tokens (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        hash BLOB NOT NULL UNIQUE,
        label TEXT NOT NULL,
        role TEXT NOT NULL,
        scopes TEXT NOT NULL,
        expires INTEGER,
        created_by TEXT NOT NULL,
        created INTEGER NOT NULL,
        last_used INTEGER,
        revoked_by TEXT,
        revoked INTEGER
    ) STRICT;
    CREATE INDEX tokens_by_label ON tokens (label);

    -- One row: the revision of the recorded tokens, and the one that the server applies.
    CREATE TABLE token_revision (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        revision INTEGER NOT NULL,
        applied INTEGER NOT NULL
    ) STRICT;
    INSERT INTO token_revision (only, revision, applied) VALUES (1, 0, 0);
";

/// Requests for approvals, and the persons to whom tokens belong. `asker` is what limits are counted by. `lasts` is in seconds.
/// Tokens that were exchanged belong to the issuer, whose name is a URL, and no person uses them.
const REQUESTS: &str = "
    ALTER TABLE tokens ADD COLUMN owner TEXT NOT NULL DEFAULT '';
    ALTER TABLE tokens ADD COLUMN is_machine INTEGER NOT NULL DEFAULT 1;
    UPDATE tokens SET owner = created_by, is_machine = created_by LIKE '%://%';

    CREATE TABLE requests (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        package TEXT NOT NULL,
        version TEXT NOT NULL,
        digests TEXT NOT NULL,
        profile INTEGER NOT NULL,
        state TEXT NOT NULL,
        asked INTEGER NOT NULL,
        check_at INTEGER NOT NULL,
        ended INTEGER,
        decision INTEGER REFERENCES decisions (id)
    ) STRICT;
    CREATE UNIQUE INDEX open_requests ON requests (package, version) WHERE ended IS NULL;
    CREATE INDEX open_requests_by_check ON requests (check_at) WHERE ended IS NULL;
    CREATE INDEX requests_by_version ON requests (package, version, ended);
    CREATE INDEX requests_by_end ON requests (ended) WHERE ended IS NOT NULL;

    CREATE TABLE request_askers (
        id INTEGER PRIMARY KEY,
        request INTEGER NOT NULL REFERENCES requests (id) ON DELETE CASCADE,
        asker TEXT NOT NULL,
        person TEXT NOT NULL,
        is_machine INTEGER NOT NULL,
        subject TEXT NOT NULL,
        method TEXT NOT NULL,
        asked INTEGER NOT NULL,
        reason TEXT NOT NULL,
        project TEXT,
        lasts INTEGER NOT NULL,
        withdrawn INTEGER,
        is_open INTEGER NOT NULL,
        UNIQUE (request, asker)
    ) STRICT;
    CREATE INDEX request_askers_open ON request_askers (asker) WHERE is_open = 1;
    CREATE INDEX request_askers_of_makers ON request_askers (person) WHERE is_open = 1 AND is_machine = 1;
    CREATE INDEX request_askers_by_time ON request_askers (asker, asked);

    -- Append-only, with who did it and how he was identified.
    CREATE TABLE request_steps (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        request INTEGER NOT NULL REFERENCES requests (id) ON DELETE CASCADE,
        step TEXT NOT NULL,
        person TEXT NOT NULL,
        is_machine INTEGER NOT NULL,
        subject TEXT NOT NULL,
        method TEXT NOT NULL,
        at INTEGER NOT NULL,
        detail TEXT NOT NULL
    ) STRICT;
    CREATE INDEX request_steps_by_request ON request_steps (request);
";

/// Indexes of the pages: releases by the time from which their age counts, and refused requests by time.
const REPORTS: &str = "
    CREATE INDEX releases_by_age ON releases (
        max(coalesce(moved, effective), coalesce(held_since, moved, effective), coalesce(manifest_changed, moved, effective))
    ) WHERE gone IS NULL;
    CREATE INDEX downloads_refused ON downloads (last, rule, subject, client, times) WHERE outcome = 'refused';
";

/// The schema of `LOOKS`. Its migration compares views, which had separate histories before.
const COMPARES_VIEWS: i64 = 5;

/// The newest schema this program supports: the number of migrations.
pub(crate) const CURRENT: i64 = 13;

/// Migrates the ledger at `path`, one transaction per step, so an interrupted migration resumes. An older ledger is first copied
/// to a file next to it, which is never deleted.
/// Returns [`StoreError::Newer`] and changes nothing if the schema is newer than this program's.
pub(crate) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let found = version(connection, path)?;
    if (1..CURRENT).contains(&found) {
        snapshot(connection, path, found)?;
    }
    for (step, sql) in (1_i64..).zip(MIGRATIONS).filter(|(step, _)| *step > found) {
        let migrated = StoreError::ledger("migrate");
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

fn snapshot(connection: &Connection, path: &Path, found: i64) -> Result<(), StoreError> {
    let copy = path.with_file_name(format!("ledger-schema-{found}.sqlite"));
    let part = path.with_file_name(format!("ledger-schema-{found}.sqlite.part"));
    copy_into(connection, &part).map_err(StoreError::ledger("back up"))?;
    File::open(&part).and_then(|file| file.sync_all()).map_err(StoreError::file("sync", &part))?;
    fs::rename(&part, &copy).map_err(StoreError::file("rename", &part))?;
    tracing::info!(path = %copy.display(), schema = found, "ledger backed up before migration");
    Ok(())
}

/// Copies a ledger to the file `copy`, readable only by its owner. Replaces an existing file.
pub(crate) fn copy_into(connection: &Connection, copy: &Path) -> rusqlite::Result<()> {
    // SQLite treats an empty file as missing. Without one it would create a file that all users can read.
    remove_if_present(copy)
        .and_then(|_| make_private(copy))
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    connection.execute("VACUUM INTO ?1", [copy.to_string_lossy()]).map(drop)
}

/// Creates an empty file readable only by its owner, if there is none.
pub(crate) fn make_private(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

/// Merges the histories of a package's views. Versions whose bytes never matched between views are marked as `diverged`.
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
        for (position, (id, versions)) in by_view.iter().enumerate() {
            for (other_id, others) in &by_view[position + 1..] {
                for (version, digests) in versions {
                    let Some(others) = others.get(version) else { continue };
                    let same = |digest: &Integrity| others.iter().any(|other| digest.compare(other) == DigestComparison::Same);
                    if !digests.iter().any(same) {
                        part.execute((id, version))?;
                        part.execute((other_id, version))?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// Checks that the ledger at `path` has the current schema. If not, returns [`StoreError::Newer`] or [`StoreError::Older`].
pub(crate) fn expect_known(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let found = version(connection, path)?;
    if found < CURRENT {
        return Err(StoreError::Older { path: path.to_owned(), found, known: CURRENT });
    }
    Ok(())
}

/// Returns the schema of the ledger at `path`, or [`StoreError::Newer`] if it is newer than this program's.
pub(crate) fn version(connection: &Connection, path: &Path) -> Result<i64, StoreError> {
    let found = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(StoreError::ledger("open"))?;
    if found > CURRENT {
        return Err(StoreError::Newer { path: path.to_owned(), found, known: CURRENT });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_migration_is_one_schema() {
        assert_eq!(i64::try_from(MIGRATIONS.len()), Ok(CURRENT));
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, Path::new("ledger")).unwrap();
        expect_known(&connection, Path::new("ledger")).unwrap();
        migrate(&mut connection, Path::new("ledger")).unwrap();
    }

    #[test]
    fn older_tokens_belong_to_who_made_them_and_exchanged_ones_to_machines() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("ledger.sqlite");
        let mut connection = Connection::open(&path).unwrap();
        for (step, sql) in (1_i64..).zip(&MIGRATIONS[..11]) {
            connection.execute_batch(sql).unwrap();
            connection.pragma_update(None, "user_version", step).unwrap();
        }
        for (label, maker) in [("laptop", "ada"), ("acme/web", "https://ci.example")] {
            let sql =
                "INSERT INTO tokens (hash, label, role, scopes, created_by, created) VALUES (?1, ?1, 'client', '[]', ?2, 0)";
            connection.execute(&sql.replace("(?1, ?1", "(CAST(?1 AS BLOB), ?1"), [label, maker]).unwrap();
        }
        migrate(&mut connection, &path).unwrap();
        let owner = |label: &str| -> (String, bool) {
            let sql = "SELECT owner, is_machine FROM tokens WHERE label = ?1";
            connection.query_row(sql, [label], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
        };
        assert_eq!((owner("laptop"), owner("acme/web")), (("ada".to_owned(), false), ("https://ci.example".to_owned(), true)));
        assert!(home.path().join("ledger-schema-11.sqlite").exists(), "a copy is kept");
    }
}
