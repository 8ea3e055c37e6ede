//! Verifies provenance: Sigstore bundles in which a build states what it built from. No network; the authorities, logs and keys that
//! are trusted are bundled or come from a file. Pure, except that the library compares log times with the system clock.
//!
//! Repository and workflow come from the certificate, which the authority fills in. The statement is written by the build.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sigstore_trust_root::{SIGSTORE_PRODUCTION_TRUSTED_ROOT, TrustedRoot};
use sigstore_verify::crypto::CertificateInfo;
use sigstore_verify::types::bundle::VerificationMaterialContent;
use sigstore_verify::types::{ArtifactDigest, Bundle, HashAlgorithm, SignatureContent, Statement};
use sigstore_verify::{CertificateError, SubjectAltName, TransparencyLogError, VerificationPolicy, Verifier};

use crate::npm::{Algorithm, Digest, PackageName};
use crate::text;
use crate::vetting::signatures::TrustSource;

/// Changes with what [`verify`] concludes, so that stored results of an older build are made again.
pub const PROVENANCE_VERSION: u32 = 1;

/// The largest document of attestations, in bytes. Two attestations of a version take about 15 kB.
pub const MAX_DOCUMENT_BYTES: usize = 1 << 20;

/// The largest file of trusted authorities, in bytes. Sigstore's own is 7 kB.
pub const MAX_ROOT_BYTES: usize = 1 << 20;

/// The largest bundle, in bytes.
const MAX_BUNDLE_BYTES: usize = 256 << 10;

/// The most attestations of a version. The registry has two: of the publish and of the build.
const MAX_ATTESTATIONS: usize = 8;

/// The most certificates, log entries, timestamps and subjects of a bundle. npm writes one of each, older clients a chain of two.
const MAX_PARTS: usize = 4;

/// The most hashes of an inclusion proof: those of a log with 2^64 entries.
const MAX_PROOF_HASHES: usize = 64;

/// The longest text that is taken from a certificate or an error, in characters.
const MAX_TEXT_CHARS: usize = 200;

/// What the type of a provenance statement begins with.
const PROVENANCE_TYPE: &str = "https://slsa.dev/provenance/";

/// The issuers whose certificates say which repository and workflow ran: those that npm accepts.
const KNOWN_ISSUERS: [&str; 2] = ["https://token.actions.githubusercontent.com", "https://gitlab.com"];

/// The authorities, logs and timestamp authorities that are trusted.
pub struct TrustRoot {
    verifier: Verifier,
    /// The text that it was read from, to compare two.
    digest: Digest,
    pub source: TrustSource,
}

/// Why authorities cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    #[error("larger than {MAX_ROOT_BYTES} bytes")]
    TooLarge,
    #[error("not UTF-8")]
    Encoding,
    #[error("not a trusted root of Sigstore: {0}")]
    Invalid(String),
}

/// What a release was built from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildSource {
    /// Who vouches for the build.
    pub issuer: Box<str>,
    /// The address of the repository.
    pub repository: Box<str>,
    /// The path of the workflow in it.
    pub workflow: Box<str>,
    /// The commit, if the certificate names one.
    pub commit: Option<Box<str>>,
}

/// What the attestations of a version show. Texts are one line and short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "kebab-case")]
pub enum ProvenanceStatus {
    /// Built from there, and logged.
    Valid { source: BuildSource },
    /// A trusted authority or log contradicts it, or it is for something else.
    False { why: Box<str> },
    /// It cannot be decided here: an authority, a log or a format that is not known, or no attestation where one was announced.
    NotObservable { why: Box<str> },
}

impl ProvenanceStatus {
    /// Checks whether newer authorities would show the same.
    #[must_use]
    pub fn is_decided(&self) -> bool {
        !matches!(self, Self::NotObservable { .. })
    }
}

/// The version that attestations must be for.
#[derive(Debug, Clone, Copy)]
pub struct AttestedRelease<'a> {
    pub name: &'a PackageName,
    pub version: &'a str,
    /// The SHA-512 that the packument states, which the tarball must match.
    pub sha512: &'a Digest,
}

