//! Parses a request's method, path and query into a registry endpoint. Independent of HTTP types, clients and policy.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::npm::name::PackageName;

/// The longest accepted path in bytes: npm's longest name twice with every character escaped, plus a version.
const MAX_PATH_BYTES: usize = 4096;

/// A registry endpoint, with every name decoded and validated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// `GET /`: the registry's root document (used by old versions of `npm ping`).
    Root,
    /// `GET /{package}`: the packument.
    Packument(PackageName),
    /// `GET /{package}/{wanted}`: one manifest by version, dist-tag or range, decoded.
    Manifest { name: PackageName, wanted: String },
    /// `GET /{package}/-/{file}.tgz`, or another form that names one version's tarball by its key in `versions`.
    Tarball { name: PackageName, version: String },
    /// `GET /-/package/{package}/dist-tags`.
    DistTags(PackageName),
    /// `GET /-/v1/search?…`, with the query string as received.
    Search { query: String },
    /// `GET /-/ping`.
    Ping,
    /// `GET /-/whoami`.
    Whoami,
    /// `GET /-/npm/v1/keys`.
    Keys,
    /// `GET /-/npm/v1/attestations/{package}@{version}`.
    Attestations { name: PackageName, version: String },
    /// `POST /-/npm/v1/security/advisories/bulk`, `…/audits`, `…/audits/quick`.
    Audit(AuditFormat),
    /// `GET` of account data (`/-/npm/v1/user`, `/-/npm/v1/tokens`, `/-/org/…`, `/-/package/…/access`, `/-/stage`). Forwarded
    /// with the client's credentials and never cached. The package, if any, selects the registry.
    Account(Option<PackageName>),
    /// Any request that changes the registry: publish, unpublish, login, tokens, dist-tag add and rm, owner, deprecate, star.
    /// Also a packument requested with `?write=true`, which npm sends back changed, and any other non-read request below `/-/`.
    /// The package is set if the request concerns one.
    Write(Option<PackageName>),
    /// `/-/coldframe/…`: Coldframe's own endpoints, with the rest of the path without the leading slash.
    Admin(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditFormat {
    /// `{"name": ["version"]}`, the only one whose packages are read.
    Bulk,
    /// The dependency tree that older clients send.
    Tree,
}

/// A request that is not a registry endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    #[error("{0}")]
    BadRequest(String),
    #[error("{0}")]
    NotFound(String),
    /// `allow` lists the allowed methods in the form of the `Allow` header.
    #[error("method `{method}` is not allowed; use {allow}")]
    Method { method: String, allow: &'static str },
}

/// The bytes of a version that must be escaped in a URL.
pub(crate) const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'+');

/// Returns the address of the page that explains a withheld version, or `latest` for `None`. Parses as [`Endpoint::Admin`].
pub(crate) fn explain_url(base: &str, name: &PackageName, version: Option<&str>) -> String {
    let version = version.map(|version| format!("@{}", utf8_percent_encode(version, ESCAPED))).unwrap_or_default();
    format!("{base}/-/coldframe/explain/{name}{version}")
}

impl Endpoint {
    /// Parses a request's method, its path (encoded as received, below any path prefix of Coldframe) and its query.
    ///
    /// All spellings of a name map to one package: the path is decoded once and rejected if it still contains escapes.
    ///
    /// # Errors
    /// Returns an error if the path is malformed or unknown, or does not support the method.
    pub fn parse(method: &str, path: &str, query: Option<&str>) -> Result<Self, EndpointError> {
        let segments = split(path)?;
        let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
        let request = Request { method, path, query };
        match segments.as_slice() {
            [] => request.read(Self::Root),
            // A package named `-` exists; its packument and tarballs use the same paths as those of others.
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

/// The parts of a request that stay constant while its path is parsed.
#[derive(Clone, Copy)]
struct Request<'a> {
    method: &'a str,
    path: &'a str,
    query: Option<&'a str>,
}

impl Request<'_> {
    /// Parses the path after `/{package}`.
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

    /// Parses the path after `/-/`.
    fn registry(self, rest: &[&str]) -> Result<Endpoint, EndpointError> {
        match rest {
            ["coldframe", own @ ..] => Ok(Endpoint::Admin(own.join("/"))),
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
            _ => self.unlisted(None),
        }
    }

    /// Parses the path after `/-/stage`: releases that wait for approval. Their tarballs have no published version to judge.
    fn stage(self, rest: &[&str]) -> Result<Endpoint, EndpointError> {
        match rest {
            ["package", rest @ ..] if !rest.is_empty() => {
                let (name, rest) = take_name(rest)?;
                if rest.is_empty() { self.write(Some(name)) } else { self.unlisted(Some(name)) }
            }
            [_, "tarball", ..] => Err(EndpointError::NotFound(
                "coldframe cannot check staged tarballs and does not forward them; download the staged tarball from the registry directly"
                    .to_owned(),
            )),
            [] | [_] | [_, "approve" | "reject"] => {
                let package = self.query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("package="));
                let name = package.and_then(|package| PackageName::parse(&unescape(package).ok()?).ok());
                self.read_or_write(Endpoint::Account(name.clone()), name)
            }
            _ => self.unlisted(None),
        }
    }

