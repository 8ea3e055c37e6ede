//! One package of the fake registry and the packument rendered from it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize as _;
use serde_json::{Value, json};

use crate::fake_response::{Reply, Request};
use crate::package::{Package, TarballUrl, gzip, sha1};
use crate::registry::spell;

/// How a registry renders packuments.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "independent options")]
pub struct Style {
    /// Sends `ETag` and `Last-Modified`, and 304 if the `ETag` matches.
    pub validators: bool,
    /// Compresses for clients that accept gzip.
    pub gzip: bool,
    /// Omits `created`, `modified` and tags other than `latest`; formats times and white space as mirrors do.
    pub stripped: bool,
    /// The answer to a request for the abbreviated form.
    pub abbreviated: Abbreviated,
    /// Sends the same `ETag` for both forms.
    pub one_etag: bool,
}

/// What a registry sends as the abbreviated form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abbreviated {
    /// The full form.
    Ignored,
    /// Without `time`, as the public registry sends it.
    Timeless,
    /// With `time`.
    Timed,
    /// Without `time` and with extra members in each version, as some mirrors send it.
    Embellished,
}

impl Default for Style {
    fn default() -> Self {
        Self { validators: true, gzip: true, stripped: false, abbreviated: Abbreviated::Ignored, one_etag: false }
    }
}

impl Style {
    /// Returns the style of a typical mirror.
    pub fn mirror() -> Self {
        Self { validators: false, gzip: false, stripped: true, abbreviated: Abbreviated::Ignored, one_etag: false }
    }
}

/// The manifest fields of the abbreviated form.
const ABBREVIATED_FIELDS: [&str; 8] =
    ["name", "version", "dist", "dependencies", "optionalDependencies", "bin", "deprecated", "hasInstallScript"];

/// A change to each packument before it is sent.
type Edit = Box<dyn Fn(&mut Value) + Send + Sync>;

/// A package with its versions, times and tags.
#[derive(Default)]
pub struct Listing {
    versions: BTreeMap<String, Value>,
    time: BTreeMap<String, Value>,
    tags: BTreeMap<String, String>,
    modified: Timestamp,
    /// Changes made before sending.
    pub edits: Vec<Edit>,
    /// Bytes to send instead of the rendered packument.
    pub raw: Option<Vec<u8>>,
}

impl Listing {
    pub fn publish(&mut self, package: &Package, registry: &str, now: Timestamp) {
        let mut manifest = package.manifest.clone();
        let url = match &package.place {
            TarballUrl::Url(url) => url.clone(),
            TarballUrl::Conventional | TarballUrl::Path(_) => format!("{registry}{}", package.path()),
        };
        manifest["dist"]["tarball"] = json!(url);
        self.versions.insert(package.version.clone(), manifest);
        match spell(&package.published, now) {
            Some(value) => drop(self.time.insert(package.version.clone(), value)),
            None => drop(self.time.remove(&package.version)),
        }
        if let Some(tag) = &package.tag {
            self.tags.insert(tag.clone(), package.version.clone());
        }
        self.modified = now;
    }

    pub fn unpublish(&mut self, version: &str, now: Timestamp) {
        self.versions.remove(version);
        self.tags.retain(|_, target| target != version);
        if let Some(highest) = self.versions.keys().next_back() {
            self.tags.entry("latest".to_owned()).or_insert_with(|| highest.clone());
        }
        self.modified = now;
    }

    pub fn tag(&mut self, tag: &str, version: &str, now: Timestamp) {
        self.tags.insert(tag.to_owned(), version.to_owned());
        self.modified = now;
    }

    pub fn tags_json(&self) -> String {
        json!(self.tags).to_string()
    }

