//! A new document comes in: decoded, read, held against the record, put into the store; and comes out of it again.
//! Refuses to ask upstream, and to serve.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;

use super::catalog::{Reading, Voyage, lost};
use super::history::{self, Reconciled};
use super::known::{Known, Screens, Slot};
use super::recall::Before;
use super::workbench::Workbench;
use super::{Inner, Rejection};
use crate::net::{FairPermit, Share, body};
use crate::npm::press::Press;
use crate::npm::{Algorithm, Digest, Form, Hasher, IngestError, Ingested, Integrity, PackageName, gzip, ingest};
use crate::store::{BlobKind, Document, PackageRecord};
use crate::upstream::Validators;

/// A document that just came.
pub(super) struct Arrival {
    /// The form that was asked for.
    pub form: Form,
    pub body: Bytes,
    pub validators: Validators,
    pub validated: Timestamp,
    pub checked: Timestamp,
    pub place: Place,
}

/// What a flight has: held until the store has the document, so that a slow disk slows fetching and does not fill the memory.
pub(super) struct Place {
    /// Its memory.
    pub share: Share,
    /// Its place among those that fetch.
    _permit: FairPermit,
}

impl Place {
    /// A place with memory that is still to grow.
    #[must_use]
    pub(super) fn of(permit: FairPermit, share: Share) -> Self {
        Self { share, _permit: permit }
    }
}

/// A document with the memory that it takes.
struct Held {
    plain: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.plain
    }
}

impl Inner {
    /// Reads a new document, holds it against what was there before, keeps what that changes. `None`, and nothing kept, when it
    /// is an abbreviated one without publish times.
    pub(super) async fn take_in(
        self: Arc<Self>,
        voyage: Voyage,
        mut arrival: Arrival,
        before: Before,
    ) -> Result<Option<Reading>, Rejection> {
        // Before there is a reader: those never wait for memory.
        arrival.place.share.grow_to(takes(&arrival.body, body::told_length(&arrival.body))).await?;
        let _turn = self.precedence.turn(voyage.ahead.as_ref()).await;
        let _permit = self.readers.acquire().await.map_err(|_| lost())?;
        let inner = Arc::clone(&self);
        self.blocking(move || inner.read(&voyage, arrival, &before)).await?
    }

    fn read(self: &Arc<Self>, voyage: &Voyage, mut arrival: Arrival, before: &Before) -> Result<Option<Reading>, Rejection> {
        let Slot { name, .. } = &voyage.slot;
        let read = self.workbenches.at(|bench| {
            let Workbench { press, plain } = bench;
            let plain = self.decode_into(name, &arrival.body, plain)?;
            arrival.place.share.overdraw_to(takes(&arrival.body, plain.len()));
            self.read_plain(voyage, &arrival, before, plain, press)
        });
        let Some(known) = read? else { return Ok(None) };
        self.keep(&known, arrival.body, arrival.place);
        Ok(Some(Reading { known, stale: None }))
    }

    fn read_plain(
        self: &Arc<Self>,
        voyage: &Voyage,
        arrival: &Arrival,
        before: &Before,
        plain: &[u8],
        press: &mut Press,
    ) -> Result<Option<Arc<Known>>, Rejection> {
        let Slot { name, .. } = &voyage.slot;
        let Ingested { packument, fields } = ingest::ingest(name, plain).map_err(|error| unreadable(name, &error))?;
        let form = arrival.form;
        if form == Form::Abbreviated && !self.forms.learn(voyage.registry.id(), &packument) {
            return Ok(None);
        }
        self.note_parts(&packument);
        self.addresses.note(&voyage.slot, &packument);
        let last = before.last();
        let known_record = self.with_digests(voyage, before)?;
        let reconciled = history::reconcile(&known_record, last, &packument, form, arrival.validated);
        let Reconciled { provenance, mut change, findings } = reconciled;
        let content = content_of(&arrival.body);
        let document = Document {
            first_seen: last.map_or(arrival.validated, |last| last.first_seen),
            validated: arrival.validated,
            changed: arrival.validated,
            content: Some(content),
            length: packument.length,
            etag: arrival.validators.etag.clone(),
            last_modified: arrival.validators.last_modified.clone(),
            form: Some(form),
        };
        change.document = Some(document.clone());
        let mut record = known_record.into_owned();
        record.apply(&change);
        self.write(&voyage.key(), &change);
        self.report(name, &findings);
        if form == Form::Full || packument.has_more {
            self.note_stripped(&voyage.registry, &packument);
        }
        let known = Arc::new(Known {
            form,
            slot: voyage.slot.clone(),
            registry: Arc::clone(&voyage.registry),
            packument: Some(Arc::new(packument)),
            provenance: provenance.into(),
            record: Arc::new(record),
            tarballs: Arc::default(),
            content,
            document,
            validated: arrival.validated,
            checked: arrival.checked,
            // There before anybody finds this, so that a question for the other form does not fetch it again.
            raw: Arc::new(Mutex::new(Some(arrival.body.clone()))),
            screens: Screens::default(),
            kin: OnceLock::new(),
        });
        self.look_ahead(voyage, &known, plain, &fields);
        self.absent.invalidate(&voyage.slot);
        self.unreachable.invalidate(&voyage.slot);
        if let Some(wish) = &voyage.wish {
            self.render(&known, plain, Some(&fields), wish, press);
        }
        self.remember(&known);
        Ok(Some(known))
    }

