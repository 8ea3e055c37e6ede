//! Traces of an evaluation for `coldframe explain`: each rule and its outcome. The deciding step must match the verdict of
//! `decisions::active`; a property test compares them.

use std::sync::Arc;

use jiff::Timestamp;

use crate::policy::decisions::active::{ActiveDecisions, DecisionRef};
use crate::policy::facts::Facts;
use crate::policy::invariants;
use crate::policy::malware;
use crate::policy::rules::Policy;
use crate::policy::rules::describe;
use crate::policy::rules::rule::{FactAges, Rule, RuleAction};
use crate::policy::verdict::{Reason, RuleId, Verdict};

/// Outcome of a rule for a version.
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

impl StepOutcome {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Decided => "decides",
            Self::Warned => "warned",
            Self::Passed => "passed",
            Self::Waived => "waived",
            Self::Suppressed => "set aside",
            Self::NoMatch => "no match",
            Self::NotReached => "not reached",
        }
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

impl Policy {
    /// Returns the steps of an evaluation as of `at`, in order: built-in rules, decisions about the package, malware advisories,
    /// and the rules of the policy.
    #[must_use]
    pub fn evaluate(&self, active: &ActiveDecisions, facts: &Facts<'_>, at: Timestamp) -> Vec<TraceStep> {
        let about = self.for_package(facts.name);
        let mut steps = vec![built_in_step(active.approval(&about, facts), facts)];
        steps.extend(active.steps(&about, facts, at));
        let broken = active.break_glass_applies(&about, facts);
        let left = if broken { about.under_break_glass() } else { about };
        steps.extend(malware::steps(facts, &left.by_files(facts, at), at));
        let ages = FactAges::of(facts, at);
        for rule in self.in_force() {
            let (outcome, detail) = match self.step(rule, facts, ages) {
                (StepOutcome::Decided, _) if broken && rule.depends_on_age_or_signals() => {
                    (StepOutcome::Waived, "break-glass waives rules on ages and signals".to_owned())
                }
                step => step,
            };
            let action = if rule.observe { format!("{}, observed", rule.action.describe()) } else { rule.action.describe() };
            steps.push(TraceStep { rule: RuleId::File(Arc::clone(&rule.id)), action, outcome, detail });
        }
        let below = steps.iter().position(|step| step.outcome == StepOutcome::Decided).map_or(steps.len(), |at| at + 1);
        // Suppressed advisories are always shown: their reporter wants to know why they do not apply.
        for step in steps[below..].iter_mut().filter(|step| step.outcome != StepOutcome::Suppressed) {
            (step.outcome, step.detail) = (StepOutcome::NotReached, "an earlier rule decided".to_owned());
        }
        steps
    }

    fn step(&self, rule: &Rule, facts: &Facts<'_>, ages: FactAges) -> (StepOutcome, String) {
        let differs = rule.match_package(facts.name.as_str()).err().or_else(|| rule.unmet_condition(facts, ages));
        if let Some(differs) = differs {
            return (StepOutcome::NoMatch, describe::describe_mismatch(rule, facts, differs));
        }
        if let RuleAction::Hold { .. } = rule.action {
            if self.waives(rule, facts.name) {
                return (StepOutcome::Waived, "ages are waived for the package".to_owned());
            }
            if !rule.is_holding(ages) {
                return (StepOutcome::Passed, "the minimum age has passed".to_owned());
            }
        }
        let notes = rule.action == RuleAction::Warn || (rule.observe && rule.action != RuleAction::Allow);
        let detail = if rule.action == RuleAction::Allow {
            describe::describe_allow(rule, facts)
        } else {
            describe::describe_refusal(rule, facts)
        };
        (if notes { StepOutcome::Warned } else { StepOutcome::Decided }, detail)
    }
}

