//! How many files, sockets among them, this process may hold open. Refuses to know what they are for.

/// The most that is asked for: who may have more has no use for it.
#[cfg(unix)]
const MOST: u64 = 1 << 20;

/// What a process may hold open; `None` is without a limit, or unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FdLimit {
    /// When it was started.
    pub before: Option<u64>,
    /// From now on.
    pub now: Option<u64>,
}

impl FdLimit {
    /// Raises this process' limit as far as it may without asking anybody. Where it cannot, it stays as it is.
    #[cfg(unix)]
    #[must_use]
    pub fn raise() -> Self {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let found = getrlimit(Resource::Nofile);
        let wanted = found.maximum.unwrap_or(MOST).min(MOST);
        let before = found.current;
        if before.is_none_or(|current| current >= wanted) {
            return Self { before, now: before };
        }
        let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: found.maximum });
        Self { before, now: if raised.is_ok() { Some(wanted) } else { before } }
    }

    /// There is no such limit here.
    #[cfg(not(unix))]
    #[must_use]
    pub fn raise() -> Self {
        Self { before: None, now: None }
    }
}
