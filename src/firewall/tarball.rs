//! Questions for a tarball: verdict first, from the index; then the store; then one flight from upstream, hashed as it
//! lands. No byte is handed out before the whole hashes to what the packument says.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::OwnedSemaphorePermit;

use super::aside::Opened;
use super::catalog::{Need, lost};
use super::departed::Departed;
use super::known::{Known, Partition, Slot};
use super::packument::no_version;
use super::world::{Moment, Profile, World};
use super::{Asker, Inner, Reading, Refusal, Rejection, Tarball, notes};
use crate::npm::integrity::Mismatch;
use crate::npm::{Digest, Hasher, Integrity, PackageName, Version};
use crate::policy::{Facts, Note, RuleId, Verdict, judge, waiver};
use crate::store::{Download, Kind, Outcome, PendingBlob, Release, StoreError};
use crate::telemetry::{
    CacheLabel, CacheOutcome, CacheUsed, IntegrityMismatch, Observed, UpstreamAnswered, UpstreamOutcome, UpstreamWhat,
};
use crate::upstream::{Authorization, Registry, TarballBody, UpstreamError};

/// Chunks of a tarball on their way from the network to the disk.
const IN_FLIGHT: usize = 16;

/// Memory for tarballs that the disk does not take: so many units of so many bytes. Whoever comes later waits.
pub(super) const CARRIED_UNITS: usize = 64;
const CARRIED_UNIT: u64 = 1 << 20;

/// What is fetched under: the same bytes for the same credentials.
pub(super) type TarballKey = (Digest, Partition);

/// A tarball that may be served.
struct Admitted {
    integrity: Integrity,
    /// Which entry of the packument it is, whose tarball upstream has; of one that upstream no longer has, it comes from the store
    /// or not at all.
    entry: Option<usize>,
    /// What rules say of it without refusing it.
    notes: Vec<Note>,
}

/// Where a tarball lies upstream, owned, for a flight that outlives whoever asked.
struct Source {
    slot: Slot,
    version: Box<str>,
    url: Box<str>,
    registry: Arc<Registry>,
    authorization: Authorization,
    /// What was known when it was admitted: it may have waited long for its place among the downloads.
    revision: u64,
}

impl Inner {
    pub(super) async fn tarball(
        self: &Arc<Self>,
        asker: &Asker,
        name: &PackageName,
        version: &str,
    ) -> Result<Tarball, Rejection> {
        let moment = self.moment();
        // Held to the end: who waits for it keeps it on its way.
        let _aside;
        let (reading, moment) = if let Some(reading) = self.at_hand(asker, name, Need::Index, &moment) {
            (reading, moment)
        } else {
            _aside = self.set_out(asker, name, version).await;
            (self.reading(asker, name, Need::Index, None).await?, self.moment())
        };
        let (mut reading, mut moment) = (reading, moment);
        let mut admitted = self.admit(asker, &reading, version, &moment.world);
        if let Err(Rejection::NotFound(_)) = &admitted
            && let Some(again) = self.ask_once_more(asker, &reading, version, Need::Index).await
        {
            (reading, moment) = (again, self.moment());
            admitted = self.admit(asker, &reading, version, &moment.world);
        }
        let Moment { now, world } = moment;
        let admitted = match admitted {
            Ok(admitted) => admitted,
            Err(rejection) => return Err(self.note_refusal(asker, &reading.known, version, rejection)),
        };
        match self.bytes(asker, &reading.known, &admitted, world.revision).await {
            Ok((bytes, kept)) => {
                // What was decided while it was on its way counts before its first byte leaves.
                let then = self.world();
                if then.revision != world.revision {
                    let again = self.admit(asker, &reading, version, &then);
                    again.map_err(|rejection| self.note_refusal(asker, &reading.known, version, rejection))?;
                }
                let Admitted { integrity, notes, .. } = admitted;
                self.note_observed(asker, name, version, &notes);
                let rule = notes.first().map(|note| &note.reason.rule);
                self.note_tarball((asker, now), name, version, Some(&integrity), Outcome::Served, rule);
                Ok(Tarball { bytes, integrity, kept })
            }
            Err(rejection) => {
                Err(self.note_refusal(asker, &reading.known, version, self.explain_failure(asker, &reading, version, rejection)))
            }
        }
    }

