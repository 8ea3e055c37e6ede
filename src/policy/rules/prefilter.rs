//! Union of the facts of all versions of a package. Rules that no version can match are dropped before each version is evaluated.

use std::collections::HashSet;

use crate::npm::packument::index::ManifestTraits;
use crate::policy::facts::{Facts, UnknownFacts};
use crate::policy::rules::rule::{GlobList, Rule};
use crate::vetting::{Findings, Signals};

/// The union of the facts of many versions.
#[derive(Default)]
pub(crate) struct FactsUnion<'f> {
    traits: ManifestTraits,
    advised: bool,
    fixes: bool,
    unknown: UnknownFacts,
    signals: Signals,
    findings: Findings,
    publishers: HashSet<&'f str>,
    maintainers: HashSet<&'f str>,
    tags: &'f [(Box<str>, Box<str>)],
}

impl<'f> FactsUnion<'f> {
    pub(crate) fn of(versions: impl Iterator<Item = Facts<'f>>) -> Self {
        let mut among = Self::default();
        let (mut publisher, mut maintainers) = (None, [].as_slice());
        for facts in versions {
            among.traits.deprecated |= facts.traits.deprecated;
            among.traits.install_script |= facts.traits.install_script;
            among.traits.git_dependency |= facts.traits.git_dependency;
            among.traits.url_dependency |= facts.traits.url_dependency;
            among.traits.file_dependency |= facts.traits.file_dependency;
            among.fixes |= facts.fix.is_some();
            among.unknown = among.unknown.or(facts.unknown);
            among.advised |= facts.advisories.matching(facts.version, facts.parsed).next().is_some();
            among.signals = among.signals.or(facts.signals).or(facts.pending);
            among.findings = among.findings.or(facts.findings);
            among.tags = facts.tags.tags;
            // Most versions share publisher and maintainers with the previous one, by pointer.
            if publisher.map(std::ptr::from_ref::<str>) != facts.publisher.map(std::ptr::from_ref) {
                among.publishers.extend(facts.publisher);
                publisher = facts.publisher;
            }
            if !std::ptr::eq(maintainers, facts.maintainers) {
                among.maintainers.extend(facts.maintainers.iter().map(|name| &**name));
                maintainers = facts.maintainers;
            }
        }
        among
    }

    /// Checks whether any version may match a rule. Ignores ages, ranges and conditions that require a trait to be absent.
    pub(crate) fn may_match(&self, rule: &Rule) -> bool {
        let conditions = &rule.conditions;
        let any_matches = |globs: &GlobList, names: &HashSet<&str>| names.iter().any(|name| globs.set.is_match(name));
        let unknown = self.unknown;
        (conditions.install_script != Some(true) || self.traits.install_script || unknown.install_script)
            && (conditions.deprecated != Some(true) || self.traits.deprecated)
            && conditions.dependencies.as_ref().is_none_or(|kinds| kinds.iter().any(|kind| kind.is_among(self.traits)))
            && (conditions.advisory.is_none() || self.advised)
            && (!conditions.fixes || self.fixes || unknown.fix)
            && conditions.signals.is_none_or(|(wanted, least)| self.signals.and(wanted).count() >= least)
            && conditions.findings.is_none_or(|wanted| !self.findings.and(wanted).is_empty())
            && conditions.publishers.as_ref().is_none_or(|globs| unknown.publisher || any_matches(globs, &self.publishers))
            && conditions.maintainers.as_ref().is_none_or(|globs| unknown.maintainers || any_matches(globs, &self.maintainers))
            && conditions.tags.as_ref().is_none_or(|wanted| self.tags.iter().any(|(tag, _)| wanted.contains(tag)))
    }
}
