//! The process's limit on open files, which includes sockets.

/// The highest limit requested. More would have no use.
#[cfg(unix)]
const MAX_FILES: u64 = 1 << 20;

/// The limit on open files. `None` means no limit, or unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FdLimit {
    /// At process start.
    pub before: Option<u64>,
    /// After [`FdLimit::raise`].
    pub now: Option<u64>,
}

impl FdLimit {
    /// Raises the soft limit as far as the hard limit allows. Leaves it unchanged on failure.
    #[cfg(unix)]
    pub fn raise() -> Self {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let found = getrlimit(Resource::Nofile);
        let wanted = found.maximum.unwrap_or(MAX_FILES).min(MAX_FILES);
        let before = found.current;
        if before.is_none_or(|current| current >= wanted) {
            return Self { before, now: before };
        }
        let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: found.maximum });
        Self { before, now: if raised.is_ok() { Some(wanted) } else { before } }
    }

    /// Returns no limit: the platform has none.
    #[cfg(not(unix))]
    pub fn raise() -> Self {
        Self { before: None, now: None }
    }
}
