//! A trusted root and a response of the attestations endpoint, separated by a zero byte: nothing is believed for more than one
//! release, and what is printed is short and one line.

use coldframe::npm::{Algorithm, Digest, PackageName};
use coldframe::vetting::provenance::{AttestedRelease, ProvenanceStatus, TrustRoot, verify};
use coldframe::vetting::signatures::TrustSource;

/// Panics if attestations show more than they may.
pub fn holds(input: &[u8]) {
    let mut halves = input.splitn(2, |byte| *byte == 0);
    let mut next = || halves.next().unwrap_or_default();
    let (root, attestations) = (next(), next());
    let root = match TrustRoot::parse(root, TrustSource::File) {
        Ok(root) => root,
        Err(error) => {
            assert_printable(&error.to_string());
            let Ok(bundled) = TrustRoot::bundled() else { panic!("the bundled root is not usable") };
            bundled
        }
    };
    let (Ok(name), Ok(other)) = (PackageName::parse("demo"), PackageName::parse("@acme/demo")) else { return };
    let (sha512, different) = (Digest::of(Algorithm::Sha512, b"demo"), Digest::of(Algorithm::Sha512, b"other"));
    let statuses =
        [(&name, "1.0.0", &sha512), (&name, "1.0.1", &sha512), (&other, "1.0.0", &sha512), (&name, "1.0.0", &different)]
            .map(|(name, version, sha512)| verify(&root, AttestedRelease { name, version, sha512 }, attestations));
    let valid = statuses.iter().filter(|status| matches!(status, ProvenanceStatus::Valid { .. })).count();
    assert!(valid <= 1, "{statuses:?}");
    for status in &statuses {
        match status {
            ProvenanceStatus::Valid { source } => {
                for text in [&source.issuer, &source.repository, &source.workflow] {
                    assert_printable(text);
                }
            }
            ProvenanceStatus::False { why } | ProvenanceStatus::NotObservable { why } => assert_printable(why),
        }
    }
}

fn assert_printable(text: &str) {
    assert!(text.len() <= 1_000 && !text.chars().any(char::is_control), "{text}");
}
