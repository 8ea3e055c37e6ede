//! Takes in what people decide while the server runs: they write it into the ledger, from processes of their own.

use std::sync::Arc;
use std::time::Duration;

use crate::firewall::Firewall;
use crate::store::{Ledger as _, SqliteLedger, StoreError};

/// How often it is looked: whoever decided something waits for this.
const EVERY: Duration = Duration::from_millis(200);

/// Looks whether something was decided, and judges by it from then on, until it is dropped.
pub(super) async fn follow(ledger: Arc<SqliteLedger>, firewall: Arc<Firewall>, mut known: u64) {
    let mut failing = false;
    loop {
        tokio::time::sleep(EVERY).await;
        let (reading, firewall) = (Arc::clone(&ledger), Arc::clone(&firewall));
        let followed = tokio::task::spawn_blocking(move || take_in(&reading, &firewall, known)).await;
        match followed {
            Ok(Ok(revision)) => (known, failing) = (revision, false),
            Ok(Err(error)) if !failing => {
                tracing::error!(error = &error as &dyn std::error::Error, "decisions cannot be read: those known stay in force");
                failing = true;
            }
            _ => {}
        }
    }
}

/// Takes in what was decided since `known`; the revision that is in force then. Blocks.
pub(super) fn take_in(ledger: &SqliteLedger, firewall: &Firewall, known: u64) -> Result<u64, StoreError> {
    if ledger.decided()? == known {
        return Ok(known);
    }
    let (revision, decisions) = ledger.decisions()?;
    let count = decisions.len();
    firewall.decide(decisions);
    ledger.put_in_force(revision)?;
    tracing::info!(decisions = count, revision, "took in what was decided");
    Ok(revision)
}
