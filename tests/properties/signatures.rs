//! A file of keys and a `dist.signatures`, separated by a zero byte: nothing is believed for more than one release, all texts are
//! short, and what is unusable is said to be.

use coldframe::npm::packument::parse;
use coldframe::npm::{Algorithm, Digest, PackageName};
use coldframe::vetting::signatures::{KeyRing, SignatureStatus, SignedRelease, TrustSource};

/// Panics if keys or signatures show more than they may.
pub fn holds(input: &[u8]) {
    let mut halves = input.splitn(2, |byte| *byte == 0);
    let mut next = || halves.next().unwrap_or_default();
    let (keys, signatures) = (next(), next());
    let ring = match KeyRing::parse(keys, TrustSource::File) {
        Ok(ring) => ring,
        Err(error) => {
            let error = error.to_string();
            assert!(error.len() < 1_000 && !error.chars().any(char::is_control), "{error}");
            KeyRing::bundled()
        }
    };
    assert!((1..=64).contains(&ring.len()) && ring == ring.clone());
    let Ok(signatures) = std::str::from_utf8(signatures) else { return };
    let document = format!(
        r#"{{"name":"demo","versions":{{
            "1.0.0":{{"name":"demo","version":"1.0.0","dist":{{"tarball":"x","signatures":{signatures}}}}},
            "1.0.1":{{"name":"demo","version":"1.0.1","dist":{{"tarball":"x","signatures":[]}}}}}}}}"#
    );
    let Ok(name) = PackageName::parse("demo") else { return };
    let Ok(parsed) = parse::parse(&name, document.as_bytes()) else { return };
    let Some((at, _)) = parsed.packument.find("1.0.0") else { return };
    let stated: Vec<_> = parsed.packument.signatures.of(at).collect();
    assert!(stated.len() <= 4 && stated.iter().all(|one| one.key_id.len() <= 128 && one.signature.len() <= 72));
    let verify = |version: &str, bytes: &[u8]| {
        let integrity = Digest::of(Algorithm::Sha512, bytes);
        let release = SignedRelease { name: &name, version, integrity: &integrity, published: None };
        ring.verify(release, stated.iter().copied())
    };
    let statuses = [verify("1.0.0", b"demo"), verify("1.0.0", b"other"), verify("1.0.1", b"demo")];
    let valid = statuses.iter().filter(|status| matches!(status, SignatureStatus::Valid { .. })).count();
    assert!(valid <= 1, "{statuses:?}");
    for status in &statuses {
        let shown = status.key_id().unwrap_or_default();
        assert!(shown.len() <= 256 && !shown.chars().any(char::is_control), "{status:?}");
        assert_eq!(stated.is_empty(), *status == SignatureStatus::Unsigned, "{status:?}");
    }
}
