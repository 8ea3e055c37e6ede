//! Advisories by package: an index that is built once, never changed, and asked for every packument. Refuses to know where
//! records come from, and what follows from one.
//!
//! How to use it: `advisories.of(name)` once a packument, `.among(keys)` for the guard against records that are too broad, then
//! `.matching(key, version)` for each version. Of packages without records the first step is all there is.

pub mod affected;
pub mod cvss;
pub mod index;
pub mod indicators;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::npm::Version;
use crate::policy::advisories::affected::{AffectedRange, RangeEnd};
use crate::policy::advisories::index::{FeedAdvisories, IndexRow};
use crate::policy::advisories::indicators::IndicatorMatch;
use crate::units::timestamp;

/// A dated record that marks every version is not obeyed whole for an established package: one with so many versions that the record
/// does not list.
pub const ESTABLISHED_VERSIONS: usize = 10;

/// How long the versions of an established package are spread.
pub const ESTABLISHED_SPREAD: SignedDuration = SignedDuration::from_hours(365 * 24);

/// How long before the record was known they were all there: versions can be published once it is.
pub const ESTABLISHED_BEFORE: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long before the record was known a version was there that is spared: what a takeover brought is younger.
pub const SPARED_BEFORE: Duration = Duration::from_secs(90 * 24 * 3600);

/// What an advisory says of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AdvisoryKind {
    /// It was made to do harm.
    Malware,
    /// It has a flaw.
    Vulnerability,
}

/// How bad a vulnerability is, in npm's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the words say it")]
pub enum Severity {
    Low,
    Moderate,
    High,
    Critical,
}

/// How far a feed is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FeedTrust {
    /// What it names is refused.
    Deny,
    /// What it names is held until an age.
    Hold,
    /// What it names is noted.
    Warn,
}

macro_rules! words {
    ($name:ident { $($variant:ident = $word:literal,)* }) => {
        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The word for it in files, logs and answers.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// The value of a word.
            #[must_use]
            pub fn parse(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.as_str() == word)
            }
        }
    };
}

impl Severity {
    /// The word for a CVSS score.
    #[must_use]
    pub fn of_score(score: f64) -> Self {
        match score {
            score if score >= 9.0 => Self::Critical,
            score if score >= 7.0 => Self::High,
            score if score >= 4.0 => Self::Moderate,
            _ => Self::Low,
        }
    }
}

words! { AdvisoryKind { Malware = "malware", Vulnerability = "vulnerability", } }
words! { Severity { Low = "low", Moderate = "moderate", High = "high", Critical = "critical", } }
words! { FeedTrust { Deny = "deny", Hold = "hold", Warn = "warn", } }

/// What one record says of one package: what an index is built from. Withdrawn records are not handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdvisoryRecord {
    /// `MAL-2026-2307`, `GHSA-…`.
    pub id: Box<str>,
    /// What others call it.
    pub aliases: Vec<Box<str>>,
    /// Malware or vulnerability.
    pub kind: AdvisoryKind,
    /// How bad, if it says so.
    pub severity: Option<Severity>,
    /// Whether a person at the advisory database reviewed it (`github_reviewed`).
    pub reviewed: bool,
    /// One line for people; may be empty.
    pub summary: Box<str>,
    /// When it was last changed, if it says so.
    pub modified: Option<Timestamp>,
    /// Since when it is known: the earlier of when it was published and when it was first read here. `None` for a line without a date.
    pub known_since: Option<Timestamp>,
    /// Its CVSS vector; may be empty.
    pub cvss: Box<str>,
    /// Its weaknesses, `CWE-79`.
    pub cwes: Vec<Box<str>>,
    /// The package's exact name.
    pub package: Box<str>,
    /// The versions it lists, as they are written.
    pub versions: Vec<Box<str>>,
    /// The ranges it gives.
    pub spans: Vec<AffectedRange>,
    /// Domains and addresses that it lists as what malware talks to, as [`crate::policy::advisories::indicators::spelled`] spells them.
    pub indicators: Vec<Box<str>>,
}