    /// The verdict: what may be served, and what it must hash to.
    fn admit(&self, asker: &Asker, reading: &Reading, version: &str, world: &World) -> Result<Admitted, Rejection> {
        let known = &reading.known;
        let name = &known.slot.name;
        let Some((packument, (at, entry))) =
            known.packument.as_ref().and_then(|packument| Some((packument, packument.find(version)?)))
        else {
            return self.admit_gone(asker, known, version, world);
        };
        let screen = known.screen(world, asker.profile);
        self.note_overbroad(name, &screen);
        if !screen.shown[at] {
            return Err(self.refuse(asker, packument, &screen, at));
        }
        // Without an integrity it would be hidden.
        let integrity = entry.integrity.clone().ok_or_else(|| no_version(name, version))?;
        Ok(Admitted { integrity, entry: Some(at), notes: screen.notes(at).to_vec() })
    }

    /// A version the newest packument does not have: an old one goes on being served to whoever's lockfile holds it.
    fn admit_gone(&self, asker: &Asker, known: &Known, version: &str, world: &World) -> Result<Admitted, Rejection> {
        let name = &known.slot.name;
        let gone = judge_gone(known, version, world, asker.profile).ok_or_else(|| no_version(name, version))?;
        let (verdict, first, notes) = gone;
        let screen = known.screen(world, asker.profile);
        let nearest = known.packument.as_ref().and_then(|packument| screen.nearest(packument, version));
        if let Some(refusal) = Refusal::of_version(name, version, &verdict, nearest) {
            return Err(self.refused(asker, refusal));
        }
        let integrity = first.and_then(|row| row.integrity.clone()).ok_or_else(|| no_version(name, version))?;
        Ok(Admitted { integrity, entry: None, notes })
    }

    /// The bytes, and whether they lay in the store already.
    async fn bytes(
        self: &Arc<Self>,
        asker: &Asker,
        known: &Known,
        admitted: &Admitted,
        revision: u64,
    ) -> Result<(Bytes, bool), Rejection> {
        let (digest, slot) = (admitted.integrity.strongest(), &known.slot);
        if let Some(bytes) = self.stored(digest).await? {
            CacheUsed { cache: CacheLabel::Blob, outcome: CacheOutcome::Hit }.emit(&self.metrics);
            return Ok((bytes, true));
        }
        CacheUsed { cache: CacheLabel::Blob, outcome: CacheOutcome::Miss }.emit(&self.metrics);
        let entry = known.packument.as_ref().and_then(|packument| packument.entries.get(admitted.entry?));
        let Some(entry) = entry else {
            return Err(Rejection::NotFound(
                format!("{} no longer has this version upstream, and it is not in the cache", slot.name).into(),
            ));
        };
        let source = Source {
            slot: slot.clone(),
            version: entry.key.clone(),
            url: entry.tarball.clone(),
            registry: Arc::clone(&known.registry),
            authorization: asker.authorization.clone(),
            revision,
        };
        let (inner, integrity) = (Arc::clone(self), admitted.integrity.clone());
        let flight = move || async move { inner.fetch(source, integrity).await };
        let landed = self.tarballs.join((digest.clone(), slot.partition.clone()), flight).await;
        landed.unwrap_or_else(|_| Err(lost())).map(|bytes| (bytes, false))
    }

