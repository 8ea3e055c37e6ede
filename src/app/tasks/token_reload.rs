//! Applies access tokens that other processes write to the ledger, and records when tokens were last used.

use std::sync::Arc;
use std::time::Duration;

use crate::app::core::Core;
use crate::app::supervisor::TaskEnd;
use crate::server::{Authenticator, ENDED_KEPT};
use crate::store::{StoreError, TokenLedger as _, TokenRecord};
use crate::units::timestamp;

/// The interval of ledger reads. A revoked token is accepted until the next one.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// How many polls pass between writes of uses.
const POLLS_PER_WRITE: u32 = 300;

/// Returns the tokens that a server must know, and their revision.
pub(crate) fn read(core: &Core) -> Result<(u64, Vec<TokenRecord>), StoreError> {
    core.ledger.tokens(timestamp::saturating_sub(core.clock.now(), ENDED_KEPT))
}

/// Applies new tokens until it is dropped.
pub(crate) async fn run(core: Core, auth: Arc<Authenticator>) -> TaskEnd {
    let (mut failing, mut polls, mut written) = (false, 0_u32, None);
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
            apply(&core, written, &auth)
        });
        match applied.await? {
            Ok(applied) => (written, failing) = (Some(applied), false),
            Err(error) if !failing => {
                tracing::error!(error = &error as &dyn std::error::Error, "access tokens cannot be read");
                failing = true;
            }
            Err(_) => {}
        }
    }
}

/// Applies tokens that others recorded. Returns the applied revision, which the ledger has too; `written` is the one that it had.
/// Blocks.
fn apply(core: &Core, written: Option<u64>, auth: &Authenticator) -> Result<u64, StoreError> {
    if core.ledger.token_revision()? != auth.revision() {
        let (revision, tokens) = read(core)?;
        let count = tokens.len();
        auth.replace((revision, tokens));
        tracing::info!(tokens = count, revision, "access tokens reloaded");
    }
    let applied = auth.revision();
    if written != Some(applied) {
        core.ledger.set_applied_token_revision(applied)?;
    }
    Ok(applied)
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
