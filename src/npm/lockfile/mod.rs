//! Lockfiles of npm, pnpm, yarn, bun and deno: the locked packages and versions, their lines, and what requires them.
//!
//! Input is untrusted: sizes and nesting are bounded, and syntax errors name their line. Does no file I/O and judges no version.

pub(crate) mod bun;
pub(crate) mod deno;
pub(crate) mod document;
pub(crate) mod npm;
pub(crate) mod pnpm;
pub(crate) mod spec;
pub(crate) mod yarn;

use std::sync::Arc;

use crate::npm::lockfile::document::{DocNode, read_json, read_yaml};
use crate::npm::lockfile::spec::{address, of_tarball, range};
use crate::npm::name::PackageName;

/// The longest accepted lockfile in bytes. A monorepo of 10,000 packages has about 8 MB.
pub const MAX_LOCKFILE_BYTES: usize = 64 << 20;

/// The longest install path, in bytes, from which dependencies are resolved: longer than file systems allow.
pub(crate) const MAX_PATH_BYTES: usize = 4096;

/// A parsed lockfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lockfile {
    /// Its format.
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
    /// `bun.lock`.
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
    /// The source of the tarball.
    pub source: EntrySource,
    /// The tarball's integrity as SRI; `None` if the lockfile has none for the tarball itself.
    pub integrity: Option<Box<str>>,
    /// The resolved address, if the lockfile has one.
    pub resolved: Option<Box<str>>,
    /// The packages that require it, if the lockfile states them.
    pub asks: Vec<RequestedBy>,
    /// Its install path, or its key in the lockfile.
    pub place: Box<str>,
    /// The line of the entry, from 1.
    pub line: u32,
}

/// One requirement of a package.
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

/// The source of an entry's tarball.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntrySource {
    /// A registry.
    Registry,
    /// A git repository, or an archive of one made by its host.
    Git,
    /// A tarball at an explicit address.
    Http,
    /// A local file or folder, or a patch of another entry.
    File,
    /// A link to a folder.
    Link,
    /// A package of the same workspace.
    Workspace,
    /// Bundled in the tarball of the package that depends on it.
    Bundled,
    /// None: the entry has no version and no address, or is a folder that is linked to. The client installs nothing for it.
    Nothing,
}

/// A lockfile that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LockfileError {
    /// The file name is not that of a lockfile.
    #[error(
        "unknown lockfile name; supported are package-lock.json, npm-shrinkwrap.json, pnpm-lock.yaml, yarn.lock, bun.lock and deno.lock"
    )]
    Name,
    /// bun's old binary format.
    #[error("bun's binary lockfile is not supported; run `bun install --save-text-lockfile` to convert it")]
    Binary,
    /// Longer than [`MAX_LOCKFILE_BYTES`].
    #[error("longer than {} MiB", MAX_LOCKFILE_BYTES >> 20)]
    TooLong,
    /// Not UTF-8.
    #[error("not UTF-8 at byte {0}")]
    Encoding(usize),
    /// A syntax error.
    #[error("line {line}: {detail}")]
    Syntax {
        /// The line, from 1.
        line: u32,
        /// The error text.
        detail: String,
    },
    /// An unsupported version of the format.
    #[error("unsupported `{member}`: {found}; supported are {known}")]
    Version {
        /// The member with the version.
        member: &'static str,
        /// Its value, or `missing`.
        found: String,
        /// The supported versions.
        known: &'static str,
    },
}

/// Lockfile names, in the order in which a folder is searched.
pub const NAMES: [&str; 6] = ["package-lock.json", "npm-shrinkwrap.json", "pnpm-lock.yaml", "yarn.lock", "bun.lock", "deno.lock"];

impl Lockfile {
    /// Parses a lockfile. `name` is the file name without its folder and may have a prefix (`old-yarn.lock`).
    ///
    /// # Errors
    /// Returns an error if the name or version is unsupported, or if the content does not match the name.
    pub fn read(name: &str, bytes: &[u8]) -> Result<Self, LockfileError> {
        if name.ends_with("bun.lockb") {
            return Err(LockfileError::Binary);
        }
        let named = NAMES.into_iter().find(|known| name.ends_with(known)).ok_or(LockfileError::Name)?;
        if bytes.len() > MAX_LOCKFILE_BYTES {
            return Err(LockfileError::TooLong);
        }
        let text = std::str::from_utf8(bytes).map_err(|error| LockfileError::Encoding(error.valid_up_to()))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut lockfile = match named {
            "pnpm-lock.yaml" => pnpm::read(&read_yaml(text)?),
            "yarn.lock" if yarn::is_classic(text) => yarn::read_classic(text),
            "yarn.lock" => yarn::read_berry(&read_yaml(text)?),
            "bun.lock" => bun::read(&read_json(text)?),
            "deno.lock" => deno::read(&read_json(text)?),
            _ => npm::read(&read_json(text)?),
        }?;
        // A file can contain workspace entries even in formats without workspaces.
        lockfile.entries.retain(|entry| entry.source != EntrySource::Workspace);
        lockfile.entries.iter_mut().for_each(LockfileEntry::settle);
        Ok(lockfile)
    }
}

