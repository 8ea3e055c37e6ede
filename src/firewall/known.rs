//! What is known of one package at one moment: its index, its record, and when upstream last confirmed it. Never changed,
//! only replaced whole. Refuses to fetch.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use jiff::Timestamp;

use super::history::Provenance;
use super::kin::Kin;
use super::screen::Screen;
use super::stored::StoredTarballs;
use super::world::{Profile, World};
use crate::npm::packument::Entry;
use crate::npm::{Algorithm, Digest, Form, PackageName, Packument, Version, instant};
use crate::policy::advisory::Kind;
use crate::policy::{Advisory, Applicable, Facts, UnknownFacts};
use crate::store::{Document, PackageKey, PackageRecord};
use crate::upstream::{Authorization, Registry, Validators};
use crate::vet::{self, Signals};

/// Whose answers these are: what one client's credentials could read is never another's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Partition {
    /// Asked without credentials.
    Anonymous,
    /// Asked with the credentials of our own configuration.
    Lent,
    /// Asked with a client's own: SHA-256 of its header.
    Own([u8; 32]),
}

/// A package, as one partition sees it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Slot {
    /// The package.
    pub name: PackageName,
    /// Whose view.
    pub partition: Partition,
}

impl Slot {
    /// The slot that answers a request with `authorization` to `registry`.
    #[must_use]
    pub(super) fn of(name: &PackageName, registry: &Registry, authorization: &Authorization) -> Self {
        let partition = match authorization.toward(registry) {
            Authorization::Lent if registry.has_credentials() => Partition::Lent,
            Authorization::None | Authorization::Lent => Partition::Anonymous,
            Authorization::Own(own) => {
                let digest = Digest::of(Algorithm::Sha256, own.header.as_bytes());
                Partition::Own(digest.as_bytes().try_into().unwrap_or_default())
            }
        };
        Self { name: name.clone(), partition }
    }

    /// What all views share that were made for credentials of the same kind: one history, one stored document, one rendering.
    /// Whether a token may see it is asked upstream for each; what upstream then confirms is the same for all.
    #[must_use]
    pub(super) fn shared(&self) -> Self {
        let partition = match self.partition {
            Partition::Own(_) => Partition::Own([0; 32]),
            ref kept => kept.clone(),
        };
        Self { name: self.name.clone(), partition }
    }

    /// Whether this is the view of one client's own credentials: its lacks are not the package's.
    #[must_use]
    pub(super) fn is_own(&self) -> bool {
        matches!(self.partition, Partition::Own(_))
    }

    /// What the ledger files the package under. What is seen with credentials and without are two histories: a registry may
    /// show the two different packages under one name.
    #[must_use]
    pub(super) fn key(&self, registry: &Registry) -> PackageKey {
        let upstream = match self.partition {
            Partition::Own(_) => format!("{}#own", registry.id()).into(),
            Partition::Anonymous if registry.has_credentials() => format!("{}#anonymous", registry.id()).into(),
            Partition::Anonymous | Partition::Lent => Arc::clone(registry.id()),
        };
        PackageKey { upstream, name: self.name.clone() }
    }
}

/// Verdicts by profile. Most processes have one, whose verdicts are found without a lock.
#[derive(Default)]
pub(super) struct Screens {
    first: ArcSwapOption<Screen>,
    further: Mutex<HashMap<Profile, Arc<Screen>>>,
}

impl Screens {
    fn of(&self, profile: Profile) -> Option<Arc<Screen>> {
        if profile == Profile::default() {
            return self.first.load_full();
        }
        self.further.lock().unwrap_or_else(PoisonError::into_inner).get(&profile).cloned()
    }

    /// Forgets all of them: what they were made of has changed.
    pub(super) fn forget(&self) {
        self.first.store(None);
        self.further.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn keep(&self, profile: Profile, screen: &Arc<Screen>) {
        if profile == Profile::default() {
            return self.first.store(Some(Arc::clone(screen)));
        }
        self.further.lock().unwrap_or_else(PoisonError::into_inner).insert(profile, Arc::clone(screen));
    }
}

/// What is known of one package at one moment.
pub(super) struct Known {
    /// The package, and whose view of it this is.
    pub slot: Slot,
    /// Where it comes from.
    pub registry: Arc<Registry>,
    /// The form that upstream was asked for: what the document lacks is not known.
    pub form: Form,
    /// The index; `None` when upstream says there is no such package (any more).
    pub packument: Option<Arc<Packument>>,
    /// One for each entry of the index.
    pub provenance: Arc<[Provenance]>,
    /// What the ledger holds.
    pub record: Arc<PackageRecord>,
    /// Tarballs of this index that lie in the store, as far as they were looked up.
    pub tarballs: Arc<StoredTarballs>,
    /// SHA-256 of the document as it came over the wire: names the raw blob.
    pub content: [u8; 32],
    /// The document as the ledger has it: when these bytes came, how to ask upstream whether they changed.
    pub document: Document,
    /// When upstream last confirmed it, by the earlier of the two clocks: verdicts are as of this instant.
    pub validated: Timestamp,
    /// When that was by our clock: freshness counts from here.
    pub checked: Timestamp,
    /// The document as it came, until the store has it.
    pub raw: Arc<Mutex<Option<Bytes>>>,
    /// Verdicts, computed when first needed in a world.
    pub screens: Screens,
    /// Whose parts its versions are, looked up where it matters.
    pub kin: OnceLock<Kin>,
}

impl Known {
    /// The verdicts of the index in `world`, by the policy of `profile`: none when there is no packument.
    #[must_use]
    pub(super) fn screen(&self, world: &World, profile: Profile) -> Arc<Screen> {
        if let Some(screen) = self.screens.of(profile).filter(|screen| screen.world == world.revision) {
            return screen;
        }
        let screen = Arc::new(Screen::of(self, world, profile));
        self.screens.keep(profile, &screen);
        screen
    }

