//! What the decisions in force at an instant say of a version: they stand above the rules. Pure; refuses to know the rules,
//! and to read anything whose meaning is in doubt as an approval.

use std::collections::HashMap;

use globset::GlobMatcher;
use jiff::Timestamp;

use crate::npm::{DigestComparison, Integrity, PackageName, Range, Version};
use crate::policy::advisories::Ruling;
use crate::policy::decisions::{ApprovedVersion, Decision, DecisionAction, DecisionState};
use crate::policy::facts::Facts;
use crate::policy::invariants;
use crate::policy::rules::rule::PackageGlob;
use crate::policy::rules::{PackageRules, Warning};
use crate::policy::verdict::{Reason, RuleId, Verdict};
use crate::units::timestamp;

/// The decisions in force, ready to be asked.
#[derive(Debug, Clone)]
pub struct ActiveDecisions {
    pub(crate) approvals: HashMap<Box<str>, Vec<Approval>>,
    pub(crate) denials: Vec<Denial>,
    pub(crate) freezes: Vec<Freeze>,
    pub(crate) observing: Option<DecisionRef>,
    /// What was decided about records that mark every version, oldest first.
    rulings: Vec<(Box<str>, Ruling)>,
    /// Approvals without effect until another person has confirmed them, and their packages.
    pub(crate) awaiting: Vec<(DecisionRef, Box<str>)>,
    /// The next instant at which other decisions are in force; `None` when there is none.
    until: Option<Timestamp>,
}

/// Judges one version as of `at`, the instant up to which upstream's word is known, never later than now: what nothing waives,
/// then decisions, then rules.
#[must_use]
pub fn judge(rules: &PackageRules<'_>, standing: &ActiveDecisions, facts: &Facts<'_>, at: Timestamp) -> Verdict {
    let approval = standing.approval(rules, facts);
    if let Some(refusal) = invariants::verdict(facts) {
        let named = refusal.reason().is_some_and(|reason| reason.rule == RuleId::IntegrityChanged) && approval.is_some();
        if !named {
            return refusal;
        }
    }
    if let Some(ground) = standing.denial(facts) {
        return Verdict::deny(RuleId::Denied, format!("denied {}", ground.tell()));
    }
    let verdict = match approval {
        Some(_) => Verdict::Allow,
        None => standing.ruled(rules, facts, at),
    };
    // An approval that was given in full knowledge of the freeze passes it.
    let freeze = standing.freeze(facts, at).filter(|freeze| approval.is_none_or(|approval| approval.made < freeze.ground.made));
    freeze.map_or_else(|| verdict.clone(), |freeze| freeze.hold(&verdict))
}

/// What a version that is allowed would be held back by, were it not for a decision, and which; `None` where it is refused.
#[must_use]
pub fn waiver(rules: &PackageRules<'_>, standing: &ActiveDecisions, facts: &Facts<'_>, at: Timestamp) -> Option<Warning> {
    let approval = standing.approval(rules, facts);
    let (rule, ground) = match (approval, &standing.observing) {
        (Some(ground), _) => (RuleId::Approved, ground),
        (None, Some(ground)) => (RuleId::Observed, ground),
        (None, None) => return None,
    };
    if !judge(rules, standing, facts, at).allows() {
        return None;
    }
    let refusal = invariants::verdict(facts).unwrap_or_else(|| rules.verdict(facts, at));
    let Reason { rule: waived, detail } = refusal.reason()?;
    let detail = format!("let through {}; else: {detail} (rule {waived})", ground.tell());
    Some(Warning { reason: Reason { rule, detail }, would_refuse: true })
}

/// The decision that something rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecisionRef {
    /// Its number.
    pub id: i64,
    /// Who stands for it.
    pub signed: String,
    /// Why, in its author's words.
    pub reason: String,
    /// When it was taken.
    pub made: Timestamp,
    /// When it ends by itself.
    pub expires: Option<Timestamp>,
}

#[derive(Debug, Clone)]
pub(crate) struct Approval {
    pub ground: DecisionRef,
    pub version: Box<str>,
    pub integrity: Integrity,
    pub records: Vec<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct Denial {
    pub ground: DecisionRef,
    /// `None` for one that cannot be read: in doubt it is denied.
    packages: Option<GlobMatcher>,
    /// `None` for every version.
    pub within: Option<DeniedVersions>,
}

/// What a denial is about: versions in a range, and the one that is spelled like it.
#[derive(Debug, Clone)]
pub(crate) struct DeniedVersions {
    pub text: Box<str>,
    range: Option<Range>,
}

#[derive(Debug, Clone)]
pub(crate) struct Freeze {
    pub ground: DecisionRef,
    pub at: Timestamp,
    packages: Vec<GlobMatcher>,
}

impl Default for ActiveDecisions {
    fn default() -> Self {
        Self::of(&[], Timestamp::MIN)
    }
}

impl ActiveDecisions {
    /// Those of `decisions` that are in force at `now`.
    #[must_use]
    pub fn of(decisions: &[Decision], now: Timestamp) -> Self {
        let mut standing = Self {
            approvals: HashMap::new(),
            denials: Vec::new(),
            freezes: Vec::new(),
            observing: None,
            rulings: Vec::new(),
            awaiting: Vec::new(),
            until: None,
        };
        for decision in decisions {
            match decision.state(now) {
                DecisionState::Active => standing.add(decision, now),
                // What it covered opens only when upstream has been asked again.
                DecisionState::Expired => standing.add_freeze(decision),
                DecisionState::AwaitsSecond => standing.await_second(decision),
                DecisionState::Revoked => {}
            }
        }
        standing
    }

