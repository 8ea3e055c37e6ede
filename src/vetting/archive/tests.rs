//! Builds archives byte by byte, plain and hostile.

use std::io::Write as _;

use super::*;

/// One entry of a test archive. The checksum is computed last, so that a test may change any byte before.
fn entry(path: &str, kind: u8, content: &[u8]) -> Vec<u8> {
    entry_with(path, kind, content, |_| {})
}

fn entry_with(path: &str, kind: u8, content: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[..path.len()].copy_from_slice(path.as_bytes());
    block[100..108].copy_from_slice(b"000644 \0");
    block[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    change(&mut block);
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block.extend_from_slice(content);
    block.resize(block.len().next_multiple_of(BLOCK), 0);
    block
}

fn pax(kind: u8, records: &[(&str, &str)]) -> Vec<u8> {
    let record = |(key, value): &(&str, &str)| {
        let rest = key.len() + value.len() + 3;
        let digits = (rest + 1).to_string().len().max((rest + 2).to_string().len());
        format!("{} {key}={value}\n", rest + digits)
    };
    entry("PaxHeader/x", kind, records.iter().map(record).collect::<String>().as_bytes())
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// A tarball of these entries, with the end of an archive.
fn tarball(entries: &[Vec<u8>]) -> Vec<u8> {
    gzip(&[entries.concat(), vec![0; 2 * BLOCK]].concat())
}

fn file(path: &str, content: &str) -> Vec<u8> {
    entry(path, b'0', content.as_bytes())
}

fn manifest() -> Vec<u8> {
    file("package/package.json", "{}")
}

/// The paths that are read, and the flaws.
fn opened(tarball: &[u8], limits: ArchiveLimits) -> (Vec<String>, Vec<(Finding, String)>) {
    let mut paths = Vec::new();
    let report = read(tarball, limits, &mut |file| paths.push(file.path.to_owned()));
    (paths, report.flaws.into_iter().map(|flaw| (flaw.finding, flaw.detail)).collect())
}

fn flaws(entries: &[Vec<u8>]) -> Vec<(Finding, String)> {
    opened(&tarball(entries), ArchiveLimits::default()).1
}

#[track_caller]
fn has(entries: &[Vec<u8>], finding: Finding, detail: &str) {
    let found = flaws(entries);
    assert!(found.iter().any(|(kind, text)| *kind == finding && text.contains(detail)), "{detail}: {found:?}");
}

#[test]
fn plain_archive_is_read_without_flaws() {
    let long = format!("package/{}/a.js", "d".repeat(120));
    let entries = [
        entry("package", b'5', b""),
        manifest(),
        pax(b'x', &[("mtime", "1700000000.5"), ("path", &long), ("NODETAR.x", "1")]),
        file("package/short", "long"),
        pax(b'g', &[("comment", "0123456789abcdef")]),
        entry_with("a.js", 0, b"old", |block| block[345..352].copy_from_slice(b"package")),
    ];
    let mut seen = Vec::new();
    let report = read(&tarball(&entries), ArchiveLimits::default(), &mut |file| {
        seen.push((file.path.to_owned(), String::from_utf8_lossy(file.content).into_owned()));
    });
    assert_eq!(report.flaws, []);
    let expected = [("package.json", "{}"), (&long["package/".len()..], "long"), ("a.js", "old")];
    assert_eq!(seen, expected.map(|(path, content)| (path.to_owned(), content.to_owned())));
    assert_eq!(report.files, 3);
}

#[test]
fn content_above_the_limit_is_hashed_but_not_kept() {
    let content = "x".repeat(100_000);
    let limits = ArchiveLimits { file_bytes: 1_000, ..ArchiveLimits::default() };
    let mut seen = None;
    read(&tarball(&[file("package/a", &content)]), limits, &mut |file| {
        seen = Some((file.content.len(), file.length, file.digest));
    });
    let digest = crate::npm::Digest::of(crate::npm::Algorithm::Sha256, content.as_bytes());
    assert_eq!(seen, Some((1_000, 100_000, digest.as_bytes().try_into().unwrap())));
}

#[test]
fn paths_and_links_that_leave_the_package_are_unsafe() {
    for path in ["../evil", "package/../../evil", "/etc/evil", "C:\\evil"] {
        has(&[manifest(), file(path, "x")], Finding::UnsafeArchive, "leaves the package");
    }
    has(&[manifest(), pax(b'x', &[("path", "package/../../evil")]), file("package/a", "x")], Finding::UnsafeArchive, "leaves");
    for target in ["/etc/passwd", "../../x", "../..", "a/../../../x"] {
        let link =
            entry_with("package/lib/a", b'2', b"", |block| block[157..157 + target.len()].copy_from_slice(target.as_bytes()));
        has(&[manifest(), link], Finding::UnsafeArchive, "a link");
    }
    has(
        &[manifest(), entry_with("package/a", b'2', b"", |block| block[157..161].copy_from_slice(b"b.js"))],
        Finding::AmbiguousArchive,
        "a link",
    );
    has(&[manifest(), entry("package/a", b'3', b"")], Finding::UnsafeArchive, "a device");
}

#[test]
fn what_extractors_read_differently_is_ambiguous() {
    let ambiguous = |entries: &[Vec<u8>], detail: &str| has(entries, Finding::AmbiguousArchive, detail);
    ambiguous(&[manifest(), file("package/package.json", "{\"a\":1}")], "given twice");
    ambiguous(&[manifest(), file("package/Package.json", "{\"a\":1}")], "only in case");
    ambiguous(&[manifest(), file("other/package.json", "{\"a\":1}")], "a second top folder");
    ambiguous(&[manifest(), file("other/a.js", "")], "a second top folder");
    ambiguous(&[file("package/a", "x"), file("package/a/b", "x")], "below a path that is a file");
    ambiguous(&[manifest(), file("package.json", "{}")], "outside the package's folder");
    ambiguous(&[manifest(), file("package/a\\b", "")], "backslash");
    ambiguous(&[manifest(), entry("././@LongLink", b'L', b"package/b\0"), file("package/a", "")], "GNU format");
    ambiguous(&[manifest(), pax(b'g', &[("path", "package/b")]), file("package/a", "")], "all further entries");
    ambiguous(&[manifest(), pax(b'x', &[("size", "512")]), file("package/a", "x")], "two sizes");
    ambiguous(&[manifest(), pax(b'x', &[("GNU.sparse.major", "1")]), file("package/a", "x")], "sparse");
    let path = || pax(b'x', &[("path", "package/b")]);
    for second in [path(), pax(b'g', &[("comment", "x")]), entry("././@LongLink", b'L', b"package/c\0")] {
        ambiguous(&[path(), second, file("package/a", "")], "two headers of one entry");
    }
    ambiguous(&[manifest(), path(), file("", "")], "a header without a name");
    ambiguous(&[entry_with("package/a", b'0', b"", |block| block[104] = b'.')], "not a number");
    let unnamed = |block: &mut [u8]| block[257..265].fill(0);
    assert_eq!(flaws(&[entry_with("package/a", b'0', b"", unnamed)]), []);
    ambiguous(&[entry_with("PaxHeader/a", b'x', b"18 path=package/b\n", unnamed), file("package/a", "")], "unknown format");
    ambiguous(&[entry_with("package/a", b'0', b"", |block| block[263] = b'1')], "unknown format");
    ambiguous(&[manifest(), entry("package/a", b'S', b"")], "type S");
    ambiguous(&[manifest(), entry("package/a", b'5', b"content")], "a folder with content");
    let gnu = |block: &mut [u8]| {
        block[257..265].copy_from_slice(b"ustar  \0");
        block[345..350].copy_from_slice(b"other");
    };
    ambiguous(&[entry_with("package/a", b'0', b"", gnu)], "path prefix");
    ambiguous(&[manifest(), vec![0; BLOCK], file("package/a", "")], "after a block of zeros");
    ambiguous(&[manifest(), vec![0; 2 * BLOCK], file("package/a", "")], "after the end");
}

#[test]
fn archive_without_an_end_is_ambiguous() {
    let (paths, found) = opened(&gzip(&manifest()), ArchiveLimits::default());
    assert_eq!((paths.len(), found), (1, vec![(Finding::AmbiguousArchive, "no end of the archive".to_owned())]));
    assert_eq!(opened(&gzip(&[manifest(), vec![0; BLOCK]].concat()), ArchiveLimits::default()).1, []);
}

#[test]
fn gzip_members_and_trailing_bytes_are_ambiguous() {
    let plain = manifest();
    let parts = [gzip(&plain), gzip(&[file("package/a", "x"), vec![0; 2 * BLOCK]].concat())].concat();
    let (paths, found) = opened(&parts, ArchiveLimits::default());
    assert_eq!(paths, ["package.json", "a"]);
    assert_eq!(found, [(Finding::AmbiguousArchive, "2 gzip members".to_owned())]);
    let trailing = [tarball(&[plain]), b"garbage".to_vec()].concat();
    let (_, found) = opened(&trailing, ArchiveLimits::default());
    assert_eq!(found, [(Finding::AmbiguousArchive, "7 bytes after the gzip data".to_owned())]);
}

#[test]
fn damaged_archives_are_unreadable() {
    let whole = tarball(&[manifest(), file("package/a", &"x".repeat(3_000))]);
    let mut changed = entry("package/a", b'0', b"");
    changed[0] = b'q';
    let cases = [
        (b"plain text".to_vec(), "not a gzip file"),
        (Vec::new(), "not a gzip file"),
        (whole[..whole.len() / 2].to_vec(), "it ends within an entry"),
        (gzip(&file("package/a", &"x".repeat(3_000))[..1_500]), "it ends within an entry"),
        (tarball(&[changed]), "wrong checksum"),
        (tarball(&[entry_with("package/a", b'0', b"", |block| block[124] = 0x80)]), "not octal"),
    ];
    for (bytes, detail) in cases {
        let (_, found) = opened(&bytes, ArchiveLimits::default());
        assert!(found.iter().any(|(kind, text)| *kind == Finding::Unreadable && text.contains(detail)), "{detail}: {found:?}");
    }
}

#[test]
fn bombs_are_stopped() {
    let zeros = tarball(&[entry("package/a", b'0', &vec![0; 70 << 20])]);
    let (_, found) = opened(&zeros, ArchiveLimits::default());
    assert_eq!(found, [(Finding::ArchiveBomb, "it unpacks to more than 64 MiB".to_owned())]);
    let limits = ArchiveLimits { unpacked_bytes: 1 << 20, ..ArchiveLimits::default() };
    let big = tarball(&[manifest(), entry("package/a", b'0', &vec![1; 2 << 20])]);
    assert_eq!(opened(&big, limits).1[0].0, Finding::ArchiveBomb);
    let limits = ArchiveLimits { entries: 50, ..ArchiveLimits::default() };
    let folders = pax(b'x', &[("path", &format!("package/{}f", "d/".repeat(60)))]);
    assert_eq!(opened(&tarball(&[folders, file("package/a", "")]), limits).1[0].0, Finding::ArchiveBomb);
}

#[test]
fn flaws_are_bounded_and_printable() {
    let entries: Vec<_> = (0..100).map(|at| file(&format!("package/\u{1b}[2J{at}\n"), "")).collect();
    let found = flaws(&entries);
    assert!(found.len() <= MAX_FLAWS && found.iter().all(|(_, text)| !text.contains(['\u{1b}', '\n'])), "{found:?}");
}
