//! Many ranges, asked at once: their bounds cut the line of versions into cells, and each cell knows the ranges it lies in. Refuses to
//! know what the ranges are for.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashSet;

use crate::npm::semver::range::{Comparator, ComparatorSet, Operator, Range};
use crate::npm::semver::version::Version;

/// The most bounds that are cut by: beyond, a table takes more memory than it saves time.
const MOST: usize = 4_096;

/// The most a number of a version may be for a table to take it: three of them are compared as one.
const LARGEST: u64 = (1 << 42) - 1;

/// How a range takes prereleases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrereleaseMode {
    /// As [`Range::covers`]: those within it too.
    Covered,
    /// As [`Range::matches`]: where it names one of the same version.
    Named,
}

/// Ranges with a number each, and for every version the numbers of those it may lie in.
#[derive(Debug, Clone)]
pub struct RangeTable {
    ranges: Vec<(usize, Range, PrereleaseMode)>,
    /// In order, each once.
    bounds: Vec<TableBound>,
    /// Two rows of bits a cell: for stable versions and for prereleases. Below each bound, at it, and so on.
    rows: Vec<u64>,
    /// The numbers of what is no range: always set.
    others: Vec<u64>,
    /// What prereleases the ranges name, by their three numbers.
    named: HashSet<u128>,
}

#[derive(Debug, Clone)]
struct TableBound {
    key: u128,
    version: semver::Version,
}

impl RangeTable {
    /// A table of `count` numbers, of which these are ranges. `None` where there is none, or they are too many or too large.
    #[must_use]
    pub fn of(count: usize, ranges: Vec<(usize, Range, PrereleaseMode)>) -> Option<Self> {
        if ranges.is_empty() {
            return None;
        }
        let sets = ranges.iter().flat_map(|(_, range, _)| range.strict().iter().chain(range.inclusive()));
        let comparators = || sets.clone().flat_map(|set| set.iter());
        if comparators().count() > MOST {
            return None;
        }
        let bound = |one: &Comparator| Some(TableBound { key: key(&one.version)?, version: one.version.clone() });
        let mut bounds = comparators().map(bound).collect::<Option<Vec<_>>>()?;
        bounds.sort_by(|one, other| one.compare(other.key, &other.version));
        bounds.dedup_by(|one, other| one.compare(other.key, &other.version).is_eq());
        let is_named = |one: &&Comparator| !one.version.pre.is_empty();
        let named = comparators().filter(is_named).filter_map(|one| Some(key(&one.version)? >> 1)).collect();
        let mut others = vec![u64::MAX; count.div_ceil(64)];
        for (number, ..) in &ranges {
            others[number / 64] &= !(1 << (number % 64));
        }
        let mut table = Self { ranges, bounds, rows: Vec::new(), others, named };
        table.rows =
            (0..=table.bounds.len() * 2).flat_map(|cell| [table.row(cell, false), table.row(cell, true)]).flatten().collect();
        Some(table)
    }

    /// The bits of the numbers that answer for a version: of a range whether the version lies in it, of others always. `None` for a
    /// version whose numbers are too large.
    #[must_use]
    pub fn answering(&self, version: &Version) -> Option<Cow<'_, [u64]>> {
        let parsed = version.parsed();
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
            let lies = match prereleases {
                PrereleaseMode::Covered => range.covers(version),
                PrereleaseMode::Named => range.matches(version),
            };
            row[number / 64] |= u64::from(lies) << (number % 64);
        }
        row
    }

    /// What answers in a cell. Of prereleases, those that no range names.
    fn row(&self, cell: usize, is_prerelease: bool) -> Vec<u64> {
        let mut row = self.others.clone();
        let lies = |sets: &[ComparatorSet]| sets.iter().any(|set| set.iter().all(|one| self.lies(cell, one)));
        for (number, range, prereleases) in &self.ranges {
            let strictly = !is_prerelease && lies(range.strict());
            let lies = strictly || (*prereleases == PrereleaseMode::Covered && lies(range.inclusive()));
            row[number / 64] |= u64::from(lies) << (number % 64);
        }
        row
    }

    /// Whether what lies in a cell stands to a bound as a comparator asks.
    fn lies(&self, cell: usize, one: &Comparator) -> bool {
        let found = key(&one.version).and_then(|key| self.bounds.binary_search_by(|bound| bound.compare(key, &one.version)).ok());
        let order = found.map_or(Ordering::Less, |at| cell.cmp(&(at * 2 + 1)));
        match one.relation {
            Operator::Less => order.is_lt(),
            Operator::LessOrEqual => order.is_le(),
            Operator::Equal => order.is_eq(),
            Operator::GreaterOrEqual => order.is_ge(),
            Operator::Greater => order.is_gt(),
        }
    }
}

impl TableBound {
    /// By precedence. The words of prereleases are compared only where all numbers are the same.
    fn compare(&self, key: u128, version: &semver::Version) -> Ordering {
        self.key.cmp(&key).then_with(
            || {
                if version.pre.is_empty() { Ordering::Equal } else { self.version.cmp_precedence(version) }
            },
        )
    }
}

/// The three numbers in one, and at its end whether the version is stable: a prerelease stands before it.
fn key(version: &semver::Version) -> Option<u128> {
    if version.major.max(version.minor).max(version.patch) > LARGEST {
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
        fn a_table_answers_as_its_ranges_do_one_by_one(
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
                let row = table.answering(&version).unwrap();
                prop_assert_eq!(&*row, &*table.one_by_one(&version), "{}", version);
            }
        }
    }
}
