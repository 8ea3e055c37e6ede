//! The paths of an archive: whether each stays inside the package, and whether two are one file on some systems.

use std::collections::HashMap;

use crate::npm::{Algorithm, Digest};

/// The longest path in bytes, and the most folders in one. Linux allows 4,096 bytes.
const MAX_PATH_BYTES: usize = 1_024;
const MAX_DEPTH: usize = 64;

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PathFlaw {
    /// It names a place outside the package on some system.
    Leaves,
    /// Extractors change or skip it in different ways.
    Ambiguous(&'static str),
}

/// Splits an archive path into its root folder and the rest, which is what extractors write. The rest is empty for the root.
pub(super) fn split(path: &[u8]) -> Result<(&str, String), PathFlaw> {
    let path = std::str::from_utf8(path).map_err(|_| PathFlaw::Ambiguous("a path that is not UTF-8"))?;
    let has_drive = path.as_bytes().get(1) == Some(&b':') && path.as_bytes()[0].is_ascii_alphabetic();
    if path.starts_with(['/', '\\']) || has_drive || path.split(['/', '\\']).any(|part| part == "..") {
        return Err(PathFlaw::Leaves);
    }
    if path.len() > MAX_PATH_BYTES || path.matches('/').count() > MAX_DEPTH {
        return Err(PathFlaw::Ambiguous("a very long path"));
    }
    if path.contains('\\') || path.chars().any(char::is_control) {
        return Err(PathFlaw::Ambiguous("a path with a backslash or control character"));
    }
    let path = path.strip_suffix('/').unwrap_or(path);
    // npm counts `.` as the top folder, other clients do not.
    if path.split('/').any(|part| part.is_empty() || part == ".") {
        return Err(PathFlaw::Ambiguous("a path with an empty part or `.`"));
    }
    let (root, inner) = path.split_once('/').unwrap_or((path, ""));
    Ok((root, inner.to_owned()))
}

/// What is written at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    Directory,
    /// The digests of the exact path and of the content.
    File([u8; 16], [u8; 16]),
}

/// All paths of an archive, as a system that ignores case sees them.
#[derive(Default)]
pub(super) struct PathTable(HashMap<[u8; 16], Written>);

impl PathTable {
    /// Returns the number of files and folders.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds a file. Fails if another entry is written to the same place with other content.
    pub(super) fn add_file(&mut self, path: &str, content: [u8; 16]) -> Result<(), &'static str> {
        let file = Written::File(short_digest(path.as_bytes()), content);
        self.add_parents(path)?;
        match (self.0.insert(key(path), file), file) {
            (None, _) => Ok(()),
            (Some(Written::Directory), _) => Err("is a file and a folder"),
            (Some(Written::File(_, before)), _) if before == content => Ok(()),
            (Some(Written::File(before, _)), Written::File(now, _)) if before == now => Err("is given twice, with other content"),
            (Some(Written::File(..)), _) => Err("differs from another path only in case"),
        }
    }

    pub(super) fn add_directory(&mut self, path: &str) -> Result<(), &'static str> {
        self.add_parents(path)?;
        if path.is_empty() {
            return Ok(());
        }
        match self.0.insert(key(path), Written::Directory) {
            Some(Written::File(..)) => Err("is a file and a folder"),
            Some(Written::Directory) | None => Ok(()),
        }
    }

    fn add_parents(&mut self, path: &str) -> Result<(), &'static str> {
        for (end, _) in path.rmatch_indices('/') {
            match self.0.insert(key(&path[..end]), Written::Directory) {
                // The folders above it were added with it.
                Some(Written::Directory) => break,
                Some(Written::File(..)) => return Err("is below a path that is a file"),
                None => {}
            }
        }
        Ok(())
    }
}

/// Returns the place of a path on a system that ignores case.
fn key(path: &str) -> [u8; 16] {
    short_digest(path.to_lowercase().as_bytes())
}

pub(super) fn short_digest(bytes: &[u8]) -> [u8; 16] {
    Digest::of(Algorithm::Sha256, bytes).as_bytes().first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lose_their_root() {
        assert_eq!(split(b"package/lib/a.js"), Ok(("package", "lib/a.js".to_owned())));
        assert_eq!(split(b"package/"), Ok(("package", String::new())));
    }

    #[test]
    fn paths_that_leave_the_package_are_refused() {
        for path in ["../a", "package/../../a", "/etc/passwd", "package/..", "C:/a", "c:a", "package\\..\\..\\a", "\\\\host\\a"] {
            assert_eq!(split(path.as_bytes()), Err(PathFlaw::Leaves), "{path}");
        }
        for path in [
            &b"package/\xff"[..],
            b"package/a\\b",
            b"package/a\nb",
            b"",
            b"./",
            b"./package/a",
            b"package//a",
            b"package/./a",
            &[b'a'; 2_000],
            &b"a/".repeat(70),
        ] {
            assert!(matches!(split(path), Err(PathFlaw::Ambiguous(_))), "{}", String::from_utf8_lossy(path));
        }
        assert!(split(b"package/..a/b..c").is_ok());
    }

    #[test]
    fn one_place_with_two_contents_is_an_error() {
        let mut table = PathTable::default();
        assert_eq!(table.add_file("lib/a.js", [1; 16]), Ok(()));
        assert_eq!(table.add_file("lib/a.js", [1; 16]), Ok(()));
        assert!(table.add_file("lib/a.js", [2; 16]).is_err());
        assert!(table.add_file("Lib/A.js", [3; 16]).is_err());
        assert!(table.add_file("lib", [1; 16]).is_err());
        assert!(table.add_directory("LIB/a.JS").is_err());
        let mut table = PathTable::default();
        assert!(table.add_file("a", [1; 16]).is_ok() && table.add_file("a/b/c", [1; 16]).is_err());
        assert!(table.add_directory("x/y").is_ok() && table.add_directory("x").is_ok() && table.add_directory("").is_ok());
    }
}
