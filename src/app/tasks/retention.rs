//! Keeps the ledger within its retention, once a day.

use std::sync::Arc;
use std::time::Duration;

use crate::app::tasks::TaskEnd;
use crate::clock::Clock;
use crate::store::SqliteLedger;
use crate::units::timestamp;

/// The first clients after a start should not wait for a clean-up.
const FIRST: Duration = Duration::from_secs(60);

const DAILY: Duration = Duration::from_secs(24 * 3600);

/// Prunes what is older than `retention`, daily, until it is dropped.
pub(crate) async fn keep(ledger: Arc<SqliteLedger>, clock: Arc<dyn Clock>, retention: Duration) -> TaskEnd {
    tokio::time::sleep(FIRST).await;
    loop {
        let (ledger, before) = (Arc::clone(&ledger), timestamp::before(clock.now(), retention));
        match tokio::task::spawn_blocking(move || ledger.prune(before)).await? {
            Ok(0) => {}
            Ok(rows) => tracing::info!(ledger.rows = rows, "pruned the ledger"),
            Err(error) => tracing::warn!(error = %error, "cannot prune the ledger, trying again tomorrow"),
        }
        tokio::time::sleep(DAILY).await;
    }
}
