//! Renders a packument: constant segments are compressed once, and an assembly selects those to show.
//!
//! The caller decides what is shown. Only `versions`, `dist-tags`, `dist.tarball` and `policyRestrictions` are rewritten.

use aws_lc_rs::digest;
use bytes::Bytes;

use crate::npm::compression::{self, Segment, SegmentEncoder, SegmentFormat};
use crate::npm::packument::PackumentForm;
use crate::npm::packument::index::{Packument, VersionEntry};
use crate::npm::packument::json::ByteSpan;
use crate::npm::packument::manifest::AbbreviatedFields;
use crate::npm::tarball_address::{Rewriting, tarball_url};

/// Plain bytes after which a run of versions ends. Large enough to compress nearly as well as the whole (at 128 KiB, `next` was
/// 70 % larger), small enough that little is recompressed when a document grows.
const RUN_BYTES: usize = 512 << 10;

/// Plain bytes up to which parts made for one assembly are stored: tags and restrictions are mostly this short.
const MAX_STORED_BYTES: usize = 2048;

/// A packument in one form and for one base URL, with all parts compressed and none selected.
#[derive(Debug)]
pub struct PackumentView {
    packing: SegmentFormat,
    pieces: Vec<ViewPart>,
    runs: Vec<VersionRun>,
    /// All parts in the order in which they are sent if all are shown, so that adjacent ones are one chunk.
    arena: Bytes,
}

/// One part of a document, in output order.
#[derive(Debug)]
enum ViewPart {
    /// Bytes that are the same in every response.
    Fixed(Segment),
    /// The value of `dist-tags`: upstream's bytes, unless the tags change.
    Tags(Segment),
    Versions,
    /// The member `policyRestrictions`, with its comma. Upstream's is never sent: it may name versions that are shown here.
    Restrictions {
        lead: &'static str,
    },
}

/// Adjacent versions of the document that are shown or hidden together.
#[derive(Debug)]
struct VersionRun {
    first: usize,
    end: usize,
    /// Separates it from the previous shown run.
    comma: Segment,
    segment: Segment,
}

/// A document with the index and the fields that were parsed from it.
#[derive(Clone, Copy)]
pub struct RenderSource<'a> {
    pub document: &'a [u8],
    pub packument: &'a Packument,
    pub fields: &'a AbbreviatedFields,
}

pub struct VersionFilter<'a> {
    pub shown: &'a [bool],
    /// The dist-tags, if they differ from upstream's.
    pub tags: Option<&'a [(Box<str>, Box<str>)]>,
    /// The value of `policyRestrictions` as JSON.
    pub restrictions: Option<&'a str>,
}

/// The selected parts, ready to be joined.
pub struct Assembly<'a> {
    packing: SegmentFormat,
    arena: &'a Bytes,
    parts: Vec<AssemblyPart<'a>>,
}

enum AssemblyPart<'a> {
    Kept(&'a Segment),
    Made(Segment),
}

/// Compresses a part made for one assembly. Only large parts justify starting a compressor.
fn encode_small(plain: &[u8], packing: SegmentFormat) -> Segment {
    if plain.len() <= MAX_STORED_BYTES { Segment::store(plain, packing) } else { SegmentEncoder::of(packing).encode(plain) }
}

impl AssemblyPart<'_> {
    fn segment(&self) -> &Segment {
        match self {
            AssemblyPart::Kept(segment) => segment,
            AssemblyPart::Made(segment) => segment,
        }
    }
}

