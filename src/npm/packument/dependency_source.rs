//! Classifies dependencies by the source in their spec: registry, git, URL or file.

use crate::npm::name::PackageName;
use crate::npm::packument::index::ManifestTraits;
use crate::npm::packument::json::{decode, for_each_valid_member};

/// Caches the last two dependency objects: most versions repeat those of the version before.
#[derive(Default)]
pub(crate) struct DependencySources<'a> {
    last: [Option<(&'a str, ManifestTraits)>; 2],
}

/// The source of a dependency that does not come from a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NonRegistrySource {
    Git,
    Url,
    File,
}

impl<'a> DependencySources<'a> {
    /// Sets in `traits` which sources besides registries the dependency object `raw` uses.
    pub(crate) fn note(&mut self, raw: &'a str, traits: &mut ManifestTraits) {
        let known = self.last.iter().flatten().find(|(last, _)| *last == raw).map(|(_, found)| *found);
        let found = known.unwrap_or_else(|| {
            let found = read(raw);
            self.last = [Some((raw, found)), self.last[0].take()];
            found
        });
        traits.git_dependency |= found.git_dependency;
        traits.url_dependency |= found.url_dependency;
        traits.file_dependency |= found.file_dependency;
    }
}

/// Checks whether `part` is named like a subpackage of `name`: in its scope, or in a scope of its name (`@esbuild/…`).
pub(crate) fn is_subpackage_name(name: &PackageName, part: &str) -> bool {
    let Some((scope, _)) = part.strip_prefix('@').and_then(|rest| rest.split_once('/')) else { return false };
    let own = name.scope().map_or(name.unscoped(), |own| &own[1..]);
    scope == own && part != name.as_str()
}

/// Checks whether `other` is named as a sibling of `name`, as packages that are published together are: in the same scope, with
/// the same prefix, or in a scope with the name of the other.
pub(crate) fn is_sibling_name(name: &PackageName, other: &str) -> bool {
    if other.starts_with('@') {
        return is_subpackage_name(name, other);
    }
    match name.scope() {
        Some(own) => other == &own[1..],
        None => other.strip_prefix(name.unscoped()).is_some_and(|rest| rest.starts_with('-')),
    }
}

/// Checks whether a spec that is not an alias is resolved by a registry alone.
pub(crate) fn is_registry_spec(spec: &str) -> bool {
    elsewhere(spec).is_none() && !spec.contains(':')
}

fn read(raw: &str) -> ManifestTraits {
    let mut found = ManifestTraits::default();
    if is_suspicious(raw) {
        for_each_valid_member(raw, |_, value| match decode(value).and_then(|spec| elsewhere(&spec)) {
            Some(NonRegistrySource::Git) => found.git_dependency = true,
            Some(NonRegistrySource::Url) => found.url_dependency = true,
            Some(NonRegistrySource::File) => found.file_dependency = true,
            None => {}
        });
    }
    found
}

/// Checks whether any string may be more than a name, range or tag. Those contain no colon, and a slash only in scoped names.
fn is_suspicious(raw: &str) -> bool {
    let mut strings = raw.split('"').skip(1).step_by(2);
    raw.contains('\\') || strings.any(|text| text.contains(':') || (text.contains('/') && !text.starts_with('@')))
}

/// Returns the source of a spec as npm reads it (`npm-package-arg`), or `None` for a registry.
fn elsewhere(spec: &str) -> Option<NonRegistrySource> {
    let spec = spec.trim();
    let starts = |prefixes: &[&str]| {
        prefixes.iter().any(|prefix| spec.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix)))
    };
    let repository = spec.split('#').next().unwrap_or_default();
    match spec {
        _ if starts(&["npm:", "workspace:", "catalog:"]) => None,
        "." | ".." => Some(NonRegistrySource::File),
        _ if starts(&["file:", "link:", "portal:", "./", "../", "/", "~/"]) => Some(NonRegistrySource::File),
        _ if starts(&["git+", "git:", "git@", "ssh:", "github:", "gitlab:", "bitbucket:", "gist:"]) => {
            Some(NonRegistrySource::Git)
        }
        _ if starts(&["http:", "https:"]) => {
            let bare = spec.split(['#', '?']).next().unwrap_or_default().trim_end_matches('/');
            let is_repository = bare.rsplit_once('.').is_some_and(|(_, end)| end.eq_ignore_ascii_case("git"));
            Some(if is_repository { NonRegistrySource::Git } else { NonRegistrySource::Url })
        }
        // An unknown protocol is fetched by the clients that support it.
        _ if repository.contains(':') => Some(NonRegistrySource::Url),
        _ => {
            let (owner, name) = repository.split_once('/')?;
            let shorthand = !owner.is_empty() && !owner.starts_with('@') && !name.is_empty() && !repository.contains(' ');
            shorthand.then_some(NonRegistrySource::Git)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_are_classified_by_source() {
        use NonRegistrySource::{File, Git, Url};
        for (spec, prefetch_queue) in [
            ("^1.2.0", None),
            ("latest", None),
            ("npm:@acme/ui@^2", None),
            (">=1 <2 || 3 - 4", None),
            ("git+ssh://git@example.com/a/b.git", Some(Git)),
            ("github:axios/axios#v1", Some(Git)),
            ("axios/axios", Some(Git)),
            ("axios/axios#semver:^1", Some(Git)),
            ("https://example.com/a/b.git#v1", Some(Git)),
            ("https://example.com/evil.tgz", Some(Url)),
            ("HTTP://example.com/npm/unused-imports", Some(Url)),
            ("file:../setup.js", Some(File)),
            ("../sibling", Some(File)),
            ("link:./here", Some(File)),
        ] {
            assert_eq!(elsewhere(spec), prefetch_queue, "{spec}");
        }
    }

    #[test]
    fn other_sources_are_found_in_any_spelling() {
        let read = |raw: &str| read(raw);
        assert_eq!(read(r#"{"@babel/core":"^7.0.0","b":"1"}"#), ManifestTraits::default());
        assert!(read(r#"{ "@babel/core" : "^7.0.0" , "b" : "http://x/y.tgz" }"#).url_dependency);
        assert!(read(r#"{"b":"\u0067it+https://x/y"}"#).git_dependency);
        assert!(read(r#"{"b":"x\/y"}"#).git_dependency);
        assert!(read(r#"{"a":null,"b":"https://x/y"}"#).url_dependency);
        assert_eq!(read("[]"), ManifestTraits::default());
    }

    #[test]
    fn subpackages_are_in_the_scope_of_their_parent() {
        let name = |text| PackageName::parse(text).unwrap();
        assert!(is_subpackage_name(&name("esbuild"), "@esbuild/linux-x64"));
        assert!(is_subpackage_name(&name("@swc/core"), "@swc/core-linux-x64-gnu"));
        assert!(!is_subpackage_name(&name("esbuild"), "@esbuild-evil/linux-x64"));
        assert!(!is_subpackage_name(&name("esbuild"), "esbuild-linux-64"));
        assert!(!is_subpackage_name(&name("@swc/core"), "@swc/core"));
    }
}
