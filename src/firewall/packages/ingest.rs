//! Ingests a fetched document: decodes and parses it, compares it with the record, and stores it. Also loads stored documents.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};

use crate::firewall::Components;
use crate::firewall::error::FirewallError;
use crate::firewall::package::history::{self, Look, Parted, Reconciliation};
use crate::firewall::package::{self, CacheKey, PackageSnapshot, VerdictCache};
use crate::firewall::packages::fetch::{FetchRequest, PackageLookup};
use crate::firewall::packages::load::PreviousState;
use crate::firewall::packages::parse_pool::ParseScratch;
use crate::net::{BodyError, body};
use crate::net::{FairPermit, Reservation};
use crate::npm::compression::SegmentEncoder;
use crate::npm::compression::gzip;
use crate::npm::packument::parse;
use crate::npm::{Algorithm, Digest, Hasher, Integrity, PackageName, Packument, PackumentError, PackumentForm, ParsedPackument};
use crate::store::{BlobKind, PackageRecord, StoredPackument};
use crate::upstream::CacheValidators;

/// No other view was fetched again.
static NONE_ASKED: LazyLock<Parted> = LazyLock::new(Parted::new);

/// A document that was just fetched.
pub(crate) struct FetchedDocument {
    /// The form of the document: as requested, or as stated by the response.
    pub form: PackumentForm,
    /// Whether the full form was requested but the abbreviated one arrived.
    pub has_no_more: bool,
    pub body: Bytes,
    pub validators: CacheValidators,
    pub validated: Timestamp,
    pub checked: Timestamp,
    /// How far upstream's clock is behind, if it is so far that no version opens.
    pub behind: Option<SignedDuration>,
    /// Whether it may be recorded. Not while the system clock is in doubt.
    pub recorded: bool,
    pub place: FetchPermit,
}

/// The outcome of ingesting a document.
pub(crate) enum Ingested {
    /// The document was accepted.
    Done(PackageLookup),
    /// An abbreviated document without publish times; nothing was stored.
    NeedsFullForm,
    /// The document contradicts another view of the package, which must be fetched again; nothing was stored.
    Contradicts(Contradictions),
}

/// Versions that contradict other views, with their integrity and the contradicted view.
pub(crate) type Contradictions = Vec<(Box<str>, Option<Integrity>, CacheKey)>;

/// The records of all views of a package.
struct Histories {
    own: Arc<PackageRecord>,
    others: Vec<PackageRecord>,
    /// The views of `others`, followed by the fetched view.
    views: Vec<CacheKey>,
}

/// The resources of a fetch, held until the document is stored, so that a slow disk slows fetching instead of filling memory.
pub(crate) struct FetchPermit {
    /// The reserved memory.
    pub share: Reservation,
    /// The fetch slot.
    _permit: FairPermit,
}

impl FetchPermit {
    /// Creates a permit whose memory reservation grows later.
    #[must_use]
    pub(crate) fn of(permit: FairPermit, share: Reservation) -> Self {
        Self { share, _permit: permit }
    }
}

/// A decoded document with its memory reservation and its load permit.
struct BudgetedBytes {
    plain: Bytes,
    _share: Reservation,
    _permit: Arc<FairPermit>,
}

impl AsRef<[u8]> for BudgetedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.plain
    }
}

impl Components {
    /// Ingests a document, compares it with the record, and stores what changed.
    pub(crate) async fn ingest(
        self: Arc<Self>,
        request: FetchRequest,
        mut arrival: FetchedDocument,
        before: PreviousState,
    ) -> Result<Ingested, FirewallError> {
        // Reserved before taking a parse permit: holders of one never wait for memory.
        arrival.place.share.grow_to(memory_cost(&arrival.body, body::gzip_length_hint(&arrival.body))).await?;
        let _turn = self.precedence.turn(request.ahead.as_ref()).await;
        let _permit = self.readers.acquire(request.client).await;
        let inner = Arc::clone(&self);
        self.blocking(move || inner.parse_document(&request, arrival, &before)).await?
    }

