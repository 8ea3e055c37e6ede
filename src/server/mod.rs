//! The HTTP server in front of the firewall. [`registry`] and [`gateway`] accept requests, `RegistryService` calls the firewall,
//! and [`response`] builds HTTP responses. No policy is evaluated here.

pub(crate) mod admin;
pub mod auth;
mod base_urls;
mod client;
mod config;
mod error;
pub(crate) mod gateway;
mod intercepted_hosts;
pub(crate) mod pages;
mod passthrough;
pub(crate) mod registry;
mod request_log;
pub mod response;

pub(crate) use auth::authenticator::{Authenticator, ENDED_KEPT};
pub(crate) use auth::exchange::TokenExchange;
pub(crate) use auth::key_sets::KeySets;
pub use auth::password_file::PasswordFileError;
pub(crate) use auth::session_password::SessionPassword;
pub use auth::tokens::AdminTokenError;
pub use config::{AuthConfig, AuthRequirement, ClientSecret, Config, GatewayConfig, SignInConfig};
pub(crate) use gateway::egress::EgressContext;
pub(crate) use gateway::state::{Gateway, RefusedDestination};
pub use intercepted_hosts::InterceptedHosts;
pub(crate) use registry::handler::RegistryHandler;