impl LockfileEntry {
    /// Derives name and version of a registry entry from its address if one of them is missing or invalid, because clients fetch
    /// the address. An entry without address and version installs nothing.
    fn settle(&mut self) {
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

    /// Records that `by` (empty for a project) requires the package as `name`, with `spec` if the lockfile states it.
    pub(crate) fn add_requester(&mut self, by: &Arc<str>, direct: bool, name: &str, spec: Option<&str>) {
        let alias = (*name != *self.name).then(|| name.into());
        self.asks.push(RequestedBy { by: Arc::clone(by), direct, alias, range: spec.and_then(range) });
    }
}

impl LockfileFormat {
    /// Checks whether the client replaces the public registry's host by the configured one when it installs from the lockfile.
    #[must_use]
    pub fn rewrites_public_host(self) -> bool {
        matches!(self, Self::Npm | Self::Deno)
    }
}

impl LockfileError {
    pub(crate) fn at(line: u32, detail: impl Into<String>) -> Self {
        Self::Syntax { line, detail: detail.into() }
    }

    /// Returns the error for an unsupported version in `member`.
    pub(crate) fn version(document: &DocNode, member: &'static str, known: &'static str) -> Self {
        let found = document.text_of(member).map_or_else(|| "missing".to_owned(), |text| format!("`{}`", text.escape_debug()));
        Self::Version { member, found, known }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fmt::Write as _;

    use super::*;

    /// Formats a lockfile's entries, one per line, for the snapshots of all formats.
    pub(in crate::npm) fn summary(name: &str, text: &str) -> String {
        let lockfile = Lockfile::read(name, text.as_bytes()).unwrap();
        let mut out = String::new();
        for entry in &lockfile.entries {
            let asks = entry.asks.iter().map(|ask| {
                let by = if ask.direct { "project" } else { &*ask.by };
                let alias = ask.alias.as_deref().map(|alias| format!("={alias}")).unwrap_or_default();
                format!("{by}:{}{alias}", ask.range.as_deref().unwrap_or("?"))
            });
            let (asks, integrity) = (asks.collect::<Vec<_>>().join(" "), entry.integrity.as_deref().unwrap_or("-"));
            let resolved = entry.resolved.as_deref().unwrap_or("-");
            let _ = write!(out, "{} {:?} {}@{}", entry.line, entry.source, entry.name, entry.version);
            let _ = writeln!(out, " {integrity} {resolved} [{asks}] at {}", entry.place);
        }
        out
    }

    #[test]
    fn file_name_selects_the_format() {
        let read = |name: &str, text: &str| Lockfile::read(name, text.as_bytes()).map(|lockfile| lockfile.dialect);
        assert_eq!(read("package.json", "{}"), Err(LockfileError::Name));
        assert_eq!(read("bun.lockb", "#!"), Err(LockfileError::Binary));
        assert_eq!(read("npm-shrinkwrap.json", "\u{feff}{}"), Ok(LockfileFormat::Npm));
        assert_eq!(read("old-yarn.lock", "# yarn lockfile v1\n"), Ok(LockfileFormat::YarnClassic));
        assert_eq!(read("yarn.lock", "__metadata:\n  version: 8\n"), Ok(LockfileFormat::YarnBerry));
        assert_eq!(Lockfile::read("yarn.lock", b"a\xff"), Err(LockfileError::Encoding(1)));
    }

    #[test]
    fn unsupported_version_lists_the_supported_ones() {
        for (name, text, message) in [
            ("package-lock.json", r#"{"lockfileVersion": 4}"#, "unsupported `lockfileVersion`: `4`; supported are 1, 2 and 3"),
            (
                "pnpm-lock.yaml",
                "lockfileVersion: '7.0'\n",
                "unsupported `lockfileVersion`: `7.0`; supported are 5.x, 6.x and 9.x",
            ),
            ("bun.lock", "{}", "unsupported `lockfileVersion`: missing; supported are 0, 1 and 2"),
            ("deno.lock", r#"{"version": "6"}"#, "unsupported `version`: `6`; supported are 2, 3, 4 and 5"),
        ] {
            assert_eq!(Lockfile::read(name, text.as_bytes()).unwrap_err().to_string(), message);
        }
    }
}
