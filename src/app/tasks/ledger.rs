//! Keeps the ledger: prunes it once a day, and retries failed writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::app::core::Core;
use crate::app::supervisor::TaskEnd;
use crate::store::StoreError;
use crate::telemetry::LedgerRowsLost;
use crate::units::timestamp;

/// The delay of the first pruning, so that it does not slow down the first clients.
const FIRST_PRUNE_DELAY: Duration = Duration::from_secs(60);

const DAILY: Duration = Duration::from_secs(24 * 3600);

const WRITE_INTERVAL: Duration = Duration::from_secs(10);

/// Deletes rows older than `retention` daily, until it is dropped.
pub(crate) async fn prune_daily(core: Core, retention: Duration) -> TaskEnd {
    tokio::time::sleep(FIRST_PRUNE_DELAY).await;
    loop {
        let (core, before) = (core.clone(), timestamp::saturating_sub(core.clock.now(), retention));
        let pruning =
            tokio::task::spawn_blocking(move || Ok(core.ledger.prune(before)? + core.approval_requests().prune(retention)?));
        match pruning.await? as Result<u64, StoreError> {
            Ok(0) => {}
            Ok(rows) => tracing::info!(ledger.rows = rows, "ledger pruned"),
            Err(error) => tracing::warn!(error = %error, "ledger not pruned"),
        }
        tokio::time::sleep(DAILY).await;
    }
}

/// Writes pending rows and reports lost rows beyond `reported` every few seconds, so that readers of the ledger know that it is
/// incomplete, until it is dropped. Returns an error if a write panicked.
pub(crate) async fn retry_writes(core: Core, reported: Arc<AtomicU64>) -> TaskEnd {
    loop {
        tokio::time::sleep(WRITE_INTERVAL).await;
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
