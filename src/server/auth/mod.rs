//! Credentials that Coldframe itself checks: access tokens, users of the gateway, sessions of `coldframe run`, admin tokens.

pub(crate) mod authenticator;
mod failure_limit;
pub(crate) mod gateway_users;
pub(crate) mod password_file;
pub(crate) mod presented;
pub(crate) mod session_password;
pub(crate) mod tokens;
