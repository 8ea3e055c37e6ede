//! The only evaluator: facts, rules, decisions and an instant give a verdict. Verdict and trace come from the same pass, so they
//! cannot differ.

use jiff::Timestamp;

use crate::policy::decisions::active::{ActiveDecisions, DecisionRef, Freeze};
use crate::policy::decisions::trace::DecisionContext;
use crate::policy::facts::Facts;
use crate::policy::invariants;
use crate::policy::rules::{BreakGlass, PackageRules, Policy};
use crate::policy::trace::{Sink, StepOutcome, Trace, TraceStep, Warning};
use crate::policy::verdict::{Reason, RuleId, Verdict};

/// What a verdict depends on.
#[derive(Clone, Copy)]
pub struct Evaluation<'a> {
    /// The rules for the package, selected once per package.
    pub rules: &'a PackageRules<'a>,
    pub decisions: &'a ActiveDecisions,
    pub facts: &'a Facts<'a>,
    /// The instant up to which the upstream state is known, never later than now.
    pub as_of: Timestamp,
}

struct RulesVerdict {
    verdict: Verdict,
    /// The verdict without break-glass, if it is active for the version.
    unwaived: Option<Verdict>,
}

impl RulesVerdict {
    fn without_break_glass(&self) -> &Verdict {
        self.unwaived.as_ref().unwrap_or(&self.verdict)
    }
}

/// Evaluates one version. In order: the built-in rules, denials, then approvals or else malware advisories, break-glass and rules,
/// then freezes. An approval that names a changed integrity overrides that one built-in rule.
pub fn evaluate<S: Sink>(input: &Evaluation<'_>, sink: &mut S) -> Verdict {
    let Evaluation { rules, decisions, facts, as_of } = *input;
    let approval = decisions.approval(rules, facts);
    let broken_invariant = invariants::check(facts);
    sink.step(|| invariants_step(broken_invariant.as_ref(), approval));
    let is_overridden =
        approval.is_some() && broken_invariant.as_ref().and_then(Verdict::reason).is_some_and(is_changed_integrity);
    let denial =
        decisions.denial(facts).map(|decision_ref| Verdict::deny(RuleId::Denied, format!("denied {}", decision_ref.describe())));
    let refusal = if is_overridden { denial } else { broken_invariant.clone().or(denial) };
    let refusal = match refusal {
        Some(refusal) if !S::TRACE => return refusal,
        refusal => refusal,
    };
    let needs_rules = approval.is_none() || S::TRACE || S::WARN;
    let mut steps = S::default();
    let by_rules = needs_rules.then(|| evaluate_rules(input, &mut steps));
    if let (Some(by_rules), true) = (&by_rules, S::TRACE) {
        let context = DecisionContext {
            approval,
            overrides: &rules.required_overrides(facts),
            blocking_record: rules.blocking_records(facts).first().copied(),
            by_rules: &by_rules.verdict,
            without_break_glass: by_rules.without_break_glass(),
        };
        decisions.trace(&context, facts, as_of, sink);
        sink.append(steps);
    }
    let waived = broken_invariant.as_ref().or(by_rules.as_ref().map(RulesVerdict::without_break_glass));
    let waived = waived.filter(|_| S::WARN).and_then(Verdict::reason).cloned();
    let verdict = match by_rules {
        Some(by_rules) if approval.is_none() => by_rules.verdict,
        _ => Verdict::Allow,
    };
    // An approval that is newer than the freeze overrides it.
    let is_newer = |freeze: &&Freeze| approval.is_none_or(|approval| approval.made < freeze.decision_ref.made);
    let verdict = match decisions.freeze(facts, as_of).filter(is_newer) {
        Some(freeze) => freeze.hold(verdict),
        None => verdict,
    };
    let verdict = refusal.unwrap_or(verdict);
    if S::WARN && verdict.is_allowed() {
        warn_of_decision(input, approval, waived, sink);
        rules.warn(facts, as_of, sink);
    }
    verdict
}

pub fn evaluate_without_decisions(rules: &PackageRules<'_>, facts: &Facts<'_>, as_of: Timestamp) -> Verdict {
    evaluate(&Evaluation { rules, decisions: &ActiveDecisions::default(), facts, as_of }, &mut ())
}

/// Returns the verdict on one version with all steps and warnings.
pub(crate) fn explain(policy: &Policy, decisions: &ActiveDecisions, facts: &Facts<'_>, as_of: Timestamp) -> (Verdict, Trace) {
    let mut trace = Trace::default();
    let verdict = evaluate(&Evaluation { rules: &policy.for_package(facts.name), decisions, facts, as_of }, &mut trace);
    (verdict, trace)
}

