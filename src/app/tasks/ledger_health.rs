//! Writes what the ledger did not take at first, and says so when rows of it were lost: whoever reads the ledger must know
//! that something is missing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::app::tasks::TaskEnd;
use crate::store::SqliteLedger;
use crate::telemetry::{LedgerRowsLost, Metrics};

const EVERY: Duration = Duration::from_secs(10);

/// Looks every few seconds whether more rows were lost than were `told`, until it is dropped. Fails when that panicked.
pub(crate) async fn tell(ledger: Arc<SqliteLedger>, metrics: Arc<Metrics>, told: Arc<AtomicU64>) -> TaskEnd {
    loop {
        tokio::time::sleep(EVERY).await;
        let owing = Arc::clone(&ledger);
        // One that still refuses has said so in the log, and is asked again.
        let _refused = tokio::task::spawn_blocking(move || owing.settle().is_err()).await?;
        let lost = ledger.lost();
        let before = told.swap(lost, Ordering::Relaxed);
        if lost > before {
            LedgerRowsLost { rows: lost - before, detail: "the disk did not take them in time" }.emit(&metrics);
        }
    }
}