    fn parse_document(
        self: &Arc<Self>,
        request: &FetchRequest,
        mut arrival: FetchedDocument,
        before: &PreviousState,
    ) -> Result<Ingested, FirewallError> {
        let CacheKey { name, .. } = &request.slot;
        let read = self.scratch_pool.with_scratch(|scratch| {
            let ParseScratch { press, plain } = scratch;
            let (plain, _guard) = self.decode_into(name, &arrival.body, plain)?;
            arrival.place.share.force_grow_to(memory_cost(&arrival.body, plain.len()));
            self.read_plain(request, &arrival, before, plain, press)
        });
        let known = match read? {
            Ok(known) => known,
            Err(unused) => return Ok(unused),
        };
        self.store_document(&known, arrival.body, arrival.place);
        Ok(Ingested::Done(PackageLookup { known, stale: None }))
    }

    fn read_plain(
        self: &Arc<Self>,
        request: &FetchRequest,
        arrival: &FetchedDocument,
        before: &PreviousState,
        plain: &[u8],
        press: &mut SegmentEncoder,
    ) -> Result<Result<Arc<PackageSnapshot>, Ingested>, FirewallError> {
        let CacheKey { name, .. } = &request.slot;
        let ParsedPackument { packument, fields } = parse::parse(name, plain).map_err(|error| unreadable(name, &error))?;
        let form = arrival.form;
        if form == PackumentForm::Abbreviated && !arrival.has_no_more && !self.forms.learn(request.registry.id(), &packument) {
            return Ok(Err(Ingested::NeedsFullForm));
        }
        self.record_subpackages(&packument);
        self.addresses.note(&request.slot, &packument);
        // Observations of one package are serialized, so that each sees the changes of the previous one, even from another view.
        let _turn = self.histories.lock(name);
        let histories = self.read_histories(request, before)?;
        let record = &histories.own;
        let is_recorded = arrival.recorded && self.is_look(request, record, &packument, arrival.checked)?;
        let look = Look {
            packument: &packument,
            form,
            at: arrival.checked,
            mode: request.registry.time_mode(),
            longest_age: self.policy_snapshot().longest_age(),
            diverged: request.asked.as_deref().unwrap_or(&NONE_ASKED),
            other_token: before.other_token(&request.slot),
            tokens: request.slot.place_of_tokens(&request.registry),
            stranger: request.slot.is_strangers(),
        };
        let reconciled = history::reconcile(record, &histories.others.iter().collect::<Vec<_>>(), &look);
        let contradictions = self.to_be_asked(request, &histories, &packument, &reconciled.contradictions, arrival.checked);
        if is_recorded && !contradictions.is_empty() {
            return Ok(Err(Ingested::Contradicts(contradictions)));
        }
        let disputed = !reconciled.contradictions.is_empty();
        let Reconciliation { provenance, mut change, findings, .. } = reconciled;
        let last = record.document.as_ref();
        let modified = packument.modified.map(|modified| modified.min(arrival.checked));
        let content = sha256(&arrival.body);
        let document = StoredPackument {
            first_seen: last.map_or(arrival.checked, |last| last.first_seen),
            validated: arrival.validated,
            changed: arrival.validated,
            looked: arrival.checked,
            modified: last.and_then(|last| last.modified).max(modified),
            content: Some(content),
            length: packument.length,
            etag: arrival.validators.etag.clone(),
            last_modified: arrival.validators.last_modified.clone(),
            form: Some(form),
        };
        change.document = Some(document.clone());
        let mut record = PackageRecord::clone(record);
        if is_recorded {
            record.apply(&change);
            self.write(&request.key(), &change);
            self.history_events(name, request.slot.is_client_scoped(), &findings);
        }
        let look = if is_recorded { self.histories.note_look(name) } else { 0 };
        if form == PackumentForm::Full || packument.contents.has_more {
            self.missing_metadata(&request.registry, &packument);
        }
        let known = Arc::new(PackageSnapshot {
            form,
            has_no_more: arrival.has_no_more,
            slot: request.slot.clone(),
            registry: Arc::clone(&request.registry),
            first_published: package::first_published(&packument, &provenance),
            behind: arrival.behind,
            disputed,
            look,
            packument: Some(Arc::new(packument)),
            provenance: provenance.into(),
            record: Arc::new(record),
            by_version: OnceLock::new(),
            tarballs: Arc::default(),
            content,
            document,
            validated: arrival.validated,
            checked: arrival.checked,
            // Set before the snapshot is visible, so that a request for the other form does not fetch it again.
            raw: Arc::new(Mutex::new(Some(arrival.body.clone()))),
            screens: VerdictCache::default(),
            parent: OnceLock::new(),
        });
        self.send_dependency_hints(request, &known, plain, &fields);
        self.absent.invalidate(&request.slot);
        self.unreachable.invalidate(&request.slot);
        if let Some(render_request) = &request.render_request {
            self.render(&known, plain, Some(&fields), render_request, press);
        }
        // Evaluated here, off the async threads: a package may have thousands of versions.
        known.judge(&self.policy_snapshot(), request.profile);
        self.remember(&known);
        Ok(Ok(known))
    }

