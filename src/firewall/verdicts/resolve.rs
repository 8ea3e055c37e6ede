//! Resolves what a client asks for to a version of a packument.

use crate::firewall::verdicts::VerdictTable;
use crate::npm::packument::dist_tags;
use crate::npm::{Packument, Range};

/// Resolves `wanted` for clients: an exact version, a visible dist-tag, or the best visible version of a range. A hidden exact
/// version, or a range that only hidden versions satisfy, is also returned, so that the refusal can explain it.
pub(crate) fn resolve<'a>(packument: &'a Packument, table: &'a VerdictTable, wanted: &str) -> Option<&'a str> {
    if let Some((_, entry)) = packument.find_same(wanted) {
        return Some(&entry.key);
    }
    if let Some(version) = table.tag(packument, wanted) {
        return Some(version);
    }
    // A tag whose hidden target has no replacement.
    if let Some(target) = packument.dist_tag(wanted) {
        return packument.find(target).map(|(_, entry)| &*entry.key);
    }
    let range = Range::parse(wanted)?;
    let latest = table.tag(packument, "latest");
    best_in_range(packument, &range, latest, |at| table.shown[at]).or_else(|| best_in_range(packument, &range, None, |_| true))
}

/// Picks the version of a range like npm: `latest` if it satisfies the range, else the highest, deprecated ones last.
pub(crate) fn best_in_range<'a>(
    packument: &'a Packument,
    range: &Range,
    latest: Option<&'a str>,
    among: impl Fn(usize) -> bool,
) -> Option<&'a str> {
    let satisfies = |at: usize| packument.entries[at].version.as_ref().is_some_and(|version| range.matches(version));
    if let Some(latest) = latest.filter(|latest| packument.find(latest).is_some_and(|(at, _)| among(at) && satisfies(at))) {
        return Some(latest);
    }
    let fitting: Vec<_> = (0..packument.entries.len()).filter(|&at| among(at) && satisfies(at)).collect();
    dist_tags::highest(fitting.into_iter().map(|at| &packument.entries[at]))
}

/// Returns the entry that `spec` would resolve to if no version were hidden.
pub(crate) fn pick_unfiltered(packument: &Packument, spec: &str) -> Option<usize> {
    let spec = if spec.is_empty() { "latest" } else { spec };
    let exact = packument.find(spec).map(|(at, _)| at);
    let by_tag = || packument.find(packument.dist_tag(spec)?).map(|(at, _)| at);
    let by_range = || {
        packument.find(best_in_range(packument, &Range::parse(spec)?, packument.dist_tag("latest"), |_| true)?).map(|(at, _)| at)
    };
    exact.or_else(by_tag).or_else(by_range)
}

/// Checks whether a visible version satisfies `spec`.
pub(crate) fn is_satisfied(packument: &Packument, table: &VerdictTable, spec: &str) -> bool {
    let key = resolve(packument, table, if spec.is_empty() { "latest" } else { spec });
    key.and_then(|key| packument.find(key)).is_some_and(|(at, _)| table.shown[at])
}
