//! Credentials that Coldframe itself checks: users of the gateway, sessions of `coldframe run`, admin tokens.

pub(crate) mod gateway_users;
pub(crate) mod password_file;
pub(crate) mod session_password;
pub(crate) mod tokens;
