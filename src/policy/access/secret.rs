//! The text of access tokens: a prefix that secret scanners find, 256 random bits, and a checksum. Only a hash is stored.

use std::fmt;
use std::sync::LazyLock;

use aho_corasick::AhoCorasick;
use aws_lc_rs::digest::{SHA256, digest};

/// The start of every access token, for secret scanners. No other credential of npm starts with it.
pub const PREFIX: &str = "cfr_";

/// Bytes of randomness. They cannot be guessed, so a fast hash protects them at rest. A slow hash would only cost the server time
/// on each request.
pub const RANDOM_BYTES: usize = 32;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Digits of 256 bits, and of a CRC-32, in base 62.
const RANDOM_DIGITS: usize = 43;
const CHECKSUM_DIGITS: usize = 6;

/// The length of a token in bytes.
pub const TOKEN_BYTES: usize = PREFIX.len() + RANDOM_DIGITS + CHECKSUM_DIGITS;

/// The SHA-256 of a token, as stored. It tells nothing about the token.
pub type TokenHash = [u8; 32];

/// A token in plain text. It is shown once, when it is created.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenSecret(String);

impl TokenSecret {
    /// Creates a token from random bytes.
    pub fn from_random(random: [u8; RANDOM_BYTES]) -> Self {
        let mut text = String::with_capacity(TOKEN_BYTES);
        text.push_str(PREFIX);
        push_base62(&mut text, random.to_vec(), RANDOM_DIGITS);
        let checksum = checksum(&text);
        text.push_str(&checksum);
        Self(text)
    }

    /// Returns the token, for the one place that shows it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    pub fn hash(&self) -> TokenHash {
        hash(self.0.as_bytes())
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("TokenSecret(…)")
    }
}

/// Returns the hash of a well-formed token. A text with a wrong length, character or checksum has none, so that a typing error
/// costs no look-up.
pub fn hash_of(text: &[u8]) -> Option<TokenHash> {
    is_well_formed(text).then(|| hash(text))
}

/// Checks whether a credential bears our prefix, in any case. Such a credential is ours, even if it is cut short.
pub fn bears_prefix(text: &[u8]) -> bool {
    text.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX.as_bytes()))
}

/// Checks whether a well-formed token is anywhere in `text`. The checksum rules out accidental matches. Fast enough for the body of
/// a publish: base64 has no `_`.
pub fn is_in(text: &[u8]) -> bool {
    static FINDER: LazyLock<Option<AhoCorasick>> = LazyLock::new(|| AhoCorasick::new([PREFIX]).ok());
    // The prefix is a valid pattern. Without a finder, nothing that may contain a token passes.
    let Some(finder) = FINDER.as_ref() else { return true };
    finder.find_iter(text).any(|found| text.get(found.start()..found.start() + TOKEN_BYTES).is_some_and(is_well_formed))
}

fn is_well_formed(text: &[u8]) -> bool {
    let Some((body, stated)) = text.split_at_checked(PREFIX.len() + RANDOM_DIGITS) else { return false };
    text.len() == TOKEN_BYTES
        && body.starts_with(PREFIX.as_bytes())
        && text[PREFIX.len()..].iter().all(u8::is_ascii_alphanumeric)
        && number(stated) == Some(crc(body).into())
}

/// Returns the number that digits in base 62 stand for, without an allocation: every request with a token is checked.
fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0_u64, |sum, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'A'..=b'Z' => digit - b'A' + 10,
            b'a'..=b'z' => digit - b'a' + 36,
            _ => return None,
        };
        sum.checked_mul(62)?.checked_add(u64::from(value))
    })
}

/// Returns the SHA-256 of something that must not be kept.
pub fn hash(text: &[u8]) -> TokenHash {
    let mut hash = TokenHash::default();
    hash.copy_from_slice(digest(&SHA256, text).as_ref());
    hash
}

fn checksum(text: &str) -> String {
    let mut digits = String::with_capacity(CHECKSUM_DIGITS);
    push_base62(&mut digits, crc(text.as_bytes()).to_be_bytes().to_vec(), CHECKSUM_DIGITS);
    digits
}

fn crc(text: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(text);
    crc.sum()
}

/// Appends a big-endian number in base 62, with leading zeros.
fn push_base62(text: &mut String, mut number: Vec<u8>, digits: usize) {
    let mut reversed = Vec::with_capacity(digits);
    for _ in 0..digits {
        let mut remainder = 0_usize;
        for byte in &mut number {
            let dividend = remainder << 8 | usize::from(*byte);
            // The remainder is below 62, so the quotient is below 256.
            *byte = u8::try_from(dividend / ALPHABET.len()).unwrap_or(u8::MAX);
            remainder = dividend % ALPHABET.len();
        }
        reversed.push(char::from(ALPHABET[remainder]));
    }
    text.extend(reversed.iter().rev());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(fill: u8) -> TokenSecret {
        TokenSecret::from_random([fill; RANDOM_BYTES])
    }

    #[test]
    fn token_has_prefix_fixed_length_and_checksum() {
        for fill in [0, 1, 127, 255] {
            let token = token(fill);
            let text = token.reveal();
            assert!(
                text.len() == TOKEN_BYTES && text.starts_with(PREFIX) && text.bytes().skip(4).all(|b| b.is_ascii_alphanumeric())
            );
            assert_eq!(hash_of(text.as_bytes()), Some(token.hash()));
        }
        assert_ne!(token(1).hash(), token(2).hash());
        assert_eq!(token(0).reveal()[..PREFIX.len() + RANDOM_DIGITS], format!("cfr_{}", "0".repeat(RANDOM_DIGITS)));
        assert_eq!(format!("{:?}", token(1)), "TokenSecret(…)");
    }

    #[test]
    fn one_wrong_character_is_no_token() {
        let text = token(7).reveal().to_owned();
        for at in 0..text.len() {
            let mut typo = text.clone().into_bytes();
            typo[at] = if typo[at] == b'x' { b'y' } else { b'x' };
            assert_eq!(hash_of(&typo), None, "{at}");
        }
        for other in [&text[1..], &text[..text.len() - 1], &format!("{text}x"), "", "cfr_", &text.to_uppercase()] {
            assert_eq!(hash_of(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn prefix_is_recognised_in_any_case_and_whole_tokens_anywhere() {
        assert!(bears_prefix(b"cfr_x") && bears_prefix(b"CFR_") && !bears_prefix(b"npm_cfr_") && !bears_prefix(b"cf"));
        let text = token(9).reveal().to_owned();
        for around in [text.clone(), format!("user:{text}"), format!("ccfr_cfr_{text}cfr_"), format!("\0\u{ff}{text}\n")] {
            assert!(is_in(around.as_bytes()), "{around}");
        }
        assert!(!is_in(b"") && !is_in(&text.as_bytes()[..text.len() - 1]) && !is_in("cfr_".repeat(40).as_bytes()));
    }
}