    /// The same bytes, confirmed again.
    #[must_use]
    pub(super) fn confirmed(&self, slot: Slot, form: Form, validated: Timestamp, checked: Timestamp, document: Document) -> Self {
        Self {
            slot,
            form,
            registry: Arc::clone(&self.registry),
            packument: self.packument.clone(),
            provenance: Arc::clone(&self.provenance),
            record: Arc::clone(&self.record),
            tarballs: Arc::clone(&self.tarballs),
            content: self.content,
            document,
            validated,
            checked,
            raw: Arc::clone(&self.raw),
            screens: Screens::default(),
            kin: OnceLock::new(),
        }
    }

    /// Each version, and since when it counts.
    pub(super) fn dated<'a>(
        &'a self,
        packument: &'a Packument,
    ) -> impl Iterator<Item = (&'a str, Option<&'a Version>, Timestamp)> {
        let entries = packument.entries.iter().zip(&*self.provenance);
        entries.map(|(entry, provenance)| (&*entry.key, entry.version.as_ref(), provenance.effective))
    }

    /// What rules ask about the entry at `at`.
    #[must_use]
    pub(super) fn facts<'a>(&'a self, packument: &'a Packument, at: usize, advisories: &'a Applicable<'a>) -> Facts<'a> {
        let entry = &packument.entries[at];
        let provenance = &self.provenance[at];
        let (fix, hangs_on_publishers) = self.fix(packument, at, advisories);
        Facts {
            kin: self.kin.get().and_then(|kin| kin.get(at).copied().flatten()),
            integrity: provenance.digests.as_ref().or(entry.integrity.as_ref()),
            integrity_changed: provenance.integrity_changed,
            advisories,
            fix,
            undecided: fix.map_or(Signals::NONE, |_| vet::undecided(entry, self.baseline(packument, at))),
            unknown: UnknownFacts { fix: hangs_on_publishers, ..self.unknown(packument, entry) },
            ..Facts::of_entry(packument, entry, provenance.effective)
        }
    }

    /// Whether the full form can be rendered from the document. Some registries send it whatever is asked for; what rules ask is still
    /// known only as far as it is there.
    #[must_use]
    pub(super) fn renders_full(&self) -> bool {
        let is_whole = |packument: &Arc<Packument>| packument.has_more && packument.is_timed();
        self.form == Form::Full || self.packument.as_ref().is_some_and(is_whole)
    }

    /// What the document does not carry of the entry. The full form carries all that upstream has: what is not in it is absent there.
    fn unknown(&self, packument: &Packument, entry: &Entry) -> UnknownFacts {
        if self.form == Form::Full {
            return UnknownFacts::NONE;
        }
        UnknownFacts {
            publisher: entry.publisher.is_none(),
            maintainers: entry.maintainers.is_none(),
            // Where other versions say that they run one, this one says that it does not.
            install_script: !packument.has_scripts,
            fix: false,
        }
    }

    /// The versions that are so much older than the entry at `at` that an attacker cannot have made both.
    fn baseline<'a>(&'a self, packument: &'a Packument, at: usize) -> impl Iterator<Item = &'a Entry> {
        let until = instant::before(self.provenance[at].effective, vet::BASELINE_AGE);
        let old = packument.entries.iter().zip(&*self.provenance).filter(move |(_, provenance)| provenance.effective <= until);
        old.map(|(entry, _)| entry)
    }

    /// The reviewed advisory that names the entry as the fix of a vulnerability, if its publisher published the package before; and
    /// whether that hangs on publishers that the document does not carry.
    fn fix<'a>(&self, packument: &Packument, at: usize, advisories: &'a Applicable<'a>) -> (Option<&'a str>, bool) {
        let entry = &packument.entries[at];
        let reviewed = |advisory: &Advisory<'_>| advisory.kind == Kind::Vulnerability && advisory.reviewed;
        let advisory = entry.version.as_ref().and_then(|version| advisories.fixed_in(version).find(reviewed));
        let Some(advisory) = advisory else { return (None, false) };
        let may_lack = self.form == Form::Abbreviated;
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
    pub(super) fn unstored(&self) -> Option<Bytes> {
        self.raw.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How to ask upstream whether it changed.
    #[must_use]
    pub(super) fn validators(&self) -> Validators {
        if self.packument.is_none() {
            return Validators::default();
        }
        Validators { etag: self.document.etag.clone(), last_modified: self.document.last_modified.clone() }
    }

    /// The digest the raw document is stored under.
    ///
    /// # Panics
    /// Never: the length is SHA-256's.
    #[must_use]
    pub(super) fn digest(&self) -> Option<Digest> {
        Digest::from_bytes(Algorithm::Sha256, &self.content)
    }

    /// The bytes this takes in memory, about.
    #[must_use]
    pub(super) fn weight(&self) -> u32 {
        let packument = self.packument.as_ref().map_or(0, |packument| packument.weight() + packument.entries.len() * 32);
        let record = self.record.releases.len() * 280 + self.record.tags.len() * 96;
        u32::try_from(packument + record + 512).unwrap_or(u32::MAX)
    }
}
