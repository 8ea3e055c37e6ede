//! What Coldframe shows below `/-/coldframe/`: health to all, numbers and verdicts to those who may ask. Refuses to
//! judge: verdicts come from whoever it was given.

pub mod access;
pub mod explanation;
pub mod packages;
pub mod response;

pub use packages::{BoxFuture, CheckRequest, CheckResponse, ClientPolicy, MOST_LOCKED, PackageInspector, SharedInspector};
pub use response::{Admin, AdminRequest, HealthCheck};
