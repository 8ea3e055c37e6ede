//! Says so when rows of the ledger were lost: whoever reads the ledger must know that something is missing.

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
        let lost = ledger.lost();
        if lost > told {
            LedgerLost { rows: lost - told, detail: "the disk did not take them in time" }.emit(&metrics);
            told = lost;
        }
    }
}
