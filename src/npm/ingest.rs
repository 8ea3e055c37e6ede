//! Reads a packument once, in one validated pass, into the index. Refuses to build a JSON tree, and to guess where
//! parsers differ: a repeated key in `versions`, `time` or `dist-tags` is an error.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::de::{DeserializeSeed, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::packument::{Entry, Layout, Packument, Span};
use super::{Integrity, PackageName, Version, instant};

/// A document that was read, and what only lives as long as the document does.
pub struct Ingested {
    /// The index, to keep.
    pub packument: Packument,
    /// Where the members lie that the abbreviated form keeps.
    pub fields: Fields,
}

/// For each entry, the members of its manifest that the abbreviated form keeps (`"key":value`), in the document's order.
#[derive(Default)]
pub struct Fields {
    members: Vec<Span>,
    ends: Vec<u32>,
    has_publishers: bool,
    has_signatures: bool,
}

impl Fields {
    pub(super) fn of(&self, entry: usize) -> &[Span] {
        let start = if entry == 0 { 0 } else { self.ends[entry - 1] as usize };
        &self.members[start..self.ends[entry] as usize]
    }
}

/// Why a document is no packument that can be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IngestError {
    /// Not UTF-8.
    #[error("not UTF-8 at byte {byte}")]
    Encoding {
        /// Where.
        byte: usize,
    },
    /// Not JSON.
    #[error("not JSON at byte {byte}: {detail}")]
    Json {
        /// Where.
        byte: usize,
        /// What the parser expected.
        detail: String,
    },
    /// JSON of another shape.
    #[error("`{member}` is not an object")]
    Shape {
        /// Which member; `the document` for the whole.
        member: &'static str,
    },
    /// A key stands twice, so that parsers would read different documents.
    #[error("`{key}` stands twice in `{member}`")]
    Repeated {
        /// In which object.
        member: &'static str,
        /// Which key.
        key: String,
    },
    /// It is about another package.
    #[error("it is the packument of another package: `{found}`")]
    OtherPackage {
        /// What its `name` says.
        found: String,
    },
    /// Longer than positions can count (4 GiB).
    #[error("longer than 4 GiB")]
    TooLong,
}

/// Reads the packument of `name`.
///
/// # Errors
/// When the document is not UTF-8, not JSON, not a packument, repeats a key, or is about another package. A version that
/// contradicts itself is no error: its entry carries the flaw.
pub fn ingest(name: &PackageName, document: &[u8]) -> Result<Ingested, IngestError> {
    if u32::try_from(document.len()).is_err() {
        return Err(IngestError::TooLong);
    }
    let text = std::str::from_utf8(document).map_err(|wrong| IngestError::Encoding { byte: wrong.valid_up_to() })?;
    let source = Source(text);
    let top = read_top(&source, name)?;
    let times = read_times(&source, top.time)?;
    let mut fields = Fields::default();
    let entries = read_entries(&source, name, top.versions, &times, &mut fields)?;
    let dist_tags = read_tags(&source, top.dist_tags)?;

    let mut by_key: Vec<u32> = (0..).take(entries.len()).collect();
    by_key.sort_unstable_by(|&one, &other| entries[one as usize].key.cmp(&entries[other as usize].key));
    let mut layout = top.layout;
    layout.modified = times.modified;
    let mut packument = Packument {
        name: name.clone(),
        has_publishers: fields.has_publishers,
        has_signatures: fields.has_signatures,
        entries,
        dist_tags,
        departed: Vec::new(),
        has_time: !times.instants.is_empty(),
        length: document.len() as u64,
        layout,
        by_key,
    };
    packument.departed = times
        .instants
        .iter()
        .filter(|(key, _)| packument.find(key).is_none() && Version::parse(key).is_some())
        .map(|(key, published)| (key.as_ref().into(), *published))
        .collect();
    packument.departed.sort_unstable();
    Ok(Ingested { packument, fields })
}

/// The document, and positions in it.
struct Source<'a>(&'a str);

