//! A Sigstore of tests: an authority, a certificate log and a transparency log that issue provenance, and the root that trusts them.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType, SerialNumber,
};
use serde_json::{Value, json};

use crate::package::Package;

/// Fulcio's object identifiers of claims.
const CLAIMS: [u64; 7] = [1, 3, 6, 1, 4, 1, 57264];

const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
pub const PROVENANCE_TYPE: &str = "https://slsa.dev/provenance/v1";

/// What public keys on P-256 begin with, before the point.
const P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03,
    0x01, 0x07, 0x03, 0x42, 0x00,
];

/// A key of a log.
struct LogKey(EcdsaKeyPair);

impl LogKey {
    fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap())
    }

    fn der(&self) -> Vec<u8> {
        [&P256_PREFIX, self.0.public_key().as_ref()].concat()
    }

    fn id(&self) -> Vec<u8> {
        sha256(&[&self.der()])
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
    }

    fn trusted(&self, url: &str) -> Value {
        json!({
            "baseUrl": url,
            "hashAlgorithm": "SHA2_256",
            "publicKey": {
                "rawBytes": STANDARD.encode(self.der()),
                "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                "validFor": { "start": "2020-01-01T00:00:00Z" },
            },
            "logId": { "keyId": STANDARD.encode(self.id()) },
        })
    }
}

/// The authority and the logs.
pub struct Sigstore {
    authority: CertifiedIssuer<'static, rcgen::KeyPair>,
    transparency: LogKey,
    certificates: LogKey,
}

/// What one build states. Tests change a field to make it wrong.
#[derive(Debug, Clone)]
pub struct Build {
    pub issuer: String,
    pub repository: String,
    pub workflow: String,
    pub subject: String,
    /// Hexadecimal digits.
    pub sha512: String,
    pub predicate: String,
    pub statement: String,
    /// When it was logged, in seconds. Certificates are of 2026-01-01.
    pub logged: i64,
}

impl Build {
    /// The honest build of a release.
    pub fn of(package: &Package) -> Self {
        let sri = package.manifest["dist"]["integrity"].as_str().unwrap();
        let sha512 = STANDARD.decode(sri.strip_prefix("sha512-").unwrap()).unwrap();
        Self {
            issuer: "https://token.actions.githubusercontent.com".to_owned(),
            repository: "https://github.com/acme/demo".to_owned(),
            workflow: ".github/workflows/release.yml".to_owned(),
            subject: format!("pkg:npm/{}@{}", package.name.replace('@', "%40"), package.version),
            sha512: hex(&sha512),
            predicate: PROVENANCE_TYPE.to_owned(),
            statement: "https://in-toto.io/Statement/v1".to_owned(),
            logged: 1_767_268_800,
        }
    }

    fn statement(&self) -> String {
        json!({
            "_type": self.statement,
            "subject": [{ "name": self.subject, "digest": { "sha512": self.sha512 } }],
            "predicateType": self.predicate,
            "predicate": { "buildDefinition": { "buildType": "https://actions.example/workflow/v1" } },
        })
        .to_string()
    }
}