    /// Reads the records of all views from the ledger, or from memory if the ledger missed the last change. Blocks.
    fn read_histories(&self, request: &FetchRequest, before: &PreviousState) -> Result<Histories, FirewallError> {
        let FetchRequest { slot, registry, .. } = request;
        let own = self.read_newest_record(request, before)?;
        let views = slot.others(registry).into_iter().chain([slot.shared()]).collect();
        Ok(Histories { own, views, others: self.other_records(slot, registry)? })
    }

    /// Reads the record of a view from the ledger, or from memory if the ledger missed the last change. Blocks.
    pub(crate) fn read_newest_record(
        &self,
        request: &FetchRequest,
        before: &PreviousState,
    ) -> Result<Arc<PackageRecord>, FirewallError> {
        let record = self.read_record(&request.slot, &request.registry)?;
        let looked = |record: &PackageRecord| record.document.as_ref().map(|document| document.looked);
        if looked(&before.record) <= looked(&record) {
            return Ok(record);
        }
        let mut newer = PackageRecord::clone(&before.record);
        newer.learn_from(&record);
        Ok(Arc::new(newer))
    }

    /// Checks whether a document is an observation to record. A document without versions is not, and neither is an older copy
    /// from a cache or another node of a mirror.
    ///
    /// # Errors
    /// Returns an error if it is not, and something newer is known.
    fn is_look(
        &self,
        request: &FetchRequest,
        record: &PackageRecord,
        packument: &Packument,
        now: Timestamp,
    ) -> Result<bool, FirewallError> {
        let name = &request.slot.name;
        let not_believed = |detail: &str| FirewallError::Unreadable { name: name.clone(), detail: detail.into() };
        let was_seen = !record.releases.is_empty();
        if !packument.entries.iter().any(|entry| entry.version.is_some() && entry.inconsistency.is_none()) {
            return if was_seen { Err(not_believed("no valid version in it, but there were some before")) } else { Ok(false) };
        }
        // Tokens may be shown different documents, so each is compared with its own.
        let newest = if request.slot.is_client_scoped() {
            self.documents.get(&request.slot).and_then(|known| known.document.modified)
        } else {
            record.document.as_ref().and_then(|document| document.modified)
        };
        let (Some(newest), Some(modified)) = (newest, packument.modified) else { return Ok(true) };
        // In whole seconds: the two forms may differ in precision.
        if modified.min(now).as_second() >= newest.as_second() {
            return Ok(true);
        }
        // An older copy has no unknown version.
        let seen: HashSet<&str> = record.releases.iter().map(|release| &*release.version).collect();
        if packument.entries.iter().any(|entry| !seen.contains(&*entry.key)) {
            return Ok(true);
        }
        Err(not_believed("older than the copy seen before"))
    }

