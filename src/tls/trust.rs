//! Trusted roots of outgoing connections: the system's and configured files. Certificate checks cannot be switched off.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::net::TlsTrust;
use crate::tls::TlsError;
use crate::tls::ca::{pem, provider};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// PEM files with certificates that are trusted in addition to the system's roots.
    pub extra_roots: Vec<PathBuf>,
    /// PEM files with certificates that are trusted only for connections that name the file.
    pub separate_roots: Vec<PathBuf>,
}

/// Builds a client configuration that trusts the system's roots (or `SSL_CERT_FILE` and `SSL_CERT_DIR`) and the extra ones. Fails
/// if an extra file lacks a usable root. A system without roots is not an error, because plain HTTP upstreams do not need them.
pub(crate) fn client_config(config: &Config) -> Result<TlsTrust, TlsError> {
    // Loading the system's roots takes tens of milliseconds, and its environment variables do not change while the process runs.
    static SYSTEM: OnceLock<(RootCertStore, Option<String>)> = OnceLock::new();
    let (mut roots, trouble) = SYSTEM.get_or_init(system_roots).clone();
    for (nth, path) in config.extra_roots.iter().enumerate() {
        if !config.extra_roots[..nth].contains(path) {
            add_file(&mut roots, path)?;
        }
    }
    let count = roots.len();
    let mut with_file = HashMap::new();
    for path in &config.separate_roots {
        let mut more = roots.clone();
        add_file(&mut more, path)?;
        with_file.insert(path.clone(), Arc::new(for_http(more)?));
    }
    Ok(TlsTrust { client: Arc::new(for_http(roots)?), roots: count, trouble, with_file })
}

fn for_http(roots: RootCertStore) -> Result<rustls::ClientConfig, rustls::Error> {
    let mut client = trusting(roots)?;
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(client)
}

/// Builds a client configuration that trusts only `authorities`; `None` if none of them can be used as a root.
pub(crate) fn trust_only(authorities: &[CertificateDer<'static>]) -> Option<Arc<rustls::ClientConfig>> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(authorities.iter().cloned());
    if added == 0 { None } else { trusting(roots).ok().map(Arc::new) }
}

/// Builds a client configuration that accepts one certificate of a server, whatever names it has, and no other.
pub(crate) fn trust_exactly(certificate: CertificateDer<'static>) -> Result<Arc<rustls::ClientConfig>, TlsError> {
    let provider = provider();
    let verifier = Arc::new(ExactCertificate { certificate, algorithms: provider.signature_verification_algorithms });
    let versions = [&rustls::version::TLS13, &rustls::version::TLS12];
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(&versions)?;
    let mut client = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(client))
}

/// Accepts the server that has the key of this certificate.
#[derive(Debug)]
struct ExactCertificate {
    certificate: CertificateDer<'static>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for ExactCertificate {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let is_expected = *end_entity == self.certificate;
        let error = rustls::CertificateError::ApplicationVerificationFailure;
        if is_expected { Ok(ServerCertVerified::assertion()) } else { Err(error.into()) }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn trusting(roots: RootCertStore) -> Result<rustls::ClientConfig, rustls::Error> {
    let versions = [&rustls::version::TLS13, &rustls::version::TLS12];
    let builder = rustls::ClientConfig::builder_with_provider(provider()).with_protocol_versions(&versions)?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// The certificates that a child process must trust: a given certificate in addition to all roots that Coldframe trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustBundle {
    /// The given certificate, then those of the extra files, as PEM.
    pub added: String,
    pub system: String,
}

impl TrustBundle {
    /// Loads the bundle for the certificate `first`.
    pub(crate) fn of(first: &CertificateDer<'_>, config: &Config) -> Result<Self, TlsError> {
        let mut added = pem(first);
        for path in &config.extra_roots {
            let failed = |source| TlsError::File { path: path.clone(), source };
            for certificate in CertificateDer::pem_file_iter(path).map_err(failed)? {
                added.push_str(&pem(&certificate.map_err(failed)?));
            }
        }
        let system = rustls_native_certs::load_native_certs().certs.iter().map(pem).collect();
        Ok(Self { added, system })
    }
}

/// Loads the system's roots, with the first error of loading them.
fn system_roots() -> (RootCertStore, Option<String>) {
    let system = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Old systems have roots that no longer parse; the others are still valid.
    roots.add_parsable_certificates(system.certs);
    (roots, system.errors.first().map(ToString::to_string))
}

fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<(), TlsError> {
    let (failed, count) = (|source| TlsError::File { path: path.to_owned(), source }, roots.len());
    for certificate in CertificateDer::pem_file_iter(path).map_err(failed)? {
        let certificate = certificate.map_err(failed)?;
        roots.add(certificate).map_err(|source| TlsError::Certificate { path: path.to_owned(), source })?;
    }
    if roots.len() == count { Err(TlsError::Empty { path: path.to_owned() }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    fn authority() -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters.self_signed(&key).unwrap().pem()
    }

    #[test]
    fn each_extra_file_adds_its_roots() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one.pem"), folder.path().join("two.pem"));
        std::fs::write(&one, authority()).unwrap();
        std::fs::write(&two, format!("# two certificates\n{}{}", authority(), authority())).unwrap();
        let without = client_config(&Config::default()).unwrap().roots;
        let with = client_config(&Config { extra_roots: vec![one.clone(), two, one], separate_roots: Vec::new() }).unwrap();
        assert_eq!(with.roots, without + 3);
        assert_eq!(with.client.alpn_protocols, [b"http/1.1".to_vec()]);
    }

    #[test]
    fn missing_or_empty_file_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing.pem");
        let error = client_config(&Config { extra_roots: vec![missing.clone()], ..Config::default() }).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot read certificates from `{}`", missing.display()));
        assert!(error.source().is_some());
        let empty = folder.path().join("empty.pem");
        std::fs::write(&empty, "no certificate\n").unwrap();
        let error = client_config(&Config { extra_roots: vec![empty.clone()], ..Config::default() }).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot find a PEM certificate in `{}`", empty.display()));
    }
}
