//! Answers that are kept: each view rendered once, each answer assembled once, replaced when what it was made from changes.
//! Refuses to fetch, and keeps nothing for a base URL that a stranger made up.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;

use crate::firewall::error::FirewallError;
use crate::firewall::package::{CacheKey, PackageSnapshot};
use crate::firewall::packages::fetch_slots::SlotRequest;
use crate::firewall::policy_state::Profile;
use crate::firewall::request::{BaseUrl, Client, ContentCoding, PackumentResponse};
use crate::firewall::verdicts::VerdictTable;
use crate::firewall::{Components, PackageLookup, Shared};
use crate::npm::AbbreviatedFields;
use crate::npm::PackumentForm;
use crate::npm::PackumentView;
use crate::npm::compression::brotli;
use crate::npm::compression::{SegmentEncoder, SegmentFormat};
use crate::npm::packument::parse;
use crate::npm::packument::render::VersionFilter;
use crate::npm::{Algorithm, Digest, PackageName};
use crate::telemetry::{CacheLabel, CacheLookup, CacheOutcome};

/// From how many bytes on a view makes room for itself at once.
const LARGE: u32 = 1 << 20;

/// The view that whoever starts a flight will want when it lands.
#[derive(Debug, Clone)]
pub(crate) struct RenderRequest {
    /// In which form.
    pub form: PackumentForm,
    /// How packed.
    pub packing: SegmentFormat,
    /// Under which base URL.
    pub base: BaseUrl,
    /// By which policy.
    pub profile: Profile,
}

/// An answer that is to be made from a view.
struct Wanted<'a> {
    key: &'a ViewKey,
    known: &'a PackageSnapshot,
    screen: &'a Arc<VerdictTable>,
    coding: ContentCoding,
    restricted: bool,
}

/// What a view is kept under.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ViewKey {
    slot: CacheKey,
    form: PackumentForm,
    packing: SegmentFormat,
    base: Arc<str>,
    profile: Profile,
}

/// A rendered view, and the answers assembled from it.
pub(crate) struct CachedView {
    /// The document it was rendered from.
    content: [u8; 32],
    form: PackumentForm,
    name: PackageName,
    /// Under which base URL.
    base: BaseUrl,
    view: PackumentView,
    answers: Mutex<Vec<CachedResponse>>,
}

/// An answer that shares no memory with its view: plain, which takes many times a packed one's, or packed as a whole. Few clients
/// ask for them, so few are kept.
pub(crate) struct UnsegmentedResponse {
    content: [u8; 32],
    screen: Digest,
    answer: PackumentResponse,
}

impl UnsegmentedResponse {
    /// The bytes this takes in memory, about.
    #[must_use]
    pub(crate) fn weight(&self) -> u32 {
        u32::try_from(self.answer.length + 512).unwrap_or(u32::MAX)
    }
}

/// What such an answer is kept under: the view, the coding, and whether the client reads `policyRestrictions`.
pub(crate) type UnsegmentedKey = (ViewKey, ContentCoding, bool);

/// An answer and what it was made from.
struct CachedResponse {
    restricted: bool,
    screen: Digest,
    answer: PackumentResponse,
}

impl CachedView {
    /// The bytes this takes in memory, about.
    #[must_use]
    pub(crate) fn weight(&self) -> u32 {
        u32::try_from(self.view.weight() + 2048).unwrap_or(u32::MAX)
    }

