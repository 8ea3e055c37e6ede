//! Credentials that Coldframe itself checks: users of the gateway, sessions of `coldframe run`, admin tokens.

pub mod gateway_users;
pub mod password_file;
pub mod session_password;
pub mod tokens;
