//! Queues rows in bounded memory and writes them in batches on one thread. Equal ones are merged, surplus ones lost and counted.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::store::error::StoreError;
use crate::store::ledger::{DownloadEvent, DownloadKind, LedgerEvent};

const BATCH_EVERY: Duration = Duration::from_millis(200);
/// Number of distinct rows at which a batch is written at once.
const BATCH_SIZE: usize = 5_000;
/// Delay between a failed attempt and the next.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Maximum number of distinct downloads in memory, about 300 bytes each. Further rows are lost.
const MAX_PENDING_DOWNLOADS: usize = 100_000;
const MAX_PENDING_EVENTS: usize = 10_000;

pub(crate) struct WriteBehindLog {
    shared: Arc<WriterState>,
    writer: Option<JoinHandle<()>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowTally {
    pub(crate) times: u64,
    pub(crate) first: Timestamp,
    pub(crate) last: Timestamp,
}

#[derive(Default)]
pub(crate) struct Batch {
    tarballs: HashMap<DownloadKey, RowTally>,
    packuments: HashMap<DownloadKey, RowTally>,
    events: HashMap<LedgerEvent, RowTally>,
}

impl WriteBehindLog {
    /// Starts the thread that passes batches to `write`. A failed batch is kept and retried.
    pub(crate) fn start(write: impl FnMut(&Batch) -> Result<(), StoreError> + Send + 'static) -> std::io::Result<Self> {
        let shared = Arc::new(WriterState::default());
        let writing = Arc::clone(&shared);
        let writer = std::thread::Builder::new().name("coldframe-ledger".to_owned()).spawn(move || writing.run(write))?;
        Ok(Self { shared, writer: Some(writer) })
    }

    pub(crate) fn queue_download(&self, download: DownloadEvent, at: Timestamp) {
        self.shared.note(|batch| batch.add_download(DownloadKey(download), RowTally::once(at)));
    }

    pub(crate) fn queue_event(&self, event: LedgerEvent, at: Timestamp) {
        self.shared.note(|batch| batch.add_event(event, RowTally::once(at)));
    }

    /// Blocks until all rows queued before were passed to `write` once, successfully or not.
    pub(crate) fn flush(&self) {
        let mut state = self.shared.lock();
        let rounds = state.started + u64::from(!state.pending.is_empty());
        if state.finished >= rounds {
            return;
        }
        state.urgent = true;
        self.shared.wake.notify_one();
        while state.finished < rounds {
            state = self.shared.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(crate) fn pending(&self) -> usize {
        self.shared.lock().pending.len()
    }

    pub(crate) fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }
}

impl Drop for WriteBehindLog {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.wake.notify_one();
        // A panic of the thread was already printed.
        let _ = self.writer.take().map(JoinHandle::join);
    }
}

#[derive(Default)]
struct WriterState {
    state: Mutex<State>,
    wake: Condvar,
    done: Condvar,
    lost: AtomicU64,
}

#[derive(Default)]
struct State {
    pending: Batch,
    /// When the first pending row was queued or the last attempt failed.
    since: Option<Instant>,
    failing: bool,
    urgent: bool,
    stopping: bool,
    /// Batches passed to `write`, and batches that it returned from. `finished` is `u64::MAX` after the thread has ended.
    started: u64,
    finished: u64,
}

impl WriterState {
    fn note(&self, add: impl FnOnce(&mut Batch) -> u64) {
        let mut state = self.lock();
        let was_empty = state.pending.is_empty();
        let lost = add(&mut state.pending);
        if was_empty {
            state.since = Some(Instant::now());
        }
        let full = state.pending.len() == BATCH_SIZE;
        drop(state);
        self.lost.fetch_add(lost, Ordering::Relaxed);
        if was_empty || full {
            self.wake.notify_one();
        }
    }

    fn run(&self, mut write: impl FnMut(&Batch) -> Result<(), StoreError>) {
        let _ended = WriterStopped(self);
        loop {
            let (batch, is_final) = self.next();
            if batch.is_empty() {
                return;
            }
            let outcome = write(&batch);
            self.finish(batch, outcome, is_final);
            if is_final {
                return;
            }
        }
    }