impl Source<'_> {
    /// Where `part`, which must be a slice of this document, lies in it.
    fn span(&self, part: &str) -> Span {
        let start = part.as_ptr() as usize - self.0.as_ptr() as usize;
        debug_assert!(start + part.len() <= self.0.len());
        // The document is shorter than 4 GiB: `ingest` refuses a longer one.
        #[expect(clippy::cast_possible_truncation, reason = "positions were checked to fit")]
        Span { start: start as u32, end: (start + part.len()) as u32 }
    }
}

/// The members of the document that matter.
struct Top<'a> {
    versions: Option<&'a str>,
    time: Option<&'a str>,
    dist_tags: Option<&'a str>,
    layout: Layout,
}

fn read_top<'a>(source: &Source<'a>, name: &PackageName) -> Result<Top<'a>, IngestError> {
    let document = source.0;
    let mut top = Top { versions: None, time: None, dist_tags: None, layout: Layout::default() };
    let mut repeated = None;
    let mut found_name = None;
    let mut previous_end = None;
    let mut restrictions = None;
    let opening = document.len() - document.trim_start().len();
    for_each_member(document, |key, value| {
        let span = source.span(value);
        let start = source.span(key).start;
        let Some(decoded) = decode(key) else {
            previous_end = Some(span.end);
            top.layout.has_members = true;
            return;
        };
        let slot = match &*decoded {
            "versions" => Some((&mut top.versions, &mut top.layout.versions)),
            "time" => Some((&mut top.time, &mut top.layout.time)),
            "dist-tags" => Some((&mut top.dist_tags, &mut top.layout.dist_tags)),
            "name" => Some((&mut found_name, &mut top.layout.name)),
            _ => None,
        };
        if let Some((value_slot, span_slot)) = slot {
            if value_slot.replace(value).is_some() {
                repeated = repeated.take().or_else(|| Some(decoded.to_string()));
            }
            *span_slot = Some(span);
        }
        if decoded == "policyRestrictions" {
            if restrictions.replace((Span { start, end: span.end }, previous_end)).is_some() {
                repeated = repeated.take().or_else(|| Some(decoded.to_string()));
            }
        } else {
            top.layout.has_members = true;
        }
        previous_end = Some(span.end);
    })
    .map_err(|wrong| wrong.in_document(document, "the document"))?;

    if let Some(key) = repeated {
        return Err(IngestError::Repeated { member: "the document", key });
    }
    let found = found_name.map(|raw| decode_string(raw).map_or_else(|| raw.to_owned(), Cow::into_owned));
    if let Some(found) = found.filter(|found| found != name.as_str()) {
        return Err(IngestError::OtherPackage { found });
    }
    #[expect(clippy::cast_possible_truncation, reason = "positions were checked to fit")]
    {
        top.layout.closing = document.trim_end().len() as u32 - 1;
    }
    if let Some((member, previous_end)) = restrictions {
        top.layout.restrictions = Some(set_off(document, member, previous_end, opening));
    }
    Ok(top)
}

/// Widens a member by the comma that sets it off: the one before it, or, for the first member, the one after it.
fn set_off(document: &str, member: Span, previous_end: Option<u32>, opening: usize) -> Span {
    if let Some(start) = previous_end {
        return Span { start, end: member.end };
    }
    let rest = &document[member.end as usize..];
    let blank = rest.len() - rest.trim_start().len();
    let comma = usize::from(rest.trim_start().starts_with(','));
    #[expect(clippy::cast_possible_truncation, reason = "positions were checked to fit")]
    Span { start: opening as u32 + 1, end: member.end + if comma == 1 { blank as u32 + 1 } else { 0 } }
}

/// `time`, read: an instant for every key that is a string that is one.
struct Times<'a> {
    instants: HashMap<Cow<'a, str>, Option<jiff::Timestamp>>,
    modified: Option<Span>,
}

