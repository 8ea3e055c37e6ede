//! Admin pages below `/-/coldframe/`: health for every client, metrics and verdicts for authorized ones.

pub(crate) mod access;
pub(crate) mod explanation;
pub(crate) mod packages;
mod response;
pub(crate) mod router;

pub(crate) use packages::{CheckRequest, CheckResponse, ClientPolicy, MAX_CHECKED, SharedInspector};
pub(crate) use router::{Admin, HealthChecks};
