//! Matches a version against many ranges at once: their bounds divide all versions into cells, and each knows its ranges.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashSet;

use crate::npm::semver::range::{Comparator, ComparatorSet, Range};
use crate::npm::semver::version::Version;

/// The maximum number of bounds. Above it, a table takes more memory than it saves time.
const MAX_BOUNDS: usize = 4_096;

/// The largest major, minor or patch number: the three are packed into one integer for comparison.
const MAX_NUMBER: u64 = (1 << 42) - 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrereleaseMode {
    /// As [`Range::covers`]: all prereleases within the range.
    Covered,
    /// As [`Range::matches`]: only where the range names a prerelease of the same version.
    Named,
}

/// Numbered ranges, and for each cell of versions the numbers of the ranges that may contain it.
#[derive(Debug, Clone)]
pub struct RangeTable {
    ranges: Vec<(usize, Range, PrereleaseMode)>,
    /// Sorted, without duplicates.
    bounds: Vec<TableBound>,
    /// Two bit rows per cell, for stable versions and for prereleases. Cells alternate: below each bound, at it, and so on.
    rows: Vec<u64>,
    /// The numbers that are not ranges: always set.
    others: Vec<u64>,
    /// The packed numbers of versions with a prerelease that some range names.
    named: HashSet<u128>,
}

#[derive(Debug, Clone)]
struct TableBound {
    key: u128,
    version: semver::Version,
}

impl RangeTable {
    /// Builds a table of `count` numbers. Some of them have a range. Returns `None` if there are no ranges, or if they are too
    /// many or have too large numbers.
    pub(crate) fn of(count: usize, ranges: Vec<(usize, Range, PrereleaseMode)>) -> Option<Self> {
        if ranges.is_empty() {
            return None;
        }
        let sets = ranges.iter().flat_map(|(_, range, _)| range.strict.iter().chain(&range.inclusive));
        let comparators = || sets.clone().flat_map(|set| set.iter());
        if comparators().count() > MAX_BOUNDS {
            return None;
        }
        let bound =
            |comparator: &Comparator| Some(TableBound { key: key(&comparator.version)?, version: comparator.version.clone() });
        let mut bounds = comparators().map(bound).collect::<Option<Vec<_>>>()?;
        bounds.sort_by(|left, right| left.compare(right.key, &right.version));
        bounds.dedup_by(|left, right| left.compare(right.key, &right.version).is_eq());
        let is_named = |comparator: &&Comparator| !comparator.version.pre.is_empty();
        let named = comparators().filter(is_named).filter_map(|comparator| Some(key(&comparator.version)? >> 1)).collect();
        let mut others = vec![u64::MAX; count.div_ceil(64)];
        for (number, ..) in &ranges {
            others[number / 64] &= !(1 << (number % 64));
        }
        let mut table = Self { ranges, bounds, rows: Vec::new(), others, named };
        table.rows =
            (0..=table.bounds.len() * 2).flat_map(|cell| [table.row(cell, false), table.row(cell, true)]).flatten().collect();
        Some(table)
    }

    /// Returns a bit row with the ranges that contain `version` and all numbers without a range; `None` for too large numbers.
    pub(crate) fn candidates(&self, version: &Version) -> Option<Cow<'_, [u64]>> {
        let parsed = &version.parsed;
        let (key, is_prerelease) = (key(parsed)?, !parsed.pre.is_empty());
        if is_prerelease && self.named.contains(&(key >> 1)) {
            return Some(Cow::Owned(self.one_by_one(version)));
        }
        let cell = match self.bounds.binary_search_by(|bound| bound.compare(key, parsed)) {
            Ok(at) => at * 2 + 1,
            Err(at) => at * 2,
        };
        let (words, row) = (self.others.len(), cell * 2 + usize::from(is_prerelease));
        self.rows.get(row * words..(row + 1) * words).map(Cow::Borrowed)
    }

    fn one_by_one(&self, version: &Version) -> Vec<u64> {
        let mut row = self.others.clone();
        for (number, range, prereleases) in &self.ranges {
            let matches = match prereleases {
                PrereleaseMode::Covered => range.covers(version),
                PrereleaseMode::Named => range.matches(version),
            };
            row[number / 64] |= u64::from(matches) << (number % 64);
        }
        row
    }

    /// Computes the bit row of a cell. The row for prereleases is valid only for prereleases that no range names.
    fn row(&self, cell: usize, is_prerelease: bool) -> Vec<u64> {
        let mut row = self.others.clone();
        let matches = |sets: &[ComparatorSet]| sets.iter().any(|set| set.iter().all(|comparator| self.matches(cell, comparator)));
        for (number, range, prereleases) in &self.ranges {
            let strictly = !is_prerelease && matches(&range.strict);
            let matches = strictly || (*prereleases == PrereleaseMode::Covered && matches(&range.inclusive));
            row[number / 64] |= u64::from(matches) << (number % 64);
        }
        row
    }

    fn matches(&self, cell: usize, comparator: &Comparator) -> bool {
        let version = &comparator.version;
        let found = key(version).and_then(|key| self.bounds.binary_search_by(|bound| bound.compare(key, version)).ok());
        comparator.relation.accepts(found.map_or(Ordering::Less, |at| cell.cmp(&(at * 2 + 1))))
    }
}

impl TableBound {
    /// Compares by precedence. Prerelease identifiers are compared only if all numbers are equal.
    fn compare(&self, key: u128, version: &semver::Version) -> Ordering {
        self.key.cmp(&key).then_with(
            || {
                if version.pre.is_empty() { Ordering::Equal } else { self.version.cmp_precedence(version) }
            },
        )
    }
}

/// Packs the three numbers into one, with the lowest bit set for stable versions, which sort after their prereleases.
fn key(version: &semver::Version) -> Option<u128> {
    if version.major.max(version.minor).max(version.patch) > MAX_NUMBER {
        return None;
    }
    let numbers =
        [version.major, version.minor, version.patch].into_iter().fold(0, |key, number| (key << 42) | u128::from(number));
    Some((numbers << 1) | u128::from(version.pre.is_empty()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::npm::semver::range::strategies::{range, version};

    proptest! {
        #[test]
        fn table_agrees_with_each_range(
            ranges in prop::collection::vec((range(), any::<bool>()), 1..80),
            versions in prop::collection::vec(version(), 1..30),
        ) {
            let parse = |(number, (text, covered)): (usize, &(String, bool))| {
                let prereleases = if *covered { PrereleaseMode::Covered } else { PrereleaseMode::Named };
                Some((number * 2, Range::parse(text)?, prereleases))
            };
            let numbered: Vec<_> = ranges.iter().enumerate().filter_map(parse).collect();
            let Some(table) = RangeTable::of(ranges.len() * 2, numbered) else { return Ok(()) };
            for version in versions.iter().map(|text| Version::parse(text).unwrap()) {
                let row = table.candidates(&version).unwrap();
                prop_assert_eq!(&*row, &*table.one_by_one(&version), "{}", version);
            }
        }
    }
}
