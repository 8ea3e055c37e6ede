//! The index of a packument: facts about each version and the byte spans of its parts.
//!
//! Does not hold the document; bytes are referenced by `ByteSpan`. `parse` builds the index, `render` writes documents from it.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::npm::integrity::Integrity;
use crate::npm::name::PackageName;
use crate::npm::packument::json::ByteSpan;
use crate::npm::packument::manifest_digest::ScriptsDigest;
use crate::npm::packument::release_shape::ReleaseShape;
use crate::npm::packument::signatures::StatedSignatures;
use crate::npm::semver::version::Version;

/// Keys that are searched for a version with build metadata: it sorts after the plain version, with only invalid keys between.
const MAX_BUILD_KEYS: usize = 8;

/// Returns a version without its build metadata, which SemVer and npm ignore.
pub(crate) fn without_build(version: &str) -> &str {
    version.split('+').next().unwrap_or(version)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "the facts are independent")]
pub struct ManifestTraits {
    pub deprecated: bool,
    /// Whether npm would run one of its scripts at install.
    pub install_script: bool,
    pub git_dependency: bool,
    /// Whether it depends on a tarball at a URL.
    pub url_dependency: bool,
    /// Whether it depends on a folder or file of the installing machine.
    pub file_dependency: bool,
}

/// Facts that only comparisons between versions need, not rules.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "the facts are independent")]
pub struct Outline {
    /// Names to compare; `None` if the document has too many.
    pub shape: Option<Arc<ReleaseShape>>,
    /// `dist.unpackedSize` in bytes; 0 if it is not stated.
    pub unpacked_bytes: u64,
    /// `dist.fileCount`; 0 if it is not stated.
    pub files: u32,
    /// Whether the registry has an attestation of its build (`dist.attestations`).
    pub has_provenance: bool,
    /// Whether that attestation is provenance in the form of SLSA, which can be verified.
    pub has_slsa_provenance: bool,
    /// Whether it was published by a trusted publisher (`_npmUser.trustedPublisher`).
    pub is_trusted: bool,
    /// Whether npm would build it without a script (`gypfile`).
    pub has_gyp: bool,
    /// Whether its manifest has `scripts`, so that the absence of a script is known.
    pub has_scripts: bool,
    /// Whether it ships its own lockfile (`_hasShrinkwrap`).
    pub has_shrinkwrap: bool,
    /// Whether it names the commit that it was published from (`gitHead`).
    pub has_commit: bool,
}

/// The facts about one version that rules use, and the span of its manifest.
#[derive(Debug, Clone)]
pub struct VersionEntry {
    /// The key in `versions`, decoded.
    pub key: Box<str>,
    /// The key as a version; `None` if invalid (then `inconsistency` is set too).
    pub version: Option<Version>,
    /// Its entry in `time`; `None` if missing or invalid.
    pub published: Option<Timestamp>,
    /// `dist.integrity` and `dist.shasum`.
    pub integrity: Option<Integrity>,
    /// `dist.tarball` as upstream wrote it.
    pub tarball: Box<str>,
    pub traits: ManifestTraits,
    /// SHA-256 of the members that clients resolve by, the dependency maps and `bin`; see `manifest_digest`.
    pub resolution: [u8; 32],
    /// A digest of the scripts npm runs at install; `None` if there are none.
    pub install_scripts: Option<ScriptsDigest>,
    /// The publisher (`_npmUser.name`), shared between versions.
    pub publisher: Option<Arc<str>>,
    /// The names of its `maintainers`, shared between versions with the same ones.
    pub maintainers: Option<Arc<[Arc<str>]>>,
    pub outline: Outline,
    /// Why the manifest is not trusted, as text; the version is then hidden.
    pub inconsistency: Option<Box<str>>,
    pub(crate) spans: EntrySpans,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct EntrySpans {
    /// Key and manifest: `"1.0.0":{…}`.
    pub(crate) entry: ByteSpan,
    pub(crate) manifest: ByteSpan,
    /// The value of `dist.tarball`, quotes included; empty if there is none.
    pub(crate) tarball: ByteSpan,
}

/// A dependency on exactly one version of a package that is published together with the depending one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiblingPin {
    /// The position of the entry that depends on it.
    pub position: u32,
    pub name: Arc<str>,
    pub version: Arc<str>,
}

/// The dist-tags of a package, for lookups by version.
#[derive(Debug, Clone, Copy, Default)]
pub struct TagIndex<'a> {
    /// Tag, then version.
    pub(crate) tags: &'a [(Box<str>, Box<str>)],
    /// Positions in `tags`, sorted by the version they point to. Empty for a few tags, which are searched linearly.
    pub(crate) by_target: &'a [u32],
}

