//! Requests for packages and their results.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;

use crate::firewall::package::history::Parted;
use crate::firewall::package::{CacheKey, PackageSnapshot};
use crate::firewall::policy_state::Profile;
use crate::firewall::request::{BaseUrl, Client};
use crate::firewall::verdicts::cache::CachedPackage;
use crate::npm::PackumentForm;
use crate::npm::compression::SegmentFormat;
use crate::upstream::{Authorization, Registry};

/// The most packages prefetched per client request. Most applications need fewer; some packages depend on the whole registry.
const MAX_PREFETCHES: u32 = 1_000;

#[derive(Clone)]
pub(crate) struct PackageLookup {
    pub package: Arc<CachedPackage>,
    /// The time since upstream confirmed it, if it is stale.
    pub stale: Option<Duration>,
}

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
    pub(crate) fn is_met_by(self, package: &PackageSnapshot) -> bool {
        match self {
            Self::Index | Self::Form(PackumentForm::Abbreviated) => true,
            Self::Form(PackumentForm::Full) => package.renders_full() || package.has_no_more,
            Self::Facts => package.form == PackumentForm::Full || package.has_no_more,
        }
    }
}

/// The rendering that the client of a fetch needs when it completes.
#[derive(Debug, Clone)]
pub(crate) struct RenderRequest {
    pub form: PackumentForm,
    pub packing: SegmentFormat,
    pub base: BaseUrl,
    pub profile: Profile,
}

/// The inputs of a fetch. Owned, because a fetch outlives the request that started it.
#[derive(Clone)]
pub(crate) struct FetchRequest {
    pub cache_key: CacheKey,
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

impl FetchRequest {
    pub(crate) fn new(client: &Client, cache_key: CacheKey, registry: Arc<Registry>, need: DocumentNeed) -> Self {
        Self {
            cache_key,
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
}

/// The key of a shared fetch. A fetch from before the last write through this process is not shared.
pub(crate) type FetchKey = (CacheKey, bool, Option<Timestamp>);

/// Selects which dependencies of a fetched packument are prefetched.
#[derive(Debug, Clone)]
pub(crate) struct PrefetchContext {
    /// The requested version, dist-tag or range.
    pub wanted: Arc<str>,
    /// The number of prefetches that the client request has left.
    left: Arc<AtomicU32>,
    /// Whether one of its prefetches failed upstream.
    is_over: Arc<AtomicBool>,
    /// Notified when a client requests this package; `None` if a client already did.
    pub promoted: Option<Arc<Notify>>,
}

impl PrefetchContext {
    /// Creates the context of a client request, which does not say which version the client will choose.
    pub(crate) fn of_question() -> Self {
        let left = Arc::new(AtomicU32::new(MAX_PREFETCHES));
        Self { wanted: "latest".into(), left, is_over: Arc::default(), promoted: None }
    }

    pub(crate) fn next(&self, wanted: &str) -> Self {
        Self { wanted: wanted.into(), promoted: None, ..self.clone() }
    }

    pub(crate) fn try_spend(&self) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Cancels the remaining prefetches of the same client request, because upstream failed.
    pub(crate) fn cancel(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_request_has_a_limited_prefetch_budget() {
        let first = PrefetchContext::of_question();
        let then = first.next("^1").next("^2");
        assert_eq!(
            (0..2 * MAX_PREFETCHES).filter(|at| if at % 2 == 0 { &first } else { &then }.try_spend()).count(),
            MAX_PREFETCHES as usize
        );
    }
}
