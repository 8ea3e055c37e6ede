//! Finds the parent package of new subpackages: `@esbuild/linux-x64` is a subpackage of `esbuild`. Rules may exempt subpackages
//! of an established parent. Parents are looked up only for packages that are new.

use std::sync::Arc;

use jiff::Timestamp;
use moka::sync::Cache;

use crate::firewall::package::ParentFirstSeen;
use crate::firewall::packages::ingest::{IngestEvent, PackageObserver};
use crate::firewall::policy_state::PolicySnapshot;
use crate::firewall::verdicts::cache::CachedPackage;
use crate::npm::packument::index::VersionEntry;
use crate::npm::{PackageName, Packument};
use crate::units::timestamp;

const MAX_SUBPACKAGES: u64 = 10_000;

pub(crate) struct Subpackages(Cache<PackageName, PackageName>);

impl Default for Subpackages {
    fn default() -> Self {
        Self(Cache::new(MAX_SUBPACKAGES))
    }
}

impl PackageObserver for Subpackages {
    /// Records the packages that a packument pins as its subpackages.
    fn ingested(&self, event: &mut IngestEvent<'_>) {
        for part in event.packument.siblings.parts.keys() {
            if let Ok(part) = PackageName::parse(part) {
                self.0.insert(part, event.packument.name.clone());
            }
        }
    }
}

impl Subpackages {
    pub(crate) fn parent(&self, part: &PackageName) -> Option<PackageName> {
        self.0.get(part)
    }

    /// Returns the candidate parent: a package that was seen to pin it, else the one named like its scope.
    pub(crate) fn candidate_parent(&self, part: &PackageName) -> Option<PackageName> {
        self.parent(part).or_else(|| PackageName::parse(part.scope()?.trim_start_matches('@')).ok())
    }
}

/// Returns a version of `part` published since `whole` was confirmed that `whole` lacks: both may be released together.
pub(crate) fn newer_than<'p>(whole: &CachedPackage, part: &'p Packument) -> Option<&'p str> {
    let document = whole.packument.as_ref()?;
    let is_newer = |entry: &&VersionEntry| entry.published.is_some_and(|published| published >= whole.confirmed.validated);
    part.entries.iter().filter(is_newer).find(|entry| document.find(&entry.key).is_none()).map(|entry| &*entry.key)
}

/// Returns the packument if its parent matters to a rule and is not known yet.
pub(crate) fn needs_parent<'a>(package: &'a CachedPackage, policy_snapshot: &PolicySnapshot) -> Option<&'a Arc<Packument>> {
    let packument = package.packument.as_ref().filter(|_| package.parent.get().is_none())?;
    let longest = policy_snapshot.subpackage_exemption_age()?;
    let is_new = |first_published| timestamp::saturating_add(first_published, longest) > package.confirmed.validated;
    package.first_published.is_some_and(is_new).then_some(packument)
}

/// Returns the entries of `part` that the same version of `whole` pins exactly, each with the pinning entry.
pub(crate) fn pins<'a>(part: &'a Packument, whole: &'a Packument) -> impl Iterator<Item = (&'a VersionEntry, &'a VersionEntry)> {
    let places = whole.siblings.parts.get(part.name.as_str()).into_iter().flatten();
    let pinning = places.filter_map(|place| whole.entries.get(*place as usize));
    pinning.filter_map(|entry| Some((part.find(&entry.key)?.1, entry)))
}

/// Returns for each entry of `part` when `whole` began, if the same version of `whole` by the same publisher pins it. An unknown
/// publisher equals no other. If neither document names publishers, upstream hides them and the pin is sufficient.
pub(crate) fn match_parent(part: &Packument, whole: &Packument, first_published: Option<Timestamp>) -> ParentFirstSeen {
    let mut parent: ParentFirstSeen = vec![None; part.entries.len()].into();
    let is_observable = part.contents.has_publishers || whole.contents.has_publishers;
    for (entry, pinning) in pins(part, whole) {
        let same = !is_observable || (entry.publisher.is_some() && entry.publisher == pinning.publisher);
        if let Some((at, _)) = part.find(&entry.key).filter(|_| same) {
            parent[at] = first_published;
        }
    }
    parent
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::npm::packument::parse;

    fn packument(name: &str, version: &str, publisher: &str, more: &str) -> Packument {
        let document = format!(
            r#"{{"name":"{name}","versions":{{"{version}":{{"name":"{name}","version":"{version}","_npmUser":{{"name":"{publisher}"}},
              "dist":{{"tarball":"x","shasum":"{}"}}{more}}}}},"time":{{"{version}":"2020-01-01T00:00:00Z"}}}}"#,
            "0".repeat(40)
        );
        parse::parse(&PackageName::parse(name).unwrap(), document.as_bytes()).unwrap().packument
    }

    #[test]
    fn subpackage_needs_an_exact_pin_by_same_version_and_publisher() {
        let pins = r#","optionalDependencies":{"@esbuild/linux-x64":"0.25.0"}"#;
        let whole = packument("esbuild", "0.25.0", "evanw", pins);
        let found =
            |name, version, publisher| match_parent(&packument(name, version, publisher, ""), &whole, whole.oldest)[0].is_some();
        assert!(found("@esbuild/linux-x64", "0.25.0", "evanw"));
        assert!(!found("@esbuild/linux-x64", "0.25.1", "evanw"));
        assert!(!found("@esbuild/linux-x64", "0.25.0", "mallory"));
        let unknown = packument("esbuild", "0.25.0", "", pins);
        let part = packument("@esbuild/linux-x64", "0.25.0", "", "");
        assert!(match_parent(&part, &unknown, unknown.oldest)[0].is_none(), "unknown publishers are not equal");
        assert!(!found("@esbuild/evil", "0.25.0", "evanw"));
        let loose = packument("esbuild", "0.25.0", "evanw", r#","optionalDependencies":{"@esbuild/linux-x64":"^0.25.0"}"#);
        assert!(match_parent(&packument("@esbuild/linux-x64", "0.25.0", "evanw", ""), &loose, loose.oldest)[0].is_none());
    }
}
