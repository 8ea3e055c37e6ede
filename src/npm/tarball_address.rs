//! Addresses of tarballs: how a request is compared with `dist.tarball`, which packages a path may belong to, and which addresses
//! a view keeps as upstream wrote them.

use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::{Position, Url};

use crate::npm::endpoint::{self, Endpoint, EndpointError};
use crate::npm::name::PackageName;
use crate::npm::semver::version::Version;

/// How many names are read from one path.
pub const MAX_NAMES: usize = 3;

/// The end of a tarball's file name.
const EXTENSIONS: [&str; 3] = [".tgz", ".tar.gz", ".tar"];

/// What a version may hold that a path segment holds too.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'+').remove(b'~');

/// Returns the customary address of a version's tarball below `base`.
#[must_use]
pub fn tarball_url(base: &str, name: &PackageName, key: &str) -> String {
    format!("{base}/{name}/-/{}-{}.tgz", name.unscoped(), utf8_percent_encode(key, SEGMENT))
}

/// The path of a tarball, decoded once, and its query. The host does not select: only the name routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    path: Box<str>,
    query: Option<Box<str>>,
}

impl Address {
    /// Reads the path of a request, encoded as it came, and its query.
    ///
    /// # Errors
    /// Returns an error if two readers could take the path for different ones.
    pub fn of_request(path: &str, query: Option<&str>) -> Result<Self, EndpointError> {
        let segments = endpoint::split(path)?;
        let path = segments.join("/").into();
        Ok(Self { path, query: query.filter(|query| !query.is_empty()).map(Into::into) })
    }

    /// Reads `dist.tarball`; `None` if it is no `http` or `https` address that a request can name.
    #[must_use]
    pub fn of_stated(stated: &str) -> Option<Self> {
        let url = Url::parse(stated).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
        Self::of_request(url.path(), url.query()).ok()
    }

    /// Returns the path, decoded, without the slash before it.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Checks whether a request for this address is one for `stated`. Its query counts where the packument has one.
    #[must_use]
    pub fn selects(&self, stated: &Self) -> bool {
        self.path == stated.path && (stated.query.is_none() || stated.query == self.query)
    }

    /// Checks whether the packument wrote a query.
    #[must_use]
    pub fn has_query(&self) -> bool {
        self.query.is_some()
    }

    /// Checks whether the path ends as a tarball's does.
    #[must_use]
    pub fn is_file(&self) -> bool {
        is_file(&self.path)
    }

    /// Returns the package that alone may have a tarball here, and the version in the path: that has the form `{name}/-/{name}-{version}.tgz` or
    /// `download/{name}/{version}/{digest}`, below whatever prefix.
    #[must_use]
    pub fn owner(&self) -> Option<(PackageName, String)> {
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

    /// Returns the version that the path names: in its file's name, else as a part of its own.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        let mut parts = self.path.rsplit('/');
        let of_file = parts.next().and_then(|file| {
            let name = unversioned(file)?;
            let stem = EXTENSIONS.iter().find_map(|extension| file.strip_suffix(extension))?;
            stem.get(name.len() + 1..)
        });
        of_file.or_else(|| parts.find(|part| Version::parse(part).is_some()))
    }

