//! Reads and writes the tokens table, and the revision of the tokens that the server applies.

use std::collections::HashMap;

use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use crate::policy::decisions::Signature;
use crate::policy::{PackageScope, Principal, Role};
use crate::store::access_token::{MAX_PER_LABEL, MAX_USABLE_TOKENS, NewToken, TokenCreation, TokenRecord, TokenSelector};
use crate::store::sqlite::packages::{count_from_column, from_column, query_all, to_column};

/// How many numbers back revoked and expired tokens are kept, to show who had them. A deleted token is refused as unknown.
const KEPT_ENDED: i64 = 50_000;

/// Returns the revision, and the tokens that did not end before an instant, as a consistent snapshot.
pub(crate) fn read(connection: &Connection, ended: Timestamp) -> rusqlite::Result<(u64, Vec<TokenRecord>)> {
    let snapshot = connection.unchecked_transaction()?;
    Ok((revision(&snapshot)?.0, select(&snapshot, ended)?))
}

/// Returns the revision of the recorded tokens, and the one that the server applies.
pub(crate) fn revision(connection: &Connection) -> rusqlite::Result<(u64, u64)> {
    let mut query = connection.prepare_cached("SELECT revision, applied FROM token_revision")?;
    query.query_row([], |row| Ok((count_from_column(row.get(0)?), count_from_column(row.get(1)?))))
}

pub(crate) fn set_applied(connection: &Connection, revision: u64) -> rusqlite::Result<()> {
    let revision = i64::try_from(revision).unwrap_or(i64::MAX);
    connection.execute("UPDATE token_revision SET applied = ?1 WHERE applied IS NOT ?1", [revision]).map(drop)
}

/// What is true of a token that is neither revoked nor expired at the instant `?1`.
const ACTIVE: &str = "revoked IS NULL AND (expires IS NULL OR expires > ?1)";

/// Records a token of an operator, whose label no other active token has.
pub(crate) fn create(connection: &mut Connection, token: &NewToken) -> rusqlite::Result<TokenCreation> {
    let now = to_column(token.created.at);
    let transaction = connection.transaction()?;
    let taken = format!("SELECT id FROM tokens WHERE label = ?2 AND {ACTIVE}");
    if let Some(id) = transaction.query_row(&taken, params![now, token.label], |row| row.get(0)).optional()? {
        return Ok(TokenCreation::LabelTaken(id));
    }
    if count_active(&transaction, now)? >= MAX_USABLE_TOKENS {
        return Ok(TokenCreation::TooMany);
    }
    insert(transaction, token)
}

/// Records a token that was exchanged.
pub(crate) fn issue(connection: &mut Connection, token: &NewToken) -> rusqlite::Result<TokenCreation> {
    let now = to_column(token.created.at);
    let transaction = connection.transaction()?;
    let same = format!("SELECT count(*) FROM tokens WHERE label = ?2 AND {ACTIVE}");
    let same = count_from_column(transaction.query_row(&same, params![now, token.label], |row| row.get(0))?);
    // Half is left to operators.
    if same >= MAX_PER_LABEL || count_active(&transaction, now)? >= MAX_USABLE_TOKENS / 2 {
        return Ok(TokenCreation::TooMany);
    }
    insert(transaction, token)
}

fn count_active(transaction: &Transaction<'_>, now: i64) -> rusqlite::Result<u64> {
    let count = format!("SELECT count(*) FROM tokens WHERE {ACTIVE}");
    transaction.prepare_cached(&count)?.query_row([now], |row| row.get(0)).map(count_from_column)
}

fn insert(transaction: Transaction<'_>, token: &NewToken) -> rusqlite::Result<TokenCreation> {
    let now = to_column(token.created.at);
    let scopes = serde_json::to_string(token.scope.globs());
    let scopes = scopes.map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    let sql = "INSERT INTO tokens (hash, label, role, scopes, expires, created_by, created, owner, is_machine)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    let expires = token.expires.map(to_column);
    let id = transaction.prepare_cached(sql)?.insert(params![
        token.hash,
        token.label,
        token.role.as_str(),
        scopes,
        expires,
        token.created.who,
        now,
        token.owner.name(),
        token.owner.is_machine(),
    ])?;
    let ended = "DELETE FROM tokens WHERE id <= ?2 AND (revoked IS NOT NULL OR expires <= ?1)";
    transaction.execute(ended, params![now, id - KEPT_ENDED])?;
    let revision = advance(&transaction)?;
    transaction.commit()?;
    Ok(TokenCreation::Created { id, revision })
}

pub(crate) fn revoke(connection: &mut Connection, which: &TokenSelector, by: &Signature) -> rusqlite::Result<Option<u64>> {
    let transaction = connection.transaction()?;
    let (id, label, owner) = match which {
        TokenSelector::Id(id) => (Some(*id), None, None),
        TokenSelector::Label(label) => (None, Some(label), None),
        TokenSelector::Owner(owner) => (None, None, Some(owner)),
    };
    let sql = "UPDATE tokens SET revoked_by = ?4, revoked = ?5 WHERE (id = ?1 OR label = ?2 OR lower(owner) = lower(?3)) AND revoked IS NULL";
    if transaction.execute(sql, params![id, label, owner, by.who, to_column(by.at)])? == 0 {
        return Ok(None);
    }
    let revision = advance(&transaction)?;
    transaction.commit()?;
    Ok(Some(revision))
}

