//! Credentials that Coldframe itself checks: access tokens, users of the gateway, sessions of `coldframe run`, admin tokens.

pub(crate) mod authenticator;
pub(crate) mod exchange;
mod failure_limit;
pub(crate) mod gateway_users;
pub(crate) mod issuing;
mod jwt;
pub(crate) mod key_sets;
pub(crate) mod oidc;
pub(crate) mod password_file;
pub mod presented;
pub(crate) mod session_password;
pub(crate) mod sessions;
pub(crate) mod tokens;