/// One advisory on one package, borrowed from the index.
#[derive(Debug, Clone, Copy)]
pub struct Advisory<'a> {
    /// Its id: `MAL-2026-2307`, `GHSA-…`.
    pub id: &'a str,
    /// The feed it stands in, by the name in the configuration.
    pub feed: &'a str,
    /// Malware or vulnerability.
    pub kind: AdvisoryKind,
    /// How bad a vulnerability it is, if the record says so.
    pub severity: Option<Severity>,
    /// How far its feed is followed.
    pub trust: FeedTrust,
    /// One line for people; may be empty.
    pub summary: &'a str,
    /// When it was last changed, if the record says so.
    pub modified: Option<Timestamp>,
    /// Since when it is known; `None` for a line without a date.
    pub known_since: Option<Timestamp>,
    /// Whether a person at the advisory database reviewed it.
    pub reviewed: bool,
    pub(crate) row: AdvisoryRow<'a>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct AdvisoryRow<'a> {
    pub(crate) index: &'a FeedAdvisories,
    pub(crate) row: &'a IndexRow,
}

impl<'a> Advisory<'a> {
    /// What others call it.
    pub fn aliases(self) -> impl Iterator<Item = &'a str> {
        self.row.index.text(self.row.row.aliases).split('\n').filter(|alias| !alias.is_empty())
    }

    /// Whether it goes by this id, as its own or as an alias.
    #[must_use]
    pub fn is_called(self, id: &str) -> bool {
        self.id == id || self.aliases().any(|alias| alias == id)
    }

    /// Its CVSS vector; may be empty.
    #[must_use]
    pub fn cvss(self) -> &'a str {
        self.row.index.text(self.row.row.cvss)
    }

    /// Its weaknesses, `CWE-79`.
    pub fn cwes(self) -> impl Iterator<Item = &'a str> {
        self.row.index.text(self.row.row.cwes).split('\n').filter(|cwe| !cwe.is_empty())
    }

    /// The exact name of the package this entry is about.
    #[must_use]
    pub fn package(self) -> &'a str {
        self.row.index.text(self.row.row.package)
    }

    /// Whether it affects a version, by OSV's rule and nothing else: the version is listed, or lies in a range. `version` is what
    /// `key` is read as.
    #[must_use]
    pub fn affects(self, key: &str, version: Option<&Version>) -> bool {
        self.names(key, version) || self.wholesale().any(|span| version.is_none_or(|version| span.contains(version)))
    }

    /// Whether it marks every version there is (`introduced: 0` without an end).
    #[must_use]
    pub fn is_wholesale(self) -> bool {
        self.wholesale().next().is_some()
    }

    /// Whether one of its `fixed` events names exactly this version.
    #[must_use]
    pub fn is_fixed_in(self, version: &Version) -> bool {
        self.fixed_versions().any(|end| end.as_str() == version.as_str())
    }

    /// The versions it lists, as they are written.
    pub fn listed_versions(self) -> impl Iterator<Item = &'a str> {
        self.versions()
    }

    /// The versions that its `fixed` events name.
    pub fn fixed_versions(self) -> impl Iterator<Item = &'a Version> {
        self.spans().iter().filter_map(|span| match &span.end {
            RangeEnd::Before(end) => Some(end),
            RangeEnd::Open | RangeEnd::Through(_) => None,
        })
    }

    /// What it affects, as an npm range.
    #[must_use]
    pub fn vulnerable_versions(self) -> String {
        let spans = self.spans().iter().map(AffectedRange::to_range);
        let mut parts: Vec<String> = spans.collect();
        if !parts.iter().any(|part| part == "*") {
            parts.extend(self.versions().map(|version| format!("={version}")));
        }
        parts.join(" || ")
    }

    /// Whether the version is listed, or lies in a range that is not all there is.
    fn names(self, key: &str, version: Option<&Version>) -> bool {
        let AdvisoryRow { index, row } = self.row;
        let listed = index.versions[row.versions()].binary_search_by(|text| index.text(*text).cmp(key)).is_ok();
        listed || version.is_some_and(|version| self.narrow().any(|span| span.contains(version)))
    }

    fn versions(self) -> impl Iterator<Item = &'a str> {
        let AdvisoryRow { index, row } = self.row;
        index.versions[row.versions()].iter().map(|text| index.text(*text))
    }

    fn spans(self) -> &'a [AffectedRange] {
        let AdvisoryRow { index, row } = self.row;
        if row.everything { std::slice::from_ref(&AffectedRange::EVERYTHING) } else { &index.spans[row.spans()] }
    }

    fn wholesale(self) -> impl Iterator<Item = &'a AffectedRange> {
        let AdvisoryRow { index, row } = self.row;
        let everything = row.everything.then_some(&AffectedRange::EVERYTHING);
        everything.into_iter().chain(index.spans[row.spans()].iter().filter(|span| span.is_everything()))
    }

    fn narrow(self) -> impl Iterator<Item = &'a AffectedRange> {
        let AdvisoryRow { index, row } = self.row;
        index.spans[row.spans()].iter().filter(|span| !span.is_everything())
    }
}

