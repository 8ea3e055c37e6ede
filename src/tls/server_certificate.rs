//! The certificate of the registry listeners, read from files that may be replaced while the server runs, and the CAs of client
//! certificates. What is on disk replaces what is served only if it can be used.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::clock::Clock;
use crate::files;
use crate::tls::TlsError;
use crate::tls::ca::provider;

/// Maximum size of one file, in bytes. Bundles of all public CAs have a quarter of it.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Maximum length of a name in a client certificate, in bytes. Names are in ledger rows and log lines.
const MAX_SUBJECT_BYTES: usize = 128;

/// How long before its end a certificate is reported. Certificates of a few days are renewed at half their life.
pub(crate) const EXPIRY_NOTICE: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerCertificateFiles {
    /// The certificate and its chain, as PEM.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// CAs of client certificates, as PEM. `None` if clients are not asked for one.
    pub client_authorities: Option<PathBuf>,
}

impl ServerCertificateFiles {
    pub(crate) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.certificate, &self.key].into_iter().chain(&self.client_authorities)
    }

    /// Reads the server's own certificate, without its chain.
    pub(crate) fn leaf(&self) -> Result<CertificateDer<'static>, TlsError> {
        certificates(&self.certificate).map(|mut chain| chain.swap_remove(0))
    }
}

/// The certificate in use. Connections read it when they begin.
pub struct ServerCertificate {
    files: ServerCertificateFiles,
    active: ArcSwap<ActiveCertificate>,
    clock: Arc<dyn Clock>,
}

struct ActiveCertificate {
    config: Arc<ServerConfig>,
    not_after: Timestamp,
    /// The same object as before a reload if the CAs are the same.
    client_authorities: Arc<Vec<CertificateDer<'static>>>,
}

/// A client certificate that was verified when its connection began.
#[derive(Clone)]
pub struct ClientCertificate {
    pub subject: Arc<str>,
    not_after: Timestamp,
    verified_by: Arc<Vec<CertificateDer<'static>>>,
}

/// The TLS configuration of a new connection.
pub(crate) struct Handshake {
    pub(crate) config: Arc<ServerConfig>,
    client_authorities: Arc<Vec<CertificateDer<'static>>>,
}

impl ServerCertificate {
    /// Reads the files. Returns an error if they cannot be used.
    pub(crate) fn load(files: ServerCertificateFiles, clock: Arc<dyn Clock>) -> Result<Self, TlsError> {
        let active = ArcSwap::from_pointee(ActiveCertificate::load(&files, &Arc::default(), &clock)?);
        Ok(Self { files, active, clock })
    }

    /// Reads the files again. Returns an error if they cannot be used or have expired; then the previous ones stay active.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        let fresh = ActiveCertificate::load(&self.files, &self.active.load().client_authorities, &self.clock)?;
        if fresh.not_after <= self.clock.now() {
            return Err(self.files.unusable("it has expired".to_owned()));
        }
        self.active.store(Arc::new(fresh));
        Ok(())
    }

    pub(crate) fn files(&self) -> &ServerCertificateFiles {
        &self.files
    }

    pub(crate) fn not_after(&self) -> Timestamp {
        self.active.load().not_after
    }

    pub(crate) fn handshake(&self) -> Handshake {
        let active = self.active.load();
        Handshake { config: Arc::clone(&active.config), client_authorities: Arc::clone(&active.client_authorities) }
    }

    /// Checks whether a client certificate has not expired since its connection began, and its CAs are still the configured ones.
    pub(crate) fn trusts(&self, client: &ClientCertificate) -> bool {
        client.not_after > self.clock.now() && Arc::ptr_eq(&client.verified_by, &self.active.load().client_authorities)
    }
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ServerCertificate").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Handshake {
    /// Returns the client's certificate after a handshake, if it sent one that names it.
    pub(crate) fn client_certificate(&self, connection: &ServerConnection) -> Option<ClientCertificate> {
        let certificate = connection.peer_certificates()?.first()?;
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let not_after = Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()?;
        let subject = subject(&certificate)?.into();
        Some(ClientCertificate { subject, not_after, verified_by: Arc::clone(&self.client_authorities) })
    }
}

