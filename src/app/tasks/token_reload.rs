//! Applies access tokens that other processes write to the ledger, and records when tokens were last used.

use std::sync::Arc;
use std::time::Duration;

use crate::app::core::Core;
use crate::app::supervisor::TaskEnd;
use crate::server::Authenticator;
use crate::store::{StoreError, TokenLedger as _};

/// The interval of ledger reads. A revoked token is accepted until the next one.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// How many polls pass between writes of uses.
const POLLS_PER_WRITE: u32 = 300;

/// Applies new tokens until it is dropped. Those of `revision` were applied at startup.
pub(crate) async fn run(core: Core, mut revision: u64, auth: Arc<Authenticator>) -> TaskEnd {
    let (mut failing, mut polls) = (false, 0_u32);
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        polls = polls.wrapping_add(1);
        let writes = polls.is_multiple_of(POLLS_PER_WRITE);
        let (core, auth) = (core.clone(), Arc::clone(&auth));
        let applied = tokio::task::spawn_blocking(move || {
            auth.notice_expiry();
            if writes {
                record_uses(&core, &auth);
            }
            apply(&core, revision, &auth)
        });
        match applied.await? {
            Ok(applied) => (revision, failing) = (applied, false),
            Err(error) if !failing => {
                tracing::error!(error = &error as &dyn std::error::Error, "access tokens cannot be read");
                failing = true;
            }
            Err(_) => {}
        }
    }
}

/// Applies the tokens after revision `applied` and returns the new revision. Blocks.
fn apply(core: &Core, applied: u64, auth: &Authenticator) -> Result<u64, StoreError> {
    if core.ledger.token_revision()? == applied {
        return Ok(applied);
    }
    let (revision, tokens) = core.ledger.tokens()?;
    let count = tokens.len();
    auth.replace(tokens);
    core.ledger.set_applied_token_revision(revision)?;
    tracing::info!(tokens = count, revision, "access tokens reloaded");
    Ok(revision)
}

/// Writes when tokens were last used. A failure loses an hour of precision, so it is only logged. Blocks.
pub(crate) fn record_uses(core: &Core, auth: &Authenticator) {
    let uses = auth.take_uses();
    if uses.is_empty() {
        return;
    }
    if let Err(error) = core.ledger.record_token_uses(&uses) {
        tracing::warn!(error = &error as &dyn std::error::Error, "uses of access tokens not recorded");
    }
}
