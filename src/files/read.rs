//! Reads whole files up to a size limit.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

pub fn read_bounded(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    // Before opening it, since opening a pipe blocks.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    read_pipe_bounded(path, most)
}

/// Reads a file that is read only once, so that a pipe is allowed too, such as a shell's `<(…)`.
pub fn read_pipe_bounded(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // The reported length may be outdated, and a device has none.
    File::open(path)?.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {most} bytes")));
    }
    Ok(bytes)
}

/// Creates a folder, and those above it, that only its owner can read.
pub fn create_private_folder(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Converts the bytes of a file, which must be UTF-8, to text.
pub fn into_text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let message = format!("not UTF-8 at byte {}", error.utf8_error().valid_up_to());
        io::Error::new(io::ErrorKind::InvalidData, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_up_to_the_limit_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "four").unwrap();
        assert_eq!(into_text(read_bounded(&path, 4).unwrap()).unwrap(), "four");
        assert_eq!(read_bounded(&path, 3).unwrap_err().to_string(), "larger than 3 bytes");
        assert_eq!(into_text(vec![b'a', 0xff]).unwrap_err().to_string(), "not UTF-8 at byte 1");
        assert_eq!(read_bounded(folder.path(), 4).unwrap_err().to_string(), "not a regular file");
        assert_eq!(read_bounded(&folder.path().join("none"), 4).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn endless_device_is_read_up_to_the_limit() {
        assert_eq!(read_bounded(Path::new("/dev/zero"), 4).unwrap_err().to_string(), "not a regular file");
        assert_eq!(read_pipe_bounded(Path::new("/dev/zero"), 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(read_pipe_bounded(Path::new("/dev/null"), 4).unwrap(), b"");
    }
}
