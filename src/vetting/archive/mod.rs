//! Reads an npm tarball as extractors do, and reports where two of them could read it differently. Writes no file.
//!
//! npm and yarn 2 and later use node-tar, pnpm and yarn 1 their own readers, bun libarchive. They agree on plain archives, which
//! is what `npm pack` writes. What is written otherwise may have been written to show one content here and another one there.

mod gzip;
mod header;
mod paths;
mod pax;

use std::io::{self, Read};

use aws_lc_rs::digest;

use crate::text;
use crate::vetting::archive::gzip::GzipReader;
use crate::vetting::archive::header::{BLOCK, EntryKind, Header};
use crate::vetting::archive::paths::{PathFlaw, PathTable};
use crate::vetting::archive::pax::PaxAttributes;
use crate::vetting::names::{Finding, FindingEvidence};

/// The longest pax header or GNU long name, in bytes: node-tar's limit.
const MAX_META_BYTES: u64 = 1 << 20;

/// An archive that unpacks to more than this multiple is a bomb, from [`MIN_BOMB_BYTES`] on. Text packs to a tenth.
const BOMB_RATIO: u64 = 200;
const MIN_BOMB_BYTES: u64 = 64 << 20;

/// The bytes of a file that are unpacked at once. They stay in the processor's cache until they are hashed.
const CHUNK: usize = 64 << 10;

/// Flaws kept per archive. One is enough for a finding.
const MAX_FLAWS: usize = 16;

/// The longest path printed in a flaw, in characters.
const MAX_PRINTED_PATH: usize = 120;

/// The memory of [`ArchiveLimits::default`], in bytes.
const DEFAULT_MEMORY: u64 = 100_000_000;

/// How much of an archive is read.
#[derive(Debug, Clone, Copy)]
pub struct ArchiveLimits {
    /// The most bytes that an archive may unpack to.
    pub unpacked_bytes: u64,
    /// The most files and folders.
    pub entries: usize,
    /// The bytes of one file that are kept in memory while it is read.
    pub file_bytes: usize,
    /// The bytes of all paths together.
    pub path_bytes: usize,
    /// The names of files, in the code of a package, that are kept to find out what it loads.
    pub names: usize,
    /// Whether the SHA-1 of each file is computed besides its SHA-256.
    pub has_sha1: bool,
}

impl Default for ArchiveLimits {
    fn default() -> Self {
        Self::of_memory(DEFAULT_MEMORY)
    }
}

impl ArchiveLimits {
    /// Returns limits with which opening an archive takes at most this many bytes of memory.
    pub fn of_memory(bytes: u64) -> Self {
        let share = |of_default: u64| {
            let scaled = u128::from(of_default) * u128::from(bytes) / u128::from(DEFAULT_MEMORY);
            usize::try_from(scaled).unwrap_or(usize::MAX)
        };
        // Per file: 112 bytes of facts, twice 50 bytes in tables of paths, and room to grow. Per name: about 200 bytes.
        Self {
            unpacked_bytes: 1 << 30,
            entries: share(100_000),
            file_bytes: share(16 << 20),
            path_bytes: share(16 << 20),
            names: share(50_000),
            has_sha1: false,
        }
    }
}

/// One file of an archive.
#[derive(Debug, Clone, Copy)]
pub struct ArchiveFile<'a> {
    /// The path below the package's folder.
    pub path: &'a str,
    /// The first bytes of the content, up to [`ArchiveLimits::file_bytes`].
    pub content: &'a [u8],
    pub length: u64,
    /// SHA-256 of the whole content.
    pub digest: [u8; 32],
    /// SHA-1 of the whole content, if it was asked for.
    pub sha1: Option<[u8; 20]>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct ArchiveReport {
    /// Why it is not plain.
    pub flaws: Vec<FindingEvidence>,
    pub files: usize,
    pub unpacked_bytes: u64,
}

