//! Untrusted lockfiles, parsed under each supported name: the result is deterministic, and each entry is on an existing line.

use coldframe::npm::Lockfile;
use coldframe::npm::lockfile::{self, EntrySource, LockfileError, NAMES};

/// Panics if two parses differ, or if an entry or error is not backed by the input.
pub fn holds(input: &[u8]) {
    let lines = lines(input);
    for name in NAMES {
        let read = lockfile::parse(name, input);
        assert_eq!(read, lockfile::parse(name, input));
        match read {
            Ok(lockfile) => entries_are_in_the_input(&lockfile, input, lines),
            Err(LockfileError::Syntax { line, detail }) => {
                assert!(
                    line >= 1 && line as usize <= lines + 1 && !detail.is_empty(),
                    "{name}: line {line} of {lines}: {detail}"
                );
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

/// Returns the maximum number of lines: YAML also ends a line at a bare carriage return.
fn lines(input: &[u8]) -> usize {
    input.split(|byte| matches!(byte, b'\n' | b'\r')).count()
}

fn entries_are_in_the_input(lockfile: &Lockfile, input: &[u8], lines: usize) {
    for entry in &lockfile.entries {
        assert!(entry.line >= 1 && entry.line as usize <= lines, "{entry:?} of {lines} lines");
        assert!(entry.source != EntrySource::Workspace, "the project itself must not be an entry: {entry:?}");
        assert!(entry.name.len() + entry.version.len() <= 2 * input.len(), "{entry:?}");
        let ranges = entry.requested_by.iter().filter_map(|ask| ask.range.as_deref());
        assert!(ranges.into_iter().all(|range| !range.is_empty() && !range.starts_with("npm:@")), "{entry:?}");
    }
}
