//! An address to listen on, and the scheme that is spoken there.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::text::words;

/// Whether connections are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    #[default]
    Http,
    Https,
}

words! { Scheme { Http = "http", Https = "https", } }

/// Displayed as a URL without final slash, such as `https://127.0.0.1:4873`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenAddress {
    pub scheme: Scheme,
    pub socket: SocketAddr,
}

impl From<SocketAddr> for ListenAddress {
    fn from(socket: SocketAddr) -> Self {
        Self { scheme: Scheme::Http, socket }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}://{}", self.scheme.as_str(), self.socket)
    }
}
