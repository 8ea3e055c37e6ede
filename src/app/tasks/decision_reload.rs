//! Applies what people decide while the server runs: other processes write it into the ledger. Logs each change and counts the
//! active decisions.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::app::tasks::TaskEnd;
use crate::clock::Clock;
use crate::firewall::Firewall;
use crate::policy::decisions::{Decision, DecisionState};
use crate::store::{Ledger as _, SqliteLedger, StoreError};
use crate::telemetry::{DecisionChange, DecisionChanged, Metrics};

/// How often the ledger is read: the command that decides waits for it.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The decisions as they were logged and counted last.
pub(crate) struct Log {
    decisions: Vec<Decision>,
    states: BTreeMap<i64, (DecisionState, bool)>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
}

impl Log {
    /// Logs the decisions that matter at the server's start: those that are active, or await a second person.
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

    /// Logs what changed since the last time, by `decisions` and by the clock.
    fn update(&mut self, decisions: Option<Vec<Decision>>) {
        let now = self.clock.now();
        let is_new = decisions.is_some();
        self.decisions = decisions.unwrap_or_else(|| std::mem::take(&mut self.decisions));
        let mut any = is_new;
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

/// Returns what happened to a decision that was in the state `before`, and had a second name or none.
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

/// Applies decisions until it is dropped; `known` is the revision that is applied already.
pub(crate) async fn follow(ledger: Arc<SqliteLedger>, firewall: Arc<Firewall>, mut known: u64, log: Arc<Mutex<Log>>) -> TaskEnd {
    let mut failing = false;
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let (reading, firewall, log) = (Arc::clone(&ledger), Arc::clone(&firewall), Arc::clone(&log));
        let followed = tokio::task::spawn_blocking(move || {
            apply(&reading, &firewall, known, &mut log.lock().unwrap_or_else(PoisonError::into_inner))
        });
        match followed.await? {
            Ok(revision) => (known, failing) = (revision, false),
            Err(error) if !failing => {
                tracing::error!(error = &error as &dyn std::error::Error, "decisions cannot be read");
                failing = true;
            }
            Err(_) => {}
        }
    }
}

/// Applies what was decided since `known`; returns the revision that is applied then. Blocks.
fn apply(ledger: &SqliteLedger, firewall: &Firewall, known: u64, log: &mut Log) -> Result<u64, StoreError> {
    if ledger.decided()? == known {
        log.update(None);
        return Ok(known);
    }
    let (revision, decisions) = ledger.decisions()?;
    let count = decisions.len();
    firewall.decide(decisions.clone());
    log.update(Some(decisions));
    // The command that decided waits for this: what it asks the server next shows all of it.
    ledger.put_in_force(revision)?;
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
            DecisionProposal { act: DecisionAction::Observe, reason: "INC-7".to_owned(), author, expires, needs_second };
        Decision { id: 7, proposal, second: None, revoked: None }
    }

    #[test]
    fn each_change_of_a_decision_has_a_name() {
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
    fn the_count_of_active_decisions_follows_the_clock() {
        let (metrics, clock) = (Arc::new(Metrics::new()), ManualClock::at(Timestamp::UNIX_EPOCH));
        let ends = Timestamp::UNIX_EPOCH + Duration::from_secs(60);
        let mut log = Log::begin(vec![decision(false, Some(ends))], Arc::clone(&metrics), Arc::new(clock.clone()));
        let active = || metrics.render().contains("coldframe_decisions_active{kind=\"observe\"} 1\n");
        assert!(active());
        clock.advance(Duration::from_secs(60));
        log.update(None);
        assert!(!active());
        log.update(Some(vec![decision(false, None)]));
        assert!(active());
    }
}
