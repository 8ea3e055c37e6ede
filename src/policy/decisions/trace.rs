//! What the decisions about a package made of one of its versions, as steps of a trace. Refuses to judge otherwise than
//! `standing::judge`, and to tell of decisions about other packages.

use jiff::Timestamp;

use crate::npm::DigestComparison;
use crate::policy::decisions::active::{ActiveDecisions, Approval, DecisionRef, Denial, Freeze};
use crate::policy::facts::Facts;
use crate::policy::rules::PackageRules;
use crate::policy::trace::{StepOutcome, TraceStep};
use crate::policy::verdict::{RuleId, Verdict};
use crate::units::timestamp;

/// Versions that are named of a decision about others.
const NAMED: usize = 4;

impl ActiveDecisions {
    /// The decisions about the package in the order in which they are asked, each with what it made of the version as of
    /// `at`; of approvals the newest first.
    pub(crate) fn steps(&self, rules: &PackageRules<'_>, facts: &Facts<'_>, at: Timestamp) -> Vec<TraceStep> {
        let denials = self.denials.iter().filter(|denial| denial.names(facts));
        let mut steps: Vec<TraceStep> = denials.map(|denial| denial_step(denial, facts)).collect();
        let approval = self.approval(rules, facts);
        let without_freeze = approval.map_or_else(|| self.ruled(rules, facts, at), |_| Verdict::Allow);
        let freezes = self.freezes.iter().filter(|freeze| freeze.names(facts));
        steps.extend(freezes.map(|freeze| self.freeze_step(freeze, approval, facts, &without_freeze, at)));
        steps.extend(self.approval_steps(&rules.overridden(facts), facts));
        let awaiting = self.awaiting.iter().filter(|(_, package)| **package == *facts.name.as_str());
        steps.extend(awaiting.map(|(ground, _)| {
            let detail = format!("{}; it awaits a second person", ground.tell());
            step(RuleId::Approved, "approve", ground, StepOutcome::Differs, detail)
        }));
        steps.extend(self.observing.as_ref().map(|ground| self.observing_step(ground, rules, facts, at)));
        steps
    }

    fn freeze_step(
        &self,
        freeze: &Freeze,
        approval: Option<&DecisionRef>,
        facts: &Facts<'_>,
        without: &Verdict,
        at: Timestamp,
    ) -> TraceStep {
        let frozen = format!("frozen {}", freeze.ground.tell());
        let told = |outcome, detail| step(RuleId::Freeze, "freeze", &freeze.ground, outcome, detail);
        if facts.effective <= freeze.at {
            return told(StepOutcome::Differs, format!("it is no newer than {}", timestamp::tell(freeze.at)));
        }
        if at >= freeze.thaws() {
            return told(StepOutcome::Passed, format!("it thawed {}", timestamp::tell(freeze.thaws())));
        }
        if self.freeze(facts, at).is_some_and(|longest| !std::ptr::eq(longest, freeze)) {
            return told(StepOutcome::Notes, format!("{frozen}; another freeze thaws later"));
        }
        if let Some(approval) = approval.filter(|approval| approval.made >= freeze.ground.made) {
            return told(StepOutcome::Waived, format!("approved in full knowledge of it {}", approval.tell()));
        }
        if matches!(without, Verdict::Deny { .. }) {
            return told(StepOutcome::Notes, format!("{frozen}; what is below refuses it for good"));
        }
        told(StepOutcome::Decides, format!("nothing published after {} is shown: {frozen}", timestamp::tell(freeze.at)))
    }

    fn approval_steps(&self, records: &[&str], facts: &Facts<'_>) -> Vec<TraceStep> {
        let Some(approvals) = self.approvals.get(facts.name.as_str()) else { return Vec::new() };
        let mut steps = Vec::new();
        let mut others: Vec<(&DecisionRef, Vec<&str>)> = Vec::new();
        for approval in approvals.iter().rev() {
            if *approval.version == *facts.version {
                steps.push(approval_step(approval, records, facts));
            } else if let Some((_, versions)) = others.iter_mut().find(|(ground, _)| ground.id == approval.ground.id) {
                versions.push(&approval.version);
            } else {
                others.push((&approval.ground, vec![&approval.version]));
            }
        }
        let told = |(ground, versions): (&DecisionRef, Vec<&str>)| {
            let more = if versions.len() > NAMED { format!(" and {} more", versions.len() - NAMED) } else { String::new() };
            let named = versions.iter().rev().take(NAMED).copied().collect::<Vec<_>>().join(", ");
            step(RuleId::Approved, "approve", ground, StepOutcome::Differs, format!("it approves {named}{more}"))
        };
        steps.extend(others.into_iter().map(told));
        steps
    }

    fn observing_step(&self, ground: &DecisionRef, rules: &PackageRules<'_>, facts: &Facts<'_>, at: Timestamp) -> TraceStep {
        let told = |outcome, detail| step(RuleId::Observed, "observe", ground, outcome, detail);
        let by_rules = rules.verdict(facts, at);
        let Some(reason) = by_rules.reason() else {
            return told(StepOutcome::Differs, "nothing below holds it back".to_owned());
        };
        if let Some(record) = rules.records(facts).first() {
            return told(StepOutcome::Differs, format!("it waives nothing of what `{record}` names"));
        }
        let ruled = self.ruled(rules, facts, at);
        if let Some(left) = ruled.reason() {
            return told(StepOutcome::Differs, format!("it waives ages and signals, and rule {} rests on neither", left.rule));
        }
        told(StepOutcome::Decides, format!("let through {}; else: {} (rule {})", ground.tell(), reason.detail, reason.rule))
    }
}

fn denial_step(denial: &Denial, facts: &Facts<'_>) -> TraceStep {
    let told = |outcome, detail| step(RuleId::Denied, "deny", &denial.ground, outcome, detail);
    match &denial.within {
        Some(within) if !denial.covers(facts) => {
            told(StepOutcome::Differs, format!("{} does not lie in `{}`", facts.version, within.text))
        }
        _ => told(StepOutcome::Decides, format!("denied {}", denial.ground.tell())),
    }
}

fn approval_step(approval: &Approval, records: &[&str], facts: &Facts<'_>) -> TraceStep {
    let told = |outcome, detail| step(RuleId::Approved, "approve", &approval.ground, outcome, detail);
    let same = facts.integrity.is_some_and(|integrity| approval.integrity.agreement(integrity) == DigestComparison::Same);
    if !same {
        return told(StepOutcome::Differs, "it approves other bytes of this version".to_owned());
    }
    if let Some(record) = records.iter().find(|record| !approval.records.iter().any(|named| named == *record)) {
        return told(StepOutcome::Differs, format!("it does not name `{record}`"));
    }
    told(StepOutcome::Decides, format!("approved {}", approval.ground.tell()))
}

fn step(rule: RuleId, action: &str, ground: &DecisionRef, outcome: StepOutcome, detail: String) -> TraceStep {
    TraceStep { rule, action: format!("{action}, decision {}", ground.id), outcome, detail }
}
