//! What is known of one package at one moment: its index, its record, and when upstream last confirmed it. Never changed,
//! only replaced whole. Refuses to fetch.

pub(crate) mod as_of;
pub mod history;
pub(crate) mod removed;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};

use crate::firewall::package::history::ReleaseHistory;
use crate::firewall::packages::subpackages::ParentFirstSeen;
use crate::firewall::policy_state::{PolicySnapshot, Profile};
use crate::firewall::singleflight::{self, Turn};
use crate::firewall::tarballs::stored::StoredTarballs;
use crate::firewall::verdicts::VerdictTable;
use crate::npm::packument::index::VersionEntry;
use crate::npm::{Algorithm, Digest, PackageName, Packument, PackumentForm, Version};
use crate::policy::advisories::AdvisoryKind;
use crate::policy::{Advisory, ApplicableAdvisories, Facts, UnknownFacts};
use crate::store::{PackageKey, PackageRecord, Release, StoredPackument};
use crate::units::timestamp;
use crate::upstream::{Authorization, CacheValidators, Registry};
use crate::vetting::{self, Signals};

/// Why a version is refused that can no longer be recorded.
const FULL: &str = "the ledger's record of this package is full, so that nothing is known of this version's past";

/// How many versions a package may have before work on all of them leaves the async threads: below it takes a millisecond or two.
pub(crate) const MANY: usize = 4_000;

/// A token that no registry gave out.
const NOBODYS_TOKEN: &str = "Bearer coldframe-is-asking-again";

/// Whose answers these are: what one client's credentials could read is never another's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum CredentialScope {
    /// Asked without credentials.
    Anonymous,
    /// Asked with the credentials of our own configuration.
    Lent,
    /// Asked with a client's own: SHA-256 of its header.
    Own([u8; 32]),
}

/// A package, as one partition sees it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct CacheKey {
    /// The package.
    pub name: PackageName,
    /// Whose view.
    pub partition: CredentialScope,
}

impl CacheKey {
    /// The slot that answers a request with `authorization` to `registry`.
    #[must_use]
    pub(crate) fn of(name: &PackageName, registry: &Registry, authorization: &Authorization) -> Self {
        let partition = match authorization.toward(registry) {
            Authorization::Lent if registry.has_credentials() => CredentialScope::Lent,
            Authorization::None | Authorization::Lent => CredentialScope::Anonymous,
            Authorization::Own(own) => {
                let digest = Digest::of(Algorithm::Sha256, own.header.as_bytes());
                CredentialScope::Own(digest.as_bytes().try_into().unwrap_or_default())
            }
        };
        Self { name: name.clone(), partition }
    }

    /// What all views share that were made for credentials of the same kind: one history, one stored document, one rendering.
    /// Whether a token may see it is asked upstream for each; what upstream then confirms is the same for all.
    #[must_use]
    pub(crate) fn shared(&self) -> Self {
        let partition = match self.partition {
            CredentialScope::Own(_) => CredentialScope::Own([0; 32]),
            ref kept => kept.clone(),
        };
        Self { name: self.name.clone(), partition }
    }

    /// Whether this is the view of one client's own credentials: its lacks are not the package's.
    #[must_use]
    pub(crate) fn is_own(&self) -> bool {
        matches!(self.partition, CredentialScope::Own(_))
    }

    /// Whether this is the view of a token that no registry gave out.
    #[must_use]
    pub(crate) fn is_strangers(&self) -> bool {
        static DIGEST: LazyLock<Digest> = LazyLock::new(|| Digest::of(Algorithm::Sha256, NOBODYS_TOKEN.as_bytes()));
        matches!(&self.partition, CredentialScope::Own(digest) if digest == DIGEST.as_bytes())
    }

    /// The place of the view of clients' own tokens among the others; `None` where it is this one.
    #[must_use]
    pub(crate) fn place_of_tokens(&self, registry: &Registry) -> Option<usize> {
        self.others(registry).iter().position(Self::is_own)
    }

    /// The other views of the package: each has looks of its own, and all have one history as long as none contradicts another.
    #[must_use]
    pub(crate) fn others(&self, registry: &Registry) -> Vec<Self> {
        let lent = registry.has_credentials().then_some(CredentialScope::Lent);
        let views = [CredentialScope::Anonymous, CredentialScope::Own([0; 32])].into_iter().chain(lent);
        let of_view = |partition| Self { name: self.name.clone(), partition };
        views.map(of_view).filter(|other| *other != self.shared()).collect()
    }

    /// With what this view can be asked when no client asks. Clients' own tokens are asked for with a token that was never issued: where a
    /// registry takes any, so that strangers can add to what tokens saw, it is answered as theirs are; elsewhere it is refused.
    #[must_use]
    pub(crate) fn authorization(&self) -> Authorization {
        match self.partition {
            CredentialScope::Anonymous => Authorization::None,
            CredentialScope::Lent => Authorization::Lent,
            CredentialScope::Own(_) => Authorization::Own(NOBODYS_TOKEN.into()),
        }
    }