    /// The next instant at which other decisions are in force.
    #[must_use]
    pub fn until(&self) -> Option<Timestamp> {
        self.until
    }

    /// What was decided about records that mark every version, oldest first.
    #[must_use]
    pub fn rulings(&self) -> &[(Box<str>, Ruling)] {
        &self.rulings
    }

    /// The denial that covers the version.
    fn denial(&self, facts: &Facts<'_>) -> Option<&DecisionRef> {
        self.denials.iter().find(|denial| denial.covers(facts)).map(|denial| &denial.ground)
    }

    /// The freeze that covers the version as of `at`, the one that thaws last. A freeze that has thawed since then still
    /// covers it: nothing opens on what upstream said before.
    pub(crate) fn freeze(&self, facts: &Facts<'_>, at: Timestamp) -> Option<&Freeze> {
        let covers = |freeze: &&Freeze| freeze.names(facts) && facts.effective > freeze.at && at < freeze.thaws();
        self.freezes.iter().filter(covers).max_by_key(|freeze| freeze.thaws())
    }

    /// Whether decisions may let through what rules would not.
    #[must_use]
    pub fn waives_anything(&self, name: &PackageName) -> bool {
        self.observing.is_some() || self.approvals.contains_key(name.as_str())
    }

    /// What the rules say of a version: while the glass is broken, those that do not rest on youth or signals.
    pub(crate) fn ruled(&self, rules: &PackageRules<'_>, facts: &Facts<'_>, at: Timestamp) -> Verdict {
        let verdict = rules.verdict(facts, at);
        if verdict.allows() || !self.breaks_glass(rules, facts) {
            return verdict;
        }
        // What still refuses is the reason; what is waived refuses again when the hour is over, so it opens no earlier.
        match rules.behind_glass().verdict(facts, at).reason() {
            Some(reason) => verdict.because(reason.clone()),
            None => Verdict::Allow,
        }
    }

    /// Whether youth and signals hold this version back no longer: an hour of observation runs, and nothing calls it malware.
    pub(crate) fn breaks_glass(&self, rules: &PackageRules<'_>, facts: &Facts<'_>) -> bool {
        self.observing.is_some() && rules.records(facts).is_empty()
    }

    /// The approval of exactly these bytes that names all which an approval of them has to name.
    pub(crate) fn approval(&self, rules: &PackageRules<'_>, facts: &Facts<'_>) -> Option<&DecisionRef> {
        let (approvals, integrity) = (self.approvals.get(facts.name.as_str())?, facts.integrity?);
        let records = rules.overridden(facts);
        let fits = |approval: &&Approval| {
            *approval.version == *facts.version
                && approval.integrity.agreement(integrity) == DigestComparison::Same
                && records.iter().all(|record| approval.records.iter().any(|named| named == record))
        };
        // A newer one may name more; whoever approved it last knew most.
        approvals.iter().rev().find(fits).map(|approval| &approval.ground)
    }

    /// The hour of observation that is running.
    #[must_use]
    pub fn observing(&self) -> Option<&DecisionRef> {
        self.observing.as_ref()
    }

    fn add(&mut self, decision: &Decision, now: Timestamp) {
        let ground = DecisionRef::of(decision);
        match &decision.proposal.act {
            DecisionAction::Freeze { .. } => return self.add_freeze(decision),
            DecisionAction::Approve { package, versions, records, .. } => {
                for approved in versions {
                    self.approve(package, approved, records, &ground, now);
                }
            }
            DecisionAction::Adopt { versions, .. } => {
                for adopted in versions {
                    self.approve(&adopted.package, &adopted.approved, &[], &ground, now);
                }
            }
            DecisionAction::Deny { packages, range } => {
                let within = range.as_deref().map(|text| DeniedVersions { text: text.into(), range: Range::parse(text) });
                self.denials.push(Denial { ground, packages: compiled(packages), within });
            }
            DecisionAction::Observe => self.observing = Some(ground),
            DecisionAction::Record { advisory, obey } => {
                let ruling = if *obey { Ruling::Obeyed } else { Ruling::SetAside };
                self.rulings.push((advisory.as_str().into(), ruling));
            }
        }
        self.ends(decision.proposal.expires);
    }

