//! Ranges as in npm's `semver`, but not `loose`, parsed once so that matching does not allocate. `just oracle` compares them.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

use crate::npm::semver::version::{MAX_NUMBER, Version};

const MAX_RANGE_BYTES: usize = 1024;

#[derive(Debug, Clone)]
pub struct Range {
    pub(crate) text: Box<str>,
    /// As in `satisfies`: a prerelease matches only if the set names one of the same version.
    pub(crate) strict: Box<[ComparatorSet]>,
    /// As in `satisfies` with `includePrerelease`.
    pub(crate) inclusive: Box<[ComparatorSet]>,
}

/// Comparators that must all hold. An empty set matches every version.
pub(crate) type ComparatorSet = Box<[Comparator]>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Comparator {
    pub(crate) relation: Operator,
    pub(crate) version: semver::Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operator {
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
}

/// All operators as written, each before its own prefixes.
const OPERATORS: [(&str, Operator); 5] = [
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("<", Operator::Less),
    (">", Operator::Greater),
    ("=", Operator::Equal),
];

impl Operator {
    /// Checks whether a version with this order relative to the comparator's satisfies it.
    pub(crate) fn accepts(self, order: Ordering) -> bool {
        match self {
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Equal => order.is_eq(),
            Self::GreaterOrEqual => order.is_ge(),
            Self::Greater => order.is_gt(),
        }
    }
}

impl Range {
    /// Parses a range. Returns `None` if npm would reject it.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_RANGE_BYTES {
            return None;
        }
        let plain = text.split(is_blank).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
        // With prereleases, a bound may exceed the largest number where the strict form does not.
        let inclusive = sets(&plain, true).unwrap_or_default();
        Some(Self { text: text.trim().into(), strict: sets(&plain, false)?, inclusive })
    }

    /// Checks whether npm's `satisfies` holds: a prerelease matches only if the range names one of the same version.
    pub fn matches(&self, version: &Version) -> bool {
        let version = &version.parsed;
        let names = |Comparator { version: named, .. }: &Comparator| {
            !named.pre.is_empty() && (named.major, named.minor, named.patch) == (version.major, version.minor, version.patch)
        };
        self.strict.iter().any(|set| holds(set, version) && (version.pre.is_empty() || set.iter().any(names)))
    }

    /// Checks whether a denial of this range covers the version: as `satisfies` with `includePrerelease`, so that `<2.0.0` covers
    /// `1.9.9-beta.1` and `4.x` covers `4.0.0-alpha`.
    pub fn covers(&self, version: &Version) -> bool {
        self.inclusive.iter().any(|set| holds(set, &version.parsed)) || self.matches(version)
    }

    /// Checks whether no version can match (`>2 <1`).
    pub(crate) fn is_impossible(&self) -> bool {
        self.strict.iter().chain(&self.inclusive).all(is_contradiction)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

fn holds(set: &ComparatorSet, version: &semver::Version) -> bool {
    set.iter().all(|comparator| comparator.relation.accepts(version.cmp_precedence(&comparator.version)))
}

/// Checks whether the highest lower bound is above the lowest upper bound. npm writes the empty set as `<0.0.0-0`.
fn is_contradiction(set: &ComparatorSet) -> bool {
    use Operator::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual};
    let lowest = semver::Version { pre: semver::Prerelease::new("0").unwrap_or_default(), ..semver::Version::new(0, 0, 0) };
    let bounds = |relations: [Operator; 3]| set.iter().filter(move |comparator| relations.contains(&comparator.relation));
    bounds([Less, LessOrEqual, Equal]).any(|upper| {
        if upper.relation == Less && upper.version.cmp_precedence(&lowest) != Ordering::Greater {
            return true;
        }
        bounds([Greater, GreaterOrEqual, Equal]).any(|lower| match lower.version.cmp_precedence(&upper.version) {
            Ordering::Less => false,
            Ordering::Equal => lower.relation == Greater || upper.relation == Less,
            Ordering::Greater => true,
        })
    })
}

