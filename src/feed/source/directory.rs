//! Imports directories of records and files of any supported format. Symbolic links inside a directory are not followed.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::feed::error::FeedError;
use crate::feed::format::{plain_list, zip};
use crate::feed::import::{MAX_DOCUMENT_BYTES, RecordImporter};
use crate::feed::osv;
use crate::npm::{Algorithm, Digest};

/// Maximum directory depth. OSV's source repository needs four.
const MAX_DEPTH: usize = 8;

const MAX_FILES: usize = 3_000_000;

/// Maximum size of a list, in bytes. Lists are read into memory.
const MAX_LIST_BYTES: u64 = 128 << 20;

/// Prefix of records without an assigned id. OSV skips them too.
const UNASSIGNED: &str = "MAL-0000";

/// Paths of an archive in a directory, in the layouts of OSV's bucket and osv-scanner.
const ARCHIVES: [&str; 2] = ["all.zip", "npm/all.zip"];

/// The files at a path, with a fingerprint for change detection.
pub(crate) struct DirectoryFiles {
    files: Vec<PathBuf>,
    pub(crate) root: PathBuf,
    /// Fingerprint of names, sizes and modification times.
    pub(crate) stamp: String,
}

/// Lists the files at `path` without reading them.
pub(crate) fn scan(path: &Path) -> Result<DirectoryFiles, FeedError> {
    let metadata = fs::metadata(path).map_err(FeedError::file("read", path))?;
    let mut files = Vec::new();
    if metadata.is_dir() {
        match ARCHIVES.iter().map(|name| path.join(name)).find(|path| path.is_file()) {
            Some(archive) => files.push(archive),
            None => walk(path, 0, &mut files)?,
        }
    } else if metadata.is_file() {
        files.push(path.to_owned());
    } else {
        // Reading a pipe could block forever, and the feed would look fresh during that time.
        return Err(FeedError::broken(path.display().to_string(), "not a regular file"));
    }
    files.sort();
    let mut known = Vec::new();
    for file in &files {
        // A file that disappears here fails later, when it is read.
        let Ok(metadata) = fs::metadata(file) else { continue };
        let modified = metadata.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok()).unwrap_or_default();
        known.extend_from_slice(file.as_os_str().as_encoded_bytes());
        known.extend_from_slice(&modified.as_nanos().to_le_bytes());
        known.extend_from_slice(&metadata.len().to_le_bytes());
    }
    Ok(DirectoryFiles { files, root: path.to_owned(), stamp: Digest::of(Algorithm::Sha256, &known).to_hex() })
}

pub(crate) fn import_all(importer: &mut RecordImporter, feed: &str, found: &DirectoryFiles) -> Result<(), FeedError> {
    if let [file] = &*found.files
        && *file == found.root
    {
        return import_file(importer, feed, file);
    }
    let mut document = Vec::new();
    for path in &found.files {
        if path.extension().is_some_and(|extension| extension == "zip") {
            zip::import_zip(importer, path)?;
            continue;
        }
        let inside = path.strip_prefix(&found.root).unwrap_or(path).to_string_lossy().replace('\\', "/");
        document.clear();
        let file = File::open(path).map_err(FeedError::file("read", path))?;
        file.take(MAX_DOCUMENT_BYTES + 1).read_to_end(&mut document).map_err(FeedError::file("read", path))?;
        if document.len() as u64 > MAX_DOCUMENT_BYTES {
            return Err(FeedError::TooLarge { what: format!("`{inside}`").into(), limit: MAX_DOCUMENT_BYTES });
        }
        importer.add_document(&inside, &document)?;
    }
    Ok(())
}

/// Imports one file. The format is detected from the content, not from the name.
pub(crate) fn import_file(importer: &mut RecordImporter, feed: &str, path: &Path) -> Result<(), FeedError> {
    let name = path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
    let mut file = File::open(path).map_err(FeedError::file("read", path))?;
    let mut beginning = Vec::new();
    (&mut file).take(4).read_to_end(&mut beginning).map_err(FeedError::file("read", path))?;
    if zip::is_zip(&beginning) {
        return zip::import_zip(importer, path);
    }
    // Reject by the reported size before reading.
    let length = file.metadata().map_err(FeedError::file("read", path))?.len();
    if length > MAX_LIST_BYTES {
        return Err(FeedError::TooLarge { what: name.into(), limit: MAX_LIST_BYTES });
    }
    let mut bytes = beginning;
    bytes.reserve_exact(usize::try_from(length).unwrap_or(0));
    file.take(MAX_LIST_BYTES + 1).read_to_end(&mut bytes).map_err(FeedError::file("read", path))?;
    if bytes.len() as u64 > MAX_LIST_BYTES {
        return Err(FeedError::TooLarge { what: name.into(), limit: MAX_LIST_BYTES });
    }
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    match text.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'[') => plain_list::import_safe_chain(importer, feed, &name, text),
        Some(b'{') => importer.add_document(&name, text),
        Some(b'<') => Err(FeedError::broken(name, "it is an HTML page, not a feed")),
        _ => plain_list::import_lines(importer, feed, &name, text),
    }
}

fn walk(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), FeedError> {
    for entry in fs::read_dir(folder).map_err(FeedError::file("list", folder))? {
        let entry = entry.map_err(FeedError::file("list", folder))?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        let kind = entry.file_type().map_err(FeedError::file("inspect", &path))?;
        if name.starts_with('.') || name.starts_with(UNASSIGNED) {
            continue;
        }
        if kind.is_dir() && depth < MAX_DEPTH {
            walk(&path, depth + 1, files)?;
        } else if kind.is_file() && osv::is_json(&path) {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            return Err(FeedError::broken(folder.display().to_string(), format!("more than {MAX_FILES} files")));
        }
    }
    Ok(())
}
