//! Reads one manifest of a packument: facts for rules, members of the abbreviated form, and contradictions with the packument.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::de::MapAccess;
use serde_json::value::RawValue;

use crate::npm::integrity::Integrity;
use crate::npm::name::PackageName;
use crate::npm::packument::dependency_source::{self, DependencySources, is_sibling_name};
use crate::npm::packument::index::{EntrySpans, ManifestTraits, Outline, SiblingPin, VersionEntry, without_build};
use crate::npm::packument::json::{
    ByteSpan, JsonSource, ObjectSeed, ObjectVisitor, SeenKeys, decode, for_each_valid_member, intern,
};
use crate::npm::packument::manifest_digest::{Resolution, ScriptsDigest, install_scripts, resolution_digest};
use crate::npm::packument::people::{LastValue, PeopleInterner};
use crate::npm::packument::release_shape::{ShapeReader, ShapeSource};
use crate::npm::packument::signatures::StatedSignatures;
use crate::npm::semver::version::Version;

/// The most exact dependencies on siblings that are kept per document. A package with 50 parts reaches it after 2,000 versions.
const MAX_PINS: usize = 100_000;

/// For each entry, the members of its manifest that the abbreviated form keeps (`"key":value`), in document order.
#[derive(Default)]
pub struct AbbreviatedFields {
    members: Vec<ByteSpan>,
    ends: Vec<u32>,
    pub(crate) has_publishers: bool,
    pub(crate) has_signatures: bool,
}

impl AbbreviatedFields {
    pub(crate) fn of(&self, entry: usize) -> &[ByteSpan] {
        let start = if entry == 0 { 0 } else { self.ends[entry - 1] as usize };
        &self.members[start..self.ends[entry] as usize]
    }
}

/// The document whose manifests are read, and what they share.
pub(crate) struct ManifestContext<'w, 'a> {
    pub(crate) source: &'w JsonSource<'a>,
    pub(crate) name: &'w PackageName,
    pub(crate) fields: &'w mut AbbreviatedFields,
    pub(crate) cache: RepeatCache<'a>,
}

