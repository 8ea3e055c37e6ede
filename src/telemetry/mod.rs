//! Logs and metrics. Each event is a struct whose `emit()` writes the log line and updates the metrics. Label values come only
//! from enums, so the number of series is bounded.

pub(crate) mod events;
pub(crate) mod labels;
pub(crate) mod logging;
pub(crate) mod metrics;

pub(crate) use events::approval_requests::ApprovalRequestChanged;
pub(crate) use events::decisions::{DecisionChange, DecisionChanged};
pub(crate) use events::feeds::{ClientExposed, FeedChanged, FeedFailed, FeedOverbroad, IndicatorContacted};
pub(crate) use events::incidents::{
    ClockSkew, FalseProvenance, FalseSignature, IntegrityChanged, IntegrityMismatch, LedgerRowsLost, MetadataStripped,
    PolicyReloaded, ServedStale, TarballChanges, TarballFindings, TaskFailed, VersionRemoved,
};
pub(crate) use events::requests::{
    AuthenticationFailed, EgressRefused, PackumentPrefetched, RequestEnded, RequestRefused, ServedWithWarning,
    TarballVettedAhead, UpstreamAnswered, VersionsHidden,
};
pub(crate) use labels::{
    AuthLabel, BarLabel, CacheLabel, CacheOutcome, EndpointLabel, OutcomeLabel, ProvenanceLabel, TaskLabel, UpstreamOutcome,
    UpstreamWhat,
};
pub(crate) use logging::{Config, LogFormat};
pub(crate) use metrics::{CallbackGauge, InFlight, Metrics, Served};
