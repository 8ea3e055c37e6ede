//! Ordered policy rules and their evaluation. Pure: the same facts, rules and instant give the same verdict.
//!
//! As time passes, a verdict can open but never close: refusing rules test for low ages, allowing rules for high ages. The parser
//! enforces this.

pub mod compose;
pub(crate) mod describe;
pub(crate) mod index;
pub mod owners;
pub(crate) mod parse;
pub(crate) mod prefilter;
pub mod rule;
pub(crate) mod shadowing;
pub(crate) mod toml_table;

use std::sync::Arc;
use std::time::Duration;

use globset::{GlobSet, GlobSetBuilder};
use jiff::Timestamp;

use crate::policy::advisories::AdvisoryKind;
use crate::policy::facts::{CohortWait, Facts, UnknownFacts};
use crate::policy::malware;
use crate::policy::rules::index::{RuleIndex, RuleIter, RuleSet};
use crate::policy::rules::owners::PackageOwner;
use crate::policy::rules::prefilter::FactsUnion;
use crate::policy::rules::rule::{
    AgeSubject, ConditionResult, FactAges, MINIMUM_AGE, PackageGlob, RequestPolicy, Rule, RuleAction, RuleConditions, RuleOutcome,
};
use crate::policy::trace::{Sink, StepOutcome, TraceStep, Warning};
use crate::policy::verdict::{CHANGED_INTEGRITY, Reason, RuleId, Verdict};

use crate::npm::PackageName;
use crate::units::timestamp;
use crate::vetting::{Signal, SignalStrength, Signals};

/// The active policy: an ordered list of rules. The built-in rules come before it.
#[derive(Debug, Clone)]
pub struct Policy {
    rules: Arc<RuleIndex>,
    /// Packages whose age rules are waived.
    exclude: GlobSet,
    /// The excluded globs as written.
    pub(crate) excluded: Arc<[Box<str>]>,
    owners: Arc<[PackageOwner]>,
    /// Rules that have expired at this instant are not active.
    as_of: Timestamp,
}

/// The rules of a policy that apply to one package. Selected once and evaluated for each version.
#[derive(Debug, Clone)]
pub struct PackageRules<'p> {
    policy: &'p Policy,
    rules: RuleSet,
    waived: bool,
}

/// Whether break-glass waives the rules that depend on ages or signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BreakGlass {
    Inactive,
    Active,
}

/// Whether people may ask for a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestAccess {
    Ask,
    /// Holds the reason.
    Forbidden(String),
}

impl Policy {
    pub(crate) fn new(rules: Vec<Rule>) -> Self {
        let (excluded, owners) = (Arc::default(), Arc::default());
        Self { rules: Arc::new(RuleIndex::of(rules)), exclude: GlobSet::empty(), excluded, owners, as_of: Timestamp::MIN }
    }

    #[must_use]
    pub(crate) fn with_owners(self, owners: Vec<PackageOwner>) -> Self {
        Self { owners: owners.into(), ..self }
    }

    /// Returns the entries of people who answer for a package.
    pub(crate) fn owners_of(&self, name: &PackageName) -> impl Iterator<Item = &PackageOwner> {
        self.owners.iter().filter(|owner| owner.owns(name))
    }

    /// Creates a policy with a minimum release age (zero for none). The age alone is waived for packages in `exclude`.
    ///
    /// # Errors
    /// Returns an error if the globs together are too large to compile.
    pub fn with_ages(minimum_release_age: Duration, exclude: &[PackageGlob]) -> Result<Self, globset::Error> {
        Self::new(Vec::new()).with_minimum_age(minimum_release_age).excluding(exclude)
    }

    /// Replaces the minimum release age. Zero removes all rules that test ages only, including the one for new packages.
    #[must_use]
    pub(crate) fn with_minimum_age(self, age: Duration) -> Self {
        let mut rules = self.rules().to_vec();
        if age.is_zero() {
            rules.retain(|rule| !rule.tests_age_only());
        } else if let Some(rule) = rules.iter_mut().find(|rule| *rule.id == *MINIMUM_AGE) {
            rule.action = RuleAction::Hold { age, of: AgeSubject::Release };
        } else {
            rules.push(minimum_age(age));
        }
        Self { rules: Arc::new(RuleIndex::of(rules)), ..self }
    }

    /// Replaces the age in the rules that open fixes early. Zero removes these rules.
    #[must_use]
    pub(crate) fn with_fix_lane(self, age: Duration) -> Self {
        let mut rules = self.rules().to_vec();
        rules.retain(|rule| !rule.conditions.fixes || !age.is_zero());
        for rule in rules.iter_mut().filter(|rule| rule.conditions.fixes) {
            rule.conditions.age.older_than = Some(age);
        }
        Self { rules: Arc::new(RuleIndex::of(rules)), ..self }
    }

    /// Waives age rules, and nothing else, for packages in `exclude`.
    pub(crate) fn excluding(self, exclude: &[PackageGlob]) -> Result<Self, globset::Error> {
        let mut globs = GlobSetBuilder::new();
        for glob in exclude {
            globs.add(glob.0.clone());
        }
        let excluded = exclude.iter().map(|glob| glob.as_str().into()).collect();
        Ok(Self { exclude: globs.build()?, excluded, ..self })
    }

    /// Returns all rules in order, including expired ones.
    pub(crate) fn rules(&self) -> &[Rule] {
        &self.rules.all
    }

    /// Returns the policy that is active at `now`, without the rules that have expired by then.
    #[must_use]
    pub(crate) fn as_of(&self, now: Timestamp) -> Self {
        Self { as_of: now, ..self.clone() }
    }

    /// Returns when the next rule expires.
    pub(crate) fn next_expiry(&self) -> Option<Timestamp> {
        self.rules().iter().filter_map(|rule| rule.expires).filter(|expires| *expires > self.as_of).min()
    }