fn read_times<'a>(source: &Source<'a>, time: Option<&'a str>) -> Result<Times<'a>, IngestError> {
    let mut times = Times { instants: HashMap::new(), modified: None };
    let Some(time) = time.filter(|time| *time != "null") else { return Ok(times) };
    let mut repeated = None;
    for_each_member(time, |key, value| {
        let Some(key) = decode(key) else { return };
        if key == "modified" {
            times.modified = value.starts_with('"').then(|| source.span(value));
        }
        let published = decode_string(value).and_then(|text| instant::parse(&text));
        if times.instants.insert(key.clone(), published).is_some() {
            repeated = repeated.take().or_else(|| Some(key.into_owned()));
        }
    })
    .map_err(|_| IngestError::Shape { member: "time" })?;
    match repeated {
        Some(key) => Err(IngestError::Repeated { member: "time", key }),
        None => Ok(times),
    }
}

/// `dist-tags`, decoded.
type Tags = Vec<(Box<str>, Box<str>)>;

fn read_tags(_source: &Source<'_>, tags: Option<&str>) -> Result<Tags, IngestError> {
    let mut found: Tags = Vec::new();
    let Some(tags) = tags.filter(|tags| *tags != "null") else { return Ok(found) };
    let mut repeated = None;
    for_each_member(tags, |key, value| {
        let (Some(tag), Some(version)) = (decode(key), decode_string(value)) else { return };
        if found.iter().any(|(known, _)| **known == *tag) {
            repeated = repeated.take().or_else(|| Some(tag.to_string()));
        }
        found.push((tag.as_ref().into(), version.as_ref().into()));
    })
    .map_err(|_| IngestError::Shape { member: "dist-tags" })?;
    match repeated {
        Some(key) => Err(IngestError::Repeated { member: "dist-tags", key }),
        None => Ok(found),
    }
}

fn read_entries(
    source: &Source<'_>,
    name: &PackageName,
    versions: Option<&str>,
    times: &Times<'_>,
    fields: &mut Fields,
) -> Result<Vec<Entry>, IngestError> {
    let mut entries = Vec::new();
    let Some(versions) = versions.filter(|versions| *versions != "null") else { return Ok(entries) };
    let mut seen = HashSet::new();
    let mut repeated = None;
    for_each_member(versions, |raw_key, value| {
        let key = decode(raw_key).unwrap_or(Cow::Borrowed(raw_key));
        let mut entry = read_entry(source, name, &key, value, fields);
        entry.span = Span { start: source.span(raw_key).start, end: entry.manifest.end };
        entry.published = times.instants.get(&key).copied().flatten();
        entries.push(entry);
        if !seen.insert(key.clone()) {
            repeated = repeated.take().or_else(|| Some(key.into_owned()));
        }
    })
    .map_err(|_| IngestError::Shape { member: "versions" })?;
    match repeated {
        Some(key) => Err(IngestError::Repeated { member: "versions", key }),
        None => Ok(entries),
    }
}

fn read_entry(source: &Source<'_>, name: &PackageName, key: &str, manifest: &str, fields: &mut Fields) -> Entry {
    let version = Version::parse(key);
    let mut read = Manifest::default();
    if manifest.starts_with('{') {
        let walked = for_each_member(manifest, |key, value| read.take(source, key, value, fields));
        debug_assert!(walked.is_ok(), "an object that was validated is one");
    } else {
        read.flaw = Some("its manifest is no object".to_owned());
    }
    #[expect(clippy::cast_possible_truncation, reason = "there are fewer members than bytes, and those fit")]
    fields.ends.push(fields.members.len() as u32);

    let flaw = read.flaw.take().or_else(|| read.contradiction(name, key, version.as_ref()));
    Entry {
        key: key.into(),
        version,
        published: None,
        integrity: Integrity::parse(read.integrity.as_deref(), read.shasum.as_deref()),
        tarball: read.tarball.as_deref().unwrap_or_default().into(),
        deprecated: read.deprecated,
        install_script: read.install_script,
        flaw: flaw.map(Into::into),
        span: source.span(manifest),
        manifest: source.span(manifest),
        tarball_value: read.tarball_value.unwrap_or(Span { start: 0, end: 0 }),
    }
}

/// What one walk over a manifest finds.
#[derive(Default)]
struct Manifest<'a> {
    name: Option<Cow<'a, str>>,
    version: Option<Cow<'a, str>>,
    tarball: Option<Cow<'a, str>>,
    integrity: Option<Cow<'a, str>>,
    shasum: Option<Cow<'a, str>>,
    tarball_value: Option<Span>,
    deprecated: bool,
    install_script: bool,
    flaw: Option<String>,
    keys: Keys<'a>,
}

