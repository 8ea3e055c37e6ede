//! One advisory on one package, borrowed from the index of its feed.

use jiff::Timestamp;

use crate::npm::Version;
use crate::policy::advisories::affected::{AffectedRange, RangeEnd};
use crate::policy::advisories::index::{FeedAdvisories, IndexRow};
use crate::policy::advisories::record::{AdvisoryKind, FeedTrust, Severity};

/// One advisory on one package, borrowed from the index.
#[derive(Debug, Clone, Copy)]
pub struct Advisory<'a> {
    /// `MAL-2026-2307`, `GHSA-…`.
    pub id: &'a str,
    /// The name of the feed in the configuration.
    pub feed: &'a str,
    pub kind: AdvisoryKind,
    /// The severity of a vulnerability, if stated.
    pub severity: Option<Severity>,
    pub trust: FeedTrust,
    /// One line for display. May be empty.
    pub summary: &'a str,
    /// The time of the last change, if stated.
    pub modified: Option<Timestamp>,
    /// Since when the record is known. `None` for an entry of a plain list.
    pub known_since: Option<Timestamp>,
    /// Whether a person at the advisory database reviewed it.
    pub reviewed: bool,
    index: &'a FeedAdvisories,
    row: &'a IndexRow,
}

impl<'a> Advisory<'a> {
    pub(crate) fn new(index: &'a FeedAdvisories, row: &'a IndexRow) -> Self {
        Self {
            id: index.text(row.id),
            feed: &index.feed,
            kind: row.kind,
            severity: row.severity,
            trust: index.trust,
            summary: index.text(row.summary),
            modified: row.modified.instant(),
            known_since: row.known_since.instant(),
            reviewed: row.reviewed,
            index,
            row,
        }
    }

    /// Returns the other ids of the same advisory.
    pub(crate) fn aliases(self) -> impl Iterator<Item = &'a str> {
        self.index.text(self.row.aliases).split('\n').filter(|alias| !alias.is_empty())
    }

    pub(crate) fn is_called(self, id: &str) -> bool {
        self.id == id || self.aliases().any(|alias| alias == id)
    }

    /// Returns the CVSS vector. May be empty.
    pub(crate) fn cvss(self) -> &'a str {
        self.index.text(self.row.cvss)
    }

    /// Returns the weaknesses: `CWE-79`.
    pub(crate) fn cwes(self) -> impl Iterator<Item = &'a str> {
        self.index.text(self.row.cwes).split('\n').filter(|cwe| !cwe.is_empty())
    }

    pub(crate) fn package(self) -> &'a str {
        self.index.text(self.row.package)
    }

    /// Checks whether the advisory affects a version by OSV's rule: the version is listed or in a range. `version` is the parsed
    /// `key`.
    pub(crate) fn affects(self, key: &str, version: Option<&Version>) -> bool {
        self.names(key, version) || self.wholesale().any(|span| version.is_none_or(|version| span.contains(version)))
    }

    /// Checks whether the advisory covers every version (`introduced: 0` without an end).
    pub(crate) fn affects_every_version(self) -> bool {
        self.wholesale().next().is_some()
    }

    /// Returns the listed versions, as written.
    pub(crate) fn listed_versions(self) -> impl Iterator<Item = &'a str> {
        self.index.versions[self.row.versions.range()].iter().map(move |text| self.index.text(*text))
    }

    pub(crate) fn fixed_versions(self) -> impl Iterator<Item = &'a Version> {
        self.spans().iter().filter_map(|span| match &span.end {
            RangeEnd::Before(end) => Some(end),
            RangeEnd::Open | RangeEnd::Through(_) => None,
        })
    }

    /// Returns the affected versions as an npm range.
    pub(crate) fn vulnerable_versions(self) -> String {
        let spans = self.spans().iter().map(AffectedRange::to_range);
        let mut parts: Vec<String> = spans.collect();
        if !parts.iter().any(|part| part == "*") {
            parts.extend(self.listed_versions().map(|version| format!("={version}")));
        }
        parts.join(" || ")
    }

    /// Checks whether the version is listed or in a range that does not cover everything.
    pub(crate) fn names(self, key: &str, version: Option<&Version>) -> bool {
        let listed =
            self.index.versions[self.row.versions.range()].binary_search_by(|text| self.index.text(*text).cmp(key)).is_ok();
        listed || version.is_some_and(|version| self.narrow().any(|span| span.contains(version)))
    }

    fn spans(self) -> &'a [AffectedRange] {
        if self.row.everything {
            std::slice::from_ref(&AffectedRange::EVERYTHING)
        } else {
            &self.index.spans[self.row.spans.range()]
        }
    }

    fn wholesale(self) -> impl Iterator<Item = &'a AffectedRange> {
        let everything = self.row.everything.then_some(&AffectedRange::EVERYTHING);
        everything.into_iter().chain(self.index.spans[self.row.spans.range()].iter().filter(|span| span.is_unbounded()))
    }

    fn narrow(self) -> impl Iterator<Item = &'a AffectedRange> {
        self.index.spans[self.row.spans.range()].iter().filter(|span| !span.is_unbounded())
    }
}