    /// The ledger's key for this view of the package. Each view has a record of its own, since a registry may show different packages
    /// under one name; `history` compares them.
    #[must_use]
    pub(crate) fn key(&self, registry: &Registry) -> PackageKey {
        let upstream = match self.partition {
            CredentialScope::Own(_) => format!("{}#own", registry.id()).into(),
            CredentialScope::Anonymous if registry.has_credentials() => format!("{}#anonymous", registry.id()).into(),
            CredentialScope::Anonymous | CredentialScope::Lent => Arc::clone(registry.id()),
        };
        PackageKey { upstream, name: self.name.clone() }
    }
}

/// When a package began: the earliest instant from which one of its versions counts, security placeholders aside. `None` where upstream
/// sends no times at all: then its versions wait as releases do.
#[must_use]
pub(crate) fn born(packument: &Packument, provenance: &[ReleaseHistory]) -> Option<Timestamp> {
    packument.oldest?;
    let real = packument.entries.iter().zip(provenance).filter(|(entry, _)| !entry.key.ends_with("-security"));
    real.map(|(_, provenance)| provenance.began).min()
}

/// Verdicts by profile. Most processes have one, whose verdicts are found without a lock.
#[derive(Default)]
pub(crate) struct VerdictCache {
    first: ArcSwapOption<VerdictTable>,
    further: Mutex<HashMap<Profile, Arc<VerdictTable>>>,
    /// Held while a package of many versions is judged, so that it is judged once.
    pub(crate) turn: Turn,
}

impl VerdictCache {
    /// The verdicts of a profile, if they were made in the world of `revision` and by what is known of the parent package now: those that
    /// were made before it was known do not count after it, however late they were stored.
    fn find(&self, profile: Profile, revision: u64, has_kin: bool) -> Option<Arc<VerdictTable>> {
        let found = if profile == Profile::default() {
            self.first.load_full()
        } else {
            self.further.lock().unwrap_or_else(PoisonError::into_inner).get(&profile).cloned()
        };
        found.filter(|screen| screen.world == revision && screen.has_kin == has_kin)
    }

    fn keep(&self, profile: Profile, screen: &Arc<VerdictTable>) {
        if profile == Profile::default() {
            return self.first.store(Some(Arc::clone(screen)));
        }
        self.further.lock().unwrap_or_else(PoisonError::into_inner).insert(profile, Arc::clone(screen));
    }
}

/// What is known of one package at one moment.
pub(crate) struct PackageSnapshot {
    /// The package, and whose view of it this is.
    pub slot: CacheKey,
    /// Where it comes from.
    pub registry: Arc<Registry>,
    /// The form of the document: what it lacks is not known.
    pub form: PackumentForm,
    /// Whether it is abbreviated though the full form was asked for, as caches send it that ignore `Vary`: what it lacks stays unknown.
    pub has_no_more: bool,
    /// The index; `None` when upstream says there is no such package (any more).
    pub packument: Option<Arc<Packument>>,
    /// One for each entry of the index.
    pub provenance: Arc<[ReleaseHistory]>,
    /// What the ledger holds.
    pub record: Arc<PackageRecord>,
    /// The places of its releases in the order of their versions, sorted when first needed.
    pub by_version: OnceLock<Arc<[u32]>>,
    /// Tarballs of this index that lie in the store, as far as they were looked up.
    pub tarballs: Arc<StoredTarballs>,
    /// SHA-256 of the document as it came over the wire: names the raw blob.
    pub content: [u8; 32],
    /// The document as the ledger has it: when these bytes came, how to ask upstream whether they changed.
    pub document: StoredPackument,
    /// When upstream last confirmed it, by the earlier of the two clocks: verdicts are as of this instant.
    pub validated: Timestamp,
    /// When that was by our clock: freshness counts from here.
    pub checked: Timestamp,
    /// When its package began: the earliest instant from which a version counts that is there now, security placeholders aside.
    pub born: Option<Timestamp>,
    /// How far upstream's clock is behind ours, if that is so far that nothing opens.
    pub behind: Option<SignedDuration>,
    /// Whether it contradicts another view of the package that could not be asked again: compared again when upstream confirms it.
    pub disputed: bool,
    /// The number of the look that made it: the last that was compared with what all views saw; 0 where it was not.
    pub look: u64,
    /// The document as it came, until the store has it.
    pub raw: Arc<Mutex<Option<Bytes>>>,
    /// Verdicts, computed when first needed in a world.
    pub screens: VerdictCache,
    /// Whose parts its versions are, looked up where it matters.
    pub kin: OnceLock<ParentFirstSeen>,
}

