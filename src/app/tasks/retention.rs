//! Prunes the ledger once a day.

use std::time::Duration;

use crate::app::core::Core;
use crate::app::supervisor::TaskEnd;
use crate::units::timestamp;

/// The delay of the first run, so that it does not slow down the first clients.
const FIRST_RUN_DELAY: Duration = Duration::from_secs(60);

const DAILY: Duration = Duration::from_secs(24 * 3600);

/// Deletes rows older than `retention` daily, until it is dropped.
pub(crate) async fn run(core: Core, retention: Duration) -> TaskEnd {
    tokio::time::sleep(FIRST_RUN_DELAY).await;
    loop {
        let (core, before) = (core.clone(), timestamp::saturating_sub(core.clock.now(), retention));
        match tokio::task::spawn_blocking(move || core.ledger.prune(before)).await? {
            Ok(0) => {}
            Ok(rows) => tracing::info!(ledger.rows = rows, "ledger pruned"),
            Err(error) => tracing::warn!(error = %error, "ledger not pruned"),
        }
        tokio::time::sleep(DAILY).await;
    }
}
