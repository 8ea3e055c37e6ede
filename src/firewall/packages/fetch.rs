//! Looks up a package in memory, then in the store, then with one upstream fetch that all waiting clients share.
//!
//! Verdicts are as of the instant when upstream last confirmed the package, so a stale packument never opens a version.

use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use tokio::time::timeout;

use crate::firewall::Components;
use crate::firewall::error::FirewallError;
use crate::firewall::package::history::{self, Parted, Reconciliation};
use crate::firewall::package::{CacheKey, PackageSnapshot, VerdictCache};
use crate::firewall::packages::fetch_slots::SlotRequest;
use crate::firewall::packages::ingest::{Contradictions, FetchPermit, FetchedDocument, Ingested, sha256};
use crate::firewall::packages::load::{NEVER_CHECKED, PreviousState};
use crate::firewall::packages::subpackages;
use crate::firewall::packages::views::{ViewQuestion, too_many};
use crate::firewall::policy_state::{EvalContext, PolicySnapshot, Profile};
use crate::firewall::prefetch::PrefetchContext;
use crate::firewall::request::Client;
use crate::firewall::responses::RenderRequest;
use crate::net::FairPermit;
use crate::npm::compression::gzip;
use crate::npm::{PackageName, PackumentForm};
use crate::store::{PackageChange, PackageKey, PackageRecord, StoredPackument};
use crate::telemetry::{CacheLabel, CacheLookup, CacheOutcome, ServedStale};
use crate::units::timestamp;
use crate::upstream::{Authorization, CacheValidators, PackumentBody, PackumentReply, Registry, UpstreamError};

/// How long a missing package is cached as missing.
pub(crate) const ABSENT: Duration = Duration::from_secs(60);

/// How long upstream is not asked for a package after a failure, while a stale packument can be served.
const BACKOFF: Duration = Duration::from_secs(5);

/// The least interval between logs of stale responses per registry.
const STALE_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// How far upstream's clock may be behind. Beyond it, no version opens by that clock, and refusals mention it.
const MAX_BEHIND: SignedDuration = SignedDuration::from_hours(24);

/// How often a fetch is repeated because a shared fetch returned the other form.
const MAX_ATTEMPTS: usize = 4;

/// A snapshot and whether it is stale.
#[derive(Clone)]
pub(crate) struct PackageLookup {
    /// The snapshot.
    pub known: Arc<PackageSnapshot>,
    /// The time since upstream confirmed it, if it is stale.
    pub stale: Option<Duration>,
}

/// What a request needs of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DocumentNeed {
    /// The index of either form. The smaller form is requested if it has `time`.
    Index,
    /// A document that can be rendered in this form. If none is cached, the full form is requested, which serves both.
    Form(PackumentForm),
    /// A document with all fields that upstream sends: the response to a request for the full form.
    Facts,
}

impl DocumentNeed {
    /// Checks whether a snapshot meets the need.
    #[must_use]
    pub(crate) fn is_met_by(self, known: &PackageSnapshot) -> bool {
        match self {
            Self::Index | Self::Form(PackumentForm::Abbreviated) => true,
            Self::Form(PackumentForm::Full) => known.renders_full() || known.has_no_more,
            Self::Facts => known.form == PackumentForm::Full || known.has_no_more,
        }
    }
}

/// The inputs of a fetch. Owned, because a fetch outlives the request that started it.
#[derive(Clone)]
pub(crate) struct FetchRequest {
    pub slot: CacheKey,
    pub registry: Arc<Registry>,
    /// The client that started the fetch and whose slots it uses.
    pub client: IpAddr,
    pub authorization: Authorization,
    pub need: DocumentNeed,
    /// The policy that decides whether a held version may have opened.
    pub profile: Profile,
    pub render_request: Option<RenderRequest>,
    /// Which dependencies of a new document to prefetch.
    pub ahead: Option<PrefetchContext>,
    /// Whether the document itself is needed, so that neither a fresh index nor a 304 is sufficient.
    pub whole: bool,
    /// The earliest acceptable check of upstream, even if the snapshot is fresh.
    pub not_before: Option<Timestamp>,
    /// Whether to ask upstream even if the snapshot is fresh, because another view contradicts it.
    pub again: bool,
    /// Versions over which other views still disagree after new fetches; `None` if none was fetched yet.
    pub asked: Option<Arc<Parted>>,
}

/// The key of a shared fetch. A fetch from before the last write through this process is not shared.
pub(crate) type FetchKey = (CacheKey, bool, Option<Timestamp>);