    /// Handles an unknown path: a non-read request counts as a write, since registries have more write endpoints than are listed.
    fn unlisted(self, name: Option<PackageName>) -> Result<Endpoint, EndpointError> {
        if self.is_write() { Ok(Endpoint::Write(name)) } else { Err(self.unknown()) }
    }

    /// Parses the path after `/-/npm/v1/`.
    fn npm(self, rest: &[&str]) -> Result<Endpoint, EndpointError> {
        match rest {
            ["keys"] => self.read(Endpoint::Keys),
            ["attestations", specs @ ..] if !specs.is_empty() => {
                let (name, version) = split_spec(&specs.join("/")).ok_or_else(|| self.unknown())?;
                self.read(Endpoint::Attestations { name, version })
            }
            ["security", "advisories", "bulk"] => self.post(Endpoint::Audit(AuditFormat::Bulk)),
            ["security", "audits"] | ["security", "audits", "quick"] => self.post(Endpoint::Audit(AuditFormat::Tree)),
            ["user"] | ["tokens" | "hooks", ..] => self.read_or_write(Endpoint::Account(None), None),
            ["oidc", "token", "exchange", "package", rest @ ..] if !rest.is_empty() => {
                let (name, rest) = take_name(rest)?;
                if rest.is_empty() { self.post(Endpoint::Write(Some(name))) } else { self.unlisted(Some(name)) }
            }
            _ => self.unlisted(None),
        }
    }

    /// Parses the path after `/-/package/{package}`.
    fn about_package(self, name: PackageName, rest: &[&str]) -> Result<Endpoint, EndpointError> {
        match rest {
            ["dist-tags"] => self.read_or_write(Endpoint::DistTags(name.clone()), Some(name)),
            ["dist-tags", _] => self.write(Some(name)),
            ["access" | "collaborators" | "visibility" | "trust", ..] => {
                self.read_or_write(Endpoint::Account(Some(name.clone())), Some(name))
            }
            _ => self.unlisted(Some(name)),
        }
    }

    /// Parses `/download/{package}/{version}/{digest}`, the tarball path of GitHub Packages.
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
        if self.is_read() { Ok(endpoint) } else { Err(self.wrong_method("GET, HEAD")) }
    }

    fn write(self, name: Option<PackageName>) -> Result<Endpoint, EndpointError> {
        if self.is_write() { Ok(Endpoint::Write(name)) } else { Err(self.wrong_method("PUT, POST, DELETE")) }
    }

    fn post(self, endpoint: Endpoint) -> Result<Endpoint, EndpointError> {
        if self.method == "POST" { Ok(endpoint) } else { Err(self.wrong_method("POST")) }
    }

    fn read_or_write(self, endpoint: Endpoint, name: Option<PackageName>) -> Result<Endpoint, EndpointError> {
        match self {
            _ if self.is_read() => Ok(endpoint),
            _ if self.is_write() => Ok(Endpoint::Write(name)),
            _ => Err(self.wrong_method("GET, HEAD, PUT, POST, DELETE")),
        }
    }

    fn is_read(self) -> bool {
        matches!(self.method, "GET" | "HEAD")
    }

    fn is_write(self) -> bool {
        matches!(self.method, "PUT" | "POST" | "DELETE") || (self.method == "PATCH" && self.path.starts_with("/-/"))
    }

    /// Checks whether npm will send the packument back changed. If filtered, that would unpublish the hidden versions.
    fn announces_write(self) -> bool {
        self.query.unwrap_or_default().split('&').any(|pair| pair == "write=true")
    }

    fn wrong_method(self, allow: &'static str) -> EndpointError {
        EndpointError::Method { method: self.method.chars().take(20).collect(), allow }
    }

    fn unknown(self) -> EndpointError {
        EndpointError::NotFound(format!("no such path: `{}`", shown(self.path, 200)))
    }
}

