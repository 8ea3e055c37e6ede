//! Parses OSV's `modified_id.csv`, a list of changes: one instant and id per line, newest first.

use std::collections::HashSet;

use jiff::Timestamp;

use crate::feed::error::FeedError;
use crate::feed::state::FeedCounts;
use crate::units::timestamp;

/// Above this number of changes the whole archive is fetched.
pub(crate) const MAX_CHANGES: usize = 2_000;

/// Maximum number of lines. A feed can have as many records.
const MAX_LINES: usize = 3_000_000;

/// A parsed list of changes.
pub(crate) struct ChangeList {
    /// The ids that changed after the latest known record. `None` if there are too many to fetch one by one, or if no record is
    /// known.
    pub(crate) changed: Option<Vec<String>>,
    /// All ids in the feed.
    pub(crate) all: HashSet<String>,
}

/// Parses a list of changes and compares it with the known records in `tally`.
pub(crate) fn read(csv: &[u8], tally: &FeedCounts) -> Result<ChangeList, FeedError> {
    let (mut changed, mut all) = (Vec::new(), HashSet::new());
    for (at, id) in lines(csv)? {
        // A record with exactly the latest instant may be new, unless its id is known.
        let known = |latest: Timestamp| at < latest || (at == latest && tally.latest_ids.iter().any(|known| known == id));
        if tally.latest.is_none_or(|latest| !known(latest)) {
            changed.push(id.to_owned());
        }
        all.insert(id.to_owned());
    }
    let few = tally.latest.is_some() && changed.len() <= MAX_CHANGES;
    Ok(ChangeList { changed: few.then_some(changed), all })
}

fn lines(csv: &[u8]) -> Result<Vec<(Timestamp, &str)>, FeedError> {
    let broken = |detail: &str| FeedError::broken("modified_id.csv", detail);
    let text = std::str::from_utf8(csv).map_err(|_| broken("not UTF-8"))?;
    let mut lines = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let (at, id) = line.trim().split_once(',').ok_or_else(|| broken("a line without a comma"))?;
        let at = timestamp::parse(at).ok_or_else(|| broken("a line without an instant"))?;
        // The list for all ecosystems puts the ecosystem before the id.
        let id = match id.trim().split_once('/') {
            Some(("npm", id)) => id,
            Some(_) => continue,
            None => id.trim(),
        };
        let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.' | ':');
        if id.is_empty() || !id.chars().all(plain) || id.starts_with('.') {
            return Err(broken("a line without an id"));
        }
        if lines.len() >= MAX_LINES {
            return Err(broken("too many lines"));
        }
        lines.push((at, id));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_records_and_unknown_records_of_the_latest_instant_changed() {
        let csv = b"2026-04-01T00:00:01.5Z,MAL-3\n2026-04-01T00:00:01Z,MAL-2\n2026-04-01T00:00:01Z,MAL-1\n2026-03-01T00:00:00Z,npm/MAL-0\n";
        let tally = |latest: Option<&str>| FeedCounts {
            latest: latest.and_then(timestamp::parse),
            latest_ids: vec!["MAL-1".to_owned()],
            ..FeedCounts::default()
        };
        let found = read(csv, &tally(Some("2026-04-01T00:00:01Z"))).unwrap();
        assert_eq!((found.changed.unwrap(), found.all.len()), (vec!["MAL-3".to_owned(), "MAL-2".to_owned()], 4));
        assert_eq!(read(csv, &tally(None)).unwrap().changed, None);
        for invalid in ["2026-04-01T00:00:02Z,..%2f..%2fpasswd\n", "<html>", "yesterday,MAL-1"] {
            assert!(read(invalid.as_bytes(), &tally(None)).is_err(), "{invalid}");
        }
    }
}
