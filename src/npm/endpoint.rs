//! What a request to a registry asks for. Refuses to know HTTP types, who asks, and whether it will be answered.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::npm::name::PackageName;

/// The longest path that is read, in bytes: npm's longest name twice, with every letter escaped, and room for a version.
const LONGEST: usize = 4096;

const READ: &str = "GET, HEAD";
const READ_AND_WRITE: &str = "GET, HEAD, PUT, POST, DELETE";
const WRITE: &str = "PUT, POST, DELETE";

/// One thing a registry can be asked, with every name decoded and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// `GET /` — the registry's own root document (`npm ping` of old, curl of the curious).
    Root,
    /// `GET /{package}` — the packument.
    Packument(PackageName),
    /// `GET /{package}/{wanted}` — one manifest by version, dist-tag or range.
    Manifest {
        /// The package.
        name: PackageName,
        /// Decoded version, dist-tag or range.
        wanted: String,
    },
    /// `GET /{package}/-/{file}.tgz`, or another shape that names one version's tarball.
    Tarball {
        /// The package.
        name: PackageName,
        /// The key in `versions`, taken out of the file name.
        version: String,
    },
    /// `GET /-/package/{package}/dist-tags`.
    DistTags(PackageName),
    /// `GET /-/v1/search?…`, the query as it came.
    Search {
        /// Everything after the `?`.
        query: String,
    },
    /// `GET /-/ping`.
    Ping,
    /// `GET /-/whoami`.
    Whoami,
    /// `GET /-/npm/v1/keys`.
    Keys,
    /// `GET /-/npm/v1/attestations/{package}@{version}`.
    Attestations {
        /// The package.
        name: PackageName,
        /// The version.
        version: String,
    },
    /// `POST /-/npm/v1/security/advisories/bulk`, `…/audits`, `…/audits/quick`.
    Audit {
        /// Whether the body is the bulk form (`{"name": ["version"]}`), the only one whose packages are read.
        bulk: bool,
    },
    /// `GET` of an account's own data (`/-/npm/v1/user`, `/-/npm/v1/tokens`, `/-/org/…`, `/-/package/…/access`, `/-/stage`): passed on
    /// with the client's own credentials, never remembered. The package, if it is about one: it says which registry.
    Account(Option<PackageName>),
    /// Anything that changes the registry: publish, unpublish, login, tokens, dist-tag add and rm, owner, deprecate, star;
    /// also the packument that npm asks for with `?write=true`, to send it back changed, and any other request below `/-/` that is no
    /// read. The package, if it is about one.
    Write(Option<PackageName>),
    /// `/-/coldframe/…`: Coldframe's own, the rest of the path without the leading slash.
    Own(String),
}

/// Why a request asks for nothing a registry knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// The path or a name in it is malformed.
    #[error("{0}")]
    BadRequest(String),
    /// A well-formed path that no registry has.
    #[error("{0}")]
    NotFound(String),
    /// The path is known, but not with this method.
    #[error("`{method}` is not allowed here, only {allow}")]
    Method {
        /// The method.
        method: String,
        /// What is, as the `Allow` header lists it.
        allow: &'static str,
    },
}

/// The bytes of a version that stand in an address as they are.
const AS_THEY_ARE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'+');

/// Where one reads why a version is kept back, or `latest` where none is named: one of our own pages ([`Endpoint::Own`]), below `base`.
#[must_use]
pub fn explanation(base: &str, name: &PackageName, version: Option<&str>) -> String {
    let version = version.map(|version| format!("@{}", utf8_percent_encode(version, AS_THEY_ARE))).unwrap_or_default();
    format!("{base}/-/coldframe/explain/{name}{version}")
}