impl Components {
    /// Returns the snapshot of `name` from memory if it can be used without waiting.
    pub(crate) fn cached(
        &self,
        client: &Client,
        name: &PackageName,
        need: DocumentNeed,
        moment: &EvalContext,
    ) -> Option<PackageLookup> {
        let slot = CacheKey::of(name, self.registries.of(name), &client.authorization);
        let known = self.fresh(&slot, client.profile, need, moment)?;
        if subpackages::needs_parent(&known, &moment.policy_snapshot).is_some()
            || lacks_facts(&known, client.profile, &moment.policy_snapshot)
        {
            return None;
        }
        CacheLookup { cache: CacheLabel::Document, outcome: CacheOutcome::Hit }.emit(&self.metrics);
        Some(PackageLookup { known, stale: None })
    }

    /// Looks up `name` as the client may see it, fresh if upstream is available. With a `render_request`, a document that must be parsed is
    /// rendered in the same pass.
    ///
    /// # Errors
    /// Returns an error if the package is not found, if upstream failed and nothing stale can be served, or if the packument is
    /// invalid.
    pub(crate) async fn lookup(
        self: &Arc<Self>,
        client: &Client,
        name: &PackageName,
        need: DocumentNeed,
        render_request: Option<RenderRequest>,
    ) -> Result<PackageLookup, FirewallError> {
        let reading = self.lookup_unlinked(client, name, need, render_request.clone()).await?;
        let part_lacks = self.load_parent(client, &reading.known).await;
        self.judge_many(&reading.known, client.profile, client.address).await;
        if !part_lacks && !lacks_facts(&reading.known, client.profile, &self.policy_snapshot()) {
            return Ok(reading);
        }
        let reading = self.lookup_unlinked(client, name, DocumentNeed::Facts, render_request).await?;
        self.load_parent(client, &reading.known).await;
        self.judge_many(&reading.known, client.profile, client.address).await;
        Ok(reading)
    }

    /// Evaluates a package with many versions off the async threads, once for all waiting clients. Other packages are evaluated
    /// on demand.
    pub(crate) async fn judge_many(&self, known: &Arc<PackageSnapshot>, profile: Profile, client: IpAddr) {
        if !known.has_many_versions() {
            return;
        }
        Box::pin(async {
            let _turn = known.screens.turn.lock().await;
            let policy_snapshot = self.policy_snapshot();
            if known.is_judged(&policy_snapshot, profile) {
                return;
            }
            let permit = self.heavy.acquire(client).await;
            let known = Arc::clone(known);
            let judging = self.blocking(move || {
                known.judge(&policy_snapshot, profile);
                drop(permit);
            });
            // A failed task was logged.
            let _ = judging.await;
        })
        .await;
    }

    /// Runs work that grows with the number of versions of `known`: off the async threads with limited concurrency if there are
    /// many.
    pub(crate) async fn over_versions<T: Send + 'static>(
        &self,
        known: &PackageSnapshot,
        client: IpAddr,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, FirewallError> {
        if !known.has_many_versions() {
            return Ok(work());
        }
        let permit = self.heavy.acquire(client).await;
        let working = self.blocking(move || {
            let done = work();
            drop(permit);
            done
        });
        working.await
    }

    /// Looks up a package like [`Components::lookup`], without its parent package.
    ///
    /// # Errors
    /// Returns the errors of [`Components::lookup`].
    pub(crate) async fn lookup_unlinked(
        self: &Arc<Self>,
        client: &Client,
        name: &PackageName,
        need: DocumentNeed,
        render_request: Option<RenderRequest>,
    ) -> Result<PackageLookup, FirewallError> {
        let found = self.look_up_with(client, name, need, render_request).await;
        found.map_err(|rejection| self.explain_unsent(client, name, rejection))
    }