/// A response of the registry's attestations endpoint.
#[derive(Deserialize)]
struct AttestationsDocument<'a> {
    #[serde(borrow)]
    attestations: Vec<AttestationMember<'a>>,
}

#[derive(Deserialize)]
struct AttestationMember<'a> {
    #[serde(rename = "predicateType", default)]
    predicate_type: String,
    #[serde(borrow)]
    bundle: &'a RawValue,
}

impl TrustRoot {
    /// Returns the authorities in this program: those of Sigstore's public instance when it was built.
    ///
    /// # Errors
    /// Returns an error if they cannot be read, which a test rules out.
    pub fn bundled() -> Result<Self, RootError> {
        Self::parse(SIGSTORE_PRODUCTION_TRUSTED_ROOT.as_bytes(), TrustSource::Bundled)
    }

    /// Reads a trusted root (`trusted_root.json`).
    ///
    /// # Errors
    /// Returns an error if any part of it is not usable.
    pub fn parse(document: &[u8], source: TrustSource) -> Result<Self, RootError> {
        if document.len() > MAX_ROOT_BYTES {
            return Err(RootError::TooLarge);
        }
        let text = std::str::from_utf8(document).map_err(|_| RootError::Encoding)?;
        let invalid = |error: &dyn fmt::Display| RootError::Invalid(shorten(&error.to_string()).into());
        let root = TrustedRoot::from_json(text).map_err(|error| invalid(&error))?;
        let verifier = Verifier::new(&root).map_err(|error| invalid(&error))?;
        Ok(Self { verifier, digest: Digest::of(Algorithm::Sha256, document), source })
    }
}

impl PartialEq for TrustRoot {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest && self.source == other.source
    }
}

impl fmt::Debug for TrustRoot {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("TrustRoot").field("digest", &self.digest).finish_non_exhaustive()
    }
}

impl BuildSource {
    /// Formats as `github.com/axios/axios, .github/workflows/publish.yml`.
    pub(crate) fn describe(&self) -> String {
        format!("{}, {}", self.repository.trim_start_matches("https://"), self.workflow)
    }

    /// Checks whether both were built by the same workflow file of the same repository.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.is_same_repository(other) && self.workflow == other.workflow
    }

    /// Repositories have no case on both hosts.
    pub(crate) fn is_same_repository(&self, other: &Self) -> bool {
        self.issuer == other.issuer && self.repository.eq_ignore_ascii_case(&other.repository)
    }
}

impl ProvenanceStatus {
    fn not_observable(why: &str) -> Self {
        Self::NotObservable { why: shorten(why) }
    }

    fn contradiction(why: &str) -> Self {
        Self::False { why: shorten(why) }
    }

    pub(crate) fn source(&self) -> Option<&BuildSource> {
        if let Self::Valid { source } = self { Some(source) } else { None }
    }

    /// Returns a word for JSON and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Valid { .. } => "valid",
            Self::False { .. } => "false",
            Self::NotObservable { .. } => "not-observable",
        }
    }

    /// Describes it in one line.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Valid { source } => format!("built from {}", source.describe()),
            Self::False { why } => format!("false: {why}"),
            Self::NotObservable { why } => format!("not observable: {why}"),
        }
    }

    pub(crate) fn json(&self) -> Value {
        let source = self.source();
        json!({
            "status": self.as_str(),
            "detail": self.describe(),
            "issuer": source.map(|source| &source.issuer),
            "repository": source.map(|source| &source.repository),
            "workflow": source.map(|source| &source.workflow),
            "commit": source.and_then(|source| source.commit.as_ref()),
        })
    }
}