impl<'a> Manifest<'a> {
    fn take(&mut self, source: &Source<'_>, raw_key: &'a str, value: &'a str, fields: &mut Fields) {
        let key = decode(raw_key).unwrap_or(Cow::Borrowed(raw_key));
        if self.keys.repeats(&key) {
            self.flaw = Some(format!("its manifest repeats `{}`", key.escape_debug()));
            return;
        }
        match &*key {
            "name" => self.name = decode_string(value),
            "version" => self.version = decode_string(value),
            "dist" => self.take_dist(source, value, fields),
            "_npmUser" => fields.has_publishers = true,
            "deprecated" => self.deprecated = !matches!(value, "false" | "null" | "\"\"" | "0"),
            "scripts" => self.install_script |= runs_at_install(value),
            // Written anew by the abbreviated form, from `scripts` as well.
            "hasInstallScript" => self.install_script |= value == "true",
            _ => {}
        }
        if is_abbreviated(&key) {
            fields.members.push(Span { start: source.span(raw_key).start, end: source.span(value).end });
        }
    }

    fn take_dist(&mut self, source: &Source<'_>, dist: &'a str, fields: &mut Fields) {
        if !dist.starts_with('{') {
            self.flaw = Some("its `dist` is no object".to_owned());
            return;
        }
        let mut keys = Keys::default();
        let walked = for_each_member(dist, |raw_key, value| {
            let key = decode(raw_key).unwrap_or(Cow::Borrowed(raw_key));
            let slot = match &*key {
                "tarball" => &mut self.tarball,
                "integrity" => &mut self.integrity,
                "shasum" => &mut self.shasum,
                "signatures" => {
                    fields.has_signatures = true;
                    return;
                }
                _ => return,
            };
            *slot = decode_string(value);
            if key == "tarball" {
                self.tarball_value = Some(source.span(value));
            }
            if keys.repeats(&key) {
                self.flaw = Some(format!("its `dist` repeats `{key}`"));
            }
        });
        debug_assert!(walked.is_ok(), "an object that was validated is one");
    }

    /// Where the manifest does not agree with the packument it stands in.
    fn contradiction(&self, name: &PackageName, key: &str, version: Option<&Version>) -> Option<String> {
        if version.is_none() {
            return Some("its key in `versions` is no version".to_owned());
        }
        if self.name.as_deref() != Some(name.as_str()) {
            return Some(match &self.name {
                Some(found) => format!("its manifest names another package: `{}`", found.escape_debug()),
                None => "its manifest has no name".to_owned(),
            });
        }
        if self.version.as_deref() != Some(key) {
            return Some(match &self.version {
                Some(found) => format!("its manifest states another version: `{}`", found.escape_debug()),
                None => "its manifest states no version".to_owned(),
            });
        }
        self.tarball.as_deref().is_none_or(str::is_empty).then(|| "its manifest names no tarball".to_owned())
    }
}

/// The keys of one object, to notice a repeated one: a filter first, so that the common case compares nothing.
#[derive(Default)]
struct Keys<'a> {
    filter: u64,
    seen: Vec<Cow<'a, str>>,
}

impl<'a> Keys<'a> {
    #[expect(clippy::ptr_arg, reason = "a clone of it borrows, or owns what had to be decoded")]
    fn repeats(&mut self, key: &Cow<'a, str>) -> bool {
        let hash = key.bytes().fold(key.len(), |hash, byte| hash.wrapping_mul(31).wrapping_add(byte as usize));
        let bit = 1_u64 << (hash % 64);
        if self.filter & bit != 0 && self.seen.contains(key) {
            return true;
        }
        self.filter |= bit;
        self.seen.push(key.clone());
        false
    }
}

/// Whether npm's abbreviated form has this member of a manifest. `hasInstallScript` is derived, not copied.
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

