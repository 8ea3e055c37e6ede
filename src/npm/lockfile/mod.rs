//! Lockfiles of npm, pnpm, yarn, bun and deno: which version of which package is locked, on which line, asked for by whom.
//!
//! Refuses to know files, hosts that are ours, and which version is good. One file a client reads its dialect; they come
//! from strangers' repositories, so all has a limit, and garbage is an error that names its line.

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

/// The longest lockfile that is read, in bytes. A monorepo of 10,000 packages has about 8 MB.
pub const LONGEST: usize = 64 << 20;

/// The longest path of a package that another one is looked for from, in bytes: longer than disks take.
pub(crate) const LONGEST_PATH: usize = 4096;

/// A lockfile, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lockfile {
    /// Whose it is.
    pub dialect: LockfileFormat,
    /// What it locks, in its own order, the project itself left out.
    pub entries: Vec<LockfileEntry>,
}

/// Whose lockfile it is: says how its client takes `resolved`, and how an override is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LockfileFormat {
    /// `package-lock.json` and `npm-shrinkwrap.json`, versions 1 to 3.
    Npm,
    /// `pnpm-lock.yaml` of pnpm 3 to 8: versions 5 and 6.
    Pnpm6,
    /// `pnpm-lock.yaml` of pnpm 9 and later: version 9.
    Pnpm9,
    /// `yarn.lock` of yarn 1, in a format of its own.
    YarnClassic,
    /// `yarn.lock` of yarn 2 and later, in YAML.
    YarnBerry,
    /// `bun.lock`.
    Bun,
    /// `deno.lock`, versions 2 to 5.
    Deno,
}

/// One package that a lockfile locks. Several entries may be of one name and version: npm installs such in several places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockfileEntry {
    /// The package's real name: of an alias (`npm:lodash@^4`) what it stands for. Not necessarily a name that npm allows.
    pub name: Box<str>,
    /// The version, as written; what stands for it where `source` is no registry.
    pub version: Box<str>,
    /// Where the bytes come from.
    pub source: EntrySource,
    /// What the tarball must hash to, as SRI; `None` where the lockfile says nothing about the tarball itself.
    pub integrity: Option<Box<str>>,
    /// The address it was resolved to, if the lockfile has one.
    pub resolved: Option<Box<str>>,
    /// Who asked for it and how, where the lockfile knows.
    pub asks: Vec<RequestedBy>,
    /// Where it is installed, or the key it stands under.
    pub place: Box<str>,
    /// The line it begins on, from 1.
    pub line: u32,
}

/// That somebody asked for a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedBy {
    /// The package that asks; empty for a project of one's own.
    pub by: Arc<str>,
    /// Whether the project itself (or one of its workspaces) asks.
    pub direct: bool,
    /// The name it is asked for by, where that is another than its own: of `"ax": "npm:axios@^1"` it is `ax`.
    pub alias: Option<Box<str>>,
    /// The range, without the protocol before it; `None` where the lockfile has only the outcome.
    pub range: Option<Box<str>>,
}

/// Where an entry's bytes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntrySource {
    /// A registry.
    Registry,
    /// A git repository, or a host's archive of one.
    Git,
    /// A tarball at an address that somebody wrote down.
    Http,
    /// A file or folder beside the project, a patch of another entry included.
    File,
    /// A link to a folder.
    Link,
    /// A package of the same repository.
    Workspace,
    /// The tarball of the package that depends on it.
    Bundled,
    /// Nowhere: the entry has no version and no address, or names a folder that is linked to. Its client installs nothing for it.
    Nothing,
}

/// Why a lockfile cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LockfileError {
    /// The name of the file is no lockfile's.
    #[error(
        "no lockfile by its name; known are package-lock.json, npm-shrinkwrap.json, pnpm-lock.yaml, yarn.lock, bun.lock and deno.lock"
    )]
    Name,
    /// bun's old format.
    #[error("bun's binary lockfile is not read: write it as text with `bun install --save-text-lockfile`")]
    Binary,
    /// It is longer than [`LONGEST`].
    #[error("longer than {} MiB", LONGEST >> 20)]
    TooLong,
    /// It is not text.
    #[error("not UTF-8 at byte {0}")]
    Encoding(usize),
    /// It is not what its name promises.
    #[error("line {line}: {detail}")]
    Syntax {
        /// From 1.
        line: u32,
        /// What is wrong, for a person.
        detail: String,
    },
    /// A version of the format that is not known.
    #[error("its `{member}` is {found}; known are {known}")]
    Version {
        /// The member that says it.
        member: &'static str,
        /// What it says, or `missing`.
        found: String,
        /// What is read.
        known: &'static str,
    },
}

/// The names of lockfiles, in the order in which a folder is searched.
pub const NAMES: [&str; 6] = ["package-lock.json", "npm-shrinkwrap.json", "pnpm-lock.yaml", "yarn.lock", "bun.lock", "deno.lock"];

