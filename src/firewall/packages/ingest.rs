//! Ingests a fetched document: decodes and parses it, compares it with the record, and stores it.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock, OnceLock};

use bytes::Bytes;
use jiff::Timestamp;

use crate::firewall::error::{FirewallError, Result};
use crate::firewall::package::history::{self, HistoryEvent, Look, Parted, Reconciliation};
use crate::firewall::package::{self, CacheKey, Confirmation, PackageSnapshot, ViewComparison};
use crate::firewall::packages::Services;
use crate::firewall::packages::abbreviated::AbbreviatedSupport;
use crate::firewall::packages::client_limits::{AbsentNames, too_many};
use crate::firewall::packages::load::{FetchPermit, Loader, PreviousState};
use crate::firewall::packages::parse_pool::ParseScratch;
use crate::firewall::packages::record_signals;
use crate::firewall::packages::request::FetchRequest;
use crate::firewall::packages::views::{Contradictions, ViewHistories};
use crate::firewall::verdicts::cache::CachedPackage;
use crate::net::body;
use crate::npm::compression::{SegmentEncoder, gzip};
use crate::npm::packument::parse;
use crate::npm::{AbbreviatedFields, Algorithm, Digest, Packument, PackumentForm, ParsedPackument};
use crate::store::{PackageChange, PackageRecord, StoredPackument};
use crate::units::timestamp;
use crate::upstream::CacheValidators;

/// No other view was fetched again.
static NONE_ASKED: LazyLock<Parted> = LazyLock::new(Parted::new);

pub(crate) struct FetchedDocument {
    /// The form of the document: as requested, or as stated by the response.
    pub form: PackumentForm,
    /// Whether the full form was requested but the abbreviated one arrived.
    pub has_no_more: bool,
    pub body: Bytes,
    pub validators: CacheValidators,
    pub time: Confirmation,
    /// Whether it may be recorded. Not while the system clock is in doubt.
    pub recorded: bool,
    pub place: FetchPermit,
}

impl FetchedDocument {
    /// Returns what the ledger keeps of the document. `last` is its previous entry.
    fn to_stored(&self, last: Option<&StoredPackument>, packument: &Packument) -> StoredPackument {
        let modified = packument.modified.map(|modified| modified.min(self.time.checked));
        StoredPackument {
            first_seen: last.map_or(self.time.checked, |last| last.first_seen),
            validated: self.time.validated,
            changed: self.time.validated,
            looked: self.time.checked,
            modified: last.and_then(|last| last.modified).max(modified),
            content: Some(sha256(&self.body)),
            length: packument.length,
            etag: self.validators.etag.clone(),
            last_modified: self.validators.last_modified.clone(),
            form: Some(self.form),
        }
    }
}

pub(crate) enum Ingested {
    Done(Arc<CachedPackage>),
    /// An abbreviated document without publish times; nothing was stored.
    NeedsFullForm,
    /// The document contradicts another view of the package, which must be fetched again; nothing was stored.
    Contradicts(Contradictions),
}

struct Histories {
    own: Arc<PackageRecord>,
    others: Vec<PackageRecord>,
    /// The views of `others`, followed by the fetched view.
    views: Vec<CacheKey>,
}

/// Sees what upstream said of a package: on the parsing thread, while document and index are in memory.
pub(crate) trait PackageObserver: Send + Sync {
    /// Called with each new document, before the package is visible to requests.
    fn ingested(&self, event: &mut IngestEvent<'_>);

    /// Called if upstream does not have the package, or refuses it to the credentials of this key.
    fn refused(&self, _key: &CacheKey) {}
}

pub(crate) struct IngestEvent<'a> {
    pub request: &'a FetchRequest,
    pub package: &'a Arc<CachedPackage>,
    pub packument: &'a Packument,
    /// The decoded document.
    pub document: &'a [u8],
    /// The fields of the abbreviated form in `document`.
    pub fields: &'a AbbreviatedFields,
    pub encoder: &'a mut SegmentEncoder,
}

