//! The background tasks of a server: reloads, feeds, prefetch, vetting, ledger, summary.

pub(crate) mod certificate_reload;
mod concurrent;
pub(crate) mod config_reload;
pub(crate) mod decision_reload;
pub(crate) mod due;
pub(crate) mod feeds;
pub(crate) mod ledger;
pub(crate) mod policy_reload;
pub(crate) mod prefetch;
pub(crate) mod requests;
pub(crate) mod summary;
pub(crate) mod token_reload;
pub(crate) mod trust;
pub(crate) mod vetting;
