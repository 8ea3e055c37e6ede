//! Retries failed ledger writes and reports lost rows, so that readers of the ledger know that it is incomplete.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::app::core::Core;
use crate::app::supervisor::TaskEnd;
use crate::telemetry::LedgerRowsLost;

const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Reports lost rows beyond `reported` every few seconds, until it is dropped. Returns an error if a write panicked.
pub(crate) async fn run(core: Core, reported: Arc<AtomicU64>) -> TaskEnd {
    loop {
        tokio::time::sleep(CHECK_INTERVAL).await;
        let ledger = Arc::clone(&core.ledger);
        // A failed write is already logged and is retried in the next round.
        let _refused = tokio::task::spawn_blocking(move || ledger.write_pending().is_err()).await?;
        let lost = core.ledger.lost_rows();
        let before = reported.swap(lost, Ordering::Relaxed);
        if lost > before {
            LedgerRowsLost { rows: lost - before, detail: "not written to disk in time" }.emit(&core.metrics);
        }
    }
}
