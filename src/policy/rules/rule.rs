//! One rule, compiled: what it does, and what it asks of a version. Refuses to know in which order rules stand.

use std::sync::Arc;
use std::time::Duration;

use globset::{Glob, GlobBuilder, GlobMatcher, GlobSet};
use jiff::{SignedDuration, Timestamp};

use crate::diagnostics::SourceSpan;
use crate::npm::Range;
use crate::policy::advisories::{Advisory, AdvisoryKind, FeedTrust, Severity};
use crate::policy::facts::{Facts, UnknownFacts};
use crate::units::timestamp;
use crate::vetting::{Findings, Signals};

/// The id of the rule that is the minimum release age: the setting `min-release-age` replaces its age.
pub const MINIMUM_AGE: &str = "minimum-age";

/// A glob over package names: `lodash`, `@acme/*`, `eslint-*`. A `*` does not cross the slash of a scope.
#[derive(Debug, Clone)]
pub struct PackageGlob(pub(crate) Glob);

impl PackageGlob {
    /// Parses a glob.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("a package glob cannot be empty".to_owned());
        }
        GlobBuilder::new(text).literal_separator(true).build().map(Self).map_err(|wrong| wrong.kind().to_string())
    }

    /// The glob, compiled.
    #[must_use]
    pub fn matcher(&self) -> GlobMatcher {
        self.0.compile_matcher()
    }

    /// The glob as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.glob()
    }
}

/// What a rule does with a version that it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleAction {
    /// Serves it.
    Allow,
    /// Refuses it.
    Deny,
    /// Refuses it until an age; then reading goes on.
    Hold {
        /// The age.
        age: Duration,
        /// Of what.
        of: AgeSubject,
    },
    /// Notes it; reading goes on.
    Warn,
}

impl RuleAction {
    /// Whether it keeps back what a rule matches.
    pub(crate) fn refuses(self) -> bool {
        matches!(self, Self::Deny | Self::Hold { .. })
    }
}

/// Whose age counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgeSubject {
    /// The release's own.
    Release,
    /// That of the package's oldest release.
    Package,
}

/// A rule as it stands in force.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Its id: what refusals, the ledger and people call it.
    pub id: Arc<str>,
    /// Why, in the words of whoever wrote it.
    pub reason: Box<str>,
    /// Whom to ask about it.
    pub owner: Option<Box<str>>,
    /// When it ends by itself.
    pub expires: Option<Timestamp>,
    /// What it does.
    pub action: RuleAction,
    /// Whether it is decided and recorded, and refuses nothing.
    pub observe: bool,
    /// What it asks.
    pub(crate) asks: RuleConditions,
    /// Where it is written; `None` for one that a setting made.
    pub(crate) place: Option<SourceSpan>,
}

/// What a rule asks of a version: all of it must hold. What is not asked is `None`.
#[derive(Debug, Clone, Default)]
pub(crate) struct RuleConditions {
    pub packages: Option<GlobList>,
    pub except: Option<GlobList>,
    pub versions: Option<Range>,
    pub younger_than: Option<Duration>,
    pub older_than: Option<Duration>,
    pub package_younger_than: Option<Duration>,
    pub package_older_than: Option<Duration>,
    pub publishers: Option<GlobList>,
    pub maintainers: Option<GlobList>,
    pub install_script: Option<bool>,
    pub deprecated: Option<bool>,
    /// Kinds of dependencies, as bits of [`crate::npm::packument::index::ManifestTraits`]; any of them.
    pub dependencies: Option<Vec<DependencyKind>>,
    pub tags: Option<Vec<Box<str>>>,
    pub advisory: Option<AdvisoryCondition>,
    pub signals: Option<(Signals, u32)>,
    pub findings: Option<Findings>,
    pub spares_siblings: bool,
    /// Whether a reviewed advisory must name the release as the fix of a hole, and nothing speak against it.
    pub fixes: bool,
}

/// Where a dependency comes from, if not from a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DependencyKind {
    Git,
    Url,
    File,
}

