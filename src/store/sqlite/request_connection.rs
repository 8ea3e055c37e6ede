//! Requests for approvals on any connection to the ledger: that of the server, or that of a process next to it.

use jiff::Timestamp;
use rusqlite::Connection;

use crate::policy::decisions::DecisionProposal;
use crate::policy::requests::{Actor, ApprovalRequest, NewRequest};
use crate::store::error::StoreError;
use crate::store::request_ledger::{ApprovedRequest, AskOutcome, RequestEnd, RequestFilter, RequestLedger};
use crate::store::sqlite::{decisions, requests};

/// Reads and changes the ledger over a connection that several threads share.
pub(crate) trait RequestConnection: Send + Sync {
    fn query<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError>;

    fn write<T>(&self, change: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T, StoreError>;
}

impl<C: RequestConnection> RequestLedger for C {
    fn request(&self, id: i64) -> Result<Option<ApprovalRequest>, StoreError> {
        self.query(|connection| requests::find(connection, id))
    }

    fn requests(&self, filter: &RequestFilter) -> Result<Vec<ApprovalRequest>, StoreError> {
        self.query(|connection| requests::list(connection, filter))
    }

    fn open_requests(&self) -> Result<u64, StoreError> {
        self.query(requests::count_open)
    }

    fn due_requests(&self, now: Timestamp, limit: usize) -> Result<Vec<ApprovalRequest>, StoreError> {
        self.query(|connection| requests::due(connection, now, limit))
    }

    fn check_request_at(&self, id: i64, at: Timestamp) -> Result<(), StoreError> {
        self.write(|connection| requests::check_at(connection, id, at))
    }

    fn ask(&self, new: &NewRequest) -> Result<AskOutcome, StoreError> {
        self.write(|connection| requests::ask(connection, new))
    }

    fn end_request(&self, id: i64, end: &RequestEnd) -> Result<bool, StoreError> {
        self.write(|connection| requests::end(connection, id, end))
    }

    fn withdraw_request(&self, id: i64, by: &Actor) -> Result<bool, StoreError> {
        self.write(|connection| requests::withdraw(connection, id, by))
    }

    fn approve_request(&self, id: i64, by: &Actor, proposal: &DecisionProposal) -> Result<Option<ApprovedRequest>, StoreError> {
        self.write(|connection| requests::approve(connection, id, by, proposal))
    }

    fn confirm_request(&self, id: i64, by: &Actor, why: &str) -> Result<Option<ApprovedRequest>, StoreError> {
        self.write(|connection| requests::confirm(connection, id, by, why))
    }

    fn applied_decisions(&self) -> Result<u64, StoreError> {
        self.query(|connection| decisions::revision(connection).map(|(_, applied)| applied))
    }

    fn prune_requests(&self, before: Timestamp) -> Result<u64, StoreError> {
        let mut deleted = 0;
        while let pruned @ 1.. = self.write(|connection| requests::prune_some(connection, before))? {
            deleted += pruned;
        }
        Ok(deleted)
    }
}
