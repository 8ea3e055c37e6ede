//! Where a package's facts come from: memory, then the store, then one upstream request that every waiter shares.
//!
//! Refuses to judge: it returns what is known and since when, and what is known never opens a version by being old,
//! because verdicts are as of the instant upstream confirmed it.

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
use crate::firewall::packages::ingest::{Contradictions, FetchPermit, FetchedDocument, TakenIn, content_of};
use crate::firewall::packages::load::{NEVER, PreviousState};
use crate::firewall::packages::subpackages;
use crate::firewall::packages::views::{Asked, too_many};
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
use crate::upstream::{Authorization, CacheValidators, PackumentBody, Registry, UpstreamError};

/// How long a package that is not there is remembered as such.
pub(crate) const ABSENT: Duration = Duration::from_secs(60);

/// How long upstream is left alone for a package after it could not be asked, while there is an answer to serve.
const LEAVE_ALONE: Duration = Duration::from_secs(5);

/// How often it is told that a registry's last answers are served.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// How far upstream's clock may be behind ours. Beyond it nothing opens by it, and refusals name it.
const MAX_BEHIND: SignedDuration = SignedDuration::from_hours(24);

/// How often a packument is asked for because a flight that was joined brought it in the other form.
const ATTEMPTS: usize = 4;

/// What is known, and how it may be used.
#[derive(Clone)]
pub(crate) struct PackageLookup {
    /// The facts.
    pub known: Arc<PackageSnapshot>,
    /// How long ago upstream confirmed them, when it could not be asked now.
    pub stale: Option<Duration>,
}

/// What a question needs of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DocumentNeed {
    /// The index alone, of a document in either form: the smaller one is asked for where it has `time`.
    Index,
    /// A document that can be rendered in this form. Where none is at hand the full one is asked for, which does for both.
    Form(PackumentForm),
    /// A document that carries all that upstream sends: the answer to a request for the full form.
    Facts,
}

impl DocumentNeed {
    /// Whether what is known does.
    #[must_use]
    pub(crate) fn is_met_by(self, known: &PackageSnapshot) -> bool {
        match self {
            Self::Index | Self::Form(PackumentForm::Abbreviated) => true,
            Self::Form(PackumentForm::Full) => known.renders_full() || known.has_no_more,
            Self::Facts => known.form == PackumentForm::Full || known.has_no_more,
        }
    }
}

/// Everything a flight needs, owned, since it outlives whoever asked.
#[derive(Clone)]
pub(crate) struct FetchRequest {
    pub slot: CacheKey,
    pub registry: Arc<Registry>,
    /// Who asked first, whose slots it uses.
    pub client: IpAddr,
    pub authorization: Authorization,
    pub need: DocumentNeed,
    /// By whose policy it is seen whether a version has come of age.
    pub profile: Profile,
    pub wish: Option<RenderRequest>,
    /// What is looked for in a new document, to be fetched next.
    pub ahead: Option<PrefetchContext>,
    /// Whether the document itself is needed, so that neither freshness nor a 304 will do.
    pub whole: bool,
    /// Since when upstream must have been asked, whatever is fresh.
    pub not_before: Option<Timestamp>,
    /// Whether upstream is asked however fresh the last answer is: another view of the package contradicts it.
    pub again: bool,
    /// Versions over which other views were asked and disagree; `None` where none was asked yet.
    pub asked: Option<Arc<Parted>>,
}

/// What is shared by questions that ask upstream for the same: not with those from before the package was last written through us.
pub(crate) type FetchKey = (CacheKey, bool, Option<Timestamp>);

impl Components {
    /// What memory has of `name`, if it may be used as it is: nobody waits then.
    pub(crate) fn at_hand(
        &self,
        asker: &Client,
        name: &PackageName,
        need: DocumentNeed,
        moment: &EvalContext,
    ) -> Option<PackageLookup> {
        let slot = CacheKey::of(name, self.registries.of(name), &asker.authorization);
        let known = self.fresh(&slot, asker.profile, need, moment)?;
        if subpackages::wants_kin(&known, &moment.world).is_some() || lacks_facts(&known, asker.profile, &moment.world) {
            return None;
        }
        CacheLookup { cache: CacheLabel::Document, outcome: CacheOutcome::Hit }.emit(&self.metrics);
        Some(PackageLookup { known, stale: None })
    }

