//! Limits parsing and rendering of packuments: memory, cores, and client requests before prefetches. Reuses buffers and
//! compressors, because each document would otherwise allocate, clear and free megabytes of memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};

use crate::firewall::error::{FirewallError, Result};
use crate::firewall::package::CacheKey;
use crate::firewall::packages::request::PrefetchContext;
use crate::net::fair_limit::Sizes;
use crate::net::{BodyError, FairLimit, MemoryBudget, Reservation, body};
use crate::npm::PackageName;
use crate::npm::compression::{SegmentEncoder, gzip};
use crate::store::StoredPackument;

/// The largest buffer that is kept for reuse, in bytes. Few documents are larger.
const MAX_KEPT_BYTES: usize = 16 << 20;

pub(crate) struct ParsePool {
    /// Memory for documents that are fetched, parsed or rendered. Large ones are handled one after the other.
    pub memory: Arc<MemoryBudget>,
    /// Limits concurrent parsing and rendering to the number of cores.
    pub threads: Arc<FairLimit>,
    pub priority: ParsePriority,
    /// Unused buffers, at most one per core.
    scratch: Mutex<Vec<ParseScratch>>,
    cores: usize,
    /// Held while a document larger than its declared length is decoded.
    oversized: Mutex<()>,
    /// The largest packument accepted, in bytes, decoded.
    packument_limit: u64,
}

impl ParsePool {
    pub(crate) fn new(cores: usize, memory: Arc<MemoryBudget>, packument_limit: u64) -> Self {
        Self {
            memory,
            threads: FairLimit::new(Sizes { shared: (cores - 1).max(1), own: 1, most: cores + 1 }),
            priority: ParsePriority::on(cores),
            scratch: Mutex::default(),
            cores,
            oversized: Mutex::default(),
            packument_limit,
        }
    }

    /// Reserves memory for a stored document and what is made of it.
    pub(crate) async fn reserve_for(&self, document: &StoredPackument) -> Result<Reservation> {
        let mut share = self.memory.share();
        share.grow_to(document.length + document.length / 2).await?;
        Ok(share)
    }

    /// Returns the document, decompressed into `buffer` if necessary. A document larger than its declared length has no
    /// reservation for the excess, so such documents are processed one at a time under the returned guard. Blocks.
    pub(crate) fn decode_into<'a>(
        &self,
        name: &PackageName,
        raw: &'a [u8],
        buffer: &'a mut Vec<u8>,
    ) -> Result<(&'a [u8], Option<MutexGuard<'_, ()>>)> {
        if !gzip::is_gzip(raw) {
            return Ok((raw, None));
        }
        let limit = self.packument_limit;
        let stated = (body::gzip_length_hint(raw) as u64).min(limit);
        let mut guard = None;
        let mut inflated = body::gunzip_into(raw, stated, buffer);
        if matches!(inflated, Err(BodyError::TooLarge { .. })) && stated < limit {
            guard = Some(self.oversized.lock().unwrap_or_else(PoisonError::into_inner));
            // Measured first, so that a document over the limit allocates nothing and others only their size.
            inflated = body::gunzipped_length(raw, limit).and_then(|length| {
                *buffer = Vec::with_capacity(usize::try_from(length).unwrap_or(usize::MAX).saturating_add(1));
                body::gunzip_into(raw, limit, buffer)
            });
        }
        inflated.map_err(|error| FirewallError::unreadable(name, error))?;
        Ok((buffer, guard))
    }

    pub(crate) fn decode(&self, name: &PackageName, raw: Bytes) -> Result<Bytes> {
        if !gzip::is_gzip(&raw) {
            return Ok(raw);
        }
        body::gunzip(&raw, self.packument_limit).map_err(|error| FirewallError::unreadable(name, error))
    }

    /// Runs `work` with unused buffers, or with new ones.
    pub(crate) fn with_scratch<T>(&self, work: impl FnOnce(&mut ParseScratch) -> T) -> T {
        let free = self.scratch.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut scratch = free.unwrap_or_default();
        let done = work(&mut scratch);
        if scratch.plain.capacity() > MAX_KEPT_BYTES {
            scratch.plain = Vec::new();
        }
        let mut free = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < self.cores {
            free.push(scratch);
        }
        done
    }
}

#[derive(Default)]
pub(crate) struct ParseScratch {
    pub encoder: SegmentEncoder,
    /// The buffer for a decompressed document.
    pub plain: Vec<u8>,
}

/// Bytes with a memory reservation or permits, which end with the last reader.
pub(crate) struct HeldBytes<H>(Bytes, H);