    async fn look_up_with(
        self: &Arc<Self>,
        client: &Client,
        name: &PackageName,
        need: DocumentNeed,
        render_request: Option<RenderRequest>,
    ) -> Result<PackageLookup, FirewallError> {
        let registry = Arc::clone(self.registries.of(name));
        let slot = CacheKey::of(name, &registry, &client.authorization);
        let moment = self.context();
        let now = moment.now;
        if let Some(known) = self.fresh(&slot, client.profile, need, &moment) {
            CacheLookup { cache: CacheLabel::Document, outcome: CacheOutcome::Hit }.emit(&self.metrics);
            return Ok(PackageLookup { known, stale: None });
        }
        let is_absent = |since| timestamp::is_within(since, ABSENT, now) && self.outlives_writes(name, since);
        if self.absent.get(&slot).is_some_and(is_absent) {
            return Err(absent(name));
        }
        if !self.is_known(&slot) {
            self.may_ask_for_more(client.address)?;
        }
        let ahead = render_request
            .as_ref()
            .filter(|_| client.is_installing && self.config.prefetch > 0)
            .map(|_| PrefetchContext::of_question());
        let request = FetchRequest { render_request, ahead, ..FetchRequest::new(client, slot, registry, need) };
        for _ in 0..MAX_ATTEMPTS {
            // A fetch that was already running may have requested less.
            let result = self.fetch_or_stale(request.clone(), now).await;
            if let Err(FirewallError::NotFound(_)) = &result {
                self.note_absentee(&request.slot, client.address);
            }
            let reading = result?;
            if need.is_met_by(&reading.known) {
                return Ok(reading);
            }
        }
        Err(FirewallError::Internal("too many fetches returned the other packument form".into()))
    }

    /// Returns the decoded document with the lookup. Fetches it again if it is not stored any more.
    ///
    /// # Errors
    /// Returns the errors of [`Components::lookup`].
    pub(crate) async fn with_document(
        self: &Arc<Self>,
        client: &Client,
        reading: PackageLookup,
    ) -> Result<(PackageLookup, Bytes), FirewallError> {
        let permit = self.loads.acquire(client.address).await;
        self.document_with(client, reading, permit).await
    }

    /// Returns the decoded document with the lookup, with a permit that the caller holds.
    ///
    /// # Errors
    /// Returns the errors of [`Components::lookup`].
    pub(crate) async fn document_with(
        self: &Arc<Self>,
        client: &Client,
        reading: PackageLookup,
        permit: FairPermit,
    ) -> Result<(PackageLookup, Bytes), FirewallError> {
        let permit = Arc::new(permit);
        if let Some(document) = self.load_document(&reading.known, &permit).await? {
            return Ok((reading, document));
        }
        let need =
            DocumentNeed::Form(if reading.known.renders_full() { PackumentForm::Full } else { PackumentForm::Abbreviated });
        let (slot, registry) = (reading.known.slot.clone(), Arc::clone(&reading.known.registry));
        let request = FetchRequest { whole: true, ..FetchRequest::new(client, slot, registry, need) };
        let again = self.fetch_shared(request).await?;
        match self.load_document(&again.known, &permit).await? {
            Some(document) => Ok((again, document)),
            None => Err(FirewallError::Internal("the packument is not in the store any more".into())),
        }
    }

    /// Returns the snapshot from memory if it is fresh and meets the need.
    fn fresh(&self, slot: &CacheKey, profile: Profile, need: DocumentNeed, moment: &EvalContext) -> Option<Arc<PackageSnapshot>> {
        self.documents.get(slot).filter(|known| need.is_met_by(known) && self.is_fresh(known, profile, moment))
    }

    /// Checks whether `known` may be used without asking upstream: within its TTL, no held version may have opened since the
    /// check, and no write went through this process. A clock that was set back makes it stale.
    fn is_fresh(
        &self,
        known: &PackageSnapshot,
        profile: Profile,
        &EvalContext { now, ref policy_snapshot }: &EvalContext,
    ) -> bool {
        // A package with many versions must be evaluated off the async threads first.
        if !known.is_judged(policy_snapshot, profile) {
            return false;
        }
        let opening = known.verdicts(policy_snapshot, profile).next_opening;
        let opened = opening.is_some_and(|opening| known.checked < opening && opening <= now);
        timestamp::is_within(known.checked, self.config.packument_ttl, now)
            && !opened
            && self.outlives_writes(&known.slot.name, known.checked)
    }

    /// Waits up to `stale-wait` for upstream and then serves the stale snapshot. The fetch continues in the background and
    /// updates the cache.
    pub(crate) async fn fetch_or_stale(
        self: &Arc<Self>,
        request: FetchRequest,
        now: Timestamp,
    ) -> Result<PackageLookup, FirewallError> {
        let last = || self.documents.get(&request.slot).filter(|known| request.need.is_met_by(known));
        if let Some(last) = last().filter(|_| self.is_backing_off(&request, now))
            && let Some(reading) = self.stale(&last, now)
        {
            self.try_another(&request, now);
            return Ok(reading);
        }
        let mut fetching = pin!(self.fetch_shared(request.clone()));
        // Joined first, because it may be running as a prefetch.
        let promoted = async { tokio::join!(fetching.as_mut(), async { self.prefetch_queue.promote(&request.slot) }) };
        if let Ok((result, ())) = timeout(self.config.patience, promoted).await {
            return result;
        }
        // A fresh snapshot was stored by this fetch, which is about to complete.
        let last = last().filter(|last| !self.satisfies(&request, last));
        let Some(reading) = last.and_then(|last| self.stale(&last, now)) else {
            return fetching.await;
        };
        // Not for packages without a snapshot: a client can request any number of those.
        let heard = request.registry.last_heard();
        self.silence.mark_slow(request.registry.id(), &request.slot, self.config.patience, heard, self.clock.now());
        self.unreachable.insert(request.slot.clone(), now);
        Ok(reading)
    }