    /// What is known of `name` as `asker` may see it, fresh if upstream can be asked. With a `wish`, a document that has to
    /// be read is rendered at once, while it is at hand.
    ///
    /// # Errors
    /// Not found, upstream's failure when there is nothing to fall back on, an unreadable packument.
    pub(crate) async fn reading(
        self: &Arc<Self>,
        asker: &Client,
        name: &PackageName,
        need: DocumentNeed,
        wish: Option<RenderRequest>,
    ) -> Result<PackageLookup, FirewallError> {
        let reading = self.look_up(asker, name, need, wish.clone()).await?;
        let part_lacks = self.find_kin(asker, &reading.known).await;
        self.judge_many(&reading.known, asker.profile, asker.address).await;
        if !part_lacks && !lacks_facts(&reading.known, asker.profile, &self.world()) {
            return Ok(reading);
        }
        let reading = self.look_up(asker, name, DocumentNeed::Facts, wish).await?;
        self.find_kin(asker, &reading.known).await;
        self.judge_many(&reading.known, asker.profile, asker.address).await;
        Ok(reading)
    }

    /// Judges a package of many versions off the async threads, once for all that wait for it. Others are judged where they are asked
    /// for.
    pub(crate) async fn judge_many(&self, known: &Arc<PackageSnapshot>, profile: Profile, client: IpAddr) {
        if !known.has_many_versions() {
            return;
        }
        Box::pin(async {
            let _turn = known.screens.turn.lock().await;
            let world = self.world();
            if known.is_judged(&world, profile) {
                return;
            }
            let permit = self.heavy.acquire(client).await;
            let known = Arc::clone(known);
            let judging = self.blocking(move || {
                known.judge(&world, profile);
                drop(permit);
            });
            // One that is lost was logged.
            let _ = judging.await;
        })
        .await;
    }

    /// Does work that grows with the number of versions of `known`: off the async threads, a few at once, where those are many.
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

    /// Like [`Components::reading`], without what other packages say of it.
    ///
    /// # Errors
    /// As [`Components::reading`].
    pub(crate) async fn look_up(
        self: &Arc<Self>,
        asker: &Client,
        name: &PackageName,
        need: DocumentNeed,
        wish: Option<RenderRequest>,
    ) -> Result<PackageLookup, FirewallError> {
        let found = self.look_up_with(asker, name, need, wish).await;
        found.map_err(|rejection| self.explain_unsent(asker, name, rejection))
    }

    async fn look_up_with(
        self: &Arc<Self>,
        asker: &Client,
        name: &PackageName,
        need: DocumentNeed,
        wish: Option<RenderRequest>,
    ) -> Result<PackageLookup, FirewallError> {
        let registry = Arc::clone(self.registries.of(name));
        let slot = CacheKey::of(name, &registry, &asker.authorization);
        let moment = self.moment();
        let now = moment.now;
        if let Some(known) = self.fresh(&slot, asker.profile, need, &moment) {
            CacheLookup { cache: CacheLabel::Document, outcome: CacheOutcome::Hit }.emit(&self.metrics);
            return Ok(PackageLookup { known, stale: None });
        }
        let is_absent = |since| timestamp::is_within(since, ABSENT, now) && self.outlives_writes(name, since);
        if self.absent.get(&slot).is_some_and(is_absent) {
            return Err(absent(name));
        }
        if !self.is_known(&slot) {
            self.may_ask_for_more(asker.address)?;
        }
        let ahead =
            wish.as_ref().filter(|_| asker.resolves && self.config.fetch_ahead > 0).map(|_| PrefetchContext::of_question());
        let request = FetchRequest { wish, ahead, ..FetchRequest::new(asker, slot, registry, need) };
        for _ in 0..ATTEMPTS {
            // A flight that was under way may have been for less.
            let landed = self.fetch_or_stale(request.clone(), now).await;
            if let Err(FirewallError::NotFound(_)) = &landed {
                self.note_absentee(&request.slot, asker.address);
            }
            let reading = landed?;
            if need.is_met_by(&reading.known) {
                return Ok(reading);
            }
        }
        Err(FirewallError::Internal("the packument was fetched in the other form too often".into()))
    }

    /// Like [`Components::reading`], with the document's bytes, decoded: fetched again when the store no longer has them.
    ///
    /// # Errors
    /// As [`Components::reading`].
    pub(crate) async fn document(
        self: &Arc<Self>,
        asker: &Client,
        reading: PackageLookup,
    ) -> Result<(PackageLookup, Bytes), FirewallError> {
        let permit = self.loads.acquire(asker.address).await;
        self.document_with(asker, reading, permit).await
    }

