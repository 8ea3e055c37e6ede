//! Caches rendered packuments and the responses assembled from them. Each is made once and replaced when its inputs change.
//! Nothing is cached for an arbitrary base URL that a client made up.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;
use moka::sync::Cache;

use crate::firewall::error::{FirewallError, Result};
use crate::firewall::package::{CacheKey, PackageSnapshot};
use crate::firewall::packages::Services;
use crate::firewall::packages::fetch_slots::{SharedFetches, SlotRequest};
use crate::firewall::packages::ingest::{IngestEvent, PackageObserver};
use crate::firewall::packages::parse_pool::HeldBytes;
use crate::firewall::packages::request::{PackageLookup, RenderRequest};
use crate::firewall::packages::service::PackageService;
use crate::firewall::policy_state::{PolicyState, Profile};
use crate::firewall::request::{BaseUrl, Client, ContentCoding, PackumentResponse};
use crate::firewall::verdicts::VerdictTable;
use crate::firewall::verdicts::cache::CachedPackage;
use crate::net::MemoryBudget;
use crate::npm::compression::{SegmentEncoder, SegmentFormat};
use crate::npm::packument::parse;
use crate::npm::packument::render::{RenderSource, VersionFilter};
use crate::npm::{AbbreviatedFields, Algorithm, Digest, PackageName, PackumentForm, PackumentView};
use crate::telemetry::{CacheLabel, CacheOutcome};

/// The size in bytes from which a rendered view triggers eviction at once.
const LARGE_VIEW_BYTES: u32 = 1 << 20;

/// The inputs of a response to assemble.
struct Wanted<'a> {
    key: &'a ViewKey,
    package: &'a CachedPackage,
    table: &'a Arc<VerdictTable>,
    coding: ContentCoding,
    restricted: bool,
}

/// The cache key of a rendered view.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ViewKey {
    cache_key: CacheKey,
    form: PackumentForm,
    packing: SegmentFormat,
    base: Arc<str>,
    profile: Profile,
}

/// A rendered view with the responses assembled from it.
pub(crate) struct CachedView {
    /// SHA-256 of the document it was rendered from.
    content: [u8; 32],
    form: PackumentForm,
    name: PackageName,
    base: BaseUrl,
    view: PackumentView,
    answers: Mutex<Vec<CachedResponse>>,
}

/// A response that shares no memory with its view: uncompressed, which takes many times the memory. Few clients
/// request it, so few are kept.
pub(crate) struct UnsegmentedResponse {
    content: [u8; 32],
    table: Digest,
    answer: PackumentResponse,
}

impl UnsegmentedResponse {
    /// Returns the approximate memory of the response, in bytes.
    fn weight(&self) -> u32 {
        u32::try_from(self.answer.length + 512).unwrap_or(u32::MAX)
    }
}

/// The cache key of such a response: the view, the coding, and whether it includes `policyRestrictions`.
pub(crate) type UnsegmentedKey = (ViewKey, ContentCoding, bool);

/// A response and its inputs.
struct CachedResponse {
    restricted: bool,
    table: Digest,
    answer: PackumentResponse,
}

impl CachedView {
    /// Returns the approximate memory of the view, in bytes.
    fn weight(&self) -> u32 {
        u32::try_from(self.view.weight() + 2048).unwrap_or(u32::MAX)
    }

    fn kept(&self, restricted: bool, table: &VerdictTable) -> Option<PackumentResponse> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |kept: &&CachedResponse| kept.restricted == restricted && kept.table == table.identity;
        answers.iter().find(fits).map(|kept| kept.answer.clone())
    }

    /// Assembles a response; `None` if the view must be rendered again first.
    fn assemble(
        &self,
        table: &VerdictTable,
        coding: ContentCoding,
        restricted: bool,
        now: Timestamp,
    ) -> Option<PackumentResponse> {
        let restrictions =
            table.restrictions.as_ref().filter(|_| restricted).map(|restrictions| restrictions.to_json(&self.base, &self.name));
        let restrictions = restrictions.as_deref();
        let assembly = self.view.assemble(&VersionFilter { shown: &table.shown, tags: table.tags.as_deref(), restrictions })?;
        let mut entity = assembly.fingerprint().to_vec();
        entity.push(coding as u8);
        let etag = format!("\"{}\"", &Digest::of(Algorithm::Sha256, &entity).to_hex()[..32]);
        let chunks: Arc<[Bytes]> = match coding {
            ContentCoding::Gzip | ContentCoding::Zstd => assembly.packed().into(),
            ContentCoding::Identity => Arc::new([assembly.identity()]),
        };
        let length = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        Some(PackumentResponse { chunks, length, form: self.form, coding, etag: etag.into(), last_modified: now, stale: None })
    }

    /// Caches a response, which shares the view's memory, and replaces the previous one.
    fn keep(&self, restricted: bool, table: &VerdictTable, answer: &PackumentResponse) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.retain(|kept| kept.restricted != restricted);
        answers.push(CachedResponse { restricted, table: table.identity.clone(), answer: answer.clone() });
    }
}

