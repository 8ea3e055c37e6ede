//! Events of decisions: each change is logged, and active decisions are counted by kind.

use crate::policy::decisions::{Decision, DecisionAction, DecisionState};
use crate::telemetry::labels::{DecisionLabel, Label as _};
use crate::telemetry::metrics::Metrics;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecisionChange {
    /// The server loaded it at start.
    Loaded,
    Recorded,
    Confirmed,
    Revoked,
    Expired,
}

pub struct DecisionChanged<'a> {
    pub decision: &'a Decision,
    pub change: DecisionChange,
    /// Its state after the change.
    pub state: DecisionState,
}

impl DecisionChanged<'_> {
    /// Logs the change. Active break-glass is logged as a warning.
    pub fn emit(&self) {
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
        let is_break_glass = self.decision.proposal.act == DecisionAction::BreakGlass && self.state == DecisionState::Active;
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
    pub fn set_active_decisions<'a>(&self, active: &(impl Iterator<Item = &'a Decision> + Clone)) {
        for label in DecisionLabel::ALL {
            let count = active.clone().filter(|decision| decision.proposal.act.kind() == label.value()).count();
            self.operation.decisions.of(*label).set(i64::try_from(count).unwrap_or(i64::MAX));
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
            DecisionAction::BreakGlass,
        ];
        let decisions = acts.map(|act| {
            let author = Signature { who: "ada".to_owned(), at: Timestamp::UNIX_EPOCH };
            let proposal = DecisionProposal { act, reason: "INC-7".to_owned(), author, expires: None, needs_second: false };
            Decision { id: 1, proposal, second: None, revoked: None }
        });
        let metrics = Metrics::default();
        metrics.set_active_decisions(&decisions.iter().chain(&decisions[..1]));
        let text = metrics.render();
        for (kind, count) in [("approve", 2), ("adopt", 1), ("deny", 1), ("freeze", 1), ("observe", 1)] {
            assert!(text.contains(&format!("coldframe_decisions_active{{kind=\"{kind}\"}} {count}\n")), "{kind}: {text}");
        }
    }
}
