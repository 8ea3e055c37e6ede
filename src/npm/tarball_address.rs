//! Tarball addresses: how requests are compared with `dist.tarball`, which packages a path may belong to, which a view keeps.

use std::sync::Arc;

use percent_encoding::utf8_percent_encode;
use url::{Position, Url};

use crate::npm::endpoint::{self, Endpoint, EndpointError};
use crate::npm::name::PackageName;
use crate::npm::semver::version::Version;

/// Maximum number of package names derived from one path.
pub const MAX_NAMES: usize = 3;

const EXTENSIONS: [&str; 3] = [".tgz", ".tar.gz", ".tar"];

/// Returns the conventional address of a version's tarball below `base`.
pub fn tarball_url(base: &str, name: &PackageName, key: &str) -> String {
    format!("{base}/{name}/-/{}-{}.tgz", name.unscoped(), utf8_percent_encode(key, endpoint::ESCAPED))
}

/// The decoded path of a tarball and its query. The host is ignored: requests are routed by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Without the leading slash.
    pub(crate) path: Box<str>,
    pub(crate) query: Option<Box<str>>,
}

impl Address {
    /// Parses the encoded path of a request and its query. Fails if two parsers could interpret the path differently.
    pub(crate) fn of_request(path: &str, query: Option<&str>) -> Result<Self, EndpointError> {
        let path = endpoint::split(path)?.join("/").into();
        Ok(Self { path, query: query.filter(|query| !query.is_empty()).map(Into::into) })
    }

    /// Parses `dist.tarball`. Returns `None` if it is not an `http` or `https` address that a request can name.
    pub(crate) fn of_stated(stated: &str) -> Option<Self> {
        let url = Url::parse(stated).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
        Self::of_request(url.path(), url.query()).ok()
    }

    /// Checks whether a request for this address selects `stated`. The query counts only if `stated` has one.
    pub(crate) fn selects(&self, stated: &Self) -> bool {
        self.path == stated.path && (stated.query.is_none() || stated.query == self.query)
    }

    /// Returns the only package that may have a tarball here, and the version in the path. The path has the form
    /// `{name}/-/{name}-{version}.tgz` or `download/{name}/{version}/{digest}`, below any prefix.
    pub(crate) fn owner(&self) -> Option<(PackageName, String)> {
        let parts: Vec<&str> = self.path.split('/').collect();
        for at in (1..parts.len()).rev().filter(|at| parts[*at] == "-") {
            let Some(name) = name_before(&parts, at) else { continue };
            if let Some(version) = endpoint::tarball_version(&name, &parts[at + 1..].join("/")) {
                return Some((name, version));
            }
        }
        let at = parts.iter().rposition(|part| *part == "download")?;
        let (digest, rest) = parts.get(at + 1..)?.split_last()?;
        let (version, name) = rest.split_last()?;
        let is_download = endpoint::is_digest(digest) && endpoint::is_version_text(version) && name.len() <= 2;
        let name = PackageName::parse(&name.join("/")).ok().filter(|_| is_download)?;
        Some((name, (*version).to_owned()))
    }

    /// Returns the version in the path: in the file name, else as a segment of its own.
    pub(crate) fn version(&self) -> Option<&str> {
        let mut parts = self.path.rsplit('/');
        let of_file = parts.next().and_then(split_file).map(|(_, version)| version);
        of_file.or_else(|| parts.find(|part| Version::parse(part).is_some()))
    }

