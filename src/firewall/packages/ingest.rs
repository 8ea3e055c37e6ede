//! A new document comes in: decoded, read, held against the record, put into the store; and comes out of it again.
//! Refuses to ask upstream, and to serve.

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

/// No other view was asked.
static NOBODY_ASKED: LazyLock<Parted> = LazyLock::new(Parted::new);

/// A document that just came.
pub(crate) struct FetchedDocument {
    /// The form that was asked for, or that it is said to have.
    pub form: PackumentForm,
    /// Whether it is abbreviated though the full form was asked for.
    pub has_no_more: bool,
    pub body: Bytes,
    pub validators: CacheValidators,
    pub validated: Timestamp,
    pub checked: Timestamp,
    /// How far upstream's clock is behind ours, if that is so far that nothing opens.
    pub behind: Option<SignedDuration>,
    /// Whether it may be recorded: not while our own clock is in doubt.
    pub recorded: bool,
    pub place: FetchPermit,
}

/// What became of a document that came.
pub(crate) enum TakenIn {
    /// It was read.
    Read(PackageLookup),
    /// It is an abbreviated one without publish times: nothing was kept.
    Timeless,
    /// It contradicts what another view of the package saw, which is to be asked again: nothing was kept.
    Contradicts(Contradictions),
}

/// Versions that contradict other views, as they were seen, with the view of each.
pub(crate) type Contradictions = Vec<(Box<str>, Option<Integrity>, CacheKey)>;

/// What is known of a package when a document of it comes: the records of its views.
struct Histories {
    own: Arc<PackageRecord>,
    others: Vec<PackageRecord>,
    /// The views of `others`, and the one that was asked.
    views: Vec<CacheKey>,
}

/// What a flight has: held until the store has the document, so that a slow disk slows fetching and does not fill the memory.
pub(crate) struct FetchPermit {
    /// Its memory.
    pub share: Reservation,
    /// Its place among those that fetch.
    _permit: FairPermit,
}

impl FetchPermit {
    /// A place with memory that is still to grow.
    #[must_use]
    pub(crate) fn of(permit: FairPermit, share: Reservation) -> Self {
        Self { share, _permit: permit }
    }
}

