//! Downloads tarballs: hashed while they are written, and served only after the whole tarball matches every known digest.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::firewall::error::{FirewallError, Refusal, Result};
use crate::firewall::package::CacheKey;
use crate::firewall::package::stored_tarballs::{Place, StoredTarball};
use crate::firewall::packages::Services;
use crate::firewall::packages::fetch_slots::{SlotRequest, Slots};
use crate::firewall::policy_state::Profile;
use crate::firewall::recorder::outcome_of;
use crate::firewall::tarballs::early_request::{EarlyRequests, OpenedDownload};
use crate::firewall::tarballs::entitlement::EntitlementService;
use crate::firewall::verdicts::cache::CachedPackage;
use crate::firewall::workers::task_failed;
use crate::net::FairPermit;
use crate::npm::integrity::Mismatch;
use crate::npm::{Algorithm, Digest, DigestComparison, Hasher, Integrity, Sha1Check, Version};
use crate::policy::{Facts, RuleId, Verdict};
use crate::store::{BlobKind, BlobStore, Committed, LearnedDigests, PackageChange, PendingBlob, StoreError, TarballSource};
use crate::telemetry::{IntegrityMismatch, UpstreamOutcome, UpstreamWhat};
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
pub(crate) struct VerifiedTarball {
    pub bytes: Bytes,
    /// Every digest computed from the bytes.
    pub digests: Integrity,
}

/// The inputs of a download. Owned, because a download outlives the request that started it.
pub(crate) struct DownloadSource {
    pub package: Arc<CachedPackage>,
    /// The index of the packument entry.
    pub at: usize,
    pub cache_key: CacheKey,
    pub version: Box<str>,
    pub url: Box<str>,
    pub registry: Arc<Registry>,
    pub authorization: Authorization,
    /// Collisions matter if only SHA-1 was known before the download.
    pub sha1: Sha1Check,
    /// The policy revision at admission. The download may have waited long for a slot.
    pub revision: u64,
}

/// Downloads tarballs from upstream.
pub(crate) struct Downloader {
    pub services: Arc<Services>,
    pub slots: Arc<Slots>,
    pub early: EarlyRequests,
    pub entitlements: Arc<EntitlementService>,
    /// The free units of [`MEMORY_UNITS`].
    pub memory: Arc<Semaphore>,
}

impl Downloader {
    pub(crate) async fn fetch(
        self: Arc<Self>,
        source: DownloadSource,
        integrity: Integrity,
        request: SlotRequest<TarballKey>,
    ) -> Result<VerifiedTarball> {
        let (opened, _permit) = self.open(&source, request).await;
        // A previous download may have completed after this request checked the store.
        let before = source.package.tarballs.get(source.at).filter(|stored| integrity.is_covered_by(&stored.digests));
        if let Some(stored) = before.filter(|stored| self.entitlements.is_entitled(&source.package, stored))
            && let Some(bytes) = open_blob(&*self.services.blobs, &stored.name).await
        {
            return Ok(VerifiedTarball { bytes, digests: stored.digests.clone() });
        }
        let asked = Instant::now();
        let verified = self.download(&source, opened, integrity.clone()).await;
        // Checked after the commit: a purge that runs in between finds the tarball in the store. A feed may list a digest that is
        // known only now.
        let policy_snapshot = self.services.policy.snapshot();
        if let Ok(VerifiedTarball { digests, .. }) = &verified
            && (policy_snapshot.revision != source.revision || policy_snapshot.advisories.lists_any(digests))
            && self.is_denied_now(&source, digests)
        {
            self.remove_denied(&source, digests).await;
        }
        let (outcome, detail) = match &verified {
            Ok(_) => (UpstreamOutcome::Changed, None),
            Err(FirewallError::Upstream(error)) => (outcome_of(error), Some(error.to_string())),
            Err(error) => (UpstreamOutcome::Failed, Some(error.to_string())),
        };
        self.services.recorder.upstream_answered(
            UpstreamWhat::Tarball,
            Some(&source.cache_key.name),
            asked,
            outcome,
            detail.as_deref(),
        );
        verified
    }

