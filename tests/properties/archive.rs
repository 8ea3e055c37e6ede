//! The archive inside a tarball: reading ends, its paths stay in the package, and an archive without flaws is read as pnpm reads it.
//!
//! An input is a tar file. Checksums are repaired, since a wrong one only ends the reading.

use std::collections::BTreeMap;
use std::io::Write as _;

use coldframe::vetting::archive::{ArchiveLimits, read};
use coldframe::vetting::inspect::inspect;

const BLOCK: usize = 512;

type Files = BTreeMap<String, Vec<u8>>;

/// Panics if a path leaves the package, a text is not printable, or pnpm would read other files from an archive without flaws.
pub fn holds(input: &[u8]) {
    let tar = repaired(input);
    let tarball = gzip(&tar);
    let limits =
        ArchiveLimits { unpacked_bytes: 1 << 20, entries: 200, file_bytes: 64 << 10, has_sha1: true, ..ArchiveLimits::default() };
    let mut files = Files::new();
    let report = read(&tarball, limits, &mut |file| {
        assert!(
            file.path.len() <= 1_024 && !file.path.contains('\\') && !file.path.chars().any(char::is_control),
            "{:?}",
            file.path
        );
        assert!(file.path.split('/').all(|part| !matches!(part, "" | "." | "..")), "{:?}", file.path);
        files.insert(file.path.to_owned(), file.content.to_vec());
    });
    let inspection = inspect(&tarball, limits);
    assert_eq!(inspection, inspect(&tarball, limits));
    assert!(inspection.evidence.len() <= 32 && report.flaws.len() <= inspection.evidence.len());
    for evidence in &inspection.evidence {
        assert!(!evidence.detail.chars().any(char::is_control) && evidence.detail.len() < 2_000, "{:?}", evidence.detail);
    }
    if report.flaws.is_empty() {
        assert_eq!(files, as_pnpm(&tar).expect("pnpm reads an archive without flaws"));
    }
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    // Writing to memory cannot fail.
    let _ = out.write_all(data);
    out.finish().unwrap_or_default()
}

/// Corrects the checksums of the headers that a plain walk finds.
fn repaired(input: &[u8]) -> Vec<u8> {
    let (mut tar, mut at) = (input.to_vec(), 0);
    while let Some(block) = tar.get_mut(at..at + BLOCK) {
        if block.iter().any(|byte| *byte != 0) {
            block[148..156].fill(b' ');
            let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let size = octal(&block[124..136]).unwrap_or_default();
        at = at
            .saturating_add(BLOCK)
            .saturating_add(usize::try_from(size).unwrap_or(usize::MAX).min(1 << 30).next_multiple_of(BLOCK));
    }
    tar
}

/// Reads an archive as pnpm 10 does: it stops at a header that begins with a zero byte, and an attribute applies to the next header
/// of any kind. Returns `None` where it fails.
fn as_pnpm(tar: &[u8]) -> Option<Files> {
    let (mut files, mut at, mut path, mut size): (_, usize, Option<String>, Option<u64>) = (Files::new(), 0, None, None);
    while *tar.get(at)? != 0 {
        let header = tar.get(at..at + BLOCK)?;
        let length = usize::try_from(size.take().or_else(|| octal(&header[124..136]))?).ok()?;
        let content = tar.get(at + BLOCK..at + BLOCK + length)?;
        let name = path.take().unwrap_or_else(|| name_of(header));
        match header[156] {
            0 | b'0' | b'1' => drop(files.insert(name, content.to_vec())),
            b'5' | b'2' => {}
            b'x' | b'g' => {
                let text = String::from_utf8_lossy(content).into_owned();
                for record in text.lines().filter_map(|line| line.split_once(' ')).map(|(_, record)| record) {
                    match record.split_once('=') {
                        Some(("path", value)) => path = Some(value.split_once('/').map_or(value, |(_, rest)| rest).to_owned()),
                        Some(("size", value)) => size = value.parse().ok(),
                        _ => {}
                    }
                }
            }
            b'L' => path = Some(String::from_utf8_lossy(content).split(['\0', '/']).skip(1).collect::<Vec<_>>().join("/")),
            _ => return None,
        }
        at += BLOCK + length.next_multiple_of(BLOCK);
    }
    // A path that ends with `/` is a folder to others; pnpm's file of no name is never written.
    files.retain(|name, _| !name.is_empty() && !name.ends_with('/'));
    Some(files)
}

/// The path without its first part, which may be in the prefix.
fn name_of(header: &[u8]) -> String {
    let text = |field: &[u8]| String::from_utf8_lossy(field.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
    let (name, prefix) = (text(&header[..100]), text(&header[345..500]));
    let whole = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
    whole.split_once('/').map_or(whole.as_str(), |(_, rest)| rest).to_owned()
}

fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}
