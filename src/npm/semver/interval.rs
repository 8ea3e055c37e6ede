//! Converts a range into intervals of versions by precedence, the form of advisories.

use crate::npm::semver::range::{Comparator, Operator, Range};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionInterval {
    /// The lowest version, inclusive.
    pub from: Option<String>,
    pub end: Option<UpperBound>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpperBound {
    Before(String),
    Through(String),
}

impl VersionInterval {
    /// Returns the intervals that together cover a range, prereleases included. Empty if the range is impossible.
    pub(crate) fn of(range: &Range) -> Vec<Self> {
        if range.is_impossible() {
            return Vec::new();
        }
        range.inclusive.iter().map(|set| Self::of_set(set)).collect()
    }

    fn of_set(set: &[Comparator]) -> Self {
        use Operator::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual};
        let from = set.iter().filter(|comparator| matches!(comparator.relation, Greater | GreaterOrEqual | Equal));
        // With two comparators at one version, the exclusive one is narrower.
        let from = from.max_by(|left, right| {
            left.version.cmp_precedence(&right.version).then((left.relation == Greater).cmp(&(right.relation == Greater)))
        });
        let to = set.iter().filter(|comparator| matches!(comparator.relation, Less | LessOrEqual | Equal));
        let to = to.min_by(|left, right| {
            left.version.cmp_precedence(&right.version).then((right.relation == Less).cmp(&(left.relation == Less)))
        });
        let from = from.map(|lower| if lower.relation == Greater { next(&lower.version) } else { lower.version.to_string() });
        let end = to.map(|upper| match upper.relation {
            Less => UpperBound::Before(upper.version.to_string()),
            _ => UpperBound::Through(upper.version.to_string()),
        });
        Self { from, end }
    }
}

/// Returns the lowest version above `version`.
fn next(version: &semver::Version) -> String {
    let (major, minor, patch) = (version.major, version.minor, version.patch);
    if version.pre.is_empty() {
        format!("{major}.{minor}.{}-0", patch + 1)
    } else {
        format!("{major}.{minor}.{patch}-{}.0", version.pre)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_become_intervals() {
        let formatted = |text: &str| {
            let intervals = VersionInterval::of(&Range::parse(text).unwrap());
            let format = |interval: &VersionInterval| {
                let end = match &interval.end {
                    None => String::new(),
                    Some(UpperBound::Before(end)) => format!("<{end}"),
                    Some(UpperBound::Through(end)) => format!("<={end}"),
                };
                format!("{}{end}", interval.from.as_deref().map(|from| format!(">={from} ")).unwrap_or_default())
            };
            intervals.iter().map(format).collect::<Vec<_>>().join(", ")
        };
        for (range, expected) in [
            ("<4.17.21", "<4.17.21"),
            ("1.14.1", ">=1.14.1 <=1.14.1"),
            ("^1.2.0 || 3.x", ">=1.2.0 <2.0.0-0, >=3.0.0-0 <4.0.0-0"),
            (">1.2.3 <=2.0.0", ">=1.2.4-0 <=2.0.0"),
            (">1.2.3-beta", ">=1.2.3-beta.0 "),
            (">=1.0.0 >1.0.0 <2.0.0 <=2.0.0", ">=1.0.1-0 <2.0.0"),
            ("*", ""),
        ] {
            assert_eq!(formatted(range), expected, "{range}");
        }
        assert!(VersionInterval::of(&Range::parse(">2 <1").unwrap()).is_empty());
    }
}