impl<'a> TagIndex<'a> {
    /// Returns the tags that point to `version`. Uses binary search, since a packument may have thousands of tags and versions.
    pub(crate) fn pointing_to(self, version: &'a str) -> impl Iterator<Item = &'a str> {
        let Self { tags, by_target } = self;
        let target = move |at: &u32| tags.get(*at as usize).map_or("", |(_, target)| &**target);
        let sorted = if by_target.len() == tags.len() { by_target } else { &[] };
        let first = sorted.partition_point(|at| target(at) < version);
        let found = sorted[first..].iter().take_while(move |at| target(at) == version).map(|at| *at as usize);
        let few = (0..if sorted.is_empty() { tags.len() } else { 0 }).filter(move |at| *tags[*at].1 == *version);
        found.chain(few).map(move |at| &*tags[at].0)
    }
}

/// Which kinds of members a document has. Mirrors and abbreviated documents lack some.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each field is about one member of the document")]
pub struct PackumentContents {
    pub has_time: bool,
    /// Whether any manifest states a publisher (`_npmUser`).
    pub has_publishers: bool,
    /// Whether any manifest has a registry signature (`dist.signatures`).
    pub has_signatures: bool,
    /// Whether any manifest announces provenance (`dist.attestations`).
    pub has_attestations: bool,
    /// Whether the document has members that abbreviated documents lack, such as `readme`.
    pub has_more: bool,
}

#[derive(Debug, Clone)]
pub struct Packument {
    /// The requested package, which is also the one in the document.
    pub name: PackageName,
    /// All versions in document order.
    pub entries: Vec<VersionEntry>,
    /// `dist-tags` in the document's order, decoded.
    pub dist_tags: Vec<(Box<str>, Box<str>)>,
    /// Versions that are in `time` but no longer in `versions`, with their publish time if valid; sorted.
    pub removed: Vec<(Box<str>, Option<Timestamp>)>,
    pub contents: PackumentContents,
    /// The stated time of the last modification: `time.modified`, or `modified` of an abbreviated document.
    pub modified: Option<Timestamp>,
    /// The publish time of its oldest release, removed ones included; `None` if no time is valid.
    pub oldest: Option<Timestamp>,
    pub siblings: StatedSiblings,
    /// What each version states of the registry's signature, by position.
    pub signatures: StatedSignatures,
    /// Length of the document in bytes.
    pub length: u64,
    pub(crate) layout: DocumentLayout,
    pub(crate) order: PackumentOrder,
}

/// Other packages that versions need in exactly one version.
#[derive(Debug, Clone, Default)]
pub struct StatedSiblings {
    /// Packages of its scope that versions pin to their own version (`@esbuild/…`), with the positions of the pinning entries.
    pub parts: HashMap<Box<str>, Vec<u32>>,
    /// Exact dependencies on packages that are named as its siblings, ordered by position.
    pub pins: Box<[SiblingPin]>,
}

impl StatedSiblings {
    /// Checks whether the entry at `at` pins the package `name` to its own version. Searches, because a package may pin one part in
    /// 100,000 versions.
    pub(crate) fn pins_part(&self, at: usize, name: &str) -> bool {
        // Positions are in the document's order.
        self.parts.get(name).is_some_and(|pins| pins.binary_search_by_key(&at, |position| *position as usize).is_ok())
    }
}

/// Orders for lookups.
#[derive(Debug, Clone)]
pub(crate) struct PackumentOrder {
    /// Positions in `entries`, sorted by key.
    pub(crate) by_key: Vec<u32>,
    /// Positions in `dist_tags`, sorted by the version they point to.
    pub(crate) tags_by_target: Vec<u32>,
}

/// Spans of the parts of the document that are rewritten.
#[derive(Debug, Clone, Default)]
pub(crate) struct DocumentLayout {
    pub(crate) name: Option<ByteSpan>,
    pub(crate) dist_tags: Option<ByteSpan>,
    /// The value of `versions`, braces included.
    pub(crate) versions: Option<ByteSpan>,
    pub(crate) time: Option<ByteSpan>,
    pub(crate) modified: Option<ByteSpan>,
    /// The member `policyRestrictions` of an upstream that is a firewall too, with its separating comma.
    pub(crate) restrictions: Option<ByteSpan>,
    pub(crate) has_members: bool,
    pub(crate) closing: u32,
}

impl PackumentContents {
    /// Returns the members that npm's registry sends and this document lacks, by their npm names.
    pub fn missing(self) -> Vec<&'static str> {
        let members = [
            (self.has_time, "time"),
            (self.has_publishers, "_npmUser"),
            (self.has_signatures, "dist.signatures"),
            (self.may_have_attestations(), "dist.attestations"),
        ];
        members.into_iter().filter(|(there, _)| !there).map(|(_, member)| member).collect()
    }

    /// Checks whether the registry may send attestations. Most packages have none. Where signatures are missing, which each
    /// package has, attestations are left out too.
    pub fn may_have_attestations(self) -> bool {
        self.has_signatures || self.has_attestations
    }
}

impl Packument {
    pub fn find(&self, key: &str) -> Option<(usize, &VersionEntry)> {
        let rank = self.order.by_key.binary_search_by(|&at| (*self.entries[at as usize].key).cmp(key)).ok()?;
        let at = self.order.by_key[rank] as usize;
        Some((at, &self.entries[at]))
    }

