//! Builds packages for the fake registry: manifest, publish time and tarball. They are consistent unless a test changes them.

use std::io::Write as _;
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA512, digest};
use base64::Engine as _;
use serde_json::{Value, json};

use crate::tar;

pub fn hours(count: u64) -> Duration {
    Duration::from_secs(count * 3600)
}

pub fn days(count: u64) -> Duration {
    hours(count * 24)
}

pub fn minutes(count: u64) -> Duration {
    Duration::from_secs(count * 60)
}

/// The version's entry in `time`.
#[derive(Debug, Clone)]
pub enum Published {
    /// This long before the registry's current time.
    Aged(Duration),
    /// This value, valid or not.
    Raw(Value),
    /// No entry.
    Missing,
}

/// The URL in `dist.tarball`.
#[derive(Debug, Clone)]
pub enum TarballUrl {
    /// `{registry}/{name}/-/{file}-{version}.tgz`
    Conventional,
    /// Another path of the registry.
    Path(String),
    /// Any URL, as given.
    Url(String),
}

/// One version of a package.
#[derive(Debug, Clone)]
pub struct Package {
    pub name: String,
    pub version: String,
    pub published: Published,
    pub tag: Option<String>,
    pub place: TarballUrl,
    pub tarball: Vec<u8>,
    pub readers: Option<String>,
    /// The manifest without `dist.tarball`.
    pub manifest: Value,
    fields: Vec<(String, Value)>,
    dist: Vec<(String, Value)>,
    content: String,
    /// The tarball, if a test makes it itself.
    made: Option<Vec<u8>>,
}

impl Package {
    /// An old version, tagged `latest`.
    pub fn new(name: &str, version: &str) -> Self {
        let mut package = Self {
            name: name.to_owned(),
            version: version.to_owned(),
            published: Published::Aged(days(365)),
            tag: Some("latest".to_owned()),
            place: TarballUrl::Conventional,
            tarball: Vec::new(),
            readers: None,
            manifest: Value::Null,
            fields: Vec::new(),
            dist: Vec::new(),
            content: format!("module.exports = '{name}@{version}'\n"),
            made: None,
        };
        package.pack();
        package
    }

    /// Sets the age at the registry's current time.
    pub fn aged(mut self, age: Duration) -> Self {
        self.published = Published::Aged(age);
        self
    }

    /// Sets the value in `time`.
    pub fn time(mut self, value: impl Into<Value>) -> Self {
        self.published = Published::Raw(value.into());
        self
    }

    /// Leaves the version out of `time`.
    pub fn without_time(mut self) -> Self {
        self.published = Published::Missing;
        self
    }

    /// Sets the dist-tag.
    pub fn tagged(mut self, tag: &str) -> Self {
        self.tag = Some(tag.to_owned());
        self
    }

    /// Sets no dist-tag.
    pub fn untagged(mut self) -> Self {
        self.tag = None;
        self
    }

    /// Sets a field of the manifest and of the `package.json` in the tarball.
    pub fn field(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.fields.push((name.to_owned(), value.into()));
        self.pack();
        self
    }

    /// Sets a field of `dist`; `null` removes it.
    pub fn dist(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.dist.push((name.to_owned(), value.into()));
        self.pack();
        self
    }

    pub fn script(self, name: &str, command: &str) -> Self {
        self.field("scripts", json!({ name: command }))
    }

    pub fn deprecated(self, why: &str) -> Self {
        self.field("deprecated", why)
    }

    pub fn depends_on(self, name: &str, range: &str) -> Self {
        self.field("dependencies", json!({ name: range }))
    }

    /// Replaces the content of the tarball and updates its digests.
    pub fn content(mut self, content: &str) -> Self {
        content.clone_into(&mut self.content);
        self.pack();
        self
    }

    /// Replaces the whole tarball and updates its digests. The packument does not change otherwise.
    pub fn packed(mut self, tarball: Vec<u8>) -> Self {
        self.made = Some(tarball);
        self.pack();
        self
    }

    /// Fills the tarball with about this many incompressible bytes.
    pub fn sized(self, bytes: usize) -> Self {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut text = String::with_capacity(bytes + 16);
        while text.len() < bytes {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            text.push_str(&base64::engine::general_purpose::STANDARD.encode(state.to_le_bytes()));
        }
        self.content(&text)
    }

    /// Serves the tarball at another path of the registry.
    pub fn at_path(mut self, path: &str) -> Self {
        self.place = TarballUrl::Path(path.to_owned());
        self
    }

    /// Sets `dist.tarball`.
    pub fn at_url(mut self, url: &str) -> Self {
        self.place = TarballUrl::Url(url.to_owned());
        self
    }

    /// Makes the package visible only with one of these bearer tokens, separated by commas.
    pub fn readable_with(mut self, token: &str) -> Self {
        self.readers = Some(token.to_owned());
        self
    }

    /// Returns the file name by npm's convention.
    pub fn file(&self) -> String {
        let unscoped = self.name.rsplit('/').next().unwrap_or(&self.name);
        format!("{unscoped}-{}.tgz", self.version)
    }

    /// Returns the path of the tarball on the registry.
    pub fn path(&self) -> String {
        match &self.place {
            TarballUrl::Path(path) => path.clone(),
            _ => format!("/{}/-/{}", self.name, self.file()),
        }
    }

    fn pack(&mut self) {
        let mut manifest = json!({ "name": self.name, "version": self.version, "main": "index.js" });
        for (name, value) in &self.fields {
            manifest[name] = value.clone();
        }
        self.tarball = self
            .made
            .clone()
            .unwrap_or_else(|| tarball(&[("package/package.json", &manifest.to_string()), ("package/index.js", &self.content)]));
        manifest["_id"] = json!(format!("{}@{}", self.name, self.version));
        manifest["dist"] = json!({
            "integrity": sha512(&self.tarball),
            "shasum": sha1(&self.tarball),
            "fileCount": 2,
        });
        for (name, value) in &self.dist {
            match value {
                Value::Null => drop(manifest["dist"].as_object_mut().expect("dist").remove(name)),
                value => manifest["dist"][name] = value.clone(),
            }
        }
        self.manifest = manifest;
    }
}

/// Returns the SHA-512 SRI of some bytes.
pub fn sha512(bytes: &[u8]) -> String {
    format!("sha512-{}", base64::engine::general_purpose::STANDARD.encode(digest(&SHA512, bytes)))
}

/// Returns the hex SHA-1 of some bytes.
pub fn sha1(bytes: &[u8]) -> String {
    digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

/// Builds a `.tgz` of these files; the same files give the same bytes.
pub fn tarball(files: &[(&str, &str)]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (path, content) in files {
        tar::append(&mut archive, path, content.as_bytes());
    }
    tar::end(&mut archive);
    gzip(&archive)
}

/// Compresses to one gzip member.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    out.write_all(bytes).expect("writing to memory");
    out.finish().expect("writing to memory")
}