impl<H: Send + 'static> HeldBytes<H> {
    #[expect(clippy::new_ret_no_self, reason = "readers see bytes")]
    pub(crate) fn new(bytes: Bytes, held: H) -> Bytes {
        Bytes::from_owner(Self(bytes, held))
    }
}

impl<H> AsRef<[u8]> for HeldBytes<H> {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Lets clients parse before prefetches, which start only while few clients wait: on two cores, while none does.
pub(crate) struct ParsePriority {
    asked: AtomicUsize,
    fewer: Notify,
    few: usize,
    /// Slots for prefetches: half the number of cores.
    prefetches: Semaphore,
    /// Notifies a running prefetch that a client requested its package.
    promotions: Mutex<HashMap<CacheKey, Arc<Notify>>>,
}

/// A parsing slot, held while a packument is parsed.
pub(crate) struct ParseSlot<'a> {
    /// Set if a client waits for the packument.
    asked: Option<&'a ParsePriority>,
    _slot: Option<SemaphorePermit<'a>>,
}

impl ParsePriority {
    pub(crate) fn on(cores: usize) -> Self {
        Self {
            asked: AtomicUsize::default(),
            fewer: Notify::new(),
            few: (cores / 2).max(1),
            prefetches: Semaphore::new(cores.div_ceil(2)),
            promotions: Mutex::default(),
        }
    }

    /// Waits for a parsing slot. A prefetch waits until few clients do, or until a client requests its package.
    pub(crate) async fn turn(&self, ahead: Option<&PrefetchContext>) -> ParseSlot<'_> {
        let Some(asked) = ahead.and_then(|ahead| ahead.promoted.as_ref()) else { return self.client_slot() };
        let wait_turn = async {
            let permit = self.prefetches.acquire().await;
            self.wait_until_few().await;
            permit
        };
        tokio::select! {
            biased;
            () = asked.notified() => self.client_slot(),
            permit = wait_turn => ParseSlot { asked: None, _slot: permit.ok() },
        }
    }

    fn client_slot(&self) -> ParseSlot<'_> {
        self.asked.fetch_add(1, Ordering::AcqRel);
        ParseSlot { asked: Some(self), _slot: None }
    }

    async fn wait_until_few(&self) {
        loop {
            let fewer = self.fewer.notified();
            if self.asked.load(Ordering::Acquire) < self.few {
                return;
            }
            fewer.await;
        }
    }

    /// Gives a running prefetch of this package the priority of a client request.
    pub(crate) fn promote(&self, key: &CacheKey) {
        if let Some(promoted) = self.promotions.lock().unwrap_or_else(PoisonError::into_inner).get(key) {
            promoted.notify_one();
        }
    }

    /// Registers a running prefetch. It is notified when a client requests its package.
    pub(crate) fn register(&self, key: &CacheKey) -> Arc<Notify> {
        let promoted = Arc::default();
        self.promotions.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), Arc::clone(&promoted));
        promoted
    }

    pub(crate) fn unregister(&self, key: &CacheKey) {
        self.promotions.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

impl Drop for ParseSlot<'_> {
    fn drop(&mut self) {
        if let Some(priority) = self.asked {
            priority.asked.fetch_sub(1, Ordering::AcqRel);
            priority.fewer.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    fn prefetch() -> (PrefetchContext, Arc<Notify>) {
        let promoted = Arc::new(Notify::new());
        let mut context = PrefetchContext::of_question().next("1");
        context.promoted = Some(Arc::clone(&promoted));
        (context, promoted)
    }

    #[tokio::test(start_paused = true)]
    async fn prefetch_waits_until_a_client_requests_the_package() {
        let precedence = ParsePriority::on(2);
        let (one, asked) = prefetch();
        let awaited = precedence.turn(Some(&PrefetchContext::of_question())).await;
        assert!(timeout(TIMEOUT, precedence.turn(Some(&one))).await.is_err());
        // A promoted prefetch does not wait for other clients.
        asked.notify_one();
        let promoted = timeout(TIMEOUT, precedence.turn(Some(&one))).await.unwrap();
        drop(awaited);
        let (other, _) = prefetch();
        assert!(timeout(TIMEOUT, precedence.turn(Some(&other))).await.is_err());
        drop(promoted);
        let held = timeout(TIMEOUT, precedence.turn(Some(&other))).await.unwrap();
        // One prefetch at a time. Client requests do not wait for it.
        assert!(timeout(TIMEOUT, precedence.turn(Some(&one))).await.is_err());
        drop(timeout(TIMEOUT, precedence.turn(None)).await.unwrap());
        drop(held);
        drop(timeout(TIMEOUT, precedence.turn(Some(&one))).await.unwrap());
    }
}