/// Reads all files of an archive in order. Stops where the rest cannot be read or would exceed a limit, which is a flaw.
pub fn read(tarball: &[u8], limits: ArchiveLimits, take: &mut dyn FnMut(ArchiveFile<'_>)) -> ArchiveReport {
    let ratio_limit = (tarball.len() as u64).saturating_mul(BOMB_RATIO).max(MIN_BOMB_BYTES);
    let Some(input) = GzipReader::new(tarball, limits.unpacked_bytes.min(ratio_limit)) else {
        let flaws = vec![FindingEvidence { finding: Finding::Unreadable, detail: "it is not a gzip file".to_owned() }];
        return ArchiveReport { flaws, ..ArchiveReport::default() };
    };
    let mut walk = ArchiveWalk {
        input,
        limits,
        report: ArchiveReport::default(),
        paths: PathTable::default(),
        root: None,
        next: NextEntry::default(),
        content: Vec::new(),
    };
    if let Err(stop) = walk.run(take) {
        walk.note_stop(stop);
    }
    walk.report.unpacked_bytes = walk.input.unpacked;
    walk.report
}

/// Why reading ended before the end of the archive.
enum ReadError {
    /// The input failed, ended early, or unpacked to too much.
    Input(io::Error),
    Flaw(Finding, String),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Input(error)
    }
}

/// What headers before an entry say of it.
#[derive(Default)]
struct NextEntry {
    attributes: PaxAttributes,
    long_name: Option<Vec<u8>>,
}

struct ArchiveWalk<'a> {
    input: GzipReader<'a>,
    limits: ArchiveLimits,
    report: ArchiveReport,
    paths: PathTable,
    /// The first folder. Extractors drop the first part of each path, whatever it is.
    root: Option<String>,
    next: NextEntry,
    /// A buffer for the content of a file. It keeps its length from one file to the next.
    content: Vec<u8>,
}

