//! The rules: minimum release age with its exclusions, and what no setting waives. Policy files grow from here.

use std::time::Duration;

use globset::{Glob, GlobBuilder, GlobMatcher, GlobSet, GlobSetBuilder};
use jiff::Timestamp;

use super::advisory::Applicable;
use super::decision::CHANGED_INTEGRITY;
use super::malware;
use super::verdict::{Reason, RuleId, Verdict};
use crate::npm::{Integrity, PackageName, Version, instant};

/// A version that went while it was younger than this was taken down, not left-padded. npm itself lets a publisher
/// unpublish within 72 h; what the registry's own team removes, it removed within days in every incident we hold.
pub const TAKEDOWN_AGE: Duration = Duration::from_secs(14 * 24 * 3600);

/// A glob over package names: `lodash`, `@acme/*`, `eslint-*`. A `*` does not cross the slash of a scope.
#[derive(Debug, Clone)]
pub struct PackageGlob(Glob);

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

/// Whether the newest packument has the version, and if not, what the ledger says of its going.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It is there.
    Present,
    /// It went.
    Gone {
        /// When it was last seen; `None` when it never was.
        last_seen: Option<Timestamp>,
        /// Whether a security placeholder took its package's place.
        replaced: bool,
    },
}

/// What rules ask about one version. Borrowed from the index and the ledger; made anew for each judgement.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The package.
    pub name: &'a PackageName,
    /// The key in `versions`.
    pub version: &'a str,
    /// What upstream says, if it says anything usable.
    pub published: Option<Timestamp>,
    /// The effective publish time (DESIGN §4).
    pub effective: Timestamp,
    /// Why its manifest cannot be believed, in words.
    pub flaw: Option<&'a str>,
    /// Whether the packument states a digest that can be checked.
    pub has_integrity: bool,
    /// That digest, where it is known already: an approval is for these bytes.
    pub integrity: Option<&'a Integrity>,
    /// Whether it was seen with another integrity before.
    pub integrity_changed: bool,
    /// Whether the newest packument has it.
    pub presence: Presence,
    /// What `version` is read as, if it is a version.
    pub parsed: Option<&'a Version>,
    /// The advisories on the package, beside all its versions.
    pub advisories: &'a Applicable<'a>,
}

impl Facts<'_> {
    /// The records that an approval has to name before it is one: advisories of malware, and a changed integrity.
    #[must_use]
    pub fn records(&self) -> Vec<&str> {
        let advisories = malware::condemning(self.advisories, self.version, self.parsed).map(|advisory| advisory.id);
        self.integrity_changed.then_some(CHANGED_INTEGRITY).into_iter().chain(advisories).collect()
    }
}

/// The policy in force: what is compiled from settings, and judges.
#[derive(Debug, Clone)]
pub struct Policy {
    minimum_release_age: Duration,
    exclude: GlobSet,
}

impl Policy {
    /// A policy of a minimum release age (zero switches it off) that waives the age, and nothing else, for `exclude`.
    ///
    /// # Errors
    /// When the globs are too large together to be compiled.
    pub fn new(minimum_release_age: Duration, exclude: &[PackageGlob]) -> Result<Self, globset::Error> {
        let mut globs = GlobSetBuilder::new();
        for glob in exclude {
            globs.add(glob.0.clone());
        }
        Ok(Self { minimum_release_age, exclude: globs.build()? })
    }

    /// The minimum release age for a package: zero where it is waived.
    #[must_use]
    pub fn minimum_release_age(&self, name: &PackageName) -> Duration {
        if self.exclude.is_match(name.as_str()) { Duration::ZERO } else { self.minimum_release_age }
    }

    /// Judges one version as of `at`: the instant up to which upstream's word is known, never later than now.
    #[must_use]
    pub fn judge(&self, facts: &Facts<'_>, at: Timestamp) -> Verdict {
        Self::built_in(facts).unwrap_or_else(|| self.rules(facts, at))
    }

    /// What no setting waives; `None` when nothing of it applies.
    pub(super) fn built_in(facts: &Facts<'_>) -> Option<Verdict> {
        if facts.integrity_changed {
            let detail = "its integrity is not the one this version was first seen with";
            return Some(Verdict::deny(RuleId::IntegrityChanged, detail));
        }
        if let Presence::Gone { last_seen, replaced } = facts.presence {
            return judge_gone(facts, last_seen, replaced);
        }
        if let Some(flaw) = facts.flaw {
            return Some(Verdict::deny(RuleId::SelfContradiction, flaw));
        }
        if !facts.has_integrity {
            let detail = "upstream states no integrity for it, so its tarball cannot be checked";
            return Some(Verdict::deny(RuleId::IntegrityMissing, detail));
        }
        None
    }

    /// What the rules say, as of `at`.
    pub(super) fn rules(&self, facts: &Facts<'_>, at: Timestamp) -> Verdict {
        match malware::judge(facts, at) {
            Some(refusal @ Verdict::Deny { .. }) => refusal,
            Some(hold) => hold.longer(self.by_age(facts, at)),
            None => self.by_age(facts, at),
        }
    }

