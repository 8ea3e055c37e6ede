//! Limits and timeouts of the connections of a listener.

use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Open connections over all listeners that share a `ConnectionLimit`. Beyond it, connections wait and idle ones are closed.
    pub connections: usize,
    /// For a request head, from its first byte. On a new connection, from the start.
    pub header_timeout: Duration,
    /// Between two requests.
    pub idle_timeout: Duration,
    /// The largest request head in bytes, at least 8192.
    pub head_bytes: usize,
    /// The maximum number of header lines.
    pub max_headers: usize,
    /// For the client to read at least [`crate::net::client::deadlines::Deadlines::SLOWEST`] bytes per second, on average.
    pub send_timeout: Duration,
    /// Time for requests in progress to finish at shutdown.
    pub drain: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections: 4096,
            header_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(75),
            head_bytes: 32 * 1024,
            max_headers: 100,
            send_timeout: Duration::from_mins(1),
            drain: Duration::from_secs(20),
        }
    }
}
