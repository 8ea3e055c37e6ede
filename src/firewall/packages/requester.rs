//! Sends one packument request to upstream and classifies the reply.

use std::sync::Arc;
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};

use crate::firewall::error::FirewallError;
use crate::firewall::package::Confirmation;
use crate::firewall::packages::Services;
use crate::firewall::packages::ingest::{FetchedDocument, Ingester, sha256};
use crate::firewall::packages::load::{FetchPermit, PreviousState};
use crate::firewall::packages::request::{DocumentNeed, FetchRequest};
use crate::firewall::packages::slow_registries::SlowRegistries;
use crate::firewall::verdicts::cache::CachedPackage;
use crate::npm::PackumentForm;
use crate::npm::compression::gzip;
use crate::upstream::{CacheValidators, PackumentBody, PackumentReply, UpstreamError};

/// How far upstream's clock may be behind. Beyond it, no version opens by that clock, and refusals mention it.
const MAX_BEHIND: SignedDuration = SignedDuration::from_hours(24);

/// What one request to upstream brought. Permits are held until the outcome is recorded.
pub(crate) enum FetchOutcome {
    NotModified {
        package: Arc<CachedPackage>,
        confirmed: Confirmed,
        permit: Option<FetchPermit>,
    },
    /// A new document, not read yet.
    Changed(Box<FetchedDocument>),
    NotFound {
        permit: FetchPermit,
    },
    /// The client receives the error, also if a snapshot is stored.
    Denied(UpstreamError),
    /// Upstream cannot be used now: a stored snapshot is served stale.
    Failed(FirewallError),
    /// The system clock was set, so the response is not recorded. The stored snapshot is served as before.
    Undated(Arc<CachedPackage>),
}

pub(crate) struct Confirmed {
    pub form: PackumentForm,
    pub has_no_more: bool,
    pub time: Confirmation,
    pub validators: Option<CacheValidators>,
}

pub(crate) struct PackumentRequester {
    pub services: Arc<Services>,
    pub ingester: Arc<Ingester>,
    pub slow: SlowRegistries,
}

impl PackumentRequester {
    /// Sends one request to upstream. `fallback` is the snapshot to confirm.
    pub(crate) async fn ask(
        &self,
        request: &FetchRequest,
        previous: &PreviousState,
        fallback: Option<&Arc<CachedPackage>>,
        mut permit: FetchPermit,
        now: Timestamp,
    ) -> FetchOutcome {
        let FetchRequest { registry, authorization, cache_key, .. } = request;
        let form = self.form_to_ask(request, previous.package.as_deref());
        let validators = fallback.filter(|package| package.form == form).map(|package| package.validators());
        let started = Instant::now();
        let waiting = self.slow.ask(cache_key);
        let reply = registry.packument(&cache_key.name, form, authorization, validators.as_ref(), &mut permit.share).await;
        drop(waiting);
        self.services.recorder.packument_reply(&cache_key.name, started, &reply);
        match reply {
            Ok(reply) => self.classify_reply(request, previous, fallback, (reply, form), (permit, now)),
            Err(error) => self.classify_error(request, fallback, error, permit, now),
        }
    }

    fn classify_error(
        &self,
        request: &FetchRequest,
        fallback: Option<&Arc<CachedPackage>>,
        error: UpstreamError,
        permit: FetchPermit,
        now: Timestamp,
    ) -> FetchOutcome {
        self.ingester.forms.reset(request.registry.id());
        if matches!(error, UpstreamError::NotFound | UpstreamError::Denied { .. }) {
            for observer in &*self.ingester.observers {
                observer.refused(&request.cache_key);
            }
        }
        match error {
            UpstreamError::NotFound if self.services.wall_clock.is_correct(now, None) => FetchOutcome::NotFound { permit },
            UpstreamError::Denied { .. } => FetchOutcome::Denied(error),
            UpstreamError::MissingPage { .. } if fallback.is_none() => {
                self.services.cache.absent.insert(request.cache_key.clone(), now);
                FetchOutcome::Denied(error)
            }
            _ => FetchOutcome::Failed(error.into()),
        }
    }

    /// `asked` is the form that was requested.
    fn classify_reply(
        &self,
        request: &FetchRequest,
        previous: &PreviousState,
        fallback: Option<&Arc<CachedPackage>>,
        (reply, asked): (PackumentReply, PackumentForm),
        (permit, now): (FetchPermit, Timestamp),
    ) -> FetchOutcome {
        self.services.recorder.clock_skew(&request.registry, reply.clock(), now);
        let recorded = self.services.wall_clock.is_correct(now, reply.clock());
        if let Some(package) = fallback.filter(|_| !recorded) {
            return FetchOutcome::Undated(Arc::clone(package));
        }
        let behind = reply.clock().map(|clock| now.duration_since(clock)).filter(|behind| *behind > MAX_BEHIND);
        let time = Confirmation { validated: reply.validated(now), checked: now, behind };
        let (body, is_gzip, form, validators) = match (reply.freshness, &previous.package) {
            (PackumentBody::Changed { body, gzip, form, validators }, _) => (body, gzip, form, validators),
            (PackumentBody::NotModified, Some(package)) => {
                let form = package.form;
                let confirmed = Confirmed { form, has_no_more: false, time, validators: None };
                return FetchOutcome::NotModified { package: Arc::clone(package), confirmed, permit: Some(permit) };
            }
            (PackumentBody::NotModified, None) => {
                let error = FirewallError::Internal("upstream sent 304 for a packument that is not cached".into());
                return FetchOutcome::Failed(error);
            }
        };
        if is_gzip && !gzip::is_gzip(&body) {
            let detail = "declared as gzip, but is not gzip";
            return FetchOutcome::Failed(FirewallError::unreadable(&request.cache_key.name, detail));
        }
        let has_no_more = form != asked;
        if let Some(package) = previous.package.clone().filter(|package| package.content() == sha256(&body)) {
            let permit = if request.whole {
                self.ingester.loader.store_document(&package, body, permit);
                None
            } else {
                Some(permit)
            };
            if !recorded {
                return FetchOutcome::Undated(package);
            }
            let form = if form == PackumentForm::Full { form } else { package.form };
            let validators = Some(validators);
            let confirmed = Confirmed { form, has_no_more, time, validators };
            return FetchOutcome::NotModified { package, confirmed, permit };
        }
        // A clock that far behind opens no version. Open versions stay open.
        let until = previous.last_validated().filter(|_| behind.is_some());
        let time = Confirmation { validated: until.map_or(time.validated, |until| time.validated.min(until)), ..time };
        FetchOutcome::Changed(Box::new(FetchedDocument { form, has_no_more, body, validators, time, recorded, place: permit }))
    }

    /// Returns the form to request: that of the cached document, so that it can be confirmed, else the form that is needed.
    fn form_to_ask(&self, request: &FetchRequest, package: Option<&CachedPackage>) -> PackumentForm {
        match package {
            // A document that arrived instead of the full form is replaced once upstream sends that.
            Some(package)
                if package.form == PackumentForm::Abbreviated && !package.has_no_more && request.need.is_met_by(package) =>
            {
                PackumentForm::Abbreviated
            }
            None if request.need == DocumentNeed::Index => self.ingester.forms.form_for_index(request.registry.id()),
            _ => PackumentForm::Full,
        }
    }
}