    /// Returns the minimum release age for a package. Zero if there is none or it is waived.
    pub(crate) fn minimum_release_age(&self, name: &PackageName) -> Duration {
        if self.waives_ages(name) {
            return Duration::ZERO;
        }
        let rule = self.in_force().find(|rule| *rule.id == *MINIMUM_AGE && rule.match_package(name.as_str()).is_ok());
        rule.and_then(|rule| rule.action.held_age()).unwrap_or_default()
    }

    /// Returns the longest minimum release age of any package.
    pub(crate) fn longest_minimum_age(&self) -> Duration {
        self.in_force()
            .filter(|rule| *rule.id == *MINIMUM_AGE)
            .filter_map(|rule| rule.action.held_age())
            .max()
            .unwrap_or_default()
    }

    /// Returns the general minimum release age, for display. Zero if there is none.
    pub(crate) fn minimum_age(&self) -> Duration {
        let rule = self.in_force().find(|rule| *rule.id == *MINIMUM_AGE && !rule.observe);
        rule.and_then(|rule| rule.action.held_age()).unwrap_or_default()
    }

    /// Returns the longest hold of a rule that exempts subpackages of established packages. `None` if there is no such rule.
    pub(crate) fn spares_siblings(&self) -> Option<Duration> {
        self.in_force().filter(|rule| rule.conditions.spares_siblings).filter_map(|rule| rule.action.held_age()).max()
    }

    /// Returns the longest age below which a rule on signals may refuse a release. Zero if no rule tests signals.
    pub(crate) fn signal_window(&self) -> Duration {
        let rules = self.in_force().filter(|rule| rule.conditions.signals.is_some());
        rules.filter_map(Rule::longest_age).max().unwrap_or_default()
    }

    /// Returns the age below which a rule may refuse or note a release for what its tarball holds. `None` if no rule
    /// tests that.
    pub(crate) fn finding_window(&self) -> Option<Duration> {
        self.in_force().filter_map(Rule::finding_window).max()
    }

    /// Checks whether a rule tests this signal.
    pub(crate) fn asks_signal(&self, signal: Signal) -> bool {
        let asked = Signals::from(signal);
        let tests = |rule: &Rule| {
            rule.conditions.fixes || rule.conditions.signals.is_some_and(|(wanted, _)| !wanted.and(asked).is_empty())
        };
        self.in_force().any(tests)
    }

    /// Returns the signals that the rule with this id tests.
    pub(crate) fn signals_of(&self, rule: &RuleId) -> Signals {
        let found = self.in_force().find(|known| *known.id == *rule.as_str() && matches!(rule, RuleId::File(_)));
        found.and_then(|rule| rule.conditions.signals).map(|(wanted, _)| wanted).unwrap_or_default()
    }

    /// Checks whether people may ask for what the rule with this id refuses.
    pub(crate) fn allows_requests(&self, rule: &RuleId) -> bool {
        let forbids = |known: &Rule| *known.id == *rule.as_str() && known.request == Some(RequestPolicy::Forbidden);
        let is_forbidden = matches!(rule, RuleId::File(_)) && self.in_force().any(forbids);
        rule.may_be_approved() && *rule != RuleId::Advisory && !is_forbidden
    }

    /// Checks whether the rule with this id tests what a tarball holds.
    pub(crate) fn tests_tarballs(&self, rule: &RuleId) -> bool {
        let found = self.in_force().find(|known| *known.id == *rule.as_str() && matches!(rule, RuleId::File(_)));
        found.is_some_and(|rule| rule.finding_window().is_some())
    }

    /// Returns the longest age that a rule names, for releases or packages.
    pub(crate) fn longest_age(&self) -> Duration {
        self.rules().iter().filter_map(Rule::longest_age).max().unwrap_or_default()
    }

    /// Selects the active rules that apply to a package.
    pub fn for_package(&self, name: &PackageName) -> PackageRules<'_> {
        let rules = self.rules.select(|rule| self.has_in_force(rule) && rule.match_package(name.as_str()).is_ok());
        PackageRules { policy: self, rules, waived: self.waives_ages(name) }
    }

    pub(crate) fn in_force(&self) -> impl Iterator<Item = &Rule> {
        self.rules().iter().filter(|rule| self.has_in_force(rule))
    }

    fn has_in_force(&self, rule: &Rule) -> bool {
        rule.expires.is_none_or(|expires| expires > self.as_of)
    }

    pub(crate) fn waives_ages(&self, name: &PackageName) -> bool {
        self.exclude.is_match(name.as_str())
    }
}