    async fn stored(self: &Arc<Self>, digest: &Digest) -> Result<Option<Bytes>, Rejection> {
        if let Some(bytes) = self.blobs.mapped(digest) {
            return Ok(Some(bytes));
        }
        let open = |inner: &Self, digest: &Digest| {
            inner.blobs.open(digest).unwrap_or_else(|error| {
                tracing::error!(error = &error as &dyn std::error::Error, "a tarball in the store cannot be read");
                None
            })
        };
        if self.blobs.is_warm(digest) {
            return Ok(open(self, digest));
        }
        let (inner, digest) = (Arc::clone(self), digest.clone());
        self.blocking(move || open(&inner, &digest)).await
    }

    async fn fetch(self: Arc<Self>, source: Source, integrity: Integrity) -> Result<Bytes, Rejection> {
        let (opened, _permit) = self.open(&source).await?;
        // The flight before this one may have landed after its asker had looked.
        if let Some(bytes) = self.stored(integrity.strongest()).await? {
            return Ok(bytes);
        }
        let asked = Instant::now();
        let landed = self.land(&source, opened, integrity.clone()).await;
        // Committed first, looked at then: whoever condemns it and looks into the store meanwhile finds it there.
        if landed.is_ok() && self.world().revision != source.revision && self.is_condemned(&source, &integrity) {
            self.discard(&source, &integrity).await;
        }
        let (outcome, detail) = match &landed {
            Ok(_) => (UpstreamOutcome::Changed, None),
            Err(Rejection::Upstream(error)) => (notes::outcome_of(error), Some(error.to_string())),
            Err(error) => (UpstreamOutcome::Failed, Some(error.to_string())),
        };
        let name = Some(&source.slot.name);
        UpstreamAnswered { what: UpstreamWhat::Tarball, outcome, duration: asked.elapsed(), name, detail: detail.as_deref() }
            .emit(&self.metrics);
        landed
    }

    /// Whether advisories or people refuse it for good, whatever policy is asked: then it is not kept.
    fn is_condemned(&self, source: &Source, integrity: &Integrity) -> bool {
        let (world, now, name) = (self.world(), self.clock.now(), &source.slot.name);
        let parsed = Version::parse(&source.version);
        // Of a record that marks every version this is the worst reading: at worst it is fetched once more.
        let advisories = world.advisories.of(name.as_str()).among(std::iter::empty());
        let facts = Facts {
            parsed: parsed.as_ref(),
            integrity: Some(integrity),
            advisories: &advisories,
            ..Facts::of(name, &source.version, now)
        };
        let verdict = judge(&world.policy(Profile::default()).about(name), &world.standing, &facts, now);
        matches!(verdict, Verdict::Deny { reason } if matches!(reason.rule, RuleId::Advisory | RuleId::Denied))
    }

    /// Takes a tarball out of the store again that was condemned while it was on its way.
    async fn discard(self: &Arc<Self>, source: &Source, integrity: &Integrity) {
        let (inner, digest) = (Arc::clone(self), integrity.strongest().clone());
        let removed = self.blocking(move || inner.blobs.remove(&digest)).await;
        tracing::warn!(
            package.name = %source.slot.name,
            package.version = &*source.version,
            blobs.removed = matches!(removed, Ok(Ok(true))),
            "a tarball turned out to be bad while it was on its way"
        );
    }

    /// What is on its way already, if it comes from the right place, and a place among the downloads.
    async fn open(&self, source: &Source) -> Result<(Option<TarballBody>, OwnedSemaphorePermit), Rejection> {
        if let Some(aside) = self.asides.take(&source.slot, &source.version) {
            let customary = source.registry.is_customary(&source.slot.name, &source.version, &source.url);
            if !customary {
                self.asides.give_up(&source.registry);
                aside.abort();
            } else if let Ok(Opened { body: Ok(body), permit }) = aside.await {
                return Ok((Some(body), permit));
            }
        }
        let permit = Arc::clone(&self.downloads).acquire_owned().await;
        Ok((None, permit.map_err(|_| lost())?))
    }

