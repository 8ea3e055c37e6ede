//! What rules ask about one version: borrowed from the index, the ledger and the feeds, made anew for each judgement. Refuses to
//! know where a fact comes from.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::npm::packument::index::{ManifestTraits, VersionEntry};
use crate::npm::{Integrity, PackageName, Packument, Version};
use crate::policy::advisories::{Advisory, ApplicableAdvisories, NO_ADVISORIES};
use crate::policy::decisions::CHANGED_INTEGRITY;
use crate::policy::malware;
use crate::vetting::{Findings, Signals};

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

/// What is not known of a version because the document it was read from does not carry it. An unknown fact is never "no", and never
/// equal to another unknown one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct UnknownFacts {
    /// Who published it.
    pub publisher: bool,
    /// Who maintains it.
    pub maintainers: bool,
    /// Whether it runs a script at install.
    pub install_script: bool,
    /// Whether it is the fix that an advisory names: that hangs on publishers.
    pub fix: bool,
}

impl UnknownFacts {
    /// Everything is known.
    pub const NONE: Self = Self { publisher: false, maintainers: false, install_script: false, fix: false };

    /// Nothing is known but what is in every document.
    pub const ALL: Self = Self { publisher: true, maintainers: true, install_script: true, fix: true };

    /// Those that are unknown in either.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            publisher: self.publisher || other.publisher,
            maintainers: self.maintainers || other.maintainers,
            install_script: self.install_script || other.install_script,
            fix: self.fix || other.fix,
        }
    }
}

/// What rules ask about one version.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The package.
    pub name: &'a PackageName,
    /// The key in `versions`.
    pub version: &'a str,
    /// The key as a version; `None` when it is none.
    pub parsed: Option<&'a Version>,
    /// What upstream says, if it says anything usable.
    pub published: Option<Timestamp>,
    /// The effective publish time (DESIGN §4).
    pub effective: Timestamp,
    /// When the package's oldest release was published; `None` when nobody knows: then no rule takes it for new.
    pub born: Option<Timestamp>,
    /// When the oldest release of the package was published that pins exactly this version as one of its own parts (same scope,
    /// version and publisher: `esbuild` and `@esbuild/linux-x64`); `None` when none is known.
    pub kin: Option<Timestamp>,
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
    /// The longest age that any rule names: below it a version that went was taken down. Asked only of versions that went.
    pub longest_age: Duration,
    /// What its manifest says of itself: install scripts, dependencies from elsewhere, deprecation.
    pub traits: ManifestTraits,
    /// Who published it, by name; `None` where upstream does not say.
    pub publisher: Option<&'a str>,
    /// Who maintains it, by name.
    pub maintainers: &'a [Arc<str>],
    /// The package's dist-tags, as upstream has them.
    pub tags: &'a [(Box<str>, Box<str>)],
    /// Positions in `tags`, sorted by the version they point to; empty where they are not sorted.
    pub tags_by_target: &'a [u32],
    /// The advisories on the package, beside all its versions.
    pub advisories: &'a ApplicableAdvisories<'a>,
    /// The reviewed advisory of a vulnerability that names exactly this version as the fix, if whoever published it had published
    /// the package before; `None` where nobody knows.
    pub fix: Option<&'a str>,
    /// What the document does not carry.
    pub unknown: UnknownFacts,
    /// What differs from its predecessors.
    pub signals: Signals,
    /// Signals that are neither found nor excluded.
    pub undecided: Signals,
    /// What opening its tarball showed.
    pub findings: Findings,
}

impl<'a> Facts<'a> {
    /// A version of which nothing else is known: present, honest, of a package of unknown age.
    #[must_use]
    pub fn of(name: &'a PackageName, version: &'a str, effective: Timestamp) -> Self {
        Self {
            name,
            version,
            parsed: None,
            published: Some(effective),
            effective,
            born: None,
            kin: None,
            flaw: None,
            has_integrity: true,
            integrity: None,
            integrity_changed: false,
            presence: Presence::Present,
            longest_age: Duration::ZERO,
            traits: ManifestTraits::default(),
            publisher: None,
            maintainers: &[],
            tags: &[],
            tags_by_target: &[],
            advisories: &NO_ADVISORIES,
            fix: None,
            unknown: UnknownFacts::NONE,
            signals: Signals::NONE,
            undecided: Signals::NONE,
            findings: Findings::NONE,
        }
    }

    /// What a packument says of one of its entries, whose effective publish time is `effective`.
    #[must_use]
    pub fn of_entry(packument: &'a Packument, entry: &'a VersionEntry, effective: Timestamp) -> Self {
        Self {
            parsed: entry.version.as_ref(),
            published: entry.published,
            // Of a packument without any time nobody knows: what it holds waits as releases do, from when it was first seen.
            born: packument.oldest.map(|oldest| oldest.min(effective)),
            flaw: entry.flaw.as_deref(),
            has_integrity: entry.integrity.is_some(),
            integrity: entry.integrity.as_ref(),
            traits: entry.traits,
            publisher: entry.publisher.as_deref(),
            maintainers: entry.maintainers.as_deref().unwrap_or_default(),
            tags: &packument.dist_tags,
            tags_by_target: &packument.tags_by_target,
            ..Self::of(&packument.name, &entry.key, effective)
        }
    }

    /// What refuses it above all rules and yields to an approval that names it: advisories of malware, and a changed integrity.
    #[must_use]
    pub(crate) fn records(&self) -> Vec<&'a str> {
        let advisories = malware::condemning(self.advisories, self.version, self.parsed).map(|advisory| advisory.id);
        self.integrity_changed.then_some(CHANGED_INTEGRITY).into_iter().chain(advisories).collect()
    }

    /// The advisories that name this version, in the order of the feeds.
    pub fn advised(&self) -> impl Iterator<Item = Advisory<'a>> {
        self.advisories.matching(self.version, self.parsed)
    }

    /// The dist-tags that point to it: found by search, since a packument may have thousands of them and as many versions.
    pub fn pointing(&self) -> impl Iterator<Item = &'a str> {
        let (tags, version) = (self.tags, self.version);
        let target = move |at: &u32| tags.get(*at as usize).map_or("", |(_, target)| &**target);
        let sorted = if self.tags_by_target.len() == tags.len() { self.tags_by_target } else { &[] };
        let first = sorted.partition_point(|at| target(at) < version);
        let found = sorted[first..].iter().take_while(move |at| target(at) == version).map(|at| *at as usize);
        // Unsorted ones come from tests and from replays, which have few.
        let few = (0..if sorted.is_empty() { tags.len() } else { 0 }).filter(move |at| *tags[*at].1 == *version);
        found.chain(few).map(move |at| &*tags[at].0)
    }
}