impl PackumentView {
    /// Renders a document; CPU bound, a few ms per MB. Entries that are `alone` get their own run, as their verdict may change.
    pub fn render<'a>(
        source: RenderSource<'a>,
        form: PackumentForm,
        base: impl Into<Rewriting<'a>>,
        alone: &dyn Fn(usize) -> bool,
        encoder: &mut SegmentEncoder,
    ) -> Self {
        encoder.begin();
        let RenderSource { document, packument, fields } = source;
        let writer = EntryWriter { document, packument, base: base.into() };
        let write: &dyn Fn(usize, &mut Vec<u8>) = match form {
            PackumentForm::Full => &|at, out| writer.write_full(at, out),
            PackumentForm::Abbreviated => &|at, out| writer.write_abbreviated(at, fields, out),
        };
        let pieces = match form {
            PackumentForm::Full => full_pieces(document, packument, encoder),
            PackumentForm::Abbreviated => abbreviated_pieces(document, packument, encoder),
        };
        let runs = runs(packument.entries.len(), alone, write, encoder);
        let mut view = Self { packing: encoder.packing, pieces, runs, arena: Bytes::new() };
        view.consolidate();
        view
    }

    /// Moves all parts into one contiguous buffer.
    fn consolidate(&mut self) {
        let mut segments: Vec<&mut Segment> = Vec::with_capacity(self.pieces.len() + 2 * self.runs.len());
        let mut runs = Some(&mut self.runs);
        for piece in &mut self.pieces {
            match piece {
                ViewPart::Fixed(segment) | ViewPart::Tags(segment) => segments.push(segment),
                ViewPart::Versions => {
                    let runs = runs.take().into_iter().flatten();
                    segments.extend(runs.flat_map(|run| [&mut run.comma, &mut run.segment]));
                }
                ViewPart::Restrictions { .. } => {}
            }
        }
        self.arena = compression::consolidate(self.packing, &mut segments);
    }

    /// Selects the parts. Returns `None` if a run would be shown in part: then render again with the changed entries alone.
    pub fn assemble(&self, choice: &VersionFilter<'_>) -> Option<Assembly<'_>> {
        let mut parts = Vec::with_capacity(self.pieces.len() + 2 * self.runs.len());
        for piece in &self.pieces {
            match piece {
                ViewPart::Fixed(segment) => parts.push(AssemblyPart::Kept(segment)),
                ViewPart::Tags(theirs) => {
                    parts.push(choice.tags.map_or(AssemblyPart::Kept(theirs), |tags| {
                        AssemblyPart::Made(encode_small(&tags_json(tags), self.packing))
                    }));
                }
                ViewPart::Versions => self.push_versions(choice.shown, &mut parts)?,
                ViewPart::Restrictions { lead } => parts.extend(choice.restrictions.map(|ours| {
                    AssemblyPart::Made(encode_small(format!("{lead}\"policyRestrictions\":{ours}").as_bytes(), self.packing))
                })),
            }
        }
        Some(Assembly { packing: self.packing, arena: &self.arena, parts })
    }

    fn push_versions<'a>(&'a self, shown: &[bool], parts: &mut Vec<AssemblyPart<'a>>) -> Option<()> {
        let mut first = true;
        for run in &self.runs {
            let flags = shown.get(run.first..run.end)?;
            let count = flags.iter().filter(|shown| **shown).count();
            if count == 0 {
                continue;
            }
            if count < flags.len() {
                return None;
            }
            if !first {
                parts.push(AssemblyPart::Kept(&run.comma));
            }
            first = false;
            parts.push(AssemblyPart::Kept(&run.segment));
        }
        Some(())
    }

    /// Returns the approximate memory of the view in bytes.
    pub(crate) fn weight(&self) -> usize {
        size_of::<Self>()
            + self.pieces.len() * size_of::<ViewPart>()
            + self.runs.len() * size_of::<VersionRun>()
            + self.arena.len()
    }
}

impl Assembly<'_> {
    /// Returns the compressed document; the chunks share the view's memory.
    pub fn packed(&self) -> Vec<Bytes> {
        compression::join(self.packing, self.arena, self.parts.iter().map(AssemblyPart::segment))
    }

    /// Returns the document uncompressed. Decompression takes a millisecond or two for several megabytes.
    pub fn identity(&self) -> Bytes {
        compression::decode(self.packing, self.parts.iter().map(AssemblyPart::segment))
    }

    /// Returns a SHA-256 over the compressed parts, which changes whenever the document does.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in &self.parts {
            context.update(&part.segment().packed);
        }
        context.finish().as_ref().try_into().unwrap_or_default()
    }
}

/// Returns one manifest as a document, with its tarball address below `base`.
pub(crate) fn manifest<'base>(
    document: &[u8],
    packument: &Packument,
    entry: &VersionEntry,
    base: impl Into<Rewriting<'base>>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(entry.spans.manifest.of(document).len() + 64);
    EntryWriter { document, packument, base: base.into() }.write_spliced(entry.spans.manifest, entry, &mut out);
    out
}

/// Writes versions with their tarball addresses below `base`.
struct EntryWriter<'a> {
    document: &'a [u8],
    packument: &'a Packument,
    base: Rewriting<'a>,
}