/// Turns documents into packages.
pub(crate) struct Ingester {
    pub services: Arc<Services>,
    pub loader: Arc<Loader>,
    pub views: ViewHistories,
    pub forms: AbbreviatedSupport,
    pub absent_names: AbsentNames,
    pub observers: Box<[Arc<dyn PackageObserver>]>,
}

impl Ingester {
    pub(crate) async fn ingest(
        self: Arc<Self>,
        request: FetchRequest,
        mut arrival: FetchedDocument,
        before: PreviousState,
    ) -> Result<Ingested> {
        // Reserved before taking a parse permit: holders of one never wait for memory.
        arrival.place.share.grow_to(memory_cost(&arrival.body, body::gzip_length_hint(&arrival.body))).await?;
        let _turn = self.services.parse_pool.priority.turn(request.ahead.as_ref()).await;
        let _permit = self.services.parse_pool.threads.acquire(request.client).await;
        let inner = Arc::clone(&self);
        self.services.workers.run(move || inner.parse_document(&request, arrival, &before)).await?
    }

    fn parse_document(
        self: &Arc<Self>,
        request: &FetchRequest,
        mut arrival: FetchedDocument,
        before: &PreviousState,
    ) -> Result<Ingested> {
        let parse_pool = &self.services.parse_pool;
        let ingested = parse_pool.with_scratch(|ParseScratch { encoder, plain }| {
            let (plain, _guard) = parse_pool.decode_into(&request.cache_key.name, &arrival.body, plain)?;
            arrival.place.share.force_grow_to(memory_cost(&arrival.body, plain.len()));
            self.read_plain(request, &arrival, before, plain, encoder)
        })?;
        if let Ingested::Done(package) = &ingested {
            self.loader.store_document(package, arrival.body, arrival.place);
        }
        Ok(ingested)
    }

    fn read_plain(
        self: &Arc<Self>,
        request: &FetchRequest,
        arrival: &FetchedDocument,
        before: &PreviousState,
        plain: &[u8],
        encoder: &mut SegmentEncoder,
    ) -> Result<Ingested> {
        let name = &request.cache_key.name;
        let parsed = parse::parse(name, plain).map_err(|error| FirewallError::unreadable(name, error));
        let ParsedPackument { packument, fields } = parsed?;
        let (form, registry) = (arrival.form, &request.registry);
        if form == PackumentForm::Abbreviated && !arrival.has_no_more && !self.forms.learn(registry.id(), &packument) {
            return Ok(Ingested::NeedsFullForm);
        }
        // Observations of one package are serialized, so that each sees the changes of the previous one, even from another view.
        let turn = self.views.lock(name);
        let package = match self.reconcile(request, arrival, before, packument)? {
            // With its document, so that a request for the other form does not fetch it again.
            Ok(snapshot) => Arc::new(CachedPackage::with_document(snapshot, arrival.body.clone())),
            Err(contradictions) => return Ok(Ingested::Contradicts(contradictions)),
        };
        if let Some(packument) = package.packument.clone() {
            if form == PackumentForm::Full || packument.contents.has_more {
                self.services.recorder.missing_metadata(registry, &packument);
            }
            let (packument, package) = (&*packument, &package);
            let mut event = IngestEvent { request, package, packument, document: plain, fields: &fields, encoder };
            for observer in &*self.observers {
                observer.ingested(&mut event);
            }
        }
        self.services.cache.clear_failures(&request.cache_key);
        // Evaluated here, off the async threads: a package may have thousands of versions.
        let policy_snapshot = self.services.policy.snapshot();
        package.judge(&policy_snapshot, request.profile);
        if arrival.recorded {
            record_signals::record(&self.services, &package, &policy_snapshot, request.profile);
        }
        self.services.cache.insert(&package);
        drop(turn);
        Ok(Ingested::Done(package))
    }

