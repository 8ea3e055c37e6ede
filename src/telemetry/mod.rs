//! Logs and metrics. Each event is a struct whose `emit()` writes the log line and updates the metrics. Label values come only
//! from enums, so the number of series is bounded.

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
pub use logging::{Config, LogFormat, TelemetryError};
pub use metrics::{CallbackGauge, InFlight, Metrics, Served};
