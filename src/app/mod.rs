//! The composition root: builds all components from a configuration and a clock, connects them, and runs the server.
//! Reads no flags, configuration files or environment variables.

pub(crate) mod ca;
mod core;
mod error;
mod gateway;
pub(crate) mod listeners;
pub(crate) mod operations;
mod outbound;
pub(crate) mod probe;
pub(crate) mod remote;
pub(crate) mod run;
mod server;
pub(crate) mod session;
pub mod standalone;
mod supervisor;
mod tasks;

pub use error::AppError;
pub(crate) use remote::http::{check_readiness, fetch_client_policy};
pub(crate) use remote::{Owner, RemoteServer};
pub(crate) use run::RunSession;
pub(crate) use run::temp_dir::RunTempDir;
pub use server::App;
pub use standalone::exposure;
pub(crate) use standalone::policy_diff::diff_policies;
pub(crate) use standalone::{Checker, IndicatorHitSummary, explain, indicator_hits, vet};
pub use tasks::config_reload::ReadConfig;
