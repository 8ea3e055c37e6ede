//! Questions for a tarball: verdict first, from the index; then the store, for who is entitled to what lies there; then one flight
//! from upstream, hashed as it lands. No byte is handed out before the whole matches every digest that is known of the version.

pub(crate) mod addresses;
pub(crate) mod early_request;
pub(crate) mod entitlement;
pub(crate) mod stored;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::OwnedSemaphorePermit;

use crate::firewall::error::{FirewallError, Refusal};
use crate::firewall::package::removed::RemovedVersion;
use crate::firewall::package::{CacheKey, PackageSnapshot};
use crate::firewall::packages::fetch::{DocumentNeed, lost};
use crate::firewall::packages::fetch_slots::SlotRequest;
use crate::firewall::policy_state::{EvalContext, PolicySnapshot, Profile};
use crate::firewall::queries::packument::no_version;
use crate::firewall::request::{Client, TarballResponse};
use crate::firewall::tarballs::early_request::OpenedDownload;
use crate::firewall::tarballs::entitlement::Entitled;
use crate::firewall::tarballs::stored::{Place, StoredTarball};
use crate::firewall::{Components, PackageLookup, recorder};
use crate::net::FairPermit;
use crate::npm::integrity::Mismatch;
use crate::npm::{Algorithm, Digest, DigestComparison, Hasher, Integrity, PackageName, Packument, Version};
use crate::policy::{Facts, RuleId, Verdict, Warning, judge, waiver};
use crate::store::{
    BlobKind, Committed, DownloadEvent, DownloadKind, DownloadOutcome, LearnedDigests, PackageChange, PendingBlob, Release,
    StoreError, TarballSource,
};
use crate::telemetry::{
    CacheLabel, CacheLookup, CacheOutcome, IntegrityMismatch, ServedWithWarning, UpstreamAnswered, UpstreamOutcome, UpstreamWhat,
};
use crate::upstream::{Authorization, Registry, TarballBody, UpstreamError};

/// Chunks of a tarball on their way from the network to the disk.
const IN_FLIGHT: usize = 16;

/// Memory for tarballs that the disk does not take: so many units of so many bytes. Whoever comes later waits.
pub(crate) const CARRIED_UNITS: usize = 64;
const CARRIED_UNIT: u64 = 1 << 20;

/// What is fetched under: the same version from the same address for the same credentials, checked by the same digests.
pub(crate) type TarballKey = (CacheKey, Box<str>, Box<str>, Integrity);

/// A tarball that was downloaded.
#[derive(Clone)]
pub(crate) struct Landed {
    bytes: Bytes,
    /// Every digest that was computed of it.
    digests: Integrity,
}

/// A tarball that may be served.
struct AdmittedTarball {
    /// Every digest that its bytes must match: what is stated, was ever stated, was computed, and was approved.
    integrity: Integrity,
    /// Which entry of the packument it is, whose tarball upstream has; of one that upstream no longer has, it comes from the store
    /// or not at all.
    entry: Option<usize>,
    /// What rules say of it without refusing it.
    notes: Vec<Warning>,
}

/// Where a tarball lies upstream, owned, for a flight that outlives whoever asked.
struct Source {
    known: Arc<PackageSnapshot>,
    /// Which entry of the packument it is.
    at: usize,
    slot: CacheKey,
    version: Box<str>,
    url: Box<str>,
    registry: Arc<Registry>,
    authorization: Authorization,
    /// Whether nothing stronger than SHA-1 was known of it before any download: then bytes could be made to collide.
    detect_collisions: bool,
    /// What was known when it was admitted: it may have waited long for its place among the downloads.
    revision: u64,
}