/// Reads the manifest of `raw_key`, whose value is taken from `members`.
pub(crate) fn read_entry<'a, A: MapAccess<'a>>(
    context: &mut ManifestContext<'_, 'a>,
    raw_key: &'a str,
    members: &mut A,
) -> Result<VersionEntry, A::Error> {
    let ManifestContext { source, name, fields, cache } = context;
    let key = decode(raw_key).unwrap_or(Cow::Borrowed(raw_key));
    let raw_key = source.span(raw_key);
    let start = source.value_after(raw_key.end);
    cache.keys.clear();
    let mut read = ManifestVisitor { source, fields, found: ManifestFacts::default(), cache, last_end: start + 1 };
    let end = if source.is_object(start) {
        members.next_value_seed(ObjectSeed(&mut read))?;
        source.closed_after(read.last_end)
    } else {
        read.found.inconsistency = Some("its manifest is not an object".to_owned());
        source.span(members.next_value::<&'a RawValue>()?.get()).end
    };
    let ManifestVisitor { found, cache, fields, .. } = read;
    #[expect(clippy::cast_possible_truncation, reason = "there are fewer members than bytes, and those fit")]
    fields.ends.push(fields.members.len() as u32);

    let version = Version::parse(&key);
    if let Some(optional) = found.resolution.optional {
        cache.record_subpackages(name, &key, optional, fields.ends.len() - 1);
    }
    if let Some(signatures) = found.dist.signatures {
        #[expect(clippy::cast_possible_truncation, reason = "there are fewer entries than bytes, and those fit")]
        cache.signatures.add(fields.ends.len() as u32 - 1, signatures);
    }
    for dependencies in [found.resolution.dependencies, found.resolution.optional].into_iter().flatten() {
        cache.record_pins(name, dependencies, fields.ends.len() - 1);
    }
    let inconsistency = found.inconsistency.clone().or_else(|| found.contradiction(name, &key, version.as_ref()));
    let shape = cache.shapes.read(ShapeSource {
        dependencies: found.resolution.dependencies,
        optional: found.resolution.optional,
        peers: found.resolution.peers,
        bin: found.resolution.bin,
        ..found.shape
    });
    Ok(VersionEntry {
        key: key.as_ref().into(),
        version,
        published: None,
        integrity: Integrity::parse(found.dist.integrity.as_deref(), found.dist.shasum.as_deref()),
        tarball: found.dist.tarball.as_deref().unwrap_or_default().into(),
        traits: found.traits,
        resolution: cache.resolution.value_for(found.resolution, |resolution| resolution_digest(name, resolution)),
        install_scripts: found.install_scripts,
        publisher: found.publisher,
        maintainers: found.maintainers,
        outline: Outline { shape, ..found.outline },
        inconsistency: inconsistency.map(Into::into),
        spans: EntrySpans {
            entry: ByteSpan { start: raw_key.start, end },
            manifest: ByteSpan { start, end },
            tarball: found.dist.tarball_span.unwrap_or(ByteSpan { start: 0, end: 0 }),
        },
    })
}

/// Caches values from one manifest to the next: most versions repeat those of the version before.
#[derive(Default)]
pub(crate) struct RepeatCache<'a> {
    /// Buffer for the keys of one manifest.
    keys: SeenKeys<'a>,
    people: PeopleInterner<'a>,
    sources: DependencySources<'a>,
    shapes: ShapeReader<'a>,
    resolution: LastValue<Resolution<'a>, [u8; 32]>,
    /// Packages of the same scope that entries pin to their own version, with the positions of the entries.
    pub(crate) parts: HashMap<Box<str>, Vec<u32>>,
    pub(crate) signatures: StatedSignatures,
    /// Exact dependencies on siblings.
    pub(crate) pins: Vec<SiblingPin>,
    /// The texts of `pins`.
    pinned: HashSet<Arc<str>>,
}

impl RepeatCache<'_> {
    /// Records the packages of `name`'s own scope that the entry at `position` pins to its own version.
    fn record_subpackages(&mut self, name: &PackageName, version: &str, optional: &str, position: usize) {
        for_each_valid_member(optional, |key, value| {
            let (Some(part), Some(pinned)) = (decode(key), decode(value)) else { return };
            if *pinned != *version || !dependency_source::is_subpackage_name(name, &part) {
                return;
            }
            #[expect(clippy::cast_possible_truncation, reason = "there are fewer entries than bytes, and those fit")]
            let position = position as u32;
            match self.parts.get_mut(&*part) {
                Some(positions) => positions.push(position),
                None => drop(self.parts.insert(part.as_ref().into(), vec![position])),
            }
        });
    }
}

impl<'a> RepeatCache<'a> {
    /// Records the siblings that the entry at `position` needs in exactly one version.
    fn record_pins(&mut self, name: &PackageName, dependencies: &'a str, position: usize) {
        // Most packages have no siblings, and a search is cheaper than reading the members.
        let own = name.scope().map_or(name.unscoped(), |own| &own[1..]);
        if !dependencies.contains(own) {
            return;
        }
        for_each_valid_member(dependencies, |key, value| {
            let (Some(other), Some(spec)) = (decode(key), decode(value)) else { return };
            let exact = spec.trim().trim_start_matches(['=', 'v', ' ']);
            if !is_sibling_name(name, &other) || Version::parse(exact).is_none() || self.pins.len() >= MAX_PINS {
                return;
            }
            #[expect(clippy::cast_possible_truncation, reason = "there are fewer entries than bytes, and those fit")]
            let position = position as u32;
            let (name, version) = (intern(&mut self.pinned, &other), intern(&mut self.pinned, exact));
            self.pins.push(SiblingPin { position, name, version });
        });
    }
}

