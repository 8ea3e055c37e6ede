//! Why a lockfile cannot be read.

/// The longest accepted lockfile in bytes. A monorepo of 10,000 packages has about 8 MB.
pub const MAX_LOCKFILE_BYTES: usize = 64 << 20;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LockfileError {
    #[error(
        "unknown lockfile name; supported are package-lock.json, npm-shrinkwrap.json, pnpm-lock.yaml, yarn.lock, bun.lock and deno.lock"
    )]
    Name,
    /// bun's old binary format.
    #[error("bun's binary lockfile is not supported; run `bun install --save-text-lockfile` to convert it")]
    Binary,
    #[error("longer than {} MiB", MAX_LOCKFILE_BYTES >> 20)]
    TooLong,
    #[error("not UTF-8 at byte {0}")]
    Encoding(usize),
    #[error("line {line}: {detail}")]
    Syntax {
        /// The line, from 1.
        line: u32,
        detail: String,
    },
    #[error("unsupported `{member}`: {found}; supported are {supported}")]
    Version {
        member: &'static str,
        /// Its value, or `missing`.
        found: String,
        supported: &'static str,
    },
}

impl LockfileError {
    pub(crate) fn at(line: u32, detail: impl Into<String>) -> Self {
        Self::Syntax { line, detail: detail.into() }
    }
}
