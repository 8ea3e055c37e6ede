//! Deadlines for requests to other servers.

use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// For name lookup, TCP, proxy tunnel and TLS together.
    pub connect: Duration,
    /// From sending the request on an open connection to the end of the response headers.
    pub headers: Duration,
    /// The longest silence within a body. Also the window in which a body must average [`Deadlines::SLOWEST`], so that single
    /// bytes do not extend it.
    pub idle: Duration,
    /// For a whole body at any rate.
    pub whole: Duration,
}

impl Deadlines {
    /// The minimum rate of a body in bytes per second, averaged over [`Deadlines::idle`].
    pub const SLOWEST: u64 = 512;

    /// Returns the minimum number of bytes per [`Deadlines::idle`].
    pub(crate) fn least(&self) -> u64 {
        u64::try_from(self.idle.as_millis()).unwrap_or(u64::MAX).saturating_mul(Self::SLOWEST) / 1_000
    }
}

#[cfg(test)]
impl Deadlines {
    /// Returns short deadlines for tests of timeouts. Other tests use the defaults, so that a busy machine does not fail them.
    pub(crate) fn impatient() -> Self {
        let moment = Duration::from_millis(150);
        Self { connect: moment, headers: moment, idle: moment, whole: moment * 4 }
    }
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            headers: Duration::from_secs(30),
            idle: Duration::from_secs(30),
            whole: Duration::from_secs(15 * 60),
        }
    }
}