/// Evaluates malware advisories and rules. Under break-glass, rules on ages or signals are waived unless there are blocking records.
fn evaluate_rules<S: Sink>(input: &Evaluation<'_>, sink: &mut S) -> RulesVerdict {
    let Evaluation { rules, decisions, facts, as_of } = *input;
    if decisions.break_glass.is_none() || !rules.blocking_records(facts).is_empty() {
        let verdict = rules.verdict(facts, as_of, BreakGlass::Inactive, sink);
        return RulesVerdict { verdict, unwaived: None };
    }
    let remaining = rules.verdict(facts, as_of, BreakGlass::Active, sink);
    let unwaived = rules.verdict(facts, as_of, BreakGlass::Inactive, &mut ());
    // The remaining refusal is the reason. The waived rules apply again after break-glass, so the version opens no earlier.
    let verdict = match remaining.reason().filter(|_| !unwaived.is_allowed()) {
        Some(reason) => unwaived.clone().with_reason(reason.clone()),
        None => Verdict::Allow,
    };
    RulesVerdict { verdict, unwaived: Some(unwaived) }
}

/// Warns that a decision allows a version that `waived` would refuse.
fn warn_of_decision<S: Sink>(input: &Evaluation<'_>, approval: Option<&DecisionRef>, waived: Option<Reason>, sink: &mut S) {
    let (rule, decision_ref) = match (approval, &input.decisions.break_glass) {
        (Some(decision_ref), _) => (RuleId::Approved, decision_ref),
        (None, Some(decision_ref)) => (RuleId::BreakGlass, decision_ref),
        (None, None) => return,
    };
    if let Some(Reason { rule: waived, detail }) = waived {
        let detail = format!("allowed {}; otherwise: {detail} (rule {waived})", decision_ref.describe());
        sink.warning(Warning { reason: Reason { rule, detail }, would_refuse: true });
    }
}

/// Returns one step for all built-in rules.
fn invariants_step(refusal: Option<&Verdict>, approval: Option<&DecisionRef>) -> TraceStep {
    let action = "deny".to_owned();
    let Some(reason) = refusal.and_then(Verdict::reason) else {
        let detail = "its manifest and integrity are consistent".to_owned();
        return TraceStep { rule: RuleId::File("built-in".into()), action, outcome: StepOutcome::NoMatch, detail };
    };
    let Reason { rule, detail } = reason.clone();
    match approval.filter(|_| is_changed_integrity(reason)) {
        Some(decision_ref) => {
            let detail = format!("{detail}; these bytes are approved {}", decision_ref.describe());
            TraceStep { rule, action, outcome: StepOutcome::Waived, detail }
        }
        None => TraceStep { rule, action, outcome: StepOutcome::Decided, detail },
    }
}

fn is_changed_integrity(reason: &Reason) -> bool {
    reason.rule == RuleId::IntegrityChanged
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
    use crate::policy::advisories::{AdvisoryRecord, FeedTrust};
    use crate::policy::decisions::{ApprovedVersion, Decision, DecisionAction, DecisionProposal, Signature};
    use crate::policy::presets;
    use crate::policy::rules::compose::compile;
    use crate::policy::verdict::CHANGED_INTEGRITY;
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
        compile(&[file], &find).unwrap_or_else(|errors| panic!("{errors}")).policy
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
                known_since: Some(at(0)),
                package: "axios".into(),
                versions: if *lists { vec!["1.14.1".into()] } else { Vec::new() },
                spans: AffectedRange::from_events(&[RangeEvent::Introduced("0".into())]).0,
                ..AdvisoryRecord::default()
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
                first_published: young.then(|| at(0)),
                ..Facts::of(&name, "1.14.1", at(0))
            };
            let rules = policy.for_package(&name);
            let verdict = evaluate(&Evaluation { rules: &rules, decisions: &active, facts: &facts, as_of: at(hour) }, &mut ());
            let (traced, trace) = explain(&policy, &active, &facts, at(hour));
            prop_assert_eq!(&traced, &verdict);
            let steps = trace.into_steps();
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
        let steps = explain(&policy, &active, &facts, at(2)).1.into_steps();
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
            false-signature | deny | not reached | an earlier rule decided
            advised-file | deny | not reached | an earlier rule decided
            new-package | hold 14 d of the package | not reached | an earlier rule decided
            strong-signal | hold 14 d | not reached | an earlier rule decided
            weak-signals | hold 7 d | not reached | an earlier rule decided
            release-burst | hold 7 d | not reached | an earlier rule decided
            tarball-findings | hold 14 d | not reached | an earlier rule decided
            install-behaviour | hold 14 d | not reached | an earlier rule decided
            behaviour-with-signal | hold 14 d | not reached | an earlier rule decided
            behaviour-noted | warn | not reached | an earlier rule decided
            fix-lane | allow | not reached | an earlier rule decided
            minimum-age | hold 72 h | not reached | an earlier rule decided"#]].assert_eq(&lines.join("\n"));
        assert_eq!(timestamp::format_utc(at(90)), "2026-04-03 18:00 UTC");
    }
}
