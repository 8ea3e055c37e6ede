//! Finds the version that satisfies many ranges, in one pass over ranges and versions. Pure.

use crate::npm::semver::range::{Comparator, ComparatorSet, Operator, Range};
use crate::npm::semver::version::Version;

/// Returns the value paired with the highest of `versions` that satisfies all `ranges` in the sense of npm's `satisfies`.
pub(crate) fn highest_in_all<T: Copy>(ranges: &[Range], mut versions: Vec<(&Version, T)>) -> Option<T> {
    versions.sort_by(|left, right| left.0.cmp(right.0));
    let (prereleases, stable): (Vec<_>, Vec<_>) = versions.into_iter().partition(|(version, _)| version.is_prerelease());
    let best = highest(ranges, &stable, |set| vec![span(set, &stable)]);
    // A set matches only prereleases of a version for which it names one. In the sorted list these are adjacent.
    let named = |set: &ComparatorSet| {
        let (from, to) = span(set, &prereleases);
        let blocks =
            set.iter().filter(|bound| !bound.version.pre.is_empty()).map(|bound| block(numbers(&bound.version), &prereleases));
        blocks.map(|(first, last)| (first.max(from), last.min(to))).collect()
    };
    let best_prerelease = highest(ranges, &prereleases, named);
    let both = best.into_iter().chain(best_prerelease);
    both.max_by(|left, right| left.0.cmp(right.0)).map(|(_, value)| value)
}

/// Returns the highest of the ascending `versions` that all ranges match. `spans` returns the index ranges that a set matches.
fn highest<'v, T: Copy>(
    ranges: &[Range],
    versions: &[(&'v Version, T)],
    spans: impl Fn(&ComparatorSet) -> Vec<(usize, usize)>,
) -> Option<(&'v Version, T)> {
    let mut changes = vec![0_i64; versions.len() + 1];
    for range in ranges {
        let mut spans: Vec<_> = range.strict.iter().flat_map(&spans).filter(|(from, to)| from < to).collect();
        spans.sort_unstable();
        let mut end = 0;
        for (from, to) in spans {
            // The sets of one range may overlap; each version counts once.
            let from = from.max(end);
            if from < to {
                changes[from] += 1;
                changes[to] -= 1;
                end = to;
            }
        }
    }
    let wanted = i64::try_from(ranges.len()).unwrap_or(i64::MAX);
    let mut count = 0;
    let mut best = None;
    for (change, version) in changes.iter().zip(versions) {
        count += change;
        if count == wanted {
            best = Some(*version);
        }
    }
    best
}

/// Returns the index range of the versions that a set matches.
fn span<T>(set: &ComparatorSet, versions: &[(&Version, T)]) -> (usize, usize) {
    let (mut from, mut to) = (0, versions.len());
    for Comparator { relation, version: bound } in set {
        let below = || versions.partition_point(|(version, _)| version.parsed.cmp_precedence(bound).is_lt());
        let through = || versions.partition_point(|(version, _)| version.parsed.cmp_precedence(bound).is_le());
        match relation {
            Operator::Less => to = to.min(below()),
            Operator::LessOrEqual => to = to.min(through()),
            Operator::Equal => (from, to) = (from.max(below()), to.min(through())),
            Operator::GreaterOrEqual => from = from.max(below()),
            Operator::Greater => from = from.max(through()),
        }
    }
    (from, to)
}

/// Returns the index range of the versions with these numbers.
fn block<T>(numbers_of_all: (u64, u64, u64), versions: &[(&Version, T)]) -> (usize, usize) {
    let before = versions.partition_point(|(version, _)| numbers(&version.parsed) < numbers_of_all);
    let through = versions.partition_point(|(version, _)| numbers(&version.parsed) <= numbers_of_all);
    (before, through)
}

fn numbers(version: &semver::Version) -> (u64, u64, u64) {
    (version.major, version.minor, version.patch)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::npm::semver::range::strategies::{range, version};

    proptest! {
        #[test]
        fn result_agrees_with_matching_each_range_and_version(
            ranges in prop::collection::vec(range(), 1..5),
            versions in prop::collection::btree_set(version(), 1..40),
        ) {
            let ranges: Vec<_> = ranges.iter().filter_map(|text| Range::parse(text)).collect();
            prop_assume!(!ranges.is_empty());
            let versions: Vec<_> = versions.iter().filter_map(|text| Version::parse(text)).collect();
            let expected = versions.iter().filter(|version| ranges.iter().all(|range| range.matches(version))).max();
            let fast = highest_in_all(&ranges, versions.iter().map(|version| (version, version.as_str())).collect());
            prop_assert_eq!(fast, expected.map(Version::as_str));
        }
    }
}
