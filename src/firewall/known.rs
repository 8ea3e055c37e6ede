//! What is known of one package at one moment: its index, its record, and when upstream last confirmed it. Never changed,
//! only replaced whole. Refuses to fetch.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use jiff::Timestamp;

use super::history::{Provenance, Standing};
use super::screen::Screen;
use super::world::World;
use crate::npm::{Algorithm, Digest, PackageName, Packument};
use crate::policy::{Facts, Presence};
use crate::store::PackageRecord;
use crate::upstream::{Authorization, Registry, Validators};

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
        let partition = match authorization {
            Authorization::Lent if registry.has_credentials() => Partition::Lent,
            Authorization::None | Authorization::Lent => Partition::Anonymous,
            Authorization::Own(header) => {
                let digest = Digest::of(Algorithm::Sha256, header.as_bytes());
                Partition::Own(digest.as_bytes().try_into().unwrap_or_default())
            }
        };
        Self { name: name.clone(), partition }
    }

    /// Whether this view speaks for the package: the one asked with our own credentials where there are any.
    #[must_use]
    pub(super) fn standing(&self, registry: &Registry) -> Standing {
        let primary = if registry.has_credentials() { Partition::Lent } else { Partition::Anonymous };
        if self.partition == primary { Standing::Primary } else { Standing::Private }
    }
}

/// What is known of one package at one moment.
pub(super) struct Known {
    /// The package, and whose view of it this is.
    pub slot: Slot,
    /// Where it comes from.
    pub registry: Arc<Registry>,
    /// The index; `None` when upstream says there is no such package (any more).
    pub packument: Option<Arc<Packument>>,
    /// One for each entry of the index.
    pub provenance: Arc<[Provenance]>,
    /// What the ledger holds.
    pub record: Arc<PackageRecord>,
    /// SHA-256 of the document as it came over the wire: names the raw blob.
    pub content: [u8; 32],
    /// How to ask upstream whether it changed.
    pub validators: Validators,
    /// When upstream last confirmed it, by the earlier of the two clocks: verdicts are as of this instant.
    pub validated: Timestamp,
    /// When that was by our clock: freshness counts from here.
    pub checked: Timestamp,
    /// The document as it came, until the store has it.
    pub raw: Arc<Mutex<Option<Bytes>>>,
    /// Verdicts, computed when first needed in a world.
    pub screen: ArcSwapOption<Screen>,
}

impl Known {
    /// The verdicts of the index in `world`: none when there is no packument.
    #[must_use]
    pub(super) fn screen(&self, world: &World) -> Arc<Screen> {
        if let Some(screen) = self.screen.load_full().filter(|screen| screen.world == world.revision) {
            return screen;
        }
        let screen = Arc::new(Screen::of(self, world));
        self.screen.store(Some(Arc::clone(&screen)));
        screen
    }

    /// The same bytes, confirmed again.
    #[must_use]
    pub(super) fn confirmed(
        &self,
        validated: Timestamp,
        checked: Timestamp,
        record: Arc<PackageRecord>,
        validators: Validators,
    ) -> Self {
        Self {
            slot: self.slot.clone(),
            registry: Arc::clone(&self.registry),
            packument: self.packument.clone(),
            provenance: Arc::clone(&self.provenance),
            record,
            content: self.content,
            validators,
            validated,
            checked,
            raw: Arc::clone(&self.raw),
            screen: ArcSwapOption::empty(),
        }
    }

    /// What rules ask about the entry at `at`.
    #[must_use]
    pub(super) fn facts<'a>(&'a self, packument: &'a Packument, at: usize) -> Facts<'a> {
        let entry = &packument.entries[at];
        let provenance = self.provenance[at];
        Facts {
            name: &self.slot.name,
            version: &entry.key,
            published: entry.published,
            effective: provenance.effective,
            flaw: entry.flaw.as_deref(),
            has_integrity: entry.integrity.is_some(),
            integrity_changed: provenance.integrity_changed,
            presence: Presence::Present,
        }
    }

    /// The document as it came, if the store does not have it yet.
    #[must_use]
    pub(super) fn unstored(&self) -> Option<Bytes> {
        self.raw.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