impl EntryWriter<'_> {
    fn write_full(&self, at: usize, out: &mut Vec<u8>) {
        let entry = &self.packument.entries[at];
        self.write_spliced(entry.spans.entry, entry, out);
    }

    fn write_abbreviated(&self, at: usize, fields: &AbbreviatedFields, out: &mut Vec<u8>) {
        let entry = &self.packument.entries[at];
        let key = ByteSpan { start: entry.spans.entry.start, end: entry.spans.manifest.start };
        out.extend_from_slice(key.of(self.document));
        out.push(b'{');
        let mut separator: &[u8] = b"";
        for &member in fields.of(at) {
            out.extend_from_slice(separator);
            self.write_spliced(member, entry, out);
            separator = b",";
        }
        if entry.traits.install_script {
            out.extend_from_slice(separator);
            out.extend_from_slice(b"\"hasInstallScript\":true");
        }
        out.push(b'}');
    }

    /// Copies `span`, with the value of `dist.tarball` replaced unless it is kept.
    fn write_spliced(&self, span: ByteSpan, entry: &VersionEntry, out: &mut Vec<u8>) {
        let (tarball, name) = (entry.spans.tarball, &self.packument.name);
        let is_kept = || {
            let has = |key: &str| self.packument.find(key).is_some();
            self.base.origins.is_some_and(|origins| origins.keep(name, &entry.key, &entry.tarball, &has))
        };
        if tarball.is_empty() || tarball.start < span.start || tarball.end > span.end || is_kept() {
            out.extend_from_slice(span.of(self.document));
            return;
        }
        out.extend_from_slice(ByteSpan { start: span.start, end: tarball.start }.of(self.document));
        out.push(b'"');
        out.extend_from_slice(tarball_url(self.base.base, name, &entry.key).as_bytes());
        out.push(b'"');
        out.extend_from_slice(ByteSpan { start: tarball.end, end: span.end }.of(self.document));
    }
}

fn runs(
    entries: usize,
    alone: &dyn Fn(usize) -> bool,
    write: &dyn Fn(usize, &mut Vec<u8>),
    encoder: &mut SegmentEncoder,
) -> Vec<VersionRun> {
    let packing = encoder.packing;
    let run = |first, end, segment| VersionRun { first, end, comma: Segment::store(b",", packing), segment };
    let mut runs: Vec<VersionRun> = Vec::new();
    let mut plain = std::mem::take(&mut encoder.plain);
    tune(entries, write, &mut plain, encoder);
    plain.clear();
    let mut first = 0;
    for at in 0..entries {
        let single = alone(at);
        if !plain.is_empty() && (single || plain.len() >= RUN_BYTES) {
            runs.push(run(first, at, encoder.encode(&plain)));
            plain.clear();
        }
        if plain.is_empty() {
            first = at;
        } else {
            plain.push(b',');
        }
        write(at, &mut plain);
        if single {
            runs.push(run(at, at + 1, encoder.encode(&plain)));
            plain.clear();
        }
    }
    if !plain.is_empty() {
        runs.push(run(first, entries, encoder.encode(&plain)));
    }
    encoder.plain = plain;
    runs
}

/// Tunes the encoder on a sample from the middle of the document: its first versions are rarely like the rest.
fn tune(entries: usize, write: &dyn Fn(usize, &mut Vec<u8>), plain: &mut Vec<u8>, encoder: &mut SegmentEncoder) {
    if encoder.packing != SegmentFormat::Gzip {
        return;
    }
    plain.clear();
    for at in entries / 2..entries {
        write(at, plain);
        if plain.len() >= compression::SAMPLE {
            encoder.tune(plain);
            return;
        }
    }
}