impl PackageSnapshot {
    /// The verdicts of the index in `world`, by the policy of `profile`: none when there is no packument.
    #[must_use]
    pub(crate) fn screen(&self, world: &PolicySnapshot, profile: Profile) -> Arc<VerdictTable> {
        let kin = self.kin.get();
        if let Some(screen) = self.screens.find(profile, world.revision, kin.is_some()) {
            return screen;
        }
        self.assert_off_async_threads();
        let screen = Arc::new(VerdictTable::of(self, kin, world, profile));
        self.screens.keep(profile, &screen);
        screen
    }

    /// Whether work on all versions is done off the async threads.
    #[must_use]
    pub(crate) fn has_many_versions(&self) -> bool {
        self.packument.as_ref().is_some_and(|packument| packument.entries.len() > MANY) || self.record.releases.len() > MANY
    }

    /// Whether what needs a pass over all versions was made, or may be made wherever it is needed.
    #[must_use]
    pub(crate) fn is_judged(&self, world: &PolicySnapshot, profile: Profile) -> bool {
        let is_made = || self.screens.find(profile, world.revision, self.kin.get().is_some()).is_some();
        !self.has_many_versions() || (self.by_version.get().is_some() && is_made())
    }

    /// Makes what needs a pass over all versions.
    pub(crate) fn judge(&self, world: &PolicySnapshot, profile: Profile) {
        self.sorted();
        drop(self.screen(world, profile));
    }

    /// Panics in debug builds where work on many versions is about to be done on an async thread.
    pub(crate) fn assert_off_async_threads(&self) {
        if cfg!(debug_assertions) && self.has_many_versions() {
            singleflight::assert_may_block();
        }
    }

    /// What the ledger holds of a version, in the order of `first_seen`.
    pub(crate) fn releases_of<'a>(&'a self, version: &'a str) -> impl Iterator<Item = &'a Release> {
        let (sorted, release) = (self.sorted(), |place: &u32| &self.record.releases[*place as usize]);
        let first = sorted.partition_point(|place| *release(place).version < *version);
        sorted[first..].iter().map(release).take_while(move |release| *release.version == *version)
    }

    fn sorted(&self) -> &[u32] {
        self.by_version.get_or_init(|| {
            self.assert_off_async_threads();
            let releases = &self.record.releases;
            let mut places: Vec<u32> = (0..).take(releases.len()).collect();
            places.sort_by_key(|place| &releases[*place as usize].version);
            places.into()
        })
    }

    /// The same bytes, confirmed again.
    #[must_use]
    pub(crate) fn confirmed(
        &self,
        slot: CacheKey,
        form: PackumentForm,
        validated: Timestamp,
        checked: Timestamp,
        document: StoredPackument,
    ) -> Self {
        Self {
            born: self.born,
            behind: self.behind,
            disputed: self.disputed,
            look: self.look,
            slot,
            form,
            has_no_more: self.has_no_more,
            registry: Arc::clone(&self.registry),
            packument: self.packument.clone(),
            provenance: Arc::clone(&self.provenance),
            record: Arc::clone(&self.record),
            by_version: self.by_version.clone(),
            tarballs: Arc::clone(&self.tarballs),
            content: self.content,
            document,
            validated,
            checked,
            raw: Arc::clone(&self.raw),
            screens: VerdictCache::default(),
            kin: OnceLock::new(),
        }
    }