impl PackageRules<'_> {
    /// Drops the rules that none of these versions can match at any age. For packages with thousands of versions.
    #[must_use]
    pub fn prefiltered<'f>(self, versions: impl Iterator<Item = Facts<'f>>) -> Self {
        let among = FactsUnion::of(versions);
        let rules = self.rules.narrowed(&self.policy.rules, |rule| among.may_match(rule));
        Self { rules, ..self }
    }

    /// Returns what an approval must name to be valid: the blocking records, and the strong signals on which rules refuse.
    pub(crate) fn required_overrides<'a>(&self, facts: &Facts<'a>) -> Vec<&'a str> {
        let mut named: Vec<&'a str> = self.blocking_records(facts);
        let strong = facts.signals.and(Signals::of_strength(SignalStrength::Strong));
        if !strong.is_empty() {
            let asked = self.refusers(facts).filter_map(|rule| rule.conditions.signals);
            let asked = asked.fold(Signals::NONE, |all, (asked, _)| all.or(asked));
            for signal in strong.and(asked).iter() {
                named.push(signal.as_str());
            }
        }
        named
    }

    /// Returns whether people may ask for the version: by the strictest of the rules that refuse it as of `at`.
    pub(crate) fn request_access(&self, facts: &Facts<'_>, at: Timestamp) -> RequestAccess {
        if let Some(advisory) = malware::blocking_advisories(facts).next() {
            return RequestAccess::Forbidden(format!("{} lists it as malware", advisory.id));
        }
        let ages = FactAges::of(facts, at);
        let matches = |rule: &&Rule| self.refuses(rule, ages) && rule.unmet_condition(facts, ages).is_none();
        let mut refusing = self.refusers(facts).filter(matches);
        match refusing.find(|rule| rule.request == Some(RequestPolicy::Forbidden)) {
            Some(rule) => RequestAccess::Forbidden(format!("rule {} forbids it: {}", rule.id, rule.reason)),
            None => RequestAccess::Ask,
        }
    }

    /// Returns the records that only an approval overrides; break-glass does not. These are a changed integrity and the malware
    /// advisories on which feeds or rules refuse.
    pub(crate) fn blocking_records<'a>(&self, facts: &Facts<'a>) -> Vec<&'a str> {
        let malware = malware::blocking_advisories(facts).map(|advisory| advisory.id);
        let changed = facts.integrity_changed.then_some(CHANGED_INTEGRITY);
        let mut records: Vec<_> = changed.into_iter().chain(malware).collect();
        let conditions: Vec<_> = self.refusers(facts).filter_map(|rule| rule.conditions.advisory.as_ref()).collect();
        if conditions.is_empty() {
            return records;
        }
        for advisory in
            facts.advisories.matching(facts.version, facts.parsed).filter(|advisory| advisory.kind == AdvisoryKind::Malware)
        {
            if conditions.iter().any(|ask| ask.fits(&advisory)) && !records.contains(&advisory.id) {
                records.push(advisory.id);
            }
        }
        records
    }

    pub(crate) fn may_warn(&self) -> bool {
        self.policy.rules.each(&self.rules).any(|rule| rule.observe || rule.action == RuleAction::Warn || rule.conditions.fixes)
    }

    /// Checks whether any rule tests one of these facts.
    pub(crate) fn hangs_on(&self, unknown: UnknownFacts) -> bool {
        self.policy.rules.each(&self.rules).any(|rule| rule.hangs_on(unknown))
    }

    /// Checks whether an unknown fact could change the verdict on the version, at `at` or later.
    pub(crate) fn is_undecided(&self, facts: &Facts<'_>, at: Timestamp) -> bool {
        if !self.answering(facts).any(|rule| rule.hangs_on(facts.unknown)) {
            return false;
        }
        let undecided_at = |at: Timestamp| {
            let ages = FactAges::of(facts, at);
            for rule in self.answering(facts) {
                match rule.answer(facts, ages) {
                    ConditionResult::Undecided => return true,
                    // Later rules are not evaluated.
                    ConditionResult::Matches if self.if_matched(rule, ages, BreakGlass::Inactive) == RuleOutcome::Decided => {
                        return false;
                    }
                    ConditionResult::Matches | ConditionResult::Differs(_) => {}
                }
            }
            false
        };
        let turns = || self.answering(facts).flat_map(|rule| rule.transition_times(facts)).filter(|turn| *turn > at);
        undecided_at(at) || turns().any(undecided_at)
    }

    /// Returns the verdict of feeds and policy files as of `at`: malware advisories by the trust of their feed, then the rules.
    pub(crate) fn verdict<S: Sink>(&self, facts: &Facts<'_>, at: Timestamp, glass: BreakGlass, sink: &mut S) -> Verdict {
        let by_feeds = match malware::verdict(facts, at) {
            Some(refusal @ Verdict::Deny { .. }) if !S::TRACE => return refusal,
            by_feeds => by_feeds,
        };
        let mut steps = S::default();
        let by_files = match self.first_refusal(facts, at, glass, &mut steps) {
            None => Verdict::Allow,
            Some(rule) => {
                let (id, detail) = (RuleId::File(Arc::clone(&rule.id)), describe::describe_refusal(rule, facts));
                match self.next_opening(facts, at, glass) {
                    Some(until) => Verdict::hold(until, id, detail),
                    None => Verdict::deny(id, detail),
                }
            }
        };
        if S::TRACE {
            malware::trace(facts, &by_files, at, sink);
            sink.append(steps);
        }
        let verdict = match by_feeds {
            Some(refusal @ Verdict::Deny { .. }) => refusal,
            Some(hold) => hold.stricter(by_files),
            None => by_files,
        };
        match facts.cohort.filter(|wait| glass == BreakGlass::Inactive && wait.until > at) {
            Some(wait) => wait_for_siblings(verdict, wait, sink),
            None => verdict,
        }
    }

    /// Returns when the rules open the version if nothing else changes, at its publication at the earliest. `None` if they never
    /// do.
    pub(crate) fn opening(&self, facts: &Facts<'_>) -> Option<Timestamp> {
        let start = facts.effective;
        if self.first_refusal(facts, start, BreakGlass::Inactive, &mut ()).is_none() {
            return Some(start);
        }
        self.next_opening(facts, start, BreakGlass::Inactive)
    }

    /// Sends the warnings of the rules as of `at` to the sink.
    pub(crate) fn warn<S: Sink>(&self, facts: &Facts<'_>, at: Timestamp, sink: &mut S) {
        let ages = FactAges::of(facts, at);
        let reason = |rule: &Rule, detail| Reason { rule: RuleId::File(Arc::clone(&rule.id)), detail };
        for rule in self.answering(facts) {
            if rule.unmet_condition(facts, ages).is_some() {
                continue;
            }
            let would_refuse = self.refuses(rule, ages);
            if rule.action == RuleAction::Warn || (would_refuse && rule.observe) {
                sink.warning(Warning { reason: reason(rule, describe::describe_refusal(rule, facts)), would_refuse });
            } else if would_refuse || rule.action == RuleAction::Allow {
                if rule.conditions.fixes {
                    let detail = format!("opened early: {}", describe::describe_allow(rule, facts));
                    sink.warning(Warning { reason: reason(rule, detail), would_refuse: false });
                }
                return;
            }
        }
    }

    /// Returns the rules that may match a version, in order.
    fn answering<'s>(&'s self, facts: &Facts<'_>) -> RuleIter<'s> {
        self.policy.rules.candidates(&self.rules, facts)
    }

    /// Returns the candidate rules that refuse what they match, regardless of age.
    fn refusers<'s>(&'s self, facts: &Facts<'_>) -> impl Iterator<Item = &'s Rule> {
        self.answering(facts).filter(|rule| rule.action.refuses() && !rule.observe)
    }

    /// Returns the rule that refuses a version at an instant, if the first rule that decides is one. A trace has all active rules
    /// of the policy as steps.
    fn first_refusal<S: Sink>(&self, facts: &Facts<'_>, at: Timestamp, glass: BreakGlass, sink: &mut S) -> Option<&Rule> {
        let ages = FactAges::of(facts, at);
        let unmet = |rule: &Rule| rule.unmet_condition(facts, ages);
        let first = if S::TRACE {
            let mut first = None;
            for rule in self.policy.in_force() {
                let outcome = match rule.match_package(facts.name.as_str()).err().or_else(|| unmet(rule)) {
                    Some(unmet) => RuleOutcome::NoMatch(unmet),
                    None => self.if_matched(rule, ages, glass),
                };
                sink.step(|| describe::rule_step(rule, facts, outcome));
                first = first.or((outcome == RuleOutcome::Decided).then_some(rule));
            }
            first
        } else {
            // Its conditions last: most rules cannot decide at most instants, and that is cheaper to see.
            let may_decide = |rule: &&Rule| self.if_matched(rule, ages, glass) == RuleOutcome::Decided;
            self.answering(facts).filter(may_decide).find(|rule| unmet(rule).is_none())
        };
        first.filter(|rule| rule.action != RuleAction::Allow)
    }

    /// Returns what a rule means for a version that it matches.
    fn if_matched(&self, rule: &Rule, ages: FactAges, glass: BreakGlass) -> RuleOutcome {
        if let RuleAction::Hold { .. } = rule.action {
            if self.waived && rule.tests_age_only() {
                return RuleOutcome::Excluded;
            }
            if !rule.is_holding(ages) {
                return RuleOutcome::Passed;
            }
        }
        if rule.observe || rule.action == RuleAction::Warn {
            return RuleOutcome::Warned;
        }
        if glass == BreakGlass::Active && rule.depends_on_age_or_signals() {
            RuleOutcome::BrokenGlass
        } else {
            RuleOutcome::Decided
        }
    }

    /// Checks whether a rule refuses a version that it matches, or would if it did not only observe.
    fn refuses(&self, rule: &Rule, ages: FactAges) -> bool {
        let outcome = self.if_matched(rule, ages, BreakGlass::Inactive);
        rule.action.refuses() && !matches!(outcome, RuleOutcome::Excluded | RuleOutcome::Passed)
    }

    /// Returns the first instant after `at` at which no rule refuses the version.
    fn next_opening(&self, facts: &Facts<'_>, at: Timestamp, glass: BreakGlass) -> Option<Timestamp> {
        let mut turns: Vec<_> =
            self.answering(facts).flat_map(|rule| rule.transition_times(facts)).filter(|turn| *turn > at).collect();
        turns.sort_unstable();
        turns.into_iter().find(|turn| self.first_refusal(facts, *turn, glass, &mut ()).is_none())
    }
}