/// Every advisory of every feed. Cheap to clone; a feed that changes is replaced by [`Advisories::of_feeds`].
#[derive(Debug, Clone, Default)]
pub struct Advisories {
    feeds: Arc<[Arc<FeedAdvisories>]>,
    lacking: Option<Arc<str>>,
    rulings: Arc<[(Box<str>, Ruling)]>,
}

/// What an operator decided about a record that marks every version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ruling {
    /// It is obeyed whole.
    Obeyed,
    /// It is obeyed for the versions that it lists.
    SetAside,
}

impl Advisories {
    /// Those of these feeds together.
    #[must_use]
    pub fn of_feeds(feeds: Vec<Arc<FeedAdvisories>>) -> Self {
        Self { feeds: feeds.into(), lacking: None, rulings: Arc::default() }
    }

    /// With the name of a feed that is to be followed and could not be read at all: then nothing is known to be good.
    #[must_use]
    pub fn lacking(self, feed: Option<&str>) -> Self {
        Self { lacking: feed.map(Into::into), ..self }
    }

    /// With what operators decided about records, by id; of two rulings the later one counts.
    #[must_use]
    pub fn ruled(self, rulings: &[(Box<str>, Ruling)]) -> Self {
        Self { rulings: rulings.into(), ..self }
    }

    /// The feeds.
    #[must_use]
    pub fn feeds(&self) -> &[Arc<FeedAdvisories>] {
        &self.feeds
    }

    /// The advisories on the package of exactly this name: one look-up a feed. Nothing is allocated where there is none.
    #[must_use]
    pub fn of(&self, name: &str) -> PackageAdvisories<'_> {
        let mut found = Vec::new();
        for index in self.feeds.iter() {
            found.extend(index.of(name).iter().map(|row| index.advisory(row)));
        }
        PackageAdvisories { found, lacking: self.lacking.as_deref(), rulings: &self.rulings }
    }

    /// What the feeds say of a place that somebody wants to go to: a name in lower case without a dot at its end, or an address.
    #[must_use]
    pub fn indicated(&self, place: &str) -> Option<IndicatorMatch<'_>> {
        indicators::of(self.feeds.iter().map(|feed| &**feed), place)
    }

    /// Every advisory of an id or with it as an alias, one a package. Looks at all of them.
    pub fn called<'a>(&'a self, id: &'a str) -> impl Iterator<Item = Advisory<'a>> {
        self.iter().filter(move |advisory| advisory.is_called(id))
    }

    /// Every advisory.
    pub fn iter(&self) -> impl Iterator<Item = Advisory<'_>> {
        self.feeds.iter().flat_map(|index| index.rows.iter().map(|row| index.advisory(row)))
    }

    /// Whether any of them is about a vulnerability: feeds of malware alone answer no audit.
    #[must_use]
    pub fn has_vulnerabilities(&self) -> bool {
        self.feeds.iter().any(|index| index.has_vulnerabilities)
    }

    /// How many there are; a record on two packages counts twice.
    #[must_use]
    pub fn count(&self) -> usize {
        self.feeds.iter().map(|index| index.rows.len()).sum()
    }
}

/// The advisories on one package.
#[derive(Debug, Clone)]
pub struct PackageAdvisories<'a> {
    found: Vec<Advisory<'a>>,
    lacking: Option<&'a str>,
    rulings: &'a [(Box<str>, Ruling)],
}

