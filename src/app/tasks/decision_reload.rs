//! Applies decisions that other processes write to the ledger. Logs each change and counts the active decisions.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::app::core::Core;
use crate::app::supervisor::TaskEnd;
use crate::clock::Clock;
use crate::policy::decisions::{Decision, DecisionState};
use crate::store::{Ledger as _, StoreError};
use crate::telemetry::{DecisionChange, DecisionChanged, Metrics};

/// The interval of ledger reads. The command that records a decision waits for the next one.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The decisions and their last logged states.
pub(crate) struct DecisionLog {
    decisions: Vec<Decision>,
    states: BTreeMap<i64, (DecisionState, bool)>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
}

impl DecisionLog {
    /// Logs the decisions that are active or await a second person at startup.
    pub(crate) fn begin(decisions: Vec<Decision>, metrics: Arc<Metrics>, clock: Arc<dyn Clock>) -> Self {
        let mut log = Self { decisions, states: BTreeMap::new(), metrics, clock };
        let now = log.clock.now();
        for decision in &log.decisions {
            let state = decision.state(now);
            if matches!(state, DecisionState::Active | DecisionState::AwaitsSecond) {
                DecisionChanged { decision, change: DecisionChange::Loaded, state }.emit();
            }
        }
        log.count(now);
        log
    }

    /// Logs the changes since the last call, caused by new `decisions` or by the clock.
    fn update(&mut self, decisions: Option<Vec<Decision>>) {
        let now = self.clock.now();
        let mut any = decisions.is_some();
        self.decisions = decisions.unwrap_or_else(|| std::mem::take(&mut self.decisions));
        for decision in &self.decisions {
            let state = decision.state(now);
            if let Some(change) = change(self.states.get(&decision.id).copied(), decision, state) {
                DecisionChanged { decision, change, state }.emit();
                any = true;
            }
        }
        if any {
            self.count(now);
        }
    }

    fn count(&mut self, now: Timestamp) {
        let states = self.decisions.iter().map(|decision| (decision.id, (decision.state(now), decision.second.is_some())));
        self.states = states.collect();
        self.metrics.set_active_decisions(&self.decisions.iter().filter(|decision| decision.state(now) == DecisionState::Active));
    }
}

/// Returns the change of a decision since `before`, which has its state and whether it had a second signature.
fn change(before: Option<(DecisionState, bool)>, decision: &Decision, state: DecisionState) -> Option<DecisionChange> {
    let Some((was, had_second)) = before else { return Some(DecisionChange::Recorded) };
    if decision.second.is_some() && !had_second {
        return Some(DecisionChange::Confirmed);
    }
    match state {
        _ if state == was => None,
        DecisionState::Revoked => Some(DecisionChange::Revoked),
        DecisionState::Expired => Some(DecisionChange::Expired),
        // The clock was set back.
        DecisionState::Active | DecisionState::AwaitsSecond => Some(DecisionChange::Loaded),
    }
}

/// Applies new decisions until it is dropped. Those of `revision` were applied at startup.
pub(crate) async fn run(core: Core, mut revision: u64, log: Arc<Mutex<DecisionLog>>) -> TaskEnd {
    let mut failing = false;
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let (core, log) = (core.clone(), Arc::clone(&log));
        let applied =
            tokio::task::spawn_blocking(move || apply(&core, revision, &mut log.lock().unwrap_or_else(PoisonError::into_inner)));
        match applied.await? {
            Ok(applied) => (revision, failing) = (applied, false),
            Err(error) if !failing => {
                tracing::error!(error = &error as &dyn std::error::Error, "decisions cannot be read");
                failing = true;
            }
            Err(_) => {}
        }
    }
}

/// Applies the decisions after revision `applied` and returns the new revision. Blocks.
fn apply(core: &Core, applied: u64, log: &mut DecisionLog) -> Result<u64, StoreError> {
    if core.ledger.decision_revision()? == applied {
        log.update(None);
        return Ok(applied);
    }
    let (revision, decisions) = core.ledger.decisions()?;
    let count = decisions.len();
    core.firewall.set_decisions(decisions.clone());
    log.update(Some(decisions));
    // The command that recorded the decision waits for this. Its next request must see the decision.
    core.ledger.set_applied_revision(revision)?;
    tracing::info!(decisions = count, revision, "decisions reloaded");
    Ok(revision)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::policy::decisions::{DecisionAction, DecisionProposal, Signature};

    fn decision(needs_second: bool, expires: Option<Timestamp>) -> Decision {
        let author = Signature { who: "ada".to_owned(), at: Timestamp::UNIX_EPOCH };
        let proposal =
            DecisionProposal { act: DecisionAction::BreakGlass, reason: "INC-7".to_owned(), author, expires, needs_second };
        Decision { id: 7, proposal, second: None, revoked: None }
    }

    #[test]
    fn changes_of_a_decision_are_classified() {
        let now = Timestamp::UNIX_EPOCH + Duration::from_secs(60);
        let plain = decision(false, None);
        assert_eq!(change(None, &plain, DecisionState::Active), Some(DecisionChange::Recorded));
        assert_eq!(change(Some((DecisionState::Active, false)), &plain, DecisionState::Active), None);
        assert_eq!(change(Some((DecisionState::Active, false)), &plain, DecisionState::Expired), Some(DecisionChange::Expired));
        assert_eq!(change(Some((DecisionState::Expired, false)), &plain, DecisionState::Revoked), Some(DecisionChange::Revoked));
        let mut confirmed = decision(true, None);
        confirmed.second = Some(Signature { who: "grace".to_owned(), at: now });
        assert_eq!(
            change(Some((DecisionState::AwaitsSecond, false)), &confirmed, DecisionState::Active),
            Some(DecisionChange::Confirmed)
        );
        assert_eq!(change(Some((DecisionState::Active, true)), &confirmed, DecisionState::Active), None);
    }

    #[test]
    fn active_decisions_are_counted_by_the_clock() {
        let (metrics, clock) = (Arc::new(Metrics::default()), ManualClock::at(Timestamp::UNIX_EPOCH));
        let ends = Timestamp::UNIX_EPOCH + Duration::from_secs(60);
        let mut log = DecisionLog::begin(vec![decision(false, Some(ends))], Arc::clone(&metrics), Arc::new(clock.clone()));
        let active = || metrics.render().contains("coldframe_decisions_active{kind=\"observe\"} 1\n");
        assert!(active());
        clock.advance(Duration::from_secs(60));
        log.update(None);
        assert!(!active());
        log.update(Some(vec![decision(false, None)]));
        assert!(active());
    }
}
