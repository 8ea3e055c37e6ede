//! The firewall core: answers package requests from cache, store and upstream, filtered by policy. It knows no HTTP; `server`
//! maps requests and results to it.

pub mod audit;
mod client_scope;
mod components;
mod config;
mod credential_binding;
pub mod error;
pub mod explain;
pub mod exposure;
pub mod package;
pub(crate) mod packages;
pub mod policy_state;
mod prefetch;
pub mod queries;
mod recorder;
pub mod request;
pub mod requests;
mod responses;
mod service;
mod singleflight;
mod tarballs;
mod verdicts;
mod wall_clock;
mod wanted_versions;
mod workers;
mod writer_confirmations;

pub use components::Firewall;
pub use config::{Config, FETCHES, FirewallDeps, MAX_ABSENT_NAMES, SizeLimits, TrustUpdates};
pub use error::{FirewallError, Refusal, RequestHint};
pub use explain::explanation::Explanation;
pub(crate) use exposure::rescan;
pub use exposure::{ExposedVersion, PurgeResult};
pub use policy_state::Profile;
pub use prefetch::PrefetchTarget;
pub use prefetch::vetting::VettingTarget;
pub use queries::check::{CheckOutcome, CheckedVersion, LockedVersion};
pub use queries::egress::EgressRequest;
pub use queries::hidden::{HeldVersion, HiddenVersions, WantedVersion};
pub use queries::inspect::{InspectedVersion, PackageInspection};
pub(crate) use queries::overview::{OverviewVersion, PackageOverview};
pub use request::{BaseUrl, Client, ContentCoding, PackumentResponse, RegistryRequest, RegistryResponse, TarballResponse};
pub use requests::ApprovalRequests;
pub use service::RegistryService;
pub use verdicts::Want;
pub(crate) use workers::heavy;
