//! Reads the rows of requests and events in pages, so that an export of a large ledger needs little memory.

use jiff::Timestamp;
use rusqlite::{Connection, Row, params};

use crate::store::ledger::DownloadOutcome;
use crate::store::ledger_rows::{ClientRow, DownloadRow, RowFilter, RowOrder};
use crate::store::sqlite::packages::{count_from_column, from_column, query_all, to_column};

/// Returns at most `limit` requests after the row `after` in this order.
pub(crate) fn downloads(
    connection: &Connection,
    filter: &RowFilter,
    (order, after): (RowOrder, Option<i64>),
    limit: usize,
) -> rusqlite::Result<Vec<DownloadRow>> {
    let (comparison, direction, first) = match order {
        RowOrder::OldestFirst => (">", "ASC", i64::MIN),
        RowOrder::NewestFirst => ("<", "DESC", i64::MAX),
    };
    // Only an equality alone uses the index of names.
    let name = if filter.name.is_some() { "subjects.name = ?2" } else { "?2 IS NULL" };
    let sql = format!(
        "SELECT downloads.id, downloads.first, downloads.last, downloads.times, clients.address, clients.tool,
                clients.tool_version, subjects.kind, subjects.name, subjects.version, subjects.integrity, downloads.outcome,
                downloads.rule, subjects.hidden
         FROM downloads
         JOIN subjects ON subjects.id = downloads.subject
         JOIN clients ON clients.id = downloads.client
         WHERE downloads.id {comparison} ?1 AND {name} AND (?3 IS NULL OR downloads.outcome = ?3)
           AND (?4 IS NULL OR downloads.last >= ?4) AND (?5 IS NULL OR downloads.first < ?5)
         ORDER BY downloads.id {direction} LIMIT ?6"
    );
    let RowFilter { name, outcome, since, until } = filter;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let (since, until) = (since.map(to_column), until.map(to_column));
    let values = params![after.unwrap_or(first), name, outcome.map(DownloadOutcome::as_str), since, until, limit];
    query_all(connection, &sql, values, read_download)
}

fn read_download(row: &Row<'_>) -> rusqlite::Result<DownloadRow> {
    let stated = |text: String| Some(text).filter(|text| !text.is_empty());
    let hidden = row.get_ref(13)?.as_str()?;
    Ok(DownloadRow {
        id: row.get(0)?,
        first: from_column(row.get(1)?),
        last: from_column(row.get(2)?),
        times: count_from_column(row.get(3)?),
        client: row.get(4)?,
        tool: row.get(5)?,
        tool_version: row.get(6)?,
        kind: row.get(7)?,
        name: row.get(8)?,
        version: stated(row.get(9)?),
        integrity: stated(row.get(10)?),
        outcome: DownloadOutcome::parse(row.get_ref(11)?.as_str()?).unwrap_or(DownloadOutcome::Refused),
        rule: row.get(12)?,
        hidden: serde_json::from_str(hidden).unwrap_or_default(),
    })
}

/// Returns the clients with requests since `since`, the last one first.
pub(crate) fn clients(connection: &Connection, since: Timestamp) -> rusqlite::Result<Vec<ClientRow>> {
    let sql = "SELECT clients.address, clients.tool, clients.tool_version, min(downloads.first), max(downloads.last) AS latest,
                sum(CASE downloads.outcome WHEN 'served' THEN downloads.times ELSE 0 END),
                sum(CASE downloads.outcome WHEN 'served' THEN 0 ELSE downloads.times END)
         FROM downloads JOIN clients ON clients.id = downloads.client
         WHERE downloads.last >= ?1
         GROUP BY clients.id ORDER BY latest DESC, clients.id";
    query_all(connection, sql, [to_column(since)], |row| {
        Ok(ClientRow {
            client: row.get(0)?,
            tool: row.get(1)?,
            tool_version: row.get(2)?,
            first: from_column(row.get(3)?),
            last: from_column(row.get(4)?),
            served: count_from_column(row.get(5)?),
            refused: count_from_column(row.get(6)?),
        })
    })
}
