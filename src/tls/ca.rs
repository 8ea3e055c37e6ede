//! The certificate authority (CA) of the gateway: its leaves and name constraints. Its key never appears in text, logs or errors.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, NameConstraints, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::CryptoProvider;
use rustls::{RootCertStore, sign::CertifiedKey};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, DnsName, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::tls::TlsError;

/// Validity of a new CA: 5 years, so that it rarely expires within the life of a machine.
const LIFE: Duration = Duration::from_secs(5 * 365 * 24 * 3600);

/// Validity of a leaf. A leaf is reissued at half of this, so a client's clock may be off by up to half of it.
pub const LEAF_LIFE: Duration = Duration::from_secs(48 * 3600);

/// How far before now certificates become valid. Tolerates client clocks that are behind.
const BACKDATE: Duration = Duration::from_secs(24 * 3600);

pub struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    /// The CA certificate, followed by the chain to its root if it is an intermediate.
    chain: Vec<CertificateDer<'static>>,
    pub(crate) not_after: Timestamp,
}

/// The key that all leaves of a process share. It is never stored.
pub struct LeafKey {
    pair: KeyPair,
    signing: Arc<dyn rustls::sign::SigningKey>,
}

impl LeafKey {
    /// # Errors
    /// Returns an error if the system's random number generator fails.
    pub fn generate() -> Result<Self, TlsError> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(TlsError::Mint)?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()));
        let signing = provider().key_provider.load_private_key(der)?;
        Ok(Self { pair, signing })
    }
}

/// Common name prefix of the CAs that Coldframe generates.
const NAME: &str = "Coldframe authority";

/// Generates a CA for `hosts` only, as PEM: certificate, then key. It uses ECDSA P-256 and path length 0. Critical name
/// constraints permit these DNS names and their subdomains and exclude all IP addresses.
pub(crate) fn generate(hosts: &[DnsName<'_>], now: Timestamp) -> Result<String, TlsError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(TlsError::Mint)?;
    let serial = serial()?;
    let mut name = DistinguishedName::new();
    // Users, and clients that look up issuers by name, must be able to distinguish two CAs of one machine.
    let mark = serial.to_bytes().iter().take(4).fold(0_u32, |mark, byte| (mark << 8) | u32::from(*byte));
    name.push(DnType::CommonName, format!("{NAME} {} {mark:08x}", now.strftime("%Y-%m-%d")));
    let mut parameters = CertificateParams::default();
    parameters.serial_number = Some(serial);
    parameters.distinguished_name = name;
    set_validity(&mut parameters, now, LIFE);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // DNS name constraints do not restrict IP addresses, so all addresses are excluded.
    parameters.name_constraints = Some(NameConstraints {
        permitted_subtrees: hosts.iter().map(|host| GeneralSubtree::DnsName(host.as_ref().to_ascii_lowercase())).collect(),
        excluded_subtrees: vec![
            GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix([0; 4], 0)),
            GeneralSubtree::IpAddress(CidrSubnet::from_v6_prefix([0; 16], 0)),
        ],
    });
    let certificate = parameters.self_signed(&key).map_err(TlsError::Mint)?;
    Ok(format!("{}{}", certificate.pem(), key.serialize_pem()))
}

