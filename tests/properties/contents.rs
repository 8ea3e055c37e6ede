//! What a tarball's files hold: reading ends, a tarball compared with itself shows nothing, and its summary survives the ledger.
//!
//! An input is the content of a script that runs at install, of a file that it names, and of a summary.

use coldframe::vetting::archive::ArchiveLimits;
use coldframe::vetting::contents::ContentSummary;
use coldframe::vetting::inspect::{Inspection, inspect};

use crate::tar;

const MANIFEST: &str = r#"{"name":"a","version":"1.0.0","scripts":{"install":"node x & sh y"},"exports":{"./*":"./*.js"}}"#;

/// Panics if a comparison is not deterministic, shows a difference from itself, or prints what is not printable.
pub fn holds(input: &[u8]) {
    let half = input.len() / 2;
    let tarball =
        tarball(&[("package.json", MANIFEST.as_bytes()), ("x.js", input), ("y", &input[..half]), ("z.txt", &input[half..])]);
    let limits = ArchiveLimits { unpacked_bytes: 4 << 20, entries: 50, file_bytes: 1 << 20, ..ArchiveLimits::default() };
    let (mut alone, mut same): (Inspection, Inspection) = (inspect(&tarball, limits), inspect(&tarball, limits));
    let summary = same.summary().expect("the manifest is readable");
    assert_eq!(ContentSummary::from_bytes(&summary.to_bytes()).as_ref(), Some(&summary));
    alone.compare_contents(None);
    assert!(alone.evidence.len() <= 16, "{:?}", alone.evidence);
    for evidence in &alone.evidence {
        assert!(!evidence.detail.chars().any(char::is_control) && evidence.detail.len() < 2_500, "{:?}", evidence.detail);
    }
    same.compare_contents(Some(("1.0.0", &summary)));
    assert_eq!(same.evidence, []);
    if let Some(foreign) = ContentSummary::from_bytes(input) {
        assert_eq!(ContentSummary::from_bytes(&foreign.to_bytes()), Some(foreign));
    }
}

fn tarball(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    for (path, content) in files {
        tar::append(&mut out, &format!("package/{path}"), content);
    }
    tar::end(&mut out);
    out.finish().unwrap_or_default()
}
