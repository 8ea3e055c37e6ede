//! Affected versions of an advisory: OSV range events converted to spans of versions.

use std::cmp::Ordering;

use crate::npm::Version;

/// One event of an OSV range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RangeEvent {
    /// Affected from this version on. `0` is before every version.
    Introduced(Box<str>),
    /// Not affected from this version on.
    Fixed(Box<str>),
    LastAffected(Box<str>),
    /// The range says nothing about this version and later ones. `*` is no limit.
    Limit(Box<str>),
}

/// Where a span of versions ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RangeEnd {
    /// No end: every later version is affected.
    Open,
    /// Before this version, which is not affected (a `fixed` event).
    Before(Version),
    Through(Version),
}

/// A span of affected versions in SemVer precedence order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AffectedRange {
    /// The first affected version. `None` is before every version (`0`).
    pub from: Option<Version>,
    pub end: RangeEnd,
}

impl AffectedRange {
    /// Every version, including future ones.
    pub const EVERYTHING: Self = Self { from: None, end: RangeEnd::Open };

    /// Converts the events of one range to spans, in version order with `0` first, as OSV evaluates them. Also returns the number
    /// of unreadable events.
    ///
    /// Unreadable events count as the worse case: an unreadable `introduced` is `0`, an unreadable end is ignored.
    pub(crate) fn from_events(events: &[RangeEvent]) -> (Vec<Self>, usize) {
        let mut unreadable = 0;
        let mut read = |text: &str| {
            parse(text).unwrap_or_else(|Unreadable| {
                unreadable += 1;
                None
            })
        };
        let mut limits = Vec::new();
        let mut marks = Vec::new();
        for event in events {
            match event {
                RangeEvent::Introduced(text) => marks.push((read(text), RangeMark::Introduced)),
                RangeEvent::Fixed(text) => marks.extend(read(text).map(|version| (Some(version), RangeMark::Fixed))),
                RangeEvent::LastAffected(text) => {
                    marks.extend(read(text).map(|version| (Some(version), RangeMark::LastAffected)));
                }
                RangeEvent::Limit(text) if **text == *"*" => limits.push(None),
                RangeEvent::Limit(text) => limits.push(read(text)),
            }
        }
        // Stable sort: events at the same version keep their order.
        marks.sort_by(|(left, _), (right, _)| compare(left.as_ref(), right.as_ref()));
        let mut spans = connect(marks);
        if let Some(limit) = highest_limit(limits) {
            spans.retain(|span| compare(span.from.as_ref(), Some(&limit)) == Ordering::Less);
            for span in &mut spans {
                span.cut(&limit);
            }
        }
        (spans, unreadable)
    }

    pub(crate) fn contains(&self, version: &Version) -> bool {
        let begun = self.from.as_ref().is_none_or(|from| from.precedence(version) != Ordering::Greater);
        begun
            && match &self.end {
                RangeEnd::Open => true,
                RangeEnd::Before(end) => version.precedence(end) == Ordering::Less,
                RangeEnd::Through(end) => version.precedence(end) != Ordering::Greater,
            }
    }

    /// Checks whether the span contains every version, including unpublished ones.
    pub(crate) fn is_unbounded(&self) -> bool {
        self.end == RangeEnd::Open && self.from.as_ref().is_none_or(Version::is_lowest)
    }

    /// Formats the span as an npm range: `>=1.2.0 <1.2.9`, `*`.
    pub(crate) fn to_range(&self) -> String {
        let from = self.from.as_ref().map(|from| format!(">={from}"));
        let end = match &self.end {
            RangeEnd::Open => None,
            RangeEnd::Before(end) => Some(format!("<{end}")),
            RangeEnd::Through(end) => Some(format!("<={end}")),
        };
        match (from, end) {
            (None, None) => "*".to_owned(),
            (from, end) => from.into_iter().chain(end).collect::<Vec<_>>().join(" "),
        }
    }

