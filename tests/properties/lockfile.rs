//! A stranger's lockfile, under each of the names: read or refused, never twice differently, and each entry on a line that is
//! there.

use coldframe::npm::Lockfile;
use coldframe::npm::lockfile::{EntrySource, LockfileError, NAMES};

/// Panics when a lockfile is read in two ways, or tells of what does not stand in it.
pub fn holds(input: &[u8]) {
    let lines = lines(input);
    for name in NAMES {
        let read = Lockfile::read(name, input);
        assert_eq!(read, Lockfile::read(name, input));
        match read {
            Ok(lockfile) => entries_stand_there(&lockfile, input, lines),
            Err(LockfileError::Syntax { line, detail }) => {
                assert!(
                    line >= 1 && line as usize <= lines + 1 && !detail.is_empty(),
                    "{name}: line {line} of {lines}: {detail}"
                );
            }
            Err(wrong) => assert!(!wrong.to_string().is_empty()),
        }
    }
}

/// How many lines there are at most: YAML ends one at a bare carriage return too.
fn lines(input: &[u8]) -> usize {
    input.split(|byte| matches!(byte, b'\n' | b'\r')).count()
}

fn entries_stand_there(lockfile: &Lockfile, input: &[u8], lines: usize) {
    for entry in &lockfile.entries {
        assert!(entry.line >= 1 && entry.line as usize <= lines, "{entry:?} of {lines} lines");
        assert!(entry.source != EntrySource::Workspace, "the project itself is none: {entry:?}");
        assert!(entry.name.len() + entry.version.len() <= 2 * input.len(), "{entry:?}");
        let asked = entry.asks.iter().filter_map(|ask| ask.range.as_deref());
        assert!(asked.into_iter().all(|range| !range.is_empty() && !range.starts_with("npm:@")), "{entry:?}");
    }
}
