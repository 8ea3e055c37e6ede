//! Reads and writes requests for approvals. A request, its askers and its steps change in one transaction, together with the
//! decision that it leads to.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, TransactionBehavior, params};

use crate::policy::Principal;
use crate::policy::decisions::{DecisionProposal, Signature};
use crate::policy::requests::text::{ProjectName, RequestReason};
use crate::policy::requests::{
    Actor, ApprovalRequest, Asker, DECLINED_FOR, NewRequest, RequestState, RequestStep, RequestedBytes, StepKind, Wish,
};
use crate::store::request_ledger::{
    ApprovedRequest, AskOutcome, MAX_ASKERS, MAX_ENDED_REQUESTS, MAX_OPEN_PER_ASKER, MAX_OPEN_PER_MAKER, MAX_OPEN_REQUESTS,
    MAX_PER_DAY, MAX_STEPS, RequestEnd, RequestFilter,
};
use crate::store::sqlite::decisions;
use crate::store::sqlite::packages::{count_from_column, count_to_column, from_column, query_all, to_column};
use crate::units::timestamp;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// How many requests one transaction deletes.
const PRUNED_AT_ONCE: i64 = 1_000;

const COLUMNS: &str = "id, package, version, digests, profile, state, decision";

pub(crate) fn find(connection: &Connection, id: i64) -> rusqlite::Result<Option<ApprovalRequest>> {
    let snapshot = connection.unchecked_transaction()?;
    let found = select(&snapshot, "id = ?1", params![id])?;
    Ok(found.into_iter().next())
}

pub(crate) fn list(connection: &Connection, filter: &RequestFilter) -> rusqlite::Result<Vec<ApprovalRequest>> {
    let snapshot = connection.unchecked_transaction()?;
    let limit = i64::try_from(filter.limit).unwrap_or(i64::MAX);
    let before = filter.before.unwrap_or(i64::MAX);
    // An index has the open ones. The words of states are constants of this program.
    let states = filter.states.iter().map(|state| format!("'{}'", state.as_str())).collect::<Vec<_>>().join(", ");
    let mut conditions = vec!["id < ?1".to_owned(), "(?2 IS NULL OR package = ?2)".to_owned()];
    if !filter.states.is_empty() {
        conditions.push(format!("state IN ({states})"));
        if filter.states.iter().all(|state| state.is_open()) {
            conditions.push("ended IS NULL".to_owned());
        }
    }
    let sql = format!("{} ORDER BY id DESC LIMIT ?3", conditions.join(" AND "));
    select(&snapshot, &sql, params![before, filter.package, limit])
}

pub(crate) fn count_open(connection: &Connection) -> rusqlite::Result<u64> {
    let mut query = connection.prepare_cached("SELECT count(*) FROM requests WHERE ended IS NULL")?;
    query.query_row([], |row| row.get(0)).map(count_from_column)
}

pub(crate) fn due(connection: &Connection, now: Timestamp, limit: usize) -> rusqlite::Result<Vec<ApprovalRequest>> {
    let snapshot = connection.unchecked_transaction()?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    select(&snapshot, "ended IS NULL AND check_at <= ?1 ORDER BY check_at LIMIT ?2", params![to_column(now), limit])
}

pub(crate) fn check_at(connection: &Connection, id: i64, at: Timestamp) -> rusqlite::Result<()> {
    let sql = "UPDATE requests SET check_at = ?2 WHERE id = ?1 AND ended IS NULL";
    connection.execute(sql, params![id, to_column(at)]).map(drop)
}

