//! Parses a packument into the index in one validating pass, without a tree. Repeated keys are errors: parsers differ on them.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::de::MapAccess;
use serde_json::value::RawValue;

use crate::npm::name::PackageName;
use crate::npm::packument::index::{
    DocumentLayout, Packument, PackumentContents, PackumentOrder, StatedSiblings, VersionEntry, by_target,
};
use crate::npm::packument::json::{ByteSpan, JsonSource, ObjectSeed, ObjectVisitor, SeenKeys, decode, for_each_member, walk};
use crate::npm::packument::manifest::{AbbreviatedFields, ManifestContext, RepeatCache, read_entry};
use crate::npm::semver::version::Version;
use crate::text;
use crate::units::timestamp;

/// Maximum number of versions. The largest packuments on the registry have several thousand.
const MAX_VERSIONS: usize = 100_000;

/// Maximum number of dist-tags. Packages with a tag per branch or pull request have several thousand.
const MAX_DIST_TAGS: usize = 20_000;

/// Maximum number of entries in `time`: present versions, as many removed ones, `created` and `modified`.
const MAX_TIMES: usize = 2 * MAX_VERSIONS + 2;

/// The longest text of a document in an error, in characters.
const MAX_SHOWN_CHARS: usize = 100;

/// A parsed document, with data that lives only as long as the document.
pub struct ParsedPackument {
    pub packument: Packument,
    /// Spans of the members that the abbreviated form keeps.
    pub fields: AbbreviatedFields,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackumentError {
    #[error("not UTF-8 at byte {byte}")]
    Encoding { byte: usize },
    #[error("not JSON at byte {byte}: {detail}")]
    Json { byte: usize, detail: String },
    /// `member` is `the document` for the whole.
    #[error("`{member}` is not an object")]
    Shape { member: &'static str },
    /// A duplicate key, which parsers resolve differently.
    #[error("duplicate key in `{member}`: `{key}`")]
    Repeated { member: &'static str, key: String },
    #[error("the document is for another package: `{found}`")]
    OtherPackage { found: String },
    #[error("more than {MAX_VERSIONS} versions")]
    TooManyVersions,
    #[error("more than {limit} members in `{member}`")]
    TooManyMembers { member: &'static str, limit: usize },
    /// Longer than 4 GiB, the limit of positions.
    #[error("longer than 4 GiB")]
    TooLong,
}

/// Parses the packument of `name`.
///
/// # Errors
/// Returns an error if the document is not UTF-8, not JSON, not a packument, has a duplicate key, or is for another package. A
/// version that contradicts itself is not an error; its entry has `inconsistency` set.
pub fn parse(name: &PackageName, document: &[u8]) -> Result<ParsedPackument, PackumentError> {
    if u32::try_from(document.len()).is_err() {
        return Err(PackumentError::TooLong);
    }
    let text = std::str::from_utf8(document).map_err(|error| PackumentError::Encoding { byte: error.valid_up_to() })?;
    let source = JsonSource(text);
    let mut fields = AbbreviatedFields::default();
    let RootVisitor {
        entries: VersionsVisitor { mut entries, context: ManifestContext { cache, .. }, .. },
        time,
        dist_tags,
        modified,
        mut layout,
        has_more,
        ..
    } = read_top(&source, name, &mut fields)?;
    let mut times = read_times(&source, time)?;
    let stated = modified.and_then(decode).and_then(|text| timestamp::parse(&text));
    let has_time = !times.instants.is_empty();
    let dist_tags = read_tags(dist_tags)?;

    let mut by_key: Vec<u32> = (0..).take(entries.len()).collect();
    by_key.sort_unstable_by(|&left, &right| entries[left as usize].key.cmp(&entries[right as usize].key));
    let key_at = |position: u32| &entries[position as usize].key;
    if let Some(pair) = by_key.windows(2).find(|pair| key_at(pair[0]) == key_at(pair[1])) {
        return Err(PackumentError::Repeated { member: "versions", key: shown(key_at(pair[0])) });
    }
    for entry in &mut entries {
        entry.published = times.instants.remove(&*entry.key).flatten();
    }
    layout.modified = times.modified;
    let has_attestations = entries.iter().any(|entry| entry.outline.has_provenance);
    let mut packument = Packument {
        name: name.clone(),
        entries,
        order: PackumentOrder { by_key, tags_by_target: by_target(&dist_tags) },
        dist_tags,
        removed: Vec::new(),
        contents: PackumentContents {
            has_time,
            has_publishers: fields.has_publishers,
            has_signatures: fields.has_signatures,
            has_attestations,
            has_more,
        },
        modified: times.changed.max(stated),
        oldest: None,
        siblings: StatedSiblings { parts: cache.parts, pins: cache.pins.into() },
        signatures: cache.signatures,
        length: document.len() as u64,
        layout,
    };
    // The remaining times belong to removed versions, or to no version (`created`).
    let remaining = times.instants.iter().filter(|(key, _)| Version::parse(key).is_some());
    packument.removed = remaining.map(|(key, published)| (key.as_ref().into(), *published)).collect();
    packument.removed.sort_unstable();
    let removed_times = packument.removed.iter().filter_map(|(_, published)| *published);
    packument.oldest = packument.entries.iter().filter_map(|entry| entry.published).chain(removed_times).min();
    Ok(ParsedPackument { packument, fields })
}

/// Visits the document: collects the relevant members and reads `versions` in place.
struct RootVisitor<'w, 'a> {
    source: &'w JsonSource<'a>,
    entries: VersionsVisitor<'w, 'a>,
    time: Option<&'a str>,
    dist_tags: Option<&'a str>,
    name: Option<&'a str>,
    /// `modified` of an abbreviated document.
    modified: Option<&'a str>,
    /// The member `policyRestrictions`, and the end of the member before it.
    restrictions: Option<(ByteSpan, Option<u32>)>,
    layout: DocumentLayout,
    previous_end: Option<u32>,
    has_more: bool,
    repeated: Option<String>,
}

impl<'a> ObjectVisitor<'a> for RootVisitor<'_, 'a> {
    fn member<A: MapAccess<'a>>(&mut self, key: &'a str, members: &mut A) -> Result<(), A::Error> {
        let raw_key = self.source.span(key);
        let key = decode(key);
        if key.as_deref() == Some("versions") && self.entries.shape == VersionsShape::Missing {
            let start = self.source.value_after(raw_key.end);
            self.layout.has_members = true;
            let end = if self.source.is_object(start) {
                self.entries.shape = VersionsShape::Object;
                self.entries.last_end = start + 1;
                members.next_value_seed(ObjectSeed(&mut self.entries))?;
                let end = self.source.closed_after(self.entries.last_end);
                self.layout.versions = Some(ByteSpan { start, end });
                end
            } else {
                let value = members.next_value::<&'a RawValue>()?.get();
                self.entries.shape = if value == "null" { VersionsShape::Null } else { VersionsShape::Other };
                self.source.span(value).end
            };
            self.previous_end = Some(end);
            return Ok(());
        }
        let value = members.next_value::<&'a RawValue>()?.get();
        let span = self.source.span(value);
        self.take(key.as_deref(), raw_key.start, value, span);
        self.previous_end = Some(span.end);
        Ok(())
    }
}

impl<'a> RootVisitor<'_, 'a> {
    fn take(&mut self, key: Option<&str>, start: u32, value: &'a str, span: ByteSpan) {
        let known = match key {
            Some("time") => {
                self.layout.time = Some(span);
                self.time.replace(value).is_some()
            }
            Some("dist-tags") => {
                self.layout.dist_tags = Some(span);
                self.dist_tags.replace(value).is_some()
            }
            Some("name") => {
                self.layout.name = Some(span);
                self.name.replace(value).is_some()
            }
            // If repeated, the first counts: it can only make the copy look older.
            Some("modified") => {
                self.modified.get_or_insert(value);
                false
            }
            Some("policyRestrictions") => {
                let member = ByteSpan { start, end: span.end };
                if self.restrictions.replace((member, self.previous_end)).is_some() {
                    self.repeated.get_or_insert_with(|| "policyRestrictions".to_owned());
                }
                return;
            }
            // The first one was handled in `member`.
            Some("versions") => true,
            Some("readme" | "maintainers" | "description" | "repository" | "homepage" | "license" | "author") => {
                self.has_more = true;
                false
            }
            _ => false,
        };
        if let Some(key) = key.filter(|_| known) {
            self.repeated.get_or_insert_with(|| key.to_owned());
        }
        self.layout.has_members = true;
    }
}

struct VersionsVisitor<'w, 'a> {
    context: ManifestContext<'w, 'a>,
    entries: Vec<VersionEntry>,
    shape: VersionsShape,
    last_end: u32,
}

#[derive(PartialEq, Eq)]
enum VersionsShape {
    Missing,
    Object,
    /// Treated as missing: a package without versions.
    Null,
    Other,
}

impl<'a> ObjectVisitor<'a> for VersionsVisitor<'_, 'a> {
    fn member<A: MapAccess<'a>>(&mut self, key: &'a str, members: &mut A) -> Result<(), A::Error> {
        if self.entries.len() >= MAX_VERSIONS {
            return Err(serde::de::Error::custom(format!("more than {MAX_VERSIONS} versions")));
        }
        let entry = read_entry(&mut self.context, key, members)?;
        self.last_end = entry.spans.manifest.end;
        self.entries.push(entry);
        Ok(())
    }
}

fn read_top<'w, 'a>(
    source: &'w JsonSource<'a>,
    name: &'w PackageName,
    fields: &'w mut AbbreviatedFields,
) -> Result<RootVisitor<'w, 'a>, PackumentError> {
    let document = source.0;
    let entries = VersionsVisitor {
        context: ManifestContext { source, name, fields, cache: RepeatCache::default() },
        entries: Vec::new(),
        shape: VersionsShape::Missing,
        last_end: 0,
    };
    let mut top = RootVisitor {
        source,
        entries,
        time: None,
        dist_tags: None,
        name: None,
        modified: None,
        restrictions: None,
        layout: DocumentLayout::default(),
        previous_end: None,
        has_more: false,
        repeated: None,
    };
    let walked = walk(document, &mut top);
    if walked.is_err() && top.entries.entries.len() == MAX_VERSIONS {
        return Err(PackumentError::TooManyVersions);
    }
    walked.map_err(|error| document_error(&error, document))?;
    if let Some(key) = top.repeated {
        return Err(PackumentError::Repeated { member: "the document", key: shown(&key) });
    }
    if top.entries.shape == VersionsShape::Other {
        return Err(PackumentError::Shape { member: "versions" });
    }
    let found = top.name.map(|raw| decode(raw).map_or_else(|| raw.to_owned(), Cow::into_owned));
    if let Some(found) = found.filter(|found| found != name.as_str()) {
        return Err(PackumentError::OtherPackage { found: shown(&found) });
    }
    #[expect(clippy::cast_possible_truncation, reason = "positions were checked to fit")]
    let (opening, closing) = ((document.len() - document.trim_start().len()) as u32, document.trim_end().len() as u32 - 1);
    top.layout.closing = closing;
    top.layout.restrictions = top.restrictions.map(|(member, previous_end)| set_off(source, member, previous_end, opening));
    Ok(top)
}

/// Returns a text of the document for an error. The document may hold any length of it.
fn shown(text: &str) -> String {
    text::excerpt(text, MAX_SHOWN_CHARS)
}

/// Converts the error of a visit, with its byte position in the document.
fn document_error(error: &serde_json::Error, document: &str) -> PackumentError {
    if error.is_data() {
        return PackumentError::Shape { member: "the document" };
    }
    let line_start: usize = document.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    let message = error.to_string();
    let detail = message.rsplit_once(" at line ").map_or(message.as_str(), |(detail, _)| detail);
    // The column includes the offending byte, unless the document ended.
    let column = if error.is_eof() { error.column() } else { error.column().saturating_sub(1) };
    PackumentError::Json { byte: (line_start + column).min(document.len()), detail: detail.to_owned() }
}

/// Extends a member's span by its separating comma: the one before it, or after it for the first member.
fn set_off(source: &JsonSource<'_>, member: ByteSpan, previous_end: Option<u32>, opening: u32) -> ByteSpan {
    if let Some(start) = previous_end {
        return ByteSpan { start, end: member.end };
    }
    let next = source.closed_after(member.end);
    let comma = source.0.as_bytes().get(next as usize - 1) == Some(&b',');
    ByteSpan { start: opening + 1, end: if comma { next } else { member.end } }
}

/// The parsed `time`: each string key, with its timestamp if valid.
struct PublishTimes<'a> {
    instants: HashMap<Cow<'a, str>, Option<jiff::Timestamp>>,
    modified: Option<ByteSpan>,
    changed: Option<jiff::Timestamp>,
}

