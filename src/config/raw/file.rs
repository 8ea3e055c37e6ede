//! Reads the configuration file: flat TOML with the names of settings as keys. Checks only keys and TOML types.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::raw::value::RawValue;
use crate::config::settings::{Setting, SettingKey};
use crate::config::suggest;
use crate::config::value_kind::{FEED_SOURCE, ValueKind};
use crate::diagnostics::suggest::nearest;
use crate::diagnostics::{Diagnostic, Origin, SourceFile, SourceSpan};
use crate::files;

const MAX_FILE_BYTES: u64 = 1 << 20;

/// The keys of a feed's table and their allowed values.
pub(crate) const FEED_KEYS: [(&str, &str); 6] = [
    ("source", FEED_SOURCE),
    ("name", "lower case letters, digits, `-`, `_` and `.`, at most 64, such as `osv`"),
    ("trust", "`deny`, `hold`, `warn`"),
    ("interval", "a duration, such as `5m`"),
    ("expiry", "a duration, such as `24h`"),
    ("key", "`ed25519:` and Base64, as `coldframe feed export` prints it"),
];

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
    let mut reader = FileReader { file: &file, errors };
    reader.add_syntax_errors(syntax_errors);
    // After the first error the parser guesses, and its entries may not exist in the file.
    let entries = table.get_ref().iter().filter(|(key, value)| key.span().end.max(value.span().end) <= readable);
    entries.filter_map(|(key, value)| reader.read_entry(key, value)).collect()
}

struct FileReader<'a> {
    file: &'a Arc<SourceFile>,
    errors: &'a mut Vec<Diagnostic>,
}

impl FileReader<'_> {
    fn add(&mut self, span: Range<usize>, problem: String, allowed: impl Into<String>) {
        self.errors.push(Diagnostic::new(SourceSpan::new(self.file, span), problem, allowed));
    }

    /// Adds an error about an unknown key, whose value may be a token and is not shown.
    fn add_unknown(&mut self, span: Range<usize>, problem: String, allowed: impl Into<String>) {
        let error = Diagnostic::new(SourceSpan::new(self.file, span), problem, allowed);
        self.errors.push(Diagnostic { shows_line: false, ..error });
    }

    /// Adds the first syntax error of each line. Further errors on the same line follow from it.
    fn add_syntax_errors(&mut self, mut found: Vec<toml::de::Error>) {
        found.sort_by_key(|error| error.span().map_or(0, |span| span.start));
        let mut last = 0;
        for error in found {
            let span = SourceSpan::new(self.file, error.span().unwrap_or(0..0));
            let (line, _) = span.position();
            if line == last {
                continue;
            }
            last = line;
            let text = self.file.text.lines().nth(line - 1).unwrap_or_default();
            let shows_line = text.split('=').next().is_some_and(|key| SettingKey::named(key.trim()).is_some());
            let error = Diagnostic::new(span, format!("not TOML: {}", error.message()), "");
            self.errors.push(Diagnostic { shows_line, ..error });
        }
    }

    fn read_entry(&mut self, key: &Spanned<Cow<'_, str>>, value: &Spanned<DeValue<'_>>) -> Option<(SettingKey, Vec<RawValue>)> {
        let name = key.get_ref().as_ref();
        let Some(known) = SettingKey::named(name) else {
            if value.get_ref().is_table() {
                let allowed = "settings at the top level, as in `min-release-age = \"72h\"`, and tables `[[feed]]`";
                self.add_unknown(key.span(), format!("unknown table: `{name}`"), allowed);
            } else {
                self.errors.push(suggest::unknown_name(SourceSpan::new(self.file, key.span()).into(), "key", name));
            }
            return None;
        };
        let setting = known.setting();
        let items = match value.get_ref() {
            DeValue::Array(items) if setting.several => items.iter().collect(),
            _ => vec![value],
        };
        let mut texts = Vec::new();
        for item in items {
            if let (SettingKey::Feed, DeValue::Table(table)) = (known, item.get_ref()) {
                texts.extend(self.read_feed(item.span(), table));
            } else if let Some(text) = text_of(setting, item.get_ref()) {
                texts.push(RawValue::new(text, SourceSpan::new(self.file, item.span())));
            } else {
                let problem = format!("`{name}` cannot be of this type: {}", item.get_ref().type_str());
                self.add(item.span(), problem, shape(setting));
            }
        }
        Some((known, texts))
    }

    /// Reads a `[[feed]]` table as text fields.
    fn read_feed(&mut self, span: Range<usize>, table: &DeTable<'_>) -> Option<RawValue> {
        let fields: Vec<_> = table.iter().filter_map(|(key, value)| self.read_field(key, value)).collect();
        let Some(source) = fields.iter().find(|(name, _)| name == "source").map(|(_, value)| value.text.clone()) else {
            if !table.keys().any(|key| key.get_ref() == "source") {
                self.add(span, "a feed without `source`".to_owned(), format!("`source` with {FEED_SOURCE}"));
            }
            return None;
        };
        Some(RawValue { fields, ..RawValue::new(source, SourceSpan::new(self.file, span)) })
    }

    fn read_field(&mut self, key: &Spanned<Cow<'_, str>>, value: &Spanned<DeValue<'_>>) -> Option<(String, RawValue)> {
        let name = key.get_ref().as_ref();
        let Some((_, allowed)) = FEED_KEYS.iter().find(|(known, _)| *known == name) else {
            let all = || FEED_KEYS.map(|(known, _)| format!("`{known}`")).join(", ");
            let allowed = nearest(name, FEED_KEYS.iter().map(|(known, _)| *known)).unwrap_or_else(all);
            self.add_unknown(key.span(), format!("unknown key of a feed: `{}`", name.escape_debug()), allowed);
            return None;
        };
        let DeValue::String(text) = value.get_ref() else {
            let problem = format!("`{name}` cannot be of this type: {}", value.get_ref().type_str());
            self.add(value.span(), problem, format!("a string: {allowed}"));
            return None;
        };
        Some((name.to_owned(), RawValue::new(text.to_string(), SourceSpan::new(self.file, value.span()))))
    }
}

/// Returns the text of a value of a fitting TOML type. A bare number also passes: the parser reports its missing unit best.
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