impl Endpoint {
    /// Reads a request's method, its path (encoded, as it came, below any prefix of ours) and its query.
    ///
    /// Every spelling of a name is one package: the path is decoded once, and what then still looks encoded is refused.
    ///
    /// # Errors
    /// When the path is malformed, unknown, or not to be had with this method.
    pub fn parse(method: &str, path: &str, query: Option<&str>) -> Result<Self, EndpointError> {
        let segments = split(path)?;
        let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
        let request = Request { method, path, query };
        match segments.as_slice() {
            [] => request.read(Self::Root),
            // There is a package called `-`: its packument and tarballs are where those of all others are.
            ["-"] | ["-", "-", ..] => request.package(take_name(&segments)?.0, &segments[1..]),
            ["-", rest @ ..] => request.registry(rest),
            ["download", rest @ ..] if rest.len() >= 3 => request.download(rest),
            whole => {
                let (name, rest) = take_name(whole)?;
                request.package(name, rest)
            }
        }
    }
}

/// The parts of a request that do not change while its path is walked.
#[derive(Clone, Copy)]
struct Request<'a> {
    method: &'a str,
    path: &'a str,
    query: Option<&'a str>,
}

impl Request<'_> {
    /// What follows `/{package}`.
    fn package(self, name: PackageName, rest: &[&str]) -> Result<Endpoint, EndpointError> {
        match rest {
            [] if self.is_read() && self.announces_write() => Ok(Endpoint::Write(Some(name))),
            [] => self.read_or_write(Endpoint::Packument(name.clone()), Some(name)),
            ["-rev", _] | ["-", _, "-rev", _] | ["-", _, _, "-rev", _] => self.write(Some(name)),
            ["-", file @ ..] if !file.is_empty() => {
                let version = tarball_version(&name, &file.join("/")).ok_or_else(|| self.unknown())?;
                self.read(Endpoint::Tarball { name, version })
            }
            [wanted] if !wanted.starts_with('-') && !wanted.contains('/') => {
                let wanted = (*wanted).to_owned();
                self.read_or_write(Endpoint::Manifest { name: name.clone(), wanted }, Some(name))
            }
            _ => Err(self.unknown()),
        }
    }

    /// What follows `/-/`.
    fn registry(self, rest: &[&str]) -> Result<Endpoint, EndpointError> {
        match rest {
            ["coldframe", own @ ..] => Ok(Endpoint::Own(own.join("/"))),
            ["ping"] => self.read(Endpoint::Ping),
            ["whoami"] => self.read(Endpoint::Whoami),
            ["v1", "search"] => self.read(Endpoint::Search { query: self.query.unwrap_or_default().to_owned() }),
            ["v1", "done"] | ["_view", _] => self.read(Endpoint::Account(None)),
            ["v1", "login", ..] => self.write(None),
            ["npm", "v1", rest @ ..] => self.npm(rest),
            ["org" | "team" | "user", _, ..] => self.read_or_write(Endpoint::Account(None), None),
            ["package", rest @ ..] if !rest.is_empty() => {
                let (name, rest) = take_name(rest)?;
                self.about_package(name, rest)
            }
            ["stage", rest @ ..] => self.stage(rest),
            _ => self.other(None),
        }
    }

    /// What follows `/-/stage`: releases that wait for their approval. Their tarballs are no version's, so that no verdict could be
    /// found for them.
    fn stage(self, rest: &[&str]) -> Result<Endpoint, EndpointError> {
        match rest {
            ["package", rest @ ..] if !rest.is_empty() => {
                let (name, rest) = take_name(rest)?;
                if rest.is_empty() { self.write(Some(name)) } else { self.other(Some(name)) }
            }
            [_, "tarball", ..] => Err(EndpointError::NotFound(
                "coldframe passes on no staged tarball, since it cannot judge one: download it from the registry itself"
                    .to_owned(),
            )),
            [] | [_] | [_, "approve" | "reject"] => {
                let package = self.query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("package="));
                let name = package.and_then(|package| PackageName::parse(&unescape(package).ok()?).ok());
                self.read_or_write(Endpoint::Account(name.clone()), name)
            }
            _ => self.other(None),
        }
    }

    /// A path that is not known: a write if it is no read, since registries have more of them than are listed here.
    fn other(self, name: Option<PackageName>) -> Result<Endpoint, EndpointError> {
        if self.is_write() { Ok(Endpoint::Write(name)) } else { Err(self.unknown()) }
    }

    /// What follows `/-/npm/v1/`.
    fn npm(self, rest: &[&str]) -> Result<Endpoint, EndpointError> {
        match rest {
            ["keys"] => self.read(Endpoint::Keys),
            ["attestations", specs @ ..] if !specs.is_empty() => {
                let (name, version) = split_spec(&specs.join("/")).ok_or_else(|| self.unknown())?;
                self.read(Endpoint::Attestations { name, version })
            }
            ["security", "advisories", "bulk"] => self.post(Endpoint::Audit { bulk: true }),
            ["security", "audits"] | ["security", "audits", "quick"] => self.post(Endpoint::Audit { bulk: false }),
            ["user"] | ["tokens" | "hooks", ..] => self.read_or_write(Endpoint::Account(None), None),
            ["oidc", "token", "exchange", "package", rest @ ..] if !rest.is_empty() => {
                let (name, rest) = take_name(rest)?;
                if rest.is_empty() { self.post(Endpoint::Write(Some(name))) } else { self.other(Some(name)) }
            }
            _ => self.other(None),
        }
    }

    /// What follows `/-/package/{package}`.
    fn about_package(self, name: PackageName, rest: &[&str]) -> Result<Endpoint, EndpointError> {
        match rest {
            ["dist-tags"] => self.read_or_write(Endpoint::DistTags(name.clone()), Some(name)),
            ["dist-tags", _] => self.write(Some(name)),
            ["access" | "collaborators" | "visibility" | "trust", ..] => {
                self.read_or_write(Endpoint::Account(Some(name.clone())), Some(name))
            }
            _ => self.other(Some(name)),
        }
    }

    /// `/download/{package}/{version}/{digest}`: where GitHub Packages puts tarballs.
    fn download(self, rest: &[&str]) -> Result<Endpoint, EndpointError> {
        let (name, rest) = take_name(rest)?;
        match rest {
            [version, digest] if is_version_text(version) && is_digest(digest) => {
                self.read(Endpoint::Tarball { name, version: (*version).to_owned() })
            }
            _ => Err(self.unknown()),
        }
    }

    fn read(self, endpoint: Endpoint) -> Result<Endpoint, EndpointError> {
        if self.is_read() { Ok(endpoint) } else { Err(self.wrong_method(READ)) }
    }

    fn write(self, name: Option<PackageName>) -> Result<Endpoint, EndpointError> {
        if self.is_write() { Ok(Endpoint::Write(name)) } else { Err(self.wrong_method(WRITE)) }
    }

    fn post(self, endpoint: Endpoint) -> Result<Endpoint, EndpointError> {
        if self.method == "POST" { Ok(endpoint) } else { Err(self.wrong_method("POST")) }
    }

    fn read_or_write(self, endpoint: Endpoint, name: Option<PackageName>) -> Result<Endpoint, EndpointError> {
        match self {
            _ if self.is_read() => Ok(endpoint),
            _ if self.is_write() => Ok(Endpoint::Write(name)),
            _ => Err(self.wrong_method(READ_AND_WRITE)),
        }
    }

    fn is_read(self) -> bool {
        matches!(self.method, "GET" | "HEAD")
    }

    fn is_write(self) -> bool {
        matches!(self.method, "PUT" | "POST" | "DELETE") || (self.method == "PATCH" && self.path.starts_with("/-/"))
    }

    /// Whether npm asks for a packument in order to send it back changed. One that lacks hidden versions must not be it:
    /// what came back would unpublish them.
    fn announces_write(self) -> bool {
        self.query.unwrap_or_default().split('&').any(|pair| pair == "write=true")
    }

    fn wrong_method(self, allow: &'static str) -> EndpointError {
        EndpointError::Method { method: self.method.chars().take(20).collect(), allow }
    }

    fn unknown(self) -> EndpointError {
        let shown: String = self.path.chars().take(200).collect();
        EndpointError::NotFound(format!("no such path: `{}`", shown.escape_debug()))
    }
}