    /// Returns the packages the path may belong to, likeliest first, at most [`MAX_NAMES`].
    pub(crate) fn names(&self) -> Vec<PackageName> {
        if let Some((owner, _)) = self.owner() {
            return vec![owner];
        }
        let parts: Vec<&str> = self.path.split('/').collect();
        // A path without a version is hardly a tarball's, so a stray request does not cause upstream requests.
        if !is_file(&self.path) && !parts.iter().any(|part| Version::parse(part).is_some()) {
            return Vec::new();
        }
        let (file, folders) = parts.split_last().unwrap_or((&"", &[]));
        let of_file = split_file(file).map(|(name, _)| name);
        let mut found: Vec<PackageName> = Vec::new();
        let mut add = |name: Option<PackageName>| {
            if let Some(name) = name.filter(|name| found.len() < MAX_NAMES && !found.contains(name)) {
                found.push(name);
            }
        };
        let parse = |text: &str| PackageName::parse(text).ok().filter(|name| name.as_str() != "-");
        for at in (1..parts.len()).filter(|at| parts[*at] == "-") {
            add(name_before(&parts, at));
        }
        for (at, scope) in folders.iter().enumerate().filter(|(_, part)| part.starts_with('@')) {
            add(of_file.and_then(|name| parse(&format!("{scope}/{name}"))));
            add(folders.get(at + 1).and_then(|name| parse(&format!("{scope}/{name}"))));
        }
        add(of_file.and_then(parse));
        let folder = folders.iter().rev().find(|folder| Version::parse(folder).is_none());
        add(folder.and_then(|folder| parse(folder)));
        found
    }
}

/// Returns the package name that ends before segment `at`.
fn name_before(parts: &[&str], at: usize) -> Option<PackageName> {
    let name = parts[at.checked_sub(1)?];
    match at.checked_sub(2).map(|at| parts[at]).filter(|scope| scope.starts_with('@') && !name.starts_with('@')) {
        Some(scope) => PackageName::parse(&format!("{scope}/{name}")).ok(),
        None => PackageName::parse(name).ok(),
    }
}

/// Splits a file name into name and version, without its extension.
fn split_file(file: &str) -> Option<(&str, &str)> {
    let stem = EXTENSIONS.iter().find_map(|extension| file.strip_suffix(extension))?;
    let mut splits = stem.match_indices('-').map(|(at, _)| (&stem[..at], &stem[at + 1..]));
    splits.find(|(_, version)| Version::parse(version).is_some()).filter(|(name, _)| !name.is_empty())
}

/// Checks whether a path has a tarball's extension.
pub(crate) fn is_file(path: &str) -> bool {
    EXTENSIONS.iter().any(|extension| path.ends_with(extension))
}

/// The origins that Coldframe serves, with the paths of their registries. A view keeps addresses on these origins unchanged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Origins(Vec<ServedOrigin>);

/// A lower-case origin (`http://127.0.0.1:4873`) with the paths of its registries, longest first and without a trailing slash.
type ServedOrigin = (Box<str>, Vec<Box<str>>);

impl Origins {
    pub(crate) fn push(&mut self, origin: String, prefixes: Vec<Box<str>>) {
        self.0.push((origin.into(), prefixes));
    }

    /// Formats all origins and paths, for cache keys.
    pub(crate) fn to_text(&self) -> String {
        let origin = |(origin, prefixes): &ServedOrigin| format!("{origin}[{}]", prefixes.join(" "));
        self.0.iter().map(origin).collect::<Vec<_>>().join(" ")
    }

    /// Checks whether a request for `stated`, the address of `name`@`key`, leads to that version here. `has` finds a key.
    pub(crate) fn keep(&self, name: &PackageName, key: &str, stated: &str, has: &dyn Fn(&str) -> bool) -> bool {
        let conventional = tarball_url("", name, key);
        let is_conventional = |(origin, prefixes): &ServedOrigin| {
            let path = stated.strip_prefix(&**origin);
            path.is_some_and(|path| prefixes.iter().any(|prefix| path.strip_prefix(&**prefix) == Some(&*conventional)))
        };
        if self.0.iter().any(is_conventional) {
            return true;
        }
        let Some((url, origin)) = unambiguous(stated) else { return false };
        let Some((_, prefixes)) = self.0.iter().find(|(known, _)| **known == *origin) else { return false };
        let Ok(address) = Address::of_request(url.path(), url.query()) else { return false };
        let is_own = || address.owner().is_none_or(|(owner, _)| owner == *name);
        match below(prefixes, url.path()).map(|path| Endpoint::parse("GET", path, None)) {
            Some(Ok(Endpoint::Tarball { name: other, version })) => other == *name && (version == key || !has(&version)),
            Some(Ok(Endpoint::Packument(_) | Endpoint::Manifest { .. })) => is_file(&address.path) && is_own(),
            Some(Ok(_)) => false,
            Some(Err(_)) | None => is_own(),
        }
    }
}

