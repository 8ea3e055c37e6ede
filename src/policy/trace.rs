//! Every rule, and what it made of one version: what `coldframe explain` prints. Refuses to judge otherwise than `judge`: it follows
//! the same steps, aloud.

use std::sync::Arc;

use jiff::Timestamp;

use super::built_in;
use super::facts::Facts;
use super::judge::Policy;
use super::malware;
use super::rule::{Action, Ages, Rule};
use super::verdict::{RuleId, Verdict};
use super::words;

/// What a rule made of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It decides: everything below is not read.
    Decides,
    /// It warns, or would refuse if it did not only observe; reading goes on.
    Notes,
    /// It is a hold whose age has passed; reading goes on.
    Passed,
    /// Its age is waived for the package; reading goes on.
    Waived,
    /// It does not match.
    Differs,
    /// A rule above has decided.
    Unread,
}

impl Outcome {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Decides => "decides",
            Self::Notes => "notes",
            Self::Passed => "passed",
            Self::Waived => "waived",
            Self::Differs => "differs",
            Self::Unread => "unread",
        }
    }
}

/// One rule, and what it made of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The rule.
    pub rule: RuleId,
    /// What it does with what it matches: `deny`, `hold 14 d`.
    pub action: String,
    /// What it made of this version.
    pub outcome: Outcome,
    /// Why, in words.
    pub detail: String,
}

impl Policy {
    /// Every rule in its order, the built-in ones first, and what it made of the version as of `at`.
    #[must_use]
    pub fn trace(&self, facts: &Facts<'_>, at: Timestamp) -> Vec<Step> {
        let built_in = built_in::verdict(facts).or_else(|| malware::judge(facts, at));
        let mut decided = built_in.is_some();
        let mut steps = vec![first_step(built_in.as_ref())];
        let ages = Ages::of(facts, at);
        for rule in self.in_force() {
            let (outcome, detail) =
                if decided { (Outcome::Unread, "a rule above has decided".to_owned()) } else { self.step(rule, facts, ages) };
            decided |= outcome == Outcome::Decides;
            let action = if rule.observe { format!("{}, observed", rule.action.tell()) } else { rule.action.tell() };
            steps.push(Step { rule: RuleId::File(Arc::clone(&rule.id)), action, outcome, detail });
        }
        steps
    }

    fn step(&self, rule: &Rule, facts: &Facts<'_>, ages: Ages) -> (Outcome, String) {
        let differs = rule.is_about(facts.name.as_str()).err().or_else(|| rule.differs(facts, ages));
        if let Some(differs) = differs {
            return (Outcome::Differs, words::difference(rule, facts, differs));
        }
        if let Action::Hold { .. } = rule.action {
            if self.waives(rule, facts.name) {
                return (Outcome::Waived, "ages are waived for the package".to_owned());
            }
            if !rule.holds(ages) {
                return (Outcome::Passed, "the age has passed".to_owned());
            }
        }
        let notes = rule.action == Action::Warn || (rule.observe && rule.action != Action::Allow);
        let detail = if rule.action == Action::Allow { words::permission(rule, facts) } else { words::refusal(rule, facts) };
        (if notes { Outcome::Notes } else { Outcome::Decides }, detail)
    }
}

/// The built-in rules, as one step: the one that decides, or that none does.
fn first_step(verdict: Option<&Verdict>) -> Step {
    match verdict.and_then(Verdict::reason) {
        Some(reason) => Step {
            rule: reason.rule.clone(),
            action: if verdict.is_some_and(|verdict| verdict.opens().is_some()) { "hold" } else { "deny" }.to_owned(),
            outcome: Outcome::Decides,
            detail: reason.detail.clone(),
        },
        None => Step {
            rule: RuleId::File("built-in".into()),
            action: "deny".to_owned(),
            outcome: Outcome::Differs,
            detail: "it agrees with itself and with what was seen before, and no feed that is followed calls it malware"
                .to_owned(),
        },
    }
}
