//! What the pages for people read from the ledger. Every query has a bound, so a page costs little whatever the ledger holds.

use jiff::Timestamp;

use crate::npm::PackageName;
use crate::store::error::StoreError;
use crate::store::ledger::Exposure;

/// Which young releases to return.
#[derive(Debug, Clone)]
pub struct YoungReleases {
    /// Releases whose age counts from later than this.
    pub since: Timestamp,
    /// A part of the package's name, in lower case; empty for all.
    pub search: String,
}

/// A release that upstream has. A package has a record for each of its views.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct YoungRelease {
    pub name: String,
    pub version: String,
    /// The time from which its age counts.
    pub since: Timestamp,
}

/// A client with a tool, and when it requested something last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenClient {
    /// The address, after the label of its token if it has one.
    pub client: String,
    pub tool: String,
    pub tool_version: String,
    pub last: Timestamp,
}

/// The refused requests of a period, counted in several ways. Each list has the highest numbers first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RefusalReport {
    pub total: u64,
    /// Days since 1970, in order.
    pub days: Vec<(i64, u64)>,
    pub rules: Vec<(String, u64)>,
    pub packages: Vec<(String, u64)>,
    pub clients: Vec<(String, u64)>,
    /// Whether older rows were not counted.
    pub is_cut: bool,
}

/// Queries fail if the ledger cannot be read. They block.
pub trait ReportLedger: Send + Sync {
    /// Returns the requests for tarballs of a package, the last one first, at most `limit` rows.
    fn last_requests(&self, name: &PackageName, version: Option<&str>, limit: usize) -> Result<Vec<Exposure>, StoreError>;

    /// Returns young releases by the time from which their age counts, the earliest first: `limit` from a position.
    fn young_releases(&self, wanted: &YoungReleases, part: (usize, usize)) -> Result<Vec<YoungRelease>, StoreError>;

    /// Counts the refused requests since `since`: at most `rows` of the newest rows, and `entries` per list.
    fn refusals(&self, since: Timestamp, limits: (usize, usize)) -> Result<RefusalReport, StoreError>;

    /// Returns the clients, at most `limit`, in no order.
    fn clients(&self, limit: usize) -> Result<Vec<SeenClient>, StoreError>;
}
