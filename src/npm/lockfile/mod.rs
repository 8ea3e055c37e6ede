//! Lockfiles of npm, pnpm, yarn, bun and deno: the locked packages and versions, their lines, and what requires them.
//!
//! Input is untrusted: sizes and nesting are bounded, and syntax errors name their line. Does no file I/O and judges no version.

mod bun;
mod deno;
mod document;
mod model;
mod npm;
mod pnpm;
mod spec;
mod yarn;

pub use model::{Lockfile, LockfileEntry, LockfileError, LockfileFormat, MAX_LOCKFILE_BYTES, NAMES, RequestedBy};
pub use spec::EntrySource;

use crate::npm::lockfile::document::{read_json, read_yaml};

/// Parses a lockfile. `name` is the file name without its folder and may have a prefix (`old-yarn.lock`).
///
/// # Errors
/// Returns an error if the name or version is unsupported, or if the content does not match the name.
pub fn parse(name: &str, bytes: &[u8]) -> Result<Lockfile, LockfileError> {
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
        "yarn.lock" if text.lines().any(|line| line.starts_with("__metadata:")) => yarn::read_berry(&read_yaml(text)?),
        "yarn.lock" => yarn::read_classic(text),
        "bun.lock" => bun::read(&read_json(text)?),
        "deno.lock" => deno::read(&read_json(text)?),
        _ => npm::read(&read_json(text)?),
    }?;
    // A file can contain workspace entries even in formats without workspaces.
    lockfile.entries.retain(|entry| entry.source != EntrySource::Workspace);
    lockfile.entries.iter_mut().for_each(LockfileEntry::complete);
    Ok(lockfile)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fmt::Write as _;

    use super::*;

    /// Formats a lockfile's entries, one per line, for the snapshots of all formats.
    pub(in crate::npm) fn summary(name: &str, text: &str) -> String {
        let lockfile = parse(name, text.as_bytes()).unwrap();
        let mut out = String::new();
        for entry in &lockfile.entries {
            let asks = entry.requested_by.iter().map(|ask| {
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
        let read = |name: &str, text: &str| parse(name, text.as_bytes()).map(|lockfile| lockfile.dialect);
        assert_eq!(read("package.json", "{}"), Err(LockfileError::Name));
        assert_eq!(read("bun.lockb", "#!"), Err(LockfileError::Binary));
        assert_eq!(read("npm-shrinkwrap.json", "\u{feff}{}"), Ok(LockfileFormat::Npm));
        assert_eq!(read("old-yarn.lock", "# yarn lockfile v1\n"), Ok(LockfileFormat::YarnClassic));
        assert_eq!(read("yarn.lock", "__metadata:\n  version: 8\n"), Ok(LockfileFormat::YarnBerry));
        assert_eq!(parse("yarn.lock", b"a\xff"), Err(LockfileError::Encoding(1)));
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
            assert_eq!(parse(name, text.as_bytes()).unwrap_err().to_string(), message);
        }
    }
}
