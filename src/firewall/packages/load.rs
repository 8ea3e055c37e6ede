//! Loads what memory or the store has of a package before upstream is asked. Callers decide whether it is sufficient.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use jiff::Timestamp;

use crate::firewall::Components;
use crate::firewall::error::FirewallError;
use crate::firewall::package::history::{self, Look, OtherToken, Parted, Reconciliation};
use crate::firewall::package::{self, CacheKey, PackageSnapshot, VerdictCache};
use crate::firewall::packages::fetch::FetchRequest;
use crate::npm::packument::parse;
use crate::npm::{Algorithm, Digest, Packument, PackumentForm, ParsedPackument};
use crate::store::PackageRecord;
use crate::upstream::Registry;

/// Marks a snapshot that was fetched with other credentials. Upstream must confirm it for these before it is used.
pub(crate) const NEVER_CHECKED: Timestamp = Timestamp::MIN;

/// The state of a package before a fetch.
#[derive(Clone, Default)]
pub(crate) struct PreviousState {
    pub(crate) record: Arc<PackageRecord>,
    pub(crate) known: Option<Arc<PackageSnapshot>>,
    /// The key of the client's own token that was shown the previous document.
    pub(crate) token: Option<CacheKey>,
}

impl PreviousState {
    /// Returns the latest instant at which the package is known to be current upstream.
    pub(crate) fn last_validated(&self) -> Option<Timestamp> {
        let recorded = self.record.document.as_ref().filter(|document| document.content.is_some());
        self.known.as_ref().map(|known| known.validated).or(recorded.map(|document| document.validated))
    }

    /// Returns whether the previous document was shown to a different client's token, with what this token was shown last, as far
    /// as cached.
    pub(crate) fn other_token(&self, slot: &CacheKey) -> Option<OtherToken<'_>> {
        let differs = self.token.as_ref().is_some_and(|before| slot.is_client_scoped() && before != slot);
        let shown =
            self.known.as_ref().filter(|known| known.checked != NEVER_CHECKED).and_then(|known| known.packument.as_deref());
        differs.then_some(OtherToken { shown })
    }
}

impl Components {
    /// Loads the previous state from memory or the store. After a restart this serves packages without asking upstream.
    pub(crate) async fn load_previous(self: &Arc<Self>, request: &FetchRequest) -> Result<PreviousState, FirewallError> {
        let last = self.documents.get(&request.slot.shared()).filter(|_| request.slot.is_client_scoped());
        let token = last.as_ref().map(|known| known.slot.clone());
        if let Some(known) = self.documents.get(&request.slot) {
            let record = last.map_or_else(|| Arc::clone(&known.record), |last| Arc::clone(&last.record));
            return Ok(PreviousState { record, known: Some(known), token });
        }
        // A snapshot of other credentials, to be confirmed for these.
        if let Some(known) = last {
            let known =
                known.revalidated(request.slot.clone(), known.form, known.validated, NEVER_CHECKED, known.document.clone());
            return Ok(PreviousState { record: Arc::clone(&known.record), known: Some(Arc::new(known)), token });
        }
        let (inner, slot, registry) = (Arc::clone(self), request.slot.clone(), Arc::clone(&request.registry));
        let recall = move || inner.read_record(&slot, &registry).map(|record| (inner, slot, registry, record));
        let (inner, slot, registry, record) = self.blocking(recall).await??;
        let Some(document) = record.document.as_ref().filter(|document| document.content.is_some()) else {
            return Ok(PreviousState { record, known: None, token });
        };
        let share = self.reserve_for(document).await?;
        let digest = document.content.and_then(|content| Digest::from_bytes(Algorithm::Sha256, &content));
        let raw = match digest {
            Some(digest) => self.blobs.open(&digest).await.ok().flatten(),
            None => None,
        };
        let recall = move || {
            let known = raw.and_then(|raw| inner.read_document(&slot, &registry, &record, raw));
            drop(share);
            PreviousState { record, known, token }
        };
        self.blocking(recall).await
    }

    /// Fails if the ledger cannot be read. Treating it as empty could serve a version that must be refused.
    pub(crate) fn read_record(&self, slot: &CacheKey, registry: &Arc<Registry>) -> Result<Arc<PackageRecord>, FirewallError> {
        let record = self.ledger.package(&slot.key(registry)).map_err(|error| {
            tracing::error!(package.name = %slot.name, error = &error as &dyn std::error::Error, "ledger read failed");
            FirewallError::Internal("cannot read the ledger".into())
        })?;
        Ok(Arc::new(record))
    }

    /// Reads the ledger's records of the other views. Blocks.
    pub(crate) fn other_records(&self, slot: &CacheKey, registry: &Arc<Registry>) -> Result<Vec<PackageRecord>, FirewallError> {
        let read = |other: CacheKey| self.read_record(&other, registry).map(Arc::unwrap_or_clone);
        slot.others(registry).into_iter().map(read).collect()
    }

    fn read_document(
        &self,
        slot: &CacheKey,
        registry: &Arc<Registry>,
        record: &Arc<PackageRecord>,
        raw: Bytes,
    ) -> Option<Arc<PackageSnapshot>> {
        let document = record.document.as_ref()?;
        let content = document.content?;
        let plain = self.decode(&slot.name, raw).ok()?;
        let ParsedPackument { packument, fields } = parse::parse(&slot.name, &plain).ok()?;
        let form = document.form.unwrap_or_else(|| form_of_unnoted(&packument));
        // Treated as unknown, so that the full form is requested without validators: a 304 would confirm a document without
        // publish times.
        if form == PackumentForm::Abbreviated && !packument.is_timed() {
            return None;
        }
        let others = self.other_records(slot, registry).ok()?;
        let look = Look {
            packument: &packument,
            form,
            at: document.looked,
            mode: registry.time_mode(),
            longest_age: self.policy_snapshot().longest_age(),
            diverged: &Parted::default(),
            other_token: None,
            tokens: slot.place_of_tokens(registry),
            stranger: slot.is_strangers(),
        };
        let Reconciliation { provenance, contradictions, .. } =
            history::reconcile(record, &others.iter().collect::<Vec<_>>(), &look);
        let known = Arc::new(PackageSnapshot {
            form,
            has_no_more: false,
            slot: slot.clone(),
            registry: Arc::clone(registry),
            first_published: package::first_published(&packument, &provenance),
            behind: None,
            disputed: !contradictions.is_empty(),
            look: 0,
            packument: Some(Arc::new(packument)),
            provenance: provenance.into(),
            record: Arc::clone(record),
            by_version: OnceLock::new(),
            tarballs: Arc::default(),
            content,
            document: document.clone(),
            validated: document.validated,
            checked: if slot.is_client_scoped() { NEVER_CHECKED } else { document.looked },
            raw: Arc::default(),
            screens: VerdictCache::default(),
            parent: OnceLock::new(),
        });
        self.note_wants(&known, &plain, &fields, "latest");
        Some(known)
    }
}

/// Guesses the form of a document whose form was not recorded: full if every version has fields that only the full form has. At
/// worst the full form is fetched again.
fn form_of_unnoted(packument: &Packument) -> PackumentForm {
    let carries_people = packument.entries.iter().all(|entry| entry.publisher.is_some() || entry.maintainers.is_some());
    if carries_people && !packument.entries.is_empty() { PackumentForm::Full } else { PackumentForm::Abbreviated }
}
