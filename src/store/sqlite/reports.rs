//! The queries of pages for people.

use rusqlite::{Connection, params};

use crate::npm::PackageName;
use crate::store::ledger::Exposure;
use crate::store::sqlite::events::exposure_row;
use crate::store::sqlite::packages::query_all;

/// Rows of one package that are summed at most. The newest ones are read first.
const MAX_SUMMED: i64 = 200_000;

/// Returns the requests for tarballs of a package, summed per client, the last one first.
pub(crate) fn last_requests(
    connection: &Connection,
    name: &PackageName,
    version: Option<&str>,
    limit: usize,
) -> rusqlite::Result<Vec<Exposure>> {
    let sql = "WITH of_package AS (
             SELECT downloads.client, downloads.outcome, downloads.rule, downloads.times, downloads.first, downloads.last,
                    subjects.version, subjects.integrity
             FROM subjects JOIN downloads ON downloads.subject = subjects.id
             WHERE subjects.name = ?1 AND subjects.kind = 'tarball' AND (?2 IS NULL OR subjects.version = ?2)
             LIMIT ?4)
         SELECT clients.address, clients.tool, clients.tool_version, of_package.version, of_package.integrity,
                of_package.outcome, of_package.rule, sum(times), min(first), max(last) AS latest
         FROM of_package JOIN clients ON clients.id = of_package.client
         GROUP BY clients.id, of_package.version, of_package.integrity, of_package.outcome, of_package.rule
         ORDER BY latest DESC, clients.id, of_package.version LIMIT ?3";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    query_all(connection, sql, params![name.as_str(), version, limit, MAX_SUMMED], exposure_row)
}
