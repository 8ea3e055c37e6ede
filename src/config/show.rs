//! Renders the active settings as valid TOML, each with its origin. Credentials are masked.

use std::fmt::Write as _;

use crate::config::load::{Config, ConfigSources};
use crate::config::raw::file::is_list;
use crate::config::raw::{RawConfig, RawValue};
use crate::config::settings::{DefaultValue, SETTINGS, Setting, SettingKey};
use crate::config::value_kind::ValueKind;
use crate::diagnostics::{Diagnostics, redact_credentials};

pub(crate) fn show_effective(sources: ConfigSources<'_>) -> Result<String, Diagnostics> {
    sources.read(|raw, machine, errors| Config::parse(raw, machine, errors).map(|config| show(raw, &config)))
}

/// Renders one setting per line. Discovered values are taken from `config`.
pub fn show(raw: &RawConfig, config: &Config) -> String {
    let lines: Vec<_> = SETTINGS.iter().map(|setting| line(setting, &raw.values(setting.key), config)).collect();
    let width = lines.iter().map(|(left, _)| left.chars().count()).filter(|width| *width <= 60).max().unwrap_or(0);
    let mut out = String::new();
    for (left, origin) in lines {
        // Writing to a `String` cannot fail.
        let _ = writeln!(out, "{left:width$}  # {origin}");
    }
    for route in config.upstream.routes.iter() {
        let (label, registry) = (route.label(), &route.registry);
        let _ = writeln!(out, "# {label} comes from {}  # {}", registry.address(), registry.origin);
    }
    out
}

/// Renders a setting and its origin. A setting without a value is commented out to keep the output valid TOML.
fn line(setting: &Setting, values: &[RawValue], config: &Config) -> (String, String) {
    if let Some(first) = values.first() {
        let texts: Vec<_> = values.iter().map(|value| entry(setting.kind, value)).collect();
        let right = if setting.several { format!("[{}]", texts.join(", ")) } else { texts.concat() };
        return (format!("{} = {right}", setting.name), first.origin.to_string());
    }
    let upstream = &config.upstream.default;
    let (text, origin) = match (setting.key, setting.default) {
        (SettingKey::Upstream, _) => (upstream.address().to_string(), upstream.origin.to_string()),
        (SettingKey::DataDir, _) => (config.store.data_dir.display().to_string(), "default".to_owned()),
        (_, DefaultValue::Absent(words)) => return (format!("# {}", setting.name), format!("default: {words}")),
        (_, DefaultValue::Value(_)) => return (format!("# {}", setting.name), "empty".to_owned()),
    };
    (format!("{} = {}", setting.name, literal(setting.kind, &text)), origin)
}

/// Renders one value, as an inline table if it has table keys.
fn entry(kind: ValueKind, value: &RawValue) -> String {
    if value.fields.is_empty() {
        return literal(kind, &value.text);
    }
    let mut fields: Vec<(&str, Vec<String>)> = Vec::new();
    for (name, value) in &value.fields {
        let text = literal(kind, &value.text);
        match fields.iter_mut().find(|(known, _)| *known == name) {
            Some((_, texts)) => texts.push(text),
            None => fields.push((name, vec![text])),
        }
    }
    let field = |(name, texts): (&str, Vec<String>)| match texts.as_slice() {
        [text] if !is_list(name) => format!("{name} = {text}"),
        _ => format!("{name} = [{}]", texts.join(", ")),
    };
    format!("{{ {} }}", fields.into_iter().map(field).collect::<Vec<_>>().join(", "))
}

pub(crate) fn literal(kind: ValueKind, text: &str) -> String {
    match kind {
        ValueKind::Truth | ValueKind::Count => text.to_owned(),
        _ => toml::Value::String(redact_credentials(text)).to_string(),
    }
}
