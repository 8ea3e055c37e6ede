//! Compiled rules: the action of a rule and its conditions.

use std::sync::Arc;
use std::time::Duration;

use globset::{Glob, GlobBuilder, GlobSet};
use jiff::{SignedDuration, Timestamp};

use crate::diagnostics::SourceSpan;
use crate::npm::Range;
use crate::npm::packument::index::ManifestTraits;
use crate::policy::advisories::{Advisory, AdvisoryKind, FeedTrust, Severity};
use crate::policy::facts::{Facts, UnknownFacts};
use crate::text::words;
use crate::units::timestamp;
use crate::vetting::{Findings, Signals};

/// Id of the rule for the minimum release age. The setting `min-release-age` replaces its age.
pub const MINIMUM_AGE: &str = "minimum-age";

/// Older tarballs are not opened to look for files that feeds list: their versions are listed by then.
const FEED_FINDING_WINDOW: Duration = Duration::from_secs(14 * 24 * 3600);

/// A glob over package names: `lodash`, `@acme/*`, `eslint-*`. A `*` does not match the slash of a scope.
#[derive(Debug, Clone)]
pub struct PackageGlob(pub(crate) Glob);

impl PackageGlob {
    /// Parses a glob.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("a package glob cannot be empty".to_owned());
        }
        GlobBuilder::new(text).literal_separator(true).build().map(Self).map_err(|error| error.kind().to_string())
    }

    /// Returns the glob as written.
    pub(crate) fn as_str(&self) -> &str {
        self.0.glob()
    }
}

/// What a rule does with a version that it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleAction {
    Allow,
    Deny,
    /// Refuses the version until it reaches an age. After that, evaluation continues with the next rule.
    Hold {
        age: Duration,
        of: AgeSubject,
    },
    /// Records a warning. Evaluation continues with the next rule.
    Warn,
}

impl RuleAction {
    pub(crate) fn refuses(self) -> bool {
        matches!(self, Self::Deny | Self::Hold { .. })
    }

    /// Returns the age at which a hold ends.
    pub(crate) fn held_age(self) -> Option<Duration> {
        match self {
            Self::Hold { age, .. } => Some(age),
            Self::Allow | Self::Deny | Self::Warn => None,
        }
    }

    /// Formats the action: `deny`, `hold 14 d`.
    pub(crate) fn describe(self) -> String {
        match self {
            Self::Allow => "allow".to_owned(),
            Self::Deny => "deny".to_owned(),
            Self::Warn => "warn".to_owned(),
            Self::Hold { age, of: AgeSubject::Release } => format!("hold {}", timestamp::format_duration(age)),
            Self::Hold { age, of: AgeSubject::Package } => format!("hold {} of the package", timestamp::format_duration(age)),
        }
    }
}

/// Whose age counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgeSubject {
    Release,
    /// The age of the package's oldest release.
    Package,
}

/// How a rule treats requests for what it refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestPolicy {
    /// No one can ask.
    Forbidden,
}

words! { RequestPolicy { Forbidden = "forbidden", } }

#[derive(Debug, Clone)]
pub struct Rule {
    /// The id that refusals and the ledger show.
    pub id: Arc<str>,
    /// The author's reason, shown in refusals.
    pub reason: Box<str>,
    /// The person or team responsible for the rule.
    pub owner: Option<Box<str>>,
    /// When the rule stops applying.
    pub expires: Option<Timestamp>,
    pub action: RuleAction,
    /// Whether the rule only records what it would refuse.
    pub observe: bool,
    /// Whether people may ask for what the rule refuses. By default they may, and people decide.
    pub request: Option<RequestPolicy>,
    pub(crate) conditions: RuleConditions,
    /// Where the rule is written. `None` for a rule that a setting created.
    pub(crate) place: Option<SourceSpan>,
}