    /// Waits for a batch that is due. It is empty if there will be none. The flag is `true` for the last batch.
    fn next(&self) -> (Batch, bool) {
        let mut state = self.lock();
        loop {
            if let Some(wait) = state.wait() {
                state = match wait {
                    None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
                    Some(wait) => self.wake.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0,
                };
                continue;
            }
            state.started += 1;
            state.urgent = false;
            return (std::mem::take(&mut state.pending), state.stopping);
        }
    }

    fn finish(&self, batch: Batch, outcome: Result<(), StoreError>, is_final: bool) {
        let mut state = self.lock();
        state.finished += 1;
        let was_failing = std::mem::replace(&mut state.failing, outcome.is_err());
        let (rows, mut lost) = (batch.len(), 0);
        if outcome.is_err() {
            lost = if is_final { batch.times() } else { state.pending.requeue(batch) };
            state.since = Some(Instant::now());
        }
        drop(state);
        match outcome {
            Err(error) if is_final => tracing::error!(error = %error_chain(&error), lost, "ledger rows lost at shutdown"),
            Err(error) if !was_failing => {
                tracing::error!(error = %error_chain(&error), rows, "ledger write failed, rows are pending");
            }
            Ok(()) if was_failing => tracing::info!(lost = self.lost.load(Ordering::Relaxed), "ledger writes resumed"),
            _ => {}
        }
        self.lost.fetch_add(lost, Ordering::Relaxed);
        self.done.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Returns `None` if the pending rows are due now, else how long to wait. `Some(None)` waits for a notification.
    #[expect(clippy::option_option, reason = "three cases: now, later, when notified")]
    fn wait(&self) -> Option<Option<Duration>> {
        if self.stopping {
            return None;
        }
        if self.pending.is_empty() {
            return Some(None);
        }
        if self.urgent || (self.pending.len() >= BATCH_SIZE && !self.failing) {
            return None;
        }
        let delay = if self.failing { RETRY_AFTER } else { BATCH_EVERY };
        let left = delay.saturating_sub(self.since.map_or(delay, |since| since.elapsed()));
        if left.is_zero() { None } else { Some(Some(left)) }
    }
}

/// Wakes all threads that wait for the writer when it ends, even by a panic.
struct WriterStopped<'a>(&'a WriterState);

impl Drop for WriterStopped<'_> {
    fn drop(&mut self) {
        self.0.lock().finished = u64::MAX;
        self.0.done.notify_all();
    }
}

impl RowTally {
    fn once(at: Timestamp) -> Self {
        Self { times: 1, first: at, last: at }
    }

    fn join(&mut self, other: Self) {
        self.times += other.times;
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }
}

impl Batch {
    pub(crate) fn downloads(&self) -> Vec<(&DownloadEvent, RowTally)> {
        in_order(self.tarballs.iter().chain(&self.packuments).map(|(row, tally)| (&row.0, *tally)).collect())
    }

    pub(crate) fn events(&self) -> Vec<(&LedgerEvent, RowTally)> {
        in_order(self.events.iter().map(|(event, tally)| (event, *tally)).collect())
    }

