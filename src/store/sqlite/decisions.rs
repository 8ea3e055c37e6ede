//! Reads and writes the decisions table, and the revision that the server applies.

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use crate::policy::decisions::{Decision, DecisionAction, DecisionProposal, Signature};
use crate::store::sqlite::packages::{from_column, to_column};

pub(crate) fn read(connection: &Connection) -> rusqlite::Result<(u64, Vec<Decision>)> {
    let snapshot = connection.unchecked_transaction()?;
    let revision = revision(&snapshot)?.0;
    let mut query = snapshot.prepare_cached(
        "SELECT id, act, reason, author, made, expires, needs_second, second, confirmed, revoked_by, revoked, revoked_why
         FROM decisions ORDER BY id",
    )?;
    let decisions = query.query_map([], read_one)?.collect::<rusqlite::Result<_>>()?;
    Ok((revision, decisions))
}

/// Returns the revision of the recorded decisions and the one that the server applies.
pub(crate) fn revision(connection: &Connection) -> rusqlite::Result<(u64, u64)> {
    let mut query = connection.prepare_cached("SELECT revision, in_force FROM decided")?;
    query.query_row([], |row| Ok((row.get::<_, i64>(0)?.unsigned_abs(), row.get::<_, i64>(1)?.unsigned_abs())))
}

pub(crate) fn set_applied(connection: &Connection, revision: u64) -> rusqlite::Result<()> {
    let revision = i64::try_from(revision).unwrap_or(i64::MAX);
    connection.execute("UPDATE decided SET in_force = ?1 WHERE in_force IS NOT ?1", [revision]).map(drop)
}

/// Records a proposal. Returns its id and the revision that includes it.
pub(crate) fn decide(connection: &mut Connection, proposal: &DecisionProposal) -> rusqlite::Result<(i64, u64)> {
    let act = serde_json::to_string(&proposal.act).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    let transaction = connection.transaction()?;
    let id = transaction
        .prepare_cached(
            "INSERT INTO decisions (act, reason, author, made, expires, needs_second) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .insert(params![
            act,
            proposal.reason,
            proposal.author.who,
            to_column(proposal.author.at),
            proposal.expires.map(to_column),
            proposal.needs_second,
        ])?;
    let revision = advance(&transaction)?;
    transaction.commit()?;
    Ok((id, revision))
}

/// Confirms a decision as the second operator. Returns the revision that includes it. Returns `None` if there is no such
/// decision, `by` is its author, or it needs no confirmation.
pub(crate) fn confirm(connection: &mut Connection, id: i64, by: &Signature) -> rusqlite::Result<Option<u64>> {
    let transaction = connection.transaction()?;
    let changed = transaction.execute(
        "UPDATE decisions SET second = ?2, confirmed = ?3
         WHERE id = ?1 AND needs_second AND second IS NULL AND revoked IS NULL AND author IS NOT ?2",
        params![id, by.who, to_column(by.at)],
    )?;
    finish(transaction, changed)
}

/// Revokes a decision. Returns the revision without it; `None` if it does not exist or is revoked already.
pub(crate) fn revoke(connection: &mut Connection, id: i64, by: &Signature, why: &str) -> rusqlite::Result<Option<u64>> {
    let transaction = connection.transaction()?;
    let changed = transaction.execute(
        "UPDATE decisions SET revoked_by = ?2, revoked = ?3, revoked_why = ?4 WHERE id = ?1 AND revoked IS NULL",
        params![id, by.who, to_column(by.at), why],
    )?;
    finish(transaction, changed)
}

pub(crate) fn find(connection: &Connection, id: i64) -> rusqlite::Result<Option<Decision>> {
    let mut query = connection.prepare_cached(
        "SELECT id, act, reason, author, made, expires, needs_second, second, confirmed, revoked_by, revoked, revoked_why
         FROM decisions WHERE id = ?1",
    )?;
    query.query_row([id], read_one).optional()
}

fn finish(transaction: Transaction<'_>, changed: usize) -> rusqlite::Result<Option<u64>> {
    if changed == 0 {
        return Ok(None);
    }
    let revision = advance(&transaction)?;
    transaction.commit()?;
    Ok(Some(revision))
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
    let revoked =
        signature(9, 10)?.map(|by| Ok::<_, rusqlite::Error>((by, row.get::<_, Option<String>>(11)?.unwrap_or_default())));
    Ok(Decision { id: row.get(0)?, proposal, second: signature(7, 8)?, revoked: revoked.transpose()? })
}
