//! Answers that are kept: each view rendered once, each answer assembled once, replaced when what it was made from changes.
//! Refuses to fetch, and keeps nothing for a base URL that a stranger made up.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;

use super::known::{Known, Slot};
use super::screen::Screen;
use super::{Answer, Asker, BaseUrl, Coding, Form, Inner, Reading, Rejection};
use crate::npm::gzip::Press;
use crate::npm::ingest::{self, Fields};
use crate::npm::render::{Choice, View};
use crate::npm::{Algorithm, Digest};
use crate::telemetry::{CacheLabel, CacheOutcome, CacheUsed};

/// The view that whoever starts a flight will want when it lands.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    /// In which form.
    pub form: Form,
    /// Under which base URL.
    pub base: BaseUrl,
}

/// What a view is kept under.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ViewKey {
    slot: Slot,
    form: Form,
    base: Arc<str>,
}

/// A rendered view, and the answers assembled from it.
pub(super) struct Rendered {
    /// The document it was rendered from.
    content: [u8; 32],
    form: Form,
    view: View,
    answers: Mutex<Vec<Kept>>,
}

/// A plain answer: memory of its own, and many times a deflated one's. Few clients ask for them, so few are kept.
pub(super) struct Plain {
    content: [u8; 32],
    screen: Digest,
    answer: Answer,
}

impl Plain {
    /// The bytes this takes in memory, about.
    #[must_use]
    pub(super) fn weight(&self) -> u32 {
        u32::try_from(self.answer.length + 512).unwrap_or(u32::MAX)
    }
}

/// What a plain answer is kept under: the view, and whether the client reads `policyRestrictions`.
pub(super) type PlainKey = (ViewKey, bool);

/// An answer and what it was made from.
struct Kept {
    coding: Coding,
    restricted: bool,
    screen: Digest,
    answer: Answer,
}

impl Rendered {
    /// The bytes this takes in memory, about.
    #[must_use]
    pub(super) fn weight(&self) -> u32 {
        u32::try_from(self.view.weight() + 2048).unwrap_or(u32::MAX)
    }

    fn kept(&self, coding: Coding, restricted: bool, screen: &Screen) -> Option<Answer> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |kept: &&Kept| kept.coding == coding && kept.restricted == restricted && kept.screen == screen.identity;
        answers.iter().find(fits).map(|kept| kept.answer.clone())
    }

    /// Assembles an answer; `None` when the view must be rendered anew first.
    fn assemble(&self, screen: &Screen, coding: Coding, restricted: bool, now: Timestamp) -> Option<Answer> {
        let restrictions = screen.restrictions.as_deref().filter(|_| restricted);
        let assembly = self.view.assemble(&Choice { shown: &screen.shown, tags: screen.tags.as_deref(), restrictions })?;
        let mut entity = assembly.fingerprint().to_vec();
        entity.push(u8::from(coding == Coding::Gzip));
        let etag = format!("\"{}\"", &Digest::of(Algorithm::Sha256, &entity).to_hex()[..32]);
        let chunks: Arc<[Bytes]> = match coding {
            Coding::Gzip => assembly.gzip().into(),
            Coding::Identity => Arc::new([assembly.identity()]),
        };
        let length = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        Some(Answer { chunks, length, form: self.form, coding, etag: etag.into(), last_modified: now, stale: None })
    }

    /// Keeps an answer, which shares the view's memory, in place of the one before it.
    fn keep(&self, coding: Coding, restricted: bool, screen: &Screen, answer: &Answer) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.retain(|kept| kept.coding != coding || kept.restricted != restricted);
        answers.push(Kept { coding, restricted, screen: screen.identity.clone(), answer: answer.clone() });
    }
}