pub(crate) fn ask(connection: &mut Connection, new: &NewRequest) -> rusqlite::Result<AskOutcome> {
    let transaction = begin(connection)?;
    let NewRequest { bytes, asker: Asker { by, .. }, .. } = new;
    if let Some(open) = open_of(&transaction, bytes)? {
        if open.bytes.digests == bytes.digests {
            let outcome = join(&transaction, &open, new)?;
            transaction.commit()?;
            return Ok(outcome);
        }
        let why = "upstream states other digests".to_owned();
        end_one(&transaction, &open, &RequestEnd { state: RequestState::BytesChanged, by: Actor::server(by.at), why })?;
    }
    let refused = match declined(&transaction, bytes, by.at)? {
        Some(declined) => Some(declined),
        None => over_limit(&transaction, by)?,
    };
    if let Some(refused) = refused {
        // Ending a request for other bytes stays.
        transaction.commit()?;
        return Ok(refused);
    }
    let sql =
        "INSERT INTO requests (package, version, digests, profile, state, asked, check_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let profile = i64::try_from(new.profile).unwrap_or_default();
    let (state, asked) = (RequestState::Open.as_str(), to_column(by.at));
    let values = params![bytes.package, bytes.version, bytes.digests, profile, state, asked, to_column(new.check_at)];
    let id = transaction.prepare_cached(sql)?.insert(values)?;
    add_asker(&transaction, id, &new.asker)?;
    add_step(
        &transaction,
        id,
        &RequestStep { kind: StepKind::Asked, by: by.clone(), detail: new.asker.wish.reason.to_string() },
    )?;
    delete_oldest(&transaction)?;
    transaction.commit()?;
    Ok(AskOutcome::Created(id))
}

/// Adds an asker to an open request.
fn join(transaction: &Transaction<'_>, open: &ApprovalRequest, new: &NewRequest) -> rusqlite::Result<AskOutcome> {
    let by = &new.asker.by;
    let known = open.askers.iter().find(|asker| asker.by.quota_key() == by.quota_key());
    if known.is_some_and(|asker| asker.withdrawn.is_none()) {
        return Ok(AskOutcome::Repeated(open.id));
    }
    if count_from_column(i64::try_from(open.steps.len()).unwrap_or(i64::MAX)) >= MAX_STEPS
        || (known.is_none() && open.askers.len() as u64 >= MAX_ASKERS)
    {
        return Ok(AskOutcome::TooMany);
    }
    if let Some(refused) = over_limit(transaction, by)?.filter(|refused| *refused != AskOutcome::TooMany) {
        return Ok(refused);
    }
    add_asker(transaction, open.id, &new.asker)?;
    let detail = new.asker.wish.reason.to_string();
    add_step(transaction, open.id, &RequestStep { kind: StepKind::Joined, by: by.clone(), detail })?;
    Ok(AskOutcome::Joined(open.id))
}

pub(crate) fn end(connection: &mut Connection, id: i64, end: &RequestEnd) -> rusqlite::Result<bool> {
    let transaction = begin(connection)?;
    let Some(open) = open_with_id(&transaction, id)? else { return Ok(false) };
    end_one(&transaction, &open, end)?;
    transaction.commit()?;
    Ok(true)
}

pub(crate) fn withdraw(connection: &mut Connection, id: i64, by: &Actor) -> rusqlite::Result<bool> {
    let transaction = begin(connection)?;
    let Some(open) = open_with_id(&transaction, id)? else { return Ok(false) };
    let is_own = |asker: &&Asker| asker.withdrawn.is_none() && asker.by.quota_key() == by.quota_key();
    if !open.askers.iter().any(|asker| is_own(&asker)) {
        return Ok(false);
    }
    let sql = "UPDATE request_askers SET withdrawn = ?3, is_open = 0 WHERE request = ?1 AND asker = ?2";
    transaction.execute(sql, params![id, by.quota_key(), to_column(by.at)])?;
    if open.askers.iter().filter(|asker| asker.withdrawn.is_none()).count() > 1 {
        add_step(&transaction, id, &RequestStep { kind: StepKind::Withdrawn, by: by.clone(), detail: String::new() })?;
    } else {
        let end = RequestEnd { state: RequestState::Withdrawn, by: by.clone(), why: String::new() };
        end_one(&transaction, &open, &end)?;
    }
    transaction.commit()?;
    Ok(true)
}

