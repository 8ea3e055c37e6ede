//! Trace steps for the decisions about a package; decisions about other packages are left out.

use jiff::Timestamp;

use crate::npm::DigestComparison;
use crate::policy::decisions::active::{ActiveDecisions, Approval, DecisionRef, Denial, Freeze};
use crate::policy::facts::Facts;
use crate::policy::trace::{Sink, StepOutcome, TraceStep};
use crate::policy::verdict::{RuleId, Verdict};
use crate::units::timestamp;

/// Maximum number of versions that a step lists for an approval of other versions.
const MAX_LISTED: usize = 4;

/// What the rest of the evaluation found, as far as the steps of decisions depend on it.
pub(crate) struct DecisionContext<'a> {
    pub approval: Option<&'a DecisionRef>,
    /// What an approval must name.
    pub overrides: &'a [&'a str],
    /// The first record that break-glass does not waive.
    pub blocking_record: Option<&'a str>,
    pub by_rules: &'a Verdict,
    pub without_break_glass: &'a Verdict,
}

impl ActiveDecisions {
    /// Sends a step for each decision about the package as of `at`, in order of evaluation. Newer approvals come first.
    pub(crate) fn trace<S: Sink>(&self, context: &DecisionContext<'_>, facts: &Facts<'_>, at: Timestamp, sink: &mut S) {
        for denial in self.denials.iter().filter(|denial| denial.names(facts)) {
            sink.step(|| denial_step(denial, facts));
        }
        for freeze in self.freezes.iter().filter(|freeze| freeze.names(facts)) {
            sink.step(|| self.freeze_step(freeze, context, facts, at));
        }
        for step in self.approval_steps(context.overrides, facts) {
            sink.step(|| step);
        }
        for (decision_ref, _) in self.awaiting.iter().filter(|(_, package)| **package == *facts.name.as_str()) {
            let detail = format!("{}; it awaits a second person", decision_ref.describe());
            sink.step(|| step(RuleId::Approved, "approve", decision_ref, StepOutcome::NoMatch, detail));
        }
        if let Some(decision_ref) = &self.break_glass {
            sink.step(|| break_glass_step(decision_ref, context));
        }
    }

    fn freeze_step(&self, freeze: &Freeze, context: &DecisionContext<'_>, facts: &Facts<'_>, at: Timestamp) -> TraceStep {
        let frozen = format!("frozen {}", freeze.decision_ref.describe());
        let build = |outcome, detail| step(RuleId::Freeze, "freeze", &freeze.decision_ref, outcome, detail);
        if facts.effective <= freeze.at {
            return build(StepOutcome::NoMatch, format!("it is not newer than {}", timestamp::format_utc(freeze.at)));
        }
        if at >= freeze.ends_at() {
            return build(StepOutcome::Passed, format!("the freeze ended {}", timestamp::format_utc(freeze.ends_at())));
        }
        if self.freeze(facts, at).is_some_and(|longest| !std::ptr::eq(longest, freeze)) {
            return build(StepOutcome::Warned, format!("{frozen}; another freeze ends later"));
        }
        if let Some(approval) = context.approval.filter(|approval| approval.made >= freeze.decision_ref.made) {
            return build(StepOutcome::Waived, format!("approved after the freeze {}", approval.describe()));
        }
        if context.approval.is_none() && matches!(context.by_rules, Verdict::Deny { .. }) {
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
            } else if let Some((_, versions)) =
                others.iter_mut().find(|(decision_ref, _)| decision_ref.id == approval.decision_ref.id)
            {
                versions.push(&approval.version);
            } else {
                others.push((&approval.decision_ref, vec![&approval.version]));
            }
        }
        let build = |(decision_ref, versions): (&DecisionRef, Vec<&str>)| {
            let more =
                if versions.len() > MAX_LISTED { format!(" and {} more", versions.len() - MAX_LISTED) } else { String::new() };
            let named = versions.iter().rev().take(MAX_LISTED).copied().collect::<Vec<_>>().join(", ");
            step(RuleId::Approved, "approve", decision_ref, StepOutcome::NoMatch, format!("it approves {named}{more}"))
        };
        steps.extend(others.into_iter().map(build));
        steps
    }
}

fn break_glass_step(decision_ref: &DecisionRef, context: &DecisionContext<'_>) -> TraceStep {
    let build = |outcome, detail| step(RuleId::BreakGlass, "break-glass", decision_ref, outcome, detail);
    let Some(reason) = context.without_break_glass.reason() else {
        return build(StepOutcome::NoMatch, "no later step refuses it".to_owned());
    };
    if let Some(record) = context.blocking_record {
        return build(StepOutcome::NoMatch, format!("it does not waive `{record}`"));
    }
    if let Some(left) = context.by_rules.reason() {
        return build(StepOutcome::NoMatch, format!("it waives rules on ages and signals only, not rule {}", left.rule));
    }
    build(
        StepOutcome::Decided,
        format!("allowed {}; otherwise: {} (rule {})", decision_ref.describe(), reason.detail, reason.rule),
    )
}

fn denial_step(denial: &Denial, facts: &Facts<'_>) -> TraceStep {
    let build = |outcome, detail| step(RuleId::Denied, "deny", &denial.decision_ref, outcome, detail);
    match &denial.within {
        Some(within) if !denial.covers(facts) => {
            build(StepOutcome::NoMatch, format!("{} is not in `{}`", facts.version, within.text))
        }
        _ => build(StepOutcome::Decided, format!("denied {}", denial.decision_ref.describe())),
    }
}

fn approval_step(approval: &Approval, records: &[&str], facts: &Facts<'_>) -> TraceStep {
    let build = |outcome, detail| step(RuleId::Approved, "approve", &approval.decision_ref, outcome, detail);
    let same = facts.integrity.is_some_and(|integrity| approval.integrity.compare(integrity) == DigestComparison::Same);
    if !same {
        return build(StepOutcome::NoMatch, "it approves other bytes of this version".to_owned());
    }
    if let Some(record) = records.iter().find(|record| !approval.records.iter().any(|named| named == *record)) {
        return build(StepOutcome::NoMatch, format!("it does not name `{record}`"));
    }
    build(StepOutcome::Decided, format!("approved {}", approval.decision_ref.describe()))
}

fn step(rule: RuleId, action: &str, decision_ref: &DecisionRef, outcome: StepOutcome, detail: String) -> TraceStep {
    TraceStep { rule, action: format!("{action}, decision {}", decision_ref.id), outcome, detail }
}
