//! Files that others write and that are read while we run: whole, up to a limit, and again once they have changed.
//!
//! Refuses to wait: a pipe in a file's place would hold whoever reads it for as long as nobody writes, and is empty the next time.

mod poll;

pub use poll::{EVERY, FilePoller, FileStamps};

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

/// What is in the file at `path`: at most `most` bytes.
///
/// # Errors
/// When it cannot be read, is no regular file, or is larger.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    // Before it is opened: that is where a pipe waits.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    read_once(path, most)
}

/// The same where it is read this once, so that a pipe will do: a shell's `<(…)`, say.
///
/// # Errors
/// When it cannot be read, or is larger.
pub fn read_once(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // What it says of its length may be old, and a device has none.
    File::open(path)?.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {most} bytes")));
    }
    Ok(bytes)
}

/// What of a file is text.
///
/// # Errors
/// When some of it is none.
pub fn text(bytes: Vec<u8>) -> io::Result<String> {
    let tell = |wrong: std::string::FromUtf8Error| format!("not UTF-8 at byte {}", wrong.utf8_error().valid_up_to());
    String::from_utf8(bytes).map_err(|wrong| io::Error::new(io::ErrorKind::InvalidData, tell(wrong)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_limit_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "four").unwrap();
        assert_eq!(text(read(&path, 4).unwrap()).unwrap(), "four");
        assert_eq!(read(&path, 3).unwrap_err().to_string(), "larger than 3 bytes");
        assert_eq!(text(vec![b'a', 0xff]).unwrap_err().to_string(), "not UTF-8 at byte 1");
        assert_eq!(read(folder.path(), 4).unwrap_err().to_string(), "not a regular file");
        assert_eq!(read(&folder.path().join("none"), 4).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_device_without_an_end_is_read_no_further() {
        assert_eq!(read(Path::new("/dev/zero"), 4).unwrap_err().to_string(), "not a regular file");
        assert_eq!(read_once(Path::new("/dev/zero"), 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(read_once(Path::new("/dev/null"), 4).unwrap(), b"");
    }
}
