//! Configuration of feeds.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use url::Url;

use crate::net;
use crate::policy::FeedTrust;

#[derive(Debug, Clone)]
pub struct FeedConfig {
    /// The unique name: lower case and safe in a path.
    pub name: String,
    pub source: FeedSource,
    pub trust: FeedTrust,
    pub interval: Duration,
    /// How long after the last successful sync the feed counts as stale.
    pub expiry: Duration,
    pub key: Option<PublicKey>,
    /// Whether a file or directory may have no records, such as a new block list.
    pub may_be_empty: bool,
}

#[derive(Clone, PartialEq, Eq)]
pub enum FeedSource {
    Path(PathBuf),
    /// A URL. If it ends in `/`, it is a directory.
    Url(Url),
}

impl FeedSource {
    /// Parses a path, or a URL with the scheme `http` or `https`.
    ///
    /// # Errors
    /// Returns a message if the text is empty or an unsupported URL.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() {
            return Err("is empty".to_owned());
        }
        if !text.contains("://") {
            return Ok(Self::Path(text.into()));
        }
        let url = Url::parse(text).map_err(|_| "is not a URL".to_owned())?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
            return Err("is neither a path nor an `http` or `https` URL".to_owned());
        }
        Ok(Self::Url(url))
    }

    /// Returns the default name of the feed: the last meaningful part of the path or URL.
    pub fn name(&self) -> String {
        let (parts, host): (Vec<String>, _) = match self {
            Self::Path(path) => (path.iter().map(|part| part.to_string_lossy().into_owned()).collect(), None),
            Self::Url(url) => (url.path_segments().into_iter().flatten().map(str::to_owned).collect(), url.host_str()),
        };
        let stem = |part: &str| part.trim_end_matches(".zip").trim_end_matches(".json").trim_end_matches(".txt").to_owned();
        let meaningful =
            parts.iter().rev().map(|part| plain(&stem(part))).find(|name| !matches!(&**name, "" | "all" | "npm" | "index"));
        meaningful.or_else(|| host.map(plain)).filter(|name| !name.is_empty()).unwrap_or_else(|| "feed".to_owned())
    }
}

/// Converts text to lower case and replaces characters that are unsafe in a path or a metric label.
fn plain(text: &str) -> String {
    let letters = text.to_ascii_lowercase().chars().map(|letter| if is_plain(letter) { letter } else { '-' }).collect::<String>();
    letters.trim_matches(['-', '.', '_']).chars().take(64).collect()
}

pub(crate) fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.chars().all(is_plain) && !text.starts_with(['-', '.', '_'])
}

fn is_plain(letter: char) -> bool {
    letter.is_ascii_lowercase() || letter.is_ascii_digit() || matches!(letter, '-' | '.' | '_')
}

impl fmt::Display for FeedSource {
    /// Formats the source without credentials and without the query, which may contain a token.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(out, "{}", path.display()),
            Self::Url(url) => out.write_str(redacted(url).as_str()),
        }
    }
}

impl fmt::Debug for FeedSource {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Source({self})")
    }
}

/// Removes credentials, query and fragment from a URL, for display.
pub(crate) fn redacted(url: &Url) -> Url {
    let mut url = url.clone();
    net::remove_credentials(&mut url);
    url.set_query(None);
    url.set_fragment(None);
    url
}

/// An Ed25519 key whose signature a feed must carry.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(pub(crate) [u8; 32]);

impl PublicKey {
    /// Parses `ed25519:` followed by Base64, as `coldframe feed export` prints it.
    ///
    /// # Errors
    /// Returns a message if the text has another form.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim().strip_prefix("ed25519:").ok_or("does not begin with `ed25519:`")?;
        let bytes = STANDARD.decode(text).map_err(|_| "is not Base64")?;
        bytes.try_into().map(Self).map_err(|_| "is not 32 bytes long".to_owned())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "ed25519:{}", STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "PublicKey({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_feed_name_comes_from_the_source() {
        let name = |text: &str| FeedSource::parse(text).unwrap().name();
        assert_eq!(name("../shared/data/osv/"), "osv");
        assert_eq!(name("https://feeds.example/npm/all.zip"), "feeds.example");
        assert_eq!(name("https://feeds.example/Leit wacht/all.zip"), "leit-20wacht");
        assert_eq!(name("/srv/block.txt"), "block");
        assert_eq!(name("/"), "feed");
        for invalid in ["", "ftp://feeds.example/x", "http://"] {
            assert!(FeedSource::parse(invalid).is_err(), "{invalid}");
        }
    }

    #[test]
    fn source_is_displayed_without_secrets() {
        let source = FeedSource::parse("https://me:secret@feeds.example/npm/all.zip?token=x").unwrap();
        assert_eq!(source.to_string(), "https://feeds.example/npm/all.zip");
    }

    #[test]
    fn printed_key_can_be_parsed() {
        let key = PublicKey([7; 32]);
        assert_eq!(PublicKey::parse(&key.to_string()), Ok(key));
        assert!(PublicKey::parse("ed25519:AAAA").is_err() && PublicKey::parse("AAAA").is_err());
    }
}
