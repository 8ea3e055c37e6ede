//! Evaluates a version against the decisions that are active at an instant; decisions override rules. Pure. Unreadable parts of a
//! decision are read in the stricter sense and never approve anything.

use std::collections::HashMap;

use globset::GlobMatcher;
use jiff::Timestamp;

use crate::npm::{DigestComparison, Integrity, PackageName, Range, Version};
use crate::policy::advisories::Ruling;
use crate::policy::decisions::{ApprovedVersion, Decision, DecisionAction, DecisionState};
use crate::policy::facts::Facts;
use crate::policy::rules::PackageRules;
use crate::policy::rules::rule::PackageGlob;
use crate::policy::verdict::{RuleId, Verdict};
use crate::units::timestamp;
use crate::vetting::{Signal, Signals};

#[derive(Debug, Clone, Default)]
pub struct ActiveDecisions {
    pub(crate) approvals: HashMap<Box<str>, Vec<Approval>>,
    pub(crate) denials: Vec<Denial>,
    pub(crate) freezes: Vec<Freeze>,
    pub(crate) break_glass: Option<DecisionRef>,
    /// Rulings on advisories that cover every version, oldest first.
    pub(crate) rulings: Vec<(Box<str>, Ruling)>,
    /// Approvals that await a second person, with their packages.
    pub(crate) awaiting: Vec<(DecisionRef, Box<str>)>,
    /// When the set of active decisions next changes.
    pub(crate) next_change: Option<Timestamp>,
}

/// A reference to a decision, for reasons and traces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecisionRef {
    pub id: i64,
    /// The author, and the second person if there is one.
    pub signed: String,
    pub reason: String,
    /// When the decision took effect.
    pub made: Timestamp,
    pub expires: Option<Timestamp>,
}

#[derive(Debug, Clone)]
pub(crate) struct Approval {
    pub decision_ref: DecisionRef,
    pub version: Box<str>,
    pub integrity: Integrity,
    pub records: Vec<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct Denial {
    pub decision_ref: DecisionRef,
    /// `None` for an unreadable glob, which then denies every package.
    packages: Option<GlobMatcher>,
    /// `None` denies every version.
    pub within: Option<DeniedVersions>,
}

/// The versions that a denial covers: those in a range, and the version with exactly this text.
#[derive(Debug, Clone)]
pub(crate) struct DeniedVersions {
    pub text: Box<str>,
    range: Option<Range>,
}

#[derive(Debug, Clone)]
pub(crate) struct Freeze {
    pub decision_ref: DecisionRef,
    pub at: Timestamp,
    packages: Vec<GlobMatcher>,
}

impl ActiveDecisions {
    pub fn of(decisions: &[Decision], now: Timestamp) -> Self {
        let mut active = Self::default();
        for decision in decisions {
            match decision.state(now) {
                DecisionState::Active => active.add(decision, now),
                // Versions that the freeze covered open only after upstream has been asked again.
                DecisionState::Expired => active.add_freeze(decision),
                DecisionState::AwaitsSecond => {
                    if let DecisionAction::Approve { package, .. } = &decision.proposal.act {
                        active.awaiting.push((DecisionRef::of(decision), package.as_str().into()));
                    }
                }
                DecisionState::Revoked => {}
            }
        }
        active
    }

    pub(crate) fn denial(&self, facts: &Facts<'_>) -> Option<&DecisionRef> {
        self.denials.iter().find(|denial| denial.covers(facts)).map(|denial| &denial.decision_ref)
    }

    /// Returns the freeze that covers the version as of `at` and ends last. A freeze that has ended since `at` still covers it:
    /// no version opens on an older upstream state.
    pub(crate) fn freeze(&self, facts: &Facts<'_>, at: Timestamp) -> Option<&Freeze> {
        let covers = |freeze: &&Freeze| freeze.names(facts) && facts.effective > freeze.at && at < freeze.ends_at();
        self.freezes.iter().filter(covers).max_by_key(|freeze| freeze.ends_at())
    }

    /// Checks whether decisions may allow versions of the package that rules refuse.
    pub(crate) fn may_waive(&self, name: &PackageName) -> bool {
        self.break_glass.is_some() || self.approvals.contains_key(name.as_str())
    }

    /// Returns the approval of exactly these bytes that names all required overrides, see [`PackageRules::required_overrides`].
    pub(crate) fn approval(&self, rules: &PackageRules<'_>, facts: &Facts<'_>) -> Option<&DecisionRef> {
        let (approvals, integrity) = (self.approvals.get(facts.name.as_str())?, facts.integrity?);
        let records = rules.required_overrides(facts);
        let fits = |approval: &&Approval| {
            *approval.version == *facts.version
                && approval.integrity.compare(integrity) == DigestComparison::Same
                && records.iter().all(|record| approval.records.iter().any(|named| named == record))
        };
        // Newest first: a newer approval may name more overrides.
        approvals.iter().rev().find(fits).map(|approval| &approval.decision_ref)
    }