    fn len(&self) -> usize {
        self.tarballs.len() + self.packuments.len() + self.events.len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of requests and events in these rows.
    fn times(&self) -> u64 {
        self.tarballs.values().chain(self.packuments.values()).chain(self.events.values()).map(|tally| tally.times).sum()
    }

    /// Adds a row. Returns the number of requests lost because of the limit.
    fn add_download(&mut self, row: DownloadKey, tally: RowTally) -> u64 {
        let full = self.tarballs.len() + self.packuments.len() >= MAX_PENDING_DOWNLOADS;
        let of_tarball = row.0.kind == DownloadKind::Tarball;
        let rows = if of_tarball { &mut self.tarballs } else { &mut self.packuments };
        if let Some(known) = rows.get_mut(&row) {
            known.join(tally);
            return 0;
        }
        // Downloads of tarballs matter most for incident response, so packument rows are dropped first.
        let lost = if !full {
            0
        } else if of_tarball && !self.packuments.is_empty() {
            drop_some(&mut self.packuments)
        } else {
            return tally.times;
        };
        let rows = if of_tarball { &mut self.tarballs } else { &mut self.packuments };
        rows.insert(row, tally);
        lost
    }

    fn add_event(&mut self, event: LedgerEvent, tally: RowTally) -> u64 {
        let full = self.events.len() >= MAX_PENDING_EVENTS;
        match self.events.entry(event) {
            Entry::Occupied(mut known) => known.get_mut().join(tally),
            Entry::Vacant(_) if full => return tally.times,
            Entry::Vacant(new) => _ = new.insert(tally),
        }
        0
    }

    /// Adds the rows of a failed batch again. Returns the number of requests lost because of the limit.
    fn requeue(&mut self, older: Self) -> u64 {
        let mut lost = 0;
        for (row, tally) in older.tarballs.into_iter().chain(older.packuments) {
            lost += self.add_download(row, tally);
        }
        lost + older.events.into_iter().map(|(event, tally)| self.add_event(event, tally)).sum::<u64>()
    }
}

/// A download as a key. Its hidden versions, many and shared with the cached response, are compared last, and not hashed.
struct DownloadKey(DownloadEvent);

impl Hash for DownloadKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let row = &self.0;
        (row.kind, &row.name, &row.version, &row.outcome, &row.rule, row.hidden.len()).hash(state);
        (row.client, &row.user, row.tool, &row.tool_version).hash(state);
    }
}

impl PartialEq for DownloadKey {
    fn eq(&self, other: &Self) -> bool {
        let (left, right) = (&self.0, &other.0);
        (left.kind, left.outcome, &left.rule, left.client, left.tool)
            == (right.kind, right.outcome, &right.rule, right.client, right.tool)
            && (&left.name, &left.user) == (&right.name, &right.user)
            && (&left.version, &left.integrity, &left.tool_version) == (&right.version, &right.integrity, &right.tool_version)
            && (Arc::ptr_eq(&left.hidden, &right.hidden) || left.hidden == right.hidden)
    }
}

impl Eq for DownloadKey {}

/// Drops many rows at once, so that the next ones need no search each. Returns the number of requests lost.
fn drop_some(rows: &mut HashMap<DownloadKey, RowTally>) -> u64 {
    let (mut left, mut lost) = (rows.len().min(MAX_PENDING_DOWNLOADS / 10), 0);
    rows.retain(|_, tally| {
        if left == 0 {
            return true;
        }
        left -= 1;
        lost += tally.times;
        false
    });
    lost
}

fn in_order<T>(mut rows: Vec<(T, RowTally)>) -> Vec<(T, RowTally)> {
    rows.sort_by_key(|(_, tally)| tally.first);
    rows
}