    /// What the record of `before` knows, with the digests that downloads have added to the ledger since it was read.
    ///
    /// # Errors
    /// When the ledger cannot be read: what it knows of a release may be what it is refused for.
    fn with_digests<'a>(&self, voyage: &Voyage, before: &'a Before) -> Result<Cow<'a, PackageRecord>, Rejection> {
        if before.known.is_none() {
            return Ok(Cow::Borrowed(&*before.record));
        }
        let newer = self.recall(&voyage.slot, &voyage.registry)?;
        let mut record = PackageRecord::clone(&before.record);
        record.learn_from(&newer);
        Ok(Cow::Owned(record))
    }

    /// The document of `known`, decoded, from memory or the store.
    pub(super) async fn load(self: &Arc<Self>, known: &Arc<Known>) -> Result<Option<Bytes>, Rejection> {
        let share = self.share_of(&known.document).await?;
        let raw = match (known.unstored(), known.digest()) {
            (Some(raw), _) => Some(raw),
            (None, Some(digest)) => self.blobs.open(&digest).await.ok().flatten(),
            (None, None) => None,
        };
        let Some(raw) = raw else { return Ok(None) };
        let (inner, known) = (Arc::clone(self), Arc::clone(known));
        let load = move || {
            let plain = inner.decode(&known.slot.name, raw)?;
            Ok(Some(Bytes::from_owner(Held { plain, _share: share })))
        };
        self.blocking(load).await?
    }

    /// Puts a raw document into the store, behind the answer's back: a disk that takes some milliseconds to sync keeps
    /// nobody waiting, and a full one keeps nobody from installing.
    pub(super) fn keep(self: &Arc<Self>, known: &Arc<Known>, body: Bytes, mut place: Place) {
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
    pub(super) async fn share_of(&self, document: &Document) -> Result<Share, Rejection> {
        let mut share = self.allowance.share();
        share.grow_to(document.length + document.length / 2).await?;
        Ok(share)
    }

    /// The document as it is, in `room` if it has to be inflated.
    fn decode_into<'a>(&self, name: &PackageName, raw: &'a [u8], room: &'a mut Vec<u8>) -> Result<&'a [u8], Rejection> {
        if !gzip::is_gzip(raw) {
            return Ok(raw);
        }
        body::gunzip_into(raw, self.config.packument_limit, room)
            .map_err(|error| Rejection::Unreadable { name: name.clone(), detail: error.to_string().into() })?;
        Ok(room)
    }

    pub(super) fn decode(&self, name: &PackageName, raw: Bytes) -> Result<Bytes, Rejection> {
        if !gzip::is_gzip(&raw) {
            return Ok(raw);
        }
        body::gunzip(&raw, self.config.packument_limit)
            .map_err(|error| Rejection::Unreadable { name: name.clone(), detail: error.to_string().into() })
    }
}

/// The memory that a document takes while it is read: as it came, inflated, and packed anew.
fn takes(raw: &[u8], plain: usize) -> u64 {
    let (length, plain) = (raw.len() as u64, plain as u64);
    if gzip::is_gzip(raw) { 2 * length + plain } else { length + length / 2 }
}

pub(super) fn content_of(body: &[u8]) -> [u8; 32] {
    Digest::of(Algorithm::Sha256, body).as_bytes().try_into().unwrap_or_default()
}

fn unreadable(name: &PackageName, error: &IngestError) -> Rejection {
    Rejection::Unreadable { name: name.clone(), detail: error.to_string().into() }
}
