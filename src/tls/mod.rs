//! Floor 5: TLS. Whom we trust when we ask others. Refuses to know whom we ask, and has no way to trust everybody.

pub mod client;

use std::path::PathBuf;

pub use client::{Config, client_config};

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
}