    /// Compares a document with the records of all views, and records what changed. Returns the package, or the contradictions for
    /// which other views must be fetched first; nothing is recorded then.
    fn reconcile(
        &self,
        request: &FetchRequest,
        arrival: &FetchedDocument,
        before: &PreviousState,
        packument: Packument,
    ) -> Result<Result<PackageSnapshot, Contradictions>> {
        let histories = self.read_histories(request, before)?;
        let record = &histories.own;
        let is_recorded = arrival.recorded && self.is_look(request, record, &packument, arrival.time.checked)?;
        let look = self.look(request, before, &packument, (arrival.form, arrival.time.checked), None);
        let reconciled = history::reconcile(record, &histories.others, &look);
        let contradictions = self.to_be_asked(request, &histories, &packument, &reconciled.contradictions, arrival.time.checked);
        if is_recorded && !contradictions.is_empty() {
            return Ok(Err(contradictions));
        }
        let disputed = !reconciled.contradictions.is_empty();
        let Reconciliation { provenance, mut change, findings, .. } = reconciled;
        let document = arrival.to_stored(record.document.as_ref(), &packument);
        change.document = Some(document.clone());
        let (record, look) = if is_recorded { self.record(request, record, &change, &findings) } else { (Arc::clone(record), 0) };
        Ok(Ok(PackageSnapshot {
            cache_key: request.cache_key.clone(),
            registry: Arc::clone(&request.registry),
            form: arrival.form,
            has_no_more: arrival.has_no_more,
            first_published: package::first_published(&packument, &provenance),
            packument: Some(Arc::new(packument)),
            provenance: provenance.into(),
            record,
            by_version: OnceLock::new(),
            document,
            confirmed: arrival.time,
            views: ViewComparison { disputed, look },
        }))
    }

    /// Records a change in the ledger and reports its events. Returns the new record and the number of the observation.
    fn record(
        &self,
        request: &FetchRequest,
        record: &PackageRecord,
        change: &PackageChange,
        findings: &[HistoryEvent],
    ) -> (Arc<PackageRecord>, u64) {
        let mut record = record.clone();
        record.apply(change);
        self.services.recorder.package_change(&request.cache_key.key(&request.registry), change);
        self.services.recorder.history_events(&request.cache_key.name, request.cache_key.is_client_scoped(), findings);
        (Arc::new(record), self.views.note_look(&request.cache_key.name))
    }

