//! Prunes the ledger once a day.

use std::sync::Arc;
use std::time::Duration;

use crate::app::tasks::TaskEnd;
use crate::clock::Clock;
use crate::store::SqliteLedger;
use crate::units::timestamp;

/// The delay of the first run, so that it does not slow down the first clients.
const FIRST_RUN_DELAY: Duration = Duration::from_secs(60);

const DAILY: Duration = Duration::from_secs(24 * 3600);

/// Deletes rows older than `retention` daily, until it is dropped.
pub(crate) async fn run(ledger: Arc<SqliteLedger>, clock: Arc<dyn Clock>, retention: Duration) -> TaskEnd {
    tokio::time::sleep(FIRST_RUN_DELAY).await;
    loop {
        let (ledger, before) = (Arc::clone(&ledger), timestamp::saturating_sub(clock.now(), retention));
        match tokio::task::spawn_blocking(move || ledger.prune(before)).await? {
            Ok(0) => {}
            Ok(rows) => tracing::info!(ledger.rows = rows, "ledger pruned"),
            Err(error) => tracing::warn!(error = %error, "ledger not pruned"),
        }
        tokio::time::sleep(DAILY).await;
    }
}