/// Checks for the characters of ECMAScript's `\s`.
fn is_blank(ch: char) -> bool {
    ch.is_whitespace() || ch == '\u{feff}'
}

/// Parses the sets of a range with single spaces. Returns `None` if one is invalid.
fn sets(plain: &str, inclusive: bool) -> Option<Box<[ComparatorSet]>> {
    let sets = plain.split("||").map(|part| set(part.trim(), inclusive)).collect::<Option<Vec<_>>>()?;
    // If one set is `*`, npm drops the others and with them the prereleases they name.
    if let Some(star) = sets.iter().find(|set| set.is_empty()) {
        return Some(Box::new([star.clone()]));
    }
    Some(sets.into())
}

fn set(part: &str, inclusive: bool) -> Option<ComparatorSet> {
    let part = without_build(part);
    let part = hyphen(&part, inclusive).unwrap_or(part);
    let part = join_operators(&part);
    let everything = if inclusive { ">=0.0.0-0" } else { ">=0.0.0" };
    let mut comparators = Vec::new();
    for word in part.split(' ') {
        for word in desugar(word, inclusive).split_whitespace() {
            let word = without_stars(word);
            if !word.is_empty() && word != everything {
                comparators.push(comparator(&word)?);
            }
        }
    }
    let is_empty_set =
        |comparator: &Comparator| comparator.relation == Operator::Less && comparator.version.to_string() == "0.0.0-0";
    match comparators.iter().position(is_empty_set) {
        Some(position) => Some(Box::new([comparators.swap_remove(position)])),
        None => Some(comparators.into()),
    }
}

/// Removes build metadata (`+build`).
fn without_build(part: &str) -> String {
    let mut kept = String::with_capacity(part.len());
    let mut rest = part;
    while let Some((before, after)) = rest.split_once('+') {
        kept.push_str(before);
        let identifiers = after.split_inclusive('.').map_while(|identifier| {
            let bare = identifier.trim_end_matches('.');
            let length = bare.find(|ch: char| !is_identifier(ch)).unwrap_or(bare.len());
            (length > 0).then_some((length, length == bare.len() && identifier.ends_with('.')))
        });
        let mut end = 0;
        for (length, dot) in identifiers {
            end = length + if end == 0 { 0 } else { end + 1 };
            if !dot {
                break;
            }
        }
        if end == 0 {
            kept.push('+');
        }
        rest = &after[end..];
    }
    kept.push_str(rest);
    kept
}

fn is_identifier(ch: char) -> bool {
    ch.is_ascii_alphanumeric() || ch == '-'
}

/// Expands a hyphen range (`1.2 - 3.4`) into two comparators. Returns `None` for anything else.
fn hyphen(part: &str, inclusive: bool) -> Option<String> {
    let lowest = if inclusive { "-0" } else { "" };
    part.match_indices(" - ").find_map(|(at, _)| {
        let (left, right) = (&part[..at], &part[at + 3..]);
        let (from, to) = (Partial::parse(left)?, Partial::parse(right)?);
        let lower = match (from.major, from.minor, from.patch) {
            (None, ..) => String::new(),
            (Some(major), None, _) => format!(">={major}.0.0{lowest}"),
            (Some(major), Some(minor), None) => format!(">={major}.{minor}.0{lowest}"),
            _ if from.pre.is_some() => format!(">={left}"),
            _ => format!(">={left}{lowest}"),
        };
        let upper = match (to.major, to.minor, to.patch) {
            (None, ..) => String::new(),
            (Some(major), None, _) => format!("<{}.0.0-0", major + 1),
            (Some(major), Some(minor), None) => format!("<{major}.{}.0-0", minor + 1),
            (Some(major), Some(minor), Some(patch)) => match (to.pre, inclusive) {
                (Some(pre), _) => format!("<={major}.{minor}.{patch}-{pre}"),
                (None, true) => format!("<{major}.{minor}.{}-0", patch + 1),
                (None, false) => format!("<={right}"),
            },
        };
        Some(format!("{lower} {upper}").trim().to_owned())
    })
}