impl Inner {
    /// The packument of `reading` as `asker` is to see it; `None` when another document came in the meantime and the
    /// question has to be put anew.
    ///
    /// # Errors
    /// When the document has to be read again and cannot be.
    pub(super) async fn answer(
        self: &Arc<Self>,
        asker: &Asker,
        reading: &Reading,
        screen: &Arc<Screen>,
        form: Form,
        coding: Coding,
    ) -> Result<Option<Answer>, Rejection> {
        let restricted = screen.restrictions.is_some() && asker.agent.reads_policy_restrictions();
        let key = ViewKey { slot: reading.known.slot.shared(), form, base: Arc::clone(&asker.base.text) };
        if let Some(answer) = self.kept(&key, &reading.known, screen, coding, restricted) {
            CacheUsed { cache: CacheLabel::Answer, outcome: CacheOutcome::Hit }.emit(&self.metrics);
            return Ok(Some(answer));
        }
        CacheUsed { cache: CacheLabel::Answer, outcome: CacheOutcome::Miss }.emit(&self.metrics);
        let rendered = self.views.get(&key).filter(|rendered| rendered.content == reading.known.content);
        let mut answer = None;
        if let Some(rendered) = rendered {
            answer = self.assemble(rendered, screen, coding, restricted).await?;
        }
        if answer.is_none() {
            let wish = Wish { form, base: asker.base.clone() };
            let rendered = self.render_again(asker, key.clone(), reading.clone(), wish).await?;
            if rendered.content != reading.known.content {
                return Ok(None);
            }
            answer = self.assemble(rendered, screen, coding, restricted).await?;
        }
        if let Some(answer) = answer.as_ref().filter(|_| coding == Coding::Identity && asker.base.remembered) {
            let plain = Plain { content: reading.known.content, screen: screen.identity.clone(), answer: answer.clone() };
            self.plains.insert((key, restricted), Arc::new(plain));
        }
        Ok(answer)
    }

    /// The answer that was made before from the same document and verdicts.
    fn kept(&self, key: &ViewKey, known: &Known, screen: &Screen, coding: Coding, restricted: bool) -> Option<Answer> {
        if coding == Coding::Identity {
            let plain = self.plains.get(&(key.clone(), restricted))?;
            return (plain.content == known.content && plain.screen == screen.identity).then(|| plain.answer.clone());
        }
        let rendered = self.views.get(key).filter(|rendered| rendered.content == known.content)?;
        rendered.kept(coding, restricted, screen)
    }

    async fn assemble(
        self: &Arc<Self>,
        rendered: Arc<Rendered>,
        screen: &Arc<Screen>,
        coding: Coding,
        restricted: bool,
    ) -> Result<Option<Answer>, Rejection> {
        let (now, screen) = (self.clock.now(), Arc::clone(screen));
        let work = move || {
            let answer = rendered.assemble(&screen, coding, restricted, now)?;
            if coding != Coding::Identity {
                rendered.keep(coding, restricted, &screen, &answer);
            }
            Some(answer)
        };
        // Joining what is deflated takes microseconds; inflating takes milliseconds a megabyte.
        if coding == Coding::Gzip { Ok(work()) } else { self.blocking(work).await }
    }

    /// Renders a view from the stored document; one rendering a view however many ask.
    async fn render_again(
        self: &Arc<Self>,
        asker: &Asker,
        key: ViewKey,
        reading: Reading,
        wish: Wish,
    ) -> Result<Arc<Rendered>, Rejection> {
        let (inner, asker) = (Arc::clone(self), asker.clone());
        let flight = move || async move {
            let (reading, document) = inner.document(&asker, reading).await?;
            let _permit = inner.readers.acquire().await.map_err(|_| Rejection::Internal("a task was lost".into()))?;
            let renderer = Arc::clone(&inner);
            let rendered = inner.blocking(move || {
                renderer.workbenches.at(|bench| renderer.render(&reading.known, &document, None, &wish, &mut bench.press))
            });
            let rendered = rendered.await?;
            rendered.ok_or_else(|| Rejection::Internal("the packument could not be rendered".into()))
        };
        self.renderings.join(key, flight).await.unwrap_or_else(|_| Err(Rejection::Internal("a task was lost".into())))
    }

    /// Renders `document`, which is that of `known`, and keeps the view. Blocking. `fields` spare a second reading of it.
    pub(super) fn render(
        &self,
        known: &Known,
        document: &[u8],
        fields: Option<&Fields>,
        wish: &Wish,
        press: &mut Press,
    ) -> Option<Arc<Rendered>> {
        let packument = known.packument.as_ref()?;
        let again;
        let fields = if let Some(fields) = fields {
            fields
        } else {
            again = ingest::ingest(&known.slot.name, document).ok()?.fields;
            &again
        };
        let screen = known.screen(&self.world.load());
        let view = View::render(document, packument, fields, wish.form, &wish.base.text, &|at| !screen.shown[at], press);
        let rendered = Arc::new(Rendered { content: known.content, form: wish.form, view, answers: Mutex::default() });
        if wish.base.remembered {
            let key = ViewKey { slot: known.slot.shared(), form: wish.form, base: Arc::clone(&wish.base.text) };
            self.views.insert(key, Arc::clone(&rendered));
        }
        Some(rendered)
    }
}