    /// Like [`Components::document`], with a permit that was waited for.
    ///
    /// # Errors
    /// As [`Components::reading`].
    pub(crate) async fn document_with(
        self: &Arc<Self>,
        asker: &Client,
        reading: PackageLookup,
        permit: FairPermit,
    ) -> Result<(PackageLookup, Bytes), FirewallError> {
        let permit = Arc::new(permit);
        if let Some(document) = self.load(&reading.known, &permit).await? {
            return Ok((reading, document));
        }
        let need =
            DocumentNeed::Form(if reading.known.renders_full() { PackumentForm::Full } else { PackumentForm::Abbreviated });
        let (slot, registry) = (reading.known.slot.clone(), Arc::clone(&reading.known.registry));
        let request = FetchRequest { whole: true, ..FetchRequest::new(asker, slot, registry, need) };
        let again = self.fetch_shared(request).await?;
        match self.load(&again.known, &permit).await? {
            Some(document) => Ok((again, document)),
            None => Err(FirewallError::Internal("the packument is no longer in the store".into())),
        }
    }

    /// What memory has, if it does for the need without asking upstream.
    fn fresh(&self, slot: &CacheKey, profile: Profile, need: DocumentNeed, moment: &EvalContext) -> Option<Arc<PackageSnapshot>> {
        self.documents.get(slot).filter(|known| need.is_met_by(known) && self.is_fresh(known, profile, moment))
    }

    /// Whether `known` may be used without asking upstream: younger than its time to live, and no version has come of age
    /// since it was checked, and nobody wrote to the package through us. A clock that was set back makes it due.
    fn is_fresh(&self, known: &PackageSnapshot, profile: Profile, &EvalContext { now, ref world }: &EvalContext) -> bool {
        // One of many versions is first judged elsewhere.
        if !known.is_judged(world, profile) {
            return false;
        }
        let opening = known.screen(world, profile).next_opening;
        let opened = opening.is_some_and(|opening| known.checked < opening && opening <= now);
        timestamp::is_within(known.checked, self.config.packument_ttl, now)
            && !opened
            && self.outlives_writes(&known.slot.name, known.checked)
    }

    /// Waits for upstream as long as the wait may last while the last answer will do. The flight goes on, and what it
    /// brings is for whoever asks next.
    pub(crate) async fn fetch_or_stale(
        self: &Arc<Self>,
        request: FetchRequest,
        now: Timestamp,
    ) -> Result<PackageLookup, FirewallError> {
        let last = || self.documents.get(&request.slot).filter(|known| request.need.is_met_by(known));
        if let Some(last) = last().filter(|_| self.is_left_alone(&request, now))
            && let Some(reading) = self.stale(&last, now)
        {
            self.try_another(&request, now);
            return Ok(reading);
        }
        let mut flight = pin!(self.fetch_shared(request.clone()));
        // Joined first: it may have been begun for nobody just now.
        let hurried = async { tokio::join!(flight.as_mut(), async { self.leads.hurry(&request.slot) }) };
        if let Ok((landed, ())) = timeout(self.config.patience, hurried).await {
            return landed;
        }
        // What is fresh by now came with the flight, which has landed.
        let last = last().filter(|last| !self.satisfies(&request, last));
        let Some(reading) = last.and_then(|last| self.stale(&last, now)) else {
            return flight.await;
        };
        // Of a package that was never answered nothing follows: a client can ask for any number of those.
        let heard = request.registry.last_heard();
        self.silence.begin(request.registry.id(), &request.slot, self.config.patience, heard, self.clock.now());
        self.unreachable.insert(request.slot.clone(), now);
        Ok(reading)
    }

    /// Whether upstream could not be asked for the package a moment ago, or said nothing to whoever asked for another: what is
    /// under way then tells when it speaks again.
    fn is_left_alone(&self, request: &FetchRequest, now: Timestamp) -> bool {
        let counts = |since| timestamp::is_within(since, LEAVE_ALONE, now) && self.outlives_writes(&request.slot.name, since);
        let unreachable = || self.unreachable.get(&request.slot).is_some_and(counts);
        self.silence.holds(request.registry.id(), request.registry.last_heard(), now) || unreachable()
    }