    /// Returns the siblings that the entry at `at` needs exactly.
    pub(crate) fn pins_of(&self, at: usize) -> &[SiblingPin] {
        let first = self.siblings.pins.partition_point(|pin| (pin.position as usize) < at);
        let count = self.siblings.pins[first..].partition_point(|pin| pin.position as usize == at);
        &self.siblings.pins[first..first + count]
    }

    pub(crate) fn dist_tag(&self, tag: &str) -> Option<&str> {
        self.dist_tags.iter().find(|(name, _)| **name == *tag).map(|(_, target)| &**target)
    }

    pub(crate) fn find_departed(&self, key: &str) -> Option<&(Box<str>, Option<Timestamp>)> {
        let at = self.removed.binary_search_by(|(removed, _)| (**removed).cmp(key)).ok()?;
        Some(&self.removed[at])
    }

    /// Returns the entry of this version, ignoring build metadata on both sides, since SemVer and npm treat them as one version.
    pub(crate) fn find_same(&self, version: &str) -> Option<(usize, &VersionEntry)> {
        let (plain, entries) = (without_build(version), &self.entries);
        let longer = || {
            let first = self.order.by_key.partition_point(|&at| *entries[at as usize].key < *plain);
            let built = |at: &&u32| entries[**at as usize].key.strip_prefix(plain).is_some_and(|rest| rest.starts_with('+'));
            let at = *self.order.by_key[first..].iter().take(MAX_BUILD_KEYS).find(built)? as usize;
            Some((at, &entries[at]))
        };
        self.find(version).or_else(|| self.find(plain)).or_else(longer)
    }

    /// Returns an index of only the entries that `keeps` accepts, with these dist-tags. For lookups, not for rendering.
    pub(crate) fn restricted_to(&self, keeps: &dyn Fn(usize) -> bool, dist_tags: Vec<(Box<str>, Box<str>)>) -> Self {
        let kept: Vec<u32> = (0..).zip(&self.entries).filter(|(at, _)| keeps(*at as usize)).map(|(at, _)| at).collect();
        let new_position = |at: &u32| kept.binary_search(at).ok().and_then(|position| u32::try_from(position).ok());
        Self {
            entries: kept.iter().map(|at| self.entries[*at as usize].clone()).collect(),
            order: PackumentOrder {
                by_key: self.order.by_key.iter().filter_map(new_position).collect(),
                tags_by_target: by_target(&dist_tags),
            },
            dist_tags,
            siblings: StatedSiblings::default(),
            signatures: StatedSignatures::default(),
            ..self.clone()
        }
    }

    /// Returns the approximate memory of the index in bytes.
    pub(crate) fn weight(&self) -> usize {
        let of_entry = |entry: &VersionEntry| {
            let digests = entry.integrity.as_ref().map_or(0, |integrity| integrity.digests().len() * 96);
            // Divided among the versions that share it.
            let shape = entry.outline.shape.as_ref().map_or(0, |shape| shape.weight() / Arc::strong_count(shape).max(1));
            size_of::<VersionEntry>() + entry.key.len() * 2 + entry.tarball.len() + digests + shape
        };
        let entries: usize = self.entries.iter().map(of_entry).sum();
        let tags: usize = self.dist_tags.iter().map(|(tag, version)| tag.len() + version.len() + 32).sum();
        let removed: usize = self.removed.iter().map(|(key, _)| key.len() + 40).sum();
        let parts: usize = self.siblings.parts.iter().map(|(name, positions)| name.len() + positions.len() * 4 + 64).sum();
        let pins = self.siblings.pins.len() * size_of::<SiblingPin>();
        size_of::<Self>()
            + parts
            + pins
            + self.signatures.weight()
            + entries
            + (self.order.by_key.len() + self.order.tags_by_target.len()) * 4
            + tags
            + removed
    }

    /// Checks whether every version has a publish time, apart from inconsistent ones.
    pub(crate) fn is_timed(&self) -> bool {
        self.entries.iter().all(|entry| entry.published.is_some() || entry.inconsistency.is_some())
    }

    /// Checks whether only `0.0.1-security` is left, the placeholder by which the registry's team replaces a malicious package.
    pub(crate) fn is_security_placeholder(&self) -> bool {
        !self.entries.is_empty() && self.entries.iter().all(|entry| entry.key.ends_with("-security"))
    }
}

/// Returns the positions of dist-tags, sorted by target version.
pub(crate) fn by_target(tags: &[(Box<str>, Box<str>)]) -> Vec<u32> {
    let mut positions: Vec<u32> = (0..).take(tags.len()).collect();
    positions.sort_by(|left, right| tags[*left as usize].1.cmp(&tags[*right as usize].1));
    positions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_stays_small() {
        // Every version of every cached packument has one.
        assert_eq!(size_of::<VersionEntry>().max(288), 288);
    }
}
