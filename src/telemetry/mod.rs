//! Floor 3: what Coldframe says about itself. One struct an event; `emit()` writes the log line and moves the counter.
//!
//! Refuses to know why something happened, and takes no label value that does not come from an enum.

pub mod clock;
pub mod decision;
pub mod event;
pub mod incident;
pub mod intelligence;
pub mod label;
pub mod logging;
pub mod metrics;
mod series;

pub use clock::{Clock, ManualClock, SystemClock};
pub use decision::{DecisionChange, DecisionChanged};
pub use event::{CacheUsed, FetchedAhead, GatewayRefused, Observed, Refused, RequestEnded, UpstreamAnswered, VersionsHidden};
pub use incident::{
    ClockSkew, IntegrityChanged, IntegrityMismatch, LedgerLost, MetadataStripped, PolicyReloaded, ServedStale, TaskFailed,
    VersionGone,
};
pub use intelligence::{Contacted, Exposed, FeedChanged, FeedFailed, FeedOverbroad};
pub use label::{BarLabel, CacheLabel, CacheOutcome, EndpointLabel, OutcomeLabel, TaskLabel, UpstreamOutcome, UpstreamWhat};
pub use logging::{Config, Format};
pub use metrics::{InFlight, Metrics, Served, Watched};

/// What cannot be set up to tell about ourselves.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log filter has directives nobody can read.
    #[error("not a log filter: `{0}`")]
    Filter(String),
}