    /// Renders the full packument.
    pub fn packument(&self, name: &str, style: &Style) -> Vec<u8> {
        if let Some(raw) = &self.raw {
            return raw.clone();
        }
        let mut tags = self.tags.clone();
        let mut time = self.time.clone();
        if style.stripped {
            tags.retain(|tag, _| tag == "latest");
            for value in time.values_mut() {
                let micros = value.as_str().and_then(|text| text.strip_suffix('Z')).map(|text| format!("{text}000+00:00"));
                *value = micros.map_or(Value::Null, Value::from);
            }
        } else {
            time.insert("created".to_owned(), json!("2012-01-01T00:00:00.000Z"));
            time.insert("modified".to_owned(), json!(format!("{:.3}", self.modified)));
        }
        let mut packument = json!({ "_id": name, "name": name, "dist-tags": tags, "versions": self.versions, "time": time });
        if !style.stripped {
            packument["readme"] = json!("# A package");
            packument["maintainers"] = json!([{ "name": "someone", "email": "someone@registry.example" }]);
        }
        for edit in &self.edits {
            edit(&mut packument);
        }
        if style.stripped { spaced(&packument) } else { packument.to_string().into_bytes() }
    }

    /// Renders the abbreviated packument.
    fn abbreviated(&self, name: &str, style: &Style) -> Vec<u8> {
        let mut packument: Value = serde_json::from_slice(&self.packument(name, style)).expect("JSON");
        for manifest in packument["versions"].as_object_mut().expect("versions").values_mut() {
            let manifest = manifest.as_object_mut().expect("a manifest");
            manifest.retain(|key, _| ABBREVIATED_FIELDS.contains(&key.as_str()));
            if style.abbreviated == Abbreviated::Embellished {
                manifest.insert("_id".to_owned(), json!("mirror@1"));
                manifest.insert("publish_time".to_owned(), json!(1_500_000_000_000_i64));
            }
        }
        let is_kept = |key: &str| {
            ["name", "dist-tags", "versions"].contains(&key) || (key == "time" && style.abbreviated == Abbreviated::Timed)
        };
        packument.as_object_mut().expect("an object").retain(|key, _| is_kept(key));
        packument.to_string().into_bytes()
    }

    /// Answers one packument request.
    pub fn reply(&self, name: &str, style: &Style, request: &Request) -> Reply {
        let wants_abbreviated = request.headers.first("accept").is_some_and(|accept| accept.contains("install-v1"));
        let sends_abbreviated = wants_abbreviated && style.abbreviated != Abbreviated::Ignored;
        let body = if sends_abbreviated { self.abbreviated(name, style) } else { self.packument(name, style) };
        let etag = format!("\"{}\"", sha1(&if style.one_etag { self.packument(name, style) } else { body.clone() }));
        let modified = httpdate::fmt_http_date(self.modified.into());
        let with_validators = |reply: Reply| {
            if style.validators {
                reply.header("etag", &etag).header("last-modified", &modified).header("cache-control", "public, max-age=300")
            } else {
                reply
            }
        };
        if style.validators && request.headers.first("if-none-match") == Some(&etag) {
            return with_validators(Reply::status(304));
        }
        let use_gzip = style.gzip && request.headers.first("accept-encoding").is_some_and(|accepted| accepted.contains("gzip"));
        let reply = Reply::ok(if use_gzip { gzip(&body) } else { body }).header("content-type", "application/json");
        with_validators(if use_gzip { reply.header("content-encoding", "gzip") } else { reply })
    }

    /// Renders the package as a search result.
    pub fn search_result(&self, name: &str) -> Value {
        let latest = self.tags.get("latest").cloned().unwrap_or_default();
        let date = self.time.get(&latest).cloned().unwrap_or_default();
        json!({ "package": { "name": name, "version": latest, "date": date, "description": "a package", "keywords": [], "maintainers": [] }, "score": { "final": 1.0 }, "searchScore": 1.0 })
    }
}

/// Renders JSON with a space after `,` and `:`, as some mirrors do.
fn spaced(value: &Value) -> Vec<u8> {
    struct Spaced;
    impl serde_json::ser::Formatter for Spaced {
        fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
            if first { Ok(()) } else { out.write_all(b", ") }
        }
        fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
            if first { Ok(()) } else { out.write_all(b", ") }
        }
        fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
            out.write_all(b": ")
        }
    }
    let mut out = Vec::new();
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Spaced)).expect("writing to memory");
    out
}
