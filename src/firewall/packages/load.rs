//! Loads what memory or the store has of a package, and stores documents. Callers decide whether it is sufficient.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;

use crate::firewall::error::{FirewallError, Result};
use crate::firewall::package::history::{self, Look, OtherToken, Parted, Reconciliation};
use crate::firewall::package::{self, CacheKey, Confirmation, PackageSnapshot, ViewComparison};
use crate::firewall::packages::Services;
use crate::firewall::packages::parse_pool::HeldBytes;
use crate::firewall::packages::request::FetchRequest;
use crate::firewall::verdicts::cache::CachedPackage;
use crate::firewall::wanted_versions::Wants;
use crate::net::fair_limit::Sizes;
use crate::net::{FairLimit, FairPermit, Reservation};
use crate::npm::packument::parse;
use crate::npm::{Hasher, Integrity, Packument, PackumentForm, ParsedPackument};
use crate::store::{BlobKind, PackageRecord};
use crate::upstream::Registry;

/// Marks a snapshot that was fetched with other credentials. Upstream must confirm it for these before it is used.
pub(crate) const NEVER_CHECKED: Timestamp = Timestamp::MIN;

#[derive(Clone, Default)]
pub(crate) struct PreviousState {
    pub record: Arc<PackageRecord>,
    pub package: Option<Arc<CachedPackage>>,
    /// The key of the client's own token that was shown the previous document.
    pub token: Option<CacheKey>,
}

impl PreviousState {
    /// Returns the latest instant at which the package is known to be current upstream.
    pub(crate) fn last_validated(&self) -> Option<Timestamp> {
        let recorded = self.record.document.as_ref().filter(|document| document.content.is_some());
        self.package.as_ref().map(|package| package.confirmed.validated).or(recorded.map(|document| document.validated))
    }

    /// Returns whether another client's token was shown the previous document, with what this token was shown last, if cached.
    pub(crate) fn other_token(&self, cache_key: &CacheKey) -> Option<OtherToken<'_>> {
        let differs = self.token.as_ref().is_some_and(|before| cache_key.is_client_scoped() && before != cache_key);
        let confirmed = self.package.as_ref().filter(|package| package.confirmed.checked != NEVER_CHECKED);
        differs.then(|| OtherToken { shown: confirmed.and_then(|package| package.packument.as_deref()) })
    }
}

/// The resources of a fetch, held until the document is stored, so that a slow disk slows fetching instead of filling memory.
pub(crate) struct FetchPermit {
    /// The reserved memory, which grows with the document.
    pub share: Reservation,
    pub _slot: FairPermit,
}

pub(crate) struct Loader {
    services: Arc<Services>,
    wants: Arc<Wants>,
    /// Limits concurrent loads of documents from the store. A document in memory needs no permit.
    pub loads: Arc<FairLimit>,
}

impl Loader {
    pub(crate) fn new(services: Arc<Services>, wants: Arc<Wants>) -> Self {
        let cores = services.cores;
        Self { services, wants, loads: FairLimit::new(Sizes { shared: 2 * cores, own: 2, most: 8 * cores }) }
    }

    /// Loads the previous state from memory or the store. After a restart this serves packages without asking upstream.
    pub(crate) async fn load_previous(self: &Arc<Self>, request: &FetchRequest) -> Result<PreviousState> {
        let last = self.services.cache.get(&request.cache_key.shared()).filter(|_| request.cache_key.is_client_scoped());
        let token = last.as_ref().map(|package| package.cache_key.clone());
        if let Some(package) = self.services.cache.get(&request.cache_key) {
            let record = last.map_or_else(|| Arc::clone(&package.record), |last| Arc::clone(&last.record));
            return Ok(PreviousState { record, package: Some(package), token });
        }
        // A snapshot of other credentials, to be confirmed for these.
        if let Some(package) = last {
            let (cache_key, confirmed) =
                (request.cache_key.clone(), Confirmation { checked: NEVER_CHECKED, ..package.confirmed });
            let package = package.with_snapshot(PackageSnapshot { cache_key, confirmed, ..package.snapshot.clone() });
            return Ok(PreviousState { record: Arc::clone(&package.record), package: Some(Arc::new(package)), token });
        }
        let (inner, cache_key, registry) = (Arc::clone(self), request.cache_key.clone(), Arc::clone(&request.registry));
        let recall = move || inner.read_record(&cache_key, &registry).map(|record| (inner, cache_key, registry, record));
        let (inner, cache_key, registry, record) = self.services.workers.run(recall).await??;
        let Some((document, digest)) = record.document.as_ref().and_then(|document| Some((document, document.digest()?))) else {
            return Ok(PreviousState { record, package: None, token });
        };
        let share = self.services.parse_pool.reserve_for(document).await?;
        let raw = self.services.blobs.open(&digest).await.ok().flatten();
        let recall = move || {
            let package = raw.and_then(|raw| inner.read_document(&cache_key, &registry, &record, raw));
            drop(share);
            PreviousState { record, package, token }
        };
        self.services.workers.run(recall).await
    }

    /// Fails if the ledger cannot be read. Treating it as empty could serve a version that must be refused.
    pub(crate) fn read_record(&self, cache_key: &CacheKey, registry: &Arc<Registry>) -> Result<Arc<PackageRecord>> {
        let record = self.services.ledger.package(&cache_key.key(registry)).map_err(|error| {
            tracing::error!(package.name = %cache_key.name, error = &error as &dyn std::error::Error, "ledger read failed");
            FirewallError::Internal("cannot read the ledger".into())
        })?;
        Ok(Arc::new(record))
    }

