//! Prefetches packuments that clients will probably request next, as chosen by the firewall.

use std::sync::Arc;

use tokio::task::{JoinError, JoinSet};

use crate::firewall::Firewall;
use crate::telemetry::{Metrics, PackumentPrefetched, TaskFailed, TaskLabel};

/// Executes the firewall's prefetch requests until it is dropped, in parallel up to `prefetch`.
///
/// # Errors
/// Returns no error. A panic is counted and does not stop the task.
pub async fn run(firewall: Arc<Firewall>, metrics: Arc<Metrics>) -> Result<(), JoinError> {
    if firewall.follows_at_once() == 0 {
        return Ok(());
    }
    let mut running = JoinSet::<()>::new();
    loop {
        let lead = tokio::select! {
            Some(ended) = running.join_next(), if !running.is_empty() => {
                if let Err(error) = ended {
                    TaskFailed { task: TaskLabel::Prefetch, detail: &error.to_string(), restart: None }.emit(&metrics);
                }
                continue;
            }
            // Cancel safe: a request stays queued if this future is dropped.
            lead = firewall.next_lead() => lead,
        };
        let (firewall, metrics) = (Arc::clone(&firewall), Arc::clone(&metrics));
        running.spawn(async move {
            let name = lead.name().clone();
            if firewall.follow_lead(lead).await {
                PackumentPrefetched { name: &name }.emit(&metrics);
            }
        });
    }
}