    /// Checks whether a fetch of the package failed recently, or the registry is slow. A running fetch then detects its recovery.
    fn is_backing_off(&self, request: &FetchRequest, now: Timestamp) -> bool {
        let counts = |since| timestamp::is_within(since, BACKOFF, now) && self.outlives_writes(&request.slot.name, since);
        let unreachable = || self.unreachable.get(&request.slot).is_some_and(counts);
        self.silence.holds(request.registry.id(), request.registry.last_heard(), now) || unreachable()
    }

    /// Fetches a package in the background although its registry is slow, if only one other package has hung so far. A response
    /// ends the slow state.
    fn try_another(self: &Arc<Self>, request: &FetchRequest, now: Timestamp) {
        let (registry, inner) = (Arc::clone(&request.registry), Arc::clone(self));
        if !self.silence.is_to_be_tried(registry.id(), &request.slot, registry.last_heard(), now) {
            return;
        }
        let trial = FetchRequest { again: true, ..request.clone() };
        // Boxed with an explicit type, because such a fetch starts it recursively.
        let asking: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
            let permit = inner.fetches.of(&registry).acquire(trial.client).await;
            // A result is cached; otherwise the registry stays slow.
            drop(inner.fetch_packument(trial, permit).await);
        });
        tokio::spawn(asking);
    }

    /// Checks whether `known` satisfies `request` without asking upstream.
    fn satisfies(&self, request: &FetchRequest, known: &PackageSnapshot) -> bool {
        let asked_since = |instant| known.checked != NEVER_CHECKED && known.checked >= instant;
        request.not_before.is_none_or(asked_since) && self.is_fresh(known, request.profile, &self.context())
    }

    pub(crate) fn fetch_key(&self, request: &FetchRequest) -> FetchKey {
        (request.slot.clone(), request.whole, self.written.get(&request.slot.name))
    }

    pub(crate) async fn fetch_shared(self: &Arc<Self>, request: FetchRequest) -> Result<PackageLookup, FirewallError> {
        let inner = Arc::clone(self);
        let key = self.fetch_key(&request);
        let (client, slots) = (request.client, self.fetches.of(&request.registry));
        let limit = Arc::clone(&slots);
        let fetch = move |slot: SlotRequest<_>| async move {
            let permit = slot.permit(&limit).await;
            inner.fetch_packument(request, permit).await
        };
        self.packument_fetches.join(key, client, &slots, fetch).await.unwrap_or_else(|_| Err(self.note_lost_fetch()))
    }

    /// Loads what is stored and asks upstream if that is not enough.
    async fn fetch_packument(self: Arc<Self>, request: FetchRequest, permit: FairPermit) -> Result<PackageLookup, FirewallError> {
        let permit = FetchPermit::of(permit, self.allowance.share_in(request.registry.id()));
        let now = self.clock.now();
        let previous = self.load_previous(&request).await?;
        let usable = previous.known.clone().filter(|known| request.need.is_met_by(known));
        if let Some(known) = &usable {
            self.judge_many(known, request.profile, request.client).await;
            if let Some(lookup) = self.answer_without_upstream(&request, known, now) {
                return Ok(lookup);
            }
        }
        // If the document itself is needed, its snapshot is no fallback.
        let fallback = usable.filter(|_| !request.whole);
        match self.ask_upstream(&request, &previous, fallback.as_ref(), permit, now).await {
            FetchOutcome::Undated(known) => Ok(PackageLookup { known, stale: None }),
            FetchOutcome::NotModified { known, confirmed, permit: _permit } => {
                self.confirm(&request, &known, &previous, confirmed).await
            }
            FetchOutcome::Changed(document) => self.ingest_or_stale(request, previous, *document, fallback).await,
            FetchOutcome::NotFound { permit: _permit } => self.mark_removed(request, previous, now).await,
            FetchOutcome::Denied(error) => Err(error.into()),
            FetchOutcome::Failed(error) => self.stale_or_error(&request.slot, fallback, error, now),
        }
    }

    /// Answers from what is stored: if it is fresh, or stale while upstream is not asked after a failure.
    fn answer_without_upstream(
        self: &Arc<Self>,
        request: &FetchRequest,
        known: &Arc<PackageSnapshot>,
        now: Timestamp,
    ) -> Option<PackageLookup> {
        if request.whole || request.again {
            return None;
        }
        if self.satisfies(request, known) {
            self.documents.insert(request.slot.clone(), Arc::clone(known));
            return Some(PackageLookup { known: Arc::clone(known), stale: None });
        }
        // For clients that do not wait for this fetch.
        if known.checked != NEVER_CHECKED {
            self.documents.insert(request.slot.clone(), Arc::clone(known));
        }
        if !self.is_backing_off(request, now) {
            return None;
        }
        let stale = self.stale(known, now)?;
        self.try_another(request, now);
        Some(stale)
    }

    /// Sends one request to upstream. `fallback` is the snapshot to confirm.
    async fn ask_upstream(
        self: &Arc<Self>,
        request: &FetchRequest,
        previous: &PreviousState,
        fallback: Option<&Arc<PackageSnapshot>>,
        mut permit: FetchPermit,
        now: Timestamp,
    ) -> FetchOutcome {
        let FetchRequest { registry, authorization, slot, .. } = request;
        let form = self.form_to_ask(request, previous.known.as_deref());
        let validators = fallback.filter(|known| known.form == form).map(|known| known.validators());
        let started = Instant::now();
        let waiting = self.silence.ask(slot);
        let reply = registry.packument(&slot.name, form, authorization, validators.as_ref(), &mut permit.share).await;
        drop(waiting);
        self.upstream_answered(request, started, &reply);
        match reply {
            Ok(reply) => self.classify_reply(request, previous, fallback, (reply, form), permit, now),
            Err(error) => self.classify_error(request, fallback, error, permit, now),
        }
    }

    fn classify_error(
        &self,
        request: &FetchRequest,
        fallback: Option<&Arc<PackageSnapshot>>,
        error: UpstreamError,
        permit: FetchPermit,
        now: Timestamp,
    ) -> FetchOutcome {
        self.forms.reset(request.registry.id());
        if matches!(error, UpstreamError::NotFound | UpstreamError::Denied { .. }) {
            self.entitlements.end(&request.slot);
        }
        match error {
            UpstreamError::NotFound if self.is_clock_right(now, None) => FetchOutcome::NotFound { permit },
            UpstreamError::Denied { .. } => FetchOutcome::Denied(error),
            UpstreamError::MissingPage { .. } if fallback.is_none() => {
                self.absent.insert(request.slot.clone(), now);
                FetchOutcome::Denied(error)
            }
            _ => FetchOutcome::Failed(error.into()),
        }
    }

    /// `asked` is the form that was requested.
    fn classify_reply(
        self: &Arc<Self>,
        request: &FetchRequest,
        previous: &PreviousState,
        fallback: Option<&Arc<PackageSnapshot>>,
        (reply, asked): (PackumentReply, PackumentForm),
        permit: FetchPermit,
        now: Timestamp,
    ) -> FetchOutcome {
        self.clock_skew(&request.registry, reply.clock(), now);
        let recorded = self.is_clock_right(now, reply.clock());
        if let Some(known) = fallback.filter(|_| !recorded) {
            return FetchOutcome::Undated(Arc::clone(known));
        }
        let behind = reply.clock().map(|clock| now.duration_since(clock)).filter(|behind| *behind > MAX_BEHIND);
        let validated = reply.validated(now);
        let (body, is_gzip, form, validators) = match (reply.freshness, &previous.known) {
            (PackumentBody::Changed { body, gzip, form, validators }, _) => (body, gzip, form, validators),
            (PackumentBody::NotModified, Some(known)) => {
                let form = known.form;
                let confirmed = Confirmed { form, has_no_more: false, validated, checked: now, behind, validators: None };
                return FetchOutcome::NotModified { known: Arc::clone(known), confirmed, permit: Some(permit) };
            }
            (PackumentBody::NotModified, None) => {
                let error = FirewallError::Internal("upstream sent 304 for a packument that is not cached".into());
                return FetchOutcome::Failed(error);
            }
        };
        if is_gzip && !gzip::is_gzip(&body) {
            let detail = "declared as gzip, but is not gzip".into();
            return FetchOutcome::Failed(FirewallError::Unreadable { name: request.slot.name.clone(), detail });
        }
        let has_no_more = form != asked;
        if let Some(known) = previous.known.clone().filter(|known| known.content == sha256(&body)) {
            let permit = if request.whole {
                self.store_document(&known, body, permit);
                None
            } else {
                Some(permit)
            };
            if !recorded {
                return FetchOutcome::Undated(known);
            }
            let form = if form == PackumentForm::Full { form } else { known.form };
            let validators = Some(validators);
            let confirmed = Confirmed { form, has_no_more, validated, checked: now, behind, validators };
            return FetchOutcome::NotModified { known, confirmed, permit };
        }
        // A clock that far behind opens no version. Open versions stay open.
        let until = previous.last_validated().filter(|_| behind.is_some());
        let validated = until.map_or(validated, |until| validated.min(until));
        FetchOutcome::Changed(Box::new(FetchedDocument {
            form,
            has_no_more,
            body,
            validators,
            validated,
            checked: now,
            behind,
            recorded,
            place: permit,
        }))
    }

    /// Reads a new document. Fetches again if it cannot be used as it is, and falls back on the last snapshot if it is unreadable.
    async fn ingest_or_stale(
        self: Arc<Self>,
        request: FetchRequest,
        previous: PreviousState,
        document: FetchedDocument,
        fallback: Option<Arc<PackageSnapshot>>,
    ) -> Result<PackageLookup, FirewallError> {
        let (now, validated) = (document.checked, document.validated);
        match Arc::clone(&self).ingest(request.clone(), document, previous).await {
            Ok(Ingested::Done(lookup)) => Ok(lookup),
            Ok(Ingested::Contradicts(contradictions)) => {
                let asked = self.ask_views_again(&request, contradictions, ViewQuestion { at: now, validated }).await;
                // Fetched again instead of kept, so that no document in memory waits for other views.
                let permit = self.fetches.of(&request.registry).acquire(request.client).await;
                Box::pin(self.fetch_packument(FetchRequest { asked: Some(Arc::new(asked)), ..request }, permit)).await
            }
            // Fetched without validators: a registry with one ETag for both forms would confirm this document.
            Ok(Ingested::NeedsFullForm) => {
                let slot = request.slot.clone();
                let permit = self.fetches.of(&request.registry).acquire(request.client).await;
                let full = FetchRequest { need: DocumentNeed::Facts, ..request };
                match Box::pin(Arc::clone(&self).fetch_packument(full, permit)).await {
                    Err(error) if error.is_upstreams_failure() => self.stale_or_error(&slot, fallback, error, now),
                    other => other,
                }
            }
            Err(error @ FirewallError::Unreadable { .. }) => self.stale_or_error(&request.slot, fallback, error, now),
            Err(error) => Err(error),
        }
    }

    /// Returns the form to request: that of the cached document, so that it can be confirmed, else the form that is needed.
    fn form_to_ask(&self, request: &FetchRequest, known: Option<&PackageSnapshot>) -> PackumentForm {
        match known {
            // A document that arrived instead of the full form is replaced once upstream sends that.
            Some(known) if known.form == PackumentForm::Abbreviated && !known.has_no_more && request.need.is_met_by(known) => {
                PackumentForm::Abbreviated
            }
            None if request.need == DocumentNeed::Index => self.forms.form_for_index(request.registry.id()),
            _ => PackumentForm::Full,
        }
    }

    /// Checks whether the system clock can be trusted, given an upstream's clock.
    fn is_clock_right(&self, now: Timestamp, upstream: Option<Timestamp>) -> bool {
        self.wall_clock.is_right(now, self.clock.elapsed(), upstream)
    }

    /// Handles a document that upstream confirmed.
    async fn confirm(
        self: &Arc<Self>,
        request: &FetchRequest,
        known: &Arc<PackageSnapshot>,
        before: &PreviousState,
        how: Confirmed,
    ) -> Result<PackageLookup, FirewallError> {
        CacheLookup { cache: CacheLabel::Document, outcome: CacheOutcome::Revalidated }.emit(&self.metrics);
        let Confirmed { form, has_no_more, validated, checked, behind, validators } = how;
        let CacheValidators { etag, last_modified } = validators.unwrap_or_else(|| known.validators());
        let validated = if behind.is_some() { known.validated } else { validated.max(known.validated) };
        let form_asked = Some(form);
        let document =
            StoredPackument { validated, looked: checked, etag, last_modified, form: form_asked, ..known.document.clone() };
        let confirmed = known.revalidated(request.slot.clone(), form, validated, checked, document.clone());
        let mut confirmed = PackageSnapshot { has_no_more, behind, ..confirmed };
        // Other views or tokens may have been shown something since that applies here.
        if confirmed.disputed || request.again || !self.histories.is_last_look(&request.slot.name, confirmed.look) {
            let contradictions;
            (confirmed, contradictions) = self.compare_confirmed(request, confirmed, before, None).await?;
            if !contradictions.is_empty() {
                let asked = ViewQuestion { at: checked, validated };
                let diverged = self.ask_views_again(request, contradictions, asked).await;
                (confirmed, _) = self.compare_confirmed(request, confirmed, before, Some(diverged)).await?;
            }
        }
        self.record(request, PackageChange { document: Some(document), ..PackageChange::default() }).await;
        let confirmed = Arc::new(confirmed);
        self.judge_many(&confirmed, request.profile, request.client).await;
        self.remember(&confirmed);
        Ok(PackageLookup { known: confirmed, stale: None })
    }

    async fn compare_confirmed(
        self: &Arc<Self>,
        request: &FetchRequest,
        known: PackageSnapshot,
        before: &PreviousState,
        diverged: Option<Parted>,
    ) -> Result<(PackageSnapshot, Contradictions), FirewallError> {
        let (inner, request, before) = (Arc::clone(self), request.clone(), before.clone());
        self.blocking(move || inner.compare_again(&request, &known, &before, diverged.as_ref())).await?
    }

    /// Caches a snapshot, also for requests with other tokens.
    pub(crate) fn remember(&self, known: &Arc<PackageSnapshot>) {
        if known.slot.is_client_scoped() {
            self.documents.insert(known.slot.shared(), Arc::clone(known));
        }
        self.documents.insert(known.slot.clone(), Arc::clone(known));
    }

    /// Handles a package that upstream does not have. Known versions are marked as removed and stay in the ledger, so that
    /// lockfiles with old versions keep working and takedowns are reported.
    async fn mark_removed(
        self: &Arc<Self>,
        request: FetchRequest,
        before: PreviousState,
        now: Timestamp,
    ) -> Result<PackageLookup, FirewallError> {
        let slot = request.slot.clone();
        let recorded = if slot.is_client_scoped() {
            // A token that may not read a package also receives a 404, so this is not an observation.
            None
        } else {
            let (inner, gone) = (Arc::clone(self), request.clone());
            self.blocking(move || inner.record_vanished(&gone, &before, now)).await??
        };
        let Some((record, document)) = recorded else {
            self.documents.invalidate(&slot);
            self.absent.insert(slot.clone(), now);
            return Err(absent(&slot.name));
        };
        let known = Arc::new(PackageSnapshot {
            form: PackumentForm::Full,
            has_no_more: false,
            slot,
            registry: Arc::clone(&request.registry),
            first_published: None,
            behind: None,
            disputed: false,
            look: 0,
            packument: None,
            provenance: Arc::default(),
            record: Arc::new(record),
            by_version: OnceLock::new(),
            tarballs: Arc::default(),
            content: [0; 32],
            document,
            validated: now,
            checked: now,
            raw: Arc::default(),
            screens: VerdictCache::default(),
            parent: OnceLock::new(),
        });
        self.remember(&known);
        Ok(PackageLookup { known, stale: None })
    }

    /// Records that a package is missing, so that it cannot claim to be old when it appears. Returns its record, or `None` if it
    /// was never seen. Blocks.
    fn record_vanished(
        &self,
        request: &FetchRequest,
        before: &PreviousState,
        now: Timestamp,
    ) -> Result<Option<(PackageRecord, StoredPackument)>, FirewallError> {
        let name = &request.slot.name;
        let _turn = self.histories.lock(name);
        let record = self.read_newest_record(request, before)?;
        let first = StoredPackument {
            first_seen: now,
            validated: now,
            changed: now,
            looked: now,
            modified: None,
            content: None,
            length: 0,
            etag: None,
            last_modified: None,
            form: None,
        };
        let document = record.document.clone().map_or(first, |last| StoredPackument { content: None, looked: now, ..last });
        if record.releases.is_empty() {
            let expired = timestamp::saturating_sub(now, self.policy_snapshot().longest_age());
            return match self.ledger.record_absence(&request.key(), &document, expired) {
                Ok(true) => {
                    if record.document.is_none() {
                        self.new_absentees.insert(request.slot.clone(), ());
                    }
                    Ok(None)
                }
                Ok(false) => Err(too_many()),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(package.name = %name, error, "ledger write failed");
                    Ok(None)
                }
            };
        }
        let Reconciliation { mut change, findings, .. } = history::mark_all_removed(&record, now);
        change.document = Some(document.clone());
        let mut record = PackageRecord::clone(&record);
        record.apply(&change);
        self.history_events(name, false, &findings);
        self.write(&request.key(), &change);
        self.histories.note_look(name);
        Ok(Some((record, document)))
    }

    /// Returns the stale snapshot for a limited time after an upstream failure, else the error.
    fn stale_or_error(
        &self,
        slot: &CacheKey,
        known: Option<Arc<PackageSnapshot>>,
        rejection: FirewallError,
        now: Timestamp,
    ) -> Result<PackageLookup, FirewallError> {
        let reading = known.and_then(|known| self.stale(&known, now)).ok_or(rejection)?;
        self.unreachable.insert(slot.clone(), now);
        self.documents.insert(slot.clone(), Arc::clone(&reading.known));
        Ok(reading)
    }

    fn stale(&self, known: &Arc<PackageSnapshot>, now: Timestamp) -> Option<PackageLookup> {
        // Fetched with other credentials and not confirmed for these.
        if known.checked == NEVER_CHECKED {
            return None;
        }
        let age = Duration::try_from(now.duration_since(known.checked)).unwrap_or_default();
        if age > self.config.max_stale {
            return None;
        }
        CacheLookup { cache: CacheLabel::Document, outcome: CacheOutcome::Stale }.emit(&self.metrics);
        let upstream = known.registry.id();
        let again = self.stale_logged.get(upstream).is_some_and(|logged| timestamp::is_within(logged, STALE_LOG_INTERVAL, now));
        if !again {
            self.stale_logged.insert(Arc::clone(upstream), now);
        }
        ServedStale { name: &known.slot.name, upstream, age, again }.emit(&self.metrics);
        Some(PackageLookup { known: Arc::clone(known), stale: Some(age) })
    }

    /// Runs `work` off the async threads.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, FirewallError> {
        tokio::task::spawn_blocking(work).await.map_err(|error| self.note_lost(&error, task_failed()))
    }
}