pub(crate) fn approve(
    connection: &mut Connection,
    id: i64,
    by: &Actor,
    proposal: &DecisionProposal,
) -> rusqlite::Result<Option<ApprovedRequest>> {
    let transaction = begin(connection)?;
    let Some(open) = open_with_id(&transaction, id)?.filter(|open| open.state == RequestState::Open) else { return Ok(None) };
    let (decision, revision) = decisions::insert(&transaction, proposal)?;
    let state = if proposal.needs_second { RequestState::AwaitsSecond } else { RequestState::Approved };
    transaction.execute("UPDATE requests SET decision = ?2 WHERE id = ?1", params![id, decision])?;
    set_state(&transaction, &open, state, by.at)?;
    let step = RequestStep { kind: StepKind::Approved, by: by.clone(), detail: proposal.reason.clone() };
    add_step(&transaction, id, &step)?;
    transaction.commit()?;
    Ok(Some(ApprovedRequest { decision, revision }))
}

pub(crate) fn confirm(connection: &mut Connection, id: i64, by: &Actor, why: &str) -> rusqlite::Result<Option<ApprovedRequest>> {
    let transaction = begin(connection)?;
    let Some(open) = open_with_id(&transaction, id)?.filter(|open| open.state == RequestState::AwaitsSecond) else {
        return Ok(None);
    };
    let Some(decision) = open.decision else { return Ok(None) };
    let signature = Signature { who: by.principal.name().to_owned(), at: by.at };
    let Some(revision) = decisions::confirm_in(&transaction, decision, &signature)? else { return Ok(None) };
    set_state(&transaction, &open, RequestState::Approved, by.at)?;
    add_step(&transaction, id, &RequestStep { kind: StepKind::Approved, by: by.clone(), detail: why.to_owned() })?;
    transaction.commit()?;
    Ok(Some(ApprovedRequest { decision, revision }))
}

/// Deletes some requests that ended before `before`. Returns their number.
pub(crate) fn prune_some(connection: &mut Connection, before: Timestamp) -> rusqlite::Result<u64> {
    let transaction = begin(connection)?;
    let sql = "DELETE FROM requests WHERE id IN (SELECT id FROM requests WHERE ended < ?1 ORDER BY ended LIMIT ?2)";
    let deleted = transaction.execute(sql, params![to_column(before), PRUNED_AT_ONCE])?;
    transaction.commit()?;
    Ok(deleted as u64)
}

/// Starts a transaction that holds the write lock. A read that becomes a write would fail if another process wrote in between.
fn begin(connection: &mut Connection) -> rusqlite::Result<Transaction<'_>> {
    connection.transaction_with_behavior(TransactionBehavior::Immediate)
}

fn open_of(transaction: &Transaction<'_>, bytes: &RequestedBytes) -> rusqlite::Result<Option<ApprovalRequest>> {
    let condition = "package = ?1 AND version = ?2 AND ended IS NULL";
    Ok(select(transaction, condition, params![bytes.package, bytes.version])?.into_iter().next())
}

fn open_with_id(transaction: &Transaction<'_>, id: i64) -> rusqlite::Result<Option<ApprovalRequest>> {
    Ok(select(transaction, "id = ?1 AND ended IS NULL", params![id])?.into_iter().next())
}

fn end_one(transaction: &Transaction<'_>, open: &ApprovalRequest, end: &RequestEnd) -> rusqlite::Result<()> {
    set_state(transaction, open, end.state, end.by.at)?;
    let kind = match end.state {
        RequestState::Declined => StepKind::Declined,
        RequestState::Withdrawn => StepKind::Withdrawn,
        _ => StepKind::Ended,
    };
    add_step(transaction, open.id, &RequestStep { kind, by: end.by.clone(), detail: end.why.clone() })?;
    // A person must not confirm it later.
    if open.state == RequestState::AwaitsSecond
        && let Some(decision) = open.decision
    {
        let by = Signature { who: end.by.principal.name().to_owned(), at: end.by.at };
        decisions::revoke_unconfirmed(transaction, decision, &by, &format!("request {}: {}", open.id, end.state.as_str()))?;
    }
    Ok(())
}

