//! Serves tarballs. The verdict comes first, from the index; then the store, for clients entitled to the stored bytes; then one
//! shared download, hashed while it is written. No byte is served before the whole tarball matches every known digest.

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
use crate::firewall::packages::fetch::{DocumentNeed, task_failed};
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
use crate::npm::{Algorithm, Digest, DigestComparison, Hasher, Integrity, PackageName, Packument, Sha1Check, Version};
use crate::policy::{Facts, RuleId, Verdict, Warning};
use crate::store::{
    BlobKind, Committed, DownloadEvent, DownloadKind, DownloadOutcome, LearnedDigests, PackageChange, PendingBlob, Release,
    StoreError, TarballSource,
};
use crate::telemetry::{
    CacheLabel, CacheLookup, CacheOutcome, IntegrityMismatch, ServedWithWarning, UpstreamAnswered, UpstreamOutcome, UpstreamWhat,
};
use crate::upstream::{Authorization, Registry, TarballBody, UpstreamError};

/// Chunks buffered between network and disk.
const MAX_BUFFERED_CHUNKS: usize = 16;

/// Memory for tarballs that cannot be written to disk: the number of units, and their size in bytes. Further downloads wait.
pub(crate) const MEMORY_UNITS: usize = 64;
const MEMORY_UNIT_BYTES: u64 = 1 << 20;

/// The key of a shared download: the same version from the same URL with the same credentials, checked against the same digests.
pub(crate) type TarballKey = (CacheKey, Box<str>, Box<str>, Integrity);

/// A downloaded and verified tarball.
#[derive(Clone)]
pub(crate) struct Landed {
    bytes: Bytes,
    /// Every digest computed from the bytes.
    digests: Integrity,
}

/// A tarball that may be served.
struct AdmittedTarball {
    /// Every digest that its bytes must match: stated now or before, computed, and approved.
    integrity: Integrity,
    /// The index of the packument entry. `None` for a version that was removed upstream, which can only come from the store.
    entry: Option<usize>,
    /// Warnings that do not refuse it.
    notes: Vec<Warning>,
}

/// The inputs of a download. Owned, because a download outlives the request that started it.
struct Source {
    known: Arc<PackageSnapshot>,
    /// The index of the packument entry.
    at: usize,
    slot: CacheKey,
    version: Box<str>,
    url: Box<str>,
    registry: Arc<Registry>,
    authorization: Authorization,
    /// Whether only SHA-1 was known before the download, so that colliding bytes are possible.
    sha1: Sha1Check,
    /// The policy revision at admission. The download may have waited long for a slot.
    revision: u64,
}

impl Components {
    pub(crate) async fn tarball(
        self: &Arc<Self>,
        client: &Client,
        name: &PackageName,
        version: &str,
    ) -> Result<TarballResponse, FirewallError> {
        let moment = self.context();
        // Held to the end, because dropping it aborts the early request.
        let _early;
        let (reading, moment) = if let Some(reading) = self.cached(client, name, DocumentNeed::Index, &moment) {
            (reading, moment)
        } else {
            _early = Box::pin(self.start(client, name, version)).await;
            (Box::pin(self.lookup(client, name, DocumentNeed::Index, None)).await?, self.context())
        };
        let (mut reading, mut moment) = (reading, moment);
        let mut admitted = self.admit_from(client, &reading, version, &moment.policy_snapshot).await;
        if let Err(FirewallError::NotFound(_)) = &admitted
            && let Some(again) = Box::pin(self.ask_once_more(client, &reading, version, DocumentNeed::Index)).await
        {
            (reading, moment) = (again, self.context());
            admitted = self.admit_from(client, &reading, version, &moment.policy_snapshot).await;
        }
        let EvalContext { now, policy_snapshot } = moment;
        let admitted = match admitted {
            Ok(admitted) => admitted,
            Err(rejection) => return Err(self.note_refusal(client, &reading.known, version, rejection)),
        };
        match self.load_or_download(client, &reading.known, version, &admitted, policy_snapshot.revision).await {
            Ok((Landed { bytes, digests }, kept)) => {
                // Changes during the download apply before the first byte is served.
                let then = self.policy_snapshot();
                if then.revision != policy_snapshot.revision {
                    let again = self.admit_from(client, &reading, version, &then).await;
                    again.map_err(|rejection| self.note_refusal(client, &reading.known, version, rejection))?;
                }
                let notes = admitted.notes;
                self.note_observed(client, name, version, &notes);
                let rule = notes.first().map(|note| &note.reason.rule);
                self.note_tarball((client, now), name, version, Some(&digests), DownloadOutcome::Served, rule);
                Ok(TarballResponse { bytes, integrity: digests, kept })
            }
            Err(rejection) => Err(self.note_refusal(
                client,
                &reading.known,
                version,
                self.explain_failure(client, &reading, version, rejection),
            )),
        }
    }

