//! TLS. Whom we trust when we ask others, and the authority that the gateway's clients trust. Refuses to know whom
//! we ask and who asks us, and has no way to trust everybody.

pub mod ca;
pub mod ca_store;
pub mod leaf_issuer;
pub mod trust;

use std::path::{Path, PathBuf};

pub use ca::CertificateAuthority;
pub use ca_store::{CaSet, CaStore};
pub use leaf_issuer::LeafIssuer;
pub use trust::{Config, TrustBundle, client_config, trusting_alone};

/// What TLS could not be made of.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of certificates cannot be read, or is no PEM.
    #[error("cannot read the certificates in `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: rustls_pki_types::pem::Error,
    },
    /// A file of certificates holds none.
    #[error("there is no PEM certificate in `{}`", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A certificate cannot be a root.
    #[error("a certificate in `{}` cannot be trusted as an authority", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
    /// The TLS library refuses its own defaults.
    #[error("cannot set up TLS")]
    Library(#[from] rustls::Error),
    /// A certificate cannot be made.
    #[error("cannot make a certificate")]
    Mint(#[source] rcgen::Error),
    /// The file system refuses something of the authority's.
    #[error("cannot {action} `{}`", path.display())]
    Disk {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// What lies there is no authority that certificates can be minted with.
    #[error("the authority in `{}` cannot be used: {detail}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why not.
        detail: String,
    },
    /// The authority's name constraints leave a host out.
    #[error(
        "the authority's name constraints do not cover this host, `coldframe ca rotate` makes an authority whose constraints do: `{host}`"
    )]
    Uncovered {
        /// The host.
        host: String,
    },
    /// As [`TlsError::Uncovered`], of an authority that was given.
    #[error("the authority in `{}` may not vouch for this host, whose clients would refuse it: `{host}`", path.display())]
    NotVouched {
        /// The host.
        host: String,
        /// The file of the authority.
        path: PathBuf,
    },
    /// The authority has come to its end.
    #[error("the authority has expired, `coldframe ca rotate` makes a new one")]
    Expired,
    /// Too many rotations overlap.
    #[error("{0} earlier authorities still sign: wait for one to retire, or remove its file")]
    TooMany(usize),
    /// There is no authority yet.
    #[error("there is no authority yet, `coldframe ca init` or a start with `--gateway` makes one: `{}`", folder.display())]
    Missing {
        /// Where it would lie.
        folder: PathBuf,
    },
}

impl TlsError {
    /// For `map_err`: what was tried with which file.
    pub(crate) fn disk(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Disk { action, path: path.to_owned(), source }
    }
}
