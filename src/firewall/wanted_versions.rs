//! Tracks the version requirements on each package: the ranges of other packages' manifests and of the project. Finds
//! requirements that only hidden versions satisfy, because a client that finds no match fails without requesting a tarball.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use moka::sync::Cache;
use serde::{Deserialize, Serialize};

use crate::firewall::Components;
use crate::firewall::error::Refusal;
use crate::firewall::package::{CacheKey, PackageSnapshot};
use crate::firewall::queries::packument::{best_in_range, resolve};
use crate::firewall::request::Client;
use crate::firewall::verdicts::VerdictTable;
use crate::npm::AbbreviatedFields;
use crate::npm::packument::dependencies::{Dependency, dependencies};
use crate::npm::{PackageName, Packument, Range};
use crate::store::DownloadOutcome;
use crate::units::timestamp;

/// The most packages whose requirements are kept.
const MAX_PACKAGES: u64 = 20_000;

/// The most requirements kept per package. Each is resolved again when the packument changes.
const MAX_WANTS: usize = 8;

/// How long repeated requests for a withheld version count as one event. Clients retry, and an install requests a packument
/// twice.
const EVENT_INTERVAL: Duration = Duration::from_secs(3600);

/// The most events kept to detect repetitions.
const MAX_EVENTS: u64 = 20_000;

/// A version requirement of a package or a project on another package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// The package, or the file of the project, that states it.
    pub by: Box<str>,
    /// A version, a dist-tag or a range, as written.
    pub spec: Box<str>,
    /// Whether the project itself states it.
    #[serde(default)]
    pub is_direct: bool,
}

/// Identifies an event: client, user, package and version.
type EventKey = (IpAddr, Option<Arc<str>>, PackageName, Box<str>);

/// The requirements that packuments state for other packages.
pub(crate) struct Wants {
    of_packages: Cache<CacheKey, Arc<[Want]>>,
    reported: Cache<EventKey, Timestamp>,
}

impl Default for Wants {
    fn default() -> Self {
        Self { of_packages: Cache::new(MAX_PACKAGES), reported: Cache::new(MAX_EVENTS) }
    }
}

impl Wants {
    /// Returns the requirements on a package.
    pub(crate) fn of(&self, slot: &CacheKey) -> Option<Arc<[Want]>> {
        self.of_packages.get(slot)
    }

    fn note(&self, slot: CacheKey, by: &PackageName, spec: &str) {
        let known = self.of_packages.get(&slot);
        let known = known.as_deref().unwrap_or_default();
        if known.iter().any(|want| *want.by == *by.as_str() && *want.spec == *spec) {
            return;
        }
        let newest = Want { by: by.as_str().into(), spec: spec.into(), is_direct: false };
        let others = known.iter().filter(|want| *want.by != *by.as_str()).take(MAX_WANTS - 1).cloned();
        let wants = std::iter::once(newest).chain(others).collect();
        self.of_packages.insert(slot, wants);
    }
}

/// The withheld versions of a package, with the requirements they were computed from.
#[derive(Debug)]
pub(crate) struct WithheldVersions {
    wants: Arc<[Want]>,
    /// Each hidden entry, with the requirement that no visible version satisfies.
    found: Box<[(usize, Want)]>,
}

/// Returns the entry that `spec` would resolve to if no version were hidden.
pub(crate) fn pick_unfiltered(packument: &Packument, spec: &str) -> Option<usize> {
    let tagged = |tag: &str| packument.dist_tags.iter().find(|(name, _)| **name == *tag).map(|(_, version)| &**version);
    let spec = if spec.is_empty() { "latest" } else { spec };
    let exact = packument.find(spec).map(|(at, _)| at);
    let by_tag = || packument.find(tagged(spec)?).map(|(at, _)| at);
    let by_range =
        || packument.find(best_in_range(packument, &Range::parse(spec)?, tagged("latest"), |_| true)?).map(|(at, _)| at);
    exact.or_else(by_tag).or_else(by_range)
}

/// Checks whether a visible version satisfies `spec`.
pub(crate) fn is_satisfied(packument: &Packument, table: &VerdictTable, spec: &str) -> bool {
    let key = resolve(packument, table, if spec.is_empty() { "latest" } else { spec });
    key.and_then(|key| packument.find(key)).is_some_and(|(at, _)| table.shown[at])
}

impl Components {
    /// Records the dependencies of the version that `spec` resolves to, and returns them. `fields` are those of `document`.
    pub(crate) fn note_wants(
        &self,
        known: &PackageSnapshot,
        document: &[u8],
        fields: &AbbreviatedFields,
        spec: &str,
    ) -> Vec<Dependency> {
        let Some(packument) = &known.packument else { return Vec::new() };
        let table = known.verdicts(&self.policy_snapshot(), crate::firewall::policy_state::Profile::default());
        let chosen = resolve(packument, &table, spec).and_then(|key| packument.find(key));
        let Some((at, _)) = chosen.filter(|(at, _)| table.shown[*at]) else { return Vec::new() };
        let wanted = dependencies(document, fields, at);
        for Dependency { name, wanted: range } in &wanted {
            let slot = CacheKey { name: name.clone(), partition: known.slot.partition.clone() };
            self.wants.note(slot, &packument.name, range);
        }
        wanted
    }

    /// Reports versions that the response withholds although a known requirement allows nothing else. Does nothing for a package
    /// without hidden versions.
    pub(crate) fn note_withheld(
        &self,
        client: &Client,
        known: &PackageSnapshot,
        packument: &Packument,
        table: &VerdictTable,
        now: Timestamp,
    ) {
        if table.hidden.is_empty() || !client.is_installing {
            return;
        }
        let Some(wants) = self.wants.of(&known.slot) else { return };
        for (at, want) in &withheld(packument, table, wants).found {
            // Only while the requiring packument is fresh: later, a client may resolve another version of it.
            let by = PackageName::parse(&want.by).ok().map(|name| CacheKey { name, partition: known.slot.partition.clone() });
            let asked = by.and_then(|slot| self.documents.get(&slot)).map(|known| known.checked);
            if asked.is_some_and(|asked| now <= timestamp::saturating_add(asked, self.config.packument_ttl)) {
                self.report_withheld(client, packument, table, *at, now);
            }
        }
    }

    pub(crate) fn report_withheld(
        &self,
        client: &Client,
        packument: &Packument,
        table: &VerdictTable,
        at: usize,
        now: Timestamp,
    ) {
        let entry = &packument.entries[at];
        let key = (client.address, client.user.clone(), packument.name.clone(), entry.key.clone());
        if self.wants.reported.get(&key).is_some_and(|at| timestamp::is_within(at, EVENT_INTERVAL, now)) {
            return;
        }
        self.wants.reported.insert(key, now);
        let (name, nearest) = (&packument.name, table.nearest_allowed(packument, &entry.key));
        let Some(refusal) = Refusal::of_version(name, &entry.key, table.verdict(at), nearest) else { return };
        let rule = refusal.rule.clone();
        let _ = self.record_refusal(client, refusal);
        self.note_tarball((client, now), name, &entry.key, entry.integrity.as_ref(), DownloadOutcome::Refused, Some(&rule));
    }
}

fn withheld(packument: &Packument, table: &VerdictTable, wants: Arc<[Want]>) -> Arc<WithheldVersions> {
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
