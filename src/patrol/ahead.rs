//! Fetches ahead what clients will ask for next, so that they need not wait for upstream once for each package. Refuses to guess: the
//! firewall knows what belongs together.

use std::sync::Arc;

use tokio::task::JoinSet;

use crate::firewall::Firewall;
use crate::telemetry::{FetchedAhead, Metrics};

/// Follows the firewall's leads, as many at once as it says, until it is dropped.
pub async fn fetch(firewall: Arc<Firewall>, metrics: Arc<Metrics>) {
    let at_once = firewall.follows_at_once();
    if at_once == 0 {
        return;
    }
    let mut under_way = JoinSet::new();
    loop {
        // One that panicked has told so, and is no reason to stop.
        while under_way.try_join_next().is_some() {}
        if under_way.len() >= at_once {
            drop(under_way.join_next().await);
        }
        let lead = firewall.next_lead().await;
        let (firewall, metrics) = (Arc::clone(&firewall), Arc::clone(&metrics));
        under_way.spawn(async move {
            let name = lead.name().clone();
            if firewall.follow_lead(lead).await {
                FetchedAhead { name: &name }.emit(&metrics);
            }
        });
    }
}
