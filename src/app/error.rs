//! Why the process cannot start, or why an operation failed.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::feed::FeedError;
use crate::firewall::FirewallError;
use crate::npm::PackageName;
use crate::server::{AdminTokenError, PasswordFileError};
use crate::store::{MAX_USABLE_TOKENS, StoreError};
use crate::tls::TlsError;
use crate::upstream::UpstreamConfigError;

#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The certificate of the registry listeners.
    #[error("cannot use the certificate for HTTPS")]
    Certificate(#[source] TlsError),
    #[error("cannot listen on `{address}`")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("cannot use the data directory")]
    DataDir(#[from] StoreError),
    #[error("cannot load trusted certificates")]
    Tls(#[from] TlsError),
    /// There is no CA that covers the gateway's hosts, or it cannot be read.
    #[error("cannot set up the gateway's CA")]
    Authority(#[source] TlsError),
    #[error("cannot load admin tokens")]
    Tokens(#[from] AdminTokenError),
    #[error("cannot load gateway users")]
    Users(#[from] PasswordFileError),
    #[error("cannot set up upstream")]
    Upstream(#[from] UpstreamConfigError),
    #[error("cannot create a temporary directory")]
    Scratch(#[source] std::io::Error),
    #[error("requests missing from the ledger: {0}")]
    LedgerLost(u64),
    /// No version matches a decision about this version, range or dist-tag.
    #[error("upstream has no version of `{name}` that matches: {asked}")]
    NothingFits { name: PackageName, asked: String },
    /// The decision with this number cannot be confirmed or revoked.
    #[error("decision {id} {why}")]
    Undecidable { id: i64, why: &'static str },
    /// The active token with this number has the label.
    #[error("the active token {0} has this label; revoke it, or choose another label")]
    LabelTaken(i64),
    #[error("there are {MAX_USABLE_TOKENS} active tokens, which is the maximum; revoke some")]
    TooManyTokens,
    #[error("no token with this number or label that is not revoked: `{0}`")]
    NoToken(String),
    #[error("the system has no randomness for tokens and sessions")]
    NoRandomness,
    #[error("no configured feed has an advisory with this id or alias: `{0}`; name the version as `PACKAGE@VERSION` instead")]
    NoAdvisory(String),
    #[error("cannot export the feed")]
    Feed(#[from] FeedError),
    /// A server at another address cannot be asked, or did not answer.
    #[error("request to the coldframe at `{server}` failed: {detail}")]
    Server { server: Box<str>, detail: String },
    /// An operation on a request for an approval was refused. Holds the reason.
    #[error("{0}")]
    Request(String),
    /// The server that runs on the data directory cannot be asked, or failed.
    #[error("request to the running coldframe on `{}` failed: {detail}", data_dir.display())]
    Control { data_dir: PathBuf, detail: String },
    #[error(transparent)]
    Rejected(#[from] FirewallError),
}
