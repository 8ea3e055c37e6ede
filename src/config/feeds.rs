//! Reads the settings of feeds. Does not check whether the sources exist.

use std::time::Duration;

use crate::config::parse::{self, SettingsReader};
use crate::config::raw::RawValue;
use crate::config::raw::file::FEED_KEYS;
use crate::config::settings::SettingKey;
use crate::diagnostics::Diagnostic;
use crate::feed::config::is_name;
use crate::feed::{FeedConfig, FeedSource, PublicKey};
use crate::policy::FeedTrust;

#[derive(Debug, Clone, Default)]
pub struct FeedSettings {
    pub followed: Vec<FeedConfig>,
    /// Whether a stale feed makes the server not ready.
    pub readiness: bool,
    /// Whether the server serves before every feed has been read once.
    pub serve_without: bool,
}

pub(crate) fn read(reader: &mut SettingsReader<'_>) -> FeedSettings {
    let interval = reader.one(SettingKey::FeedInterval, parse::nonzero_duration);
    let expiry = reader.one(SettingKey::FeedExpiry, parse::nonzero_duration);
    let readiness = reader.one(SettingKey::FeedReadiness, parse::boolean);
    let may_be_empty = reader.one(SettingKey::FeedMayBeEmpty, parse::boolean);
    let serve_without = reader.one(SettingKey::UnsafeServeWithoutFeed, parse::boolean);
    let mut followed: Vec<FeedConfig> = Vec::new();
    for value in reader.raw.values(SettingKey::Feed) {
        let before = reader.errors.len();
        let read = read_feed(reader, &value, (interval, expiry), may_be_empty);
        let Some(mut feed) = read.filter(|_| reader.errors.len() == before) else { continue };
        if followed.iter().any(|other| other.name == feed.name) {
            if let Some(name) = value.field("name") {
                let problem = format!("two feeds have the same name: `{}`", feed.name);
                reader.errors.push(Diagnostic::new(name.origin.clone(), problem, "another name"));
                continue;
            }
            let is_free = |name: &String| followed.iter().all(|other| other.name != *name);
            let mut names = (2..=followed.len() + 2).map(|number| format!("{}-{number}", feed.name));
            feed.name = names.find(is_free).unwrap_or_default();
        }
        followed.push(feed);
    }
    FeedSettings { followed, readiness, serve_without }
}

/// Reads one feed. After it has added an error, the result is `None` or not to be used.
fn read_feed(
    reader: &mut SettingsReader<'_>,
    value: &RawValue,
    (interval, expiry): (Duration, Duration),
    may_be_empty: bool,
) -> Option<FeedConfig> {
    let source = parse_field(reader, value.field("source").or(Some(value)), "source", FeedSource::parse);
    let feed_name = |text: &str| is_name(text).then(|| text.to_owned()).ok_or_else(|| "is not a feed name".to_owned());
    let name = parse_field(reader, value.field("name"), "name", feed_name);
    if name.is_none() && value.field("name").is_some() {
        return None;
    }
    let known_trust = |text: &str| FeedTrust::parse(text).ok_or_else(|| "has an unknown value".to_owned());
    let trust = parse_field(reader, value.field("trust"), "trust", known_trust).unwrap_or(FeedTrust::Deny);
    let interval = parse_field(reader, value.field("interval"), "interval", parse::nonzero_duration).unwrap_or(interval);
    let expiry = parse_field(reader, value.field("expiry"), "expiry", parse::nonzero_duration).unwrap_or(expiry);
    let key = parse_field(reader, value.field("key"), "key", PublicKey::parse);
    let source = source?;
    Some(FeedConfig { name: name.unwrap_or_else(|| source.name()), source, trust, interval, expiry, key, may_be_empty })
}

