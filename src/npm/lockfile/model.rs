//! A parsed lockfile: its entries and what requires them, and why a lockfile cannot be read.

use std::sync::Arc;

use crate::npm::lockfile::spec::{EntrySource, address, of_tarball, range};
use crate::npm::name::PackageName;

/// The longest install path, in bytes, from which dependencies are resolved: longer than file systems allow.
pub(crate) const MAX_PATH_BYTES: usize = 4096;

/// Maximum number of steps from a package up to the project.
pub(crate) const MAX_STEPS: usize = 64;

/// The longest accepted lockfile in bytes. A monorepo of 10,000 packages has about 8 MB.
pub const MAX_LOCKFILE_BYTES: usize = 64 << 20;

/// Lockfile names, in the order in which a folder is searched.
pub const NAMES: [&str; 6] = ["package-lock.json", "npm-shrinkwrap.json", "pnpm-lock.yaml", "yarn.lock", "bun.lock", "deno.lock"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lockfile {
    pub dialect: LockfileFormat,
    /// The locked packages in file order, without the project itself.
    pub entries: Vec<LockfileEntry>,
}

/// The format of a lockfile. It determines how the client uses `resolved` and how an override is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LockfileFormat {
    /// `package-lock.json` and `npm-shrinkwrap.json`, versions 1 to 3.
    Npm,
    /// `pnpm-lock.yaml` of pnpm 3 to 8: versions 5 and 6.
    Pnpm6,
    /// `pnpm-lock.yaml` of pnpm 9 and later: version 9.
    Pnpm9,
    /// `yarn.lock` of yarn 1, in its own format.
    YarnClassic,
    /// `yarn.lock` of yarn 2 and later, in YAML.
    YarnBerry,
    Bun,
    /// `deno.lock`, versions 2 to 5.
    Deno,
}

/// One locked package. Several entries can have the same name and version, since npm installs a package in several places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockfileEntry {
    /// The real name, resolved if aliased (`npm:lodash@^4`). Not necessarily a name that npm allows.
    pub name: Box<str>,
    /// The version as written, or its substitute if `source` is not a registry.
    pub version: Box<str>,
    pub source: EntrySource,
    /// The tarball's integrity as SRI; `None` if the lockfile has none for the tarball itself.
    pub integrity: Option<Box<str>>,
    pub resolved: Option<Box<str>>,
    /// The packages that require it, if the lockfile states them.
    pub requested_by: Vec<RequestedBy>,
    /// Its install path, or its key in the lockfile.
    pub place: Box<str>,
    /// The line of the entry, from 1.
    pub line: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedBy {
    /// The requiring package; empty for the project or a workspace.
    pub by: Arc<str>,
    /// Whether the project itself or one of its workspaces requires it.
    pub direct: bool,
    /// The name used in the requirement if it is an alias: `ax` for `"ax": "npm:axios@^1"`.
    pub alias: Option<Box<str>>,
    /// The range without its protocol; `None` if the lockfile has only the resolved version.
    pub range: Option<Box<str>>,
}

impl LockfileEntry {
    /// Returns an entry that nothing requires, without integrity and address.
    pub(crate) fn new(name: &str, version: &str, source: EntrySource, place: &str, line: u32) -> Self {
        let (name, version, place) = (name.into(), version.into(), place.into());
        Self { name, version, source, integrity: None, resolved: None, requested_by: Vec::new(), place, line }
    }

    pub(crate) fn with_tarball(self, integrity: Option<&str>, resolved: Option<&str>) -> Self {
        Self { integrity: integrity.map(Into::into), resolved: resolved.map(Into::into), ..self }
    }

    /// Derives name and version of a registry entry from its address if one of them is missing or invalid, because clients fetch
    /// the address. An entry without address and version installs nothing.
    pub(crate) fn complete(&mut self) {
        let is_named = !self.version.is_empty() && PackageName::parse(&self.name).is_ok();
        if self.source != EntrySource::Registry || is_named {
            return;
        }
        let Some(resolved) = self.resolved.as_deref() else {
            if self.version.is_empty() {
                self.source = EntrySource::Nothing;
            }
            return;
        };
        match of_tarball(resolved) {
            Some((name, version)) => (self.name, self.version) = (name.into(), version.into()),
            None => self.source = address(resolved),
        }
    }

    /// Records that the package `by` requires this one as `name`, with `spec` if the lockfile states it.
    pub(crate) fn add_dependent(&mut self, by: &Arc<str>, name: &str, spec: Option<&str>) {
        self.requested_by.push(RequestedBy { by: Arc::clone(by), direct: false, ..self.request(name, spec) });
    }

    /// Records that the project or one of its workspaces requires this package as `name`, with this spec.
    pub(crate) fn add_direct(&mut self, name: &str, spec: &str) {
        self.requested_by.push(self.request(name, Some(spec)));
    }

    fn request(&self, name: &str, spec: Option<&str>) -> RequestedBy {
        let alias = (*name != *self.name).then(|| name.into());
        RequestedBy { by: Arc::default(), direct: true, alias, range: spec.and_then(range) }
    }
}

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
    /// `line` counts from 1.
    #[error("line {line}: {detail}")]
    Syntax { line: u32, detail: String },
    /// `found` is the value, or `missing`.
    #[error("unsupported `{member}`: {found}; supported are {supported}")]
    Version { member: &'static str, found: String, supported: &'static str },
}

impl LockfileError {
    pub(crate) fn at(line: u32, detail: impl Into<String>) -> Self {
        Self::Syntax { line, detail: detail.into() }
    }
}