impl Components {
    pub(crate) async fn tarball(
        self: &Arc<Self>,
        asker: &Client,
        name: &PackageName,
        version: &str,
    ) -> Result<TarballResponse, FirewallError> {
        let moment = self.moment();
        // Held to the end: who waits for it keeps it on its way.
        let _aside;
        let (reading, moment) = if let Some(reading) = self.at_hand(asker, name, DocumentNeed::Index, &moment) {
            (reading, moment)
        } else {
            _aside = Box::pin(self.set_out(asker, name, version)).await;
            (Box::pin(self.reading(asker, name, DocumentNeed::Index, None)).await?, self.moment())
        };
        let (mut reading, mut moment) = (reading, moment);
        let mut admitted = self.admit_from(asker, &reading, version, &moment.world).await;
        if let Err(FirewallError::NotFound(_)) = &admitted
            && let Some(again) = Box::pin(self.ask_once_more(asker, &reading, version, DocumentNeed::Index)).await
        {
            (reading, moment) = (again, self.moment());
            admitted = self.admit_from(asker, &reading, version, &moment.world).await;
        }
        let EvalContext { now, world } = moment;
        let admitted = match admitted {
            Ok(admitted) => admitted,
            Err(rejection) => return Err(self.note_refusal(asker, &reading.known, version, rejection)),
        };
        match self.bytes(asker, &reading.known, version, &admitted, world.revision).await {
            Ok((Landed { bytes, digests }, kept)) => {
                // What was decided while it was on its way counts before its first byte leaves.
                let then = self.world();
                if then.revision != world.revision {
                    let again = self.admit_from(asker, &reading, version, &then).await;
                    again.map_err(|rejection| self.note_refusal(asker, &reading.known, version, rejection))?;
                }
                let notes = admitted.notes;
                self.note_observed(asker, name, version, &notes);
                let rule = notes.first().map(|note| &note.reason.rule);
                self.note_tarball((asker, now), name, version, Some(&digests), DownloadOutcome::Served, rule);
                Ok(TarballResponse { bytes, integrity: digests, kept })
            }
            Err(rejection) => {
                Err(self.note_refusal(asker, &reading.known, version, self.explain_failure(asker, &reading, version, rejection)))
            }
        }
    }

    /// As [`Components::admit`]. Of a package of many versions only one that is shown is admitted on the spot.
    async fn admit_from(
        self: &Arc<Self>,
        asker: &Client,
        reading: &PackageLookup,
        version: &str,
        world: &Arc<PolicySnapshot>,
    ) -> Result<AdmittedTarball, FirewallError> {
        let known = &reading.known;
        let is_shown = || {
            let (at, _) = known.packument.as_ref()?.find(version)?;
            Some(known.is_judged(world, asker.profile) && known.screen(world, asker.profile).shown[at])
        };
        if !known.has_many_versions() || is_shown() == Some(true) {
            return self.admit(asker, reading, version, world);
        }
        Box::pin(self.admit_elsewhere(asker, reading, version, world)).await
    }

    /// As [`Components::admit`], off the async threads.
    async fn admit_elsewhere(
        self: &Arc<Self>,
        asker: &Client,
        reading: &PackageLookup,
        version: &str,
        world: &Arc<PolicySnapshot>,
    ) -> Result<AdmittedTarball, FirewallError> {
        let (inner, world) = (Arc::clone(self), Arc::clone(world));
        let (asked, read, version) = (asker.clone(), reading.clone(), Box::<str>::from(version));
        self.over_versions(&reading.known, asker.address, move || inner.admit(&asked, &read, &version, &world)).await?
    }

    /// The verdict: what may be served, and what it must hash to.
    fn admit(
        &self,
        asker: &Client,
        reading: &PackageLookup,
        version: &str,
        world: &PolicySnapshot,
    ) -> Result<AdmittedTarball, FirewallError> {
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
        let stated = entry.integrity.as_ref().ok_or_else(|| no_version(name, version))?;
        let integrity = known.provenance.get(at).and_then(|provenance| provenance.digests.as_ref()).unwrap_or(stated);
        let integrity = world.standing.with_approved_digests(name, version, integrity);
        Ok(AdmittedTarball { integrity, entry: Some(at), notes: screen.notes(at).to_vec() })
    }

    /// A version the newest packument does not have: an old one goes on being served to whoever's lockfile holds it.
    fn admit_gone(
        &self,
        asker: &Client,
        known: &PackageSnapshot,
        version: &str,
        world: &PolicySnapshot,
    ) -> Result<AdmittedTarball, FirewallError> {
        let name = &known.slot.name;
        let gone = judge_gone(known, version, world, asker.profile).ok_or_else(|| no_version(name, version))?;
        let (verdict, first, notes) = gone;
        let screen = known.screen(world, asker.profile);
        let nearest = known.packument.as_ref().and_then(|packument| screen.nearest(packument, version));
        if let Some(refusal) = Refusal::of_version(name, version, &verdict, nearest) {
            // It may be there for other tokens, which is not this one's to know.
            let is_told = |packument: &Arc<Packument>| packument.find_departed(version).is_some();
            if known.slot.is_own() && !known.packument.as_ref().is_some_and(is_told) {
                return Err(no_version(name, version));
            }
            return Err(self.refused(asker, refusal));
        }
        let integrity = first.and_then(Release::known_digests).ok_or_else(|| no_version(name, version))?;
        let integrity = world.standing.with_approved_digests(name, version, &integrity);
        Ok(AdmittedTarball { integrity, entry: None, notes })
    }