/// A document with the memory that it takes, and its turn among those that are taken out of the store.
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
    /// Reads a new document, compares it with what was seen before, keeps what that changes.
    pub(crate) async fn take_in(
        self: Arc<Self>,
        request: FetchRequest,
        mut arrival: FetchedDocument,
        before: PreviousState,
    ) -> Result<TakenIn, FirewallError> {
        // Before there is a reader: those never wait for memory.
        arrival.place.share.grow_to(takes(&arrival.body, body::told_length(&arrival.body))).await?;
        let _turn = self.precedence.turn(request.ahead.as_ref()).await;
        let _permit = self.readers.acquire(request.client).await;
        let inner = Arc::clone(&self);
        self.blocking(move || inner.read(&request, arrival, &before)).await?
    }

    fn read(
        self: &Arc<Self>,
        request: &FetchRequest,
        mut arrival: FetchedDocument,
        before: &PreviousState,
    ) -> Result<TakenIn, FirewallError> {
        let CacheKey { name, .. } = &request.slot;
        let read = self.workbenches.at(|bench| {
            let ParseScratch { press, plain } = bench;
            let (plain, _alone) = self.decode_into(name, &arrival.body, plain)?;
            arrival.place.share.overdraw_to(takes(&arrival.body, plain.len()));
            self.read_plain(request, &arrival, before, plain, press)
        });
        let known = match read? {
            Ok(known) => known,
            Err(unused) => return Ok(unused),
        };
        self.keep(&known, arrival.body, arrival.place);
        Ok(TakenIn::Read(PackageLookup { known, stale: None }))
    }

    fn read_plain(
        self: &Arc<Self>,
        request: &FetchRequest,
        arrival: &FetchedDocument,
        before: &PreviousState,
        plain: &[u8],
        press: &mut SegmentEncoder,
    ) -> Result<Result<Arc<PackageSnapshot>, TakenIn>, FirewallError> {
        let CacheKey { name, .. } = &request.slot;
        let ParsedPackument { packument, fields } = parse::ingest(name, plain).map_err(|error| unreadable(name, &error))?;
        let form = arrival.form;
        if form == PackumentForm::Abbreviated && !arrival.has_no_more && !self.forms.learn(request.registry.id(), &packument) {
            return Ok(Err(TakenIn::Timeless));
        }
        self.note_parts(&packument);
        self.addresses.note(&request.slot, &packument);
        // One look at a time: what it changes is seen by the next, also from another view.
        let _turn = self.histories.lock(name);
        let histories = self.read_histories(request, before)?;
        let record = &histories.own;
        let is_recorded = arrival.recorded && self.is_look(request, record, &packument, arrival.checked)?;
        let look = Look {
            packument: &packument,
            form,
            at: arrival.checked,
            mode: request.registry.time_mode(),
            longest_age: self.world().longest_age(),
            parted: request.asked.as_deref().unwrap_or(&NOBODY_ASKED),
            other_token: before.other_token(&request.slot),
            tokens: request.slot.place_of_tokens(&request.registry),
            stranger: request.slot.is_strangers(),
        };
        let reconciled = history::reconcile(record, &histories.others.iter().collect::<Vec<_>>(), &look);
        let contradictions = self.to_be_asked(request, &histories, &packument, &reconciled.contradictions, arrival.checked);
        if is_recorded && !contradictions.is_empty() {
            return Ok(Err(TakenIn::Contradicts(contradictions)));
        }
        let disputed = !reconciled.contradictions.is_empty();
        let Reconciliation { provenance, mut change, findings, .. } = reconciled;
        let last = record.document.as_ref();
        let modified = packument.modified.map(|modified| modified.min(arrival.checked));
        let content = content_of(&arrival.body);
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
            self.report(name, request.slot.is_own(), &findings);
        }
        let look = if is_recorded { self.histories.note_look(name) } else { 0 };
        if form == PackumentForm::Full || packument.has_more {
            self.note_stripped(&request.registry, &packument);
        }
        let known = Arc::new(PackageSnapshot {
            form,
            has_no_more: arrival.has_no_more,
            slot: request.slot.clone(),
            registry: Arc::clone(&request.registry),
            born: package::born(&packument, &provenance),
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
            // There before anybody finds this, so that a question for the other form does not fetch it again.
            raw: Arc::new(Mutex::new(Some(arrival.body.clone()))),
            screens: VerdictCache::default(),
            kin: OnceLock::new(),
        });
        self.look_ahead(request, &known, plain, &fields);
        self.absent.invalidate(&request.slot);
        self.unreachable.invalidate(&request.slot);
        if let Some(wish) = &request.wish {
            self.render(&known, plain, Some(&fields), wish, press);
        }
        // Judged here, off the async threads: a package may have thousands of versions.
        known.judge(&self.world(), request.profile);
        self.remember(&known);
        Ok(Ok(known))
    }

    /// The records of all views of a package as the ledger has them, or memory, where the ledger did not take the last change. Blocks.
    fn read_histories(&self, request: &FetchRequest, before: &PreviousState) -> Result<Histories, FirewallError> {
        let FetchRequest { slot, registry, .. } = request;
        let own = self.read_record(request, before)?;
        let views = slot.others(registry).into_iter().chain([slot.shared()]).collect();
        Ok(Histories { own, views, others: self.other_records(slot, registry)? })
    }

    /// The record of a view as the ledger has it, or memory, where the ledger did not take the last change. Blocks.
    pub(crate) fn read_record(
        &self,
        request: &FetchRequest,
        before: &PreviousState,
    ) -> Result<Arc<PackageRecord>, FirewallError> {
        let record = self.recall(&request.slot, &request.registry)?;
        let looked = |record: &PackageRecord| record.document.as_ref().map(|document| document.looked);
        if looked(&before.record) <= looked(&record) {
            return Ok(record);
        }
        let mut newer = PackageRecord::clone(&before.record);
        newer.learn_from(&record);
        Ok(Arc::new(newer))
    }

    /// Whether a document says what upstream has now, so that it is recorded. One that names no version does not, and an older copy of
    /// what was seen before does not: what another node of a mirror or a cache kept.
    ///
    /// # Errors
    /// When it does not, and something newer is known.
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
        if !packument.entries.iter().any(|entry| entry.version.is_some() && entry.flaw.is_none()) {
            return if was_seen { Err(not_believed("it names no version, and there were some")) } else { Ok(false) };
        }
        // Tokens may be shown different documents: each is compared with its own.
        let newest = if request.slot.is_own() {
            self.documents.get(&request.slot).and_then(|known| known.document.modified)
        } else {
            record.document.as_ref().and_then(|document| document.modified)
        };
        let (Some(newest), Some(modified)) = (newest, packument.modified) else { return Ok(true) };
        // To the second: the two forms may be written with different precision.
        if modified.min(now).as_second() >= newest.as_second() {
            return Ok(true);
        }
        // An older copy has no version that is news.
        let seen: HashSet<&str> = record.releases.iter().map(|release| &*release.version).collect();
        if packument.entries.iter().any(|entry| !seen.contains(&*entry.key)) {
            return Ok(true);
        }
        Err(not_believed("it is an older copy than the one that was seen before"))
    }

    /// The contradictions for which another view is asked again: where that has not been done just now, and there is something to ask
    /// with.
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
        // Where one of them cannot be asked, asking the others settles nothing.
        let unsettled: HashSet<&str> =
            contradictions.iter().filter(|(_, place)| !may_ask[*place]).map(|(version, _)| &**version).collect();
        let asked = contradictions.iter().filter(|(version, _)| !unsettled.contains(&**version));
        let of_entry = |(version, place): &(Box<str>, usize)| {
            let integrity = packument.find(version).and_then(|(_, entry)| entry.integrity.clone());
            (version.clone(), integrity, histories.views[*place].clone())
        };
        asked.map(of_entry).collect()
    }

    /// Compares a document that upstream confirmed with what all views saw; returns it with what they are to be asked about, unless
    /// they were: `parted` is what they said. Nothing is kept where they are to be asked first. Blocks.
    pub(crate) fn compare_again(
        &self,
        request: &FetchRequest,
        known: &PackageSnapshot,
        before: &PreviousState,
        parted: Option<&Parted>,
    ) -> Result<(PackageSnapshot, Contradictions), FirewallError> {
        let again = known.confirmed(request.slot.clone(), known.form, known.validated, known.checked, known.document.clone());
        let Some(packument) = &known.packument else { return Ok((again, Vec::new())) };
        let now = known.checked;
        let _turn = self.histories.lock(&request.slot.name);
        let histories = self.read_histories(request, before)?;
        let look = Look {
            packument,
            form: known.form,
            at: now,
            mode: request.registry.time_mode(),
            longest_age: self.world().longest_age(),
            parted: parted.or(request.asked.as_deref()).unwrap_or(&NOBODY_ASKED),
            other_token: before.other_token(&request.slot),
            tokens: request.slot.place_of_tokens(&request.registry),
            stranger: request.slot.is_strangers(),
        };
        let others: Vec<_> = histories.others.iter().collect();
        let Reconciliation { provenance, change, findings, contradictions } = history::reconcile(&histories.own, &others, &look);
        if parted.is_none() {
            let contradictions = self.to_be_asked(request, &histories, packument, &contradictions, now);
            if !contradictions.is_empty() {
                return Ok((again, contradictions));
            }
        }
        let mut record = PackageRecord::clone(&histories.own);
        record.apply(&change);
        self.write(&request.key(), &change);
        self.report(&request.slot.name, request.slot.is_own(), &findings);
        let again = PackageSnapshot {
            look: self.histories.note_look(&request.slot.name),
            born: package::born(packument, &provenance),
            disputed: !contradictions.is_empty(),
            provenance: provenance.into(),
            record: Arc::new(record),
            by_version: OnceLock::new(),
            ..again
        };
        Ok((again, Vec::new()))
    }

    /// The document of `known`, decoded, from memory or the store.
    pub(crate) async fn load(
        self: &Arc<Self>,
        known: &Arc<PackageSnapshot>,
        permit: &Arc<FairPermit>,
    ) -> Result<Option<Bytes>, FirewallError> {
        let share = self.share_of(&known.document).await?;
        let raw = match (known.unstored(), known.digest()) {
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

    /// Puts a raw document into the store, behind the answer's back: a disk that takes some milliseconds to sync keeps
    /// nobody waiting, and a full one keeps nobody from installing.
    pub(crate) fn keep(self: &Arc<Self>, known: &Arc<PackageSnapshot>, body: Bytes, mut place: FetchPermit) {
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
                tracing::error!(package.name = %name, error = &error as &dyn std::error::Error, "a packument could not be kept");
            }
            // Without the store it would fill the memory instead; it is fetched again when needed.
            *raw.lock().unwrap_or_else(PoisonError::into_inner) = None;
            // The place last: who waits for it takes the store to be free.
            drop((body, inner, place));
        });
    }

    /// Memory for a document that is stored, and for what is made of it.
    pub(crate) async fn share_of(&self, document: &StoredPackument) -> Result<Reservation, FirewallError> {
        let mut share = self.allowance.share();
        share.grow_to(document.length + document.length / 2).await?;
        Ok(share)
    }

    /// The document as it is, in `room` if it has to be inflated. One that is larger than it says has no memory of its own: such
    /// documents are read one at a time, while the guard that comes along is held. Blocks.
    fn decode_into<'a>(
        &self,
        name: &PackageName,
        raw: &'a [u8],
        room: &'a mut Vec<u8>,
    ) -> Result<(&'a [u8], Option<MutexGuard<'_, ()>>), FirewallError> {
        if !gzip::is_gzip(raw) {
            return Ok((raw, None));
        }
        let limit = self.config.packument_limit;
        let stated = (body::told_length(raw) as u64).min(limit);
        let mut alone = None;
        let mut inflated = body::gunzip_into(raw, stated, room);
        if matches!(inflated, Err(BodyError::TooLarge { .. })) && stated < limit {
            alone = Some(self.oversized.lock().unwrap_or_else(PoisonError::into_inner));
            // Counted first, so that one that is too large takes no memory and another one just its own.
            inflated = body::gunzipped_length(raw, limit).and_then(|length| {
                *room = Vec::with_capacity(usize::try_from(length).unwrap_or(usize::MAX).saturating_add(1));
                body::gunzip_into(raw, limit, room)
            });
        }
        inflated.map_err(|error| FirewallError::Unreadable { name: name.clone(), detail: error.to_string().into() })?;
        Ok((room, alone))
    }

    pub(crate) fn decode(&self, name: &PackageName, raw: Bytes) -> Result<Bytes, FirewallError> {
        if !gzip::is_gzip(&raw) {
            return Ok(raw);
        }
        body::gunzip(&raw, self.config.packument_limit)
            .map_err(|error| FirewallError::Unreadable { name: name.clone(), detail: error.to_string().into() })
    }
}

/// The memory that a document takes while it is read: as it came, inflated, and packed anew.
fn takes(raw: &[u8], plain: usize) -> u64 {
    let (length, plain) = (raw.len() as u64, plain as u64);
    if gzip::is_gzip(raw) { 2 * length + plain } else { length + length / 2 }
}

pub(crate) fn content_of(body: &[u8]) -> [u8; 32] {
    Digest::of(Algorithm::Sha256, body).as_bytes().try_into().unwrap_or_default()
}

fn unreadable(name: &PackageName, error: &PackumentError) -> FirewallError {
    FirewallError::Unreadable { name: name.clone(), detail: error.to_string().into() }
}