/// Returns the full form: the document split at the rewritten members.
fn full_pieces(document: &[u8], packument: &Packument, encoder: &mut SegmentEncoder) -> Vec<ViewPart> {
    let layout = &packument.layout;
    let mut cuts: Vec<(ByteSpan, Option<ViewPart>)> = Vec::with_capacity(4);
    cuts.extend(layout.dist_tags.map(|span| (span, Some(ViewPart::Tags(encoder.encode(span.of(document)))))));
    let versions = layout.versions.filter(|span| span.of(document).starts_with(b"{"));
    cuts.extend(versions.map(|span| (ByteSpan { start: span.start + 1, end: span.end - 1 }, Some(ViewPart::Versions))));
    cuts.extend(layout.restrictions.map(|span| (span, None)));
    let lead = if layout.has_members { "," } else { "" };
    cuts.push((ByteSpan { start: layout.closing, end: layout.closing }, Some(ViewPart::Restrictions { lead })));
    cuts.sort_by_key(|(span, _)| span.start);

    let mut pieces = Vec::with_capacity(2 * cuts.len() + 1);
    let mut start = 0;
    for (span, piece) in cuts {
        pieces.push(ViewPart::Fixed(encoder.encode(ByteSpan { start, end: span.start }.of(document))));
        pieces.extend(piece);
        start = span.end;
    }
    pieces.push(ViewPart::Fixed(encoder.encode(document.get(start as usize..).unwrap_or_default())));
    pieces
}

/// Returns the abbreviated form, built from the full one: the members of npm's form, and `time`.
fn abbreviated_pieces(document: &[u8], packument: &Packument, encoder: &mut SegmentEncoder) -> Vec<ViewPart> {
    let layout = &packument.layout;
    let name = layout.name.map_or_else(|| format!("\"{}\"", packument.name).into_bytes(), |name| name.of(document).to_vec());
    let head = [b"{\"name\":", &*name, b",\"dist-tags\":"].concat();
    let tags = layout.dist_tags.map_or(&b"{}"[..], |span| span.of(document));
    let mut tail = b"}".to_vec();
    for (key, span) in [(&b",\"modified\":"[..], layout.modified), (b",\"time\":", layout.time)] {
        if let Some(span) = span {
            tail.extend_from_slice(key);
            tail.extend_from_slice(span.of(document));
        }
    }
    vec![
        ViewPart::Fixed(encoder.encode(&head)),
        ViewPart::Tags(encoder.encode(tags)),
        ViewPart::Fixed(Segment::store(b",\"versions\":{", encoder.packing)),
        ViewPart::Versions,
        ViewPart::Fixed(encoder.encode(&tail)),
        ViewPart::Restrictions { lead: "," },
        ViewPart::Fixed(Segment::store(b"}", encoder.packing)),
    ]
}