fn set_state(transaction: &Transaction<'_>, open: &ApprovalRequest, state: RequestState, at: Timestamp) -> rusqlite::Result<()> {
    let ended = (!state.is_open()).then(|| to_column(at));
    transaction.execute("UPDATE requests SET state = ?2, ended = ?3 WHERE id = ?1", params![open.id, state.as_str(), ended])?;
    if ended.is_some() {
        transaction.execute("UPDATE request_askers SET is_open = 0 WHERE request = ?1", [open.id])?;
    }
    Ok(())
}

/// Returns the outcome if the same version was declined recently. Other bytes of the version count too: who publishes them
/// could otherwise make people ask again.
fn declined(transaction: &Transaction<'_>, bytes: &RequestedBytes, now: Timestamp) -> rusqlite::Result<Option<AskOutcome>> {
    let since = to_column(timestamp::saturating_sub(now, DECLINED_FOR));
    let sql =
        "SELECT id, ended, (SELECT detail FROM request_steps WHERE request = requests.id AND step = ?4 ORDER BY id DESC LIMIT 1)
         FROM requests WHERE package = ?1 AND version = ?2 AND state = ?4 AND ended > ?3 ORDER BY ended DESC LIMIT 1";
    let values = params![bytes.package, bytes.version, since, RequestState::Declined.as_str()];
    let read = |row: &Row<'_>| {
        let until = timestamp::saturating_add(from_column(row.get(1)?), DECLINED_FOR);
        Ok(AskOutcome::Declined { id: row.get(0)?, until, why: row.get::<_, Option<String>>(2)?.unwrap_or_default() })
    };
    transaction.prepare_cached(sql)?.query_row(values, read).optional()
}

fn over_limit(transaction: &Transaction<'_>, by: &Actor) -> rusqlite::Result<Option<AskOutcome>> {
    let count = |sql: &str, values: &[&dyn rusqlite::ToSql]| {
        transaction.prepare_cached(sql)?.query_row(values, |row| row.get(0)).map(count_from_column)
    };
    let key = by.quota_key();
    if count("SELECT count(*) FROM request_askers WHERE asker = ?1 AND is_open = 1", &[&key])? >= MAX_OPEN_PER_ASKER {
        return Ok(Some(AskOutcome::TooManyOwn));
    }
    if let Principal::Machine(maker) = &by.principal {
        let sql = "SELECT count(*) FROM request_askers WHERE person = ?1 AND is_machine = 1 AND is_open = 1";
        if count(sql, &[&&**maker])? >= MAX_OPEN_PER_MAKER {
            return Ok(Some(AskOutcome::TooManyOwn));
        }
    }
    let yesterday = to_column(timestamp::saturating_sub(by.at, DAY));
    if count("SELECT count(*) FROM request_askers WHERE asker = ?1 AND asked > ?2", &[&key, &yesterday])? >= MAX_PER_DAY {
        return Ok(Some(AskOutcome::TooManyToday));
    }
    Ok((count_open(transaction)? >= MAX_OPEN_REQUESTS).then_some(AskOutcome::TooMany))
}

/// Deletes the oldest ended requests beyond the limit, except those that keep others from asking again.
fn delete_oldest(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let sql = "SELECT ended FROM requests WHERE ended IS NOT NULL ORDER BY ended DESC LIMIT 1 OFFSET ?1";
    let limit = count_to_column(MAX_ENDED_REQUESTS);
    let Some(beyond) = transaction.prepare_cached(sql)?.query_row([limit], |row| row.get::<_, i64>(0)).optional()? else {
        return Ok(());
    };
    let sql = "DELETE FROM requests WHERE id IN
         (SELECT id FROM requests WHERE ended <= ?1 AND state <> ?2 ORDER BY ended LIMIT ?3)";
    transaction.execute(sql, params![beyond, RequestState::Declined.as_str(), PRUNED_AT_ONCE]).map(drop)
}