    /// From upstream to the disk, hashed as it lands, checked before it is anyone's.
    async fn land(
        self: &Arc<Self>,
        source: &Source,
        opened: Option<TarballBody>,
        integrity: Integrity,
    ) -> Result<Bytes, Rejection> {
        let mut body = match opened {
            Some(body) => body,
            None => source.registry.tarball(&source.url, &source.authorization).await?,
        };
        let (sender, receiver) = tokio::sync::mpsc::channel::<Piece>(IN_FLIGHT);
        let blobs = Arc::clone(&self.blobs);
        let expected = integrity.clone();
        let writer = tokio::task::spawn_blocking(move || write(blobs.begin(expected)?, receiver));
        let pumped = pump(&mut body, &sender).await;
        drop(sender);
        let written = writer.await.map_err(|_| lost())?;
        pumped?;
        match written {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => Err(Rejection::Internal("a tarball was cut short".into())),
            Err(StoreError::Mismatch(mismatch)) => Err(self.mismatched(source, &mismatch)),
            Err(error) => {
                tracing::error!(
                    package.name = %source.slot.name,
                    package.version = &*source.version,
                    error = &error as &dyn std::error::Error,
                    "a tarball cannot be kept, it is passed on"
                );
                self.carry(source, integrity).await
            }
        }
    }

    /// From upstream through memory, where the disk does not take it: a full one keeps nobody from installing. Checked whole
    /// before it is anyone's, like what is kept.
    async fn carry(&self, source: &Source, integrity: Integrity) -> Result<Bytes, Rejection> {
        let mut body = source.registry.tarball(&source.url, &source.authorization).await?;
        let length = body.length().unwrap_or(self.config.tarball_limit);
        let share = u32::try_from(length.div_ceil(CARRIED_UNIT)).unwrap_or(u32::MAX);
        if share as usize > CARRIED_UNITS {
            let text = format!("{} cannot be written to the store, and is too large to pass on without", source.slot.name);
            return Err(Rejection::Internal(text.into()));
        }
        let permit = Arc::clone(&self.carried).acquire_many_owned(share).await.map_err(|_| lost())?;
        let (mut hasher, mut bytes) = (Hasher::new(integrity), Vec::new());
        while let Some(chunk) = body.next().await? {
            hasher.update(&chunk);
            bytes.extend_from_slice(&chunk);
        }
        match hasher.finish() {
            Ok(()) => Ok(Bytes::from_owner(Carried { bytes, _permit: permit })),
            Err(mismatch) => Err(self.mismatched(source, &mismatch)),
        }
    }

    /// The refusal of bytes that are not what the packument says.
    fn mismatched(&self, source: &Source, mismatch: &Mismatch) -> Rejection {
        let detail = mismatch.to_string();
        IntegrityMismatch { name: &source.slot.name, version: &source.version, detail: &detail }.emit(&self.metrics);
        self.incident("integrity_mismatch", Some(&source.slot.name), Some(&source.version), detail.clone());
        let verdict =
            Verdict::deny(RuleId::IntegrityMismatch, format!("the bytes upstream sent are not the packument's: {detail}"));
        let refusal = Refusal::of_version(&source.slot.name, &source.version, &verdict, None);
        refusal.map_or_else(|| Rejection::Internal(detail.into()), |refusal| Rejection::Refused(Arc::new(refusal)))
    }

    /// What of upstream's failures is a refusal by us.
    fn explain_failure(&self, asker: &Asker, reading: &Reading, version: &str, rejection: Rejection) -> Rejection {
        let name = &reading.known.slot.name;
        match rejection {
            Rejection::Upstream(error @ UpstreamError::TarballHost { .. }) => {
                let verdict = Verdict::deny(RuleId::TarballHost, error.to_string());
                match Refusal::of_version(name, version, &verdict, None) {
                    Some(refusal) => self.refused(asker, refusal),
                    None => error.into(),
                }
            }
            // Made in a flight, where nobody asks: told here, once for everybody who waited.
            Rejection::Refused(refusal) => self.refused(asker, Refusal::clone(&refusal)),
            other => self.explain_unsent(asker, name, other),
        }
    }