    /// Admits a version like [`Components::admit`]. With many versions, only a visible version is admitted on the async thread.
    async fn admit_from(
        self: &Arc<Self>,
        client: &Client,
        reading: &PackageLookup,
        version: &str,
        policy_snapshot: &Arc<PolicySnapshot>,
    ) -> Result<AdmittedTarball, FirewallError> {
        let known = &reading.known;
        let is_shown = || {
            let (at, _) = known.packument.as_ref()?.find(version)?;
            Some(known.is_judged(policy_snapshot, client.profile) && known.verdicts(policy_snapshot, client.profile).shown[at])
        };
        if !known.has_many_versions() || is_shown() == Some(true) {
            return self.admit(client, reading, version, policy_snapshot);
        }
        Box::pin(self.admit_elsewhere(client, reading, version, policy_snapshot)).await
    }

    /// Admits a version like [`Components::admit`], off the async threads.
    async fn admit_elsewhere(
        self: &Arc<Self>,
        client: &Client,
        reading: &PackageLookup,
        version: &str,
        policy_snapshot: &Arc<PolicySnapshot>,
    ) -> Result<AdmittedTarball, FirewallError> {
        let (inner, policy_snapshot) = (Arc::clone(self), Arc::clone(policy_snapshot));
        let (asked, read, version) = (client.clone(), reading.clone(), Box::<str>::from(version));
        self.over_versions(&reading.known, client.address, move || inner.admit(&asked, &read, &version, &policy_snapshot)).await?
    }

    /// Returns what may be served and the digests it must match, or the refusal.
    fn admit(
        &self,
        client: &Client,
        reading: &PackageLookup,
        version: &str,
        policy_snapshot: &PolicySnapshot,
    ) -> Result<AdmittedTarball, FirewallError> {
        let known = &reading.known;
        let name = &known.slot.name;
        let Some((packument, (at, entry))) =
            known.packument.as_ref().and_then(|packument| Some((packument, packument.find(version)?)))
        else {
            return self.admit_removed(client, known, version, policy_snapshot);
        };
        let table = known.verdicts(policy_snapshot, client.profile);
        self.overbroad_advisories(name, &table);
        if !table.shown[at] {
            return Err(self.refuse(client, packument, &table, at));
        }
        // A version without an integrity is hidden.
        let stated = entry.integrity.as_ref().ok_or_else(|| no_version(name, version))?;
        let integrity = known.provenance.get(at).and_then(|provenance| provenance.digests.as_ref()).unwrap_or(stated);
        let integrity = policy_snapshot.active_decisions.with_approved_digests(name, version, integrity);
        Ok(AdmittedTarball { integrity, entry: Some(at), notes: table.notes(at).to_vec() })
    }