pub(crate) fn record_uses(connection: &mut Connection, uses: &[(i64, Timestamp)]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    {
        let sql = "UPDATE tokens SET last_used = ?2 WHERE id = ?1 AND (last_used IS NULL OR last_used < ?2)";
        let mut update = transaction.prepare_cached(sql)?;
        for (id, at) in uses {
            update.execute(params![id, to_column(*at)])?;
        }
    }
    transaction.commit()
}

fn select(connection: &Connection, ended: Timestamp) -> rusqlite::Result<Vec<TokenRecord>> {
    let sql = "SELECT id, hash, label, role, scopes, expires, created_by, created, last_used, revoked_by, revoked,
         owner, is_machine FROM tokens WHERE (revoked IS NULL OR revoked >= ?1) AND (expires IS NULL OR expires >= ?1) ORDER BY id";
    // Compiling globs takes longer than reading a row, and most rows have the same.
    let mut scopes = HashMap::new();
    query_all(connection, sql, [to_column(ended)], |row| read_one(row, &mut scopes))
}

fn advance(transaction: &Transaction<'_>) -> rusqlite::Result<u64> {
    let sql = "UPDATE token_revision SET revision = revision + 1 RETURNING revision";
    transaction.query_row(sql, [], |row| row.get(0)).map(count_from_column)
}

fn read_one(row: &Row<'_>, scopes: &mut HashMap<String, PackageScope>) -> rusqlite::Result<TokenRecord> {
    // A wider scope or role than recorded must not result, so a row that cannot be read is damage.
    let damage = |column: usize, error: String| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into());
    let role = row.get_ref(3)?.as_str()?;
    let role = Role::parse(role).ok_or_else(|| damage(3, format!("unknown role: {role}")))?;
    let written = row.get_ref(4)?.as_str()?;
    let scope = if let Some(known) = scopes.get(written) {
        known.clone()
    } else {
        let globs: Vec<String> = serde_json::from_str(written).map_err(|error| damage(4, error.to_string()))?;
        let scope = PackageScope::parse(&globs).map_err(|error| damage(4, error))?;
        scopes.entry(written.to_owned()).or_insert(scope).clone()
    };
    let instant = |column: usize| row.get::<_, Option<i64>>(column).map(|instant| instant.map(from_column));
    let owner: String = row.get(11)?;
    let token = NewToken {
        hash: row.get(1)?,
        label: row.get(2)?,
        role,
        scope,
        expires: instant(5)?,
        created: Signature { who: row.get(6)?, at: from_column(row.get(7)?) },
        owner: if row.get(12)? { Principal::Machine(owner.into()) } else { Principal::Person(owner.into()) },
    };
    let revoked = row.get::<_, Option<String>>(9)?.zip(instant(10)?).map(|(who, at)| Signature { who, at });
    Ok(TokenRecord { id: row.get(0)?, token, last_used: instant(8)?, revoked })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::store::sqlite::schema;

    fn token(number: u32) -> NewToken {
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&number.to_be_bytes());
        let created = Signature { who: "ada".to_owned(), at: Timestamp::UNIX_EPOCH };
        let (label, scope) = (format!("ci-{number}"), PackageScope::default());
        let owner = Principal::Person("ada".into());
        NewToken { hash, label, role: Role::Client, scope, expires: None, created, owner }
    }

    #[test]
    fn number_of_active_tokens_is_bounded() {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::migrate(&mut connection, Path::new("ledger")).unwrap();
        let sql = "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?1)
             INSERT INTO tokens (hash, label, role, scopes, created_by, created)
             SELECT CAST('x' || n AS BLOB), 'many-' || n, 'client', '[]', 'ada', 0 FROM numbers";
        connection.execute(sql, [i64::try_from(MAX_USABLE_TOKENS - 1).unwrap()]).unwrap();
        assert!(matches!(create(&mut connection, &token(1)).unwrap(), TokenCreation::Created { .. }));
        assert_eq!(create(&mut connection, &token(2)).unwrap(), TokenCreation::TooMany);
        let by = Signature { who: "ada".to_owned(), at: Timestamp::UNIX_EPOCH };
        assert!(revoke(&mut connection, &TokenSelector::Label("ci-1".to_owned()), &by).unwrap().is_some());
        assert!(matches!(create(&mut connection, &token(2)).unwrap(), TokenCreation::Created { .. }));
    }

    #[test]
    fn unreadable_role_or_scope_is_an_error_and_not_a_wider_one() {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::migrate(&mut connection, Path::new("ledger")).unwrap();
        create(&mut connection, &token(1)).unwrap();
        for (role, scopes) in [("root", "[]"), ("client", ""), ("client", "[\"[\"]")] {
            connection.execute("UPDATE tokens SET role = ?1, scopes = ?2", [role, scopes]).unwrap();
            assert!(read(&connection, Timestamp::MIN).is_err(), "{role} {scopes}");
        }
    }
}