impl DependencyKind {
    pub(crate) const ALL: [Self; 3] = [Self::Git, Self::Url, Self::File];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Git => "git",
            Self::Url => "url",
            Self::File => "file",
        }
    }
}

/// Globs, and their words as written.
#[derive(Debug, Clone)]
pub(crate) struct GlobList {
    pub set: GlobSet,
    pub words: Vec<Box<str>>,
}

/// What a rule asks of an advisory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AdvisoryCondition {
    pub kind: Option<AdvisoryKind>,
    /// At least so severe.
    pub severity: Option<Severity>,
    pub feeds: Option<Vec<Box<str>>>,
    pub trust: Option<FeedTrust>,
}

impl AdvisoryCondition {
    pub(crate) fn fits(&self, advisory: &Advisory<'_>) -> bool {
        self.kind.is_none_or(|kind| advisory.kind == kind)
            && self.severity.is_none_or(|least| advisory.severity.is_some_and(|severity| severity >= least))
            && self.trust.is_none_or(|trust| advisory.trust == trust)
            && self.feeds.as_ref().is_none_or(|feeds| feeds.iter().any(|feed| **feed == *advisory.feed))
    }
}

/// What a version does not answer as a rule asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnmetCondition {
    Package,
    Excepted,
    Version,
    Age,
    PackageAge,
    Publisher,
    Maintainers,
    InstallScript,
    Deprecated,
    Dependencies,
    Tags,
    Advisory,
    Signals,
    Findings,
    Sibling,
    Fix,
    /// A fact that is not known decides; the rule lets nothing through on it.
    Unknown,
}

/// What a rule makes of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It answers all that the rule asks.
    Matches,
    /// It does not.
    Differs(UnmetCondition),
    /// It answers all but for facts that are not known.
    Undecided,
}

/// How old a version and its package are at an instant: subtracted once, compared often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FactAges {
    pub release: SignedDuration,
    pub package: Option<SignedDuration>,
    pub kin: Option<SignedDuration>,
}

impl FactAges {
    pub(crate) fn of(facts: &Facts<'_>, at: Timestamp) -> Self {
        let since = |instant: Timestamp| at.duration_since(instant);
        Self { release: since(facts.effective), package: facts.born.map(since), kin: facts.kin.map(since) }
    }
}

impl Rule {
    /// The longest age it names.
    pub(crate) fn longest_age(&self) -> Option<Duration> {
        let held = match self.action {
            RuleAction::Hold { age, .. } => Some(age),
            RuleAction::Allow | RuleAction::Deny | RuleAction::Warn => None,
        };
        let RuleConditions { younger_than, older_than, package_younger_than, package_older_than, .. } = self.asks;
        [held, younger_than, older_than, package_younger_than, package_older_than].into_iter().flatten().max()
    }

    /// What the version does not answer as this rule asks, apart from its name; `None` when it matches.
    ///
    /// On a fact that is not known a rule refuses, and neither allows nor warns.
    pub(crate) fn differs(&self, facts: &Facts<'_>, ages: FactAges) -> Option<UnmetCondition> {
        match self.answer(facts, ages) {
            Answer::Matches => None,
            Answer::Differs(differs) => Some(differs),
            Answer::Undecided => (!self.action.refuses()).then_some(UnmetCondition::Unknown),
        }
    }

    /// What it makes of a version, apart from its name.
    pub(crate) fn answer(&self, facts: &Facts<'_>, ages: FactAges) -> Answer {
        match self.known_difference(facts, ages) {
            Some(differs) => Answer::Differs(differs),
            None if self.hangs_on(facts.unknown) => Answer::Undecided,
            None => Answer::Matches,
        }
    }

    /// Whether it asks for one of these facts.
    pub(crate) fn hangs_on(&self, unknown: UnknownFacts) -> bool {
        let asks = &self.asks;
        (asks.publishers.is_some() && unknown.publisher)
            || (asks.maintainers.is_some() && unknown.maintainers)
            || (asks.install_script.is_some() && unknown.install_script)
            || (asks.fixes && unknown.fix)
    }

