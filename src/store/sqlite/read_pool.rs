//! A pool of read connections, opened on demand. If none can be opened (no file descriptor), a reader waits for another.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Connection;

/// Maximum number of idle connections. More are opened when more threads read at once.
const KEPT: usize = 4;

/// How long to wait for a connection when none can be opened. A read takes less than a millisecond.
const CONNECTION_WAIT: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(crate) struct ReadPool {
    state: Mutex<State>,
    /// Notified when a connection is returned or closed.
    returned: Condvar,
}

#[derive(Default)]
struct State {
    free: Vec<Connection>,
    lent: usize,
}

impl ReadPool {
    /// Runs `work` with an idle connection or a new one. If none can be opened, waits for another reader. Returns the error of
    /// `open` if there is no other reader to wait for. Returns the error of `work` and closes the connection.
    pub(crate) fn read<T, E>(
        &self,
        open: impl Fn() -> Result<Connection, E>,
        work: impl FnOnce(&Connection) -> Result<T, E>,
    ) -> Result<T, E> {
        let connection = self.take(open)?;
        let done = work(&connection);
        self.end(done.is_ok().then_some(connection));
        done
    }

    fn take<E>(&self, open: impl Fn() -> Result<Connection, E>) -> Result<Connection, E> {
        let deadline = Instant::now() + CONNECTION_WAIT;
        let mut state = self.lock();
        loop {
            if let Some(connection) = state.free.pop() {
                state.lent += 1;
                return Ok(connection);
            }
            // Counted before it is opened, so that a reader without a connection waits for it.
            state.lent += 1;
            drop(state);
            let error = match open() {
                Ok(connection) => return Ok(connection),
                Err(error) => error,
            };
            self.end(None);
            state = self.lock();
            let left = deadline.saturating_duration_since(Instant::now());
            if state.free.is_empty() && (state.lent == 0 || left.is_zero()) {
                return Err(error);
            }
            if state.free.is_empty() {
                (state, _) = self.returned.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Returns a connection to the pool, or counts it as closed if it is `None`.
    fn end(&self, connection: Option<Connection>) {
        let mut state = self.lock();
        state.lent -= 1;
        let surplus = match connection {
            Some(connection) if state.free.len() < KEPT => {
                state.free.push(connection);
                None
            }
            surplus => surplus,
        };
        drop(state);
        self.returned.notify_one();
        // Closing is slow, so it happens outside the lock.
        drop(surplus);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::thread;

    use super::*;

    fn open() -> Result<Connection, &'static str> {
        Connection::open_in_memory().map_err(|_| "cannot be opened")
    }

    fn full() -> Result<Connection, &'static str> {
        Err("no file is free")
    }

    #[test]
    fn reader_without_a_connection_waits_for_another() {
        let readers = ReadPool::default();
        let out = readers.take(open).unwrap();
        let read = thread::scope(|scope| {
            let waiting = scope.spawn(|| readers.read(full, |_| Ok("read")));
            readers.end(Some(out));
            waiting.join().unwrap()
        });
        assert_eq!(read, Ok("read"));
    }

    #[test]
    fn open_error_is_returned_at_once_and_failed_work_closes_the_connection() {
        let readers = ReadPool::default();
        assert_eq!(readers.read(full, |_| Ok(())), Err("no file is free"));
        let opened = Cell::new(0);
        let counted = || {
            opened.set(opened.get() + 1);
            open()
        };
        assert_eq!(readers.read(counted, |_| Err::<(), _>("damaged")), Err("damaged"));
        for _ in 0..3 {
            assert_eq!(readers.read(counted, |_| Ok(())), Ok(()));
        }
        assert_eq!(opened.get(), 2);
    }
}