    /// Asks for a package though its registry is left alone, where it may be silent over one other package alone. No client waits
    /// for the answer, whose headers end the silence.
    fn try_another(self: &Arc<Self>, request: &FetchRequest, now: Timestamp) {
        let (registry, inner) = (Arc::clone(&request.registry), Arc::clone(self));
        if !self.silence.is_to_be_tried(registry.id(), &request.slot, registry.last_heard(), now) {
            return;
        }
        let trial = FetchRequest { again: true, ..request.clone() };
        // Boxed and named as what it is: it is begun by such a fetch.
        let asking: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
            let permit = inner.fetches.of(&registry).acquire(trial.client).await;
            // What comes of it is remembered, or the silence goes on.
            drop(inner.fetch_packument(trial, permit).await);
        });
        tokio::spawn(asking);
    }

    /// Whether `known` is what `request` is for, without asking upstream.
    fn satisfies(&self, request: &FetchRequest, known: &PackageSnapshot) -> bool {
        let asked_since = |instant| known.checked != NEVER && known.checked >= instant;
        request.not_before.is_none_or(asked_since) && self.is_fresh(known, request.profile, &self.moment())
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

    async fn fetch_packument(self: Arc<Self>, request: FetchRequest, permit: FairPermit) -> Result<PackageLookup, FirewallError> {
        let mut place = FetchPermit::of(permit, self.allowance.share_in(request.registry.id()));
        let now = self.clock.now();
        let before = self.before(&request).await?;
        let usable = before.known.clone().filter(|known| request.need.is_met_by(known));
        if let Some(known) = &usable {
            self.judge_many(known, request.profile, request.client).await;
        }
        if let Some(known) = usable.clone().filter(|_| !request.whole && !request.again) {
            if self.satisfies(&request, &known) {
                self.documents.insert(request.slot.clone(), Arc::clone(&known));
                return Ok(PackageLookup { known, stale: None });
            }
            // For whoever does not wait for this flight to land.
            if known.checked != NEVER {
                self.documents.insert(request.slot.clone(), Arc::clone(&known));
            }
            if self.is_left_alone(&request, now)
                && let Some(stale) = self.stale(&known, now)
            {
                self.try_another(&request, now);
                return Ok(stale);
            }
        }
        // Where the document itself is needed, knowing what was in it is nothing to fall back on.
        let last = usable.clone().filter(|_| !request.whole);
        let form = self.form_to_ask(&request, before.known.as_deref());
        let same_form = last.as_ref().filter(|known| known.form == form);
        let validators = same_form.map(|known| known.validators());
        let asked = Instant::now();
        let FetchRequest { registry, authorization, .. } = &request;
        let question = registry.packument(&request.slot.name, form, authorization, validators.as_ref(), &mut place.share);
        let asking = self.silence.ask(&request.slot);
        let fetched = question.await;
        drop(asking);
        self.tell(&request, asked, &fetched);
        if let Err(UpstreamError::NotFound | UpstreamError::Denied { .. }) = &fetched {
            self.entitlements.end(&request.slot);
        }
        if fetched.is_err() {
            self.forms.not_learned(request.registry.id());
        }
        let fetched = match fetched {
            Ok(fetched) => fetched,
            Err(UpstreamError::NotFound) if self.is_clock_right(now, None) => return self.vanished(request, before, now).await,
            Err(error @ UpstreamError::Denied { .. }) => return Err(error.into()),
            Err(error @ UpstreamError::MissingPage { .. }) if last.is_none() => {
                self.absent.insert(request.slot.clone(), now);
                return Err(error.into());
            }
            Err(error) => return self.fall_back(&request.slot, last, error.into(), now),
        };
        self.note_skew(&request.registry, fetched.clock(), now);
        let recorded = self.is_clock_right(now, fetched.clock());
        if let Some(known) = last.clone().filter(|_| !recorded) {
            // Our clock was set: an answer dated by it says nothing new.
            return Ok(PackageLookup { known, stale: None });
        }
        let behind = fetched.clock().map(|clock| now.duration_since(clock)).filter(|behind| *behind > MAX_BEHIND);
        let validated = fetched.validated(now);
        match (fetched.freshness, before.known.clone()) {
            (PackumentBody::NotModified, Some(known)) => {
                let form = known.form;
                let confirmed = Confirmed { form, has_no_more: false, validated, checked: now, behind, validators: None };
                self.confirm(&request, &known, &before, confirmed).await
            }
            (PackumentBody::NotModified, None) => Err(FirewallError::Internal("upstream confirmed what was never here".into())),
            (PackumentBody::Changed { body, gzip: true, .. }, _) if !gzip::is_gzip(&body) => {
                let detail = "it is said to be gzip and is not".into();
                let rejection = FirewallError::Unreadable { name: request.slot.name.clone(), detail };
                self.fall_back(&request.slot, last, rejection, now)
            }
            (PackumentBody::Changed { body, form: came, validators, .. }, known) => {
                let has_no_more = came != form;
                let same = known.clone().filter(|known| known.content == content_of(&body));
                if let Some(known) = same {
                    if request.whole {
                        self.keep(&known, body, place);
                    }
                    if !recorded {
                        return Ok(PackageLookup { known, stale: None });
                    }
                    let form = if came == PackumentForm::Full { came } else { known.form };
                    let validators = Some(validators);
                    let confirmed = Confirmed { form, has_no_more, validated, checked: now, behind, validators };
                    return self.confirm(&request, &known, &before, confirmed).await;
                }
                // A clock that far behind opens nothing: what was open before stays so.
                let until = before.last_validated().filter(|_| behind.is_some());
                let validated = until.map_or(validated, |until| validated.min(until));
                let arrival = FetchedDocument {
                    form: came,
                    has_no_more,
                    body,
                    validators,
                    validated,
                    checked: now,
                    behind,
                    recorded,
                    place,
                };
                match Arc::clone(&self).take_in(request.clone(), arrival, before).await {
                    Ok(TakenIn::Read(reading)) => Ok(reading),
                    Ok(TakenIn::Contradicts(contradictions)) => {
                        let asked = self.ask_views_again(&request, contradictions, Asked { at: now, validated }).await;
                        // Fetched again: what came meanwhile waits for nothing.
                        let permit = self.fetches.of(&request.registry).acquire(request.client).await;
                        Box::pin(self.fetch_packument(FetchRequest { asked: Some(Arc::new(asked)), ..request }, permit)).await
                    }
                    // Abbreviated here means without `time`, which verdicts need.
                    // Without validators: a registry that has one ETag for both forms would confirm this one.
                    Ok(TakenIn::Timeless) => {
                        let slot = request.slot.clone();
                        let permit = self.fetches.of(&request.registry).acquire(request.client).await;
                        let whole = FetchRequest { need: DocumentNeed::Facts, ..request };
                        match Box::pin(Arc::clone(&self).fetch_packument(whole, permit)).await {
                            Err(rejection) if rejection.is_upstreams_failure() => self.fall_back(&slot, last, rejection, now),
                            other => other,
                        }
                    }
                    Err(rejection @ FirewallError::Unreadable { .. }) => self.fall_back(&request.slot, last, rejection, now),
                    Err(other) => Err(other),
                }
            }
        }
    }

    /// The form to ask upstream for: that of the document at hand, so that it can be confirmed; with none, what is needed.
    fn form_to_ask(&self, request: &FetchRequest, known: Option<&PackageSnapshot>) -> PackumentForm {
        match known {
            // One that came instead of the full form is replaced as soon as upstream sends that.
            Some(known) if known.form == PackumentForm::Abbreviated && !known.has_no_more && request.need.is_met_by(known) => {
                PackumentForm::Abbreviated
            }
            None if request.need == DocumentNeed::Index => self.forms.for_index(request.registry.id()),
            _ => PackumentForm::Full,
        }
    }

    /// Whether our wall clock may be believed, by what an upstream's clock says.
    fn is_clock_right(&self, now: Timestamp, upstream: Option<Timestamp>) -> bool {
        self.wall_clock.is_right(now, self.clock.elapsed(), upstream)
    }

    /// Upstream confirmed what is known.
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
        let confirmed = known.confirmed(request.slot.clone(), form, validated, checked, document.clone());
        let mut confirmed = PackageSnapshot { has_no_more, behind, ..confirmed };
        // What another view or another token was shown since may bind this one.
        if confirmed.disputed || request.again || !self.histories.is_last_look(&request.slot.name, confirmed.look) {
            let contradictions;
            (confirmed, contradictions) = self.compare_confirmed(request, confirmed, before, None).await?;
            if !contradictions.is_empty() {
                let asked = Asked { at: checked, validated };
                let parted = self.ask_views_again(request, contradictions, asked).await;
                (confirmed, _) = self.compare_confirmed(request, confirmed, before, Some(parted)).await?;
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
        parted: Option<Parted>,
    ) -> Result<(PackageSnapshot, Contradictions), FirewallError> {
        let (inner, request, before) = (Arc::clone(self), request.clone(), before.clone());
        self.blocking(move || inner.compare_again(&request, &known, &before, parted.as_ref())).await?
    }

    /// Keeps what is known, also for the next token's question.
    pub(crate) fn remember(&self, known: &Arc<PackageSnapshot>) {
        if known.slot.is_own() {
            self.documents.insert(known.slot.shared(), Arc::clone(known));
        }
        self.documents.insert(known.slot.clone(), Arc::clone(known));
    }

    /// Upstream says there is no such package. One that was there is gone with all its versions, which the ledger keeps,
    /// so that lockfiles of old ones go on working and takedowns are told as such.
    async fn vanished(
        self: &Arc<Self>,
        request: FetchRequest,
        before: PreviousState,
        now: Timestamp,
    ) -> Result<PackageLookup, FirewallError> {
        let slot = request.slot.clone();
        let recorded = if slot.is_own() {
            // A token that may not see a package receives a 404, too: that is no look.
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
            born: None,
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
            kin: OnceLock::new(),
        });
        self.remember(&known);
        Ok(PackageLookup { known, stale: None })
    }

    /// Records that a package is not there: one that was never seen as such, so that it cannot claim to be old when it appears. `None`
    /// for such a one; else its record. Blocks.
    fn record_vanished(
        &self,
        request: &FetchRequest,
        before: &PreviousState,
        now: Timestamp,
    ) -> Result<Option<(PackageRecord, StoredPackument)>, FirewallError> {
        let name = &request.slot.name;
        let _turn = self.histories.lock(name);
        let record = self.read_record(request, before)?;
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
            let expired = timestamp::before(now, self.world().longest_age());
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
                    tracing::error!(package.name = %name, error, "the ledger cannot be written");
                    Ok(None)
                }
            };
        }
        let Reconciliation { mut change, findings, .. } = history::vanish(&record, now);
        change.document = Some(document.clone());
        let mut record = PackageRecord::clone(&record);
        record.apply(&change);
        self.report(name, false, &findings);
        self.write(&request.key(), &change);
        self.histories.note_look(name);
        Ok(Some((record, document)))
    }

    /// Serves the last answer while upstream cannot be asked, for a bounded time.
    fn fall_back(
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
        // Kept for other credentials, and never confirmed for these.
        if known.checked == NEVER {
            return None;
        }
        let age = Duration::try_from(now.duration_since(known.checked)).unwrap_or_default();
        if age > self.config.max_stale {
            return None;
        }
        CacheLookup { cache: CacheLabel::Document, outcome: CacheOutcome::Stale }.emit(&self.metrics);
        let upstream = known.registry.id();
        let again = self.stale_told.get(upstream).is_some_and(|told| timestamp::is_within(told, TOLD_EVERY, now));
        if !again {
            self.stale_told.insert(Arc::clone(upstream), now);
        }
        ServedStale { name: &known.slot.name, upstream, age, again }.emit(&self.metrics);
        Some(PackageLookup { known: Arc::clone(known), stale: Some(age) })
    }

    /// Runs `work` off the async threads.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, FirewallError> {
        tokio::task::spawn_blocking(work).await.map_err(|error| self.note_lost(&error, lost()))
    }
}

impl FetchRequest {
    /// A fetch of what `asker` needs, and of nothing besides.
    pub(crate) fn new(asker: &Client, slot: CacheKey, registry: Arc<Registry>, need: DocumentNeed) -> Self {
        Self {
            slot,
            registry,
            client: asker.address,
            authorization: asker.authorization.clone(),
            need,
            profile: asker.profile,
            wish: None,
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

/// How upstream confirmed a document.
struct Confirmed {
    form: PackumentForm,
    has_no_more: bool,
    validated: Timestamp,
    checked: Timestamp,
    behind: Option<SignedDuration>,
    validators: Option<CacheValidators>,
}

/// Checks whether some version's verdict depends on a fact that the abbreviated form lacks.
fn lacks_facts(known: &PackageSnapshot, profile: Profile, world: &PolicySnapshot) -> bool {
    known.form == PackumentForm::Abbreviated && !known.has_no_more && known.screen(world, profile).lacks
}

fn absent(name: &PackageName) -> FirewallError {
    FirewallError::NotFound(format!("{name} is not in the upstream registry").into())
}

/// A task of ours ended without an answer.
pub(crate) fn lost() -> FirewallError {
    FirewallError::Internal("a task was lost".into())
}
