//! Admin pages below `/-/coldframe/`: health for every client, metrics and verdicts for authorized ones.

pub mod access;
pub mod explanation;
pub mod packages;
mod response;
pub(crate) mod router;

pub use packages::{BoxFuture, CheckRequest, CheckResponse, ClientPolicy, MAX_CHECKED, PackageInspector, SharedInspector};
pub use router::{Admin, HealthCheck};
