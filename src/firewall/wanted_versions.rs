//! What is wanted of a package, as far as it is known: the ranges that other packages' documents name, and those of a project. Finds
//! the versions that would be taken and are withheld: where a range leaves nothing else, the client fails without asking for more.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use moka::sync::Cache;
use serde::{Deserialize, Serialize};

use crate::firewall::Components;
use crate::firewall::error::Refusal;
use crate::firewall::package::{CacheKey, PackageSnapshot};
use crate::firewall::queries::packument::{best, resolve};
use crate::firewall::request::Client;
use crate::firewall::verdicts::VerdictTable;
use crate::npm::AbbreviatedFields;
use crate::npm::packument::dependencies::{Dependency, requirements};
use crate::npm::{PackageName, Packument, Range};
use crate::store::DownloadOutcome;
use crate::units::timestamp;

/// Packages whose wants are remembered.
const MAX_PACKAGES: u64 = 20_000;

/// Wants that are remembered of one package: each is resolved when a document changes.
const MAX_WANTS: usize = 8;

/// How long a version that is withheld from a client is one event: clients retry, and installs ask twice.
const EVENT_INTERVAL: Duration = Duration::from_secs(3600);

/// Events that are remembered, so that each is reported once.
const MAX_EVENTS: u64 = 20_000;

/// What a package or a project wants of another package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// Who: a package, or a file of the project.
    pub by: Box<str>,
    /// A version, a dist-tag or a range, as it is written.
    pub spec: Box<str>,
    /// Whether it is the project itself that wants it.
    #[serde(default)]
    pub is_direct: bool,
}

/// What one event is reported for.
type EventKey = (IpAddr, Option<Arc<str>>, PackageName, Box<str>);

/// What documents say that is wanted of other packages.
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
    /// What is wanted of a package.
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

/// What of the wants of a package is withheld, and the wants that this was found for.
#[derive(Debug)]
pub(crate) struct WithheldVersions {
    wants: Arc<[Want]>,
    /// The entry that is hidden, by the want that nothing shown satisfies.
    found: Box<[(usize, Want)]>,
}

/// The entry that `spec` would lead a client to if nothing were hidden.
pub(crate) fn pick_unfiltered(packument: &Packument, spec: &str) -> Option<usize> {
    let tagged = |tag: &str| packument.dist_tags.iter().find(|(name, _)| **name == *tag).map(|(_, version)| &**version);
    let spec = if spec.is_empty() { "latest" } else { spec };
    let exact = packument.find(spec).map(|(at, _)| at);
    let by_tag = || packument.find(tagged(spec)?).map(|(at, _)| at);
    let by_range = || packument.find(best(packument, &Range::parse(spec)?, tagged("latest"), |_| true)?).map(|(at, _)| at);
    exact.or_else(by_tag).or_else(by_range)
}

/// Whether something that is shown satisfies `spec`.
pub(crate) fn is_satisfied(packument: &Packument, screen: &VerdictTable, spec: &str) -> bool {
    let key = resolve(packument, screen, if spec.is_empty() { "latest" } else { spec });
    key.and_then(|key| packument.find(key)).is_some_and(|(at, _)| screen.shown[at])
}

impl Components {
    /// Notes what the version that `spec` leads to wants of other packages; `fields` are those of `document`.
    pub(crate) fn note_wants(
        &self,
        known: &PackageSnapshot,
        document: &[u8],
        fields: &AbbreviatedFields,
        spec: &str,
    ) -> Vec<Dependency> {
        let Some(packument) = &known.packument else { return Vec::new() };
        let screen = known.screen(&self.world(), crate::firewall::policy_state::Profile::default());
        let chosen = resolve(packument, &screen, spec).and_then(|key| packument.find(key));
        let Some((at, _)) = chosen.filter(|(at, _)| screen.shown[*at]) else { return Vec::new() };
        let requirements = requirements(document, fields, at);
        for Dependency { name, wanted } in &requirements {
            let slot = CacheKey { name: name.clone(), partition: known.slot.partition.clone() };
            self.wants.note(slot, &packument.name, wanted);
        }
        requirements
    }

    /// Notes that an answer withholds all that a known want allows. Of packages with nothing hidden nothing is looked up.
    pub(crate) fn note_withheld(
        &self,
        asker: &Client,
        known: &PackageSnapshot,
        packument: &Packument,
        screen: &VerdictTable,
        now: Timestamp,
    ) {
        if screen.hidden.is_empty() || !asker.resolves {
            return;
        }
        let Some(wants) = self.wants.of(&known.slot) else { return };
        for (at, want) in &withheld(packument, screen, wants).found {
            // Only while the package that wants it is in use: later, a client may want another version.
            let by = PackageName::parse(&want.by).ok().map(|name| CacheKey { name, partition: known.slot.partition.clone() });
            let asked = by.and_then(|slot| self.documents.get(&slot)).map(|known| known.checked);
            if asked.is_some_and(|asked| now <= timestamp::after(asked, self.config.packument_ttl)) {
                self.report_withheld(asker, packument, screen, *at, now);
            }
        }
    }

    pub(crate) fn report_withheld(
        &self,
        asker: &Client,
        packument: &Packument,
        screen: &VerdictTable,
        at: usize,
        now: Timestamp,
    ) {
        let entry = &packument.entries[at];
        let key = (asker.address, asker.user.clone(), packument.name.clone(), entry.key.clone());
        if self.wants.reported.get(&key).is_some_and(|at| timestamp::is_within(at, EVENT_INTERVAL, now)) {
            return;
        }
        self.wants.reported.insert(key, now);
        let (name, nearest) = (&packument.name, screen.nearest(packument, &entry.key));
        let Some(refusal) = Refusal::of_version(name, &entry.key, screen.verdict(at), nearest) else { return };
        let rule = refusal.rule.clone();
        let _ = self.refused(asker, refusal);
        self.note_tarball((asker, now), name, &entry.key, entry.integrity.as_ref(), DownloadOutcome::Refused, Some(&rule));
    }
}

fn withheld(packument: &Packument, screen: &VerdictTable, wants: Arc<[Want]>) -> Arc<WithheldVersions> {
    if let Some(withheld) = screen.withheld.load_full().filter(|withheld| Arc::ptr_eq(&withheld.wants, &wants)) {
        return withheld;
    }
    let find = |want: &Want| {
        let at = pick_unfiltered(packument, &want.spec).filter(|at| !screen.shown[*at])?;
        (!is_satisfied(packument, screen, &want.spec)).then(|| (at, want.clone()))
    };
    let found = wants.iter().filter_map(find).collect();
    let withheld = Arc::new(WithheldVersions { wants, found });
    screen.withheld.store(Some(Arc::clone(&withheld)));
    withheld
}