struct ManifestVisitor<'w, 'a> {
    source: &'w JsonSource<'a>,
    fields: &'w mut AbbreviatedFields,
    found: ManifestFacts<'a>,
    cache: &'w mut RepeatCache<'a>,
    /// End of the previous member.
    last_end: u32,
}

impl<'a> ObjectVisitor<'a> for ManifestVisitor<'_, 'a> {
    fn member<A: MapAccess<'a>>(&mut self, raw_key: &'a str, members: &mut A) -> Result<(), A::Error> {
        let key = decode(raw_key).unwrap_or(Cow::Borrowed(raw_key));
        let raw_key = self.source.span(raw_key);
        let repeated = self.cache.keys.repeats(key.clone());
        let start = self.source.value_after(raw_key.end);
        let end = if key == "dist" && !repeated && self.source.is_object(start) {
            // Read in place: a quarter of a small manifest is its `dist`.
            let (source, found, fields) = (self.source, &mut self.found, &mut *self.fields);
            let mut dist = DistVisitor { source, found, fields, seen: [false; 3], last_end: start + 1 };
            members.next_value_seed(ObjectSeed(&mut dist))?;
            self.source.closed_after(dist.last_end)
        } else {
            let value = members.next_value::<&'a RawValue>()?.get();
            if !repeated {
                self.found.take(&key, value, self.fields, self.cache);
            }
            self.source.span(value).end
        };
        self.last_end = end;
        if repeated {
            self.found.inconsistency = Some(format!("its manifest repeats `{}`", key.escape_debug()));
        } else if is_abbreviated(&key) {
            self.fields.members.push(ByteSpan { start: raw_key.start, end });
        }
        Ok(())
    }
}

struct DistVisitor<'w, 'a> {
    source: &'w JsonSource<'a>,
    found: &'w mut ManifestFacts<'a>,
    fields: &'w mut AbbreviatedFields,
    /// Which of the three members used here were seen. Other members may be repeated.
    seen: [bool; 3],
    /// End of the previous member.
    last_end: u32,
}

