//! Packages built in code: a manifest, a publish time and a tarball, honest unless the test says otherwise.

use std::io::Write as _;
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA512, digest};
use base64::Engine as _;
use serde_json::{Value, json};

/// `hours(1)`.
pub fn hours(count: u64) -> Duration {
    Duration::from_secs(count * 3600)
}

/// `days(30)`.
pub fn days(count: u64) -> Duration {
    hours(count * 24)
}

/// `minutes(5)`.
pub fn minutes(count: u64) -> Duration {
    Duration::from_secs(count * 60)
}

/// What stands in `time`.
#[derive(Debug, Clone)]
pub enum Published {
    /// So long before the registry's now.
    Aged(Duration),
    /// These words, whatever they are.
    Words(Value),
    /// Nothing.
    Missing,
}

/// Where `dist.tarball` points.
#[derive(Debug, Clone)]
pub enum Place {
    /// `{registry}/{name}/-/{file}-{version}.tgz`
    Conventional,
    /// Another path of the registry.
    Path(String),
    /// Anywhere, in these words.
    Url(String),
}

/// One version of a package.
#[derive(Debug, Clone)]
pub struct Package {
    pub name: String,
    pub version: String,
    pub published: Published,
    pub tag: Option<String>,
    pub place: Place,
    pub tarball: Vec<u8>,
    pub readers: Option<String>,
    /// The manifest without `dist.tarball`.
    pub manifest: Value,
    fields: Vec<(String, Value)>,
    dist: Vec<(String, Value)>,
    content: String,
}

impl Package {
    /// An old version, tagged `latest`.
    pub fn new(name: &str, version: &str) -> Self {
        let mut package = Self {
            name: name.to_owned(),
            version: version.to_owned(),
            published: Published::Aged(days(365)),
            tag: Some("latest".to_owned()),
            place: Place::Conventional,
            tarball: Vec::new(),
            readers: None,
            manifest: Value::Null,
            fields: Vec::new(),
            dist: Vec::new(),
            content: format!("module.exports = '{name}@{version}'\n"),
        };
        package.pack();
        package
    }

    /// Published so long ago.
    pub fn aged(mut self, age: Duration) -> Self {
        self.published = Published::Aged(age);
        self
    }

    /// With these words in `time`.
    pub fn time(mut self, words: impl Into<Value>) -> Self {
        self.published = Published::Words(words.into());
        self
    }

    /// With nothing in `time`.
    pub fn without_time(mut self) -> Self {
        self.published = Published::Missing;
        self
    }

    /// Under another dist-tag.
    pub fn tagged(mut self, tag: &str) -> Self {
        self.tag = Some(tag.to_owned());
        self
    }

    /// Under no dist-tag.
    pub fn untagged(mut self) -> Self {
        self.tag = None;
        self
    }

    /// A field of the manifest, and of the `package.json` in the tarball.
    pub fn field(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.fields.push((name.to_owned(), value.into()));
        self.pack();
        self
    }

    /// A field of `dist`; `null` takes it out.
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

    /// Other bytes, with the integrity that belongs to them.
    pub fn content(mut self, content: &str) -> Self {
        content.clone_into(&mut self.content);
        self.pack();
        self
    }

    /// A tarball of about so many bytes that does not compress.
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

    /// The tarball lies elsewhere on the registry.
    pub fn at_path(mut self, path: &str) -> Self {
        self.place = Place::Path(path.to_owned());
        self
    }

    /// `dist.tarball` says this.
    pub fn at_url(mut self, url: &str) -> Self {
        self.place = Place::Url(url.to_owned());
        self
    }

    /// Only requests with this bearer token see the package; several are set apart by commas.
    pub fn readable_with(mut self, token: &str) -> Self {
        self.readers = Some(token.to_owned());
        self
    }

    /// The file name npm would give it.
    pub fn file(&self) -> String {
        let unscoped = self.name.rsplit('/').next().unwrap_or(&self.name);
        format!("{unscoped}-{}.tgz", self.version)
    }

    /// The path under which the registry and Coldframe serve its tarball.
    pub fn path(&self) -> String {
        match &self.place {
            Place::Path(path) => path.clone(),
            _ => format!("/{}/-/{}", self.name, self.file()),
        }
    }

    fn pack(&mut self) {
        let mut manifest = json!({ "name": self.name, "version": self.version, "main": "index.js" });
        for (name, value) in &self.fields {
            manifest[name] = value.clone();
        }
        self.tarball = tarball(&[("package/package.json", &manifest.to_string()), ("package/index.js", &self.content)]);
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

/// The SRI of some bytes.
pub fn sha512(bytes: &[u8]) -> String {
    format!("sha512-{}", base64::engine::general_purpose::STANDARD.encode(digest(&SHA512, bytes)))
}

/// The hex SHA-1 of some bytes.
pub fn sha1(bytes: &[u8]) -> String {
    digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

/// A `.tgz` of these files, always the same bytes for the same files.
pub fn tarball(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (path, content) in files {
        let mut header = [0_u8; 512];
        header[..path.len()].copy_from_slice(path.as_bytes());
        header[100..108].copy_from_slice(b"0000644\0");
        header[108..116].copy_from_slice(b"0000000\0");
        header[116..124].copy_from_slice(b"0000000\0");
        header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        header[136..148].copy_from_slice(b"00000000000\0");
        header[148..156].copy_from_slice(b"        ");
        header[156] = b'0';
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        tar.extend_from_slice(&header);
        tar.extend_from_slice(content.as_bytes());
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    gzip(&tar)
}

/// One gzip member.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    out.write_all(bytes).expect("memory takes bytes");
    out.finish().expect("memory takes bytes")
}