impl ArchiveWalk<'_> {
    fn run(&mut self, take: &mut dyn FnMut(ArchiveFile<'_>)) -> Result<(), ReadError> {
        let mut after_zeros = false;
        let mut block = [0; BLOCK];
        while self.fill(&mut block)? {
            let header = Header(&block);
            if header.is_zero() {
                if after_zeros {
                    return self.read_end();
                }
                after_zeros = true;
                continue;
            }
            if after_zeros {
                // pnpm stops at the first block of zeros, node-tar at the second.
                self.ambiguous("an entry after a block of zeros");
                after_zeros = false;
            }
            self.read_entry(&header, take)?;
        }
        if !after_zeros {
            // pnpm refuses it.
            self.ambiguous("no end of the archive");
        }
        self.note_gzip();
        Ok(())
    }

    /// Reads one entry and its padding.
    fn read_entry(&mut self, header: &Header<'_>, take: &mut dyn FnMut(ArchiveFile<'_>)) -> Result<(), ReadError> {
        let unreadable = |what: &str| ReadError::Flaw(Finding::Unreadable, what.to_owned());
        if !header.has_valid_checksum() {
            return Err(unreadable("a header with a wrong checksum"));
        }
        let size = header.size().ok_or_else(|| unreadable("a size that is not octal"))?;
        let kind = header.kind();
        if !header.has_known_format() {
            self.ambiguous("a header in an unknown format");
        }
        if !header.has_numbers() {
            self.ambiguous("a mode, owner or time that is not a number");
        }
        if header.name().is_empty() {
            // pnpm takes it for the end of the archive.
            self.ambiguous("a header without a name");
        }
        if matches!(kind, EntryKind::Pax | EntryKind::GlobalPax | EntryKind::GnuLongName) {
            return self.read_meta(kind, size);
        }
        let NextEntry { attributes, long_name } = std::mem::take(&mut self.next);
        if attributes.size.is_some_and(|stated| stated != size.to_string().into_bytes()) {
            return Err(ReadError::Flaw(Finding::AmbiguousArchive, "two sizes of one entry".to_owned()));
        }
        let path = match attributes.path.or(long_name) {
            Some(path) => path,
            None => header.path().unwrap_or_else(|| {
                self.ambiguous("a path prefix that is not in the standard format");
                header.name().to_vec()
            }),
        };
        let target = attributes.link_target.unwrap_or_else(|| header.link_target().to_vec());
        match kind {
            EntryKind::File if path.ends_with(b"/") => self.add_directory(&path, size)?,
            EntryKind::File => return self.read_file(&path, size, take),
            EntryKind::Directory => self.add_directory(&path, size)?,
            EntryKind::Link => self.note_link(&path, &target),
            EntryKind::Device => self.note(Finding::UnsafeArchive, &format!("a device or pipe: {}", printed(&path))),
            EntryKind::Other(letter) => {
                self.ambiguous(&format!("an entry of type {}: {}", letter.escape_ascii(), printed(&path)));
            }
            EntryKind::Pax | EntryKind::GlobalPax | EntryKind::GnuLongName => {}
        }
        self.skip(size.next_multiple_of(BLOCK as u64))
    }

    /// Reads an entry that describes the one after it.
    fn read_meta(&mut self, kind: EntryKind, size: u64) -> Result<(), ReadError> {
        if size > MAX_META_BYTES {
            return Err(ReadError::Flaw(Finding::AmbiguousArchive, "a header of more than 1 MiB".to_owned()));
        }
        if self.next.long_name.is_some() || self.next.attributes != PaxAttributes::default() {
            // npm applies both headers to the entry, pnpm applies the first one to the second.
            self.ambiguous("two headers of one entry");
        }
        let mut data = vec![0; usize::try_from(size).unwrap_or_default()];
        self.input.read_exact(&mut data)?;
        self.skip(size.next_multiple_of(BLOCK as u64) - size)?;
        if kind == EntryKind::GnuLongName {
            // npm pack writes long names as pax attributes. pnpm does not read this form.
            self.ambiguous("a long name in GNU format");
            self.next.long_name = data.split(|byte| *byte == 0).next().map(<[u8]>::to_vec);
            return Ok(());
        }
        let attributes = pax::parse(&data).map_err(|what| ReadError::Flaw(Finding::AmbiguousArchive, what.to_owned()))?;
        if kind == EntryKind::Pax {
            self.next.attributes = attributes;
        } else if attributes != PaxAttributes::default() {
            self.ambiguous("a path or size for all further entries");
        }
        Ok(())
    }

    fn read_file(&mut self, path: &[u8], size: u64, take: &mut dyn FnMut(ArchiveFile<'_>)) -> Result<(), ReadError> {
        let mut kept = 0;
        let mut context = digest::Context::new(&digest::SHA256);
        let mut sha1 = self.limits.has_sha1.then(|| digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY));
        let mut left = size;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK);
            // The buffer grows with what was read, whatever size the header states. Bytes that are not kept are overwritten.
            if self.content.len() < kept + wanted {
                self.content.resize(kept + wanted, 0);
            }
            let chunk = &mut self.content[kept..kept + wanted];
            self.input.read_exact(chunk)?;
            context.update(chunk);
            if let Some(sha1) = &mut sha1 {
                sha1.update(chunk);
            }
            kept = (kept + wanted).min(self.limits.file_bytes);
            left -= wanted as u64;
        }
        self.skip(size.next_multiple_of(BLOCK as u64) - size)?;
        let digest: [u8; 32] = context.finish().as_ref().try_into().unwrap_or_default();
        let Some(inner) = self.split(path) else { return Ok(()) };
        if inner.is_empty() {
            self.ambiguous(&format!("a file outside the package's folder: {}", printed(path)));
            return Ok(());
        }
        let content = digest.first_chunk().copied().unwrap_or_default();
        if let Err(what) = self.paths.add_file(&inner, content) {
            self.ambiguous(&format!("{} {what}", printed(path)));
        }
        self.check_count()?;
        self.report.files += 1;
        let sha1 = sha1.and_then(|sha1| sha1.finish().as_ref().try_into().ok());
        take(ArchiveFile { path: &inner, content: &self.content[..kept], length: size, digest, sha1 });
        Ok(())
    }

    fn add_directory(&mut self, path: &[u8], size: u64) -> Result<(), ReadError> {
        if size != 0 {
            return Err(ReadError::Flaw(Finding::AmbiguousArchive, format!("a folder with content: {}", printed(path))));
        }
        let Some(inner) = self.split(path) else { return Ok(()) };
        if let Err(what) = self.paths.add_directory(&inner) {
            self.ambiguous(&format!("{} {what}", printed(path)));
        }
        self.check_count()
    }

    /// Returns the path below the package's folder. Returns `None` for a path that is a flaw.
    fn split(&mut self, path: &[u8]) -> Option<String> {
        match paths::split(path) {
            Ok((root, inner)) => {
                match &self.root {
                    None => self.root = Some(root.to_owned()),
                    Some(first) if first == root => {}
                    Some(_) => self.ambiguous(&format!("a second top folder: {}", printed(path))),
                }
                Some(inner)
            }
            Err(PathFlaw::Leaves) => {
                self.note(Finding::UnsafeArchive, &format!("a path that leaves the package: {}", printed(path)));
                None
            }
            Err(PathFlaw::Ambiguous(what)) => {
                self.ambiguous(&format!("{what}: {}", printed(path)));
                None
            }
        }
    }

    /// npm leaves out links, other clients may create them.
    fn note_link(&mut self, path: &[u8], target: &[u8]) {
        let text = format!("a link: {} to {}", printed(path), printed(target));
        let folder = path.iter().rposition(|byte| *byte == b'/').map_or(&[][..], |at| &path[..at]);
        let is_inside = paths::split(target).is_ok() || stays_inside(folder, target);
        self.note(if is_inside { Finding::AmbiguousArchive } else { Finding::UnsafeArchive }, &text);
    }

    fn check_count(&self) -> Result<(), ReadError> {
        if self.paths.len() <= self.limits.entries {
            return Ok(());
        }
        Err(ReadError::Flaw(Finding::ArchiveBomb, format!("more than {} files and folders", self.limits.entries)))
    }

    /// Reads what follows the end of the archive, which is at most padding.
    fn read_end(&mut self) -> Result<(), ReadError> {
        let mut chunk = [0; 8 * 1024];
        loop {
            let count = self.input.read(&mut chunk)?;
            if count == 0 {
                break;
            }
            if chunk[..count].iter().any(|byte| *byte != 0) {
                self.ambiguous("data after the end of the archive");
                break;
            }
        }
        self.note_gzip();
        Ok(())
    }

    fn note_gzip(&mut self) {
        if self.input.members > 1 {
            // bun reads the first member only.
            self.ambiguous(&format!("{} gzip members", self.input.members));
        }
        let trailing = self.input.trailing();
        if trailing > 0 {
            self.ambiguous(&format!("{trailing} bytes after the gzip data"));
        }
    }

    /// Fills a block. Returns whether there was one.
    fn fill(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, ReadError> {
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut block[filled..])? {
                0 if filled == 0 => return Ok(false),
                0 if block[..filled].iter().all(|byte| *byte == 0) => return Ok(false),
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                count => filled += count,
            }
        }
        Ok(true)
    }

    fn skip(&mut self, bytes: u64) -> Result<(), ReadError> {
        let copied = io::copy(&mut self.input.by_ref().take(bytes), &mut io::sink())?;
        if copied < bytes { Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()) } else { Ok(()) }
    }

    fn ambiguous(&mut self, detail: &str) {
        self.note(Finding::AmbiguousArchive, detail);
    }

    fn note(&mut self, finding: Finding, detail: &str) {
        if self.report.flaws.len() < MAX_FLAWS || self.report.flaws.iter().all(|flaw| flaw.finding != finding) {
            self.report.flaws.push(FindingEvidence { finding, detail: detail.to_owned() });
        }
    }

    fn note_stop(&mut self, stop: ReadError) {
        match stop {
            ReadError::Flaw(finding, detail) => self.note(finding, &detail),
            ReadError::Input(_) if self.input.is_over_limit() => {
                self.note(Finding::ArchiveBomb, &format!("it unpacks to more than {} MiB", self.input.limit >> 20));
            }
            ReadError::Input(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.note(Finding::Unreadable, "it ends within an entry");
            }
            ReadError::Input(_) => self.note(Finding::Unreadable, "its gzip data is damaged"),
        }
    }
}

/// Checks whether a relative link from `folder` stays below the first part of its path.
fn stays_inside(folder: &[u8], target: &[u8]) -> bool {
    let (Ok(folder), Ok(target)) = (std::str::from_utf8(folder), std::str::from_utf8(target)) else { return false };
    if target.starts_with(['/', '\\']) || target.contains(['\\', ':']) {
        return false;
    }
    let mut depth = folder.split('/').filter(|part| !part.is_empty() && *part != ".").count();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." if depth <= 1 => return false,
            ".." => depth -= 1,
            _ => depth += 1,
        }
    }
    true
}

fn printed(path: &[u8]) -> String {
    let path: String = String::from_utf8_lossy(path).chars().take(MAX_PRINTED_PATH).collect();
    text::single_line(&path).into_owned()
}

#[cfg(test)]
mod tests;
