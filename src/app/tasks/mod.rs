//! The background tasks of a server: reloads, feeds, prefetch, retention, ledger, summary.

pub(crate) mod config_reload;
pub(crate) mod decision_reload;
pub(crate) mod feeds;
pub(crate) mod gateway_reload;
pub(crate) mod ledger_health;
pub(crate) mod policy_reload;
pub(crate) mod prefetch;
pub(crate) mod retention;
pub(crate) mod summary;