    /// Reads the ledger's records of the other views. Blocks.
    pub(crate) fn other_records(&self, cache_key: &CacheKey, registry: &Arc<Registry>) -> Result<Vec<PackageRecord>> {
        let read = |other: CacheKey| self.read_record(&other, registry).map(Arc::unwrap_or_clone);
        cache_key.others(registry).into_iter().map(read).collect()
    }

    fn read_document(
        &self,
        cache_key: &CacheKey,
        registry: &Arc<Registry>,
        record: &Arc<PackageRecord>,
        raw: Bytes,
    ) -> Option<Arc<CachedPackage>> {
        let document = record.document.as_ref()?;
        let plain = self.services.parse_pool.decode(&cache_key.name, raw).ok()?;
        let ParsedPackument { packument, fields } = parse::parse(&cache_key.name, &plain).ok()?;
        let form = document.form.unwrap_or_else(|| form_of_unnoted(&packument));
        // Unknown, so that the full form is requested without validators: a 304 would confirm a document without times.
        if form == PackumentForm::Abbreviated && !packument.is_timed() {
            return None;
        }
        let others = self.other_records(cache_key, registry).ok()?;
        let look = Look {
            packument: &packument,
            form,
            at: document.looked,
            mode: registry.time_mode,
            longest_age: self.services.policy.snapshot().longest_age(),
            diverged: &Parted::default(),
            other_token: None,
            tokens: cache_key.place_of_tokens(registry),
            stranger: cache_key.is_strangers(),
        };
        let Reconciliation { provenance, contradictions, .. } = history::reconcile(record, &others, &look);
        let checked = if cache_key.is_client_scoped() { NEVER_CHECKED } else { document.looked };
        let package = Arc::new(CachedPackage::from(PackageSnapshot {
            cache_key: cache_key.clone(),
            registry: Arc::clone(registry),
            form,
            has_no_more: false,
            first_published: package::first_published(&packument, &provenance),
            packument: Some(Arc::new(packument)),
            provenance: provenance.into(),
            record: Arc::clone(record),
            by_version: OnceLock::new(),
            document: document.clone(),
            confirmed: Confirmation { validated: document.validated, checked, behind: None },
            views: ViewComparison { disputed: !contradictions.is_empty(), look: 0 },
        }));
        self.wants.note_dependencies(&package, &self.services.policy.snapshot(), &plain, &fields, "latest");
        Some(package)
    }

    /// Reads the record of a view from the ledger, or from memory if the ledger missed the last change. Blocks.
    pub(crate) fn read_newest_record(&self, request: &FetchRequest, before: &PreviousState) -> Result<Arc<PackageRecord>> {
        let record = self.read_record(&request.cache_key, &request.registry)?;
        let looked = |record: &PackageRecord| record.document.as_ref().map(|document| document.looked);
        if looked(&before.record) <= looked(&record) {
            return Ok(record);
        }
        let mut newer = PackageRecord::clone(&before.record);
        newer.learn_from(&record);
        Ok(Arc::new(newer))
    }

    pub(crate) async fn load_document(
        self: &Arc<Self>,
        package: &Arc<CachedPackage>,
        permit: &Arc<FairPermit>,
    ) -> Result<Option<Bytes>> {
        let share = self.services.parse_pool.reserve_for(&package.document).await?;
        let pending = package.raw.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let raw = match (pending, package.document.digest()) {
            (Some(raw), _) => Some(raw),
            (None, Some(digest)) => self.services.blobs.open(&digest).await.ok().flatten(),
            (None, None) => None,
        };
        let Some(raw) = raw else { return Ok(None) };
        let (inner, package, permit) = (Arc::clone(self), Arc::clone(package), Arc::clone(permit));
        let load = move || {
            let plain = inner.services.parse_pool.decode(&package.cache_key.name, raw)?;
            Ok(Some(HeldBytes::new(plain, (share, permit))))
        };
        self.services.workers.run(load).await?
    }

    /// Stores a document in the background. A slow disk delays no response and a full disk blocks no install.
    pub(crate) fn store_document(self: &Arc<Self>, package: &Arc<CachedPackage>, body: Bytes, mut place: FetchPermit) {
        place.share.shrink_to(body.len() as u64);
        *package.raw.lock().unwrap_or_else(PoisonError::into_inner) = Some(body.clone());
        let (blobs, token) = (Arc::clone(&self.services.blobs), self.services.workers.token());
        let (raw, digest) = (Arc::<Mutex<_>>::clone(&package.raw), package.document.digest());
        let name = package.cache_key.name.clone();
        tokio::task::spawn_blocking(move || {
            let Some(digest) = digest else { return };
            let stored = blobs.begin(BlobKind::Document, Hasher::new(Integrity::single(digest))).and_then(|mut pending| {
                pending.write(&body)?;
                pending.commit()
            });
            if let Err(error) = stored {
                tracing::error!(package.name = %name, error = &error as &dyn std::error::Error, "packument write failed");
            }
            // Dropped even on failure, because it would fill the memory. It is fetched again when needed.
            *raw.lock().unwrap_or_else(PoisonError::into_inner) = None;
            // The permit last: its next holder expects the store to be idle.
            drop((body, token, place));
        });
    }
}

/// Guesses a form that was not recorded: full if every version names people. At worst the full form is fetched again.
fn form_of_unnoted(packument: &Packument) -> PackumentForm {
    let carries_people = packument.entries.iter().all(|entry| entry.publisher.is_some() || entry.maintainers.is_some());
    if carries_people && !packument.entries.is_empty() { PackumentForm::Full } else { PackumentForm::Abbreviated }
}
