//! Where decisions are written down: by a process of its own, beside a running server or without one. On disk before it
//! returns, power cuts included. Refuses to judge them, and to touch anything else of the ledger.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use crate::policy::decisions::{Decision, DecisionProposal, Signature};
use crate::store::StoreError;
use crate::store::data_dir::DataDir;
use crate::store::sqlite::{self, decisions, schema};

/// How often it is looked whether the server has taken a decision in.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The decisions of a data directory, to read and to add to.
pub struct DecisionWriter {
    root: PathBuf,
    connection: Connection,
    /// The ownership, where no server has it.
    owned: Option<DataDir>,
}

/// Whether a decision is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApplyStatus {
    /// The running server judges by it.
    InForce,
    /// No server runs: the next one will.
    AtNextStart,
    /// A server runs and has not taken it in within the time it was given.
    Pending,
}

impl DecisionWriter {
    /// The desk of the data directory at `root`, which is made when it is missing.
    ///
    /// # Errors
    /// When the directory or its ledger cannot be used, or another version of the program wrote it and a server runs.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let path = DataDir::ledger_in(root);
        let (owned, connection) = match DataDir::open(root) {
            Ok(data_dir) => (Some(data_dir), sqlite::open_writer(&path)?),
            Err(StoreError::Locked { .. }) => (None, open_beside(&path)?),
            Err(wrong) => return Err(wrong),
        };
        connection.pragma_update(None, "synchronous", "full").map_err(StoreError::ledger("be opened"))?;
        Ok(Self { root: root.to_owned(), connection, owned })
    }

    /// Every decision that was ever taken, oldest first.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn all(&self) -> Result<Vec<Decision>, StoreError> {
        decisions::read(&self.connection).map(|(_, decisions)| decisions).map_err(StoreError::ledger("be read"))
    }

    /// One decision.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn find(&self, id: i64) -> Result<Option<Decision>, StoreError> {
        decisions::find(&self.connection, id).map_err(StoreError::ledger("be read"))
    }

    /// Writes a proposal down: its number, and the revision to wait for.
    ///
    /// # Errors
    /// When the ledger cannot be written; then nothing was.
    pub fn decide(&mut self, proposal: &DecisionProposal) -> Result<(i64, u64), StoreError> {
        decisions::decide(&mut self.connection, proposal).map_err(StoreError::ledger("be written"))
    }

    /// Adds a second name to a decision that awaits one; `None` when that cannot be: there is no such decision, it awaits
    /// nobody, or `by` is its author.
    ///
    /// # Errors
    /// When the ledger cannot be written; then nothing was.
    pub fn confirm(&mut self, id: i64, by: &Signature) -> Result<Option<u64>, StoreError> {
        decisions::confirm(&mut self.connection, id, by).map_err(StoreError::ledger("be written"))
    }

    /// Takes a decision back; `None` when there is none to take back.
    ///
    /// # Errors
    /// When the ledger cannot be written; then nothing was.
    pub fn revoke(&mut self, id: i64, by: &Signature, why: &str) -> Result<Option<u64>, StoreError> {
        decisions::revoke(&mut self.connection, id, by, why).map_err(StoreError::ledger("be written"))
    }

    /// Waits, at most so long, until the running server judges by everything up to `revision`. Blocks.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn await_effect(&self, revision: u64, at_most: Duration) -> Result<ApplyStatus, StoreError> {
        if self.owned.is_some() {
            return Ok(ApplyStatus::AtNextStart);
        }
        let deadline = Instant::now() + at_most;
        loop {
            let (_, in_force) = decisions::revision(&self.connection).map_err(StoreError::ledger("be read"))?;
            if in_force >= revision {
                return Ok(ApplyStatus::InForce);
            }
            if Instant::now() >= deadline {
                // Whoever held the lock may have been no server, or one that went.
                let gone = DataDir::open(&self.root).is_ok();
                return Ok(if gone { ApplyStatus::AtNextStart } else { ApplyStatus::Pending });
            }
            #[expect(clippy::disallowed_methods, reason = "a process of its own, which has nothing else to do")]
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// The ledger of a server that runs: it must be of this program's schema, for it is the server that brings it up to date.
fn open_beside(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = sqlite::connect(path, flags).map_err(StoreError::ledger("be opened"))?;
    schema::expect_known(&connection, path)?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::policy::decisions::{DecisionAction, DecisionState};
    use crate::store::ledger::Ledger;
    use crate::store::sqlite::SqliteLedger;

    fn signature(who: &str) -> Signature {
        Signature { who: who.to_owned(), at: Timestamp::UNIX_EPOCH }
    }

    fn proposal(needs_second: bool) -> DecisionProposal {
        let act = DecisionAction::Deny { packages: "axios".to_owned(), range: Some("1.14.1".to_owned()) };
        DecisionProposal { act, reason: "a RAT".to_owned(), author: signature("ada"), expires: None, needs_second }
    }

    #[test]
    fn what_is_decided_beside_a_server_is_read_by_it_and_acknowledged() {
        let home = tempfile::tempdir().unwrap();
        let ledger = SqliteLedger::open(&DataDir::open(home.path()).unwrap()).unwrap();
        let mut desk = DecisionWriter::open(home.path()).unwrap();
        let (id, revision) = desk.decide(&proposal(false)).unwrap();
        assert_eq!(desk.await_effect(revision, Duration::ZERO).unwrap(), ApplyStatus::Pending);
        let (seen, decisions) = ledger.decisions().unwrap();
        assert_eq!((seen, ledger.decided().unwrap(), decisions.len()), (revision, revision, 1));
        assert_eq!((decisions[0].id, &decisions[0].proposal), (id, &proposal(false)));
        ledger.put_in_force(seen).unwrap();
        assert_eq!(desk.await_effect(revision, Duration::ZERO).unwrap(), ApplyStatus::InForce);
    }

    #[test]
    fn without_a_server_it_waits_for_the_next_start() {
        let home = tempfile::tempdir().unwrap();
        let mut desk = DecisionWriter::open(&home.path().join("new")).unwrap();
        let (_, revision) = desk.decide(&proposal(false)).unwrap();
        assert_eq!(desk.await_effect(revision, Duration::ZERO).unwrap(), ApplyStatus::AtNextStart);
        drop(desk);
        let ledger = SqliteLedger::open(&DataDir::open(&home.path().join("new")).unwrap()).unwrap();
        assert_eq!(ledger.decisions().unwrap().1.len(), 1);
    }

    #[test]
    fn a_second_name_is_another_person_and_counts_once() {
        let home = tempfile::tempdir().unwrap();
        let mut desk = DecisionWriter::open(home.path()).unwrap();
        let (id, _) = desk.decide(&proposal(true)).unwrap();
        assert_eq!(desk.find(id).unwrap().unwrap().state(Timestamp::UNIX_EPOCH), DecisionState::AwaitsSecond);
        assert_eq!(desk.confirm(id, &signature("ada")).unwrap(), None);
        assert!(desk.confirm(id, &signature("grace")).unwrap().is_some());
        assert_eq!(desk.confirm(id, &signature("alan")).unwrap(), None);
        assert_eq!(desk.find(id).unwrap().unwrap().signed(), "ada and grace");
        assert!(desk.revoke(id, &signature("alan"), "a mistake").unwrap().is_some());
        assert_eq!(desk.revoke(id, &signature("alan"), "again").unwrap(), None);
        assert_eq!(desk.all().unwrap()[0].revoked.as_ref().unwrap().1, "a mistake");
    }
}
