//! Connections that read the ledger: opened when they are needed, kept for the next, and waited for where the system gives no more
//! files. Refuses to know what is read.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Connection;

/// Connections kept for reading; more are opened when more threads read at once.
const KEPT: usize = 4;

/// How long one that cannot be opened is waited for: a read takes less than a millisecond.
const PATIENCE: Duration = Duration::from_secs(5);

/// The connections of one ledger.
#[derive(Default)]
pub(crate) struct ReadPool {
    state: Mutex<State>,
    /// Told when one is there again, or will not come back.
    returned: Condvar,
}

#[derive(Default)]
struct State {
    free: Vec<Connection>,
    lent: usize,
}

impl ReadPool {
    /// Reads through a connection that is free, or a new one. Where none can be opened, which a process without a free file sees,
    /// it waits its turn.
    ///
    /// # Errors
    /// Those of `open` when there is no other to wait for, and those of `work`, after which the connection is given up.
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
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.lock();
        loop {
            if let Some(connection) = state.free.pop() {
                state.lent += 1;
                return Ok(connection);
            }
            // Counted before it is there, so that whoever finds none waits for it.
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

    /// One is out no longer: it is kept, or there is nothing to keep.
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
        // Closing takes its time; nobody should wait for it.
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
    fn one_that_cannot_be_opened_is_waited_for_while_another_is_out() {
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
    fn with_none_out_it_is_told_at_once_and_a_failure_gives_the_connection_up() {
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