    /// Returns the packages that the path may be about, the likeliest first, at most [`MAX_NAMES`].
    #[must_use]
    pub fn names(&self) -> Vec<PackageName> {
        if let Some((owner, _)) = self.owner() {
            return vec![owner];
        }
        let parts: Vec<&str> = self.path.split('/').collect();
        // What no version is in is hardly a tarball's: a stray request is no reason to ask upstream.
        if !self.is_file() && !parts.iter().any(|part| Version::parse(part).is_some()) {
            return Vec::new();
        }
        let (file, folders) = parts.split_last().unwrap_or((&"", &[]));
        let of_file = unversioned(file);
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

/// Returns the name that ends before the part `at`.
fn name_before(parts: &[&str], at: usize) -> Option<PackageName> {
    let name = parts[at.checked_sub(1)?];
    match at.checked_sub(2).map(|at| parts[at]).filter(|scope| scope.starts_with('@') && !name.starts_with('@')) {
        Some(scope) => PackageName::parse(&format!("{scope}/{name}")).ok(),
        None => PackageName::parse(name).ok(),
    }
}

/// Returns a file's name without the version at its end.
fn unversioned(file: &str) -> Option<&str> {
    let stem = EXTENSIONS.iter().find_map(|extension| file.strip_suffix(extension))?;
    let versioned = |at: &usize| Version::parse(&stem[at + 1..]).is_some();
    stem.match_indices('-').map(|(at, _)| at).find(versioned).map(|at| &stem[..at]).filter(|name| !name.is_empty())
}

/// Checks whether a path ends as a tarball's does.
#[must_use]
pub fn is_file(path: &str) -> bool {
    EXTENSIONS.iter().any(|extension| path.ends_with(extension))
}

/// The origins that are answered for, and where registries are on them. A view keeps addresses on these as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Origins(Vec<(Box<str>, Vec<Box<str>>)>);

impl Origins {
    /// Adds `https://registry.example` or `http://127.0.0.1:4873`, lower case, with the paths of its registries, longest first and
    /// without a slash at their end.
    pub fn push(&mut self, origin: String, prefixes: Vec<Box<str>>) {
        self.0.push((origin.into(), prefixes));
    }

    /// Returns all of it as text, for keys of caches.
    #[must_use]
    pub fn to_text(&self) -> String {
        let origin = |(origin, prefixes): &(Box<str>, Vec<Box<str>>)| format!("{origin}[{}]", prefixes.join(" "));
        self.0.iter().map(origin).collect::<Vec<_>>().join(" ")
    }

    /// Checks whether `stated`, the address of `name`@`key`, leads back to that version when a client asks for it here. `has` says of
    /// a key whether the packument has it.
    #[must_use]
    pub fn keep(&self, name: &PackageName, key: &str, stated: &str, has: &dyn Fn(&str) -> bool) -> bool {
        let customary = tarball_url("", name, key);
        let is_customary = |(origin, prefixes): &(Box<str>, Vec<Box<str>>)| {
            let path = stated.strip_prefix(&**origin);
            path.is_some_and(|path| prefixes.iter().any(|prefix| path.strip_prefix(&**prefix) == Some(&*customary)))
        };
        if self.0.iter().any(is_customary) {
            return true;
        }
        let Some((url, origin)) = unambiguous(stated) else { return false };
        let Some((_, prefixes)) = self.0.iter().find(|(known, _)| **known == *origin) else { return false };
        let Ok(address) = Address::of_request(url.path(), url.query()) else { return false };
        let is_own = || address.owner().is_none_or(|(owner, _)| owner == *name);
        match below(prefixes, url.path()).map(|path| Endpoint::parse("GET", path, None)) {
            Some(Ok(Endpoint::Tarball { name: other, version })) => other == *name && (version == key || !has(&version)),
            Some(Ok(Endpoint::Packument(_) | Endpoint::Manifest { .. })) => address.is_file() && is_own(),
            Some(Ok(_)) => false,
            Some(Err(_)) | None => is_own(),
        }
    }
}

/// Returns the path below the first of `prefixes` that it is below.
#[must_use]
pub fn below<'a>(prefixes: &[Box<str>], path: &'a str) -> Option<&'a str> {
    let fits = |rest: &&str| rest.is_empty() || rest.starts_with('/');
    let rest = prefixes.iter().find_map(|prefix| path.strip_prefix(&**prefix).filter(fits))?;
    Some(if rest.is_empty() { "/" } else { rest })
}

/// Returns an address and its origin if every reader takes it for the same: it is written as it is sent, the letters of its host and
/// its usual port aside.
fn unambiguous(stated: &str) -> Option<(Url, String)> {
    let url = Url::parse(stated).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    let host = url.host_str()?;
    let (scheme, rest) = stated.split_once("://")?;
    let (authority, path) = rest.split_at(rest.find('/')?);
    let authority = authority.to_ascii_lowercase();
    let usual = if url.scheme() == "https" { ":443" } else { ":80" };
    let named = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let is_plain = scheme == url.scheme()
        && (authority == named || authority.strip_suffix(usual) == Some(&named))
        && path == &url[Position::BeforePath..Position::AfterQuery]
        && url.fragment().is_none();
    is_plain.then(|| {
        let origin = format!("{scheme}://{named}");
        (url, origin)
    })
}