/// Removes the spaces between an operator and its version: `>= 1.2` → `>=1.2`, `~> 1` → `~1`.
fn join_operators(part: &str) -> String {
    let mut joined = String::with_capacity(part.len());
    let mut rest = part;
    while let Some(first) = rest.chars().next() {
        let operator = rest.len() - rest.trim_start_matches(['<', '>']).len().max(rest.len() - 1);
        let equals = usize::from(rest[operator..].starts_with('='));
        let end = operator + equals;
        if end > 0 {
            let after = rest[end..].strip_prefix(' ').unwrap_or(&rest[end..]);
            let prefix = after.len() - after.trim_start_matches(['v', '=', ' ']).len();
            joined.push_str(&rest[..end]);
            rest = &rest[end..];
            if after[prefix..].starts_with(|ch: char| ch.is_ascii_digit() || matches!(ch, 'x' | 'X' | '*')) {
                joined.push_str(&after[..prefix]);
                rest = &after[prefix..];
            }
            continue;
        }
        joined.push(first);
        rest = &rest[first.len_utf8()..];
    }
    joined.replace("~> ", "~").replace("~ ", "~").replace("^ ", "^")
}

/// Expands carets, tildes and x-ranges into comparators separated by spaces. The result is empty if every version matches.
fn desugar(word: &str, inclusive: bool) -> String {
    let lowest = if inclusive { "-0" } else { "" };
    let tilde = word.strip_prefix('~').map(|rest| rest.strip_prefix('>').unwrap_or(rest));
    for (operator, rest) in [('^', word.strip_prefix('^')), ('~', tilde)] {
        if let Some(partial) = rest.and_then(Partial::parse) {
            return caret_or_tilde(operator, &partial, lowest);
        }
    }
    let operator = OPERATORS.iter().map(|(sign, _)| *sign).find(|sign| word.starts_with(sign)).unwrap_or_default();
    let Some(partial) = Partial::parse(&word[operator.len()..]) else { return word.to_owned() };
    x_range(word, operator, &partial, lowest)
}

fn caret_or_tilde(operator: char, Partial { major, minor, patch, pre }: &Partial<'_>, lowest: &str) -> String {
    let Some(major) = *major else { return String::new() };
    let next_major = || format!("<{}.0.0-0", major + 1);
    let Some(minor) = *minor else { return format!(">={major}.0.0{lowest} {}", next_major()) };
    let next_minor = || format!("<{major}.{}.0-0", minor + 1);
    let upper = match (operator, major, minor, patch) {
        ('^', 0, 0, Some(patch)) => format!("<0.0.{}-0", patch + 1),
        ('^', 1.., ..) => next_major(),
        _ => next_minor(),
    };
    match patch {
        None => format!(">={major}.{minor}.0{lowest} {upper}"),
        Some(patch) => format!(">={major}.{minor}.{patch}{} {upper}", pre.map(|pre| format!("-{pre}")).unwrap_or_default()),
    }
}

fn x_range(word: &str, operator: &str, partial: &Partial<'_>, lowest: &str) -> String {
    let Partial { major, minor, patch, .. } = *partial;
    // `x.1` and `1.x.2` are not ranges.
    if (major.is_none() && minor.is_some()) || (minor.is_none() && patch.is_some()) {
        return word.to_owned();
    }
    let Some(major) = major else {
        return if matches!(operator, "<" | ">") { "<0.0.0-0".to_owned() } else { String::new() };
    };
    if minor.is_some() && patch.is_some() {
        return word.to_owned();
    }
    let next = match minor {
        Some(minor) => format!("{major}.{}.0", minor + 1),
        None => format!("{}.0.0", major + 1),
    };
    let first = format!("{major}.{}.0", minor.unwrap_or(0));
    match operator {
        ">" => format!(">={next}{lowest}"),
        ">=" => format!(">={first}{lowest}"),
        "<=" => format!("<{next}-0"),
        "<" => format!("<{first}-0"),
        _ => format!(">={first}{lowest} <{next}-0"),
    }
}