    /// Admits a version that was removed upstream: old versions are still served to clients whose lockfile contains them.
    fn admit_removed(
        &self,
        client: &Client,
        known: &PackageSnapshot,
        version: &str,
        policy_snapshot: &PolicySnapshot,
    ) -> Result<AdmittedTarball, FirewallError> {
        let name = &known.slot.name;
        let removed =
            evaluate_removed(known, version, policy_snapshot, client.profile).ok_or_else(|| no_version(name, version))?;
        let (verdict, first, notes) = removed;
        let table = known.verdicts(policy_snapshot, client.profile);
        let nearest = known.packument.as_ref().and_then(|packument| table.nearest_allowed(packument, version));
        if let Some(refusal) = Refusal::of_version(name, version, &verdict, nearest) {
            // It may exist for other tokens, which must not be disclosed.
            let is_told = |packument: &Arc<Packument>| packument.find_departed(version).is_some();
            if known.slot.is_client_scoped() && !known.packument.as_ref().is_some_and(is_told) {
                return Err(no_version(name, version));
            }
            return Err(self.record_refusal(client, refusal));
        }
        let integrity = first.and_then(Release::known_digests).ok_or_else(|| no_version(name, version))?;
        let integrity = policy_snapshot.active_decisions.with_approved_digests(name, version, &integrity);
        Ok(AdmittedTarball { integrity, entry: None, notes })
    }

    /// Returns the bytes, and whether they were in the store.
    async fn load_or_download(
        self: &Arc<Self>,
        client: &Client,
        known: &Arc<PackageSnapshot>,
        version: &str,
        admitted: &AdmittedTarball,
        revision: u64,
    ) -> Result<(Landed, bool), FirewallError> {
        let slot = &known.slot;
        if let Some(landed) = self.stored(client, known, version, admitted).await? {
            CacheLookup { cache: CacheLabel::Blob, outcome: CacheOutcome::Hit }.emit(&self.metrics);
            return Ok((landed, true));
        }
        CacheLookup { cache: CacheLabel::Blob, outcome: CacheOutcome::Miss }.emit(&self.metrics);
        let entry =
            known.packument.as_ref().and_then(|packument| Some((admitted.entry?, packument.entries.get(admitted.entry?)?)));
        let Some((at, entry)) = entry else {
            if slot.is_client_scoped() {
                return Err(no_version(&slot.name, version));
            }
            return Err(FirewallError::NotFound(
                format!("this version of {} was removed upstream and is not in the cache", slot.name).into(),
            ));
        };
        let source = Source {
            known: Arc::clone(known),
            at,
            slot: slot.clone(),
            version: entry.key.clone(),
            url: entry.tarball.clone(),
            registry: Arc::clone(&known.registry),
            authorization: client.authorization.clone(),
            sha1: sha1_check(known, version, &admitted.integrity),
            revision,
        };
        let (inner, integrity) = (Arc::clone(self), admitted.integrity.clone());
        let key = (slot.clone(), entry.key.clone(), entry.tarball.clone(), integrity.clone());
        let slots = self.downloads.of(&known.registry);
        let fetch = move |request| async move { inner.fetch(source, integrity, request).await };
        let landed = Box::pin(self.tarballs.join(key, client.address, &slots, fetch)).await;
        landed.unwrap_or_else(|_| Err(self.note_lost_fetch())).map(|landed| (landed, false))
    }

