//! The HTTP server in front of the firewall. [`registry`] and [`gateway`] accept requests, `RegistryService` calls the firewall, and
//! [`response`] builds HTTP responses.
//!
//! No policy is evaluated here.

pub mod admin;
pub mod auth;
mod base_urls;
pub mod client;
pub mod config;
pub mod error;
pub mod gateway;
pub mod intercepted_hosts;
pub mod passthrough;
pub mod registry;
mod request_log;
pub mod response;

pub use auth::gateway_users::GatewayAuth;
pub use auth::password_file::PasswordFileError;
pub use auth::session_password::SessionPassword;
pub use auth::tokens::{AdminTokenError, AdminTokens};
pub use config::{Config, GatewayConfig};
pub use error::RequestError;
pub use gateway::egress::EgressContext;
pub use gateway::state::{Gateway, RefusedDestination};
pub use intercepted_hosts::{InterceptTarget, InterceptedHosts};
pub use registry::handler::RegistryHandler;
pub use registry::target::EntryPoint;