    /// Each version, and since when it counts.
    pub(crate) fn dated<'a>(
        &'a self,
        packument: &'a Packument,
    ) -> impl Iterator<Item = (&'a str, Option<&'a Version>, Timestamp)> {
        let entries = packument.entries.iter().zip(&*self.provenance);
        entries.map(|(entry, provenance)| (&*entry.key, entry.version.as_ref(), provenance.effective))
    }

    /// What rules ask about the entry at `at`.
    #[must_use]
    pub(crate) fn facts<'a>(
        &'a self,
        packument: &'a Packument,
        at: usize,
        advisories: &'a ApplicableAdvisories<'a>,
    ) -> Facts<'a> {
        self.facts_with(self.kin.get(), packument, at, advisories)
    }

    /// What rules ask about the entry at `at`, by what is known of the parent package.
    #[must_use]
    pub(crate) fn facts_with<'a>(
        &'a self,
        kin: Option<&ParentFirstSeen>,
        packument: &'a Packument,
        at: usize,
        advisories: &'a ApplicableAdvisories<'a>,
    ) -> Facts<'a> {
        let entry = &packument.entries[at];
        let provenance = &self.provenance[at];
        let (fix, hangs_on_publishers) = self.fix(packument, at, advisories);
        let mut facts = Facts {
            kin: kin.and_then(|kin| kin.get(at).copied().flatten()),
            integrity: provenance.digests.as_ref().or(entry.integrity.as_ref()),
            integrity_changed: provenance.integrity_changed,
            born: self.born,
            advisories,
            fix,
            undecided: fix.map_or(Signals::NONE, |_| vetting::undecided(entry, self.baseline(packument, at))),
            unknown: UnknownFacts { fix: hangs_on_publishers, ..self.unknown(entry) },
            ..Facts::of_entry(packument, entry, provenance.effective)
        };
        if provenance.unrecorded && facts.flaw.is_none() {
            facts.flaw = Some(FULL);
        }
        facts
    }

    /// Whether the full form can be rendered from the document. Some registries send it whatever is asked for; what rules ask is still
    /// known only as far as it is there.
    #[must_use]
    pub(crate) fn renders_full(&self) -> bool {
        let is_whole = |packument: &Arc<Packument>| packument.has_more && packument.is_timed();
        self.form == PackumentForm::Full || self.packument.as_ref().is_some_and(is_whole)
    }

    /// What the document does not carry of the entry. The full form carries all that upstream has: what is not in it is absent there.
    fn unknown(&self, entry: &VersionEntry) -> UnknownFacts {
        if self.form == PackumentForm::Full {
            return UnknownFacts::NONE;
        }
        UnknownFacts {
            publisher: entry.publisher.is_none(),
            maintainers: entry.maintainers.is_none(),
            // What other versions state says nothing of this one: their publisher may have written it.
            install_script: !entry.traits.install_script && !entry.outline.has_scripts,
            fix: false,
        }
    }

    /// The versions that are so much older than the entry at `at` that an attacker cannot have made both.
    fn baseline<'a>(&'a self, packument: &'a Packument, at: usize) -> impl Iterator<Item = &'a VersionEntry> {
        let until = timestamp::before(self.provenance[at].effective, vetting::BASELINE_AGE);
        let old = packument.entries.iter().zip(&*self.provenance).filter(move |(_, provenance)| provenance.effective <= until);
        old.map(|(entry, _)| entry)
    }

    /// The reviewed advisory that names the entry as the fix of a vulnerability, if its publisher published the package before; and
    /// whether that hangs on publishers that the document does not carry.
    fn fix<'a>(&self, packument: &Packument, at: usize, advisories: &'a ApplicableAdvisories<'a>) -> (Option<&'a str>, bool) {
        let entry = &packument.entries[at];
        let reviewed = |advisory: &Advisory<'_>| advisory.kind == AdvisoryKind::Vulnerability && advisory.reviewed;
        let advisory = entry.version.as_ref().and_then(|version| advisories.fixed_in(version).find(reviewed));
        let Some(advisory) = advisory else { return (None, false) };
        let may_lack = self.form == PackumentForm::Abbreviated;
        let Some(publisher) = entry.publisher.as_deref() else { return (None, may_lack) };
        let mut lacks = false;
        let known = self.baseline(packument, at).any(|other| {
            lacks |= other.publisher.is_none();
            other.publisher.as_deref() == Some(publisher)
        });
        (known.then_some(advisory.id), !known && lacks && may_lack)
    }

    /// The document as it came, if the store does not have it yet.
    #[must_use]
    pub(crate) fn unstored(&self) -> Option<Bytes> {
        self.raw.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How to ask upstream whether it changed.
    #[must_use]
    pub(crate) fn validators(&self) -> CacheValidators {
        if self.packument.is_none() {
            return CacheValidators::default();
        }
        CacheValidators { etag: self.document.etag.clone(), last_modified: self.document.last_modified.clone() }
    }

    /// The digest the raw document is stored under.
    ///
    /// # Panics
    /// Never: the length is SHA-256's.
    #[must_use]
    pub(crate) fn digest(&self) -> Option<Digest> {
        Digest::from_bytes(Algorithm::Sha256, &self.content)
    }

    /// The bytes this takes in memory, about.
    #[must_use]
    pub(crate) fn weight(&self) -> u32 {
        let packument = self.packument.as_ref().map_or(0, |packument| packument.weight() + packument.entries.len() * 32);
        let record = self.record.releases.len() * 360 + self.record.tags.len() * 96;
        u32::try_from(packument + record + 512).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_made_before_the_parent_package_was_known_do_not_count_after_it() {
        let screen = |has_kin| Arc::new(VerdictTable::empty(1, has_kin));
        for profile in [Profile::default(), Profile(1)] {
            let screens = VerdictCache::default();
            screens.keep(profile, &screen(true));
            // A slower thread that began before the parent was found.
            screens.keep(profile, &screen(false));
            assert!(screens.find(profile, 1, true).is_none() && screens.find(profile, 2, false).is_none());
            screens.keep(profile, &screen(true));
            assert!(screens.find(profile, 1, true).is_some());
        }
    }
}
