//! Writes what the ledger did not take at first, and says so when rows of it were lost: whoever reads the ledger must know
//! that something is missing.

use std::sync::Arc;
use std::time::Duration;

use crate::store::SqliteLedger;
use crate::telemetry::{LedgerLost, Metrics};

const EVERY: Duration = Duration::from_secs(10);

/// Looks every few seconds whether rows were lost since the last time, until it is dropped.
pub(super) async fn tell(ledger: Arc<SqliteLedger>, metrics: Arc<Metrics>) {
    let mut told = 0;
    loop {
        tokio::time::sleep(EVERY).await;
        // One that still refuses has said so in the log, and is asked again.
        let owing = Arc::clone(&ledger);
        let _ = tokio::task::spawn_blocking(move || owing.settle().is_ok()).await;
        let lost = ledger.lost();
        if lost > told {
            LedgerLost { rows: lost - told, detail: "the disk did not take them in time" }.emit(&metrics);
            told = lost;
        }
    }
}