    /// Returns the contradictions for which views are fetched again: only if all views involved can be, and were not fetched
    /// recently.
    fn to_be_asked(
        &self,
        request: &FetchRequest,
        histories: &Histories,
        packument: &Packument,
        contradictions: &[(Box<str>, usize)],
        now: Timestamp,
    ) -> Contradictions {
        if request.asked.is_some() || contradictions.is_empty() {
            return Vec::new();
        }
        let may_ask: Vec<bool> = histories.views.iter().map(|view| self.may_ask_again(view, now)).collect();
        // If one view cannot be fetched, fetching the others is inconclusive.
        let unsettled: HashSet<&str> =
            contradictions.iter().filter(|(_, place)| !may_ask[*place]).map(|(version, _)| &**version).collect();
        let asked = contradictions.iter().filter(|(version, _)| !unsettled.contains(&**version));
        let of_entry = |(version, place): &(Box<str>, usize)| {
            let integrity = packument.find(version).and_then(|(_, entry)| entry.integrity.clone());
            (version.clone(), integrity, histories.views[*place].clone())
        };
        asked.map(of_entry).collect()
    }

    /// Compares a document that upstream confirmed with the records of all views. Returns it with the contradictions for which
    /// views must be fetched first; nothing is recorded then. `diverged` is the result of those fetches. Blocks.
    pub(crate) fn compare_again(
        &self,
        request: &FetchRequest,
        known: &PackageSnapshot,
        before: &PreviousState,
        diverged: Option<&Parted>,
    ) -> Result<(PackageSnapshot, Contradictions), FirewallError> {
        let again = known.revalidated(request.slot.clone(), known.form, known.validated, known.checked, known.document.clone());
        let Some(packument) = &known.packument else { return Ok((again, Vec::new())) };
        let now = known.checked;
        let _turn = self.histories.lock(&request.slot.name);
        let histories = self.read_histories(request, before)?;
        let look = Look {
            packument,
            form: known.form,
            at: now,
            mode: request.registry.time_mode(),
            longest_age: self.policy_snapshot().longest_age(),
            diverged: diverged.or(request.asked.as_deref()).unwrap_or(&NONE_ASKED),
            other_token: before.other_token(&request.slot),
            tokens: request.slot.place_of_tokens(&request.registry),
            stranger: request.slot.is_strangers(),
        };
        let others: Vec<_> = histories.others.iter().collect();
        let Reconciliation { provenance, change, findings, contradictions } = history::reconcile(&histories.own, &others, &look);
        if diverged.is_none() {
            let contradictions = self.to_be_asked(request, &histories, packument, &contradictions, now);
            if !contradictions.is_empty() {
                return Ok((again, contradictions));
            }
        }
        let mut record = PackageRecord::clone(&histories.own);
        record.apply(&change);
        self.write(&request.key(), &change);
        self.history_events(&request.slot.name, request.slot.is_client_scoped(), &findings);
        let again = PackageSnapshot {
            look: self.histories.note_look(&request.slot.name),
            first_published: package::first_published(packument, &provenance),
            disputed: !contradictions.is_empty(),
            provenance: provenance.into(),
            record: Arc::new(record),
            by_version: OnceLock::new(),
            ..again
        };
        Ok((again, Vec::new()))
    }

    /// Loads the decoded document of `known` from memory or the store.
    pub(crate) async fn load_document(
        self: &Arc<Self>,
        known: &Arc<PackageSnapshot>,
        permit: &Arc<FairPermit>,
    ) -> Result<Option<Bytes>, FirewallError> {
        let share = self.reserve_for(&known.document).await?;
        let raw = match (known.pending_bytes(), known.digest()) {
            (Some(raw), _) => Some(raw),
            (None, Some(digest)) => self.blobs.open(&digest).await.ok().flatten(),
            (None, None) => None,
        };
        let Some(raw) = raw else { return Ok(None) };
        let (inner, known, permit) = (Arc::clone(self), Arc::clone(known), Arc::clone(permit));
        let load = move || {
            let plain = inner.decode(&known.slot.name, raw)?;
            Ok(Some(Bytes::from_owner(BudgetedBytes { plain, _share: share, _permit: permit })))
        };
        self.blocking(load).await?
    }

