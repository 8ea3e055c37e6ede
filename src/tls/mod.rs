//! TLS: trusted roots for connections to upstream, and the certificate authority (CA) of the gateway. Certificate checks cannot
//! be switched off.

pub mod ca;
pub mod ca_store;
mod error;
pub mod leaf_issuer;
pub mod trust;

pub use ca::CertificateAuthority;
pub use ca_store::{CaSet, CaStore};
pub use error::TlsError;
pub use leaf_issuer::LeafIssuer;
pub use trust::{Config, TrustBundle};
pub(crate) use trust::{client_config, trust_only};
