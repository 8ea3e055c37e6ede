//! Parses durations and sizes. Numbers without a unit are rejected: reading days as minutes would let releases through too early.

use std::fmt;
use std::time::Duration;

/// The longest duration in seconds: a hundred years, so that adding it to a timestamp cannot overflow.
const MAX_SECONDS: u64 = 100 * 365 * 86_400;

const DURATIONS: &[(&str, u64)] = &[("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400), ("w", 7 * 86_400)];

const SIZES: &[(&str, u64)] = &[
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// An invalid duration or size. The text continues a sentence that starts with the setting's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuantityError {
    Empty,
    /// A number without a unit.
    Bare,
    /// An unknown unit, or no number before it.
    Unreadable,
    TooLarge,
}

impl fmt::Display for QuantityError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Empty => "is empty",
            Self::Bare => "lacks a unit",
            Self::Unreadable => "cannot be read",
            Self::TooLarge => "is too large",
        })
    }
}

/// Parses a duration: `45s`, `90m`, `72h`, `7d`, `2w`, `1d12h`.
///
/// # Errors
/// Returns an error for a number without a unit, an unknown unit, or more than a hundred years.
pub fn parse_duration(text: &str) -> Result<Duration, QuantityError> {
    let parts = parts(text, DURATIONS)?;
    // `12h1d` and `1h1h` are probably typos.
    if parts.windows(2).any(|pair| matches!(pair, [(_, left), (_, right)] if left <= right)) {
        return Err(QuantityError::Unreadable);
    }
    let seconds = total(&parts)?;
    if seconds > MAX_SECONDS { Err(QuantityError::TooLarge) } else { Ok(Duration::from_secs(seconds)) }
}

/// Parses a size in bytes: `GB` is 10⁹ bytes, `GiB` is 2³⁰ bytes. Units are case-insensitive.
///
/// # Errors
/// Returns an error for a number without a unit, an unknown unit, or a size above 63 bits.
pub fn parse_size(text: &str) -> Result<u64, QuantityError> {
    let parts = parts(text, SIZES)?;
    if parts.len() != 1 {
        return Err(QuantityError::Unreadable);
    }
    let bytes = total(&parts)?;
    if i64::try_from(bytes).is_err() { Err(QuantityError::TooLarge) } else { Ok(bytes) }
}

/// Splits `text` into numbers, each with the factor of its unit.
fn parts(text: &str, units: &[(&str, u64)]) -> Result<Vec<(u64, u64)>, QuantityError> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(QuantityError::Empty);
    }
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let after = after.trim_start();
        if number.is_empty() {
            return Err(QuantityError::Unreadable);
        }
        if after.is_empty() {
            return Err(QuantityError::Bare);
        }
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at(letters);
        let known = units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit));
        let factor = known.map(|(_, factor)| *factor).ok_or(QuantityError::Unreadable)?;
        parts.push((number.parse().map_err(|_| QuantityError::TooLarge)?, factor));
        rest = after.trim_start();
    }
    Ok(parts)
}

fn total(parts: &[(u64, u64)]) -> Result<u64, QuantityError> {
    parts
        .iter()
        .try_fold(0_u64, |sum, (number, factor)| number.checked_mul(*factor).and_then(|part| sum.checked_add(part)))
        .ok_or(QuantityError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_with_units_parse() {
        let read = |text| parse_duration(text).map(|duration| duration.as_secs());
        for (text, seconds) in [
            ("72h", 259_200),
            ("7d", 604_800),
            ("90m", 5_400),
            ("45s", 45),
            ("0s", 0),
            ("2w", 1_209_600),
            ("1d12h", 129_600),
            ("1d 12h", 129_600),
            (" 3 D ", 259_200),
        ] {
            assert_eq!(read(text), Ok(seconds), "{text}");
        }
    }

    #[test]
    fn invalid_durations_are_rejected() {
        for (text, error) in [
            ("", QuantityError::Empty),
            ("72", QuantityError::Bare),
            ("0", QuantityError::Bare),
            ("1d12", QuantityError::Bare),
            ("72 hours", QuantityError::Unreadable),
            ("h", QuantityError::Unreadable),
            ("-1h", QuantityError::Unreadable),
            ("1.5d", QuantityError::Unreadable),
            ("12h1d", QuantityError::Unreadable),
            ("1h1h", QuantityError::Unreadable),
            ("3y", QuantityError::Unreadable),
            ("99999999999999999999s", QuantityError::TooLarge),
            ("18446744073709551615w", QuantityError::TooLarge),
            ("101w99999d", QuantityError::TooLarge),
        ] {
            assert_eq!(parse_duration(text), Err(error), "{text}");
        }
    }

    #[test]
    fn decimal_and_binary_sizes_parse() {
        for (text, bytes) in
            [("10GB", 10_000_000_000), ("512MB", 512_000_000), ("128MiB", 134_217_728), ("0B", 0), ("1 gib", 1 << 30)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for (text, error) in [
            ("10", QuantityError::Bare),
            ("10G", QuantityError::Unreadable),
            ("1GB1MB", QuantityError::Unreadable),
            ("9999999TiB", QuantityError::TooLarge),
            ("99999999TiB", QuantityError::TooLarge),
        ] {
            assert_eq!(parse_size(text), Err(error), "{text}");
        }
    }
}