impl CertificateAuthority {
    /// Parses a CA from PEM: certificate with chain, and key as PKCS #8, PKCS #1 or SEC 1. Errors contain no part of the key.
    pub(crate) fn read(certificates: &[u8], key: &[u8]) -> Result<Self, String> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificates).collect();
        let chain = chain.map_err(|_| "the certificates are not PEM".to_owned())?;
        let first = chain.first().ok_or("it contains no certificate")?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| "it contains no private key".to_owned())?;
        let key = KeyPair::try_from(&key).map_err(|_| "the private key has an unsupported type".to_owned())?;
        let (_, parsed) = X509Certificate::from_der(first).map_err(|_| "the certificate cannot be parsed".to_owned())?;
        if !parsed.is_ca() {
            return Err("the certificate is not a CA certificate".to_owned());
        }
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err("the private key does not match the certificate".to_owned());
        }
        let not_after = Timestamp::from_second(parsed.validity().not_after.timestamp());
        let not_after = not_after.map_err(|_| "the certificate's end date is out of range".to_owned())?;
        let issuer = Issuer::from_ca_cert_der(first, key).map_err(|_| "the certificate cannot be parsed".to_owned())?;
        Ok(Self { issuer, chain, not_after })
    }

    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.chain[0]
    }

    /// Issues a certificate with chain for exactly `host`. It is valid from 24 hours before `now` until [`LEAF_LIFE`] after it.
    ///
    /// # Errors
    /// Returns an error if the system's random number generator fails.
    pub fn issue(&self, host: &DnsName<'_>, key: &LeafKey, now: Timestamp) -> Result<CertifiedKey, TlsError> {
        let mut parameters = CertificateParams::default();
        parameters.serial_number = Some(serial()?);
        parameters.distinguished_name = DistinguishedName::new();
        parameters.distinguished_name.push(DnType::OrganizationName, "Coldframe gateway");
        let name = host.as_ref().to_ascii_lowercase();
        parameters.subject_alt_names = vec![SanType::DnsName(name.try_into().map_err(TlsError::Mint)?)];
        let life = LEAF_LIFE.min(Duration::try_from(self.not_after.duration_since(now)).unwrap_or_default());
        set_validity(&mut parameters, now, life);
        parameters.is_ca = IsCa::ExplicitNoCa;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        parameters.use_authority_key_identifier_extension = true;
        let leaf = parameters.signed_by(&key.pair, &self.issuer).map_err(TlsError::Mint)?;
        let chain = std::iter::once(CertificateDer::from(leaf)).chain(self.chain.iter().cloned()).collect();
        Ok(CertifiedKey::new(chain, Arc::clone(&key.signing)))
    }

    /// Checks whether clients that trust this CA accept its certificates for `host`, by a client's verifier and a real leaf.
    pub(crate) fn permits(&self, host: &DnsName<'_>, key: &LeafKey, now: Timestamp) -> bool {
        let mut roots = RootCertStore::empty();
        let (Ok(leaf), Ok(())) = (self.issue(host, key, now), roots.add(self.certificate().clone())) else { return false };
        let Ok(client) = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build() else { return false };
        let at = UnixTime::since_unix_epoch(since_epoch(now));
        let name = ServerName::DnsName(host.to_owned());
        leaf.end_entity_cert().is_ok_and(|end| client.verify_server_cert(end, &[], &name, &[], at).is_ok())
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("CertificateAuthority").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// Checks whether a certificate is named like a CA of a Coldframe gateway, on this machine or another.
pub(crate) fn is_coldframe_ca(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return false };
    let names = parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    parsed.is_ca() && names.into_iter().any(|name| name.starts_with(NAME))
}

pub fn pem(certificate: &CertificateDer<'_>) -> String {
    // 48 bytes are a line of 64 characters.
    let lines: String = certificate.chunks(48).map(|bytes| STANDARD.encode(bytes) + "\n").collect();
    format!("-----BEGIN CERTIFICATE-----\n{lines}-----END CERTIFICATE-----\n")
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Generates a serial number, 126 of its 127 bits random. Clients may confuse certificates of one issuer with equal numbers.
fn serial() -> Result<SerialNumber, TlsError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| TlsError::Mint(rcgen::Error::RingUnspecified))?;
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// Makes a certificate valid from [`BACKDATE`] before `now` until `life` after it.
fn set_validity(parameters: &mut CertificateParams, now: Timestamp, life: Duration) {
    let (epoch, now) = (rcgen::date_time_ymd(1970, 1, 1), since_epoch(now));
    parameters.not_before = epoch + now.saturating_sub(BACKDATE);
    parameters.not_after = epoch + now.saturating_add(life);
}

