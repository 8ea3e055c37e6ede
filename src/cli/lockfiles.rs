//! Lockfiles as commands read them. Refuses to look for them.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;

use crate::npm::Lockfile;
use crate::npm::lockfile::{LONGEST, LockfileError};

/// Reads the lockfile at `path`, whose name says what it is; no more of it than a lockfile may have.
pub(crate) fn read(path: &Path) -> anyhow::Result<Lockfile> {
    read_bytes(path).with_context(|| format!("cannot read `{}`", path.display()))
}

fn read_bytes(path: &Path) -> anyhow::Result<Lockfile> {
    let file = File::open(path)?;
    if file.metadata()?.len() > LONGEST as u64 {
        return Err(LockfileError::TooLong.into());
    }
    // A pipe has no length: it is read to the first byte that is too many.
    let mut bytes = Vec::new();
    file.take(LONGEST as u64 + 1).read_to_end(&mut bytes)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(Lockfile::read(&name, &bytes)?)
}