    /// Returns the tarball from the store if it came from the stated URL, matches every digest, and the client is entitled to it.
    async fn stored(
        self: &Arc<Self>,
        client: &Client,
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
            Some(at) => Box::pin(self.ask_entitlement(known, at, &stored, client)).await?,
        };
        Ok((entitled == Entitled::Yes).then(|| Landed { bytes, digests: stored.digests.clone() }))
    }

    /// Looks up the stored tarball of an entry in memory, then in the ledger, which records the source of each tarball.
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
            tracing::error!(error = &error as &dyn std::error::Error, "ledger read failed");
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
            // For a removed version any URL is valid; a public one is preferred.
            Some(public) if entry.is_none() => Some(public),
            _ => first,
        };
        let Some(stored) = stored.map(Arc::new) else { return Ok(None) };
        if let (Some((at, _)), Some(packument)) = (entry, packument) {
            known.tarballs.set(at, packument.entries.len(), &stored);
        }
        Ok(Some(stored))
    }

    /// Opens a blob. One that cannot be read is fetched again.
    async fn open_blob(&self, name: &Digest) -> Option<Bytes> {
        if let Some(bytes) = self.blobs.mapped(name) {
            return Some(bytes);
        }
        self.blobs.open(name).await.unwrap_or_else(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "stored tarball read failed");
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
        // A previous download may have completed after this request checked the store.
        let before = source.known.tarballs.get(source.at).filter(|stored| integrity.is_covered_by(&stored.digests));
        if let Some(stored) = before.filter(|stored| self.is_entitled(&source.known, stored))
            && let Some(bytes) = self.open_blob(&stored.name).await
        {
            return Ok(Landed { bytes, digests: stored.digests.clone() });
        }
        let asked = Instant::now();
        let landed = self.download(&source, opened, integrity.clone()).await;
        // Checked after the commit: a purge that runs in between finds the tarball in the store.
        if let Ok(Landed { digests, .. }) = &landed
            && self.policy_snapshot().revision != source.revision
            && self.is_denied_now(&source, digests)
        {
            self.remove_denied(&source, digests).await;
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

    /// Checks whether an advisory or a decision denies the version under any policy. It is not kept then.
    fn is_denied_now(&self, source: &Source, integrity: &Integrity) -> bool {
        let (policy_snapshot, now, name) = (self.policy_snapshot(), self.clock.now(), &source.slot.name);
        let parsed = Version::parse(&source.version);
        // An advisory that marks every version applies fully here. At worst the tarball is fetched again.
        let advisories = policy_snapshot.advisories.of(name.as_str()).applicable_to(std::iter::empty());
        let facts = Facts {
            parsed: parsed.as_ref(),
            integrity: Some(integrity),
            advisories: &advisories,
            ..Facts::of(name, &source.version, now)
        };
        let verdict =
            policy_snapshot.evaluate(&policy_snapshot.policy(Profile::default()).for_package(name), &facts, now, &mut ());
        matches!(verdict, Verdict::Deny { reason } if matches!(reason.rule, RuleId::Advisory | RuleId::Denied))
    }

    /// Removes a tarball that was denied during its download.
    async fn remove_denied(self: &Arc<Self>, source: &Source, integrity: &Integrity) {
        let (inner, digests) = (Arc::clone(self), integrity.clone());
        let removed =
            self.blocking(move || digests.digest(Algorithm::Sha512).map_or(Ok(false), |name| inner.blobs.remove(name))).await;
        tracing::warn!(
            package.name = %source.slot.name,
            package.version = &*source.version,
            blobs.removed = matches!(removed, Ok(Ok(true))),
            "tarball denied during download"
        );
    }

    /// Returns an early request's body if its URL is the stated one, and a download slot.
    async fn open(&self, source: &Source, request: SlotRequest<TarballKey>) -> (Option<TarballBody>, FairPermit) {
        let customary = source.registry.is_conventional(&source.slot.name, &source.version, &source.url);
        self.early_requests.learn(&source.registry, customary);
        if let Some(early) = self.early_requests.take(&source.slot, &source.version) {
            if !customary {
                early.abort();
            } else if let Ok(OpenedDownload { body: Ok(body), permit }) = early.await {
                return (Some(body), permit);
            }
        }
        (None, request.permit(&self.downloads.of(&source.registry)).await)
    }

    /// Downloads a tarball to disk, hashing it as it is written. It is served only after it matched.
    async fn download(
        self: &Arc<Self>,
        source: &Source,
        opened: Option<TarballBody>,
        integrity: Integrity,
    ) -> Result<Landed, FirewallError> {
        let mut body = match opened {
            Some(body) => body,
            None => source.registry.tarball(&source.url, &source.authorization).await?,
        };
        let (sender, receiver) = tokio::sync::mpsc::channel::<Chunk>(MAX_BUFFERED_CHUNKS);
        let blobs = Arc::clone(&self.blobs);
        let hasher = Hasher::for_tarball(integrity.clone(), source.sha1);
        let writer = tokio::task::spawn_blocking(move || write(blobs.begin(BlobKind::Tarball, hasher)?, receiver));
        let pumped = forward_chunks(&mut body, &sender).await;
        drop(sender);
        let written = writer.await.map_err(|error| self.note_lost(&error, task_failed()))?;
        pumped?;
        match written {
            Ok(Some(Committed { digests, bytes })) => {
                let landed = Landed { bytes, digests };
                self.note_landed(source, &landed, body.needed_credentials()).await;
                Ok(landed)
            }
            Ok(None) => Err(FirewallError::Internal("a tarball download ended early".into())),
            Err(StoreError::Mismatch(mismatch)) => Err(self.integrity_refusal(source, &mismatch)),
            Err(error) => {
                tracing::error!(
                    package.name = %source.slot.name,
                    package.version = &*source.version,
                    error = &error as &dyn std::error::Error,
                    "tarball write failed, served from memory"
                );
                self.download_to_memory(source, integrity).await
            }
        }
    }

    /// Downloads a tarball to memory if the disk fails, so that a full disk blocks no install. It is verified whole before it is
    /// served.
    async fn download_to_memory(self: &Arc<Self>, source: &Source, integrity: Integrity) -> Result<Landed, FirewallError> {
        let mut body = source.registry.tarball(&source.url, &source.authorization).await?;
        let length = body.length().unwrap_or(self.config.tarball_limit);
        let share = u32::try_from(length.div_ceil(MEMORY_UNIT_BYTES)).unwrap_or(u32::MAX);
        if share as usize > MEMORY_UNITS {
            let text = format!("cannot store the tarball of {}, and it is too large to serve from memory", source.slot.name);
            return Err(FirewallError::Internal(text.into()));
        }
        let permit = Arc::clone(&self.carried).acquire_many_owned(share).await.map_err(|_| task_failed())?;
        let (mut hasher, mut bytes) = (Hasher::for_tarball(integrity, source.sha1), Vec::new());
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
            Err(mismatch) => Err(self.integrity_refusal(source, &mismatch)),
        }
    }

    /// Records a completed download before its first byte is served: its digests must match from now on, and the store may serve
    /// it for this URL.
    async fn note_landed(self: &Arc<Self>, source: &Source, landed: &Landed, with_credentials: bool) {
        let Landed { bytes, digests } = landed;
        let (length, public) = (bytes.len() as u64, !with_credentials);
        let Some(stored) = StoredTarball::new(digests.clone(), length, Place::of(&source.slot.name, &source.url), public) else {
            return;
        };
        let stored = Arc::new(stored);
        let is_about = |known: Integrity| known.compare(digests) == DigestComparison::Same;
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
            tracing::error!("ledger task failed");
        }
        let entries = source.known.packument.as_ref().map_or(0, |packument| packument.entries.len());
        source.known.tarballs.set(source.at, entries, &stored);
        self.entitlements.grant(&source.slot, &stored.place, self.clock.now());
    }

    /// Returns the refusal of bytes that do not match the packument.
    fn integrity_refusal(&self, source: &Source, mismatch: &Mismatch) -> FirewallError {
        let detail = mismatch.to_string();
        IntegrityMismatch { name: &source.slot.name, version: &source.version, detail: &detail }.emit(&self.metrics);
        self.event("integrity_mismatch", Some(&source.slot.name), Some(&source.version), detail.clone());
        let verdict =
            Verdict::deny(RuleId::IntegrityMismatch, format!("the bytes from upstream do not match the packument: {detail}"));
        let refusal = Refusal::of_version(&source.slot.name, &source.version, &verdict, None);
        refusal.map_or_else(|| FirewallError::Internal(detail.into()), |refusal| FirewallError::Refused(Arc::new(refusal)))
    }

    /// Turns upstream failures that are policy decisions into refusals.
    fn explain_failure(
        &self,
        client: &Client,
        reading: &PackageLookup,
        version: &str,
        rejection: FirewallError,
    ) -> FirewallError {
        let name = &reading.known.slot.name;
        match rejection {
            FirewallError::Upstream(error @ UpstreamError::TarballHost { .. }) => {
                let verdict = Verdict::deny(RuleId::TarballHost, error.to_string());
                match Refusal::of_version(name, version, &verdict, None) {
                    Some(refusal) => self.record_refusal(client, refusal),
                    None => error.into(),
                }
            }
            // Created in a shared download. Recorded here for each waiting client.
            FirewallError::Refused(refusal) => self.record_refusal(client, Refusal::clone(&refusal)),
            other => self.explain_unsent(client, name, other),
        }
    }

    pub(crate) fn note_refusal(
        &self,
        client: &Client,
        known: &PackageSnapshot,
        version: &str,
        rejection: FirewallError,
    ) -> FirewallError {
        if let FirewallError::Refused(refusal) = &rejection {
            let entry = known.packument.as_ref().and_then(|packument| packument.find(version));
            let integrity = entry.and_then(|(_, entry)| entry.integrity.as_ref());
            let who = (client, self.clock.now());
            self.note_tarball(who, &known.slot.name, version, integrity, DownloadOutcome::Refused, Some(&refusal.rule));
        }
        rejection
    }

    /// Reports warnings about a version that was served.
    fn note_observed(&self, client: &Client, name: &PackageName, version: &str, notes: &[Warning]) {
        for Warning { reason, would_refuse } in notes {
            ServedWithWarning {
                name,
                version,
                rule: &reason.rule,
                would_refuse: *would_refuse,
                client: client.address,
                user: client.user.as_deref(),
                detail: &reason.detail,
            }
            .emit(&self.metrics);
        }
    }

    pub(crate) fn note_tarball(
        &self,
        (client, now): (&Client, Timestamp),
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
            client: client.address,
            user: client.user.clone(),
            tool: client.agent.tool.as_str(),
            tool_version: client.agent.version.clone(),
        };
        self.ledger.record_download(download, now);
    }
}