    fn cut(&mut self, limit: &Version) {
        let within = match &self.end {
            RangeEnd::Open => false,
            RangeEnd::Before(end) => end.precedence(limit) != Ordering::Greater,
            RangeEnd::Through(end) => end.precedence(limit) == Ordering::Less,
        };
        if !within {
            self.end = RangeEnd::Before(limit.clone());
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum RangeMark {
    Introduced,
    Fixed,
    LastAffected,
}

/// Connects sorted events to spans.
fn connect(marks: Vec<(Option<Version>, RangeMark)>) -> Vec<AffectedRange> {
    let mut spans = Vec::new();
    let mut open: Option<Option<Version>> = None;
    for (at, mark) in marks {
        match (mark, open.take()) {
            (RangeMark::Introduced, None) => open = Some(at),
            (RangeMark::Introduced, already) => open = already,
            (RangeMark::Fixed, Some(from)) => spans.extend(at.map(|end| AffectedRange { from, end: RangeEnd::Before(end) })),
            (RangeMark::LastAffected, Some(from)) => {
                spans.extend(at.map(|end| AffectedRange { from, end: RangeEnd::Through(end) }));
            }
            (RangeMark::Fixed | RangeMark::LastAffected, None) => {}
        }
    }
    spans.extend(open.map(|from| AffectedRange { from, end: RangeEnd::Open }));
    spans
}

/// Returns the highest limit. Returns `None` if there is none or one of them is `*`.
fn highest_limit(limits: Vec<Option<Version>>) -> Option<Version> {
    limits.into_iter().collect::<Option<Vec<_>>>()?.into_iter().max_by(Version::precedence)
}

/// Compares by precedence. `None` (`0`) comes first.
fn compare(left: Option<&Version>, right: Option<&Version>) -> Ordering {
    match (left, right) {
        (Some(left), Some(right)) => left.precedence(right),
        (left, right) => left.is_some().cmp(&right.is_some()),
    }
}

/// The text of an event is not a version.
struct Unreadable;

/// Parses the version of an event. Returns `None` for `0`. Some sources omit trailing numbers (`1.4`).
fn parse(text: &str) -> Result<Option<Version>, Unreadable> {
    let text = text.trim();
    if text == "0" {
        return Ok(None);
    }
    let dots = text.matches('.').count();
    let full = || format!("{text}{}", ".0".repeat(2_usize.saturating_sub(dots)));
    Version::parse(text).or_else(|| Version::parse(&full())).map(Some).ok_or(Unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(events: &[(&str, &str)]) -> Vec<String> {
        read(events).0.iter().map(AffectedRange::to_range).collect()
    }

    fn read(events: &[(&str, &str)]) -> (Vec<AffectedRange>, usize) {
        let event = |(kind, version): &(&str, &str)| match *kind {
            "introduced" => RangeEvent::Introduced((*version).into()),
            "fixed" => RangeEvent::Fixed((*version).into()),
            "limit" => RangeEvent::Limit((*version).into()),
            _ => RangeEvent::LastAffected((*version).into()),
        };
        AffectedRange::from_events(&events.iter().map(event).collect::<Vec<_>>())
    }

    #[test]
    fn events_are_evaluated_in_version_order_with_zero_first() {
        assert_eq!(spans(&[("introduced", "0")]), ["*"]);
        assert_eq!(spans(&[("fixed", "1.2.9"), ("introduced", "1.2.0")]), [">=1.2.0 <1.2.9"]);
        assert_eq!(spans(&[("introduced", "4.1.1"), ("last_affected", "4.1.2")]), [">=4.1.1 <=4.1.2"]);
        let two = [("introduced", "2.0.0"), ("fixed", "1.0.1"), ("introduced", "0"), ("fixed", "2.0.5")];
        assert_eq!(spans(&two), ["<1.0.1", ">=2.0.0 <2.0.5"]);
        let touching = [("introduced", "0"), ("fixed", "1.0.0"), ("introduced", "1.0.0"), ("fixed", "2.0.0")];
        assert_eq!(spans(&touching), ["<1.0.0", ">=1.0.0 <2.0.0"]);
        assert_eq!(spans(&[("fixed", "1.0.0")]), [""; 0]);
        assert_eq!(spans(&[("introduced", "0"), ("limit", "3.0.0")]), ["<3.0.0"]);
        assert_eq!(spans(&[("introduced", "0"), ("limit", "3.0.0"), ("limit", "*")]), ["*"]);
    }

    #[test]
    fn prereleases_are_ordered_by_semver_precedence() {
        let (spans, _) = read(&[("introduced", "1.0.0"), ("fixed", "2.0.0")]);
        let within = |text: &str| spans[0].contains(&Version::parse(text).unwrap());
        assert!(within("1.0.0") && within("2.0.0-rc.1") && within("1.5.0-x"));
        assert!(!within("1.0.0-rc.1") && !within("2.0.0") && !within("0.9.9"));
        let (everything, _) = read(&[("introduced", "0")]);
        assert!(everything[0].contains(&Version::parse("0.0.0-alpha").unwrap()));
    }

    #[test]
    fn unreadable_events_count_as_the_worse_case() {
        let (spans, unreadable) = read(&[("introduced", "since ever"), ("fixed", "soon")]);
        assert_eq!((spans, unreadable), (vec![AffectedRange::EVERYTHING], 2));
        assert_eq!(self::spans(&[("introduced", "1"), ("fixed", "1.4")]), [">=1.0.0 <1.4.0"]);
    }

    #[test]
    fn every_spelling_of_zero_is_the_beginning() {
        for zero in ["0", "0.0.0", "0.0.0-0"] {
            assert!(read(&[("introduced", zero)]).0[0].is_unbounded(), "{zero}");
        }
        assert!(!read(&[("introduced", "0.0.1")]).0[0].is_unbounded());
        assert!(!read(&[("introduced", "0"), ("fixed", "9.0.0")]).0[0].is_unbounded());
    }
}
