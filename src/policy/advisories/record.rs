//! One record of a feed on one package, and the words that classify it.

use jiff::Timestamp;

use crate::policy::advisories::affected::AffectedRange;
use crate::text::words;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AdvisoryKind {
    #[default]
    Malware,
    /// The package has a security flaw.
    Vulnerability,
}

/// Severity of a vulnerability, in npm's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    Low,
    Moderate,
    High,
    Critical,
}

/// Trust level of a feed, strictest first: what a malware record in it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FeedTrust {
    /// Listed versions are denied.
    Deny,
    /// Listed versions are held until they reach an age.
    Hold,
    /// Listed versions cause a warning only.
    Warn,
}

impl Severity {
    /// Returns the severity for a CVSS score.
    pub(crate) fn of_score(score: f64) -> Self {
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

/// One record on one package, the input of an index. Withdrawn records must be left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AdvisoryRecord {
    /// `MAL-2026-2307`, `GHSA-…`.
    pub id: Box<str>,
    /// Other ids of the same advisory.
    pub aliases: Vec<Box<str>>,
    pub kind: AdvisoryKind,
    /// The severity, if stated.
    pub severity: Option<Severity>,
    /// Whether a person at the advisory database reviewed it (`github_reviewed`).
    pub reviewed: bool,
    /// One line for display. May be empty.
    pub summary: Box<str>,
    /// The time of the last change, if stated.
    pub modified: Option<Timestamp>,
    /// Since when the record is known: the earlier of its publication and its first import. `None` for an entry of a plain list.
    pub known_since: Option<Timestamp>,
    /// The CVSS vector. May be empty.
    pub cvss: Box<str>,
    /// Weaknesses: `CWE-79`.
    pub cwes: Vec<Box<str>>,
    /// The package's exact name.
    pub package: Box<str>,
    /// The listed versions, as written.
    pub versions: Vec<Box<str>>,
    pub spans: Vec<AffectedRange>,
    /// Domains and addresses that the malware contacts, normalized by `indicators`, and digests of its tarballs as SRI.
    pub indicators: Vec<Box<str>>,
}
