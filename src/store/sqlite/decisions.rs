//! Reads and writes the decisions table, and the revision that the server applies.

use rusqlite::types::Type;
use rusqlite::{Connection, Params, Row, Transaction, params};

use crate::policy::decisions::{Decision, DecisionAction, DecisionProposal, Signature};
use crate::store::sqlite::packages::{from_column, query_all, to_column};

/// Returns the revision and all decisions ever recorded, as a consistent snapshot.
pub(crate) fn read(connection: &Connection) -> rusqlite::Result<(u64, Vec<Decision>)> {
    let snapshot = connection.unchecked_transaction()?;
    Ok((revision(&snapshot)?.0, select(&snapshot, None)?))
}

/// Returns all decisions, oldest first; only the one with `id` if given.
pub(crate) fn select(connection: &Connection, id: Option<i64>) -> rusqlite::Result<Vec<Decision>> {
    let sql = "SELECT id, act, reason, author, made, expires, needs_second, second, confirmed, revoked_by, revoked, revoked_why
         FROM decisions WHERE ?1 IS NULL OR id = ?1 ORDER BY id";
    query_all(connection, sql, [id], read_one)
}

pub(crate) fn revision(connection: &Connection) -> rusqlite::Result<(u64, u64)> {
    let mut query = connection.prepare_cached("SELECT revision, in_force FROM decided")?;
    query.query_row([], |row| Ok((row.get::<_, i64>(0)?.unsigned_abs(), row.get::<_, i64>(1)?.unsigned_abs())))
}

pub(crate) fn set_applied(connection: &Connection, revision: u64) -> rusqlite::Result<()> {
    let revision = i64::try_from(revision).unwrap_or(i64::MAX);
    connection.execute("UPDATE decided SET in_force = ?1 WHERE in_force IS NOT ?1", [revision]).map(drop)
}

pub(crate) fn decide(connection: &mut Connection, proposal: &DecisionProposal) -> rusqlite::Result<(i64, u64)> {
    let transaction = connection.transaction()?;
    let recorded = insert(&transaction, proposal)?;
    transaction.commit()?;
    Ok(recorded)
}

/// Records a decision as part of a larger change. Returns its number and the revision that includes it.
pub(crate) fn insert(transaction: &Transaction<'_>, proposal: &DecisionProposal) -> rusqlite::Result<(i64, u64)> {
    let act = serde_json::to_string(&proposal.act).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    let DecisionProposal { reason, author, expires, needs_second, .. } = proposal;
    let sql = "INSERT INTO decisions (act, reason, author, made, expires, needs_second) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let values = params![act, reason, author.who, to_column(author.at), expires.map(to_column), needs_second];
    let id = transaction.prepare_cached(sql)?.insert(values)?;
    Ok((id, advance(transaction)?))
}

pub(crate) fn confirm(connection: &mut Connection, id: i64, by: &Signature) -> rusqlite::Result<Option<u64>> {
    let transaction = connection.transaction()?;
    let revision = confirm_in(&transaction, id, by)?;
    transaction.commit()?;
    Ok(revision)
}

/// Confirms a decision as part of a larger change. Names of persons differ by more than case. Who asked for it cannot confirm it.
pub(crate) fn confirm_in(transaction: &Transaction<'_>, id: i64, by: &Signature) -> rusqlite::Result<Option<u64>> {
    let sql = "UPDATE decisions SET second = ?2, confirmed = ?3
         WHERE id = ?1 AND needs_second AND second IS NULL AND revoked IS NULL AND lower(author) IS NOT lower(?2)
         AND (expires IS NULL OR expires > ?3)
         AND NOT EXISTS (SELECT 1 FROM requests JOIN request_askers ON request_askers.request = requests.id
             WHERE requests.decision = ?1 AND lower(request_askers.person) = lower(?2))";
    change_in(transaction, sql, params![id, by.who, to_column(by.at)])
}

/// Revokes a decision that waits for a second person, as part of a larger change.
pub(crate) fn revoke_unconfirmed(transaction: &Transaction<'_>, id: i64, by: &Signature, why: &str) -> rusqlite::Result<()> {
    let sql = "UPDATE decisions SET revoked_by = ?2, revoked = ?3, revoked_why = ?4
         WHERE id = ?1 AND needs_second AND second IS NULL AND revoked IS NULL";
    change_in(transaction, sql, params![id, by.who, to_column(by.at), why]).map(drop)
}

pub(crate) fn revoke(connection: &mut Connection, id: i64, by: &Signature, why: &str) -> rusqlite::Result<Option<u64>> {
    let sql = "UPDATE decisions SET revoked_by = ?2, revoked = ?3, revoked_why = ?4 WHERE id = ?1 AND revoked IS NULL";
    change(connection, sql, params![id, by.who, to_column(by.at), why])
}

/// Changes one decision. Returns the revision that includes the change; `None` if `sql` changed nothing.
fn change(connection: &mut Connection, sql: &str, values: impl Params) -> rusqlite::Result<Option<u64>> {
    let transaction = connection.transaction()?;
    let revision = change_in(&transaction, sql, values)?;
    transaction.commit()?;
    Ok(revision)
}

fn change_in(transaction: &Transaction<'_>, sql: &str, values: impl Params) -> rusqlite::Result<Option<u64>> {
    if transaction.execute(sql, values)? == 0 { Ok(None) } else { advance(transaction).map(Some) }
}

fn advance(transaction: &Transaction<'_>) -> rusqlite::Result<u64> {
    let revision: i64 =
        transaction.query_row("UPDATE decided SET revision = revision + 1 RETURNING revision", [], |row| row.get(0))?;
    Ok(revision.unsigned_abs())
}

fn read_one(row: &Row<'_>) -> rusqlite::Result<Decision> {
    // An act that cannot be parsed is damage. Skipping a denial would allow what it denies.
    let act: DecisionAction = serde_json::from_str(row.get_ref(1)?.as_str()?)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(1, Type::Text, error.into()))?;
    let signature = |who: usize, at: usize| -> rusqlite::Result<Option<Signature>> {
        let (who, at) = (row.get::<_, Option<String>>(who)?, row.get::<_, Option<i64>>(at)?);
        Ok(who.zip(at).map(|(who, at)| Signature { who, at: from_column(at) }))
    };
    let proposal = DecisionProposal {
        act,
        reason: row.get(2)?,
        author: Signature { who: row.get(3)?, at: from_column(row.get(4)?) },
        expires: row.get::<_, Option<i64>>(5)?.map(from_column),
        needs_second: row.get(6)?,
    };
    let why: Option<String> = row.get(11)?;
    let revoked = signature(9, 10)?.map(|by| (by, why.unwrap_or_default()));
    Ok(Decision { id: row.get(0)?, proposal, second: signature(7, 8)?, revoked })
}
