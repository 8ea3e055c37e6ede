//! What Coldframe says about itself. One struct an event; `emit()` writes the log line and moves the counter.
//!
//! Refuses to know why something happened, and takes no label value that does not come from an enum.

pub mod events;
pub mod labels;
pub mod logging;
pub mod metrics;

pub use events::decisions::{DecisionChange, DecisionChanged};
pub use events::feeds::{ClientExposed, FeedChanged, FeedFailed, FeedOverbroad, IndicatorContacted};
pub use events::incidents::{
    ClockSkew, IntegrityChanged, IntegrityMismatch, LedgerRowsLost, MetadataStripped, PolicyReloaded, ServedStale, TaskFailed,
    VersionRemoved,
};
pub use events::requests::{
    CacheLookup, EgressRefused, PackumentPrefetched, RequestEnded, RequestRefused, ServedWithWarning, UpstreamAnswered,
    VersionsHidden,
};
pub use labels::{BarLabel, CacheLabel, CacheOutcome, EndpointLabel, OutcomeLabel, TaskLabel, UpstreamOutcome, UpstreamWhat};
pub use logging::{Config, LogFormat};
pub use metrics::{CallbackGauge, InFlight, Metrics, Served};

/// What cannot be set up to tell about ourselves.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log filter has directives nobody can read.
    #[error("not a log filter: `{0}`")]
    Filter(String),
}