/// Joins an error and its sources in one line, because `Display` does not repeat the source.
fn error_chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::{at, download};

    type Written = Arc<Mutex<Vec<(Vec<DownloadEvent>, Vec<u64>)>>>;

    /// Returns a writer to memory that fails the first `failures` times.
    fn sink(written: &Written, failures: u32) -> impl FnMut(&Batch) -> Result<(), StoreError> + Send + 'static {
        let (written, mut left) = (Arc::clone(written), failures);
        move |batch| {
            if left > 0 {
                left -= 1;
                return Err(StoreError::ReadOnly);
            }
            let (rows, tallies): (Vec<_>, Vec<_>) =
                batch.downloads().into_iter().map(|(row, tally)| (row.clone(), tally.times)).unzip();
            written.lock().unwrap().push((rows, tallies));
            Ok(())
        }
    }

    fn packument(client: u32, hidden: &Arc<[Box<str>]>) -> DownloadEvent {
        DownloadEvent {
            kind: DownloadKind::Packument,
            version: None,
            hidden: Arc::clone(hidden),
            client: client_of(client),
            user: None,
            ..download("", [0; 4])
        }
    }

    fn client_of(number: u32) -> std::net::IpAddr {
        std::net::Ipv4Addr::from(number).into()
    }

    #[test]
    fn equal_rows_are_merged_and_rows_are_ordered() {
        let written = Written::default();
        let journal = WriteBehindLog::start(sink(&written, 0)).unwrap();
        journal.queue_download(download("2.0.0", [10, 0, 0, 1]), at(5));
        for second in 0..3 {
            journal.queue_download(download("1.0.0", [10, 0, 0, 1]), at(second));
        }
        journal.flush();
        let batches = written.lock().unwrap();
        let versions: Vec<_> = batches.iter().flat_map(|(rows, _)| rows).map(|row| row.version.clone().unwrap()).collect();
        assert!(batches.len() > 1 || *versions == ["1.0.0".into(), "2.0.0".into()], "{versions:?}");
        assert_eq!(batches.iter().flat_map(|(_, tallies)| tallies).sum::<u64>(), 4);
    }

    #[test]
    fn rows_differ_by_the_content_of_hidden_versions() {
        let mut batch = Batch::default();
        let list = |versions: &[&str]| -> Arc<[Box<str>]> { versions.iter().map(|version| Box::from(*version)).collect() };
        for hidden in [list(&["1.0.0"]), list(&["1.0.0"]), list(&["2.0.0"]), list(&[])] {
            batch.add_download(DownloadKey(packument(1, &hidden)), RowTally::once(at(0)));
        }
        let mut times: Vec<_> = batch.downloads().iter().map(|(_, tally)| tally.times).collect();
        times.sort_unstable();
        assert_eq!(times, [1, 1, 2]);
    }

    #[test]
    fn flush_makes_one_attempt_and_keeps_failed_rows() {
        let written = Written::default();
        let journal = WriteBehindLog::start(sink(&written, 2)).unwrap();
        journal.queue_download(download("1.0.0", [10, 0, 0, 1]), at(1));
        journal.flush();
        journal.queue_download(download("1.0.0", [10, 0, 0, 1]), at(2));
        // The thread may have made attempts of its own. After two more, both failures are used up.
        journal.flush();
        journal.flush();
        assert_eq!(written.lock().unwrap().iter().flat_map(|(_, tallies)| tallies).sum::<u64>(), 2);
        assert_eq!(journal.lost(), 0);
    }

    #[test]
    fn drop_writes_remaining_rows_and_counts_lost_ones() {
        let written = Written::default();
        let journal = WriteBehindLog::start(sink(&written, 0)).unwrap();
        journal.queue_download(download("1.0.0", [10, 0, 0, 1]), at(1));
        drop(journal);
        assert_eq!(written.lock().unwrap().len(), 1);
        let journal = WriteBehindLog::start(sink(&written, u32::MAX)).unwrap();
        journal.queue_download(download("1.0.0", [10, 0, 0, 1]), at(1));
        let shared = Arc::clone(&journal.shared);
        drop(journal);
        assert_eq!(shared.lost.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn packument_rows_are_dropped_before_tarball_rows_and_counted() {
        let (mut batch, none) = (Batch::default(), Arc::from([]));
        let mut lost = 0;
        for client in 0..100_000 {
            lost += batch.add_download(DownloadKey(packument(client, &none)), RowTally::once(at(0)));
        }
        assert_eq!((batch.len(), lost), (MAX_PENDING_DOWNLOADS, 0));
        assert_eq!(batch.add_download(DownloadKey(packument(200_000, &none)), RowTally::once(at(0))), 1);
        assert_eq!(batch.add_download(DownloadKey(packument(1, &none)), RowTally::once(at(0))), 0, "an equal row is merged");
        for client in 0..100_000 {
            let tarball = DownloadEvent { client: client_of(client), ..download("1.0.0", [0; 4]) };
            lost += batch.add_download(DownloadKey(tarball), RowTally::once(at(0)));
        }
        assert_eq!((batch.len(), batch.tarballs.len(), lost), (MAX_PENDING_DOWNLOADS, MAX_PENDING_DOWNLOADS, 100_001));
        assert_eq!(batch.add_download(DownloadKey(download("2.0.0", [0; 4])), RowTally::once(at(0))), 1);
    }

    #[test]
    fn panic_of_the_writer_does_not_block_flush() {
        let journal = WriteBehindLog::start(|_| panic!("a defect")).unwrap();
        journal.queue_download(download("1.0.0", [10, 0, 0, 1]), at(1));
        journal.flush();
        journal.queue_download(download("1.0.0", [10, 0, 0, 1]), at(1));
        journal.flush();
    }
}