    fn kept(&self, restricted: bool, screen: &VerdictTable) -> Option<PackumentResponse> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |kept: &&CachedResponse| kept.restricted == restricted && kept.screen == screen.identity;
        answers.iter().find(fits).map(|kept| kept.answer.clone())
    }

    /// Assembles an answer; `None` when the view must be rendered anew first.
    fn assemble(
        &self,
        screen: &VerdictTable,
        coding: ContentCoding,
        restricted: bool,
        now: Timestamp,
    ) -> Option<PackumentResponse> {
        let restrictions = screen.restrictions.as_ref().filter(|_| restricted).map(|told| told.told(&self.base, &self.name));
        let restrictions = restrictions.as_deref();
        let assembly = self.view.assemble(&VersionFilter { shown: &screen.shown, tags: screen.tags.as_deref(), restrictions })?;
        let mut entity = assembly.fingerprint().to_vec();
        entity.push(coding as u8);
        let etag = format!("\"{}\"", &Digest::of(Algorithm::Sha256, &entity).to_hex()[..32]);
        let chunks: Arc<[Bytes]> = match coding {
            ContentCoding::Gzip | ContentCoding::Zstd => assembly.packed().into(),
            ContentCoding::Brotli => Arc::new([brotli::compress(&assembly.identity())]),
            ContentCoding::Identity => Arc::new([assembly.identity()]),
        };
        let length = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        Some(PackumentResponse { chunks, length, form: self.form, coding, etag: etag.into(), last_modified: now, stale: None })
    }

    /// Keeps an answer, which shares the view's memory, in place of the one before it.
    fn keep(&self, restricted: bool, screen: &VerdictTable, answer: &PackumentResponse) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.retain(|kept| kept.restricted != restricted);
        answers.push(CachedResponse { restricted, screen: screen.identity.clone(), answer: answer.clone() });
    }
}

impl Components {
    /// The packument of `reading` as `asker` is to see it; `None` when another document came in the meantime and the
    /// question has to be put anew.
    ///
    /// # Errors
    /// When the document has to be read again and cannot be.
    pub(crate) async fn answer(
        self: &Arc<Self>,
        asker: &Client,
        reading: &PackageLookup,
        screen: &Arc<VerdictTable>,
        form: PackumentForm,
        coding: ContentCoding,
    ) -> Result<Option<PackumentResponse>, FirewallError> {
        let restricted = screen.restrictions.is_some() && asker.agent.reads_policy_restrictions();
        let packing = coding.packing();
        let key = ViewKey {
            slot: reading.known.slot.shared(),
            form,
            packing,
            base: Arc::clone(asker.base.view()),
            profile: asker.profile,
        };
        if let Some(answer) = self.kept(&key, &reading.known, screen, coding, restricted) {
            CacheLookup { cache: CacheLabel::Answer, outcome: CacheOutcome::Hit }.emit(&self.metrics);
            return Ok(Some(answer));
        }
        CacheLookup { cache: CacheLabel::Answer, outcome: CacheOutcome::Miss }.emit(&self.metrics);
        let rendered = self.views.get(&key).filter(|rendered| rendered.content == reading.known.content);
        let wanted = Wanted { key: &key, known: &reading.known, screen, coding, restricted };
        let mut answer = None;
        if let Some(rendered) = rendered {
            answer = Box::pin(self.assemble(asker, rendered, &wanted)).await?;
        }
        if answer.is_none() {
            let wish = RenderRequest { form, packing, base: asker.base.clone(), profile: asker.profile };
            let rendered = Box::pin(self.render_again(asker, key.clone(), reading.clone(), wish)).await?;
            if rendered.content != reading.known.content {
                return Ok(None);
            }
            answer = Box::pin(self.assemble(asker, rendered, &wanted)).await?;
        }
        Ok(answer)
    }

    /// The answer that was made before from the same document and verdicts.
    fn kept(
        &self,
        key: &ViewKey,
        known: &PackageSnapshot,
        screen: &VerdictTable,
        coding: ContentCoding,
        restricted: bool,
    ) -> Option<PackumentResponse> {
        if !coding.is_joined() {
            let whole = self.wholes.get(&(key.clone(), coding, restricted))?;
            return (whole.content == known.content && whole.screen == screen.identity).then(|| whole.answer.clone());
        }
        let rendered = self.views.get(key).filter(|rendered| rendered.content == known.content)?;
        rendered.kept(restricted, screen)
    }