    /// The bytes, and whether they lay in the store already.
    async fn bytes(
        self: &Arc<Self>,
        asker: &Client,
        known: &Arc<PackageSnapshot>,
        version: &str,
        admitted: &AdmittedTarball,
        revision: u64,
    ) -> Result<(Landed, bool), FirewallError> {
        let slot = &known.slot;
        if let Some(landed) = self.stored(asker, known, version, admitted).await? {
            CacheLookup { cache: CacheLabel::Blob, outcome: CacheOutcome::Hit }.emit(&self.metrics);
            return Ok((landed, true));
        }
        CacheLookup { cache: CacheLabel::Blob, outcome: CacheOutcome::Miss }.emit(&self.metrics);
        let entry =
            known.packument.as_ref().and_then(|packument| Some((admitted.entry?, packument.entries.get(admitted.entry?)?)));
        let Some((at, entry)) = entry else {
            if slot.is_own() {
                return Err(no_version(&slot.name, version));
            }
            return Err(FirewallError::NotFound(
                format!("{} no longer has this version upstream, and it is not in the cache", slot.name).into(),
            ));
        };
        let source = Source {
            known: Arc::clone(known),
            at,
            slot: slot.clone(),
            version: entry.key.clone(),
            url: entry.tarball.clone(),
            registry: Arc::clone(&known.registry),
            authorization: asker.authorization.clone(),
            detect_collisions: is_known_by_sha1_alone(known, version, &admitted.integrity),
            revision,
        };
        let (inner, integrity) = (Arc::clone(self), admitted.integrity.clone());
        let key = (slot.clone(), entry.key.clone(), entry.tarball.clone(), integrity.clone());
        let slots = self.downloads.of(&known.registry);
        let fetch = move |request| async move { inner.fetch(source, integrity, request).await };
        let landed = Box::pin(self.tarballs.join(key, asker.address, &slots, fetch)).await;
        landed.unwrap_or_else(|_| Err(self.note_lost_fetch())).map(|landed| (landed, false))
    }

    /// The tarball from the store, if it lies there, came from where the packument places it, matches every digest, and `asker` may
    /// have it.
    async fn stored(
        self: &Arc<Self>,
        asker: &Client,
        known: &Arc<PackageSnapshot>,
        version: &str,
        admitted: &AdmittedTarball,
    ) -> Result<Option<Landed>, FirewallError> {
        let Some(stored) = self.find_stored(known, version, admitted).await? else { return Ok(None) };
        let Some(bytes) = self.open_blob(&stored.name).await else { return Ok(None) };
        let entitled = match admitted.entry {
            None if self.is_entitled_to_departed(known, &stored) => Entitled::Yes,
            None => Entitled::Unclear,
            Some(_) if self.is_entitled(known, &stored) => Entitled::Yes,
            Some(at) => Box::pin(self.ask_entitlement(known, at, &stored, asker)).await?,
        };
        Ok((entitled == Entitled::Yes).then(|| Landed { bytes, digests: stored.digests.clone() }))
    }