/// Verifies the attestations of a version, as the registry's endpoint returns them. Every provenance among them must be right.
pub fn verify(root: &TrustRoot, release: AttestedRelease<'_>, document: &[u8]) -> ProvenanceStatus {
    if document.len() > MAX_DOCUMENT_BYTES {
        return ProvenanceStatus::not_observable("the attestations are too large");
    }
    let Ok(AttestationsDocument { attestations }) = serde_json::from_slice(document) else {
        return ProvenanceStatus::not_observable("upstream sends no list of attestations");
    };
    if attestations.len() > MAX_ATTESTATIONS {
        return ProvenanceStatus::not_observable("too many attestations");
    }
    let mut found = ProvenanceStatus::not_observable("there is no provenance among the attestations");
    for AttestationMember { predicate_type, bundle } in attestations {
        if !predicate_type.starts_with(PROVENANCE_TYPE) {
            continue;
        }
        let status = verify_bundle(root, release, &predicate_type, bundle.get());
        match (&found, &status) {
            (_, ProvenanceStatus::False { .. }) => return status,
            (ProvenanceStatus::Valid { source }, ProvenanceStatus::Valid { source: other }) if !source.is_same(other) => {
                return ProvenanceStatus::contradiction("its attestations name different sources");
            }
            (ProvenanceStatus::Valid { .. }, _) => {}
            _ => found = status,
        }
    }
    found
}

fn verify_bundle(root: &TrustRoot, release: AttestedRelease<'_>, predicate_type: &str, bundle: &str) -> ProvenanceStatus {
    if bundle.len() > MAX_BUNDLE_BYTES {
        return ProvenanceStatus::not_observable("the bundle is too large");
    }
    let bundle = match Bundle::from_json(bundle) {
        Ok(bundle) => bundle,
        Err(error) => return ProvenanceStatus::not_observable(&format!("the bundle cannot be read: {error}")),
    };
    if let Some(what) = excess(&bundle) {
        return ProvenanceStatus::not_observable(&format!("the bundle has too many {what}"));
    }
    let Ok(artifact) = ArtifactDigest::new(HashAlgorithm::Sha2512, release.sha512.as_bytes().to_vec()) else {
        return ProvenanceStatus::not_observable("upstream states no SHA-512 of the tarball");
    };
    let verified = match root.verifier.verify(artifact, &bundle, &VerificationPolicy::any_identity()) {
        Ok(verified) => verified,
        Err(error) => return of_error(&error),
    };
    if let Err(why) = check_statement(&bundle, release, predicate_type) {
        return ProvenanceStatus::contradiction(&why);
    }
    match verified.certificate() {
        Some(certificate) => source_of(certificate),
        None => ProvenanceStatus::not_observable("it is signed by a key, not by a build"),
    }
}

/// Returns which part of a bundle exceeds its limit.
fn excess(bundle: &Bundle) -> Option<&'static str> {
    let material = &bundle.verification_material;
    let certificates = match &material.content {
        VerificationMaterialContent::X509CertificateChain { certificates } => certificates.len(),
        _ => 1,
    };
    let is_long = |entry: &sigstore_verify::types::TransparencyLogEntry| {
        entry.inclusion_proof.as_ref().is_some_and(|proof| proof.hashes.len() > MAX_PROOF_HASHES)
    };
    [
        (certificates > MAX_PARTS, "certificates"),
        (material.tlog_entries.len() > MAX_PARTS, "log entries"),
        (material.timestamp_verification_data.rfc3161_timestamps.len() > MAX_PARTS, "timestamps"),
        (material.tlog_entries.iter().any(is_long), "hashes in a proof"),
    ]
    .into_iter()
    .find(|(is_over, _)| *is_over)
    .map(|(_, what)| what)
}