impl<'a> PackageAdvisories<'a> {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = Advisory<'a>> {
        self.found.iter().copied()
    }

    /// Whether one of them marks every version, so that it matters which versions there are.
    #[must_use]
    pub fn has_wholesale(&self) -> bool {
        self.found.iter().any(|advisory| advisory.is_wholesale())
    }

    /// The advisories that apply, given all versions of the packument and since when each counts. A dated record that marks
    /// every version of an established package is obeyed for the versions that it lists and for the young ones.
    #[must_use]
    pub fn among<'k>(
        self,
        versions: impl Iterator<Item = (&'k str, Option<&'k Version>, Timestamp)>,
    ) -> ApplicableAdvisories<'a> {
        let versions: Vec<_> = if self.has_wholesale() { versions.collect() } else { Vec::new() };
        let advisories = self.found.iter().map(|advisory| (*advisory, self.spared(*advisory, &versions))).collect();
        ApplicableAdvisories { advisories, lacking: self.lacking }
    }

    /// The versions that a record marks and that are not refused by it.
    fn spared(&self, advisory: Advisory<'a>, versions: &[(&str, Option<&Version>, Timestamp)]) -> SparedVersions {
        if !advisory.is_wholesale() {
            return SparedVersions::None;
        }
        let ruling = self.rulings.iter().rev().find(|(id, _)| advisory.is_called(id)).map(|(_, ruling)| *ruling);
        let since = match (ruling, advisory.known_since) {
            (Some(Ruling::SetAside), _) => return SparedVersions::Unlisted,
            (Some(Ruling::Obeyed), _) | (None, None) => return SparedVersions::None,
            (None, Some(since)) => since,
        };
        let unlisted = || versions.iter().filter(|(key, version, _)| !advisory.names(key, *version));
        let until = |before: Duration| timestamp::before(since, before);
        let settled = unlisted().map(|(_, _, effective)| *effective).filter(|effective| *effective <= until(ESTABLISHED_BEFORE));
        let (mut count, mut first, mut last) = (0, Timestamp::MAX, Timestamp::MIN);
        for effective in settled {
            (count, first, last) = (count + 1, first.min(effective), last.max(effective));
        }
        if count < ESTABLISHED_VERSIONS || last.duration_since(first) < ESTABLISHED_SPREAD {
            return SparedVersions::None;
        }
        let old = unlisted().filter(|(_, _, effective)| *effective <= until(SPARED_BEFORE));
        SparedVersions::Versions(old.map(|(key, ..)| Box::from(*key)).collect())
    }
}

/// Which versions a record that marks every version does not refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
enum SparedVersions {
    /// It is obeyed whole.
    None,
    /// These, until an operator decides about it.
    Versions(HashSet<Box<str>>),
    /// All that it does not list.
    Unlisted,
}

impl SparedVersions {
    fn has(&self, key: &str) -> bool {
        match self {
            Self::None => false,
            Self::Versions(keys) => keys.contains(key),
            Self::Unlisted => true,
        }
    }
}

/// The advisories on one package, each with what it does not refuse though it marks every version.
#[derive(Debug, Clone, Default)]
pub struct ApplicableAdvisories<'a> {
    advisories: Vec<(Advisory<'a>, SparedVersions)>,
    lacking: Option<&'a str>,
}

/// No advisory at all.
pub static NO_ADVISORIES: ApplicableAdvisories<'static> = ApplicableAdvisories { advisories: Vec::new(), lacking: None };

