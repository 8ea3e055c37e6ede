//! What a tarball's files hold: reading ends, a tarball compared with itself shows nothing, and its summary survives the ledger.
//!
//! An input is the content of a script that runs at install, of a file that it names, and of a summary.

use std::io::Write as _;

use coldframe::vetting::archive::ArchiveLimits;
use coldframe::vetting::contents::ContentSummary;
use coldframe::vetting::inspect::{Inspection, inspect};

const MANIFEST: &str = r#"{"name":"a","version":"1.0.0","scripts":{"install":"node x & sh y"},"exports":{"./*":"./*.js"}}"#;

/// Panics if a comparison is not deterministic, shows a difference from itself, or prints what is not printable.
pub fn holds(input: &[u8]) {
    let half = input.len() / 2;
    let tarball =
        tarball(&[("package.json", MANIFEST.as_bytes()), ("x.js", input), ("y", &input[..half]), ("z.txt", &input[half..])]);
    let limits = ArchiveLimits { unpacked_bytes: 4 << 20, entries: 50, file_bytes: 1 << 20 };
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
        let mut header = [0; 512];
        let path = format!("package/{path}");
        header[..path.len()].copy_from_slice(path.as_bytes());
        header[100..108].copy_from_slice(b"0000644\0");
        header[108..116].copy_from_slice(b"0000000\0");
        header[116..124].copy_from_slice(b"0000000\0");
        header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        header[136..148].copy_from_slice(b"00000000000\0");
        header[148..156].fill(b' ');
        header[156] = b'0';
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        // Writing to memory cannot fail.
        let _ = out.write_all(&header);
        let _ = out.write_all(content);
        let _ = out.write_all(&vec![0; content.len().next_multiple_of(512) - content.len()]);
    }
    let _ = out.write_all(&[0; 1024]);
    out.finish().unwrap_or_default()
}
