//! Parses durations and sizes. Numbers without a unit are rejected: reading days as minutes would let releases through too early.

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

/// The flaws of a duration or size. Each continues a sentence that starts with the setting's name.
const EMPTY: &str = "is empty";
const WITHOUT_UNIT: &str = "lacks a unit";
/// An unknown unit, or no number before it.
const UNREADABLE: &str = "cannot be read";
const TOO_LARGE: &str = "is too large";

/// Parses a duration: `45s`, `90m`, `72h`, `7d`, `2w`, `1d12h`.
/// Rejects more than a hundred years.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    let parts = parts(text, DURATIONS)?;
    // `12h1d` and `1h1h` are probably typos.
    if parts.windows(2).any(|pair| matches!(pair, [(_, left), (_, right)] if left <= right)) {
        return Err(UNREADABLE);
    }
    let seconds = total(&parts)?;
    if seconds > MAX_SECONDS { Err(TOO_LARGE) } else { Ok(Duration::from_secs(seconds)) }
}

/// Parses a size in bytes: `GB` is 10⁹ bytes, `GiB` is 2³⁰ bytes. Units are case-insensitive.
/// Rejects sizes above 63 bits.
pub(crate) fn parse_size(text: &str) -> Result<u64, &'static str> {
    let parts = parts(text, SIZES)?;
    if parts.len() != 1 {
        return Err(UNREADABLE);
    }
    let bytes = total(&parts)?;
    if i64::try_from(bytes).is_err() { Err(TOO_LARGE) } else { Ok(bytes) }
}

/// Splits `text` into numbers, each with the factor of its unit.
fn parts(text: &str, units: &[(&str, u64)]) -> Result<Vec<(u64, u64)>, &'static str> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(EMPTY);
    }
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let after = after.trim_start();
        if number.is_empty() {
            return Err(UNREADABLE);
        }
        if after.is_empty() {
            return Err(WITHOUT_UNIT);
        }
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at(letters);
        let known = units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit));
        let factor = known.map(|(_, factor)| *factor).ok_or(UNREADABLE)?;
        parts.push((number.parse().map_err(|_| TOO_LARGE)?, factor));
        rest = after.trim_start();
    }
    Ok(parts)
}

fn total(parts: &[(u64, u64)]) -> Result<u64, &'static str> {
    let sum = |sum: u64, (number, factor): &(u64, u64)| number.checked_mul(*factor).and_then(|part| sum.checked_add(part));
    parts.iter().try_fold(0, sum).ok_or(TOO_LARGE)
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
            ("", EMPTY),
            ("72", WITHOUT_UNIT),
            ("0", WITHOUT_UNIT),
            ("1d12", WITHOUT_UNIT),
            ("72 hours", UNREADABLE),
            ("h", UNREADABLE),
            ("-1h", UNREADABLE),
            ("1.5d", UNREADABLE),
            ("12h1d", UNREADABLE),
            ("1h1h", UNREADABLE),
            ("3y", UNREADABLE),
            ("99999999999999999999s", TOO_LARGE),
            ("18446744073709551615w", TOO_LARGE),
            ("101w99999d", TOO_LARGE),
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
            ("10", WITHOUT_UNIT),
            ("10G", UNREADABLE),
            ("1GB1MB", UNREADABLE),
            ("9999999TiB", TOO_LARGE),
            ("99999999TiB", TOO_LARGE),
        ] {
            assert_eq!(parse_size(text), Err(error), "{text}");
        }
    }
}