impl<'a> ApplicableAdvisories<'a> {
    /// The feed that is to be followed and could not be read at all, if there is one.
    #[must_use]
    pub fn lacking(&self) -> Option<&'a str> {
        self.lacking
    }

    /// Those that affect a version, in the order of the feeds. `version` is what `key` is read as, `None` if it is no version.
    pub fn matching<'s>(
        &'s self,
        key: &'s str,
        version: Option<&'s Version>,
    ) -> impl Iterator<Item = Advisory<'a>> + use<'s, 'a> {
        let affects = move |(advisory, spared): &(Advisory<'a>, SparedVersions)| {
            if spared.has(key) { advisory.names(key, version) } else { advisory.affects(key, version) }
        };
        self.advisories.iter().filter(move |entry| affects(entry)).map(|(advisory, _)| *advisory)
    }

    /// Those that mark every version of an established package, and about which no operator has decided yet.
    pub fn overbroad(&self) -> impl Iterator<Item = Advisory<'a>> {
        self.advisories.iter().filter(|(_, spared)| matches!(spared, SparedVersions::Versions(_))).map(|(advisory, _)| *advisory)
    }

    /// Those of them that would affect a version if they were obeyed whole.
    pub fn set_aside<'s>(
        &'s self,
        key: &'s str,
        version: Option<&'s Version>,
    ) -> impl Iterator<Item = Advisory<'a>> + use<'s, 'a> {
        let aside = self.advisories.iter().filter(move |(_, spared)| spared.has(key)).map(|(advisory, _)| *advisory);
        aside.filter(move |advisory| advisory.affects(key, version) && !advisory.names(key, version))
    }

    /// Those that name exactly this version as fixed.
    pub fn fixed_in<'s>(&'s self, version: &'s Version) -> impl Iterator<Item = Advisory<'a>> + use<'s, 'a> {
        self.advisories.iter().map(|(advisory, _)| *advisory).filter(|advisory| advisory.is_fixed_in(version))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::policy::advisories::affected::RangeEvent;
    use crate::policy::advisories::index::FeedIndexBuilder;

    /// A record that says nothing.
    pub(in crate::policy) fn nothing() -> AdvisoryRecord {
        AdvisoryRecord {
            id: "".into(),
            aliases: Vec::new(),
            kind: AdvisoryKind::Malware,
            severity: None,
            reviewed: false,
            summary: "".into(),
            modified: None,
            known_since: None,
            cvss: "".into(),
            cwes: Vec::new(),
            package: "".into(),
            versions: Vec::new(),
            spans: Vec::new(),
            indicators: Vec::new(),
        }
    }

    fn record(id: &str, package: &str, versions: &[&str], introduced: &[&str]) -> AdvisoryRecord {
        let events = |from: &&str| AffectedRange::of_events(&[RangeEvent::Introduced((*from).into())]).0;
        AdvisoryRecord {
            id: id.into(),
            aliases: vec!["GHSA-1".into()],
            package: package.into(),
            versions: versions.iter().map(|version| (*version).into()).collect(),
            spans: introduced.iter().flat_map(events).collect(),
            ..nothing()
        }
    }

    fn index(records: &[AdvisoryRecord]) -> Advisories {
        let mut builder = FeedIndexBuilder::default();
        assert!(records.iter().all(|record| builder.add(record)));
        Advisories::of_feeds(vec![Arc::new(builder.build("osv", FeedTrust::Deny))])
    }

    fn matching(advisories: &Advisories, name: &str, wanted: &str, all: &[&str]) -> Vec<String> {
        let all: Vec<_> = all.iter().map(|text| (*text, 0)).collect();
        matching_aged(advisories, name, wanted, &all)
    }

    /// Of versions that were there so many days before the record was known.
    fn matching_aged(advisories: &Advisories, name: &str, wanted: &str, all: &[(&str, i64)]) -> Vec<String> {
        let parsed: Vec<_> = all.iter().map(|(text, days)| (Version::parse(text).unwrap(), days_before(*days))).collect();
        let among = parsed.iter().map(|(version, effective)| (version.as_str(), Some(version), *effective));
        let among = advisories.of(name).among(among);
        let wanted = Version::parse(wanted).unwrap();
        among.matching(wanted.as_str(), Some(&wanted)).map(|advisory| advisory.id.to_owned()).collect()
    }

    fn known() -> Timestamp {
        Timestamp::from_second(1_780_000_000).unwrap()
    }

    fn days_before(days: i64) -> Timestamp {
        known() - SignedDuration::from_hours(days * 24)
    }

    #[test]
    fn a_version_is_affected_when_it_is_listed_or_lies_in_a_range() {
        let held = index(&[
            record("MAL-1", "axios", &["1.14.1", "0.30.4"], &[]),
            record("MAL-2", "axios", &[], &["2.0.0"]),
            record("MAL-3", "JSONStream", &[], &["0"]),
        ]);
        assert_eq!(matching(&held, "axios", "1.14.1", &["1.14.1"]), ["MAL-1"]);
        assert_eq!(matching(&held, "axios", "1.14.0", &["1.14.0"]), [""; 0]);
        assert_eq!(matching(&held, "axios", "2.1.0", &["2.1.0"]), ["MAL-2"]);
        assert_eq!(matching(&held, "JSONStream", "1.0.0", &["1.0.0"]), ["MAL-3"]);
        assert!(held.of("jsonstream").is_empty() && held.of("").is_empty() && Advisories::default().of("axios").is_empty());
        assert_eq!((held.count(), held.feeds()[0].packages(), held.called("GHSA-1").count()), (3, 2, 3));
    }

    /// Eleven versions, the first `first` days before the record was known, each `step` days after the one before.
    fn eleven(first: i64, step: i64) -> Vec<(String, i64)> {
        (0..11).map(|patch| (format!("1.0.{patch}"), first - patch * step)).collect()
    }

    fn refused(advisories: &Advisories, wanted: &str, versions: &[(String, i64)]) -> bool {
        let versions: Vec<_> = versions.iter().map(|(version, days)| (&**version, *days)).collect();
        !matching_aged(advisories, "axios", wanted, &versions).is_empty()
    }

    fn broad(known_since: Option<Timestamp>) -> AdvisoryRecord {
        AdvisoryRecord { known_since, ..record("MAL-1", "axios", &["1.0.3"], &["0"]) }
    }

    #[test]
    fn a_dated_record_that_marks_all_of_an_established_package_spares_what_was_there_long_before() {
        let held = index(&[broad(Some(known()))]);
        let versions = eleven(500, 42);
        assert!(refused(&held, "1.0.3", &versions), "it is listed");
        assert!(!refused(&held, "1.0.4", &versions));
        assert!(!refused(&held, "1.0.9", &versions), "122 days before");
        assert!(refused(&held, "1.0.10", &versions), "80 days before");
        assert!(refused(&held, "9.9.9", &versions), "one that is not among them");
        assert!(refused(&held, "1.0.4", &eleven(500, 42)[..10]), "nine that it does not list");
        assert!(refused(&held, "1.0.4", &eleven(380, 36)), "ten within less than a year");
        assert!(refused(&held, "1.0.4", &eleven(440, 42)), "the tenth is 20 days old");
    }

    #[test]
    fn publishing_more_versions_never_escapes_a_record() {
        let held = index(&[broad(Some(known()))]);
        let mut versions = eleven(500, 42)[..9].to_vec();
        assert!(refused(&held, "1.0.0", &versions));
        // Bought in advance on one day, or published once the record is known.
        for days in [40, 20, -1] {
            versions.extend((0..20).map(|patch| (format!("2.{}.{patch}", days + 1), days)));
            assert!(versions.iter().filter(|(version, _)| version.starts_with('2')).all(|(v, _)| refused(&held, v, &versions)));
        }
        let junk: Vec<_> = (0..20).map(|patch| (format!("3.0.{patch}"), 40)).collect();
        assert!(junk.iter().all(|(version, _)| refused(&held, version, &junk)));
    }

    #[test]
    fn a_line_without_a_date_is_obeyed_whole_and_operators_decide_about_records() {
        let versions = eleven(500, 42);
        assert!(refused(&index(&[broad(None)]), "1.0.4", &versions));
        let held = index(&[broad(Some(known()))]);
        let ruled = |ruling| held.clone().ruled(&[("MAL-1".into(), Ruling::SetAside), ("GHSA-1".into(), ruling)]);
        assert!(refused(&ruled(Ruling::Obeyed), "1.0.4", &versions));
        let aside = ruled(Ruling::SetAside);
        assert!(
            !refused(&aside, "1.0.10", &versions) && !refused(&aside, "9.9.9", &versions) && refused(&aside, "1.0.3", &versions)
        );
        let open = |advisories: &Advisories| {
            let parsed: Vec<_> =
                versions.iter().map(|(text, days)| (Version::parse(text).unwrap(), days_before(*days))).collect();
            let dated = parsed.iter().map(|(version, effective)| (version.as_str(), Some(version), *effective));
            advisories.of("axios").among(dated).overbroad().count()
        };
        assert_eq!((open(&held), open(&aside), open(&ruled(Ruling::Obeyed))), (1, 0, 0));
    }

    #[test]
    fn of_two_records_with_one_id_the_later_holds() {
        let held = index(&[record("MAL-1", "axios", &["1.0.0"], &[]), record("MAL-1", "axios", &["2.0.0"], &[])]);
        assert_eq!(held.count(), 1);
        assert_eq!(matching(&held, "axios", "1.0.0", &["1.0.0"]), [""; 0]);
        assert_eq!(matching(&held, "axios", "2.0.0", &["2.0.0"]), ["MAL-1"]);
    }

    #[test]
    fn names_that_fill_the_table_are_all_found() {
        let records: Vec<_> = (0..5_000).map(|at| record(&format!("MAL-{at}"), &format!("p{at}"), &["1.0.0"], &[])).collect();
        let held = index(&records);
        let found =
            |at: usize| held.of(&format!("p{at}")).iter().map(|advisory| advisory.package().to_owned()).collect::<Vec<_>>();
        assert!((0..5_000).all(|at| found(at) == [format!("p{at}")]));
        assert!((5_000..6_000).all(|at| found(at).is_empty()));
    }
}