/// The conditions of a rule. All must hold; a condition that is `None` is not tested.
#[derive(Debug, Clone, Default)]
pub(crate) struct RuleConditions {
    pub packages: Option<GlobList>,
    pub except: Option<GlobList>,
    pub versions: Option<Range>,
    pub age: AgeLimits,
    pub package_age: AgeLimits,
    pub publishers: Option<GlobList>,
    pub maintainers: Option<GlobList>,
    pub install_script: Option<bool>,
    pub deprecated: Option<bool>,
    /// Matches a version with a dependency of any of these kinds.
    pub dependencies: Option<Vec<DependencyKind>>,
    pub tags: Option<Vec<Box<str>>>,
    pub advisory: Option<AdvisoryCondition>,
    pub signals: Option<(Signals, u32)>,
    pub findings: Option<Findings>,
    pub spares_siblings: bool,
    /// Whether a reviewed advisory must name the release as the fix of a vulnerability, without any signal on the release.
    pub fixes: bool,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct AgeLimits {
    pub older_than: Option<Duration>,
    pub younger_than: Option<Duration>,
}

impl AgeLimits {
    pub(crate) fn is_unlimited(self) -> bool {
        self.older_than.is_none() && self.younger_than.is_none()
    }

    /// Checks whether no age is within the limits.
    pub(crate) fn is_empty(self) -> bool {
        self.older_than.zip(self.younger_than).is_some_and(|(least, most)| least >= most)
    }

    /// Checks whether each age within these limits is within `wide` too.
    pub(crate) fn implies(self, wide: Self) -> bool {
        wide.older_than.is_none_or(|wide| self.older_than.is_some_and(|narrow| narrow >= wide))
            && wide.younger_than.is_none_or(|wide| self.younger_than.is_some_and(|narrow| narrow <= wide))
    }

    fn contains(self, age: SignedDuration) -> bool {
        self.older_than.is_none_or(|least| age >= signed(least)) && self.younger_than.is_none_or(|most| age < signed(most))
    }
}

/// Source of a dependency from outside a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DependencyKind {
    Git,
    Url,
    File,
}

words! { DependencyKind { Git = "git", Url = "url", File = "file", } }

impl DependencyKind {
    pub(super) fn is_among(self, traits: ManifestTraits) -> bool {
        match self {
            Self::Git => traits.git_dependency,
            Self::Url => traits.url_dependency,
            Self::File => traits.file_dependency,
        }
    }
}

/// Compiled globs and their text as written.
#[derive(Debug, Clone)]
pub(crate) struct GlobList {
    pub set: GlobSet,
    pub words: Vec<Box<str>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AdvisoryCondition {
    pub kind: Option<AdvisoryKind>,
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

/// The condition that a version does not meet.
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
    /// The result depends on an unknown fact, and the rule neither allows nor warns on unknown facts.
    Unknown,
}

/// Result of testing a version against the conditions of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConditionResult {
    /// The version meets all conditions.
    Matches,
    /// The version does not meet this condition.
    Differs(UnmetCondition),
    /// The version meets all conditions on known facts, but the rule also tests unknown facts.
    Undecided,
}

/// What a rule means for a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RuleOutcome {
    NoMatch(UnmetCondition),
    /// The package is excluded from rules on ages.
    Excluded,
    Passed,
    Warned,
    BrokenGlass,
    Decided,
}

/// Ages of a version, its package and its parent package at an instant. Computed once and used for all rules.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FactAges {
    pub release: SignedDuration,
    pub package: Option<SignedDuration>,
    pub parent: Option<SignedDuration>,
}

impl FactAges {
    pub(crate) fn of(facts: &Facts<'_>, at: Timestamp) -> Self {
        let since = |instant: Timestamp| at.duration_since(instant);
        Self { release: since(facts.effective), package: facts.first_published.map(since), parent: facts.parent.map(since) }
    }
}

impl Rule {
    pub(crate) fn longest_age(&self) -> Option<Duration> {
        let RuleConditions { age, package_age, .. } = self.conditions;
        [self.action.held_age(), age.younger_than, age.older_than, package_age.younger_than, package_age.older_than]
            .into_iter()
            .flatten()
            .max()
    }

    /// Returns the age of a release from which the rule needs no findings in its tarball. `None` if it tests none.
    pub(crate) fn finding_window(&self) -> Option<Duration> {
        let wanted = self.conditions.findings.filter(|asked| !asked.and(Findings::of_tarballs()).is_empty())?;
        let held = match self.action {
            RuleAction::Hold { age, of: AgeSubject::Release } => age,
            _ => Duration::MAX,
        };
        let feeds = if wanted.and(Findings::of_feeds()) == wanted { FEED_FINDING_WINDOW } else { Duration::MAX };
        Some(self.conditions.age.younger_than.unwrap_or(Duration::MAX).min(held).min(feeds))
    }