impl FetchRequest {
    /// Creates a plain fetch for a client.
    pub(crate) fn new(client: &Client, slot: CacheKey, registry: Arc<Registry>, need: DocumentNeed) -> Self {
        Self {
            slot,
            registry,
            client: client.address,
            authorization: client.authorization.clone(),
            need,
            profile: client.profile,
            render_request: None,
            ahead: None,
            whole: false,
            not_before: None,
            again: false,
            asked: None,
        }
    }

    pub(crate) fn key(&self) -> PackageKey {
        self.slot.key(&self.registry)
    }
}

/// What one request to upstream brought. Permits are held until the outcome is recorded.
enum FetchOutcome {
    /// The stored document is still current.
    NotModified { known: Arc<PackageSnapshot>, confirmed: Confirmed, permit: Option<FetchPermit> },
    /// A new document, not read yet.
    Changed(Box<FetchedDocument>),
    /// Upstream has no such package.
    NotFound { permit: FetchPermit },
    /// The client receives the error, also if a snapshot is stored.
    Denied(UpstreamError),
    /// Upstream cannot be used now: a stored snapshot is served stale.
    Failed(FirewallError),
    /// The system clock was set, so the response is not recorded. The stored snapshot is served as before.
    Undated(Arc<PackageSnapshot>),
}

/// The properties of a confirmation by upstream.
struct Confirmed {
    form: PackumentForm,
    has_no_more: bool,
    validated: Timestamp,
    checked: Timestamp,
    behind: Option<SignedDuration>,
    validators: Option<CacheValidators>,
}

/// Checks whether some version's verdict depends on a fact that the abbreviated form lacks.
fn lacks_facts(known: &PackageSnapshot, profile: Profile, policy_snapshot: &PolicySnapshot) -> bool {
    known.form == PackumentForm::Abbreviated && !known.has_no_more && known.verdicts(policy_snapshot, profile).lacks
}

fn absent(name: &PackageName) -> FirewallError {
    FirewallError::NotFound(format!("{name} is not in the upstream registry").into())
}

/// Returns the error for an internal task that failed.
pub(crate) fn task_failed() -> FirewallError {
    FirewallError::Internal("an internal task failed".into())
}
