//! How long each part of an exchange with another server may take. Refuses to know what is exchanged.

use std::time::Duration;

/// The deadlines of one exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Name look-up, TCP, the outbound proxy's tunnel and TLS together.
    pub connect: Duration,
    /// From the request, sent over an open connection, to the end of the answer's headers.
    pub headers: Duration,
    /// The longest silence within a body. Also the window over which a body must bring at least
    /// [`Deadlines::SLOWEST`] bytes a second, so that a drip does not count as life.
    pub idle: Duration,
    /// A whole body, however lively.
    pub whole: Duration,
}

impl Deadlines {
    /// The slowest body that is waited for, in bytes a second, averaged over [`Deadlines::idle`].
    pub const SLOWEST: u64 = 512;

    /// How many bytes a body must bring while it is waited for as long as [`Deadlines::idle`].
    pub(crate) fn least(&self) -> u64 {
        u64::try_from(self.idle.as_millis()).unwrap_or(u64::MAX).saturating_mul(Self::SLOWEST) / 1_000
    }
}

#[cfg(test)]
impl Deadlines {
    /// For tests in which something has to take too long; all others have seconds, however busy the machine is.
    pub(crate) fn hasty() -> Self {
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