pub(crate) fn tags_json(tags: &[(Box<str>, Box<str>)]) -> Vec<u8> {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let members: Vec<_> = tags.iter().map(|(tag, version)| format!("{}:{}", quoted(tag), quoted(version))).collect();
    format!("{{{}}}", members.join(",")).into_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;
    use crate::npm::name::PackageName;
    use crate::npm::packument::parse::parse;

    const BASE: &str = "http://127.0.0.1:4873";

    fn name() -> PackageName {
        PackageName::parse("demo").unwrap()
    }

    fn render(
        document: &str,
        form: PackumentForm,
        shown: &dyn Fn(usize) -> bool,
        tags: Option<&[(Box<str>, Box<str>)]>,
        restrictions: Option<&str>,
    ) -> String {
        let ingested = parse(&name(), document.as_bytes()).unwrap();
        let shown: Vec<_> = (0..ingested.packument.entries.len()).map(shown).collect();
        let view = PackumentView::render(
            RenderSource { document: document.as_bytes(), packument: &ingested.packument, fields: &ingested.fields },
            form,
            BASE,
            &|at| !shown[at],
            &mut SegmentEncoder::default(),
        );
        let assembly = view.assemble(&VersionFilter { shown: &shown, tags, restrictions }).unwrap();
        let identity = assembly.identity();
        let gzip = assembly.packed().concat();
        let mut inflated = Vec::new();
        std::io::Read::read_to_end(&mut flate2::bufread::GzDecoder::new(&gzip[..]), &mut inflated).unwrap();
        assert_eq!(identity, inflated);
        String::from_utf8(identity.to_vec()).unwrap()
    }

    #[test]
    fn full_form_is_unchanged_except_for_hidden_versions() {
        let entry = |version: &str| {
            format!(
                r#""{version}" : {{"name":"demo", "version":"{version}","n":1.0e00,"dist":{{"tarball" :"x","s":"\ud800"}} }}"#
            )
        };
        let document = format!(
            "{{ \"name\":\"demo\",\n \"dist-tags\" : {{ \"latest\": \"1.0.0\"}}, \"versions\": {{ {} , {} }},\"time\":{{ }} ,\"readme\":\"\\u00e9\"}}\n",
            entry("1.0.0"),
            entry("1.1.0")
        );
        let rendered = render(&document, PackumentForm::Full, &|at| at == 0, None, None);
        let kept = entry("1.0.0").replace("\"x\"", "\"http://127.0.0.1:4873/demo/-/demo-1.0.0.tgz\"");
        let expected = format!(
            "{{ \"name\":\"demo\",\n \"dist-tags\" : {{ \"latest\": \"1.0.0\"}}, \"versions\": {{{kept}}},\"time\":{{ }} ,\"readme\":\"\\u00e9\"}}\n"
        );
        assert_eq!(rendered, expected);
    }

    #[test]
    fn own_restrictions_replace_upstreams() {
        for document in [
            r#"{"name":"demo","policyRestrictions":{"message":"theirs"},"versions":{}}"#,
            r#"{"policyRestrictions":{"message":"theirs"} , "name":"demo","versions":{}}"#,
            r#"{"name":"demo","versions":{},"policyRestrictions":{"message":"theirs"}}"#,
            r#"{"name":"demo","versions":{}}"#,
        ] {
            for form in [PackumentForm::Full, PackumentForm::Abbreviated] {
                let ours: Value =
                    serde_json::from_str(&render(document, form, &|_| true, None, Some(r#"{"message":"ours"}"#))).unwrap();
                assert_eq!(ours["policyRestrictions"]["message"], "ours", "{document}");
                let theirs = render(document, form, &|_| true, None, None);
                let theirs: Value = serde_json::from_str(&theirs).unwrap_or_else(|error| panic!("{error}: {theirs}"));
                assert!(theirs.get("policyRestrictions").is_none(), "{document}");
                assert_eq!(theirs["name"], "demo");
            }
        }
        assert_eq!(
            render(r#"{"policyRestrictions":1}"#, PackumentForm::Full, &|_| true, None, Some("2")),
            r#"{"policyRestrictions":2}"#
        );
    }

    #[test]
    fn invalid_manifests_are_removed_completely() {
        for odd in ["5", "-1.5e3", "false", "null", "{}", "{ }", "[1,{\"a\":[]}]", "\"}\"", "\"\\ud800\""] {
            for (first, second) in [("good", "odd"), ("odd", "good"), ("odd", "odd")] {
                let member = |which: &str, version: &str| match which {
                    "good" => format!(r#""{version}":{{"name":"demo","version":"{version}","dist":{{"tarball":"x"}}}}"#),
                    _ => format!(r#""{version}" : {odd} "#),
                };
                let versions = format!("{},{}", member(first, "1.0.0"), member(second, "2.0.0"));
                let document = format!(r#"{{"versions":{{{versions}}} ,"name":"demo","time":{{}}}}"#);
                let good = |at: usize| [first, second][at] == "good";
                for form in [PackumentForm::Full, PackumentForm::Abbreviated] {
                    let text = render(&document, form, &good, None, Some("{}"));
                    let tree: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{odd}: {error}: {text}"));
                    assert_eq!(tree["versions"].as_object().unwrap().len(), usize::from(good(0)) + usize::from(good(1)));
                    assert_eq!(tree["name"], "demo", "{text}");
                }
            }
        }
    }

    #[test]
    fn partially_shown_run_requires_a_new_view() {
        let document = json!({"name": "demo", "versions": {"1.0.0": {}, "1.1.0": {}}}).to_string();
        let ingested = parse(&name(), document.as_bytes()).unwrap();
        let view = PackumentView::render(
            RenderSource { document: document.as_bytes(), packument: &ingested.packument, fields: &ingested.fields },
            PackumentForm::Full,
            BASE,
            &|_| false,
            &mut SegmentEncoder::default(),
        );
        assert!(view.assemble(&VersionFilter { shown: &[true, false], tags: None, restrictions: None }).is_none());
        assert!(view.assemble(&VersionFilter { shown: &[true, true], tags: None, restrictions: None }).is_some());
    }

    #[test]
    fn tarball_has_npms_conventional_address() {
        let scoped = PackageName::parse("@acme/ui").unwrap();
        assert_eq!(tarball_url(BASE, &scoped, "1.0.0+b1"), "http://127.0.0.1:4873/@acme/ui/-/ui-1.0.0+b1.tgz");
        assert_eq!(tarball_url("http://h/npm", &scoped, "1.0.0 x"), "http://h/npm/@acme/ui/-/ui-1.0.0%20x.tgz");
    }

    /// The reference implementation: filters the document as a tree.
    fn parse_and_filter(document: &str, form: PackumentForm, shown: &[bool]) -> Value {
        let mut tree: Value = serde_json::from_str(document).unwrap();
        let versions = tree["versions"].as_object().cloned().unwrap_or_default();
        let mut kept = Map::new();
        for ((key, manifest), _) in versions.iter().zip(shown).filter(|(_, shown)| **shown) {
            let mut manifest = manifest.clone();
            manifest["dist"]["tarball"] = tarball_url(BASE, &name(), key).into();
            if form == PackumentForm::Abbreviated {
                let scripts = manifest["scripts"].as_object();
                let installs = manifest["hasInstallScript"] == true
                    || scripts.is_some_and(|scripts| {
                        ["preinstall", "install", "postinstall"].iter().any(|name| scripts.contains_key(*name))
                    });
                let object = manifest.as_object_mut().unwrap();
                object.retain(|key, _| ["name", "version", "dist", "dependencies", "bin", "deprecated"].contains(&key.as_str()));
                if installs {
                    object.insert("hasInstallScript".into(), true.into());
                }
            }
            kept.insert(key.clone(), manifest);
        }
        tree["versions"] = kept.into();
        if form == PackumentForm::Abbreviated {
            let object = tree.as_object_mut().unwrap();
            let modified = object["time"].get("modified").cloned();
            object.retain(|key, _| ["name", "dist-tags", "versions", "time"].contains(&key.as_str()));
            if let Some(modified) = modified {
                object.insert("modified".into(), modified);
            }
        }
        tree
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(".{0,6}", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    /// A packument in any order and spacing, and which versions are shown.
    fn any_packument() -> impl Strategy<Value = (String, Vec<bool>)> {
        let manifest =
            (any_json(), proptest::collection::btree_map("[a-z]{1,4}", any_json(), 0..3), proptest::option::of(any::<bool>()));
        let versions = proptest::collection::btree_map((0..9_u8, 0..9_u8, 0..9_u8), manifest, 0..7);
        (versions, any_json(), any::<bool>(), any::<bool>(), proptest::collection::vec(any::<bool>(), 7)).prop_map(|(versions, extra, pretty, swap, shown)| {
            let versions: Map<String, Value> = versions
                .into_iter()
                .map(|((major, minor, patch), (dependencies, scripts, installs))| {
                    let version = format!("{major}.{minor}.{patch}");
                    let mut manifest = json!({"name": "demo", "version": version, "dependencies": dependencies, "scripts": scripts,
                        "dist": {"tarball": "https://registry.example/x.tgz", "shasum": "", "\u{e9}": 1}, "odd \" key": extra, "bin": "x"});
                    if let Some(installs) = installs {
                        manifest["hasInstallScript"] = installs.into();
                        manifest["scripts"]["postinstall"] = "x".into();
                    }
                    (version, manifest)
                })
                .collect();
            let count = versions.len();
            let mut document = json!({"name": "demo", "dist-tags": {"latest": "1.0.0"}, "time": {"modified": "2026-01-01T00:00:00Z", "1.0.0": extra}, "extra": extra});
            if swap {
                document = json!({"versions": versions, "zz": document["extra"], "time": document["time"], "name": "demo", "dist-tags": {"latest": "1.0.0"}});
            } else {
                document["versions"] = versions.into();
            }
            let text = if pretty { serde_json::to_string_pretty(&document).unwrap() } else { document.to_string() };
            (text, shown[..count].to_vec())
        })
    }

    proptest! {
        #[test]
        fn rendering_agrees_with_parse_and_filter((document, shown) in any_packument(), full in any::<bool>()) {
            let form = if full { PackumentForm::Full } else { PackumentForm::Abbreviated };
            let spliced = render(&document, form, &|at| shown[at], None, None);
            let spliced: Value = serde_json::from_str(&spliced).unwrap();
            prop_assert_eq!(spliced, parse_and_filter(&document, form, &shown));
        }

        #[test]
        fn parsing_never_panics(document in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&name(), &document);
        }
    }
}
