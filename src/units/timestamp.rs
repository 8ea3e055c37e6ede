//! Instants as packuments write them and as people read them. Refuses to know what time it is now.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// Parses an entry of `time`: RFC 3339 in any precision and offset (mirrors write `+00:00` and microseconds).
///
/// A date without a time, or without an offset, is no instant and yields `None`.
#[must_use]
pub fn parse(text: &str) -> Option<Timestamp> {
    text.trim().parse().ok()
}

/// An instant for people, always UTC and to the minute: `2026-04-03 00:21 UTC`.
///
/// Absolute, so that bytes that hold it do not change by themselves. Rounded up when `seconds` are left over, so that
/// "opens at" is never told too early.
#[must_use]
pub fn tell(instant: Timestamp) -> String {
    let text = instant.to_string();
    format!("{} {} UTC", text.get(..10).unwrap_or(&text), text.get(11..16).unwrap_or("00:00"))
}

/// Like [`tell`], rounded up to the next whole minute: for the moment at which something opens.
#[must_use]
pub fn tell_opening(instant: Timestamp) -> String {
    tell(instant.checked_add(SignedDuration::from_millis(59_999)).unwrap_or(instant))
}

/// `instant + age`, at the end of time when it would not fit.
#[must_use]
pub fn after(instant: Timestamp, age: Duration) -> Timestamp {
    SignedDuration::try_from(age).ok().and_then(|age| instant.checked_add(age).ok()).unwrap_or(Timestamp::MAX)
}

/// Whether `now` is in the span that begins `since`; a clock that was set back is not.
#[must_use]
pub fn is_within(since: Timestamp, span: Duration, now: Timestamp) -> bool {
    since <= now && now < after(since, span)
}

/// `instant - age`, at the beginning of time when it would not fit.
#[must_use]
pub fn before(instant: Timestamp, age: Duration) -> Timestamp {
    SignedDuration::try_from(age).ok().and_then(|age| instant.checked_sub(age).ok()).unwrap_or(Timestamp::MIN)
}

/// A duration for people, in its largest whole units: `72 h`, `7 d`, `90 min`, `45 s`.
#[must_use]
pub fn tell_age(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0 => "0 s".to_owned(),
        _ if seconds.is_multiple_of(86_400) && seconds > 3 * 86_400 => format!("{} d", seconds / 86_400),
        _ if seconds.is_multiple_of(3_600) => format!("{} h", seconds / 3_600),
        _ if seconds.is_multiple_of(60) => format!("{} min", seconds / 60),
        _ => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_and_the_registry_write_instants_differently() {
        let mirror = parse("2026-04-10T01:50:08.860000+00:00").unwrap();
        let registry = parse("2026-04-10T01:50:08.860Z").unwrap();
        assert_eq!(mirror, registry);
        assert_eq!(tell(registry), "2026-04-10 01:50 UTC");
        assert_eq!(tell_opening(registry), "2026-04-10 01:51 UTC");
        for wrong in ["", "yesterday", "2026-04-10", "2026-04-10T01:50:08", "1712713808"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn ages_are_told_in_whole_units() {
        let told = [72 * 3600, 7 * 86_400, 5400, 45, 0].map(|seconds| tell_age(Duration::from_secs(seconds)));
        assert_eq!(told, ["72 h", "7 d", "90 min", "45 s", "0 s"]);
    }
}