fn comparator(word: &str) -> Option<Comparator> {
    let operators = OPERATORS.iter().find_map(|(sign, relation)| Some((*relation, word.strip_prefix(sign)?)));
    let (relation, rest) = operators.unwrap_or((Operator::Equal, word));
    let version = semver::Version::parse(rest.strip_prefix('v').unwrap_or(rest)).ok()?;
    let largest = version.major.max(version.minor).max(version.patch);
    (largest <= MAX_NUMBER).then_some(Comparator { relation, version })
}

/// Removes any remaining stars with the operator before them: npm reads `1.0.0-*.1` as `1.0.0-.1`.
fn without_stars(word: &str) -> Cow<'_, str> {
    let Some((before, last)) = word.rsplit_once('*') else { return Cow::Borrowed(word) };
    let parts = before.split('*').map(|part| part.strip_suffix('=').unwrap_or(part));
    let bare = parts.map(|part| part.strip_suffix(['<', '>']).unwrap_or(part));
    Cow::Owned(bare.chain([last]).collect())
}

/// A version with parts that may be missing or `x`.
struct Partial<'a> {
    major: Option<u64>,
    minor: Option<u64>,
    patch: Option<u64>,
    pre: Option<&'a str>,
}

impl<'a> Partial<'a> {
    /// Parses all of `text`. Returns `None` if it is not a partial version.
    fn parse(text: &'a str) -> Option<Self> {
        let text = text.trim_start_matches(|ch: char| ch == 'v' || ch == '=' || is_blank(ch));
        let (numbers, pre) = text.split_once('-').map_or((text, None), |(numbers, pre)| (numbers, Some(pre)));
        let parts = numbers.split('.').map(PartialPart::parse).collect::<Option<Vec<_>>>()?;
        let is_whole = parts.len() == 3;
        if parts.len() > 3 || pre.is_some_and(|pre| !is_whole || !is_prerelease(pre)) {
            return None;
        }
        let part = |position: usize| match parts.get(position) {
            Some(PartialPart::Number(number)) => Some(*number),
            Some(PartialPart::Any) | None => None,
        };
        Some(Self { major: part(0), minor: part(1), patch: part(2), pre })
    }
}

enum PartialPart {
    Number(u64),
    /// `x`, `X` or `*`.
    Any,
}

impl PartialPart {
    /// Parses one part. A number above npm's limit is kept above the limit, so that the comparator becomes invalid.
    fn parse(text: &str) -> Option<Self> {
        if matches!(text, "x" | "X" | "*") {
            return Some(Self::Any);
        }
        let padded = text.len() > 1 && text.starts_with('0');
        if text.is_empty() || padded || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        Some(Self::Number(text.parse::<u64>().unwrap_or(u64::MAX).min(MAX_NUMBER + 1)))
    }
}

fn is_prerelease(text: &str) -> bool {
    semver::Prerelease::new(text).is_ok_and(|pre| !pre.is_empty())
}

#[cfg(test)]
pub(crate) mod strategies {
    //! Strategies for similar versions and ranges.

    use proptest::prelude::*;

    pub(in crate::npm) fn version() -> impl Strategy<Value = String> {
        (0..4_u8, 0..3_u8, 0..3_u8, prop::option::of("(0|1|beta|rc\\.1)")).prop_map(|(major, minor, patch, pre)| match pre {
            Some(pre) => format!("{major}.{minor}.{patch}-{pre}"),
            None => format!("{major}.{minor}.{patch}"),
        })
    }