/// Strips the first matching prefix from a path.
pub(crate) fn below<'a>(prefixes: &[Box<str>], path: &'a str) -> Option<&'a str> {
    let fits = |rest: &&str| rest.is_empty() || rest.starts_with('/');
    let rest = prefixes.iter().find_map(|prefix| path.strip_prefix(&**prefix).filter(fits))?;
    Some(if rest.is_empty() { "/" } else { rest })
}

/// Returns an address and its origin if its text is its normalized form, except for the case of the host and the default port.
fn unambiguous(stated: &str) -> Option<(Url, String)> {
    let url = Url::parse(stated).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    let host = url.host_str()?;
    let (scheme, rest) = stated.split_once("://")?;
    let (authority, path) = rest.split_at(rest.find('/')?);
    let authority = authority.to_ascii_lowercase();
    let default_port = if url.scheme() == "https" { ":443" } else { ":80" };
    let named = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let is_plain = scheme == url.scheme()
        && (authority == named || authority.strip_suffix(default_port) == Some(&named))
        && path == &url[Position::BeforePath..Position::AfterQuery]
        && url.fragment().is_none();
    let origin = format!("{scheme}://{named}");
    is_plain.then_some((url, origin))
}

/// How a view writes tarball addresses: below `base`, unless `origins` keeps them.
#[derive(Debug, Clone, Copy)]
pub struct Rewriting<'a> {
    /// The base URL for clients, without a trailing slash.
    pub base: &'a str,
    /// Origins on which addresses stay as upstream wrote them.
    pub origins: Option<&'a Origins>,
}

impl<'a> From<&'a str> for Rewriting<'a> {
    fn from(base: &'a str) -> Self {
        Self { base, origins: None }
    }
}

