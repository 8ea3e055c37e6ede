//! Tracks the version requirements on each package: the ranges of other packages' manifests and of the project. Finds
//! requirements that only hidden versions satisfy, because a client that finds no match fails without requesting a tarball.

use std::sync::Arc;

use moka::sync::Cache;

use crate::firewall::package::CacheKey;
use crate::firewall::policy_state::{PolicySnapshot, Profile};
use crate::firewall::verdicts::cache::CachedPackage;
use crate::firewall::verdicts::resolve::{is_satisfied, pick_unfiltered, resolve};
use crate::firewall::verdicts::{VerdictTable, Want, WithheldVersions};
use crate::npm::AbbreviatedFields;
use crate::npm::packument::dependencies::{Dependency, dependencies};
use crate::npm::{PackageName, Packument};

/// The most packages whose requirements are kept.
const MAX_PACKAGES: u64 = 20_000;

/// The most requirements kept per package. Each is resolved again when the packument changes.
const MAX_WANTS: usize = 8;

/// The requirements that packuments state for other packages.
pub(crate) struct Wants {
    of_packages: Cache<CacheKey, Arc<[Want]>>,
}

impl Default for Wants {
    fn default() -> Self {
        Self { of_packages: Cache::new(MAX_PACKAGES) }
    }
}

impl Wants {
    /// Returns the requirements on a package.
    pub(crate) fn of(&self, cache_key: &CacheKey) -> Option<Arc<[Want]>> {
        self.of_packages.get(cache_key)
    }

    /// Records the dependencies of the version that `spec` resolves to, and returns them. `fields` are those of `document`.
    pub(crate) fn note_dependencies(
        &self,
        known: &CachedPackage,
        policy_snapshot: &PolicySnapshot,
        document: &[u8],
        fields: &AbbreviatedFields,
        spec: &str,
    ) -> Vec<Dependency> {
        let Some(packument) = &known.packument else { return Vec::new() };
        let table = known.verdicts(policy_snapshot, Profile::default());
        let chosen = resolve(packument, &table, spec).and_then(|key| packument.find(key));
        let Some((at, _)) = chosen.filter(|(at, _)| table.shown[*at]) else { return Vec::new() };
        let wanted = dependencies(document, fields, at);
        for Dependency { name, wanted: range } in &wanted {
            let cache_key = CacheKey { name: name.clone(), partition: known.cache_key.partition.clone() };
            self.note(cache_key, &packument.name, range);
        }
        wanted
    }

    fn note(&self, cache_key: CacheKey, by: &PackageName, spec: &str) {
        let known = self.of_packages.get(&cache_key);
        let known = known.as_deref().unwrap_or_default();
        if known.iter().any(|want| *want.by == *by.as_str() && *want.spec == *spec) {
            return;
        }
        let newest = Want { by: by.as_str().into(), spec: spec.into(), is_direct: false };
        let others = known.iter().filter(|want| *want.by != *by.as_str()).take(MAX_WANTS - 1).cloned();
        let wants = std::iter::once(newest).chain(others).collect();
        self.of_packages.insert(cache_key, wants);
    }
}

/// Returns the hidden versions of a package that a known requirement needs, computed once per table and set of requirements.
pub(crate) fn withheld(packument: &Packument, table: &VerdictTable, wants: Arc<[Want]>) -> Arc<WithheldVersions> {
    if let Some(withheld) = table.withheld.load_full().filter(|withheld| Arc::ptr_eq(&withheld.wants, &wants)) {
        return withheld;
    }
    let find = |want: &Want| {
        let at = pick_unfiltered(packument, &want.spec).filter(|at| !table.shown[*at])?;
        (!is_satisfied(packument, table, &want.spec)).then(|| (at, want.clone()))
    };
    let found = wants.iter().filter_map(find).collect();
    let withheld = Arc::new(WithheldVersions { wants, found });
    table.withheld.store(Some(Arc::clone(&withheld)));
    withheld
}
