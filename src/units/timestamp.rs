//! Parses and formats timestamps and ages.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// Parses an entry of `time`: RFC 3339 in any precision and offset (mirrors write `+00:00` and microseconds).
/// Returns `None` for a date without a time or without an offset.
pub(crate) fn parse(text: &str) -> Option<Timestamp> {
    text.trim().parse().ok()
}

/// Formats a timestamp in UTC to the minute: `2026-04-03 00:21 UTC`. The format is absolute, so that responses containing it do not change over time. Seconds are cut off; use [`format_utc_ceil`]
/// for the time at which something opens.
pub(crate) fn format_utc(instant: Timestamp) -> String {
    let text = instant.to_string();
    format!("{} {} UTC", text.get(..10).unwrap_or(&text), text.get(11..16).unwrap_or("00:00"))
}

/// Formats a timestamp rounded up to the next whole minute, so that an opening time is never stated too early.
pub(crate) fn format_utc_ceil(instant: Timestamp) -> String {
    format_utc(instant.checked_add(SignedDuration::from_millis(59_999)).unwrap_or(instant))
}

/// Returns `instant + age`, or the latest timestamp on overflow.
pub fn saturating_add(instant: Timestamp, age: Duration) -> Timestamp {
    SignedDuration::try_from(age).ok().and_then(|age| instant.checked_add(age).ok()).unwrap_or(Timestamp::MAX)
}

/// Checks whether `now` is in the span that starts at `since`. A clock set back before `since` is outside.
pub(crate) fn is_within(since: Timestamp, span: Duration, now: Timestamp) -> bool {
    since <= now && now < saturating_add(since, span)
}

/// Returns `instant - age`, or the earliest timestamp on overflow.
pub fn saturating_sub(instant: Timestamp, age: Duration) -> Timestamp {
    SignedDuration::try_from(age).ok().and_then(|age| instant.checked_sub(age).ok()).unwrap_or(Timestamp::MIN)
}

/// Formats a duration in its largest whole unit: `72 h`, `7 d`, `90 min`, `45 s`.
pub(crate) fn format_duration(age: Duration) -> String {
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
    fn mirror_and_registry_timestamps_are_equal() {
        let mirror = parse("2026-04-10T01:50:08.860000+00:00").unwrap();
        let registry = parse("2026-04-10T01:50:08.860Z").unwrap();
        assert_eq!(mirror, registry);
        assert_eq!(format_utc(registry), "2026-04-10 01:50 UTC");
        assert_eq!(format_utc_ceil(registry), "2026-04-10 01:51 UTC");
        for invalid in ["", "yesterday", "2026-04-10", "2026-04-10T01:50:08", "1712713808"] {
            assert_eq!(parse(invalid), None, "{invalid}");
        }
    }

    #[test]
    fn ages_are_formatted_in_whole_units() {
        let formatted = [72 * 3600, 7 * 86_400, 5400, 45, 0].map(|seconds| format_duration(Duration::from_secs(seconds)));
        assert_eq!(formatted, ["72 h", "7 d", "90 min", "45 s", "0 s"]);
    }
}