/// Intercepted origins, with their part of the view's cache key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Intercepted {
    pub origins: Arc<Origins>,
    /// The base URL and the origins as text.
    pub view: Arc<str>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> PackageName {
        PackageName::parse(text).unwrap()
    }

    fn names(path: &str) -> Vec<String> {
        let address = Address::of_request(path, None).unwrap();
        address.names().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn address_is_decoded_once() {
        let read = |path: &str| Address::of_request(path, None);
        assert_eq!(read("/@acme%2fui/-/ui-1.0.0.tgz"), read("/@acme/ui/-/ui-1.0.0.tgz"));
        assert_eq!(read("/%66iles/a.tgz"), read("/files/a.tgz"));
        assert_ne!(read("/Files/a.tgz"), read("/files/a.tgz"));
        for invalid in
            ["/a/%252e/b.tgz", "/a/../b.tgz", "/a/%2e%2e/b.tgz", "/a//b.tgz", "/a/%5cb.tgz", "/a/%00.tgz", "/a%2f%2fb.tgz"]
        {
            assert!(read(invalid).is_err(), "{invalid}");
        }
        for invalid in ["ftp://a.example/a.tgz", "a.tgz", "/a.tgz", "https://a.example/a//b.tgz"] {
            assert_eq!(Address::of_stated(invalid), None, "{invalid}");
        }
    }

    #[test]
    fn query_counts_only_where_the_packument_has_one() {
        let requested = |query| Address::of_request("/a.tgz", query).unwrap();
        let stated = |text| Address::of_stated(text).unwrap();
        let (plain, queried) = (stated("https://a.example/a.tgz"), stated("https://a.example/a.tgz?v=1"));
        assert!(requested(None).selects(&plain) && requested(Some("cache=no")).selects(&plain));
        assert!(requested(Some("v=1")).selects(&queried));
        assert!(!requested(Some("v=2")).selects(&queried) && !requested(None).selects(&queried));
    }

    #[test]
    fn path_that_names_its_package_has_an_owner() {
        let digest = "0".repeat(40);
        for path in [
            "/@acme/ui/-/ui-1.0.0.tgz",
            "/@acme%2fui/-/@acme/ui-1.0.0.tgz",
            "/api/v4/projects/7/packages/npm/@acme/ui/-/@acme/ui-1.0.0.tgz",
            &format!("/download/@acme/ui/1.0.0/{digest}"),
            &format!("/npm/download/@acme/ui/1.0.0/{digest}"),
        ] {
            assert_eq!(names(path), ["@acme/ui"], "{path}");
            assert!(Address::of_request(path, None).unwrap().owner().is_some(), "{path}");
        }
        assert_eq!(names("/artifactory/api/npm/virtual/left-pad/-/left-pad-1.0.0.tgz"), ["left-pad"]);
    }

    #[test]
    fn other_paths_yield_at_most_three_names() {
        assert_eq!(names("/files/left-pad-1.0.0-rc.1.tgz"), ["left-pad", "files"]);
        assert_eq!(names("/left-pad/-/other.tgz"), ["left-pad"]);
        assert_eq!(names("/acct/@acme/ui/ui-1.0.0.tgz"), ["@acme/ui", "ui"]);
        assert_eq!(names("/left-pad/1.0.0/blob"), ["left-pad"]);
        assert!(names("/blob/0123abcd").is_empty() && names("/wp-admin/setup/login").is_empty());
        assert_eq!(names("/@a/b/-/@c/d/-/e-1.0.0.tgz").len(), MAX_NAMES);
        assert!(names("/@/-/-1.0.0.tgz").len() <= MAX_NAMES);
        assert!(names(&format!("/{}x-1.0.0.tgz", "@a/".repeat(900))).len() <= MAX_NAMES);
    }

    #[test]
    fn version_is_read_from_the_path() {
        for (path, expected) in [
            ("/files/left-pad-1.0.0-rc.1.tgz", Some("1.0.0-rc.1")),
            ("/files/left-pad-2.0.0.tar.gz", Some("2.0.0")),
            ("/left-pad/1.0.0/blob", Some("1.0.0")),
            ("/left-pad/1.0.0/other.tgz", Some("1.0.0")),
            ("/left-pad/-/other.tgz", None),
            ("/blob/0123abcd", None),
        ] {
            assert_eq!(Address::of_request(path, None).unwrap().version(), expected, "{path}");
        }
    }

    fn keeps(package: &str, key: &str, stated: &str) -> bool {
        let mut origins = Origins::default();
        origins.push("https://registry.example".to_owned(), vec!["".into()]);
        origins.push("http://corp.example:8081".to_owned(), vec!["/api/npm/virtual".into()]);
        origins.keep(&name(package), key, stated, &|key| ["1.0.0", "2.0.0"].contains(&key))
    }

    #[test]
    fn address_that_leads_to_its_version_is_kept() {
        let digest = "0".repeat(40);
        for stated in [
            "https://registry.example/@acme/ui/-/ui-1.0.0.tgz",
            "https://registry.example/@acme/ui/-/@acme/ui-1.0.0.tgz",
            "https://registry.example/@acme%2fui/-/ui-1.0.0.tgz",
            "https://REGISTRY.example:443/@acme/ui/-/ui-1.0.0.tgz",
            &format!("https://registry.example/download/@acme/ui/1.0.0/{digest}"),
            "https://registry.example/files/ui-1.0.0.tgz?v=1",
            "https://registry.example/files/123/blob",
            "http://corp.example:8081/api/npm/virtual/@acme/ui/-/ui-1.0.0.tgz",
            "http://corp.example:8081/api/v4/projects/7/packages/npm/@acme/ui/-/@acme/ui-1.0.0.tgz",
            "http://corp.example:8081/elsewhere/1.tgz",
            // A version that is not in the packument.
            "https://registry.example/@acme/ui/-/ui-1.0.tgz",
        ] {
            assert!(keeps("@acme/ui", "1.0.0", stated), "{stated}");
        }
    }

    #[test]
    fn address_that_leads_elsewhere_is_rewritten() {
        let digest = "0".repeat(40);
        for stated in [
            // Another host, port or scheme.
            "https://files.example/@acme/ui/-/ui-1.0.0.tgz",
            "https://registry.example:8443/@acme/ui/-/ui-1.0.0.tgz",
            "http://registry.example/@acme/ui/-/ui-1.0.0.tgz",
            "https://registry.example.evil.example/@acme/ui/-/ui-1.0.0.tgz",
            "/@acme/ui/-/ui-1.0.0.tgz",
            // Interpreted differently by different clients.
            "https://registry.example\\@evil.example/a.tgz",
            "https://user@registry.example/a/b/c.tgz",
            "https://registry.example@evil.example/a/b/c.tgz",
            "https:registry.example/a/b/c.tgz",
            " https://registry.example/a/b/c.tgz",
            "https://registry.example/a/\t/b/c.tgz",
            "https://registry.example/a/../b/c.tgz",
            "https://registry.example/a/%2e%2e/b/c.tgz",
            "https://registry.example/a/%252e/c.tgz",
            "https://registry.example//a/b/c.tgz",
            "https://registry.example/a/b/c.tgz#d",
            "https://registry.example/a b/c.tgz",
            // An address of another version or package.
            "https://registry.example/@acme/ui/-/ui-2.0.0.tgz",
            "https://registry.example/victim/-/victim-6.6.6.tgz",
            "https://registry.example/%76ictim/-/victim-6.6.6.tgz",
            &format!("https://registry.example/download/victim/1.0.0/{digest}"),
            "https://registry.example/deep/victim/-/victim-6.6.6.tgz",
            "http://corp.example:8081/api/v4/projects/7/packages/npm/victim/-/victim-6.6.6.tgz",
            // Not a tarball address.
            "https://registry.example/",
            "https://registry.example/victim",
            "https://registry.example/victim/1.0.0",
            "https://registry.example/-/ping",
            "https://registry.example/-/coldframe/explain/x",
        ] {
            assert!(!keeps("@acme/ui", "1.0.0", stated), "{stated}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_yields_at_most_three_names(path in "/?([-@a-z0-9.%/]{0,12}/){0,6}[-a-z0-9.]{0,12}(\\.tgz)?") {
            if let Ok(address) = Address::of_request(&path, None) {
                prop_assert!(address.names().len() <= MAX_NAMES);
                prop_assert_eq!(Address::of_request(&format!("/{}", address.path), None).ok(), Some(address));
            }
        }

        #[test]
        fn kept_address_never_parses_as_another_version(path in "(/[-@a-z0-9.]{1,6}){0,5}", key in "[12]\\.0\\.0") {
            let stated = format!("https://registry.example{path}");
            if keeps("@a/b", &key, &stated) {
                match Endpoint::parse("GET", &path, None) {
                    Ok(Endpoint::Tarball { name, version }) => {
                        prop_assert!(name.as_str() == "@a/b" && (version == key || !["1.0.0", "2.0.0"].contains(&&*version)));
                    }
                    Ok(endpoint) => {
                        let is_ambiguous = matches!(endpoint, Endpoint::Packument(_) | Endpoint::Manifest { .. }) && is_file(&path);
                        prop_assert!(is_ambiguous);
                    }
                    Err(_) => {}
                }
            }
        }
    }
}
