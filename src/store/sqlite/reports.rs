//! The queries of pages for people.

use std::collections::HashMap;
use std::hash::Hash;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::npm::PackageName;
use crate::store::ledger::Exposure;
use crate::store::report::{RefusalReport, SeenClient, YoungRelease, YoungReleases};
use crate::store::sqlite::events::exposure_row;
use crate::store::sqlite::packages::{count_from_column, from_column, query_all, to_column};

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

/// The time from which the age of a release counts.
const SINCE: &str =
    "max(coalesce(moved, effective), coalesce(held_since, moved, effective), coalesce(manifest_changed, moved, effective))";

/// Packages that a search finds at most.
const MAX_FOUND: i64 = 500;

/// Returns young releases from a position, the earliest first.
pub(crate) fn young_releases(
    connection: &Connection,
    wanted: &YoungReleases,
    (from, limit): (usize, usize),
) -> rusqlite::Result<Vec<YoungRelease>> {
    let [from, limit] = [from, limit].map(|number| i64::try_from(number).unwrap_or(i64::MAX));
    let since = to_column(wanted.since);
    let read = |row: &Row<'_>| Ok(YoungRelease { name: row.get(0)?, version: row.get(1)?, since: from_column(row.get(2)?) });
    if wanted.search.is_empty() {
        // Names are looked up only for what is returned.
        let sql = format!(
            "SELECT packages.name, young.version, young.since
             FROM (SELECT package, version, {SINCE} AS since FROM releases
                   WHERE gone IS NULL AND {SINCE} > ?1 ORDER BY since LIMIT ?2 OFFSET ?3) AS young
             JOIN packages ON packages.id = young.package ORDER BY young.since"
        );
        return query_all(connection, &sql, params![since, limit, from], read);
    }
    // The plus keeps the planner from reading all young releases: the packages are fewer.
    let sql = format!(
        "SELECT packages.name, releases.version, {SINCE} AS since
         FROM releases JOIN packages ON packages.id = releases.package
         WHERE releases.package IN (SELECT id FROM packages WHERE instr(lower(name), ?4) > 0 LIMIT {MAX_FOUND})
           AND +gone IS NULL AND {SINCE} > ?1
         ORDER BY since LIMIT ?2 OFFSET ?3"
    );
    query_all(connection, &sql, params![since, limit, from, wanted.search], read)
}

/// Counts refused requests. Reads the index `downloads_refused` only, and then each package and client once.
pub(crate) fn refusals(
    connection: &Connection,
    since: Timestamp,
    (rows, entries): (usize, usize),
) -> rusqlite::Result<RefusalReport> {
    let sql = "SELECT last, rule, subject, client, times FROM downloads
         WHERE outcome = 'refused' AND last >= ?1 ORDER BY last DESC LIMIT ?2";
    let limit = i64::try_from(rows).unwrap_or(i64::MAX);
    let (mut days, mut rules) = (HashMap::<i64, u64>::new(), HashMap::<String, u64>::new());
    let (mut subjects, mut clients) = (HashMap::<i64, u64>::new(), HashMap::<i64, u64>::new());
    let (mut read, mut total) = (0, 0_u64);
    let mut statement = connection.prepare_cached(sql)?;
    let mut found = statement.query(params![to_column(since), limit])?;
    while let Some(row) = found.next()? {
        let times = count_from_column(row.get(4)?);
        let day = from_column(row.get(0)?).as_second().div_euclid(86_400);
        (read, total) = (read + 1, total.saturating_add(times));
        add(&mut days, day, times);
        let rule = row.get_ref(1)?.as_str_or_null()?.unwrap_or("unknown");
        match rules.get_mut(rule) {
            Some(count) => *count = count.saturating_add(times),
            None => drop(rules.insert(rule.to_owned(), times)),
        }
        add(&mut subjects, row.get(2)?, times);
        add(&mut clients, row.get(3)?, times);
    }
    let mut days: Vec<_> = days.into_iter().collect();
    days.sort_unstable();
    Ok(RefusalReport {
        total,
        days,
        rules: highest(rules, entries),
        packages: highest(named(connection, "SELECT name FROM subjects WHERE id = ?1", subjects)?, entries),
        clients: highest(named(connection, "SELECT address FROM clients WHERE id = ?1", clients)?, entries),
        is_cut: read >= rows,
    })
}

/// Returns the clients with the time of their newest row, which the index `downloads_by_client` finds.
pub(crate) fn clients(connection: &Connection, limit: usize) -> rusqlite::Result<Vec<SeenClient>> {
    let sql = "SELECT clients.address, clients.tool, clients.tool_version, downloads.last FROM clients
         JOIN downloads ON downloads.id = (SELECT max(id) FROM downloads WHERE client = clients.id)
         LIMIT ?1";
    query_all(connection, sql, [i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
        let last = from_column(row.get(3)?);
        Ok(SeenClient { client: row.get(0)?, tool: row.get(1)?, tool_version: row.get(2)?, last })
    })
}

/// Replaces ids by what `sql` finds, and adds what has the same name.
fn named(connection: &Connection, sql: &str, counts: HashMap<i64, u64>) -> rusqlite::Result<HashMap<String, u64>> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut named = HashMap::new();
    for (id, times) in counts {
        if let Some(name) = statement.query_row([id], |row| row.get::<_, String>(0)).optional()? {
            add(&mut named, name, times);
        }
    }
    Ok(named)
}

fn add<K: Eq + Hash>(counts: &mut HashMap<K, u64>, key: K, times: u64) {
    let count = counts.entry(key).or_default();
    *count = count.saturating_add(times);
}

/// Returns the highest counts, first those with the highest numbers, then by name.
fn highest(counts: HashMap<String, u64>, limit: usize) -> Vec<(String, u64)> {
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_unstable_by(|left, right| right.1.cmp(&left.1).then_with(|| left.0.cmp(&right.0)));
    counts.truncate(limit);
    counts
}