/// Splits a path at its slashes and decodes each segment, once.
pub(crate) fn split(path: &str) -> Result<Vec<Cow<'_, str>>, EndpointError> {
    if path.len() > LONGEST {
        return Err(EndpointError::BadRequest(format!("a path has at most {LONGEST} bytes")));
    }
    let inner = path.strip_prefix('/').ok_or_else(|| EndpointError::BadRequest("a path starts with `/`".to_owned()))?;
    if inner.is_empty() {
        return Ok(Vec::new());
    }
    inner.strip_suffix('/').unwrap_or(inner).split('/').map(decode).collect()
}

/// Decodes one segment and refuses whatever another reader of the same path might take for something else.
fn decode(segment: &str) -> Result<Cow<'_, str>, EndpointError> {
    let wrong = |what: &str| EndpointError::BadRequest(format!("{what} in the path: `{}`", shorten(segment)));
    let text = if segment.contains('%') { unescape(segment).map_err(wrong)?.into() } else { Cow::Borrowed(segment) };
    match text.as_ref() {
        "" => Err(wrong("an empty segment")),
        "." | ".." => Err(wrong("a dot segment")),
        _ if text.contains('%') => Err(wrong("an escape of an escape")),
        _ if text.contains('\\') => Err(wrong("a backslash")),
        _ if text.chars().any(char::is_control) => Err(wrong("a control character")),
        _ if text.split('/').any(|part| matches!(part, "" | "." | "..")) => Err(wrong("a dot or empty segment")),
        _ => Ok(text),
    }
}

