//! A range as intervals of versions by precedence, as advisories write them. Refuses to know advisories.

use crate::npm::semver::range::{Comparator, Operator, Range};

/// Versions between two bounds. A bound that is `None` is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionInterval {
    /// The first one.
    pub from: Option<String>,
    /// Where it ends.
    pub end: Option<UpperBound>,
}

/// Where an interval ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpperBound {
    /// Before this version.
    Before(String),
    /// With this version.
    Through(String),
}

impl VersionInterval {
    /// The intervals that together are what a range covers, its prereleases too; none for a range that nothing lies in.
    #[must_use]
    pub fn of(range: &Range) -> Vec<Self> {
        if range.is_impossible() {
            return Vec::new();
        }
        range.inclusive().iter().map(|set| Self::of_set(set)).collect()
    }

    fn of_set(set: &[Comparator]) -> Self {
        use Operator::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual};
        let from = set.iter().filter(|one| matches!(one.relation, Greater | GreaterOrEqual | Equal));
        // Of two at one version the one that leaves it out is the narrower.
        let from = from.max_by(|one, other| {
            one.version.cmp_precedence(&other.version).then((one.relation == Greater).cmp(&(other.relation == Greater)))
        });
        let to = set.iter().filter(|one| matches!(one.relation, Less | LessOrEqual | Equal));
        let to = to.min_by(|one, other| {
            one.version.cmp_precedence(&other.version).then((other.relation == Less).cmp(&(one.relation == Less)))
        });
        let from = from.map(|one| if one.relation == Greater { next(&one.version) } else { one.version.to_string() });
        let end = to.map(|one| match one.relation {
            Less => UpperBound::Before(one.version.to_string()),
            _ => UpperBound::Through(one.version.to_string()),
        });
        Self { from, end }
    }
}

/// The version right above another.
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
    fn a_range_is_told_by_its_bounds() {
        let told = |text: &str| {
            let intervals = VersionInterval::of(&Range::parse(text).unwrap());
            let tell = |one: &VersionInterval| {
                let end = match &one.end {
                    None => String::new(),
                    Some(UpperBound::Before(end)) => format!("<{end}"),
                    Some(UpperBound::Through(end)) => format!("<={end}"),
                };
                format!("{}{end}", one.from.as_deref().map(|from| format!(">={from} ")).unwrap_or_default())
            };
            intervals.iter().map(tell).collect::<Vec<_>>().join(", ")
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
            assert_eq!(told(range), expected, "{range}");
        }
        assert!(VersionInterval::of(&Range::parse(">2 <1").unwrap()).is_empty());
    }
}