fn add_asker(transaction: &Transaction<'_>, id: i64, asker: &Asker) -> rusqlite::Result<()> {
    let Asker { by, wish: Wish { reason, project, lasts }, .. } = asker;
    let sql = "INSERT INTO request_askers
         (request, asker, person, is_machine, subject, method, asked, reason, project, lasts, is_open)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, 1)
         ON CONFLICT (request, asker) DO UPDATE SET withdrawn = NULL, is_open = 1";
    let (is_machine, lasts) = (by.principal.is_machine(), count_to_column(lasts.as_secs()));
    let project = project.as_ref().map(ProjectName::as_str);
    let name = by.principal.name();
    let values =
        params![id, by.quota_key(), name, is_machine, by.subject, by.method, to_column(by.at), reason.as_str(), project, lasts];
    transaction.prepare_cached(sql)?.execute(values).map(drop)
}

fn add_step(transaction: &Transaction<'_>, id: i64, step: &RequestStep) -> rusqlite::Result<()> {
    let RequestStep { kind, by, detail } = step;
    let sql = "INSERT INTO request_steps (request, step, person, is_machine, subject, method, at, detail)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let name = by.principal.name();
    let values = params![id, kind.as_str(), name, by.principal.is_machine(), by.subject, by.method, to_column(by.at), detail];
    transaction.prepare_cached(sql)?.execute(values).map(drop)
}

/// Returns the requests that `condition` selects, with their askers and steps.
fn select(connection: &Connection, condition: &str, values: impl rusqlite::Params) -> rusqlite::Result<Vec<ApprovalRequest>> {
    let sql = format!("SELECT {COLUMNS} FROM requests WHERE {condition}");
    let mut found = query_all(connection, &sql, values, read_one)?;
    for request in &mut found {
        let sql = "SELECT person, is_machine, subject, method, asked, reason, project, lasts, withdrawn
             FROM request_askers WHERE request = ?1 ORDER BY id";
        request.askers = query_all(connection, sql, [request.id], read_asker)?;
        let sql = "SELECT person, is_machine, subject, method, at, step, detail
             FROM request_steps WHERE request = ?1 ORDER BY id";
        request.steps = query_all(connection, sql, [request.id], read_step)?;
    }
    Ok(found)
}

fn damage(column: usize, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into())
}

fn read_one(row: &Row<'_>) -> rusqlite::Result<ApprovalRequest> {
    let state = row.get_ref(5)?.as_str()?;
    Ok(ApprovalRequest {
        id: row.get(0)?,
        bytes: RequestedBytes { package: row.get(1)?, version: row.get(2)?, digests: row.get(3)? },
        profile: usize::try_from(row.get::<_, i64>(4)?).unwrap_or_default(),
        state: RequestState::parse(state).ok_or_else(|| damage(5, format!("unknown state of a request: {state}")))?,
        askers: Vec::new(),
        decision: row.get(6)?,
        steps: Vec::new(),
    })
}

/// Reads an actor from the first five columns.
fn read_actor(row: &Row<'_>) -> rusqlite::Result<Actor> {
    let (name, is_machine): (String, bool) = (row.get(0)?, row.get(1)?);
    let principal = if is_machine { Principal::Machine(name.into()) } else { Principal::Person(name.into()) };
    Ok(Actor { principal, subject: row.get(2)?, method: row.get(3)?, at: from_column(row.get(4)?) })
}

fn read_asker(row: &Row<'_>) -> rusqlite::Result<Asker> {
    let project = row.get::<_, Option<String>>(6)?;
    let wish = Wish {
        reason: RequestReason::parse(row.get_ref(5)?.as_str()?).map_err(|error| damage(5, error))?,
        project: project.map(|text| ProjectName::parse(&text)).transpose().map_err(|error| damage(6, error))?,
        lasts: Duration::from_secs(count_from_column(row.get(7)?)),
    };
    Ok(Asker { by: read_actor(row)?, wish, withdrawn: row.get::<_, Option<i64>>(8)?.map(from_column) })
}

