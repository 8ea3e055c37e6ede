//! Texts and durations of requests, parsed once. They are printed in terminals, pages, logs and messages.

use std::fmt;
use std::time::Duration;

use crate::text::single_line;
use crate::units::quantity;

/// The longest period that can be asked for or approved.
pub(crate) const MAX_PERIOD: Duration = Duration::from_secs(365 * 24 * 3600);

/// One visible line of at most `MAX` bytes, which is not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShortText<const MAX: usize>(Box<str>);

/// Why a person asks.
pub type RequestReason = ShortText<500>;

/// The project that needs the version, such as a repository.
pub type ProjectName = ShortText<120>;

/// Why a person decided. It is sent in HTTP headers of refusals, so it is shorter.
pub type DecidingReason = ShortText<250>;

impl<const MAX: usize> ShortText<MAX> {
    /// Parses a text. Surrounding white space is removed.
    ///
    /// # Errors
    /// Returns what is expected if it is empty, too long, or has characters that are invisible or control a terminal.
    pub fn parse(text: &str) -> Result<Self, String> {
        // The length comes first, so that a large text costs nothing.
        let text = if text.len() <= 2 * MAX { text.trim() } else { text };
        if text.is_empty() {
            return Err("expected a text, found none".to_owned());
        }
        if text.len() > MAX || single_line(text) != text {
            return Err(format!("expected one line of at most {MAX} bytes, without control characters and invisible ones"));
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<const MAX: usize> fmt::Display for ShortText<MAX> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Parses how long an approval is needed, such as `30d`.
///
/// # Errors
/// Returns what is expected if it is no duration, zero, or longer than a year.
pub fn parse_period(text: &str) -> Result<Duration, String> {
    let expected = || "expected a duration of at most 365d, such as `8h`, `30d`".to_owned();
    let period = quantity::parse_duration(text).map_err(|_| expected())?;
    if period.is_zero() || period > MAX_PERIOD { Err(expected()) } else { Ok(period) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_one_visible_line_of_bounded_length() {
        assert_eq!(RequestReason::parse("  we need the fix, INC-7 ").unwrap().as_str(), "we need the fix, INC-7");
        assert!(RequestReason::parse("für Zoë").is_ok() && RequestReason::parse(&"x".repeat(500)).is_ok());
        for text in
            ["", " ", "a\nb", "a\u{1b}[2J", "a\u{202e}b", "a\u{200b}b", "a\0", "a\rb", &"x".repeat(501), &"x".repeat(64 << 10)]
        {
            assert!(RequestReason::parse(text).is_err(), "{}", text.escape_debug().take(40).collect::<String>());
        }
        assert!(ProjectName::parse("acme/web\n::error::x").is_err());
    }

    #[test]
    fn period_is_bounded() {
        assert_eq!(parse_period("30d"), Ok(Duration::from_secs(30 * 24 * 3600)));
        for text in ["", "0s", "366d", "-1d", "99999999999999999999d", "30"] {
            assert!(parse_period(text).is_err(), "{text}");
        }
    }
}