/// Undoes the escapes, or says what is wrong.
fn unescape(segment: &str) -> Result<String, &'static str> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit =
            |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16)).and_then(|digit| u8::try_from(digit).ok());
        let (Some(high), Some(low)) = (digit(rest.next()), digit(rest.next())) else {
            return Err("a broken escape");
        };
        bytes.push(high << 4 | low);
    }
    String::from_utf8(bytes).map_err(|_| "bytes that are not UTF-8")
}

fn shorten(text: &str) -> String {
    text.chars().take(100).collect::<String>().escape_debug().to_string()
}

/// Takes a package name off the front: one segment, or two for a scope whose slash was not escaped.
fn take_name<'a>(segments: &'a [&'a str]) -> Result<(PackageName, &'a [&'a str]), EndpointError> {
    let wrong = |error: crate::npm::name::NameError| EndpointError::BadRequest(error.to_string());
    let (first, rest) = segments.split_first().unwrap_or((&"", &[]));
    if !first.starts_with('@') || first.contains('/') {
        return Ok((PackageName::parse(first).map_err(wrong)?, rest));
    }
    let (second, rest) = rest.split_first().unwrap_or((&"", &[]));
    Ok((PackageName::parse(&format!("{first}/{second}")).map_err(wrong)?, rest))
}

/// The version in a tarball's file name: `{name}-{version}.tgz`, or with the scope before it as Artifactory writes it.
pub(crate) fn tarball_version(name: &PackageName, file: &str) -> Option<String> {
    let scoped = name.scope().and_then(|scope| file.strip_prefix(scope)).and_then(|rest| rest.strip_prefix('/'));
    let version = scoped.unwrap_or(file).strip_prefix(name.unscoped())?.strip_prefix('-')?.strip_suffix(".tgz")?;
    is_version_text(version).then(|| version.to_owned())
}

/// `name@version`, with the version there.
fn split_spec(text: &str) -> Option<(PackageName, String)> {
    let (name, version) = text.rsplit_once('@')?;
    let name = PackageName::parse(name).ok()?;
    is_version_text(version).then(|| (name, version.to_owned()))
}

/// Whether `text` could be a key in `versions`: which it is, only the packument says.
pub(crate) fn is_version_text(text: &str) -> bool {
    let plausible = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'+' | b'_' | b'~' | b'=' | b' ');
    !text.is_empty() && text.len() <= 256 && text.bytes().all(plausible)
}

