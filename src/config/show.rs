//! What is in force, as TOML that could be saved: each value with where it came from. Shows no credentials.

use std::fmt::Write as _;

use crate::config::Config;
use crate::config::raw::{RawConfig, RawField, RawValue};
use crate::config::settings::{DefaultValue, SETTINGS, Setting, SettingKey};
use crate::config::value_kind::ValueKind;
use crate::diagnostics::blot_credentials;

/// Every setting, a line each; where nothing was written, what `config` found out.
#[must_use]
pub fn show(written: &RawConfig, config: &Config) -> String {
    let lines: Vec<_> = SETTINGS.iter().map(|setting| line(setting, &written.values(setting.key), config)).collect();
    let width = lines.iter().map(|(left, _)| left.chars().count()).filter(|width| *width <= 60).max().unwrap_or(0);
    let mut out = String::new();
    for (left, origin) in lines {
        // Writing to a `String` cannot fail.
        let _ = writeln!(out, "{left:width$}  # {origin}");
    }
    for (scope, registry) in &config.upstream.scoped {
        let _ = writeln!(out, "# {scope} comes from {}  # {}", registry.address(), registry.origin);
    }
    out
}

/// The setting, and where it comes from. What is not set is commented out, so that the whole stays TOML.
fn line(setting: &Setting, values: &[RawValue], config: &Config) -> (String, String) {
    if let Some(first) = values.first() {
        let texts: Vec<_> = values.iter().map(|value| entry(setting.kind, value)).collect();
        let right = if setting.several { format!("[{}]", texts.join(", ")) } else { texts.concat() };
        return (format!("{} = {right}", setting.name), first.origin.to_string());
    }
    if let Some((text, origin)) = found(setting.key, config) {
        return (format!("{} = {}", setting.name, literal(setting.kind, &text)), origin);
    }
    match setting.default {
        DefaultValue::Absent(words) => (format!("# {}", setting.name), format!("default: {words}")),
        DefaultValue::Value(_) => (format!("# {}", setting.name), "empty".to_owned()),
    }
}

/// One value: by itself, or with what stands beside it.
fn entry(kind: ValueKind, value: &RawValue) -> String {
    if value.fields.is_empty() {
        return literal(kind, &value.text);
    }
    let fields: Vec<_> =
        value.fields.iter().map(|RawField { name, value }| format!("{name} = {}", literal(kind, &value.text))).collect();
    format!("{{ {} }}", fields.join(", "))
}

/// What holds though nobody wrote it, and where from.
fn found(key: SettingKey, config: &Config) -> Option<(String, String)> {
    match key {
        SettingKey::Upstream => {
            let default = &config.upstream.default;
            Some((default.address().to_string(), default.origin.to_string()))
        }
        SettingKey::DataDir => Some((config.store.data_dir.display().to_string(), "default".to_owned())),
        _ => None,
    }
}

fn literal(kind: ValueKind, text: &str) -> String {
    match kind {
        ValueKind::Truth | ValueKind::Count => text.to_owned(),
        _ => toml::Value::String(blot_credentials(text)).to_string(),
    }
}