    /// Stores a document in the background. A slow disk delays no response and a full disk blocks no install.
    pub(crate) fn store_document(self: &Arc<Self>, known: &Arc<PackageSnapshot>, body: Bytes, mut place: FetchPermit) {
        place.share.shrink_to(body.len() as u64);
        *known.raw.lock().unwrap_or_else(PoisonError::into_inner) = Some(body.clone());
        let (inner, raw, digest) = (Arc::clone(self), Arc::<Mutex<_>>::clone(&known.raw), known.digest());
        let name = known.slot.name.clone();
        tokio::task::spawn_blocking(move || {
            let Some(digest) = digest else { return };
            let stored = Arc::clone(&inner.blobs).begin(BlobKind::Document, Hasher::new(Integrity::single(digest))).and_then(
                |mut pending| {
                    pending.write(&body)?;
                    pending.commit()
                },
            );
            if let Err(error) = stored {
                tracing::error!(package.name = %name, error = &error as &dyn std::error::Error, "packument write failed");
            }
            // Dropped even on failure, because it would fill the memory. It is fetched again when needed.
            *raw.lock().unwrap_or_else(PoisonError::into_inner) = None;
            // The permit last: its next holder expects the store to be idle.
            drop((body, inner, place));
        });
    }

    /// Reserves memory for a stored document and what is made of it.
    pub(crate) async fn reserve_for(&self, document: &StoredPackument) -> Result<Reservation, FirewallError> {
        let mut share = self.allowance.share();
        share.grow_to(document.length + document.length / 2).await?;
        Ok(share)
    }

    /// Returns the document, decompressed into `buffer` if necessary. A document larger than its declared length has no
    /// reservation for the excess, so such documents are processed one at a time under the returned guard. Blocks.
    fn decode_into<'a>(
        &self,
        name: &PackageName,
        raw: &'a [u8],
        buffer: &'a mut Vec<u8>,
    ) -> Result<(&'a [u8], Option<MutexGuard<'_, ()>>), FirewallError> {
        if !gzip::is_gzip(raw) {
            return Ok((raw, None));
        }
        let limit = self.config.packument_limit;
        let stated = (body::gzip_length_hint(raw) as u64).min(limit);
        let mut guard = None;
        let mut inflated = body::gunzip_into(raw, stated, buffer);
        if matches!(inflated, Err(BodyError::TooLarge { .. })) && stated < limit {
            guard = Some(self.oversized.lock().unwrap_or_else(PoisonError::into_inner));
            // Measured first, so that a document over the limit allocates nothing and others only their size.
            inflated = body::gunzipped_length(raw, limit).and_then(|length| {
                *buffer = Vec::with_capacity(usize::try_from(length).unwrap_or(usize::MAX).saturating_add(1));
                body::gunzip_into(raw, limit, buffer)
            });
        }
        inflated.map_err(|error| FirewallError::Unreadable { name: name.clone(), detail: error.to_string().into() })?;
        Ok((buffer, guard))
    }

    pub(crate) fn decode(&self, name: &PackageName, raw: Bytes) -> Result<Bytes, FirewallError> {
        if !gzip::is_gzip(&raw) {
            return Ok(raw);
        }
        body::gunzip(&raw, self.config.packument_limit)
            .map_err(|error| FirewallError::Unreadable { name: name.clone(), detail: error.to_string().into() })
    }
}

/// Returns the memory for processing a document: as received, decompressed, and compressed again.
fn memory_cost(raw: &[u8], plain: usize) -> u64 {
    let (length, plain) = (raw.len() as u64, plain as u64);
    if gzip::is_gzip(raw) { 2 * length + plain } else { length + length / 2 }
}

pub(crate) fn sha256(body: &[u8]) -> [u8; 32] {
    Digest::of(Algorithm::Sha256, body).as_bytes().try_into().unwrap_or_default()
}

fn unreadable(name: &PackageName, error: &PackumentError) -> FirewallError {
    FirewallError::Unreadable { name: name.clone(), detail: error.to_string().into() }
}
