//! Facts about one version that rules test. They are borrowed from the index, the ledger and the feeds, and are built for each
//! evaluation.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::npm::packument::index::{ManifestTraits, TagIndex, VersionEntry};
use crate::npm::{Integrity, PackageName, Packument, Version};
use crate::policy::advisories::{ApplicableAdvisories, NO_ADVISORIES};
use crate::vetting::FindingEvidence;
use crate::vetting::compare::SignalEvidence;
use crate::vetting::{Findings, Signals};

/// Whether the newest packument has the version. If not, what the ledger knows of its removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Present,
    Gone(Removal),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removal {
    /// When the version was last seen. `None` if it never was.
    pub last_seen: Option<Timestamp>,
    /// Whether a security placeholder replaced the package.
    pub replaced: bool,
    /// The longest age that any rule names. A version below this age counts as taken down.
    pub longest_age: Duration,
}

/// Facts that are unknown because the document does not carry them. An unknown fact never counts as "no" and never equals another
/// unknown fact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct UnknownFacts {
    pub publisher: bool,
    pub maintainers: bool,
    pub install_script: bool,
    /// Whether the version is the fix that an advisory names. This depends on publishers.
    pub fix: bool,
}

impl UnknownFacts {
    pub const NONE: Self = Self { publisher: false, maintainers: false, install_script: false, fix: false };

    /// Only the facts that every document carries are known.
    pub const ALL: Self = Self { publisher: true, maintainers: true, install_script: true, fix: true };

    #[must_use]
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            publisher: self.publisher || other.publisher,
            maintainers: self.maintainers || other.maintainers,
            install_script: self.install_script || other.install_script,
            fix: self.fix || other.fix,
        }
    }
}

/// Siblings that a version needs and that open later: it opens with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CohortWait {
    /// When the version opens.
    pub until: Timestamp,
    /// The sibling that opens last, as `name@version`.
    pub sibling: String,
    /// When that sibling opens.
    pub sibling_opens: Timestamp,
}

/// Facts about one version that rules test.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub name: &'a PackageName,
    pub version: &'a str,
    /// The parsed key. `None` if it is not a valid version.
    pub parsed: Option<&'a Version>,
    /// The publish time from upstream, if it is usable.
    pub published: Option<Timestamp>,
    /// The effective publish time (ARCHITECTURE.md, Semantics 4).
    pub effective: Timestamp,
    /// When the package's oldest release was published. If it is unknown (`None`), no rule treats the package as new.
    pub first_published: Option<Timestamp>,
    /// When the oldest release of the parent package was published. The parent pins exactly this version as its subpackage, with
    /// the same scope, version and publisher (`esbuild` and `@esbuild/linux-x64`). `None` if no parent is known.
    pub parent: Option<Timestamp>,
    /// How the manifest contradicts its packument.
    pub flaw: Option<&'a str>,
    /// Whether the packument states a digest that can be checked.
    pub has_integrity: bool,
    /// The digest, if it is known already. An approval is valid for these bytes only.
    pub integrity: Option<&'a Integrity>,
    /// Whether this version was seen with a different integrity before.
    pub integrity_changed: bool,
    pub presence: Presence,
    /// Traits from the manifest: install scripts, dependencies from outside a registry, deprecation.
    pub traits: ManifestTraits,
    /// The publisher's name. `None` if upstream does not state it.
    pub publisher: Option<&'a str>,
    pub maintainers: &'a [Arc<str>],
    /// The package's dist-tags as upstream states them.
    pub tags: TagIndex<'a>,
    /// The advisories that apply to the package, given all its versions.
    pub advisories: &'a ApplicableAdvisories<'a>,
    /// The id of a reviewed vulnerability advisory that names exactly this version as the fix. Set only if the publisher had
    /// published the package before. `None` if unknown.
    pub fix: Option<&'a str>,
    /// Facts that the document does not carry.
    pub unknown: UnknownFacts,
    /// Differences from earlier releases.
    pub signals: Signals,
    /// Signals that upstream's documents cannot show, or that have no earlier release to compare with.
    pub unobservable: Signals,
    /// Signals that depend on look-ups that have not ended. Rules that refuse on a signal refuse on a pending one too.
    pub pending: Signals,
    /// What each signal is based on.
    pub evidence: &'a [SignalEvidence],
    /// Findings from the contents of the tarball.
    pub findings: Findings,
    /// What each finding is based on.
    pub finding_evidence: &'a [FindingEvidence],
    /// Siblings that it needs and that open later.
    pub cohort: Option<&'a CohortWait>,
}

impl<'a> Facts<'a> {
    /// Returns facts for a present version without signals or advisories, in a package of unknown age.
    pub(crate) fn of(name: &'a PackageName, version: &'a str, effective: Timestamp) -> Self {
        Self {
            name,
            version,
            parsed: None,
            published: Some(effective),
            effective,
            first_published: None,
            parent: None,
            flaw: None,
            has_integrity: true,
            integrity: None,
            integrity_changed: false,
            presence: Presence::Present,
            traits: ManifestTraits::default(),
            publisher: None,
            maintainers: &[],
            tags: TagIndex::default(),
            advisories: &NO_ADVISORIES,
            fix: None,
            unknown: UnknownFacts::NONE,
            signals: Signals::NONE,
            unobservable: Signals::NONE,
            pending: Signals::NONE,
            evidence: &[],
            findings: Findings::NONE,
            finding_evidence: &[],
            cohort: None,
        }
    }

    /// Returns the facts that a packument states about one entry with the effective publish time `effective`.
    pub fn of_entry(packument: &'a Packument, entry: &'a VersionEntry, effective: Timestamp) -> Self {
        Self {
            parsed: entry.version.as_ref(),
            published: entry.published,
            // Without any publish time in the packument the package age is unknown. Its releases still wait, from when they were
            // first seen.
            first_published: packument.oldest.map(|oldest| oldest.min(effective)),
            flaw: entry.inconsistency.as_deref(),
            has_integrity: entry.integrity.is_some(),
            integrity: entry.integrity.as_ref(),
            traits: entry.traits,
            publisher: entry.publisher.as_deref(),
            maintainers: entry.maintainers.as_deref().unwrap_or_default(),
            tags: TagIndex { tags: &packument.dist_tags, by_target: &packument.order.tags_by_target },
            ..Self::of(&packument.name, &entry.key, effective)
        }
    }
}
