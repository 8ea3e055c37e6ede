//! Writes zip archives of records in the layout of OSV's `npm/all.zip`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use rawzip::{CompressionMethod, ZipArchiveWriter};

use crate::feed::error::FeedError;

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
