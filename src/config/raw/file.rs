//! Reads the configuration file: flat TOML with the names of settings as keys. Checks only keys and TOML types.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::raw::feed_table;
use crate::config::raw::value::RawValue;
use crate::config::settings::{Setting, SettingKey};
use crate::config::suggest;
use crate::config::value_kind::ValueKind;
use crate::diagnostics::{Diagnostic, Origin, SourceFile, SourceSpan};
use crate::files;

const MAX_FILE_BYTES: u64 = 1 << 20;

/// Reads a file. Adds errors to `errors` and returns the valid settings. `origin` is the flag or variable that names the file.
pub(crate) fn read(path: &Path, origin: Origin, errors: &mut Vec<Diagnostic>) -> BTreeMap<SettingKey, Vec<RawValue>> {
    match files::read_pipe_bounded(path, MAX_FILE_BYTES).and_then(files::into_text) {
        Ok(text) => parse(path, text, errors),
        Err(error) => {
            let problem = format!("cannot read the configuration file `{}`: {error}", path.display());
            errors.push(Diagnostic::new(origin, problem, ""));
            BTreeMap::new()
        }
    }
}

/// Parses `text` as a file with the path `path`. Adds errors to `errors` and returns the valid settings.
pub(crate) fn parse(path: &Path, text: String, errors: &mut Vec<Diagnostic>) -> BTreeMap<SettingKey, Vec<RawValue>> {
    let file = Arc::new(SourceFile { path: path.to_owned(), text });
    let (table, syntax_errors) = DeTable::parse_recoverable(&file.text);
    let readable = syntax_errors.iter().filter_map(toml::de::Error::span).map(|span| span.start).min().unwrap_or(usize::MAX);
    add_syntax_errors(&file, syntax_errors, errors);
    let mut values = BTreeMap::new();
    // After the first error the parser guesses, and its entries may not exist in the file.
    for (key, value) in table.get_ref().iter().filter(|(key, value)| key.span().end.max(value.span().end) <= readable) {
        read_entry(&file, key, value, &mut values, errors);
    }
    values
}

/// Adds the first syntax error of each line. Further errors on the same line follow from it.
fn add_syntax_errors(file: &Arc<SourceFile>, mut found: Vec<toml::de::Error>, errors: &mut Vec<Diagnostic>) {
    found.sort_by_key(|error| error.span().map_or(0, |span| span.start));
    let mut last = 0;
    for error in found {
        let span = SourceSpan::new(file, error.span().unwrap_or(0..0));
        let (line, _) = span.position();
        if line == last {
            continue;
        }
        last = line;
        let text = file.text.lines().nth(line - 1).unwrap_or_default();
        let shows_line = text.split('=').next().is_some_and(|key| SettingKey::named(key.trim()).is_some());
        errors.push(Diagnostic { shows_line, ..Diagnostic::new(span, format!("not TOML: {}", error.message()), "") });
    }
}

fn read_entry(
    file: &Arc<SourceFile>,
    key: &Spanned<std::borrow::Cow<'_, str>>,
    value: &Spanned<DeValue<'_>>,
    values: &mut BTreeMap<SettingKey, Vec<RawValue>>,
    errors: &mut Vec<Diagnostic>,
) {
    let name = key.get_ref().as_ref();
    let Some(known) = SettingKey::named(name) else {
        let origin = SourceSpan::new(file, key.span());
        errors.push(if value.get_ref().is_table() {
            let allowed = "settings at the top level, as in `min-release-age = \"72h\"`, and tables `[[feed]]`";
            Diagnostic { shows_line: false, ..Diagnostic::new(origin, format!("unknown table: `{name}`"), allowed) }
        } else {
            suggest::unknown_name(origin.into(), "key", name)
        });
        return;
    };
    let setting = known.setting();
    let items = match value.get_ref() {
        DeValue::Array(items) if setting.several => items.iter().collect(),
        _ => vec![value],
    };
    let mut texts = Vec::new();
    for item in items {
        let origin = SourceSpan::new(file, item.span());
        if let (SettingKey::Feed, DeValue::Table(table)) = (known, item.get_ref()) {
            texts.extend(feed_table::read(file, origin, table, errors));
            continue;
        }
        if let Some(text) = text_of(setting, item.get_ref()) {
            texts.push(RawValue::new(text, origin));
        } else {
            let problem = format!("`{name}` cannot be of this type: {}", item.get_ref().type_str());
            errors.push(Diagnostic::new(origin, problem, shape(setting)));
        }
    }
    values.insert(known, texts);
}

/// Returns the text of a value whose TOML type fits its setting. A bare number for a setting with a unit is passed on, because
/// its parser reports the missing unit best.
fn text_of(setting: &Setting, value: &DeValue<'_>) -> Option<String> {
    match (setting.kind, value) {
        (ValueKind::Truth, DeValue::Boolean(truth)) => Some(truth.to_string()),
        (ValueKind::Count | ValueKind::Duration | ValueKind::Size, DeValue::Integer(number)) => Some(number.to_string()),
        (ValueKind::Truth | ValueKind::Count, _) => None,
        (_, DeValue::String(text)) => Some(text.to_string()),
        _ => None,
    }
}

/// Describes how a value of a setting is written in TOML.
fn shape(setting: &Setting) -> String {
    let allowed = setting.kind.allowed();
    match setting.kind {
        ValueKind::Truth | ValueKind::Count => format!("{allowed}, without quotes"),
        _ if setting.several => format!("strings in brackets, each {allowed}"),
        _ => format!("a string: {allowed}"),
    }
}