    /// Assembles an answer from a view. Joining what is packed takes microseconds; what is made as a whole takes milliseconds, and
    /// memory of its own until it is sent.
    async fn assemble(
        self: &Arc<Self>,
        asker: &Client,
        rendered: Arc<CachedView>,
        wanted: &Wanted<'_>,
    ) -> Result<Option<PackumentResponse>, FirewallError> {
        let &Wanted { key, known, screen, coding, restricted } = wanted;
        let now = self.clock.now();
        if coding.is_joined() {
            let (of, by) = (Arc::clone(&rendered), Arc::clone(screen));
            let join = move || of.assemble(&by, coding, restricted, now);
            let answer = self.over_versions(known, asker.address, join).await?;
            return Ok(answer.inspect(|answer| rendered.keep(restricted, screen, answer)));
        }
        let mut share = self.plain.share_for(asker.address);
        // Brotli packs what was unpacked for it.
        share.grow_to(if coding == ContentCoding::Brotli { 2 } else { 1 } * known.document.length).await?;
        let permit = self.heavy.acquire(asker.address).await;
        // Another client may have had it made meanwhile.
        if let Some(answer) = self.kept(key, known, screen, coding, restricted) {
            return Ok(Some(answer));
        }
        let assembled = Arc::clone(screen);
        let work = move || {
            let answer = rendered.assemble(&assembled, coding, restricted, now);
            drop(permit);
            answer
        };
        let Some(answer) = self.blocking(work).await? else { return Ok(None) };
        if asker.base.remembered {
            let whole = UnsegmentedResponse { content: known.content, screen: screen.identity.clone(), answer: answer.clone() };
            self.wholes.insert((key.clone(), coding, restricted), Arc::new(whole));
        }
        share.overdraw_to(answer.length);
        share.shrink_to(answer.length);
        // What is cached is bounded there; what is sent is counted until it is sent.
        let bytes = answer.chunks.first().cloned().unwrap_or_default();
        let counted = Bytes::from_owner(Shared { bytes, _share: share });
        Ok(Some(PackumentResponse { chunks: Arc::new([counted]), ..answer }))
    }

    /// Renders a view from the stored document; one rendering a view however many ask.
    async fn render_again(
        self: &Arc<Self>,
        asker: &Client,
        key: ViewKey,
        reading: PackageLookup,
        wish: RenderRequest,
    ) -> Result<Arc<CachedView>, FirewallError> {
        let (inner, asker, limit) = (Arc::clone(self), asker.clone(), Arc::clone(&self.loads));
        let client = asker.address;
        let fetch = move |request: SlotRequest<_>| async move {
            let permit = request.permit(&limit).await;
            let (reading, document) = inner.document_with(&asker, reading, permit).await?;
            let _permit = inner.readers.acquire(asker.address).await;
            let renderer = Arc::clone(&inner);
            let rendered = inner.blocking(move || {
                renderer.workbenches.at(|bench| renderer.render(&reading.known, &document, None, &wish, &mut bench.press))
            });
            let rendered = rendered.await?;
            rendered.ok_or_else(|| FirewallError::Internal("the packument could not be rendered".into()))
        };
        self.renderings.join(key, client, &self.loads, fetch).await.unwrap_or_else(|_| Err(self.note_lost_fetch()))
    }

    /// Renders `document`, which is that of `known`, and keeps the view. Blocking. `fields` spare a second reading of it.
    pub(crate) fn render(
        &self,
        known: &PackageSnapshot,
        document: &[u8],
        fields: Option<&AbbreviatedFields>,
        wish: &RenderRequest,
        press: &mut SegmentEncoder,
    ) -> Option<Arc<CachedView>> {
        let packument = known.packument.as_ref()?;
        let again;
        let fields = if let Some(fields) = fields {
            fields
        } else {
            again = parse::ingest(&known.slot.name, document).ok()?.fields;
            &again
        };
        let screen = known.screen(&self.world(), wish.profile);
        press.pack_as(wish.packing);
        let view =
            PackumentView::render(document, packument, fields, wish.form, wish.base.rewriting(), &|at| !screen.shown[at], press);
        let rendered = Arc::new(CachedView {
            content: known.content,
            form: wish.form,
            name: known.slot.name.clone(),
            base: wish.base.clone(),
            view,
            answers: Mutex::default(),
        });
        if wish.base.remembered {
            let (form, packing, base) = (wish.form, wish.packing, Arc::clone(wish.base.view()));
            let key = ViewKey { slot: known.slot.shared(), form, packing, base, profile: wish.profile };
            self.views.insert(key, Arc::clone(&rendered));
            // What a large one has no room for would stay until somebody asks for the next.
            if rendered.weight() > LARGE {
                self.views.run_pending_tasks();
            }
        }
        Some(rendered)
    }
}