fn since_epoch(now: Timestamp) -> Duration {
    Duration::from_secs(u64::try_from(now.as_second()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &'static str) -> DnsName<'static> {
        DnsName::try_from(text).unwrap()
    }

    fn noon() -> Timestamp {
        "2026-04-03T12:00:00Z".parse().unwrap()
    }

    fn authority(hosts: &[DnsName<'_>]) -> CertificateAuthority {
        let pem = generate(hosts, noon()).unwrap();
        CertificateAuthority::read(pem.as_bytes(), pem.as_bytes()).unwrap()
    }

    #[test]
    fn ca_permits_only_its_hosts() {
        let authority = authority(&[name("registry.example"), name("Alias.example")]);
        let key = LeafKey::generate().unwrap();
        for (host, expected) in [
            ("registry.example", true),
            ("REGISTRY.example", true),
            ("alias.example", true),
            ("example", false),
            ("evil-registry.example", false),
            ("registry.example.evil", false),
            ("other.example", false),
            ("localhost", false),
        ] {
            assert_eq!(authority.permits(&name(host), &key, noon()), expected, "{host}");
        }
    }

    #[test]
    fn ca_certificate_has_critical_name_constraints() {
        let authority = authority(&[name("registry.example")]);
        let (_, parsed) = X509Certificate::from_der(authority.certificate()).unwrap();
        let constraints = parsed.name_constraints().unwrap().unwrap();
        assert!(constraints.critical);
        assert_eq!(constraints.value.permitted_subtrees.as_ref().unwrap().len(), 1);
        assert_eq!(constraints.value.excluded_subtrees.as_ref().unwrap().len(), 2);
        let basic = parsed.basic_constraints().unwrap().unwrap();
        assert!(basic.critical && basic.value.ca && basic.value.path_len_constraint == Some(0));
        assert!(parsed.key_usage().unwrap().unwrap().value.key_cert_sign());
    }

    #[test]
    fn leaf_names_one_host_and_has_short_life_and_unique_serial() {
        let authority = authority(&[name("registry.example")]);
        let key = LeafKey::generate().unwrap();
        let mint = || authority.issue(&name("registry.example"), &key, noon()).unwrap();
        let (first, second) = (mint(), mint());
        let (_, first) = X509Certificate::from_der(&first.cert[0]).unwrap();
        let (_, second) = X509Certificate::from_der(&second.cert[0]).unwrap();
        assert_ne!(first.raw_serial(), second.raw_serial());
        assert_eq!(first.validity().not_after.timestamp() - noon().as_second(), 48 * 3600);
        let names = first.subject_alternative_name().unwrap().unwrap();
        assert_eq!(format!("{:?}", names.value.general_names), "[DNSName(\"registry.example\")]");
        assert!(!first.is_ca());
    }

    #[test]
    fn unusable_ca_is_explained_without_its_key() {
        let pem = generate(&[name("registry.example")], noon()).unwrap();
        let other = generate(&[name("registry.example")], noon()).unwrap();
        let read = |certificate: &str, key: &str| CertificateAuthority::read(certificate.as_bytes(), key.as_bytes()).unwrap_err();
        assert_eq!(read("", &pem), "it contains no certificate");
        assert_eq!(read(&pem, ""), "it contains no private key");
        assert_eq!(read(&pem, &other), "the private key does not match the certificate");
        let key = LeafKey::generate().unwrap();
        let leaf = authority(&[name("registry.example")]).issue(&name("registry.example"), &key, noon()).unwrap();
        let leaf_pem = super::pem(&leaf.cert[0]);
        assert_eq!(read(&leaf_pem, &key.pair.serialize_pem()), "the certificate is not a CA certificate");
        assert!(!format!("{:?}", authority(&[name("a.example")])).contains("key"));
    }
}
