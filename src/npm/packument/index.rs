//! A packument as an index: one fact sheet a version, and where its bytes lie in the document.
//!
//! Refuses to hold the document, or any tree of it: bytes stay outside and are named by [`ByteSpan`]. How it is read is in
//! `ingest`, how it is written again in `render`.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::npm::integrity::Integrity;
use crate::npm::name::PackageName;
use crate::npm::packument::manifest_digest::ScriptsDigest;
use crate::npm::semver::version::Version;

/// Keys that are read for one with build metadata: it sorts right behind the version itself, before which only junk can be.
const SAME_VERSIONS: usize = 8;

/// A version without its build metadata, which neither SemVer nor npm counts.
#[must_use]
pub fn without_build(version: &str) -> &str {
    version.split('+').next().unwrap_or(version)
}

/// Part of the document: from `start` up to, not including, `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteSpan {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl ByteSpan {
    /// The part itself.
    #[must_use]
    pub fn of(self, document: &[u8]) -> &[u8] {
        document.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    pub(crate) fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// What a manifest says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact by itself")]
pub struct ManifestTraits {
    /// Whether its maintainer deprecated it.
    pub deprecated: bool,
    /// Whether npm would run a script of it at install.
    pub install_script: bool,
    /// Whether it depends on a git repository.
    pub git_dependency: bool,
    /// Whether it depends on a tarball at a URL.
    pub url_dependency: bool,
    /// Whether it depends on a folder or a file of the installing machine.
    pub file_dependency: bool,
}

/// What a comparison of two versions needs of each, besides what rules ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact by itself")]
pub struct Outline {
    /// The names of its dependencies as one digest; `None` where it has none.
    pub dependencies: Option<[u8; 16]>,
    /// Whether the registry has an attestation of how it was built (`dist.attestations`).
    pub has_provenance: bool,
    /// Whether it came from a trusted publisher (`_npmUser.trustedPublisher`).
    pub is_trusted: bool,
    /// Whether npm would build it without a script (`gypfile`).
    pub has_gyp: bool,
    /// Whether its manifest has `scripts`, so that it is known of each whether it is among them.
    pub has_scripts: bool,
}

/// What rules ask about one version, and where its manifest lies.
#[derive(Debug, Clone)]
pub struct VersionEntry {
    /// The key in `versions`, decoded.
    pub key: Box<str>,
    /// The key as a version; `None` when it is none (then there is a flaw too).
    pub version: Option<Version>,
    /// Its entry in `time`; `None` when missing or unparsable.
    pub published: Option<Timestamp>,
    /// `dist.integrity` and `dist.shasum`.
    pub integrity: Option<Integrity>,
    /// `dist.tarball` as upstream wrote it.
    pub tarball: Box<str>,
    /// What its manifest says of itself.
    pub traits: ManifestTraits,
    /// SHA-256 of what clients resolve by: its dependency maps and `bin`, see `manifest_digest`.
    pub resolution: [u8; 32],
    /// The scripts that npm runs at install, as one digest; `None` where it states none.
    pub install_scripts: Option<ScriptsDigest>,
    /// Who published it (`_npmUser.name`), shared between the versions.
    pub publisher: Option<Arc<str>>,
    /// Who maintained it then (`maintainers`, names), shared between versions that have the same.
    pub maintainers: Option<Arc<[Arc<str>]>>,
    /// What a comparison with other versions needs.
    pub outline: Outline,
    /// Why this manifest cannot be believed, in words; it is hidden then.
    pub flaw: Option<Box<str>>,
    /// Key and manifest: `"1.0.0":{…}`.
    pub(crate) span: ByteSpan,
    /// The manifest alone.
    pub(crate) manifest: ByteSpan,
    /// The value of `dist.tarball`, quotes included; empty when there is none.
    pub(crate) tarball_value: ByteSpan,
}

impl VersionEntry {
    /// The bytes this entry holds on the heap and in place, about.
    fn weight(&self) -> usize {
        let digests = self.integrity.as_ref().map_or(0, |integrity| integrity.digests().len() * 96);
        size_of::<Self>() + self.key.len() * 2 + self.tarball.len() + digests
    }
}

/// The index of one packument.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each says of one member whether the document has it")]
pub struct Packument {
    /// The package that was asked for, and that the document says it is.
    pub name: PackageName,
    /// Every version, in the document's order.
    pub entries: Vec<VersionEntry>,
    /// `dist-tags` in the document's order, decoded.
    pub dist_tags: Vec<(Box<str>, Box<str>)>,
    /// Positions in `dist_tags`, sorted by the version they point to.
    pub tags_by_target: Vec<u32>,
    /// Versions that stand in `time` and no longer in `versions`, with their publish time where it can be read; sorted.
    pub departed: Vec<(Box<str>, Option<Timestamp>)>,
    /// Whether `time` has any entry at all: a mirror may strip it.
    pub has_time: bool,
    /// When it was last modified, as it says: `time.modified`, or `modified` of an abbreviated document.
    pub modified: Option<Timestamp>,
    /// Whether any manifest says who published it (`_npmUser`).
    pub has_publishers: bool,
    /// Whether any manifest carries the registry's signature (`dist.signatures`).
    pub has_signatures: bool,
    /// Whether the document has members that are in no abbreviated one, such as `readme`.
    pub has_more: bool,
    /// When its oldest release was published, those that are gone included; `None` where no time can be read.
    pub oldest: Option<Timestamp>,
    /// Parts of it: packages of its own scope that versions of it pin to their own version, as `esbuild` does `@esbuild/linux-x64`.
    /// By name, with the places of the entries that do.
    pub parts: HashMap<Box<str>, Vec<u32>>,
    /// Length of the document, in bytes.
    pub length: u64,
    pub(crate) layout: DocumentLayout,
    /// Positions in `entries`, sorted by key: for look-ups.
    pub(crate) by_key: Vec<u32>,
}

/// Where the parts of the document lie that are written anew.
#[derive(Debug, Clone, Default)]
pub(crate) struct DocumentLayout {
    /// The value of `name`.
    pub(crate) name: Option<ByteSpan>,
    /// The value of `dist-tags`.
    pub(crate) dist_tags: Option<ByteSpan>,
    /// The value of `versions`, braces included.
    pub(crate) versions: Option<ByteSpan>,
    /// The value of `time`.
    pub(crate) time: Option<ByteSpan>,
    /// The value of `time.modified`.
    pub(crate) modified: Option<ByteSpan>,
    /// The member `policyRestrictions` of an upstream that is a firewall too, with the comma that sets it off.
    pub(crate) restrictions: Option<ByteSpan>,
    /// Whether other members stand in the document.
    pub(crate) has_members: bool,
    /// The closing brace of the document.
    pub(crate) closing: u32,
}

impl Packument {
    /// The entry of a version, by its key.
    #[must_use]
    pub fn find(&self, key: &str) -> Option<(usize, &VersionEntry)> {
        let place = self.by_key.binary_search_by(|&at| (*self.entries[at as usize].key).cmp(key)).ok()?;
        let at = self.by_key[place] as usize;
        Some((at, &self.entries[at]))
    }

    /// The version of this key that is in `time` and no longer in `versions`, and when it was published.
    #[must_use]
    pub fn find_departed(&self, key: &str) -> Option<&(Box<str>, Option<Timestamp>)> {
        let place = self.departed.binary_search_by(|(departed, _)| (**departed).cmp(key)).ok()?;
        Some(&self.departed[place])
    }

    /// The entry of this version, whatever build metadata stands behind it here or there: for SemVer and npm both are one version.
    #[must_use]
    pub fn find_same(&self, version: &str) -> Option<(usize, &VersionEntry)> {
        let (plain, entries) = (without_build(version), &self.entries);
        let longer = || {
            let first = self.by_key.partition_point(|&at| *entries[at as usize].key < *plain);
            let built = |at: &&u32| entries[**at as usize].key.strip_prefix(plain).is_some_and(|rest| rest.starts_with('+'));
            let at = *self.by_key[first..].iter().take(SAME_VERSIONS).find(built)? as usize;
            Some((at, &entries[at]))
        };
        self.find(version).or_else(|| self.find(plain)).or_else(longer)
    }

    /// The index of those entries alone whose places are kept, with these dist-tags. It is for looking up, not for rendering.
    #[must_use]
    pub fn narrowed(&self, keeps: &dyn Fn(usize) -> bool, dist_tags: Vec<(Box<str>, Box<str>)>) -> Self {
        let kept: Vec<u32> = (0..).zip(&self.entries).filter(|(at, _)| keeps(*at as usize)).map(|(at, _)| at).collect();
        let place = |at: &u32| kept.binary_search(at).ok().and_then(|place| u32::try_from(place).ok());
        Self {
            entries: kept.iter().map(|at| self.entries[*at as usize].clone()).collect(),
            by_key: self.by_key.iter().filter_map(place).collect(),
            tags_by_target: by_target(&dist_tags),
            dist_tags,
            parts: HashMap::new(),
            ..self.clone()
        }
    }

    /// The bytes the index takes in memory, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        let entries: usize = self.entries.iter().map(VersionEntry::weight).sum();
        let tags: usize = self.dist_tags.iter().map(|(tag, version)| tag.len() + version.len() + 32).sum();
        let departed: usize = self.departed.iter().map(|(key, _)| key.len() + 40).sum();
        let parts: usize = self.parts.iter().map(|(name, places)| name.len() + places.len() * 4 + 64).sum();
        size_of::<Self>() + parts + entries + (self.by_key.len() + self.tags_by_target.len()) * 4 + tags + departed
    }

    /// Whether every version has a publish time, apart from versions that contradict themselves.
    #[must_use]
    pub fn is_timed(&self) -> bool {
        self.entries.iter().all(|entry| entry.published.is_some() || entry.flaw.is_some())
    }

    /// Whether a security placeholder stands where versions were: the registry's team replaces a malicious package by
    /// `0.0.1-security`, its one version.
    #[must_use]
    pub fn is_security_placeholder(&self) -> bool {
        !self.entries.is_empty() && self.entries.iter().all(|entry| entry.key.ends_with("-security"))
    }
}

/// The positions of dist-tags, sorted by the version they point to.
pub(crate) fn by_target(tags: &[(Box<str>, Box<str>)]) -> Vec<u32> {
    let mut places: Vec<u32> = (0..).take(tags.len()).collect();
    places.sort_by(|one, other| tags[*one as usize].1.cmp(&tags[*other as usize].1));
    places
}