    pub(super) fn note_refusal(&self, asker: &Asker, known: &Known, version: &str, rejection: Rejection) -> Rejection {
        if let Rejection::Refused(refusal) = &rejection {
            let entry = known.packument.as_ref().and_then(|packument| packument.find(version));
            let integrity = entry.and_then(|(_, entry)| entry.integrity.as_ref());
            let who = (asker, self.clock.now());
            self.note_tarball(who, &known.slot.name, version, integrity, Outcome::Refused, Some(&refusal.rule));
        }
        rejection
    }

    /// Tells of what was served though rules had something to say.
    fn note_observed(&self, asker: &Asker, name: &PackageName, version: &str, notes: &[Note]) {
        for Note { reason, would_refuse } in notes {
            Observed {
                name,
                version,
                rule: &reason.rule,
                would_refuse: *would_refuse,
                client: asker.address,
                user: asker.user.as_deref(),
                detail: &reason.detail,
            }
            .emit(&self.metrics);
        }
    }

    pub(super) fn note_tarball(
        &self,
        (asker, now): (&Asker, Timestamp),
        name: &PackageName,
        version: &str,
        integrity: Option<&Integrity>,
        outcome: Outcome,
        rule: Option<&RuleId>,
    ) {
        let download = Download {
            kind: Kind::Tarball,
            name: name.clone(),
            version: Some(version.into()),
            integrity: integrity.map(|integrity| integrity.strongest().clone()),
            outcome,
            rule: rule.map(|rule| rule.as_str().into()),
            hidden: Arc::default(),
            client: asker.address,
            user: asker.user.clone(),
            tool: asker.agent.tool.as_str(),
            tool_version: asker.agent.version.clone(),
        };
        self.ledger.record_download(download, now);
    }
}

/// The verdict of a version the newest packument does not have, as what it was first seen, and what is noted of it; `None` when it
/// never was.
pub(super) fn judge_gone<'a>(
    known: &'a Known,
    version: &'a str,
    world: &'a World,
    profile: Profile,
) -> Option<(Verdict, Option<&'a Release>, Vec<Note>)> {
    let departed = Departed::find(known, version, world)?;
    let facts = departed.facts(None);
    let rules = world.policy(profile).about(facts.name);
    let verdict = judge(&rules, &world.standing, &facts, known.validated);
    let mut notes = rules.notes(&facts, known.validated);
    notes.splice(0..0, waiver(&rules, &world.standing, &facts, known.validated));
    Some((verdict, departed.first, notes))
}

/// A tarball that the disk did not take, and its share of the memory for those, held until its last reader is done.
struct Carried {
    bytes: Vec<u8>,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Carried {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// What travels from the network to the disk.
enum Piece {
    Chunk(Bytes),
    /// The body ended as upstream said it would. Without it the body broke off.
    End,
}

/// Carries a body from the network to the writer.
async fn pump(body: &mut TarballBody, sender: &tokio::sync::mpsc::Sender<Piece>) -> Result<(), UpstreamError> {
    // A writer that is gone has failed and says why itself.
    while let Some(chunk) = body.next().await? {
        if sender.send(Piece::Chunk(chunk)).await.is_err() {
            return Ok(());
        }
    }
    let _ = sender.send(Piece::End).await;
    Ok(())
}

/// Writes chunks as they come. `None` when the body broke off: nothing is kept then.
fn write(mut pending: Box<dyn PendingBlob>, mut pieces: tokio::sync::mpsc::Receiver<Piece>) -> Result<Option<Bytes>, StoreError> {
    while let Some(piece) = pieces.blocking_recv() {
        match piece {
            Piece::Chunk(chunk) => pending.write(&chunk)?,
            Piece::End => return pending.commit().map(Some),
        }
    }
    Ok(None)
}