pub(crate) fn is_digest(text: &str) -> bool {
    matches!(text.len(), 40 | 64 | 128) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> PackageName {
        PackageName::parse(text).unwrap()
    }

    fn get(path: &str) -> Result<Endpoint, EndpointError> {
        Endpoint::parse("GET", path, None)
    }

    #[test]
    fn every_spelling_of_a_scoped_name_is_one_package() {
        for spelled in ["@acme%2fui", "@acme%2Fui", "@acme/ui", "%40acme%2fui", "%40acme/ui", "@%61cme/u%69"] {
            assert_eq!(get(&format!("/{spelled}")), Ok(Endpoint::Packument(name("@acme/ui"))), "{spelled}");
            assert_eq!(get(&format!("/{spelled}/")), Ok(Endpoint::Packument(name("@acme/ui"))), "{spelled}");
            let manifest = Endpoint::Manifest { name: name("@acme/ui"), wanted: "1.0.0".to_owned() };
            assert_eq!(get(&format!("/{spelled}/1.0.0")), Ok(manifest), "{spelled}");
            let tarball = Endpoint::Tarball { name: name("@acme/ui"), version: "1.0.0-b.1+x".to_owned() };
            for file in ["ui-1.0.0-b.1+x.tgz", "ui-1.0.0-b.1%2Bx.tgz", "@acme/ui-1.0.0-b.1+x.tgz", "@acme%2fui-1.0.0-b.1+x.tgz"] {
                assert_eq!(get(&format!("/{spelled}/-/{file}")), Ok(tarball.clone()), "{spelled} {file}");
            }
            let tags = Endpoint::DistTags(name("@acme/ui"));
            assert_eq!(get(&format!("/-/package/{spelled}/dist-tags")), Ok(tags), "{spelled}");
            let attested = Endpoint::Attestations { name: name("@acme/ui"), version: "1.0.0".to_owned() };
            assert_eq!(get(&format!("/-/npm/v1/attestations/{spelled}@1.0.0")), Ok(attested.clone()), "{spelled}");
            assert_eq!(get(&format!("/-/npm/v1/attestations/{spelled}%401.0.0")), Ok(attested), "{spelled}");
        }
    }

    #[test]
    fn a_tarball_is_named_by_its_file() {
        let tarball = |package, version: &str| Ok(Endpoint::Tarball { name: name(package), version: version.to_owned() });
        assert_eq!(get("/left-pad/-/left-pad-1.3.0.tgz"), tarball("left-pad", "1.3.0"));
        assert_eq!(get("/a/-/a-1.0.0-rc.1.tgz"), tarball("a", "1.0.0-rc.1"));
        let sha = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(get(&format!("/download/@acme/ui/1.0.0/{sha}")), tarball("@acme/ui", "1.0.0"));
        assert_eq!(get(&format!("/download/ui/1.0.0/{sha}")), tarball("ui", "1.0.0"));
        assert_eq!(get("/download/-/download-1.0.0.tgz"), tarball("download", "1.0.0"));
        for strange in
            ["/a/-/b-1.0.0.tgz", "/a/-/a-1.0.0.zip", "/a/-/a-.tgz", "/a/-/a.tgz", "/@s/a/-/@t/a-1.0.0.tgz", "/a/-/x/a-1.0.0.tgz"]
        {
            assert!(matches!(get(strange), Err(EndpointError::NotFound(_))), "{strange}: {:?}", get(strange));
        }
    }

    #[test]
    fn a_manifest_is_named_by_version_tag_or_range() {
        for (path, wanted) in [("/a/1.0.0", "1.0.0"), ("/a/latest", "latest"), ("/a/%5E1.0.0%20%7C%7C%202", "^1.0.0 || 2")] {
            assert_eq!(get(path), Ok(Endpoint::Manifest { name: name("a"), wanted: wanted.to_owned() }));
        }
    }

    #[test]
    fn what_others_might_read_differently_is_a_bad_request() {
        for path in [
            "",
            "a",
            "//",
            "/a//b",
            "//a",
            "/..",
            "/a/..",
            "/a/%2e%2e",
            "/%2e",
            "/@s%252fn",
            "/a%",
            "/a%2",
            "/a%zz",
            "/a%00b",
            "/a%0ab",
            "/%ff",
            "/a%5cb",
            "/@s",
            "/@s%2fn%2fx",
            "/_private",
            "/.hidden",
            "/a%2f..%2fb",
            "/@s%2f..",
            "/a%2fb",
            "/a b",
            "/é",
            "/a/-//x",
        ] {
            assert!(matches!(get(path), Err(EndpointError::BadRequest(_))), "{path}: {:?}", get(path));
        }
        assert!(matches!(get(&format!("/{}", "a".repeat(5000))), Err(EndpointError::BadRequest(_))));
    }

    #[test]
    fn a_registrys_own_paths_are_known() {
        assert_eq!(get("/"), Ok(Endpoint::Root));
        assert_eq!(get("/-/ping"), Ok(Endpoint::Ping));
        assert_eq!(get("/-/whoami"), Ok(Endpoint::Whoami));
        assert_eq!(get("/-/npm/v1/keys"), Ok(Endpoint::Keys));
        assert_eq!(Endpoint::parse("GET", "/-/v1/search", Some("text=a")), Ok(Endpoint::Search { query: "text=a".to_owned() }));
        assert_eq!(get("/-/coldframe/healthz"), Ok(Endpoint::Own("healthz".to_owned())));
        assert_eq!(get("/-/coldframe"), Ok(Endpoint::Own(String::new())));
        let post = |path| Endpoint::parse("POST", path, None);
        assert_eq!(post("/-/npm/v1/security/advisories/bulk"), Ok(Endpoint::Audit { bulk: true }));
        assert_eq!(post("/-/npm/v1/security/audits/quick"), Ok(Endpoint::Audit { bulk: false }));
        for path in
            ["/-/npm/v1/user", "/-/npm/v1/tokens", "/-/org/acme/user", "/-/team/acme/x/user", "/-/user/org.couchdb.user:me"]
        {
            assert_eq!(get(path), Ok(Endpoint::Account(None)), "{path}");
        }
        assert_eq!(get("/-/package/@s%2fn/collaborators"), Ok(Endpoint::Account(Some(name("@s/n")))));
        for path in ["/-/all", "/-/nothing", "/-/npm/v2/keys", "/-/package/a/b", "/a/-", "/a/-rev", "/a/b/c"] {
            assert!(matches!(get(path), Err(EndpointError::NotFound(_))), "{path}: {:?}", get(path));
        }
    }

    #[test]
    fn what_changes_the_registry_is_a_write() {
        let some = || Some(name("@s/n"));
        for (method, path, about) in [
            ("PUT", "/@s%2fn", some()),
            ("DELETE", "/@s%2fn/-rev/1-abc", some()),
            ("PUT", "/@s/n/-rev/1-abc", some()),
            ("DELETE", "/@s/n/-/n-1.0.0.tgz/-rev/1-abc", some()),
            ("DELETE", "/@s/n/-/@s/n-1.0.0.tgz/-rev/1-abc", some()),
            ("PUT", "/-/package/@s%2fn/dist-tags/next", some()),
            ("POST", "/-/package/@s%2fn/access", some()),
            ("PUT", "/-/user/org.couchdb.user:me", None),
            ("DELETE", "/-/user/token/abc", None),
            ("POST", "/-/v1/login", None),
            ("POST", "/-/npm/v1/tokens", None),
            ("DELETE", "/-/npm/v1/tokens/token/abc", None),
            ("POST", "/-/npm/v1/user", None),
            ("PUT", "/-/team/acme/devs/package", None),
            ("POST", "/-/npm/v1/oidc/token/exchange/package/@s%2fn", some()),
            ("POST", "/-/npm/v1/oidc/token/exchange/package/@s/n", some()),
            ("POST", "/-/npm/v1/oidc/other", None),
            ("POST", "/-/stage/package/@s%2fn", some()),
            ("POST", "/-/stage/0b1e/approve", None),
            ("DELETE", "/-/stage/0b1e", None),
            ("PATCH", "/-/npm/v1/tokens/abc", None),
            ("POST", "/-/package/@s%2fn/deprecations", some()),
            ("PUT", "/-/nothing/known", None),
        ] {
            assert_eq!(Endpoint::parse(method, path, None), Ok(Endpoint::Write(about)), "{method} {path}");
        }
        assert_eq!(Endpoint::parse("GET", "/@s%2fn", Some("a=b&write=true")), Ok(Endpoint::Write(some())));
    }

    #[test]
    fn staged_releases_are_read_with_credentials_and_their_tarballs_are_not() {
        assert_eq!(Endpoint::parse("GET", "/-/stage", Some("page=0&package=@s%2fn")), Ok(Endpoint::Account(Some(name("@s/n")))));
        assert_eq!(get("/-/stage/0b1e"), Ok(Endpoint::Account(None)));
        for method in ["GET", "HEAD", "POST"] {
            let refused = Endpoint::parse(method, "/-/stage/0b1e/tarball", None);
            assert!(matches!(refused, Err(EndpointError::NotFound(text)) if text.contains("staged tarball")), "{method}");
        }
    }

    #[test]
    fn a_wrong_method_is_told_the_right_ones() {
        let allowed = |method, path| match Endpoint::parse(method, path, None) {
            Err(EndpointError::Method { allow, .. }) => allow,
            other => panic!("{method} {path}: {other:?}"),
        };
        assert_eq!(allowed("POST", "/"), READ);
        assert_eq!(allowed("PUT", "/a/-/a-1.0.0.tgz"), READ);
        assert_eq!(allowed("GET", "/-/npm/v1/security/advisories/bulk"), "POST");
        assert_eq!(allowed("PATCH", "/a"), READ_AND_WRITE);
        assert_eq!(allowed("GET", "/-/v1/login"), WRITE);
        assert_eq!(allowed("GET", "/-/stage/package/a"), WRITE);
        assert_eq!(allowed("PUT", "/-/ping"), READ);
        assert_eq!(Endpoint::parse("HEAD", "/a", None), Ok(Endpoint::Packument(name("a"))));
    }

    #[test]
    fn the_package_that_is_called_a_dash_is_found_in_every_way() {
        let tarball = Ok(Endpoint::Tarball { name: name("-"), version: "2.3.0".to_owned() });
        assert_eq!(get("/-"), Ok(Endpoint::Packument(name("-"))));
        assert_eq!(get("/-/-/--2.3.0.tgz"), tarball);
        assert_eq!(get(&format!("/download/-/2.3.0/{}", "0".repeat(40))), tarball);
        assert_eq!(get("/-/package/-/dist-tags"), Ok(Endpoint::DistTags(name("-"))));
        assert_eq!(get("/-/ping"), Ok(Endpoint::Ping));
    }

    proptest! {
        #[test]
        fn no_request_makes_it_panic(method in "[A-Z]{0,8}", path in "(/?[-@%a-z0-9./\\\\\u{0}é]{0,8}){0,8}|.*", query in proptest::option::of(".*")) {
            let _ = Endpoint::parse(&method, &path, query.as_deref());
        }

        #[test]
        fn escaping_any_letter_changes_nothing(scope in "[a-z0-9-]{1,8}", unscoped in "[a-z0-9][a-z0-9._-]{0,8}", mask in any::<u64>()) {
            let plain = format!("@{scope}/{unscoped}");
            let spell = |(at, byte): (usize, u8)| if mask >> (at % 64) & 1 == 1 { format!("%{byte:02x}") } else { char::from(byte).to_string() };
            let spelled: String = plain.bytes().enumerate().map(spell).collect();
            let path = format!("/{spelled}");
            prop_assert_eq!(get(&path), Ok(Endpoint::Packument(name(&plain))));
        }
    }

    #[test]
    fn an_explanation_is_found_where_its_address_leads() {
        for (name, version, page) in [
            ("axios", Some("1.14.1"), "explain/axios@1.14.1"),
            ("@acme/ui", Some("1.0.0-rc.1+build"), "explain/@acme/ui@1.0.0-rc.1+build"),
            ("axios", Some("1 <b>?#&"), "explain/axios@1 <b>?#&"),
            ("axios", None, "explain/axios"),
        ] {
            let address = explanation("", &PackageName::parse(name).unwrap(), version);
            assert!(address.is_ascii() && !address.contains([' ', '<', '#', '?']), "{address}");
            assert_eq!(Endpoint::parse("GET", &address, None), Ok(Endpoint::Own(page.to_owned())));
        }
    }
}
