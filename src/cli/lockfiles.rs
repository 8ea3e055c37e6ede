//! Finds and reads lockfiles, up to a size limit.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::files;
use crate::npm::Lockfile;
use crate::npm::lockfile::{self, LockfileError, MAX_LOCKFILE_BYTES, NAMES};

/// Reads the lockfile at `path`. The file name determines its format; the size is limited.
pub(crate) fn read(path: &Path) -> anyhow::Result<Lockfile> {
    read_bytes(path).with_context(|| format!("cannot read `{}`", path.display()))
}

fn read_bytes(path: &Path) -> anyhow::Result<Lockfile> {
    let file = File::open(path)?;
    if file.metadata()?.len() > MAX_LOCKFILE_BYTES as u64 {
        return Err(LockfileError::TooLong.into());
    }
    // A pipe has no length, so read one byte past the limit.
    let mut bytes = Vec::new();
    file.take(MAX_LOCKFILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(lockfile::parse(&name, &bytes)?)
}

pub(crate) fn inside(folder: &Path) -> Vec<PathBuf> {
    NAMES.iter().map(|name| folder.join(name)).filter(|path| path.is_file()).collect()
}

/// Reads the lockfiles of the nearest directory upwards that contains any. Returns each with its name, or the error.
pub(crate) fn nearest(folder: &Path) -> impl Iterator<Item = Result<(String, Lockfile), String>> {
    let found = folder.ancestors().map(inside).find(|found| !found.is_empty()).unwrap_or_default();
    found.into_iter().map(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = files::read_bounded(&path, MAX_LOCKFILE_BYTES as u64).map_err(|error| error.to_string());
        let lockfile = bytes.and_then(|bytes| lockfile::parse(&name, &bytes).map_err(|error| error.to_string()));
        lockfile.map(|lockfile| (name, lockfile)).map_err(|error| format!("cannot read `{}`: {error}", path.display()))
    })
}