    /// Checks whether an advisory or a decision denies the version under any policy. It is not kept then.
    fn is_denied_now(&self, source: &DownloadSource, integrity: &Integrity) -> bool {
        let (policy_snapshot, now, name) = (self.services.policy.snapshot(), self.services.policy.now(), &source.cache_key.name);
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
    async fn remove_denied(&self, source: &DownloadSource, integrity: &Integrity) {
        let (blobs, digests) = (Arc::clone(&self.services.blobs), integrity.clone());
        let removed = self
            .services
            .workers
            .run(move || digests.digest(Algorithm::Sha512).map_or(Ok(false), |name| blobs.remove(name)))
            .await;
        tracing::warn!(
            package.name = %source.cache_key.name,
            package.version = &*source.version,
            blobs.removed = matches!(removed, Ok(Ok(true))),
            "tarball denied during download"
        );
    }

    /// Returns an early request's body if its URL is the stated one, and a download slot.
    async fn open(&self, source: &DownloadSource, request: SlotRequest<TarballKey>) -> (Option<TarballBody>, FairPermit) {
        let customary = source.registry.is_conventional(&source.cache_key.name, &source.version, &source.url);
        self.early.learn(&source.registry, customary);
        if let Some(early) = self.early.take(&source.cache_key, &source.version) {
            if !customary {
                early.abort();
            } else if let Ok(OpenedDownload { body: Ok(body), permit }) = early.await {
                return (Some(body), permit);
            }
        }
        (None, request.permit(&self.slots.of(&source.registry)).await)
    }

    /// Downloads a tarball to disk, hashing it as it is written. It is served only after it matched.
    async fn download(
        &self,
        source: &DownloadSource,
        opened: Option<TarballBody>,
        integrity: Integrity,
    ) -> Result<VerifiedTarball> {
        let mut body = match opened {
            Some(body) => body,
            None => source.registry.tarball(&source.url, &source.authorization).await?,
        };
        let (sender, receiver) = tokio::sync::mpsc::channel::<Chunk>(MAX_BUFFERED_CHUNKS);
        let blobs = Arc::clone(&self.services.blobs);
        let hasher = Hasher::for_tarball(integrity.clone(), source.sha1);
        let writer = tokio::task::spawn_blocking(move || write(blobs.begin(BlobKind::Tarball, hasher)?, receiver));
        let pumped = forward_chunks(&mut body, &sender).await;
        drop(sender);
        let written = writer.await.map_err(|error| self.services.workers.task_failed(&error))?;
        pumped?;
        match written {
            Ok(Some(Committed { digests, bytes })) => {
                let verified = VerifiedTarball { bytes, digests };
                self.note_verified(source, &verified, body.with_credentials).await;
                Ok(verified)
            }
            Ok(None) => Err(FirewallError::Internal("a tarball download ended early".into())),
            Err(StoreError::Mismatch(mismatch)) => Err(self.integrity_refusal(source, &mismatch)),
            Err(error) => {
                tracing::error!(
                    package.name = %source.cache_key.name,
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
    async fn download_to_memory(&self, source: &DownloadSource, integrity: Integrity) -> Result<VerifiedTarball> {
        let mut body = source.registry.tarball(&source.url, &source.authorization).await?;
        let length = body.stream.length.unwrap_or(self.services.config.limits.tarball);
        let share = u32::try_from(length.div_ceil(MEMORY_UNIT_BYTES)).unwrap_or(u32::MAX);
        if share as usize > MEMORY_UNITS {
            let text = format!("cannot store the tarball of {}, and it is too large to serve from memory", source.cache_key.name);
            return Err(FirewallError::Internal(text.into()));
        }
        let permit = Arc::clone(&self.memory).acquire_many_owned(share).await.map_err(|_| task_failed())?;
        let (mut hasher, mut bytes) = (Hasher::for_tarball(integrity, source.sha1), Vec::new());
        while let Some(chunk) = body.next().await? {
            hasher.update(&chunk);
            bytes.extend_from_slice(&chunk);
        }
        match hasher.finish() {
            Ok(digests) => {
                let verified = VerifiedTarball { bytes: Bytes::from_owner(InMemoryTarball { bytes, _permit: permit }), digests };
                self.note_verified(source, &verified, body.with_credentials).await;
                Ok(verified)
            }
            Err(mismatch) => Err(self.integrity_refusal(source, &mismatch)),
        }
    }

    /// Records a completed download before its first byte is served: its digests must match from now on, and the store may serve
    /// it for this URL.
    async fn note_verified(&self, source: &DownloadSource, verified: &VerifiedTarball, with_credentials: bool) {
        let VerifiedTarball { bytes, digests } = verified;
        let (length, public) = (bytes.len() as u64, !with_credentials);
        let Some(stored) = StoredTarball::new(digests.clone(), length, Place::of(&source.cache_key.name, &source.url), public)
        else {
            return;
        };
        let stored = Arc::new(stored);
        let is_about = |known: Integrity| known.compare(digests) == DigestComparison::Same;
        let row = source.package.releases_of(&source.version).find(|row| row.known_digests().is_some_and(is_about));
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
        let (recorder, key) = (Arc::clone(&self.services.recorder), source.cache_key.key(&source.registry));
        if self.services.workers.run(move || recorder.package_change(&key, &change)).await.is_err() {
            tracing::error!("ledger task failed");
        }
        let entries = source.package.packument.as_ref().map_or(0, |packument| packument.entries.len());
        source.package.tarballs.set(source.at, entries, &stored);
        self.entitlements.known.grant(&source.cache_key, &stored.place, self.services.policy.now());
    }

    /// Returns the refusal of bytes that do not match the packument.
    fn integrity_refusal(&self, source: &DownloadSource, mismatch: &Mismatch) -> FirewallError {
        let detail = mismatch.to_string();
        IntegrityMismatch { name: &source.cache_key.name, version: &source.version, detail: &detail }
            .emit(self.services.recorder.metrics());
        self.services.recorder.event("integrity_mismatch", Some(&source.cache_key.name), Some(&source.version), detail.clone());
        let verdict =
            Verdict::deny(RuleId::IntegrityMismatch, format!("the bytes from upstream do not match the packument: {detail}"));
        let refusal = Refusal::of_version(&source.cache_key.name, &source.version, &verdict, None);
        refusal.map_or_else(|| FirewallError::Internal(detail.into()), |refusal| FirewallError::Refused(Arc::new(refusal)))
    }
}

/// Opens a blob. One that cannot be read is fetched again.
pub(crate) async fn open_blob(blobs: &dyn BlobStore, name: &Digest) -> Option<Bytes> {
    if let Some(bytes) = blobs.mapped(name) {
        return Some(bytes);
    }
    blobs.open(name).await.unwrap_or_else(|error| {
        tracing::error!(error = &error as &dyn std::error::Error, "stored tarball read failed");
        None
    })
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