    /// What the store has of an entry: looked up in memory, then in the ledger, which remembers what came from where.
    async fn find_stored(
        self: &Arc<Self>,
        known: &Arc<PackageSnapshot>,
        version: &str,
        admitted: &AdmittedTarball,
    ) -> Result<Option<Arc<StoredTarball>>, FirewallError> {
        let integrity = &admitted.integrity;
        let in_memory = admitted.entry.and_then(|at| known.tarballs.get(at));
        if let Some(stored) = in_memory.filter(|stored| integrity.is_covered_by(&stored.digests)) {
            return Ok(Some(stored));
        }
        let (inner, key, of) = (Arc::clone(self), known.slot.key(&known.registry), Box::<str>::from(version));
        let sources = self.blocking(move || inner.ledger.tarballs(&key, &of)).await?;
        let sources = sources.unwrap_or_else(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "the ledger cannot be read");
            Vec::new()
        });
        let packument = known.packument.as_ref();
        let entry = packument.and_then(|packument| Some((admitted.entry?, packument.entries.get(admitted.entry?)?)));
        let fits = |source: &TarballSource| {
            entry.is_none_or(|(_, entry)| source.address == entry.tarball) && integrity.is_covered_by(&source.digests)
        };
        let mut fitting = sources.into_iter().filter(fits).filter_map(|source| StoredTarball::recall(&known.slot.name, source));
        let first = fitting.next();
        let stored = match fitting.find(StoredTarball::is_public) {
            // Of a departed version any address will do, best a public one.
            Some(public) if entry.is_none() => Some(public),
            _ => first,
        };
        let Some(stored) = stored.map(Arc::new) else { return Ok(None) };
        if let (Some((at, _)), Some(packument)) = (entry, packument) {
            known.tarballs.set(at, packument.entries.len(), &stored);
        }
        Ok(Some(stored))
    }

    /// A blob of the store; one that cannot be read is fetched again.
    async fn open_blob(&self, name: &Digest) -> Option<Bytes> {
        if let Some(bytes) = self.blobs.mapped(name) {
            return Some(bytes);
        }
        self.blobs.open(name).await.unwrap_or_else(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "a tarball in the store cannot be read");
            None
        })
    }

    async fn fetch(
        self: Arc<Self>,
        source: Source,
        integrity: Integrity,
        request: SlotRequest<TarballKey>,
    ) -> Result<Landed, FirewallError> {
        let (opened, _permit) = self.open(&source, request).await;
        // The flight before this one may have landed after its asker had looked.
        let before = source.known.tarballs.get(source.at).filter(|stored| integrity.is_covered_by(&stored.digests));
        if let Some(stored) = before.filter(|stored| self.is_entitled(&source.known, stored))
            && let Some(bytes) = self.open_blob(&stored.name).await
        {
            return Ok(Landed { bytes, digests: stored.digests.clone() });
        }
        let asked = Instant::now();
        let landed = self.land(&source, opened, integrity.clone()).await;
        // Committed first, looked at then: whoever condemns it and looks into the store meanwhile finds it there.
        if let Ok(Landed { digests, .. }) = &landed
            && self.world().revision != source.revision
            && self.is_condemned(&source, digests)
        {
            self.discard(&source, digests).await;
        }
        let (outcome, detail) = match &landed {
            Ok(_) => (UpstreamOutcome::Changed, None),
            Err(FirewallError::Upstream(error)) => (recorder::outcome_of(error), Some(error.to_string())),
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
        let (inner, digests) = (Arc::clone(self), integrity.clone());
        let removed =
            self.blocking(move || digests.digest(Algorithm::Sha512).map_or(Ok(false), |name| inner.blobs.remove(name))).await;
        tracing::warn!(
            package.name = %source.slot.name,
            package.version = &*source.version,
            blobs.removed = matches!(removed, Ok(Ok(true))),
            "a tarball turned out to be bad while it was on its way"
        );
    }

    /// What is on its way already, if it comes from the right place, and a place among the downloads.
    async fn open(&self, source: &Source, request: SlotRequest<TarballKey>) -> (Option<TarballBody>, FairPermit) {
        let customary = source.registry.is_customary(&source.slot.name, &source.version, &source.url);
        self.asides.learn(&source.registry, customary);
        if let Some(aside) = self.asides.take(&source.slot, &source.version) {
            if !customary {
                aside.abort();
            } else if let Ok(OpenedDownload { body: Ok(body), permit }) = aside.await {
                return (Some(body), permit);
            }
        }
        (None, request.permit(&self.downloads.of(&source.registry)).await)
    }

    /// From upstream to the disk, hashed as it lands, checked before it is anyone's.
    async fn land(
        self: &Arc<Self>,
        source: &Source,
        opened: Option<TarballBody>,
        integrity: Integrity,
    ) -> Result<Landed, FirewallError> {
        let mut body = match opened {
            Some(body) => body,
            None => source.registry.tarball(&source.url, &source.authorization).await?,
        };
        let (sender, receiver) = tokio::sync::mpsc::channel::<Chunk>(IN_FLIGHT);
        let blobs = Arc::clone(&self.blobs);
        let hasher = Hasher::for_tarball(integrity.clone(), source.detect_collisions);
        let writer = tokio::task::spawn_blocking(move || write(blobs.begin(BlobKind::Tarball, hasher)?, receiver));
        let pumped = pump(&mut body, &sender).await;
        drop(sender);
        let written = writer.await.map_err(|error| self.note_lost(&error, lost()))?;
        pumped?;
        match written {
            Ok(Some(Committed { digests, bytes })) => {
                let landed = Landed { bytes, digests };
                self.note_landed(source, &landed, body.needed_credentials()).await;
                Ok(landed)
            }
            Ok(None) => Err(FirewallError::Internal("a tarball was cut short".into())),
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
    async fn carry(self: &Arc<Self>, source: &Source, integrity: Integrity) -> Result<Landed, FirewallError> {
        let mut body = source.registry.tarball(&source.url, &source.authorization).await?;
        let length = body.length().unwrap_or(self.config.tarball_limit);
        let share = u32::try_from(length.div_ceil(CARRIED_UNIT)).unwrap_or(u32::MAX);
        if share as usize > CARRIED_UNITS {
            let text = format!("{} cannot be written to the store, and is too large to pass on without", source.slot.name);
            return Err(FirewallError::Internal(text.into()));
        }
        let permit = Arc::clone(&self.carried).acquire_many_owned(share).await.map_err(|_| lost())?;
        let (mut hasher, mut bytes) = (Hasher::for_tarball(integrity, source.detect_collisions), Vec::new());
        while let Some(chunk) = body.next().await? {
            hasher.update(&chunk);
            bytes.extend_from_slice(&chunk);
        }
        match hasher.finish() {
            Ok(digests) => {
                let landed = Landed { bytes: Bytes::from_owner(InMemoryTarball { bytes, _permit: permit }), digests };
                self.note_landed(source, &landed, body.needed_credentials()).await;
                Ok(landed)
            }
            Err(mismatch) => Err(self.mismatched(source, &mismatch)),
        }
    }

    /// Writes down what a full download yielded, before its first byte leaves: every digest of the bytes binds the version from now
    /// on, and the store may serve them for this address.
    async fn note_landed(self: &Arc<Self>, source: &Source, landed: &Landed, with_credentials: bool) {
        let Landed { bytes, digests } = landed;
        let (length, public) = (bytes.len() as u64, !with_credentials);
        let Some(stored) = StoredTarball::new(digests.clone(), length, Place::of(&source.slot.name, &source.url), public) else {
            return;
        };
        let stored = Arc::new(stored);
        let is_about = |known: Integrity| known.agreement(digests) == DigestComparison::Same;
        let row = source.known.releases_of(&source.version).find(|row| row.known_digests().is_some_and(is_about));
        let learned = row.map(|row| LearnedDigests {
            version: row.version.clone(),
            integrity: row.integrity.clone(),
            digests: digests.clone(),
        });
        let tarball = TarballSource {
            version: source.version.clone(),
            address: source.url.clone(),
            digests: digests.clone(),
            length,
            public,
        };
        let change =
            PackageChange { digests: learned.into_iter().collect(), tarballs: vec![tarball], ..PackageChange::default() };
        let (inner, key) = (Arc::clone(self), source.slot.key(&source.registry));
        if self.blocking(move || inner.write(&key, &change)).await.is_err() {
            tracing::error!("the ledger's task was lost");
        }
        let entries = source.known.packument.as_ref().map_or(0, |packument| packument.entries.len());
        source.known.tarballs.set(source.at, entries, &stored);
        self.entitlements.grant(&source.slot, &stored.place, self.clock.now());
    }

    /// The refusal of bytes that are not what the packument says.
    fn mismatched(&self, source: &Source, mismatch: &Mismatch) -> FirewallError {
        let detail = mismatch.to_string();
        IntegrityMismatch { name: &source.slot.name, version: &source.version, detail: &detail }.emit(&self.metrics);
        self.incident("integrity_mismatch", Some(&source.slot.name), Some(&source.version), detail.clone());
        let verdict =
            Verdict::deny(RuleId::IntegrityMismatch, format!("the bytes upstream sent are not the packument's: {detail}"));
        let refusal = Refusal::of_version(&source.slot.name, &source.version, &verdict, None);
        refusal.map_or_else(|| FirewallError::Internal(detail.into()), |refusal| FirewallError::Refused(Arc::new(refusal)))
    }

    /// What of upstream's failures is a refusal by us.
    fn explain_failure(&self, asker: &Client, reading: &PackageLookup, version: &str, rejection: FirewallError) -> FirewallError {
        let name = &reading.known.slot.name;
        match rejection {
            FirewallError::Upstream(error @ UpstreamError::TarballHost { .. }) => {
                let verdict = Verdict::deny(RuleId::TarballHost, error.to_string());
                match Refusal::of_version(name, version, &verdict, None) {
                    Some(refusal) => self.refused(asker, refusal),
                    None => error.into(),
                }
            }
            // Made in a flight, where nobody asks: told here, once for everybody who waited.
            FirewallError::Refused(refusal) => self.refused(asker, Refusal::clone(&refusal)),
            other => self.explain_unsent(asker, name, other),
        }
    }

    pub(crate) fn note_refusal(
        &self,
        asker: &Client,
        known: &PackageSnapshot,
        version: &str,
        rejection: FirewallError,
    ) -> FirewallError {
        if let FirewallError::Refused(refusal) = &rejection {
            let entry = known.packument.as_ref().and_then(|packument| packument.find(version));
            let integrity = entry.and_then(|(_, entry)| entry.integrity.as_ref());
            let who = (asker, self.clock.now());
            self.note_tarball(who, &known.slot.name, version, integrity, DownloadOutcome::Refused, Some(&refusal.rule));
        }
        rejection
    }

    /// Tells of what was served though rules had something to say.
    fn note_observed(&self, asker: &Client, name: &PackageName, version: &str, notes: &[Warning]) {
        for Warning { reason, would_refuse } in notes {
            ServedWithWarning {
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

    pub(crate) fn note_tarball(
        &self,
        (asker, now): (&Client, Timestamp),
        name: &PackageName,
        version: &str,
        integrity: Option<&Integrity>,
        outcome: DownloadOutcome,
        rule: Option<&RuleId>,
    ) {
        let download = DownloadEvent {
            kind: DownloadKind::Tarball,
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

/// Whether SHA-1 alone was known of a version before any of its bytes were downloaded.
fn is_known_by_sha1_alone(known: &PackageSnapshot, version: &str, integrity: &Integrity) -> bool {
    let is_weak = |integrity: &Integrity| integrity.strongest().algorithm() == Algorithm::Sha1;
    is_weak(integrity) || known.releases_of(version).filter_map(|row| row.integrity.as_ref()).any(is_weak)
}

/// The verdict of a version the newest packument does not have, as what it was first seen, and what is noted of it; `None` when it
/// never was.
pub(crate) fn judge_gone<'a>(
    known: &'a PackageSnapshot,
    version: &'a str,
    world: &'a PolicySnapshot,
    profile: Profile,
) -> Option<(Verdict, Option<&'a Release>, Vec<Warning>)> {
    let departed = RemovedVersion::find(known, version, world)?;
    let facts = departed.facts(None);
    let rules = world.policy(profile).about(facts.name);
    let verdict = judge(&rules, &world.standing, &facts, known.validated);
    let mut notes = rules.notes(&facts, known.validated);
    notes.splice(0..0, waiver(&rules, &world.standing, &facts, known.validated));
    Some((verdict, departed.first, notes))
}

/// A tarball that the disk did not take, and its share of the memory for those, held until its last reader is done.
struct InMemoryTarball {
    bytes: Vec<u8>,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for InMemoryTarball {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// What travels from the network to the disk.
enum Chunk {
    Chunk(Bytes),
    /// The body ended as upstream said it would. Without it the body broke off.
    End,
}

/// Carries a body from the network to the writer.
async fn pump(body: &mut TarballBody, sender: &tokio::sync::mpsc::Sender<Chunk>) -> Result<(), UpstreamError> {
    // A writer that is gone has failed and says why itself.
    while let Some(chunk) = body.next().await? {
        if sender.send(Chunk::Chunk(chunk)).await.is_err() {
            return Ok(());
        }
    }
    let _ = sender.send(Chunk::End).await;
    Ok(())
}

/// Writes chunks as they come. `None` when the body broke off: nothing is kept then.
fn write(
    mut pending: Box<dyn PendingBlob>,
    mut pieces: tokio::sync::mpsc::Receiver<Chunk>,
) -> Result<Option<Committed>, StoreError> {
    while let Some(piece) = pieces.blocking_recv() {
        match piece {
            Chunk::Chunk(chunk) => pending.write(&chunk)?,
            Chunk::End => return pending.commit().map(Some),
        }
    }
    Ok(None)
}
