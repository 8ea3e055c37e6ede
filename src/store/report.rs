//! What the pages for people read from the ledger. Every query has a bound, so a page costs little whatever the ledger holds.

use crate::npm::PackageName;
use crate::store::error::StoreError;
use crate::store::ledger::Exposure;

/// Queries fail if the ledger cannot be read. They block.
pub trait ReportLedger: Send + Sync {
    /// Returns the requests for tarballs of a package, the last one first, at most `limit` rows.
    fn last_requests(&self, name: &PackageName, version: Option<&str>, limit: usize) -> Result<Vec<Exposure>, StoreError>;
}