/// Whether `scripts` has one that npm runs at install.
fn runs_at_install(scripts: &str) -> bool {
    if !scripts.starts_with('{') || !(scripts.contains("install") || scripts.contains('\\')) {
        return false;
    }
    let mut runs = false;
    let walked = for_each_member(scripts, |key, _| {
        runs |= decode(key).is_some_and(|key| matches!(&*key, "preinstall" | "install" | "postinstall"));
    });
    debug_assert!(walked.is_ok(), "an object that was validated is one");
    runs
}

/// A key or a string as it reads, without its quotes; `None` for a lone surrogate, which no Rust string holds.
fn decode(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') { serde_json::from_str::<String>(raw).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
}

/// Like [`decode`], `None` too for a value that is no string.
fn decode_string(raw: &str) -> Option<Cow<'_, str>> {
    decode(raw)
}

/// What stopped a walk.
struct Stopped(serde_json::Error);

impl Stopped {
    /// The error of the whole document: names the byte.
    fn in_document(self, document: &str, member: &'static str) -> IngestError {
        if self.0.is_data() {
            return IngestError::Shape { member };
        }
        let line_start: usize = document.split_inclusive('\n').take(self.0.line().saturating_sub(1)).map(str::len).sum();
        let told = self.0.to_string();
        let detail = told.rsplit_once(" at line ").map_or(told.as_str(), |(detail, _)| detail);
        // The column counts the offending byte, unless the document just ended.
        let column = if self.0.is_eof() { self.0.column() } else { self.0.column().saturating_sub(1) };
        IngestError::Json { byte: (line_start + column).min(document.len()), detail: detail.to_owned() }
    }
}

/// Walks the members of the object that `json` is: key and value as they stand in the document.
fn for_each_member<'a>(json: &'a str, take: impl FnMut(&'a str, &'a str)) -> Result<(), Stopped> {
    let mut parser = serde_json::Deserializer::from_str(json);
    Members(take).deserialize(&mut parser).and_then(|()| parser.end()).map_err(Stopped)
}

struct Members<F>(F);