    /// Returns the observation of a document that upstream sent or confirmed at this instant.
    fn look<'a>(
        &self,
        request: &'a FetchRequest,
        before: &'a PreviousState,
        packument: &'a Packument,
        (form, at): (PackumentForm, Timestamp),
        diverged: Option<&'a Parted>,
    ) -> Look<'a> {
        Look {
            packument,
            form,
            at,
            mode: request.registry.time_mode,
            longest_age: self.services.policy.snapshot().longest_age(),
            diverged: diverged.or(request.asked.as_deref()).unwrap_or(&NONE_ASKED),
            other_token: before.other_token(&request.cache_key),
            tokens: request.cache_key.place_of_tokens(&request.registry),
            stranger: request.cache_key.is_strangers(),
        }
    }

    /// Reads the records of all views from the ledger, or from memory if the ledger missed the last change. Blocks.
    fn read_histories(&self, request: &FetchRequest, before: &PreviousState) -> Result<Histories> {
        let FetchRequest { cache_key, registry, .. } = request;
        let own = self.loader.read_newest_record(request, before)?;
        let views = cache_key.others(registry).into_iter().chain([cache_key.shared()]).collect();
        Ok(Histories { own, views, others: self.loader.other_records(cache_key, registry)? })
    }

    /// Checks whether a document is an observation to record. A document without versions is not, and neither is an older copy
    /// from a cache or another node of a mirror. Fails if it is not, and something newer is known.
    fn is_look(&self, request: &FetchRequest, record: &PackageRecord, packument: &Packument, now: Timestamp) -> Result<bool> {
        let not_believed = |detail: &str| FirewallError::unreadable(&request.cache_key.name, detail);
        let was_seen = !record.releases.is_empty();
        if !packument.entries.iter().any(|entry| entry.version.is_some() && entry.inconsistency.is_none()) {
            return if was_seen { Err(not_believed("no valid version in it, but there were some before")) } else { Ok(false) };
        }
        // Tokens may be shown different documents, so each is compared with its own.
        let newest = if request.cache_key.is_client_scoped() {
            self.services.cache.get(&request.cache_key).and_then(|package| package.document.modified)
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

    /// Returns the contradictions to fetch views again for: only if none of the views involved was fetched recently.
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
        let may_ask: Vec<bool> = histories.views.iter().map(|view| self.views.may_refetch(view, now)).collect();
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
        package: PackageSnapshot,
        before: &PreviousState,
        diverged: Option<&Parted>,
    ) -> Result<(PackageSnapshot, Contradictions)> {
        let Some(packument) = package.packument.clone() else { return Ok((package, Vec::new())) };
        let now = package.confirmed.checked;
        let _turn = self.views.lock(&request.cache_key.name);
        let histories = self.read_histories(request, before)?;
        let look = self.look(request, before, &packument, (package.form, now), diverged);
        let reconciled = history::reconcile(&histories.own, &histories.others, &look);
        let Reconciliation { provenance, change, findings, contradictions } = reconciled;
        if diverged.is_none() {
            let contradictions = self.to_be_asked(request, &histories, &packument, &contradictions, now);
            if !contradictions.is_empty() {
                return Ok((package, contradictions));
            }
        }
        let (record, look) = self.record(request, &histories.own, &change, &findings);
        let compared = PackageSnapshot {
            views: ViewComparison { disputed: !contradictions.is_empty(), look },
            first_published: package::first_published(&packument, &provenance),
            provenance: provenance.into(),
            record,
            by_version: OnceLock::new(),
            ..package
        };
        Ok((compared, Vec::new()))
    }

    /// Records that upstream confirmed a document, and marks it as used, so that one served from memory is not evicted from disk.
    pub(crate) async fn record_confirmation(self: &Arc<Self>, request: &FetchRequest, document: StoredPackument) {
        let (this, key) = (Arc::clone(self), request.cache_key.key(&request.registry));
        let written = self.services.workers.run(move || {
            let digest = document.digest();
            this.services.recorder.package_change(&key, &PackageChange { document: Some(document), ..PackageChange::default() });
            if let Some(digest) = digest {
                this.services.blobs.touch(&digest);
            }
        });
        if written.await.is_err() {
            tracing::error!("ledger task failed");
        }
    }

    /// Records that a package is missing, so that it cannot claim to be old later. Returns its record, if it was ever seen.
    /// Blocks.
    pub(crate) fn record_vanished(
        &self,
        request: &FetchRequest,
        before: &PreviousState,
        now: Timestamp,
    ) -> Result<Option<(Arc<PackageRecord>, StoredPackument)>> {
        let name = &request.cache_key.name;
        let _turn = self.views.lock(name);
        let record = self.loader.read_newest_record(request, before)?;
        let first = StoredPackument { first_seen: now, validated: now, changed: now, looked: now, ..StoredPackument::default() };
        let document = record.document.clone().map_or(first, |last| StoredPackument { content: None, looked: now, ..last });
        if record.releases.is_empty() {
            let expired = timestamp::saturating_sub(now, self.services.policy.snapshot().longest_age());
            return match self.services.ledger.record_absence(&request.cache_key.key(&request.registry), &document, expired) {
                Ok(true) => {
                    if record.document.is_none() {
                        self.absent_names.new.insert(request.cache_key.clone(), ());
                    }
                    Ok(None)
                }
                Ok(false) => Err(too_many()),
                Err(error) => {
                    tracing::error!(package.name = %name, error = &error as &dyn std::error::Error, "ledger write failed");
                    Ok(None)
                }
            };
        }
        let Reconciliation { mut change, findings, .. } = history::mark_all_removed(&record, now);
        change.document = Some(document.clone());
        let (record, _) = self.record(request, &record, &change, &findings);
        Ok(Some((record, document)))
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
