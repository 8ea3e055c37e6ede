//! Merges file, environment and flags into one [`Config`].
//!
//! [`RawConfig`] holds values as text with their origins. [`Config`] holds parsed values, which are not validated again.
//! Precedence is flag, environment, file, default. All errors are reported together.

pub(crate) mod effective;
mod environment;
mod feeds;
mod insecure;
mod load;
mod parse;
pub mod policy;
pub mod raw;
mod server;
pub mod settings;
pub mod show;
mod signing;
pub(crate) mod suggest;
mod template;
mod upstream;
mod value_kind;

pub(crate) use effective::Effective;
pub use environment::ProcessEnvironment;
pub use feeds::FeedSettings;
pub use load::{Config, ConfigSources};
pub(crate) use load::{check, data_dir, gateway_users};
pub use raw::{EnvPairs, RawConfig};
pub use server::GatewaySettings;
pub use settings::SettingKey;
pub(crate) use show::show_effective;
pub(crate) use template::template;
pub(crate) use value_kind::ValueKind;

pub use crate::diagnostics::{Diagnostic, Diagnostics, Origin};