/// Returns one step for all built-in rules.
fn built_in_step(approval: Option<&DecisionRef>, facts: &Facts<'_>) -> TraceStep {
    let action = "deny".to_owned();
    let refusal = invariants::check(facts);
    let Some(Reason { rule, detail }) = refusal.as_ref().and_then(Verdict::reason).cloned() else {
        let detail = "its manifest and integrity are consistent".to_owned();
        return TraceStep { rule: RuleId::File("built-in".into()), action, outcome: StepOutcome::NoMatch, detail };
    };
    match approval.filter(|_| rule == RuleId::IntegrityChanged) {
        Some(ground) => {
            let detail = format!("{detail}; these bytes are approved {}", ground.describe());
            TraceStep { rule, action, outcome: StepOutcome::Waived, detail }
        }
        None => TraceStep { rule, action, outcome: StepOutcome::Decided, detail },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::diagnostics::SourceFile;
    use crate::npm::{Integrity, PackageName, Version};
    use crate::policy::advisories::Advisories;
    use crate::policy::advisories::affected::{AffectedRange, RangeEvent};
    use crate::policy::advisories::index::FeedIndexBuilder;
    use crate::policy::advisories::{AdvisoryKind, AdvisoryRecord, FeedTrust};
    use crate::policy::decisions::active::evaluate;
    use crate::policy::decisions::{ApprovedVersion, CHANGED_INTEGRITY, Decision, DecisionAction, DecisionProposal, Signature};
    use crate::policy::presets;
    use crate::policy::rules::compose::compile;
    use crate::units::timestamp;

    const BYTES: &str = "sha512-z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg==";
    const OTHERS: &str = "sha512-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==";

    fn at(hour: i64) -> Timestamp {
        Timestamp::from_second(1_774_915_200 + hour * 3600).unwrap()
    }

    /// Returns an instant more than 90 days before the records were known.
    fn long_ago(count: usize) -> Timestamp {
        at(-24 * (100 + 40 * i64::try_from(count).unwrap()))
    }

    fn policy(shipped: usize) -> Policy {
        let text = format!("include = \"{}\"", presets::names()[shipped]);
        let file = Arc::new(SourceFile { path: "p.toml".into(), text });
        let find = |_: &SourceFile, name: &str| presets::policy_file(name).ok_or_else(|| "not found".to_owned());
        compile(&[file], &find).unwrap_or_else(|mistakes| panic!("{mistakes}")).policy
    }

    fn decision(id: i64, act: DecisionAction, made: i64, expires: Option<i64>, needs_second: bool) -> Decision {
        let author = Signature { who: "ada".to_owned(), at: at(made) };
        let proposal = DecisionProposal { act, reason: "INC-7".to_owned(), author, expires: expires.map(at), needs_second };
        Decision { id, proposal, second: None, revoked: None }
    }

    fn approval(version: &str, integrity: &str, records: &[&str]) -> DecisionAction {
        DecisionAction::Approve {
            package: "axios".to_owned(),
            asked: version.to_owned(),
            versions: vec![ApprovedVersion { version: version.to_owned(), integrity: integrity.to_owned(), until: None }],
            records: records.iter().map(|record| (*record).to_owned()).collect(),
        }
    }

    fn act() -> impl Strategy<Value = DecisionAction> {
        let deny = |range: &str| DecisionAction::Deny { packages: "ax*".to_owned(), range: Some(range.to_owned()) };
        let freeze = |hour| DecisionAction::Freeze { at: at(hour), packages: Vec::new() };
        prop_oneof![
            Just(approval("1.14.1", BYTES, &[])),
            Just(approval("1.14.1", BYTES, &[CHANGED_INTEGRITY, "MAL-0", "MAL-1"])),
            Just(approval("1.14.1", OTHERS, &[])),
            Just(approval("1.14.0", BYTES, &[])),
            Just(deny("<1")),
            Just(deny("^1")),
            (-9..9_i64).prop_map(freeze),
            Just(DecisionAction::BreakGlass),
        ]
    }

    fn decisions() -> impl Strategy<Value = Vec<Decision>> {
        let one = (act(), 0..9_i64, prop::option::of(0..99_i64), any::<bool>());
        prop::collection::vec(one, 0..4).prop_map(|taken| {
            (1..).zip(taken).map(|(id, (act, made, expires, second))| decision(id, act, made, expires, second)).collect()
        })
    }

    /// Builds one feed per record. The first record covers every version.
    fn advisories(trusts: &[(usize, bool)]) -> Advisories {
        let feeds = trusts.iter().enumerate().map(|(number, (trust, lists))| {
            let mut builder = FeedIndexBuilder::default();
            builder.add(&AdvisoryRecord {
                id: format!("MAL-{number}").into(),
                aliases: Vec::new(),
                kind: AdvisoryKind::Malware,
                severity: None,
                reviewed: false,
                summary: "".into(),
                modified: None,
                known_since: Some(at(0)),
                cvss: "".into(),
                cwes: Vec::new(),
                package: "axios".into(),
                versions: if *lists { vec!["1.14.1".into()] } else { Vec::new() },
                spans: AffectedRange::from_events(&[RangeEvent::Introduced("0".into())]).0,
                indicators: Vec::new(),
            });
            Arc::new(builder.build("osv", FeedTrust::ALL[*trust]))
        });
        Advisories::of_feeds(feeds.collect())
    }

    proptest! {
        #[test]
        fn the_deciding_step_matches_the_verdict(
            shipped in 0..4_usize,
            decisions in decisions(),
            trusts in prop::collection::vec((0..3_usize, any::<bool>()), 0..3),
            lacking in any::<bool>(),
            established in any::<bool>(),
            (changed, young) in (any::<bool>(), any::<bool>()),
            hour in 0..500_i64,
        ) {
            let (policy, name, version) = (policy(shipped), PackageName::parse("axios").unwrap(), Version::parse("1.14.1").unwrap());
            let active = ActiveDecisions::of(&decisions, at(hour));
            let feeds = advisories(&trusts).lacking(lacking.then_some("acme"));
            let others = (0..if established { 12 } else { 1 }).map(|minor| format!("1.{minor}.9"));
            let others: Vec<_> = others.chain(["1.14.1".to_owned()]).collect();
            let parsed: Vec<_> = others.iter().map(|text| Version::parse(text).unwrap()).collect();
            let dated = parsed.iter().enumerate().map(|(count, version)| (version.as_str(), Some(version), long_ago(count)));
            let applicable = feeds.of("axios").applicable_to(dated);
            let integrity = Integrity::parse(Some(BYTES), None).unwrap();
            let facts = Facts {
                parsed: Some(&version),
                integrity: Some(&integrity),
                integrity_changed: changed,
                advisories: &applicable,
                born: young.then(|| at(0)),
                ..Facts::of(&name, "1.14.1", at(0))
            };
            let verdict = evaluate(&policy.for_package(&name), &active, &facts, at(hour));
            let steps = policy.evaluate(&active, &facts, at(hour));
            let deciding: Vec<_> = steps.iter().filter(|step| step.outcome == StepOutcome::Decided).collect();
            if let Some(reason) = verdict.reason() {
                prop_assert_eq!(deciding.len(), 1);
                prop_assert_eq!((&deciding[0].rule, &deciding[0].detail), (&reason.rule, &reason.detail));
            } else {
                let opens = |rule: &RuleId| matches!(rule, RuleId::Approved | RuleId::BreakGlass);
                let allows = |step: &&TraceStep| opens(&step.rule) || step.action.starts_with("allow");
                prop_assert!(deciding.iter().all(allows), "{:?}", deciding);
            }
        }
    }

    #[test]
    fn decisions_and_suppressed_records_appear_as_steps() {
        let (policy, name, version) = (policy(0), PackageName::parse("axios").unwrap(), Version::parse("1.14.1").unwrap());
        let acts = [
            (DecisionAction::Deny { packages: "axios".to_owned(), range: Some("<1".to_owned()) }, false),
            (approval("1.14.0", BYTES, &[]), false),
            (approval("1.14.1", BYTES, &[]), true),
            (DecisionAction::Freeze { at: at(5), packages: vec!["@acme/*".to_owned(), "axios".to_owned()] }, false),
            (DecisionAction::BreakGlass, false),
        ];
        let decisions: Vec<_> =
            (1..).zip(acts).map(|(id, (act, needs_second))| decision(id, act, 1, Some(90), needs_second)).collect();
        let active = ActiveDecisions::of(&decisions, at(2));
        let feeds = advisories(&[(0, false)]);
        let others: Vec<_> = (3..15).map(|minor| Version::parse(&format!("1.{minor}.1")).unwrap()).collect();
        let dated = others.iter().enumerate().map(|(count, version)| (version.as_str(), Some(version), long_ago(count)));
        let applicable = feeds.of("axios").applicable_to(dated);
        let facts = Facts { parsed: Some(&version), advisories: &applicable, ..Facts::of(&name, "1.14.1", at(0)) };
        let steps = policy.evaluate(&active, &facts, at(2));
        let lines: Vec<_> = steps
            .iter()
            .map(|step| format!("{} | {} | {} | {}", step.rule, step.action, step.outcome.as_str(), step.detail))
            .collect();
        expect_test::expect![[r#"
            built-in | deny | no match | its manifest and integrity are consistent
            denied | deny, decision 1 | no match | 1.14.1 is not in `<1`
            freeze | freeze, decision 4 | no match | it is not newer than 2026-03-31 05:00 UTC
            approved | approve, decision 2 | no match | it approves 1.14.0
            approved | approve, decision 3 | no match | by ada, decision 3: INC-7; it awaits a second person
            break-glass | break-glass, decision 5 | decides | allowed by ada, decision 5: INC-7; otherwise: published 2026-03-31 00:00 UTC, minimum release age 72 h (rule minimum-age)
            advisory | deny | set aside | MAL-0 of the feed `osv`: malware; it covers every version of an established package, and this version is much older than the advisory
            advisory | deny | not reached | an earlier rule decided
            malware-noted | warn | not reached | an earlier rule decided
            new-package | hold 14 d of the package | not reached | an earlier rule decided
            strong-signal | hold 14 d | not reached | an earlier rule decided
            weak-signals | hold 7 d | not reached | an earlier rule decided
            fix-lane | allow | not reached | an earlier rule decided
            minimum-age | hold 72 h | not reached | an earlier rule decided"#]].assert_eq(&lines.join("\n"));
        assert_eq!(timestamp::format_utc(at(90)), "2026-04-03 18:00 UTC");
    }
}