impl Lockfile {
    /// Reads a lockfile; `name` is the file's, without its folder, and may have something before it (`old-yarn.lock`).
    ///
    /// # Errors
    /// When the name or the version is of no lockfile that is known, or the content is not what the name promises.
    pub fn read(name: &str, bytes: &[u8]) -> Result<Self, LockfileError> {
        if name.ends_with("bun.lockb") {
            return Err(LockfileError::Binary);
        }
        let named = NAMES.into_iter().find(|known| name.ends_with(known)).ok_or(LockfileError::Name)?;
        if bytes.len() > LONGEST {
            return Err(LockfileError::TooLong);
        }
        let text = std::str::from_utf8(bytes).map_err(|wrong| LockfileError::Encoding(wrong.valid_up_to()))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut lockfile = match named {
            "pnpm-lock.yaml" => pnpm::read(&read_yaml(text)?),
            "yarn.lock" if yarn::is_classic(text) => yarn::read_classic(text),
            "yarn.lock" => yarn::read_berry(&read_yaml(text)?),
            "bun.lock" => bun::read(&read_json(text)?),
            "deno.lock" => deno::read(&read_json(text)?),
            _ => npm::read(&read_json(text)?),
        }?;
        // Some dialects have no workspaces, but a file may still claim that an entry is one.
        lockfile.entries.retain(|entry| entry.source != EntrySource::Workspace);
        lockfile.entries.iter_mut().for_each(LockfileEntry::settle);
        Ok(lockfile)
    }
}

impl LockfileEntry {
    /// Gives an entry of a registry that states no version, or no package's name, what its address names: clients fetch the address.
    /// Without an address and a version it installs nothing.
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

    /// Notes that `by` (empty for a project) asks for it as `name`, with `spec`, where the lockfile has that.
    pub(crate) fn ask(&mut self, by: &Arc<str>, direct: bool, name: &str, spec: Option<&str>) {
        let alias = (*name != *self.name).then(|| name.into());
        self.asks.push(RequestedBy { by: Arc::clone(by), direct, alias, range: spec.and_then(range) });
    }
}

impl LockfileFormat {
    /// Whether its client replaces the public registry's host by the configured one when it installs from the lockfile.
    #[must_use]
    pub fn rewrites_public_host(self) -> bool {
        matches!(self, Self::Npm | Self::Deno)
    }
}

impl LockfileError {
    pub(crate) fn at(line: u32, detail: impl Into<String>) -> Self {
        Self::Syntax { line, detail: detail.into() }
    }

    /// A document whose member `member` is none of the `known` versions.
    pub(crate) fn version(document: &DocNode, member: &'static str, known: &'static str) -> Self {
        let found = document.text_of(member).map_or_else(|| "missing".to_owned(), |text| format!("`{}`", text.escape_debug()));
        Self::Version { member, found, known }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fmt::Write as _;

    use super::*;

    /// A lockfile's entries, a line each, for the snapshots of every dialect.
    pub(in crate::npm) fn told(name: &str, text: &str) -> String {
        let lockfile = Lockfile::read(name, text.as_bytes()).unwrap();
        let mut told = String::new();
        for entry in &lockfile.entries {
            let asks = entry.asks.iter().map(|ask| {
                let by = if ask.direct { "project" } else { &*ask.by };
                let alias = ask.alias.as_deref().map(|alias| format!("={alias}")).unwrap_or_default();
                format!("{by}:{}{alias}", ask.range.as_deref().unwrap_or("?"))
            });
            let (asks, integrity) = (asks.collect::<Vec<_>>().join(" "), entry.integrity.as_deref().unwrap_or("-"));
            let resolved = entry.resolved.as_deref().unwrap_or("-");
            let _ = write!(told, "{} {:?} {}@{}", entry.line, entry.source, entry.name, entry.version);
            let _ = writeln!(told, " {integrity} {resolved} [{asks}] at {}", entry.place);
        }
        told
    }

    #[test]
    fn a_name_says_which_reader() {
        let read = |name: &str, text: &str| Lockfile::read(name, text.as_bytes()).map(|lockfile| lockfile.dialect);
        assert_eq!(read("package.json", "{}"), Err(LockfileError::Name));
        assert_eq!(read("bun.lockb", "#!"), Err(LockfileError::Binary));
        assert_eq!(read("npm-shrinkwrap.json", "\u{feff}{}"), Ok(LockfileFormat::Npm));
        assert_eq!(read("old-yarn.lock", "# yarn lockfile v1\n"), Ok(LockfileFormat::YarnClassic));
        assert_eq!(read("yarn.lock", "__metadata:\n  version: 8\n"), Ok(LockfileFormat::YarnBerry));
        assert_eq!(Lockfile::read("yarn.lock", b"a\xff"), Err(LockfileError::Encoding(1)));
    }

    #[test]
    fn an_unknown_version_is_told_with_the_known_ones() {
        for (name, text, told) in [
            ("package-lock.json", r#"{"lockfileVersion": 4}"#, "its `lockfileVersion` is `4`; known are 1, 2 and 3"),
            ("pnpm-lock.yaml", "lockfileVersion: '7.0'\n", "its `lockfileVersion` is `7.0`; known are 5.x, 6.x and 9.x"),
            ("bun.lock", "{}", "its `lockfileVersion` is missing; known are 0, 1 and 2"),
            ("deno.lock", r#"{"version": "6"}"#, "its `version` is `6`; known are 2, 3, 4 and 5"),
        ] {
            assert_eq!(Lockfile::read(name, text.as_bytes()).unwrap_err().to_string(), told);
        }
    }
}
