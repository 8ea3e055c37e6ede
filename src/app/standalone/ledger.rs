//! Lists of what the ledger of a data directory recorded.

use std::ops::ControlFlow;
use std::path::Path;

use jiff::Timestamp;

use crate::app::error::AppError;
use crate::store::{ClientRow, DownloadRow, RowFilter, RowOrder, SqliteLedger};

/// Rows that are read at once.
const PAGE_ROWS: usize = 5_000;

/// Passes requests to `take` until it returns an error or wants no more.
///
/// # Errors
/// Returns the error of `take`, or an error if there is no ledger or if it cannot be read.
pub(crate) fn for_each_download<E: From<AppError>>(
    data_dir: &Path,
    filter: &RowFilter,
    order: RowOrder,
    mut take: impl FnMut(DownloadRow) -> Result<ControlFlow<()>, E>,
) -> Result<(), E> {
    let ledger = SqliteLedger::read_only(data_dir).map_err(AppError::from)?;
    let mut after = None;
    loop {
        let page = ledger.download_rows(filter, (order, after), PAGE_ROWS).map_err(AppError::from)?;
        let is_last = page.len() < PAGE_ROWS;
        after = page.last().map(|row| row.id);
        for row in page {
            if take(row)?.is_break() {
                return Ok(());
            }
        }
        if is_last {
            return Ok(());
        }
    }
}

/// Returns the clients with requests since `since`, the last one first.
///
/// # Errors
/// Returns an error if there is no ledger, or if it cannot be read.
pub(crate) fn clients(data_dir: &Path, since: Timestamp) -> Result<Vec<ClientRow>, AppError> {
    Ok(SqliteLedger::read_only(data_dir)?.client_rows(since)?)
}