/// The rendered views, bounded in bytes.
pub(crate) struct ViewCache {
    views: Cache<ViewKey, Arc<CachedView>>,
    policy: Arc<PolicyState>,
}

impl ViewCache {
    /// Creates a cache of at most `bytes`.
    pub(crate) fn new(bytes: u64, policy: Arc<PolicyState>) -> Self {
        let views = Cache::builder().max_capacity(bytes).weigher(|_, view: &Arc<CachedView>| view.weight());
        Self { views: views.build(), policy }
    }

    /// Returns the view that was rendered from the document of `package`.
    fn find(&self, key: &ViewKey, package: &PackageSnapshot) -> Option<Arc<CachedView>> {
        self.views.get(key).filter(|rendered| rendered.content == package.content())
    }

    /// Renders `document`, which must be that of `package`, and caches the view. Blocks. `fields` save parsing the document again.
    fn render(
        &self,
        package: &CachedPackage,
        document: &[u8],
        fields: Option<&AbbreviatedFields>,
        render_request: &RenderRequest,
        encoder: &mut SegmentEncoder,
    ) -> Option<Arc<CachedView>> {
        let packument = package.packument.as_ref()?;
        let again;
        let fields = if let Some(fields) = fields {
            fields
        } else {
            again = parse::parse(&package.cache_key.name, document).ok()?.fields;
            &again
        };
        let table = package.verdicts(&self.policy.snapshot(), render_request.profile);
        encoder.packing = render_request.packing;
        let view = PackumentView::render(
            RenderSource { document, packument, fields },
            render_request.form,
            render_request.base.rewriting(),
            &|at| !table.shown[at],
            encoder,
        );
        let rendered = Arc::new(CachedView {
            content: package.content(),
            form: render_request.form,
            name: package.cache_key.name.clone(),
            base: render_request.base.clone(),
            view,
            answers: Mutex::default(),
        });
        if render_request.base.cacheable {
            let (form, packing, base) = (render_request.form, render_request.packing, Arc::clone(render_request.base.view()));
            let key = ViewKey { cache_key: package.cache_key.shared(), form, packing, base, profile: render_request.profile };
            self.views.insert(key, Arc::clone(&rendered));
            // Otherwise the views that it displaces would stay until the next request.
            if rendered.weight() > LARGE_VIEW_BYTES {
                self.views.run_pending_tasks();
            }
        }
        Some(rendered)
    }
}

impl PackageObserver for ViewCache {
    /// Renders a new document for the client that waits for it.
    fn ingested(&self, event: &mut IngestEvent<'_>) {
        if let Some(render_request) = &event.request.render_request {
            self.render(event.package, event.document, Some(event.fields), render_request, event.encoder);
        }
    }
}

/// Makes packument responses, and caches them.
pub(crate) struct ResponseCache {
    views: Arc<ViewCache>,
    /// Uncompressed responses, bounded in bytes.
    unsegmented: Cache<UnsegmentedKey, Arc<UnsegmentedResponse>>,
    running: SharedFetches<ViewKey, Arc<CachedView>>,
    /// Memory for unsegmented responses until they are sent, with one lane per client.
    memory: Arc<MemoryBudget>,
    packages: Arc<PackageService>,
    services: Arc<Services>,
}

impl ResponseCache {
    /// Creates a cache of at most `bytes` besides `views`. `memory` bounds the unsegmented responses that are being sent.
    pub(crate) fn new(
        services: &Arc<Services>,
        views: Arc<ViewCache>,
        bytes: u64,
        memory: Arc<MemoryBudget>,
        packages: Arc<PackageService>,
    ) -> Self {
        let unsegmented =
            Cache::builder().max_capacity(bytes).weigher(|_, response: &Arc<UnsegmentedResponse>| response.weight());
        let (unsegmented, running) = (unsegmented.build(), SharedFetches::new(&services.workers));
        Self { views, unsegmented, running, memory, packages, services: Arc::clone(services) }
    }

