//! What Coldframe says about itself. One struct an event; `emit()` writes the log line and moves the counter.
//!
//! Refuses to know why something happened, and takes no label value that does not come from an enum.

pub mod events;
pub mod labels;
pub mod logging;
pub mod metrics;

pub use events::decisions::{DecisionChange, DecisionChanged};
pub use events::feeds::{Contacted, Exposed, FeedChanged, FeedFailed, FeedOverbroad};
pub use events::incidents::{
    ClockSkew, IntegrityChanged, IntegrityMismatch, LedgerLost, MetadataStripped, PolicyReloaded, ServedStale, TaskFailed,
    VersionGone,
};
pub use events::requests::{
    CacheUsed, FetchedAhead, GatewayRefused, Observed, Refused, RequestEnded, UpstreamAnswered, VersionsHidden,
};
pub use labels::{BarLabel, CacheLabel, CacheOutcome, EndpointLabel, OutcomeLabel, TaskLabel, UpstreamOutcome, UpstreamWhat};
pub use logging::{Config, Format};
pub use metrics::{InFlight, Metrics, Served, Watched};

/// What cannot be set up to tell about ourselves.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log filter has directives nobody can read.
    #[error("not a log filter: `{0}`")]
    Filter(String),
}
