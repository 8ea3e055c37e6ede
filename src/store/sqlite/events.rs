//! Reads and writes downloads and events in the ledger.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use jiff::Timestamp;
use rusqlite::{CachedStatement, Connection, OptionalExtension, Params, Row, params};

use crate::npm::{Algorithm, Digest, Integrity, PackageName};
use crate::store::ledger::{DownloadEvent, DownloadOutcome, Exposure, LedgerEvent, ServedTarball};
use crate::store::sqlite::packages::{count_from_column, count_to_column, from_column, query_all, to_column};
use crate::store::sqlite::write_behind::{Batch, RowTally};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedEvent {
    /// A stable identifier, see [`LedgerEvent::kind`].
    pub kind: String,
    pub name: Option<String>,
    pub version: Option<String>,
    pub detail: String,
    pub times: u64,
    pub first: Timestamp,
    pub last: Timestamp,
}

/// Writes a batch in one transaction, oldest row first.
pub(crate) fn write(connection: &mut Connection, batch: &Batch) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    write_downloads(&transaction, &batch.downloads())?;
    write_events(&transaction, &batch.events())?;
    transaction.commit()
}

/// Returns the requests for tarballs of `name`, summed per client, oldest first.
pub(crate) fn exposure(connection: &Connection, name: &PackageName, version: Option<&str>) -> rusqlite::Result<Vec<Exposure>> {
    let sql =
        "SELECT clients.address, clients.tool, clients.tool_version, subjects.version, subjects.integrity, downloads.outcome,
                downloads.rule, sum(downloads.times), min(downloads.first) AS earliest, max(downloads.last)
         FROM subjects
         JOIN downloads ON downloads.subject = subjects.id
         JOIN clients ON clients.id = downloads.client
         WHERE subjects.name = ?1 AND subjects.kind = 'tarball' AND (?2 IS NULL OR subjects.version = ?2)
         GROUP BY clients.id, subjects.version, subjects.integrity, downloads.outcome, downloads.rule
         ORDER BY earliest, clients.id, subjects.version, downloads.outcome";
    query_all(connection, sql, params![name.as_str(), version], exposure_row)
}

/// Reads a row with the columns of [`exposure`].
pub(crate) fn exposure_row(row: &Row<'_>) -> rusqlite::Result<Exposure> {
    Ok(Exposure {
        client: row.get(0)?,
        tool: row.get(1)?,
        tool_version: row.get(2)?,
        version: row.get(3)?,
        integrity: Some(row.get::<_, String>(4)?).filter(|integrity| !integrity.is_empty()),
        outcome: DownloadOutcome::parse(row.get_ref(5)?.as_str()?).unwrap_or(DownloadOutcome::Refused),
        rule: row.get(6)?,
        times: count_from_column(row.get(7)?),
        first: from_column(row.get(8)?),
        last: from_column(row.get(9)?),
    })
}

/// Returns the tarballs that clients received since `since`, the last one first.
pub(crate) fn served_tarballs(connection: &Connection, since: Timestamp, limit: usize) -> rusqlite::Result<Vec<ServedTarball>> {
    let sql = "SELECT subjects.name, subjects.version, subjects.integrity, max(downloads.last) AS latest
         FROM downloads JOIN subjects ON subjects.id = downloads.subject
         WHERE downloads.last >= ?1 AND downloads.outcome = 'served' AND subjects.kind = 'tarball' AND subjects.integrity <> ''
         GROUP BY subjects.id ORDER BY latest DESC, subjects.id LIMIT ?2";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = query_all(connection, sql, params![to_column(since), limit], |row| {
        let name = PackageName::parse(row.get_ref(0)?.as_str()?).ok();
        let integrity = Integrity::parse(Some(row.get_ref(2)?.as_str()?), None);
        let sha512 = integrity.and_then(|integrity| integrity.digest(Algorithm::Sha512).cloned());
        let version: Box<str> = row.get(1)?;
        Ok(name.zip(sha512).map(|(name, sha512)| ServedTarball { name, version, sha512 }))
    })?;
    Ok(rows.into_iter().flatten().collect())
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownloadSummary {
    pub name: String,
    pub version: String,
    pub client: String,
    pub times: u64,
    pub first: Timestamp,
}

/// Returns all tarball requests, served or refused, ordered by name, version and client.
pub(crate) fn downloads(connection: &Connection) -> rusqlite::Result<Vec<DownloadSummary>> {
    let sql = "SELECT subjects.name, subjects.version, clients.address, sum(downloads.times), min(downloads.first)
         FROM subjects
         JOIN downloads ON downloads.subject = subjects.id
         JOIN clients ON clients.id = downloads.client
         WHERE subjects.kind = 'tarball' AND subjects.version <> ''
         GROUP BY subjects.name, subjects.version, clients.address
         ORDER BY subjects.name, subjects.version, clients.address";
    query_all(connection, sql, [], |row| {
        Ok(DownloadSummary {
            name: row.get(0)?,
            version: row.get(1)?,
            client: row.get(2)?,
            times: count_from_column(row.get(3)?),
            first: from_column(row.get(4)?),
        })
    })
}

pub(crate) fn events(connection: &Connection, since: Timestamp) -> rusqlite::Result<Vec<RecordedEvent>> {
    let sql = "SELECT kind, name, version, detail, times, first, last FROM incidents WHERE last >= ?1 ORDER BY first, id";
    query_all(connection, sql, [to_column(since)], |row| {
        Ok(RecordedEvent {
            kind: row.get(0)?,
            name: row.get(1)?,
            version: row.get(2)?,
            detail: row.get(3)?,
            times: count_from_column(row.get(4)?),
            first: from_column(row.get(5)?),
            last: from_column(row.get(6)?),
        })
    })
}

