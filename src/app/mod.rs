//! The composition root: builds all components from a configuration and a clock, connects them, and runs the server.
//! Reads no flags, configuration files or environment variables.

pub(crate) mod ca;
mod core;
mod error;
mod gateway;
mod health;
pub(crate) mod listeners;
pub(crate) mod operations;
mod outbound;
pub(crate) mod probe;
pub(crate) mod remote;
pub mod run;
mod server;
pub mod session;
pub mod standalone;
mod tasks;

pub use error::AppError;
pub use operations::{Description, Explained};
pub use remote::client_policy::fetch_client_policy;
pub use remote::health::check_readiness;
pub use remote::{Owner, RemoteServer};
pub use run::RunSession;
pub use run::temp_dir::RunTempDir;
pub use server::App;
pub use standalone::check::Checker;
pub use standalone::policy_diff::diff_policies;
pub use standalone::{IndicatorHitSummary, explain, exposure, indicator_hits};
pub use tasks::config_reload::ReadConfig;