    /// Returns the condition that the version does not meet. Returns `None` if the rule matches. Package names are not tested
    /// here.
    ///
    /// If a condition depends on an unknown fact, refusing rules match; allowing and warning rules do not.
    pub(crate) fn unmet_condition(&self, facts: &Facts<'_>, ages: FactAges) -> Option<UnmetCondition> {
        match self.answer(facts, ages) {
            ConditionResult::Matches => None,
            ConditionResult::Differs(differs) => Some(differs),
            ConditionResult::Undecided => (!self.action.refuses()).then_some(UnmetCondition::Unknown),
        }
    }

    /// Tests a version against all conditions except those on the package name.
    pub(crate) fn answer(&self, facts: &Facts<'_>, ages: FactAges) -> ConditionResult {
        match self.known_difference(facts, ages) {
            Some(differs) => ConditionResult::Differs(differs),
            None if self.hangs_on(facts.unknown) || self.hangs_on_pending(facts) => ConditionResult::Undecided,
            None => ConditionResult::Matches,
        }
    }

    /// Checks whether the rule tests one of these facts.
    pub(crate) fn hangs_on(&self, unknown: UnknownFacts) -> bool {
        let conditions = &self.conditions;
        (conditions.publishers.is_some() && unknown.publisher)
            || (conditions.maintainers.is_some() && unknown.maintainers)
            || (conditions.install_script.is_some() && unknown.install_script)
            || (conditions.fixes && unknown.fix)
    }

    /// Checks whether the rule matches only if a pending signal shows.
    fn hangs_on_pending(&self, facts: &Facts<'_>) -> bool {
        self.conditions.signals.is_some_and(|(wanted, least)| facts.signals.and(wanted).count() < least)
    }

    /// Returns the first condition that the known facts do not meet, whatever the unknown ones are.
    fn known_difference(&self, facts: &Facts<'_>, ages: FactAges) -> Option<UnmetCondition> {
        let conditions = &self.conditions;
        let (traits, unknown) = (facts.traits, facts.unknown);
        if !unknown.install_script && conditions.install_script.is_some_and(|wanted| traits.install_script != wanted) {
            return Some(UnmetCondition::InstallScript);
        }
        if conditions.deprecated.is_some_and(|wanted| traits.deprecated != wanted) {
            return Some(UnmetCondition::Deprecated);
        }
        if conditions.dependencies.as_ref().is_some_and(|kinds| !kinds.iter().any(|kind| kind.is_among(traits))) {
            return Some(UnmetCondition::Dependencies);
        }
        if conditions.signals.is_some_and(|(wanted, least)| facts.signals.or(facts.pending).and(wanted).count() < least) {
            return Some(UnmetCondition::Signals);
        }
        if conditions.findings.is_some_and(|wanted| facts.findings.and(wanted).is_empty()) {
            return Some(UnmetCondition::Findings);
        }
        let fits =
            |ask: &AdvisoryCondition| facts.advisories.matching(facts.version, facts.parsed).any(|advisory| ask.fits(&advisory));
        if conditions.advisory.as_ref().is_some_and(|ask| !fits(ask)) {
            return Some(UnmetCondition::Advisory);
        }
        if !conditions.age.contains(ages.release) {
            return Some(UnmetCondition::Age);
        }
        if !conditions.package_age.is_unlimited() && !ages.package.is_some_and(|age| conditions.package_age.contains(age)) {
            return Some(UnmetCondition::PackageAge);
        }
        if let RuleAction::Hold { of: AgeSubject::Package, .. } = self.action
            && ages.package.is_none()
        {
            return Some(UnmetCondition::PackageAge);
        }
        if conditions.versions.as_ref().is_some_and(|range| !self.matches_range(range, facts)) {
            return Some(UnmetCondition::Version);
        }
        let published = |globs: &GlobList| facts.publisher.is_some_and(|name| globs.set.is_match(name));
        if !unknown.publisher && conditions.publishers.as_ref().is_some_and(|globs| !published(globs)) {
            return Some(UnmetCondition::Publisher);
        }
        let maintained = |globs: &GlobList| facts.maintainers.iter().any(|name| globs.set.is_match(&**name));
        if !unknown.maintainers && conditions.maintainers.as_ref().is_some_and(|globs| !maintained(globs)) {
            return Some(UnmetCondition::Maintainers);
        }
        let pointed =
            |tags: &Vec<Box<str>>| facts.tags.pointing_to(facts.version).any(|tag| tags.iter().any(|wanted| **wanted == *tag));
        if conditions.tags.as_ref().is_some_and(|tags| !pointed(tags)) {
            return Some(UnmetCondition::Tags);
        }
        let is_fix = facts.fix.is_some() || unknown.fix;
        let is_clean = facts.signals.or(facts.unobservable).or(facts.pending).is_empty();
        if conditions.fixes && !(is_fix && is_clean) {
            return Some(UnmetCondition::Fix);
        }
        self.exempts_subpackage(ages).then_some(UnmetCondition::Sibling)
    }