/// How the addresses of a view are written: below `base`, unless they are kept.
#[derive(Debug, Clone, Copy)]
pub struct Rewriting<'a> {
    /// The address that clients use, without a slash at its end.
    pub base: &'a str,
    /// Where addresses are kept as upstream wrote them.
    pub origins: Option<&'a Origins>,
}

impl<'a> From<&'a str> for Rewriting<'a> {
    fn from(base: &'a str) -> Self {
        Self { base, origins: None }
    }
}

/// Origins with the base URL of a view for them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Intercepted {
    /// The origins.
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
    fn an_address_is_decoded_once() {
        let read = |path: &str| Address::of_request(path, None);
        assert_eq!(read("/@acme%2fui/-/ui-1.0.0.tgz"), read("/@acme/ui/-/ui-1.0.0.tgz"));
        assert_eq!(read("/%66iles/a.tgz"), read("/files/a.tgz"));
        assert_ne!(read("/Files/a.tgz"), read("/files/a.tgz"));
        for wrong in
            ["/a/%252e/b.tgz", "/a/../b.tgz", "/a/%2e%2e/b.tgz", "/a//b.tgz", "/a/%5cb.tgz", "/a/%00.tgz", "/a%2f%2fb.tgz"]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        for wrong in ["ftp://a.example/a.tgz", "a.tgz", "/a.tgz", "https://a.example/a//b.tgz"] {
            assert_eq!(Address::of_stated(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_query_selects_where_the_packument_has_one() {
        let asked = |query| Address::of_request("/a.tgz", query).unwrap();
        let stated = |text| Address::of_stated(text).unwrap();
        let (plain, queried) = (stated("https://a.example/a.tgz"), stated("https://a.example/a.tgz?v=1"));
        assert!(asked(None).selects(&plain) && asked(Some("cache=no")).selects(&plain));
        assert!(asked(Some("v=1")).selects(&queried) && !asked(Some("v=2")).selects(&queried) && !asked(None).selects(&queried));
    }

    #[test]
    fn a_path_that_names_its_package_belongs_to_it() {
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
    fn at_most_three_names_are_read_from_any_other_path() {
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
    fn the_version_in_a_path_is_read() {
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
    fn an_address_that_leads_back_to_its_version_is_kept() {
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
            // A version that is none of the packument's.
            "https://registry.example/@acme/ui/-/ui-1.0.tgz",
        ] {
            assert!(keeps("@acme/ui", "1.0.0", stated), "{stated}");
        }
    }

    #[test]
    fn an_address_that_leads_elsewhere_is_written_anew() {
        let digest = "0".repeat(40);
        for stated in [
            // Another host, port or scheme.
            "https://files.example/@acme/ui/-/ui-1.0.0.tgz",
            "https://registry.example:8443/@acme/ui/-/ui-1.0.0.tgz",
            "http://registry.example/@acme/ui/-/ui-1.0.0.tgz",
            "https://registry.example.evil.example/@acme/ui/-/ui-1.0.0.tgz",
            "/@acme/ui/-/ui-1.0.0.tgz",
            // Read differently by different clients.
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
            // Another version's or package's place.
            "https://registry.example/@acme/ui/-/ui-2.0.0.tgz",
            "https://registry.example/victim/-/victim-6.6.6.tgz",
            "https://registry.example/%76ictim/-/victim-6.6.6.tgz",
            &format!("https://registry.example/download/victim/1.0.0/{digest}"),
            "https://registry.example/deep/victim/-/victim-6.6.6.tgz",
            "http://corp.example:8081/api/v4/projects/7/packages/npm/victim/-/victim-6.6.6.tgz",
            // What is no tarball's.
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
        fn no_path_makes_the_reader_panic_or_ask_for_more_than_three_packages(path in "/?([-@a-z0-9.%/]{0,12}/){0,6}[-a-z0-9.]{0,12}(\\.tgz)?") {
            if let Ok(address) = Address::of_request(&path, None) {
                prop_assert!(address.names().len() <= MAX_NAMES);
                prop_assert_eq!(Address::of_request(&format!("/{}", address.path()), None).ok(), Some(address));
            }
        }

        #[test]
        fn a_kept_address_is_read_as_its_own_version_or_as_no_other(path in "(/[-@a-z0-9.]{1,6}){0,5}", key in "[12]\\.0\\.0") {
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