    fn by_age(&self, facts: &Facts<'_>, at: Timestamp) -> Verdict {
        let age = self.minimum_release_age(facts.name);
        let until = instant::after(facts.effective, age);
        if age.is_zero() || until <= at {
            return Verdict::Allow;
        }
        let minimum = instant::tell_age(age);
        let reason = match facts.published {
            None => Reason {
                rule: RuleId::MissingTime,
                detail: format!(
                    "upstream gives no publish time, first seen {}, minimum release age {minimum}",
                    instant::tell(facts.effective)
                ),
            },
            Some(published) if published < facts.effective => Reason {
                rule: RuleId::MinimumReleaseAge,
                detail: format!(
                    "published {}, but was not there at {}, minimum release age {minimum}",
                    instant::tell(published),
                    instant::tell(facts.effective)
                ),
            },
            Some(published) => Reason {
                rule: RuleId::MinimumReleaseAge,
                detail: format!("published {}, minimum release age {minimum}", instant::tell(published)),
            },
        };
        Verdict::Hold { until, reason }
    }
}

/// Whether a version that left upstream was taken down: a security placeholder came, or it was young when last seen.
#[must_use]
pub fn is_takedown(effective: Timestamp, last_seen: Timestamp, replaced: bool) -> bool {
    replaced || instant::after(effective, TAKEDOWN_AGE) > last_seen
}

/// A version that left upstream: a takedown when it was young or a security placeholder came, else a left-pad that goes
/// on being served to those whose lockfiles hold it.
fn judge_gone(facts: &Facts<'_>, last_seen: Option<Timestamp>, replaced: bool) -> Option<Verdict> {
    let Some(last_seen) = last_seen else {
        return Some(Verdict::deny(RuleId::Unpublished, "it was unpublished before it was ever seen here"));
    };
    let seen = instant::tell(last_seen);
    if replaced {
        let detail = format!("a security placeholder took its place upstream, last seen {seen}");
        return Some(Verdict::deny(RuleId::Takedown, detail));
    }
    if is_takedown(facts.effective, last_seen, replaced) {
        let detail = format!("it was taken down upstream while it was young, last seen {seen}");
        return Some(Verdict::deny(RuleId::Takedown, detail));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    fn at(hours: u64) -> Timestamp {
        Timestamp::from_second(1_774_915_200 + i64::try_from(hours * HOUR).unwrap()).unwrap()
    }

    fn policy(hours: u64, exclude: &[&str]) -> Policy {
        let globs: Vec<_> = exclude.iter().map(|glob| PackageGlob::parse(glob).unwrap()).collect();
        Policy::new(Duration::from_secs(hours * HOUR), &globs).unwrap()
    }

    fn facts(name: &PackageName) -> Facts<'_> {
        Facts {
            name,
            version: "1.14.1",
            published: Some(at(0)),
            effective: at(0),
            flaw: None,
            has_integrity: true,
            integrity: None,
            integrity_changed: false,
            presence: Presence::Present,
            parsed: None,
            advisories: &crate::policy::advisory::NO_ADVISORIES,
        }
    }

    #[test]
    fn a_release_opens_when_its_age_has_passed_and_not_before() {
        let (policy, axios) = (policy(72, &[]), PackageName::parse("axios").unwrap());
        let verdict = policy.judge(&facts(&axios), at(71));
        assert_eq!(verdict.opens(), Some(at(72)));
        assert_eq!(verdict.reason().unwrap().detail, "published 2026-03-31 00:00 UTC, minimum release age 72 h");
        assert!(policy.judge(&facts(&axios), at(72)).allows());
    }

    #[test]
    fn an_exclusion_waives_age_and_nothing_else() {
        let (policy, name) = (policy(72, &["@acme/*"]), PackageName::parse("@acme/ui").unwrap());
        assert!(policy.judge(&facts(&name), at(1)).allows());
        let changed = Facts { integrity_changed: true, ..facts(&name) };
        assert_eq!(policy.judge(&changed, at(1)).reason().unwrap().rule, RuleId::IntegrityChanged);
        let other = PackageName::parse("@acme-evil/ui").unwrap();
        assert!(!policy.judge(&facts(&other), at(1)).allows());
    }

    #[test]
    fn without_a_publish_time_the_age_counts_from_first_seen() {
        let (policy, axios) = (policy(72, &[]), PackageName::parse("axios").unwrap());
        let missing = Facts { published: None, effective: at(5), ..facts(&axios) };
        let verdict = policy.judge(&missing, at(6));
        assert_eq!((verdict.opens(), verdict.reason().unwrap().rule), (Some(at(77)), RuleId::MissingTime));
    }

    #[test]
    fn what_went_young_is_a_takedown_and_what_went_old_is_kept() {
        let (policy, axios) = (policy(72, &[]), PackageName::parse("axios").unwrap());
        let gone = |last_seen, replaced| Facts { presence: Presence::Gone { last_seen, replaced }, ..facts(&axios) };
        let rule = |facts: Facts<'_>| policy.judge(&facts, at(24 * 400)).reason().map(|reason| reason.rule);
        assert_eq!(rule(gone(Some(at(3)), false)), Some(RuleId::Takedown));
        assert_eq!(rule(gone(Some(at(24 * 300)), false)), None);
        assert_eq!(rule(gone(Some(at(24 * 300)), true)), Some(RuleId::Takedown));
        assert_eq!(rule(gone(None, false)), Some(RuleId::Unpublished));
    }
}
