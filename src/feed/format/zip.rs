//! Imports zip archives of records in the layout of OSV's `npm/all.zip`, entry by entry and in memory.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use flate2::read::DeflateDecoder;
use rawzip::{CompressionMethod, RECOMMENDED_BUFFER_SIZE, ZipArchive};

use crate::feed::error::FeedError;
use crate::feed::import::{MAX_DOCUMENT_BYTES, RecordImporter};
use crate::feed::osv;

/// Maximum total size of all unpacked entries, in bytes: ten times the size of OSV's archive.
const MAX_TOTAL_BYTES: u64 = 8 << 30;

/// Magic bytes of a zip file. The second form is an empty archive.
const MAGICS: [&[u8]; 2] = [b"PK\x03\x04", b"PK\x05\x06"];

/// Checks whether a file with this beginning is a zip archive.
pub(crate) fn is_zip(beginning: &[u8]) -> bool {
    MAGICS.iter().any(|magic| beginning.starts_with(magic))
}

pub(crate) fn import_zip(importer: &mut RecordImporter, path: &Path) -> Result<(), FeedError> {
    let name = path.display().to_string();
    let broken = |error: rawzip::Error| FeedError::broken(name.as_str(), error);
    let file = File::open(path).map_err(FeedError::file("read", path))?;
    let mut buffer = vec![0; RECOMMENDED_BUFFER_SIZE];
    let archive = ZipArchive::from_file(file, &mut buffer).map_err(broken)?;
    let mut entries = archive.entries(&mut buffer);
    let (mut document, mut whole, mut seen) = (Vec::new(), 0, 0_u64);
    while let Some(entry) = entries.next_entry().map_err(broken)? {
        seen += 1;
        let inside = String::from_utf8_lossy(entry.file_path().as_ref()).into_owned();
        if entry.is_dir() || !osv::is_json(Path::new(&inside)) {
            continue;
        }
        let method = entry.compression_method();
        let entry = archive.get_entry(entry.wayfinder()).map_err(broken)?;
        document.clear();
        let read = match method {
            CompressionMethod::STORE => {
                entry.verifying_reader(entry.reader()).take(MAX_DOCUMENT_BYTES + 1).read_to_end(&mut document)
            }
            CompressionMethod::DEFLATE => entry
                .verifying_reader(DeflateDecoder::new(entry.reader()))
                .take(MAX_DOCUMENT_BYTES + 1)
                .read_to_end(&mut document),
            _ => return Err(FeedError::broken(name.as_str(), format!("unsupported compression of `{inside}`"))),
        };
        // A broken entry makes the whole archive invalid, since its record would be missing.
        let length = read.map_err(|error| FeedError::broken(format!("{name}, `{inside}`"), error))? as u64;
        whole += length;
        if length > MAX_DOCUMENT_BYTES {
            return Err(FeedError::TooLarge { what: format!("`{inside}`").into(), limit: MAX_DOCUMENT_BYTES });
        }
        if whole > MAX_TOTAL_BYTES {
            return Err(FeedError::TooLarge { what: name.into(), limit: MAX_TOTAL_BYTES });
        }
        importer.add_document(&inside, &document)?;
    }
    if seen != archive.entries_hint() {
        return Err(FeedError::broken(name.as_str(), format!("{seen} entries instead of {}", archive.entries_hint())));
    }
    Ok(())
}
