//! Versions with npm's parsing rules.

use std::cmp::Ordering;
use std::fmt;

/// A version: the text as npm wrote it and its SemVer value.
///
/// Loose versions of npm's early years (`1.0.0beta`, `v1.2.3`) are parsed too. `as_str` returns the original text, the key.
#[derive(Debug, Clone)]
pub struct Version {
    text: Box<str>,
    /// The SemVer value.
    pub(crate) parsed: semver::Version,
}

/// The largest number npm's `semver` accepts in a version (`Number.MAX_SAFE_INTEGER`).
pub(crate) const MAX_NUMBER: u64 = 9_007_199_254_740_991;

impl Version {
    /// Parses a version strictly, then as in npm's loose mode. Returns `None` if npm would reject it too.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > 256 {
            return None;
        }
        let parsed = semver::Version::parse(text).ok().or_else(|| semver::Version::parse(&normalize_loose(text)?).ok())?;
        if parsed.major.max(parsed.minor).max(parsed.patch) > MAX_NUMBER {
            return None;
        }
        Some(Self { text: text.into(), parsed })
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn is_prerelease(&self) -> bool {
        !self.parsed.pre.is_empty()
    }

    /// Returns the prerelease channel: its leading letters (`beta` of `2.0.0-beta.3`), maybe none; `None` for a stable version.
    pub(crate) fn prerelease_channel(&self) -> Option<&str> {
        if !self.is_prerelease() {
            return None;
        }
        // `canary-97bffa77-20260101` and `rc5` have no dot, so the channel ends at the first non-letter.
        let pre = self.parsed.pre.as_str();
        let end = pre.find(|ch: char| !ch.is_ascii_alphabetic()).unwrap_or(pre.len());
        Some(&pre[..end])
    }

    /// Compares by SemVer precedence alone, ignoring build metadata and spelling.
    pub(crate) fn precedence(&self, other: &Self) -> Ordering {
        self.parsed.cmp_precedence(&other.parsed)
    }

    /// Checks whether this is `0.0.0` or a prerelease of it: in practice nothing is published below.
    pub(crate) fn is_lowest(&self) -> bool {
        (self.parsed.major, self.parsed.minor, self.parsed.patch) == (0, 0, 0)
    }
}

/// Rewrites a loose version: drops a leading `v` or `=`, spaces and leading zeros, and adds a missing hyphen (`1.0.0beta`).
fn normalize_loose(text: &str) -> Option<String> {
    let text = text.trim().trim_start_matches(['v', '=', ' ']);
    let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
    let mut rest = text;
    let mut numbers = Vec::with_capacity(3);
    for part in 0..3 {
        let end = rest.find(|ch: char| !ch.is_ascii_digit()).unwrap_or(rest.len());
        numbers.push(rest[..end].parse::<u64>().ok()?);
        rest = &rest[end..];
        if part < 2 {
            rest = rest.strip_prefix('.')?;
        }
    }
    let pre = rest.strip_prefix('-').unwrap_or(rest);
    let pre = pre.split('.').map(unpad).collect::<Vec<_>>().join(".");
    let pre = if pre.is_empty() { pre } else { format!("-{pre}") };
    let build = build.map(|build| format!("+{build}")).unwrap_or_default();
    Some(format!("{}.{}.{}{pre}{build}", numbers[0], numbers[1], numbers[2]))
}

/// Removes leading zeros of a numeric identifier, which npm's loose mode accepts and SemVer does not.
fn unpad(identifier: &str) -> &str {
    if identifier.len() < 2 || !identifier.bytes().all(|byte| byte.is_ascii_digit()) {
        return identifier;
    }
    let bare = identifier.trim_start_matches('0');
    if bare.is_empty() { "0" } else { bare }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Version {}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    /// Compares by SemVer precedence (without build metadata), then by text, so that the order is total.
    fn cmp(&self, other: &Self) -> Ordering {
        self.parsed.cmp_precedence(&other.parsed).then_with(|| self.text.cmp(&other.text))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        Version::parse(text).unwrap()
    }

    fn strict(text: &str) -> String {
        version(text).parsed.to_string()
    }

    #[test]
    fn loose_versions_parse_as_in_npm() {
        assert_eq!(strict("1.0.0beta"), "1.0.0-beta");
        assert_eq!(strict("3.0.0rc5"), "3.0.0-rc5");
        assert_eq!(strict("v1.2.3"), "1.2.3");
        assert_eq!(strict("1.0.0-beta.01"), "1.0.0-beta.1");
        assert!(Version::parse("1.2").is_none());
        assert!(Version::parse("9007199254740992.0.0").is_none());
        assert!(Version::parse("").is_none());
    }

    #[test]
    fn order_is_precedence_and_then_text() {
        assert!(version("1.0.0-rc.1") < version("1.0.0"));
        assert!(version("1.9.0") < version("1.10.0"));
        assert!(version("1.0.0+a") < version("1.0.0+b"));
    }

    #[test]
    fn channel_is_the_leading_word_of_a_prerelease() {
        assert_eq!(version("2.0.0-beta.3").prerelease_channel(), Some("beta"));
        assert_eq!(version("3.0.0-rc5").prerelease_channel(), Some("rc"));
        assert_eq!(version("3.0.0-0").prerelease_channel(), Some(""));
        assert_eq!(version("19.3.0-canary-97bffa77-20260101").prerelease_channel(), Some("canary"));
        assert_eq!(version("3.0.0").prerelease_channel(), None);
    }
}