    fn add_freeze(&mut self, decision: &Decision) {
        let DecisionAction::Freeze { at, packages } = &decision.proposal.act else { return };
        // Where none can be read, everything is frozen: in doubt it holds.
        let packages = packages.iter().filter_map(|glob| compiled(glob)).collect();
        self.freezes.push(Freeze { ground: DecisionRef::of(decision), at: *at, packages });
    }

    /// Every digest that bytes of this version must match: those in `known`, and those of approvals that are about the same bytes.
    #[must_use]
    pub fn with_approved_digests(&self, name: &PackageName, version: &str, known: &Integrity) -> Integrity {
        let mut digests = known.clone();
        if self.approvals.is_empty() {
            return digests;
        }
        for approval in self.approvals.get(name.as_str()).into_iter().flatten() {
            if *approval.version == *version && approval.integrity.agreement(&digests) == DigestComparison::Same {
                digests = digests.union(&approval.integrity).unwrap_or(digests);
            }
        }
        digests
    }

    fn approve(&mut self, package: &str, approved: &ApprovedVersion, records: &[String], ground: &DecisionRef, now: Timestamp) {
        if approved.until.is_some_and(|until| until <= now) {
            return;
        }
        self.ends(approved.until);
        // What cannot be read approves nothing.
        let Some(integrity) = Integrity::parse(Some(&approved.integrity), None) else { return };
        let (version, records) = (approved.version.as_str().into(), records.to_vec());
        let approval = Approval { ground: ground.clone(), version, integrity, records };
        self.approvals.entry(package.into()).or_default().push(approval);
    }

    fn await_second(&mut self, decision: &Decision) {
        if let DecisionAction::Approve { package, .. } = &decision.proposal.act {
            self.awaiting.push((DecisionRef::of(decision), package.as_str().into()));
        }
    }

    fn ends(&mut self, at: Option<Timestamp>) {
        self.until = match (self.until, at) {
            (Some(known), Some(at)) => Some(known.min(at)),
            (known, at) => known.or(at),
        };
    }
}

impl DecisionRef {
    fn of(decision: &Decision) -> Self {
        let proposal = &decision.proposal;
        // A second name makes it what it is: from then on it counts.
        let made = decision.second.as_ref().map_or(proposal.author.at, |second| second.at);
        Self { id: decision.id, signed: decision.signed(), reason: proposal.reason.clone(), made, expires: proposal.expires }
    }

    /// For people, as the end of "frozen …" or "denied …": `by ada, decision 7: why`.
    #[must_use]
    pub fn tell(&self) -> String {
        format!("by {}, decision {}: {}", self.signed, self.id, self.reason)
    }
}

impl Denial {
    /// Whether it is about the package.
    pub(crate) fn names(&self, facts: &Facts<'_>) -> bool {
        self.packages.as_ref().is_none_or(|glob| glob.is_match(facts.name.as_str()))
    }

    pub(crate) fn covers(&self, facts: &Facts<'_>) -> bool {
        if !self.names(facts) {
            return false;
        }
        let Some(within) = &self.within else { return true };
        if *within.text == *facts.version {
            return true;
        }
        match (&within.range, facts.parsed) {
            (Some(range), Some(version)) => range.covers(version),
            // Versions that npm reads loosely are no ranges, and name one version alone. In doubt, all are denied.
            (None, _) => Version::parse(&within.text).is_none(),
            (Some(_), None) => false,
        }
    }
}

fn compiled(glob: &str) -> Option<GlobMatcher> {
    PackageGlob::parse(glob).ok().map(|glob| glob.matcher())
}

impl Freeze {
    /// Whether it is about the package.
    pub(crate) fn names(&self, facts: &Facts<'_>) -> bool {
        self.packages.is_empty() || self.packages.iter().any(|glob| glob.is_match(facts.name.as_str()))
    }

    pub(crate) fn thaws(&self) -> Timestamp {
        self.ground.expires.unwrap_or(Timestamp::MAX)
    }

    /// Held until it thaws, and as long as `verdict` holds it anyway.
    fn hold(&self, verdict: &Verdict) -> Verdict {
        let until = match verdict {
            Verdict::Deny { .. } => return verdict.clone(),
            Verdict::Hold { until, .. } => self.thaws().max(*until),
            Verdict::Allow => self.thaws(),
        };
        let detail = format!("nothing published after {} is shown: frozen {}", timestamp::tell(self.at), self.ground.tell());
        Verdict::Hold { until, reason: Reason { rule: RuleId::Freeze, detail } }
    }
}
