//! TLS: trusted roots, the certificate of the registry, and the certificate authority (CA) of the gateway. Certificate checks cannot be switched off.

use std::path::{Path, PathBuf};

pub mod ca;
pub mod ca_store;
pub mod leaf_issuer;
pub mod server_certificate;
pub mod trust;

pub use ca::CertificateAuthority;
pub use ca_store::{CaSet, CaStore};
pub use leaf_issuer::LeafIssuer;
pub use server_certificate::{ServerCertificate, ServerCertificateFiles};
pub use trust::{Config, TrustBundle};
pub(crate) use trust::{client_config, trust_exactly, trust_only};

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read certificates from `{}`", path.display())]
    File { path: PathBuf, source: rustls_pki_types::pem::Error },
    #[error("cannot find a PEM certificate in `{}`", path.display())]
    Empty { path: PathBuf },
    #[error("cannot trust a certificate as a root, from `{}`", path.display())]
    Certificate { path: PathBuf, source: rustls::Error },
    #[error("cannot set up TLS")]
    Library(#[from] rustls::Error),
    #[error("cannot generate a certificate")]
    Mint(#[source] rcgen::Error),
    /// A file operation on the CA folder failed. `action` is its verb, for example "read".
    #[error("cannot {action} `{}`", path.display())]
    Disk { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("cannot use the CA in `{}`: {detail}", path.display())]
    Unusable { path: PathBuf, detail: String },
    #[error("cannot use the certificate in `{}` with the key in `{}`: {detail}", certificate.display(), key.display())]
    Unpaired { certificate: PathBuf, key: PathBuf, detail: String },
    #[error("the CA's name constraints do not permit this host; run `coldframe ca rotate` to create a CA that does: `{host}`")]
    Uncovered { host: String },
    /// Like [`TlsError::Uncovered`], for a CA that the operator supplied. `path` is its certificate file.
    #[error("the CA in `{}` may not issue certificates for this host, clients would reject them: `{host}`", path.display())]
    NotVouched { host: String, path: PathBuf },
    #[error("the CA has expired; run `coldframe ca rotate` to create a new one")]
    Expired,
    /// Too many earlier CAs are still in their overlap period.
    #[error("cannot rotate the CA, {0} earlier CAs still sign; wait for one to retire or remove its file")]
    TooMany(usize),
    #[error("cannot find a CA in `{}`; run `coldframe ca init` or start with `--gateway` to create one", folder.display())]
    Missing { folder: PathBuf },
}

impl TlsError {
    /// Returns a function for `map_err` that adds the operation and the file to an I/O error.
    pub(crate) fn disk(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Disk { action, path: path.to_owned(), source }
    }
}