    pub(in crate::npm) fn range() -> impl Strategy<Value = String> {
        let operator = prop::sample::select(vec!["<", "<=", ">", ">=", "=", "^", "~", ""]);
        let comparator = (operator, version()).prop_map(|(operator, version)| format!("{operator}{version}"));
        let set = prop_oneof![
            prop::collection::vec(comparator, 1..3).prop_map(|set| set.join(" ")),
            (version(), version()).prop_map(|(from, to)| format!("{from} - {to}")),
            Just("*".to_owned()),
            Just("1.x".to_owned()),
        ];
        prop::collection::vec(set, 1..4).prop_map(|sets| sets.join(" || "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matched(range: &str, version: &str) -> Option<(bool, bool)> {
        let (range, version) = (Range::parse(range)?, Version::parse(version).unwrap());
        Some((range.matches(&version), range.covers(&version)))
    }

    /// The expected values are those of npm's `semver` 7.8.5: `satisfies`, without and with `includePrerelease`.
    #[test]
    fn ranges_match_as_in_npm() {
        let (yes, no, covered) = (Some((true, true)), Some((false, false)), Some((false, true)));
        for (range, version, says) in [
            ("^1.2.0", "1.9.0", yes),
            ("^1.2.0", "2.0.0", no),
            ("^1.2.0", "1.9.0-beta.1", covered),
            ("^1.2.0", "2.0.0-beta.1", no),
            ("<2.0.0", "1.9.9-beta.1", covered),
            ("<2.0.0", "2.0.0-rc.1", covered),
            ("4.x", "4.0.0-alpha", covered),
            ("~4.1", "4.1.0-alpha", covered),
            ("4", "4.9.1", yes),
            ("*", "4.0.0-alpha", covered),
            ("", "1.0.0", yes),
            ("^1.2.3-alpha", "1.2.3-beta", yes),
            ("^1.2.3-alpha", "1.2.4-beta", covered),
            ("^1.2.3-alpha || *", "1.2.3-beta", covered),
            ("1.2 - 3.4", "3.4.9", yes),
            ("1.2.3 - 3.4.5", "3.4.5-rc.1", covered),
            (">1.2", "1.2.9", no),
            (">1.2", "1.3.0", yes),
            ("<=1.2", "1.2.9", yes),
            ("<1.2", "1.2.0-0", no),
            ("> =1.2.3", "1.2.3", yes),
            ("> = 1.2.3", "1.2.3", None),
            ("~> 1.2", "1.2.7", yes),
            ("^0.0.3", "0.0.4", no),
            ("^0.2.3", "0.2.9", yes),
            ("0.1.x || 1.5", "1.5.3", yes),
            (">x", "1.0.0", no),
            ("=v1.2.3+build", "1.2.3+other", yes),
            (">=1.0.0 <1.0.0", "1.0.0", no),
            ("3.0.0-rc5", "3.0.0rc5", yes),
            ("^3.0.0-rc1", "3.0.0rc5", yes),
            ("x.1", "1.1.0", None),
            ("1.x.2", "1.1.2", None),
            ("01.2.3", "1.2.3", None),
            ("not a range", "1.0.0", None),
            ("latest", "1.0.0", None),
            ("^9007199254740991.0.0", "1.0.0", None),
            ("1.2.3.4", "1.2.3", None),
        ] {
            assert_eq!(matched(range, version), says, "{version} in {range:?}");
        }
    }

    #[test]
    fn impossible_ranges_are_detected() {
        for impossible in [">2 <1", "<0.0.0-0", ">x", ">=1.0.0 <1.0.0", "1.2.3 1.2.4", ">2 <1 || >4 <3"] {
            assert!(Range::parse(impossible).unwrap().is_impossible(), "{impossible}");
        }
        for possible in ["*", "^1", ">=1.0.0 <=1.0.0", ">2 <1 || 3", "<1.0.0"] {
            assert!(!Range::parse(possible).unwrap().is_impossible(), "{possible}");
        }
    }
}