/// Returns the verdict on a version that waits for siblings. It opens with the last of them.
fn wait_for_siblings<S: Sink>(verdict: Verdict, wait: &CohortWait, sink: &mut S) -> Verdict {
    let (sibling, opens) = (&wait.sibling, timestamp::format_utc_ceil(wait.sibling_opens));
    let detail = format!("waits for {sibling}, which opens at {opens}");
    let is_allowed = verdict.is_allowed();
    sink.step(|| {
        let outcome = if is_allowed { StepOutcome::Decided } else { StepOutcome::Warned };
        TraceStep { rule: RuleId::Cohort, action: "hold".to_owned(), outcome, detail: detail.clone() }
    });
    match verdict {
        Verdict::Allow => Verdict::hold(wait.until, RuleId::Cohort, detail),
        Verdict::Hold { until, reason } => Verdict::Hold { until: until.max(wait.until), reason },
        Verdict::Deny { .. } => verdict,
    }
}

/// Returns the rule for the setting `min-release-age` if no policy file has one.
fn minimum_age(age: Duration) -> Rule {
    Rule {
        id: MINIMUM_AGE.into(),
        reason: "new releases wait so that malicious ones can be found and removed first".into(),
        owner: None,
        expires: None,
        action: RuleAction::Hold { age, of: AgeSubject::Release },
        observe: false,
        request: None,
        conditions: RuleConditions::default(),
        place: None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::diagnostics::SourceFile;
    use crate::npm::packument::index::ManifestTraits;
    use crate::policy::advisories::index::FeedAdvisories;
    use crate::policy::advisories::index::FeedIndexBuilder;
    use crate::policy::advisories::{Advisories, Severity};
    use crate::policy::advisories::{AdvisoryRecord, FeedTrust};
    use crate::policy::decisions::active::ActiveDecisions;
    use crate::policy::decisions::{Decision, DecisionAction, DecisionProposal, Signature};
    use crate::policy::evaluate::{evaluate_without_decisions, explain};
    use crate::policy::facts::{Presence, Removal};
    use crate::policy::presets;
    use crate::policy::rules::compose::compile;
    use crate::vetting::Signal;

    const HOUR: u64 = 3600;

    fn at(hours: u64) -> Timestamp {
        Timestamp::from_second(1_774_915_200 + i64::try_from(hours * HOUR).unwrap()).unwrap()
    }

    fn judge(policy: &Policy, facts: &Facts<'_>, at: Timestamp) -> Verdict {
        evaluate_without_decisions(&policy.for_package(facts.name), facts, at)
    }

    fn warnings(policy: &Policy, facts: &Facts<'_>, at: Timestamp) -> Vec<Warning> {
        explain(policy, &ActiveDecisions::default(), facts, at).1.warnings
    }

    fn compiled(text: &str) -> Policy {
        let file = Arc::new(SourceFile { path: "p.toml".into(), text: text.to_owned() });
        let find = |_: &SourceFile, name: &str| presets::policy_file(name).ok_or_else(|| "not found".to_owned());
        compile(&[file], &find).unwrap_or_else(|errors| panic!("{errors}")).policy
    }

    fn aged(hours: u64, exclude: &[&str]) -> Policy {
        let globs: Vec<_> = exclude.iter().map(|glob| PackageGlob::parse(glob).unwrap()).collect();
        Policy::with_ages(Duration::from_secs(hours * HOUR), &globs).unwrap()
    }

    fn axios() -> PackageName {
        PackageName::parse("axios").unwrap()
    }

    fn facts(name: &PackageName) -> Facts<'_> {
        Facts::of(name, "1.14.1", at(0))
    }

    fn rule(verdict: &Verdict) -> Option<&str> {
        verdict.reason().map(|reason| reason.rule.as_str())
    }

    #[test]
    fn release_opens_at_its_minimum_age() {
        let (policy, axios) = (aged(72, &[]), axios());
        let verdict = judge(&policy, &facts(&axios), at(71));
        assert_eq!(verdict.opens_at(), Some(at(72)));
        assert_eq!(verdict.reason().unwrap().detail, "published 2026-03-31 00:00 UTC, minimum release age 72 h");
        assert!(judge(&policy, &facts(&axios), at(72)).is_allowed());
    }

    proptest! {
        #[test]
        fn waiting_for_siblings_never_opens_earlier_and_changes_no_denial(
            (hours, until, sibling) in (0..400_u64, 0..400_u64, 0..400_u64),
            signal in any::<bool>(),
            changed in any::<bool>(),
        ) {
            let (policy, axios) = (compiled("include = \"default\""), axios());
            let wait = CohortWait { until: at(until), sibling: "@x/y@1.0.0".to_owned(), sibling_opens: at(sibling) };
            let signals = if signal { Signals::of_strength(SignalStrength::Strong) } else { Signals::NONE };
            let alone = Facts { signals, integrity_changed: changed, ..facts(&axios) };
            let rules = policy.for_package(&axios);
            prop_assert_eq!(rules.opening(&alone), Some(at(if signal { 14 * 24 } else { 72 })));
            let opens = |facts: &Facts<'_>| match judge(&policy, facts, at(hours)) {
                Verdict::Allow => Timestamp::MIN,
                Verdict::Hold { until, .. } => until,
                Verdict::Deny { .. } => Timestamp::MAX,
            };
            let (before, after) = (opens(&alone), opens(&Facts { cohort: Some(&wait), ..alone }));
            let expected = if until > hours { before.max(at(until)) } else { before };
            prop_assert_eq!(after, if changed { Timestamp::MAX } else { expected });
        }
    }

    #[test]
    fn exclusion_waives_age_rules_only() {
        let name = PackageName::parse("@acme/ui").unwrap();
        let exclude = [PackageGlob::parse("@acme/*").unwrap()];
        let policy = compiled("include = \"default\"").excluding(&exclude).unwrap();
        let newborn = Facts { first_published: Some(at(0)), ..facts(&name) };
        assert!(judge(&policy, &newborn, at(1)).is_allowed());
        let changed = Facts { integrity_changed: true, ..newborn };
        assert_eq!(rule(&judge(&policy, &changed, at(1))), Some("integrity-changed"));
        let suspicious =
            Facts { signals: crate::vetting::Signals::of_strength(crate::vetting::SignalStrength::Strong), ..newborn };
        assert_eq!(rule(&judge(&policy, &suspicious, at(1))), Some("strong-signal"));
        let other = PackageName::parse("@acme-evil/ui").unwrap();
        assert!(!judge(&policy, &facts(&other), at(1)).is_allowed());
    }

    #[test]
    fn zero_minimum_age_also_removes_the_rule_for_new_packages() {
        let axios = axios();
        let opens = |policy: &Policy| judge(policy, &facts(&axios), at(1)).opens_at();
        let policy = compiled("include = \"default\"");
        assert_eq!(opens(&policy), Some(at(72)));
        assert_eq!(opens(&policy.clone().with_minimum_age(Duration::from_secs(48 * HOUR))), Some(at(48)));
        assert_eq!(opens(&policy.clone().with_minimum_age(Duration::from_secs(240 * HOUR))), Some(at(240)));
        let none = policy.with_minimum_age(Duration::ZERO);
        assert!(judge(&none, &Facts { first_published: Some(at(0)), ..facts(&axios) }, at(1)).is_allowed());
        assert_eq!(none.minimum_age(), Duration::ZERO);
        assert_eq!(opens(&compiled("").with_minimum_age(Duration::from_secs(HOUR * 5))), Some(at(5)));
    }

    #[test]
    fn without_a_publish_time_the_age_counts_from_first_seen() {
        let (policy, axios) = (aged(72, &[]), axios());
        let missing = Facts { published: None, effective: at(5), ..facts(&axios) };
        let verdict = judge(&policy, &missing, at(6));
        assert_eq!((verdict.opens_at(), rule(&verdict)), (Some(at(77)), Some("minimum-age")));
        assert!(verdict.reason().unwrap().detail.starts_with("upstream gives no publish time, first seen"));
    }

    #[test]
    fn young_removed_version_is_a_takedown_and_old_one_is_kept() {
        let (policy, axios) = (aged(72, &[]), axios());
        let gone = |last_seen, replaced| {
            let removal = Removal { last_seen, replaced, longest_age: Duration::ZERO };
            Facts { presence: Presence::Gone(removal), ..facts(&axios) }
        };
        let judged = |facts: Facts<'_>| rule(&judge(&policy, &facts, at(24 * 400))).map(str::to_owned);
        assert_eq!(judged(gone(Some(at(3)), false)).as_deref(), Some("takedown"));
        assert_eq!(judged(gone(Some(at(24 * 300)), false)), None);
        assert_eq!(judged(gone(Some(at(24 * 300)), true)).as_deref(), Some("takedown"));
        assert_eq!(judged(gone(None, false)).as_deref(), Some("unpublished"));
    }

    #[test]
    fn first_deciding_rule_wins_and_expired_hold_continues() {
        let policy = compiled(
            r#"
[[rule]]
id = "exempt"
allow = true
packages = ["left-*"]
reason = "x"
[[rule]]
id = "scripts"
hold = "2d"
install-script = true
reason = "x"
[[rule]]
id = "bad"
deny = true
versions = "<2.0.0"
reason = "x"
"#,
        );
        let (axios, left) = (axios(), PackageName::parse("left-pad").unwrap());
        let version = crate::npm::Version::parse("1.9.9-beta.1").unwrap();
        let scripted = ManifestTraits { install_script: true, ..ManifestTraits::default() };
        let facts = |name| Facts { parsed: Some(&version), traits: scripted, ..Facts::of(name, "1.9.9-beta.1", at(0)) };
        assert!(judge(&policy, &facts(&left), at(1)).is_allowed());
        // It never opens: a denial follows the hold and covers prereleases of its range.
        let verdict = judge(&policy, &facts(&axios), at(1));
        assert_eq!((rule(&verdict), verdict.opens_at()), (Some("scripts"), None));
        assert_eq!(rule(&judge(&policy, &facts(&axios), at(49))), Some("bad"));
    }

    #[test]
    fn allow_range_excludes_prereleases_as_npm_does() {
        let policy = compiled(
            "[[rule]]\nid = \"fine\"\nallow = true\nversions = \"<2.0.0\"\nreason = \"x\"\n[[rule]]\nid = \"rest\"\ndeny = true\nreason = \"x\"\n",
        );
        let (axios, stable, pre) = (axios(), crate::npm::Version::parse("1.9.9"), crate::npm::Version::parse("1.9.9-beta.1"));
        assert!(judge(&policy, &Facts { parsed: stable.as_ref(), ..facts(&axios) }, at(0)).is_allowed());
        assert!(!judge(&policy, &Facts { parsed: pre.as_ref(), ..facts(&axios) }, at(0)).is_allowed());
    }

    #[test]
    fn observing_and_warning_rules_refuse_nothing() {
        let policy = compiled("include = \"observe\"\n[[rule]]\nid = \"look\"\nwarn = true\nreason = \"look at it\"\n");
        let axios = axios();
        assert!(judge(&policy, &facts(&axios), at(1)).is_allowed() && policy.for_package(&axios).may_warn());
        let found = warnings(&policy, &facts(&axios), at(1));
        let found: Vec<_> = found.iter().map(|note| (note.reason.rule.as_str(), note.would_refuse)).collect();
        assert_eq!(found, [("look", false), ("minimum-age", true)]);
        assert!(warnings(&compiled("include = \"strict\""), &facts(&axios), at(1)).is_empty());
    }

    #[test]
    fn rule_has_no_effect_after_it_expires() {
        let policy = compiled(
            "[[rule]]\nid = \"for-now\"\nallow = true\nexpires = \"2026-04-01\"\nreason = \"x\"\n[[rule]]\nid = \"age\"\nhold = \"30d\"\nreason = \"x\"\n",
        );
        let (axios, ends) = (axios(), at(48));
        assert_eq!(policy.next_expiry(), Some(ends));
        assert!(judge(&policy.as_of(at(47)), &facts(&axios), at(47)).is_allowed());
        let ended = policy.as_of(ends);
        assert!(!judge(&ended, &facts(&axios), ends).is_allowed() && ended.next_expiry().is_none());
    }

    #[test]
    fn trace_has_a_step_for_every_rule() {
        let (policy, axios) = (compiled("include = \"default\""), axios());
        let steps =
            explain(&policy, &ActiveDecisions::default(), &Facts { first_published: Some(at(0)), ..facts(&axios) }, at(1))
                .1
                .into_steps();
        let lines: Vec<_> =
            steps.iter().map(|step| format!("{} {}: {}", step.rule, step.outcome.as_str(), step.detail)).collect();
        expect_test::expect![[r#"
            built-in no match: its manifest and integrity are consistent
            advisory no match: no enforced feed lists it as malware
            malware-noted no match: no matching advisory
            false-signature no match: it has none of these findings
            advised-file no match: it has none of these findings
            new-package decides: published 2026-03-31 00:00 UTC, the package is new, its package was first published 2026-03-31 00:00 UTC, new packages wait 14 d
            strong-signal not reached: an earlier rule decided
            weak-signals not reached: an earlier rule decided
            release-burst not reached: an earlier rule decided
            tarball-findings not reached: an earlier rule decided
            install-behaviour not reached: an earlier rule decided
            behaviour-with-signal not reached: an earlier rule decided
            behaviour-noted not reached: an earlier rule decided
            fix-lane not reached: an earlier rule decided
            minimum-age not reached: an earlier rule decided"#]].assert_eq(&lines.join("\n"));
        assert_eq!(steps.len(), policy.rules().len() + 2);
    }

    /// The facts match every rule below. The flag says whether break-glass waives the rule.
    #[test]
    fn break_glass_waives_only_rules_on_ages_or_signals() {
        let critical = Advisories::of_feeds(vec![Arc::new(advisory(
            "axios",
            AdvisoryKind::Vulnerability,
            Some(Severity::Critical),
            FeedTrust::Deny,
        ))]);
        let advisories = critical.of("axios").applicable_to(std::iter::empty());
        let (name, version) = (axios(), crate::npm::Version::parse("1.14.1").unwrap());
        let facts = Facts {
            parsed: Some(&version),
            first_published: Some(at(0)),
            publisher: Some("ada"),
            traits: ManifestTraits { deprecated: true, install_script: true, git_dependency: true, ..ManifestTraits::default() },
            signals: crate::vetting::Signals::of_strength(crate::vetting::SignalStrength::Strong),
            findings: crate::vetting::Finding::ALL.iter().copied().collect(),
            advisories: &advisories,
            ..facts(&name)
        };
        let glass = break_glass();
        for (rule, waived) in [
            ("hold = \"14d\"", true),
            ("hold = \"14d\"\nof = \"package\"", true),
            ("hold = \"14d\"\ninstall-script = true", true),
            ("hold = \"14d\"\nversions = \"<2\"\npackages = [\"axios\"]", true),
            ("hold = \"14d\"\nsignals = \"strong\"", true),
            ("deny = true\nsignals = \"strong\"", true),
            ("deny = true\nsignals = \"strong\"\npublishers = [\"ada\"]", true),
            ("deny = true\nyounger-than = \"30d\"", true),
            ("deny = true\npackage-younger-than = \"30d\"", true),
            ("deny = true\nyounger-than = \"30d\"\ndependencies = [\"git\"]", true),
            ("hold = \"14d\"\nadvisory = { severity = \"critical\" }", false),
            ("hold = \"14d\"\nadvisory = { trust = \"deny\" }\nsignals = \"strong\"", false),
            ("deny = true\nadvisory = { feed = [\"osv\"] }\nyounger-than = \"30d\"", false),
            ("hold = \"14d\"\nfindings = [\"advised-integrity\"]", false),
            ("deny = true\nfindings = [\"manifest-confusion\"]\nsignals = \"strong\"", false),
            ("deny = true\npackages = [\"axios\"]", false),
            ("deny = true\nversions = \"<2\"", false),
            ("deny = true\ninstall-script = true", false),
            ("deny = true\ndependencies = [\"git\"]", false),
            ("deny = true\ndeprecated = true", false),
        ] {
            let policy = compiled(&format!("[[rule]]\nid = \"one\"\nreason = \"x\"\n{rule}\n"));
            assert!(!judge(&policy, &facts, at(1)).is_allowed(), "{rule}");
            assert_eq!(explain(&policy, &glass, &facts, at(1)).0.is_allowed(), waived, "{rule}");
        }
    }

    #[test]
    fn under_break_glass_the_remaining_refusal_is_the_reason() {
        let policy = compiled(
            "include = \"default\"\n[[rule]]\nid = \"old\"\nhold = \"1d\"\nreason = \"x\"\n[[rule]]\nid = \"shut\"\nhold = \"2d\"\nadvisory = { kind = \"vulnerability\" }\nreason = \"x\"\n",
        );
        let feeds = Advisories::of_feeds(vec![Arc::new(advisory("axios", AdvisoryKind::Vulnerability, None, FeedTrust::Warn))]);
        let advisories = feeds.of("axios").applicable_to(std::iter::empty());
        let (name, glass) = (axios(), break_glass());
        let facts = Facts { advisories: &advisories, ..facts(&name) };
        let verdict = explain(&policy, &glass, &facts, at(1)).0;
        assert_eq!(
            (rule(&verdict), verdict.opens_at()),
            (Some("shut"), Some(at(72))),
            "break-glass has ended by then, and ages count again"
        );
        assert!(explain(&policy, &glass, &facts, at(1)).1.warnings.is_empty(), "nothing was waived");
        let steps = explain(&policy, &glass, &facts, at(1)).1.into_steps();
        let lines: Vec<_> =
            steps.iter().map(|step| format!("{} {}: {}", step.rule, step.outcome.as_str(), step.detail)).collect();
        expect_test::expect![[r#"
            built-in no match: its manifest and integrity are consistent
            break-glass no match: it waives rules on ages and signals only, not rule shut
            advisory no match: no enforced feed lists it as malware
            old waived: break-glass waives rules on ages and signals
            shut decides: published 2026-03-31 00:00 UTC, x, MAL-1 (osv), held until it is 48 h old
            malware-noted not reached: an earlier rule decided
            false-signature not reached: an earlier rule decided
            advised-file not reached: an earlier rule decided
            new-package not reached: an earlier rule decided
            strong-signal not reached: an earlier rule decided
            weak-signals not reached: an earlier rule decided
            release-burst not reached: an earlier rule decided
            tarball-findings not reached: an earlier rule decided
            install-behaviour not reached: an earlier rule decided
            behaviour-with-signal not reached: an earlier rule decided
            behaviour-noted not reached: an earlier rule decided
            fix-lane not reached: an earlier rule decided
            minimum-age not reached: an earlier rule decided"#]]
        .assert_eq(&lines.join("\n"));
    }

    #[test]
    fn approval_must_name_malware_on_which_a_rule_refuses() {
        let feeds = Advisories::of_feeds(vec![Arc::new(malware("axios", FeedTrust::Warn))]);
        let advisories = feeds.of("axios").applicable_to(std::iter::empty());
        let name = axios();
        let facts = Facts { advisories: &advisories, ..facts(&name) };
        assert_eq!(compiled("include = \"strict\"").for_package(&name).blocking_records(&facts), ["MAL-1"]);
        assert!(
            compiled("include = \"default\"").for_package(&name).blocking_records(&facts).is_empty(),
            "it warns and refuses nothing"
        );
    }

    /// An approval must name a strong signal that holds a version, although break-glass waives it.
    #[test]
    fn approval_must_name_strong_signals_on_which_a_rule_refuses() {
        let name = axios();
        let signals = [Signal::FirstInstallScript, Signal::Dormant].into_iter().collect();
        let facts = Facts { signals, ..facts(&name) };
        let policy = compiled("include = \"default\"");
        assert_eq!(policy.for_package(&name).required_overrides(&facts), ["first-install-script"]);
        assert!(policy.for_package(&name).blocking_records(&facts).is_empty());
        let weak = Facts { signals: Signal::Dormant.into(), ..facts };
        assert!(policy.for_package(&name).required_overrides(&weak).is_empty(), "weak signals are not named");
        assert!(compiled("").for_package(&name).required_overrides(&facts).is_empty(), "no rule tests it");
    }

    fn break_glass() -> ActiveDecisions {
        let author = Signature { who: "ada".to_owned(), at: at(0) };
        let proposal = DecisionProposal {
            act: DecisionAction::BreakGlass,
            reason: "an outage".to_owned(),
            author,
            expires: None,
            needs_second: false,
        };
        ActiveDecisions::of(&[Decision { id: 1, proposal, second: None, revoked: None }], at(1))
    }

    fn malware(name: &str, trust: FeedTrust) -> FeedAdvisories {
        advisory(name, AdvisoryKind::Malware, None, trust)
    }

    fn advisory(name: &str, kind: AdvisoryKind, severity: Option<Severity>, trust: FeedTrust) -> FeedAdvisories {
        let mut builder = FeedIndexBuilder::default();
        builder.add(&AdvisoryRecord {
            id: "MAL-1".into(),
            kind,
            severity,
            package: name.into(),
            versions: vec!["1.14.1".into()],
            ..AdvisoryRecord::default()
        });
        builder.build("osv", trust)
    }

    proptest! {
        #[test]
        fn verdict_never_closes_as_time_passes(shipped in 0..4_usize, first_published in 0..2_000_u64, age in 0..2_000_u64, later in 0..2_000_u64, bits in 0..1024_u32) {
            let policy = compiled(&format!("include = \"{}\"", presets::names()[shipped]));
            let name = axios();
            let facts = varied(&name, first_published, bits);
            let (now, then) = (at(2_000 + age), at(2_000 + age + later));
            let (first, second) = (judge(&policy, &facts, now), judge(&policy, &facts, then));
            prop_assert!(second.is_allowed() || !first.is_allowed());
            if let Some(opens) = first.opens_at() {
                prop_assert!(opens > now && judge(&policy, &facts, opens).is_allowed());
                let before = opens.checked_sub(jiff::SignedDuration::from_nanos(1)).unwrap();
                prop_assert!(!judge(&policy, &facts, before).is_allowed());
            }
        }

        #[test]
        fn adding_an_advisory_never_allows_more(shipped in 0..4_usize, trust in 0..3_usize, first_published in 0..2_000_u64, age in 0..2_000_u64, bits in 0..1024_u32) {
            let policy = compiled(&format!("include = \"{}\"", presets::names()[shipped]));
            let name = axios();
            let feed = malware("axios", FeedTrust::ALL[trust]);
            let feeds = Advisories::of_feeds(vec![Arc::new(feed)]);
            let advisories = feeds.of("axios").applicable_to(std::iter::empty());
            let without = varied(&name, first_published, bits);
            let with = Facts { advisories: &advisories, ..without };
            let now = at(2_000 + age);
            prop_assert!(judge(&policy, &without, now).is_allowed() || !judge(&policy, &with, now).is_allowed());
        }

        #[test]
        fn break_glass_never_opens_what_an_advisory_refuses(shipped in 0..4_usize, trust in 0..3_usize, malicious in any::<bool>(), critical in any::<bool>(), first_published in 0..2_000_u64, age in 0..2_000_u64, bits in 0..1024_u32) {
            let policy = compiled(&format!("include = \"{}\"", presets::names()[shipped]));
            let kind = if malicious { AdvisoryKind::Malware } else { AdvisoryKind::Vulnerability };
            let severity = if critical { Severity::Critical } else { Severity::High };
            let feeds = Advisories::of_feeds(vec![Arc::new(advisory("axios", kind, Some(severity), FeedTrust::ALL[trust]))]);
            let advisories = feeds.of("axios").applicable_to(std::iter::empty());
            let (name, now, whole, glass) = (axios(), at(2_000 + age), ActiveDecisions::default(), break_glass());
            let without = varied(&name, first_published, bits);
            let with = Facts { advisories: &advisories, ..without };
            let judged = |policy: &Policy, decisions: &ActiveDecisions, facts: &Facts<'_>| explain(policy, decisions, facts, now).0.is_allowed();
            let by_advisories = Policy::new(policy.rules().iter().filter(|rule| rule.conditions.advisory.is_some()).cloned().collect());
            prop_assert!(judged(&by_advisories, &whole, &with) || !judged(&policy, &glass, &with));
            prop_assert!(judged(&policy, &glass, &without) || !judged(&policy, &glass, &with), "another advisory opened the version");
            prop_assert!(judged(&policy, &glass, &with) || !judged(&policy, &whole, &with), "break-glass closed the version");
        }

        #[test]
        fn prefiltered_rules_give_the_same_verdict(shipped in 0..4_usize, first_published in 0..2_000_u64, age in 0..2_000_u64, bits in 0..1024_u32) {
            let policy = compiled(&format!("include = \"{}\"", presets::names()[shipped]));
            let name = axios();
            let facts = varied(&name, first_published, bits);
            let now = at(2_000 + age);
            let narrowed = policy.for_package(&name).prefiltered(std::iter::once(facts));
            prop_assert_eq!(evaluate_without_decisions(&narrowed, &facts, now), judge(&policy, &facts, now));
        }
    }

    /// Returns a release at hour 2,000 with facts chosen by the bits.
    fn varied(name: &PackageName, first_published: u64, bits: u32) -> Facts<'_> {
        let bit = |at: u32| bits & (1 << at) != 0;
        let signals = (0_u32..).zip(crate::vetting::Signal::ALL.iter().copied());
        Facts {
            first_published: Some(at(first_published)),
            parent: bit(0).then(|| at(0)),
            traits: ManifestTraits {
                deprecated: bit(1),
                install_script: bit(2),
                git_dependency: bit(3),
                url_dependency: bit(4),
                file_dependency: bit(5),
            },
            signals: signals.filter(|(at, _)| bit(6 + *at % 4) && at % 3 == 0).map(|(_, signal)| signal).collect(),
            ..Facts::of(name, "1.14.1", at(2_000))
        }
    }
}
