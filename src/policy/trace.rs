//! Receivers for what an evaluation finds besides its verdict: trace steps for `explain`, and warnings.

use crate::policy::verdict::{Reason, RuleId};
use crate::text::words;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepOutcome {
    /// The rule decides. Later rules are not evaluated.
    Decided,
    /// The rule warns, or would refuse but only observes. Evaluation continues.
    Warned,
    /// The hold has ended. Evaluation continues.
    Passed,
    /// The rule is waived by an exclusion, by break-glass or by an approval. Evaluation continues.
    Waived,
    /// The advisory is too broad to apply to all versions. Evaluation continues.
    Suppressed,
    /// The rule does not match.
    NoMatch,
    /// An earlier rule decided.
    NotReached,
}

words! {
    StepOutcome {
        Decided = "decides",
        Warned = "warned",
        Passed = "passed",
        Waived = "waived",
        Suppressed = "set aside",
        NoMatch = "no match",
        NotReached = "not reached",
    }
}

/// One step of an evaluation: a rule and its outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceStep {
    pub rule: RuleId,
    /// What the rule does if it matches: `deny`, `hold 14 d`, `approve, decision 7`.
    pub action: String,
    pub outcome: StepOutcome,
    pub detail: String,
}

/// A warning of a rule, or the refusal of a rule that only observes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    pub reason: Reason,
    /// Whether the rule would refuse if it did not only observe.
    pub would_refuse: bool,
}

/// Receives the steps and warnings of an evaluation. What a sink does not ask for is not computed.
pub trait Sink: Default {
    /// Whether every rule and decision is a step. If not, the evaluation ends at the step that decides.
    const TRACE: bool;
    /// Whether warnings are computed for an allowed version.
    const WARN: bool;

    fn step(&mut self, _step: impl FnOnce() -> TraceStep) {}

    fn warning(&mut self, _warning: Warning) {}

    /// Adds the steps that `later` received.
    fn append(&mut self, _later: Self) {}
}

/// Receives nothing: the evaluation returns its verdict and allocates no trace.
impl Sink for () {
    const TRACE: bool = false;
    const WARN: bool = false;
}

/// Receives the warnings about an allowed version.
impl Sink for Vec<Warning> {
    const TRACE: bool = false;
    const WARN: bool = true;

    fn warning(&mut self, warning: Warning) {
        self.push(warning);
    }
}

/// All steps of an evaluation in order, and its warnings.
#[derive(Debug, Default)]
pub struct Trace {
    steps: Vec<TraceStep>,
    pub warnings: Vec<Warning>,
}

impl Trace {
    /// Returns the steps. Those after the step that decides are marked as not reached, except for suppressed advisories: their
    /// reporter wants to know why they do not apply.
    pub(crate) fn into_steps(mut self) -> Vec<TraceStep> {
        let decided = self.steps.iter().position(|step| step.outcome == StepOutcome::Decided);
        let later = decided.map_or(self.steps.len(), |index| index + 1);
        for step in self.steps[later..].iter_mut().filter(|step| step.outcome != StepOutcome::Suppressed) {
            (step.outcome, step.detail) = (StepOutcome::NotReached, "an earlier rule decided".to_owned());
        }
        self.steps
    }
}

impl Sink for Trace {
    const TRACE: bool = true;
    const WARN: bool = true;

    fn step(&mut self, step: impl FnOnce() -> TraceStep) {
        self.steps.push(step());
    }

    fn warning(&mut self, warning: Warning) {
        self.warnings.push(warning);
    }

    fn append(&mut self, later: Self) {
        self.steps.extend(later.steps);
    }
}
