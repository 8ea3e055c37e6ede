//! The configuration file of a stranger: taken, and then what is shown of it is taken again and means the same; or refused,
//! and what is told of it holds no secret.
//!
//! An input is the text of a file. A password is written behind it, which must stay unseen whatever stands before.

use std::path::Path;

use coldframe::config::RawConfig;
use coldframe::config::settings::{DefaultValue, SETTINGS};
use coldframe::config::{Config, Diagnostics, show};
use coldframe::diagnostics::blot_credentials;

const SECRET: &str = "s3cr3tC4nary";

/// What every input lacks.
const ENOUGH: &str = "data-dir = \"/data\"\nupstream = \"https://registry.example/npm\"\n";

/// Panics when a file is read in two ways, or its mistakes tell too much.
pub fn holds(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    for text in [text.to_owned(), format!("{ENOUGH}{text}")] {
        match read(&text) {
            Ok((written, config)) => means_the_same_when_shown(&written, &config),
            Err(mistakes) => assert!(mistakes.iter().count() > 0 && mistakes.iter().all(|one| !one.to_string().is_empty())),
        }
    }
    let text = format!("{text}\nupstream = \"https://me:{SECRET}@registry.example/?x\"\n");
    let told = read(&text).map_or_else(|mistakes| format!("{mistakes}"), |(written, config)| show::show(&written, &config));
    assert!(!told.contains(SECRET), "the password is told: {told}");
}

fn read(text: &str) -> Result<(RawConfig, Config), Diagnostics> {
    let written = RawConfig::of_text(Path::new("coldframe.toml"), text)?;
    let config = Config::of_written(&written)?;
    Ok((written, config))
}

fn means_the_same_when_shown(written: &RawConfig, config: &Config) {
    let shown = show::show(written, config);
    let (again, _) = read(&shown).unwrap_or_else(|mistakes| panic!("{mistakes}\n{shown}"));
    for setting in &SETTINGS {
        let texts = |written: &RawConfig| written.values(setting.key).into_iter().map(|value| value.text).collect::<Vec<_>>();
        let (before, after) = (texts(written), texts(&again));
        // What may be credentials is not shown, wherever it stands, so it does not come back.
        let hidden = before.iter().any(|text| blot_credentials(text) != *text);
        // An empty list is nothing written, for which the default stands, if there is one.
        let empty = before.is_empty() && setting.default != DefaultValue::Absent("");
        assert!(before == after || hidden || empty, "`{}`: {before:?} was shown as {after:?}\n{shown}", setting.name);
    }
    bounds_hold(config);
}

/// What the rooms rely on.
fn bounds_hold(config: &Config) {
    assert!(!config.listen.is_empty() && config.proxy.limits.connections > 0);
    assert!(config.store.cache_size >= 1_000_000 && config.firewall.memory >= 1_000_000);
    assert!(!config.ledger_retention.is_zero() && !config.upstream.deadlines.headers.is_zero());
    assert!(config.upstream.default.address().path().ends_with('/'));
    assert!(config.proxy.public_url.as_ref().is_none_or(|url| url.username().is_empty() && url.password().is_none()));
}