    /// Returns the signals that approvals of exactly these bytes name.
    pub(crate) fn accepted_signals(&self, facts: &Facts<'_>) -> Signals {
        let approvals = self.approvals.get(facts.name.as_str()).into_iter().flatten();
        let fits = |approval: &&Approval| {
            let is_same = |integrity: &Integrity| approval.integrity.compare(integrity) == DigestComparison::Same;
            *approval.version == *facts.version && facts.integrity.is_some_and(is_same)
        };
        approvals.filter(fits).flat_map(|approval| &approval.records).filter_map(|record| Signal::parse(record)).collect()
    }

    fn add(&mut self, decision: &Decision, now: Timestamp) {
        let decision_ref = DecisionRef::of(decision);
        match &decision.proposal.act {
            DecisionAction::Freeze { .. } => return self.add_freeze(decision),
            DecisionAction::Approve { package, versions, records, .. } => {
                for approved in versions {
                    self.approve(package, approved, records, &decision_ref, now);
                }
            }
            DecisionAction::Adopt { versions, .. } => {
                for adopted in versions {
                    self.approve(&adopted.package, &adopted.approved, &[], &decision_ref, now);
                }
            }
            DecisionAction::Deny { packages, range } => {
                let within = range.as_deref().map(|text| DeniedVersions { text: text.into(), range: Range::parse(text) });
                self.denials.push(Denial { decision_ref, packages: compiled(packages), within });
            }
            DecisionAction::BreakGlass => self.break_glass = Some(decision_ref),
            DecisionAction::Record { advisory, obey } => {
                let ruling = if *obey { Ruling::Obeyed } else { Ruling::SetAside };
                self.rulings.push((advisory.as_str().into(), ruling));
            }
        }
        self.ends(decision.proposal.expires);
    }

    fn add_freeze(&mut self, decision: &Decision) {
        let DecisionAction::Freeze { at, packages } = &decision.proposal.act else { return };
        // If no glob is readable, all packages are frozen.
        let packages = packages.iter().filter_map(|glob| compiled(glob)).collect();
        self.freezes.push(Freeze { decision_ref: DecisionRef::of(decision), at: *at, packages });
    }

    /// Returns all digests that the bytes of this version must match: those in `known` and those of approvals for the same bytes.
    pub(crate) fn with_approved_digests(&self, name: &PackageName, version: &str, known: &Integrity) -> Integrity {
        let mut digests = known.clone();
        if self.approvals.is_empty() {
            return digests;
        }
        for approval in self.approvals.get(name.as_str()).into_iter().flatten() {
            if *approval.version == *version && approval.integrity.compare(&digests) == DigestComparison::Same {
                digests = digests.union(&approval.integrity).unwrap_or(digests);
            }
        }
        digests
    }

    fn approve(
        &mut self,
        package: &str,
        approved: &ApprovedVersion,
        records: &[String],
        decision_ref: &DecisionRef,
        now: Timestamp,
    ) {
        if approved.until.is_some_and(|until| until <= now) {
            return;
        }
        self.ends(approved.until);
        // An unreadable integrity approves nothing.
        let Some(integrity) = Integrity::parse(Some(&approved.integrity), None) else { return };
        let (version, records) = (approved.version.as_str().into(), records.to_vec());
        let approval = Approval { decision_ref: decision_ref.clone(), version, integrity, records };
        self.approvals.entry(package.into()).or_default().push(approval);
    }

    fn ends(&mut self, at: Option<Timestamp>) {
        self.next_change = self.next_change.into_iter().chain(at).min();
    }
}

impl DecisionRef {
    fn of(decision: &Decision) -> Self {
        let proposal = &decision.proposal;
        // A decision takes effect when the second person confirms it.
        let made = decision.second.as_ref().map_or(proposal.author.at, |second| second.at);
        Self { id: decision.id, signed: decision.signatories(), reason: proposal.reason.clone(), made, expires: proposal.expires }
    }

    /// Formats the decision as the end of "frozen …" or "denied …": `by ada, decision 7: why`.
    pub(crate) fn describe(&self) -> String {
        format!("by {}, decision {}: {}", self.signed, self.id, self.reason)
    }
}

impl Denial {
    /// Checks whether the denial covers the package.
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
            // A loosely written version is not a range and means one version only. Any other unreadable range denies all
            // versions.
            (None, _) => Version::parse(&within.text).is_none(),
            (Some(_), None) => false,
        }
    }
}

fn compiled(glob: &str) -> Option<GlobMatcher> {
    PackageGlob::parse(glob).ok().map(|glob| glob.0.compile_matcher())
}

impl Freeze {
    /// Checks whether the freeze covers the package.
    pub(crate) fn names(&self, facts: &Facts<'_>) -> bool {
        self.packages.is_empty() || self.packages.iter().any(|glob| glob.is_match(facts.name.as_str()))
    }

    pub(crate) fn ends_at(&self) -> Timestamp {
        self.decision_ref.expires.unwrap_or(Timestamp::MAX)
    }

    /// Extends `verdict` until the freeze ends. A denial is kept.
    pub(crate) fn hold(&self, verdict: Verdict) -> Verdict {
        let until = match verdict {
            Verdict::Deny { .. } => return verdict,
            Verdict::Hold { until, .. } => self.ends_at().max(until),
            Verdict::Allow => self.ends_at(),
        };
        let detail = format!(
            "versions published after {} are hidden: frozen {}",
            timestamp::format_utc(self.at),
            self.decision_ref.describe()
        );
        Verdict::hold(until, RuleId::Freeze, detail)
    }
}
