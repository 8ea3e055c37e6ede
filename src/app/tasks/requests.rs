//! Ends requests for approvals that are no longer needed: a bounded number per round, when their check is due.

use std::time::Duration;

use crate::app::core::local_client;
use crate::app::supervisor::TaskEnd;
use crate::firewall::ApprovalRequests;

/// The interval of rounds. A round without due requests is one query of an index.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Checks requests until it is dropped.
pub(crate) async fn run(requests: ApprovalRequests) -> TaskEnd {
    let mut is_failing = false;
    loop {
        let checked = async {
            requests.count().await?;
            requests.check_due(local_client).await
        };
        match checked.await {
            Ok(_) => is_failing = false,
            Err(error) if !is_failing => {
                tracing::error!(error = &error as &dyn std::error::Error, "approval requests not checked");
                is_failing = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