impl ActiveCertificate {
    /// Reads the files. `previous` are the CAs of clients so far.
    fn load(
        files: &ServerCertificateFiles,
        previous: &Arc<Vec<CertificateDer<'static>>>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, TlsError> {
        let chain = certificates(&files.certificate)?;
        let (_, leaf) = X509Certificate::from_der(&chain[0]).map_err(|error| files.unusable(error.to_string()))?;
        let not_after = Timestamp::from_second(leaf.validity().not_after.timestamp()).unwrap_or(Timestamp::MAX);
        let bytes = read(&files.key)?;
        let unreadable = |source| TlsError::File { path: files.key.clone(), source };
        let key = PrivateKeyDer::from_pem_slice(&bytes).map_err(unreadable)?;
        // Fails if the key does not belong to the certificate.
        let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| files.unusable(error.to_string()))?;
        let builder = ServerConfig::builder_with_details(provider(), Arc::new(ClockTime(Arc::clone(clock))))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
        let (builder, authorities) = match &files.client_authorities {
            None => (builder.with_no_client_auth(), Vec::new()),
            Some(path) => {
                let authorities = certificates(path)?;
                let mut roots = RootCertStore::empty();
                for authority in &authorities {
                    let failed = |source| TlsError::Certificate { path: path.clone(), source };
                    roots.add(authority.clone()).map_err(failed)?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
                // Whether a request needs an identity is decided when it is answered: readiness probes need none.
                let verifier = verifier.allow_unauthenticated().build();
                let verifier = verifier.map_err(|error| TlsError::Unusable { path: path.clone(), detail: error.to_string() })?;
                (builder.with_client_cert_verifier(verifier), authorities)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let client_authorities = if authorities == **previous { Arc::clone(previous) } else { Arc::new(authorities) };
        Ok(Self { config: Arc::new(config), not_after, client_authorities })
    }
}

/// The time at which client certificates are verified.
#[derive(Debug)]
struct ClockTime(Arc<dyn Clock>);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().as_second()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

impl ServerCertificateFiles {
    fn unusable(&self, detail: String) -> TlsError {
        TlsError::Unpaired { certificate: self.certificate.clone(), key: self.key.clone(), detail }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    files::read_bounded(path, MAX_FILE_BYTES).map_err(TlsError::disk("read", path))
}

/// Reads the certificates of a PEM file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|source| TlsError::File { path: path.to_owned(), source })?;
    if found.is_empty() { Err(TlsError::Empty { path: path.to_owned() }) } else { Ok(found) }
}

/// Returns the name of a client: its first URI, DNS name or mail address among the alternative names, else its common name.
/// `None` if it has none, or none that is short and printable.
fn subject(certificate: &X509Certificate<'_>) -> Option<String> {
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let names = alternatives.as_ref().map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let first = |pick: for<'a> fn(&'a GeneralName<'a>) -> Option<&'a str>| names.iter().find_map(pick).map(str::to_owned);
    let name = first(|name| if let GeneralName::URI(uri) = name { Some(uri) } else { None })
        .or_else(|| first(|name| if let GeneralName::DNSName(name) = name { Some(name) } else { None }))
        .or_else(|| first(|name| if let GeneralName::RFC822Name(mail) = name { Some(mail) } else { None }))
        .or_else(|| certificate.subject().iter_common_name().find_map(|name| name.as_str().ok()).map(str::to_owned))?;
    let is_plain = !name.is_empty() && name.len() <= MAX_SUBJECT_BYTES && name.bytes().all(|byte| byte.is_ascii_graphic());
    is_plain.then_some(name)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;
    use crate::clock::ManualClock;

    fn params() -> CertificateParams {
        let mut params = CertificateParams::new(vec!["npm.example".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2026, 5, 1);
        params
    }

    fn write_pair(folder: &Path, params: &CertificateParams) -> ServerCertificateFiles {
        let key = KeyPair::generate().unwrap();
        let files = ServerCertificateFiles {
            certificate: folder.join("cert.pem"),
            key: folder.join("key.pem"),
            client_authorities: None,
        };
        std::fs::write(&files.certificate, params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    fn clock() -> ManualClock {
        ManualClock::at("2026-04-03T12:00:00Z".parse().unwrap())
    }

    #[test]
    fn mismatched_missing_or_expired_pair_leaves_the_previous_one_active() {
        let folder = tempfile::tempdir().unwrap();
        let files = write_pair(folder.path(), &params());
        let certificate = ServerCertificate::load(files.clone(), Arc::new(clock())).unwrap();
        let first = certificate.handshake().config;
        let still_active = || Arc::ptr_eq(&certificate.handshake().config, &first);
        std::fs::write(&files.key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
        let error = certificate.reload().unwrap_err().to_string();
        assert!(error.contains("cert.pem") && error.contains("key.pem") && still_active(), "{error}");
        std::fs::write(&files.key, "no key\n").unwrap();
        assert!(certificate.reload().is_err() && still_active());
        std::fs::remove_file(&files.certificate).unwrap();
        assert!(certificate.reload().is_err() && still_active());
        let mut expired = params();
        expired.not_after = rcgen::date_time_ymd(2026, 4, 1);
        write_pair(folder.path(), &expired);
        assert!(certificate.reload().unwrap_err().to_string().ends_with("it has expired") && still_active());
        write_pair(folder.path(), &params());
        certificate.reload().unwrap();
        assert!(!still_active());
    }

    #[test]
    fn client_certificate_ends_with_its_validity_and_its_authorities() {
        let folder = tempfile::tempdir().unwrap();
        let authority = folder.path().join("clients.pem");
        let write_authority = || {
            let mut params = params();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            std::fs::write(&authority, params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()).unwrap();
        };
        write_authority();
        let files =
            ServerCertificateFiles { client_authorities: Some(authority.clone()), ..write_pair(folder.path(), &params()) };
        let clock = clock();
        let certificate = ServerCertificate::load(files, Arc::new(clock.clone())).unwrap();
        let not_after = clock.now().checked_add(Duration::from_secs(3600)).unwrap();
        let verified_by = Arc::clone(&certificate.handshake().client_authorities);
        let client = ClientCertificate { subject: "ci".into(), not_after, verified_by };
        assert!(certificate.trusts(&client));
        write_pair(folder.path(), &params());
        certificate.reload().unwrap();
        assert!(certificate.trusts(&client), "only the server's certificate is new");
        clock.advance(Duration::from_secs(3600));
        assert!(!certificate.trusts(&client));
        let later = ClientCertificate { not_after: Timestamp::MAX, ..client };
        assert!(certificate.trusts(&later));
        write_authority();
        certificate.reload().unwrap();
        assert!(!certificate.trusts(&later), "its CA is no longer configured");
    }

    #[test]
    fn subject_is_an_alternative_name_or_the_common_name() {
        let subject_of = |names: Vec<SanType>, common: &str| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.subject_alt_names = names;
            params.distinguished_name.push(DnType::CommonName, common);
            let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
            subject(&X509Certificate::from_der(certificate.der()).unwrap().1)
        };
        let dns = || SanType::DnsName("ci.example".try_into().unwrap());
        let uri = || SanType::URI("spiffe://acme.example/ci".try_into().unwrap());
        assert_eq!(subject_of(vec![dns(), uri()], "x").as_deref(), Some("spiffe://acme.example/ci"));
        assert_eq!(subject_of(vec![dns()], "x").as_deref(), Some("ci.example"));
        assert_eq!(subject_of(Vec::new(), "build-7").as_deref(), Some("build-7"));
        for hostile in ["", "two words", "a\u{1b}[2J", "b\u{e4}r", &"x".repeat(129)] {
            assert_eq!(subject_of(Vec::new(), hostile), None, "{hostile:?}");
        }
    }
}
