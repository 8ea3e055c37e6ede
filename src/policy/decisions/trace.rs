//! Trace steps for the decisions about a package. They follow the evaluation in [`super::active`]; decisions about other packages
//! are left out.

use jiff::Timestamp;

use crate::npm::DigestComparison;
use crate::policy::decisions::active::{ActiveDecisions, Approval, DecisionRef, Denial, Freeze};
use crate::policy::facts::Facts;
use crate::policy::rules::PackageRules;
use crate::policy::trace::{StepOutcome, TraceStep};
use crate::policy::verdict::{RuleId, Verdict};
use crate::units::timestamp;

/// Maximum number of versions that a step lists for an approval of other versions.
const MAX_LISTED: usize = 4;

impl ActiveDecisions {
    /// Returns the steps for all decisions about the package as of `at`, in order of evaluation. Newer approvals come first.
    pub(crate) fn steps(&self, rules: &PackageRules<'_>, facts: &Facts<'_>, at: Timestamp) -> Vec<TraceStep> {
        let denials = self.denials.iter().filter(|denial| denial.names(facts));
        let mut steps: Vec<TraceStep> = denials.map(|denial| denial_step(denial, facts)).collect();
        let approval = self.approval(rules, facts);
        let without_freeze = approval.map_or_else(|| self.ruled(rules, facts, at), |_| Verdict::Allow);
        let freezes = self.freezes.iter().filter(|freeze| freeze.names(facts));
        steps.extend(freezes.map(|freeze| self.freeze_step(freeze, approval, facts, &without_freeze, at)));
        steps.extend(self.approval_steps(&rules.required_overrides(facts), facts));
        let awaiting = self.awaiting.iter().filter(|(_, package)| **package == *facts.name.as_str());
        steps.extend(awaiting.map(|(ground, _)| {
            let detail = format!("{}; it awaits a second person", ground.describe());
            step(RuleId::Approved, "approve", ground, StepOutcome::NoMatch, detail)
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
        let frozen = format!("frozen {}", freeze.ground.describe());
        let build = |outcome, detail| step(RuleId::Freeze, "freeze", &freeze.ground, outcome, detail);
        if facts.effective <= freeze.at {
            return build(StepOutcome::NoMatch, format!("it is not newer than {}", timestamp::format_utc(freeze.at)));
        }
        if at >= freeze.ends_at() {
            return build(StepOutcome::Passed, format!("the freeze ended {}", timestamp::format_utc(freeze.ends_at())));
        }
        if self.freeze(facts, at).is_some_and(|longest| !std::ptr::eq(longest, freeze)) {
            return build(StepOutcome::Warned, format!("{frozen}; another freeze ends later"));
        }
        if let Some(approval) = approval.filter(|approval| approval.made >= freeze.ground.made) {
            return build(StepOutcome::Waived, format!("approved after the freeze {}", approval.describe()));
        }
        if matches!(without, Verdict::Deny { .. }) {
            return build(StepOutcome::Warned, format!("{frozen}; a later step denies it"));
        }
        build(StepOutcome::Decided, format!("versions published after {} are hidden: {frozen}", timestamp::format_utc(freeze.at)))
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
        let build = |(ground, versions): (&DecisionRef, Vec<&str>)| {
            let more =
                if versions.len() > MAX_LISTED { format!(" and {} more", versions.len() - MAX_LISTED) } else { String::new() };
            let named = versions.iter().rev().take(MAX_LISTED).copied().collect::<Vec<_>>().join(", ");
            step(RuleId::Approved, "approve", ground, StepOutcome::NoMatch, format!("it approves {named}{more}"))
        };
        steps.extend(others.into_iter().map(build));
        steps
    }

    fn observing_step(&self, ground: &DecisionRef, rules: &PackageRules<'_>, facts: &Facts<'_>, at: Timestamp) -> TraceStep {
        let build = |outcome, detail| step(RuleId::BreakGlass, "break-glass", ground, outcome, detail);
        let by_rules = rules.verdict(facts, at);
        let Some(reason) = by_rules.reason() else {
            return build(StepOutcome::NoMatch, "no later step refuses it".to_owned());
        };
        if let Some(record) = rules.blocking_records(facts).first() {
            return build(StepOutcome::NoMatch, format!("it does not waive `{record}`"));
        }
        let ruled = self.ruled(rules, facts, at);
        if let Some(left) = ruled.reason() {
            return build(StepOutcome::NoMatch, format!("it waives rules on ages and signals only, not rule {}", left.rule));
        }
        build(StepOutcome::Decided, format!("allowed {}; otherwise: {} (rule {})", ground.describe(), reason.detail, reason.rule))
    }
}

fn denial_step(denial: &Denial, facts: &Facts<'_>) -> TraceStep {
    let build = |outcome, detail| step(RuleId::Denied, "deny", &denial.ground, outcome, detail);
    match &denial.within {
        Some(within) if !denial.covers(facts) => {
            build(StepOutcome::NoMatch, format!("{} is not in `{}`", facts.version, within.text))
        }
        _ => build(StepOutcome::Decided, format!("denied {}", denial.ground.describe())),
    }
}

fn approval_step(approval: &Approval, records: &[&str], facts: &Facts<'_>) -> TraceStep {
    let build = |outcome, detail| step(RuleId::Approved, "approve", &approval.ground, outcome, detail);
    let same = facts.integrity.is_some_and(|integrity| approval.integrity.compare(integrity) == DigestComparison::Same);
    if !same {
        return build(StepOutcome::NoMatch, "it approves other bytes of this version".to_owned());
    }
    if let Some(record) = records.iter().find(|record| !approval.records.iter().any(|named| named == *record)) {
        return build(StepOutcome::NoMatch, format!("it does not name `{record}`"));
    }
    build(StepOutcome::Decided, format!("approved {}", approval.ground.describe()))
}

fn step(rule: RuleId, action: &str, ground: &DecisionRef, outcome: StepOutcome, detail: String) -> TraceStep {
    TraceStep { rule, action: format!("{action}, decision {}", ground.id), outcome, detail }
}
