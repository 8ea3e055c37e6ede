//! Finds the parent package of new subpackages: `@esbuild/linux-x64` is a subpackage of `esbuild`. Rules may exempt subpackages
//! of an established parent. Parents are looked up only for packages that are new.

use std::sync::Arc;

use jiff::Timestamp;

use crate::firewall::Components;
use crate::firewall::package::PackageSnapshot;
use crate::firewall::packages::fetch::DocumentNeed;
use crate::firewall::policy_state::PolicySnapshot;
use crate::firewall::request::Client;
use crate::npm::packument::index::VersionEntry;
use crate::npm::{PackageName, Packument, PackumentForm};
use crate::units::timestamp;

/// For each entry, when the parent package that pins it was first published; `None` if no parent is known.
pub(crate) type ParentFirstSeen = Box<[Option<Timestamp>]>;

impl Components {
    /// Records the packages that this packument pins as its subpackages.
    pub(crate) fn record_subpackages(&self, packument: &Packument) {
        for part in packument.parts.keys() {
            if let Ok(part) = PackageName::parse(part) {
                self.wholes_of_parts.insert(part, packument.name.clone());
            }
        }
    }

    /// Looks up the parent of a new package, once per document, if a rule may exempt subpackages. Returns whether the result
    /// depends on publishers that the document lacks, so that the full form is needed.
    pub(crate) async fn load_parent(self: &Arc<Self>, client: &Client, known: &PackageSnapshot) -> bool {
        let Some(packument) = needs_parent(known, &self.policy_snapshot()) else { return false };
        // The name must not be sent to a different registry, or needlessly if the package's ages are waived.
        let Some(whole) = self.parent_name(&packument.name).filter(|whole| self.registries.of(whole).id() == known.registry.id())
        else {
            return false;
        };
        if self.policy_snapshot().policy(client.profile).waives_ages(&packument.name) {
            return false;
        }
        // A parent that cannot be fetched pins nothing.
        let Ok(mut reading) = Box::pin(self.lookup_unlinked(client, &whole, DocumentNeed::Index, None)).await else {
            return false;
        };
        if let Some(version) = newer_than(&reading.known, packument)
            && let Some(newer) = Box::pin(self.ask_once_more(client, &reading, version, DocumentNeed::Index)).await
        {
            reading = newer;
        }
        if reading.known.form == PackumentForm::Abbreviated {
            let lacks = |(_, pinning): (&VersionEntry, &VersionEntry)| pinning.publisher.is_none();
            if reading.known.packument.as_ref().is_some_and(|whole| pins(packument, whole).any(lacks)) {
                let full = Box::pin(self.lookup_unlinked(client, &whole, DocumentNeed::Facts, None)).await;
                let Ok(full) = full else { return false };
                reading = full;
            }
        }
        let Some(whole) = &reading.known.packument else { return false };
        let lacks = |(part, _): (&VersionEntry, &VersionEntry)| part.publisher.is_none();
        if known.form == PackumentForm::Abbreviated && pins(packument, whole).any(lacks) {
            return true;
        }
        let _ = known.parent.set(match_parent(packument, whole, reading.known.first_published));
        false
    }

    /// Returns the candidate parent: a package that was seen to pin it, else the one named like its scope.
    fn parent_name(&self, part: &PackageName) -> Option<PackageName> {
        self.wholes_of_parts.get(part).or_else(|| PackageName::parse(part.scope()?.trim_start_matches('@')).ok())
    }
}

/// Returns a version of the subpackage that was published since `whole` was confirmed and that `whole` lacks. Both may have been
/// published together.
fn newer_than<'p>(whole: &PackageSnapshot, part: &'p Packument) -> Option<&'p str> {
    let document = whole.packument.as_ref()?;
    let is_newer = |entry: &&VersionEntry| entry.published.is_some_and(|published| published >= whole.validated);
    part.entries.iter().filter(is_newer).find(|entry| document.find(&entry.key).is_none()).map(|entry| &*entry.key)
}

/// Returns the packument if its parent matters to a rule and is not known yet.
pub(crate) fn needs_parent<'a>(known: &'a PackageSnapshot, policy_snapshot: &PolicySnapshot) -> Option<&'a Arc<Packument>> {
    let packument = known.packument.as_ref().filter(|_| known.parent.get().is_none())?;
    let longest = policy_snapshot.subpackage_exemption_age()?;
    known
        .first_published
        .is_some_and(|first_published| timestamp::saturating_add(first_published, longest) > known.validated)
        .then_some(packument)
}

/// Returns the entries of `part` that the same version of `whole` pins exactly, each with the pinning entry.
fn pins<'a>(part: &'a Packument, whole: &'a Packument) -> impl Iterator<Item = (&'a VersionEntry, &'a VersionEntry)> {
    let places = whole.parts.get(part.name.as_str()).into_iter().flatten();
    let pinning = places.filter_map(|place| whole.entries.get(*place as usize));
    pinning.filter_map(|entry| Some((part.find(&entry.key)?.1, entry)))
}

/// Returns for each entry of `part` when `whole` began, if the same version of `whole` by the same publisher pins it. An unknown
/// publisher equals no other. If neither document names publishers, upstream hides them and the pin is sufficient.
fn match_parent(part: &Packument, whole: &Packument, first_published: Option<Timestamp>) -> ParentFirstSeen {
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
