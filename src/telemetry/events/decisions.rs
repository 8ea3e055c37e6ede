//! What becomes of decisions: each change is a line in the log, and the active ones are counted by their kind.

use crate::policy::decisions::{Decision, DecisionAction, DecisionState};
use crate::telemetry::labels::{DecisionLabel, Label as _};
use crate::telemetry::metrics::Metrics;

/// What happened to a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecisionChange {
    /// The server found it at its start.
    Loaded,
    /// Someone took it.
    Recorded,
    /// A second person confirmed it.
    Confirmed,
    /// Someone revoked it.
    Revoked,
    /// Its time is over.
    Expired,
}

/// A decision changed.
#[derive(Debug, Clone, Copy)]
pub struct DecisionChanged<'a> {
    /// The decision as it is now.
    pub decision: &'a Decision,
    /// What happened.
    pub change: DecisionChange,
    /// Its state now.
    pub state: DecisionState,
}

impl DecisionChanged<'_> {
    /// Logs it. Break-glass that is active is a warning.
    pub fn emit(&self) {
        /// Logs the fields of a decision under one of the messages.
        macro_rules! log {
            ($level:ident, $message:literal) => {{
                let Decision { id, proposal, second, revoked } = self.decision;
                tracing::$level!(
                    decision.id = id,
                    decision.kind = proposal.act.kind(),
                    decision.subject = &*proposal.act.subject(),
                    decision.author = &*proposal.author.who,
                    decision.second = second.as_ref().map(|second| &*second.who),
                    decision.reason = &*proposal.reason,
                    decision.expires = proposal.expires.map(tracing::field::display),
                    decision.state = self.state.as_str(),
                    decision.revoked_by = revoked.as_ref().map(|(by, _)| &*by.who),
                    decision.revoked_reason = revoked.as_ref().map(|(_, why)| &**why),
                    $message
                )
            }};
        }
        let is_break_glass = self.decision.proposal.act == DecisionAction::Observe && self.state == DecisionState::Active;
        match self.change {
            _ if is_break_glass => log!(warn, "break-glass is active"),
            DecisionChange::Loaded => log!(info, "decision loaded"),
            DecisionChange::Recorded => log!(info, "decision recorded"),
            DecisionChange::Confirmed => log!(info, "decision confirmed"),
            DecisionChange::Revoked => log!(info, "decision revoked"),
            DecisionChange::Expired => log!(info, "decision expired"),
        }
    }
}

impl Metrics {
    /// Counts the active decisions of `decisions`, by their kind.
    pub fn set_active_decisions<'a>(&self, active: &(impl Iterator<Item = &'a Decision> + Clone)) {
        for label in DecisionLabel::ALL {
            let count = active.clone().filter(|decision| decision.proposal.act.kind() == label.value()).count();
            self.decisions.of(*label).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::policy::decisions::{ApprovedVersion, DecisionProposal, Signature};

    #[test]
    fn every_kind_of_decision_is_counted() {
        let approved = ApprovedVersion { version: "1.0.0".to_owned(), integrity: "sha512-AA==".to_owned(), until: None };
        let acts = [
            DecisionAction::Approve {
                package: "axios".to_owned(),
                asked: "1".to_owned(),
                versions: vec![approved],
                records: Vec::new(),
            },
            DecisionAction::Adopt { lockfiles: Vec::new(), versions: Vec::new() },
            DecisionAction::Deny { packages: "axios".to_owned(), range: None },
            DecisionAction::Freeze { at: Timestamp::UNIX_EPOCH, packages: Vec::new() },
            DecisionAction::Observe,
        ];
        let decisions = acts.map(|act| {
            let author = Signature { who: "ada".to_owned(), at: Timestamp::UNIX_EPOCH };
            let proposal = DecisionProposal { act, reason: "INC-7".to_owned(), author, expires: None, needs_second: false };
            Decision { id: 1, proposal, second: None, revoked: None }
        });
        let metrics = Metrics::new();
        metrics.set_active_decisions(&decisions.iter().chain(&decisions[..1]));
        let text = metrics.render();
        for (kind, count) in [("approve", 2), ("adopt", 1), ("deny", 1), ("freeze", 1), ("observe", 1)] {
            assert!(text.contains(&format!("coldframe_decisions_active{{kind=\"{kind}\"}} {count}\n")), "{kind}: {text}");
        }
    }
}
