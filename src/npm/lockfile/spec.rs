//! Parses the specs inside lockfiles: `name@spec`, `npm:real@range`, and the source that a spec implies.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::npm::name::{PackageName, split_spec};
use crate::npm::semver::version::Version;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntrySource {
    Registry,
    /// A git repository, or an archive of one made by its host.
    Git,
    /// A tarball at an explicit address.
    Http,
    /// A local file or folder, or a patch of another entry.
    File,
    Link,
    /// A package of the same workspace.
    Workspace,
    /// Bundled in the tarball of the package that depends on it.
    Bundled,
    /// None: the entry has no version and no address, or is a folder that is linked to. The client installs nothing for it.
    Nothing,
}

impl EntrySource {
    /// Returns `Git` for an entry of a registry whose tarball comes from a repository.
    pub(crate) fn with_address(self, resolved: Option<&str>) -> Self {
        match self {
            Self::Registry if resolved.is_some_and(|resolved| address(resolved) == Self::Git) => Self::Git,
            found => found,
        }
    }
}

/// Resolves an alias: `npm:lodash@^4` names another package, `npm:^4` only a registry.
pub(crate) fn resolve_alias<'a>(name: &'a str, spec: &'a str) -> (&'a str, &'a str) {
    let Some(rest) = spec.strip_prefix("npm:") else { return (name, spec) };
    match split_spec(rest) {
        Some(split) => split,
        None if rest.starts_with('@') => (rest, "*"),
        None => (name, rest),
    }
}

/// Returns the range of a registry spec. pnpm's catalogs keep theirs elsewhere.
pub(crate) fn range(spec: &str) -> Option<Box<str>> {
    let (_, range) = resolve_alias("", spec);
    let is_registry_range = source(range) == EntrySource::Registry && !range.is_empty() && !range.starts_with("catalog:");
    is_registry_range.then(|| range.into())
}

/// Returns the source of `spec`, the text after a name's `@` without `npm:`.
pub(crate) fn source(spec: &str) -> EntrySource {
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| spec.starts_with(prefix));
    match spec {
        _ if begins(&["git+", "git:", "git@", "ssh:", "github:", "gitlab:", "bitbucket:", "gist:"]) => EntrySource::Git,
        _ if begins(&["http://", "https://"]) => address(spec),
        _ if begins(&["file:", "patch:", "exec:", "./", "../", "/", "~/"]) => EntrySource::File,
        _ if begins(&["link:", "portal:"]) => EntrySource::Link,
        _ if spec.starts_with("workspace:") => EntrySource::Workspace,
        // `user/repo`: a GitHub repository for npm, yarn 1 and bun.
        _ if spec.contains('/') && !spec.starts_with('@') && !spec.contains([' ', ':', '<', '>']) => EntrySource::Git,
        _ => EntrySource::Registry,
    }
}

/// Like [`source`], for entries of formats that do not list workspace members: an entry marked as one is kept as a link.
pub(crate) fn source_of_entry(spec: &str) -> EntrySource {
    let source = source(spec);
    if source == EntrySource::Workspace { EntrySource::Link } else { source }
}

/// Returns `Git` for the address of a repository or of an archive that its host makes, else `Http`.
pub(crate) fn address(url: &str) -> EntrySource {
    let plain = url.split(['#', '?']).next().unwrap_or_default();
    let of_repository = plain.strip_suffix(".git").is_some() || url.contains("#commit=");
    let host = plain.split_once("://").map_or("", |(_, rest)| rest.split('/').next().unwrap_or_default());
    let archive = host == "codeload.github.com"
        || (matches!(host, "github.com" | "gitlab.com" | "bitbucket.org")
            && (plain.contains("/archive/") || plain.contains("/get/")));
    if of_repository || archive { EntrySource::Git } else { EntrySource::Http }
}

/// Returns the package and version of a conventional tarball address: `…/@acme/ui/-/ui-1.0.0.tgz`.
pub(crate) fn of_tarball(url: &str) -> Option<(String, String)> {
    let plain = url.split(['#', '?']).next().unwrap_or_default();
    let (_, path) = plain.split_once("://")?.1.split_once('/')?;
    let path: Cow<'_, str> = percent_decode_str(path).decode_utf8().ok()?;
    let (package, file) = path.rsplit_once("/-/")?;
    let (above, last) = package.rsplit_once('/').unwrap_or(("", package));
    let scope = above.rsplit('/').next().filter(|scope| scope.starts_with('@'));
    let name = scope.map_or_else(|| last.to_owned(), |scope| format!("{scope}/{last}"));
    let version = file.strip_prefix(last)?.strip_prefix('-')?.strip_suffix(".tgz")?;
    (PackageName::parse(&name).is_ok() && Version::parse(version).is_some()).then(|| (name, version.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alias_resolves_to_its_real_package() {
        for (spec, real, range) in [
            ("^4", "demo", "^4"),
            ("npm:^4", "demo", "^4"),
            ("npm:lodash@^4", "lodash", "^4"),
            ("npm:@acme/ui@1.0.0", "@acme/ui", "1.0.0"),
            ("npm:@acme/ui", "@acme/ui", "*"),
        ] {
            assert_eq!(resolve_alias("demo", spec), (real, range), "{spec}");
        }
        assert_eq!(split_spec("@acme/ui@npm:^1"), Some(("@acme/ui", "npm:^1")));
        assert_eq!((split_spec("@acme/ui"), split_spec("demo")), (None, None));
    }

    #[test]
    fn conventional_address_yields_package_and_version() {
        let found = |url: &str| of_tarball(url).map(|(name, version)| format!("{name}@{version}"));
        for (url, expected) in [
            ("https://registry.example/axios/-/axios-1.14.1.tgz", Some("axios@1.14.1")),
            ("https://registry.example/npm/@acme%2fui/-/ui-2.0.0-rc.1.tgz?x#y", Some("@acme/ui@2.0.0-rc.1")),
            ("https://registry.example/axios/-/other-1.14.1.tgz", None),
            ("https://files.example/axios-1.14.1.tgz", None),
            ("https://registry.example/axios/-/axios-latest.tgz", None),
        ] {
            assert_eq!(found(url).as_deref(), expected, "{url}");
        }
    }

    #[test]
    fn spec_determines_the_source() {
        for (spec, expected) in [
            ("^1.0.0", EntrySource::Registry),
            ("1.x || >=2.5.0", EntrySource::Registry),
            ("latest", EntrySource::Registry),
            ("git+ssh://git@github.com/a/b.git#0123", EntrySource::Git),
            ("a/b#main", EntrySource::Git),
            ("github:a/b", EntrySource::Git),
            ("https://github.com/a/b.git", EntrySource::Git),
            ("https://codeload.github.com/a/b/tar.gz/0123", EntrySource::Git),
            ("https://files.example/b.tgz", EntrySource::Http),
            ("file:./b", EntrySource::File),
            ("../b", EntrySource::File),
            ("link:./b", EntrySource::Link),
            ("workspace:^", EntrySource::Workspace),
        ] {
            assert_eq!(source(spec), expected, "{spec}");
        }
        assert_eq!((range("npm:lodash@^4").as_deref(), range("file:./b"), range("")), (Some("^4"), None, None));
    }
}
