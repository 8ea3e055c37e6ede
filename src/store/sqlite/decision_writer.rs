//! Records decisions in the ledger from a separate process, synced to disk, so that they survive a power cut.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use crate::policy::decisions::{Decision, DecisionProposal, Signature};
use crate::store::data_dir::DataDir;
use crate::store::error::StoreError;
use crate::store::sqlite::{self, decisions, schema};

/// Interval between checks whether the server has applied a decision.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Reads and records the decisions of a data directory.
pub struct DecisionWriter {
    root: PathBuf,
    connection: Connection,
    /// The ownership of the data directory, if no server has it.
    owned: Option<DataDir>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApplyStatus {
    Applied,
    /// No server runs. The next one applies it at start.
    AtNextStart,
    /// The running server did not apply it within the time limit.
    Pending,
}

impl DecisionWriter {
    /// Opens the ledger in `root`, which is created if missing. Fails if a server runs and the schema is not this program's.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let path = DataDir::ledger_in(root);
        let (owned, connection) = match DataDir::open(root) {
            Ok(data_dir) => (Some(data_dir), sqlite::open_writer(&path)?),
            Err(StoreError::Locked { .. }) => {
                let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
                let connection = sqlite::connect(&path, flags).map_err(StoreError::ledger("open"))?;
                // Only the running server may migrate the schema.
                schema::expect_known(&connection, &path)?;
                (None, connection)
            }
            Err(error) => return Err(error),
        };
        connection.pragma_update(None, "synchronous", "full").map_err(StoreError::ledger("open"))?;
        Ok(Self { root: root.to_owned(), connection, owned })
    }

    pub fn find(&self, id: i64) -> Result<Option<Decision>, StoreError> {
        let found = decisions::select(&self.connection, Some(id)).map_err(StoreError::ledger("read"))?;
        Ok(found.into_iter().next())
    }

    /// Records a proposal. Returns its id and the revision to wait for.
    pub fn decide(&mut self, proposal: &DecisionProposal) -> Result<(i64, u64), StoreError> {
        decisions::decide(&mut self.connection, proposal).map_err(StoreError::ledger("write"))
    }

    /// Confirms a decision as the second operator. `None` if it is missing, needs no confirmation, or `by` is its author.
    pub fn confirm(&mut self, id: i64, by: &Signature) -> Result<Option<u64>, StoreError> {
        decisions::confirm(&mut self.connection, id, by).map_err(StoreError::ledger("write"))
    }

    /// Revokes a decision. Returns `None` if it does not exist or is revoked already.
    pub fn revoke(&mut self, id: i64, by: &Signature, why: &str) -> Result<Option<u64>, StoreError> {
        decisions::revoke(&mut self.connection, id, by, why).map_err(StoreError::ledger("write"))
    }

    /// Waits at most `at_most` until the running server applies all decisions up to `revision`. Blocks.
    pub fn wait_applied(&self, revision: u64, at_most: Duration) -> Result<ApplyStatus, StoreError> {
        if self.owned.is_some() {
            return Ok(ApplyStatus::AtNextStart);
        }
        let deadline = Instant::now() + at_most;
        loop {
            let (_, applied) = decisions::revision(&self.connection).map_err(StoreError::ledger("read"))?;
            if applied >= revision {
                return Ok(ApplyStatus::Applied);
            }
            if Instant::now() >= deadline {
                // The lock may have been held by a process other than a server, or by a server that has ended.
                let is_unlocked = DataDir::open(&self.root).is_ok();
                return Ok(if is_unlocked { ApplyStatus::AtNextStart } else { ApplyStatus::Pending });
            }
            #[expect(clippy::disallowed_methods, reason = "a process of its own, which has nothing else to do")]
            std::thread::sleep(POLL_INTERVAL);
        }
    }
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
    fn running_server_reads_and_acknowledges_decisions() {
        let home = tempfile::tempdir().unwrap();
        let ledger = SqliteLedger::open(&DataDir::open(home.path()).unwrap()).unwrap();
        let mut writer = DecisionWriter::open(home.path()).unwrap();
        let (id, revision) = writer.decide(&proposal(false)).unwrap();
        assert_eq!(writer.wait_applied(revision, Duration::ZERO).unwrap(), ApplyStatus::Pending);
        let (seen, decisions) = ledger.decisions().unwrap();
        assert_eq!((seen, ledger.decision_revision().unwrap(), decisions.len()), (revision, revision, 1));
        assert_eq!((decisions[0].id, &decisions[0].proposal), (id, &proposal(false)));
        ledger.set_applied_revision(seen).unwrap();
        assert_eq!(writer.wait_applied(revision, Duration::ZERO).unwrap(), ApplyStatus::Applied);
    }

    #[test]
    fn decision_without_a_server_applies_at_next_start() {
        let home = tempfile::tempdir().unwrap();
        let mut writer = DecisionWriter::open(&home.path().join("new")).unwrap();
        let (_, revision) = writer.decide(&proposal(false)).unwrap();
        assert_eq!(writer.wait_applied(revision, Duration::ZERO).unwrap(), ApplyStatus::AtNextStart);
        drop(writer);
        let ledger = SqliteLedger::open(&DataDir::open(&home.path().join("new")).unwrap()).unwrap();
        assert_eq!(ledger.decisions().unwrap().1.len(), 1);
    }

    #[test]
    fn confirmation_needs_another_operator_and_counts_once() {
        let home = tempfile::tempdir().unwrap();
        let mut writer = DecisionWriter::open(home.path()).unwrap();
        let (id, _) = writer.decide(&proposal(true)).unwrap();
        assert_eq!(writer.find(id).unwrap().unwrap().state(Timestamp::UNIX_EPOCH), DecisionState::AwaitsSecond);
        assert_eq!(writer.confirm(id, &signature("ada")).unwrap(), None);
        assert!(writer.confirm(id, &signature("grace")).unwrap().is_some());
        assert_eq!(writer.confirm(id, &signature("alan")).unwrap(), None);
        assert_eq!(writer.find(id).unwrap().unwrap().signatories(), "ada and grace");
        assert!(writer.revoke(id, &signature("alan"), "a mistake").unwrap().is_some());
        assert_eq!(writer.revoke(id, &signature("alan"), "again").unwrap(), None);
        assert_eq!(writer.find(id).unwrap().unwrap().revoked.as_ref().unwrap().1, "a mistake");
    }
}
