//! Rows of the ledger as exports and lists show them.

use jiff::Timestamp;
use serde::Serialize;

use crate::store::ledger::DownloadOutcome;

/// Which requests are wanted. `None` means all.
#[derive(Debug, Clone, Default)]
pub struct RowFilter {
    /// The exact name of a package.
    pub name: Option<String>,
    pub outcome: Option<DownloadOutcome>,
    /// Rows that ended before this instant are left out.
    pub since: Option<Timestamp>,
    /// Rows that began at this instant or later are left out.
    pub until: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOrder {
    OldestFirst,
    NewestFirst,
}

/// Equal requests that were recorded together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DownloadRow {
    /// The position in the ledger.
    #[serde(skip)]
    pub id: i64,
    pub first: Timestamp,
    pub last: Timestamp,
    pub times: u64,
    /// The address, after the label of the token or the name of the user and `@` if there is one.
    pub client: String,
    pub tool: String,
    pub tool_version: String,
    /// `tarball` or `packument`.
    pub kind: String,
    pub name: String,
    /// `None` for a packument.
    pub version: Option<String>,
    /// The digest of the bytes, as SRI, if known.
    pub integrity: Option<String>,
    pub outcome: DownloadOutcome,
    pub rule: Option<String>,
    /// The versions that were hidden.
    pub hidden: Vec<String>,
}

/// The requests of one client with one version of a tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientRow {
    /// As in [`DownloadRow::client`].
    pub client: String,
    pub tool: String,
    pub tool_version: String,
    pub first: Timestamp,
    pub last: Timestamp,
    pub served: u64,
    pub refused: u64,
}
