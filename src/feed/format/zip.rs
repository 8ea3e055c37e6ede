//! Reads and writes zip archives of records in the layout of OSV's `npm/all.zip`, entry by entry.

use std::fs::File;
use std::io::{BufWriter, Read as _, Write as _};
use std::path::Path;

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use rawzip::{CompressionMethod, RECOMMENDED_BUFFER_SIZE, ZipArchive, ZipArchiveWriter};

use crate::feed::error::FeedError;
use crate::feed::import::{MAX_DOCUMENT_BYTES, RecordImporter};
use crate::feed::osv;

/// Maximum total size of all unpacked entries, in bytes: ten times the size of OSV's archive.
const MAX_TOTAL_BYTES: u64 = 8 << 30;

/// Checks whether a file with this beginning is a zip archive. The second form is an empty archive.
pub(crate) fn is_zip(beginning: &[u8]) -> bool {
    beginning.starts_with(b"PK\x03\x04") || beginning.starts_with(b"PK\x05\x06")
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
            CompressionMethod::DEFLATE => {
                let unpacked = entry.verifying_reader(DeflateDecoder::new(entry.reader()));
                unpacked.take(MAX_DOCUMENT_BYTES + 1).read_to_end(&mut document)
            }
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

/// Writes an archive of files in the given order. Reproducible: no times are stored.
pub(crate) fn write_zip<'a>(path: &Path, files: impl Iterator<Item = (&'a str, &'a [u8])>) -> Result<(), FeedError> {
    let broken = |error: rawzip::Error| FeedError::broken(path.display().to_string(), error);
    let written = FeedError::file("write", path);
    let file = File::create(path).map_err(FeedError::file("create", path))?;
    let mut archive = ZipArchiveWriter::new(BufWriter::new(file));
    for (name, bytes) in files {
        let (mut entry, config) =
            archive.new_file(name).compression_method(CompressionMethod::DEFLATE).start().map_err(broken)?;
        let mut writer = config.wrap(DeflateEncoder::new(&mut entry, Compression::default()));
        writer.write_all(bytes).map_err(FeedError::file("write", path))?;
        let (encoder, descriptor) = writer.finish().map_err(broken)?;
        encoder.finish().map_err(FeedError::file("write", path))?;
        entry.finish(descriptor).map_err(broken)?;
    }
    let mut file = archive.finish().map_err(broken)?;
    file.flush().and_then(|()| file.get_ref().sync_all()).map_err(written)
}
