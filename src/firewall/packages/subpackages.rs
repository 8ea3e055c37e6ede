//! Parts of an established package (`@esbuild/linux-x64` of `esbuild`) are no strangers, however new they are. What the whole says of
//! them is looked up where a rule may spare them: for packages that are new, and for those alone. Refuses to judge.

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

/// For each entry of a package, since when the package exists that pins exactly it; `None` where none is known.
pub(crate) type ParentFirstSeen = Box<[Option<Timestamp>]>;

impl Components {
    /// Remembers whose parts the packages are that this packument pins.
    pub(crate) fn note_parts(&self, packument: &Packument) {
        for part in packument.parts.keys() {
            if let Ok(part) = PackageName::parse(part) {
                self.wholes_of_parts.insert(part, packument.name.clone());
            }
        }
    }

    /// Looks up whose part a new package is, once a document. Of packages that are not new nothing is asked, nor where no rule spares
    /// parts. Returns whether the answer hangs on publishers that the document lacks: the full form is needed then.
    pub(crate) async fn find_kin(self: &Arc<Self>, asker: &Client, known: &PackageSnapshot) -> bool {
        let Some(packument) = wants_kin(known, &self.world()) else { return false };
        // Nobody learns the name of a scope whose registry is another one, or whose ages are waived.
        let Some(whole) = self.whole_of(&packument.name).filter(|whole| self.registries.of(whole).id() == known.registry.id())
        else {
            return false;
        };
        if self.world().policy(asker.profile).waives_ages(&packument.name) {
            return false;
        }
        // A package that cannot be read has no parts.
        let Ok(mut reading) = Box::pin(self.look_up(asker, &whole, DocumentNeed::Index, None)).await else { return false };
        if let Some(version) = newer_than(&reading.known, packument)
            && let Some(newer) = Box::pin(self.ask_once_more(asker, &reading, version, DocumentNeed::Index)).await
        {
            reading = newer;
        }
        if reading.known.form == PackumentForm::Abbreviated {
            let lacks = |(_, pinning): (&VersionEntry, &VersionEntry)| pinning.publisher.is_none();
            if reading.known.packument.as_ref().is_some_and(|whole| pins(packument, whole).any(lacks)) {
                let full = Box::pin(self.look_up(asker, &whole, DocumentNeed::Facts, None)).await;
                let Ok(full) = full else { return false };
                reading = full;
            }
        }
        let Some(whole) = &reading.known.packument else { return false };
        let lacks = |(part, _): (&VersionEntry, &VersionEntry)| part.publisher.is_none();
        if known.form == PackumentForm::Abbreviated && pins(packument, whole).any(lacks) {
            return true;
        }
        let _ = known.kin.set(kin(packument, whole, reading.known.born));
        false
    }

    /// The package that a package may be a part of: one that was seen to pin it, else the one that its scope is called like.
    fn whole_of(&self, part: &PackageName) -> Option<PackageName> {
        self.wholes_of_parts.get(part).or_else(|| PackageName::parse(part.scope()?.trim_start_matches('@')).ok())
    }
}

/// A version of a part that was published since `whole` was confirmed, and that it does not have: both may have been published together.
fn newer_than<'p>(whole: &PackageSnapshot, part: &'p Packument) -> Option<&'p str> {
    let document = whole.packument.as_ref()?;
    let is_newer = |entry: &&VersionEntry| entry.published.is_some_and(|published| published >= whole.validated);
    part.entries.iter().filter(is_newer).find(|entry| document.find(&entry.key).is_none()).map(|entry| &*entry.key)
}

/// The packument of which it matters whose part it is, and of which that is not known yet.
pub(crate) fn wants_kin<'a>(known: &'a PackageSnapshot, world: &PolicySnapshot) -> Option<&'a Arc<Packument>> {
    let packument = known.packument.as_ref().filter(|_| known.kin.get().is_none())?;
    let longest = world.spares_siblings()?;
    known.born.is_some_and(|born| timestamp::after(born, longest) > known.validated).then_some(packument)
}

/// The entries of `part` that a version of `whole` with the same number pins exactly, each with the entry that pins it.
fn pins<'a>(part: &'a Packument, whole: &'a Packument) -> impl Iterator<Item = (&'a VersionEntry, &'a VersionEntry)> {
    let places = whole.parts.get(part.name.as_str()).into_iter().flatten();
    let pinning = places.filter_map(|place| whole.entries.get(*place as usize));
    pinning.filter_map(|entry| Some((part.find(&entry.key)?.1, entry)))
}

/// What `whole` says of the entries of `part`: it pins this very version in one of its own of the same number and publisher. An
/// unknown publisher equals no other; where neither document names any, this upstream does not show them, and the pin alone decides.
fn kin(part: &Packument, whole: &Packument, born: Option<Timestamp>) -> ParentFirstSeen {
    let mut kin: ParentFirstSeen = vec![None; part.entries.len()].into();
    let is_observable = part.has_publishers || whole.has_publishers;
    for (entry, pinning) in pins(part, whole) {
        let same = !is_observable || (entry.publisher.is_some() && entry.publisher == pinning.publisher);
        if let Some((at, _)) = part.find(&entry.key).filter(|_| same) {
            kin[at] = born;
        }
    }
    kin
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
        parse::ingest(&PackageName::parse(name).unwrap(), document.as_bytes()).unwrap().packument
    }

    #[test]
    fn a_part_is_pinned_exactly_by_the_same_version_of_the_same_publisher() {
        let pins = r#","optionalDependencies":{"@esbuild/linux-x64":"0.25.0"}"#;
        let whole = packument("esbuild", "0.25.0", "evanw", pins);
        let found = |name, version, publisher| kin(&packument(name, version, publisher, ""), &whole, whole.oldest)[0].is_some();
        assert!(found("@esbuild/linux-x64", "0.25.0", "evanw"));
        assert!(!found("@esbuild/linux-x64", "0.25.1", "evanw"));
        assert!(!found("@esbuild/linux-x64", "0.25.0", "mallory"));
        let unknown = packument("esbuild", "0.25.0", "", pins);
        let part = packument("@esbuild/linux-x64", "0.25.0", "", "");
        assert!(kin(&part, &unknown, unknown.oldest)[0].is_none(), "two unknown publishers are not one");
        assert!(!found("@esbuild/evil", "0.25.0", "evanw"));
        let loose = packument("esbuild", "0.25.0", "evanw", r#","optionalDependencies":{"@esbuild/linux-x64":"^0.25.0"}"#);
        assert!(kin(&packument("@esbuild/linux-x64", "0.25.0", "evanw", ""), &loose, loose.oldest)[0].is_none());
    }
}