fn read_times<'a>(source: &JsonSource<'a>, time: Option<&'a str>) -> Result<PublishTimes<'a>, PackumentError> {
    let instants = HashMap::with_capacity(time.map_or(0, |time| (time.len() / 48).min(MAX_TIMES)));
    let mut times = PublishTimes { instants, modified: None, changed: None };
    read_unique(time, "time", MAX_TIMES, |key, value| {
        let published = decode(value).and_then(|text| timestamp::parse(&text));
        if key == "modified" {
            times.modified = value.starts_with('"').then(|| source.span(value));
            times.changed = published;
        }
        times.instants.insert(key, published).is_some()
    })?;
    Ok(times)
}

/// `dist-tags`, decoded.
type Tags = Vec<(Box<str>, Box<str>)>;

fn read_tags(tags: Option<&str>) -> Result<Tags, PackumentError> {
    let (mut found, mut keys) = (Tags::new(), SeenKeys::default());
    read_unique(tags, "dist-tags", MAX_DIST_TAGS, |tag, version| {
        let Some(version) = decode(version) else { return false };
        found.push((tag.as_ref().into(), version.as_ref().into()));
        keys.repeats(tag)
    })?;
    Ok(found)
}

/// Calls `insert` with each key and value of an object of at most `limit` members. It returns whether the key is a repetition.
fn read_unique<'a>(
    object: Option<&'a str>,
    member: &'static str,
    limit: usize,
    mut insert: impl FnMut(Cow<'a, str>, &'a str) -> bool,
) -> Result<(), PackumentError> {
    let Some(object) = object.filter(|object| *object != "null") else { return Ok(()) };
    let (mut repeated, mut members) = (None, 0_usize);
    for_each_member(object, |raw_key, value| {
        members += 1;
        let Some(key) = decode(raw_key).filter(|_| members <= limit) else { return };
        if insert(key, value) {
            repeated = repeated.or(Some(raw_key));
        }
    })
    .map_err(|_| PackumentError::Shape { member })?;
    if members > limit {
        return Err(PackumentError::TooManyMembers { member, limit });
    }
    match repeated.and_then(decode) {
        Some(key) => Err(PackumentError::Repeated { member, key: shown(&key) }),
        None => Ok(()),
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

    fn read(document: &str) -> Result<Packument, PackumentError> {
        parse(&name(), document.as_bytes()).map(|ingested| ingested.packument)
    }

    #[test]
    fn packument_is_indexed() {
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
        assert!(
            first.traits.install_script
                && first.inconsistency.is_none()
                && first.published.is_some()
                && first.integrity.is_some()
        );
        let (_, second) = packument.find("1.1.0").unwrap();
        assert!(second.traits.deprecated && second.published.is_none() && !second.traits.install_script);
        assert_eq!(packument.removed.len(), 1);
        assert_eq!(&*packument.removed[0].0, "0.9.0");
        assert_eq!(second.spans.tarball.of(document.as_bytes()), br#""https://registry.example/demo/-/demo-1.1.0.tgz""#);
    }

    #[test]
    fn modified_is_read_in_both_forms() {
        let at = |text: &str| timestamp::parse(text);
        let full = r#"{"name":"demo","time":{"modified":"2026-04-03T12:00:00.000Z"}}"#;
        assert_eq!(read(full).unwrap().modified, at("2026-04-03T12:00:00Z"));
        let abbreviated = r#"{"name":"demo","modified":"2026-04-03T12:00:01.000Z"}"#;
        assert_eq!(read(abbreviated).unwrap().modified, at("2026-04-03T12:00:01Z"));
        assert_eq!(read(r#"{"name":"demo","modified":7,"time":{"modified":"soon"}}"#).unwrap().modified, None);
    }

    #[test]
    fn duplicate_keys_are_rejected_in_any_spelling() {
        let one = manifest("1.0.0", "");
        let twice = format!(r#"{{"name":"demo","versions":{{"1.0.0":{one},"1.0.\u0030":{one}}}}}"#);
        assert_eq!(read(&twice).unwrap_err(), PackumentError::Repeated { member: "versions", key: "1.0.0".into() });
        let twice = r#"{"name":"demo","versions":{},"versi\u006fns":{}}"#;
        assert_eq!(read(twice).unwrap_err(), PackumentError::Repeated { member: "the document", key: "versions".into() });
        let twice = r#"{"name":"demo","dist-tags":{"latest":"1.0.0","latest":"2.0.0"}}"#;
        assert!(matches!(read(twice).unwrap_err(), PackumentError::Repeated { member: "dist-tags", .. }));
        let twice = r#"{"name":"demo","time":{"1.0.0":"2020-01-01T00:00:00Z","1.0.0":"2020-01-01T00:00:00Z"}}"#;
        assert!(matches!(read(twice).unwrap_err(), PackumentError::Repeated { member: "time", .. }));
    }

    #[test]
    fn contradictory_manifest_is_inconsistent() {
        let inconsistency = |key: &str, manifest: &str| {
            let document = format!(r#"{{"name":"demo","versions":{{"{key}":{manifest}}}}}"#);
            read(&document).unwrap().entries[0].inconsistency.as_deref().unwrap_or("none").to_owned()
        };
        assert_eq!(inconsistency("1.0.0", &manifest("1.0.0", "")), "none");
        assert_eq!(inconsistency("1.0.1", &manifest("1.0.0", "")), "its manifest is for another version: `1.0.0`");
        assert_eq!(
            inconsistency("1.0.0-next.72", &manifest("1.0.0-next.72+f41d8efcd", "")),
            "none",
            "build metadata is not part of a version"
        );
        assert_eq!(inconsistency("1.0.0", &manifest("1.0.1+1.0.0", "")), "its manifest is for another version: `1.0.1+1.0.0`");
        assert_eq!(inconsistency("1.0.0", &manifest("1.0.0+", "")), "its manifest is for another version: `1.0.0+`");
        assert_eq!(
            inconsistency("1.0.0", &manifest("1.0.0", "").replace("demo\",", "evil\",")),
            "its manifest is for another package: `evil`"
        );
        assert_eq!(inconsistency("latest", &manifest("latest", "")), "its key in `versions` is not a version");
        assert_eq!(inconsistency("1.0.0", &manifest("1.0.0", r#","version":"1.0.0""#)), "its manifest repeats `version`");
        assert_eq!(inconsistency("1.0.0", &manifest("1.0.0", r#","x":1,"\u0078":2"#)), "its manifest repeats `x`");
        assert_eq!(inconsistency("1.0.0", "7"), "its manifest is not an object");
        assert_eq!(inconsistency("1.0.0", r#"{"name":"demo","version":"1.0.0"}"#), "its manifest has no tarball");
        let two = r#"{"name":"demo","version":"1.0.0","dist":{"tarball":"a","tarball":"b"}}"#;
        assert_eq!(inconsistency("1.0.0", two), "its `dist` repeats `tarball`");
    }

    #[test]
    fn errors_report_the_byte_position() {
        assert_eq!(
            read("{\"name\":\"demo\",\n\"versions\":{,}}").unwrap_err(),
            PackumentError::Json { byte: 28, detail: "key must be a string".into() }
        );
        assert!(matches!(read("{\"name\":\"demo\"").unwrap_err(), PackumentError::Json { byte: 14, .. }));
        assert!(matches!(read("").unwrap_err(), PackumentError::Json { byte: 0, .. }));
        assert!(matches!(read("{} x").unwrap_err(), PackumentError::Json { .. }));
        assert_eq!(read("[]").unwrap_err(), PackumentError::Shape { member: "the document" });
        assert_eq!(parse(&name(), b"{\"a\":\"\xff\"}").err(), Some(PackumentError::Encoding { byte: 6 }));
        assert_eq!(read(r#"{"name":"other"}"#).unwrap_err(), PackumentError::OtherPackage { found: "other".into() });
        assert_eq!(read(r#"{"versions":[]}"#).unwrap_err(), PackumentError::Shape { member: "versions" });
    }

    #[test]
    fn documents_with_many_members_are_bounded() {
        let many = |prefix: &str| (0..200_000).map(|n| format!(r#""{prefix}{n}":"x""#)).collect::<Vec<_>>().join(",");
        let tags = |count: usize| (0..count).map(|n| format!(r#""t{n}":"x""#)).collect::<Vec<_>>().join(",");
        let tagged = |count: usize| read(&format!(r#"{{"name":"demo","dist-tags":{{{}}}}}"#, tags(count)));
        assert_eq!(tagged(MAX_DIST_TAGS).unwrap().dist_tags.len(), MAX_DIST_TAGS);
        let refused = |member, limit| PackumentError::TooManyMembers { member, limit };
        assert_eq!(tagged(MAX_DIST_TAGS + 1).unwrap_err(), refused("dist-tags", MAX_DIST_TAGS));
        let times = format!(r#"{{"name":"demo","time":{{{},{}}}}}"#, many("a"), many("b"));
        assert_eq!(read(&times).unwrap_err(), refused("time", MAX_TIMES));
        let members = format!(r#"{{"name":"demo","versions":{{"1.0.0":{}}}}}"#, manifest("1.0.0", &format!(",{}", many("m"))));
        assert!(read(&members).unwrap().entries[0].inconsistency.is_none());
        let versions = format!(r#"{{"name":"demo","versions":{{{}}}}}"#, many("1.0."));
        assert_eq!(read(&versions).unwrap_err(), PackumentError::TooManyVersions);
    }

    #[test]
    fn versions_must_be_an_object_null_or_missing() {
        assert!(read(r#"{"name":"demo"}"#).unwrap().entries.is_empty());
        assert!(read(r#"{"name":"demo","versions":null,"policyRestrictions":1}"#).unwrap().entries.is_empty());
        for other in ["7", "-7", "1.5", "true", "\"x\"", "[]", "[1,[2]]"] {
            let error = read(&format!(r#"{{"versions":{other}}}"#)).unwrap_err();
            assert_eq!(error, PackumentError::Shape { member: "versions" }, "{other}");
        }
        let twice = read(r#"{"versions":null,"versions":{}}"#).unwrap_err();
        assert_eq!(twice, PackumentError::Repeated { member: "the document", key: "versions".into() });
    }

    #[test]
    fn unusual_members_do_not_fail_the_parse() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let odd = format!(
            r#"{{"\ud800":1,"name":"demo","x":{deep},"n":123456789012345678901234567890.000,"versions":{{"1.0.0":{}}}}}"#,
            manifest("1.0.0", r#","\udc00":"\ud800""#)
        );
        let packument = read(&odd).unwrap();
        assert!(packument.entries[0].inconsistency.is_none());
    }
}
