//! Reads lockfiles given to commands, up to a size limit.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;

use crate::npm::Lockfile;
use crate::npm::lockfile::{self, LockfileError, MAX_LOCKFILE_BYTES};

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
