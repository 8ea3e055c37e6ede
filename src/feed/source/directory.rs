//! Records in a directory, and files of any of the formats. Refuses to leave the directory: links are not followed.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::feed::FeedError;
use crate::feed::format::plain_list;
use crate::feed::format::zip;
use crate::feed::import::{LARGEST, RecordImporter};
use crate::npm::{Algorithm, Digest};

/// Folders within folders: OSV's source repository has four.
const DEEPEST: usize = 8;

/// The most files of one directory.
const MOST: usize = 3_000_000;

/// The largest list, in bytes: it is in memory while it is read.
const LARGEST_LIST: u64 = 128 << 20;

/// Records whose file begins so are not assigned yet, and OSV does not read them either.
const UNASSIGNED: &str = "MAL-0000";

/// Where an archive lies in a directory that holds one: as OSV's bucket and as osv-scanner lay it out.
const ARCHIVES: [&str; 2] = ["all.zip", "npm/all.zip"];

/// What `path` names, with what tells whether it changed.
pub(crate) struct DirectoryFiles {
    files: Vec<PathBuf>,
    /// What was asked for.
    pub(crate) root: PathBuf,
    /// Differs when a file came, went or changed.
    pub(crate) stamp: String,
}

/// Looks at what there is without reading it.
pub(crate) fn look(path: &Path) -> Result<DirectoryFiles, FeedError> {
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
        // A pipe would be waited for without an end, and the feed would look fresh meanwhile.
        return Err(FeedError::broken(path.display().to_string(), "not a regular file"));
    }
    files.sort();
    let mut known = Vec::new();
    for file in &files {
        // One that went meanwhile is told when it is read.
        let Ok(metadata) = fs::metadata(file) else { continue };
        let modified = metadata.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok()).unwrap_or_default();
        known.extend_from_slice(file.as_os_str().as_encoded_bytes());
        known.extend_from_slice(&modified.as_nanos().to_le_bytes());
        known.extend_from_slice(&metadata.len().to_le_bytes());
    }
    Ok(DirectoryFiles { files, root: path.to_owned(), stamp: Digest::of(Algorithm::Sha256, &known).to_hex() })
}

/// Takes everything that was found.
pub(crate) fn take(harvest: &mut RecordImporter, feed: &str, found: &DirectoryFiles) -> Result<(), FeedError> {
    if let [file] = &*found.files
        && *file == found.root
    {
        return take_file(harvest, feed, file);
    }
    let mut document = Vec::new();
    for path in &found.files {
        if path.extension().is_some_and(|extension| extension == "zip") {
            zip::take(harvest, path)?;
            continue;
        }
        let inside = path.strip_prefix(&found.root).unwrap_or(path).to_string_lossy().replace('\\', "/");
        document.clear();
        let file = File::open(path).map_err(FeedError::file("read", path))?;
        file.take(LARGEST + 1).read_to_end(&mut document).map_err(FeedError::file("read", path))?;
        if document.len() as u64 > LARGEST {
            return Err(FeedError::TooLarge { what: format!("`{inside}`").into(), limit: LARGEST });
        }
        harvest.document(&inside, &document, zip::is_withdrawn(&inside))?;
    }
    Ok(())
}

/// Takes a file, whatever of the formats it is: told by how it begins, not by its name.
pub(crate) fn take_file(harvest: &mut RecordImporter, feed: &str, path: &Path) -> Result<(), FeedError> {
    let name = path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
    let mut file = File::open(path).map_err(FeedError::file("read", path))?;
    let mut beginning = Vec::new();
    (&mut file).take(4).read_to_end(&mut beginning).map_err(FeedError::file("read", path))?;
    if zip::is_zip(&beginning) {
        return zip::take(harvest, path);
    }
    // One that says that it is too large is not read at all, whatever it has.
    let length = file.metadata().map_err(FeedError::file("read", path))?.len();
    if length > LARGEST_LIST {
        return Err(FeedError::TooLarge { what: name.into(), limit: LARGEST_LIST });
    }
    let mut bytes = beginning;
    bytes.reserve_exact(usize::try_from(length).unwrap_or(0));
    file.take(LARGEST_LIST + 1).read_to_end(&mut bytes).map_err(FeedError::file("read", path))?;
    if bytes.len() as u64 > LARGEST_LIST {
        return Err(FeedError::TooLarge { what: name.into(), limit: LARGEST_LIST });
    }
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    match text.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'[') => plain_list::take_json(harvest, feed, &name, text),
        Some(b'{') => harvest.document(&name, text, false),
        Some(b'<') => Err(FeedError::broken(name, "it is a page, not a feed")),
        _ => plain_list::take_lines(harvest, feed, &name, text),
    }
}

/// Whether a file is called as records are.
pub(crate) fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json")
}

fn walk(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), FeedError> {
    for entry in fs::read_dir(folder).map_err(FeedError::file("list", folder))? {
        let entry = entry.map_err(FeedError::file("list", folder))?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        let kind = entry.file_type().map_err(FeedError::file("look at", &path))?;
        if name.starts_with('.') || name.starts_with(UNASSIGNED) {
            continue;
        }
        if kind.is_dir() && depth < DEEPEST {
            walk(&path, depth + 1, files)?;
        } else if kind.is_file() && is_json(&path) {
            files.push(path);
        }
        if files.len() > MOST {
            return Err(FeedError::broken(folder.display().to_string(), format!("more than {MOST} files")));
        }
    }
    Ok(())
}