    pub(crate) fn match_package(&self, name: &str) -> Result<(), UnmetCondition> {
        if self.conditions.packages.as_ref().is_some_and(|globs| !globs.set.is_match(name)) {
            return Err(UnmetCondition::Package);
        }
        if self.conditions.except.as_ref().is_some_and(|globs| globs.set.is_match(name)) {
            return Err(UnmetCondition::Excepted);
        }
        Ok(())
    }

    /// Checks whether the rule is a hold that has not ended.
    pub(crate) fn is_holding(&self, ages: FactAges) -> bool {
        let RuleAction::Hold { age, of } = self.action else { return false };
        let passed = match of {
            AgeSubject::Release => Some(ages.release),
            AgeSubject::Package => ages.package,
        };
        passed.is_some_and(|passed| passed < signed(age))
    }

    /// Checks whether the rule tests only ages and package names. An exclusion waives such rules.
    pub(crate) fn tests_age_only(&self) -> bool {
        let conditions = &self.conditions;
        matches!(self.action, RuleAction::Hold { .. })
            && conditions.versions.is_none()
            && conditions.publishers.is_none()
            && conditions.maintainers.is_none()
            && conditions.install_script.is_none()
            && conditions.deprecated.is_none()
            && conditions.dependencies.is_none()
            && conditions.tags.is_none()
            && conditions.advisory.is_none()
            && conditions.signals.is_none()
            && conditions.findings.is_none()
    }

    /// Checks whether the rule would refuse nothing if all versions were old and had no signals. Break-glass waives such rules. A
    /// rule that tests advisories or findings never counts as one, even if it is a hold.
    pub(crate) fn depends_on_age_or_signals(&self) -> bool {
        let conditions = &self.conditions;
        let young = conditions.age.younger_than.is_some() || conditions.package_age.younger_than.is_some();
        let rests = match self.action {
            RuleAction::Hold { .. } => true,
            RuleAction::Deny => young || conditions.signals.is_some(),
            RuleAction::Allow | RuleAction::Warn => false,
        };
        rests && conditions.advisory.is_none() && conditions.findings.is_none()
    }

    /// Returns the instants at which the result of the rule for a version may change.
    pub(crate) fn transition_times<'a>(&'a self, facts: &'a Facts<'_>) -> impl Iterator<Item = Timestamp> + 'a {
        let conditions = &self.conditions;
        let hold = self.action.held_age();
        let of_package = matches!(self.action, RuleAction::Hold { of: AgeSubject::Package, .. });
        let held_since = if of_package { facts.first_published } else { Some(facts.effective) };
        let established = hold.filter(|_| conditions.spares_siblings);
        [
            (held_since, hold),
            (Some(facts.effective), conditions.age.younger_than),
            (Some(facts.effective), conditions.age.older_than),
            (facts.first_published, conditions.package_age.younger_than),
            (facts.first_published, conditions.package_age.older_than),
            (facts.parent, established),
        ]
        .into_iter()
        .filter_map(|(since, age)| Some(timestamp::saturating_add(since?, age?)))
    }

    /// Refusing and warning rules also match prereleases in their range. Allowing rules match exactly as npm does.
    fn matches_range(&self, range: &Range, facts: &Facts<'_>) -> bool {
        let Some(version) = facts.parsed else { return false };
        if self.action == RuleAction::Allow { range.matches(version) } else { range.covers(version) }
    }

    /// Checks whether the version is exempt as a subpackage of a package that is older than the hold.
    fn exempts_subpackage(&self, ages: FactAges) -> bool {
        let Some(age) = self.action.held_age() else { return false };
        self.conditions.spares_siblings && ages.parent.is_some_and(|parent| parent >= signed(age))
    }
}

pub(crate) fn signed(age: Duration) -> SignedDuration {
    SignedDuration::try_from(age).unwrap_or(SignedDuration::MAX)
}
