//! Untrusted configuration files: either the file is accepted and its printed form parses to the same values, or it is rejected.
//! No output contains a secret.
//!
//! An input is the text of a file. A password is appended, which must never be printed.

use std::path::Path;

use coldframe::config::RawConfig;
use coldframe::config::settings::{DefaultValue, SETTINGS};
use coldframe::config::{Config, Diagnostics, show};
use coldframe::diagnostics::redact_credentials;

const SECRET: &str = "s3cr3tC4nary";

/// Settings that every valid file needs.
const REQUIRED_SETTINGS: &str = "data-dir = \"/data\"\nupstream = \"https://registry.example/npm\"\n";

/// Panics if the printed form parses differently, or if output contains the secret.
pub fn holds(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    for text in [text.to_owned(), format!("{REQUIRED_SETTINGS}{text}")] {
        match read(&text) {
            Ok((written, config)) => printed_form_is_equivalent(&written, &config),
            Err(errors) => assert!(errors.iter().count() > 0 && errors.iter().all(|error| !error.to_string().is_empty())),
        }
    }
    let text = format!("{text}\nupstream = \"https://me:{SECRET}@registry.example/?x\"\n");
    let output = read(&text).map_or_else(|errors| format!("{errors}"), |(written, config)| show::show(&written, &config));
    assert!(!output.contains(SECRET), "the output contains the password: {output}");
}

fn read(text: &str) -> Result<(RawConfig, Config), Diagnostics> {
    let written = RawConfig::from_text(Path::new("coldframe.toml"), text)?;
    let config = Config::from_raw(&written)?;
    Ok((written, config))
}

fn printed_form_is_equivalent(written: &RawConfig, config: &Config) {
    let shown = show::show(written, config);
    let (again, _) = read(&shown).unwrap_or_else(|errors| panic!("{errors}\n{shown}"));
    for setting in &SETTINGS {
        let texts = |written: &RawConfig| written.values(setting.key).into_iter().map(|value| value.text).collect::<Vec<_>>();
        let (before, after) = (texts(written), texts(&again));
        // Possible credentials are masked in the output, so they are lost.
        let hidden = before.iter().any(|text| redact_credentials(text) != *text);
        // An empty list counts as unset, so the default applies if there is one.
        let empty = before.is_empty() && setting.default != DefaultValue::Absent("");
        assert!(before == after || hidden || empty, "`{}`: {before:?} was printed as {after:?}\n{shown}", setting.name);
    }
    bounds_hold(config);
}

/// Checks the bounds that other modules rely on.
fn bounds_hold(config: &Config) {
    assert!(!config.listen.is_empty() && config.server.limits.connections > 0);
    assert!(config.store.cache_size >= 1_000_000 && config.firewall.memory >= 1_000_000);
    assert!(!config.store.ledger_retention.is_zero() && !config.upstream.deadlines.headers.is_zero());
    assert!(config.upstream.default.address().path().ends_with('/'));
    assert!(config.server.public_url.as_ref().is_none_or(|url| url.username().is_empty() && url.password().is_none()));
}
