//! Records decisions in the ledger from a process next to the server.

use std::path::Path;
use std::time::Duration;

use crate::policy::decisions::{Decision, DecisionProposal, Signature};
use crate::store::error::StoreError;
use crate::store::sqlite::decisions;
use crate::store::sqlite::outside_writer::{ApplyStatus, OutsideWriter};

/// Reads and records the decisions of a data directory.
pub struct DecisionWriter(OutsideWriter);

impl DecisionWriter {
    /// Opens the ledger in `root`, which is created if missing. Fails if a server runs and the schema is not this program's.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        OutsideWriter::open(root).map(Self)
    }

    pub fn find(&self, id: i64) -> Result<Option<Decision>, StoreError> {
        let found = self.0.query(|connection| decisions::select(connection, Some(id)))?;
        Ok(found.into_iter().next())
    }

    /// Records a proposal. Returns its id and the revision to wait for.
    pub fn decide(&mut self, proposal: &DecisionProposal) -> Result<(i64, u64), StoreError> {
        self.0.write(|connection| decisions::decide(connection, proposal))
    }

    /// Confirms a decision as the second operator. `None` if it is missing, needs no confirmation, or `by` is its author.
    pub fn confirm(&mut self, id: i64, by: &Signature) -> Result<Option<u64>, StoreError> {
        self.0.write(|connection| decisions::confirm(connection, id, by))
    }

    /// Revokes a decision. Returns `None` if it does not exist or is revoked already.
    pub fn revoke(&mut self, id: i64, by: &Signature, why: &str) -> Result<Option<u64>, StoreError> {
        self.0.write(|connection| decisions::revoke(connection, id, by, why))
    }

    /// Waits at most `at_most` until the running server applies all decisions up to `revision`. Blocks.
    pub fn wait_applied(&self, revision: u64, at_most: Duration) -> Result<ApplyStatus, StoreError> {
        self.0.wait_applied(revision, at_most, |connection| decisions::revision(connection).map(|(_, applied)| applied))
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::policy::decisions::{DecisionAction, DecisionState};
    use crate::store::data_dir::DataDir;
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
