//! Fetches ahead what clients will ask for next, so that they need not wait for upstream once for each package. Refuses to guess: the
//! firewall knows what belongs together.

use std::sync::Arc;

use tokio::task::{JoinError, JoinSet};

use crate::firewall::Firewall;
use crate::telemetry::{Metrics, PackumentPrefetched, TaskFailed, TaskLabel};

/// Follows the firewall's leads, as many at once as it has slots for, until it is dropped.
///
/// # Errors
/// None: one that panics is counted, and is no reason to stop.
pub async fn fetch(firewall: Arc<Firewall>, metrics: Arc<Metrics>) -> Result<(), JoinError> {
    if firewall.follows_at_once() == 0 {
        return Ok(());
    }
    let mut under_way = JoinSet::<()>::new();
    loop {
        let lead = tokio::select! {
            Some(ended) = under_way.join_next(), if !under_way.is_empty() => {
                if let Err(error) = ended {
                    TaskFailed { task: TaskLabel::Prefetch, detail: &error.to_string(), restart: None }.emit(&metrics);
                }
                continue;
            }
            // Whatever it was about to return stays where it is when this is dropped.
            lead = firewall.next_lead() => lead,
        };
        let (firewall, metrics) = (Arc::clone(&firewall), Arc::clone(&metrics));
        under_way.spawn(async move {
            let name = lead.name().clone();
            if firewall.follow_lead(lead).await {
                PackumentPrefetched { name: &name }.emit(&metrics);
            }
        });
    }
}