impl Sigstore {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "Test authority");
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2040, 1, 1);
        let authority = CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
        Self { authority, transparency: LogKey::new(), certificates: LogKey::new() }
    }

    /// The root that trusts this authority and these logs, as a file.
    pub fn root(&self) -> Value {
        json!({
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [self.transparency.trusted("https://log.example")],
            "certificateAuthorities": [{
                "subject": { "organization": "test", "commonName": "Test authority" },
                "uri": "https://authority.example",
                "certChain": { "certificates": [{ "rawBytes": STANDARD.encode(self.authority.der()) }] },
                "validFor": { "start": "2020-01-01T00:00:00Z" },
            }],
            "ctlogs": [self.certificates.trusted("https://certificates.example")],
            "timestampAuthorities": [],
        })
    }

    /// A response of the registry with the provenance of one build.
    pub fn attestations(&self, build: &Build) -> Value {
        json!({ "attestations": [{ "predicateType": build.predicate, "bundle": self.bundle(build) }] })
    }

    /// Issues a certificate for a build, signs its statement and logs it.
    pub fn bundle(&self, build: &Build) -> Value {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = self.certificate(build, &key);
        let statement = build.statement();
        let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &key.serialize_der()).unwrap();
        let encoded = format!("DSSEv1 {} {PAYLOAD_TYPE} {} {statement}", PAYLOAD_TYPE.len(), statement.len());
        let signature = signer.sign(&SystemRandom::new(), encoded.as_bytes()).unwrap().as_ref().to_vec();
        json!({
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {
                "certificate": { "rawBytes": STANDARD.encode(&certificate) },
                "tlogEntries": [self.log(build, &certificate, &statement, &signature)],
                "timestampVerificationData": { "rfc3161Timestamps": [] },
            },
            "dsseEnvelope": {
                "payload": STANDARD.encode(&statement),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{ "sig": STANDARD.encode(&signature), "keyid": "" }],
            },
        })
    }

    fn certificate(&self, build: &Build, key: &rcgen::KeyPair) -> Vec<u8> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        let config = format!("{}/{}@refs/heads/main", build.repository, build.workflow);
        params.subject_alt_names = vec![SanType::URI(config.as_str().try_into().unwrap())];
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 1, 2);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.serial_number = Some(SerialNumber::from(7_u64));
        let claims = [(8, &build.issuer), (12, &build.repository), (13, &"ab".repeat(20)), (18, &config)];
        for (arc, value) in claims {
            let oid = [&CLAIMS[..], &[1, arc]].concat();
            params.custom_extensions.push(CustomExtension::from_oid_content(&oid, utf8_string(value)));
        }
        // What the certificate log signs lacks the extension that holds its signature.
        let unlogged = params.signed_by(key, &self.authority).unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(unlogged.der()).unwrap();
        let oid = [1, 3, 6, 1, 4, 1, 11129, 2, 4, 2];
        let timestamp = self.timestamp(parsed.tbs_certificate.as_ref());
        params.custom_extensions.push(CustomExtension::from_oid_content(&oid, octet_string(&timestamp)));
        params.signed_by(key, &self.authority).unwrap().der().to_vec()
    }

    /// A list with one signed certificate timestamp (RFC 6962).
    fn timestamp(&self, certificate: &[u8]) -> Vec<u8> {
        let (_, authority) = x509_parser::parse_x509_certificate(self.authority.der()).unwrap();
        let issuer = sha256(&[authority.tbs_certificate.subject_pki.raw]);
        let time = 1_767_225_600_000_u64.to_be_bytes();
        let length = &u32::try_from(certificate.len()).unwrap().to_be_bytes()[1..];
        let signed = [&[0, 0][..], &time, &[0, 1], &issuer, length, certificate, &[0, 0]].concat();
        let signature = with_length(&self.certificates.sign(&signed));
        let sct = [&[0][..], &self.certificates.id(), &time, &[0, 0], &[4, 3], &signature].concat();
        with_length(&with_length(&sct))
    }

    /// Logs a signed statement as the first of two entries.
    fn log(&self, build: &Build, certificate: &[u8], statement: &str, signature: &[u8]) -> Value {
        let verifier =
            format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines(&STANDARD.encode(certificate)));
        let hash = |text: &str| json!({ "algorithm": "sha256", "value": hex(&sha256(&[text.as_bytes()])) });
        let body = json!({ "apiVersion": "0.0.1", "kind": "dsse", "spec": {
            "envelopeHash": hash("envelope"),
            "payloadHash": hash(statement),
            "signatures": [{ "signature": STANDARD.encode(signature), "verifier": STANDARD.encode(verifier) }],
        } })
        .to_string();
        let encoded = STANDARD.encode(&body);
        let id = self.transparency.id();
        // Members in the order of canonical JSON.
        let promise = format!(r#"{{"body":"{encoded}","integratedTime":{},"logID":"{}","logIndex":0}}"#, build.logged, hex(&id));
        let (leaf, other) = (sha256(&[&[0], body.as_bytes()]), sha256(&[b"\0another entry"]));
        let root = sha256(&[&[1], &leaf, &other]);
        let note = format!("log.example - 1\n2\n{}\n", STANDARD.encode(&root));
        let signed = [&id[..4], &self.transparency.sign(note.as_bytes())].concat();
        json!({
            "logIndex": "0",
            "logId": { "keyId": STANDARD.encode(&id) },
            "kindVersion": { "kind": "dsse", "version": "0.0.1" },
            "integratedTime": build.logged.to_string(),
            "inclusionPromise": { "signedEntryTimestamp": STANDARD.encode(self.transparency.sign(promise.as_bytes())) },
            "inclusionProof": {
                "logIndex": "0",
                "rootHash": STANDARD.encode(&root),
                "treeSize": "2",
                "hashes": [STANDARD.encode(&other)],
                "checkpoint": { "envelope": format!("{note}\n\u{2014} log.example {}\n", STANDARD.encode(signed)) },
            },
            "canonicalizedBody": encoded,
        })
    }
}

fn sha256(parts: &[&[u8]]) -> Vec<u8> {
    digest(&SHA256, &parts.concat()).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Breaks base64 as PEM does.
fn lines(encoded: &str) -> String {
    let lines: Vec<_> = encoded.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line)).collect();
    lines.join("\n")
}

/// Adds a length of two bytes.
fn with_length(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

fn octet_string(bytes: &[u8]) -> Vec<u8> {
    der(0x04, bytes)
}

fn utf8_string(text: &str) -> Vec<u8> {
    der(0x0c, text.as_bytes())
}

/// Encodes a value of up to 255 bytes.
fn der(tag: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).unwrap();
    let head = if length < 128 { vec![tag, length] } else { vec![tag, 0x81, length] };
    [&head, bytes].concat()
}
