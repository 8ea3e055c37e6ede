//! Reads a packument once, in one validated pass, into the index. Refuses to build a JSON tree, and to guess where
//! parsers differ: a repeated key in `versions`, `time` or `dist-tags` is an error.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

pub use super::manifest::Fields;
use super::manifest::read_entry;
use super::packument::{Entry, Layout, Packument, Span};
use super::walk::{Source, decode, for_each_member};
use super::{PackageName, Version, instant};

/// A document that was read, and what only lives as long as the document does.
pub struct Ingested {
    /// The index, to keep.
    pub packument: Packument,
    /// Where the members lie that the abbreviated form keeps.
    pub fields: Fields,
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
    let dist_tags = read_tags(top.dist_tags)?;

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
    let found = found_name.map(|raw| decode(raw).map_or_else(|| raw.to_owned(), Cow::into_owned));
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
        let published = decode(value).and_then(|text| instant::parse(&text));
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

fn read_tags(tags: Option<&str>) -> Result<Tags, IngestError> {
    let mut found: Tags = Vec::new();
    let Some(tags) = tags.filter(|tags| *tags != "null") else { return Ok(found) };
    let mut repeated = None;
    for_each_member(tags, |key, value| {
        let (Some(tag), Some(version)) = (decode(key), decode(value)) else { return };
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