/// Returns the newest detail of each event of a kind since `since`, oldest first, each with its time.
pub(crate) fn details_of(connection: &Connection, kind: &str, since: Timestamp) -> rusqlite::Result<Vec<(String, Timestamp)>> {
    let sql =
        "SELECT detail, max(last) FROM incidents WHERE kind = ?1 AND last >= ?2 GROUP BY detail ORDER BY max(last) LIMIT 100";
    query_all(connection, sql, params![kind, to_column(since)], |row| Ok((row.get(0)?, from_column(row.get(1)?))))
}

pub(crate) fn has_event(connection: &Connection, event: &LedgerEvent) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM incidents WHERE kind = ?1 AND name IS ?2 AND version IS ?3 AND detail = ?4 LIMIT 1";
    let name = event.name.as_ref().map(PackageName::as_str);
    connection.prepare_cached(sql)?.exists(params![event.kind, name, event.version, event.detail])
}

/// Deletes at most [`PRUNED_AT_ONCE`] rows per table that ended before `before`. Returns their number; 0 if none are left.
pub(crate) fn prune_some(connection: &Connection, before: Timestamp) -> rusqlite::Result<u64> {
    let mut deleted = 0;
    for table in ["downloads", "incidents"] {
        let sql = format!("DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE last < ?1 LIMIT {PRUNED_AT_ONCE})");
        deleted += connection.prepare_cached(&sql)?.execute([to_column(before)])?;
    }
    Ok(deleted as u64)
}

pub(crate) fn sweep(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "DELETE FROM subjects WHERE NOT EXISTS (SELECT 1 FROM downloads WHERE subject = subjects.id);
         DELETE FROM clients WHERE NOT EXISTS (SELECT 1 FROM downloads WHERE client = clients.id);",
    )
}

/// Returns some free pages to the disk. The result is whether there may be more.
pub(crate) fn shrink_some(connection: &Connection) -> rusqlite::Result<bool> {
    // One step of this statement frees one page.
    let mut vacuum = connection.prepare(&format!("PRAGMA incremental_vacuum({PRUNED_AT_ONCE})"))?;
    let mut pages = vacuum.query([])?;
    while pages.next()?.is_some() {}
    connection.pragma_query_value(None, "freelist_count", |row| row.get(0)).map(|left: i64| left > 0)
}

/// Maximum number of rows or pages per transaction. Small, so that other writers wait only briefly.
const PRUNED_AT_ONCE: u32 = 5_000;

fn write_downloads(connection: &Connection, rows: &[(&DownloadEvent, RowTally)]) -> rusqlite::Result<()> {
    let mut clients = InternTable::new(
        connection,
        "SELECT id FROM clients WHERE address = ?1 AND tool = ?2 AND tool_version = ?3",
        "INSERT INTO clients (address, tool, tool_version) VALUES (?1, ?2, ?3)",
    )?;
    let mut subjects = InternTable::new(
        connection,
        "SELECT id FROM subjects WHERE name = ?1 AND version = ?2 AND kind = ?3 AND integrity = ?4 AND hidden = ?5",
        "INSERT INTO subjects (name, version, kind, integrity, hidden) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    let mut insert = connection.prepare_cached(
        "INSERT INTO downloads (subject, client, outcome, rule, times, first, last) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    // One install has one client and about a thousand packages.
    let mut known = HashMap::new();
    for (row, tally) in rows {
        let client = match known.entry((row.client, &row.user, row.tool, &row.tool_version)) {
            Entry::Occupied(id) => *id.get(),
            Entry::Vacant(new) => *new.insert(clients.id(params![named(row), row.tool, row.tool_version])?),
        };
        let version = row.version.as_deref().unwrap_or_default();
        let integrity = row.integrity.as_ref().map(Digest::to_sri).unwrap_or_default();
        let subject = subjects.id(params![row.name.as_str(), version, row.kind.as_str(), integrity, list(&row.hidden)])?;
        let (outcome, times) = (row.outcome.as_str(), count_to_column(tally.times));
        insert.execute(params![subject, client, outcome, row.rule, times, to_column(tally.first), to_column(tally.last)])?;
    }
    Ok(())
}

fn write_events(connection: &Connection, rows: &[(&LedgerEvent, RowTally)]) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO incidents (kind, name, version, detail, times, first, last) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    for (row, tally) in rows {
        let name = row.name.as_ref().map(PackageName::as_str);
        let times = count_to_column(tally.times);
        insert.execute(params![row.kind, name, row.version, row.detail, times, to_column(tally.first), to_column(tally.last)])?;
    }
    Ok(())
}

/// A table whose rows are inserted once and then referred to by id.
struct InternTable<'a> {
    find: CachedStatement<'a>,
    insert: CachedStatement<'a>,
}

impl<'a> InternTable<'a> {
    fn new(connection: &'a Connection, find: &str, insert: &str) -> rusqlite::Result<Self> {
        Ok(Self { find: connection.prepare_cached(find)?, insert: connection.prepare_cached(insert)? })
    }

    fn id(&mut self, row: impl Params + Copy) -> rusqlite::Result<i64> {
        match self.find.query_row(row, |row| row.get(0)).optional()? {
            Some(id) => Ok(id),
            None => self.insert.insert(row),
        }
    }
}

/// Returns the client's address, preceded by its user name if it has one.
fn named(row: &DownloadEvent) -> String {
    let address = row.client.to_canonical();
    row.user.as_ref().map_or_else(|| address.to_string(), |user| format!("{user}@{address}"))
}

/// Encodes versions as a JSON array; the empty string if there are none.
fn list(versions: &[Box<str>]) -> String {
    let encode = || versions.iter().map(|version| &**version).collect::<serde_json::Value>().to_string();
    if versions.is_empty() { String::new() } else { encode() }
}