    /// Returns the approximate memory of all cached responses, in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.views.views.weighted_size() + self.unsegmented.weighted_size()
    }

    /// Returns the packument of `reading` as the client may see it; `None` if another document arrived in the meantime and the
    /// request must be repeated.
    pub(crate) async fn packument(
        self: &Arc<Self>,
        client: &Client,
        lookup: &PackageLookup,
        table: &Arc<VerdictTable>,
        form: PackumentForm,
        coding: ContentCoding,
    ) -> Result<Option<PackumentResponse>> {
        let restricted = table.restrictions.is_some() && client.agent.reads_policy_restrictions();
        let packing = coding.segment_format();
        let (cache_key, base) = (lookup.package.cache_key.shared(), Arc::clone(client.base.view()));
        let key = ViewKey { cache_key, form, packing, base, profile: client.profile };
        if let Some(answer) = self.kept(&key, &lookup.package, table, coding, restricted) {
            self.services.recorder.cache_lookup(CacheLabel::Answer, CacheOutcome::Hit);
            return Ok(Some(answer));
        }
        self.services.recorder.cache_lookup(CacheLabel::Answer, CacheOutcome::Miss);
        let wanted = Wanted { key: &key, package: &lookup.package, table, coding, restricted };
        if let Some(rendered) = self.views.find(&key, &lookup.package)
            && let Some(answer) = Box::pin(self.assemble(client, rendered, &wanted)).await?
        {
            return Ok(Some(answer));
        }
        let render_request = RenderRequest { form, packing, base: client.base.clone(), profile: client.profile };
        let rendered = Box::pin(self.render_shared(client, key.clone(), lookup.clone(), render_request)).await?;
        if rendered.content != lookup.package.content() {
            return Ok(None);
        }
        Box::pin(self.assemble(client, rendered, &wanted)).await
    }

    /// Returns the cached response for the same document and verdicts.
    fn kept(
        &self,
        key: &ViewKey,
        package: &CachedPackage,
        table: &VerdictTable,
        coding: ContentCoding,
        restricted: bool,
    ) -> Option<PackumentResponse> {
        if !coding.is_segmented() {
            let whole = self.unsegmented.get(&(key.clone(), coding, restricted))?;
            return (whole.content == package.content() && whole.table == table.identity).then(|| whole.answer.clone());
        }
        let rendered = self.views.find(key, package)?;
        rendered.kept(restricted, table)
    }

    /// Assembles a response from a view. Joining compressed segments takes microseconds. Other codings take milliseconds, and
    /// memory of their own until the response is sent.
    async fn assemble(
        self: &Arc<Self>,
        client: &Client,
        rendered: Arc<CachedView>,
        wanted: &Wanted<'_>,
    ) -> Result<Option<PackumentResponse>> {
        let &Wanted { key, package, table, coding, restricted } = wanted;
        let now = self.services.policy.now();
        if coding.is_segmented() {
            let (of, by) = (Arc::clone(&rendered), Arc::clone(table));
            let join = move || of.assemble(&by, coding, restricted, now);
            let answer = self.services.workers.run_over_versions(package, client.address, join).await?;
            return Ok(answer.inspect(|answer| rendered.keep(restricted, table, answer)));
        }
        let mut share = self.memory.share_for(client.address);
        share.grow_to(package.document.length).await?;
        let permit = self.services.workers.heavy.acquire(client.address).await;
        // Another request may have made it in the meantime.
        if let Some(answer) = self.kept(key, package, table, coding, restricted) {
            return Ok(Some(answer));
        }
        let assembled = Arc::clone(table);
        let work = move || {
            let answer = rendered.assemble(&assembled, coding, restricted, now);
            drop(permit);
            answer
        };
        let Some(answer) = self.services.workers.run(work).await? else { return Ok(None) };
        if client.base.cacheable {
            let whole = UnsegmentedResponse { content: package.content(), table: table.identity.clone(), answer: answer.clone() };
            self.unsegmented.insert((key.clone(), coding, restricted), Arc::new(whole));
        }
        share.force_grow_to(answer.length);
        share.shrink_to(answer.length);
        // The cached copy is bounded by the cache; the sent one is counted until it is sent.
        let bytes = answer.chunks.first().cloned().unwrap_or_default();
        let counted = HeldBytes::new(bytes, share);
        Ok(Some(PackumentResponse { chunks: Arc::new([counted]), ..answer }))
    }

    /// Renders a view from the stored document, once for all requests that wait for it.
    async fn render_shared(
        self: &Arc<Self>,
        client: &Client,
        key: ViewKey,
        lookup: PackageLookup,
        render_request: RenderRequest,
    ) -> Result<Arc<CachedView>> {
        let loads = Arc::clone(&self.packages.loader.loads);
        let (this, client, limit) = (Arc::clone(self), client.clone(), Arc::clone(&loads));
        let address = client.address;
        let fetch = move |request: SlotRequest<_>| async move {
            let permit = request.permit(&limit).await;
            let (lookup, document) = this.packages.document_with(&client, lookup, permit).await?;
            let _permit = this.services.parse_pool.threads.acquire(client.address).await;
            let renderer = Arc::clone(&this);
            let rendered = this.services.workers.run(move || {
                renderer.services.parse_pool.with_scratch(|scratch| {
                    renderer.views.render(&lookup.package, &document, None, &render_request, &mut scratch.encoder)
                })
            });
            let rendered = rendered.await?;
            rendered.ok_or_else(|| FirewallError::Internal("cannot render the packument".into()))
        };
        self.running.join(key, address, &loads, fetch).await
    }
}