    /// What the version is known not to answer as this rule asks.
    fn known_difference(&self, facts: &Facts<'_>, ages: FactAges) -> Option<UnmetCondition> {
        let asks = &self.asks;
        let (traits, unknown) = (facts.traits, facts.unknown);
        if !unknown.install_script && asks.install_script.is_some_and(|wanted| traits.install_script != wanted) {
            return Some(UnmetCondition::InstallScript);
        }
        if asks.deprecated.is_some_and(|wanted| traits.deprecated != wanted) {
            return Some(UnmetCondition::Deprecated);
        }
        let has = |kind: &DependencyKind| match kind {
            DependencyKind::Git => traits.git_dependency,
            DependencyKind::Url => traits.url_dependency,
            DependencyKind::File => traits.file_dependency,
        };
        if asks.dependencies.as_ref().is_some_and(|kinds| !kinds.iter().any(has)) {
            return Some(UnmetCondition::Dependencies);
        }
        if asks.signals.is_some_and(|(wanted, least)| facts.signals.and(wanted).count() < least) {
            return Some(UnmetCondition::Signals);
        }
        if asks.findings.is_some_and(|wanted| facts.findings.and(wanted).is_empty()) {
            return Some(UnmetCondition::Findings);
        }
        let fits = |ask: &AdvisoryCondition| facts.advised().any(|advisory| ask.fits(&advisory));
        if asks.advisory.as_ref().is_some_and(|ask| !fits(ask)) {
            return Some(UnmetCondition::Advisory);
        }
        if !lies_within(ages.release, asks.older_than, asks.younger_than) {
            return Some(UnmetCondition::Age);
        }
        if (asks.package_older_than.is_some() || asks.package_younger_than.is_some())
            && !ages.package.is_some_and(|age| lies_within(age, asks.package_older_than, asks.package_younger_than))
        {
            return Some(UnmetCondition::PackageAge);
        }
        if let RuleAction::Hold { of: AgeSubject::Package, .. } = self.action
            && ages.package.is_none()
        {
            return Some(UnmetCondition::PackageAge);
        }
        if asks.versions.as_ref().is_some_and(|range| !self.takes(range, facts)) {
            return Some(UnmetCondition::Version);
        }
        let published = |globs: &GlobList| facts.publisher.is_some_and(|name| globs.set.is_match(name));
        if !unknown.publisher && asks.publishers.as_ref().is_some_and(|globs| !published(globs)) {
            return Some(UnmetCondition::Publisher);
        }
        let maintained = |globs: &GlobList| facts.maintainers.iter().any(|name| globs.set.is_match(&**name));
        if !unknown.maintainers && asks.maintainers.as_ref().is_some_and(|globs| !maintained(globs)) {
            return Some(UnmetCondition::Maintainers);
        }
        let pointed = |tags: &Vec<Box<str>>| facts.pointing().any(|tag| tags.iter().any(|wanted| **wanted == *tag));
        if asks.tags.as_ref().is_some_and(|tags| !pointed(tags)) {
            return Some(UnmetCondition::Tags);
        }
        let is_fix = facts.fix.is_some() || unknown.fix;
        if asks.fixes && !(is_fix && facts.signals.is_empty() && facts.undecided.is_empty()) {
            return Some(UnmetCondition::Fix);
        }
        self.spares(ages).then_some(UnmetCondition::Sibling)
    }

    /// Whether it is about a package at all.
    pub(crate) fn is_about(&self, name: &str) -> Result<(), UnmetCondition> {
        if self.asks.packages.as_ref().is_some_and(|globs| !globs.set.is_match(name)) {
            return Err(UnmetCondition::Package);
        }
        if self.asks.except.as_ref().is_some_and(|globs| globs.set.is_match(name)) {
            return Err(UnmetCondition::Excepted);
        }
        Ok(())
    }