fn read_step(row: &Row<'_>) -> rusqlite::Result<RequestStep> {
    let kind = row.get_ref(5)?.as_str()?;
    let kind = StepKind::parse(kind).ok_or_else(|| damage(5, format!("unknown step of a request: {kind}")))?;
    Ok(RequestStep { kind, by: read_actor(row)?, detail: row.get(6)? })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::store::sqlite::schema;

    fn filled(open: u64) -> Connection {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.pragma_update(None, "foreign_keys", true).unwrap();
        schema::migrate(&mut connection, Path::new("ledger")).unwrap();
        let sql = "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?1)
             INSERT INTO requests (package, version, digests, profile, state, asked, check_at)
             SELECT 'p-' || n, '1.0.0', 'sha512-AAAA', 0, 'open', 0, n FROM numbers";
        connection.execute(sql, [count_to_column(open)]).unwrap();
        let sql = "INSERT INTO request_askers (request, asker, person, is_machine, subject, method, asked, reason, lasts, is_open)
             SELECT id, 'machine l-' || (id / 10), 'https://ci.example', 1, 'l-' || (id / 10), 'token 1', 0, 'a fix', 60, 1 FROM requests";
        connection.execute(sql, []).unwrap();
        connection
    }

    fn new(principal: Principal, version: &str) -> NewRequest {
        let by = Actor { principal, subject: "new".to_owned(), method: "token 2".to_owned(), at: Timestamp::UNIX_EPOCH };
        let wish = Wish { reason: RequestReason::parse("a fix").unwrap(), project: None, lasts: DAY };
        let digests = "sha512-AAAA".to_owned();
        let bytes = RequestedBytes { package: "axios".to_owned(), version: version.to_owned(), digests };
        NewRequest { bytes, asker: Asker { by, wish, withdrawn: None }, profile: 0, check_at: Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn number_of_open_requests_is_bounded_in_total_and_per_maker_of_machine_tokens() {
        let mut connection = filled(MAX_OPEN_REQUESTS - 1);
        let issuer = Principal::Machine("https://ci.example".into());
        assert_eq!(ask(&mut connection, &new(issuer, "1.0.0")).unwrap(), AskOutcome::TooManyOwn, "labels come from branch names");
        let ada = || Principal::Person("ada".into());
        assert!(matches!(ask(&mut connection, &new(ada(), "1.0.0")).unwrap(), AskOutcome::Created(_)));
        assert_eq!(ask(&mut connection, &new(ada(), "2.0.0")).unwrap(), AskOutcome::TooMany);
        assert!(matches!(ask(&mut connection, &new(Principal::Person("bob".into()), "1.0.0")).unwrap(), AskOutcome::Joined(_)));
    }

    #[test]
    fn one_asker_asks_a_bounded_number_of_times_a_day() {
        let mut connection = filled(0);
        let ada = Principal::Person("ada".into());
        for number in 0..MAX_PER_DAY {
            let AskOutcome::Created(id) = ask(&mut connection, &new(ada.clone(), &format!("{number}.0.0"))).unwrap() else {
                panic!("request {number} was refused");
            };
            assert!(withdraw(&mut connection, id, &new(ada.clone(), "").asker.by).unwrap());
        }
        assert_eq!(ask(&mut connection, &new(ada, "999.0.0")).unwrap(), AskOutcome::TooManyToday);
    }

    #[test]
    fn limits_and_lists_use_indexes() {
        let connection = filled(10);
        for (sql, index) in [
            ("SELECT count(*) FROM request_askers WHERE asker = ?1 AND is_open = 1", "request_askers_open"),
            (
                "SELECT count(*) FROM request_askers WHERE person = ?1 AND is_machine = 1 AND is_open = 1",
                "request_askers_of_makers",
            ),
            ("SELECT count(*) FROM request_askers WHERE asker = ?1 AND asked > ?2", "request_askers_by_time"),
            ("SELECT id FROM requests WHERE package = ?1 AND version = ?2 AND ended IS NULL", "requests_by_version"),
            (
                "SELECT id FROM requests WHERE ended IS NULL AND check_at <= ?1 ORDER BY check_at LIMIT ?2",
                "open_requests_by_check",
            ),
        ] {
            let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let values = vec!["x"; statement.parameter_count()];
            let plan: Vec<String> = statement
                .query_map(rusqlite::params_from_iter(values), |row| row.get(3))
                .unwrap()
                .collect::<rusqlite::Result<_>>()
                .unwrap();
            assert!(plan.iter().any(|step| step.contains(index)), "{sql}: {plan:?}");
        }
    }
}