impl<'a> ObjectVisitor<'a> for DistVisitor<'_, 'a> {
    fn member<A: MapAccess<'a>>(&mut self, raw_key: &'a str, members: &mut A) -> Result<(), A::Error> {
        let value = members.next_value::<&'a RawValue>()?.get();
        let span = self.source.span(value);
        self.last_end = span.end;
        let key = decode(raw_key).unwrap_or(Cow::Borrowed(raw_key));
        let ManifestFacts { dist, outline, .. } = &mut *self.found;
        let mut used = None;
        match &*key {
            "tarball" => {
                dist.tarball_span = Some(span);
                used = Some((&mut dist.tarball, 0));
            }
            "integrity" => used = Some((&mut dist.integrity, 1)),
            "shasum" => used = Some((&mut dist.shasum, 2)),
            "attestations" => {
                outline.has_provenance = value.starts_with('{');
                outline.has_slsa_provenance = value.contains("slsa.dev/provenance/");
            }
            "unpackedSize" => outline.unpacked_bytes = value.parse().unwrap_or_default(),
            "fileCount" => outline.files = value.parse().unwrap_or_default(),
            // Clients use the last one, if it is repeated.
            "signatures" => {
                self.fields.has_signatures = true;
                dist.signatures = Some(value);
            }
            _ => {}
        }
        if let Some((slot, at)) = used {
            *slot = decode(value);
            if std::mem::replace(&mut self.seen[at], true) {
                self.found.inconsistency = Some(format!("its `dist` repeats `{key}`"));
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct ManifestDist<'a> {
    tarball: Option<Cow<'a, str>>,
    tarball_span: Option<ByteSpan>,
    integrity: Option<Cow<'a, str>>,
    shasum: Option<Cow<'a, str>>,
    signatures: Option<&'a str>,
}

#[derive(Default)]
struct ManifestFacts<'a> {
    name: Option<Cow<'a, str>>,
    version: Option<Cow<'a, str>>,
    dist: ManifestDist<'a>,
    traits: ManifestTraits,
    publisher: Option<Arc<str>>,
    maintainers: Option<Arc<[Arc<str>]>>,
    outline: Outline,
    shape: ShapeSource<'a>,
    resolution: Resolution<'a>,
    install_scripts: Option<ScriptsDigest>,
    inconsistency: Option<String>,
}

impl<'a> ManifestFacts<'a> {
    fn take(&mut self, key: &str, value: &'a str, fields: &mut AbbreviatedFields, cache: &mut RepeatCache<'a>) {
        match key {
            "name" => self.name = decode(value),
            "version" => self.version = decode(value),
            "dist" => self.inconsistency = Some("its `dist` is not an object".to_owned()),
            "_npmUser" => {
                fields.has_publishers = true;
                self.publisher = cache.people.publisher(value);
                self.outline.is_trusted = value.contains("\"trustedPublisher\"");
                self.shape.publisher = Some(value);
            }
            "maintainers" => self.maintainers = cache.people.maintainers(value),
            "dependencies" => {
                cache.sources.note(value, &mut self.traits);
                self.resolution.dependencies = Some(value);
            }
            "peerDependencies" => {
                cache.sources.note(value, &mut self.traits);
                self.resolution.peers = Some(value);
            }
            "gypfile" => self.outline.has_gyp = value == "true",
            "optionalDependencies" => {
                cache.sources.note(value, &mut self.traits);
                self.resolution.optional = Some(value);
            }
            "peerDependenciesMeta" => self.resolution.peers_meta = Some(value),
            "bin" => self.resolution.bin = Some(value),
            "repository" => self.shape.repository = Some(value),
            "gitHead" => self.outline.has_commit = value.starts_with('"'),
            "_hasShrinkwrap" => self.outline.has_shrinkwrap = value == "true",
            "deprecated" => self.traits.deprecated = !matches!(value, "false" | "null" | "\"\"" | "0"),
            "scripts" => {
                self.outline.has_scripts = true;
                self.install_scripts = install_scripts(value);
                self.traits.install_script |= self.install_scripts.is_some();
            }
            // The abbreviated form has this instead of `scripts`. `false` is ignored, because the publisher may have written it.
            "hasInstallScript" => self.traits.install_script |= value == "true",
            _ => {}
        }
    }

    /// Returns how the manifest contradicts the packument that contains it, if it does.
    fn contradiction(&self, name: &PackageName, key: &str, version: Option<&Version>) -> Option<String> {
        if version.is_none() {
            return Some("its key in `versions` is not a version".to_owned());
        }
        let Some(found) = &self.name else { return Some("its manifest has no name".to_owned()) };
        if found != name.as_str() {
            return Some(format!("its manifest is for another package: `{}`", found.escape_debug()));
        }
        // Build metadata is not part of a version: the registry removes it from the key but keeps it in the manifest.
        let is_same =
            |stated: &str| stated == key || (without_build(stated) == without_build(key) && Version::parse(stated).is_some());
        let Some(found) = &self.version else { return Some("its manifest has no version".to_owned()) };
        if !is_same(found) {
            return Some(format!("its manifest is for another version: `{}`", found.escape_debug()));
        }
        self.dist.tarball.as_deref().is_none_or(str::is_empty).then(|| "its manifest has no tarball".to_owned())
    }
}

/// Checks whether npm's abbreviated form has this member. `hasInstallScript` is derived, not copied.
fn is_abbreviated(key: &str) -> bool {
    matches!(
        key,
        "name"
            | "version"
            | "deprecated"
            | "dependencies"
            | "optionalDependencies"
            | "devDependencies"
            | "bundleDependencies"
            | "bundledDependencies"
            | "peerDependencies"
            | "peerDependenciesMeta"
            | "acceptDependencies"
            | "bin"
            | "directories"
            | "dist"
            | "engines"
            | "cpu"
            | "os"
            | "libc"
            | "funding"
            | "_hasShrinkwrap"
    )
}
