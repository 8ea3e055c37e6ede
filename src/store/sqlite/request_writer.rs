//! Reads and records requests for approvals from a process next to the server.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use rusqlite::Connection;

use crate::policy::decisions::DecisionProposal;
use crate::policy::requests::{Actor, ApprovalRequest, NewRequest};
use crate::store::error::StoreError;
use crate::store::request_ledger::{ApprovedRequest, AskOutcome, RequestEnd, RequestFilter, RequestLedger};
use crate::store::sqlite::outside_writer::OutsideWriter;
use crate::store::sqlite::{decisions, requests};

/// The requests of a data directory.
pub struct RequestWriter(Mutex<OutsideWriter>);

impl RequestWriter {
    /// Opens the ledger in `root`, which is created if missing. Fails if a server runs and the schema is not this program's.
    ///
    /// # Errors
    /// Returns an error if the ledger cannot be opened.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        OutsideWriter::open(root).map(Mutex::new).map(Self)
    }

    fn read<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let writer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        query(&writer.connection).map_err(StoreError::ledger("read"))
    }

    fn write<T>(&self, change: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let mut writer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut writer.connection).map_err(StoreError::ledger("write"))
    }
}

impl RequestLedger for RequestWriter {
    fn request(&self, id: i64) -> Result<Option<ApprovalRequest>, StoreError> {
        self.read(|connection| requests::find(connection, id))
    }

    fn requests(&self, filter: &RequestFilter) -> Result<Vec<ApprovalRequest>, StoreError> {
        self.read(|connection| requests::list(connection, filter))
    }

    fn open_requests(&self) -> Result<u64, StoreError> {
        self.read(requests::count_open)
    }

    fn due_requests(&self, now: Timestamp, limit: usize) -> Result<Vec<ApprovalRequest>, StoreError> {
        self.read(|connection| requests::due(connection, now, limit))
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
        self.read(|connection| decisions::revision(connection).map(|(_, applied)| applied))
    }

    fn prune_requests(&self, before: Timestamp) -> Result<u64, StoreError> {
        self.write(|connection| requests::prune_some(connection, before))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::request_conformance::request_laws;

    request_laws!(tempfile::tempdir().unwrap(), |home: &tempfile::TempDir| Arc::new(RequestWriter::open(home.path()).unwrap()));
}