/// Parses a key of the feed's table. Returns `None` if it is missing, or after it has added an error.
fn parse_field<T>(
    reader: &mut SettingsReader<'_>,
    value: Option<&RawValue>,
    name: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Option<T> {
    let value = value?;
    let allowed = FEED_KEYS.iter().find(|(known, _)| *known == name).map_or("", |(_, allowed)| allowed);
    let said = if value.fields.is_empty() && name == "source" { "feed" } else { name };
    parse(&value.text).map_err(|flaw| reader.errors.push(value.flawed(said, &flaw, allowed))).ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use expect_test::expect;

    use super::*;
    use crate::config::Config;
    use crate::config::raw::RawConfig;

    fn read(toml: &str) -> Result<FeedSettings, String> {
        let toml = format!("upstream = \"http://127.0.0.1:1/\"\ndata-dir = \"/data\"\n{toml}");
        let raw = RawConfig::from_text(Path::new("coldframe.toml"), &toml).map_err(|error| error.to_string())?;
        Config::from_raw(&raw).map(|config| config.feeds).map_err(|error| error.to_string())
    }

    #[test]
    fn feed_is_a_table_or_a_plain_source() {
        let feeds = read(
            "[[feed]]\nsource = \"./osv/\"\n[[feed]]\nname = \"own\"\nsource = \"https://feeds.example/npm/\"\ntrust = \"warn\"\ninterval = \"1h\"\n[[feed]]\nsource = \"osv\"\n",
        );
        let lines: Vec<_> = feeds
            .unwrap()
            .followed
            .iter()
            .map(|feed| format!("{} {} {} {:?} {:?}", feed.name, feed.source, feed.trust.as_str(), feed.interval, feed.expiry))
            .collect();
        assert_eq!(
            lines,
            ["osv ./osv/ deny 300s 86400s", "own https://feeds.example/npm/ warn 3600s 86400s", "osv-2 osv deny 300s 86400s"]
        );
        assert_eq!(read("feed = [\"a.txt\", { source = \"b\", trust = \"hold\" }]\n").unwrap().followed.len(), 2);
        let flags =
            Config::from_pairs(&[("upstream", "http://127.0.0.1:1/"), ("data-dir", "/data"), ("feed", "x"), ("feed", "y")]);
        assert_eq!(flags.unwrap().feeds.followed[1].trust, FeedTrust::Deny);
    }

    #[test]
    fn all_errors_in_feeds_are_reported_together() {
        let toml = "[[feed]]\nsource = \"ftp://me:secret@feeds.example/\"\ntrust = \"block\"\nkey = \"abc\"\n[[feed]]\nname = \"Own\"\nsource = 7\ncolour = \"red\"\n[[feed]]\ntrust = \"warn\"\n";
        let in_file = read(toml).unwrap_err();
        expect![[r#"
            3 errors in the configuration

            coldframe.toml:9:10: `source` cannot be of this type: integer
             9 | source = 7
               |          ^
               = allowed: a string: a path, or an `http` or `https` URL, such as `./osv/` or `https://feeds.example/npm/all.zip`

            coldframe.toml:10:1: unknown key of a feed: `colour`
             10 | colour =
                | ^^^^^^
               = allowed: `source`, `name`, `trust`, `interval`, `expiry`, `key`

            coldframe.toml:11:1: a feed without `source`
             11 | [[feed]]
                | ^^^^^^^^
               = allowed: `source` with a path, or an `http` or `https` URL, such as `./osv/` or `https://feeds.example/npm/all.zip`"#]]
        .assert_eq(&in_file);
        let values =
            read("[[feed]]\nsource = \"ftp://me:secret@feeds.example/\"\ntrust = \"block\"\nkey = \"abc\"\nname = \"A\"\n");
        expect![[r#"
            2 errors in the configuration

            coldframe.toml:4:10: `feed` is neither a path nor an `http` or `https` URL: `ftp://*********@feeds.example/`
             4 | source = "ftp://*********@feeds.example/"
               |          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
               = allowed: a path, or an `http` or `https` URL, such as `./osv/` or `https://feeds.example/npm/all.zip`

            coldframe.toml:7:8: `name` is not a feed name: `A`
             7 | name = "A"
               |        ^^^
               = allowed: lower case letters, digits, `-`, `_` and `.`, at most 64, such as `osv`"#]]
        .assert_eq(&values.unwrap_err());
    }
}
