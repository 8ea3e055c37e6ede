//! Admin pages below `/-/coldframe/`: health for every client, metrics and verdicts for authorized ones.

pub mod access;
pub mod explanation;
pub mod packages;
pub mod response;

pub use packages::{BoxFuture, CheckRequest, CheckResponse, ClientPolicy, MAX_CHECKED, PackageInspector, SharedInspector};
pub use response::{Admin, AdminRequest, HealthCheck};
