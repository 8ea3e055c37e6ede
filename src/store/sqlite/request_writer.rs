//! Reads and records requests for approvals from a process next to the server.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rusqlite::Connection;

use crate::store::error::StoreError;
use crate::store::sqlite::outside_writer::OutsideWriter;
use crate::store::sqlite::request_connection::RequestConnection;

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
}

impl RequestConnection for RequestWriter {
    fn query<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).query(query)
    }

    fn write<T>(&self, change: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(change)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::request_conformance::request_laws;

    request_laws!(tempfile::tempdir().unwrap(), |home: &tempfile::TempDir| Arc::new(RequestWriter::open(home.path()).unwrap()));
}