/// Splits a path at its slashes and decodes each segment once.
pub(crate) fn split(path: &str) -> Result<Vec<Cow<'_, str>>, EndpointError> {
    if path.len() > MAX_PATH_BYTES {
        return Err(EndpointError::BadRequest(format!("path is longer than {MAX_PATH_BYTES} bytes")));
    }
    let inner = path.strip_prefix('/').ok_or_else(|| EndpointError::BadRequest("path does not start with `/`".to_owned()))?;
    if inner.is_empty() {
        return Ok(Vec::new());
    }
    inner.strip_suffix('/').unwrap_or(inner).split('/').map(decode).collect()
}

/// Decodes one segment and rejects anything that another parser could interpret differently.
fn decode(segment: &str) -> Result<Cow<'_, str>, EndpointError> {
    let error = |what: &str| EndpointError::BadRequest(format!("{what} in the path: `{}`", shown(segment, 100)));
    let text = if segment.contains('%') { unescape(segment).map_err(error)? } else { Cow::Borrowed(segment) };
    match text.as_ref() {
        "" => Err(error("empty segment")),
        "." | ".." => Err(error("dot segment")),
        _ if text.contains('%') => Err(error("double escape")),
        _ if text.contains('\\') => Err(error("backslash")),
        _ if text.chars().any(char::is_control) => Err(error("control character")),
        _ if text.split('/').any(|part| matches!(part, "" | "." | "..")) => Err(error("dot or empty segment")),
        _ => Ok(text),
    }
}

/// Decodes percent escapes, or returns what is wrong with them.
fn unescape(segment: &str) -> Result<Cow<'_, str>, &'static str> {
    let is_escape = |rest: &str| rest.as_bytes().first_chunk::<2>().is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit));
    if !segment.split('%').skip(1).all(is_escape) {
        return Err("invalid escape");
    }
    percent_decode_str(segment).decode_utf8().map_err(|_| "invalid UTF-8")
}

/// Returns the first characters of text of a request, escaped, for an error message.
fn shown(text: &str, characters: usize) -> String {
    text.chars().take(characters).collect::<String>().escape_debug().to_string()
}