    /// Whether the age it holds for has not passed; an action that is no hold is not waited for.
    pub(crate) fn holds(&self, ages: FactAges) -> bool {
        let RuleAction::Hold { age, of } = self.action else { return false };
        let passed = match of {
            AgeSubject::Release => Some(ages.release),
            AgeSubject::Package => ages.package,
        };
        passed.is_some_and(|passed| passed < signed(age))
    }

    /// Whether it asks for nothing but ages and names: an exclusion waives it.
    pub(crate) fn is_of_age(&self) -> bool {
        let asks = &self.asks;
        matches!(self.action, RuleAction::Hold { .. })
            && asks.versions.is_none()
            && asks.publishers.is_none()
            && asks.maintainers.is_none()
            && asks.install_script.is_none()
            && asks.deprecated.is_none()
            && asks.dependencies.is_none()
            && asks.tags.is_none()
            && asks.advisory.is_none()
            && asks.signals.is_none()
            && asks.findings.is_none()
    }

    /// Whether it would refuse nothing if versions and packages were old and showed no signals: who breaks the glass waives it. One that
    /// asks for an advisory, or for what a tarball showed, rests on that, however it waits.
    pub(crate) fn rests_on_youth(&self) -> bool {
        let asks = &self.asks;
        let young = asks.younger_than.is_some() || asks.package_younger_than.is_some();
        let rests = match self.action {
            RuleAction::Hold { .. } => true,
            RuleAction::Deny => young || asks.signals.is_some(),
            RuleAction::Allow | RuleAction::Warn => false,
        };
        rests && asks.advisory.is_none() && asks.findings.is_none()
    }

    /// The instants at which what it says of a version may change, as time goes by.
    pub(crate) fn turns<'a>(&'a self, facts: &'a Facts<'_>) -> impl Iterator<Item = Timestamp> + 'a {
        let asks = &self.asks;
        let (hold, of) = match self.action {
            RuleAction::Hold { age, of } => (Some(age), of),
            _ => (None, AgeSubject::Release),
        };
        let held_since = if of == AgeSubject::Release { Some(facts.effective) } else { facts.born };
        let established = hold.filter(|_| asks.spares_siblings);
        [
            (held_since, hold),
            (Some(facts.effective), asks.younger_than),
            (Some(facts.effective), asks.older_than),
            (facts.born, asks.package_younger_than),
            (facts.born, asks.package_older_than),
            (facts.kin, established),
        ]
        .into_iter()
        .filter_map(|(since, age)| Some(timestamp::after(since?, age?)))
    }

    /// Refusing and warning rules cover the prereleases of their range, allowing ones are as narrow as npm's.
    fn takes(&self, range: &Range, facts: &Facts<'_>) -> bool {
        let Some(version) = facts.parsed else { return false };
        if self.action == RuleAction::Allow { range.matches(version) } else { range.covers(version) }
    }

    /// Whether the version is part of a package that is old enough itself.
    fn spares(&self, ages: FactAges) -> bool {
        let RuleAction::Hold { age, .. } = self.action else { return false };
        self.asks.spares_siblings && ages.kin.is_some_and(|kin| kin >= signed(age))
    }
}

impl RuleAction {
    /// As it is told: `deny`, `hold 14 d`.
    #[must_use]
    pub fn tell(self) -> String {
        match self {
            Self::Allow => "allow".to_owned(),
            Self::Deny => "deny".to_owned(),
            Self::Warn => "warn".to_owned(),
            Self::Hold { age, of: AgeSubject::Release } => format!("hold {}", timestamp::tell_age(age)),
            Self::Hold { age, of: AgeSubject::Package } => format!("hold {} of the package", timestamp::tell_age(age)),
        }
    }
}

fn lies_within(age: SignedDuration, older_than: Option<Duration>, younger_than: Option<Duration>) -> bool {
    older_than.is_none_or(|least| age >= signed(least)) && younger_than.is_none_or(|most| age < signed(most))
}

pub(crate) fn signed(age: Duration) -> SignedDuration {
    SignedDuration::try_from(age).unwrap_or(SignedDuration::MAX)
}