/// Converts an error of the library. What an unknown authority, log or format says is not decided: ours may be older.
fn of_error(error: &sigstore_verify::Error) -> ProvenanceStatus {
    use sigstore_verify::Error;

    let is_contradiction = match error {
        Error::SignatureInvalid(_) | Error::ArtifactMismatch(_) => true,
        // The check of the chain comes first, and says in words that the certificate was not valid at that time.
        Error::Certificate(CertificateError::ChainInvalid(why)) => why.contains("CertExpired") || why.contains("CertNotValidYet"),
        Error::Certificate(error) => matches!(error, CertificateError::Expired { .. } | CertificateError::NotYetValid { .. }),
        Error::TransparencyLog(error) => match error {
            TransparencyLogError::InclusionProof(_)
            | TransparencyLogError::EntryMismatch(_)
            | TransparencyLogError::IntegratedTime(_) => true,
            // The library says in words whether it knows the key of the log.
            TransparencyLogError::InclusionPromise(why) => !why.contains("No log key"),
            TransparencyLogError::Checkpoint(why) => !why.contains("No matching"),
            _ => false,
        },
        _ => false,
    };
    let why = error.to_string();
    if is_contradiction { ProvenanceStatus::contradiction(&why) } else { ProvenanceStatus::not_observable(&why) }
}

/// Checks that one subject of the statement is this version with these bytes. The library compares digests only.
fn check_statement(bundle: &Bundle, release: AttestedRelease<'_>, predicate_type: &str) -> Result<(), String> {
    let SignatureContent::DsseEnvelope(envelope) = &bundle.content else {
        return Err("it is not a statement".to_owned());
    };
    let statement: Statement = serde_json::from_slice(envelope.payload.as_bytes())
        .map_err(|error| format!("its statement cannot be read: {}", text::json_error(&error)))?;
    if !["https://in-toto.io/Statement/v0.1", "https://in-toto.io/Statement/v1"].contains(&&*statement.type_) {
        return Err(format!("it is another kind of statement: {}", statement.type_));
    }
    if statement.predicate_type != predicate_type {
        return Err(format!("its statement is of another type: {}", statement.predicate_type));
    }
    let subjects = &statement.subject;
    if subjects.len() > MAX_PARTS {
        return Err("its statement has too many subjects".to_owned());
    }
    let expected = format!("pkg:npm/{}@{}", release.name.as_str().replace('@', "%40"), release.version);
    let Some(subject) = subjects.iter().find(|subject| subject.name == expected) else {
        let named = subjects.first().map_or("nothing", |subject| &subject.name);
        return Err(format!("it is for {named}, not for {expected}"));
    };
    let is_same = subject.digest.sha512.as_ref().is_some_and(|digest| digest.as_bytes()[..] == *release.sha512.as_bytes());
    if is_same { Ok(()) } else { Err(format!("its digest of {expected} is not that of the packument")) }
}

/// Returns the source that a certificate names.
fn source_of(certificate: &CertificateInfo) -> ProvenanceStatus {
    let (claims, issuer) = (&certificate.ci_claims, certificate.issuer.as_deref().unwrap_or_default());
    if !KNOWN_ISSUERS.contains(&issuer) {
        let issuer = if issuer.is_empty() { "nothing" } else { issuer };
        return ProvenanceStatus::not_observable(&format!("its certificate is for an identity of {issuer}"));
    }
    let Some(SubjectAltName::Uri(identity)) = &certificate.identity else {
        return ProvenanceStatus::contradiction("its certificate is not for a workflow");
    };
    // Certificates before 2023 have the older claim alone, which both hosts' names precede.
    let named = claims.source_repository_uri.clone();
    let older = || Some(format!("https://github.com/{}", claims.deprecated_github.workflow_repository.as_ref()?));
    let Some(repository) = named.or_else(older) else {
        return ProvenanceStatus::contradiction("its certificate names no repository");
    };
    // A reusable workflow of another repository is the identity; the configuration is in the repository itself.
    let config = claims.build_config_uri.as_ref().unwrap_or(identity);
    let config = config.split('@').next().unwrap_or_default();
    let workflow = config.strip_prefix(&repository).map_or(config, |path| path.trim_start_matches('/'));
    ProvenanceStatus::Valid {
        source: BuildSource {
            issuer: shorten(issuer),
            repository: shorten(&repository),
            workflow: shorten(workflow),
            commit: claims.source_repository_digest.as_deref().map(shorten),
        },
    }
}

/// Returns text from outside as one short line.
fn shorten(text: &str) -> Box<str> {
    text::single_line(text).chars().take(MAX_TEXT_CHARS).collect::<String>().into()
}