/// Splits a package name off the front: one segment, or two for a scope whose slash was not escaped.
fn take_name<'a>(segments: &'a [&'a str]) -> Result<(PackageName, &'a [&'a str]), EndpointError> {
    let (first, rest) = segments.split_first().unwrap_or((&"", &[]));
    let (name, rest) = if first.starts_with('@') && !first.contains('/') {
        let (second, rest) = rest.split_first().unwrap_or((&"", &[]));
        (PackageName::parse(&format!("{first}/{second}")), rest)
    } else {
        (PackageName::parse(first), rest)
    };
    Ok((name.map_err(|error| EndpointError::BadRequest(error.to_string()))?, rest))
}

/// Returns the version in a tarball's file name: `{name}-{version}.tgz`, optionally after the scope as Artifactory writes it.
pub(crate) fn tarball_version(name: &PackageName, file: &str) -> Option<String> {
    let scoped = name.scope().and_then(|scope| file.strip_prefix(scope)).and_then(|rest| rest.strip_prefix('/'));
    let version = scoped.unwrap_or(file).strip_prefix(name.unscoped())?.strip_prefix('-')?.strip_suffix(".tgz")?;
    is_version_text(version).then(|| version.to_owned())
}

fn split_spec(text: &str) -> Option<(PackageName, String)> {
    let (name, version) = text.rsplit_once('@')?;
    let name = PackageName::parse(name).ok()?;
    is_version_text(version).then(|| (name, version.to_owned()))
}

/// Checks whether `text` could be a key in `versions`. Only the packument knows whether it is one.
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
    fn all_spellings_of_a_scoped_name_map_to_one_package() {
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
    fn tarball_version_comes_from_the_file_name() {
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
    fn manifest_is_requested_by_version_tag_or_range() {
        for (path, wanted) in [("/a/1.0.0", "1.0.0"), ("/a/latest", "latest"), ("/a/%5E1.0.0%20%7C%7C%202", "^1.0.0 || 2")] {
            assert_eq!(get(path), Ok(Endpoint::Manifest { name: name("a"), wanted: wanted.to_owned() }));
        }
    }

    #[test]
    fn ambiguous_paths_are_bad_requests() {
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
    fn registry_endpoints_are_recognised() {
        assert_eq!(get("/"), Ok(Endpoint::Root));
        assert_eq!(get("/-/ping"), Ok(Endpoint::Ping));
        assert_eq!(get("/-/whoami"), Ok(Endpoint::Whoami));
        assert_eq!(get("/-/npm/v1/keys"), Ok(Endpoint::Keys));
        assert_eq!(Endpoint::parse("GET", "/-/v1/search", Some("text=a")), Ok(Endpoint::Search { query: "text=a".to_owned() }));
        assert_eq!(get("/-/coldframe/healthz"), Ok(Endpoint::Admin("healthz".to_owned())));
        assert_eq!(get("/-/coldframe"), Ok(Endpoint::Admin(String::new())));
        let post = |path| Endpoint::parse("POST", path, None);
        assert_eq!(post("/-/npm/v1/security/advisories/bulk"), Ok(Endpoint::Audit(AuditFormat::Bulk)));
        assert_eq!(post("/-/npm/v1/security/audits/quick"), Ok(Endpoint::Audit(AuditFormat::Tree)));
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
    fn requests_that_change_the_registry_are_writes() {
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
    fn staged_releases_are_account_data_and_their_tarballs_are_refused() {
        assert_eq!(Endpoint::parse("GET", "/-/stage", Some("page=0&package=@s%2fn")), Ok(Endpoint::Account(Some(name("@s/n")))));
        assert_eq!(get("/-/stage/0b1e"), Ok(Endpoint::Account(None)));
        for method in ["GET", "HEAD", "POST"] {
            let refused = Endpoint::parse(method, "/-/stage/0b1e/tarball", None);
            assert!(matches!(refused, Err(EndpointError::NotFound(text)) if text.contains("staged tarball")), "{method}");
        }
    }

    #[test]
    fn wrong_method_lists_the_allowed_ones() {
        let allowed = |method, path| match Endpoint::parse(method, path, None) {
            Err(EndpointError::Method { allow, .. }) => allow,
            other => panic!("{method} {path}: {other:?}"),
        };
        assert_eq!(allowed("POST", "/"), "GET, HEAD");
        assert_eq!(allowed("PUT", "/a/-/a-1.0.0.tgz"), "GET, HEAD");
        assert_eq!(allowed("GET", "/-/npm/v1/security/advisories/bulk"), "POST");
        assert_eq!(allowed("PATCH", "/a"), "GET, HEAD, PUT, POST, DELETE");
        assert_eq!(allowed("GET", "/-/v1/login"), "PUT, POST, DELETE");
        assert_eq!(allowed("GET", "/-/stage/package/a"), "PUT, POST, DELETE");
        assert_eq!(allowed("PUT", "/-/ping"), "GET, HEAD");
        assert_eq!(Endpoint::parse("HEAD", "/a", None), Ok(Endpoint::Packument(name("a"))));
    }

    #[test]
    fn package_named_dash_is_reachable() {
        let tarball = Ok(Endpoint::Tarball { name: name("-"), version: "2.3.0".to_owned() });
        assert_eq!(get("/-"), Ok(Endpoint::Packument(name("-"))));
        assert_eq!(get("/-/-/--2.3.0.tgz"), tarball);
        assert_eq!(get(&format!("/download/-/2.3.0/{}", "0".repeat(40))), tarball);
        assert_eq!(get("/-/package/-/dist-tags"), Ok(Endpoint::DistTags(name("-"))));
        assert_eq!(get("/-/ping"), Ok(Endpoint::Ping));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(method in "[A-Z]{0,8}", path in "(/?[-@%a-z0-9./\\\\\u{0}é]{0,8}){0,8}|.*", query in proptest::option::of(".*")) {
            let _ = Endpoint::parse(&method, &path, query.as_deref());
        }

        #[test]
        fn escaping_any_character_changes_nothing(scope in "[a-z0-9-]{1,8}", unscoped in "[a-z0-9][a-z0-9._-]{0,8}", mask in any::<u64>()) {
            let plain = format!("@{scope}/{unscoped}");
            let spell = |(at, byte): (usize, u8)| if mask >> (at % 64) & 1 == 1 { format!("%{byte:02x}") } else { char::from(byte).to_string() };
            let spelled: String = plain.bytes().enumerate().map(spell).collect();
            let path = format!("/{spelled}");
            prop_assert_eq!(get(&path), Ok(Endpoint::Packument(name(&plain))));
        }
    }

    #[test]
    fn explanation_address_parses_as_an_admin_path() {
        for (name, version, page) in [
            ("axios", Some("1.14.1"), "explain/axios@1.14.1"),
            ("@acme/ui", Some("1.0.0-rc.1+build"), "explain/@acme/ui@1.0.0-rc.1+build"),
            ("axios", Some("1 <b>?#&"), "explain/axios@1 <b>?#&"),
            ("axios", None, "explain/axios"),
        ] {
            let address = explain_url("", &PackageName::parse(name).unwrap(), version);
            assert!(address.is_ascii() && !address.contains([' ', '<', '#', '?']), "{address}");
            assert_eq!(Endpoint::parse("GET", &address, None), Ok(Endpoint::Admin(page.to_owned())));
        }
    }
}