/// Returns how to compute the SHA-1 of a version. Collisions matter only if no other digest was known before its bytes were
/// downloaded.
fn sha1_check(known: &PackageSnapshot, version: &str, integrity: &Integrity) -> Sha1Check {
    let is_weak = |integrity: &Integrity| integrity.strongest().algorithm() == Algorithm::Sha1;
    let is_known_by_sha1_alone =
        is_weak(integrity) || known.releases_of(version).filter_map(|row| row.integrity.as_ref()).any(is_weak);
    if is_known_by_sha1_alone { Sha1Check::DetectCollisions } else { Sha1Check::Plain }
}

/// Returns the verdict, first release and warnings of a version that was removed upstream; `None` if it never existed.
pub(crate) fn evaluate_removed<'a>(
    known: &'a PackageSnapshot,
    version: &'a str,
    policy_snapshot: &'a PolicySnapshot,
    profile: Profile,
) -> Option<(Verdict, Option<&'a Release>, Vec<Warning>)> {
    let removed = RemovedVersion::find(known, version, policy_snapshot)?;
    let facts = removed.facts(None);
    let rules = policy_snapshot.policy(profile).for_package(facts.name);
    let mut notes = Vec::new();
    let verdict = policy_snapshot.evaluate(&rules, &facts, known.validated, &mut notes);
    Some((verdict, removed.first, notes))
}

/// A tarball in memory with its memory permit, held until its last reader is done.
struct InMemoryTarball {
    bytes: Vec<u8>,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for InMemoryTarball {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A message from the network task to the disk task.
enum Chunk {
    Chunk(Bytes),
    /// The body is complete. Without this message it was truncated.
    End,
}

/// Forwards a body from the network to the writer.
async fn forward_chunks(body: &mut TarballBody, sender: &tokio::sync::mpsc::Sender<Chunk>) -> Result<(), UpstreamError> {
    // A writer that is gone has failed and reports the error itself.
    while let Some(chunk) = body.next().await? {
        if sender.send(Chunk::Chunk(chunk)).await.is_err() {
            return Ok(());
        }
    }
    let _ = sender.send(Chunk::End).await;
    Ok(())
}

/// Writes chunks as they arrive. Returns `None` if the body was truncated; nothing is stored then.
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