impl<'de, F: FnMut(&'de str, &'de str)> DeserializeSeed<'de> for Members<F> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, F: FnMut(&'de str, &'de str)> Visitor<'de> for Members<F> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<(), A::Error> {
        while let Some(key) = members.next_key::<&'de RawValue>()? {
            let value = members.next_value::<&'de RawValue>()?;
            (self.0)(key.get(), value.get());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> PackageName {
        PackageName::parse("demo").unwrap()
    }

    fn manifest(version: &str, more: &str) -> String {
        format!(
            r#"{{"name":"demo","version":"{version}","dist":{{"tarball":"https://registry.example/demo/-/demo-{version}.tgz","shasum":"{}"}}{more}}}"#,
            "0".repeat(40)
        )
    }

    fn read(document: &str) -> Result<Packument, IngestError> {
        ingest(&name(), document.as_bytes()).map(|ingested| ingested.packument)
    }

    #[test]
    fn a_packument_becomes_an_index() {
        let document = format!(
            r#"{{"name":"demo", "dist-tags" : {{"latest":"1.1.0"}},
              "versions":{{"1.0.0":{},"1.1.0":{}}},
              "time":{{"created":"2020-01-01T00:00:00Z","1.0.0":"2020-01-01T00:00:00Z","0.9.0":"2019-01-01T00:00:00Z","1.1.0":7}}}}"#,
            manifest("1.0.0", r#","scripts":{"post\u0069nstall":"x"}"#),
            manifest("1.1.0", r#","deprecated":"old""#)
        );
        let packument = read(&document).unwrap();
        assert_eq!(packument.entries.len(), 2);
        let (_, first) = packument.find("1.0.0").unwrap();
        assert!(first.install_script && first.flaw.is_none() && first.published.is_some() && first.integrity.is_some());
        let (_, second) = packument.find("1.1.0").unwrap();
        assert!(second.deprecated && second.published.is_none() && !second.install_script);
        assert_eq!(packument.departed.len(), 1);
        assert_eq!(&*packument.departed[0].0, "0.9.0");
        assert_eq!(second.tarball_value.of(document.as_bytes()), br#""https://registry.example/demo/-/demo-1.1.0.tgz""#);
    }

    #[test]
    fn repeated_keys_are_refused_however_they_are_spelled() {
        let one = manifest("1.0.0", "");
        let twice = format!(r#"{{"name":"demo","versions":{{"1.0.0":{one},"1.0.\u0030":{one}}}}}"#);
        assert_eq!(read(&twice).unwrap_err(), IngestError::Repeated { member: "versions", key: "1.0.0".into() });
        let twice = r#"{"name":"demo","versions":{},"versi\u006fns":{}}"#;
        assert_eq!(read(twice).unwrap_err(), IngestError::Repeated { member: "the document", key: "versions".into() });
        let twice = r#"{"name":"demo","dist-tags":{"latest":"1.0.0","latest":"2.0.0"}}"#;
        assert!(matches!(read(twice).unwrap_err(), IngestError::Repeated { member: "dist-tags", .. }));
        let twice = r#"{"name":"demo","time":{"1.0.0":"2020-01-01T00:00:00Z","1.0.0":"2020-01-01T00:00:00Z"}}"#;
        assert!(matches!(read(twice).unwrap_err(), IngestError::Repeated { member: "time", .. }));
    }

    #[test]
    fn a_manifest_that_contradicts_its_packument_has_a_flaw() {
        let flaw = |key: &str, manifest: &str| {
            let document = format!(r#"{{"name":"demo","versions":{{"{key}":{manifest}}}}}"#);
            read(&document).unwrap().entries[0].flaw.as_deref().unwrap_or("none").to_owned()
        };
        assert_eq!(flaw("1.0.0", &manifest("1.0.0", "")), "none");
        assert_eq!(flaw("1.0.1", &manifest("1.0.0", "")), "its manifest states another version: `1.0.0`");
        assert_eq!(
            flaw("1.0.0", &manifest("1.0.0", "").replace("demo\",", "evil\",")),
            "its manifest names another package: `evil`"
        );
        assert_eq!(flaw("latest", &manifest("latest", "")), "its key in `versions` is no version");
        assert_eq!(flaw("1.0.0", &manifest("1.0.0", r#","version":"1.0.0""#)), "its manifest repeats `version`");
        assert_eq!(flaw("1.0.0", &manifest("1.0.0", r#","x":1,"\u0078":2"#)), "its manifest repeats `x`");
        assert_eq!(flaw("1.0.0", "7"), "its manifest is no object");
        assert_eq!(flaw("1.0.0", r#"{"name":"demo","version":"1.0.0"}"#), "its manifest names no tarball");
        let two = r#"{"name":"demo","version":"1.0.0","dist":{"tarball":"a","tarball":"b"}}"#;
        assert_eq!(flaw("1.0.0", two), "its `dist` repeats `tarball`");
    }

    #[test]
    fn an_error_names_the_byte() {
        assert_eq!(
            read("{\"name\":\"demo\",\n\"versions\":{,}}").unwrap_err(),
            IngestError::Json { byte: 28, detail: "key must be a string".into() }
        );
        assert!(matches!(read("{\"name\":\"demo\"").unwrap_err(), IngestError::Json { byte: 14, .. }));
        assert!(matches!(read("").unwrap_err(), IngestError::Json { byte: 0, .. }));
        assert!(matches!(read("{} x").unwrap_err(), IngestError::Json { .. }));
        assert_eq!(read("[]").unwrap_err(), IngestError::Shape { member: "the document" });
        assert_eq!(ingest(&name(), b"{\"a\":\"\xff\"}").err(), Some(IngestError::Encoding { byte: 6 }));
        assert_eq!(read(r#"{"name":"other"}"#).unwrap_err(), IngestError::OtherPackage { found: "other".into() });
        assert_eq!(read(r#"{"versions":[]}"#).unwrap_err(), IngestError::Shape { member: "versions" });
    }

    #[test]
    fn what_nobody_understands_survives() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let odd = format!(
            r#"{{"\ud800":1,"name":"demo","x":{deep},"n":123456789012345678901234567890.000,"versions":{{"1.0.0":{}}}}}"#,
            manifest("1.0.0", r#","\udc00":"\ud800""#)
        );
        let packument = read(&odd).unwrap();
        assert!(packument.entries[0].flaw.is_none());
    }
}
